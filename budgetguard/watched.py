"""A proxy for a result that goes on, which ends its call's hold where the result's work ends.

It passes for what it stands for, which can be awaited, entered, iterated over, stepped through and
closed as before. Whichever of these comes to its end first ends the hold; what is dropped before is
kept.
"""

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import FunctionType, MethodType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from budgetguard.proxies import Proxy, able
from budgetguard.unfinished import (
    Unknown,
    can_end,
    finish_awaited,
    settle_without_result,
)

if TYPE_CHECKING:
    from budgetguard.hold import Hold
    from budgetguard.requirement import Requirement

_CLOSE = frozenset({"close", "aclose"})
_STEPS = frozenset({"send", "throw"})
_ASYNC_STEPS = frozenset({"asend", "athrow"})
_STOPS = (StopIteration, StopAsyncIteration)
# Flags of CPython's types: those made at run time, and those that cannot be changed since.
_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8


def watch(need: "Requirement", hold: "Hold", result: Any) -> Any:
    """`result`, with its call's hold."""
    return _proxy(result, _Work(need, hold, result))


class _Work:
    """What a result stands for, and its hold."""

    __slots__ = ("_around", "_broken", "_hold", "_steps", "need", "result", "root")

    def __init__(self, need: "Requirement", hold: "Hold", result: Any) -> None:
        self.need = need
        self.root = self.result = result
        self._hold = hold
        self._steps = isinstance(result, Generator | AsyncGenerator | Coroutine)
        self._broken = False
        # By its id: kept, its traceback would keep what is to be dropped.
        self._around = id(sys.exception())

    def await_(self, awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
        return finish_awaited(self.need, self._hold, awaitable)

    def stepped(self) -> None:
        """One more step went well."""
        self._broken = False

    def exhausted(self, stop: BaseException) -> None:
        """There is no further step."""
        if not self._steps:
            self.left()
        elif isinstance(stop, StopIteration):
            self.need.settle(self._hold, stop.value)
        else:
            settle_without_result(self.need, self._hold)

    def raised(self, error: BaseException) -> None:
        """A step raised.

        A wait for the next item that is cancelled, by a time-out say, need not be the end of a
        connection: it is only remembered.
        """
        if self._steps or isinstance(error, Exception):
            self.failed(error)
        else:
            self._broken = True

    def closed(self) -> None:
        """It was closed: its end, but for what was to be stepped through.

        Closed because something raised, by `finally` or `contextlib.closing`, it was left so.
        """
        error = sys.exception()
        if self._steps:
            self._hold.finish(GeneratorExit())
        elif error is None or id(error) == self._around or isinstance(error, _STOPS):
            self.left()
        else:
            self._hold.finish(error)

    def left(self) -> None:
        """It came to its end."""
        if self._broken:
            self._hold.finish(Unknown())
        else:
            self.need.settle(self._hold, self.result)

    def failed(self, error: BaseException) -> None:
        """It came to a bad end."""
        self._hold.finish(error)


def _proxy(wrapped: Any, work: _Work) -> Any:
    steps = isinstance(wrapped, Generator | AsyncGenerator | Coroutine)
    return able(Steps if steps else Watched, wrapped)(wrapped, work)


class Watched(Proxy):  # type: ignore[misc]
    """The result itself, but for what is noticed."""

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
    """A generator or a coroutine, which may have begun, and be sent or thrown something."""

    # Its class has no `send`: this is what a second guard around knows it by.
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
    # What actual can ask: a manager itself knows little.
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
    """Whether a method may come to the end of its own object, as `until_done()` does.

    It is then given the proxy as its `self`, which notices. Only methods of classes that know of an
    end are: those of a model that a page is derived from may hand `self` to what takes no proxy, and
    so may all that rest on a class written in C.
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
