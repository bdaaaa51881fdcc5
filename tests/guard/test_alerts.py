"""Alerts: one `low` event each time that credits run low, delivered by the call that causes it."""

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from budgetguard import Event, Guard
from budgetguard._engine.account import Account
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


def reasons(events: list[Event]) -> list[str | None]:
    """What each `low` says."""
    return [event.reason for event in events if event.kind == "low"]


def test_several_marks_are_told_of_one_by_one(clock: HandClock, provider: FakeProvider) -> None:
    """By the call that crosses each, with the figures of that moment."""
    events: list[Event] = []
    guard = Guard(provider, alert_below=[20, "50%"], on_event=events.append)
    refresh(clock, guard, 60)
    call = spend_fast(guard, 5)
    for _ in range(4):
        call()
    assert reasons(events) == []
    call()
    assert reasons(events) == ["less than 50% of the last top-up (30 credits) is available"]
    call()
    assert reasons(events)[1:] == []
    call()
    assert reasons(events)[1:] == ["less than 20 credits are available"]
    low = [event for event in events if event.kind == "low"]
    assert [(event.credits, event.available) for event in low] == [(60, 25), (60, 15)]
    refresh(clock, guard, 16)
    guard.acquire(16).settle()
    assert len(reasons(events)) == 2


def test_a_top_up_raises_a_share_for_calls_on_the_fast_path(
    clock: HandClock, provider: FakeProvider
) -> None:
    """Also for those of other guards."""
    events: list[Event] = []
    watching = Guard(provider, alert_below="50%", on_event=events.append)
    call = spend_fast(Guard(provider), 5)
    refresh(clock, watching, 200)
    for _ in range(20):
        call()
    assert reasons(events) == []
    call()
    assert reasons(events) == ["less than 50% of the last top-up (100 credits) is available"]


def test_below_a_mark_calls_are_on_the_fast_path_again(
    clock: HandClock, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was told there is nothing to look out for until the next top-up."""
    alerts = Alerts()
    guard = Guard(provider, alert_below=[2, 50], on_event=alerts)
    clock.advance(0)
    call = spend_fast(guard, 5)
    call()
    assert alerts.told == [45]
    call()
    decided: list[object] = []
    ask = Account.ask
    monkeypatch.setattr(
        Account, "ask", lambda self, call: (decided.append(call), ask(self, call))[1]
    )
    for _ in range(3):
        call()
    assert decided == []
    refresh(clock, guard, 61)
    for _ in range(3):
        call()
    assert alerts.told == [45, 46]


def test_a_runway_is_told_of_when_a_balance_shows_it(clock: HandClock) -> None:
    """12 credits an hour, so a day takes 288; the log names the mark where nobody listens."""
    provider = FakeProvider(300)
    events: list[Event] = []
    guard = Guard(provider, alert_below=["24h", 10], on_event=events.append)
    guard.balance()
    for _ in range(20):
        guard.acquire(1).settle()
        provider.credits -= 1
        clock.advance(300)
        guard.balance(max_age=0)
    assert reasons(events) == [
        "less than 24 h of spending at the present rate (288 credits) is available"
    ]
    (low,) = [event for event in events if event.kind == "low"]
    assert low.available == 287


def test_a_mark_is_named_in_the_log(
    clock: HandClock, provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody listens."""
    guard = Guard(provider, alert_below=["50%", "24h", 20])
    clock.advance(0)
    hold = guard.acquire(31)
    other = guard.acquire(15)
    hold.release()
    other.release()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "Less than 50% of the last top-up (30 credits) is available at fake: 29",
        "Less than 20 credits are available at fake: 14",
    ]


def test_the_mark_of_a_guard_that_is_gone_is_forgotten(
    clock: HandClock, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps nobody's calls from the fast path."""
    watching: Guard | None = Guard(provider, alert_below=59)
    guard = Guard(provider)
    refresh(clock, guard, 60)
    assert watching is not None
    del watching
    gc.collect()
    refresh(clock, guard, 58)
    call = spend_fast(guard, 1)
    decided: list[object] = []
    ask = Account.ask
    monkeypatch.setattr(
        Account, "ask", lambda self, call: (decided.append(call), ask(self, call))[1]
    )
    call()
    assert decided == []
