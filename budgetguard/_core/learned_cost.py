"""`learned(...)`: a cost that is learned from what calls really cost."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from budgetguard._core.amounts import Amount, spell, to_credits
from budgetguard._core.amounts import cost as to_cost
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.sync_callables import check_plain, leave_alone


@dataclass(frozen=True, slots=True, repr=False)
class LearnedCost:
    """What `learned` returns; `start` in micro-credits. It keeps no settlements: the account does."""

    start: int
    quantile: float
    by: Callable[..., Hashable] | None = None

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """What tells apart the calls of one operation; None where nothing does."""
        if self.by is None:
            return None
        key = self.by(*args, **kwargs)
        try:
            hash(key)
        except TypeError:
            leave_alone(key)
            msg = (
                f"by must return a value that can be a key, such as a str, not {type(key).__name__}"
            )
            del key
        else:
            return key
        raise TypeError(msg)

    def __repr__(self) -> str:
        by = "" if self.by is None else ", by=..."
        return f"learned({spell(to_credits(self.start))}, quantile={self.quantile:g}{by})"


@clean_traceback
def learned(
    start: Amount, quantile: float = 0.95, *, by: Callable[..., Hashable] | None = None
) -> LearnedCost:
    """A cost that is learned from what the calls of an operation really cost.

    Pass it wherever a cost is given: `require_credits(cost=learned(50), actual=...)`. Each account
    learns by the operation's name, as errors show it, so two places with the same name share what
    they learn.

    - `start`: credits held, until 20 calls were settled at a real cost, or the largest of these
      costs if that is more. Choose the most that a call is expected to cost. Above 0.
    - `quantile`: the share of calls that the hold should be enough for, above 0 and at most 1: of
      the last 256 settlements, and of the last 64 where that is more. 1 holds the largest cost.
    - `by`: a callable that is given the call's arguments and returns what else costs depend on,
      such as the model's name. Each value learns for itself. It must be hashable.

    A call teaches its real cost if it was settled at one: by `actual`, by `hold.settle(cost)`, or by
    the figure in a reply. Calls that were settled without one, released or kept teach nothing.

    When `hold.charged(total)` reports at least 80 % of what a call holds, the hold is extended: to
    the largest cost of the last 256 settlements, and beyond that to a quarter more than `total`. If
    there are not enough credits for that, the call goes on. What it then costs beyond its hold is
    an overrun.

    A call whose operation was free lately holds nothing, but is refused where nothing is left.

    At most 1,024 operations and keys are remembered. After that, those that were not called for the
    longest time start again. Nothing is remembered after the process ends; a forked child keeps
    what was learned before.

    Wrong arguments raise TypeError or ValueError.
    """
    micro = to_cost(start, "start")
    if micro == 0:
        msg = "start must be above 0: it is held until enough calls were settled to learn from"
        raise ValueError(msg)
    if isinstance(quantile, bool) or not isinstance(quantile, int | float):
        msg = f"quantile takes a number above 0 and at most 1, not {type(quantile).__name__}"
        raise TypeError(msg)
    if not 0 < quantile <= 1:
        msg = f"quantile must be above 0 and at most 1, not {quantile}"
        raise ValueError(msg)
    if by is not None:
        if not callable(by):
            msg = f"by takes a callable that is given the call's arguments, not {type(by).__name__}"
            raise TypeError(msg)
        check_plain(by, "by")
    return LearnedCost(micro, float(quantile), by)
