"""Many callers at once: none of them is admitted beyond the budget, and they share their refreshes."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.lowlevel
import pytest
from staging import Caller, Slow, all_at_once, let_run, start_together, under_way, until, waiting

from budgetguard import BalanceUnavailable, Guard, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock

REPETITIONS = 50
CALLERS = 200
BUDGET = 100


def _decorated(guard: Guard, provider: FakeProvider) -> Callable[[], None]:
    @guard.require_credits(min=1)
    def work() -> None:
        provider.charge(1)

    return work


def _worked_out(guard: Guard, provider: FakeProvider) -> Callable[[], None]:
    @guard.require_credits(min=lambda: 1)
    def work() -> None:
        provider.charge(1)

    return work


def _block(guard: Guard, provider: FakeProvider) -> Callable[[], None]:
    def work() -> None:
        with guard.require_credits(min=1):
            provider.charge(1)

    return work


@pytest.mark.usefixtures("clock", "eager_switching")
@pytest.mark.parametrize(
    ("kind", "repetitions"),
    [(_decorated, REPETITIONS), (_worked_out, 10), (_block, 10)],
    ids=["decorated", "worked out per call", "block"],
)
def test_threads_run_exactly_what_the_budget_pays_for(
    kind: Callable[[Guard, FakeProvider], Callable[[], None]], repetitions: int
) -> None:
    """Of 200 threads, 100 get in, on at most three refreshes, over and over."""
    with ThreadPoolExecutor(CALLERS) as pool:
        for _ in range(repetitions):
            provider = FakeProvider(BUDGET)
            outcomes = all_at_once(pool, kind(Guard(provider), provider), CALLERS)
            refused = [outcome for outcome in outcomes if isinstance(outcome, InsufficientCredits)]
            assert outcomes.count(None) == BUDGET
            assert len(refused) == CALLERS - BUDGET
            assert provider.credits == 0
            assert provider.requests <= 3


@pytest.mark.anyio
@pytest.mark.usefixtures("clock")
async def test_tasks_run_exactly_what_the_budget_pays_for() -> None:
    """Of 200 tasks, 100 get in, on at most three refreshes, fifty times over."""
    for _ in range(REPETITIONS):
        provider = FakeProvider(BUDGET)
        outcomes: list[str] = []

        @Guard(provider).require_credits(min=1)
        async def work(provider: FakeProvider) -> None:
            await anyio.lowlevel.checkpoint()
            provider.charge(1)

        async def call(provider: FakeProvider = provider, outcomes: list[str] = outcomes) -> None:
            try:
                await work(provider)
            except InsufficientCredits:
                outcomes.append("refused")
            else:
                outcomes.append("ran")

        async with anyio.create_task_group() as group:
            for _ in range(CALLERS):
                group.start_soon(call)
        assert outcomes.count("ran") == BUDGET
        assert outcomes.count("refused") == CALLERS - BUDGET
        assert provider.credits == 0
        assert provider.requests <= 3


@pytest.mark.usefixtures("clock", "eager_switching")
def test_threads_and_loops_share_one_budget() -> None:
    """Threads, an asyncio loop and a trio run at the same time spend 100 credits between them."""
    provider = FakeProvider(BUDGET)
    guard = Guard(provider)

    async def one() -> None:
        with contextlib.suppress(InsufficientCredits):
            async with guard.require_credits(min=1):
                await anyio.lowlevel.checkpoint()
                provider.charge(1)

    async def many() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(one)

    def threads() -> None:
        for _ in range(60):
            with contextlib.suppress(InsufficientCredits), guard.require_credits(min=1):
                provider.charge(1)

    callers = [
        Caller(lambda name=name: anyio.run(many, backend=name)) for name in ("asyncio", "trio")
    ]
    callers += [Caller(threads), Caller(threads)]
    assert [caller.outcome() for caller in callers] == [None] * 4
    assert provider.credits == 0
    assert provider.requests <= 3


def test_a_thousand_cold_threads_share_one_refresh(clock: HandClock) -> None:
    """Nobody has a balance yet, and one request serves all."""
    provider = Slow(1000)
    provider.takes = 1
    guard = Guard(provider)
    callers = start_together(guard, lambda: guard.acquire(1).settle(), 1000)
    under_way(clock, provider, 1)
    clock.advance(1)
    assert [caller.outcome() for caller in callers] == [None] * 1000
    assert provider.requests == 1
    assert guard.available == 0


@pytest.mark.anyio
async def test_a_thousand_cold_tasks_share_one_refresh(clock: HandClock) -> None:
    """Nobody has a balance yet, and one request serves all."""
    provider = Slow(1000)
    provider.takes = 1
    guard = Guard(provider)
    finished = 0

    async def call() -> None:
        nonlocal finished
        (await guard.aacquire(1)).settle()
        finished += 1

    async with anyio.create_task_group() as group:
        for _ in range(1000):
            group.start_soon(call)
        await let_run()
        under_way(clock, provider, 1)
        clock.advance(1)
    assert finished == 1000
    assert provider.requests == 1


@pytest.mark.anyio
async def test_the_last_of_a_thousand_gets_its_answer_when_the_others_are_cancelled(
    clock: HandClock,
) -> None:
    """Cancelling 999 of those who wait for a refresh touches neither it nor the one who remains."""
    provider = Slow(1)
    provider.takes = 1
    guard = Guard(provider)
    amounts: list[object] = []

    async def call() -> None:
        amounts.append((await guard.aacquire(1)).amount)

    async with anyio.create_task_group() as staying:
        async with anyio.create_task_group() as leaving:
            for number in range(1000):
                (staying if number == 700 else leaving).start_soon(call)
            await let_run()
            leaving.cancel_scope.cancel()
        assert amounts == []
        under_way(clock, provider, 1)
        clock.advance(1)
    assert amounts == [1]
    assert provider.requests == 1
    assert waiting(guard) == 0


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_the_last_of_a_thousand_gets_its_answer_when_tasks_are_cancelled_natively(
    clock: HandClock, times: int
) -> None:
    """The same by `task.cancel()`, which no anyio scope sees coming."""
    provider = Slow(1)
    provider.takes = 1
    guard = Guard(provider)

    async def main() -> None:
        tasks = [asyncio.create_task(guard.aacquire(1)) for _ in range(1000)]
        await let_run()
        last = tasks.pop(300)
        for task in tasks:
            for _ in range(times):
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        under_way(clock, provider, 1)
        clock.advance(1)
        assert (await last).amount == 1

    asyncio.run(main())
    assert provider.requests == 1


def test_cold_callers_of_a_hanging_provider_are_held_for_the_timeout_and_no_longer(
    clock: HandClock,
) -> None:
    """At 9.9 of 10 seconds all wait, at 10 all know."""
    provider = FakeProvider(100)
    provider.on_fetch = anyio.sleep_forever
    guard = Guard(provider, timeout=10)
    callers = start_together(guard, lambda: guard.acquire(1), 20)
    under_way(clock, provider, 1)
    clock.advance(9.9)
    until(lambda: waiting(guard) == 20)
    clock.advance(0.1)
    errors = [caller.outcome() for caller in callers]
    assert {type(error) for error in errors} == {BalanceUnavailable}
    assert {error.reason for error in errors} == {"no answer within 10 s"}
    assert len({id(error) for error in errors}) == 20
    assert provider.requests == 1


@pytest.mark.anyio
async def test_cold_tasks_of_a_hanging_provider_are_held_for_the_timeout_and_no_longer(
    clock: HandClock,
) -> None:
    """At 9.9 of 10 seconds all wait, at 10 all know."""
    provider = FakeProvider(100)
    provider.on_fetch = anyio.sleep_forever
    guard = Guard(provider, timeout=10)
    errors: list[BalanceUnavailable] = []

    async def call() -> None:
        try:
            await guard.aacquire(1)
        except BalanceUnavailable as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(call)
        await let_run()
        under_way(clock, provider, 1)
        clock.advance(9.9)
        await let_run()
        assert errors == []
        clock.advance(0.1)
    assert len({id(error) for error in errors}) == 20
    assert provider.requests == 1


@pytest.mark.parametrize("age", [1, 301, 600], ids=["young", "stale", "at the limit"])
def test_who_has_a_usable_balance_does_not_wait_for_a_hanging_provider(
    clock: HandClock, age: float
) -> None:
    """The call is done while the clock stands still and the refresh behind it hangs."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    guard.balance()
    provider.on_fetch = anyio.sleep_forever
    clock.advance(age)
    for _ in range(3):
        assert Caller(lambda: guard.acquire(10).settle()).outcome() is None
    clock.advance(0)
    assert provider.requests == (1 if age < 300 else 2)
    assert guard.available == 70


@pytest.mark.anyio
async def test_a_task_that_has_a_usable_balance_does_not_wait_for_a_hanging_provider(
    clock: HandClock,
) -> None:
    """The same without blocking an event loop."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    await guard.abalance()
    provider.on_fetch = anyio.sleep_forever
    clock.advance(301)
    (await guard.aacquire(10)).settle()
    clock.advance(0)
    assert provider.requests == 2
    assert guard.available == 90
