"""What comes often costs what it lets in, and not the length of the wait queue.

Counted are the Python calls that a change makes, in the thread that makes it: a figure that no
machine's speed changes.
"""

import gc
import math
from collections.abc import Callable, Iterator
from decimal import Decimal

import anyio
import pytest
from staging import calls, let_run

from budgetguard import Guard, Hold, InsufficientCredits
from budgetguard._core.amounts import MICRO
from budgetguard._engine.binding import binding_of
from budgetguard._engine.waiters import AdmissionWaiter
from budgetguard.testing import FakeProvider, HandClock

FEW, MANY = 100, 10_000
# Four steps of a Fenwick tree and of a heap for each doubling of the queue's length.
MORE = 4 * math.ceil(math.log2(MANY / FEW))


@pytest.fixture
def provider() -> FakeProvider:
    """An account with 100 credits, and 5 slots."""
    return FakeProvider(100, max_concurrency=5)


@pytest.fixture
def guard(clock: HandClock, provider: FakeProvider) -> Iterator[Guard]:
    """A guard with a balance, whose admission requests are queued without a waiting thread."""
    del clock
    guard = Guard(provider, lag=0)
    guard.balance()
    yield guard
    for waiter in list(binding_of(guard).account.wait_queue.queue):
        binding_of(guard).account.abandon(waiter)
    binding_of(guard).account.flush()


def come(guard: Guard, amount: int, *, slots: int = 0, wait: float = 1e6) -> AdmissionWaiter:
    """A caller comes, is admitted or has to wait; nothing blocks."""
    spec, binding = guard.require_credits(amount, slots=slots, wait=wait).spec, binding_of(guard)
    return binding.account.ask(spec._call(binding, "work", amount * MICRO, amount * MICRO))


def grown(guard: Guard, arrive: Callable[[], object], work: Callable[[], object]) -> int:
    """By how many calls `work` costs more with many waiters than with few."""
    for _ in range(FEW):
        arrive()
    few = calls(work)
    for _ in range(MANY - FEW):
        arrive()
    assert len(binding_of(guard).account.wait_queue.queue) >= MANY - FEW
    return calls(work) - few


def test_an_end_costs_what_it_lets_in(guard: Guard) -> None:
    """Whether one waits behind the caller that is admitted, or ten thousand do."""
    holds = [guard.acquire(50), guard.acquire(50)]
    assert grown(guard, lambda: come(guard, 50), lambda: holds.pop().release()) <= MORE
    assert guard.available == 0


def test_an_end_that_lets_nobody_in_costs_no_more(guard: Guard) -> None:
    """What came free is too little for the first, and so for all behind it."""
    guard.acquire(98)
    holds = [guard.acquire(1), guard.acquire(1)]
    assert grown(guard, lambda: come(guard, 50), lambda: holds.pop().release()) <= MORE
    assert guard.available == 2


def test_an_end_of_a_session_costs_no_more(guard: Guard) -> None:
    """Waiters for a slot are queued in the same way as waiters for credits."""
    holds = [guard.acquire(slots=1) for _ in range(5)]
    assert grown(guard, lambda: come(guard, 1, slots=1), lambda: holds.pop().release()) <= MORE


def test_mixed_needs_cost_no_more(guard: Guard) -> None:
    """Amounts of every size, with and without slots, in any order."""
    holds = [guard.acquire(20, slots=1) for _ in range(5)]
    came = iter(range(MANY))

    def arrive() -> None:
        number = next(came)
        come(guard, 1 + number * 7 % 90, slots=number % 3)

    # What is admitted differs, and with it the cost: at most two callers, each for some 40 calls.
    assert grown(guard, arrive, lambda: holds.pop().release()) <= 2 * 40 + 2 * MORE


