"""The decision about a caller: one function for every kind of admission.

Given the ledger, the state of the refreshes, a guard's settings and a caller's need, `decide` returns
whether to admit the caller, let it wait, or refuse it. It changes nothing and reads no clock.

    cached balance             enough             too little
    -------------------------  -----------------  -------------------------------------------------
    younger than fresh_for     admit              wait for one refresh, unless one was sent less
    up to stale_for            admit and refresh    than recheck_after before the caller arrived;
    older, or none: unknown    wait for a refresh   then queue while `wait` lasts, then refuse
                               (refuse at once while refreshes are failing)

Too little is also: a key whose own limit is used up. While the provider is busy, no refresh would help:
a caller queues while `wait` lasts, or is refused at once.

Two things are decided before the balance matters, and no refresh is sent for either. A paused account
admits nothing, whatever it costs: a caller queues while `wait` lasts, or is refused at once. Then come
the budgets around the call: a caller whose budget has no room queues while `wait` lasts, if the budget
may have room in time, or is refused at once.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from budgetguard._core.allowance import Allowance, CallBudget
from budgetguard._core.branch import Reserve
from budgetguard._core.clock import Instant
from budgetguard._core.ledger import LedgerView
from budgetguard._core.snapshot import BalanceSnapshot, Micro

NEVER = float("-inf")

# The time between two refreshes for waiters where `recheck_after` is 0.
SHORTEST_WAIT = 0.05


@dataclass(frozen=True, slots=True)
class GuardTerms:
    """A guard's settings for decisions; seconds and micro-credits. `credential` identifies its key."""

    fresh_for: float
    stale_for: float
    recheck_after: float
    timeout: float
    floor: int
    extra: int
    allow_unknown: bool
    credential: str = ""


@dataclass(frozen=True, slots=True)
class OverBudget:
    """The answer of a shared head that a budget has no room for a caller.

    It is so until a monotonic time, unless the `limit` is changed.
    """

    budget: CallBudget
    until: float
    limit: int


@dataclass(frozen=True, slots=True)
class CallNeed:
    """What one caller requests, and how long it can wait.

    `amount` must be available, and `cost` is set aside. Times are monotonic: `until` is when its
    `wait` is over, `give_up` is its final deadline. A `forced` call repeats one that was admitted and
    failed: it is admitted at once, whatever is available, unless the account is paused. `amount` must
    also be left in each of the `budgets`; if it was set aside before, in a `reserve`, the account needs
    no more.

    With a shared head, `granted` if the head has added it to the lease, `allowances` are then what it counts
    in, and `refused_at` names the state of the account in which the head refused it. `over` is the budget
    that the head said has no room for it.
    """

    amount: int
    cost: int
    slots: int
    arrived: float
    until: float
    give_up: float
    forced: bool = False
    budgets: tuple[CallBudget, ...] = ()
    reserve: Reserve | None = None
    granted: bool = False
    refused_at: int = 0
    allowances: tuple[Allowance, ...] = ()
    over: OverBudget | None = None

    @property
    def draws(self) -> bool:
        """Whether a shared head has to be asked, whatever is at hand."""
        return any(each.shared for each in self.budgets)

    @property
    def bounded_here(self) -> bool:
        """Whether budgets of this process alone bound it."""
        return not all(each.shared for each in self.budgets)

    @property
    def from_account(self) -> int:
        """What must be available in the account."""
        set_aside = self.reserve is not None and self.reserve.covers(self.amount)
        return 0 if set_aside else self.amount


@dataclass(frozen=True, slots=True)
class RefreshState:
    """The state of the refreshes: when the last one was sent, whether it is in flight, the backoff."""

    last_sent: float = NEVER
    in_flight: bool = False
    blocked_until: float = NEVER


@dataclass(frozen=True, slots=True)
class QueuedAhead:
    """What the earlier waiters need."""

    amount: int = 0
    slots: int = 0


NOBODY = QueuedAhead()


