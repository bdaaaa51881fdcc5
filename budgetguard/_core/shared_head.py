"""The head of an account that several processes spend from: the one place that gives out its credits.

Each process is a *member* with a *lease*: credits that were taken out of what is free, from which it
admits calls in its own memory. What a lease holds beyond its open calls is *slack*.

    free = balance + overlap - leases of all members - debits the balance cannot show yet

A member sends a message with what its calls finished, what its open calls use, the slack that it keeps
while the message is under way, and the callers whose needs its lease does not cover. The head takes back
all else, and then grants, in this order: the needs, as far as they fit behind earlier ones of other
members, and slack for calls to come. Slack is at most half of the member's share of what is free, so
that it shrinks towards exhaustion, and there is none while anybody is short.

A need may name keyed budgets too: it is granted by the account and all of these, or not at all. One whose
budget has no room stands in nobody's way. It waits if open calls may free what it lacks, or else is
answered at once which budget it is.

If a need does not fit while others have slack, or have calls that may have finished since they last
reported, they are asked to report and to give back: a *recall*. A need is refused only if what every member
that answers could give back would not be enough.

Safety rests on these rules; `check` asserts what can be asserted about one state:

* A member's lease covers what its open calls use and the slack that it keeps, by the member's last word.
  So calls that the member admits while a message is under way are covered, whatever becomes of it.
* Each message of a session takes effect once. Sent again, it gets the same answer.
* The lease of a member that died counts as debits until a balance that must show them.
* A debit clears on a balance whose request began, by this account's clock, at its stamp or later.
* After a restart or failover nothing is granted until every known member has said what it holds.

Pure: no clock, no lock, no I/O. The server's clock is an argument. Amounts are integer micro-credits.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from heapq import merge

from budgetguard._core.amounts import UNLIMITED
from budgetguard._core.clock import Instant
from budgetguard._core.head import AccountState
from budgetguard._core.member_record import MemberRecord
from budgetguard._core.other_spenders import MOST_CHECKPOINTS
from budgetguard._core.queued_needs import QueuedNeeds, Remainder
from budgetguard._core.shared_budgets import SharedBudgets
from budgetguard._core.snapshot import BalanceSnapshot, Micro
from budgetguard._core.store_messages import (
    FORMAT,
    NEVER,
    BudgetView,
    Busy,
    Exhausted,
    Join,
    KeyLimited,
    Landing,
    Message,
    Need,
    News,
    Offered,
    OthersView,
    Pausing,
    RefreshRight,
    RefreshView,
    Reply,
    Report,
    Status,
    View,
    ticks_up,
)
from budgetguard._core.virtual_clock import VirtualClock

RECALL_PATIENCE = 1.0
"""Seconds that a member has to give its slack back, before others are refused without it."""

QUEUE_PATIENCE = 2.0
"""Seconds after which the needs of a member that is not heard block nobody any more."""

CALM = 0.25
"""Seconds without slack after somebody was short."""

WAKE_AGAIN = 0.25
"""Seconds after which a member that was woken is woken again, as it may not have heard it."""

GRACE = 1.0
"""Seconds that a refresh may take beyond its deadline before another member may begin one."""

MOST_DEBITS_SHOWN = 32


class Answers:
    """What a message's needs are answered: see `Reply`. All others wait."""

    __slots__ = ("granted", "over", "refused", "windows")

    def __init__(self) -> None:
        self.granted: list[int] = []
        self.windows: list[tuple[int, tuple[float, ...]]] = []
        self.refused: list[int] = []
        self.over: list[tuple[int, str]] = []


