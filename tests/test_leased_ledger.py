"""A lease on both sides: whatever happens between two messages, a process uses no more than the head has set aside."""

from dataclasses import replace
from decimal import Decimal
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from budgetguard._core.balance import Balance
from budgetguard._core.branch import LedgerEntry
from budgetguard._core.clock import Instant
from budgetguard._core.drawn_budgets import DrawnBudgets
from budgetguard._core.leased_ledger import LeasedLedger
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import Join, Landing, Message, Need, Reply

BALANCE = 100
AMOUNTS = st.integers(0, 30)


class Member:
    """A process: its ledger, and the message that is under way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ledger = LeasedLedger(DrawnBudgets(""))
        self.open: list[LedgerEntry] = []
        self.number = 0
        self.epoch = ""
        self.again = True
        self.under_way: Message | None = None
        self.reply: Reply | None = None

    @property
    def committed(self) -> int:
        """What it uses, may use, and has not reported."""
        ledger = self.ledger
        return ledger.held + max(ledger.room, 0) + ledger.head.total

    def message(self, now: float, *, give_back: bool, need: int, want: int) -> Message:
        """The next message, or the one that is under way once more."""
        if self.under_way is None:
            self.number += 1
            report = self.ledger.report(
                Instant(now, now),
                give_back=give_back,
                margin=0.0,
                again=self.again,
                whole=self.again,
            )
            needs = (Need(self.number, need, need),) if need else ()
            report = replace(report, needs=needs, want=max(want, report.keep))
            join = Join(None) if self.again else None
            self.under_way = Message(
                self.name, self.number, self.epoch, now, 0.0, report, join=join
            )
            self.again = False
        return self.under_way


class LeaseMachine(RuleBasedStateMachine):
    """Two processes and their head; messages are lost on the way there and back, and sent again."""

    @initialize()
    def begin(self) -> None:
        """A head that knows the balance."""
        self.now = 0.0
        self.head = SharedHead("e1")
        self.epochs = count(2)
        self.members = [Member("a"), Member("b")]
        self.refresh()

    def refresh(self) -> None:
        """Somebody who spends nothing tells the balance."""
        for number, landing in enumerate((None, "balance"), 1):
            told = Landing(self.head.epoch, 1, Balance(credits=BALANCE)) if landing else None  # type: ignore[arg-type]
            first = number == 1
            message = Message(
                "teller" + self.head.epoch,
                number,
                "" if first else self.head.epoch,
                join=Join(None) if first else None,
                refresh_after=-1.0 if first else None,
                landing=told,
            )
            self.head.handle(message, self.now)

    def member(self, which: bool) -> Member:
        """One of the two."""
        return self.members[which]

    @rule(which=st.booleans(), amount=AMOUNTS)
    def admit(self, which: bool, amount: int) -> None:
        """A call takes from the slack, if there is enough of it."""
        member = self.member(which)
        if member.ledger.room >= amount:
            entry = LedgerEntry(amount)
            member.ledger.open(entry)
            member.open.append(entry)

    @rule(which=st.booleans(), amount=AMOUNTS)
    def force(self, which: bool, amount: int) -> None:
        """A call is admitted whatever there is."""
        member = self.member(which)
        entry = LedgerEntry(amount)
        member.ledger.open(entry)
        member.open.append(entry)

    @rule(which=st.booleans(), cost=AMOUNTS, kind=st.sampled_from(("settle", "release", "keep")))
    def finish(self, which: bool, cost: int, kind: str) -> None:
        """A call ends, at any cost."""
        member = self.member(which)
        if not member.open:
            return
        entry, ledger = member.open.pop(), member.ledger
        if kind == "settle":
            ledger.settle(entry, cost, self.now + 5)
        elif kind == "release":
            ledger.release(entry)
        else:
            ledger.keep(entry, self.now + 30)

    @rule(which=st.booleans(), give_back=st.booleans(), need=AMOUNTS, want=AMOUNTS)
    def send(self, which: bool, give_back: bool, need: int, want: int) -> None:
        """The head takes a message; its reply may be lost, and then the message is sent again."""
        member = self.member(which)
        message = member.message(self.now, give_back=give_back, need=need, want=want)
        member.reply, _ = self.head.handle(message, self.now)

    @precondition(lambda self: any(each.reply for each in self.members))
    @rule()
    def receive(self) -> None:
        """A reply arrives."""
        member = next(each for each in self.members if each.reply)
        reply, member.reply = member.reply, None
        assert reply is not None
        ledger, message = member.ledger, member.under_way
        if message is None or reply.number != message.number:
            return
        member.under_way = None
        if reply.status == "done":
            granted = [each for each in message.report.needs if each.ticket in reply.granted]
            ledger.accept(message, reply, sum(each.drawn for each in granted))
        else:
            ledger.disregard()
            member.again = True
            if reply.status == "expired":
                ledger.lapse()
        ledger.see(reply.view, self.now, anew=reply.epoch != member.epoch)
        member.epoch = reply.epoch

    @rule(seconds=st.sampled_from((0.0, 1.0, 10.0)))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @invariant()
    def the_head_covers_each_member(self) -> None:
        """What a member has been told that it may use is in its lease, or is on its way to be."""
        for member in self.members:
            if member.under_way is None and not member.again:
                record = self.head.members[member.name]
                ledger = member.ledger
                forced = min(ledger.room, 0)
                assert ledger.held + ledger.room + ledger.head.total == record.lease
                assert member.committed + forced == record.lease

    @invariant()
    def the_sums_add_up(self) -> None:
        """Free, leased and pending credits are the balance, and nobody's slack was taken out of nothing."""
        head = self.head
        assert head.free(0, 0) + head.leased + head.pending == BALANCE * 10**6

    def teardown(self) -> None:
        """In the end, when all calls have finished and all is told, the head has every credit back."""
        for member in self.members:
            while member.open:
                member.ledger.release(member.open.pop())
            for _ in range(4):
                message = member.message(self.now, give_back=True, need=0, want=0)
                member.reply, _ = self.head.handle(message, self.now)
                self.receive_of(member)
        assert self.head.leased == 0
        assert all(each.ledger.room == 0 for each in self.members)

    def receive_of(self, member: Member) -> None:
        """The reply to that member arrives."""
        for each in self.members:
            if each is not member:
                each.reply = None
        self.receive()