class Shortfall(Enum):
    """What a caller lacks; nobody is refused for want of an answer of the shared head."""

    BUDGET = "budget"
    CREDITS = "credits"
    CAP = "cap"
    SLOTS = "slots"
    ANSWER = "answer"
    KEY = "key limit"
    BUSY = "busy"
    UNKNOWN = "unknown"
    PAUSED = "paused"


DRAWN = frozenset({Shortfall.CREDITS, Shortfall.SLOTS, Shortfall.ANSWER})
"""What a shared head may have."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Admit the caller; with `refresh`, a background refresh is due."""

    refresh: bool = False
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Let the caller wait; `refresh_at` is when a refresh is due for it, if any."""

    refresh_at: float | None


@dataclass(frozen=True, slots=True)
class Draw:
    """Let the caller wait until the shared head has answered: it may have what is not at hand."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Refuse the caller. `permanent`: it would not fit even if no other call ran."""

    why: Shortfall
    permanent: bool


Decision: TypeAlias = Admit | Wait | Draw | Refuse


def usable(
    snapshot: BalanceSnapshot | None, terms: GuardTerms, now: Instant, arrived: float
) -> bool:
    """Whether a balance is recent enough to decide; one sent for this caller may take `timeout`."""
    if snapshot is None:
        return False
    oldest = terms.stale_for
    if snapshot.sent.mono >= arrived:
        oldest = max(oldest, terms.timeout)
    return now.since(snapshot.sent) <= oldest


def exceeded(need: CallNeed, now: Instant) -> CallBudget | None:
    """The innermost budget that has no room for the caller; None if all have."""
    if need.budgets and need.amount:
        for budget in need.budgets:
            if not budget.shared and budget.current(now).room < need.amount:
                return budget
    over = need.over
    if over is not None and now.mono < over.until and over.budget.current(now).limit == over.limit:
        return over.budget
    return None


def seems_exceeded(need: CallNeed, now: Instant) -> CallBudget | None:
    """The innermost budget of a shared head that had no room when the head was last heard; None if all had."""
    for budget in need.budgets:
        if budget.shared and need.amount and budget.current(now).room < need.amount:
            return budget
    return None


def has_room_by(budget: CallBudget, need: CallNeed, now: Instant, until: float) -> bool:
    """Whether a budget that has no room may have some for the caller by then, a monotonic time.

    It may where open calls hold what is missing, or where it renews.
    """
    allowance, renews_at = budget.current(now), budget.renews_at(now)
    if allowance.limit < need.amount:
        return False
    renews = renews_at is not None and renews_at - now.wall < until - now.mono
    return renews or allowance.may_free(need.amount)


def shortage(  # noqa: PLR0911  likewise, per kind of shortfall
    ledger: LedgerView, terms: GuardTerms, need: CallNeed, ahead: QueuedAhead, now: Instant
) -> Shortfall | None:
    """What the caller lacks at `now`, by the ledger as it is; None if it fits."""
    if exceeded(need, now) is not None:
        return Shortfall.BUDGET
    snapshot, credits = ledger.snapshot, need.from_account
    assert snapshot is not None
    # First: a caller whose key is refused must not queue for credits, ahead of other keys' callers.
    if need.amount and now.mono < ledger.limited_until(terms.credential):
        return Shortfall.KEY
    if need.amount and need.amount > snapshot.cap:
        return Shortfall.CAP
    if not need.granted:
        if credits and not ledger.at_hand(terms.floor, terms.extra) - ahead.amount >= credits:
            return Shortfall.CREDITS
        if need.slots and not ahead.slots + need.slots <= ledger.slots_at_hand:
            return Shortfall.SLOTS
    if need.amount and now.mono < ledger.busy_until:
        return Shortfall.BUSY
    if ledger.shared and need.draws and not need.granted:
        return Shortfall.ANSWER
    return None


