"""Debits: the cost of finished calls, counted until a balance must show it.

Debits are sums in buckets of time, without a record per call: memory grows neither with the number of
calls nor with the time during which no balance arrives. For kept calls, whose cost is not known, the
exceptions that they raised are counted, too. Amounts are micro-credits, times are monotonic seconds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, TypeAlias

BUCKETS_PER_SECOND = 16
TICKS_PER_SECOND = 2.0**20
MOST_BUCKETS = 1024
MOST_CAUSES = 16

Causes: TypeAlias = Counter[str | None]
"""How many calls, or sessions, by the name of the exception that they raised; None if not known."""

_Pairs: TypeAlias = tuple[tuple[str | None, int], ...]


class Bucket:
    """Debits of nearly the same time; `clears_at` is the latest of theirs."""

    __slots__ = ("amount", "calls", "clears_at", "sessions", "slots")

    def __init__(self, clears_at: float) -> None:
        self.clears_at = clears_at
        self.amount = 0
        self.slots = 0
        self.calls: Causes | None = None
        self.sessions: Causes | None = None

    def take_over(self, earlier: "Bucket") -> None:
        """Add what `earlier` counted."""
        self.amount += earlier.amount
        self.slots += earlier.slots
        self.calls = _sum(self.calls, earlier.calls)
        self.sessions = _sum(self.sessions, earlier.sessions)


class Debits:
    """Debits in buckets of time. A bucket clears as a whole, and never early.

    A bucket spans 1/16 s. If there would be more than `most`, neighbors are merged into at most half that
    number, with the shortest span that makes this possible.
    """

    __slots__ = ("_buckets", "_most", "_order", "slots", "total")

    def __init__(self, most: int = MOST_BUCKETS) -> None:
        self._most = most
        self.total = 0
        self.slots = 0
        self._buckets: dict[int, Bucket] = {}
        self._order: list[int] = []

    def add(self, amount: int, clears_at: float, slots: int = 0) -> Bucket:
        """Count `amount` until a balance arrives that was requested at `clears_at` or later."""
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
        """Drop the debits that a balance requested at `sent` must show."""
        while self._order and self._buckets[self._order[0]].clears_at <= sent:
            self._drop(self._buckets.pop(heappop(self._order)))

    @property
    def next_clears_at(self) -> float | None:
        """When the oldest debits clear; None without any."""
        return self._buckets[self._order[0]].clears_at if self._order else None

    @property
    def last_clears_at(self) -> float | None:
        """When the youngest debits clear; None without any."""
        return self._buckets[max(self._order)].clears_at if self._order else None

    def in_order(self) -> Iterator[tuple[float, int, int]]:
        """When debits clear, with how many credits and slots, the earliest first."""
        for key in sorted(self._order):
            bucket = self._buckets[key]
            yield bucket.clears_at, bucket.amount, bucket.slots

    def buckets(self) -> list[Bucket]:
        """The buckets, the one that clears first at the front."""
        return [self._buckets[key] for key in sorted(self._order)]

    def dump(self) -> dict[str, Any]:
        """All buckets as JSON values, in columns, the earliest bucket first."""
        buckets = self.buckets()
        # Times in ticks: an int is written and read several times faster than a float.
        ticks = [each.clears_at * TICKS_PER_SECOND for each in buckets]
        whole = [int(each) for each in ticks]
        return {
            "ticks": whole if whole == ticks else ticks,
            "amounts": [each.amount for each in buckets],
            "slots": [each.slots for each in buckets] if self.slots else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up the buckets that `dump` gave; only while there are none."""
        ticks, amounts = state["ticks"], state["amounts"]
        slots = state["slots"] or [0] * len(ticks)
        for at, amount, sessions in zip(ticks, amounts, slots, strict=True):
            clears_at = at / TICKS_PER_SECOND
            bucket = self._buckets[int(clears_at * BUCKETS_PER_SECOND)] = Bucket(clears_at)
            bucket.amount, bucket.slots = amount, sessions
        self._order = sorted(self._buckets)
        self.total, self.slots = sum(amounts), sum(slots)

    def _begin(self, key: int, clears_at: float) -> Bucket:
        if len(self._order) >= self._most:
            self._join_neighbours()
        bucket = self._buckets[key] = Bucket(clears_at)
        heappush(self._order, key)
        return bucket

    def _drop(self, bucket: Bucket) -> None:
        self.total -= bucket.amount
        self.slots -= bucket.slots

    def _join_neighbours(self) -> None:
        keys, span = sorted(self._order), 1
        while len(last := _last_of_each(keys, span)) > self._most // 2:
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
    """The last key of each run of keys within `span` of the run's first key, in order."""
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


