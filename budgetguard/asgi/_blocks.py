"""The budgets and labels around a request, made anew for each one from its scope."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

from budgetguard._core.sync_callables import check_plain, leave_alone
from budgetguard.asgi._response import Scope
from budgetguard.budget import Budget
from budgetguard.defaults import DEFAULT

if TYPE_CHECKING:
    from budgetguard.guard import Guard

RequestBudget: TypeAlias = Callable[[Scope], Budget | Sequence[Budget] | None]
RequestLabels: TypeAlias = Callable[[Scope], Mapping[str, str | int]]


class RequestBlocks:
    """What `GuardMiddleware` was told about budgets and labels.

    Raises TypeError for anything but plain callables.
    """

    __slots__ = ("_budget", "_guard", "_labels")

    def __init__(
        self,
        guard: "Guard | Callable[[Scope], Guard] | None",
        budget: RequestBudget | None,
        labels: RequestLabels | None,
    ) -> None:
        # A Budget can be called, as a decorator.
        if isinstance(budget, Budget):
            msg = (
                "budget takes a callable that is given the scope: a Budget is entered once, and each "
                "request needs its own"
            )
            raise TypeError(msg)
        named: tuple[tuple[str, Any], ...] = (("budget", budget), ("labels", labels))
        for name, function in named:
            if function is None:
                continue
            if not callable(function):
                msg = f"{name} takes a callable that is given the scope, not {type(function).__name__}"
                raise TypeError(msg)
            check_plain(function, name)
        self._guard = guard
        self._budget = budget
        self._labels = labels

    async def enter(self, scope: Scope, stack: AsyncExitStack) -> None:
        """Put the code that follows into the labels and budgets of a request, until the stack ends.

        Raises what the callables raise, TypeError for what they may not return, and
        InsufficientCredits where too little is left to set aside for a budget.
        """
        if self._labels is not None:
            labels = self._labels(scope)
            if not isinstance(labels, Mapping):
                leave_alone(labels)
                msg = f"labels must return a mapping, not {type(labels).__name__}"
                raise TypeError(msg)
            stack.enter_context(self._guard_of(scope).labels(**labels))
        if self._budget is not None:
            for budget in _budgets(self._budget(scope)):
                await stack.enter_async_context(budget)

    def _guard_of(self, scope: Scope) -> "Guard":
        guard = DEFAULT if self._guard is None else self._guard
        return guard(scope) if callable(guard) else guard


def _budgets(returned: Any) -> Sequence[Budget]:
    if returned is None:
        return ()
    budgets = returned if isinstance(returned, list | tuple) else (returned,)
    for each in budgets:
        if not isinstance(each, Budget):
            leave_alone(each)
            msg = f"budget must return a Budget, a list of them or None, not {type(each).__name__}"
            raise TypeError(msg)
    return budgets
