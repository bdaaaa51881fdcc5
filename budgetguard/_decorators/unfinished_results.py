"""Results that stand for unfinished work: the call's hold remains open until that work is finished.

Unfinished work is recognized by the result's type: a generator, an async generator, a future, or
anything that can be awaited. With `until="close"`, it may also be something to close, leave or
exhaust. A new generator, async generator or coroutine is replaced by one of the same kind that runs
it, a future gets a callback, and anything else is returned behind a proxy.
"""

import contextlib
import functools
import inspect
import sys
import types
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from opcode import opmap
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from budgetguard._core.errors import REFUSALS
from budgetguard._core.on_refusal import awaited, because
from budgetguard._decorators.refused_calls import async_items, items
from budgetguard._decorators.result_kinds import Unknown, goes_on, is_future
from budgetguard._engine import nested_holds as nested
from budgetguard._engine.hold import Hold, NullHold

if TYPE_CHECKING:
    from budgetguard._engine.call_spec import CallSpec, Pending

    Begin: TypeAlias = Callable[[Any, Any], Hold | Pending]

# The instruction at which a generator stands before it has started.
_MADE = opmap["RETURN_GENERATOR"]


def follow(need: "CallSpec", hold: "Hold", result: Any) -> Any:
    """The object to return as the call's result; the hold ends now, or when the result's work does."""
    if not (goes_on(type(result), need.until) or goes_on(result.__class__, need.until)):
        need.settle(hold, result)
        return result
    if isinstance(hold, NullHold):
        return result
    nested.step_out(hold)
    native = _FOLLOWERS.get(type(result))
    if native is not None:
        return native(need, hold, result)
    if is_future(type(result)):
        _when_done(result, functools.partial(_done, need, hold))
        return result
    return _watch(need, hold, result)


async def finish_awaited(need: "CallSpec", hold: "Hold", awaitable: Awaitable[Any]) -> Any:
    """Await what a call returned, and return its result, which may be unfinished too."""
    try:
        result = await awaitable
    except BaseException as error:
        hold.finish(error)
        raise
    if result is awaitable and need.until is None:
        # For example a list page or a connection, which returns itself when it is awaited.
        need.settle(hold, result)
        return result
    return follow(need, hold, result)


def generator(
    need: "CallSpec",
    begin: "Begin",
    function: Callable[..., Generator[Any, Any, Any]],
    *,
    like: types.CodeType | None,
) -> Callable[..., Generator[Any, Any, Any]]:
    """A generator function that holds credits from its first step until it finishes.

    It can be awaited if the code `like` can.
    """
    is_awaited = like is not None and bool(like.co_flags & inspect.CO_ITERABLE_COROUTINE)
    supplied = _awaited_steps if is_awaited else items

    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        hold, instead, refusal = _admitted(need, begin(args, kwargs), args, kwargs, supplied)
        if refusal is not None:
            try:
                return (yield from instead)
            except BaseException as error:
                because(error, refusal)
                raise
        nested.step_out(hold)
        try:
            result = yield from function(*args, **kwargs)
        except BaseException as error:
            hold.finish(error)
            raise
        return follow(need, hold, result)

    if is_awaited:
        return cast("Callable[..., Generator[Any, Any, Any]]", types.coroutine(guarded))
    return guarded


