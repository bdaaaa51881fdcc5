"""Keeps wrong arguments out of the frames of the errors about them.

Tracebacks may be printed or reported together with their frames' locals, and a wrong argument may be
a key that was passed in the wrong place.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from budgetguard._core.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")

WRONG = (TypeError, ValueError, AttributeError, ConfigurationError)


def clean_traceback(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, without its arguments in the frames of the errors that it raises about them."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                return await function(*args, **kwargs)
            except WRONG as error:
                del args, kwargs
                clear(error)
                raise

        return cast("Callable[P, R]", awaited)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except WRONG as error:
            del args, kwargs
            clear(error)
            raise

    # The same object, so that changing a default on the wrapper changes it for the function, too.
    outer, inner = cast("Any", called), cast("Any", function)
    outer.__kwdefaults__ = inner.__kwdefaults__
    return called


def clear(error: BaseException) -> None:
    """Clear the locals of all frames that the error came through; used where a wrapper is too slow.

    This cannot clear the caller's own frame, which deletes its arguments before it raises again.
    """
    import traceback

    traceback.clear_frames(error.__traceback__)
