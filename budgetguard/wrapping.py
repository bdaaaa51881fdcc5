"""From a function to a guarded function of the same kind.

Plain functions, coroutine functions and both kinds of generators get a closure of their own kind,
which keeps signature, binding and pickling by name and costs least. classmethod and staticmethod
objects, and what contextlib.contextmanager makes, are taken apart and put together again. What is
none of these (partials, bound methods, builtins, objects with `__call__`) is wrapped by wrapt,
which keeps whatever else they can do.

Where an interrupt (Ctrl-C) can come, between any two calls, the credits have one owner: a caller's
`ledger` variable until it is set to None, right before the append that ends the call. What was
appended is taken in by the private loop; at once only where more was spent than was held, which
the next caller has to know.
"""

import contextlib
import functools
import inspect
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from budgetguard.account import MANY_ENDS
from budgetguard.gate import Gate
from budgetguard.second_way import GRAPH, holds_a_function, second_way
from budgetguard.unfinished import async_generator, follow, generator

if TYPE_CHECKING:
    from collections import deque

    from budgetguard.hold import Hold
    from budgetguard.requirement import Requirement

F = TypeVar("F")

_EMPTY: Any = lambda: ()  # noqa: E731
# What these make of a generator function is a function, told by its code.
_MANAGERS: dict[Any, Callable[[Any], Any]] = {
    contextlib.contextmanager(_EMPTY).__code__: contextlib.contextmanager,
    contextlib.asynccontextmanager(_EMPTY).__code__: contextlib.asynccontextmanager,
}


def can_wrap(function: object) -> bool:
    """Whether `function` is something that `wrap` takes."""
    if isinstance(function, classmethod | staticmethod):
        return True
    return callable(function) and not isinstance(function, type)


def wrap(requirement: "Requirement", function: F) -> F:
    """`function`, guarded; raises TypeError for what cannot be guarded rightly."""
    if not can_wrap(function):
        what = "a class" if isinstance(function, type) else f"a {type(function).__name__}"
        made = not isinstance(function, type) and holds_a_function(function)
        put = "Put require_credits directly above `def`: it" if made else "require_credits"
        msg = f"{put} guards functions, methods and callable objects, not {what}"
        raise TypeError(msg)
    if isinstance(function, classmethod | staticmethod):
        return cast("F", type(function)(wrap(requirement, function.__func__)))
    way = second_way(function)
    if way is not None:
        raise TypeError(_passed_by(function, way))
    manager = _MANAGERS.get(getattr(function, "__code__", None))
    inner = getattr(function, "__wrapped__", None)
    if manager is not None and inner is not None:
        # The work is done in the block, and not when the manager is made.
        return cast("F", manager(wrap(requirement, inner)))
    guard = _kind(function)
    if guard is _guard_async_generator and requirement.actual is not None:
        msg = "actual= is given a result, and an async generator has none: leave it out"
        raise TypeError(msg)
    gate = Gate(requirement, _name(function))
    if isinstance(function, FunctionType):
        return cast("F", functools.wraps(function)(guard(gate, function)))
    return cast("F", _wrap_object(gate, function, guard))


def _passed_by(function: Any, way: str) -> str:
    kind = function.__class__
    # Some frameworks make a class of each function, and name it so.
    known = next(each for each in kind.__mro__ if "__call__" in vars(each))
    name = kind.__name__ if known is kind else f"{kind.__name__} ({known.__name__})"
    if way == GRAPH:
        why = f"calls of this {name} only add to a graph, and its work is done unguarded later"
    else:
        why = f"only calls of this {name} would be guarded, and its {way} leads past them"
    return f"Put require_credits directly above `def`, below all other decorators: {why}"


def _kind(function: Any) -> Callable[[Gate, Any], Any]:
    call = function
    while isinstance(call, functools.partial):
        call = call.func
    if not isinstance(call, FunctionType | types.MethodType | types.BuiltinFunctionType):
        # Not type(): a wrapt proxy's class is that of what it stands for.
        call = getattr(call.__class__, "__call__", None)  # noqa: B004
    if inspect.isasyncgenfunction(call):
        return _guard_async_generator
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(function):
        return _guard_coroutine
    if inspect.isgeneratorfunction(call):
        return _guard_generator
    return _guard_plain


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _wrap_object(gate: Gate, function: Any, guard: Callable[[Gate, Any], Any]) -> Any:
    import wrapt

    inner = guard(gate, function)

    def call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        if wrapped is function:
            return inner(*args, **kwargs)
        # Bound anew for an instance, which min and cost are given too.
        own = lambda _, /, *a, **k: wrapped(*a, **k)  # noqa: E731, PLW0108
        return guard(gate, own)(instance, *args, **kwargs)

    class Wrapper(wrapt.FunctionWrapper):  # type: ignore[misc,type-arg,unused-ignore]
        """Pickled as what it is made of."""

        def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
            return wrap, (gate.requirement, self.__wrapped__)

    class AsyncCallable(Wrapper):
        """Frameworks ask whether an object's `__call__` is a coroutine function."""

        async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
            return await super().__call__(*args, **kwargs)

    is_async = inspect.iscoroutinefunction(getattr(function.__class__, "__call__", None))  # noqa: B004
    return (AsyncCallable if is_async else Wrapper)(function, call)


