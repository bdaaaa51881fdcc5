"""What the simulation found about budgets, each in a few lines."""

import anyio
import pytest
from staging import let_run, waiting

from budgetguard import Budget, BudgetExceeded, Guard
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard that knows of 100 credits."""
    del clock
    guard = Guard(FakeProvider(100))
    guard.balance()
    return guard


@pytest.mark.anyio
async def test_a_task_stays_in_the_budget_that_it_was_started_in(guard: Guard) -> None:
    """Also after that block was left, and after the task has left a block of its own."""
    left = anyio.Event()

    async def agent() -> None:
        await left.wait()
        with guard.budget(5, name="agent"):
            guard.acquire(1).settle()
        guard.acquire(2).settle()

    async with anyio.create_task_group() as group:
        with guard.budget(20, name="run") as run:
            group.start_soon(agent)
            await let_run()
        left.set()
    assert run.spent == 3


def test_blocks_may_be_left_in_the_order_they_were_entered_in(guard: Guard) -> None:
    """The code that follows is in what still lasts, and in none once all were left."""
    outer, inner = guard.budget(20, name="outer"), guard.budget(10, name="inner")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    guard.acquire(1).settle()
    inner.__exit__(None, None, None)
    guard.acquire(5).settle()
    assert (outer.spent, inner.spent) == (1, 1)


def test_a_block_of_another_account_may_be_left_last(guard: Guard) -> None:
    """Inside it, what follows is no longer in the block around it that was left."""
    other = Guard(FakeProvider(100))
    outer, inner = guard.budget(20), other.budget(10)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    guard.acquire(1).settle()
    inner.__exit__(None, None, None)
    assert outer.spent == 0


def test_a_budget_with_a_period_may_be_entered_inside_itself(guard: Guard) -> None:
    """A call counts in it once."""
    with guard.budget(10, name="user", key="ada", per="day") as day:
        with guard.budget(10, name="user", key="ada", per="day"):
            guard.acquire(6).settle()
        assert day.spent == 6


def test_an_extension_that_a_budget_refuses_starts_no_refresh(
    clock: HandClock, guard: Guard
) -> None:
    """No balance would change the answer."""
    with guard.budget(10):
        hold = guard.acquire(8)
        clock.advance(60)
        before = guard.provider.requests
        with pytest.raises(BudgetExceeded):
            hold.extend(5)
        clock.advance(60)
        assert guard.provider.requests == before
        hold.extend(1)
        hold.release()


@pytest.mark.anyio
async def test_who_waits_for_a_budget_that_is_used_up_steps_aside(guard: Guard) -> None:
    """Those behind are let in as soon as another call has taken what the budget had left."""
    running = guard.acquire(60)
    admitted: list[int] = []

    def day() -> Budget:
        return guard.budget(60, name="user", key="ada", per="day")

    async def large() -> None:
        with day():
            await guard.aacquire(50, wait=30)

    async def small() -> None:
        (await guard.aacquire(15, wait=30)).settle()
        admitted.append(15)

    with guard.budget(20, share="carve") as carved:
        carved.step_out()
        async with anyio.create_task_group() as group:
            group.start_soon(large)
            await let_run()
            group.start_soon(small)
            await let_run()
            assert waiting(guard) == 2
            with day(), carved.use():
                taken = guard.acquire(15)
            await let_run()
            assert admitted == [15]
            group.cancel_scope.cancel()
        taken.release()
    running.release()


@pytest.mark.anyio
async def test_who_has_credits_set_aside_waits_for_a_slot_alone(clock: HandClock) -> None:
    """A waiter ahead that lacks credits too is not in its way."""
    del clock
    guard = Guard(FakeProvider(100, max_concurrency=2))
    await guard.abalance()
    running = guard.acquire(10, slots=2)
    admitted: list[int] = []

    async def call(amount: int) -> None:
        (await guard.aacquire(amount, slots=1, wait=30)).settle()
        admitted.append(amount)

    async with guard.budget(20, share="carve") as carved:
        carved.step_out()
        async with anyio.create_task_group() as group:
            group.start_soon(call, 90)
            await let_run()
            with carved.use():
                group.start_soon(call, 5)
            await let_run()
            assert waiting(guard) == 2
            running.release()
            await let_run()
            assert admitted == [5]
            group.cancel_scope.cancel()
