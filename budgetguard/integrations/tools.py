"""An agent's tools: what they cost by name, and how a refusal is put to the model.

Every framework's file asks here before a tool runs. Whatever goes wrong while asking, a callable
for the cost that raises included, is a refusal: no tool runs that was not let in.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from budgetguard.credits import spell
from budgetguard.errors import (
    BalanceUnavailable,
    BudgetGuardError,
    ConcurrencyLimit,
    InsufficientCredits,
    ago,
)
from budgetguard.events import logger
from budgetguard.guard import Guard, check_guard
from budgetguard.hold import Hold, NoHold
from budgetguard.integrations.objects import Cost

if TYPE_CHECKING:
    from budgetguard.requirement import Requirement

OnRefusal: TypeAlias = Literal["tell", "stop"]

_ANY = "*"


class Tools:
    """The tools that cost credits, by name; `"*"` prices all that are not named.

    `costs` says of each what it may cost, in credits: a number, a callable given the tool's
    arguments by keyword, or the arguments of `require_credits` in a mapping. A cost of None lets
    one tool pass that `"*"` would price. With `on_refusal="tell"` the model reads a refusal as the
    tool's result, with `"stop"` the run ends with the error.

    Raises TypeError or ValueError for costs that cannot be, TypeError for what is no guard.
    """

    def __init__(
        self, guard: "Guard", costs: Mapping[str, Cost | None], *, on_refusal: OnRefusal = "tell"
    ) -> None:
        check_guard(guard)
        if not isinstance(costs, Mapping):
            msg = f"costs takes a mapping of tools' names to costs, not {type(costs).__name__}"
            raise TypeError(msg)
        if not costs:
            msg = 'costs names no tool: {"deep_spec": 50}, or {"*": 10} for all'
            raise ValueError(msg)
        if on_refusal not in {"tell", "stop"}:
            msg = f"on_refusal must be 'tell' or 'stop', not {on_refusal!r}"
            raise ValueError(msg)
        self._stops = on_refusal == "stop"
        self._priced = {
            _checked(name): _requirement(guard, name, cost) for name, cost in dict(costs).items()
        }
        self._unseen = self._priced.keys() - {_ANY}

    def expect(self, names: Iterable[str]) -> None:
        """Warn in the log, once, of a price whose name is almost that of a tool without one.

        For frameworks that do not show the tools' `names` when the prices are given: there, a name
        that no tool has can be meant for another agent's.
        """
        unseen, self._unseen = self._unseen, set()
        known = set(names) if unseen else set()
        free = sorted(known - self._priced.keys())
        for name in sorted(unseen - known):
            if get_close_matches(name, free):
                logger.warning(no_such_tool(name, free))

    def find(self, name: str) -> "Requirement | None":
        """What a tool needs; None where it costs nothing."""
        return self._priced[name] if name in self._priced else self._priced.get(_ANY)

    def open(self, name: str, arguments: Mapping[str, Any]) -> Hold:
        """Set a tool's credits aside before it runs; raises where it must not run."""
        requirement = self.find(name)
        if requirement is None:
            return NoHold(name, 0)
        return requirement.open(name, (), dict(arguments))

    async def aopen(self, name: str, arguments: Mapping[str, Any]) -> Hold:
        """`open`, for code that awaits."""
        requirement = self.find(name)
        if requirement is None:
            return NoHold(name, 0)
        return await requirement.aopen(name, (), dict(arguments))

    def settle(self, name: str, hold: Hold, result: Any) -> None:
        """The tool returned `result`: end its hold, at what `actual` says where there is one."""
        requirement = self.find(name)
        if requirement is not None:
            requirement.settle(hold, result)

    def refusal(self, name: str, error: Exception) -> str:
        """What the model is to read about what `open` raised; raises it where the run is to stop."""
        if self._stops:
            raise error
        if isinstance(error, BudgetGuardError):
            return for_model(error)
        logger.error(
            "%s was not run: the credits for it could not be set aside", name, exc_info=error
        )
        return (
            f"BUDGET: {name} was not run, because the credits for it could not be set aside "
            f"({type(error).__name__}: {error}). Do not retry with the same arguments."
        )


def for_model(error: BudgetGuardError) -> str:
    """A refusal in the words that a model needs: what is lacking, and what to do instead.

    Without the figures of other callers, and with no invitation to try again where that would not
    help.
    """
    if isinstance(error, InsufficientCredits):
        return f"BUDGET: {_lack(error)} {_instead(error)}"
    if isinstance(error, ConcurrencyLimit):
        if error.retry_after is None:
            return (
                f"BUDGET: needs {error.needed} sessions, and {error.provider} allows {error.limit} "
                "at once. Do not retry; go on without, and tell the user."
            )
        return (
            f"BUDGET: {error.in_use} of {error.limit} sessions at {error.provider} are in use. "
            "Do something else first, or go on without."
        )
    if isinstance(error, BalanceUnavailable):
        return (
            f"BUDGET: the balance at {error.provider} is not known, so nothing was started. "
            "Do not retry; go on without, and tell the user."
        )
    return f"BUDGET: {error}"


def guarded_already(name: str) -> str:
    """What to tell of a tool that would be held twice."""
    return (
        f"{name} is guarded already; for a second account, decorate its function with that guard's "
        "require_credits"
    )


def no_such_tool(name: str, known: Iterable[str]) -> str:
    """What to tell of a price for a tool that is not among `known`."""
    names = list(known)
    near = get_close_matches(name, names, n=3)
    meant = (
        f"Did you mean {' or '.join(near)}?" if near else f"There is: {', '.join(names) or 'none'}."
    )
    return f"costs names {name!r}, but no tool is called that. {meant}"


def _lack(error: InsufficientCredits) -> str:
    available = max(error.available, Decimal(0))
    looked = f"looked {ago(error.age)}"
    return f"needs {spell(error.needed)} credits, {spell(available)} available ({looked})."


def _instead(error: InsufficientCredits) -> str:
    if error.basis == "cap":
        return "Do not retry: the account's cost limit allows no single call of that cost."
    if error.retry_after is not None:
        wait = max(ceil(error.retry_after), 1)
        return f"Other calls hold the rest: do not retry before {wait} s have passed."
    if error.top_up_url is None:
        return "Do not retry; ask for a top-up."
    return f"Do not retry; ask for a top-up: {error.top_up_url}"


def _checked(name: object) -> str:
    if not isinstance(name, str):
        msg = f"costs takes the names of tools, not {type(name).__name__}: {name!r}"
        raise TypeError(msg)
    return name


def _requirement(guard: Guard, name: str, cost: Cost | None) -> "Requirement | None":
    if cost is None:
        return None
    terms: Mapping[str, Any] = cost if isinstance(cost, Mapping) else {"min": cost}
    if "until" in terms:
        msg = f"{name} takes no until: the framework reads a tool's result, and its hold ends then"
        raise TypeError(msg)
    try:
        return guard.require_credits(**terms)
    except (TypeError, ValueError) as error:
        error.add_note(f"in the cost of {name}")
        raise