TestLeases = LeaseMachine.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_is_told_of_the_time_is_an_age() -> None:
    """A stamp of the head's clock is a moment of this process, not later than it was."""
    ledger = LeasedLedger(DrawnBudgets(""))
    head = SharedHead("e1")
    head.clock.now = 500.0
    reply, _ = head.handle(Message("a", 1, "", join=Join(None)), 7.0)
    ledger.see(reply.view, 1000.0, anew=True)
    assert ledger.time_of(reply.view.now) == 1000.0
    assert ledger.time_of(reply.view.now - 30) == 970.0
    assert ledger.snapshot is None
    ledger.refuse(Instant(1000.0, 0.0), 5.0)
    assert ledger.snapshot is None


def test_the_age_of_a_balance_is_that_of_this_machine_s_clocks() -> None:
    """A member whose wall clock is an hour ahead may have fetched it; on one machine there is only one."""
    head, ledger = SharedHead("e1"), LeasedLedger(DrawnBudgets(""))
    head.handle(Message("b", 1, "", join=Join(None), refresh_after=-1.0), 0.0)
    landing = Landing("e1", 1, Balance(credits=1), wall=9_000.0)  # type: ignore[arg-type]
    reply, _ = head.handle(Message("b", 2, "e1", seen=0.0, elapsed=4.0, landing=landing), 4.0)
    ledger.see(reply.view, 1000.0, anew=True, wall_ahead=500.0)
    assert ledger.snapshot is not None
    assert ledger.snapshot.sent == (996.0, 1496.0)
    ledger.see(reply.view, 1000.0, anew=True)
    assert ledger.snapshot.sent == (996.0, 9_000.0)


