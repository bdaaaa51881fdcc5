"""Observing, allowing what is not known, closed, and chosen by default."""

from typing import Any

import anyio
import pytest
from staging import queue_up

from budgetguard import (
    BalanceUnavailable,
    Event,
    Guard,
    Hold,
    InsufficientCredits,
    require_credits,
    set_default_guard,
)
from budgetguard._engine.binding import binding_of
from budgetguard._engine.call_spec import CallSpec
from budgetguard._engine.waiters import AdmissionWaiter
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def events() -> list[Event]:
    """The events that were delivered."""
    return []


def test_observing_lets_pass_what_it_would_refuse(clock: HandClock, events: list[Event]) -> None:
    """It records the call all the same, and says that it did not enforce."""
    provider = FakeProvider(10, lag=5)
    guard = Guard(provider, mode="observe", on_event=events.append)
    guard.balance()
    clock.advance(5)
    events.clear()
    call = guard.require_credits(min=50, name="spec")(lambda: "ran")
    assert call() == "ran"
    assert guard.available == -40
    told = [event for event in events if event.kind != "refreshed"]
    kinds = [(event.kind, event.enforced) for event in told]
    assert kinds == [("refused", False), ("settled", True)]
    assert [(event.credits, event.operation) for event in told] == [(50, "spec")] * 2
    assert told[0].hold_id == told[1].hold_id is not None


@pytest.mark.usefixtures("clock")
def test_observing_admits_as_enforcing_would(events: list[Event]) -> None:
    """A call that fits is reported as admitted."""
    guard = Guard(FakeProvider(100), mode="observe", on_event=events.append)
    guard.balance()
    events.clear()
    guard.acquire(50).release()
    assert [(event.kind, event.enforced) for event in events] == [
        ("admitted", True),
        ("released", True),
    ]


@pytest.mark.parametrize(
    "need",
    [
        {"min": 200},
        {"min": 1, "slots": 3},
        {"min": 200, "wait": 30},
        {"min": 1, "slots": 2, "wait": 30},
    ],
    ids=["credits", "slots", "credits, with wait", "slots, with wait"],
)
def test_observing_never_waits(clock: HandClock, need: dict[str, Any], events: list[Event]) -> None:
    """Not for a first refresh that hangs, not in a queue, not for a verification."""
    provider = FakeProvider(100, max_concurrency=2)
    provider.on_fetch = anyio.sleep_forever
    guard = Guard(provider, mode="observe", on_event=events.append)
    guard.acquire(**need).release()
    clock.advance(0)
    clock.advance(10)
    provider.on_fetch = None
    clock.advance(60)
    guard.balance()
    provider.on_fetch = anyio.sleep_forever
    running = guard.acquire(1, slots=1)
    clock.advance(6)
    guard.acquire(**need).release()
    running.release()
    refusals = [event.enforced for event in events if event.kind == "refused"]
    assert refusals == [False, False]


def test_observing_refreshes_behind_what_it_lets_pass(clock: HandClock) -> None:
    """So that its next decision rests on a newer balance."""
    provider = FakeProvider(10)
    guard = Guard(provider, mode="observe")
    guard.acquire(1).release()
    clock.advance(0)
    assert provider.requests == 1
    clock.advance(6)
    guard.acquire(50).release()
    clock.advance(0)
    assert provider.requests == 2


def test_observing_passes_those_who_queue(clock: HandClock) -> None:
    """Of two guards of one account, the observing one blocks nobody and is not blocked."""
    provider = FakeProvider(100)
    enforcing, observing = Guard(provider), Guard(provider, mode="observe")
    running = enforcing.acquire(80)
    (caller,) = queue_up(enforcing, [lambda: enforcing.acquire(90, wait=30)])
    observing.acquire(15).release()
    running.release()
    assert caller.outcome().amount == 90
    clock.advance(0)


def test_observing_an_extension_refuses_nothing(clock: HandClock, events: list[Event]) -> None:
    """It holds more than there is, and says so."""
    guard = Guard(FakeProvider(100), mode="observe", on_event=events.append)
    guard.balance()
    hold = guard.acquire(90)
    hold.extend(20)
    clock.advance(0)
    assert (hold.amount, guard.available) == (110, -10)
    assert [event.enforced for event in events if event.kind == "refused"] == [False]


