"""The order of the waiters: what is needed ahead of each, and which could be admitted next.

The time that a finished call takes must not grow with the number of waiters. Two structures ensure
that:

* A Fenwick tree keeps the sums of what the waiters ahead need. Reading a sum, and removing a waiter
  from the middle, takes time logarithmic in the queue's length.
* Waiters are grouped in *lanes*. In a lane, no waiter fits before the first one does, so only the
  first of each lane has to be checked. A waiter that counts (whose need blocks those behind it)
  shares a lane with all that lack the same kinds of things under the same settings: a waiter behind
  it needs at least as much on top. A waiter that does not count shares a lane only with those that
  need exactly the same, and so does one that takes its credits from a reserve. Those that a shared head
  decides about have a lane of their own.

Pure: no clock, no lock. Amounts are micro-credits.
"""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from budgetguard._core.policy import NOBODY, CallNeed, GuardTerms, QueuedAhead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Positions are renumbered after at least this many arrivals, and at least as many as waiters.
_ROOM = 64

Lane: TypeAlias = tuple[float, ...]
W = TypeVar("W")


@dataclass(slots=True, eq=False)
class _Place(Generic[W]):
    """A waiter's position in the tree, its lane, and whether it counts.

    `amount` is what it needs of the account, as it was when it was entered.
    """

    waiter: W
    need: CallNeed
    terms: GuardTerms
    position: int
    lane: Lane
    counts: bool
    amount: int = 0


class QueueOrder(Generic[W]):
    """The waiters of one account. `waiting` contains them in order of arrival; do not modify it.

    `uncounted` are the waiters that block nobody, `total` is what all others need.
    """

    def __init__(self) -> None:
        self.waiting: dict[W, _Place[W]] = {}
        self.uncounted: dict[W, None] = {}
        self.total = NOBODY
        self._begin(0)

    def add(self, waiter: W, need: CallNeed, terms: GuardTerms, *, counts: bool) -> None:
        """Append a waiter. `counts` says whether its need blocks those behind it."""
        if self._next == self._room:
            self._renumber()
        place = _Place(waiter, need, terms, self._next, _lane(need, terms, counts=counts), counts)
        self._next += 1
        self.waiting[waiter] = place
        self._enter(place)

    def counts(self, waiter: W) -> bool:
        """Whether a waiter blocks those behind it."""
        return self.waiting[waiter].counts

    def in_order(self, waiters: "Iterable[W]") -> list[W]:
        """These waiters, in order of arrival."""
        return sorted(waiters, key=lambda waiter: self.waiting[waiter].position)

    def count(self, waiter: W, *, counts: bool) -> bool:
        """Change whether a waiter blocks those behind it; it keeps its position.

        Returns whether those behind it may fit now.
        """
        place = self.waiting[waiter]
        amount, needs = place.amount, place.need.from_account
        if place.counts == counts and amount == needs:
            return False
        fewer = place.counts and (not counts or needs < amount)
        self._count_out(place)
        place.counts, place.lane = counts, _lane(place.need, place.terms, counts=counts)
        self._enter(place)
        return fewer

    def remove(self, waiter: W) -> bool:
        """Remove a waiter that has its answer or left; returns whether it blocked others."""
        place = self.waiting.pop(waiter, None)
        if place is None:
            return False
        self._count_out(place)
        if not self.waiting:
            # The lanes would keep removed waiters alive, and with them their guards.
            self._begin(0)
        return place.counts

    def ahead_of(self, waiter: W) -> QueuedAhead:
        """What the counting waiters ahead of this one need."""
        amount = slots = 0
        at = self.waiting[waiter].position - 1
        while at >= 0:
            amount += self._amounts[at]
            slots += self._slots[at]
            at = (at & (at + 1)) - 1
        return QueuedAhead(amount, slots)

    def firsts(self) -> "Iterator[W]":
        """The waiters that could be admitted next, in order of arrival.

        Yields the first waiter of each lane. If the caller removes it before the next step, the one
        behind it follows.
        """
        heads = [(head.position, lane) for lane in list(self._lanes) if (head := self._head(lane))]
        heapify(heads)
        while heads:
            position, lane = heappop(heads)
            head = self._head(lane)
            if head is None or head.position != position:
                # A waiter that no longer counts is now ahead of it: this one lacks whatever that lacks.
                continue
            yield head.waiter
            behind = self._head(lane)
            if behind is not None and behind is not head:
                heappush(heads, (behind.position, lane))

    def _head(self, lane: Lane) -> _Place[W] | None:
        """The first waiter of a lane; None if it is empty, which also removes the lane."""
        places = self._lanes.get(lane, [])
        while places:
            place = places[0][1]
            if place.lane == lane and self.waiting.get(place.waiter) is place:
                return place
            heappop(places)
        self._lanes.pop(lane, None)
        return None

    def _begin(self, room: int) -> None:
        self._room = room
        self._next = 0
        self._amounts = [0] * room
        self._slots = [0] * room
        self._lanes: dict[Lane, list[tuple[int, _Place[W]]]] = {}

    def _renumber(self) -> None:
        """Renumber all positions, and drop removed waiters from the middle of the lanes."""
        places = list(self.waiting.values())
        self.total = NOBODY
        self.uncounted.clear()
        self._begin(max(_ROOM, 2 * len(places)))
        for place in places:
            place.position = self._next
            self._next += 1
            self._enter(place)

    def _enter(self, place: _Place[W]) -> None:
        place.amount = place.need.from_account
        # A heap and not a deque: a waiter may join a lane after waiters that arrived later.
        heappush(self._lanes.setdefault(place.lane, []), (place.position, place))
        if place.counts:
            self._add(place.position, place.amount, place.need.slots)
        else:
            self.uncounted[place.waiter] = None

    def _count_out(self, place: _Place[W]) -> None:
        if not place.counts:
            del self.uncounted[place.waiter]
        else:
            self._add(place.position, -place.amount, -place.need.slots)

    def _add(self, at: int, amount: int, slots: int) -> None:
        self.total = QueuedAhead(self.total.amount + amount, self.total.slots + slots)
        while at < self._room:
            self._amounts[at] += amount
            self._slots[at] += slots
            at |= at + 1


def _lane(need: CallNeed, terms: GuardTerms, *, counts: bool) -> Lane:
    if need.draws:
        # None of them fits before the shared head has said so.
        return (2,)
    if counts:
        kinds = (1, need.amount > 0, need.slots > 0, terms.floor, terms.extra)
        # What was set aside for it may be enough where the account has too little for others.
        reserve = need.reserve
        return kinds if reserve is None else (*kinds, need.amount, need.slots, id(reserve))
    paid_by = map(id, (need.reserve, *need.budgets))
    return (0, need.amount, need.slots, terms.floor, terms.extra, *paid_by)
