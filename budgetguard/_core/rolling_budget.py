"""Budgets per so many seconds, rolling: what was spent is given back when it is older than that."""

from math import inf

from budgetguard._core.allowance import Allowance
from budgetguard._core.budget_key import Key
from budgetguard._core.budget_windows import Period
from budgetguard._core.clock import Instant

BUCKETS = 60
"""Each bucket takes the calls of a 60th of the window, and is given back late by that at most."""


class RollingBucket(Allowance):
    """The calls that were admitted within one bucket's time, which ends at `until` (monotonic).

    Its figures are those of the budget's `total`, and changes count in both.
    """

    __slots__ = ("_total", "own_held", "own_spent", "past", "until", "used")

    def __init__(self, total: Allowance, until: float) -> None:
        # What the base would set is a property here.
        self._total = total
        self.own_held = self.own_spent = 0
        self.past = self.used = False
        self.until = until

    @property
    def limit(self) -> int:  # type: ignore[override]
        """The budget's limit."""
        return self._total.limit

    @property
    def room(self) -> int:  # type: ignore[override]
        """What may still be taken of the budget."""
        return self._total.room

    @property
    def spent(self) -> int:  # type: ignore[override]
        """What finished calls of the window cost."""
        return self._total.spent

    def move(self, held: int, spent: int) -> None:
        """Change what is held and what is spent by these amounts; either may be negative.

        In a bucket that is past, what a call cost counts no more: it gives back all that it held.
        """
        # No call between these steps, so that an interrupt finds all of them done, or none.
        total = self._total
        self.used = True
        self.own_held += held
        total.room -= held
        if not self.past:
            self.own_spent += spent
            total.room -= spent
            total.spent += spent


class RollingBudget:
    """The budget of one name and key, for the last so many seconds at any moment.

    What a call cost is given back when the whole bucket that admitted it is older than the window: not
    before the call's admission is that old, and at most a 60th of the window later. An open call
    counts until it ends, however old it is.

    Time is that of the monotonic clock alone. Neither a wall clock that is set forward nor one that
    is set back gives anything back early. A suspended machine gives back later, by the suspend, where
    its monotonic clock stands still meanwhile.
    """

    __slots__ = ("__weakref__", "_buckets", "_seconds", "_total", "ident")

    shared: bool = False

    valid_until = -inf
    """Always past: `current` is called for each admission, as a wall clock may be set back."""

    def __init__(self, ident: tuple[str, Key, Period], seconds: float) -> None:
        self.ident = ident
        self._seconds = seconds
        # Buckets refer to this and not to the budget: without a cycle, it goes once it is forgotten.
        self._total = Allowance(0)
        # A list, as an empty deque takes ten times the memory.
        self._buckets: list[RollingBucket] = []

    @property
    def name(self) -> str:
        """The budget's name."""
        return self.ident[0]

    @property
    def limit(self) -> int:
        """The budget's limit."""
        return self._total.limit

    @property
    def spent(self) -> int:
        """What finished calls of the window cost."""
        return self._total.spent

    @property
    def held(self) -> int:
        """What running calls hold, however old they are."""
        return self._total.held

    @property
    def left(self) -> int:
        """What may still be taken; negative after a call that cost more than it held."""
        return self._total.room

    def current(self, now: Instant) -> Allowance:
        """The allowance that admits calls at `now`; it must not admit any later than that."""
        self._give_back(now)
        until = now.mono + self._seconds / BUCKETS
        if self._buckets:
            bucket = self._buckets[-1]
            if now.mono < bucket.until:
                return bucket
            # Not what a call was admitted in that holds nothing: it may cost something yet.
            if not bucket.used:
                bucket.until = until
                return bucket
        bucket = RollingBucket(self._total, until)
        self._buckets.append(bucket)
        return bucket

    def renews_at(self, now: Instant) -> float | None:
        """When something is given back next, in wall seconds; None if nothing is spent."""
        self._give_back(now)
        for bucket in self._buckets:
            if bucket.own_spent > 0:
                return now.wall + bucket.until + self._seconds - now.mono
        return None

    def change_limit(self, limit: int) -> None:
        """Replace the limit, at once."""
        total = self._total
        total.room += limit - total.limit
        total.limit = limit

    def whole(self, now: Instant) -> bool:
        """Whether nothing is held or spent."""
        self._give_back(now)
        return self._total.room == self._total.limit and not self._total.spent

    def _give_back(self, now: Instant) -> None:
        buckets, total = self._buckets, self._total
        while buckets and now.mono >= buckets[0].until + self._seconds:
            oldest = buckets[0]
            # No call between these steps. If the removal is interrupted, they are repeated and
            # change nothing.
            total.room += oldest.own_spent
            total.spent -= oldest.own_spent
            oldest.own_spent = 0
            oldest.past = True
            del buckets[0]
