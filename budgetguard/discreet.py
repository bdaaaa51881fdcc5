"""Errors about arguments, without the frames in which these still are.

Tracebacks may be printed or reported together with their frames' locals, and what is wrong may be a
key that was given in the wrong place.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from budgetguard.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")

_WRONG = (TypeError, ValueError, AttributeError, ConfigurationError)


def discreet(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, with nothing of its arguments left in the frames of the errors about them."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                return await function(*args, **kwargs)
            except _WRONG as error:
                del args, kwargs
                _clear(error)
                raise

        return cast("Callable[P, R]", awaited)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except _WRONG as error:
            del args, kwargs
            _clear(error)
            raise

    # The same object: whoever changes a default by it changes that of the function itself.
    outer, inner = cast("Any", called), cast("Any", function)
    outer.__kwdefaults__ = inner.__kwdefaults__
    return called


def _clear(error: BaseException) -> None:
    import traceback

    traceback.clear_frames(error.__traceback__)