def possible(ledger: LedgerView, terms: GuardTerms, need: CallNeed) -> bool:
    """Whether the caller would fit if nothing else ran."""
    snapshot = ledger.snapshot
    if snapshot is None:
        return False
    most: Micro = snapshot.spendable(terms.extra) - terms.floor
    if need.amount > snapshot.cap:
        return False
    return (not need.from_account or most >= need.amount) and need.slots <= snapshot.slots


def decide(  # noqa: C901, PLR0911, PLR0912  one return per case of the table
    ledger: LedgerView,
    refreshing: RefreshState,
    terms: GuardTerms,
    need: CallNeed,
    ahead: QueuedAhead,
    now: Instant,
) -> Decision:
    """The decision about a caller at `now`; see the table above."""
    # Before all else: whoever pauses an account means every call.
    if ledger.paused is not None:
        waits = now.mono < min(need.until, need.give_up)
        return Wait(None) if waits else Refuse(Shortfall.PAUSED, permanent=False)
    if need.forced:
        return _forced(ledger, refreshing, terms, need, now)
    final = now.mono >= need.give_up
    budget = exceeded(need, now)
    if budget is not None:
        waits = now.mono < need.until and not final
        waits = waits and has_room_by(budget, need, now, need.until)
        return Wait(None) if waits else Refuse(Shortfall.BUDGET, permanent=False)
    failing = not refreshing.in_flight and now.mono < refreshing.blocked_until
    snapshot = ledger.snapshot
    if snapshot is None or not usable(snapshot, terms, now, need.arrived):
        # A refresh that was sent after the caller arrived has failed: it is not repeated.
        failed = not refreshing.in_flight and refreshing.last_sent >= need.arrived
        failed = failed and (snapshot is None or snapshot.sent.mono < refreshing.last_sent)
        if not (final or failing or failed):
            return Wait(None if refreshing.in_flight else now.mono)
        return (
            Admit(unknown=True)
            if terms.allow_unknown
            else Refuse(Shortfall.UNKNOWN, permanent=False)
        )

    lacks = shortage(ledger, terms, need, ahead, now)
    if lacks is None:
        return Admit(refresh=_refresh_behind(ledger, refreshing, terms, need, now))

    if ledger.shared and lacks in DRAWN:
        drawn = _draw(ledger, terms, need, final=final)
        if drawn is not None:
            return drawn
        if lacks is Shortfall.ANSWER and not need.refused_at and possible(ledger, terms, need):
            # It has waited in vain for a word.
            return Refuse(Shortfall.UNKNOWN, permanent=False)
        lacks = _short_in_all(ledger, terms, need, ahead)

    # Waiting helps against no key's limit: who waits for one would block the other keys' callers.
    permanent = lacks is Shortfall.KEY or not possible(ledger, terms, need)
    waits = now.mono < need.until and not permanent
    asked = need.arrived if now.mono < need.until else need.until
    newest = max(snapshot.sent.mono, NEVER if refreshing.in_flight else refreshing.last_sent)
    if lacks is Shortfall.BUSY:
        return Wait(None) if waits and not final else Refuse(lacks, permanent)
    verified = newest >= asked or newest > asked - terms.recheck_after or failing
    if final or (verified and not waits):
        return Refuse(lacks, permanent)
    if refreshing.in_flight:
        return Wait(None)
    if not verified:
        return Wait(now.mono)
    if lacks is Shortfall.SLOTS:
        return Wait(None)
    pause = max(terms.recheck_after, SHORTEST_WAIT)
    return Wait(max(now.mono, refreshing.last_sent + pause))


def _draw(ledger: LedgerView, terms: GuardTerms, need: CallNeed, *, final: bool) -> Decision | None:
    """What a shared head is asked for; None if it has answered, or could not help."""
    if need.refused_at == ledger.answers or not possible(ledger, terms, need):
        return None
    if ledger.away is None and not final:
        return Draw()
    if need.refused_at or (ledger.away is None and not ledger.regroups):
        # It has answered before; or somebody who has slack did not answer in time.
        return None
    if terms.allow_unknown:
        return Admit(unknown=True)
    return Refuse(Shortfall.UNKNOWN, permanent=False)


