"""From the ledger to the error: every figure that led to a refusal, and no other."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import (
    Balance,
    BalanceUnavailable,
    ConcurrencyLimit,
    Guard,
    InsufficientCredits,
    InvalidCredentials,
)
from budgetguard._core.amounts import to_credits
from budgetguard._core.branch import LedgerEntry
from budgetguard._core.clock import Instant
from budgetguard._core.ledger import Ledger
from budgetguard._core.policy import (
    NOBODY,
    CallNeed,
    GuardTerms,
    QueuedAhead,
    RefreshState,
    Refuse,
    Shortfall,
)
from budgetguard._core.refresh_failure import Failure
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._engine.refusal_figures import unavailable, why_refused
from budgetguard._engine.subscriber import Call, Subscriber
from budgetguard.testing import FakeProvider, HandClock

MICRO = 10**6
NOW = 1000.0


def at(mono: float) -> Instant:
    """A moment on both clocks."""
    return Instant(mono, 1e9 + mono)


def subscriber(floor: int = 0, extra: int = 0) -> Subscriber:
    """A guard's side of an account."""
    terms = GuardTerms(
        fresh_for=300,
        stale_for=600,
        recheck_after=5,
        timeout=10,
        floor=floor * MICRO,
        extra=extra * MICRO,
        allow_unknown=False,
    )
    return Subscriber(terms, "pre.dev", top_up_url="https://pre.dev/...")


def call(needed: int = 50, slots: int = 0, *, floor: int = 0, extra: int = 0) -> Call:
    """A caller that needs so many credits."""
    need = CallNeed(needed * MICRO, needed * MICRO, slots, NOW, NOW, NOW + 10)
    return Call(subscriber(floor, extra), "deep_spec", need, 5.0, 300.0)


def ledger_of(
    credits: int = 42,
    *held: int,
    pending: int = 0,
    kept: int = 0,
    cause: str | None = None,
    **limits: Any,
) -> Ledger:
    """A ledger in whole credits, whose balance was requested 14 s ago."""
    ledger = Ledger()
    ledger.apply(BalanceSnapshot.of(Balance(credits=Decimal(credits), **limits), at(NOW - 14)))
    for amount in held:
        ledger.open(LedgerEntry(amount * MICRO, 1))
    if pending:
        ledger.take(0)
        ledger.put(0, pending * MICRO, NOW + 20)
    if kept:
        entry = LedgerEntry(kept * MICRO, 1)
        ledger.open(entry)
        ledger.keep(entry, NOW + 60, cause)
    return ledger


def refused(
    ledger: Ledger,
    caller: Call,
    why: Shortfall = Shortfall.CREDITS,
    *,
    permanent: bool = True,
    ahead: QueuedAhead = NOBODY,
) -> InsufficientCredits:
    """The error of a caller that lacks credits."""
    error = why_refused(ledger, RefreshState(), caller, Refuse(why, permanent), ahead, at(NOW))
    assert isinstance(error, InsufficientCredits)
    return error


def shown(error: object, *names: str) -> tuple[Any, ...]:
    """The attributes of an error that are called so."""
    return tuple(getattr(error, name) for name in names)


def total(error: InsufficientCredits) -> Decimal:
    """What the error's figures come to."""
    added = error.balance + error.extra
    return added - error.held - error.pending - error.queued - error.floor


def test_the_message_of_the_contract() -> None:
    """The example of the contract comes out of the ledger word by word."""
    assert str(refused(ledger_of(42, 30), call(50))) == (
        "deep_spec needs 50 credits, and 12 are available: pre.dev reports 42, 30 are held by "
        "1 running call (as of 14 s ago). Top up: https://pre.dev/..."
    )


def test_every_figure_is_the_ledgers_own() -> None:
    """Holds, debits, kept holds, the queue, the floor and extra credits are each named."""
    ledger = ledger_of(42, 10, 5, pending=4, kept=3)
    error = refused(ledger, call(50, floor=2, extra=1), ahead=QueuedAhead(6 * MICRO, 9))
    assert shown(error, "operation", "provider") == ("deep_spec", "pre.dev")
    assert shown(error, "needed", "available") == (50, 13)
    assert shown(error, "balance", "extra") == (42, 1)
    assert shown(error, "held", "running") == (15, 2)
    assert shown(error, "pending", "queued", "floor") == (7, 6, 2)
    assert shown(error, "age", "basis") == (14.0, "reported")
    assert error.top_up_url == "https://pre.dev/..."
    assert total(error) == error.available


CREDITS = st.integers(0, 60)


