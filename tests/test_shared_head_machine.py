"""`SharedHead` against two books: the provider's, and a plain list of who owns which credit.

Members are simulated as processes that know only what replies tell them. Messages between them and the
head are late, lost, or repeated; processes die, fall silent, and come back; the head is rolled back, or
begins empty. After each message the head is compared with the list, and whenever a lease grew, what
all processes may still spend is compared with what the provider really has. Amounts are micro-credits,
times are seconds.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from budgetguard._core.balance import Balance
from budgetguard._core.shared_head import (
    CALM,
    GRACE,
    QUEUE_PATIENCE,
    SharedHead,
)
from budgetguard._core.store_messages import (
    NEVER,
    TICK,
    Busy,
    Debit,
    Exhausted,
    Join,
    KeptDebit,
    Landing,
    Message,
    Need,
    News,
    Offered,
    Pausing,
    Reply,
    Report,
)

LAG = 4.0
LINGER = 6.0
PATIENCE = LAG + LINGER
HOLD_FOR = 20.0
BUCKET = 1 / 16
"""Debits of one member within so many seconds may clear together, with the last of them."""

KEEP = st.sampled_from([1000, 1000, 1000, 10, 0])
"""How much of its slack a process keeps; of no more than there is."""

WANT = st.sampled_from([80, 80, 10, 0])

SESSIONS = 3
"""How many sessions the provider allows at once."""


# The provider, and the processes.


@dataclass
class Charge:
    """What the provider will book, and when."""

    amount: int
    at: float


class Provider:
    """The account as it really is."""

    def __init__(self, credits: int) -> None:
        self.credits = credits
        self.charges: list[Charge] = []

    def book(self, now: float) -> None:
        """Book what is due."""
        self.credits -= sum(each.amount for each in self.charges if each.at <= now)
        self.charges = [each for each in self.charges if each.at > now]

    @property
    def left(self) -> int:
        """What is left once all that happened is booked."""
        return self.credits - sum(each.amount for each in self.charges)

    def balance(self) -> Balance:
        """What the provider says now."""
        return Balance(Decimal(self.credits).scaleb(-6), max_concurrency=SESSIONS)


@dataclass(eq=False)
class Call:
    """An open call."""

    held: int
    slots: int


@dataclass(eq=False)
class Ended:
    """A finished call: its debit clears on a balance that was asked for at `clears` (real time) or later.

    `stamp` is the same on the account's clock, once the head knows of it.
    """

    cost: int
    clears: float
    slots: int = 0
    unknown: bool = False
    over: int = 0
    told: bool = False
    stamp: float | None = None


@dataclass(eq=False)
class Refresh:
    """A refresh under way: which right it has, and what the provider answered."""

    number: int
    epoch: str
    balance: Balance | None = None


class Process:
    """One member: what it does, and what it knows."""

    def __init__(self, name: str, hold_for: float | None, now: float) -> None:
        self.name = name
        self.hold_for = hold_for
        self.alive = True
        self.joins = self.whole = True
        self.epoch = ""
        self.number = 0
        self.seen = NEVER
        self.dropped = 0.0
        self.received = now
        self.acknowledged = now
        self.slack = 0
        self.calls: list[Call] = []
        self.ended: list[Ended] = []
        self.needs: list[Need] = []
        self.abandoned: set[int] = set()
        self.tickets = 0
        self.sent: Message | None = None
        self.included: list[Ended] = []
        self.reply: Reply | None = None
        self.recall = 0
        self.told_recall = 0
        self.refresh: Refresh | None = None
        self.offer: Offered | None = None

    @property
    def held(self) -> int:
        """What its open calls hold."""
        return sum(call.held for call in self.calls)

    def may_admit(self, now: float) -> bool:
        """Whether its lease is its own, by its own clock."""
        if not self.alive or self.joins or (self.sent is not None and self.sent.leave):
            return False
        return self.hold_for is None or now < self.acknowledged + 0.95 * self.hold_for

    def admit(self, cost: int) -> None:
        """A call begins, out of the slack."""
        assert cost <= self.slack
        self.slack -= cost
        self.calls.append(Call(cost, 0))

    def finish(self, call: Call, cost: int, now: float) -> None:
        """A call ends, and its cost is known."""
        self.calls.remove(call)
        if cost:
            self.ended.append(Ended(cost, now + LAG, over=max(cost - call.held, 0)))
        # What it held less goes back to the slack, unless a message is under way that says it is used.
        if self.sent is None:
            self.slack += call.held - cost

    @property
    def overrun(self) -> int:
        """How much more than they held its calls cost, as far as the head was not told."""
        return sum(each.over for each in self.ended if not each.told)

    def keep(self, call: Call, now: float) -> None:
        """A call ends, and nobody knows its cost."""
        self.calls.remove(call)
        self.ended.append(Ended(call.held, now + PATIENCE, call.slots, unknown=True))

    def compose(self, now: float, **more: Any) -> Message:
        """The next message."""
        assert self.sent is None
        self.number += 1
        again = self.joins
        self.included = [each for each in self.ended if self.whole or not each.told]
        keep = min(max(more.pop("keep", 0), 0), max(self.slack, 0))
        leaves = more.get("leave", False)
        if again or leaves or self.recall > self.told_recall or not self.may_admit(now):
            keep = 0
        self.slack = keep
        sole = more.pop("sole")
        join = Join(self.hold_for, sole_spender=sole, whole=self.whole) if again else None
        report = Report(
            used=self.held,
            keep=keep,
            slots=sum(call.slots for call in self.calls),
            running=len(self.calls),
            settled=tuple(
                Debit(each.cost, each.clears - now) for each in self.included if not each.unknown
            ),
            kept=tuple(
                KeptDebit(each.cost, each.clears - now, each.slots, ((None, 1),))
                for each in self.included
                if each.unknown
            ),
            needs=tuple(self.needs),
            want=more.pop("want", 0),
            floor=more.pop("floor", 0),
            recall=self.recall,
            patience=PATIENCE,
        )
        landing = None
        if self.refresh is not None and self.refresh.balance is not None:
            its = self.refresh
            landing = Landing(its.epoch, its.number, its.balance)
        news: tuple[News, ...] = more.pop("news", ())
        if self.offer is not None:
            news = (*news, self.offer)
        self.sent = Message(
            self.name,
            self.number,
            self.epoch,
            seen=self.seen,
            elapsed=now - self.received,
            dropped=self.dropped,
            report=report,
            join=join,
            landing=landing,
            news=news,
            **more,
        )
        self.composed = now
        return self.sent

    def take(self, reply: Reply, now: float) -> None:  # noqa: C901  one step for each part of a reply
        """A reply to the message under way arrived."""
        message = self.sent
        assert message is not None
        assert reply.status != "old"
        before, self.epoch = self.epoch, reply.epoch
        self.seen, self.received = reply.view.now, now
        self.dropped = reply.view.dropped
        self.sent = self.reply = None
        if before != reply.epoch:
            self.recall = self.told_recall = 0
            for each in self.ended:
                each.stamp = None
        if reply.status != "done":
            self.joins, self.slack = True, 0
            self.whole = self.whole or before != reply.epoch
            if not self.whole and message.number <= reply.number:
                for each in self.included:
                    each.told, each.stamp = True, reply.view.now + PATIENCE
            self.recall = reply.view.recall
            return
        self.joins = self.whole = False
        self.acknowledged = self.composed
        if message.landing is not None:
            self.refresh = None
        self.offer = None
        for each in self.included:
            each.told = True
            each.stamp = reply.view.now + max(each.clears - self.composed, 0.0)
        for ticket in (*reply.granted, *reply.refused):
            (need,) = [each for each in self.needs if each.ticket == ticket]
            self.needs.remove(need)
            if ticket in reply.granted:
                self.calls.append(Call(need.cost, need.slots))
                if ticket in self.abandoned:
                    self.calls.pop()
        self.needs = [each for each in self.needs if each.ticket not in self.abandoned]
        self.abandoned.clear()
        fresh = sum(each.cost for each in self.ended if not each.told)
        self.slack = reply.lease - self.held - fresh
        self.recall, self.told_recall = reply.view.recall, message.report.recall
        if reply.refresh == "yours":
            self.refresh = Refresh(reply.refresh_number, reply.epoch)
        snapshot = reply.view.snapshot
        if snapshot is not None:
            self.ended = [
                each for each in self.ended if each.stamp is None or each.stamp > snapshot.sent.mono
            ]

    def most(self) -> int:
        """The most that it can spend beyond what it has finished, once it has its reply."""
        slack = max(self.slack, 0)
        if self.reply is not None and self.reply.status == "done" and self.sent is not None:
            told = {id(each) for each in self.included}
            fresh = sum(each.cost for each in self.ended if not each.told and id(each) not in told)
            slack = max(slack, self.reply.lease - self.held - fresh)
        return self.held + slack


# What the head should know.


@dataclass
class Owned:
    """What a member owns, as the head was told."""

    hold_for: float | None = None
    heard: float = NEVER
    lease: int = 0
    used: int = 0
    slots: int = 0
    number: int = 0
    gone: bool = False
    recall: int = 0
    turn: int = 0
    lost: list[tuple[int, float, int]] = field(default_factory=list)
    debits: list[tuple[int, float, int]] = field(default_factory=list)
    needs: dict[int, tuple[int, Need]] = field(default_factory=dict)
    reply: Reply | None = None

    def die(self, now: float) -> None:
        """All that it had counts until a balance shows it."""
        if self.lease or self.slots:
            self.lost.append((self.lease, now + PATIENCE, self.slots))
        self.lease = self.used = self.slots = 0
        self.gone, self.needs = True, {}


class Book:
    """Every credit's owner."""

    def __init__(self) -> None:
        self.members: dict[str, Owned] = {}
        self.order = 0
        self.turn = 0
        self.came: dict[tuple[str, int], int] = {}
        self.awaited: set[str] = set()
        self.regroup = 0.0
        self.credits: int | None = None
        self.last = 0
        self.sent = NEVER
        self.refused_until: float | None = None
        self.recall = 0
        self.recalled_at = NEVER
        self.calm_until = NEVER
        self.refresh: tuple[int, str, float, float] | None = None
        self.last_began = NEVER

    def reap(self, now: float, latest: float, dead: Iterable[str]) -> set[str]:
        """Who was silent for too long, or died."""
        found = {
            name
            for name, each in self.members.items()
            if not each.gone
            and (name in dead or (each.hold_for is not None and now >= each.heard + each.hold_for))
        }
        for name in found:
            self.members[name].die(latest)
        self.awaited -= found
        if self.refresh is not None and self.refresh[1] in found:
            self.refresh = None
        self.awaited -= set(dead) - self.members.keys()
        return found

    def clear(self, sent: float) -> None:
        """Drop what a balance that was asked for then must show."""
        for each in self.members.values():
            each.debits = [debit for debit in each.debits if debit[1] > sent]
            each.lost = [debit for debit in each.lost if debit[1] > sent]

    def adopt(self, credits: int, sent: float) -> None:
        """A balance arrived."""
        if sent <= self.sent:
            return
        if self.refused_until is not None and (credits > self.last or sent >= self.refused_until):
            self.refused_until = None
        self.last, self.sent = credits, sent
        self.credits = credits if self.refused_until is None else 0
        self.clear(sent)

    def granting(self, now: float) -> bool:
        """Whether leases may grow."""
        return not self.awaited and now >= self.regroup and self.credits is not None

    def waiting(self, now: float) -> list[tuple[str, Need]]:
        """The callers of members that answer, in order of arrival."""
        found = [
            (order, name, need)
            for name, each in self.members.items()
            if now - each.heard <= QUEUE_PATIENCE
            for order, need in each.needs.values()
        ]
        return [(name, need) for _, name, need in sorted(found, key=lambda each: each[0])]


