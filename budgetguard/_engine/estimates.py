"""From what is known about an operation to an estimate of its next calls."""

from collections.abc import Hashable
from typing import TYPE_CHECKING

from budgetguard._core.amounts import UNLIMITED, to_credits
from budgetguard._core.cost_sample import CostFigures
from budgetguard._core.estimate import Estimate, more_calls
from budgetguard._engine.known_costs import UNBOUND, not_known

if TYPE_CHECKING:
    from budgetguard._engine.binding import GuardBinding


def estimate(binding: "GuardBinding", operation: str, key: Hashable) -> Estimate:
    """The estimate of `guard.estimate`, which says what is raised."""
    if not isinstance(operation, str):
        msg = f"operation takes a str, not {type(operation).__name__}"
        raise TypeError(msg)
    costs = binding.account.costs
    terms = costs.terms(operation) or UNBOUND.terms(operation)
    if terms is None:
        raise not_known(operation, costs, UNBOUND)
    if terms.cost is None:
        msg = f"The cost of {operation} is computed for each call, from its arguments."
        raise LookupError(msg)
    sample = costs.learned(operation, key)
    if sample is None:
        # If there is one, the key is right, even None, which by= may return.
        _check_key(operation, key, by_key=terms.by_key)
    figures, holds = CostFigures(), terms.cost
    if sample is not None and terms.quantile is not None:
        figures = sample.figures
        holds = figures.to_hold(terms.cost, terms.quantile)
    snapshot = binding.account.ledger.snapshot
    cap = UNLIMITED if snapshot is None else snapshot.cap
    available = binding.account.peek(binding.subscriber)
    settlements = len(figures.costs)
    return Estimate(
        operation,
        to_credits(holds),
        median=to_credits(figures.median) if settlements else None,
        largest=to_credits(figures.largest) if settlements else None,
        settlements=settlements,
        miss_rate=figures.misses / settlements if settlements else None,
        more_calls=more_calls(available, terms.least or 0, holds, cap),
    )


def _check_key(operation: str, key: Hashable, *, by_key: bool) -> None:
    if by_key and key is None:
        msg = f"The cost of {operation} is learned by a key: pass key=, as its by= returns it."
        raise LookupError(msg)
    if key is not None and not by_key:
        msg = f"The cost of {operation} is not learned by a key: leave key= out."
        raise LookupError(msg)
