"""How each package is asked to hold one tree of budgets: 100 for a run, 40 for each of two sub-agents.

Run by `budget_trees.py`, in an environment that has the package: nothing but the standard library is
imported before the package itself. Each is used as its own documentation says for a limit that is
enforced before the call. A credit is a dollar where a package counts dollars.
"""

import contextlib
import contextvars
import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

ACCOUNT = 1000
LIMITS = {"run": 100, "a": 40, "b": 40}
AGENTS = ("a", "b")

Function = Callable[[], Any]


class Package(ABC):
    """One package: how its budgets are opened, and how a call of 1 is made in them."""

    trees: ClassVar[dict[str, str]]
    """The trees that it can have, `shared` and `carved`, each with how that is done."""
    missing: ClassVar[dict[str, str]] = {}
    """The trees that it cannot have, each with why."""
    together = True
    """Whether the three nodes may be open at once."""
    caveat = ""
    """What its documentation says against this use."""
    refusals: tuple[type[Exception], ...]

    @abstractmethod
    def account(self) -> AbstractContextManager[Any]:
        """Open what stands for the account."""

    @abstractmethod
    def budget(
        self, limit: int, name: str, tree: str, parent: Any = None
    ) -> AbstractContextManager[Any]:
        """Open a budget within `parent`, or within the account."""

    @abstractmethod
    def guarded(self, budget: Any, function: Function) -> Function:
        """Guard a function whose calls cost 1 in this budget."""

    @abstractmethod
    def guarded_async(
        self, budget: Any, function: Callable[[], Awaitable[Any]]
    ) -> Callable[[], Awaitable[Any]]:
        """Guard an asynchronous function likewise."""

    def carried(self, budget: Any, function: Function) -> Function:
        """Give the function as another thread has to call it to be within the budget."""
        return function

    @abstractmethod
    def counted(self, run: Any) -> float:
        """What the package says that the run has spent."""

    def held(self, run: Any) -> float | None:
        """What is still held when all is over; None where nothing is ever held."""
        return None


class Budgetguard(Package):
    """Blocks; `use()` in other threads."""

    trees: ClassVar = {
        "shared": 'guard.budget(share="shared")',
        "carved": 'guard.budget(share="carve")',
    }

    def __init__(self) -> None:
        import budgetguard
        from budgetguard.testing import FakeProvider

        self.refusals = (budgetguard.BudgetExceeded,)
        self._of = lambda amount: budgetguard.Guard(FakeProvider(amount))

    @contextlib.contextmanager
    def account(self, credits: int = ACCOUNT) -> Iterator[Any]:
        self._guard = self._of(credits)
        self._guard.balance()
        yield self._guard

    def budget(self, limit: int, name: str, tree: str, parent: Any = None) -> Any:
        share = "carve" if tree == "carved" and parent is not None else "shared"
        return self._guard.budget(limit, name=name, share=share)

    def guarded(self, budget: Any, function: Function) -> Function:
        decorated: Function = self._guard.require_credits(1)(function)
        return decorated

    guarded_async = guarded

    def carried(self, budget: Any, function: Function) -> Function:
        def inside() -> Any:
            with budget.use():
                return function()

        return inside

    def counted(self, run: Any) -> float:
        return float(run.spent)

    def held(self, run: Any) -> float:
        return float(run.held)


class Shekel(Package):
    """Nested blocks with a limit on tool calls, which it compares before the tool runs."""

    trees: ClassVar = {"shared": "budget(max_tool_calls=...) in another, @tool(price=1)"}
    missing: ClassVar = {
        "carved": "a child's limit is at most what its parent has left when it is opened; "
        "nothing is set aside"
    }
    caveat = "its documentation: a budget is for one thread or task at a time"

    def __init__(self) -> None:
        import shekel

        self.refusals = (shekel.BudgetExceededError, shekel.ToolBudgetExceededError)
        self._shekel = shekel

    def account(self, credits: int = ACCOUNT) -> Any:
        return self.budget(credits, "account", "shared")

    def budget(self, limit: int, name: str, tree: str, parent: Any = None) -> Any:
        return self._shekel.budget(max_usd=limit, max_tool_calls=limit, name=name)

    def guarded(self, budget: Any, function: Function) -> Function:
        tool: Function = self._shekel.tool(price=1)(function)
        return tool

    guarded_async = guarded

    def carried(self, budget: Any, function: Function) -> Function:
        # The active budget is in a context variable, which a new thread does not have.
        return functools.partial(contextvars.copy_context().run, function)

    def counted(self, run: Any) -> float:
        return float(run.tool_spent)


