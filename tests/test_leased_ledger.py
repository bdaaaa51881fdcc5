"""A lease on both sides: whatever happens between two messages, a process uses no more than the head has set aside."""

from dataclasses import replace
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
