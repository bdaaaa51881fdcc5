"""What is available: holds, debits, kept holds, floor, extra credits, cost limits, exhaustion."""

from decimal import Decimal

import anyio
import pytest
from staging import Slow, refreshing

from budgetguard import ConcurrencyLimit, Guard, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock

TICK = 0.001
"""Two refreshes at one and the same moment are one, so a little time passes before each."""


def snapshot(guard: Guard, clock: HandClock) -> None:
    """Have the guard ask for the balance now."""
    clock.advance(TICK)
    guard.balance(max_age=0)


def freed_after(seconds: float, guard: Guard, clock: HandClock, counted: int, freed: int) -> None:
    """See something counted by a refresh just before `seconds` are over, and not by one right then."""
    clock.advance(seconds - 0.1)
    snapshot(guard, clock)
    assert guard.available == counted
    clock.advance(0.1)
    snapshot(guard, clock)
    assert guard.available == freed


@pytest.mark.usefixtures("clock")
def test_nothing_is_known_before_the_first_refresh() -> None:
    """`available` is None until there is a balance, and asks for none itself."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    assert guard.available is None
    assert provider.requests == 0


@pytest.mark.usefixtures("clock")
def test_an_open_hold_is_not_available_to_others() -> None:
    """What one call may cost cannot be promised twice."""
    guard = Guard(FakeProvider(100))
    first = guard.acquire(60)
    assert guard.available == 40
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(50)
    assert (refused.value.held, refused.value.available) == (60, 40)
    first.release()
    assert guard.available == 100


def test_a_settled_hold_counts_until_a_refresh_sent_lag_later(clock: HandClock) -> None:
    """A balance asked for 4.9 of 5 seconds after the end may not show the cost yet."""
    provider = FakeProvider(100, lag=5)
    guard = Guard(provider)
    with guard.require_credits(min=60):
        pass
    clock.advance(4.9)
    snapshot(guard, clock)
    assert guard.available == 40
    provider.charge(60)
    clock.advance(0.1)
    snapshot(guard, clock)
    assert guard.available == 40
    assert provider.requests == 3


def test_a_debit_is_freed_by_a_refresh_and_not_by_time(clock: HandClock) -> None:
    """However long it waits, only a balance that was asked for late enough shows the truth."""
    guard = Guard(FakeProvider(100, lag=5))
    guard.acquire(60).settle()
    clock.advance(299)
    assert guard.available == 40


@pytest.mark.parametrize(
    ("of_guard", "of_call", "counts_for"),
    [(None, None, 5), (20, None, 20), (20, 0, 0), (None, 30, 30)],
    ids=["provider", "guard", "call over guard", "call over provider"],
)
@pytest.mark.parametrize("way", ["hold", "slow path", "fast path"])
def test_lag_is_the_calls_else_the_guards_else_the_providers(
    clock: HandClock, way: str, of_guard: float | None, of_call: float | None, counts_for: float
) -> None:
    """The nearest that was given counts, for holds and for decorated calls alike."""
    guard = Guard(FakeProvider(1000, lag=5), lag=of_guard)
    call = guard.require_credits(min=10, lag=of_call)(lambda: None)
    if way == "hold":
        guard.acquire(10, lag=of_call).settle()
    else:
        call()
    if way == "fast path":
        clock.advance(counts_for)
        snapshot(guard, clock)
        call()
    if counts_for:
        clock.advance(counts_for - 0.1)
        snapshot(guard, clock)
        assert guard.available == 990
        clock.advance(0.1)
    snapshot(guard, clock)
    assert guard.available == 1000


def test_a_kept_hold_counts_for_linger_and_lag(clock: HandClock) -> None:
    """The provider may go on for `linger`, and post that charge `lag` later."""
    guard = Guard(FakeProvider(100, lag=5, linger=300))
    guard.acquire(60).keep()
    freed_after(305, guard, clock, counted=40, freed=100)


@pytest.mark.parametrize(
    ("of_guard", "of_call", "counts_for"),
    [(None, None, 105), (20, None, 25), (20, 0, 5), (None, 30, 35)],
    ids=["provider", "guard", "call over guard", "call over provider"],
)
def test_linger_is_the_calls_else_the_guards_else_the_providers(
    clock: HandClock, of_guard: float | None, of_call: float | None, counts_for: float
) -> None:
    """The nearest that was given counts."""
    guard = Guard(FakeProvider(100, lag=5, linger=100), linger=of_guard)

    @guard.require_credits(min=60, linger=of_call)
    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    freed_after(counts_for, guard, clock, counted=40, freed=100)


def test_a_settled_hold_does_not_count_for_linger(clock: HandClock) -> None:
    """A call that returned left nothing running at the provider."""
    guard = Guard(FakeProvider(100, lag=5, linger=300))
    guard.acquire(60).settle()
    clock.advance(5)
    snapshot(guard, clock)
    assert guard.available == 100


def test_the_refresh_that_shows_a_kept_hold_is_scheduled(clock: HandClock) -> None:
    """Without any caller, the guard refreshes as soon as the balance must show it, and only then."""
    provider = FakeProvider(100, lag=5, linger=300)
    guard = Guard(provider)
    guard.acquire(60).keep()
    clock.advance(304.9)
    assert (provider.requests, guard.available) == (1, 40)
    clock.advance(0.1)
    assert (provider.requests, guard.available) == (2, 100)
    clock.advance(10_000)
    assert provider.requests == 2


def test_the_scheduled_refresh_is_tried_again_when_it_fails(clock: HandClock) -> None:
    """A kept hold is not forgotten because the provider is down when its time comes."""
    provider = FakeProvider(100, lag=0, linger=30)
    guard = Guard(provider)
    guard.acquire(60).keep()
    provider.failure = ConnectionError("down")
    clock.advance(30)
    assert (provider.requests, guard.available) == (2, 40)
    provider.failure = None
    clock.advance(60)
    assert (provider.requests, guard.available) == (3, 100)


@pytest.mark.parametrize("which", ["another guard", "the guard that kept it"])
def test_the_refresh_that_shows_a_kept_hold_needs_only_one_guard_left(
    clock: HandClock, which: str
) -> None:
    """Of two guards of one account, either may be gone when the time comes."""
    provider = FakeProvider(100, linger=30)
    guards = {"another guard": Guard(provider), "the guard that kept it": Guard(provider)}
    guards["the guard that kept it"].acquire(60).keep()
    guards["another guard"].acquire(1).release()
    del guards[which]
    (left,) = guards.values()
    clock.advance(30)
    assert (provider.requests, left.available) == (2, 100)


def test_a_kept_holds_slots_stay_taken(clock: HandClock) -> None:
    """A session whose call was given up may still be open at the provider."""
    guard = Guard(FakeProvider(100, lag=5, linger=300, max_concurrency=2))
    guard.acquire(10, slots=2).keep()
    with pytest.raises(ConcurrencyLimit) as refused:
        guard.acquire(1, slots=1)
    assert (refused.value.limit, refused.value.in_use) == (2, 2)
    clock.advance(305)
    guard.acquire(1, slots=2)


@pytest.mark.parametrize("end", ["settle", "release"])
@pytest.mark.usefixtures("clock")
def test_an_ended_holds_slots_are_free_at_once(end: str) -> None:
    """A session that has ended is not one any more, whatever its cost."""
    guard = Guard(FakeProvider(100, lag=5, max_concurrency=2))
    hold = guard.acquire(10, slots=2)
    getattr(hold, end)()
    guard.acquire(1, slots=2)


def test_a_refresh_sent_before_a_call_ended_does_not_free_its_debit(clock: HandClock) -> None:
    """What counts is when a balance was asked for, not when it came."""
    provider = Slow(100)
    guard = Guard(provider)
    hold = guard.acquire(60)
    provider.takes = 3
    refreshing(clock, guard)
    clock.advance(1)
    hold.settle()
    provider.charge(60)
    clock.advance(2)
    assert guard.available == 40
    provider.takes = 0
    clock.advance(1)
    snapshot(guard, clock)
    assert guard.available == 40


def test_a_late_reply_does_not_overwrite_what_is_known_since(clock: HandClock) -> None:
    """An answer to a question asked before the provider refused changes nothing."""
    provider = Slow(100)
    guard = Guard(provider)
    guard.balance()
    provider.top_up(50)
    provider.takes = 3
    refreshing(clock, guard)
    clock.advance(1)
    provider.credits = 0
    guard.mark_exhausted()
    clock.advance(2)
    assert guard.available == 0


def test_a_wall_clock_that_jumps_frees_no_debit(clock: HandClock) -> None:
    """`lag` and `linger` go by the clock that never jumps."""
    provider = FakeProvider(100, lag=5, linger=300)
    guard = Guard(provider)
    guard.acquire(30).settle()
    guard.acquire(30).keep()
    clock.advance(1)
    clock.set_wall(clock.wall() + 100_000)
    snapshot(guard, clock)
    assert provider.requests == 2
    assert guard.available == 40
    clock.set_wall(0)
    clock.advance(1)
    snapshot(guard, clock)
    assert guard.available == 40


@pytest.mark.usefixtures("clock")
def test_the_floor_is_promised_to_nobody() -> None:
    """A call that would touch it is refused, with the floor among the figures."""
    guard = Guard(FakeProvider(100), floor=30)
    guard.balance()
    assert guard.available == 70
    guard.acquire(70).release()
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire("70.000001")
    assert (refused.value.floor, refused.value.available) == (30, 70)
    assert not refused.value.retryable


@pytest.mark.usefixtures("clock")
def test_the_floor_holds_for_repeated_decorated_calls() -> None:
    """The way that repeated calls take knows the floor as well."""
    provider = FakeProvider(100)
    call = Guard(provider, floor=30).require_credits(min=10)(lambda: provider.charge(10))
    for _ in range(7):
        call()
    with pytest.raises(InsufficientCredits):
        call()
    assert provider.credits == 30


@pytest.mark.usefixtures("clock")
def test_extra_credits_come_on_top_of_the_reported_balance() -> None:
    """What can be spent beyond the endpoint's figure is promised, for repeated calls too."""
    guard = Guard(FakeProvider(20, extra_credits=15))
    guard.balance()
    assert guard.available == 35
    call = guard.require_credits(min=5)(lambda: None)
    for _ in range(7):
        call()
    with pytest.raises(InsufficientCredits) as refused:
        call()
    assert (refused.value.balance, refused.value.extra, refused.value.pending) == (20, 15, 35)


