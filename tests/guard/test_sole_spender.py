"""`sole_spender`: what a running call was charged counts once, as long as nobody else spends."""

import logging
import os
from decimal import Decimal
from typing import Any

import pytest

from budgetguard import AnchorBrowser, Event, Guard, InsufficientCredits, PreDev
from budgetguard._core.clock import Instant
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock

TICK = 0.001


def snapshot(guard: Guard, clock: HandClock) -> None:
    """Have the guard ask for the balance now; two refreshes at one moment would be one."""
    clock.advance(TICK)
    guard.balance(max_age=0)


@pytest.mark.parametrize(("sole", "available"), [(True, 50), (False, 20)])
def test_a_running_calls_charges_count_once(clock: HandClock, sole: bool, available: int) -> None:
    """A balance that shows 30 of a running call's 50 leaves as much as before, if nobody else spends."""
    provider = FakeProvider(100)
    guard = Guard(provider, sole_spender=sole)
    guard.balance()
    hold = guard.acquire(50)
    provider.charge(30)
    snapshot(guard, clock)
    assert guard.available == available
    hold.release()


def test_an_ended_calls_charges_count_once_before_its_lag_has_passed(clock: HandClock) -> None:
    """A debit younger than `lag` is not taken from a balance that shows it."""
    provider = FakeProvider(100, lag=60)
    guard = Guard(provider, sole_spender=True)
    with guard.require_credits(min=50):
        provider.charge(50)
    snapshot(guard, clock)
    assert guard.available == 50


def test_the_fast_path_knows_it_too(clock: HandClock) -> None:
    """Calls of constant cost are admitted by the same figure."""
    provider = FakeProvider(100)
    guard = Guard(provider, sole_spender=True)
    call = guard.require_credits(min=10)(lambda: None)
    call()
    hold = guard.acquire(50)
    provider.charge(60)
    snapshot(guard, clock)
    for _ in range(4):
        call()
    with pytest.raises(InsufficientCredits):
        call()
    hold.release()


def test_the_figures_of_a_refusal_add_up(clock: HandClock) -> None:
    """The message says how much of what is held and pending the balance shows already."""
    provider = FakeProvider(100)
    provider.name = "pre.dev"
    guard = Guard(provider, sole_spender=True)
    guard.balance()
    hold = guard.acquire(50)
    provider.charge(30)
    snapshot(guard, clock)
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(60, name="deep_spec")
    error = refused.value
    assert (error.balance, error.held, error.overlap, error.available) == (70, 50, 30, 50)
    assert str(error).startswith(
        "deep_spec needs 60 credits, and 50 are available: pre.dev reports 70, 50 are held by 1 "
        "running call, 30 of these are already deducted in the balance (as of just now)."
    )
    hold.release()


def test_one_guard_says_it_for_all_guards_of_the_account(clock: HandClock) -> None:
    """It is a fact about the account."""
    provider = FakeProvider(100)
    provider.fingerprint = "one account"
    guard = Guard(provider)
    Guard(provider, sole_spender=True)
    guard.balance()
    hold = guard.acquire(50)
    provider.charge(30)
    snapshot(guard, clock)
    assert guard.available == 50
    hold.release()


