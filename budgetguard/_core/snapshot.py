"""One balance in micro-credits, and the part of the holds and debits that it is known to show.

Amounts are integer micro-credits, `UNLIMITED` where a balance has no bound.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any, TypeAlias

from budgetguard._core.amounts import UNLIMITED, to_micro
from budgetguard._core.balance import Balance
from budgetguard._core.clock import Instant

Micro: TypeAlias = int | float
"""Micro-credits: an int, or `UNLIMITED`."""

_FLOOR = Context(prec=60, rounding=ROUND_FLOOR)


@dataclass(frozen=True, slots=True)
class BalanceSnapshot:
    """One balance in micro-credits, with the moment at which its request was sent.

    `credits` may be spent; `ceiling` is what a cost limit leaves for the period; `cap` is the most
    that one call may cost; `slots` is how many sessions may be open at once.

    If `refused_until` is set, the provider itself refused a call for lack of credits, and nothing may
    be spent. A later balance ends that if it shows more than this one, or was sent at that time or
    later.

    `overlap` and `ceiling_overlap` are the parts of what is held and pending that `credits` and
    `ceiling` show already, see `other_spenders`.
    """

    sent: Instant
    balance: Balance
    credits: Micro
    ceiling: Micro = UNLIMITED
    cap: Micro = UNLIMITED
    slots: float = UNLIMITED
    refused_until: float | None = None
    overlap: int = 0
    ceiling_overlap: int = 0

    @classmethod
    def of(cls, balance: Balance, sent: Instant) -> "BalanceSnapshot":
        """The snapshot of `balance`; raises ValueError for an amount out of range."""
        limit, used = balance.cost_limit, balance.credits_used
        ceiling, cap = UNLIMITED, UNLIMITED
        if limit is not None and used is not None:
            ceiling = to_micro(_FLOOR.subtract(limit, used), "cost limit", rounding="down")
        elif limit is not None:
            cap = to_micro(limit, "cost limit", rounding="down")
        return cls(
            sent=sent,
            balance=balance,
            credits=_down(balance.credits),
            ceiling=ceiling,
            cap=cap,
            slots=UNLIMITED if balance.max_concurrency is None else balance.max_concurrency,
        )

    def spendable(self, extra: int) -> Micro:
        """What the account can pay, with `extra` micro-credits that the endpoint does not report."""
        return 0 if self.refused_until is not None else min(self.credits + extra, self.ceiling)

    def before_holds(self, extra: int) -> Micro:
        """The amount to subtract holds and debits from: `spendable` plus the overlap."""
        if self.refused_until is not None:
            return 0
        return min(self.credits + self.overlap + extra, self.ceiling + self.ceiling_overlap)

    def dump(self) -> dict[str, Any]:
        """The snapshot as JSON values; what has no bound is null."""
        return {
            "sent": list(self.sent),
            "balance": balance_to_json(self.balance),
            "credits": _bounded(self.credits),
            "ceiling": _bounded(self.ceiling),
            "cap": _bounded(self.cap),
            "slots": _bounded(self.slots),
            "refused_until": self.refused_until,
            "overlap": self.overlap,
            "ceiling_overlap": self.ceiling_overlap,
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> "BalanceSnapshot":
        """The snapshot that `dump` gave."""
        return cls(
            sent=Instant(*state["sent"]),
            balance=balance_from_json(state["balance"]),
            credits=_unbounded(state["credits"]),
            ceiling=_unbounded(state["ceiling"]),
            cap=_unbounded(state["cap"]),
            slots=_unbounded(state["slots"]),
            refused_until=state["refused_until"],
            overlap=state["overlap"],
            ceiling_overlap=state["ceiling_overlap"],
        )


def _down(amount: Decimal | None) -> Micro:
    return UNLIMITED if amount is None else to_micro(amount, "balance", rounding="down")


def refused(snapshot: BalanceSnapshot, until: float) -> BalanceSnapshot:
    """The same balance after its provider refused a call: nothing is left."""
    empty = replace(snapshot.balance, credits=Decimal(0))
    return replace(snapshot, balance=empty, refused_until=until)


def balance_to_json(balance: Balance) -> dict[str, Any]:
    """A balance as JSON values, without its monotonic stamp, which means nothing to another process."""
    limit, used, renews = balance.cost_limit, balance.credits_used, balance.renews_at
    tier: object = balance.tier  # whatever a provider gave: nothing has checked it
    return {
        "credits": None if balance.credits is None else str(balance.credits),
        "tier": tier if tier is None or isinstance(tier, str) else str(tier),
        "max_concurrency": balance.max_concurrency,
        "cost_limit": None if limit is None else str(limit),
        "credits_used": None if used is None else str(used),
        "as_of": balance.as_of.isoformat(),
        "unit": balance.unit,
        "renews_at": None if renews is None else renews.isoformat(),
    }


def balance_from_json(state: dict[str, Any]) -> Balance:
    renews = state["renews_at"]
    return Balance(
        credits=state["credits"],
        tier=state["tier"],
        max_concurrency=state["max_concurrency"],
        cost_limit=state["cost_limit"],
        credits_used=state["credits_used"],
        as_of=datetime.fromisoformat(state["as_of"]),
        unit=state["unit"],
        renews_at=None if renews is None else datetime.fromisoformat(renews),
    )


def _bounded(amount: float) -> float | None:
    return None if amount == UNLIMITED else amount


def _unbounded(amount: float | None) -> float:
    return UNLIMITED if amount is None else amount
