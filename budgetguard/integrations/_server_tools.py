"""A server's tool whose function reports, to whoever follows a call, that it begins and how it finishes.

The replacement of the function is permanent. While nobody follows a call, it behaves as before.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from budgetguard.integrations._tool_call import Turn

_TURNS: ContextVar[tuple[tuple[object, Turn], ...]] = ContextVar("budgetguard_turns", default=())
_REPORTING: WeakSet[Callable[..., Any]] = WeakSet()


def reporting(
    function: Callable[..., Any], *, is_async: bool, lists: bool = False
) -> Callable[..., Any]:
    """The replacement of a tool's function; a function that is already a replacement is returned as it is.

    With `lists`, a generator that a synchronous function returns is consumed at once, into a list.
    """
    if function in _REPORTING:
        return function

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        run: Callable[..., Any] = functools.partial(_listed, function) if lists else function
        for turn in _turns(function):
            run = functools.partial(turn.run, run)
        with _unfollowed():
            return run(*args, **kwargs)

    @functools.wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        run = function
        for turn in _turns(function):
            run = functools.partial(turn.arun, run)
        with _unfollowed():
            return await run(*args, **kwargs)

    own = awaited if is_async else plain
    _REPORTING.add(own)
    return own


@contextmanager
def following(function: object, turn: Turn) -> Iterator[None]:
    """A block in which runs of `function`, or of its replacement by `reporting`, go through `turn`."""
    token = _TURNS.set((*_TURNS.get(), (_bare(function), turn)))
    try:
        yield
    finally:
        _TURNS.reset(token)


@contextmanager
def _unfollowed() -> Iterator[None]:
    """A block for what a tool's function itself calls: nobody follows those calls."""
    token = _TURNS.set(())
    try:
        yield
    finally:
        _TURNS.reset(token)


def is_followed(function: object) -> bool:
    """Whether a run of `function` is followed, so that it must report."""
    return bool(_turns(_bare(function)))


def _turns(bare: object) -> list[Turn]:
    return [turn for function, turn in _TURNS.get() if _is(function, bare)]


def _is(function: object, other: object) -> bool:
    # Each access of a bound method creates a new object.
    return function is other or (isinstance(function, types.MethodType) and function == other)


def _bare(function: object) -> object:
    return getattr(function, "__wrapped__", None) if function in _REPORTING else function


def _listed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = function(*args, **kwargs)
    return list(result) if inspect.isgenerator(result) else result
