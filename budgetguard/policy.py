"""What becomes of a caller: one function, for every way in.

Given the books, what is known of looks, a guard's terms and a caller's need, `decide` says whether
the caller is let in, has to wait, or is refused. It changes nothing and reads no clock.

    balance at hand              enough          too little
    ---------------------------  --------------  ------------------------------------------------
    younger than fresh_for       admit           wait for one look, unless one was sent less than
    up to stale_for              admit and look    recheck_after before the caller came; then queue
    older, or none: unknown      wait for a look   while `wait` lasts, then refuse
                                 (refuse at once while looks are failing)
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from budgetguard.clock import Instant
from budgetguard.ledger import Ledger, Look, Micro

NEVER = float("-inf")

# Between two looks for those who wait, where `recheck_after` is 0.
SHORTEST_WAIT = 0.05


@dataclass(frozen=True, slots=True)
class Terms:
    """What a guard asks of a balance; seconds and micro-credits."""

    fresh_for: float
    stale_for: float
    recheck_after: float
    timeout: float
    floor: int
    extra: int
    allow_unknown: bool


@dataclass(frozen=True, slots=True)
class Need:
    """What one caller asks for, and how long it can wait.

    `amount` has to be available, `cost` is set aside; times are monotonic. `until` ends its time in
    the queue, `give_up` ends everything.
    """

    amount: int
    cost: int
    slots: int
    arrived: float
    until: float
    give_up: float


@dataclass(frozen=True, slots=True)
class Looking:
    """What is known of the looks: the last one sent, whether it is under way, and the backoff."""

    last_sent: float = NEVER
    in_flight: bool = False
    blocked_until: float = NEVER


@dataclass(frozen=True, slots=True)
class Ahead:
    """What callers who wait, and came before, need."""

    amount: int = 0
    slots: int = 0


NOBODY = Ahead()


class Why(Enum):
    """What a refusal is for."""

    CREDITS = "credits"
    CAP = "cap"
    SLOTS = "slots"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Admit:
    """Let the caller in; with `look`, a look is due behind it."""

    look: bool = False
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Stay:
    """Have the caller wait; `look_at` is when a look is due for its sake, if any."""

    look_at: float | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Turn the caller away. `hopeless`: no end of a running call can make it fit."""

    why: Why
    hopeless: bool


Decision: TypeAlias = Admit | Stay | Refuse


def usable(look: Look | None, terms: Terms, now: Instant, arrived: float) -> bool:
    """Whether a look may decide: not too old. One sent for this caller may have taken `timeout`."""
    if look is None:
        return False
    oldest = terms.stale_for
    if look.sent.mono >= arrived:
        oldest = max(oldest, terms.timeout)
    return now.since(look.sent) <= oldest


def shortage(ledger: Ledger, terms: Terms, need: Need, ahead: Ahead) -> Why | None:
    """What the caller lacks on the books as they are; None where it fits."""
    look = ledger.look
    assert look is not None
    if need.amount and need.amount > look.cap:
        return Why.CAP
    if need.amount and not ledger.available(terms.floor, terms.extra) - ahead.amount >= need.amount:
        return Why.CREDITS
    if need.slots and not ledger.slots_in_use + ahead.slots + need.slots <= look.slots:
        return Why.SLOTS
    return None


def possible(ledger: Ledger, terms: Terms, need: Need) -> bool:
    """Whether the caller would fit if nothing else ran."""
    look = ledger.look
    if look is None:
        return False
    most: Micro = min(look.spendable(terms.extra) - terms.floor, look.cap)
    return (not need.amount or most >= need.amount) and need.slots <= look.slots


