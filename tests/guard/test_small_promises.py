"""Small promises of an account that no other test covers."""

import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from staging import Caller, queue_up, until, waiting

from budgetguard import Guard, HoldClosed, InsufficientCredits, set_active
from budgetguard._core.branch import Branch
from budgetguard._engine.binding import binding_of
from budgetguard._engine.reservation import NUMBERS
from budgetguard._engine.waiters import BalanceWaiter
from budgetguard.testing import FakeProvider, HandClock


def account_of(guard: Guard) -> Any:
    """What all guards of one account share."""
    return binding_of(guard).account


def test_nobody_waits_for_a_closed_guard(clock: HandClock) -> None:
    """Waiters that got an error have left the queue, and those behind them fit at once."""
    provider = FakeProvider(100)
    closing, other = Guard(provider), Guard(provider)
    held = closing.acquire(50)
    queue_up(closing, [lambda: closing.acquire(60, wait=30), lambda: other.acquire(40, wait=30)])
    account = account_of(closing)
    account._change(account._dismiss, binding_of(closing).subscriber)
    assert not account.wait_queue.queue
    assert account.ledger.held == 90_000_000
    held.release()
    clock.advance(0)


def test_an_attempt_of_an_ended_hold_is_none(clock: HandClock) -> None:
    """A hold that has ended does not count once more."""
    guard = Guard(FakeProvider(100))
    hold = guard.acquire(10)
    hold.release()
    with pytest.raises(HoldClosed):
        hold.keep_attempt()
    assert guard.available == 100


def test_ids_are_alike(clock: HandClock) -> None:
    """A hold that does nothing has an id as others do: logs may rely on it."""
    guard = Guard(FakeProvider(100))
    hold = guard.acquire(10)
    set_active(False)
    nothing = guard.acquire(10)
    assert len(hold.id) == len(nothing.id) == 32
    assert nothing.id != guard.acquire(10).id
    hold.release()


def test_without_a_loop_ends_are_recorded_by_the_caller(clock: HandClock) -> None:
    """As in a forked child that has started none: what was posted is taken in at once."""
    guard = Guard(FakeProvider(100))
    guard.balance()
    account = account_of(guard)
    account._runtime = None
    account.ledger.take(10)
    account.ledger.ends.append((10, 0, 0.0, 0))
    account.flush_soon()
    assert account.ledger.held == 0


