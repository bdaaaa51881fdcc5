"""What cannot be guarded rightly is refused, as early as it can be known."""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from budgetguard import Guard, require_credits


def function() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("thing", "what"),
    [
        (int, "a class"),
        (Guard, "a class"),
        (property(lambda self: self), "a property"),
        (functools.cached_property(lambda self: self), "a cached_property"),
        (functools.partialmethod(function), "a partialmethod"),
        (classmethod(property(lambda self: self)), "a property"),  # type: ignore[arg-type]
        (3, "a int"),
        ("name", "a str"),
        (None, "a NoneType"),
    ],
)
def test_what_is_not_a_function_is_refused(guard: Guard, thing: Any, what: str) -> None:
    """Classes, properties and what cannot be called are a TypeError at decoration."""
    with pytest.raises(TypeError, match=f"not {what}$"):
        guard.require_credits(min=1)(thing)


def test_actual_on_an_async_generator_is_refused(guard: Guard) -> None:
    """An async generator has no result for actual."""

    async def steps() -> AsyncIterator[int]:
        yield 1

    require = guard.require_credits(min=1, actual=lambda _: 1)
    for thing in (steps, functools.partial(steps), staticmethod(steps)):
        with pytest.raises(TypeError, match="async generator"):
            require(thing)
    with pytest.raises(TypeError, match="async generator"):
        require(contextlib.asynccontextmanager(steps))


def test_something_has_to_be_required(guard: Guard) -> None:
    """None of min, cost and slots is a TypeError."""
    for require in (guard.require_credits, require_credits):
        with pytest.raises(TypeError, match="at least one of min, cost and slots"):
            require()


def test_decorating_takes_one_function(guard: Guard) -> None:
    """A requirement is called with one function and nothing else."""
    require = guard.require_credits(min=1)
    calls: list[Callable[[], Any]] = [
        lambda: require(function, 1),
        lambda: require(function, key=1),
        require,
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


def require_either(guard: Guard) -> list[Callable[..., Any]]:
    """Both ways to write it."""
    return [guard.require_credits, require_credits]


@pytest.mark.parametrize("which", [0, 1], ids=["of a guard", "of the package"])
def test_bare_on_a_function(guard: Guard, which: int) -> None:
    """Without parentheses, on plain and coroutine functions, whatever they take."""
    bare = require_either(guard)[which]
    with pytest.raises(TypeError, match=r"nothing.* bare @require_credits.*min="):

        @bare
        def nothing() -> None:
            """Take no argument."""

        nothing()
    with pytest.raises(TypeError, match=r"number.* bare @require_credits.*min="):

        @bare
        def number(x: int) -> None:
            """Take a number."""

        number(3)
    with pytest.raises(TypeError, match=r"callback.* bare @require_credits.*min="):

        @bare
        def callback(then: Callable[[], None]) -> None:
            """Take one callable."""

        callback(function)
    with pytest.raises(TypeError, match=r"later.* bare @require_credits.*min="):

        @bare
        async def later(then: Callable[[], None]) -> None:
            """Take one callable, later."""

        later(function)


@pytest.mark.parametrize("which", [0, 1], ids=["of a guard", "of the package"])
def test_bare_on_a_method(guard: Guard, which: int) -> None:
    """Without parentheses, on methods of all three kinds."""
    bare = require_either(guard)[which]
    with pytest.raises(TypeError, match=r"method.* bare @require_credits.*min="):

        class Client:
            @bare
            def method(self, then: Callable[[], None]) -> None:
                """Take one callable."""

        Client().method(function)
    with pytest.raises(TypeError, match=r"made.* bare @require_credits.*min="):

        class Above:
            @bare
            @classmethod
            def made(cls, then: Callable[[], None]) -> None:
                """Take one callable."""

        Above.made(function)
    with pytest.raises(TypeError, match=r"static.* bare @require_credits.*min="):

        class Static:
            @staticmethod
            @bare
            def static(then: Callable[[], None]) -> None:
                """Take one callable."""

        Static.static(function)


def price(*_: object) -> int:
    """What a call costs."""
    return 10


def test_a_price_by_position_is_not_taken_for_bare(guard: Guard) -> None:
    """A callable min may be given by position: a function, a local one, a lambda, a method."""

    def local(*_: object) -> int:
        return 10

    class Prices:
        def of(self, *_: object) -> int:
            return 10

    for given in (price, local, lambda *_: 10, Prices().of, functools.partial(price)):
        assert guard.require_credits(given)(function)() is None
    assert guard.available == 50
