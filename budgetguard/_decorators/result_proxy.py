"""A proxy for an unfinished result, which ends the call's hold when the result's work is finished.

The proxy behaves like the result: it can be awaited, entered, iterated over, stepped through and
closed as before. The first of these that finishes ends the hold. If the result is garbage-collected
first, the hold is kept.
"""

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import FunctionType, MethodType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from budgetguard._decorators.proxies import Proxy, able
from budgetguard._decorators.result_kinds import Unknown, can_end

if TYPE_CHECKING:
    from budgetguard._engine.call_spec import CallSpec
    from budgetguard._engine.hold import Hold

FinishAwaited: TypeAlias = "Callable[[CallSpec, Hold, Awaitable[Any]], Coroutine[Any, Any, Any]]"

_CLOSE = frozenset({"close", "aclose"})
_STEPS = frozenset({"send", "throw"})
_ASYNC_STEPS = frozenset({"asend", "athrow"})
_STOPS = (StopIteration, StopAsyncIteration)
# Flags of CPython's types: made at run time; cannot be changed.
_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8


def watch(need: "CallSpec", hold: "Hold", result: Any, finish_awaited: FinishAwaited) -> Any:
    """A proxy for `result` that ends its call's hold; `finish_awaited` is used when it is awaited."""
    return _proxy(result, _Work(need, hold, result, finish_awaited))


