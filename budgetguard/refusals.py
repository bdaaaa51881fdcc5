"""From a decision to the error a caller reads: every figure that led to it."""

from typing import TYPE_CHECKING

from budgetguard.asker import Asker, Call
from budgetguard.clock import Instant
from budgetguard.credits import spell, to_credits
from budgetguard.errors import (
    BalanceUnavailable,
    Basis,
    BudgetGuardError,
    ConcurrencyLimit,
    InsufficientCredits,
)
from budgetguard.ledger import Ledger, Look
from budgetguard.policy import Ahead, Looking, Refuse, Why, ready_in

if TYPE_CHECKING:
    from budgetguard.failures import Failure


def why_refused(
    ledger: Ledger, looking: Looking, call: Call, refuse: Refuse, ahead: Ahead, now: Instant
) -> BudgetGuardError:
    """The error of a caller who lacks credits or slots."""
    if refuse.why is Why.SLOTS:
        return _too_many(ledger, call, refuse, ahead)
    return _too_little(ledger, looking, call, refuse, ahead, now)


def _too_many(ledger: Ledger, call: Call, refuse: Refuse, ahead: Ahead) -> ConcurrencyLimit:
    look, terms = ledger.look, call.asker.terms
    assert look is not None
    return ConcurrencyLimit(
        operation=call.operation,
        limit=int(look.slots),
        in_use=ledger.slots_in_use + ahead.slots,
        provider=call.asker.provider,
        retry_after=None if refuse.hopeless else terms.recheck_after,
        needed=call.need.slots,
    )


def _too_little(
    ledger: Ledger, looking: Looking, call: Call, refuse: Refuse, ahead: Ahead, now: Instant
) -> InsufficientCredits:
    look, terms = ledger.look, call.asker.terms
    assert look is not None
    spendable, bound = look.spendable(terms.extra), look.before_holds(terms.extra)
    basis: Basis = "reported"
    if refuse.why is Why.CAP:
        basis = "cap"
    elif look.refused_until is not None:
        basis = "refused"
    elif spendable < look.credits + terms.extra:
        basis = "cost limit"
    extra = terms.extra if basis in {"reported", "cap"} else 0
    available = ledger.available(terms.floor, terms.extra) - ahead.amount
    return InsufficientCredits(
        operation=call.operation,
        needed=to_credits(call.need.amount),
        available=to_credits(min(available, look.cap) if basis == "cap" else available),
        balance=to_credits(spendable - extra),
        held=to_credits(ledger.held),
        pending=to_credits(ledger.pending),
        overlap=to_credits(0 if bound == spendable else bound - spendable),
        floor=to_credits(terms.floor),
        age=now.since(look.sent),
        provider=call.asker.provider,
        top_up_url=call.asker.top_up_url,
        retry_after=None if refuse.hopeless else ready_in(ledger, looking, terms, call.need, now),
        running=ledger.running,
        queued=to_credits(ahead.amount),
        extra=to_credits(extra),
        basis=basis,
    )


def unavailable(asker: Asker, failure: "Failure | None", wait: float) -> BalanceUnavailable:
    """A new error for one caller, of a look that failed for all."""
    if failure is not None:
        return failure.error(asker.provider, wait)
    reason = f"no answer within {asker.terms.timeout:g} s"
    return BalanceUnavailable(provider=asker.provider, reason=reason, retry_after=wait)


def missing(asker: Asker, look: Look) -> str:
    """What to say of a balance below what a sole spender's books allow for."""
    return (
        f"The balance at {asker.provider} is {spell(to_credits(look.missing))} less than "
        "sole_spender=True allows for: somebody else spends from this account, or a call cost more than it was "
        "settled at. This balance is believed, and what was known before it is forgotten."
    )