@given(
    st.integers(-60, 60),
    st.lists(CREDITS, max_size=3),
    CREDITS,
    CREDITS,
    CREDITS,
    CREDITS,
    CREDITS,
    st.none() | CREDITS,
    st.booleans(),
)
def test_the_figures_add_up(
    credits: int,
    held: list[int],
    pending: int,
    kept: int,
    floor: int,
    extra: int,
    queued: int,
    limit: int | None,
    exhausted: bool,
) -> None:
    """Whatever the ledger holds, balance and extra less all that stands between are `available`."""
    limits: dict[str, Any] = {}
    if limit is not None:
        limits = {"cost_limit": limit, "credits_used": 5}
    ledger = ledger_of(credits, *held, pending=pending, kept=kept, **limits)
    if exhausted:
        ledger.refuse(at(NOW - 1), 60.0)
    caller = call(500, floor=floor, extra=extra)
    error = refused(ledger, caller, ahead=QueuedAhead(queued * MICRO, 0))
    assert total(error) == error.available
    assert error.available == to_credits(
        ledger.available(caller.subscriber.terms.floor, caller.subscriber.terms.extra)
        - queued * MICRO
    )


@pytest.mark.parametrize(
    ("limits", "extra", "basis", "balance", "available"),
    [
        ({}, 5, "reported", 42, 47),
        ({"cost_limit": Decimal(60), "credits_used": Decimal(13)}, 5, "reported", 42, 47),
        ({"cost_limit": Decimal(60), "credits_used": Decimal(14)}, 5, "cost limit", 46, 46),
        ({"cost_limit": Decimal(60), "credits_used": Decimal(20)}, 0, "cost limit", 40, 40),
        ({"cost_limit": Decimal(60), "credits_used": Decimal(18)}, 0, "reported", 42, 42),
    ],
    ids=["no limit", "limit above", "limit below extra", "limit below", "limit equal"],
)
def test_what_the_balance_is_based_on(
    limits: dict[str, Any], extra: int, basis: str, balance: int, available: int
) -> None:
    """Where a cost limit is the bound, the error says so, and its figure takes the place."""
    error = refused(ledger_of(42, **limits), call(50, extra=extra))
    assert shown(error, "basis", "balance", "available") == (basis, balance, available)
    assert total(error) == error.available


def test_an_exhausted_account_has_nothing() -> None:
    """The provider's own refusal is a balance of zero, extra credits or not."""
    ledger = ledger_of(42, 10)
    ledger.refuse(at(NOW - 3), 60.0)
    error = refused(ledger, call(50, extra=5))
    assert shown(error, "basis", "balance", "extra", "available") == ("refused", 0, 0, -10)
    assert error.age == 3.0
    assert "pre.dev itself refused a call" in str(error)


@pytest.mark.parametrize(("held", "available"), [((), 30), ((20,), 22)], ids=["cap", "less"])
def test_more_than_one_call_may_cost(held: tuple[int, ...], available: int) -> None:
    """Above a cap, the most that this one call could have had is what is available."""
    error = refused(ledger_of(42, *held, cost_limit=Decimal(30)), call(50), Shortfall.CAP)
    assert shown(error, "basis", "available", "needed", "cap") == ("cap", available, 50, 30)
    assert "allows 30 for one call" in str(error)
    assert not error.retryable


def test_a_cap_on_an_account_without_a_bound() -> None:
    """No balance is reported, and a single call still has its limit."""
    ledger = Ledger()
    ledger.apply(BalanceSnapshot.of(Balance(credits=None, cost_limit=Decimal(30)), at(NOW - 14)))
    error = refused(ledger, call(50), Shortfall.CAP)
    assert shown(error, "available", "balance") == (30, Decimal("Infinity"))
    assert str(error) == (
        "deep_spec needs 50 credits, and the cost limit at pre.dev allows 30 for one call "
        "(as of 14 s ago). Raise the cost limit: https://pre.dev/..."
    )


@pytest.mark.parametrize(
    ("permanent", "retry_after"), [(True, None), (False, 20.0)], ids=["never", "later"]
)
def test_when_trying_again_helps(permanent: bool, retry_after: float | None) -> None:
    """Only where our own calls make up the shortfall is there a time to come again."""
    error = refused(ledger_of(60, pending=30), call(50), permanent=permanent)
    assert error.retryable is not permanent
    assert error.retry_after == retry_after


