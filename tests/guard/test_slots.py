"""Sessions within a provider's `max_concurrency`."""

import threading

import anyio
import anyio.lowlevel
import pytest
from staging import Caller, let_run, queue_up, waiting

from budgetguard import ConcurrencyLimit, Guard
from budgetguard.testing import FakeProvider, HandClock

WORKERS = 50
LIMIT = 5


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard that knows of 1,000 credits and five slots."""
    del clock
    guard = Guard(FakeProvider(1000, max_concurrency=LIMIT))
    guard.balance()
    return guard


def test_fifty_threads_pass_through_five_slots_in_order_of_arrival(guard: Guard) -> None:
    """All finish, never more than five at once."""
    running = most = 0
    order: list[int] = []
    lock = threading.Lock()
    go = threading.Semaphore(0)

    def work(number: int) -> None:
        nonlocal running, most
        with guard.require_credits(min=1, slots=1, wait=30):
            with lock:
                running += 1
                most = max(most, running)
                order.append(number)
            go.acquire()
            with lock:
                running -= 1

    first = [guard.acquire(0, cost=0, slots=1) for _ in range(LIMIT)]
    callers = queue_up(guard, [lambda number=number: work(number) for number in range(WORKERS)])
    assert waiting(guard) == WORKERS
    # One slot at a time, so that the order in which threads run is that in which they are admitted.
    first[0].release()
    for number, caller in enumerate(callers):
        go.release()
        assert caller.outcome() is None
        assert order[: number + 1] == list(range(number + 1))
    assert most <= LIMIT
    assert waiting(guard) == 0


def test_fifty_threads_use_all_five_slots_and_never_more(guard: Guard) -> None:
    """All finish, with five at once where five want in."""
    running = most = 0
    lock = threading.Lock()
    together = threading.Barrier(LIMIT)

    def work() -> None:
        nonlocal running, most
        with guard.require_credits(min=1, slots=1, wait=30):
            with lock:
                running += 1
                most = max(most, running)
            together.wait(20)
            with lock:
                running -= 1

    callers = [Caller(work) for _ in range(WORKERS)]
    assert [caller.outcome() for caller in callers] == [None] * WORKERS
    assert most == LIMIT
    assert waiting(guard) == 0
    assert guard.available == 1000 - WORKERS


@pytest.mark.anyio
async def test_fifty_tasks_pass_through_five_slots_in_order_of_arrival(guard: Guard) -> None:
    """All finish, never more than five at once."""
    running = most = 0
    arrived: list[int] = []
    admitted: list[int] = []

    @guard.require_credits(min=1, slots=1, wait=30)
    async def work(number: int) -> None:
        nonlocal running, most
        admitted.append(number)
        running += 1
        most = max(most, running)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        running -= 1

    async def call(number: int) -> None:
        arrived.append(number)
        await work(number)

    async with anyio.create_task_group() as group:
        for number in range(WORKERS):
            group.start_soon(call, number)
    # Those admitted together start in an order that is the loop's own.
    ranks = [arrived.index(number) for number in admitted]
    assert len(admitted) == WORKERS
    assert all(abs(rank - place) < LIMIT for place, rank in enumerate(ranks))
    assert most == LIMIT
    assert waiting(guard) == 0


@pytest.mark.anyio
async def test_tasks_that_wait_for_the_same_slot_get_it_in_order_of_arrival(guard: Guard) -> None:
    """With one slot left, the order is exact."""
    others = guard.acquire(1, slots=4)
    arrived: list[int] = []
    admitted: list[int] = []

    async def call(number: int) -> None:
        arrived.append(number)
        async with guard.require_credits(slots=1, wait=30):
            admitted.append(number)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for number in range(WORKERS):
            group.start_soon(call, number)
        await let_run()
    assert admitted == arrived
    others.release()


def test_slots_alone_need_no_credits(guard: Guard) -> None:
    """A call may be free and still open a session."""
    with guard.require_credits(slots=5) as hold:
        assert (hold.amount, hold.slots, guard.available) == (0, 5, 1000)
        with pytest.raises(ConcurrencyLimit) as refused:
            guard.acquire(slots=1)
    assert refused.value.retry_after == 5
    guard.acquire(slots=5).release()


@pytest.mark.usefixtures("clock")
def test_without_a_limit_slots_are_only_counted() -> None:
    """`max_concurrency=None` bounds nothing."""
    guard = Guard(FakeProvider(100))
    holds = [guard.acquire(slots=100) for _ in range(10)]
    assert {hold.slots for hold in holds} == {100}


def test_a_repeated_call_with_slots_is_refused_when_none_is_left(guard: Guard) -> None:
    """However often it went through before."""

    @guard.require_credits(min=1, slots=3)
    def call(depth: int) -> None:
        if depth:
            call(depth - 1)

    call(0)
    call(0)
    with pytest.raises(ConcurrencyLimit) as refused:
        call(1)
    assert (refused.value.limit, refused.value.in_use, refused.value.needed) == (5, 3, 3)


def test_a_limit_that_falls_refuses_until_enough_have_ended(clock: HandClock) -> None:
    """A plan that was changed while sessions run."""
    provider = FakeProvider(100, max_concurrency=5)
    guard = Guard(provider)
    holds = [guard.acquire(slots=1) for _ in range(4)]
    provider.max_concurrency = 2
    clock.advance(1)
    guard.balance(max_age=0)
    for hold in holds[:3]:
        with pytest.raises(ConcurrencyLimit):
            guard.acquire(slots=1)
        hold.release()
    guard.acquire(slots=1).release()


def test_the_slots_of_a_call_that_failed_come_free_with_the_refresh_that_shows_it(
    clock: HandClock,
) -> None:
    """Waiters for them get them then, without any other call."""
    provider = FakeProvider(100, lag=5, linger=60, max_concurrency=1)
    guard = Guard(provider)
    with pytest.raises(ConnectionError), guard.require_credits(min=1, slots=1):
        raise ConnectionError
    (caller,) = queue_up(guard, [lambda: guard.acquire(slots=1, wait=120)])
    clock.advance(64.9)
    assert waiting(guard) == 1
    clock.advance(0.1)
    assert caller.outcome().slots == 1