@dataclass
class Saved:
    """A copy of the head, and what it knew."""

    head: SharedHead
    book: Book


def digest(head: SharedHead) -> object:
    """All that a message may not change if it takes no effect."""
    return (
        {
            name: (
                each.lease,
                each.used,
                each.slots,
                each.pending,
                each.number,
                each.recall,
                tuple(each.needs),
                each.gone,
            )
            for name, each in head.members.items()
        },
        head.snapshot,
        head.recall,
        head.refresh,
        head.pauses.copy(),
        head.busy_until,
        set(head.awaited),
    )


class Fleet(RuleBasedStateMachine):
    """Processes that spend from one account, its head, and the messages between them."""

    sole: Any = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.server = 1000.0
        self.provider = Provider(100)
        self.processes: dict[str, Process] = {}
        self.dead: set[str] = set()
        """Those that the store knows are dead."""
        self.head = SharedHead("e0")
        self.book = Book()
        self.epochs = 0
        self.saved: Saved | None = None
        self.wire: list[Message] = []
        self.excused = 0
        """What may be spent without the head's knowledge, by the failures of the table in stores.md."""
        self.missing: set[str] = set()
        self.handled = 0.0
        self.born = 0
        self.grants = 0

    @initialize(credits=st.sampled_from([0, 30, 100, 300]))
    def begin(self, credits: int) -> None:
        """Two processes, and a balance."""
        self.provider = Provider(credits)
        self.join(HOLD_FOR)
        self.join(None)
        first, second = self.living()
        self.round(first, refresh_after=0.0, refresh_timeout=5.0)
        self.get_balance(first)
        self.round(second, want=80)

    # Time.

    @rule(quarters=st.sampled_from([1, 2, 4, 5, 16, 20, 41, 90, 200]))
    def wait(self, quarters: int) -> None:
        """Time passes."""
        self.now += quarters / 4
        self.server += quarters / 4
        self.provider.book(self.now)

    @rule(by=st.sampled_from([-3600.0, 5.0, 3600.0]))
    def set_server_clock(self, by: float) -> None:
        """The server's clock is set. A small step back that falls between two messages is seen by nobody."""
        self.server += by

    # Processes.

    @rule(hold_for=st.sampled_from([HOLD_FOR, None]))
    @precondition(lambda self: len(self.living()) < 4)
    def join(self, hold_for: float | None) -> None:
        """A process begins."""
        if sum(each.alive for each in self.processes.values()) < 4:
            self.born += 1
            name = f"p{self.born}"
            self.processes[name] = Process(name, hold_for, self.now)

    def living(self) -> list[Process]:
        return [each for each in self.processes.values() if each.alive]

    def one(self, data: st.DataObject, among: list[Process] | None = None) -> Process:
        if not self.living():
            self.join(HOLD_FOR)
        return data.draw(st.sampled_from(self.living() if among is None else among), "process")

    @rule(data=st.data(), part=st.integers(1, 4))
    @precondition(lambda self: any(e.slack > 0 and e.may_admit(self.now) for e in self.living()))
    def admit(self, data: st.DataObject, part: int) -> None:
        """A call begins from slack, without a message."""
        able = [each for each in self.living() if each.slack > 0 and each.may_admit(self.now)]
        if able:
            process = self.one(data, able)
            process.admit(max(process.slack // part, 1))

    @rule(data=st.data(), factor=st.sampled_from([0, 1, 2, 2, 3]), late=st.integers(0, 4))
    @precondition(lambda self: any(each.calls for each in self.living()))
    def finish(self, data: st.DataObject, factor: int, late: int) -> None:
        """A call ends at a lower, an equal or a higher cost."""
        able = [each for each in self.living() if each.calls]
        if able:
            process = self.one(data, able)
            self.end(process, data.draw(st.sampled_from(process.calls), "call"), factor, late)

    @rule(data=st.data(), factor=st.integers(0, 2), late=st.integers(0, 4))
    @precondition(lambda self: any(each.calls for each in self.living()))
    def keep(self, data: st.DataObject, factor: int, late: int) -> None:
        """A call ends, and nobody knows its cost."""
        able = [each for each in self.living() if each.calls]
        if able:
            process = self.one(data, able)
            call = data.draw(st.sampled_from(process.calls), "call")
            process.keep(call, self.now)
            cost = call.held * factor // 2
            self.provider.charges.append(Charge(cost, self.now + late * PATIENCE / 4))
            self.provider.book(self.now)

    @rule(
        data=st.data(),
        cost=st.sampled_from([0, 1, 5, 20, 60]),
        more=st.sampled_from([0, 0, 10]),
        slots=st.sampled_from([0, 0, 1]),
        floor=st.sampled_from([0, 0, 15]),
        counts=st.booleans(),
    )
    def need(
        self, data: st.DataObject, cost: int, more: int, slots: int, floor: int, *, counts: bool
    ) -> None:
        """A caller arrives that the slack does not cover."""
        process = self.one(data)
        if process.sent is None and len(process.needs) < 4:
            process.tickets += 1
            process.needs.append(
                Need(process.tickets, cost + more, cost, slots, floor, counts=counts)
            )

    @rule(data=st.data())
    @precondition(lambda self: any(each.needs for each in self.living()))
    def abandon(self, data: st.DataObject) -> None:
        """A caller gives up, maybe while a message is under way."""
        able = [each for each in self.living() if each.needs]
        if able:
            process = self.one(data, able)
            need = data.draw(st.sampled_from(process.needs), "need")
            if process.sent is None:
                process.needs.remove(need)
            else:
                process.abandoned.add(need.ticket)

    @rule(data=st.data(), charged=st.integers(0, 2), late=st.integers(0, 4), seen=st.booleans())
    @precondition(lambda self: len(self.living()) > 2)
    def die(self, data: st.DataObject, charged: int, late: int, *, seen: bool) -> None:
        """A process is killed; its calls may still be charged."""
        if len(self.living()) < 2:
            return
        process = self.one(data)
        process.alive = False
        for call in process.calls:
            cost = call.held * charged // 2
            self.provider.charges.append(Charge(cost, self.now + late * PATIENCE / 4))
        process.calls.clear()
        self.provider.book(self.now)
        if seen or process.hold_for is None:
            self.dead.add(process.name)

    # Messages.

    @rule(
        data=st.data(),
        keep=KEEP,
        want=WANT,
        refresh=st.booleans(),
        floor=st.sampled_from([0, 0, 15]),
        news=st.sampled_from(
            [
                (),
                (),
                (),
                (),
                (Busy(5.0),),
                (Pausing("guard", "so"),),
                (Pausing("guard", None),),
            ]
        ),
        leave=st.sampled_from([False, False, False, False, True]),
    )
    def send(
        self,
        data: st.DataObject,
        keep: int,
        want: int,
        floor: int,
        news: tuple[News, ...],
        *,
        refresh: bool,
        leave: bool,
    ) -> None:
        """A process sends its next message; it is on its way."""
        able = [each for each in self.living() if each.sent is None]
        if able:
            process = self.one(data, able)
            leave = leave and not process.calls and not process.joins and len(self.living()) > 1
            if leave:
                process.needs.clear()
            more: dict[str, Any] = {}
            if refresh and process.refresh is None:
                more = {"refresh_after": self.head.now, "refresh_timeout": 5.0}
            self.compose(process, keep=keep, want=want, floor=floor, news=news, leave=leave, **more)

    def compose(self, process: Process, **more: Any) -> None:
        self.wire.append(process.compose(self.now, sole=self.sole, **more))
        self.wire = self.wire[-8:]

    @rule(data=st.data())
    @precondition(lambda self: any(each.sent for each in self.processes.values()))
    def deliver(self, data: st.DataObject) -> None:
        """The head gets a message, for the first time or again."""
        able = [each for each in self.processes.values() if each.sent is not None]
        if able:
            process = self.one(data, able)
            assert process.sent is not None
            process.reply = self.handle(process.sent)

    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """An old message arrives once more, whatever has become of its sender."""
        if self.wire:
            message = data.draw(st.sampled_from(self.wire), "message")
            process = self.processes[message.member]
            if process.sent is message:
                process.reply = self.handle(message)
            else:
                self.handle(message)

    @rule(data=st.data())
    @precondition(lambda self: any(each.reply for each in self.living()))
    def receive(self, data: st.DataObject) -> None:
        """A reply arrives."""
        able = [each for each in self.living() if each.reply is not None]
        if able:
            self.get(self.one(data, able))

    @rule(data=st.data(), keep=KEEP, want=WANT)
    def exchange(self, data: st.DataObject, keep: int, want: int) -> None:
        """A message and its reply, without any trouble."""
        self.round(self.one(data), keep=keep, want=want)

    @rule(
        data=st.data(),
        costs=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        factors=st.lists(st.sampled_from([0, 1, 2, 2, 2, 3]), min_size=4, max_size=4),
        quarters=st.sampled_from([0, 1, 4, 20]),
        keep=KEEP,
    )
    def work(
        self, data: st.DataObject, costs: list[int], factors: list[int], quarters: int, keep: int
    ) -> None:
        """A process does what it mostly does: calls out of its slack, some of which end, and a message."""
        process = self.one(data)
        for cost in costs:
            if process.may_admit(self.now) and process.slack >= cost:
                process.admit(cost)
        self.wait(quarters)
        for call, factor in list(zip(process.calls, factors, strict=False)):
            self.end(process, call, factor, 4)
        self.round(process, keep=keep, want=80)

    def end(self, process: Process, call: Call, factor: int, late: int) -> None:
        cost = call.held * factor // 2
        process.finish(call, cost, self.now)
        self.provider.charges.append(Charge(cost, self.now + late * LAG / 4))
        self.provider.book(self.now)

    def round(self, process: Process, **more: Any) -> None:
        if process.sent is None:
            self.compose(process, **more)
        assert process.sent is not None
        process.reply = self.handle(process.sent)
        self.get(process)

    def get(self, process: Process) -> None:
        reply, message = process.reply, process.sent
        assert reply is not None
        assert message is not None
        process.take(reply, self.now)
        if reply.status == "done" and message.leave:
            process.joins = True

    # Refreshes.

    @rule(data=st.data())
    @precondition(lambda self: any(e.refresh and not e.refresh.balance for e in self.living()))
    def answer(self, data: st.DataObject) -> None:
        """The provider answers a refresh; it lands with a later message."""
        able = [each for each in self.living() if each.refresh and each.refresh.balance is None]
        if able:
            refresh = self.one(data, able).refresh
            assert refresh is not None
            refresh.balance = self.provider.balance()

    @rule(data=st.data())
    def refresh(self, data: st.DataObject) -> None:
        """A refresh without any trouble."""
        process = self.one(data)
        self.round(process, keep=1000, refresh_after=self.head.now, refresh_timeout=5.0)
        self.get_balance(process)

    def get_balance(self, process: Process) -> None:
        if process.refresh is not None:
            process.refresh.balance = process.refresh.balance or self.provider.balance()
            self.round(process, keep=1000)

    @rule(data=st.data())
    def offer(self, data: st.DataObject) -> None:
        """A reply of the provider carries its balance."""
        able = [each for each in self.living() if each.sent is None and each.seen > NEVER]
        if able:
            process = self.one(data, able)
            process.offer = Offered(self.provider.balance(), process.epoch, process.seen, 0.0)

    @rule(data=st.data())
    def exhausted(self, data: st.DataObject) -> None:
        """The provider refuses a call."""
        process = self.one(data)
        if process.sent is None:
            self.compose(process, news=(Exhausted(LAG, 0.0),))

    @rule(credits=st.sampled_from([20, 100]))
    def top_up(self, credits: int) -> None:
        """Somebody pays."""
        self.provider.credits += credits

    # Restarts.

    @rule()
    def save(self) -> None:
        """The head is copied to a replica."""
        self.saved = Saved(deepcopy(self.head), deepcopy(self.book))

    @rule()
    @precondition(lambda self: self.saved and self.grants > 2 * self.epochs + 2)
    def fail_over(self) -> None:
        """The replica takes over: what happened since the copy is lost."""
        assert self.saved is not None
        self.epochs += 1
        before = self.book
        self.head, self.book = self.saved.head, self.saved.book
        self.saved = None
        self.head.fail_over(f"e{self.epochs}")
        for name, each in self.book.members.items():
            if not each.gone:
                each.heard = self.head.now
                self.book.awaited.add(name)
        self.book.refresh = None
        # It may be older than what members know.
        self.book.credits, self.book.sent, self.book.refused_until = None, NEVER, None
        self.book.last = 0
        # Lost: what members held that died meanwhile, and how what they said finished.
        for name, each in before.members.items():
            if not self.processes[name].alive:
                self.excused += each.lease + sum(debit[0] for debit in each.debits + each.lost)

    @rule()
    @precondition(lambda self: self.grants > 3 * self.epochs + 3)
    def restart(self) -> None:
        """The state is lost."""
        self.epochs += 1
        before, self.saved = self.book, None
        self.head = SharedHead(f"e{self.epochs}", regroup=HOLD_FOR + PATIENCE)
        self.book = Book()
        self.book.regroup = HOLD_FOR + PATIENCE
        for name, each in before.members.items():
            if not self.processes[name].alive:
                self.excused += each.lease + sum(debit[0] for debit in each.debits + each.lost)

    # What must come to an end.

    @rule(data=st.data(), cost=st.sampled_from([1, 10, 40]))
    def settle(self, data: st.DataObject, cost: int) -> None:
        """While everybody answers, a caller is granted what is there, or refused what is not."""
        caller = self.one(data)
        self.catch_up()
        caller.needs.clear()
        self.all_exchange()
        caller.tickets += 1
        caller.needs.append(Need(caller.tickets, cost, cost))
        for _ in range(4):
            self.wait(2)
            self.round(caller, keep=1000)
            if not caller.needs or not self.book.granting(self.head.now):
                return
            for each in self.living():
                if each is not caller:
                    self.round(each, keep=1000)
        msg = "a caller was left without an answer"
        raise AssertionError(msg)

    def catch_up(self) -> None:
        """Messages that are under way arrive, and everybody is a member of this epoch."""
        for process in self.living():
            for _ in range(4):
                self.round(process)

    def all_exchange(self) -> None:
        for process in self.living():
            process.needs.clear()
            self.round(process, keep=1000)

    @rule()
    def everybody_leaves(self) -> None:
        """Then nothing is lost, and nothing remains: a balance shows what is free, to the last credit."""
        self.catch_up()
        for process in self.living():
            for call in list(process.calls):
                self.end(process, call, 2, 0)
            process.needs.clear()
            self.round(process)
            self.round(process, leave=True)
        self.born += 1
        last = self.processes[f"p{self.born}"] = Process(f"p{self.born}", None, self.now)
        for _ in range(16):
            self.wait(20)
            self.round(last)
        for _ in range(2):
            self.round(last, refresh_after=self.head.now, refresh_timeout=5.0)
            self.get_balance(last)
            self.wait(20)
        assert self.book.members.keys() == {last.name}
        assert self.book.granting(self.head.now)
        assert self.head.free(0, 0) == self.provider.credits == self.provider.left

    # The head takes a message.

    def handle(self, message: Message) -> Reply:
        """Have the head take a message, and compare everything that can be compared."""
        head, book, name = self.head, self.book, message.member
        earlier, before = head.now, digest(head)
        behind = head.clock.behind
        reply, woken = head.handle(message, self.server, sorted(self.dead))
        now = head.now
        self.missing = {each for each, its in head.members.items() if head.missing(its)}
        self.check_clock(message, earlier, behind)
        reaped = book.reap(now, head.clock.latest, self.dead)
        for each in reaped & self.processes.keys():
            process = self.processes[each]
            if process.alive and process.name not in self.dead:
                # Silent for too long: it admits nothing by its own clock, but its calls go on.
                assert not process.may_admit(self.now)
        assert woken <= book.members.keys()
        mine = book.members.get(name)
        if reply.status != "done":
            self.check_refused_message(message, reply, mine)
            if not reaped:
                assert digest(head) == before
        elif mine is not None and message.number == mine.number and not mine.gone:
            assert mine.reply is not None
            mine.heard = head.clock.latest
            assert (reply.lease, reply.slots) == (mine.reply.lease, mine.reply.slots)
            assert (reply.granted, reply.refused) == (mine.reply.granted, mine.reply.refused)
            assert (reply.refresh, reply.refresh_number) == (
                mine.reply.refresh,
                mine.reply.refresh_number,
            )
            if not reaped:
                assert digest(head) == before
        else:
            self.take_effect(message, reply, woken)
            for each in self.saved.book.members if self.saved and message.join else ():
                if each == name and self.saved:
                    break
            else:
                if message.join is not None:
                    # A store waits until its replica knows of a new member.
                    self.saved = None
        self.compare()
        return reply

    def check_clock(self, message: Message, earlier: float, behind: float) -> None:
        """The account's clock runs no faster than time, but for what it may catch up."""
        book, now = self.book, self.head.now
        assert now >= earlier
        passed, self.handled = self.now - self.handled, self.now
        others = any(not each.gone for name, each in book.members.items() if name != message.member)
        if others:
            assert now - earlier <= passed + behind + 2 * TICK
        elif now - earlier > passed + behind + 2 * TICK:
            # Nobody but the server's clock was there to tell.
            self.excused += sum(
                d[0] for each in book.members.values() for d in each.debits + each.lost
            )

    def check_refused_message(self, message: Message, reply: Reply, mine: Owned | None) -> None:
        """A message that takes no effect is old, of another epoch, or of a member that was given up."""
        if reply.status == "old":
            assert mine is not None
            assert message.number < mine.number
        elif reply.status == "reassert":
            assert message.epoch != self.head.epoch
        else:
            assert reply.status == "expired"
            assert mine is None or mine.gone or message.epoch != self.head.epoch

    def take_effect(self, message: Message, reply: Reply, woken: frozenset[str]) -> None:  # noqa: C901  likewise
        """Do in the book what the message says, in the order of the protocol, and check the reply."""
        book, name, report = self.book, message.member, message.report
        mine = book.members.setdefault(name, Owned())
        assert message.number > mine.number or mine.gone
        if message.join is not None:
            mine.hold_for, mine.gone = message.join.hold_for, False
            mine.lost = []
            if message.join.whole:
                mine.debits = []
            book.awaited.discard(name)
        assert not mine.gone
        mine.heard, mine.number = self.head.clock.latest, message.number
        mine.recall = max(mine.recall, report.recall)
        book.turn += 1
        mine.turn = book.turn
        # What must be over counts from the latest that it may be.
        at = self.head.clock.latest
        for debit in report.settled:
            mine.debits.append((debit.amount, at + debit.clears_in, 0))
        for kept in report.kept:
            mine.debits.append((kept.amount, at + kept.clears_in, kept.slots))
        lease_before = mine.lease
        mine.used, mine.slots = report.used, report.slots
        mine.lease = report.used + report.keep
        if message.leave:
            mine.lease = mine.used
            mine.die(self.head.clock.latest)
        self.hear(message)
        if message.landing is not None:
            self.land(message)
        if message.refresh_after is not None and not message.leave:
            self.check_right(message, reply)
        if not message.leave:
            known = mine.needs
            mine.needs = {}
            for need in report.needs:
                place = known.get(need.ticket)
                if place is None:
                    book.order += 1
                    book.came[name, need.ticket] = book.turn
                mine.needs[need.ticket] = (place[0] if place else book.order, need)
            self.check_grants(name, mine, report, reply, woken)
        assert reply.lease == mine.lease
        assert reply.slots == mine.slots
        mine.reply = reply
        if mine.lease > max(lease_before, report.used + report.keep):
            self.grants += 1
            self.check_truth()

    def hear(self, message: Message) -> None:
        """What a message tells about the account."""
        book, now = self.book, self.head.now
        for each in message.news:
            if isinstance(each, Exhausted):
                book.credits, book.sent = 0, now
                book.refused_until = self.head.clock.latest + each.lag
                book.recall += 1
                book.recalled_at = now
                book.calm_until = max(book.calm_until, now + CALM)
            elif isinstance(each, Offered) and each.epoch == self.head.epoch:
                assert each.balance.credits is not None
                book.adopt(int(each.balance.credits * 10**6), each.began)

    def land(self, message: Message) -> None:
        """The balance that a message brings counts if its right to refresh is the last one given."""
        landing, refresh = message.landing, self.book.refresh
        assert landing is not None
        if refresh is None or landing.epoch != self.head.epoch:
            return
        if (landing.number, message.member) == refresh[:2]:
            self.book.refresh = None
            assert landing.balance is not None
            assert landing.balance.credits is not None
            self.book.adopt(int(landing.balance.credits * 10**6), refresh[2])

    def check_right(self, message: Message, reply: Reply) -> None:
        """One member refreshes at a time, and only if there is no newer one."""
        book, now = self.book, self.head.now
        assert message.refresh_after is not None
        if reply.refresh == "yours":
            assert book.refresh is None or now >= book.refresh[3]
            book.refresh = (
                reply.refresh_number,
                message.member,
                now,
                now + message.refresh_timeout + GRACE,
            )
            book.last_began = now
        elif reply.refresh == "wait":
            assert book.refresh is not None
            assert now < book.refresh[3]
        elif reply.refresh == "newer":
            assert self.head.refresh.last_began > message.refresh_after
        else:
            assert reply.refresh == "blocked"

    def free(self, floor: int) -> int:
        """What nobody owns, above a floor."""
        assert self.book.credits is not None
        owned = sum(each.lease for each in self.book.members.values())
        pending = sum(each.pending for each in self.head.members.values())
        overlap = 0 if self.head.snapshot is None else self.head.snapshot.overlap
        if self.book.refused_until is not None:
            overlap = 0
        return self.book.credits + overlap - owned - pending - floor

    def check_grants(
        self, name: str, mine: Owned, report: Report, reply: Reply, woken: frozenset[str]
    ) -> None:
        """Grants are covered and in order; refusals are final only if nothing that answers would help."""
        book, now = self.book, self.head.now
        ahead = slots_ahead = 0
        granting = book.granting(now)
        for whose, need in book.waiting(now):
            in_use = sum(
                each.slots + sum(debit[2] for debit in self.head_debits(other))
                for other, each in book.members.items()
            )
            if whose == name:
                slots_fit = not need.slots or in_use + slots_ahead + need.slots <= SESSIONS
                fits = granting and slots_fit
                if fits and need.amount:
                    fits = self.free(need.floor) - ahead >= need.amount
                assert (need.ticket in reply.granted) == fits
                if fits:
                    assert need.ticket not in reply.refused
                    del mine.needs[need.ticket]
                    mine.lease += need.cost
                    mine.used += need.cost
                    mine.slots += need.slots
                    continue
                self.check_unmet(name, need, ahead, in_use + slots_ahead, reply, woken)
            if need.counts:
                ahead += need.amount
                slots_ahead += need.slots
        assert {*reply.granted, *reply.refused} <= {need.ticket for need in report.needs}
        lent = reply.lease - mine.lease
        assert lent >= 0
        if lent:
            assert granting
            assert not book.waiting(now)
            assert now >= book.calm_until
            assert now >= self.head.calm_until
            assert lent <= report.want - (mine.lease - mine.used)
            living = sum(not each.gone for each in book.members.values())
            assert lent <= self.free(report.floor) // (2 * living)
            assert mine.recall >= self.head.recall
        mine.lease += lent

    def head_debits(self, name: str) -> list[tuple[float, int, int]]:
        record = self.head.members.get(name)
        return [] if record is None else [*record.kept.in_order(), *record.lost.in_order()]

    def check_unmet(
        self,
        name: str,
        need: Need,
        ahead: int,
        slots_ahead: int,
        reply: Reply,
        woken: frozenset[str],
    ) -> None:
        """A need that was not granted is refused for good, or somebody is asked to help."""
        book, now = self.book, self.head.now
        if not book.granting(now):
            assert need.ticket not in reply.refused
            return
        if need.amount and self.free(need.floor) - ahead < need.amount:
            book.calm_until = now + CALM
        # What a member used before the need came, its calls may have finished since.
        came = book.came[name, need.ticket]
        may = {
            other: (each.lease - each.used, 0) if each.turn >= came else (each.lease, each.slots)
            for other, each in book.members.items()
        }
        may = {other: what for other, what in may.items() if any(what)}
        answering = {other: what for other, what in may.items() if other not in self.missing}
        free = self.free(need.floor) - ahead
        in_use = slots_ahead + need.slots - SESSIONS
        if need.ticket in reply.refused:
            credits = free + sum(what[0] for what in answering.values())
            slots = in_use - sum(what[1] for what in answering.values())
            assert (need.amount and credits < need.amount) or (need.slots and slots > 0)
            if not need.counts:
                del book.members[name].needs[need.ticket]
        else:
            credits = free + sum(what[0] for what in may.values())
            slots = in_use - sum(what[1] for what in may.values())
            assert not need.amount or credits >= need.amount
            assert not need.slots or slots <= 0
            assert answering.keys() - {name} <= woken

    # What must hold.

    def check_truth(self) -> None:
        """What all processes may still spend, the provider has."""
        likely = sum(each.most() for each in self.processes.values() if each.alive)
        told = sum(each.overrun for each in self.processes.values())
        unknown = sum(
            each.most()
            for name, each in self.processes.items()
            if each.alive and (name not in self.book.members or self.book.members[name].gone)
        )
        assert self.provider.left - likely + told + unknown + self.excused >= 0

    def forget_the_gone(self) -> None:
        """The head forgets members that are gone once no debit of theirs remains."""
        for name in self.book.members.keys() - self.head.members.keys():
            each = self.book.members.pop(name)
            assert each.gone
            assert not each.lease
            assert not each.debits
            assert not each.lost

    def compare(self) -> None:
        """The head says what the list says."""
        head, book = self.head, self.book
        self.forget_the_gone()
        for name, each in book.members.items():
            record = head.members[name]
            assert record.gone == each.gone
            assert (record.lease, record.used, record.slots) == (each.lease, each.used, each.slots)
            assert record.lease >= record.used >= 0
            pending = sum(debit[0] for debit in each.debits + each.lost)
            late = record.pending - pending
            assert late >= 0
            assert type(record.lease) is type(record.pending) is int
        assert head.members.keys() <= book.members.keys()
        if book.credits is not None:
            assert head.snapshot is not None
            assert head.free(7, 0) == self.free(7)
        else:
            assert head.snapshot is None


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=50, stateful_step_count=60, deadline=None, report_multiple_bugs=False
)
