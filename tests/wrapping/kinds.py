"""Every kind of callable, each built once bare and once guarded, to be compared."""

import asyncio
import contextlib
import functools
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

Decorate = Callable[[Any], Any]
Run = Literal["sync", "async", "generator", "async generator", "block", "async block"]


@dataclass(frozen=True)
class Kind:
    """How to build a callable of a kind, and how it is run.

    All take a number and give its double; generators yield both numbers and return the double, if
    they return anything. Below zero they raise ValueError, after the first step where they step.
    `first` says whether min and cost are given the instance or class before the number.
    """

    build: Callable[[Decorate], Any]
    run: Run
    first: bool = False

    @property
    def name(self) -> str:
        """The builder's name."""
        return self.build.__name__


KINDS: list[Kind] = []


def kind(run: Run, *, first: bool = False) -> Callable[[Callable[[Decorate], Any]], Any]:
    """Add a builder to the kinds."""

    def add(build: Callable[[Decorate], Any]) -> Any:
        KINDS.append(Kind(build, run, first))
        return build

    return add


def double(x: int) -> int:
    """Twice x."""
    if x < 0:
        msg = "below zero"
        raise ValueError(msg)
    return 2 * x


async def adouble(x: int) -> int:
    """Twice x, later."""
    await asyncio.sleep(0)
    return double(x)


def steps(x: int) -> Generator[int, None, int]:
    """x and twice x."""
    yield x
    yield double(x)
    return 2 * x


async def asteps(x: int) -> AsyncIterator[int]:
    """x and twice x, later."""
    yield x
    await asyncio.sleep(0)
    yield double(x)


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """A well-behaved decorator of somebody else's."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class Base:
    """What methods are inherited from, and overridden."""

    def method(self, x: int) -> int:
        """Twice x."""
        return double(x)


class Callable_:  # noqa: N801  named for what it is
    """An object with `__call__`."""

    def __call__(self, x: int) -> int:
        """Twice x."""
        return double(x)


class AsyncCallable:
    """An object with an async `__call__`."""

    async def __call__(self, x: int) -> int:
        """Twice x."""
        return await adouble(x)


class GeneratorCallable:
    """An object whose `__call__` is a generator."""

    def __call__(self, x: int) -> Generator[int, None, int]:
        """x and twice x."""
        return (yield from steps(x))


class AsyncGeneratorCallable:
    """An object whose `__call__` is an async generator."""

    async def __call__(self, x: int) -> AsyncIterator[int]:
        """x and twice x."""
        async for item in asteps(x):
            yield item


class Descriptor:
    """A decorator of the class kind, that binds as functions do."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else types.MethodType(self, instance)


class Numbers(dict[int, int]):
    """Its bound methods are builtins."""

    __missing__ = staticmethod(double)