def test_with_a_loop_ends_are_recorded_by_it(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is not made to do it, and does where the loop has gone."""
    guard = Guard(FakeProvider(100))
    guard.balance()
    account, asked = account_of(guard), list[Any]()
    account.ledger.take(10)
    account.ledger.ends.append((10, 0, 0.0, 0))
    monkeypatch.setattr(account.runtime, "nudge", lambda work: asked.append(work) or True)
    account.flush_soon()
    assert account.ledger.held == 10
    monkeypatch.setattr(account.runtime, "nudge", lambda work: asked.append(work) or False)
    account.flush_soon()
    assert (account.ledger.held, len(asked)) == (0, 2)


def test_a_handler_that_fails_where_another_was_interrupted_is_told_of(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The private loop carries out the effects that an interrupt left over, even if one of them fails."""
    guard = Guard(FakeProvider(100))
    guard.balance()
    told: list[int] = []

    def interrupted() -> None:
        if not told:
            told.append(1)
            raise KeyboardInterrupt
        msg = "a handler of the log"
        raise LookupError(msg)

    with caplog.at_level(logging.ERROR), pytest.raises(KeyboardInterrupt):
        account_of(guard)._carry_out([interrupted, lambda: told.append(2)])
    clock.advance(0)
    until(lambda: told == [1, 2])
    assert "Reporting the outcome of a call failed" in caplog.text


def test_a_caller_whose_time_to_queue_is_over_is_refused_at_its_last_deadline(
    clock: HandClock,
) -> None:
    """Also where it waits on for a refresh that never comes: its second deadline is kept, too."""
    provider = FakeProvider(100)
    guard = Guard(provider, timeout=10)
    held = guard.acquire(100)
    provider.on_fetch = lambda: anyio.sleep(1_000)
    clock.advance(20)
    caller = Caller(lambda: guard.acquire(10, wait=5))
    until(lambda: waiting(guard) == 1)
    clock.advance(5)
    clock.advance(10)
    assert not account_of(guard).wait_queue.queue
    assert isinstance(caller.outcome(), InsufficientCredits)
    held.release()


def test_a_reader_is_served_by_a_balance_that_came_late(clock: HandClock) -> None:
    """A refresh that was replaced still brings a balance for all waiters."""
    guard = Guard(FakeProvider(100))
    guard.balance()
    account = account_of(guard)
    clock.advance(1)
    reading = BalanceWaiter(binding_of(guard).subscriber, 0.0, clock.monotonic())
    account.wait_queue.readers[reading] = None
    clock.advance(1)
    refresh = account._schedule.next(binding_of(guard).subscriber, clock.now(), after_freeze=False)
    snapshot = account.ledger.snapshot.of(account.ledger.snapshot.balance, clock.now())
    account._change(account._land, refresh, snapshot)
    assert reading.done
    assert reading.balance is not None


@pytest.mark.anyio
async def test_a_hold_is_a_block_of_either_kind(clock: HandClock) -> None:
    """Leaving ends it: at what it held, or kept where the block raised."""
    guard = Guard(FakeProvider(100))
    async with await guard.aacquire(10) as left:
        pass
    with pytest.raises(KeyError):
        async with await guard.aacquire(20) as raised:
            raise KeyError
    with guard.acquire(5) as plain:
        pass
    assert [left.state, raised.state, plain.state] == ["settled", "kept", "settled"]
    assert guard.available == 65


def test_a_hold_that_ends_as_it_is_extended_is_closed(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller of `extend` gets an error, although the hold was still open when it began."""
    guard = Guard(FakeProvider(100))
    hold = guard.acquire(10)
    account = account_of(guard)
    extend = account.extend

    def late(*args: Any) -> Any:
        hold.release()
        return extend(*args)

    monkeypatch.setattr(account, "extend", late)
    with pytest.raises(HoldClosed):
        hold.extend(5)
    assert guard.available == 100


def test_sessions_ahead_count_when_everybody_is_reviewed(clock: HandClock) -> None:
    """Behind two waiters for one session each, a third waits for both of them."""
    guard = Guard(FakeProvider(100, max_concurrency=3))
    held = guard.acquire(0, slots=3)
    callers = queue_up(guard, [lambda: guard.acquire(0, slots=1, wait=60) for _ in range(2)])
    (last,) = queue_up(guard, [lambda: guard.acquire(0, slots=2, wait=60)])
    account = account_of(guard)
    with account.lock:
        account.wait_queue.review(clock.now())
    held.release()
    first = [caller.outcome() for caller in callers]
    assert waiting(guard) == 1
    first[0].release()
    assert last.outcome().slots == 2


def test_the_floor_and_extra_credits_bound_the_fast_path(clock: HandClock) -> None:
    """Extra credits count for the guard that has them, and a floor is enforced, from the first call on."""
    for floor, extra, fits in ((0, 0, 100), (30, 0, 70), (0, 50, 150), (30, 50, 120)):
        guard = Guard(FakeProvider(100, extra_credits=extra), floor=floor, recheck_after=1000)
        guard.balance()
        call = guard.require_credits(min=1)(lambda: None)
        for _ in range(fits):
            call()
        with pytest.raises(InsufficientCredits):
            call()


def test_a_call_that_is_adopted_holds_no_slots(clock: HandClock) -> None:
    """A generator that a plain function returns is followed by a hold of credits alone."""
    guard = Guard(FakeProvider(100, max_concurrency=1))
    guard.balance()
    call = guard.require_credits(min=10)(lambda: iter_of(3))
    for steps in (call(), call()):
        next(steps)
        assert account_of(guard).ledger.slots_held == 0
        assert list(steps) == [1, 2]
    assert guard.available == 80


def iter_of(number: int) -> Iterator[int]:
    """Some steps."""
    yield from range(number)


@pytest.mark.parametrize("made", [True, False], ids=["taken from nobody", "not even made"])
def test_a_hold_that_was_interrupted_as_it_was_made_ends_nothing(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch, *, made: bool
) -> None:
    """Dropped before its credits were taken, it has none to keep."""
    guard = Guard(FakeProvider(100))
    guard.balance()
    account = account_of(guard)

    class Interrupted(BaseException):
        pass

    def interrupted(*_: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        if made:
            patched.setattr(Branch, "open", interrupted)
        else:
            patched.setattr(NUMBERS, "counter", iter([]))
        with pytest.raises((Interrupted, StopIteration)):
            guard.acquire(10, wait=1, slots=1)
        account.flush()
    assert (account.ledger.held, account.ledger.kept.total, guard.available) == (0, 0, 100)
