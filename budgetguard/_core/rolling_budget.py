"""Budgets per so many seconds, rolling: what was spent is given back when it is older than that."""

from collections.abc import Hashable
from math import inf

from budgetguard._core.allowance import Allowance
from budgetguard._core.budget_windows import Period
from budgetguard._core.clock import Instant

BUCKETS = 60
"""Each bucket takes the calls of a 60th of the window, and is given back late by that at most."""


class RollingBucket(Allowance):
    """The calls that were admitted within one bucket's time, which ends at `until` (monotonic).

    Its figures are those of the whole budget, and changes count in both.
    """

    __slots__ = ("_budget", "own_held", "own_spent", "past", "until")

    def __init__(self, budget: "RollingBudget", until: float) -> None:
        # What the base would set is a property here.
        self._budget = budget
        self.own_held = self.own_spent = 0
        self.past = False
        self.until = until

    @property
    def limit(self) -> int:  # type: ignore[override]
        """The budget's limit."""
        return self._budget.limit

    @property
    def room(self) -> int:  # type: ignore[override]
        """What may still be taken of the budget."""
        return self._budget.room

    @property
    def spent(self) -> int:  # type: ignore[override]
        """What finished calls of the window cost."""
        return self._budget.spent

    def move(self, held: int, spent: int) -> None:
        """Change what is held and what is spent by these amounts; either may be negative.

        In a bucket that is past, what a call cost counts no more: it gives back all that it held.
        """
        budget = self._budget
        self.own_held += held
        budget.room -= held
        if not self.past:
            self.own_spent += spent
            budget.room -= spent
            budget.spent += spent


class RollingBudget:
    """The budget of one name and key, for the last so many seconds at any moment.

    What a call cost is given back when the whole bucket that admitted it is older than the window: not
    before the call's admission is that old, and at most a 60th of the window later. An open call
    counts until it ends, however old it is.

    Time is that of the monotonic clock alone. Neither a wall clock that is set forward nor one that
    is set back gives anything back early. A suspended machine gives back later, by the suspend, where
    its monotonic clock stands still meanwhile.
    """

    __slots__ = ("__weakref__", "_buckets", "_seconds", "ident", "limit", "room", "spent")

    valid_until = -inf
    """Always past: `current` is called for each admission, as a wall clock may be set back."""

    def __init__(self, ident: tuple[str, Hashable, Period], seconds: float) -> None:
        self.ident = ident
        self.limit = self.room = self.spent = 0
        self._seconds = seconds
        # A list, as an empty deque takes ten times the memory.
        self._buckets: list[RollingBucket] = []

    @property
    def name(self) -> str:
        """The budget's name."""
        return self.ident[0]

    @property
    def held(self) -> int:
        """What running calls hold."""
        return self.limit - self.room - self.spent

    @property
    def left(self) -> int:
        """What may still be taken; negative after a call that cost more than it held."""
        return self.room

    def current(self, now: Instant) -> Allowance:
        """The allowance that admits calls at `now`; it must not admit any later than that."""
        self._give_back(now)
        until = now.mono + self._seconds / BUCKETS
        if self._buckets:
            bucket = self._buckets[-1]
            if now.mono < bucket.until:
                return bucket
            if not bucket.own_held and not bucket.own_spent:
                bucket.until = until
                return bucket
        bucket = RollingBucket(self, until)
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
        self.room += limit - self.limit
        self.limit = limit

    def whole(self, now: Instant) -> bool:
        """Whether nothing is held or spent."""
        self._give_back(now)
        return self.room == self.limit and not self.spent

    def _give_back(self, now: Instant) -> None:
        buckets = self._buckets
        while buckets and now.mono >= buckets[0].until + self._seconds:
            oldest = buckets[0]
            # No call between these steps. If the removal is interrupted, they are repeated and
            # change nothing.
            self.room += oldest.own_spent
            self.spent -= oldest.own_spent
            oldest.own_spent = 0
            oldest.past = True
            del buckets[0]