def async_generator(
    need: "CallSpec",
    begin: "Begin",
    function: Callable[..., AsyncGenerator[Any, Any]],
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """An async generator function that holds credits from its first step until it finishes."""

    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        hold, instead, refusal = await _aadmitted(need, begin(args, kwargs), args, kwargs)
        nested.step_out(hold)
        try:
            steps = function(*args, **kwargs) if instead is None else instead
            step: Callable[[], Awaitable[Any]] = functools.partial(_first_step, steps)
            try:
                while True:
                    item = await step()
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as thrown:  # noqa: BLE001  passed on to the inner generator
                        step = functools.partial(steps.athrow, thrown)
                    else:
                        step = functools.partial(steps.asend, sent)
            except StopAsyncIteration:
                pass
            except GeneratorExit as left:
                # Before the await, which may never return if the loop has ended.
                hold.finish(left)
                await steps.aclose()
                raise
        except BaseException as error:
            if refusal is not None:
                because(error, refusal)
            hold.finish(error)
            raise
        need.settle_without_result(hold)

    return guarded


def _admitted(
    need: "CallSpec", asked: "Hold | Pending", args: Any, kwargs: Any, supplied: Callable[..., Any]
) -> tuple[Hold, Any, Exception | None]:
    """A generator's hold; or, if it is refused, the steps to take instead, and the refusal.

    Not in the generator's own frame, which the refusal would keep alive when the generator is dropped.
    """
    if isinstance(asked, Hold):
        return asked, None, None
    _, waiter = asked
    try:
        return need.wait_for(*asked, warns=True), None, None
    except REFUSALS as error:
        if need.on_refusal is None:
            raise
        instead = supplied(need.on_refusal, error, *args, **kwargs)
        return NullHold(waiter.operation, 0), instead, error


async def _aadmitted(
    need: "CallSpec", asked: "Hold | Pending", args: Any, kwargs: Any
) -> tuple[Hold, AsyncGenerator[Any, Any] | None, Exception | None]:
    """`_admitted`, for an async generator."""
    if isinstance(asked, Hold):
        return asked, None, None
    _, waiter = asked
    try:
        return await need.await_for(*asked), None, None
    except REFUSALS as error:
        if need.on_refusal is None:
            raise
        instead = await async_items(need.on_refusal, error, *args, **kwargs)
        return NullHold(waiter.operation, 0), instead, error


def _awaited_steps(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
    return awaited(*args, **kwargs).__await__()


def _renamed(ours: Any, theirs: Any) -> Any:
    ours.__name__, ours.__qualname__ = theirs.__name__, theirs.__qualname__
    return ours


def _follow_coroutine(need: "CallSpec", hold: "Hold", result: Any) -> Any:
    return _renamed(finish_awaited(need, hold, result), result)


def _follow_generator(need: "CallSpec", hold: "Hold", steps: Any) -> Any:
    state = inspect.getgeneratorstate(steps)
    if state == inspect.GEN_CREATED:
        function = generator(need, lambda *_: hold, lambda: steps, like=steps.gi_code)
        return _renamed(function(), steps)
    if state == inspect.GEN_CLOSED:
        need.settle(hold, None)
        return steps
    # A started generator may be sent a value at its next step, and a new one must not be.
    return _watch(need, hold, steps)


def _follow_async_generator(need: "CallSpec", hold: "Hold", steps: Any) -> Any:
    if _has_begun(steps):
        # A started generator may be sent a value at its next step, and a new one must not be.
        return _watch(need, hold, steps)
    return _renamed(async_generator(need, lambda *_: hold, lambda: steps)(), steps)


def _has_begun(steps: Any) -> bool:
    if hasattr(steps, "ag_suspended"):  # since CPython 3.12
        return bool(steps.ag_suspended)
    frame = steps.ag_frame
    return frame is not None and steps.ag_code.co_code[frame.f_lasti] != _MADE


_FOLLOWERS: dict[type, Callable[..., Any]] = {
    types.CoroutineType: _follow_coroutine,
    types.GeneratorType: _follow_generator,
    types.AsyncGeneratorType: _follow_async_generator,
}


def _watch(need: "CallSpec", hold: "Hold", result: Any) -> Any:
    from budgetguard._decorators.result_proxy import watch

    return watch(need, hold, result, finish_awaited)


def _first_step(steps: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Start the inner generator without registering it with the loop: only the outer one closes it.

    An asyncio loop that shuts down closes all registered generators at once, and would find this
    one running.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, lambda _: None)
    try:
        return steps.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _when_done(future: Any, tell: Callable[[Any], None]) -> None:
    """Call `tell` when a future is done; it may belong to this loop, another thread's loop, or none."""
    if future.done():
        tell(future)
        return
    loop = future.get_loop() if hasattr(type(future), "get_loop") else None
    if loop is not None and loop.is_running():
        import asyncio

        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not loop:
            # A loop's futures are not thread-safe: a callback added from this thread may be lost.
            with contextlib.suppress(RuntimeError):  # closed since
                loop.call_soon_threadsafe(future.add_done_callback, tell)
                return
    future.add_done_callback(tell)


def _done(need: "CallSpec", hold: "Hold", future: Any) -> None:
    if future.cancelled():
        hold.finish(Unknown())
        return
    # asyncio's exception() counts as retrieving it, and would silence "never retrieved".
    asyncios = hasattr(type(future), "_asyncio_future_blocking")
    error = future._exception if asyncios else future.exception()  # noqa: SLF001
    if error is not None:
        hold.finish(error)
        return
    result = future.result()
    kind = type(result)
    if not goes_on(kind, need.until):
        need.settle(hold, result)
    elif is_future(kind):
        _when_done(result, functools.partial(_done, need, hold))
    else:
        _keep_when_dropped(hold, result)


def _keep_when_dropped(hold: "Hold", result: Any) -> None:
    """Hold until the unfinished result is garbage-collected, where a proxy cannot replace it."""
    try:
        weakref.finalize(result, hold.finish, GeneratorExit()).atexit = False
    except TypeError:
        hold.finish(Unknown())
