"""When a guard refreshes: by age, near exhaustion, never twice at once, never too often."""

from typing import Any

import anyio
import pytest
from staging import Caller, Slow, refreshing, under_way, until, waiting

from budgetguard import Balance, BalanceUnavailable, Guard, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock


def test_nothing_is_asked_before_the_first_call(clock: HandClock) -> None:
    """Making a guard and decorating with it starts nothing."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.require_credits(min=1)(lambda: None)
    clock.advance(10_000)
    assert provider.requests == 0


def test_a_young_balance_is_used_as_it_is(clock: HandClock) -> None:
    """Below `fresh_for`, there is no refresh."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    call = guard.require_credits(min=1, cost=0)(lambda: None)
    call()
    clock.advance(299.9)
    call()
    guard.acquire(1).release()
    clock.advance(0)
    assert provider.requests == 1


def test_behind_a_stale_balance_one_refresh_runs(clock: HandClock) -> None:
    """The callers go ahead on the old figure, and the next ones see the new."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    call = guard.require_credits(min=1, cost=0)(lambda: None)
    call()
    provider.credits = 70
    clock.advance(300)
    assert provider.requests == 1
    for _ in range(5):
        call()
    clock.advance(0)
    assert provider.requests == 2
    assert guard.available == 70


def test_past_stale_for_callers_wait_for_a_refresh(clock: HandClock) -> None:
    """A balance older than that decides nothing."""
    provider = Slow(100)
    guard = Guard(provider)
    guard.balance()
    provider.takes = 2
    clock.advance(600.1)
    assert guard.available is None
    caller = Caller(lambda: guard.acquire(1).settle())
    under_way(clock, provider, 2)
    clock.advance(1)
    until(lambda: waiting(guard) == 1)
    clock.advance(1)
    assert caller.outcome() is None
    assert provider.requests == 2


def test_a_suspend_ages_a_balance(clock: HandClock) -> None:
    """A machine that slept for 400 seconds has a stale balance, and after 700 none."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    call = guard.require_credits(min=1, cost=0)(lambda: None)
    call()
    call()
    clock.suspend(400)
    call()
    clock.advance(0)
    assert provider.requests == 2
    clock.suspend(700)
    clock.advance(0.1)
    assert guard.available is None
    provider.failure = ConnectionError("down")
    with pytest.raises(BalanceUnavailable):
        call()


def test_a_wall_clock_set_back_does_not_make_a_balance_younger(clock: HandClock) -> None:
    """The larger of both clocks' differences is the age."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    clock.set_wall(0)
    clock.advance(601)
    assert guard.available is None


def test_near_exhaustion_a_call_starts_a_refresh_behind_it(clock: HandClock) -> None:
    """A call that leaves less than its own cost does not wait for it either."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    clock.advance(5)
    roomy = guard.acquire(50)
    clock.advance(0)
    assert provider.requests == 1
    clock.advance(5)
    narrow = guard.acquire(26)
    assert guard.available == 24
    clock.advance(0)
    assert (roomy.state, narrow.state) == ("open", "open")
    assert provider.requests == 2


