"""Makes the error of a refused caller, with every figure that led to the decision."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from budgetguard._core.amounts import to_credits
from budgetguard._core.clock import Instant
from budgetguard._core.debits import Causes
from budgetguard._core.errors import (
    BalanceUnavailable,
    Basis,
    BudgetExceeded,
    BudgetGuardError,
    ConcurrencyLimit,
    InsufficientCredits,
    Paused,
)
from budgetguard._core.ledger import LedgerView
from budgetguard._core.pause import NO_REASON
from budgetguard._core.policy import (
    QueuedAhead,
    RefreshState,
    Refuse,
    Shortfall,
    exceeded,
    ready_in,
    slot_in,
)
from budgetguard._engine.subscriber import Call, Subscriber

if TYPE_CHECKING:
    from budgetguard._core.refresh_failure import Failure

_OTHER_BASES: dict[Shortfall, Basis] = {
    Shortfall.CAP: "cap",
    Shortfall.KEY: "key limit",
    Shortfall.BUSY: "busy",
}


def why_refused(
    ledger: LedgerView,
    refreshing: RefreshState,
    call: Call,
    refuse: Refuse,
    ahead: QueuedAhead,
    now: Instant,
) -> BudgetGuardError:
    """The error for a caller that lacks credits or slots, or that somebody else refuses."""
    if refuse.why is Shortfall.PAUSED:
        return Paused(call.subscriber.provider, ledger.paused or NO_REASON, ledger.paused_by)
    ahead = QueuedAhead(ahead.amount + ledger.queued, ahead.slots + ledger.queued_slots)
    if refuse.why is Shortfall.SLOTS:
        return _too_many(ledger, call, refuse, ahead, now)
    return _too_little(ledger, refreshing, call, refuse, ahead, now)


def budget_exceeded(call: Call, now: Instant) -> BudgetExceeded:
    """The error for a caller whose budget has no room for it."""
    budget = exceeded(call.need, now)
    assert budget is not None
    subscriber, its = call.subscriber, budget.current(now)
    renews_at = budget.renews_at(now)
    # A budget that renews names the time in `renews_at`: waiting for it is the caller's decision.
    by_open_calls = its.may_free(call.need.amount)
    return BudgetExceeded(
        operation=call.operation,
        needed=to_credits(call.need.amount),
        budget=budget.name,
        limit=to_credits(its.limit),
        spent=to_credits(its.spent),
        held=to_credits(its.held),
        provider=subscriber.provider,
        retry_after=subscriber.terms.recheck_after if by_open_calls else None,
        renews_at=None if renews_at is None else datetime.fromtimestamp(renews_at, UTC),
        unit=subscriber.unit,
    )


def _too_many(
    ledger: LedgerView, call: Call, refuse: Refuse, ahead: QueuedAhead, now: Instant
) -> ConcurrencyLimit:
    snapshot, terms = ledger.snapshot, call.subscriber.terms
    assert snapshot is not None
    return ConcurrencyLimit(
        operation=call.operation,
        limit=int(snapshot.slots),
        in_use=ledger.slots_in_use + ahead.slots,
        provider=call.subscriber.provider,
        retry_after=None if refuse.permanent else slot_in(ledger, terms, call.need, now),
        needed=call.need.slots,
        unresolved=ledger.kept.slots,
        causes=_named(ledger.kept.sessions),
        unresolved_for=_until(ledger.kept.last_slot_clears_at, now),
        processes=ledger.slot_holders,
    )


def _too_little(
    ledger: LedgerView,
    refreshing: RefreshState,
    call: Call,
    refuse: Refuse,
    ahead: QueuedAhead,
    now: Instant,
) -> InsufficientCredits:
    snapshot, terms = ledger.snapshot, call.subscriber.terms
    assert snapshot is not None
    spendable, bound = snapshot.spendable(terms.extra), snapshot.before_holds(terms.extra)
    basis: Basis = "reported"
    if refuse.why in _OTHER_BASES:
        basis = _OTHER_BASES[refuse.why]
    elif snapshot.refused_until is not None:
        basis = "refused"
    elif spendable < snapshot.credits + terms.extra:
        basis = "cost limit"
    extra = 0 if basis in {"refused", "cost limit"} else terms.extra
    available = ledger.available(terms.floor, terms.extra) - ahead.amount
    return InsufficientCredits(
        operation=call.operation,
        needed=to_credits(call.need.amount),
        available=to_credits(min(available, snapshot.cap) if basis == "cap" else available),
        balance=to_credits(spendable - extra),
        held=to_credits(ledger.held_by_all),
        pending=to_credits(ledger.pending),
        overlap=to_credits(0 if bound == spendable else bound - spendable),
        floor=to_credits(terms.floor),
        age=now.since(snapshot.sent),
        provider=call.subscriber.provider,
        top_up_url=call.subscriber.top_up_url,
        retry_after=None if refuse.permanent else _ready_in(ledger, refreshing, call, refuse, now),
        running=ledger.running_of_all,
        queued=to_credits(ahead.amount),
        extra=to_credits(extra),
        basis=basis,
        cap=to_credits(snapshot.cap) if basis == "cap" else None,
        kept=to_credits(ledger.kept.total),
        unresolved=ledger.kept.calls.total(),
        causes=_named(ledger.kept.calls),
        unresolved_for=_until(ledger.kept.last_clears_at, now),
        unit=snapshot.balance.unit,
        renews_at=snapshot.balance.renews_at,
        processes=ledger.holders,
    )


def _ready_in(
    ledger: LedgerView, refreshing: RefreshState, call: Call, refuse: Refuse, now: Instant
) -> float:
    if refuse.why is Shortfall.BUSY:
        return ledger.busy_until - now.mono
    return ready_in(ledger, refreshing, call.subscriber.terms, call.need, now)


def _named(causes: Causes) -> dict[str, int]:
    return {name: number for name, number in causes.items() if name is not None}


def _until(clears_at: float | None, now: Instant) -> float | None:
    return None if clears_at is None else max(clears_at - now.mono, 0.0)


def unavailable(
    subscriber: Subscriber, failure: "Failure | None", wait: float
) -> BalanceUnavailable:
    """A new error for one caller, about a refresh that failed for all callers."""
    if failure is not None:
        return failure.error(subscriber.provider, wait)
    reason = f"no answer within {subscriber.terms.timeout:g} s"
    return BalanceUnavailable(provider=subscriber.provider, reason=reason, retry_after=wait)