class Later:
    """An awaitable that is neither coroutine nor future."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __await__(self) -> Iterator[Any]:
        return adouble(self.x).__await__()


@kind("sync")
def plain(decorate: Decorate) -> Any:
    return decorate(double)


@kind("sync")
def lambda_(decorate: Decorate) -> Any:
    return decorate(lambda x: double(x) + 0)


@kind("sync")
def nested(decorate: Decorate) -> Any:
    seen = []

    @decorate
    def inner(x: int) -> int:
        seen.append(x)
        return double(x)

    return inner


@kind("sync")
def wrapped_by_another(decorate: Decorate) -> Any:
    return decorate(plainly(double))


@kind("sync")
def below_another(decorate: Decorate) -> Any:
    return plainly(decorate(double))


@kind("sync")
def partial(decorate: Decorate) -> Any:
    return decorate(functools.partial(lambda _, x: double(x), None))


@kind("sync")
def callable_object(decorate: Decorate) -> Any:
    return decorate(Callable_())


@kind("sync")
def bound_method(decorate: Decorate) -> Any:
    return decorate(Base().method)


@kind("sync")
def builtin(decorate: Decorate) -> Any:
    return decorate(Numbers().__getitem__)


@kind("sync")
def lru_cached(decorate: Decorate) -> Any:
    return decorate(functools.lru_cache(double))


@kind("sync")
def below_lru_cache(decorate: Decorate) -> Any:
    return functools.lru_cache(decorate(double))


@kind("sync", first=True)
def lru_cached_method(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        @functools.lru_cache  # noqa: B019
        def method(self, x: int) -> int:
            return double(x)

    return Sub().method


@kind("sync", first=True)
def class_decorated_method(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        @Descriptor
        def method(self, x: int) -> int:
            return double(x)

    return Sub().method


@kind("sync", first=True)
def method(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        def method(self, x: int) -> int:
            """Twice x."""
            return double(x)

    return Sub().method


@kind("sync", first=True)
def method_by_class(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        def method(self, x: int) -> int:
            """Twice x."""
            return double(x)

    return functools.partial(Sub.method, Sub())


@kind("sync", first=True)
def inherited_method(decorate: Decorate) -> Any:
    class Above:
        @decorate
        def method(self, x: int) -> int:
            return double(x)

    class Sub(Above):
        pass

    return Sub().method


@kind("sync", first=True)
def method_calling_super(decorate: Decorate) -> Any:
    class Sub(Base):
        @decorate
        def method(self, x: int) -> int:
            return super().method(x)

    return Sub().method


@kind("sync", first=True)
def super_of_override(decorate: Decorate) -> Any:
    class Above:
        @decorate
        def method(self, x: int) -> int:
            return double(x)

    class Sub(Above):
        def method(self, x: int) -> int:
            return int(super().method(x))

    return Sub().method


@kind("sync", first=True)
def property_above(decorate: Decorate) -> Any:
    class Sub:
        x = 0

        @property
        @decorate
        def double(self) -> int:
            return double(self.x)

    def get(x: int) -> int:
        sub = Sub()
        sub.x = x
        return int(sub.double)

    return get


@kind("sync", first=True)
def above_classmethod(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        @classmethod
        def make(cls, x: int) -> int:
            """Twice x."""
            return double(x)

    return Sub.make


@kind("sync", first=True)
def below_classmethod(decorate: Decorate) -> Any:
    class Sub:
        @classmethod
        @decorate
        def make(cls, x: int) -> int:
            """Twice x."""
            return double(x)

    return Sub().make


@kind("sync")
def above_staticmethod(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        @staticmethod
        def make(x: int) -> int:
            """Twice x."""
            return double(x)

    return Sub().make


@kind("sync")
def below_staticmethod(decorate: Decorate) -> Any:
    class Sub:
        @staticmethod
        @decorate
        def make(x: int) -> int:
            """Twice x."""
            return double(x)

    return Sub.make


@kind("async")
def coroutine_function(decorate: Decorate) -> Any:
    return decorate(adouble)


@kind("async", first=True)
def async_method(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        async def method(self, x: int) -> int:
            return await adouble(x)

    return Sub().method


@kind("async", first=True)
def above_async_classmethod(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        @classmethod
        async def make(cls, x: int) -> int:
            return await adouble(x)

    return Sub.make


@kind("async", first=True)
def below_async_classmethod(decorate: Decorate) -> Any:
    class Sub:
        @classmethod
        @decorate
        async def make(cls, x: int) -> int:
            return await adouble(x)

    return Sub.make


@kind("async")
def above_async_staticmethod(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        @staticmethod
        async def make(x: int) -> int:
            return await adouble(x)

    return Sub.make


@kind("async")
def below_async_staticmethod(decorate: Decorate) -> Any:
    class Sub:
        @staticmethod
        @decorate
        async def make(x: int) -> int:
            return await adouble(x)

    return Sub.make


@kind("async")
def async_partial(decorate: Decorate) -> Any:
    return decorate(functools.partial(adouble))


@kind("async")
def async_callable_object(decorate: Decorate) -> Any:
    return decorate(AsyncCallable())


@kind("async")
def partial_of_async_callable_object(decorate: Decorate) -> Any:
    return decorate(functools.partial(AsyncCallable()))


@kind("async")
def async_bound_method(decorate: Decorate) -> Any:
    return decorate(AsyncCallable().__call__)


@kind("async")
def returning_a_coroutine(decorate: Decorate) -> Any:
    @decorate
    def start(x: int) -> Awaitable[int]:
        return adouble(x)

    return start


@kind("async")
def returning_a_task(decorate: Decorate) -> Any:
    @decorate
    def start(x: int) -> Awaitable[int]:
        return asyncio.ensure_future(adouble(x))

    return start


@kind("async")
def returning_an_awaitable(decorate: Decorate) -> Any:
    return decorate(lambda x: Later(x + 0))


@kind("async")
def generator_based_coroutine(decorate: Decorate) -> Any:
    @decorate
    @types.coroutine
    def old(x: int) -> Generator[Any, Any, int]:
        return (yield from adouble(x).__await__())

    return old


@kind("generator")
def generator(decorate: Decorate) -> Any:
    return decorate(steps)


@kind("generator", first=True)
def generator_method(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        def method(self, x: int) -> Generator[int, None, int]:
            return (yield from steps(x))

    return Sub().method


@kind("generator", first=True)
def above_generator_classmethod(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        @classmethod
        def make(cls, x: int) -> Generator[int, None, int]:
            return (yield from steps(x))

    return Sub.make


@kind("generator")
def generator_partial(decorate: Decorate) -> Any:
    return decorate(functools.partial(steps))


@kind("generator")
def generator_callable_object(decorate: Decorate) -> Any:
    return decorate(GeneratorCallable())


@kind("async generator")
def async_generator(decorate: Decorate) -> Any:
    return decorate(asteps)


@kind("async generator", first=True)
def async_generator_method(decorate: Decorate) -> Any:
    class Sub:
        @decorate
        async def method(self, x: int) -> AsyncIterator[int]:
            async for item in asteps(x):
                yield item

    return Sub().method


@kind("async generator")
def below_async_generator_staticmethod(decorate: Decorate) -> Any:
    class Sub:
        @staticmethod
        @decorate
        async def make(x: int) -> AsyncIterator[int]:
            async for item in asteps(x):
                yield item

    return Sub.make


@kind("async generator")
def async_generator_partial(decorate: Decorate) -> Any:
    return decorate(functools.partial(asteps))


@kind("async generator")
def async_generator_callable_object(decorate: Decorate) -> Any:
    return decorate(AsyncGeneratorCallable())


def block(x: int) -> Iterator[int]:
    """Twice x, for the time of a block."""
    yield double(abs(x))
    double(x)


async def ablock(x: int) -> AsyncIterator[int]:
    """Twice x, for the time of a block."""
    yield double(abs(x))
    double(x)


@kind("block")
def below_contextmanager(decorate: Decorate) -> Any:
    return contextlib.contextmanager(decorate(block))


@kind("block")
def above_contextmanager(decorate: Decorate) -> Any:
    return decorate(contextlib.contextmanager(block))


@kind("async block")
def below_asynccontextmanager(decorate: Decorate) -> Any:
    return contextlib.asynccontextmanager(decorate(ablock))


@kind("async block")
def above_asynccontextmanager(decorate: Decorate) -> Any:
    return decorate(contextlib.asynccontextmanager(ablock))


def run(how: Run, function: Callable[..., Any], x: int) -> Any:
    """Run a callable of any kind to its end."""
    if how == "sync":
        return function(x)
    if how == "generator":
        return list(function(x))
    if how == "block":
        with function(x) as value:
            return value

    async def main() -> Any:
        if how == "async":
            return await function(x)
        if how == "async block":
            async with function(x) as value:
                return value
        return [item async for item in function(x)]

    return asyncio.run(main())


class Meter:
    """Reads off a guard's figures how a call's hold of 10 out of 100 credits ended.

    `with meter` leaves no debit behind, `async with meter` neither, without blocking the loop.
    """

    def __init__(self, guard: Any, advance: Callable[[float], None]) -> None:
        self.guard = guard
        self.advance = advance

    def __enter__(self) -> Self:
        self.guard.balance(max_age=0)
        assert self.guard.available == 100
        return self

    def __exit__(self, *_: object) -> None:
        self.advance(1000)
        self.guard.balance(max_age=0)
        assert self.guard.available == 100

    async def __aenter__(self) -> Self:
        await self.guard.abalance(max_age=0)
        assert self.guard.available == 100
        return self

    async def __aexit__(self, *_: object) -> None:
        self.advance(1000)
        await self.guard.abalance(max_age=0)
        assert self.guard.available == 100

    def ending(self) -> str:
        """What became of the one hold since."""
        if self.guard.available == 100:
            return "released"
        self.advance(LAG)
        self.guard.balance(max_age=0)
        return self._after_lag()

    async def aending(self) -> str:
        """The same, awaiting."""
        if self.guard.available == 100:
            return "released"
        self.advance(LAG)
        await self.guard.abalance(max_age=0)
        return self._after_lag()

    def _after_lag(self) -> str:
        return "settled" if self.guard.available == 100 else "kept"


LAG, LINGER = 5.0, 300.0
