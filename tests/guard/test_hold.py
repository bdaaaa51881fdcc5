"""A hold in the hand: `acquire`, and everything that can be done to what it returns."""

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import cloudpickle
import pytest
from staging import Caller, Slow, queue_up, under_way

from budgetguard import (
    BalanceUnavailable,
    Event,
    Guard,
    Hold,
    HoldClosed,
    InsufficientCredits,
    set_active,
)
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def provider() -> FakeProvider:
    """An account with 100 credits whose charges show after five seconds."""
    return FakeProvider(100, lag=5, linger=300)


@pytest.fixture
def events() -> list[Event]:
    """The guard's events, without refreshes."""
    return []


@pytest.fixture
def guard(clock: HandClock, provider: FakeProvider, events: list[Event]) -> Guard:
    """A guard that knows of 100 credits."""
    del clock
    guard = Guard(
        provider, on_event=lambda event: event.kind != "refreshed" and events.append(event)
    )
    guard.balance()
    return guard


def test_a_hold_says_what_it_is(guard: Guard) -> None:
    """Amounts are Decimal, ids differ, and nothing private shows in the repr."""
    first = guard.acquire(50, cost="30.5", slots=2, name="deep_spec")
    second = guard.acquire(1)
    assert (first.operation, first.amount, first.slots, first.state) == (
        "deep_spec",
        Decimal("30.5"),
        2,
        "open",
    )
    assert isinstance(first.amount, Decimal)
    assert first.id != second.id
    assert repr(first) == "<Hold of 30.5 for deep_spec, open>"


@pytest.mark.parametrize(
    ("end", "state", "available"),
    [("settle", "settled", 70), ("release", "released", 100), ("keep", "kept", 70)],
)
def test_a_hold_ends_once(guard: Guard, end: str, state: str, available: int) -> None:
    """Whatever is tried after that is `HoldClosed`, and changes nothing."""
    hold = guard.acquire(30)
    getattr(hold, end)()
    assert (hold.state, guard.available) == (state, available)
    for again, arguments in {
        "settle": (5,),
        "release": (),
        "keep": (),
        "charged": (5,),
        "extend": (5,),
    }.items():
        with pytest.raises(HoldClosed, match=f"already {state}: {again}") as closed:
            getattr(hold, again)(*arguments)
        assert (closed.value.state, closed.value.retryable) == (state, False)
    assert (hold.state, guard.available) == (state, available)


def test_settle_without_an_argument_is_at_the_amount(guard: Guard) -> None:
    """Which is the cost, and not the minimum."""
    guard.acquire(50, cost=30).settle()
    assert guard.available == 70


