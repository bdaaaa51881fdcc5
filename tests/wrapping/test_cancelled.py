"""A call may be cancelled at any of its steps: no hold is ever left open."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from types import coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from budgetguard import Guard
from budgetguard.testing import FakeProvider

POINTS = 2_000
AT_ONCE = 4
STEPS = 14


def make_guard() -> Guard:
    """Room for two calls of the four, so that some wait while others run."""
    guard = Guard(FakeProvider(20), recheck_after=0)
    guard.balance()
    return guard


def check(guard: Guard) -> None:
    """Everything is available again, at once, to a call that needs all of it."""
    guard.balance(max_age=0)
    assert guard.available == 20
    guard.acquire(20).release()


async def rest(choose: random.Random) -> None:
    """Let a few steps pass."""
    for _ in range(choose.randrange(4)):
        await anyio.lowlevel.checkpoint()


def works(guard: Guard, choose: random.Random) -> list[Any]:
    """Guarded work of every async kind, each of which takes some steps."""
    require = guard.require_credits(min=10, wait=600)

    @require
    async def call() -> None:
        await rest(choose)

    @require
    async def steps() -> AsyncIterator[int]:
        for i in range(3):
            await rest(choose)
            yield i

    async def iterate() -> None:
        async with contextlib.aclosing(steps()) as running:  # type: ignore[type-var]
            async for _ in running:
                await rest(choose)

    async def block() -> None:
        async with guard.require_credits(min=10, wait=600):
            await rest(choose)

    async def acquire() -> None:
        with await guard.aacquire(10, wait=600):
            await rest(choose)

    return [call, iterate, block, acquire]


@pytest.mark.parametrize("times", [1, 2])
def test_native_cancellation(times: int) -> None:
    """`task.cancel()`, once or again while the first is under way, at any step."""
    guard = make_guard()
    choose = random.Random(times)
    works_ = works(guard, choose)

    async def one() -> None:
        tasks = [asyncio.ensure_future(choose.choice(works_)()) for _ in range(AT_ONCE)]
        while not all(task.done() for task in tasks):
            for _ in range(choose.randrange(STEPS)):
                await asyncio.sleep(0)
            task = choose.choice(tasks)
            for _ in range(times):
                task.cancel()
                if choose.random() < 0.5:
                    await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def many() -> None:
        for _ in range(POINTS // AT_ONCE):
            await one()

    asyncio.run(many())
    check(guard)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancel_scopes(backend: str) -> None:
    """anyio's scopes on asyncio, and trio's own, cancelled at any step or by their deadline."""
    guard = make_guard()
    choose = random.Random(backend)
    works_ = works(guard, choose)

    async def one(scope: anyio.CancelScope) -> None:
        with scope:
            await choose.choice(works_)()

    async def many() -> None:
        for _ in range(POINTS // AT_ONCE):
            scopes = [anyio.CancelScope() for _ in range(AT_ONCE)]
            async with anyio.create_task_group() as group:
                for scope in scopes:
                    group.start_soon(one, scope)
                for scope in scopes:
                    for _ in range(choose.randrange(STEPS)):
                        await anyio.lowlevel.checkpoint()
                    if choose.random() < 0.5:
                        scope.cancel()
                    else:
                        scope.deadline = anyio.current_time()

    anyio.run(many, backend=backend)
    check(guard)


def test_generators_closed_half_way() -> None:
    """A generator closed, dropped or made to raise after any number of steps."""
    guard = make_guard()
    choose = random.Random(3)

    @guard.require_credits(min=10)
    def steps() -> Iterator[int]:
        yield from range(3)

    for _ in range(POINTS):
        running: Any = steps()
        for _ in range(choose.randrange(5)):
            next(running, None)
        match choose.randrange(3):
            case 0:
                running.close()
            case 1:
                with pytest.raises(KeyError):
                    running.throw(KeyError())
        del running
        guard.balance(max_age=0)
        assert guard.available == 20
    check(guard)


@coroutine
def step() -> Iterator[None]:
    """One step of a coroutine that no loop runs."""
    yield


@pytest.mark.parametrize("min_", [10, lambda: 10], ids=["fast path", "slow path"])
def test_coroutines_closed_half_way(min_: Any) -> None:
    """A coroutine driven by hand, and closed or dropped after any number of steps."""
    guard = make_guard()
    choose = random.Random(4)

    @guard.require_credits(min=min_)
    async def work() -> None:
        await step()
        await step()

    for _ in range(POINTS):
        running = work()
        try:
            for _ in range(1 + choose.randrange(4)):
                running.send(None)
        except StopIteration:
            pass
        if choose.random() < 0.5:
            running.close()
        del running
        guard.balance(max_age=0)
        assert guard.available == 20
    check(guard)
