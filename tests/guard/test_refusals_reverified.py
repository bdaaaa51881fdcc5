"""No refusal is given on a stale balance: a top-up works within one `recheck_after` and a refresh."""

import anyio
import pytest
from staging import (
    Caller,
    Slow,
    answered,
    let_run,
    queue_up,
    refreshing,
    start_together,
    under_way,
    until,
    waiting,
)

from budgetguard import BalanceUnavailable, Guard, InsufficientCredits
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


def refused(guard: Guard, amount: float) -> InsufficientCredits:
    """The refusal of a call that needs `amount`."""
    with pytest.raises(InsufficientCredits) as error:
        guard.acquire(amount)
    return error.value


def test_a_refusal_is_verified_by_a_refresh(clock: HandClock) -> None:
    """The cached balance is young enough to admit on, and not to refuse on."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    clock.advance(5)
    provider.credits = 90
    error = refused(guard, 200)
    assert (error.balance, error.age) == (90, 0)
    assert provider.requests == 2


def test_a_call_that_a_top_up_made_possible_is_admitted_without_a_refusal(clock: HandClock) -> None:
    """The refresh that verifies the refusal finds the new balance."""
    provider = FakeProvider(10)
    guard = Guard(provider)
    guard.balance()
    clock.advance(5)
    provider.top_up(100)
    with guard.require_credits(min=100):
        assert guard.available == 10


def test_a_refusal_may_rest_on_a_refresh_sent_less_than_recheck_after_before(
    clock: HandClock,
) -> None:
    """A caller soon after a refresh is refused by that balance, and the error says how old it is."""
    provider = FakeProvider(10)
    guard = Guard(provider, recheck_after=5)
    guard.balance()
    clock.advance(4.9)
    provider.top_up(100)
    assert refused(guard, 50).age == pytest.approx(4.9)
    assert provider.requests == 1
    clock.advance(0.1)
    guard.acquire(50).release()
    assert provider.requests == 2


@pytest.mark.parametrize("recheck_after", [0.5, 5, 60], ids=str)
def test_a_top_up_works_within_recheck_after(clock: HandClock, recheck_after: float) -> None:
    """While calls are refused ten times per interval, there is one request in each."""
    provider = FakeProvider(10)
    guard = Guard(provider, recheck_after=recheck_after)
    step = recheck_after / 8
    for _ in range(83):
        refused(guard, 50)
        clock.advance(step)
    assert provider.requests == 11
    provider.top_up(100)
    refusals = 0
    for _ in range(100):
        try:
            guard.acquire(50).release()
        except InsufficientCredits:
            refusals += 1
            clock.advance(step)
        else:
            break
    assert refusals * step <= recheck_after
    assert provider.requests == 12


def test_repeated_calls_of_a_refused_function_are_admitted_after_a_top_up(clock: HandClock) -> None:
    """A decorated function that went through, was refused, and goes through again."""
    provider = FakeProvider(20)
    call = Guard(provider).require_credits(min=10)(lambda: provider.charge(10))
    call()
    call()
    with pytest.raises(InsufficientCredits):
        call()
    provider.top_up(20)
    clock.advance(5)
    call()
    call()
    assert provider.credits == 0


def test_a_refused_caller_joins_a_refresh_that_is_young(clock: HandClock) -> None:
    """One sent less than `recheck_after` before it came is the one refresh it waits for."""
    provider = Slow(10)
    guard = Guard(provider, recheck_after=5)
    guard.balance()
    provider.takes = 6
    refreshing(clock, guard)
    clock.advance(4.9)
    (caller,) = queue_up(guard, [lambda: guard.acquire(50)])
    clock.advance(1)
    assert waiting(guard) == 1
    clock.advance(0.1)
    assert isinstance(caller.outcome(), InsufficientCredits)
    assert provider.requests == 2


def test_a_refused_caller_waits_for_the_refresh_after_one_that_is_old(clock: HandClock) -> None:
    """One that was under way for longer is no news; the next one is."""
    provider = Slow(10)
    guard = Guard(provider, recheck_after=5)
    guard.balance()
    provider.takes = 6
    refreshing(clock, guard)
    clock.advance(5)
    (caller,) = queue_up(guard, [lambda: guard.acquire(50).amount])
    provider.top_up(100)
    clock.advance(1)
    under_way(clock, provider, 3)
    until(lambda: waiting(guard) == 1)
    clock.advance(6)
    assert caller.outcome() == 50


@pytest.mark.anyio
async def test_a_refused_task_waits_for_its_refresh_without_blocking_its_loop(
    clock: HandClock,
) -> None:
    """Others run on while it waits."""
    provider = Slow(10)
    guard = Guard(provider)
    await guard.abalance()
    provider.takes = 3
    clock.advance(5)
    outcomes: list[BaseException] = []

    async def call() -> None:
        try:
            await guard.aacquire(50)
        except InsufficientCredits as error:
            outcomes.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await let_run()
        assert outcomes == []
        under_way(clock, provider, 2)
        clock.advance(3)
    assert len(outcomes) == 1


def test_refused_callers_share_one_refresh_and_each_gets_an_error_of_its_own(
    clock: HandClock,
) -> None:
    """Twenty refusals, one request, twenty exceptions."""
    provider = Slow(10)
    guard = Guard(provider)
    guard.balance()
    provider.takes = 1
    clock.advance(5)
    callers = start_together(guard, lambda: guard.acquire(50), 20)
    under_way(clock, provider, 2)
    clock.advance(1)
    errors = [caller.outcome() for caller in callers]
    assert {type(error) for error in errors} == {InsufficientCredits}
    assert len({id(error) for error in errors}) == 20
    assert provider.requests == 2


def test_a_failed_verification_leaves_the_usable_balance_to_decide(clock: HandClock) -> None:
    """The refusal says how old the balance is that it rests on."""
    provider = FakeProvider(10)
    guard = Guard(provider)
    guard.balance()
    clock.advance(100)
    provider.failure = ConnectionError("down")
    error = refused(guard, 50)
    assert (error.balance, error.age) == (10, 100)
    assert provider.requests == 2


def test_while_refreshes_back_off_the_usable_balance_decides_at_once(clock: HandClock) -> None:
    """No request is sent during the backoff, and no caller waits for it."""
    provider = FakeProvider(10)
    guard = Guard(provider)
    guard.balance()
    clock.advance(100)
    provider.failure = answered(503, retry_after="50")
    guard.require_credits(min=1)
    refused(guard, 50)
    asked = provider.requests
    clock.advance(20)
    assert refused(guard, 50).age == 120
    assert provider.requests == asked


def test_a_verification_that_hangs_holds_nobody_beyond_the_timeout(clock: HandClock) -> None:
    """After ten seconds the usable balance decides."""
    provider = FakeProvider(10)
    guard = Guard(provider, timeout=10)
    guard.balance()
    clock.advance(100)
    provider.on_fetch = anyio.sleep_forever
    caller = Caller(lambda: guard.acquire(50))
    under_way(clock, provider, 2)
    clock.advance(9.9)
    until(lambda: waiting(guard) == 1)
    clock.advance(0.1)
    error = caller.outcome()
    assert isinstance(error, InsufficientCredits)
    assert error.age == pytest.approx(110)


def test_without_a_usable_balance_a_failed_refresh_is_balance_unavailable_at_once(
    clock: HandClock,
) -> None:
    """Until the next refresh may be made, which `retry_after` says."""
    provider = FakeProvider(10)
    guard = Guard(provider)
    binding_of(guard).account.runtime.jitter = lambda _, longest: longest
    provider.failure = ConnectionError("down")
    with pytest.raises(BalanceUnavailable) as first:
        guard.acquire(1)
    assert first.value.retry_after == pytest.approx(0.5)
    clock.advance(0.2)
    with pytest.raises(BalanceUnavailable) as second:
        guard.acquire(1)
    assert second.value.retry_after == pytest.approx(0.3)
    assert provider.requests == 1


def test_a_refusal_changes_nothing(clock: HandClock) -> None:
    """A thousand of them hold nothing and count for nothing."""
    provider = FakeProvider(10)
    guard = Guard(provider, recheck_after=5)
    for _ in range(1000):
        refused(guard, 11)
    assert guard.available == 10
    clock.advance(5)
    guard.acquire(10).release()


def test_with_recheck_after_zero_every_refusal_refreshes(clock: HandClock) -> None:
    """Allowed, for those whose provider does not mind."""
    provider = FakeProvider(10)
    guard = Guard(provider, recheck_after=0)
    for _ in range(3):
        clock.advance(0.01)
        refused(guard, 50)
    assert provider.requests == 3
