"""`on_refusal`: a callable whose result takes the place of a refused call's, or a word of the place.

The callable is called for refusals of an admission alone (`errors.REFUSALS`), with nothing held for the call.
What a guarded body raises is never one, even if it is a refusal of another call.
"""

from collections.abc import Callable
from inspect import isawaitable
from typing import Any, TypeAlias

from budgetguard._core.argument_types import other
from budgetguard._core.sync_callables import PLAIN, kind_of, leave_alone

OnRefusal: TypeAlias = Callable[..., Any]


def check(given: object) -> None:
    """Raise TypeError for anything but a callable, where a place has no words of its own."""
    if not callable(given):
        words = " (words are for tools and HTTP clients)" if isinstance(given, str) else ""
        msg = (
            "on_refusal takes a callable that is given the error and the call's arguments, not "
            f"{type(given).__name__}{words}"
        )
        raise TypeError(msg)


def word_or_callable(given: object, words: tuple[str, str]) -> OnRefusal | None:
    """The callable, or None for one of the place's own `words`; raises ValueError for anything else."""
    if callable(given):
        return given
    if not isinstance(given, str) or given not in words:
        first, second = words
        msg = f"on_refusal must be {first!r}, {second!r} or a callable, not {other(given, words)}"
        raise ValueError(msg)
    return None


def check_awaits(function: OnRefusal, where: str) -> None:
    """Raise TypeError for a callable whose result is to be awaited, in a place that cannot do that."""
    kind = kind_of(function)
    if kind != PLAIN:
        msg = f"on_refusal of {where} must be a plain function, not {kind}"
        raise TypeError(msg)


def called(function: OnRefusal, where: str, error: Exception, *args: Any, **kwargs: Any) -> Any:
    """What it returns; raises TypeError if that is to be awaited."""
    check_awaits(function, where)
    try:
        result = function(error, *args, **kwargs)
    except BaseException as raised:
        because(raised, error)
        raise
    if isawaitable(result):
        leave_alone(result)
        msg = f"on_refusal of {where} must not return an awaitable: nobody awaits it"
        raise TypeError(msg)
    return result


async def awaited(function: OnRefusal, error: Exception, *args: Any, **kwargs: Any) -> Any:
    """What it returns, awaited if it can be."""
    try:
        result = function(error, *args, **kwargs)
        return await result if isawaitable(result) else result
    except BaseException as raised:
        because(raised, error)
        raise


def because(raised: BaseException, refusal: Exception) -> None:
    """Name the refusal in what was raised while something took its place, where Python does not."""
    if raised is not refusal and raised.__context__ is None:
        raised.__context__ = refusal