@pytest.mark.parametrize(
    ("slots", "permanent", "ahead", "in_use", "retry_after"),
    [
        (1, False, NOBODY, 2, 5),
        (1, False, QueuedAhead(7, 1), 3, 5),
        (4, True, NOBODY, 2, None),
    ],
    ids=["in use", "and queued", "never"],
)
def test_too_many_sessions(
    slots: int, permanent: bool, ahead: QueuedAhead, in_use: int, retry_after: float | None
) -> None:
    """Open, kept and queued sessions are in use; the error knows whether there is a point."""
    ledger = ledger_of(42, 1, kept=1, max_concurrency=3)
    error = why_refused(
        ledger, RefreshState(), call(0, slots), Refuse(Shortfall.SLOTS, permanent), ahead, at(NOW)
    )
    assert isinstance(error, ConcurrencyLimit)
    assert shown(error, "operation", "provider") == ("deep_spec", "pre.dev")
    assert shown(error, "limit", "in_use", "needed") == (3, in_use, slots)
    assert error.retry_after == retry_after
    assert error.retryable is not permanent


def test_kept_calls_are_told_apart_from_running_and_settled_ones() -> None:
    """They are part of what is pending, and not of what runs; with why, and for how long."""
    ledger = ledger_of(100, 10, 5, pending=4, kept=3, cause="NameError")
    entry = LedgerEntry(20 * MICRO)
    ledger.open(entry)
    ledger.keep(entry, NOW + 90)
    error = refused(ledger, call(80), permanent=False)
    assert shown(error, "held", "running", "pending") == (15, 2, 27)
    assert shown(error, "kept", "unresolved", "causes") == (23, 2, {"NameError": 1})
    assert shown(error, "unresolved_for", "retry_after") == (90.0, 60.0)
    assert total(error) == error.available
    assert (
        "15 are held by 2 running calls, 4 are counted for calls that just finished, 23 are unresolved "
        "for up to 90 s because a call raised NameError and 1 ended in another way"
    ) in str(error)


def test_kept_sessions_are_told_apart_from_those_that_are_open() -> None:
    """Only of calls that had a slot, with why, and for how long."""
    ledger = ledger_of(100, 1, kept=3, cause="NameError", max_concurrency=2)
    other = LedgerEntry(5 * MICRO)
    ledger.open(other)
    ledger.keep(other, NOW + 90, "OSError")
    need = call(1, 2)
    error = why_refused(
        ledger, RefreshState(), need, Refuse(Shortfall.SLOTS, permanent=False), NOBODY, at(NOW)
    )
    assert isinstance(error, ConcurrencyLimit)
    assert shown(error, "in_use", "unresolved", "causes") == (2, 1, {"NameError": 1})
    assert shown(error, "unresolved_for", "retry_after") == (60.0, 60.0)


@pytest.mark.parametrize("amount", [1, 1_000_000], ids=["one", "a million"])
def test_who_made_the_shortfall_is_asked_to_top_up_only_if_that_helps(amount: int) -> None:
    """Where the reported balance alone would do, it is not more credits that are lacking."""
    short, held = ledger_of(amount), ledger_of(amount, amount)
    assert "Top up: https://pre.dev/..." in str(refused(short, call(amount + 1)))
    assert "Top up" not in str(refused(held, call(amount), permanent=False))


def test_unavailable_without_a_failure_is_a_deadline_passed() -> None:
    """The error of a caller whose time is up while the refresh still runs says how long it waited."""
    error = unavailable(subscriber(), None, 0.5)
    assert type(error) is BalanceUnavailable
    assert shown(error, "provider", "reason") == ("pre.dev", "no answer within 10 s")
    assert error.retry_after == 0.5


@pytest.mark.parametrize(
    ("denied", "kind"), [(False, BalanceUnavailable), (True, InvalidCredentials)]
)
def test_each_caller_gets_an_error_of_its_own(denied: bool, kind: type[BalanceUnavailable]) -> None:
    """Each caller of a failed refresh gets a new exception with its cause."""
    cause = OSError("no route")
    failure = Failure("no connection", cause, denied=denied, failures=1, delay=2.0)
    one, two = unavailable(subscriber(), failure, 1.5), unavailable(subscriber(), failure, 1.0)
    assert type(one) is type(two) is kind
    assert one is not two
    assert one.__cause__ is two.__cause__ is cause
    assert (one.reason, one.retry_after, two.retry_after) == ("no connection", 1.5, 1.0)


def test_a_guards_refusal_reads_well(clock: HandClock) -> None:
    """The whole way from a guard to the sentence, with a call that runs and one that ended."""
    provider = FakeProvider("60.50", lag=20)
    guard = Guard(provider, floor=5)
    guard.acquire(10).settle("3.5")
    running = guard.acquire(20, name="other")
    clock.advance(2)
    with pytest.raises(InsufficientCredits) as caught:
        guard.acquire(40, name="deep_spec")
    assert str(caught.value) == (
        "deep_spec needs 40 credits, and 32 are available: fake reports 60.5, 20 are held by "
        "1 running call, 3.5 are counted for calls that just finished, the floor reserves 5 "
        "(as of 2 s ago). Try again in 3 s."
    )
    running.release()
