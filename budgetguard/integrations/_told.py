"""A server's tool whose function tells whoever follows a call that it begins, and how it ends.

It is put into the function's place for good. Without anyone who follows the call it does as before.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from budgetguard.integrations._turn import Turn

_TURNS: ContextVar[tuple[tuple[object, Turn], ...]] = ContextVar("budgetguard_turns", default=())
_TELLING: WeakSet[Callable[..., Any]] = WeakSet()


def telling(
    function: Callable[..., Any], *, is_async: bool, lists: bool = False
) -> Callable[..., Any]:
    """What takes the place of a tool's function; the function itself where it has that place.

    With `lists`, a generator that a plain function returns is run there and then, into a list.
    """
    if function in _TELLING:
        return function

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        run: Callable[..., Any] = functools.partial(_listed, function) if lists else function
        for turn in _turns(plain):
            run = functools.partial(turn.run, run)
        with _unfollowed():
            return run(*args, **kwargs)

    @functools.wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        run = function
        for turn in _turns(awaited):
            run = functools.partial(turn.arun, run)
        with _unfollowed():
            return await run(*args, **kwargs)

    own = awaited if is_async else plain
    _TELLING.add(own)
    return own


@contextmanager
def following(function: object, turn: Turn) -> Iterator[None]:
    """In the block, a run of what `telling` has made goes through `turn`."""
    token = _TURNS.set((*_TURNS.get(), (function, turn)))
    try:
        yield
    finally:
        _TURNS.reset(token)


@contextmanager
def _unfollowed() -> Iterator[None]:
    """What a tool's function calls by itself is no call that somebody follows."""
    token = _TURNS.set(())
    try:
        yield
    finally:
        _TURNS.reset(token)


def _turns(own: object) -> list[Turn]:
    return [turn for function, turn in _TURNS.get() if function is own]


def _listed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = function(*args, **kwargs)
    return list(result) if inspect.isgenerator(result) else result
