"""Those who wait to be let in, in order of arrival: what is needed ahead of each, and who is next.

What an end of a call costs must not grow with the number of waiters. Two things see to that:

* What the waiters ahead of one need is a sum over a prefix, kept in a Fenwick tree. Reading it, and
  taking out a waiter in the middle, costs the logarithm of the queue's length.
* Waiters stand in *lanes*. In each of them nobody fits before its first waiter does, so only the
  first of each lane has to be asked. A waiter who counts (whose need stands in the way of those
  behind) shares a lane with all that lack the same kinds of things under the same terms: whoever
  stands behind it needs at least what it needs on top. One who does not count shares its lane only
  with those who need exactly as much.

Pure: no clock, no lock. Amounts are micro-credits.
"""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

from budgetguard.policy import NOBODY, Ahead, Need, Terms

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from budgetguard.waiting import Admission

# Positions are given out anew after so many arrivals, at least, and as many as there are waiters.
_ROOM = 64

Lane: TypeAlias = tuple[float, ...]


@dataclass(slots=True, eq=False)
class _Place:
    """Where a waiter stands: its position in the tree, its lane, and whether it counts."""

    ticket: "Admission"
    position: int
    lane: Lane
    counts: bool


class Arrivals:
    """The waiters of one account. `waiting` holds them in order of arrival, and is not to be changed.

    `uncounted` are those in nobody's way, `total` is what all others need.
    """

    def __init__(self) -> None:
        self.waiting: dict[Admission, _Place] = {}
        self.uncounted: dict[Admission, None] = {}
        self.total = NOBODY
        self._begin(0)

    def add(self, ticket: "Admission", *, counts: bool) -> None:
        """A waiter arrives. `counts` says whether its need stands in the way of those behind it."""
        if self._next == self._room:
            self._renumber()
        place = _Place(ticket, self._next, _lane(ticket, counts=counts), counts)
        self._next += 1
        self.waiting[ticket] = place
        self._enter(place)

    def counts(self, ticket: "Admission") -> bool:
        """Whether a waiter stands in the way of those behind it."""
        return self.waiting[ticket].counts

    def in_order(self, tickets: "Iterable[Admission]") -> "list[Admission]":
        """These waiters, in order of arrival."""
        return sorted(tickets, key=lambda ticket: self.waiting[ticket].position)

    def count(self, ticket: "Admission", *, counts: bool) -> None:
        """Say anew whether a waiter stands in the way of those behind it; it keeps its position."""
        place = self.waiting[ticket]
        if place.counts != counts:
            self._count_out(place)
            place.counts, place.lane = counts, _lane(ticket, counts=counts)
            self._enter(place)

    def remove(self, ticket: "Admission") -> bool:
        """A waiter has its answer, or left; whether it stood in the way of others."""
        place = self.waiting.pop(ticket, None)
        if place is None:
            return False
        self._count_out(place)
        if not self.waiting:
            # Lanes would keep those who left, and with them their guards.
            self._begin(0)
        return place.counts

    def ahead_of(self, ticket: "Admission") -> Ahead:
        """What those need who count and came before this waiter."""
        amount = slots = 0
        at = self.waiting[ticket].position - 1
        while at >= 0:
            amount += self._amounts[at]
            slots += self._slots[at]
            at = (at & (at + 1)) - 1
        return Ahead(amount, slots)

    def firsts(self) -> "Iterator[Admission]":
        """Those who could be next, in order of arrival.

        The first waiter of each lane; where it was removed before the next step, the one behind it.
        """
        heads = [(head.position, lane) for lane in list(self._lanes) if (head := self._head(lane))]
        heapify(heads)
        while heads:
            position, lane = heappop(heads)
            head = self._head(lane)
            if head is None or head.position != position:
                # One who counts no more was put before it: what that one lacked, this one lacks.
                continue
            yield head.ticket
            behind = self._head(lane)
            if behind is not None and behind is not head:
                heappush(heads, (behind.position, lane))

    def _head(self, lane: Lane) -> _Place | None:
        """The first waiter of a lane; None, and no such lane any more, where nobody is left."""
        places = self._lanes.get(lane, [])
        while places:
            place = places[0][1]
            if place.lane == lane and self.waiting.get(place.ticket) is place:
                return place
            heappop(places)
        self._lanes.pop(lane, None)
        return None

    def _begin(self, room: int) -> None:
        self._room = room
        self._next = 0
        self._amounts = [0] * room
        self._slots = [0] * room
        self._lanes: dict[Lane, list[tuple[int, _Place]]] = {}

    def _renumber(self) -> None:
        """Give out positions anew, and forget those who have left the lanes' middle."""
        places = list(self.waiting.values())
        self.total = NOBODY
        self.uncounted.clear()
        self._begin(max(_ROOM, 2 * len(places)))
        for place in places:
            place.position = self._next
            self._next += 1
            self._enter(place)

    def _enter(self, place: _Place) -> None:
        # A waiter may come into a lane behind whose back it arrived: a heap, and no deque.
        heappush(self._lanes.setdefault(place.lane, []), (place.position, place))
        if place.counts:
            need = place.ticket.call.need
            self._add(place.position, need.amount, need.slots)
        else:
            self.uncounted[place.ticket] = None

    def _count_out(self, place: _Place) -> None:
        if not place.counts:
            del self.uncounted[place.ticket]
        else:
            need = place.ticket.call.need
            self._add(place.position, -need.amount, -need.slots)

    def _add(self, at: int, amount: int, slots: int) -> None:
        self.total = Ahead(self.total.amount + amount, self.total.slots + slots)
        while at < self._room:
            self._amounts[at] += amount
            self._slots[at] += slots
            at |= at + 1


def _lane(ticket: "Admission", *, counts: bool) -> Lane:
    need: Need = ticket.call.need
    terms: Terms = ticket.call.asker.terms
    if counts:
        return (1, need.amount > 0, need.slots > 0, terms.floor, terms.extra)
    return (0, need.amount, need.slots, terms.floor, terms.extra)