def _guard_plain(gate: Gate, function: Callable[..., Any]) -> Callable[..., Any]:
    if gate.checks_only:
        return _check_plain(gate, function)
    enter, price, constant = gate.enter, gate.price, gate.constant

    def guarded(*args: Any, **kwargs: Any) -> Any:
        ends: deque[Any]
        end: Any
        ledger = enter()
        if ledger is None:
            return _call_slowly(gate, function, args, kwargs)
        try:
            result = function(*args, **kwargs)
            if type(result) is not gate.plain and gate.is_unfinished(result):
                open_ = gate.adopt(ledger)
                ledger = None
                return follow(gate.requirement, gate.hold(open_), result)
            account = gate.account
            if constant:
                ends, end = ledger.ends[gate.cost], gate.monotonic() + gate.lag
            else:
                ends, end = account.ends, price(ledger, result)
            ledger = None
            ends.append(end)
        except BaseException as error:
            if ledger is not None:
                gate.fail(ledger, error)
            raise
        if not constant and end[2] > end[1]:
            account.flush()
        elif account.queue or not len(ends) % MANY_ENDS:
            account.flush_soon()
        return result

    return guarded


def _check_plain(gate: Gate, function: Callable[..., Any]) -> Callable[..., Any]:
    passes = gate.passes

    def guarded(*args: Any, **kwargs: Any) -> Any:
        if passes():
            return function(*args, **kwargs)
        return _call_slowly(gate, function, args, kwargs)

    return guarded


def _call_slowly(gate: Gate, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    hold = gate.open(args, kwargs)
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        hold.finish(error)
        raise
    return _end(gate, hold, result)


def _end(gate: Gate, hold: "Hold", result: Any) -> Any:
    if type(result) is not gate.plain and gate.is_unfinished(result):
        return follow(gate.requirement, hold, result)
    gate.requirement.settle(hold, result)
    return result


def _guard_coroutine(
    gate: Gate, function: Callable[..., Awaitable[Any]]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    if gate.checks_only:
        return _check_coroutine(gate, function)
    enter, price, constant = gate.enter, gate.price, gate.constant

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        ends: deque[Any]
        end: Any
        ledger = enter()
        if ledger is None:
            hold = await gate.aopen(args, kwargs)
            return await _call_awaiting(gate, hold, function, args, kwargs)
        try:
            result = await function(*args, **kwargs)
            if type(result) is not gate.plain and gate.is_unfinished(result):
                open_ = gate.adopt(ledger)
                ledger = None
                return follow(gate.requirement, gate.hold(open_), result)
            account = gate.account
            if constant:
                ends, end = ledger.ends[gate.cost], gate.monotonic() + gate.lag
            else:
                ends, end = account.ends, price(ledger, result)
            ledger = None
            ends.append(end)
        except BaseException as error:
            if ledger is not None:
                gate.fail(ledger, error)
            raise
        if not constant and end[2] > end[1]:
            account.flush()
        elif account.queue or not len(ends) % MANY_ENDS:
            account.flush_soon()
        return result

    return guarded


def _check_coroutine(
    gate: Gate, function: Callable[..., Awaitable[Any]]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    passes = gate.passes

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        if passes():
            return await function(*args, **kwargs)
        hold = await gate.aopen(args, kwargs)
        return await _call_awaiting(gate, hold, function, args, kwargs)

    return guarded


async def _call_awaiting(
    gate: Gate, hold: "Hold", function: Callable[..., Awaitable[Any]], args: Any, kwargs: Any
) -> Any:
    try:
        result = await function(*args, **kwargs)
    except BaseException as error:
        hold.finish(error)
        raise
    return _end(gate, hold, result)


def _guard_generator(
    gate: Gate, function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Generator[Any, Any, Any]]:
    code = getattr(function, "__code__", None)
    return generator(gate.requirement, gate.open, function, like=code)


def _guard_async_generator(
    gate: Gate, function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    return async_generator(gate.requirement, gate.aopen, function)
