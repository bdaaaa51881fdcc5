"""What tests of agents share: an account whose provider posts charges late, and costs that cannot be computed."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("scenes")

from scenes import Kept, no_price_for

from budgetguard import Guard
from budgetguard.testing import FakeProvider, HandClock

LAG, LINGER = 5, 60


@pytest.fixture
def provider(clock: HandClock) -> FakeProvider:
    """An account of 100 credits, in which what was settled and what was kept can be told apart."""
    return FakeProvider(100, lag=LAG, linger=LINGER)


@pytest.fixture
def guard(provider: FakeProvider) -> Guard:
    """A guard with a fresh balance: 100 credits are available."""
    guard = Guard(provider)
    guard.balance()
    return guard


@pytest.fixture
def kept(clock: HandClock) -> Kept:
    """Check that an amount is counted until `linger` and `lag` have passed, and then no more."""

    def check(guard: Guard, amount: int) -> None:
        assert guard.available == 100 - amount
        clock.advance(LINGER + LAG - 1)
        guard.balance(max_age=0)
        assert guard.available == 100 - amount
        clock.advance(1)
        guard.balance(max_age=0)
        assert guard.available == 100

    return check


async def _awaits(prompt: str) -> int:
    return len(prompt)


@pytest.fixture(
    params=[
        (no_price_for, "LookupError: no price for shop"),
        (_awaits, "TypeError: "),
        (lambda prompt: prompt, "ValueError: "),
        (lambda prompt: None, "TypeError: "),
        (lambda prompt: -1, "ValueError: "),
        (lambda prompt: float("nan"), "ValueError: "),
        (lambda prompt: True, "TypeError: "),
        (lambda text: 1, "TypeError: "),
        (lambda: 1, "TypeError: "),
    ],
    ids=[
        "raises",
        "async",
        "text",
        "none",
        "negative",
        "nan",
        "bool",
        "other arguments",
        "no arguments",
    ],
)
def no_price(request: pytest.FixtureRequest) -> Iterator[tuple[Callable[..., Any], str]]:
    """A callable for the cost of "shop" that gives none, and what is said of that.

    What `async def` gives is no number, and nobody awaits it: it is closed without having run.
    """
    cost, kind = request.param
    given: list[Any] = []

    def remembered(**arguments: Any) -> Any:
        given.append(cost(**arguments))
        return given[-1]

    yield remembered, kind
    for coroutine in filter(inspect.iscoroutine, given):
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
