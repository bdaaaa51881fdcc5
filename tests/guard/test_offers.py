"""Balances that come along with the reply to a call: taken like a refresh's, as of the call's sending."""

from decimal import Decimal

import pytest
from staging import Caller, until, waiting

from budgetguard import Balance, Event, Guard
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


def offer(guard: Guard, credits: int, clock: HandClock) -> None:
    """Report that the response to a call sent now carried this balance."""
    binding_of(guard).account.offer(Decimal(credits), clock.now())


@pytest.fixture
def told() -> list[Event]:
    """Give the guard's events."""
    return []


@pytest.fixture
def guard(clock: HandClock, told: list[Event]) -> Guard:
    """A guard that refreshed 60 s ago and found 100 credits, and has no more than that at its provider."""
    guard = Guard(FakeProvider(100, lag=5, linger=60), sole_spender=False, on_event=told.append)
    guard.balance()
    clock.advance(60)
    return guard


def test_it_is_the_balance_from_then_on(guard: Guard, clock: HandClock, told: list[Event]) -> None:
    """Its age counts from when the call was sent, and it is reported like any other balance."""
    offer(guard, 40, clock)
    assert (guard.available, guard.balance().age) == (40, 0)
    assert [event.kind for event in told] == ["refreshed", "refreshed"]


def test_debits_clear_by_when_the_call_was_sent(guard: Guard, clock: HandClock) -> None:
    """A settled call counts until a balance comes of a call that was sent `lag` later."""
    guard.acquire(10).settle()
    clock.advance(4)
    offer(guard, 90, clock)
    assert guard.available == 80
    clock.advance(1)
    offer(guard, 90, clock)
    assert guard.available == 90


def test_an_older_one_changes_nothing(guard: Guard, clock: HandClock, told: list[Event]) -> None:
    """Replies may come in any order."""
    before = clock.now()
    clock.advance(1)
    guard.balance(max_age=0)
    binding_of(guard).account.offer(Decimal(7), before)
    assert guard.available == 100
    assert len(told) == 2


def test_it_lets_those_in_who_wait(guard: Guard, clock: HandClock) -> None:
    """A top-up carried by a response counts as much as one found by a refresh."""
    other = guard.acquire(80)
    caller = Caller(lambda: guard.acquire(50, wait=30))
    until(lambda: waiting(guard) == 1)
    clock.advance(0)
    clock.advance(1)
    offer(guard, 140, clock)
    assert caller.outcome().amount == 50
    other.release()


def test_without_a_cached_balance_it_says_too_little(clock: HandClock) -> None:
    """Limits come with a refresh alone."""
    guard = Guard(FakeProvider(100))
    offer(guard, 40, clock)
    assert guard.available is None


def test_limits_stay_as_they_were(clock: HandClock) -> None:
    """How many sessions may be open is known from the refresh before."""
    guard = Guard(lambda: Balance(credits=100, max_concurrency=2))
    guard.balance()
    clock.advance(1)
    offer(guard, 40, clock)
    assert (guard.balance().credits, guard.balance().max_concurrency) == (40, 2)


def test_below_a_cost_limit_it_is_not_taken(clock: HandClock) -> None:
    """What was used of the limit would be older than the balance, and debits would clear too early."""
    guard = Guard(lambda: Balance(credits=100, cost_limit=50, credits_used=10))
    guard.balance()
    clock.advance(1)
    offer(guard, 90, clock)
    assert (guard.balance().credits, guard.available) == (100, 40)