# One rule each: what the process sees and may take.


class Fleet:
    """A head that knows the balance, and members whose messages arrive at once."""

    def __init__(self, sessions: int | None = None) -> None:
        self.now = 0.0
        self.head = SharedHead("e1")
        self.sessions = sessions
        self.told = 0
        self.tell(BALANCE)

    def tell(self, credits: int) -> None:
        """Somebody who spends nothing tells the balance, and leaves."""
        self.told += 1
        name, epoch = f"teller {self.told}", self.head.epoch
        first = Message(name, 1, "", join=Join(None), refresh_after=self.head.now)
        right, _ = self.head.handle(first, self.now)
        balance = Balance(Decimal(credits).scaleb(-6), max_concurrency=self.sessions)
        landing = Landing(epoch, right.refresh_number, balance)
        self.head.handle(Message(name, 2, epoch, landing=landing, leave=True), self.now)

    def member(self, name: str) -> Member:
        """A member that has joined."""
        member = Member(name)
        self.send(member)
        return member

    def send(self, member: Member, *needs: Need, want: int = 0, give_back: bool = False) -> Reply:
        """The member's next message takes effect, and is answered."""
        message = member.message(self.now, give_back=give_back, need=0, want=want)
        message = replace(message, report=replace(message.report, needs=needs))
        reply, _ = self.head.handle(message, self.now)
        member.under_way = None
        assert reply.status == "done"
        granted = [each for each in needs if each.ticket in reply.granted]
        member.ledger.accept(message, reply, sum(each.drawn for each in granted))
        member.ledger.see(reply.view, self.now, anew=reply.epoch != member.epoch)
        member.epoch = reply.epoch
        return reply

    def begin_anew(self, epoch: str, *members: Member) -> None:
        """Another head, which knows nothing; these members are about to say everything."""
        self.head = SharedHead(epoch)
        for member in members:
            member.again, member.epoch = True, ""

    def open(self, member: Member, amount: int, slots: int = 0) -> LedgerEntry:
        """A call is granted, and begins."""
        assert self.send(member, Need(1, amount, amount, slots)).granted
        entry = LedgerEntry(amount, slots)
        member.ledger.open(entry)
        return entry


def fail(member: Member) -> None:
    """The message under way has not taken effect."""
    member.ledger.disregard()
    member.under_way = None


def figures(ledger: LeasedLedger) -> tuple[int, int, int, int]:
    """What all members hold, what is pending, the slack of others, and what could be promised."""
    available = int(ledger.available(0, 0))
    return ledger.held_by_all, ledger.pending, ledger.slack_elsewhere, available


def test_the_figures_are_those_of_all_members_and_as_new_as_can_be() -> None:
    """What changed here since the last reply is in them, also while a message is under way."""
    fleet = Fleet()
    ann, bob = fleet.member("ann"), fleet.member("bob")
    fleet.open(bob, 30)
    slack = fleet.send(bob, want=8).lease - 30
    entry, lost = fleet.open(ann, 10), fleet.open(ann, 5)
    fleet.send(ann, want=4)
    assert (slack, ann.ledger.room) == (8, 4)
    assert figures(ann.ledger) == (45, 0, 8, 55)
    ann.ledger.settle(entry, 7, 5.0)
    ann.ledger.keep(lost, 30.0, "Timeout")
    assert figures(ann.ledger) == (30, 12, 8, 58)
    assert (ann.ledger.kept.total, ann.ledger.kept.calls) == (5, {"Timeout": 1})
    assert (ann.ledger.kept.next_clears_at, ann.ledger.kept.last_clears_at) == (30.0, 30.0)
    ann.message(0.0, give_back=True, need=0, want=0)
    assert figures(ann.ledger) == (30, 12, 8, 58)
    assert ann.ledger.kept.total == 5
    fail(ann)
    fleet.send(ann)
    assert figures(ann.ledger) == (30, 12, 8, 58)
    assert ann.ledger.kept.total == 5