@pytest.mark.usefixtures("clock")
def test_two_guards_of_one_account_each_have_their_own_floor() -> None:
    """The floor is the guard's, the credits are the account's."""
    provider = FakeProvider(100)
    careful, bold = Guard(provider, floor=50), Guard(provider)
    bold.acquire(30)
    assert (careful.available, bold.available) == (20, 70)


@pytest.mark.parametrize(
    ("credits", "limit", "used", "available"),
    [(1000, 100, 40, 60), (50, 100, 40, 50), (1000, 100, 150, -50), (None, 100, 40, 60)],
    ids=["limit is smaller", "credits are smaller", "limit is passed", "unlimited credits"],
)
@pytest.mark.usefixtures("clock")
def test_with_a_cost_limit_and_what_was_used_the_smaller_counts(
    credits: int | None, limit: int, used: int, available: int
) -> None:
    """`cost_limit - credits_used` bounds what the credits allow."""
    guard = Guard(FakeProvider(credits, cost_limit=limit, credits_used=used))
    guard.balance()
    assert guard.available == available
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(available + 1 if available > 0 else 1)
    assert refused.value.balance == available
    if available > 0:
        guard.acquire(available)


@pytest.mark.usefixtures("clock")
def test_extra_credits_do_not_lift_a_cost_limit() -> None:
    """They are added to the credits, not to what the limit leaves."""
    guard = Guard(FakeProvider(10, cost_limit=100, credits_used=70, extra_credits=500))
    call = guard.require_credits(min=10)(lambda: None)
    for _ in range(3):
        call()
    with pytest.raises(InsufficientCredits):
        call()


