"""Debits: the cost of calls that have ended, until a balance is sure to show it.

Sums in buckets of time, and no record of a call: memory grows neither with the number of calls nor,
where no balance comes that would clear them, with the time. Of kept calls, whose cost nobody knows,
it is counted as well what they raised. Amounts are micro-credits, times monotonic seconds.
"""

from collections import Counter
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import TypeAlias

BUCKETS_PER_SECOND = 16
MOST_BUCKETS = 1024
MOST_CAUSES = 16

Causes: TypeAlias = Counter[str | None]
"""How many calls, or sessions, by the name of what they raised; None where that is not known."""


class Bucket:
    """Debits of nearly one time; the stamp is the latest of theirs."""

    __slots__ = ("amount", "calls", "clears_at", "sessions", "slots")

    def __init__(self, clears_at: float) -> None:
        self.clears_at = clears_at
        self.amount = 0
        self.slots = 0
        self.calls: Causes | None = None
        self.sessions: Causes | None = None

    def take_over(self, earlier: "Bucket") -> None:
        """Count what `earlier` counted as well."""
        self.amount += earlier.amount
        self.slots += earlier.slots
        self.calls = _sum(self.calls, earlier.calls)
        self.sessions = _sum(self.sessions, earlier.sessions)


class Debits:
    """Debits in buckets of time, which leave as a whole, and never early.

    A bucket spans 1/16 s. Where there would be more than `MOST_BUCKETS` of them, neighbours are
    joined, so that they span as little as half that number can.
    """

    __slots__ = ("_buckets", "_order", "slots", "total")

    def __init__(self) -> None:
        self.total = 0
        self.slots = 0
        self._buckets: dict[int, Bucket] = {}
        self._order: list[int] = []

    def add(self, amount: int, clears_at: float, slots: int = 0) -> Bucket:
        """Book `amount` until a balance asked for at `clears_at` or later arrives."""
        key = int(clears_at * BUCKETS_PER_SECOND)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._begin(key, clears_at)
        elif bucket.clears_at < clears_at:
            bucket.clears_at = clears_at
        bucket.amount += amount
        self.total += amount
        if slots:
            bucket.slots += slots
            self.slots += slots
        return bucket

    def clear(self, sent: float) -> None:
        """Drop what a balance asked for at `sent` is sure to show."""
        while self._order and self._buckets[self._order[0]].clears_at <= sent:
            self._drop(self._buckets.pop(heappop(self._order)))

    @property
    def next_clears_at(self) -> float | None:
        """The stamp of the oldest debits, None without any."""
        return self._buckets[self._order[0]].clears_at if self._order else None

    @property
    def last_clears_at(self) -> float | None:
        """The stamp of the youngest debits, None without any."""
        return self._buckets[max(self._order)].clears_at if self._order else None

    def in_order(self) -> Iterator[tuple[float, int, int]]:
        """When they leave, with how many credits and slots, the earliest first."""
        for key in sorted(self._order):
            bucket = self._buckets[key]
            yield bucket.clears_at, bucket.amount, bucket.slots

    def _begin(self, key: int, clears_at: float) -> Bucket:
        if len(self._order) >= MOST_BUCKETS:
            self._join_neighbours()
        bucket = self._buckets[key] = Bucket(clears_at)
        heappush(self._order, key)
        return bucket

    def _drop(self, bucket: Bucket) -> None:
        self.total -= bucket.amount
        self.slots -= bucket.slots

    def _join_neighbours(self) -> None:
        keys, span = sorted(self._order), 1
        while len(last := _last_of_each(keys, span)) > MOST_BUCKETS // 2:
            span *= 2
        runs = iter(last)
        into = next(runs)
        for key in keys:
            if key > into:
                into = next(runs)
            if key < into:
                self._buckets[into].take_over(self._buckets.pop(key))
        self._order = last


def _last_of_each(keys: list[int], span: int) -> list[int]:
    """The last key of each run of keys within `span` of the run's first; sorted, as `keys` are."""
    first, last = keys[0], keys[:1]
    for key in keys:
        if key - first <= span:
            last[-1] = key
        else:
            first = key
            last.append(key)
    return last


def _sum(some: Causes | None, more: Causes | None) -> Causes | None:
    return some + more if some and more else some or more


class Kept(Debits):
    """Debits of calls that ended nobody knows how: whose cost may be less, or nothing.

    `calls` counts those that held credits, `sessions` their slots.
    """

    __slots__ = ("calls", "sessions")

    def __init__(self) -> None:
        super().__init__()
        self.calls: Causes = Counter()
        self.sessions: Causes = Counter()

    def add(
        self, amount: int, clears_at: float, slots: int = 0, cause: str | None = None
    ) -> Bucket:
        """Book one call's `amount`; `cause` names what it raised, if that is known.

        Of more than `MOST_CAUSES` different names at a time, the rest are not told apart.
        """
        known = self.calls.keys() | self.sessions.keys()
        if cause not in known and len(known) >= MOST_CAUSES:
            cause = None
        bucket = super().add(amount, clears_at, slots)
        if amount:
            bucket.calls = _sum(bucket.calls, Counter({cause: 1}))
            self.calls[cause] += 1
        if slots:
            bucket.sessions = _sum(bucket.sessions, Counter({cause: slots}))
            self.sessions[cause] += slots
        return bucket

    def _drop(self, bucket: Bucket) -> None:
        super()._drop(bucket)
        self.calls -= bucket.calls or Counter()
        self.sessions -= bucket.sessions or Counter()

    @property
    def last_slot_clears_at(self) -> float | None:
        """When the last session counts no longer, None without any."""
        stamps = [clears_at for clears_at, _, slots in self.in_order() if slots]
        return stamps[-1] if stamps else None