def _short_in_all(
    ledger: LedgerView, terms: GuardTerms, need: CallNeed, ahead: QueuedAhead
) -> Shortfall:
    """What a caller lacks that the head refused: by the figures of all members, credits first."""
    snapshot, credits = ledger.snapshot, need.from_account
    assert snapshot is not None
    in_use = ledger.slots_in_use + ledger.queued_slots + ahead.slots
    if not need.slots or in_use + need.slots <= snapshot.slots:
        return Shortfall.CREDITS
    left = ledger.available(terms.floor, terms.extra) - ledger.queued - ahead.amount
    return Shortfall.CREDITS if credits and left < credits else Shortfall.SLOTS


def _forced(
    ledger: LedgerView, refreshing: RefreshState, terms: GuardTerms, need: CallNeed, now: Instant
) -> Admit:
    if ledger.snapshot is None or not usable(ledger.snapshot, terms, now, need.arrived):
        due = not refreshing.in_flight and now.mono >= refreshing.blocked_until
        return Admit(refresh=due, unknown=True)
    return Admit(refresh=_refresh_behind(ledger, refreshing, terms, need, now))


def _refresh_behind(
    ledger: LedgerView, refreshing: RefreshState, terms: GuardTerms, need: CallNeed, now: Instant
) -> bool:
    snapshot = ledger.snapshot
    assert snapshot is not None
    if refreshing.in_flight or now.mono < refreshing.blocked_until:
        return False
    if now.since(snapshot.sent) >= terms.fresh_for:
        return True
    left = ledger.available(terms.floor, terms.extra) - need.cost
    return left < need.cost and now.mono >= _recheck_at(refreshing, terms)


def _recheck_at(refreshing: RefreshState, terms: GuardTerms) -> float:
    return refreshing.last_sent + terms.recheck_after


def ready_in(
    ledger: LedgerView, refreshing: RefreshState, terms: GuardTerms, need: CallNeed, now: Instant
) -> float:
    """The least number of seconds until a refused caller can fit.

    Running calls may finish at any time. So if what they hold is enough, the bound is the next
    refresh, which is not sent during a backoff. Otherwise enough debits, including kept ones, have
    to clear as well.
    """
    snapshot = ledger.snapshot
    assert snapshot is not None
    due = max(snapshot.sent.mono + terms.recheck_after, refreshing.blocked_until)
    # Not `available`: the part of a debit that the balance already shows is freed by nothing.
    most = snapshot.spendable(terms.extra) - terms.floor - ledger.pending
    short = need.amount - most if need.amount else 0
    left_by = ledger.left_by(short, _slots_short(ledger, need))
    return max(due, NEVER if left_by is None else left_by, now.mono) - now.mono


def slot_in(ledger: LedgerView, terms: GuardTerms, need: CallNeed, now: Instant) -> float:
    """The least number of seconds until a caller that lacks slots can fit.

    Running sessions may end at any time. If they are too few, kept ones have to clear as well.
    """
    left_by = ledger.left_by(0, _slots_short(ledger, need))
    return max(terms.recheck_after, 0.0 if left_by is None else left_by - now.mono)


def _slots_short(ledger: LedgerView, need: CallNeed) -> float:
    assert ledger.snapshot is not None
    return need.slots + ledger.kept.slots - ledger.snapshot.slots if need.slots else 0


def decide_reading(
    snapshot: BalanceSnapshot | None,
    refreshing: RefreshState,
    oldest: float,
    give_up: float,
    now: Instant,
) -> Decision:
    """The decision about a caller that only reads a balance sent at or after `oldest`."""
    if snapshot is not None and snapshot.sent.mono >= oldest:
        return Admit()
    if now.mono >= give_up or (not refreshing.in_flight and now.mono < refreshing.blocked_until):
        return Refuse(Shortfall.UNKNOWN, permanent=False)
    return Wait(None if refreshing.in_flight else now.mono)
