"""From what is known about an operation to an estimate of its next calls."""

from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

from budgetguard._core.amounts import UNLIMITED, to_credits
from budgetguard._core.estimate import Estimate, more_calls
from budgetguard._core.learned_cost import LearnedCost
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
    cost = terms.cost
    if cost is None:
        msg = f"The cost of {operation} is computed for each call, from its arguments."
        raise LookupError(msg)
    if isinstance(cost, LearnedCost):
        found, holds = _learned(binding, operation, key, cost)
    else:
        _check_key(operation, key, is_used=False)
        found, holds = Estimate(operation, to_credits(cost)), cost
    snapshot = binding.account.ledger.snapshot
    cap = UNLIMITED if snapshot is None else snapshot.cap
    available = binding.account.peek(binding.subscriber)
    return replace(found, more_calls=more_calls(available, terms.least or 0, holds, cap))


def _learned(
    binding: "GuardBinding", operation: str, key: Hashable, cost: LearnedCost
) -> tuple[Estimate, int]:
    sample = binding.account.costs.learned(operation, key)
    if sample is None:  # by= may have returned None
        _check_key(operation, key, is_used=cost.by is not None)
    if sample is None or not (figures := sample.figures).costs:
        return Estimate(operation, to_credits(cost.start)), cost.start
    settlements, holds = len(figures.costs), figures.to_hold(cost.start, cost.quantile)
    found = Estimate(
        operation,
        to_credits(holds),
        median=to_credits(figures.median),
        largest=to_credits(figures.largest),
        settlements=settlements,
        miss_rate=figures.misses / settlements,
    )
    return found, holds


def _check_key(operation: str, key: Hashable, *, is_used: bool) -> None:
    if is_used and key is None:
        msg = f"The cost of {operation} is learned by a key: pass key=, as its by= returns it."
        raise LookupError(msg)
    if key is not None and not is_used:
        msg = f"The cost of {operation} is not learned by a key: leave key= out."
        raise LookupError(msg)
