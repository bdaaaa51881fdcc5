"""The figures, `retryable` and `retry_after` of each refusal."""

import copy
import pickle
from collections.abc import Callable

import pytest

from budgetguard import (
    BalanceUnavailable,
    BudgetGuardError,
    ConcurrencyLimit,
    Guard,
    HoldClosed,
    InsufficientCredits,
)
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard of 100 credits and three slots."""
    del clock
    guard = Guard(FakeProvider(100, lag=7, linger=300, max_concurrency=3), floor=10)
    guard.balance()
    return guard


def refused(guard: Guard, amount: float) -> InsufficientCredits:
    """The refusal of a call that needs `amount`."""
    with pytest.raises(InsufficientCredits) as error:
        guard.acquire(amount, name="spec")
    return error.value


def test_the_figures_of_a_refusal_add_up(clock: HandClock, guard: Guard) -> None:
    """Every part of the formula is there, and the message names it."""
    guard.acquire(20).settle()
    held = guard.acquire(15)
    guard.acquire(5).keep()
    clock.advance(2)
    error = refused(guard, 60)
    assert (error.operation, error.provider, error.needed) == ("spec", "fake", 60)
    assert (error.balance, error.held, error.pending, error.floor) == (100, 15, 25, 10)
    assert error.available == 50
    assert error.balance - error.held - error.pending - error.floor == error.available
    assert (error.running, error.age, error.status_code) == (1, 2, 402)
    assert str(error) == (
        "spec needs 60 credits, and 50 are available: fake reports 100, 15 are held by 1 running "
        "call, 20 are counted for calls that just finished, 5 are unresolved for up to 305 s because "
        "the outcome of a call is not known, the floor reserves 10 (as of 2 s ago). Try again in 3 s."
    )
    held.release()


def test_a_shortfall_of_the_account_itself_is_not_worth_a_retry(guard: Guard) -> None:
    """Only a top-up helps."""
    error = refused(guard, 91)
    assert (error.retryable, error.retry_after) == (False, None)


def test_a_shortfall_of_open_holds_is_worth_a_retry(clock: HandClock, guard: Guard) -> None:
    """They may end at any time, so the next refresh is the bound."""
    hold = guard.acquire(50)
    clock.advance(2)
    error = refused(guard, 50)
    assert (error.retryable, error.retry_after) == (True, 3)
    hold.release()


def test_a_shortfall_of_young_debits_is_worth_a_retry_when_they_can_have_left(
    clock: HandClock, guard: Guard
) -> None:
    """Not before `lag` is over; and then it works."""
    guard.acquire(50).settle()
    clock.advance(1)
    error = refused(guard, 50)
    assert error.retryable
    assert error.retry_after == 6
    clock.advance(6)
    guard.acquire(50).release()


def test_a_shortfall_of_kept_holds_is_worth_a_retry_when_they_can_have_left(
    clock: HandClock, guard: Guard
) -> None:
    """Not before `linger` and `lag` are over; and then it works."""
    guard.acquire(50).keep()
    clock.advance(1)
    error = refused(guard, 50)
    assert error.retryable
    assert error.retry_after == 306
    clock.advance(306)
    guard.acquire(50).release()


def test_where_no_single_debit_suffices_enough_have_to_leave(
    clock: HandClock, guard: Guard
) -> None:
    """The first that leaves is not the moment to come again; that is when enough have, and works."""
    guard.acquire(20).settle()
    clock.advance(1)
    guard.acquire(20).settle()
    clock.advance(1)
    guard.acquire(30).keep()
    assert refused(guard, 40).retry_after == 5
    assert refused(guard, 41).retry_after == 6
    error = refused(guard, 70)
    assert error.retry_after == 307
    clock.advance(6)
    assert refused(guard, 70).retry_after == 301
    clock.advance(301)
    guard.acquire(70).release()


def test_the_limit_on_single_calls_is_named_however_much_is_held(clock: HandClock) -> None:
    """The limit is what the refusal is for; what is held, and that it is too much, is not."""
    guard = Guard(FakeProvider(100, cost_limit=60), floor=50)
    clock.advance(0)
    holds = [guard.acquire(25) for _ in range(2)]
    guard.provider.credits = 10
    clock.advance(6)
    guard.balance(max_age=0)
    error = refused(guard, 61)
    assert (error.basis, error.cap, error.available) == ("cap", 60, -90)
    assert str(error) == (
        "spec needs 61 credits, and the cost limit at fake allows 60 for one call (as of just now). "
        f"Raise the cost limit: {guard.provider.top_up_url}"
    )
    for hold in holds:
        hold.release()


def test_too_few_slots_are_worth_a_retry_unless_there_can_never_be_enough(guard: Guard) -> None:
    """Sessions end; limits do not."""
    hold = guard.acquire(slots=2)
    with pytest.raises(ConcurrencyLimit) as now:
        guard.acquire(slots=2, name="session")
    error = now.value
    assert (error.operation, error.limit, error.in_use, error.needed) == ("session", 3, 2, 2)
    assert (error.retryable, error.retry_after, error.status_code) == (True, 5, 429)
    with pytest.raises(ConcurrencyLimit) as never:
        guard.acquire(slots=4)
    assert (never.value.retryable, never.value.retry_after) == (False, None)
    hold.release()


def _insufficient(guard: Guard) -> None:
    guard.acquire(1000, name="spec")


def _concurrency(guard: Guard) -> None:
    guard.acquire(slots=10)


def _closed(guard: Guard) -> None:
    hold = guard.acquire(1)
    hold.settle()
    hold.settle()


def _unknown(guard: Guard) -> None:
    Guard(lambda: None).acquire(1)


@pytest.mark.parametrize(
    ("provoke", "kind", "status", "retryable"),
    [
        (_insufficient, InsufficientCredits, 402, False),
        (_concurrency, ConcurrencyLimit, 429, False),
        (_closed, HoldClosed, 500, False),
        (_unknown, BalanceUnavailable, 503, True),
    ],
    ids=["credits", "slots", "ended twice", "unknown"],
)
def test_errors_of_real_calls_travel(
    guard: Guard,
    provoke: Callable[[Guard], None],
    kind: type[BudgetGuardError],
    status: int,
    retryable: bool,
) -> None:
    """Pickled and copied, they say the same."""
    with pytest.raises(kind) as raised:
        provoke(guard)
    error = raised.value
    assert (error.status_code, error.retryable) == (status, retryable)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is kind
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_each_refusal_is_an_error_of_its_own(guard: Guard) -> None:
    """Two callers never raise the same object."""
    assert refused(guard, 91) is not refused(guard, 91)
