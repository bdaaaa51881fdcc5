"""What one operation's calls really cost lately, and what to hold for the next one.

The sample is the last 256 settlements at a real cost. What to hold is its empirical quantile: of n
settlements in order of cost, the one at position `ceil(quantile * n)`. The last 64 of them are read
in the same way, and the larger of the two is held. So after costs have risen, the hold follows within
a few calls; after they have fallen, only once the higher ones have left the sample.

The next call costs more than that with a chance of `1 - quantile`, and with at most `1 / (n + 1)`
in addition, if costs come in no particular order. Position `ceil(quantile * (n + 1))` would promise
the quantile itself, and was measured and rejected: until 39 settlements it is the largest cost, which
takes away a third of the gain, while a hold that grows misses as seldom either way.

A sketch (a t-digest, say) was rejected: it would need less memory than 256 numbers only for
quantiles that no user chooses, and forgetting old settlements is harder in it than in a deque.

`add` is one append to a bounded deque, which is safe in a finalizer, in a signal handler and with
threads. The figures are computed when they are read next, from a copy, and replaced as one object:
there is nothing to lock, and nothing half-done that a fork could copy.
"""

from collections import deque
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TypeAlias

Settlement: TypeAlias = tuple[int, bool]
"""The real cost in micro-credits, and whether it was more than what was held in the end."""

SAMPLE = 256
LATELY = 64
ENOUGH = 20

# A miss rate is suspicious if it is this many standard deviations above what the quantile allows.
_DEVIATIONS = 3
_FEWEST_MISSES = 5


@dataclass(frozen=True, slots=True)
class CostFigures:
    """The settlements of a sample, in order of their cost; `lately` are the last of them."""

    newest: Settlement | None = None
    costs: tuple[int, ...] = ()
    lately: tuple[int, ...] = ()
    misses: int = 0

    @classmethod
    def of(cls, settled: deque[Settlement]) -> "CostFigures":
        """The figures of settlements in order of time; there is at least one."""
        costs, missed = zip(*settled, strict=True)
        lately = costs[-LATELY:]
        return cls(settled[-1], tuple(sorted(costs)), tuple(sorted(lately)), sum(missed))

    @property
    def largest(self) -> int:
        """The largest cost; 0 without settlements."""
        return self.costs[-1] if self.costs else 0

    @property
    def median(self) -> int:
        """The middle cost, or the higher of the two in the middle. There is at least one."""
        return self.costs[len(self.costs) // 2]

    def to_hold(self, start: int, quantile: float) -> int:
        """What to hold for the next call: `start`, or the largest cost, until enough was settled."""
        costs, lately = self.costs, self.lately
        if len(costs) < ENOUGH:
            return max(start, self.largest)
        return max(_quantile(costs, quantile), _quantile(lately, quantile))

    def misses_more(self, quantile: float) -> bool:
        """Whether more calls cost more than they held than the quantile explains."""
        return self.misses > len(self.costs) * (1 - quantile)

    def misses_too_often(self, quantile: float) -> bool:
        """Whether more calls cost more than they held than the quantile and chance explain."""
        expected = len(self.costs) * (1 - quantile)
        often = expected + _DEVIATIONS * sqrt(expected)
        return self.misses >= _FEWEST_MISSES and self.misses > often


class CostSample:
    """The last settlements of one operation. `used` orders samples by their last use."""

    __slots__ = ("_figures", "_settled", "used", "warned")

    def __init__(self) -> None:
        self._settled: deque[Settlement] = deque(maxlen=SAMPLE)
        self._figures = CostFigures()
        self.used = 0
        self.warned = False

    def add(self, cost: int, *, missed: bool) -> None:
        """A call was settled at a real cost."""
        self._settled.append((cost, missed))

    @property
    def figures(self) -> CostFigures:
        """The figures of all settlements so far."""
        settled, figures = self._settled, self._figures
        # By identity: a settlement is a new tuple, even one at the same cost.
        if settled and settled[-1] is not figures.newest:
            figures = self._figures = CostFigures.of(settled.copy())
        return figures

    def growth(self, held: int, charged: int) -> int:
        """How much more to hold for a running call that has been `charged` so much; 0 for nothing.

        From four fifths of what is held on, it is the rest up to the largest cost of the sample.
        Beyond that, a quarter more than what was charged.
        """
        if charged * 5 < held * 4:
            return 0
        return max(self.figures.largest, charged * 5 // 4, held) - held


def _quantile(costs: tuple[int, ...], quantile: float) -> int:
    return costs[ceil(quantile * len(costs)) - 1]
