"""The ledger of a process that shares its account: its own calls, its lease, and what the head last said.

The process admits calls from its *slack* (`room`): the part of its lease that no call of its own uses.
What it lacks it draws from the head. Everything else that decisions and errors need, such as the balance
and the figures of all members, is as of the head's last reply.

    lease = held + room + finished calls that are not reported yet

That sum changes only by messages. A message tells the head what is held and how much of the room is kept
meanwhile; the reply says what the lease is. What changes in between changes the parts and not the sum.

Pure: no clock, no lock, no I/O. Amounts are integer micro-credits. Stamps of the head's clock become
monotonic seconds of this process here.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeAlias

from budgetguard._core.branch import Branch
from budgetguard._core.clock import Instant
from budgetguard._core.debits import Causes, Debits
from budgetguard._core.drawn_budgets import DrawnBudgets
from budgetguard._core.ledger import Ledger
from budgetguard._core.other_spenders import Belief
from budgetguard._core.pause import PausedBy
from budgetguard._core.snapshot import BalanceSnapshot, Micro, refused
from budgetguard._core.store_messages import NEVER, Message, Reply, Report, View
from budgetguard._core.unreported import Unreported


@dataclass(frozen=True, slots=True)
class KeptOfAll:
    """Calls of all members whose cost is not known; the figures that `Kept` has."""

    total: int = 0
    slots: int = 0
    calls: Causes = field(default_factory=Counter)
    sessions: Causes = field(default_factory=Counter)
    next_clears_at: float | None = None
    last_clears_at: float | None = None

    @property
    def last_slot_clears_at(self) -> float | None:
        """When the last session clears, or a little later; None without any."""
        return self.last_clears_at if self.slots else None


class LeasedLedger(Branch):
    """A ledger whose head is elsewhere.

    `answers` names the state of the account in which the head refused needs: what it refused is asked
    again in another one. `one_level` is False if guards of this process have different floors or extra
    credits, and so may not use each other's slack.
    """

    __slots__ = (
        "_busy_until",
        "_kept",
        "_limited",
        "_offset",
        "_pauses",
        "_returned",
        "_sent",
        "_slack_there",
        "_slots",
        "_slots_returned",
        "_snapshot",
        "answers",
        "away",
        "budgets",
        "history",
        "message",
        "mine",
        "my_sessions",
        "one_level",
        "retry_at",
        "view",
    )

    shared: bool = True
    head: Unreported

    def __init__(self, budgets: DrawnBudgets) -> None:
        super().__init__(Unreported(1))
        self.budgets = budgets
        self.view = View(NEVER)
        self.one_level = True
        # Why the store gives no answers at present, and when it is asked again.
        self.away: str | None = None
        self.retry_at = NEVER
        # What a message that is under way told the head: what is held, and kept of the slack.
        self.message: Report | None = None
        # Reported calls whose debits a balance may not show yet, in case another head has to hear of them.
        self.history = Unreported(0)
        # What the message that is under way reports as finished.
        self._sent = Unreported(0)
        self.answers = 0
        # What slack and slots it gives back. Until the reply is there, the last view counts them in the lease.
        self._returned = 0
        self._slots_returned = 0
        # This process's slack as the last view counts it.
        self._slack_there = 0
        # Whether the head counts this process among those that have a lease.
        self.mine = False
        # And among those that have open sessions.
        self.my_sessions = False
        self._slots = 0
        self._offset = 0.0
        self._snapshot: BalanceSnapshot | None = None
        self._kept = KeptOfAll()
        self._busy_until = NEVER
        self._limited: dict[str, float] = {}
        self._pauses: dict[PausedBy, str] = {}

    # What decisions and errors read.

    @property
    def snapshot(self) -> BalanceSnapshot | None:
        """The cached balance, with the time of this process."""
        return self._snapshot

    @property
    def settled(self) -> Debits:
        """The cost of this process's finished calls, until it is reported."""
        return self.head.settled

    @property
    def kept(self) -> KeptOfAll:
        """Calls of all members whose cost is not known; of this one, with those not reported yet."""
        figures = self._kept
        for mine in (self._sent.kept, self.head.kept):
            if mine.next_clears_at is None:
                continue
            clears = (mine.next_clears_at, figures.next_clears_at)
            last = (mine.last_clears_at, figures.last_clears_at)
            figures = KeptOfAll(
                figures.total + mine.total,
                figures.slots + mine.slots,
                figures.calls + mine.calls,
                figures.sessions + mine.sessions,
                min(each for each in clears if each is not None),
                max(each for each in last if each is not None),
            )
        return figures

    @property
    def pending(self) -> int:
        """Debits of all members that the balance cannot show yet; of this one, with those not reported yet."""
        return self.view.settled + self.view.kept + self._unreported

    @property
    def held_by_all(self) -> int:
        """What open calls of all members hold, as far as is known."""
        # Room below zero: finished calls cost more than the lease had.
        mine = int(self.room) + self._returned + self._unreported
        return self.view.leased - mine - self.slack_elsewhere

    @property
    def slack_elsewhere(self) -> int:
        """What other members have in their leases, and no call of theirs used when they last said so."""
        return max(self.view.leased - self.view.used - self._slack_there, 0)

    @property
    def _unreported(self) -> int:
        return self.head.total + self._sent.total

    @property
    def running_of_all(self) -> int:
        """How many calls of all members are running."""
        return max(self.view.running, self.running)

    @property
    def holders(self) -> int:
        """How many members hold what is held by all: this process only if it has open calls."""
        return self.view.holders - self.mine + bool(self.held)

    @property
    def slot_holders(self) -> int:
        """How many members have open sessions, this one as it is now."""
        return self.view.slot_holders - self.my_sessions + bool(self.slots_held)

    @property
    def queued(self) -> int:
        """What callers in other members wait for."""
        return self.view.queued

    @property
    def queued_slots(self) -> int:
        """The slots that they wait for."""
        return self.view.queued_slots

    @property
    def slots_in_use(self) -> int:
        """Sessions of all members that are open or may be open."""
        given_back = self.slots_free + self._slots_returned
        return self.view.slots + self.view.kept_slots - given_back

    @property
    def slots_free(self) -> int:
        """Sessions that ended here, and that the head does not know of. One that may still be open did not."""
        return self._slots - self.slots_held - self.head.kept.slots

    @property
    def busy_until(self) -> float:
        """Until when the provider refuses calls although the account has credits."""
        return self._busy_until

    @property
    def paused(self) -> str | None:
        """Why nothing is admitted at all; None unless somebody has paused the account."""
        return next(iter(self._pauses.values()), None)

    @property
    def paused_by(self) -> PausedBy:
        """Who has paused the account; only while it is paused."""
        return next(iter(self._pauses))

    @property
    def paused_by_member(self) -> bool:
        """Whether the account is paused for all members, so that only the head tells when that ends."""
        return not self._pauses.keys().isdisjoint({"guard", "store"})

    def limited_until(self, credential: str) -> float:
        """Until when a key is refused because of a limit of its own."""
        return self._limited.get(credential, NEVER)

    def any_limited(self, now: float) -> bool:
        """Whether some key is refused, or every call is."""
        return self._busy_until > now or any(at > now for at in self._limited.values())

    def available(self, floor: int, extra: int) -> Micro:
        """What could be promised now: what is free, and the slack of all members, which can be recalled."""
        assert self._snapshot is not None
        return self._snapshot.before_holds(extra) - floor - self.held_by_all - self.pending

    def at_hand(self, floor: int, extra: int) -> Micro:
        """What can be taken without a word to the head.

        The balance may have fallen, or be refused, since the lease was given.
        """
        if not self.usable:
            return 0
        if self._snapshot is None:
            return self.room
        return min(self.room, self.available(floor, extra) - self.slack_elsewhere)

    @property
    def usable(self) -> bool:
        """Whether the slack may be taken from without a word to the head.

        While somebody is short, what calls of this process free is for whoever has waited longest, and
        that may be a caller of another process.
        """
        return self.one_level and not self.view.exact

    @property
    def slots_at_hand(self) -> float:
        """Sessions that can be opened without a word to the head: those that ended here, within the limit."""
        if self.view.queued_slots:
            return 0
        if self._snapshot is None:
            return self.slots_free
        return min(self.slots_free, self._snapshot.slots - self.slots_in_use)

    def left_by(self, amount: Micro, slots: float) -> float | None:
        """When debits of that many micro-credits and slots will have cleared, as of the last reply.

        None if no debit has to clear for that, or if there are too few debits.
        """
        if amount <= 0 and slots <= 0:
            return None
        for clears_at, credits, sessions in self.view.debits:
            amount -= credits
            slots -= sessions
            if amount <= 0 and slots <= 0:
                return self.time_of(clears_at)
        return None

    def time_of(self, stamp: float) -> float:
        """A stamp of the head's clock in this process's monotonic seconds; not later than it was."""
        return stamp + self._offset

    @property
    def regroups(self) -> bool:
        """Whether the head has lost its state, and waits for its members to say what they hold."""
        return not self.view.granting

    def headless(self, now: float) -> tuple[str, float] | None:
        """Why the head grants nothing, and in how many seconds it may; None if it does."""
        if self.away is not None:
            return self.away, max(self.retry_at - now, 0.0)
        if not self.regroups:
            return None
        at = self.view.granting_at
        return _REGROUPS, 1.0 if at is None else max(self.time_of(at) - now, 0.0)

    # What this process learns by itself, before the head has heard of it.

    def refuse(self, now: Instant, lag: float) -> None:
        """The provider refused a call for lack of credits: nothing is left, slack included."""
        cached = self._snapshot
        if cached is not None:
            self._snapshot = refused(
                replace(cached, sent=now, overlap=0, ceiling_overlap=0), now.mono + lag
            )
        self.room = min(self.room, 0)

    def busy(self, until: float) -> None:
        """The provider refuses calls until then although the account has credits."""
        self._busy_until = max(self._busy_until, until)

    def limit_key(self, credential: str, until: float, now: float) -> None:  # noqa: ARG002
        """A key has reached a limit of its own, and is refused until then or until the balance rises."""
        self._limited[credential] = max(until, self._limited.get(credential, until))

    def pause(self, by: PausedBy, reason: str | None) -> None:
        """Somebody pauses the account, for that reason; None: they no longer do."""
        if reason is None:
            self._pauses.pop(by, None)
        else:
            self._pauses[by] = reason

    def reason_of(self, by: PausedBy) -> str | None:
        """For what reason they have paused the account; None if they have not."""
        return self._pauses.get(by)

    @property
    def belief(self) -> Belief | None:
        """Whether spenders that are no members are believed in; None before the first balance."""
        others = self.view.others
        if self._snapshot is None or others.setting is False:
            return None
        since = Instant(self.time_of(others.since), others.wall)
        return Belief(others.others, since, others.proven, others.spell)

    def distrusts(self, now: float) -> bool:  # noqa: ARG002  the head remembers it
        """Whether there is a proof of other spenders that must not be forgotten."""
        return False

    # Messages.

    def report(
        self, now: Instant, *, give_back: bool, margin: float, again: bool, whole: bool
    ) -> Report:
        """What to tell the head; with `give_back`, that it may have the slack.

        From here on the slack is what was kept. The calls that finished are those since the last report;
        with `whole`, also all earlier ones that balances may not show yet. What they spent of budgets is told
        `again` in each message that joins.
        """
        sent, self.head = self.head, Unreported(self.head.others.epoch + 1)
        self.epoch = self.head.others.epoch
        self._sent = sent
        told = sent
        if whole:
            told = Unreported(0)
            told.add(self.history)
            told.add(sent)
        keep = 0 if give_back else max(self.room, 0)
        self._returned, self.room = int(self.room - keep), keep
        self.message = Report(
            used=self.held,
            keep=int(self.room),
            slots=self.slots_held,
            running=self.running,
            settled=tuple(told.settled_from(now.mono, margin)),
            kept=tuple(told.kept_from(now.mono, margin)),
            saved=() if whole else tuple(sent.others.by_epoch.items()),
            budgets=self.budgets.report(now, again=again),
        )
        self._slots_returned = self.slots_free - sent.kept.slots
        self._slots = self.slots_held
        return self.message

    def accept(self, message: Message, reply: Reply, drawn: int) -> None:
        """The reply to the message that is under way: the lease changes by what it says; `drawn` was granted."""
        told, self.message = self.message, None
        self.remember()
        assert told is not None
        self._slack_there = reply.lease - told.used - drawn
        self.room += reply.lease - told.used - told.keep
        self._slots += reply.slots - told.slots
        self.mine, self.my_sessions = reply.lease > 0, reply.slots > 0
        self.budgets.accept(message.report.needs, reply)
        if message.leave:
            self.budgets.leave()

    def remember(self) -> None:
        """The head has heard of the calls that the message under way reported as finished."""
        self.history.add(self._sent)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._sent = Unreported(0)
        self._returned = self._slots_returned = 0

    def disregard(self) -> None:
        """The message that is under way has not taken effect, and never will: the next one has to tell it."""
        self.message = None
        self.head.add(self._sent)
        self._begin_anew()

    def lapse(self) -> int:
        """The slack is no longer this process's; returns how much it was."""
        lost = int(max(self.room, 0))
        self.room = min(self.room, 0)
        self._slots -= max(self.slots_free, 0)
        return lost

    @property
    def has_slack(self) -> bool:
        """Whether there are credits or sessions that no call holds."""
        return self.room > 0 or self.slots_free > 0

    def see(self, view: View, sent: float, *, anew: bool, wall_ahead: float | None = None) -> bool:
        """Take over what the head sees; `sent` is when its message was, `anew` if it is another head.

        `wall_ahead` is by how much the wall clock here is ahead of the monotonic one, where others may have
        another wall clock; None on one machine.

        Returns whether the balance is another one.
        """
        before, self.view = self.view, view
        self._offset = sent - view.now
        self.budgets.see(view, sent)
        changed = anew or view.balances != before.balances
        if changed:
            self._snapshot = self._localized(view.snapshot, wall_ahead)
            self.answers = next(_ANSWERS)
        if self._snapshot is not None:
            # Some of these are cleared at the head a little later than here, by its own stamps.
            self.history.clear(self._snapshot.sent.mono - _HISTORY)
        self._kept = KeptOfAll(
            view.kept,
            view.kept_slots,
            Counter(dict(view.kept_calls)),
            Counter(dict(view.kept_sessions)),
            None if view.kept_next is None else self.time_of(view.kept_next),
            None if view.kept_last is None else self.time_of(view.kept_last),
        )
        self._busy_until = self.time_of(view.busy_until)
        self._limited = {key: self.time_of(at) for key, at in view.limited}
        return changed

    def _localized(
        self, snapshot: BalanceSnapshot | None, wall_ahead: float | None
    ) -> BalanceSnapshot | None:
        if snapshot is None:
            return None
        until, mono = snapshot.refused_until, self.time_of(snapshot.sent.mono)
        # Another machine's wall clock says nothing of how old a balance is by this one's.
        wall = snapshot.sent.wall if wall_ahead is None else mono + wall_ahead
        return replace(
            snapshot,
            sent=Instant(mono, wall),
            refused_until=None if until is None else self.time_of(until),
        )


AnyLedger: TypeAlias = Ledger | LeasedLedger
"""The ledger of one account in this process, wherever its head is."""

# Answers are told apart also across ledgers, since a forked child has another one.
_ANSWERS = count(1)

_REGROUPS = "its store has lost what it knew, and waits for other processes to say what they hold"

# Seconds for which a debit is remembered after a balance has cleared it.
_HISTORY = 60.0