def test_repeated_calls_near_exhaustion_refresh_too(clock: HandClock) -> None:
    """Repeated calls on the fast path notice near exhaustion, too."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    call = guard.require_credits(min=20)(lambda: None)
    for _ in range(4):
        call()
    clock.advance(5)
    assert provider.requests == 1
    call()
    clock.advance(0)
    assert provider.requests == 2


def test_refreshes_near_exhaustion_keep_recheck_after_apart(clock: HandClock) -> None:
    """Thirty seconds of calls near exhaustion are at most one refresh per five seconds."""
    provider = FakeProvider(10)
    guard = Guard(provider, recheck_after=5)
    call = guard.require_credits(min=10, cost=6)(lambda: None)
    guard.acquire(0, cost=0).release()
    for _ in range(30):
        hold = guard.acquire(10, cost=6)
        hold.release()
        clock.advance(1)
    assert provider.requests == 6
    call()


def test_refreshes_for_refused_callers_keep_recheck_after_apart(clock: HandClock) -> None:
    """A hundred refusals in thirty seconds are at most one refresh per five seconds."""
    provider = FakeProvider(10)
    guard = Guard(provider, recheck_after=5)
    for _ in range(120):
        with pytest.raises(InsufficientCredits):
            guard.acquire(50)
        clock.advance(0.25)
    assert provider.requests == 6


def test_exhaustion_marked_again_and_again_keeps_recheck_after(clock: HandClock) -> None:
    """Each mark starts a refresh, but no sooner than five seconds after the last."""
    provider = FakeProvider(100)
    guard = Guard(provider, recheck_after=5)
    guard.balance()
    for _ in range(20):
        clock.advance(0.5)
        guard.mark_exhausted()
    clock.advance(0)
    assert provider.requests == 3


def test_extensions_keep_recheck_after_apart(clock: HandClock) -> None:
    """Each extension starts a refresh, but no sooner than five seconds after the last."""
    provider = FakeProvider(1000)
    guard = Guard(provider, recheck_after=5)
    hold = guard.acquire(1)
    for _ in range(20):
        clock.advance(0.5)
        hold.extend(1)
    clock.advance(0)
    assert provider.requests == 3


def test_refreshes_for_kept_holds_keep_recheck_after_apart(clock: HandClock) -> None:
    """Twenty calls that failed half a second apart do not each get a refresh of their own."""
    provider = FakeProvider(100, linger=30)
    guard = Guard(provider, recheck_after=5)
    for _ in range(20):
        guard.acquire(1).keep()
        clock.advance(0.5)
    assert provider.requests == 1
    for _ in range(70):
        clock.advance(0.5)
    assert (provider.requests, guard.available) == (4, 100)


def test_there_is_never_more_than_one_refresh_under_way(clock: HandClock) -> None:
    """Whatever asks for one while one is under way gets in line behind it."""
    provider = Slow(100)
    flying = most = 0

    async def fly() -> None:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await anyio.sleep(3)
        flying -= 1

    guard = Guard(provider, recheck_after=1)
    guard.balance()
    provider.on_fetch = fly
    refreshing(clock, guard)
    guard.mark_exhausted()
    clock.advance(2)
    assert provider.requests == 2
    clock.advance(4)
    readers = [Caller(lambda: guard.balance(max_age=0)) for _ in range(5)]
    callers = [Caller(lambda: guard.acquire(200)) for _ in range(5)]
    until(lambda: waiting(guard) == 5)
    for _ in range(20):
        clock.advance(1)
    assert {type(caller.outcome()) for caller in callers} == {InsufficientCredits}
    assert {type(caller.outcome()) for caller in readers} == {Balance}
    assert most == 1
    assert provider.requests >= 3


def test_a_failed_refresh_disturbs_nobody_who_has_a_usable_balance(clock: HandClock) -> None:
    """Calls go on until the balance is too old, and fail from then on."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    call = guard.require_credits(min=1, cost=0)(lambda: "ran")
    call()
    provider.failure = ConnectionError("down")
    clock.advance(301)
    for _ in range(3):
        assert call() == "ran"
        clock.advance(99)
    clock.advance(3)
    with pytest.raises(BalanceUnavailable):
        call()


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        ({"fresh_for": 10, "stale_for": 5}, ValueError),
        ({"fresh_for": -1}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"recheck_after": float("nan")}, ValueError),
        ({"timeout": True}, TypeError),
        ({"floor": -1}, ValueError),
        ({"floor": float("nan")}, ValueError),
        ({"if_unknown": "maybe"}, ValueError),
        ({"mode": "lenient"}, ValueError),
        ({"on_event": 3}, TypeError),
        ({"alert_below": True}, TypeError),
    ],
    ids=str,
)
@pytest.mark.usefixtures("clock")
def test_terms_that_cannot_be_are_refused(
    terms: dict[str, object], problem: type[Exception]
) -> None:
    """A guard says so when it is made, not when it is first needed."""
    with pytest.raises(problem):
        Guard(FakeProvider(1), **terms)  # type: ignore[arg-type]


def test_events_are_told_to_a_plain_function() -> None:
    """What is async would be called and never awaited."""
    listener: Any = anyio.sleep
    with pytest.raises(TypeError, match="would never be run"):
        Guard(FakeProvider(100), on_event=listener)


def test_the_fast_path_ends_as_fresh_for_does(clock: HandClock) -> None:
    """A decorated call of constant cost starts the refresh behind it at that age, not after it."""
    provider = FakeProvider(1000)
    guard = Guard(provider, fresh_for=300)
    call = guard.require_credits(min=1)(lambda: None)
    call()
    call()
    clock.advance(300)
    call()
    until(lambda: provider.requests == 2)
