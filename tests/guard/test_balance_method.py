"""`balance()` and `abalance()`: the cached balance, or one that is young enough."""

from datetime import UTC, datetime
from decimal import Decimal

import anyio
import pytest
from staging import Caller, Slow, let_run, under_way, until

from budgetguard import Balance, BalanceUnavailable, Guard
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


def test_the_first_call_asks(clock: HandClock) -> None:
    """The balance says when its request was sent."""
    provider = FakeProvider("99.5", max_concurrency=3, cost_limit=50, credits_used=20)
    balance = Guard(provider).balance()
    assert balance == Balance(
        credits=Decimal("99.5"),
        max_concurrency=3,
        cost_limit=Decimal(50),
        credits_used=Decimal(20),
        as_of=datetime.fromtimestamp(clock.wall(), UTC),
    )
    clock.advance(7)
    assert balance.age == 7


def test_the_default_age_is_fresh_for(clock: HandClock) -> None:
    """Up to it the cached balance is returned, beyond it callers wait for another."""
    provider = FakeProvider(100)
    guard = Guard(provider, fresh_for=100)
    first = guard.balance()
    provider.credits = 50
    clock.advance(100)
    assert guard.balance() is first
    clock.advance(0.1)
    assert guard.balance().credits == 50
    assert provider.requests == 2


@pytest.mark.parametrize(("max_age", "requests"), [(10, 1), (9.9, 2), (0, 2), (10**6, 1)], ids=str)
def test_max_age_says_how_old_it_may_be(clock: HandClock, max_age: float, requests: int) -> None:
    """Ten seconds after the last refresh."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    clock.advance(10)
    assert guard.balance(max_age=max_age).age == (10 if requests == 1 else 0)
    assert provider.requests == requests


@pytest.mark.parametrize("max_age", [-1, float("nan"), float("inf"), True, "1"], ids=str)
@pytest.mark.usefixtures("clock")
def test_a_max_age_that_cannot_be_is_refused(max_age: float) -> None:
    """Before anything is asked."""
    provider = FakeProvider(100)
    with pytest.raises((TypeError, ValueError)):
        Guard(provider).balance(max_age=max_age)
    assert provider.requests == 0


def test_max_age_zero_never_joins_a_refresh_that_was_sent_before(clock: HandClock) -> None:
    """It waits for that one to end, and for the next one."""
    provider = Slow(100)
    provider.takes = 3
    guard = Guard(provider)
    first = Caller(guard.balance)
    under_way(clock, provider, 1)
    clock.advance(1)
    provider.credits = 50
    second = Caller(lambda: guard.balance(max_age=0))
    until(lambda: len(binding_of(guard).account.wait_queue.readers) == 2)  # no public view of them
    clock.advance(2)
    assert first.outcome().credits == 100
    under_way(clock, provider, 2)
    clock.advance(3)
    assert second.outcome().credits == 50
    assert provider.requests == 2


def test_a_refresh_under_way_that_is_young_enough_is_joined(clock: HandClock) -> None:
    """One request serves all."""
    provider = Slow(100)
    provider.takes = 3
    guard = Guard(provider)
    callers = [Caller(guard.balance) for _ in range(10)]
    under_way(clock, provider, 1)
    clock.advance(1)
    callers += [Caller(lambda: guard.balance(max_age=2)) for _ in range(10)]
    until(lambda: len(binding_of(guard).account.wait_queue.readers) == 20)  # no public view of them
    clock.advance(2)
    assert {caller.outcome().credits for caller in callers} == {100}
    assert provider.requests == 1


def test_a_balance_that_cannot_be_had_is_an_error_even_if_an_old_one_is_cached(
    clock: HandClock,
) -> None:
    """An explicit age applies to this call; admission still uses the older balance."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    clock.advance(10)
    provider.failure = ConnectionError("down")
    with pytest.raises(BalanceUnavailable) as first:
        guard.balance(max_age=5)
    with pytest.raises(BalanceUnavailable) as second:
        guard.balance(max_age=5)
    assert first.value is not second.value
    assert provider.requests == 2
    assert guard.balance(max_age=10).credits == 100
    guard.acquire(1).release()


def test_a_balance_is_waited_for_no_longer_than_the_timeout(clock: HandClock) -> None:
    """A provider that hangs."""
    provider = FakeProvider(100)
    provider.on_fetch = anyio.sleep_forever
    guard = Guard(provider, timeout=10)
    caller = Caller(guard.balance)
    under_way(clock, provider, 1)
    clock.advance(9.9)
    assert caller.is_alive()
    clock.advance(0.1)
    error = caller.outcome()
    assert isinstance(error, BalanceUnavailable)
    assert error.retryable
    assert error.retry_after is not None


def test_a_suspended_machine_has_an_old_balance(clock: HandClock) -> None:
    """The age is what the clock says that advanced more."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    clock.suspend(301)
    clock.advance(0.1)
    guard.balance()
    assert provider.requests == 2


@pytest.mark.anyio
async def test_abalance_does_not_block_the_loop(clock: HandClock) -> None:
    """Others run while it waits."""
    provider = Slow(100)
    provider.takes = 3
    guard = Guard(provider)
    balances: list[Balance] = []

    async def ask() -> None:
        balances.append(await guard.abalance())

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(ask)
        await let_run()
        assert balances == []
        under_way(clock, provider, 1)
        clock.advance(3)
    assert {balance.credits for balance in balances} == {100}
    assert provider.requests == 1


@pytest.mark.anyio
async def test_abalance_raises_as_balance_does(clock: HandClock) -> None:
    """With an error of its own."""
    provider = FakeProvider(100)
    provider.failure = ConnectionError("down")
    guard = Guard(provider)
    clock.advance(0)
    with pytest.raises(BalanceUnavailable, match="ConnectionError"):
        await guard.abalance()


@pytest.mark.usefixtures("clock")
def test_what_is_held_does_not_change_the_balance() -> None:
    """It is the provider's figure; `available` is the guard's."""
    guard = Guard(FakeProvider(100))
    hold = guard.acquire(30)
    assert guard.balance().credits == 100
    assert guard.available == 70
    hold.release()