@pytest.mark.parametrize(
    "method", ["settle", "charged", "extend"], ids=["settle", "charged", "extend"]
)
@pytest.mark.parametrize(
    ("nonsense", "problem"),
    [
        (True, TypeError),
        ([], TypeError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("ten", ValueError),
        (10**12 + 1, ValueError),
    ],
    ids=str,
)
def test_a_bad_argument_raises_and_leaves_the_hold_open(
    guard: Guard, method: str, nonsense: Any, problem: type[Exception]
) -> None:
    """The caller can still end it rightly."""
    hold = guard.acquire(30)
    with pytest.raises(problem):
        getattr(hold, method)(nonsense)
    assert (hold.state, hold.amount, guard.available) == ("open", 30, 70)
    hold.settle(5)
    assert guard.available == 95


def test_a_hold_is_a_context_manager(guard: Guard) -> None:
    """Leaving it ends it as a block would have."""
    with guard.acquire(30) as hold:
        assert hold.state == "open"
    assert hold.state == "settled"
    with pytest.raises(ConnectionError), guard.acquire(30) as hold:
        raise ConnectionError
    assert hold.state == "kept"
    with pytest.raises(ConnectionError), guard.acquire(30, release_on=ConnectionError) as hold:
        raise ConnectionError
    assert hold.state == "released"
    assert guard.available == 40


@pytest.mark.anyio
async def test_a_hold_is_an_async_context_manager(guard: Guard) -> None:
    """And its plain methods may be called from async code."""
    async with await guard.aacquire(30) as hold:
        hold.charged(10)
        hold.extend(10)
        hold.settle(15)
    assert hold.state == "settled"
    assert guard.available == 85


def test_a_hold_may_be_ended_by_another_thread(guard: Guard) -> None:
    """Where the session ends is not always where it began."""
    hold = guard.acquire(30)
    assert Caller(lambda: hold.settle(10)).outcome() is None
    assert (hold.state, guard.available) == ("settled", 90)


@pytest.mark.usefixtures("eager_switching")
def test_of_many_threads_that_end_a_hold_one_is_first(guard: Guard) -> None:
    """The others get `HoldClosed`, and it is recorded once."""
    for _ in range(20):
        hold = guard.acquire(1)
        together = threading.Barrier(8)

        def end(hold: Hold = hold, together: threading.Barrier = together) -> None:
            together.wait(20)
            hold.settle(1)

        outcomes = [caller.outcome() for caller in [Caller(end) for _ in range(8)]]
        assert outcomes.count(None) == 1
        assert sum(isinstance(outcome, HoldClosed) for outcome in outcomes) == 7
    assert guard.available == 80


def test_charged_moves_from_held_to_spent(guard: Guard, events: list[Event]) -> None:
    """What is available remains the same, and a smaller total changes nothing."""
    hold = guard.acquire(50)
    for total in (10, 20, 15, 20, 0):
        hold.charged(total)
        assert guard.available == 50
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(60)
    assert (refused.value.held, refused.value.pending) == (30, 20)
    hold.settle(45)
    assert guard.available == 55
    assert [(event.kind, event.credits) for event in events[-1:]] == [("settled", 45)]


def test_charged_beyond_the_amount_is_spent_and_reported(guard: Guard, events: list[Event]) -> None:
    """The provider's own figure counts, however the hold ends."""
    hold = guard.acquire(50)
    hold.charged(70)
    assert guard.available == 30
    hold.settle()
    assert guard.available == 30
    assert [(event.kind, event.credits) for event in events[1:]] == [
        ("settled", 70),
        ("overrun", 20),
    ]


@pytest.mark.parametrize(("end", "available"), [("settle", 50), ("keep", 50), ("release", 80)])
def test_what_was_charged_stays_charged_however_the_hold_ends(
    guard: Guard, end: str, available: int
) -> None:
    """Only the rest is released, or kept."""
    hold = guard.acquire(50)
    hold.charged(20)
    getattr(hold, end)()
    assert guard.available == available


def test_a_kept_hold_of_which_a_part_was_charged_shows_in_two_steps(
    clock: HandClock, guard: Guard
) -> None:
    """The charged part after `lag`, the rest after `linger` and `lag`."""
    hold = guard.acquire(50)
    hold.charged(20)
    hold.keep()
    clock.advance(5)
    guard.balance(max_age=0)
    assert guard.available == 70
    clock.advance(300)
    guard.balance(max_age=0)
    assert guard.available == 100


def test_extend_holds_more(guard: Guard) -> None:
    """For a call that runs longer than thought; the whole amount is settled by default."""
    hold = guard.acquire(50)
    hold.extend("10.5")
    assert (hold.amount, guard.available) == (Decimal("60.5"), Decimal("39.5"))
    hold.settle()
    assert guard.available == Decimal("39.5")


def test_extend_is_refused_like_any_other(guard: Guard) -> None:
    """And what was held before is held still."""
    hold = guard.acquire(50, name="session")
    with pytest.raises(InsufficientCredits) as refused:
        hold.extend(51)
    error = refused.value
    assert (error.operation, error.needed, error.available, error.held) == ("session", 51, 50, 50)
    assert (hold.state, hold.amount, guard.available) == ("open", 50, 50)
    hold.extend(50)
    assert guard.available == 0


def test_an_extension_that_comes_as_the_hold_ends_holds_nothing(guard: Guard) -> None:
    """Another thread may end it between the check of its state and the change of the ledger."""
    hold = guard.acquire(50)
    binding = binding_of(guard)
    call = guard.require_credits(min=20).spec._call(binding, "session", 20, 20)
    hold.release()
    assert binding.account.extend(call, hold) is None
    assert guard.available == 100


@pytest.mark.anyio
async def test_aextend_does_the_same(guard: Guard) -> None:
    """Without blocking the loop."""
    hold = await guard.aacquire(50)
    await hold.aextend(20)
    with pytest.raises(InsufficientCredits):
        await hold.aextend(31)
    assert hold.amount == 70
    hold.release()
    with pytest.raises(HoldClosed):
        await hold.aextend(1)


def test_extend_decides_on_the_cached_balance_and_starts_a_refresh(clock: HandClock) -> None:
    """It does not wait for it, so a top-up helps the next try."""
    provider = Slow(100)
    guard = Guard(provider)
    hold = guard.acquire(60)
    provider.takes = 3
    clock.advance(6)
    provider.top_up(100)
    with pytest.raises(InsufficientCredits):
        hold.extend(50)
    under_way(clock, provider, 2)
    clock.advance(3)
    hold.extend(50)
    assert hold.amount == 110


def test_extend_with_no_usable_balance_is_balance_unavailable(
    clock: HandClock, guard: Guard, provider: FakeProvider
) -> None:
    """Unknown never admits, and extending never waits."""
    hold = guard.acquire(50)
    provider.failure = ConnectionError("down")
    clock.advance(601)
    with pytest.raises(BalanceUnavailable):
        hold.extend(1)
    assert hold.amount == 50


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "in a list": lambda hold: copy.deepcopy([hold]),
    "pickle": pickle.dumps,
    "cloudpickle": cloudpickle.dumps,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_hold_is_not_copied(guard: Guard, duplicate: Callable[[object], object]) -> None:
    """A copy that is dropped would end the original, which goes on as it was."""
    hold = guard.acquire(40, name="spec")
    with pytest.raises(
        TypeError, match=r"The hold of spec cannot be copied or pickled: it ends once"
    ):
        duplicate(hold)
    gc.collect()
    assert (hold.state, guard.available) == ("open", 60)
    hold.settle(10)
    assert guard.available == 90


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_hold_of_nothing_is_not_copied_either(
    guard: Guard, duplicate: Callable[[object], object]
) -> None:
    """So that it shows while guards are off."""
    set_active(False)
    with (
        guard.require_credits(min=1, name="spec") as hold,
        pytest.raises(TypeError, match="cannot be copied"),
    ):
        duplicate(hold)


@pytest.mark.parametrize("times", [1, 3])
def test_waiting_callers_come_before_an_extension(guard: Guard, times: int) -> None:
    """An extension does not overtake the queue."""
    hold = guard.acquire(50)
    (caller,) = queue_up(guard, [lambda: guard.acquire(60, wait=30)])
    for _ in range(times):
        with pytest.raises(InsufficientCredits):
            hold.extend(1)
    hold.release()
    assert caller.outcome().amount == 60


def test_a_hold_ends_with_the_work_and_not_with_the_submission(clock: HandClock) -> None:
    """Begin and end in different places: nothing in between ends it."""
    provider = FakeProvider(100, lag=5)
    guard = Guard(provider)
    sessions = {"id": guard.acquire(30, name="session")}
    clock.advance(10_000)
    guard.balance()
    assert guard.available == 70
    provider.charge(12)
    sessions.pop("id").settle(12)
    clock.advance(5)
    guard.balance(max_age=0)
    assert guard.available == 88


@pytest.mark.parametrize("end", ["settle", "release", "keep", "drop", "block", "wait"])
def test_a_hold_leaves_no_garbage(guard: Guard, end: str) -> None:
    """It is gone with its last reference, however it ended, and the collector has nothing to find."""
    kept: list[object] = []
    gc.collect()
    gc.disable()
    try:
        if end == "block":
            with guard.require_credits(min=10) as hold:
                pass
        else:
            hold = guard.acquire(10, wait=60 if end == "wait" else 0)
        if end in {"settle", "release", "keep"}:
            getattr(hold, end)()
        kept.append(weakref.ref(hold))
        del hold
        binding_of(guard).account.flush()  # what was dropped open is posted
        assert kept[0]() is None  # type: ignore[operator]
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert guard.available == (100 if end == "release" else 90)


def test_a_hold_that_was_waited_for_is_kept_as_soon_as_it_is_dropped(
    guard: Guard, clock: HandClock
) -> None:
    """The queue remembers its waiter until the deadline, and does not keep the hold for so long."""
    first = guard.acquire(60)
    (caller,) = queue_up(guard, [lambda: guard.acquire(70, wait=1000)])
    first.release()
    hold = caller.outcome()
    caller._outcome = None
    gone = weakref.ref(hold)
    del hold
    clock.advance(0)
    assert gone() is None
    assert sum(binding_of(guard).account.ledger.kept.calls.values()) == 1
