"""What becomes of a callable's result, and checks for those whose result is needed at once."""

import functools
import inspect
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

_KINDS = {
    "an async function": inspect.iscoroutinefunction,
    "an async generator": inspect.isasyncgenfunction,
    "a generator": inspect.isgeneratorfunction,
}
PLAIN = "a plain function"


def check_plain(function: Any, what: str) -> None:
    """Raise TypeError for a callable whose result would have to be awaited or iterated over."""
    if kind_of(function) != PLAIN:
        msg = f"{what} takes a plain function: an async function or a generator would never be run."
        raise TypeError(msg)


def kind_of(function: Any) -> str:
    """What a callable is, in words: `PLAIN`, or one whose result is to be awaited or iterated over.

    Unwraps partials, methods, static methods inside a class body, and objects with `__call__`. A
    plain function that returns an awaitable cannot be detected here.
    """
    call = function
    while isinstance(call, functools.partial | staticmethod):
        call = call.func if isinstance(call, functools.partial) else call.__func__
    if not isinstance(call, FunctionType | MethodType | BuiltinFunctionType | type):
        call = getattr(type(call), "__call__", None)  # noqa: B004
    for kind, is_kind in _KINDS.items():
        if is_kind(function) or is_kind(call):
            return kind
    return PLAIN


def leave_alone(result: object) -> None:
    """Close an awaitable result, so that Python does not warn that it was never awaited."""
    if not hasattr(type(result), "__await__"):
        return
    for end in ("close", "cancel"):
        if callable(getattr(result, end, None)):
            getattr(result, end)()
            return