class SharedHead(AccountState):
    """The state of one shared account, and the verbs that change it.

    A new one grants nothing until `regroup` seconds have passed and each of `await_members` has joined
    or died. `epoch` names this life of the state; it changes with each restart and failover.
    """

    __slots__ = (
        "awaited",
        "balances",
        "budgets",
        "calm_until",
        "changes",
        "clock",
        "epoch",
        "members",
        "next_order",
        "numbers_at",
        "recall",
        "refresh",
        "refreshing_member",
        "regroup",
        "turns",
    )

    def __init__(
        self, epoch: str, *, regroup: float = 0.0, await_members: Iterable[str] = ()
    ) -> None:
        super().__init__()
        self.epoch = epoch
        self.clock = VirtualClock()
        self.members: dict[str, MemberRecord] = {}
        self.awaited = set(await_members)
        self.regroup = ticks_up(regroup)
        self.next_order = self.turns = 0
        self.budgets = SharedBudgets()
        self.balances = 0
        self.refresh = RefreshView()
        self.refreshing_member = ""
        self.recall = 0
        self.calm_until = NEVER
        self.changes = 0
        # For each epoch of `others`, the number of each member's last message before it ended.
        self.numbers_at: dict[int, dict[str, int]] = {}

    # What is known.

    @property
    def now(self) -> float:
        """The account's time."""
        return self.clock.now

    @property
    def leased(self) -> int:
        """What is in the leases of all members."""
        return sum(each.lease for each in self.members.values())

    @property
    def pending(self) -> int:
        """Debits of all members that the balance cannot show yet."""
        return sum(each.pending for each in self.members.values())

    @property
    def slots_in_use(self) -> int:
        """Sessions of all members that are open or may be open."""
        return sum(each.slots_in_use for each in self.members.values())

    @property
    def format(self) -> int:
        """The format that all members understand: a newer one has to wait until the last older member left."""
        formats = [each.format for each in self.members.values() if not each.gone]
        return min([FORMAT, *formats])

    @property
    def granting(self) -> bool:
        """Whether leases may grow: not while members that are known have not said what they hold."""
        return not self.awaited and self.now >= self.regroup

    def _granting_at(self) -> float | None:
        """When leases may grow at the latest; None if that is not known."""
        ends = [self.regroup]
        for name in self.awaited:
            member = self.members.get(name)
            if member is None or member.hold_for is None:
                return None
            ends.append(member.heard + member.hold_for)
        return max(ends)

    def free(self, floor: int, extra: int) -> Micro:
        """What is in nobody's lease, above a floor; needs a balance."""
        assert self.snapshot is not None
        return self.snapshot.before_holds(extra) - floor - self.leased - self.pending

    def clear_debits(self, sent: float) -> None:
        """Drop the debits that a balance which was requested at `sent` must show."""
        for member in self.members.values():
            member.clear_debits(sent)

    # The one way in.

    def handle(
        self, message: Message, clock: float, dead: Iterable[str] = ()
    ) -> tuple[Reply, frozenset[str]]:
        """Take a message, at the server's time `clock`; returns the reply, and who should send one soon.

        `dead` are members that the store knows have died.
        """
        known = message.seen if message.epoch == self.epoch else NEVER
        others = any(not each.gone for name, each in self.members.items() if name != message.member)
        self.clock.advance(clock, known, message.dropped, message.elapsed, alone=not others)
        woken = self._reap(dead)
        member = self.members.get(message.member)
        status = self._session(message, member)
        if status != "done":
            number = 0 if member is None else member.number
            view = self._view(message.member)
            return Reply(status, self.epoch, number, view=view), self._wake(woken, message.member)
        if member is not None and message.number == member.number and member.reply is not None:
            member.heard = self.clock.latest
            view = self._view(message.member, message.report)
            return replace(member.reply, view=view), self._wake(woken, message.member)
        reply = self._take(message, woken)
        self._bound_overlap()
        woken |= self._answerable(message.member)
        self.check()
        return reply, self._wake(woken, message.member)

    def _wake(self, members: set[str], besides: str) -> frozenset[str]:
        """Those of these that were not woken just now: they have not sent anything since, and are about to."""
        found = set()
        for name in members - {besides}:
            member = self.members.get(name)
            if member is not None and self.now >= member.woken_at + WAKE_AGAIN:
                member.woken_at = self.now
                found.add(name)
        return frozenset(found)

    def fail_over(self, epoch: str) -> None:
        """The state was restored or promoted: members have to say what they hold before anything is granted."""
        self.epoch = epoch
        self.clock.restart()
        for name, member in self.members.items():
            if not member.gone:
                member.heard = self.now
                self.awaited.add(name)
        # Members have seen later balances, and have no more of the debits that those cleared.
        self.snapshot = None
        self._drop_refresh()
        self.balances += 1
        self.others.lose_track()
        self.numbers_at.clear()

    def rest(self, clock: float, dead: Iterable[str]) -> bool:
        """Nobody lives who spends from this account: give up its members, at the server's time.

        Returns whether it may be forgotten, because nothing would change if it began anew. It may not
        for its age alone: whoever comes next needs a new balance first, and one that is requested from now
        on clears all debits that are here.
        """
        self.clock.advance(clock, NEVER, 0.0, 0.0, alone=True)
        self._reap(dead)
        now, refused_until = self.now, None
        if self.snapshot is not None:
            refused_until = self.snapshot.refused_until
        refused = refused_until is not None and refused_until > now
        if refused or self.any_limited(now) or self.others.distrusted(now):
            return False
        members = self.members.values()
        if self.awaited or self.pauses or any(not each.gone for each in members):
            return False
        return all(each.cleared_by(now) for each in members) and self.budgets.forgettable(now)

    def _session(self, message: Message, member: MemberRecord | None) -> Status:
        """Whether a message takes effect: "done" if it does or did."""
        lives = member is not None and not member.gone
        if message.join is None:
            if message.epoch != self.epoch:
                return "reassert" if lives or (member is None and not self.granting) else "expired"
            if not lives:
                return "expired"
        elif message.epoch not in {"", self.epoch}:
            return "reassert" if lives or (member is None and not self.granting) else "expired"
        elif member is not None and message.number == member.number:
            # Sent again. What was granted then is no longer the member's if it was given up since.
            return "expired" if member.gone else "done"
        elif not message.epoch and member is not None and message.number > member.number:
            # A session begins once: this is another state of the account than the member knows.
            return "expired"
        return "old" if member is not None and message.number < member.number else "done"

    def _take(self, message: Message, woken: set[str]) -> Reply:
        """Make everything in a message happen, in the order that no part of it depends on a later one."""
        name, report = message.member, message.report
        member = self.members.get(name)
        if member is None:
            member = self.members[name] = MemberRecord()
        if message.join is not None and message.epoch:
            self._wait_for_others_like(message.join)
        self.turns += 1
        member.heard, member.number, member.turn = self.clock.latest, message.number, self.turns
        member.woken_at = NEVER
        self._hear_report(message, member)
        self._hear_of_budgets(message)
        if message.leave:
            member.leave(self.clock.latest)
            self._settle_on_a_setting()
        for each in message.news:
            woken |= self._hear(each)
        if message.landing is not None:
            woken |= self._land(name, message.landing)
        if message.leave:
            woken |= self._end_refresh_of(name)
        right: RefreshRight = ""
        if message.refresh_after is not None and not message.leave:
            right = self._begin_refresh(name, member, message)
        answers = Answers()
        self._bound_overlap()
        if not message.leave:
            self.next_order = member.queue(report.needs, self.next_order)
            self._grant(name, member, answers, woken)
            self._lend(member, report)
        reply = Reply(
            "done",
            self.epoch,
            message.number,
            lease=member.lease,
            slots=member.slots,
            granted=tuple(answers.granted),
            windows=tuple(answers.windows),
            refused=tuple(answers.refused),
            over=tuple(answers.over),
            refresh=right,
            refresh_number=self.refresh.number if right == "yours" else 0,
        )
        member.reply = reply
        self._forget()
        unmet = bool(answers.refused or answers.over or member.needs)
        view = self._view(name, report, debits=unmet)
        # Only now: what is forgotten is as if it had never been there, and is shown once more before.
        self.budgets.forget(self.now)
        return replace(reply, view=view)

    def _wait_for_others_like(self, join: Join) -> None:
        """A member that knew a state which is lost has come; others may still spend from leases as long as its own."""
        if join.hold_for is not None and self.now < self.regroup:
            hold_for = ticks_up(join.hold_for)
            self.regroup = max(self.regroup, hold_for) if self.turns else hold_for

    def _hear_report(self, message: Message, member: MemberRecord) -> None:
        """A member tells what its calls did, what they use, and what it keeps."""
        report, join = message.report, message.join
        before = member.lease + member.pending
        if join is not None:
            self._join(message.member, member, join)
        self._save(message.member, report.saved)
        # The lease needs no arithmetic: it is what the member uses and keeps, and the rest is given back.
        member.finish(report, self.clock.latest)
        member.hold(report)
        less = before - member.lease - member.pending
        if join is not None and join.whole and less > 0:
            # It takes debits for cleared that are not cleared here: it knows balances of another epoch.
            self.forget_charges(less)

    def _hear_of_budgets(self, message: Message) -> None:
        """A member tells what its calls hold and spent of keyed budgets."""
        name, uses = message.member, message.report.budgets
        if message.join is None:
            self.budgets.report(name, uses, self.clock)
        else:
            self.budgets.reassert(name, uses, self.clock)
        if message.leave:
            self.budgets.left(name, self.now)

    # Members.

    def _join(self, name: str, member: MemberRecord, join: Join) -> None:
        self.awaited.discard(name)
        member.come_back(whole=join.whole)
        member.hold_for = None if join.hold_for is None else ticks_up(join.hold_for)
        member.sole_spender, member.words = join.sole_spender, join.words
        member.format = join.format
        if join.topup_step is not None:
            self.others.topup_step = join.topup_step
        if self.unit is None:
            self.unit = join.unit
        self._settle_on_a_setting()

    def _settle_on_a_setting(self) -> None:
        """What the members say of other spenders: False wins over True, and both win over "auto"."""
        self.others.setting = "auto"
        for member in self.members.values():
            if not member.gone:
                self.others.join(member.sole_spender)

    def _reap(self, dead: Iterable[str]) -> set[str]:
        """Give up the members that died, or were silent for as long as they said that they may be."""
        gone = set(dead)
        self.awaited -= gone - self.members.keys()
        found, waiting = set[str](), set[str]()
        for name, member in self.members.items():
            if not member.gone and (name in gone or member.silent(self.now)):
                member.die(self.clock.latest)
                self.budgets.died(name, self.now)
                self.awaited.discard(name)
                found.add(name)
        if not found:
            return set()
        if self.refreshing_member in found:
            # Once all are known who died: those wait for nothing any more.
            waiting = self._end_refresh_of(self.refreshing_member)
        self._settle_on_a_setting()
        self._forget()
        return self._answerable("") | waiting

    def _end_refresh_of(self, name: str) -> set[str]:
        """A member is gone: if it was refreshing, nobody is now; returns who waits for that."""
        if name != self.refreshing_member or not self.refresh.in_flight:
            return set()
        self._drop_refresh()
        return {each for each, other in self.members.items() if other.waits_for_refresh}

    def _bound_overlap(self) -> None:
        """What the balance shows of leases and debits is no more than there is of them.

        A slack that is given back was never charged, so what seemed to be a charge of it was none.
        """
        snapshot, most = self.snapshot, self.leased + self.pending
        if snapshot is not None and max(snapshot.overlap, snapshot.ceiling_overlap) > most:
            self.snapshot = replace(
                snapshot,
                overlap=min(snapshot.overlap, most),
                ceiling_overlap=min(snapshot.ceiling_overlap, most),
            )

    def _forget(self) -> None:
        """Forget the members that are gone without a trace."""
        for name in [name for name, each in self.members.items() if each.forgettable]:
            del self.members[name]

    # Grants.

    def _waiting(self) -> list[tuple[str, QueuedNeeds]]:
        """The needs of all members that answer, in order of arrival."""
        waiting = [
            (queued.order, name, queued)
            for name, member in self.members.items()
            if self._answers(member)
            for queued in member.needs
        ]
        waiting.sort(key=lambda each: each[0])
        return [(name, queued) for _, name, queued in waiting]

    def _answers(self, member: MemberRecord) -> bool:
        """Whether a member was heard lately: the needs of others block nobody."""
        return self.now - member.heard <= QUEUE_PATIENCE

    @property
    def somebody_waits(self) -> bool:
        """Whether any need is not met, but for those that only their own budgets have no room for."""
        return any(self._in_budget(queued.need) for _, queued in self._waiting())

    def _in_budget(self, need: Need) -> bool:
        return not need.budgets or self.budgets.fits(need, self.clock) is None

    def _grant(self, name: str, member: MemberRecord, answers: Answers, woken: set[str]) -> None:
        """Grant a member's needs as far as they fit."""
        left = self._remainder()
        for whose, queued in self._waiting():
            if whose == name:
                self._grant_some(name, member, queued, left, answers, woken)
            elif self._in_budget(queued.need):
                left.pass_by(queued)
        member.needs = [each for each in member.needs if each.tickets]

    def _grant_some(
        self,
        name: str,
        member: MemberRecord,
        queued: QueuedNeeds,
        left: Remainder,
        answers: Answers,
        woken: set[str],
    ) -> None:
        """Answer callers in a row that need the same; those that wait remain in the queue."""
        need, tickets = queued.need, queued.tickets
        queued.tickets = []
        for place, ticket in enumerate(tickets):
            over = self.budgets.fits(need, self.clock) if need.budgets else None
            if over is None and left.fits(need):
                answers.granted.append(ticket)
                member.lease += need.drawn
                member.used += need.drawn
                member.slots += need.slots
                member.running += 1
                if need.budgets:
                    windows = self.budgets.take(name, need, self.clock)
                    answers.windows.append((ticket, windows))
                left.take(need)
                continue
            # The others need the same, so they get the same answer.
            queued.tickets = tickets[place:]
            if over is None:
                self._make_wait(queued, left, answers, woken)
            elif self._is_final(need):
                # In nobody's way, and no slack of others would help.
                answers.over += [(each, over) for each in queued.tickets]
                queued.tickets = []
            return

    def _make_wait(
        self,
        queued: QueuedNeeds,
        left: Remainder,
        answers: Answers,
        woken: set[str],
    ) -> None:
        """What is free is not enough: these wait for what members may give back, or are refused."""
        if self.granting and self.snapshot is not None:
            helped = self._recall_for(queued, left, woken)
            refused = queued.tickets[helped:]
            answers.refused += refused
            queued.told = refused[0] if refused else None
            if not queued.need.counts:
                # Their callers have their answer, and block nobody until the member's next message.
                del queued.tickets[helped:]
        left.pass_by(queued)

    def _remainder(self) -> Remainder:
        committed = self.leased + self.pending
        return Remainder(
            self.snapshot if self.granting else None,
            committed,
            self.slots_in_use,
            lambda: ((name, each) for name, each in self.members.items() if not self.missing(each)),
        )

    def _is_final(self, need: Need) -> bool:
        """Whether a need that its budget has no room for is answered, instead of waiting for open calls to end."""
        return self.granting and not (need.counts and self.budgets.may_free(need, self.clock))

    def _recall_for(self, queued: QueuedNeeds, left: Remainder, woken: set[str]) -> int:
        """How many of these callers others may help that answer; if any, those are asked to give back.

        The callers' own member is one of them: it may have kept slack that they require.
        """
        need, waiting = queued.need, len(queued.tickets)
        if left.above_floor(need) < need.from_account * (waiting if need.counts else 1):
            self.calm_until = self.now + CALM
        helped = left.helped(queued)
        if helped:
            others = left.others(queued.turn)
            if all(self.members[each].recall >= self.recall for each in others):
                self._recall()
            woken.update(others)
        return helped

    def _recall(self) -> None:
        for member in self.members.values():
            # Who has not answered the last one is not given more time by the next.
            if (member.lease > 0 or member.slots) and member.recall >= self.recall:
                member.asked_at = self.clock.latest
        self.recall += 1
        self.calm_until = max(self.calm_until, self.now + CALM)

    def missing(self, member: MemberRecord) -> bool:
        """Whether a member holds something and did not answer a recall in time."""
        unanswered = member.recall < self.recall and (member.lease > 0 or member.slots > 0)
        return unanswered and self.now >= member.asked_at + RECALL_PATIENCE

    def _lend(self, member: MemberRecord, report: Report) -> None:
        """Raise a member's slack towards what it wants, if nobody is short."""
        if self.snapshot is None or not self.granting or member.recall < self.recall:
            return
        more = report.want - member.slack
        if more <= 0 or self.now < self.calm_until or self.somebody_waits:
            return
        free = self.free(report.floor, report.extra)
        if free == UNLIMITED:
            member.lease += more
        elif free > 0:
            living = sum(not each.gone for each in self.members.values())
            member.lease += min(more, int(free) // (2 * living))

    def _answerable(self, besides: str) -> set[str]:
        """The members whose needs could be granted now, or refused for good, which they have not heard yet."""
        found: set[str] = set()
        if self.snapshot is None or not self.granting:
            return found
        left = self._remainder()
        for name, queued in self._waiting():
            news = name != besides and name not in found
            if not self._in_budget(queued.need):
                # No end of an open call can help it any more: it is to hear that.
                if news and self._is_final(queued.need):
                    found.add(name)
                continue
            if news and (left.fits(queued.need) or left.helped(queued) < queued.untold):
                found.add(name)
            left.pass_by(queued)
        return found

    # Balances and other news.

    def _begin_refresh(self, name: str, member: MemberRecord, message: Message) -> RefreshRight:
        assert message.refresh_after is not None
        refresh, now = self.refresh, self.now
        others = self.refreshing_member != name
        if refresh.in_flight and now < refresh.expires and others:
            member.waits_for_refresh = True
            return "wait"
        if now < refresh.blocked_until:
            return "blocked"
        if not refresh.in_flight and refresh.last_began > message.refresh_after:
            return "newer"
        # Stamped before the request is sent: a debit of a call that finishes later has a later stamp.
        self.refresh = replace(
            refresh,
            number=refresh.number + 1,
            last_began=now,
            in_flight=True,
            expires=now + ticks_up(message.refresh_timeout) + GRACE,
        )
        self.refreshing_member = name
        return "yours"

    def _drop_refresh(self) -> None:
        """The refresh in flight will have no result: it counts as never begun, or nobody would begin another."""
        began = NEVER if self.snapshot is None else self.snapshot.sent.mono
        self.refresh = replace(self.refresh, last_began=began, in_flight=False)

    def _land(self, name: str, landing: Landing) -> set[str]:
        refresh = self.refresh
        right = (self.epoch, refresh.number, self.refreshing_member)
        if (landing.epoch, landing.number, name) != right or not refresh.in_flight:
            return set()
        snapshot = reason = None
        if landing.balance is not None:
            sent = Instant(refresh.last_began, landing.wall)
            snapshot = self.in_unit(BalanceSnapshot.of(landing.balance, sent))
            if snapshot is None:
                reason = (
                    f"it is in {landing.balance.unit}, and this account is counted in {self.unit}"
                )
        if snapshot is not None:
            self.refresh = RefreshView(refresh.number, refresh.last_began)
            self._adopt_balance(snapshot)
        else:
            self.refresh = replace(
                refresh,
                in_flight=False,
                blocked_until=self.now + ticks_up(landing.delay),
                failures=landing.failures,
                reason=reason or landing.reason,
                denied=landing.denied,
            )
        waiting = {each for each, other in self.members.items() if other.waits_for_refresh}
        for other in self.members.values():
            other.waits_for_refresh = False
        return waiting | self._interested()

    def _adopt_balance(self, snapshot: BalanceSnapshot) -> None:
        before = self.others.epoch
        if not self.apply(snapshot, self.now, self.leased):
            return
        self._changed()
        if self.others.epoch != before:
            # A checkpoint was made: it counts the calls that began before these messages were sent.
            self.numbers_at[before] = {name: each.number for name, each in self.members.items()}
            while len(self.numbers_at) > MOST_CHECKPOINTS:
                del self.numbers_at[min(self.numbers_at)]

    def _changed(self) -> None:
        self.balances += 1
        if self.others.changed:
            self.changes += 1

    def _save(self, name: str, saved: Iterable[tuple[int, int]]) -> None:
        """Calls cost less than they held: it lowers the bounds of the checkpoints that counted them."""
        for number, by in saved:
            epochs = [e for e, numbers in self.numbers_at.items() if numbers.get(name, 0) >= number]
            if epochs:
                self.others.cost_less(min(epochs), by)

    def _hear(self, news: News) -> set[str]:
        """Take what a member has to tell about the account; returns who should hear of it."""
        now = self.now
        match news:
            case Exhausted(lag, wall):
                # From the latest that it may be: what began before the refusal must not end it.
                self.refuse(Instant(now, wall), self.clock.behind + ticks_up(lag), self.leased)
                self._changed()
                self._recall()
            case Busy(seconds):
                self.busy(now + ticks_up(seconds))
            case KeyLimited(credential, seconds):
                self.limit_key(credential, now + ticks_up(seconds), now)
            case Pausing(by, reason):
                self.pause(by, reason)
                # Callers that wait for its end have no needs here meanwhile.
                return {name for name, each in self.members.items() if not each.gone}
            case Offered(balance, epoch, began, wall):
                if epoch != self.epoch:
                    return set()
                snapshot = self.in_unit(BalanceSnapshot.of(balance, Instant(began, wall)))
                if snapshot is None:
                    return set()
                self._adopt_balance(snapshot)
        return self._interested()

    def _interested(self) -> set[str]:
        """The members that have open calls, slack or callers that wait."""
        return {
            name for name, each in self.members.items() if each.lease or each.needs or each.running
        }

    # What members see.

    def _view(self, name: str, report: Report | None = None, *, debits: bool = False) -> View:
        """What a member sees; with its report, also the budgets that it mentions."""
        members = self.members.values()
        queued = [
            (each.need, len(each.tickets))
            for whose, each in self._waiting()
            if whose != name and each.need.counts and self._in_budget(each.need)
        ]
        missing = [each for each in members if self.missing(each)]
        unresolved = [kept for each in members for kept in each.unresolved]
        kept = [each for each in unresolved if each.next_clears_at is not None]
        others, belief = self.others, self.others.belief
        return View(
            now=self.now,
            dropped=self.clock.dropped,
            behind=self.clock.behind,
            snapshot=self.snapshot,
            balances=self.balances,
            leased=self.leased,
            used=sum(each.used for each in members),
            running=sum(each.running for each in members),
            members=sum(not each.gone for each in members),
            missing=len(missing),
            missing_until=max(
                (each.heard + (each.hold_for or 0.0) for each in missing), default=NEVER
            ),
            settled=sum(each.settled.total for each in members),
            kept=sum(each.total for each in kept),
            kept_slots=sum(each.slots for each in kept),
            kept_calls=_counted(each.calls for each in kept),
            kept_sessions=_counted(each.sessions for each in kept),
            kept_next=min((each.next_clears_at or 0.0 for each in kept), default=None),
            kept_last=max((each.last_clears_at or 0.0 for each in kept), default=None),
            slots=sum(each.slots for each in members),
            debits=self._debits() if debits else (),
            busy_until=self.busy_until,
            limited=tuple(self._limited.items()),
            pauses=tuple(self.pauses.items()),
            refresh=self.refresh,
            others=OthersView(
                setting=others.setting,
                others=belief is not None and belief.others,
                since=0.0 if belief is None else belief.since.mono,
                wall=0.0 if belief is None else belief.since.wall,
                proven=0 if belief is None else belief.proven,
                spell=0.0 if belief is None else belief.spell,
                changes=self.changes,
                contradiction=others.contradiction,
            ),
            recall=self.recall,
            exact=self.now < self.calm_until or self.somebody_waits,
            granting=self.granting,
            granting_at=self._granting_at(),
            holders=sum(each.lease > 0 for each in members),
            slot_holders=sum(each.slots > 0 for each in members),
            queued=sum(need.from_account * callers for need, callers in queued),
            queued_slots=sum(need.slots * callers for need, callers in queued),
            budgets=() if report is None else self._mentioned(report),
        )

    def _mentioned(self, report: Report) -> tuple[BudgetView, ...]:
        """The budgets that a report mentions, as they are now."""
        needed = (each.budget for need in report.needs for each in need.budgets)
        names = dict.fromkeys((*needed, *(use.budget for use in report.budgets)))
        views = (self.budgets.view(name, self.now) for name in names)
        return tuple(view for view in views if view is not None)

    def _debits(self) -> tuple[tuple[float, int, int], ...]:
        """When debits clear, with credits and slots; the last one stands for all that clear later."""
        each = [member.settled.in_order() for member in self.members.values()]
        for member in self.members.values():
            each += [kept.in_order() for kept in member.unresolved]
        first: list[tuple[float, int, int]] = []
        for clears_at, amount, slots in merge(*each):
            if len(first) < MOST_DEBITS_SHOWN:
                first.append((clears_at, amount, slots))
            else:
                _, before, slots_before = first[-1]
                first[-1] = (clears_at, before + amount, slots_before + slots)
        return tuple(first)

    # What must hold after each message.

    def check(self) -> None:
        """Assert the invariants of one state."""
        for name, member in self.members.items():
            assert member.lease >= member.used >= 0, (name, member.lease, member.used)
            assert member.slots >= 0, (name, member.slots)
            assert not member.gone or not (member.lease or member.slots or member.needs), name
        assert self.awaited <= self.members.keys() | self.awaited
        snapshot, committed = self.snapshot, self.leased + self.pending
        assert snapshot is None or snapshot.sent.mono <= self.now
        assert snapshot is None or max(snapshot.overlap, snapshot.ceiling_overlap) <= committed
        assert isinstance(self.leased, int)
        assert isinstance(self.pending, int)


def _counted(causes: "Iterable[Counter[str | None]]") -> tuple[tuple[str | None, int], ...]:
    total: Counter[str | None] = Counter()
    for each in causes:
        total.update(each)
    return tuple(total.items())