def decide(  # noqa: PLR0911  a row of the table each
    ledger: Ledger, looking: Looking, terms: Terms, need: Need, ahead: Ahead, now: Instant
) -> Decision:
    """What becomes of a caller at `now`; see the table above."""
    final = now.mono >= need.give_up
    looks_fail = not looking.in_flight and now.mono < looking.blocked_until
    look = ledger.look
    if look is None or not usable(look, terms, now, need.arrived):
        # A look sent after the caller came has failed: it is not asked for twice.
        failed = not looking.in_flight and looking.last_sent >= need.arrived
        failed = failed and (look is None or look.sent.mono < looking.last_sent)
        if not (final or looks_fail or failed):
            return Stay(None if looking.in_flight else now.mono)
        return Admit(unknown=True) if terms.allow_unknown else Refuse(Why.UNKNOWN, hopeless=False)

    lacks = shortage(ledger, terms, need, ahead)
    if lacks is None:
        return Admit(look=_look_behind(ledger, looking, terms, need, now))

    hopeless = not possible(ledger, terms, need)
    waits = now.mono < need.until and not hopeless
    asked = need.arrived if now.mono < need.until else need.until
    newest = max(look.sent.mono, NEVER if looking.in_flight else looking.last_sent)
    verified = newest >= asked or newest > asked - terms.recheck_after or looks_fail
    if final or (verified and not waits):
        return Refuse(lacks, hopeless)
    if looking.in_flight:
        return Stay(None)
    if not verified:
        return Stay(now.mono)
    if lacks is Why.SLOTS:
        return Stay(None)
    pause = max(terms.recheck_after, SHORTEST_WAIT)
    return Stay(max(now.mono, looking.last_sent + pause))


def _look_behind(ledger: Ledger, looking: Looking, terms: Terms, need: Need, now: Instant) -> bool:
    look = ledger.look
    assert look is not None
    if looking.in_flight or now.mono < looking.blocked_until:
        return False
    if now.since(look.sent) >= terms.fresh_for:
        return True
    left = ledger.available(terms.floor, terms.extra) - need.cost
    return left < need.cost and now.mono >= _recheck_at(looking, terms)


def _recheck_at(looking: Looking, terms: Terms) -> float:
    return looking.last_sent + terms.recheck_after


def ready_in(ledger: Ledger, looking: Looking, terms: Terms, need: Need, now: Instant) -> float:
    """At least how many seconds until a refused caller can fit: debits leave, and a refresh shows it.

    None is sent while the provider is left alone after failures. What running calls hold comes free
    at any time, so where that is enough, the next refresh is the bound; else enough debits have to
    leave, kept ones among them.
    """
    look = ledger.look
    assert look is not None
    due = max(look.sent.mono + terms.recheck_after, looking.blocked_until)
    # Not `available`: what the balance shows already of a debit comes free with nobody.
    most = look.spendable(terms.extra) - terms.floor - ledger.pending
    short = need.amount - most if need.amount else 0
    left_by = ledger.left_by(short, _slots_short(ledger, need))
    return max(due, NEVER if left_by is None else left_by, now.mono) - now.mono


def slot_in(ledger: Ledger, terms: Terms, need: Need, now: Instant) -> float:
    """At least how many seconds until a caller who lacks slots can fit; sessions end at any time.

    Where those that run are too few, kept ones have to leave.
    """
    left_by = ledger.left_by(0, _slots_short(ledger, need))
    return max(terms.recheck_after, 0.0 if left_by is None else left_by - now.mono)


def _slots_short(ledger: Ledger, need: Need) -> float:
    assert ledger.look is not None
    return need.slots + ledger.kept.slots - ledger.look.slots if need.slots else 0


def decide_reading(
    look: Look | None, looking: Looking, oldest: float, give_up: float, now: Instant
) -> Decision:
    """What becomes of a caller who only wants a balance sent at or after `oldest`."""
    if look is not None and look.sent.mono >= oldest:
        return Admit()
    if now.mono >= give_up or (not looking.in_flight and now.mono < looking.blocked_until):
        return Refuse(Why.UNKNOWN, hopeless=False)
    return Stay(None if looking.in_flight else now.mono)
