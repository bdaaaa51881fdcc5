"""Results that stand for work which goes on: their call's hold goes with them, to the work's end.

What has begun and not ended is told by its type: a generator, an async generator, a future, or
anything that can be awaited. With `until="close"` also what is closed, left or stepped through.
A new generator, async generator or coroutine is replaced by one of the same kind that steps through
it, a future is asked to tell, and everything else goes out behind a proxy.
"""

import contextlib
import functools
import inspect
import sys
import types
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, cast

from budgetguard import nested
from budgetguard.events import logger
from budgetguard.hold import NoHold

if TYPE_CHECKING:
    from budgetguard.hold import Hold
    from budgetguard.requirement import Requirement

_FUTURE = ("cancelled", "done", "exception", "result")
_ENDS = ("close", "aclose", "__exit__", "__aexit__", "__next__", "__anext__", "__aiter__")


class Unknown(BaseException):
    """Why a hold is kept where no exception says so. Never raised."""


def goes_on(kind: type, until: str | None) -> bool:
    """Whether the work of a call may go on when it has returned an object of this type."""
    if hasattr(kind, "__await__") or _future(kind):
        return True
    # To ask whether it can be thrown at costs less, and few can.
    throws = hasattr(kind, "throw") or hasattr(kind, "athrow")
    if throws and issubclass(kind, Generator | AsyncGenerator):
        return True
    if hasattr(kind, "_self_goes_on"):  # the proxy of a guard inside
        return True
    return until is not None and can_end(kind)


def can_end(kind: type) -> bool:
    """Whether objects of this type can be closed, left or exhausted.

    What can merely be iterated over may be a stream, or a list. A list is a value: it compares by
    what is in it.
    """
    if any(hasattr(kind, name) for name in _ENDS):
        return True
    return hasattr(kind, "__iter__") and getattr(kind, "__eq__", None) is object.__eq__


def follow(need: "Requirement", hold: "Hold", result: Any) -> Any:
    """What to hand out as the call's result; the hold ends now, or when the result's work does."""
    if not (goes_on(type(result), need.until) or goes_on(result.__class__, need.until)):
        need.settle(hold, result)
        return result
    if isinstance(hold, NoHold):
        return result
    nested.step_out(hold)
    native = _FOLLOWERS.get(type(result))
    if native is not None:
        return native(need, hold, result)
    if _future(type(result)):
        _when_done(result, functools.partial(_done, need, hold))
        return result
    return _watch(need, hold, result)


async def finish_awaited(need: "Requirement", hold: "Hold", awaitable: Awaitable[Any]) -> Any:
    """Await what a call returned, and hand out what comes of it."""
    try:
        result = await awaitable
    except BaseException as error:
        hold.finish(error)
        raise
    if result is awaitable and need.until is None:
        # A list page or a connection, say, that is itself what is had by awaiting it.
        need.settle(hold, result)
        return result
    return follow(need, hold, result)


def generator(
    need: "Requirement",
    open_: "Callable[[Any, Any], Hold]",
    function: Callable[..., Generator[Any, Any, Any]],
    *,
    like: types.CodeType | None,
) -> Callable[..., Generator[Any, Any, Any]]:
    """A generator function that holds credits from its first step to its end.

    It can be awaited if the code that it is `like` can.
    """

    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        hold = open_(args, kwargs)
        nested.step_out(hold)
        try:
            result = yield from function(*args, **kwargs)
        except BaseException as error:
            hold.finish(error)
            raise
        return follow(need, hold, result)

    if like is not None and like.co_flags & inspect.CO_ITERABLE_COROUTINE:
        return cast("Callable[..., Generator[Any, Any, Any]]", types.coroutine(guarded))
    return guarded


def async_generator(
    need: "Requirement",
    open_: "Callable[[Any, Any], Awaitable[Hold]]",
    function: Callable[..., AsyncGenerator[Any, Any]],
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """An async generator function that holds credits from its first step to its end."""

    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        hold = await open_(args, kwargs)
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
        settle_without_result(need, hold)

    return guarded


def settle_without_result(need: "Requirement", hold: "Hold") -> None:
    """An async generator is exhausted, which has no result that `actual` could be given."""
    if need.actual is not None:
        logger.warning(
            "actual of %s was not asked: the call gave an async generator, which has no result; "
            "its hold is settled at cost",
            hold.operation,
        )
    hold.finish(None)


def _future(kind: type) -> bool:
    return hasattr(kind, "add_done_callback") and all(hasattr(kind, name) for name in _FUTURE)


def _renamed(ours: Any, theirs: Any) -> Any:
    ours.__name__, ours.__qualname__ = theirs.__name__, theirs.__qualname__
    return ours


def _follow_coroutine(need: "Requirement", hold: "Hold", result: Any) -> Any:
    return _renamed(finish_awaited(need, hold, result), result)


def _follow_generator(need: "Requirement", hold: "Hold", steps: Any) -> Any:
    state = inspect.getgeneratorstate(steps)
    if state == inspect.GEN_CREATED:
        function = generator(need, lambda *_: hold, lambda: steps, like=steps.gi_code)
        return _renamed(function(), steps)
    if state == inspect.GEN_CLOSED:
        need.settle(hold, None)
        return steps
    # At its next step it may be sent something, which a new one may not.
    return _watch(need, hold, steps)


def _follow_async_generator(need: "Requirement", hold: "Hold", steps: Any) -> Any:
    async def opened(*_: Any) -> "Hold":
        return hold

    if getattr(steps, "ag_suspended", False):  # since CPython 3.12
        return _watch(need, hold, steps)
    return _renamed(async_generator(need, opened, lambda: steps)(), steps)


_FOLLOWERS: dict[type, Callable[..., Any]] = {
    types.CoroutineType: _follow_coroutine,
    types.GeneratorType: _follow_generator,
    types.AsyncGeneratorType: _follow_async_generator,
}


def _watch(need: "Requirement", hold: "Hold", result: Any) -> Any:
    from budgetguard.watched import watch

    return watch(need, hold, result)


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


def _when_done(future: Any, tell: Callable[[Any], None]) -> None:
    """Have `tell` called when a future is done, be it of this loop, of another thread's or of none."""
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
            # A loop's futures are its own thread's: a callback added from here may be lost.
            with contextlib.suppress(RuntimeError):  # closed since
                loop.call_soon_threadsafe(future.add_done_callback, tell)
                return
    future.add_done_callback(tell)


def _done(need: "Requirement", hold: "Hold", future: Any) -> None:
    if future.cancelled():
        hold.finish(Unknown())
        return
    # asyncio's exception() counts as looking at it, and would silence "never retrieved".
    asyncios = hasattr(type(future), "_asyncio_future_blocking")
    error = future._exception if asyncios else future.exception()  # noqa: SLF001
    if error is not None:
        hold.finish(error)
        return
    result = future.result()
    kind = type(result)
    if not goes_on(kind, need.until):
        need.settle(hold, result)
    elif _future(kind):
        _when_done(result, functools.partial(_done, need, hold))
    else:
        _keep_when_dropped(hold, result)


def _keep_when_dropped(hold: "Hold", result: Any) -> None:
    """Hold for as long as there is a result that goes on, where no other can stand in for it."""
    try:
        weakref.finalize(result, hold.finish, GeneratorExit()).atexit = False
    except TypeError:
        hold.finish(Unknown())
