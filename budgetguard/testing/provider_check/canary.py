"""Searches for a key wherever a program may show one by accident."""

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any, Final

from budgetguard._core.refresh_failure import causes

_HERE: Final = str(Path(__file__).parent)
# Their level may have been set, for example in a program's logging configuration.
_LOGGERS: Final = ("", "budgetguard", "httpx", "httpcore")


def shown_in(error: BaseException, key: str) -> Iterator[str]:
    """Where an error shows the key, as a user's log, report or debugger would print it."""
    for each in causes(error):
        name = type(each).__name__
        if key in f"{each} {each!r} {each.args!r}":
            yield f"the text of {name}"
        elif key in repr(vars(each)) or key.encode() in _pickled(each):
            yield f"an attribute of {name}"
        for frame, _ in traceback.walk_tb(each.__traceback__):
            code = frame.f_code
            if code.co_filename.startswith(_HERE):
                continue
            for local, value in list(frame.f_locals.items()):
                if key in _printed(value):
                    yield f"the local variable {local} of {code.co_name}() in the traceback of {name}"


def shown_by(thing: object, key: str) -> Iterator[str]:
    """How an object that users have shows the key: by its repr, its text, or its pickle."""
    if key in _printed(thing):
        yield "repr"
    elif key in str(thing):
        yield "text"
    if key.encode() in _pickled(thing):
        yield "pickle"


@contextmanager
def all_logs() -> Iterator[list[str]]:
    """Within the block, every log record is written to the list, whatever its level.

    Those of this thread reach no other handler: there are hundreds, and each is of a failure that was meant.
    """
    lines: list[str] = []
    thread = get_ident()
    handler = _Lines(lines)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.level, logger.disabled) for logger in loggers]
    others = [each for logger in loggers for each in logger.handlers]

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    for other in others:
        other.addFilter(of_others)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.disabled = False
    root = loggers[0]
    root.addHandler(handler)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        for logger, level, disabled in before:
            logger.setLevel(level)
            logger.disabled = disabled
        for other in others:
            other.removeFilter(of_others)


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.name}: {self.format(record)} {vars(record)!r}")


def _printed(thing: object) -> str:
    return str(_or_nothing(lambda: repr(thing), ""))


def _pickled(thing: object) -> bytes:
    return bytes(_or_nothing(lambda: pickle.dumps(thing), b""))


def _or_nothing(make: Callable[[], Any], nothing: Any) -> Any:
    # What cannot be printed or pickled shows nothing.
    try:
        return make()
    except Exception:  # noqa: BLE001  whatever an object of the provider raises
        return nothing