def test_what_finished_is_told_again_if_its_message_took_no_effect() -> None:
    """All of it: what calls cost, those of unknown cost with their sessions."""
    fleet = Fleet()
    ann = fleet.member("ann")
    entry, lost = fleet.open(ann, 10), fleet.open(ann, 5, 1)
    ann.ledger.settle(entry, 7, 5.0)
    ann.ledger.keep(lost, 30.0, "Timeout")
    ann.message(0.0, give_back=False, need=0, want=0)
    fail(ann)
    fleet.send(ann)
    record = fleet.head.members["ann"]
    assert (record.settled.total, record.kept.total, record.kept.slots) == (7, 5, 1)


def test_another_head_hears_of_debits_that_a_balance_cleared_here_a_moment_ago() -> None:
    """By its own stamps they may clear later; those that no clock can still have open are forgotten."""
    fleet = Fleet()
    ann = fleet.member("ann")
    ann.ledger.settle(fleet.open(ann, 10), 10, 5.0)
    fleet.send(ann)
    for now, known in ((6.0, 10), (70.0, 0)):
        fleet.now = now
        fleet.send(ann)
        fleet.head.clock.now = now
        fleet.tell(90)
        fleet.send(ann)
        fleet.begin_anew(f"at {now}", ann)
        fleet.send(ann)
        assert fleet.head.pending == known
        fleet.tell(90)
        fleet.send(ann)


def test_what_calls_saved_is_told_once_and_not_to_another_head() -> None:
    """It is evidence about balances that this head has seen."""
    fleet = Fleet()
    ann = fleet.member("ann")
    entry, more = fleet.open(ann, 10), fleet.open(ann, 5)
    ann.ledger.settle(entry, 4, 5.0)
    ann.ledger.extend(more, 2)
    assert ann.ledger.head
    message = ann.message(0.0, give_back=False, need=0, want=0)
    assert sum(by for _, by in message.report.saved) == 4
    fail(ann)
    ann.again = True
    ann.ledger.release(more)
    assert ann.message(0.0, give_back=False, need=0, want=0).report.saved == ()


def test_each_kind_of_news_of_finished_calls_has_to_be_told() -> None:
    """Costs, calls of unknown cost, and what calls saved."""
    ledger = LeasedLedger(DrawnBudgets(""))
    assert not ledger.head
    for finish in ("settle", "keep", "release"):
        entry = LedgerEntry(5)
        ledger.open(entry)
        if finish == "settle":
            ledger.settle(entry, 5, 9.0)
        elif finish == "keep":
            ledger.keep(entry, 9.0)
        else:
            ledger.release(entry)
        assert ledger.head, finish
        ledger.report(Instant(0.0, 0.0), give_back=True, margin=0.0, again=False, whole=False)
        ledger.remember()
        assert not ledger.head


def test_a_process_in_debt_keeps_no_slack() -> None:
    """Calls that cost more than they held have used it up, and the head hears how much that was."""
    fleet = Fleet()
    ann = fleet.member("ann")
    ann.ledger.settle(fleet.open(ann, 10), 15, 5.0)
    assert ann.ledger.room == -5
    message = ann.message(0.0, give_back=False, need=0, want=0)
    assert (message.report.keep, ann.ledger.room) == (0, 0)


def test_slack_is_at_hand_only_where_it_is_this_process_s_own() -> None:
    """Not once the lease has lapsed, nor after the provider's refusal, nor below a balance that fell."""
    fleet = Fleet()
    ann, bob = fleet.member("ann"), fleet.member("bob")
    fleet.send(bob, want=20)
    fleet.send(ann, want=20)
    assert ann.ledger.at_hand(0, 0) == ann.ledger.room == 20
    ann.ledger.one_level = False
    assert (ann.ledger.usable, ann.ledger.at_hand(0, 0)) == (False, 0)
    ann.ledger.one_level = True
    assert ann.ledger.at_hand(75, 0) == 5
    fleet.now += 1.0
    fleet.head.clock.now += 1.0
    fleet.tell(35)
    fleet.send(ann)
    assert (ann.ledger.room, ann.ledger.at_hand(0, 0)) == (20, 15)
    ann.ledger.refuse(Instant(1.0, 0.0), 5.0)
    assert ann.ledger.room == 0
    assert ann.ledger.available(0, 0) < 0
    fleet.send(bob)
    assert (bob.ledger.lapse(), bob.ledger.room) == (20, 0)


