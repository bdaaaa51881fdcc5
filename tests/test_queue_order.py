"""The order of the waiters, compared with a plain list that is searched from the front."""

import weakref
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from budgetguard._core.policy import CallNeed, GuardTerms, QueuedAhead
from budgetguard._core.queue_order import QueueOrder
from budgetguard._engine.subscriber import Call, Subscriber
from budgetguard._engine.waiters import AdmissionWaiter

NOW = 0.0
SUBSCRIBERS = [
    Subscriber(
        GuardTerms(
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


# Nobody is admitted here.
ACCOUNT: Any = None


def anybody(
    amount: int, slots: int = 0, subscriber: Subscriber = SUBSCRIBERS[0]
) -> AdmissionWaiter:
    """A waiter for that much."""
    need = CallNeed(amount, amount, slots, arrived=NOW, until=NOW + 60, give_up=NOW + 70)
    call = Call(subscriber, "work", need, lag=0, linger=0)
    return AdmissionWaiter(ACCOUNT, call)


def put(order: QueueOrder[AdmissionWaiter], waiter: AdmissionWaiter, *, counts: bool) -> None:
    """Somebody arrives."""
    order.add(waiter, waiter.call.need, waiter.call.subscriber.terms, counts=counts)


def first(order: QueueOrder[AdmissionWaiter]) -> list[AdmissionWaiter]:
    """The waiters that could be next."""
    return list(order.firsts())


def test_what_is_ahead_is_what_those_who_count_need() -> None:
    """Other waiters block nobody, and neither does one that has left."""
    order: QueueOrder[AdmissionWaiter] = QueueOrder()
    waiters = [anybody(1, 1), anybody(2), anybody(4, 2), anybody(8)]
    for waiter in waiters:
        put(order, waiter, counts=waiter is not waiters[1])
    assert [order.ahead_of(each) for each in waiters] == [
        QueuedAhead(0, 0),
        QueuedAhead(1, 1),
        QueuedAhead(1, 1),
        QueuedAhead(5, 3),
    ]
    assert order.total == QueuedAhead(13, 3)
    order.remove(waiters[0])
    assert order.ahead_of(waiters[3]) == QueuedAhead(4, 2)


def test_only_the_first_of_those_who_lack_the_same_is_asked() -> None:
    """Of a thousand who want credits alone, one; beside it, the first who wants a slot too."""
    order: QueueOrder[AdmissionWaiter] = QueueOrder()
    waiters = [anybody(1 + at % 7, slots=at % 2) for at in range(1000)]
    for waiter in waiters:
        put(order, waiter, counts=True)
    assert first(order) == waiters[:2]


def test_the_first_of_each_guard_is_asked() -> None:
    """What one guard's floor keeps from its callers, another guard's callers may have."""
    order: QueueOrder[AdmissionWaiter] = QueueOrder()
    waiters = [
        anybody(1, subscriber=subscriber)
        for subscriber in (SUBSCRIBERS[1], SUBSCRIBERS[0], SUBSCRIBERS[1])
    ]
    for waiter in waiters:
        put(order, waiter, counts=True)
    assert first(order) == waiters[:2]


def test_whoever_is_behind_one_that_was_let_in_is_asked_next() -> None:
    """Within one round, in order of arrival."""
    order: QueueOrder[AdmissionWaiter] = QueueOrder()
    seen: list[AdmissionWaiter] = []
    waiters = [anybody(1, slots=at % 2) for at in range(5)]
    for waiter in waiters:
        put(order, waiter, counts=True)
    for waiter in order.firsts():
        seen.append(waiter)
        if len(seen) < 4:
            order.remove(waiter)
    assert seen == waiters


def test_one_that_counts_no_more_keeps_its_place() -> None:
    """Ahead of those that need as much and arrived later."""
    order: QueueOrder[AdmissionWaiter] = QueueOrder()
    early, late = anybody(5), anybody(5)
    put(order, early, counts=True)
    put(order, late, counts=False)
    order.count(early, counts=False)
    assert first(order) == [early]
    assert order.total == QueuedAhead()


def test_those_who_left_are_forgotten() -> None:
    """A million waiters may come and go behind one that waits for long."""
    order: QueueOrder[AdmissionWaiter] = QueueOrder()
    put(order, anybody(1), counts=True)
    for _ in range(10_000):
        waiter = anybody(1)
        put(order, waiter, counts=True)
        order.remove(waiter)
    assert sum(len(places) for places in order._lanes.values()) <= 66
    assert len(order._amounts) == 64


@dataclass
class Naive:
    """A waiter, as the list has it."""

    waiter: AdmissionWaiter
    counts: bool


class Somebody:
    """A waiter that can be seen to be forgotten."""


def test_the_last_to_leave_is_forgotten() -> None:
    """The lanes keep no waiter alive when all have left: a waiter refers to its guard."""
    order: QueueOrder[Somebody] = QueueOrder()
    need, terms = anybody(1).call.need, SUBSCRIBERS[0].terms
    there = [Somebody() for _ in range(3)]
    seen = [weakref.ref(each) for each in there]
    for each in there:
        order.add(each, need, terms, counts=True)
    # From the end, so that none of them comes to the front of its lane.
    while there:
        order.remove(there.pop())
    del each
    assert [ref() for ref in seen] == [None] * 3


class OrderLikeAList(RuleBasedStateMachine):
    """Whatever is done: the sums are the list's, and nobody fits whom `firsts` passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.order: QueueOrder[AdmissionWaiter] = QueueOrder()
        self.waiting: list[Naive] = []

    @rule(
        amount=st.integers(0, 6),
        slots=st.integers(0, 2),
        subscriber=st.sampled_from(SUBSCRIBERS),
        counts=st.booleans(),
    )
    def arrive(self, amount: int, slots: int, subscriber: Subscriber, counts: bool) -> None:
        """Somebody comes."""
        waiter = anybody(amount, slots, subscriber)
        put(self.order, waiter, counts=counts)
        self.waiting.append(Naive(waiter, counts))

    @rule(many=st.integers(20, 80))
    def crowd(self, many: int) -> None:
        """Many come and go, so that positions are given out anew."""
        for _ in range(many):
            waiter = anybody(1)
            put(self.order, waiter, counts=True)
            assert self.order.remove(waiter)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Somebody goes."""
        gone = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.order.remove(gone.waiter) == gone.counts
        assert not self.order.remove(gone.waiter)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), counts=st.booleans())
    def count(self, data: st.DataObject, counts: bool) -> None:
        """Somebody's time to queue is over, or it could fit again."""
        naive = self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))]
        naive.counts = counts
        self.order.count(naive.waiter, counts=counts)

    @rule(available=st.integers(0, 20), free=st.integers(0, 4))
    def let_in(self, available: int, free: int) -> None:
        """The waiters that fit are admitted, and the list would admit the same ones."""
        left = [available, free]

        def fits(waiter: AdmissionWaiter, ahead: QueuedAhead) -> bool:
            need, floor = waiter.call.need, waiter.call.subscriber.terms.floor
            credits = not need.amount or left[0] - floor - ahead.amount >= need.amount
            return credits and (not need.slots or left[1] - ahead.slots >= need.slots)

        def take(waiter: AdmissionWaiter) -> None:
            left[0] -= waiter.call.need.amount
            left[1] -= waiter.call.need.slots

        expected, ahead, staying = [], QueuedAhead(), []
        for naive in self.waiting:
            need = naive.waiter.call.need
            if fits(naive.waiter, ahead):
                take(naive.waiter)
                expected.append(naive.waiter)
                continue
            staying.append(naive)
            if naive.counts:
                ahead = QueuedAhead(ahead.amount + need.amount, ahead.slots + need.slots)
        left[:] = [available, free]
        let_in = []
        for waiter in self.order.firsts():
            if fits(waiter, self.order.ahead_of(waiter)):
                take(waiter)
                let_in.append(waiter)
                self.order.remove(waiter)
        assert let_in == expected
        self.waiting = staying

    def teardown(self) -> None:
        """The sums, the order, and which waiters block nobody."""
        ahead = QueuedAhead()
        assert list(self.order.waiting) == [naive.waiter for naive in self.waiting]
        assert set(self.order.uncounted) == {
            naive.waiter for naive in self.waiting if not naive.counts
        }
        for naive in self.waiting:
            assert self.order.ahead_of(naive.waiter) == ahead
            if naive.counts:
                need = naive.waiter.call.need
                ahead = QueuedAhead(ahead.amount + need.amount, ahead.slots + need.slots)
        assert self.order.total == ahead


TestOrderLikeAList = OrderLikeAList.TestCase
TestOrderLikeAList.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