def test_another_spender_is_noticed_and_told_of_once(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A balance below what was promised is believed; one warning, and a reason in every such event."""
    provider = FakeProvider(100)
    events: list[Event] = []
    guard = Guard(provider, sole_spender=True, on_event=events.append)
    guard.balance()
    provider.charge(12)
    with caplog.at_level(logging.WARNING, logger="budgetguard"):
        snapshot(guard, clock)
        provider.charge(1)
        snapshot(guard, clock)
    assert guard.available == 87
    reasons = [event.reason for event in events if event.kind == "refreshed"]
    assert reasons[0] is None
    assert "is 12 less than sole_spender=True allows for" in str(reasons[1])
    assert "is 1 less" in str(reasons[2])
    assert [record.getMessage() for record in caplog.records] == [reasons[1]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_is_no_sole_spender(clock: HandClock) -> None:
    """Its parent and siblings spend too; a guard that is made in the child may say so anew."""
    provider = FakeProvider(100)
    guard = Guard(provider, sole_spender=True)

    def setting() -> object:
        return binding_of(guard).account.ledger.head.others.setting

    child = os.fork()
    if child == 0:
        before = setting()
        Guard(provider, sole_spender=True)
        os._exit(int((before, setting()) != ("auto", True)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert setting() is True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_remembers_that_others_spend(clock: HandClock) -> None:
    """What a guard was told stays; what the parent's balances proved is the parent's."""
    told = Guard(FakeProvider(100), sole_spender=False)
    provider = FakeProvider(100)
    found_out = Guard(provider)
    found_out.balance()
    provider.charge(1)
    snapshot(found_out, clock)
    assert believes(found_out)
    child = os.fork()
    if child == 0:
        kept = binding_of(told).account.ledger.head.others.setting is False
        os._exit(int(not kept or believes(found_out)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_proof_outlives_the_guards_of_its_account(clock: HandClock) -> None:
    """Programs that make a guard for each request would trust anew with every one."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    account = binding_of(guard).account
    assert account.quiet()
    provider.charge(1)
    snapshot(guard, clock)
    assert not account.quiet()
    clock.advance(30 * 60)
    assert account.quiet()


# "auto", the default.


def believes(guard: Guard) -> bool:
    """Whether the guard believes that others spend."""
    belief = binding_of(guard).account.ledger.head.others.belief
    return belief is not None and belief.others


def told(records: list[logging.LogRecord]) -> list[str]:
    """The levels of the messages about other spenders."""
    return [each.levelname for each in records if "somebody else spends" in each.getMessage()]


def test_auto_believes_that_nobody_else_spends_until_a_proof_and_after_a_spell_without(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each change is one line in the log, and the reason of the event that brought it."""
    provider = FakeProvider(1000)
    events: list[Event] = []
    guard = Guard(provider, on_event=events.append)
    guard.balance()
    hold = guard.acquire(50)
    provider.charge(30)
    with caplog.at_level(logging.INFO, logger="budgetguard"):
        snapshot(guard, clock)
        assert guard.available == 950
        provider.charge(60)
        snapshot(guard, clock)
        assert guard.available == 860
        provider.charge(60)
        snapshot(guard, clock)
        hold.release()
        clock.advance(30 * 60)
        snapshot(guard, clock)
        clock.advance(30 * 60)
        snapshot(guard, clock)
    reasons = [event.reason for event in events if event.kind == "refreshed"]
    proven = (
        "The balance at fake is 40 lower than this guard's calls can explain: somebody else spends "
        "from this account, or a call cost more than it held or was settled at. For 30 minutes "
        "after the last such proof, what running calls were charged is counted twice, as with "
        "sole_spender=False."
    )
    trusted = (
        "No recent balance proves that somebody else spends from the account at fake: what running "
        "calls were charged is no longer counted twice."
    )
    assert reasons == [None, None, proven, None, trusted, None]
    assert told(caplog.records) == ["WARNING", "INFO"]
    hold = guard.acquire(50)
    provider.charge(20)
    snapshot(guard, clock)
    assert guard.available == 800
    hold.release()


def test_auto_takes_a_refusal_of_the_providers_for_a_proof(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The event that tells of it says why running calls are counted twice from now on."""
    provider = FakeProvider(100)
    events: list[Event] = []
    guard = Guard(provider, on_event=events.append)
    guard.balance()
    hold = guard.acquire(50)
    with caplog.at_level(logging.INFO, logger="budgetguard"):
        clock.advance(TICK)
        guard.mark_exhausted()
    assert told(caplog.records) == ["WARNING"]
    (exhausted,) = (event for event in events if event.kind == "exhausted")
    assert "fake refused a call that the cached balance covers" in str(exhausted.reason)
    provider.top_up(400)
    clock.advance(10)
    snapshot(guard, clock)
    provider.charge(20)
    snapshot(guard, clock)
    assert guard.available == 430
    hold.release()


def test_a_guard_that_knows_of_others_speaks_for_all_guards_of_the_account(
    clock: HandClock,
) -> None:
    """False wins over True and "auto", because it is the careful choice."""
    provider = FakeProvider(100)
    provider.fingerprint = "one account"
    guard = Guard(provider, sole_spender=True)
    Guard(provider, sole_spender=False)
    guard.balance()
    hold = guard.acquire(50)
    provider.charge(30)
    snapshot(guard, clock)
    assert guard.available == 20
    hold.release()


def test_a_balance_in_a_reply_that_may_be_older_than_a_refresh_hides_no_spending(
    clock: HandClock,
) -> None:
    """A reply's balance that is higher than the last refresh's may be the earlier one."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    account = binding_of(guard).account
    guard.balance()
    hold = guard.acquire(50)
    provider.charge(30)
    before = clock.now()
    provider.on_fetch = lambda: clock.advance(1)
    snapshot(guard, clock)
    assert guard.available == 50
    between = Instant(before.mono + 2 * TICK, before.wall + 2 * TICK)
    account.offer(Decimal(100), between)
    assert guard.available == 50
    provider.on_fetch = None
    snapshot(guard, clock)
    assert guard.available == 50
    hold.release()


def test_a_balance_in_a_reply_from_before_a_top_up_proves_nothing(clock: HandClock) -> None:
    """Its call was sent before the reply to the last refresh arrived, so it may be the earlier one."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    hold = guard.acquire(50)
    provider.top_up(300)
    before = clock.now()
    provider.on_fetch = lambda: clock.advance(1)
    snapshot(guard, clock)
    between = Instant(before.mono + 2 * TICK, before.wall + 2 * TICK)
    binding_of(guard).account.offer(Decimal(100), between)
    assert (guard.available, believes(guard)) == (100, False)
    provider.on_fetch = None
    snapshot(guard, clock)
    assert (guard.available, believes(guard)) == (350, False)
    hold.release()


def test_a_stated_step_of_top_ups_tells_what_was_charged_meanwhile(clock: HandClock) -> None:
    """A rise of 80 in an account that is topped up in hundreds hides a charge of 20."""
    provider = FakeProvider(100, topup_step=100)
    guard = Guard(provider)
    guard.balance()
    hold = guard.acquire(50)
    provider.charge(20)
    provider.top_up(100)
    snapshot(guard, clock)
    assert guard.available == 150
    hold.release()


@pytest.mark.parametrize("provider", [FakeProvider, PreDev, AnchorBrowser])
@pytest.mark.parametrize("step", [0, -1, "many", True, "0.0000001"])
def test_a_step_is_an_amount_above_zero(provider: Any, step: Any) -> None:
    """Anything else is an error before the guard is used."""
    key = () if provider is FakeProvider else ("a-key-of-some-length",)
    with pytest.raises((TypeError, ValueError), match="topup_step"):
        Guard(provider(*key, topup_step=step))
