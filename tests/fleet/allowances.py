"""Budgets of a fleet as the world sees them: which calls are in them, and what those took."""

from dataclasses import dataclass, field

from vendor import Call

WITHIN = 0.97
"""The part of a window for which what was spent counts for sure: clocks differ in rate."""


@dataclass(eq=False)
class Allowed:
    """A budget of `limit` micro-credits: for a block, or for a key `per` so many seconds.

    `calls` are those that were let in, with the time when they asked for it.
    """

    name: str
    limit: int
    per: float | None = None
    calls: list[tuple[float, Call]] = field(default_factory=list)

    def taken(self, now: float) -> int:
        """What its calls hold or have cost, at least."""
        if self.per is not None:
            since = now - WITHIN * self.per
            self.calls = [each for each in self.calls if each[0] > since]
        return sum(call.holds_or_costs for _, call in self.calls)