class AgentBudget(Package):
    """Sessions with child sessions: `would_exceed` before the call, `track` after it."""

    trees: ClassVar = {"shared": "child_session(), would_exceed() before and track() after"}
    missing: ClassVar = Shekel.missing

    def __init__(self) -> None:
        import agentbudget

        class Refused(Exception):
            """What `would_exceed` said."""

        self.refusals = (Refused, agentbudget.BudgetExhausted)
        self._refused = Refused
        self._made = agentbudget.AgentBudget

    @contextlib.contextmanager
    def account(self, credits: int = ACCOUNT) -> Iterator[Any]:
        with self._made(credits).session() as session:
            self._session = session
            yield session

    def budget(self, limit: int, name: str, tree: str, parent: Any = None) -> Any:
        return (parent or self._session).child_session(limit)

    def guarded(self, budget: Any, function: Function) -> Function:
        def call() -> Any:
            if budget.would_exceed(1):
                raise self._refused
            # Without a tool's name: with one, the tenth call is taken for a loop.
            return budget.track(function(), cost=1)

        return call

    def guarded_async(
        self, budget: Any, function: Callable[[], Awaitable[Any]]
    ) -> Callable[[], Awaitable[Any]]:
        async def call() -> Any:
            if budget.would_exceed(1):
                raise self._refused
            return budget.track(await function(), cost=1)

        return call

    def counted(self, run: Any) -> float:
        return float(run.spent)


class FloeSteps(Package):
    """One guard, with steps in it: `reserve_tool` before the call, `settle_tool` after it."""

    trees: ClassVar = {"shared": "step(max_usd=...) in another, one agent after the other"}
    together = False
    caveat = "its documentation: steps are not for agents in parallel, which need a guard each"

    def __init__(self) -> None:
        import floe_guard

        self.refusals = (floe_guard.BudgetExceeded,)
        self._guards: list[Any] = []
        self._made = functools.partial(
            floe_guard.BudgetGuard, max_log_events=1000, on_block=lambda *_: None
        )

    @contextlib.contextmanager
    def account(self, credits: int = ACCOUNT) -> Iterator[Any]:
        self._guards = [self._made(limit_usd=credits)]
        yield self._guards[0]

    def budget(self, limit: int, name: str, tree: str, parent: Any = None) -> Any:
        return self._guards[0].step(max_usd=limit)

    def guarded(self, budget: Any, function: Function) -> Function:
        def call() -> Any:
            handle = budget.reserve_tool(1)
            try:
                result = function()
            except Exception:
                budget.release(handle)
                raise
            budget.settle_tool("call", 1, reserved=handle)
            return result

        return call

    def guarded_async(
        self, budget: Any, function: Callable[[], Awaitable[Any]]
    ) -> Callable[[], Awaitable[Any]]:
        async def call() -> Any:
            handle = budget.reserve_tool(1)
            try:
                result = await function()
            except Exception:
                budget.release(handle)
                raise
            budget.settle_tool("call", 1, reserved=handle)
            return result

        return call

    def counted(self, run: Any) -> float:
        return float(sum(guard.spent_usd for guard in self._guards))

    def held(self, run: Any) -> float:
        return float(
            sum(each.limit_usd - each.spent_usd - each.remaining_usd for each in self._guards)
        )


class FloeGuards(FloeSteps):
    """A guard for each branch, as its documentation advises: the user divides the limit."""

    trees: ClassVar = {"carved": "by hand: a BudgetGuard for each branch, of 20, 40 and 40"}
    together = True
    caveat = ""

    @contextlib.contextmanager
    def account(self, credits: int = ACCOUNT) -> Iterator[None]:
        self._guards = []
        yield

    @contextlib.contextmanager
    def budget(self, limit: int, name: str, tree: str, parent: Any = None) -> Iterator[Any]:
        of_agents = 0 if parent else sum(LIMITS[each] for each in AGENTS)
        guard = self._made(limit_usd=limit - of_agents)
        self._guards.append(guard)
        yield guard


def without_a_server() -> list[str]:
    """What a guarded call of runcycles does where there is no server to ask."""
    import runcycles

    logging.disable(logging.CRITICAL)
    config = runcycles.CyclesConfig(
        base_url="http://127.0.0.1:9",
        api_key="not_a_real_key",
        tenant="account",
        retry_enabled=False,
        journal_enabled=False,
    )
    ran = []

    @runcycles.cycles(estimate=1, workflow="run", agent="a", client=runcycles.CyclesClient(config))
    def call() -> None:
        ran.append(1)

    try:
        call()
    except runcycles.CyclesError as error:
        said = type(error).__name__
    else:
        said = "no error"
    return [
        "not supported here: its server keeps the budgets, and comes as a container or as Java source",
        f"tried without a server: {said}, {len(ran)} of 1 calls ran, so it refuses what it cannot check",
    ]


PACKAGES: dict[str, tuple[type[Package], ...]] = {
    "budgetguard": (Budgetguard,),
    "shekel": (Shekel,),
    "floe-guard": (FloeSteps, FloeGuards),
    "agentbudget": (AgentBudget,),
    "runcycles": (),
}
