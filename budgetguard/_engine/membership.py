"""The session of this process with the head of a shared account: which message is next, and when it is due.

There is one message under way at a time, and whatever comes up meanwhile goes into the next. A message
whose reply was lost is sent again as it was: the head tells by its number that it has taken effect.

When a message is due:

    at once      a caller lacks what is not at hand, somebody's refresh is due, news, a recall,
                 or any change while somebody is short
    0.1 s        after the last one, if calls finished or slack was taken
    0.25 s       after the last one, if callers came behind others that need the same and have no answer yet
    1 s          after the last one, while callers of this process wait, or a member has paused the account
    2 s          after the last call: the slack is given back
    hold_for/3   after the last one, as long as there is a lease

Everything here needs the account's lock. Amounts are micro-credits, times are monotonic seconds.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from budgetguard._core.clock import Instant
from budgetguard._core.store_messages import (
    NEVER,
    Join,
    Landing,
    Message,
    Need,
    News,
    Reply,
    ticks_down,
)
from budgetguard._engine.refresh_schedule import GRACE, LATER

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgetguard._core.leased_ledger import LeasedLedger
    from budgetguard._core.other_spenders import SoleSpender
    from budgetguard._engine.refresh_schedule import Refresh
    from budgetguard.stores.base import Store

BEAT = 0.1
GATHER = 0.25
WAITING_BEAT = 1.05
IDLE = 2.0
LONGEST_CHECK = 1.0

# A part of hold_for: two clocks may differ in rate, and the last words before a lease ends take time.
MARGIN = 0.05

# Slack for so many seconds of calls, by how many there were lately.
AHEAD = 0.2

# Seconds for which a reply tells how late it is: two clocks differ in rate.
ANCHORED = 10.0

FIRST_RETRY = 0.2
LONGEST_RETRY = 5.0


@dataclass(frozen=True, slots=True)
class MemberTerms:
    """What a process says of itself in its session: `hold_for` in seconds, None if the store knows who lives."""

    hold_for: float | None
    topup_step: int | None
    unit: str | None
    words: tuple[tuple[str, str], ...] = ()


class Membership:
    """The session of one account in one process.

    `away` is set while the store gives no answers. `until` is how long the slack may be taken from.
    """

    def __init__(self, store: "Store", ledger: "LeasedLedger", terms: MemberTerms) -> None:
        self.store = store
        self._ledger = ledger
        self._terms = terms
        self.epoch = ""
        self._number = 0
        self.under_way: Message | None = None
        self._first_sent = Instant(NEVER, NEVER)
        self._sent = NEVER
        # The stamp of the last reply, and the same moment here; and those of the reply before it.
        self._seen = (NEVER, NEVER)
        self._seen_before = (NEVER, NEVER)
        # The reply that says most of how late it must be by the head's clock.
        self._anchor = (NEVER, NEVER)
        self._dropped = 0.0
        # Whether the next message has to say everything.
        self._again = True
        # And whether that is about calls, too, which another head has not heard of.
        self._whole = True
        self._joined = False
        self.nudged = False
        self.news: list[News] = []
        self.landing: Landing | None = None
        self.wish: Refresh | None = None
        self._wished_after = NEVER
        self.following = False
        # Whether callers of this process wait, for whatever: only the head tells when a pause has ended.
        self.waits = False
        # And whether some have come behind those that the head knows of.
        self.gathers = False
        self._right: tuple[str, int] = ("", 0)
        self.patience = 0.0
        self._levels: set[tuple[int, int]] = set()
        self._sole_spender: SoleSpender = "auto"
        self._failures = 0
        self._retry_at = NEVER
        self._room_then = 0
        self._held_then = 0
        self._drawn = 0
        self._largest = 0
        self._pace = 0.0
        self._active_at = NEVER
        self._recalled = 0
        self.until_mono = self.until_wall = LATER if terms.hold_for is None else NEVER

    # Who this process is.

    def welcome(self, level: tuple[int, int], sole_spender: "SoleSpender", patience: float) -> None:
        """A guard joined: its floor and extra credits, its word on other spenders, and its patience."""
        self._levels.add(level)
        self.patience = max(self.patience, patience)
        setting = sole_spender
        if setting is False or (setting is True and self._sole_spender == "auto"):
            self._sole_spender = setting
            self._again = True

    @property
    def one_level(self) -> bool:
        """Whether all guards may take from the same slack."""
        return len(self._levels) <= 1

    # When a message is due.

    def ready(self, now: Instant, *, drawing: bool) -> bool:
        """Whether a message is due; `drawing` if a caller came that lacks what is not at hand."""
        if self.under_way is not None:
            return now.mono >= self._again_at()
        if drawing or self._urgent():
            return True
        return self._joined and now.mono >= self._due(now.mono)

    def alarm(self, now: Instant) -> float:
        """When to check again."""
        if self.under_way is not None:
            return self._again_at()
        if not self._joined:
            return LATER
        due = self._due(now.mono)
        ledger = self._ledger
        if ledger.held or ledger.room > 0 or ledger.running:
            # Calls on the fast path tell nobody that they finish.
            pause = (now.mono - self._active_at) / 8
            due = min(due, now.mono + min(max(pause, BEAT), LONGEST_CHECK))
        return due

    def _urgent(self) -> bool:
        ledger = self._ledger
        return bool(
            self.nudged
            or self.news
            or self.landing is not None
            or (self.wish is not None and not self.following and not self.refreshes)
            or (self._joined and self._again)
            or (ledger.room > 0 and (ledger.view.recall > self._recalled or ledger.queued > 0))
        )

    def _again_at(self) -> float:
        """When to send once more what is under way: also if whatever was to carry it was interrupted."""
        if self._ledger.away is not None:
            return self._retry_at
        return self._sent + self.store.timeout + GRACE

    def _due(self, now: float) -> float:
        ledger, due = self._ledger, LATER
        if ledger.budgets.changed:
            due = self._sent + BEAT
        if self.gathers:
            due = min(due, self._sent + GATHER)
        moved = ledger.room != self._room_then or ledger.held != self._held_then
        if ledger.head or moved or ledger.slots_free:
            self._active_at = now
            due = min(due, self._sent + (0.0 if ledger.view.exact else BEAT))
        if self.waits or self.following or ledger.paused_by_member:
            due = min(due, self._sent + WAITING_BEAT)
        if ledger.room > 0:
            due = min(due, self._active_at + IDLE)
        hold_for = self._terms.hold_for
        if hold_for is not None and (ledger.room > 0 or ledger.held or ledger.running):
            due = min(due, self._sent + hold_for / 3)
        return due

    @property
    def may_be_known(self) -> bool:
        """Whether the head may know of this process, and has to hear that it goes."""
        return self._joined or self.under_way is not None

    @property
    def joined(self) -> bool:
        """Whether the head knows of this process."""
        return self._joined

    @property
    def listens(self) -> bool:
        """Whether hints of the store are of use."""
        ledger = self._ledger
        waits = self.waits or self.following
        return bool(waits or ledger.room > 0 or ledger.held or ledger.slots_held)

    # The next message.

    def build(
        self,
        now: Instant,
        member: str,
        needs: "Callable[[], tuple[Need, ...]]",
        *,
        leave: bool = False,
    ) -> Message:
        """The message that is due: the next one, or the one that is under way once more.

        With `leave` it is the last one: the head then expects to hear no more of this process.
        """
        if self.under_way is not None:
            self._sent = now.mono
            # Until the outcome is known; then it is planned anew.
            self._retry_at = now.mono + self.store.timeout + GRACE
            return self.under_way
        ledger, view = self._ledger, self._ledger.view
        idle = now.mono >= self._active_at + IDLE and not ledger.head
        recalled = view.recall > self._recalled
        wanted = needs()
        give_back = idle or recalled or leave or not ledger.usable or self._short(wanted)
        self._measure(now.mono)
        again, self._again = self._again, False
        whole, self._whole = again and self._whole, False
        report = ledger.report(
            now,
            give_back=give_back,
            margin=2 * self.store.drift * self.patience,
            again=again,
            whole=whole,
        )
        if wanted:
            self._active_at = now.mono
        drawn = (need.drawn for need in wanted if not need.budgets)
        self._largest = max([self._largest * 9 // 10, *drawn])
        floor, extra = self.level
        want = 0 if idle or not ledger.one_level else self._want()
        report = replace(
            report,
            needs=wanted,
            want=max(want, report.keep),
            floor=floor,
            extra=extra,
            recall=view.recall,
            patience=self.patience,
        )
        self._number += 1
        join = None
        if again:
            join = Join(
                hold_for=self._terms.hold_for,
                sole_spender=self._sole_spender,
                topup_step=self._terms.topup_step,
                unit=self._terms.unit,
                whole=whole,
                words=self._terms.words,
            )
        wish = self.wish
        asks = wish is not None and self.landing is None and not self._right[1]
        message = Message(
            member=member,
            number=self._number,
            epoch=self.epoch,
            seen=self._anchor[0],
            dropped=self._dropped,
            elapsed=max(ticks_down(now.mono - self._anchor[1]), 0.0) if self.epoch else 0.0,
            report=report,
            join=join,
            refresh_after=self._wished_after if asks else None,
            refresh_timeout=wish.subscriber.terms.timeout if wish is not None else 0.0,
            landing=self.landing,
            news=tuple(self.news),
            leave=leave,
        )
        self.news, self.landing, self.nudged = [], None, False
        self.following = asks
        self.under_way, self._first_sent, self._sent = message, now, now.mono
        return message

    def _short(self, wanted: tuple[Need, ...]) -> bool:
        """Whether, as far as is known, these needs require this process's slack as well."""
        if not wanted:
            return False
        ledger = self._ledger
        left = min(ledger.available(need.floor, need.extra) for need in wanted)
        left -= ledger.slack_elsewhere
        return left - max(ledger.room, 0) < sum(need.from_account for need in wanted)

    @property
    def level(self) -> tuple[int, int]:
        """The highest floor of this process's guards, and the fewest extra credits."""
        floors = [floor for floor, _ in self._levels]
        extras = [extra for _, extra in self._levels]
        return max(floors, default=0), min(extras, default=0)

    def _measure(self, now: float) -> None:
        """How many credits were taken per second since the last message, in a decaying average."""
        ledger = self._ledger
        taken = max(self._room_then - ledger.room, 0) + self._drawn
        seconds = max(now - self._sent, BEAT / 2)
        self._pace = max(taken / seconds, self._pace * 0.7)
        self._drawn = 0

    def _want(self) -> int:
        # At least two of the largest calls: the fast path leaves one in reserve.
        return max(int(self._pace * AHEAD), 2 * self._largest)

    # The answer.

    def receive(self, message: Message, reply: Reply, now: Instant) -> bool:
        """Take a reply; False if it is not one to the message that is under way."""
        if message is not self.under_way:
            return False
        self.under_way = None
        ledger = self._ledger
        ledger.away, self._failures, self._retry_at = None, 0, NEVER
        anew = reply.epoch != self.epoch
        if anew and self.epoch:
            # By a clock that is not ahead of the old head's: windows then rather end too late.
            stamp, here = self._anchor
            before = stamp + self._first_sent.mono - here
            ledger.budgets.rebase(reply.view.latest - before)
        if anew:
            self._right = ("", 0)
            # Stamps of another clock compare to nothing.
            self._wished_after = NEVER
        self.epoch = reply.epoch
        self._seen_before = self._seen
        self._seen = (reply.view.now, now.mono)
        stamp, here = self._anchor
        # A reply is received later than the head gave it. Only the one that took the shortest counts, or
        # each message would cost the head's clock the time of a round trip.
        late = stamp + self._dropped - here
        earlier = reply.view.now + reply.view.dropped - now.mono > late
        if anew or earlier or now.mono - here > ANCHORED:
            self._anchor, self._dropped = self._seen, reply.view.dropped
        if reply.status == "done":
            self._joined = not message.leave
            self._again = self._again or message.leave
            self._recalled = message.report.recall
            report = message.report
            tickets = set(reply.granted)
            granted = [need for need in report.needs if need.ticket in tickets]
            ledger.accept(message, reply, sum(need.drawn for need in granted))
            # Slack would not spare calls in a budget of the head the way there.
            self._drawn = sum(need.drawn for need in granted if not need.budgets)
            # What the head knows. What changed while the message was under way is told in the next.
            self._held_then = report.used + sum(need.drawn for need in granted)
            self._room_then = reply.lease - self._held_then
            self._vouch()
        else:
            if message.number <= reply.number and not anew:
                # It took effect, and was not answered in time.
                ledger.remember()
            ledger.disregard()
            self._again, self._joined = True, True
            self._whole = self._whole or anew or (message.join is not None and message.join.whole)
            self.following = False
            if reply.status == "old":
                self._number = max(self._number, reply.number)
            self.news = [*message.news, *self.news]
        return True

    def part(self) -> None:
        """The link was given up. Whoever still uses the account joins as another member."""
        if self.under_way is not None:
            self.under_way = None
            self._ledger.disregard()
        self._joined, self._again, self._whole, self.epoch = False, True, True, ""

    def _vouch(self) -> None:
        hold_for = self._terms.hold_for
        if hold_for is not None:
            # From when it was first sent: it may have been received then.
            until = hold_for * (1 - MARGIN)
            self.until_mono = self._first_sent.mono + until
            self.until_wall = self._first_sent.wall + until

    def lapsed(self, now: Instant) -> bool:
        """Whether the slack may no longer be taken from, because the head was not heard for too long."""
        return now.mono >= self.until_mono or now.wall >= self.until_wall

    def lost(self, reason: str, now: Instant, jitter: "Callable[[float, float], float]") -> None:
        """The store did not answer: the same message is sent again later."""
        self._failures += 1
        self._ledger.away = reason
        most = min(FIRST_RETRY * 2 ** min(self._failures - 1, 10), LONGEST_RETRY)
        self._retry_at = now.mono + jitter(most / 2, most)
        self._sent = now.mono
        self._ledger.retry_at = self._retry_at

    @property
    def retry_at(self) -> float:
        """When the store is asked again."""
        return self._retry_at

    def sent_at(self, message: Message) -> float:
        """When the message under way was last sent; the reply is to that or to an earlier time."""
        return self._first_sent.mono if message is self.under_way else NEVER

    # Refreshes.

    def ask_to_refresh(self, refresh: "Refresh | None") -> None:
        """Callers here need a newer balance; None: they do not any more."""
        self.wish, self.following = refresh, False
        self._wished_after = self._ledger.view.refresh.last_began
        # Also for another one: whatever was to use the right was lost, as with a process that was stopped.
        self._right = ("", 0)

    def began_after(self, stamp: float) -> bool:
        """Whether a refresh that began at that stamp is later than what was asked for."""
        return stamp > self._wished_after

    def granted_right(self, reply: Reply) -> bool:
        """Whether this process is to refresh the balance; at most once for each right."""
        if reply.refresh != "yours" or self.wish is None or self._right[1]:
            return False
        self._right = (reply.epoch, reply.refresh_number)
        return True

    def land(self, landing: "Callable[[str, int], Landing]") -> bool:
        """The refresh that this process had the right to has ended; False if the right is gone."""
        epoch, number = self._right
        self._right = ("", 0)
        if not number:
            return False
        self.landing = landing(epoch, number)
        return True

    @property
    def refreshes(self) -> bool:
        """Whether this process is refreshing the balance for all."""
        return bool(self._right[1])

    def stamp_before(self, at: float) -> float | None:
        """A stamp of the head that is not later than a moment here; None if none is known."""
        for stamp, here in (self._seen, self._seen_before):
            if here <= at and stamp > NEVER:
                return stamp
        return None