@pytest.mark.usefixtures("clock")
def test_a_cost_limit_alone_bounds_each_call() -> None:
    """No single call may cost more than it, while several together may."""
    guard = Guard(FakeProvider(1000, cost_limit=50))
    assert [guard.acquire(50).amount for _ in range(3)] == [50, 50, 50]
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(51)
    assert refused.value.available == 50
    assert not refused.value.retryable


@pytest.mark.usefixtures("clock")
def test_a_cost_limit_alone_bounds_a_call_together_with_its_extensions() -> None:
    """What a call asks for later is part of what it costs."""
    hold = Guard(FakeProvider(1000, cost_limit=50)).acquire(40)
    with pytest.raises(InsufficientCredits) as refused:
        hold.extend(11)
    assert (refused.value.needed, refused.value.available) == (51, 50)
    assert (hold.state, hold.amount, refused.value.retryable) == ("open", 40, False)
    hold.extend(10)
    assert hold.amount == 50


def test_a_cost_limit_alone_bounds_repeated_decorated_calls(clock: HandClock) -> None:
    """A function that went through is refused once the limit is below its cost."""
    provider = FakeProvider(1000, cost_limit=50)
    guard = Guard(provider)
    assert guard.require_credits(min=50)(lambda: "ran")() == "ran"
    call = guard.require_credits(min=51)(lambda: "ran")
    with pytest.raises(InsufficientCredits):
        call()
    provider.cost_limit = None
    snapshot(guard, clock)
    assert [call(), call()] == ["ran", "ran"]
    provider.cost_limit = 50
    snapshot(guard, clock)
    with pytest.raises(InsufficientCredits):
        call()


