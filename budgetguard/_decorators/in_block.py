"""Runs each call of a function in a block of its own, such as a budget.

Generators are in the block only while they run: what they set would otherwise be seen by the code that
iterates over them.
"""

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from types import FunctionType, MethodType, TracebackType
from typing import Any, Protocol, TypeVar, cast

F = TypeVar("F")


class Block(Protocol):
    """A block that is entered once, and again by `use` where its code goes on."""

    def __enter__(self) -> Any: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def use(self) -> contextlib.AbstractContextManager[Any]:
        """Enter the block for a while, as long as it lasts."""
        ...

    def step_out(self) -> None:
        """What follows is not in the block, although it lasts."""
        ...


MakeBlock = Callable[[tuple[Any, ...], dict[str, Any]], Block]
"""A function that makes the block of one call, which it gets the arguments of."""


def in_block(make: MakeBlock, function: F) -> F:
    """`function`, each call of which runs in a block that `make` makes.

    Raises TypeError for anything but functions and methods.
    """
    if isinstance(function, classmethod | staticmethod):
        return cast("F", type(function)(in_block(make, function.__func__)))
    if not isinstance(function, FunctionType | MethodType):
        msg = (
            f"a budget decorates functions and methods, not {type(function).__name__}: use a block"
        )
        raise TypeError(msg)
    if inspect.isasyncgenfunction(function):
        wrapper = _async_generator(make, function)
    elif inspect.iscoroutinefunction(function):
        wrapper = _coroutine(make, function)
    elif inspect.isgeneratorfunction(function):
        wrapper = _generator(make, function)
    else:
        wrapper = _plain(make, function)
    return cast("F", functools.wraps(function)(wrapper))


def _plain(make: MakeBlock, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        block = make(args, kwargs)
        with contextlib.ExitStack() as stack:
            stack.enter_context(block)
            result = function(*args, **kwargs)
            if not inspect.iscoroutine(result):
                return result
            # Its work is yet to be done.
            lasting = stack.pop_all()
        block.step_out()
        return _awaited(block, lasting, result)

    return call


async def _awaited(block: Block, lasting: contextlib.ExitStack, result: Any) -> Any:
    with lasting, block.use():
        return await result


def _coroutine(make: MakeBlock, function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        async with make(args, kwargs):
            return await function(*args, **kwargs)

    return call


def _generator(make: MakeBlock, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        block = make(args, kwargs)
        with block:
            block.step_out()
            steps = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, steps)
            while True:
                try:
                    with block.use():
                        item = step()
                except StopIteration as end:
                    return end.value
                try:
                    sent = yield item
                except GeneratorExit:
                    with block.use():
                        steps.close()
                    raise
                except BaseException as thrown:  # noqa: BLE001  passed on to the inner generator
                    step = functools.partial(steps.throw, thrown)
                else:
                    step = functools.partial(steps.send, sent)

    return call


def _async_generator(make: MakeBlock, function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        block = make(args, kwargs)
        async with block:
            block.step_out()
            steps = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(anext, steps)
            while True:
                try:
                    with block.use():
                        item = await step()
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    with block.use():
                        await steps.aclose()
                    raise
                except BaseException as thrown:  # noqa: BLE001  passed on to the inner generator
                    step = functools.partial(steps.athrow, thrown)
                else:
                    step = functools.partial(steps.asend, sent)

    return call
