"""What the guarded SDK clients share: replaced methods, prices, and figures in replies."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from budgetguard._core.amounts import cost
from budgetguard._costs import Cost, terms_of
from budgetguard._decorators.unfinished_results import follow
from budgetguard._engine.call_spec import CallSpec
from budgetguard.integrations._guarded_object import Guarded
from budgetguard.providers.billing import value_at

if TYPE_CHECKING:
    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard


_NO_EFFECT = {
    "on_refusal": "a guarded client's own methods take no on_refusal: decorate a function that calls one"
}


class Replaced(Guarded):
    """An object with the methods in `here` in place of its own.

    `costs` prices further methods, as `guarded()` does, for example those of a newer SDK.
    """

    def __init__(
        self,
        wrapped: Any,
        guard: "Guard",
        costs: Mapping[str, Cost],
        here: Mapping[str, Any],
        path: str,
    ) -> None:
        super().__init__(wrapped, guard, costs, path)
        self._self_here.update(here)


def requirement(guard: "Guard", default: Mapping[str, Any], given: Cost | None) -> CallSpec:
    """A method's requirement: the default options, overridden by what the user gave."""
    default = {"until": "close", **default}
    if given is None:
        return guard.require_credits(**default).spec
    theirs = terms_of(given, _NO_EFFECT)
    ours = {name: value for name, value in default.items() if name != "min" or "cost" not in theirs}
    return guard.require_credits(**{**ours, **theirs}).spec


def ended(need: "CallSpec", hold: "Hold", reply: Any) -> Any:
    """The call's reply to return; its hold ends now, or when the reply's lazy body has been read."""
    # A response whose body was read could still be closed, but nobody does that.
    if getattr(reply, "is_closed", False) is True:
        need.settle(hold, reply)
        return reply
    return follow(need, hold, reply)


def bound(method: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The call's arguments by name; raises TypeError as the method would, before anything is held."""
    return inspect.signature(method).bind(*args, **kwargs).arguments


def checked_costs(costs: Mapping[str, Cost] | None) -> Mapping[str, Cost]:
    """The costs, or none for None; raises TypeError if they are not a mapping."""
    if costs is None or isinstance(costs, Mapping):
        return costs or {}
    msg = f"costs takes a mapping of method names to costs, not {type(costs).__name__}"
    raise TypeError(msg)


def credits_at(reply: Any, path: str) -> int | None:
    """The cost that a reply gives, in micro-credits; None if that is not a valid cost."""
    try:
        return cost(value_at(reply, path), path)
    except (TypeError, ValueError):
        return None
