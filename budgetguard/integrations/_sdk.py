"""What the guarded SDKs share: a client some of whose methods are ours, prices, and replies."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from budgetguard.credits import cost
from budgetguard.integrations.objects import Cost, Guarded
from budgetguard.requirement import Requirement, check_terms
from budgetguard.unfinished import follow
from budgetguard.wire import said

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.hold import Hold


class Replaced(Guarded):
    """An object for whose methods in `here` others stand in.

    `costs` prices further ones, as `guarded()` does: an SDK's newer version may have some.
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


def requirement(guard: "Guard", default: Mapping[str, Any], given: Cost | None) -> Requirement:
    """What a method needs: the default terms, with what the user said instead."""
    default = {"until": "close", **default}
    if given is None:
        return guard.require_credits(**default)
    theirs: Mapping[str, Any] = given if isinstance(given, Mapping) else {"min": given}
    check_terms(theirs)
    ours = {name: term for name, term in default.items() if name != "min" or "cost" not in theirs}
    return guard.require_credits(**{**ours, **theirs})


def ended(need: "Requirement", hold: "Hold", reply: Any) -> Any:
    """What to hand out as a call's reply: its hold ends now, or when what is lazy in it has been had."""
    # A body that was read can be closed as well, and nobody does.
    if getattr(reply, "is_closed", False) is True:
        need.settle(hold, reply)
        return reply
    return follow(need, hold, reply)


def bound(method: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The call's arguments by name; raises TypeError where the method would, before any hold."""
    return inspect.signature(method).bind(*args, **kwargs).arguments


def credits_said(reply: Any, path: str) -> int | None:
    """The cost that a reply names, in micro-credits; None for what is no cost."""
    try:
        return cost(said(reply, path), path)
    except (TypeError, ValueError):
        return None