def test_unknown_is_denied_by_default(clock: HandClock) -> None:
    """No balance, one that is too old, or one that makes no sense."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    provider.failure = ConnectionError("down")
    clock.advance(601)
    with pytest.raises(BalanceUnavailable):
        guard.acquire(1)
    nonsense = Guard(lambda: "many")
    with pytest.raises(BalanceUnavailable):
        nonsense.acquire(1)


def test_unknown_may_be_allowed_and_is_held_all_the_same(clock: HandClock) -> None:
    """When the balance comes back, what was spent meanwhile counts."""
    provider = FakeProvider(100, lag=5)
    provider.failure = ConnectionError("down")
    guard = Guard(provider, if_unknown="allow")
    first = guard.acquire(30)
    guard.acquire(20).settle()
    assert guard.available is None
    provider.failure = None
    clock.advance(1)
    guard.balance()
    assert guard.available == 50
    first.release()
    assert guard.available == 80


def test_allowing_the_unknown_waits_for_the_refresh_first(clock: HandClock) -> None:
    """A balance that can be had is had, and refuses."""
    guard = Guard(FakeProvider(10), if_unknown="allow")
    clock.advance(0)
    with pytest.raises(InsufficientCredits):
        guard.acquire(50)


def test_allowing_the_unknown_waits_no_longer_than_the_timeout(clock: HandClock) -> None:
    """A hanging provider delays no call beyond it."""
    provider = FakeProvider(100)
    provider.on_fetch = anyio.sleep_forever
    guard = Guard(provider, if_unknown="allow", timeout=10)
    (caller,) = queue_up(guard, [lambda: guard.acquire(50).amount])
    clock.advance(0)
    clock.advance(10)
    assert caller.outcome() == 50


@pytest.mark.usefixtures("clock")
def test_a_guard_that_is_closed_as_a_call_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """That call runs, and the next one does not go the fast path past it."""
    guard = Guard(FakeProvider(100))
    call = guard.require_credits(min=10)(lambda: "ran")
    admit = CallSpec.wait_for

    def admit_and_close(*args: Any, **options: Any) -> Hold:
        hold = admit(*args, **options)
        guard.close()
        return hold

    with monkeypatch.context() as patched:
        patched.setattr(CallSpec, "wait_for", admit_and_close)
        assert call() == "ran"
    with pytest.raises(RuntimeError, match="closed"):
        call()


@pytest.mark.usefixtures("clock")
def test_a_closed_guard_admits_nobody() -> None:
    """And open holds end as they would have."""
    guard = Guard(FakeProvider(100, lag=5))
    call = guard.require_credits(min=10)(lambda: "ran")
    call()
    call()
    hold = guard.acquire(30)
    guard.close()
    guard.close()
    for ask in (call, lambda: guard.acquire(1), guard.balance):
        with pytest.raises(RuntimeError, match="closed"):
            ask()  # type: ignore[operator]
    hold.settle(5)
    assert guard.available == 75


@pytest.mark.usefixtures("clock")
def test_closing_one_guard_leaves_the_accounts_others_open() -> None:
    """They share the credits, and not their ends."""
    provider = FakeProvider(100)
    with Guard(provider) as first:
        hold = first.acquire(30)
    second = Guard(provider)
    assert second.available == 70
    second.acquire(70).release()
    hold.release()


@pytest.mark.anyio
@pytest.mark.usefixtures("clock")
async def test_a_guard_is_an_async_context_manager() -> None:
    """Leaving it closes it."""
    async with Guard(FakeProvider(100)) as guard:
        (await guard.aacquire(1)).release()
    assert binding_of(guard).subscriber.closed
    await guard.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await guard.aacquire(1)


@pytest.mark.usefixtures("clock")
def test_the_default_guard_is_looked_up_at_each_call() -> None:
    """Code decorated before there was one, and after it was replaced."""
    call = require_credits(min=60)(lambda: "ran")
    rich, poor = Guard(FakeProvider(1000, lag=5)), Guard(FakeProvider(10))
    set_default_guard(rich)
    assert [call(), call()] == ["ran", "ran"]
    set_default_guard(poor)
    with pytest.raises(InsufficientCredits):
        call()
    set_default_guard(rich)
    assert call() == "ran"
    assert rich.available == 820


@pytest.mark.usefixtures("clock")
def test_a_guard_may_be_chosen_by_the_calls_arguments() -> None:
    """One function that spends on behalf of many."""
    guards = {"a": Guard(FakeProvider(100, lag=5)), "b": Guard(FakeProvider(10))}
    call = require_credits(min=50, guard=lambda who: guards[who])(lambda who: who)
    assert call("a") == "a"
    with pytest.raises(InsufficientCredits):
        call("b")
    binding_of(guards["a"]).account.flush()
    assert guards["a"].available == 50


@pytest.mark.usefixtures("clock")
def test_a_guard_that_is_closed_as_its_fast_path_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was admitted before finds it closed, and does not open the fast path."""
    guard = Guard(FakeProvider(100))
    check = AdmissionWaiter.check

    def check_and_close(waiter: AdmissionWaiter) -> None:
        check(waiter)
        guard.close()

    with monkeypatch.context() as patched:
        patched.setattr(AdmissionWaiter, "check", check_and_close)
        guard.acquire(10).settle()
    for call in (lambda: guard.acquire(10), guard.require_credits(min=10)(lambda: "ran")):
        with pytest.raises(RuntimeError, match="closed"):
            call()
