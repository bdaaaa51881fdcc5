"""What a call is expected to cost, and how many more of them an account pays for."""

from dataclasses import dataclass
from decimal import Decimal
from math import inf

from budgetguard._core.amounts import UNLIMITED


@dataclass(frozen=True, slots=True)
class Estimate:
    """What `guard.estimate` returns. All amounts are credits."""

    operation: str
    """The operation's name, as in errors and events."""

    cost: Decimal
    """What a call would hold now."""

    median: Decimal | None = None
    """The median of what calls really cost; None for a constant cost, or before any settlement."""

    largest: Decimal | None = None
    """The largest real cost; None where `median` is."""

    settlements: int = 0
    """How many settlements the figures rest on, the last 256 at most; 0 for a constant cost."""

    miss_rate: float | None = None
    """The share of these calls that cost more than they held; None without settlements."""

    more_calls: float | None = None
    """How many more such calls the account pays for now, as a whole number.

    None while the balance is unknown, infinity if nothing limits them. The number does not count
    calls that wait in the queue, nor slots.
    """


def more_calls(available: float | None, least: int, cost: int, cap: float) -> float | None:
    """How many calls fit one after the other, without an end; all amounts in micro-credits.

    Each needs the larger of `least` and `cost`, and none may need more than `cap`.
    """
    need = max(least, cost)
    if available is None:
        return None
    if need and (need > cap or available < need):
        return 0
    if not cost or available == UNLIMITED:
        return inf
    return int((available - need) // cost) + 1