def test_a_waiter_that_leaves_costs_no_more(guard: Guard) -> None:
    """From the middle of the line."""
    guard.acquire(100)
    waiters: list[AdmissionWaiter] = []

    def leave() -> None:
        binding_of(guard).account.post(
            binding_of(guard).account._abandon, waiters.pop(len(waiters) // 2)
        )

    assert grown(guard, lambda: waiters.append(come(guard, 50)), leave) <= MORE


def test_a_deadline_costs_no_more(guard: Guard, clock: HandClock) -> None:
    """One waiter's time is over, and it is refused; no other waiter is decided."""
    guard.acquire(100)
    first, second = come(guard, 50, wait=1), come(guard, 50, wait=2)

    def expire() -> None:
        clock._mono += 1  # not `advance`, which has the private loop's thread do the work
        binding_of(guard).account.overdue()

    assert grown(guard, lambda: come(guard, 50), expire) <= MORE
    assert isinstance(first.error, InsufficientCredits)
    assert isinstance(second.error, InsufficientCredits)


def test_a_balance_that_comes_along_costs_no_more(guard: Guard, clock: HandClock) -> None:
    """As one does with each reply of an AI gateway."""
    guard.acquire(100)

    def offer() -> None:
        clock._mono += 0.001
        binding_of(guard).account.offer(Decimal(100), clock.now())

    assert grown(guard, lambda: come(guard, 50), offer) <= MORE


def test_those_who_left_are_forgotten(guard: Guard) -> None:
    """Many waiters may come and give up behind one that waits for long."""
    guard.acquire(100)
    come(guard, 50)
    for _ in range(1000):
        binding_of(guard).account.post(binding_of(guard).account._abandon, come(guard, 50))
    assert len(binding_of(guard).account.wait_queue._deadlines) < 100


def test_a_guard_whose_callers_have_left_is_forgotten(guard: Guard, clock: HandClock) -> None:
    """The account is another guard's too; it knows of those that are in use."""
    other = Guard(guard.provider, lag=0)
    guard.hold = guard.acquire(100)  # type: ignore[attr-defined]
    come(other, 50, wait=1)
    clock.advance(20)
    refused = come(other, 50, wait=0)
    clock.advance(20)
    assert isinstance(refused.error, InsufficientCredits)
    del other, refused
    gc.collect()
    assert list(binding_of(guard).account.subscribers) == [binding_of(guard).subscriber]


def test_one_that_can_fit_no_more_makes_way(guard: Guard, clock: HandClock) -> None:
    """A balance that came along is below what it needs: it is refused, and the next one fits."""
    guard.hold = guard.acquire(40)  # type: ignore[attr-defined]
    large, small = come(guard, 90), come(guard, 40)
    clock.advance(1)
    binding_of(guard).account.offer(Decimal(85), clock.now())
    assert isinstance(large.error, InsufficientCredits)
    assert small.hold is not None


def test_a_balance_that_came_along_is_as_good_as_the_one_waited_for(
    guard: Guard, provider: FakeProvider, clock: HandClock
) -> None:
    """A caller about to be refused waits for a refresh: any newer balance decides."""
    guard.hold = guard.acquire(60)  # type: ignore[attr-defined]
    clock.advance(6)
    provider.on_fetch = lambda: anyio.Event().wait()
    large, small = come(guard, 50, wait=0), come(guard, 45, wait=0)
    assert (large.done, small.done) == (False, False)
    clock._mono += 0.5
    binding_of(guard).account.offer(Decimal(106), clock.now())
    assert isinstance(large.error, InsufficientCredits)
    assert small.hold is not None


def test_one_whose_time_to_queue_is_over_makes_way(
    guard: Guard, provider: FakeProvider, clock: HandClock
) -> None:
    """It waits for a refresh before it is refused, and meanwhile blocks nobody."""
    guard.hold = guard.acquire(40)  # type: ignore[attr-defined]
    provider.on_fetch = lambda: anyio.Event().wait()
    large, small = come(guard, 60 + 1, wait=10), come(guard, 30, wait=100)
    clock.advance(10)
    assert small.hold is not None
    assert not large.done
    clock.advance(10)
    assert isinstance(large.error, InsufficientCredits)


def test_nobody_asks_for_the_sake_of_one_who_left(
    guard: Guard, provider: FakeProvider, clock: HandClock
) -> None:
    """A caller who waits for credits has the balance refreshed; one who waits for a slot does not."""
    guard.holds = [guard.acquire(50, slots=5)]  # type: ignore[attr-defined]
    for_credits = come(guard, 60)
    come(guard, 0, slots=1)
    binding_of(guard).account.post(binding_of(guard).account._abandon, for_credits)
    clock.advance(60)
    assert provider.requests == 1


@pytest.mark.anyio
async def test_everybody_is_admitted_by_turns(guard: Guard) -> None:
    """A thousand tasks, of which a hundred fit at once, and a tenth is cancelled."""
    order: list[int] = []

    async def work(number: int) -> None:
        async with guard.require_credits(1, wait=300) as hold:
            order.append(number)
            await anyio.lowlevel.checkpoint()
            hold.release()

    async def given_up(number: int) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await work(number)

    async with anyio.create_task_group() as tasks:
        hold: Hold = guard.acquire(100)
        for number in range(1000):
            tasks.start_soon(given_up if number % 10 == 9 else work, number)
        await let_run()
        hold.release()
    assert sorted(order) == [number for number in range(1000) if number % 10 != 9]
    assert not binding_of(guard).account.wait_queue.queue
