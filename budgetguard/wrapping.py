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
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from budgetguard import nested
from budgetguard.account import MANY_ENDS
from budgetguard.gate import Gate

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
        msg = f"require_credits guards functions, methods and callable objects, not {what}"
        raise TypeError(msg)
    if isinstance(function, classmethod | staticmethod):
        return cast("F", type(function)(wrap(requirement, function.__func__)))
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

    class AsyncCallable(wrapt.FunctionWrapper):  # type: ignore[misc,type-arg,unused-ignore]
        """Frameworks ask whether an object's `__call__` is a coroutine function."""

        async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
            return await super().__call__(*args, **kwargs)

    is_async = inspect.iscoroutinefunction(getattr(function.__class__, "__call__", None))  # noqa: B004
    return (AsyncCallable if is_async else wrapt.FunctionWrapper)(function, call)


def _guard_plain(gate: Gate, function: Callable[..., Any]) -> Callable[..., Any]:  # noqa: C901  one frame
    if gate.checks_only:
        return _check_plain(gate, function)
    enter, price, constant = gate.enter, gate.price, gate.constant
    # The type of the last result that was none to await: looked up once, not at every call.
    plain: type = type(None)

    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal plain
        ends: deque[Any]
        end: Any
        ledger = enter()
        if ledger is None:
            return _call_slowly(gate, function, args, kwargs)
        try:
            result = function(*args, **kwargs)
            if type(result) is not plain:
                if hasattr(type(result), "__await__"):
                    open_ = gate.adopt(ledger)
                    ledger = None
                    return _guard_awaitable(gate, gate.hold(open_), result)
                plain = type(result)
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
        elif account.line.queue or not len(ends) % MANY_ENDS:
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
    if hasattr(type(result), "__await__"):
        return _guard_awaitable(gate, hold, result)
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
            return await _finish(gate, hold, function, args, kwargs)
        try:
            result = await function(*args, **kwargs)
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
        elif account.line.queue or not len(ends) % MANY_ENDS:
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
        return await _finish(gate, hold, function, args, kwargs)

    return guarded


async def _finish(
    gate: Gate, hold: "Hold", function: Callable[..., Awaitable[Any]], args: Any, kwargs: Any
) -> Any:
    try:
        result = await function(*args, **kwargs)
    except BaseException as error:
        hold.finish(error)
        raise
    gate.requirement.settle(hold, result)
    return result


def _guard_generator(
    gate: Gate, function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Generator[Any, Any, Any]]:
    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        hold = gate.open(args, kwargs)
        nested.step_out(hold)
        try:
            result = yield from function(*args, **kwargs)
        except BaseException as error:
            hold.finish(error)
            raise
        gate.requirement.settle(hold, result)
        return result

    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_ITERABLE_COROUTINE:
        return cast("Callable[..., Generator[Any, Any, Any]]", types.coroutine(guarded))
    return guarded


def _guard_async_generator(
    gate: Gate, function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        hold = await gate.aopen(args, kwargs)
        nested.step_out(hold)
        try:
            steps = function(*args, **kwargs)
            step: Callable[[], Awaitable[Any]] = functools.partial(_first_step, steps)
            try:
                while True:
                    item = await step()
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as thrown:  # noqa: BLE001  thrown on, one step in
                        step = functools.partial(steps.athrow, thrown)
                    else:
                        step = functools.partial(steps.asend, sent)
            except StopAsyncIteration:
                pass
            except GeneratorExit as left:
                # Before the await, which may never come back where a loop has ended.
                hold.finish(left)
                await steps.aclose()
                raise
        except BaseException as error:
            hold.finish(error)
            raise
        gate.requirement.settle(hold, None)

    return guarded


def _first_step(steps: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Start the inner generator behind the loop's back: it is closed by the outer one alone.

    An asyncio loop that ends closes all generators it knows at once, and would find this one busy.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, lambda _: None)
    try:
        return steps.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _guard_awaitable(gate: Gate, hold: "Hold", result: Any) -> Any:
    """Guard until an awaitable that a plain function returned is done."""
    nested.step_out(hold)
    if inspect.iscoroutine(result):
        guarded: Any = _await(gate, hold, result)
        guarded.__name__, guarded.__qualname__ = result.__name__, result.__qualname__
        return guarded
    if callable(getattr(result, "add_done_callback", None)):
        result.add_done_callback(functools.partial(_done, gate, hold))
        return result
    import wrapt

    class Guarded(wrapt.ObjectProxy):  # type: ignore[misc,type-arg,unused-ignore]
        """The awaitable itself, but for what happens when it is awaited."""

        def __await__(self) -> Generator[Any, Any, Any]:
            return _await(gate, hold, self.__wrapped__).__await__()

    return Guarded(result)


async def _await(gate: Gate, hold: "Hold", result: Awaitable[Any]) -> Any:
    try:
        value = await result
    except BaseException as error:
        hold.finish(error)
        raise
    gate.requirement.settle(hold, value)
    return value


def _done(gate: Gate, hold: "Hold", future: Any) -> None:
    if future.cancelled():
        hold.keep()
        return
    # asyncio's exception() counts as looking at it, and would silence "never retrieved".
    error = future._exception if hasattr(future, "_exception") else future.exception()  # noqa: SLF001
    if error is not None:
        hold.finish(error)
    else:
        gate.requirement.settle(hold, future.result())