def test_slack_is_not_taken_from_while_others_are_short() -> None:
    """What this process's calls free is for whoever has waited longest."""
    fleet = Fleet()
    ann, bob = fleet.member("ann"), fleet.member("bob")
    fleet.send(ann, want=20)
    fleet.send(bob, Need(1, 101, 101, counts=True))
    fleet.send(ann)
    assert ann.ledger.room > 0
    assert (ann.ledger.usable, ann.ledger.at_hand(0, 0)) == (False, 0)


def test_sessions_end_with_the_lease() -> None:
    """Those that no call holds are the head's again; one that runs remains counted."""
    fleet = Fleet(sessions=3)
    ann = fleet.member("ann")
    ended, _ = (fleet.open(ann, 0, 1) for _ in range(2))
    ann.ledger.release(ended)
    assert ann.ledger.has_slack
    assert ann.ledger.lapse() == 0
    assert (ann.ledger.slots_free, ann.ledger.slots_held) == (0, 1)
    assert not ann.ledger.has_slack


def test_sessions_that_ended_here_are_free_for_this_process_first() -> None:
    """Not one that may still be open, nor beyond a limit that fell, nor before those who wait elsewhere."""
    fleet = Fleet(sessions=3)
    ann, bob = fleet.member("ann"), fleet.member("bob")
    ended, lost, runs = (fleet.open(ann, 0, 1) for _ in range(3))
    assert (ann.ledger.slots_in_use, ann.ledger.slots_free) == (3, 0)
    ann.ledger.release(ended)
    ann.ledger.keep(lost, 30.0)
    assert (ann.ledger.slots_in_use, ann.ledger.slots_free, ann.ledger.slots_at_hand) == (2, 1, 1)
    fleet.send(bob, Need(1, 0, 0, 1, counts=True))
    ann.message(0.0, give_back=False, need=0, want=0)
    assert (ann.ledger.slots_in_use, ann.ledger.slots_free) == (2, 0)
    fail(ann)
    fleet.send(ann)
    assert (ann.ledger.slots_in_use, ann.ledger.slots_free) == (2, 0)
    ann.ledger.release(runs)
    assert (ann.ledger.slots_free, ann.ledger.slots_at_hand) == (1, 0)
    fleet.send(bob)
    fleet.send(ann)
    more = fleet.open(ann, 0, 1)
    fleet.now += 1.0
    fleet.head.clock.now += 1.0
    fleet.sessions = 1
    fleet.tell(BALANCE)
    fleet.send(ann)
    ann.ledger.release(more)
    assert (ann.ledger.slots_in_use, ann.ledger.slots_free, ann.ledger.slots_at_hand) == (1, 1, 0)


def test_an_answer_counts_until_the_balance_changes() -> None:
    """A balance of another head is another one, whatever its number."""
    fleet = Fleet()
    ann = fleet.member("ann")
    answers = ann.ledger.answers
    fleet.send(ann)
    assert ann.ledger.answers == answers
    fleet.now += 1.0
    fleet.head.clock.now += 1.0
    fleet.tell(90)
    fleet.send(ann)
    assert ann.ledger.answers > answers
    answers, number = ann.ledger.answers, fleet.head.balances
    fleet.begin_anew("e2", ann)
    fleet.head.balances = number - 1
    fleet.tell(70)
    fleet.send(ann)
    assert ann.ledger.answers > answers
    assert ann.ledger.available(0, 0) == 70