class _Places:
    """The places of causes in a list of different ones, which grows with each that is asked for."""

    __slots__ = ("by_identity", "by_pairs")

    def __init__(self) -> None:
        self.by_identity: dict[int, int] = {}
        self.by_pairs: dict[_Pairs, int] = {}

    def of(self, causes: Causes | None) -> int | None:
        """The place of these; None without any."""
        if not causes:
            return None
        place = self.by_identity.get(id(causes))
        if place is None:
            place = self.by_pairs.setdefault(tuple(causes.items()), len(self.by_pairs))
            self.by_identity[id(causes)] = place
        return place


def _lists(pairs: Iterable[tuple[str | None, int]]) -> list[list[str | int | None]]:
    return [[cause, calls] for cause, calls in pairs]


class Kept(Debits):
    """Debits of calls whose outcome is unknown, so that their cost may be less, or nothing.

    `calls` counts the calls that held credits, `sessions` counts their slots.
    """

    __slots__ = ("calls", "sessions")

    def __init__(self, most: int = MOST_BUCKETS) -> None:
        super().__init__(most)
        self.calls: Causes = Counter()
        self.sessions: Causes = Counter()

    def add(
        self, amount: int, clears_at: float, slots: int = 0, cause: str | None = None
    ) -> Bucket:
        """Count one call's `amount`; `cause` names the exception that it raised, if known.

        Only `MOST_CAUSES` different names are counted at a time; any more count as not known.
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

    def add_counted(
        self,
        amount: int,
        clears_at: float,
        slots: int,
        calls: Iterable[tuple[str | None, int]],
        sessions: Iterable[tuple[str | None, int]],
    ) -> None:
        """Count several calls at once, with what they raised; may count more names than `add` does."""
        bucket = super().add(amount, clears_at, slots)
        bucket.calls = _sum(bucket.calls, Counter(dict(calls)))
        bucket.sessions = _sum(bucket.sessions, Counter(dict(sessions)))
        self.calls.update(dict(calls))
        self.sessions.update(dict(sessions))

    def _drop(self, bucket: Bucket) -> None:
        super()._drop(bucket)
        self.calls -= bucket.calls or Counter()
        self.sessions -= bucket.sessions or Counter()

    def dump(self) -> dict[str, Any]:
        """As that of any debits, with what the calls and sessions raised, in all and in each bucket.

        Many buckets have the same causes. So these are listed once, and buckets have places in that list.
        """
        places = _Places()
        buckets = self.buckets()
        calls_of = [places.of(each.calls) for each in buckets]
        sessions_of = [places.of(each.sessions) for each in buckets] if self.sessions else None
        return {
            **super().dump(),
            "calls": _lists(self.calls.items()),
            "sessions": _lists(self.sessions.items()),
            "causes": [_lists(pairs) for pairs in places.by_pairs],
            "calls_of": calls_of,
            "sessions_of": sessions_of,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up the buckets that `dump` gave; only while there are none."""
        super().load(state)
        # Not added up again: these are in the order in which the causes came.
        self.calls, self.sessions = Counter(dict(state["calls"])), Counter(dict(state["sessions"]))
        # Buckets never change a counter that they have, so that they can share one.
        causes = [Counter(dict(pairs)) for pairs in state["causes"]]
        buckets = self.buckets()
        for bucket, place in zip(buckets, state["calls_of"], strict=True):
            bucket.calls = None if place is None else causes[place]
        if state["sessions_of"] is not None:
            for bucket, place in zip(buckets, state["sessions_of"], strict=True):
                bucket.sessions = None if place is None else causes[place]

    @property
    def last_slot_clears_at(self) -> float | None:
        """When the last session clears; None without any."""
        stamps = [clears_at for clears_at, _, slots in self.in_order() if slots]
        return stamps[-1] if stamps else None
