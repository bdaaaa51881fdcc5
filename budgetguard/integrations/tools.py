"""Prices for an agent's tools by name, and the text in which a model reads a refusal.

Every framework's integration sets credits aside here before a tool runs. If that fails for any
reason, including a cost callable that raises, the call is refused: only an admitted tool runs.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

from budgetguard._core.amounts import Amount
from budgetguard._core.amounts import cost as to_cost
from budgetguard._core.approval import ApprovalRequest, Approve
from budgetguard._core.argument_types import shown, unknown
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import (
    REFUSALS,
    BudgetGuardError,
)
from budgetguard._core.events import logger
from budgetguard._core.on_refusal import awaited, called, word_or_callable
from budgetguard._costs import Cost, spec_for
from budgetguard._engine.call_spec import CallSpec
from budgetguard._engine.hold import Hold, NullHold
from budgetguard._engine.learned_spec import check_teaches, declare
from budgetguard.guard import Guard, check_guard
from budgetguard.integrations._model_words import for_model

__all__ = ["OnToolRefusal", "Tools", "for_model", "guarded_already", "no_such_tool"]

OnToolRefusal: TypeAlias = Literal["tell", "stop"] | Callable[[Any, str, Any], Any]
"""What becomes of a refused tool: a word, or a callable (error, tool name, arguments)."""

_ANY = "*"
_WORDS = ("tell", "stop")


class Tools:
    """The tools that cost credits, by name; `"*"` prices every tool that is not named.

    `costs` maps a tool's name to what one call may cost, in credits: a number, a callable that is
    given the tool's arguments by keyword, or a mapping of arguments for `require_credits`. A cost
    of None exempts one tool from `"*"`. With `on_refusal="tell"` the model reads a refusal as the
    tool's result; with `on_refusal="stop"` the error stops the run. A callable supplies the tool's
    result: it is given the error, the tool's name and the arguments, runs with nothing held for the
    call, and may be async where the tool is awaited. It is not called if the credits could not be set aside for
    another reason, such as a cost callable that raises: the model is told about that. What it raises
    stops the run. In a tool's mapping, `"on_refusal"` replaces that of all tools.

    With `approve_above`, a call that would hold more than that many credits needs an approval, which
    the framework's own way of pausing a run asks for. A tool whose cost is a mapping with `approve`
    asks that callable instead.

    Raises TypeError or ValueError for an invalid cost, and TypeError if `guard` is not a Guard.
    """

    @clean_traceback
    def __init__(
        self,
        guard: "Guard",
        costs: Mapping[str, Cost | None],
        *,
        on_refusal: OnToolRefusal = "tell",
        approve_above: Amount | None = None,
    ) -> None:
        check_guard(guard)
        if not isinstance(costs, Mapping):
            msg = f"costs takes a mapping of tool names to costs, not {type(costs).__name__}"
            raise TypeError(msg)
        if not costs:
            msg = 'costs is empty: pass {"deep_spec": 50}, or {"*": 10} for all tools'
            raise ValueError(msg)
        word_or_callable(on_refusal, _WORDS)
        self._on_refusal: OnToolRefusal = on_refusal
        self._own: dict[str, OnToolRefusal] = {}
        self._above = None if approve_above is None else to_cost(approve_above, "approve_above")
        self._priced = {
            _checked(name): self._requirement(guard, name, cost)
            for name, cost in dict(costs).items()
        }
        self._unseen = self._priced.keys() - {_ANY}

    def expect(self, names: Iterable[str]) -> None:
        """Log a warning, once, for each price whose name nearly matches that of an unpriced tool.

        For frameworks that do not show the tools' `names` when the prices are given. A name that
        no tool has is no error there, because it may be meant for another agent's tool.
        """
        unseen, self._unseen = self._unseen, set()
        known = set(names) if unseen else set()
        free = sorted(known - self._priced.keys())
        for name in sorted(unseen - known):
            if get_close_matches(name, free):
                logger.warning(no_such_tool(name, free, self._priced))

    def names(self, name: str) -> bool:
        """Whether a tool has a price of its own, not only that of `"*"`."""
        return name in self._priced

    def find(self, name: str) -> CallSpec | None:
        """The requirement of a tool, or None if it costs nothing."""
        return self._priced[name] if name in self._priced else self._priced.get(_ANY)

    def open(self, name: str, arguments: Mapping[str, Any], approve: Approve | None = None) -> Hold:
        """Set a tool's credits aside before it runs; raises if it must not run.

        `approve` is the framework's way of asking, used for calls above `approve_above`.
        """
        spec = self._asking(name, approve)
        if spec is None:
            return NullHold(name, 0)
        admitted = spec.begin(name, (), arguments)
        return admitted if isinstance(admitted, Hold) else spec.wait_for(*admitted, warns=False)

    async def aopen(
        self, name: str, arguments: Mapping[str, Any], approve: Approve | None = None
    ) -> Hold:
        """`open`, for async code."""
        spec = self._asking(name, approve)
        if spec is None:
            return NullHold(name, 0)
        return await spec.aopen(name, (), arguments)

    def needs_approval(self, name: str, arguments: Mapping[str, Any]) -> ApprovalRequest | None:
        """What the framework has to ask about a call; None if it needs no approval of its own kind.

        Holds nothing. Raises what the cost raises.
        """
        spec = self.find(name)
        if spec is None or spec.approve is not None or self._above is None:
            return None
        # `bool` stands for the framework: nobody is asked here.
        return spec.asking(bool, self._above).approval_request(name, arguments)

    def _asking(self, name: str, approve: Approve | None) -> CallSpec | None:
        spec = self.find(name)
        if spec is None or approve is None or self._above is None or spec.approve is not None:
            return spec
        return spec.asking(approve, self._above)

    def settle(self, name: str, hold: Hold, result: Any) -> None:
        """Settle the hold of a tool that returned `result`, at what `actual` gives if it is set."""
        requirement = self.find(name)
        if requirement is not None:
            requirement.settle(hold, result)

    def stops(self, name: str) -> bool:
        """Whether a refusal of the tool stops the run."""
        return self._choice(name) == "stop"

    def supplies(self, name: str, error: Exception) -> bool:
        """Whether a callable supplies the result of a call that `open` raised the error for."""
        return callable(self._choice(name)) and isinstance(error, REFUSALS)

    def refusal(
        self, name: str, error: Exception, arguments: Mapping[str, Any] | None = None
    ) -> Any:
        """What becomes of a call that `open` raised the error for: the text that the model reads.

        If `supplies(name, error)`, it is what the callable returns, which may be anything. Raises the
        error to stop the run, and TypeError for a callable whose result is to be awaited.
        """
        choice = self._choice(name)
        if callable(choice) and self.supplies(name, error):
            return called(choice, "a tool that is not awaited", error, name, arguments or {})
        return self._told(name, error)

    async def arefusal(
        self, name: str, error: Exception, arguments: Mapping[str, Any] | None = None
    ) -> Any:
        """`refusal`, for async code: a callable may be async."""
        choice = self._choice(name)
        if callable(choice) and self.supplies(name, error):
            return await awaited(choice, error, name, arguments or {})
        return self._told(name, error)

    def _choice(self, name: str) -> OnToolRefusal:
        return self._own.get(name if name in self._priced else _ANY, self._on_refusal)

    def _requirement(self, guard: Guard, name: str, cost: Cost | None) -> CallSpec | None:
        if isinstance(cost, Mapping) and "on_refusal" in cost:
            cost = dict(cost)
            self._own[name] = cost.pop("on_refusal")
            try:
                word_or_callable(self._own[name], _WORDS)
            except ValueError as error:
                error.add_note(f"in the cost of {name}")
                raise
        return _requirement(guard, name, cost)

    def _told(self, name: str, error: Exception) -> str:
        if self.stops(name):
            raise error
        if isinstance(error, BudgetGuardError):
            return for_model(error)
        logger.error(
            "%s was not run: the credits for it could not be set aside", name, exc_info=error
        )
        return (
            f"BUDGET: {name} was not run because the credits for it could not be set aside "
            f"({type(error).__name__}: {error}). Do not retry with the same arguments."
        )


def guarded_already(name: str) -> str:
    """The message for a tool whose cost would be held twice."""
    return (
        f"{name} is already guarded; to guard it for a second account too, decorate its function "
        "with require_credits of the other guard"
    )


def no_such_tool(name: str, known: Iterable[str], costs: Iterable[str]) -> str:
    """The message for a name in `costs` that no tool has; `known` are the names of the tools."""
    return f"costs names {unknown(name, list(known), 'tool', list(costs))}"


def _checked(name: object) -> str:
    if not isinstance(name, str):
        msg = f"costs takes tool names as keys, not {shown(name)}"
        raise TypeError(msg)
    return name


def _requirement(guard: Guard, name: str, cost: Cost | None) -> CallSpec | None:
    if cost is None:
        return None
    until = f"{name} takes no until: its hold lasts until the framework has the tool's result"
    spec = spec_for(guard, cost, f"the cost of {name}", {"until": until})
    check_teaches(spec)
    if name != _ANY:
        declare(spec, spec.name or name)
    return spec
