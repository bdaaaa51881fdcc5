"""Finds the code that called the library."""

import sys
from types import FrameType

# Modules that may be between the library and the code that called it: ExitStack, wrapped callables.
_BETWEEN = frozenset({__name__.partition(".")[0], "contextlib", "wrapt"})


def caller() -> tuple[FrameType | None, int]:
    """The nearest frame outside the library and the modules in between, and its distance.

    The frame is None if there is none, for example at the bottom of a new thread's stack or in an
    exit handler.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    depth = 0
    while frame is not None and _is_between(frame):
        frame, depth = frame.f_back, depth + 1
    return frame, depth


def _is_between(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN
