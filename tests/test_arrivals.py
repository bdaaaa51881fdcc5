"""The order of those who wait, against a plain list that is gone through from the front."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from budgetguard.arrivals import Arrivals
from budgetguard.asker import Asker, Call
from budgetguard.policy import Ahead, Need, Terms
from budgetguard.waiting import Admission

NOW = 0.0
ASKERS = [
    Asker(
        Terms(
            fresh_for=300,
            stale_for=600,
            recheck_after=5,
            timeout=10,
            floor=floor,
            extra=0,
            allow_unknown=False,
        ),
        "fake",
    )
    for floor in (0, 3)
]


def waiter(amount: int, slots: int = 0, asker: Asker = ASKERS[0]) -> Admission:
    """Somebody who waits for that much."""
    need = Need(amount, amount, slots, arrived=NOW, until=NOW + 60, give_up=NOW + 70)
    return Admission(Call(asker, "work", need, lag=0, linger=0))


def first(arrivals: Arrivals) -> list[Admission]:
    """Who could be next."""
    return list(arrivals.firsts())


def test_what_is_ahead_is_what_those_who_count_need() -> None:
    """Others are in nobody's way, and who leaves is not either."""
    arrivals = Arrivals()
    tickets = [waiter(1, 1), waiter(2), waiter(4, 2), waiter(8)]
    for ticket in tickets:
        arrivals.add(ticket, counts=ticket is not tickets[1])
    assert [arrivals.ahead_of(each) for each in tickets] == [
        Ahead(0, 0),
        Ahead(1, 1),
        Ahead(1, 1),
        Ahead(5, 3),
    ]
    assert arrivals.total == Ahead(13, 3)
    arrivals.remove(tickets[0])
    assert arrivals.ahead_of(tickets[3]) == Ahead(4, 2)


def test_only_the_first_of_those_who_lack_the_same_is_asked() -> None:
    """Of a thousand who want credits alone, one; beside it, the first who wants a slot too."""
    arrivals = Arrivals()
    tickets = [waiter(1 + at % 7, slots=at % 2) for at in range(1000)]
    for ticket in tickets:
        arrivals.add(ticket, counts=True)
    assert first(arrivals) == tickets[:2]


def test_the_first_of_each_guard_is_asked() -> None:
    """What one guard's floor keeps from its callers, another guard's callers may have."""
    arrivals = Arrivals()
    tickets = [waiter(1, asker=asker) for asker in (ASKERS[1], ASKERS[0], ASKERS[1])]
    for ticket in tickets:
        arrivals.add(ticket, counts=True)
    assert first(arrivals) == tickets[:2]


def test_whoever_is_behind_one_that_was_let_in_is_asked_next() -> None:
    """Within one round, in order of arrival."""
    arrivals, seen = Arrivals(), []
    tickets = [waiter(1, slots=at % 2) for at in range(5)]
    for ticket in tickets:
        arrivals.add(ticket, counts=True)
    for ticket in arrivals.firsts():
        seen.append(ticket)
        if len(seen) < 4:
            arrivals.remove(ticket)
    assert seen == tickets


def test_one_that_counts_no_more_keeps_its_place() -> None:
    """Before those who need as much and came later."""
    arrivals = Arrivals()
    early, late = waiter(5), waiter(5)
    arrivals.add(early, counts=True)
    arrivals.add(late, counts=False)
    arrivals.count(early, counts=False)
    assert first(arrivals) == [early]
    assert arrivals.total == Ahead()


def test_those_who_left_are_forgotten() -> None:
    """Behind somebody who waits for long, a million may come and go."""
    arrivals = Arrivals()
    arrivals.add(waiter(1), counts=True)
    for _ in range(10_000):
        ticket = waiter(1)
        arrivals.add(ticket, counts=True)
        arrivals.remove(ticket)
    assert sum(len(places) for places in arrivals._lanes.values()) <= 66
    assert len(arrivals._amounts) == 64


@dataclass
class Naive:
    """A waiter, as the list has it."""

    ticket: Admission
    counts: bool


class ArrivalsLikeAList(RuleBasedStateMachine):
    """Whatever is done: the sums are the list's, and nobody fits whom `firsts` passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = Arrivals()
        self.waiting: list[Naive] = []

    @rule(
        amount=st.integers(0, 6),
        slots=st.integers(0, 2),
        asker=st.sampled_from(ASKERS),
        counts=st.booleans(),
    )
    def arrive(self, amount: int, slots: int, asker: Asker, counts: bool) -> None:
        """Somebody comes."""
        ticket = waiter(amount, slots, asker)
        self.arrivals.add(ticket, counts=counts)
        self.waiting.append(Naive(ticket, counts))

    @rule(many=st.integers(20, 80))
    def crowd(self, many: int) -> None:
        """Many come and go, so that positions are given out anew."""
        for _ in range(many):
            ticket = waiter(1)
            self.arrivals.add(ticket, counts=True)
            assert self.arrivals.remove(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Somebody goes."""
        gone = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.arrivals.remove(gone.ticket) == gone.counts
        assert not self.arrivals.remove(gone.ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), counts=st.booleans())
    def count(self, data: st.DataObject, counts: bool) -> None:
        """Somebody's time to queue is over, or it could fit again."""
        naive = self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))]
        naive.counts = counts
        self.arrivals.count(naive.ticket, counts=counts)

    @rule(available=st.integers(0, 20), free=st.integers(0, 4))
    def let_in(self, available: int, free: int) -> None:
        """Those who fit are let in, and are the ones whom the list would let in."""
        left = [available, free]

        def fits(ticket: Admission, ahead: Ahead) -> bool:
            need, floor = ticket.call.need, ticket.call.asker.terms.floor
            credits = not need.amount or left[0] - floor - ahead.amount >= need.amount
            return credits and (not need.slots or left[1] - ahead.slots >= need.slots)

        def take(ticket: Admission) -> None:
            left[0] -= ticket.call.need.amount
            left[1] -= ticket.call.need.slots

        expected, ahead, staying = [], Ahead(), []
        for naive in self.waiting:
            need = naive.ticket.call.need
            if fits(naive.ticket, ahead):
                take(naive.ticket)
                expected.append(naive.ticket)
                continue
            staying.append(naive)
            if naive.counts:
                ahead = Ahead(ahead.amount + need.amount, ahead.slots + need.slots)
        left[:] = [available, free]
        let_in = []
        for ticket in self.arrivals.firsts():
            if fits(ticket, self.arrivals.ahead_of(ticket)):
                take(ticket)
                let_in.append(ticket)
                self.arrivals.remove(ticket)
        assert let_in == expected
        self.waiting = staying

    def teardown(self) -> None:
        """The sums, the order and who is in nobody's way."""
        ahead = Ahead()
        assert list(self.arrivals.waiting) == [naive.ticket for naive in self.waiting]
        assert set(self.arrivals.uncounted) == {
            naive.ticket for naive in self.waiting if not naive.counts
        }
        for naive in self.waiting:
            assert self.arrivals.ahead_of(naive.ticket) == ahead
            if naive.counts:
                need = naive.ticket.call.need
                ahead = Ahead(ahead.amount + need.amount, ahead.slots + need.slots)
        assert self.arrivals.total == ahead


TestArrivalsLikeAList = ArrivalsLikeAList.TestCase
TestArrivalsLikeAList.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