@pytest.mark.usefixtures("clock")
def test_an_unlimited_account_admits_everything() -> None:
    """`Balance(credits=None)` has no bound, and `available` says so."""
    guard = Guard(FakeProvider(None))
    guard.acquire(10**12)
    guard.acquire(10**12)
    assert guard.available == Decimal("Infinity")


def test_what_a_call_cost_beyond_its_hold_is_gone(clock: HandClock) -> None:
    """An overrun is recorded in full, and may leave less than nothing."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.acquire(60).settle(130)
    assert guard.available == -30
    clock.advance(1)
    with pytest.raises(InsufficientCredits):
        guard.require_credits(min=1)(lambda: None)()


def test_a_call_charged_as_it_runs_counts_twice_until_it_says_so(clock: HandClock) -> None:
    """The balance shows it and the hold does too; `charged` puts that right."""
    provider = FakeProvider(100, lag=5)
    guard = Guard(provider, sole_spender=False)
    hold = guard.acquire(50)
    provider.charge(20)
    clock.advance(5)
    snapshot(guard, clock)
    assert guard.available == 30
    hold.charged(20)
    assert guard.available == 30
    freed_after(5, guard, clock, counted=30, freed=50)
    provider.charge(15)
    hold.settle(35)
    assert guard.available == 65
    clock.advance(5)
    snapshot(guard, clock)
    assert guard.available == 65


def test_exhaustion_counts_as_a_balance_of_zero_and_starts_a_refresh(clock: HandClock) -> None:
    """The provider knows better than the last balance."""
    provider = FakeProvider(42, lag=5)
    guard = Guard(provider)
    guard.balance()
    clock.advance(6)
    guard.mark_exhausted()
    assert guard.available == 0
    clock.advance(0)
    assert provider.requests == 2


@pytest.mark.parametrize("reported", [42, 41], ids=["equal", "lower"])
def test_exhaustion_is_not_ended_by_an_equal_or_lower_balance(
    clock: HandClock, reported: int
) -> None:
    """The same figure that let the refused call through proves nothing, until `lag` has passed."""
    provider = FakeProvider(42, lag=5)
    guard = Guard(provider)
    guard.balance()
    clock.advance(6)
    guard.mark_exhausted()
    provider.credits = reported
    clock.advance(4.9)
    snapshot(guard, clock)
    assert guard.available == 0
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(1)
    assert refused.value.balance == 0
    clock.advance(0.1)
    snapshot(guard, clock)
    assert guard.available == reported


def test_exhaustion_is_ended_by_a_higher_balance(clock: HandClock) -> None:
    """Somebody topped up."""
    provider = FakeProvider(42, lag=5)
    guard = Guard(provider)
    guard.balance()
    clock.advance(6)
    provider.top_up(1)
    guard.mark_exhausted()
    clock.advance(0.1)
    snapshot(guard, clock)
    assert guard.available == 43


@pytest.mark.parametrize("extra", [0, 20])
def test_exhaustion_stops_repeated_decorated_calls_at_once(clock: HandClock, extra: int) -> None:
    """A function that was let through on the cached balance is not any more."""
    provider = FakeProvider(42, lag=5, extra_credits=extra)
    guard = Guard(provider)
    call = guard.require_credits(min=1)(lambda: None)
    call()
    call()
    guard.mark_exhausted()
    clock.advance(1)
    with pytest.raises(InsufficientCredits):
        call()


def test_marking_again_does_not_lower_the_bar(clock: HandClock) -> None:
    """A second refusal by the provider keeps the balance that the first one was measured by."""
    provider = FakeProvider(42, lag=5)
    guard = Guard(provider)
    guard.balance()
    guard.mark_exhausted()
    clock.advance(1)
    guard.mark_exhausted()
    clock.advance(1)
    snapshot(guard, clock)
    assert guard.available == 0


def test_a_refresh_that_hangs_changes_nothing_that_is_known(clock: HandClock) -> None:
    """Holds and debits go on counting as they did."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.acquire(60).settle()
    provider.on_fetch = anyio.sleep_forever
    clock.advance(301)
    guard.acquire(1).release()
    clock.advance(20)
    assert guard.available == 40
