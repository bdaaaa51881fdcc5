"""What a call may cost, as users write it everywhere: a number, a callable, `learned(...)`, or options."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from budgetguard._core.amounts import Amount
from budgetguard._core.learned_cost import LearnedCost
from budgetguard._engine.call_spec import CallSpec, check_terms

if TYPE_CHECKING:
    from budgetguard.guard import Guard

Cost: TypeAlias = Amount | Callable[..., Amount] | LearnedCost | Mapping[str, Any]

Unheard: TypeAlias = Mapping[str, str]
"""Arguments of `require_credits` that have no effect in one place, each with its error message."""


def terms_of(
    cost: object, unheard: Unheard | None = None, also: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments of `require_credits` that a cost stands for.

    Raises TypeError for a mapping with a key that is not one of them and not in `also`, and for a
    key that is in `unheard`.
    """
    name = "cost" if isinstance(cost, LearnedCost) else "min"
    terms: dict[str, Any] = dict(cost) if isinstance(cost, Mapping) else {name: cost}
    check_terms({name: term for name, term in terms.items() if name not in also})
    for name, why in (unheard or {}).items():
        if name in terms:
            raise TypeError(why)
    return terms


def spec_for(
    guard: "Guard", cost: object, where: str, unheard: Unheard | None = None, **default: Any
) -> CallSpec:
    """What a call with that cost needs. The options in the cost override `default`.

    Its errors carry a note that says `where`.
    """
    try:
        return guard.require_credits(**{**default, **terms_of(cost, unheard)}).spec
    except (TypeError, ValueError) as error:
        error.add_note(f"in {where}")
        raise
