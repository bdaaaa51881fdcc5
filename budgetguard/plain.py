"""Callables whose result is wanted at once: amounts, guards, whatever nobody would await."""

import functools
import inspect
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

_KINDS = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)


def check_plain(function: Any, what: str) -> None:
    """Raise TypeError for a callable whose result would have to be awaited or iterated over.

    Looks through partials, methods, static ones in their class's body, and objects with `__call__`. What only returns something to await
    is not told from here.
    """
    call = function
    while isinstance(call, functools.partial | staticmethod):
        call = call.func if isinstance(call, functools.partial) else call.__func__
    if not isinstance(call, FunctionType | MethodType | BuiltinFunctionType | type):
        call = getattr(type(call), "__call__", None)  # noqa: B004
    if any(is_kind(each) for is_kind in _KINDS for each in (function, call)):
        msg = f"{what} takes a plain function: nobody would await an async one, or run a generator."
        raise TypeError(msg)


def leave_alone(result: object) -> None:
    """Close what was returned to be awaited, or Python says later that nobody awaited it."""
    if not hasattr(type(result), "__await__"):
        return
    for end in ("close", "cancel"):
        if callable(getattr(result, end, None)):
            getattr(result, end)()
            return
