"""Callers that stop waiting leave no trace, and what they were given goes to the next."""

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from staging import Slow, let_run, under_way, waiting

from budgetguard import Event, Guard, Hold
from budgetguard._engine.waiters import ThreadWaker
from budgetguard.testing import FakeProvider, HandClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard that knows of 100 credits and two slots."""
    del clock
    guard = Guard(FakeProvider(100, max_concurrency=2))
    guard.balance()
    return guard


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["credits", "slots"])
async def test_cancelled_waiters_leave_no_trace(clock: HandClock, guard: Guard, what: str) -> None:
    """The queue is empty, nothing is held, and the next caller gets in at once."""
    need: dict[str, Any] = {"min": 60} if what == "credits" else {"min": 1, "slots": 2}
    running = guard.acquire(**need)

    async def call() -> None:
        await guard.aacquire(**need, wait=30)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(call)
        await let_run()
        assert waiting(guard) == 20
        group.cancel_scope.cancel()
    clock.advance(0)
    assert waiting(guard) == 0
    running.release()
    assert guard.available == 100
    (await guard.aacquire(**need)).release()


@pytest.mark.anyio
async def test_a_cancelled_waiter_is_not_in_the_way_of_those_behind_it(
    clock: HandClock, guard: Guard
) -> None:
    """What it needed is not reserved for it any more."""
    running = guard.acquire(60)
    amounts: list[object] = []

    async def small() -> None:
        amounts.append((await guard.aacquire(40, wait=30)).amount)

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as large:
                large.start_soon(lambda: guard.aacquire(100, wait=30))
                await let_run()
                group.start_soon(small)
                await let_run()
                assert amounts == []
                scope.cancel()
        clock.advance(0)
    assert amounts == [40]
    running.release()


@pytest.mark.anyio
async def test_a_grant_whose_waiter_was_cancelled_goes_to_the_next(
    clock: HandClock, guard: Guard
) -> None:
    """Let in and cancelled before it ran: the one behind it gets in instead."""
    running = guard.acquire(100)
    scopes: list[anyio.CancelScope] = []
    got: list[int] = []

    async def call(number: int) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            hold = await guard.aacquire(100, wait=30)
            got.append(number)
            hold.release()

    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(call, number)
            await let_run()
        # Released and cancelled in one step of the loop: the first has no time to see its grant.
        running.release()
        scopes[0].cancel()
        await let_run()
        clock.advance(0)
    assert got == [1]
    assert waiting(guard) == 0
    assert guard.available == 100


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_a_grant_whose_task_was_cancelled_natively_goes_to_the_next(
    clock: HandClock, guard: Guard, times: int
) -> None:
    """`task.cancel()` in the very step in which the grant was given."""
    got: list[int] = []

    async def call(number: int) -> None:
        async with guard.require_credits(min=100, wait=30) as hold:
            got.append(number)
            hold.release()

    async def main() -> None:
        running = guard.acquire(100)
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(call(number)))
            await let_run()
        running.release()
        for _ in range(times):
            tasks[0].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [
            asyncio.CancelledError,
            type(None),
            type(None),
        ]

    asyncio.run(main())
    clock.advance(0)
    assert got == [1, 2]
    assert guard.available == 100


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_a_cancellation_at_any_turn_of_the_loop_leaks_nothing(
    clock: HandClock, guard: Guard, turns: int, times: int
) -> None:
    """Before, while and after a call is admitted, waits, runs and ends."""

    @guard.require_credits(min=60, wait=30, release_on=asyncio.CancelledError)
    async def call() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def main() -> None:
        running = guard.acquire(100)
        task = asyncio.create_task(call())
        for turn in range(turns):
            if turn == 3:
                running.release()
                clock.advance(0)
            await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        if running.state == "open":
            running.release()

    asyncio.run(main())
    clock.advance(0)
    assert waiting(guard) == 0
    clock.advance(1)
    guard.balance(max_age=0)
    assert guard.available == 100


@pytest.mark.anyio
async def test_a_caller_that_times_out_itself_leaves_the_refresh_to_others(
    clock: HandClock,
) -> None:
    """Its own deadline passes while it waits for a refresh that others wait for too."""
    provider = Slow(100)
    provider.takes = 3
    guard = Guard(provider)
    amounts: list[object] = []

    async def stay() -> None:
        amounts.append((await guard.aacquire(10)).amount)

    async with anyio.create_task_group() as group:
        group.start_soon(stay)
        await let_run()
        with anyio.move_on_after(0) as patience:
            await guard.aacquire(10)
        assert patience.cancelled_caught
        with anyio.move_on_after(0) as patience:
            await guard.abalance()
        assert patience.cancelled_caught
        under_way(clock, provider, 1)
        clock.advance(3)
    assert amounts == [10]
    assert provider.requests == 1


@pytest.mark.anyio
async def test_a_refresh_that_everybody_left_still_brings_a_balance(clock: HandClock) -> None:
    """Nobody cancels it but its own deadline."""
    provider = Slow(100)
    provider.takes = 3
    guard = Guard(provider)
    with anyio.move_on_after(0):
        await guard.aacquire(10)
    under_way(clock, provider, 1)
    clock.advance(3)
    assert (provider.requests, guard.available) == (1, 100)


def test_a_loop_that_ends_with_waiters_leaves_no_trace(clock: HandClock, guard: Guard) -> None:
    """asyncio.run cancels its tasks, and the next run gets in."""

    async def abandon() -> None:
        for _ in range(5):
            asyncio.ensure_future(guard.aacquire(100, wait=30)).add_done_callback(lambda _: None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    running = guard.acquire(100)
    asyncio.run(abandon())
    clock.advance(0)
    assert waiting(guard) == 0
    running.release()

    async def again() -> Hold:
        return await guard.aacquire(100)

    asyncio.run(again()).release()


def test_a_loop_that_was_closed_over_its_waiters_harms_nobody_else(
    clock: HandClock, guard: Guard
) -> None:
    """A grant for a task that can never run again is passed on when that task is collected."""
    running = guard.acquire(100)
    loop = asyncio.new_event_loop()
    task = loop.create_task(guard.aacquire(100, wait=30))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert waiting(guard) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    clock.advance(0)
    running.release()
    assert guard.available == 100


def test_an_interrupted_thread_leaves_no_trace(
    clock: HandClock, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control-C while a sync caller waits."""
    running = guard.acquire(100)

    def interrupted(_: ThreadWaker, __: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ThreadWaker, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            guard.acquire(60, wait=30)
    clock.advance(0)
    assert waiting(guard) == 0
    running.release()
    assert guard.available == 100


def test_the_events_of_a_grant_that_nobody_took_add_up(clock: HandClock) -> None:
    """A call that was reported as admitted is reported as released."""
    events: list[Event] = []
    guard = Guard(FakeProvider(100), on_event=events.append)
    guard.balance()

    async def main() -> None:
        running = guard.acquire(100)
        task = asyncio.create_task(guard.aacquire(60, wait=30))
        await let_run()
        running.settle(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    clock.advance(0)
    told = [(event.kind, event.credits) for event in events if event.kind != "refreshed"]
    assert told == [("admitted", 100), ("settled", 0), ("admitted", 60), ("released", 60)]


@pytest.mark.anyio
@pytest.mark.parametrize("waits_for", ["acquire", "balance", "block", "function"])
async def test_every_awaited_way_in_can_be_cancelled(clock: HandClock, waits_for: str) -> None:
    """And leaves nothing behind that a later caller would notice."""
    provider = Slow(100)
    provider.takes = 1
    guard = Guard(provider)

    async def block() -> None:
        async with guard.require_credits(min=10):
            raise AssertionError

    @guard.require_credits(min=10)
    async def function() -> None:
        raise AssertionError

    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "acquire": lambda: guard.aacquire(10),
        "balance": guard.abalance,
        "block": block,
        "function": function,
    }
    with anyio.move_on_after(0) as patience:
        await ways[waits_for]()
    assert patience.cancelled_caught
    under_way(clock, provider, 1)
    clock.advance(1)
    assert guard.available == 100
    (await guard.aacquire(100)).release()
