"""From a function to a guarded function of the same kind.

Plain functions, coroutine functions and both kinds of generators get a closure of their own kind,
which keeps signature, binding and pickling by name and costs least. classmethod and staticmethod
objects are taken apart and put together again. What is none of these (partials, bound methods,
builtins, objects with `__call__`) is wrapped by wrapt, which keeps whatever else they can do.
"""

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from budgetguard.gate import Gate

if TYPE_CHECKING:
    from budgetguard.hold import Hold
    from budgetguard.requirement import Requirement

F = TypeVar("F")


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
    if not inspect.isroutine(call):
        call = type(call).__call__
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

    guarded: dict[int, Any] = {}

    def call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        # `wrapped` is the object itself, or a method bound anew for an instance.
        inner = guarded.get(id(wrapped)) if wrapped is function else None
        if inner is None:
            inner = guard(gate, wrapped)
            if wrapped is function:
                guarded[id(wrapped)] = inner
        return inner(*args, **kwargs)

    return wrapt.FunctionWrapper(function, call)


def _guard_plain(gate: Gate, function: Callable[..., Any]) -> Callable[..., Any]:
    enter, leave = gate.enter, gate.leave
    # The type of the last result that was none to await: looked up once, not at every call.
    plain: type = type(None)

    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal plain
        ledger = enter()
        if ledger is None:
            return _call_slowly(gate, function, args, kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            gate.fail(ledger, error)
            raise
        if type(result) is not plain:
            if hasattr(type(result), "__await__"):
                return _guard_awaitable(gate, gate.adopt(ledger), result)
            plain = type(result)
        leave(ledger, result)
        return result

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
    gate.settle(hold, result)
    return result


def _guard_coroutine(
    gate: Gate, function: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    enter, leave = gate.enter, gate.leave

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        ledger = enter()
        if ledger is None:
            hold = await gate.aopen(args, kwargs)
            return await _finish(gate, hold, function, args, kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            gate.fail(ledger, error)
            raise
        leave(ledger, result)
        return result

    return guarded


async def _finish(
    gate: Gate, hold: "Hold", function: Callable[..., Awaitable[Any]], args: Any, kwargs: Any
) -> Any:
    try:
        result = await function(*args, **kwargs)
    except BaseException as error:
        hold.finish(error)
        raise
    gate.settle(hold, result)
    return result


def _guard_generator(
    gate: Gate, function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Generator[Any, Any, Any]]:
    def guarded(*args: Any, **kwargs: Any) -> Iterator[Any]:
        hold = gate.open(args, kwargs)
        try:
            result = yield from function(*args, **kwargs)
        except BaseException as error:
            hold.finish(error)
            raise
        gate.settle(hold, result)
        return result

    return guarded


def _guard_async_generator(
    gate: Gate, function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def guarded(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        hold = await gate.aopen(args, kwargs)
        try:
            steps = function(*args, **kwargs)
            step = steps.__anext__
            try:
                while True:
                    item = await step()
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as thrown:
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
        gate.settle(hold, None)

    return guarded


def _guard_awaitable(gate: Gate, hold: "Hold", result: Any) -> Any:
    """Guard until an awaitable that a plain function returned is done."""
    if inspect.iscoroutine(result):
        return _await(gate, hold, result)
    if callable(getattr(result, "add_done_callback", None)):
        result.add_done_callback(functools.partial(_done, gate, hold))
        return result
    import wrapt

    class Guarded(wrapt.ObjectProxy):  # type: ignore[misc]
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
    gate.settle(hold, value)
    return value


def _done(gate: Gate, hold: "Hold", future: Any) -> None:
    if future.cancelled():
        hold.keep()
    elif future.exception() is not None:
        hold.finish(future.exception())
    else:
        gate.settle(hold, future.result())