class _Work:
    """The work that a result stands for, and its hold."""

    __slots__ = (
        "_around",
        "_broken",
        "_finish_awaited",
        "_hold",
        "_steps",
        "need",
        "result",
        "root",
    )

    def __init__(
        self, need: "CallSpec", hold: "Hold", result: Any, finish_awaited: FinishAwaited
    ) -> None:
        self._finish_awaited = finish_awaited
        self.need = need
        self.root = self.result = result
        self._hold = hold
        self._steps = isinstance(result, Generator | AsyncGenerator | Coroutine)
        self._broken = False
        # Only its id: a reference would keep its traceback alive, and with it the result.
        self._around = id(sys.exception())

    def await_(self, awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
        return self._finish_awaited(self.need, self._hold, awaitable)

    def stepped(self) -> None:
        """One more step succeeded."""
        self._broken = False

    def exhausted(self, stop: BaseException) -> None:
        """There is no further step."""
        if not self._steps:
            self.left()
        elif isinstance(stop, StopIteration):
            self.need.settle(self._hold, stop.value)
        else:
            self.need.settle_without_result(self._hold)

    def raised(self, error: BaseException) -> None:
        """A step raised.

        A cancelled wait for the next item, for example by a time-out, does not have to be the end of a
        connection: it is only recorded.
        """
        if self._steps or isinstance(error, Exception):
            self.failed(error)
        else:
            self._broken = True

    def closed(self) -> None:
        """It was closed, which finishes it, except for a generator or a coroutine.

        If it was closed because of an exception, by `finally` or `contextlib.closing`, the work
        ended with that exception.
        """
        error = sys.exception()
        if self._steps:
            self._hold.finish(GeneratorExit())
        elif error is None or id(error) == self._around or isinstance(error, _STOPS):
            self.left()
        else:
            self._hold.finish(error)

    def left(self) -> None:
        """It finished."""
        if self._broken:
            self._hold.finish(Unknown())
        else:
            self.need.settle(self._hold, self.result)

    def failed(self, error: BaseException) -> None:
        """It failed with `error`."""
        self._hold.finish(error)


def _proxy(wrapped: Any, work: _Work) -> Any:
    steps = isinstance(wrapped, Generator | AsyncGenerator | Coroutine)
    return able(Steps if steps else Watched, wrapped)(wrapped, work)


class Watched(Proxy):  # type: ignore[misc]
    """Behaves as the result itself, and notices how it ends."""

    _self_work: _Work

    def __init__(self, wrapped: Any, work: _Work) -> None:
        super().__init__(wrapped)
        self._self_work = work

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if name in _CLOSE and self.__wrapped__ is self._self_work.root and callable(value):
            return _closing(self._self_work, value)
        if self._self_work.need.until and _goes_by_itself(value, name, self.__wrapped__):
            return MethodType(value.__func__, self)
        return value

    def __enter__(self) -> Any:
        wrapped, work = self.__wrapped__, self._self_work
        try:
            entered = type(wrapped).__enter__(wrapped)
        except BaseException as error:
            work.failed(error)
            raise
        return _entered(self, entered)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        wrapped, work = self.__wrapped__, self._self_work
        try:
            swallowed = type(wrapped).__exit__(wrapped, kind, error, traceback)
        except BaseException as raised:
            work.failed(raised)
            raise
        _left(work, error, swallowed)
        return swallowed

    async def __aenter__(self) -> Any:
        wrapped, work = self.__wrapped__, self._self_work
        try:
            entered = await type(wrapped).__aenter__(wrapped)
        except BaseException as error:
            work.failed(error)
            raise
        return _entered(self, entered)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        wrapped, work = self.__wrapped__, self._self_work
        try:
            swallowed = await type(wrapped).__aexit__(wrapped, kind, error, traceback)
        except BaseException as raised:
            work.failed(raised)
            raise
        _left(work, error, swallowed)
        return swallowed

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def _self_await(self) -> Any:
        return self._self_work.await_(self.__wrapped__).__await__()

    def _self_iter(self) -> Any:
        return self._self_iterator(iter(self.__wrapped__))

    def _self_next(self) -> Any:
        return _step(self._self_work, type(self.__wrapped__).__next__, self.__wrapped__)

    def _self_aiter(self) -> Any:
        return self._self_iterator(aiter(self.__wrapped__))

    def _self_anext(self) -> Any:
        return _astep(self._self_work, type(self.__wrapped__).__anext__(self.__wrapped__))

    def _self_iterator(self, iterator: Any) -> Any:
        return self if iterator is self.__wrapped__ else _proxy(iterator, self._self_work)

    _self_uses: ClassVar = {
        "__await__": _self_await,
        "__iter__": _self_iter,
        "__next__": _self_next,
        "__aiter__": _self_aiter,
        "__anext__": _self_anext,
    }


class Steps(Watched):
    """A proxy for a generator or a coroutine, which may have started, with `send` and `throw`."""

    # Its class has no `send`, so this attribute tells a second, outer guard what it is.
    _self_goes_on = True

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if name in _STEPS:
            return functools.partial(_step, self._self_work, value)
        if name in _ASYNC_STEPS:
            return lambda *args: _astep(self._self_work, value(*args))
        return value


def _entered(proxy: Watched, entered: Any) -> Any:
    if entered is proxy.__wrapped__:
        return proxy
    # `actual` gets this object, because the context manager itself has little information.
    proxy._self_work.result = entered  # noqa: SLF001
    return entered


def _left(work: _Work, error: BaseException | None, swallowed: Any) -> None:
    if error is None or swallowed:
        work.left()
    else:
        work.failed(error)


def _step(work: _Work, step: Callable[..., Any], *args: Any) -> Any:
    try:
        item = step(*args)
    except StopIteration as stop:
        work.exhausted(stop)
        raise
    except BaseException as error:
        work.raised(error)
        raise
    work.stepped()
    return item


async def _astep(work: _Work, step: Awaitable[Any]) -> Any:
    try:
        item = await step
    except StopAsyncIteration as stop:
        work.exhausted(stop)
        raise
    except BaseException as error:
        work.raised(error)
        raise
    work.stepped()
    return item


def _closing(work: _Work, close: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(close):

        @functools.wraps(close)
        async def aclosing(*args: Any, **kwargs: Any) -> Any:
            return await _aclosing(work, close(*args, **kwargs))

        return aclosing

    @functools.wraps(close)
    def closing(*args: Any, **kwargs: Any) -> Any:
        try:
            closed = close(*args, **kwargs)
        except BaseException as error:
            work.failed(error)
            raise
        if hasattr(type(closed), "__await__"):
            return _aclosing(work, closed)
        work.closed()
        return closed

    return closing


async def _aclosing(work: _Work, closing: Awaitable[Any]) -> Any:
    try:
        closed = await closing
    except BaseException as error:
        work.failed(error)
        raise
    work.closed()
    return closed


def _goes_by_itself(value: Any, name: str, wrapped: Any) -> bool:
    """Whether a method may exhaust or close its own object, as `until_done()` does.

    Such a method gets the proxy as its `self`, so that the end is noticed. This is limited to methods
    of classes that can be closed or exhausted, without base classes written in C: other methods may
    pass `self` to code that does not accept a proxy.
    """
    if not isinstance(value, MethodType) or value.__self__ is not wrapped:
        return False
    mro = type(wrapped).__mro__[:-1]
    if not isinstance(value.__func__, FunctionType) or any(map(_written_in_c, mro)):
        return False
    owner = next((each for each in mro if name in vars(each)), None)
    return owner is not None and can_end(owner)


def _written_in_c(kind: type) -> bool:
    return not kind.__flags__ & _HEAP_TYPE or bool(kind.__flags__ & _IMMUTABLE_TYPE)
