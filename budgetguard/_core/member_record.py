"""What the head of a shared account knows about one member: its lease, its session, and its debits."""

from typing import Literal

from budgetguard._core.debits import Debits, Kept
from budgetguard._core.errors import DIED
from budgetguard._core.queued_needs import QueuedNeeds
from budgetguard._core.store_messages import NEVER, TICK, Need, Reply, Report

MOST_BUCKETS = 64
"""Of each kind of debits. The whole state is read and written with a message, so it has to be small."""


class MemberRecord:
    """One member: `lease` is what it may use, of which `used` is held by open calls, as last reported.

    `number` is that of the last message that took effect, `reply` what was answered. `gone` if it died or
    left; the record remains until its debits are cleared. Its `settled` and `kept` debits are those of its own
    calls, so that it can replace them in a new epoch; `lost` is the lease that it had when it was given up.
    It was asked at `asked_at` to give its slack back, if it has not answered the last recall. It was woken at
    `woken_at`, if it has sent nothing since. `turn` counts the messages of all members up to its last one.
    """

    __slots__ = (
        "asked_at",
        "extra",
        "floor",
        "format",
        "gone",
        "heard",
        "hold_for",
        "kept",
        "lease",
        "lost",
        "needs",
        "number",
        "patience",
        "recall",
        "reply",
        "running",
        "settled",
        "slots",
        "sole_spender",
        "turn",
        "used",
        "waits_for_refresh",
        "woken_at",
        "words",
    )

    def __init__(self) -> None:
        self.lease = 0
        self.used = 0
        self.slots = 0
        self.running = 0
        self.number = 0
        self.reply: Reply | None = None
        self.heard = NEVER
        self.hold_for: float | None = None
        self.patience = 0.0
        self.floor = 0
        self.extra = 0
        self.recall = 0
        self.asked_at = self.woken_at = NEVER
        self.turn = 0
        self.gone = False
        self.waits_for_refresh = False
        self.needs: list[QueuedNeeds] = []
        self.settled = Debits(MOST_BUCKETS)
        self.kept = Kept(MOST_BUCKETS)
        self.lost = Kept(MOST_BUCKETS)
        self.sole_spender: bool | Literal["auto"] = "auto"
        self.words: tuple[tuple[str, str], ...] = ()
        self.format = 0

    @property
    def slack(self) -> int:
        """The part of its lease that no call was using when it last reported."""
        return self.lease - self.used

    @property
    def pending(self) -> int:
        """Its debits that no balance shows yet."""
        return self.settled.total + self.kept.total + self.lost.total

    @property
    def unresolved(self) -> tuple[Kept, Kept]:
        """Its calls whose cost is not known."""
        return self.kept, self.lost

    @property
    def slots_in_use(self) -> int:
        """Its sessions that are open or may be open."""
        return self.slots + self.kept.slots + self.lost.slots

    def silent(self, now: float) -> bool:
        """Whether it was not heard for so long that its lease is no longer its own."""
        return self.hold_for is not None and now >= self.heard + self.hold_for

    def come_back(self, *, whole: bool) -> None:
        """It is no longer lost: its next report says what it holds, and with `whole` all that finished."""
        self.gone = False
        self.lost = Kept(MOST_BUCKETS)
        if whole:
            self.settled, self.kept = Debits(MOST_BUCKETS), Kept(MOST_BUCKETS)

    def finish(self, report: Report, latest: float) -> None:
        """Count its finished calls as debits; it is `latest` at most.

        A call that is reported late counts from its report: the account's clock may have stood still, so
        nobody can tell what time it showed when the call finished.
        """
        # A refresh may have begun at this same time, before these calls finished.
        first = latest + TICK
        for debit in report.settled:
            self.settled.add(debit.amount, max(latest + debit.clears_in, first))
        for kept in report.kept:
            clears_at = max(latest + kept.clears_in, first)
            self.kept.add_counted(kept.amount, clears_at, kept.slots, kept.calls, kept.sessions)
        self.patience = max(self.patience, report.patience)

    def hold(self, report: Report) -> None:
        """Its lease is now exactly what its open calls use and what it keeps."""
        self.used, self.slots, self.running = report.used, report.slots, report.running
        self.lease = report.used + report.keep
        self.floor, self.extra = report.floor, report.extra
        self.recall = max(self.recall, report.recall)

    def queue(self, needs: tuple[Need, ...], first: int) -> int:
        """Its callers that wait, in place of the last ones; new ones get places from `first` on."""
        known = {ticket: each for each in self.needs for ticket in each.tickets}
        queued: list[QueuedNeeds] = []
        last: QueuedNeeds | None = None
        for need in needs:
            before = known.get(need.ticket)
            if queued and before is last and need.like(queued[-1].need):
                queued[-1].tickets.append(need.ticket)
            else:
                group = QueuedNeeds(need, first, self.turn)
                if before is not None:
                    group.order, group.turn, group.told = before.order, before.turn, before.told
                queued.append(group)
            last = before
            first += before is None
        self.needs = queued
        return first

    def die(self, now: float) -> None:
        """It is gone without a word: all that it held counts until a balance must show it."""
        if self.lease or self.slots:
            calls = max(self.running, 1)
            sessions = ((DIED, self.slots),) if self.slots else ()
            self.lost.add_counted(
                self.lease, now + self.patience, self.slots, ((DIED, calls),), sessions
            )
        self._retire()

    def leave(self, now: float) -> None:
        """It says that it goes. What it still uses counts as if it had died; its slack is free."""
        self.lease = self.used
        self.die(now)

    def _retire(self) -> None:
        self.lease = self.used = self.slots = self.running = 0
        self.needs = []
        self.gone, self.waits_for_refresh = True, False

    def clear_debits(self, sent: float) -> None:
        """Drop the debits that a balance which was requested at `sent` must show."""
        self.settled.clear(sent)
        self.kept.clear(sent)
        self.lost.clear(sent)

    def cleared_by(self, now: float) -> bool:
        """Whether a balance that is requested at `now` shows all its debits."""
        last = [each.last_clears_at for each in (self.settled, self.kept, self.lost)]
        return all(at is None or at <= now for at in last)

    @property
    def forgettable(self) -> bool:
        """Whether it is gone and no debit of its remains."""
        debits = (self.settled, self.kept, self.lost)
        return self.gone and all(each.next_clears_at is None for each in debits)
