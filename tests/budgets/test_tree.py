"""A tree of budgets under far more calls than it has credits for: as many run as the limits say."""

import contextlib
import gc
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from looking import NOTHING, figures, open_in
from staging import Caller, let_run, until

from budgetguard import BudgetExceeded, Guard
from budgetguard.budget import Budget
from budgetguard.testing import FakeProvider

CALLS = 200
CANCELS = 2000
PATIENCE = 20.0

Share = Literal["shared", "carve"]
SHARES: list[Share] = ["shared", "carve"]


@contextlib.contextmanager
def tree(guard: Guard, share: Share) -> Iterator[tuple[Budget, Budget, Budget]]:
    """Give a budget of 100, and two of 40 inside it, which are siblings."""
    with guard.budget(100, name="all") as everything:
        left, right = (guard.budget(40, name=name, share=share) for name in ("left", "right"))
        with contextlib.ExitStack() as stack:
            stack.enter_context(left)
            left.step_out()
            stack.enter_context(right)
            right.step_out()
            yield everything, left, right


def check(guard: Guard, budgets: tuple[Budget, ...], ran: list[int], share: Share) -> None:
    """As many ran as may, and their credits are spent: none is held, in any budget or the account."""
    everything, *children = budgets
    if share == "carve":
        assert ran == [20, 40, 40]
    else:
        assert sum(ran) == 100
        assert max(ran[1:]) <= 40
    assert figures(everything) == (100, 0, 0)
    for child, its in zip(children, ran[1:], strict=True):
        assert child.spent == its
        assert child.held == 0
    assert guard.available == 900
    assert open_in(guard) == NOTHING


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.usefixtures("eager_switching")
def test_in_threads(guard: Guard, share: Share) -> None:
    """600 threads, each of which enters its budget and stays in its call until all are decided."""
    gate = threading.Event()
    ran, refused = [[0], [0], [0]], list[BudgetExceeded]()

    def stay(at: int) -> None:
        ran[at].append(1)
        gate.wait(PATIENCE)

    call = guard.require_credits(min=1)(stay)

    def work(budget: Budget, at: int) -> None:
        with budget.use():
            try:
                call(at)
            except BudgetExceeded as error:
                refused.append(error)

    with tree(guard, share) as budgets:
        callers = [
            Caller(lambda budget=budget, at=at: work(budget, at))  # type: ignore[misc]
            for _ in range(CALLS)
            for at, budget in enumerate(budgets)
        ]
        until(lambda: sum(map(sum, ran)) + len(refused) == 3 * CALLS)
        gate.set()
        for caller in callers:
            assert caller.outcome() is None
    check(guard, budgets, [sum(each) for each in ran], share)


@pytest.mark.anyio
@pytest.mark.parametrize("share", SHARES)
async def test_in_tasks(guard: Guard, share: Share) -> None:
    """600 tasks, likewise, of which no two run at once, but all overlap."""
    gate = anyio.Event()
    ran = [0, 0, 0]

    @guard.require_credits(min=1)
    async def stay(at: int) -> None:
        ran[at] += 1
        await gate.wait()

    async def work(budget: Budget, at: int) -> None:
        with budget.use(), contextlib.suppress(BudgetExceeded):
            await stay(at)

    with tree(guard, share) as budgets:
        async with anyio.create_task_group() as tasks:
            for _ in range(CALLS):
                for at, budget in enumerate(budgets):
                    tasks.start_soon(work, budget, at)
            await let_run()
            gate.set()
    check(guard, budgets, ran, share)


@pytest.mark.anyio
async def test_tasks_that_are_started_inside_are_bounded(guard: Guard) -> None:
    """They need not enter anything: the budget follows them, to any depth."""
    gate = anyio.Event()
    ran = 0

    async def stay() -> None:
        nonlocal ran
        with contextlib.suppress(BudgetExceeded):
            async with guard.require_credits(min=1):
                ran += 1
                await gate.wait()

    async def more(tasks: Any) -> None:
        for _ in range(CALLS):
            tasks.start_soon(stay)

    async with guard.budget(100) as everything, anyio.create_task_group() as tasks:
        async with guard.budget(40) as inside:
            tasks.start_soon(more, tasks)
            await let_run()
        assert figures(inside) == (0, 40, 0)
        tasks.start_soon(more, tasks)
        await let_run()
        assert figures(everything) == (0, 100, 0)
        gate.set()
    assert ran == 100
    assert (inside.spent, everything.spent, guard.available) == (40, 100, 900)


@pytest.mark.anyio
@pytest.mark.usefixtures("few_to_collect")
async def test_whatever_becomes_of_calls_nothing_stays_held(guard: Guard) -> None:
    """They fail, are cancelled, are dropped half-way: what they may have cost is spent, once."""

    @guard.require_credits(min=1)
    async def fails() -> None:
        await anyio.lowlevel.checkpoint()
        msg = "no such page"
        raise LookupError(msg)

    @guard.require_credits(min=1)
    async def parts() -> AsyncIterator[int]:
        yield 1
        yield 2

    @guard.require_credits(min=1)
    def steps() -> Iterator[int]:
        yield 1
        yield 2

    @guard.require_credits(min=1)
    async def sleeps() -> None:
        await anyio.sleep_forever()

    async def all_of_them() -> None:
        with contextlib.suppress(LookupError):
            await fails()
        async with contextlib.aclosing(parts()) as partly:
            async for _ in partly:
                break
        for _ in steps():
            break
        guard.acquire(1)
        with anyio.move_on_after(0):
            await sleeps()

    with tree(guard, "carve") as budgets:
        for budget in budgets:
            with budget.use():
                await all_of_them()
    gc.collect()
    assert open_in(guard) == NOTHING
    assert [budget.held for budget in budgets] == [0, 0, 0]
    # A dropped hold of a call that never slept counts as well as one that did.
    assert [budget.spent for budget in budgets] == [15, 5, 5]


@pytest.mark.anyio
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.usefixtures("clock")
async def test_cancelled_anywhere_nothing_stays_held(share: Share) -> None:
    """2,000 tasks that are cancelled after some steps, before, in and after their calls and blocks."""
    chance = random.Random(share)
    guard = Guard(FakeProvider(1_000_000))
    await guard.abalance()

    @guard.require_credits(min=1)
    async def work(steps: int) -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()

    async def task(budget: Budget, scope: anyio.CancelScope) -> None:
        with scope, budget.use():
            await work(chance.randrange(3))
            async with guard.budget(5, share=share):
                await work(chance.randrange(3))
                async with guard.require_credits(min=2, wait=1) as hold:
                    await work(chance.randrange(3))
                    hold.settle(1)

    scopes = [anyio.CancelScope() for _ in range(CANCELS)]
    rest = list(scopes)
    chance.shuffle(rest)
    with guard.budget(100_000, name="all") as everything:
        async with anyio.create_task_group() as tasks:
            for scope in scopes:
                tasks.start_soon(task, everything, scope)
            while rest:
                await anyio.lowlevel.checkpoint()
                for scope in rest[-250:]:
                    scope.cancel()
                del rest[-250:]
    gc.collect()
    assert open_in(guard) == NOTHING
    assert everything.held == 0
    assert everything.spent + everything.left == 100_000
    assert guard.available == 1_000_000 - everything.spent
