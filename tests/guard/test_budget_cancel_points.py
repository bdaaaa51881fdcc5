"""Wherever a tree of tasks in budgets is cancelled, nothing remains held in any budget or in the account."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from staging import let_run, waiting

from budgetguard import Budget, BudgetExceeded, Guard, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock

CREDITS = 100_000
POINTS = 2000
TOGETHER = 50

pytestmark = pytest.mark.usefixtures("few_to_collect")


class CrashedError(Exception):
    """What the body of a call raises."""


class Tree:
    """A run, its agents and their calls; `draw` decides about all of it."""

    def __init__(self, guard: Guard, draw: Random, budgets: list[Budget]) -> None:
        self.guard = guard
        self.draw = draw
        self.budgets = budgets
        self.calls: list[Callable[[], Awaitable[None]]] = [
            self.block,
            self.decorated,
            self.acquired,
            self.dropped,
            self.generated,
            self.crashed,
        ]

    def budget(self, limit: int) -> Budget:
        """A new budget, or one by a key."""
        draw, guard = self.draw, self.guard
        if draw.random() < 0.15:
            budget = guard.budget(limit, name="user", key=draw.randint(0, 3), per="day")
        else:
            share: Any = draw.choice(["shared", "carve"])
            budget = guard.budget(limit, share=share)
        self.budgets.append(budget)
        return budget

    async def run(self, scopes: list[anyio.CancelScope]) -> None:
        """A run with its agents; some of its tasks go on after its block was left."""
        async with anyio.create_task_group() as lasting, self.budget(100) as run:
            lasting.start_soon(self.agent, scopes, 1)
            async with anyio.create_task_group() as agents:
                for _ in range(self.draw.randint(1, 3)):
                    agents.start_soon(self.agent, scopes, 2)
                agents.start_soon(self.elsewhere, run)

    async def agent(self, scopes: list[anyio.CancelScope], depth: int) -> None:
        """Calls in a budget of its own, and in budgets inside that one."""
        draw = self.draw
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            try:
                async with AsyncExitStack() as stack:
                    for _ in range(draw.randint(1, depth)):
                        await stack.enter_async_context(self.budget(draw.choice([20, 40])))
                    for _ in range(draw.randint(1, 3)):
                        await self.call()
            except (InsufficientCredits, CrashedError):
                pass

    async def elsewhere(self, run: Budget) -> None:
        """A caller that enters the run's budget by `use`."""
        try:
            with run.use():
                await self.call()
        except (InsufficientCredits, CrashedError):
            pass

    async def call(self) -> None:
        """One call of some form; who is refused goes on."""
        try:
            await self.draw.choice(self.calls)()
        except BudgetExceeded:
            await anyio.lowlevel.checkpoint()

    # The forms.

    async def work(self) -> None:
        """What takes a while."""
        for _ in range(self.draw.randint(0, 3)):
            await anyio.lowlevel.checkpoint()

    def needs(self) -> dict[str, Any]:
        """So many credits, waited for or not."""
        return {"min": self.draw.choice([1, 8, 15, 30]), "wait": self.draw.choice([0, 30])}

    async def block(self) -> None:
        """Charged as it goes, and extended."""
        async with self.guard.require_credits(**self.needs()) as hold:
            await self.work()
            hold.charged(1)
            if self.draw.random() < 0.3:
                hold.extend(2)
            await self.work()
            if self.draw.random() < 0.5:
                hold.settle(self.draw.choice([0, 1, 8, 40]))

    async def decorated(self) -> None:
        """In a budget for each call, too."""
        guard = self.guard
        share: Any = self.draw.choice(["shared", "carve"])

        @guard.budget(20, share=share)
        @guard.require_credits(**self.needs(), actual=lambda cost: cost)
        async def call() -> int:
            await self.work()
            return self.draw.choice([0, 1, 40])

        await call()

    async def acquired(self) -> None:
        """Ended by hand."""
        hold = await self.guard.aacquire(**self.needs())
        try:
            await self.work()
        finally:
            self.draw.choice([hold.release, hold.keep, hold.settle])()

    async def dropped(self) -> None:
        """Never ended."""
        hold = await self.guard.aacquire(**self.needs())
        await self.work()
        assert hold.state == "open"

    async def generated(self) -> None:
        """A generator that is not always exhausted, nor closed."""

        @self.guard.require_credits(**self.needs())
        async def steps() -> AsyncIterator[int]:
            for step in range(3):
                await self.work()
                yield step

        async for step in steps():
            if step and self.draw.random() < 0.5:
                break

    async def crashed(self) -> None:
        """Its body raises."""
        async with self.guard.require_credits(**self.needs()):
            await self.work()
            raise CrashedError


async def cancelled_at(tree: Tree, draw: Random) -> None:
    """Cancel one of a tree's agents after some checkpoints, and all of it after some more."""
    scopes: list[anyio.CancelScope] = []
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(tree.run, scopes)
            for _ in range(draw.randint(0, 12)):
                await anyio.lowlevel.checkpoint()
            if scopes and draw.random() < 0.5:
                draw.choice(scopes).cancel()
                for _ in range(draw.randint(0, 12)):
                    await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    except* (InsufficientCredits, CrashedError):
        pass


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.parametrize("first", range(0, POINTS, POINTS // 4))
async def test_nothing_remains_held(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Two thousand points on each backend: what was carved is given back, and nobody waits any more."""
    trio = pytest.importorskip("trio")
    # Trio runs the tasks that are ready in an order of its own.
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    guard = Guard(FakeProvider(CREDITS), lag=0, linger=0)
    await guard.abalance()
    ended = 0
    for begin in range(first, first + POINTS // 4, TOGETHER):
        budgets: list[Budget] = []
        for point in range(begin, begin + TOGETHER):
            trio._core._run._r.seed(point)
            await cancelled_at(Tree(guard, Random(point), budgets), Random(-1 - point))
        gc.collect()
        await let_run()
        clock.advance(1)
        assert waiting(guard) == 0
        assert [budget for budget in budgets if budget.held] == []
        await guard.abalance(max_age=0)
        assert guard.available == CREDITS
        ended += sum(budget.spent > 0 for budget in budgets)
    assert ended > POINTS // 8
    assert isinstance(guard.available, Decimal)
