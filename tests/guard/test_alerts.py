"""Alerts: one `low` event each time that credits run low, delivered by the call that causes it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from budgetguard import Event, Guard
from budgetguard.testing import FakeProvider, HandClock

if TYPE_CHECKING:
    from decimal import Decimal


class Alerts:
    """What was available at each `low`."""

    def __init__(self) -> None:
        self.told: list[Decimal | None] = []

    def __call__(self, event: Event) -> None:
        if event.kind == "low":
            self.told.append(event.available)


@pytest.fixture
def alerts() -> Alerts:
    """The events that were delivered."""
    return Alerts()


@pytest.fixture
def provider(clock: HandClock) -> FakeProvider:
    """An account with 60 credits."""
    del clock
    return FakeProvider(60)


@pytest.fixture
def guard(provider: FakeProvider, alerts: Alerts) -> Guard:
    """A guard that alerts below 20 credits."""
    return Guard(provider, alert_below=20, on_event=alerts)


def refresh(clock: HandClock, guard: Guard, credits: int) -> None:
    """A balance of so many credits arrives."""
    guard.provider.credits = credits
    clock.advance(6)
    guard.balance(max_age=0)


def block(guard: Guard) -> None:
    with guard.require_credits(min=50) as hold:
        hold.release()


def decorated(guard: Guard) -> None:
    guard.require_credits(min=50, actual=lambda _: 0)(lambda: None)()


def acquired(guard: Guard) -> None:
    guard.acquire(50).release()


@pytest.mark.parametrize("call", [block, decorated, acquired])
def test_a_hold_that_comes_and_goes_alerts_once(
    clock: HandClock, guard: Guard, alerts: Alerts, call: Callable[[Guard], None]
) -> None:
    """An untouched balance is no news, however often it is asked for."""
    for _ in range(5):
        call(guard)
        refresh(clock, guard, 60)
    assert alerts.told == [10]


@pytest.mark.anyio
async def test_a_task_whose_hold_comes_and_goes_alerts_once(
    clock: HandClock, guard: Guard, alerts: Alerts
) -> None:
    """Likewise where the balance is awaited."""
    for _ in range(5):
        async with guard.require_credits(min=50) as hold:
            hold.release()
        clock.advance(6)
        await guard.abalance(max_age=0)
    assert guard.provider.requests == 6
    assert alerts.told == [10]


@pytest.mark.parametrize(
    ("balances", "told"),
    [
        ([60, 60], 1),
        ([59, 60], 2),
        ([10, 15], 1),
        ([10, 20], 1),
        ([10, 21], 2),
        ([10, 21, 30], 2),
        ([10, 60, 60], 2),
        ([10, 5, 15, 20, 60], 2),
    ],
    ids=str,
)
def test_a_balance_above_the_mark_and_higher_than_before_arms_again(
    clock: HandClock, guard: Guard, alerts: Alerts, balances: list[int], told: int
) -> None:
    """Not one that is only above it, nor one that only rose."""
    guard.acquire(50).release()
    assert alerts.told == [10]
    for credits in balances:
        refresh(clock, guard, credits)
    refresh(clock, guard, 1)
    assert len(alerts.told) == told


def test_what_the_floor_keeps_is_not_above_the_mark(
    clock: HandClock, provider: FakeProvider, alerts: Alerts
) -> None:
    """What is above it has to be available, if nothing were held."""
    guard = Guard(provider, floor=30, alert_below=20, on_event=alerts)
    refresh(clock, guard, 40)
    refresh(clock, guard, 45)
    assert alerts.told == [10]
    refresh(clock, guard, 51)
    refresh(clock, guard, 49)
    assert alerts.told == [10, 19]


def test_a_top_up_that_ends_an_exhaustion_arms_again(
    clock: HandClock, guard: Guard, alerts: Alerts
) -> None:
    """The provider's own refusal is a balance of zero, whatever was reported before."""
    guard.balance()
    guard.mark_exhausted()
    assert alerts.told == [0]
    refresh(clock, guard, 80)
    guard.acquire(70).release()
    assert alerts.told == [0, 10]


def test_each_guard_alerts_at_its_own_mark(
    clock: HandClock, guard: Guard, provider: FakeProvider, alerts: Alerts
) -> None:
    """One below, one not yet."""
    others = Alerts()
    other = Guard(provider, alert_below=45, on_event=others)
    clock.advance(0)
    guard.acquire(20).release()
    assert (alerts.told, others.told) == ([], [40])
    other.acquire(41).release()
    assert (alerts.told, others.told) == ([19], [40])


def spend_fast(guard: Guard, cost: int) -> Callable[[], Any]:
    """A function of constant cost, called until it goes the fast path."""
    call = guard.require_credits(min=cost)(lambda: None)
    call()
    call()
    return call


@pytest.mark.parametrize("floor", [0, 3])
@pytest.mark.parametrize("extra", [0, 7])
@pytest.mark.parametrize("joins_late", [False, True])
def test_what_another_guard_spends_on_the_fast_path_is_told_at_once(
    provider: FakeProvider, alerts: Alerts, floor: int, extra: int, joins_late: bool
) -> None:
    """The call that leaves too little is heard by every guard, also one that was made after it."""
    terms: dict[str, Any] = {"alert_below": 20, "floor": floor, "on_event": alerts}
    provider.extra_credits = extra
    watching = None if joins_late else Guard(provider, **terms)
    provider.extra_credits = 0
    call = spend_fast(Guard(provider), 5)
    if joins_late:
        provider.extra_credits = extra
        watching = Guard(provider, **terms)
    assert watching is not None
    # What is available is not asked for: that alone would tell of it.
    left = 60 - 10 + extra - floor
    while left - 5 >= 20:
        call()
        left -= 5
    assert alerts.told == []
    call()
    assert alerts.told == [left - 5]


@pytest.mark.anyio
async def test_what_tasks_spend_on_the_fast_path_is_told_at_once(
    provider: FakeProvider, alerts: Alerts
) -> None:
    """Coroutine functions have a fast path of their own."""
    watching = Guard(provider, alert_below=20, on_event=alerts)

    @Guard(provider).require_credits(min=10)
    async def call() -> None: ...

    for _ in range(4):
        await call()
    assert alerts.told == []
    await call()
    assert alerts.told == [10]
    assert watching.available == 10
