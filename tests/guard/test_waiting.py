"""Callers with `wait`: a queue in order of arrival, for threads and tasks alike."""

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from staging import Caller, let_run, queue_up, under_way, until, waiting

from budgetguard import BalanceUnavailable, ConcurrencyLimit, Guard, Hold, InsufficientCredits
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


def wait_for(guard: Guard, amount: float, slots: int = 0, wait: float = 30) -> Callable[[], Hold]:
    """A call that queues."""
    return lambda: guard.acquire(amount, slots=slots, wait=wait)


@pytest.fixture
def provider() -> FakeProvider:
    """An account with 100 credits, and 5 slots."""
    return FakeProvider(100, max_concurrency=5)


@pytest.fixture
def guard(clock: HandClock, provider: FakeProvider) -> Guard:
    """A guard with a balance."""
    del clock
    guard = Guard(provider)
    guard.balance()
    return guard


def test_a_caller_that_waits_gets_what_comes_free(guard: Guard) -> None:
    """As soon as it does: no time passes."""
    running = guard.acquire(100)
    (caller,) = queue_up(guard, [wait_for(guard, 40)])
    running.release()
    hold = caller.outcome()
    assert (hold.state, hold.amount) == ("open", 40)
    assert guard.available == 60


def test_who_has_waited_long_enough_makes_way_at_once(guard: Guard, clock: HandClock) -> None:
    """The next caller gets what one whose time is over did not fit into, before any refresh."""
    running = guard.acquire(70)
    impatient, patient = queue_up(guard, [wait_for(guard, 50, wait=3), wait_for(guard, 30)])
    clock.advance(3)
    assert isinstance(impatient.outcome(), InsufficientCredits)
    hold = patient.outcome()
    assert (hold.state, hold.amount) == ("open", 30)
    running.release()


@pytest.mark.parametrize("way", ["settled for less", "released", "block", "decorated"])
def test_every_end_that_frees_something_lets_the_next_in(guard: Guard, way: str) -> None:
    """However a call ends."""
    callers: list[Caller] = []

    def come() -> None:
        callers.extend(queue_up(guard, [wait_for(guard, 40)]))

    match way:
        case "settled for less":
            hold = guard.acquire(100)
            come()
            hold.settle(60)
        case "released":
            hold = guard.acquire(100)
            come()
            hold.release()
        case "block":
            with guard.require_credits(min=100) as hold:
                come()
                hold.settle(50)
        case _:
            guard.require_credits(min=100, actual=lambda _: 50)(come)()
    assert callers[0].outcome().amount == 40


def test_a_queued_caller_is_admitted_by_the_end_of_a_call_that_took_the_fast_path(
    guard: Guard, provider: FakeProvider
) -> None:
    """A function that is called over and over wakes waiters, too."""
    callers: list[Caller] = []

    @guard.require_credits(min=45, actual=lambda _: 0)
    def call(come: bool) -> None:
        if come:
            callers.extend(queue_up(guard, [wait_for(guard, 60)]))

    call(come=False)
    call(come=True)
    assert callers[0].outcome().amount == 60


def test_callers_are_admitted_in_order_of_arrival(guard: Guard) -> None:
    """Each gets in when the one before it has left."""
    running = guard.acquire(100)
    callers = queue_up(guard, [wait_for(guard, 100) for _ in range(5)])
    for number, caller in enumerate(callers):
        running.release()
        until(lambda number=number: waiting(guard) == 4 - number)  # type: ignore[misc]
        assert [other.is_alive() for other in callers[number + 1 :]] == [True] * (4 - number)
        running = caller.outcome()
    assert guard.available == 0


def test_a_small_caller_does_not_overtake_a_large_one(guard: Guard) -> None:
    """It would fit now, and not on top of what the one before it needs."""
    running = guard.acquire(80)
    large, small = queue_up(guard, [wait_for(guard, 90), wait_for(guard, 15)])
    binding_of(guard).account.flush()
    assert waiting(guard) == 2
    assert guard.available == 20
    running.release()
    assert large.outcome().amount == 90
    assert waiting(guard) == 1
    large.outcome().release()
    assert small.outcome().amount == 15


def test_a_caller_without_wait_does_not_overtake_the_queue_either(guard: Guard) -> None:
    """It is refused, and its figures say why."""
    running = guard.acquire(80)
    (large,) = queue_up(guard, [wait_for(guard, 90)])
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(15)
    error = refused.value
    assert (error.queued, error.available, error.held) == (90, -70, 80)
    assert error.retryable
    running.release()
    large.outcome()


def test_a_repeated_call_does_not_overtake_the_queue(guard: Guard) -> None:
    """The fast path is closed while somebody waits."""
    call = guard.require_credits(min=1)(lambda: None)
    call()
    call()
    running = guard.acquire(80)
    (large,) = queue_up(guard, [wait_for(guard, 90)])
    with pytest.raises(InsufficientCredits):
        call()
    running.release()
    large.outcome()


def test_a_caller_goes_past_the_queue_if_it_fits_on_top_of_it(guard: Guard) -> None:
    """The queue waits for a slot, and credits are there for both."""
    running = guard.acquire(10, slots=5)
    (slotted,) = queue_up(guard, [wait_for(guard, 20, slots=1)])
    guard.acquire(70).release()
    with pytest.raises(InsufficientCredits):
        guard.acquire(71)
    running.release()
    assert slotted.outcome().slots == 1


def test_who_needs_no_slot_is_not_held_up_by_those_who_do(guard: Guard) -> None:
    """And who needs one is."""
    running = guard.acquire(1, slots=4)
    (slotted,) = queue_up(guard, [wait_for(guard, 1, slots=2)])
    guard.acquire(1).release()
    with pytest.raises(ConcurrencyLimit):
        guard.acquire(1, slots=1)
    running.release()
    assert slotted.outcome().slots == 2


def test_a_check_that_costs_nothing_does_not_hold_up_the_queue(guard: Guard) -> None:
    """`cost=0` needs its `min` only at the moment it is admitted."""
    running = guard.acquire(80)
    checking = queue_up(guard, [lambda: guard.acquire(90, cost=0, wait=30)])
    running.release()
    assert checking[0].outcome().amount == 0
    assert guard.available == 100


def test_callers_let_in_together_do_not_share_the_same_credits(guard: Guard) -> None:
    """Sixty come free, and of three who need twenty-five, two get in."""
    running = guard.acquire(100)
    callers = queue_up(guard, [wait_for(guard, 25) for _ in range(3)])
    running.settle(40)
    assert [caller.outcome().amount for caller in callers[:2]] == [25, 25]
    assert waiting(guard) == 1
    assert guard.available == 10
    callers[0].outcome().release()
    callers[2].outcome()


def test_a_caller_that_can_never_fit_is_refused_at_once(guard: Guard) -> None:
    """A need above all that could be spent does not queue, and is not worth a retry."""
    running = guard.acquire(50)
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(101, wait=30)
    assert not refused.value.retryable
    assert refused.value.retry_after is None
    with pytest.raises(ConcurrencyLimit) as too_many:
        guard.acquire(1, slots=6, wait=30)
    assert not too_many.value.retryable
    running.release()


@pytest.mark.usefixtures("clock")
def test_the_floor_counts_among_what_can_never_fit() -> None:
    """`spendable - floor` is the most that can be promised."""
    guard = Guard(FakeProvider(100), floor=30)
    running = guard.acquire(10)
    with pytest.raises(InsufficientCredits):
        guard.acquire(71, wait=30)
    (caller,) = queue_up(guard, [wait_for(guard, 70)])
    running.release()
    assert caller.outcome().amount == 70


def test_a_wait_that_runs_out_is_refused_with_the_figures_of_that_moment(
    clock: HandClock, guard: Guard
) -> None:
    """After `wait` and the refresh that verifies it, and no sooner."""
    running = guard.acquire(80)
    (caller,) = queue_up(guard, [wait_for(guard, 50, wait=30)])
    clock.advance(29.9)
    assert waiting(guard) == 1
    clock.advance(0.1)
    error = caller.outcome()
    assert isinstance(error, InsufficientCredits)
    assert (error.held, error.available, error.retryable) == (80, 20, True)
    assert error.age <= 5
    assert waiting(guard) == 0
    running.release()


def test_a_wait_for_a_slot_that_runs_out_is_a_concurrency_limit(
    clock: HandClock, guard: Guard
) -> None:
    """With the limit and how many are in use."""
    running = guard.acquire(1, slots=5)
    (caller,) = queue_up(guard, [wait_for(guard, 1, slots=1, wait=30)])
    clock.advance(30)
    error = caller.outcome()
    assert isinstance(error, ConcurrencyLimit)
    assert (error.limit, error.in_use, error.retryable) == (5, 5, True)
    running.release()


def test_nobody_is_held_longer_than_wait_and_timeout(
    clock: HandClock, guard: Guard, provider: FakeProvider
) -> None:
    """Not even where every refresh hangs."""
    running = guard.acquire(80)
    provider.on_fetch = anyio.sleep_forever
    (caller,) = queue_up(guard, [wait_for(guard, 50, wait=30)])
    for _ in range(399):
        clock.advance(0.1)
    if caller.is_alive():
        clock.advance(0.2)
    assert isinstance(caller.outcome(), InsufficientCredits)
    running.release()


def test_cold_callers_with_wait_are_not_held_longer_than_wait_and_timeout(
    clock: HandClock, provider: FakeProvider
) -> None:
    """Waiting for a first balance ends as well, and says that it is not known."""
    provider.on_fetch = anyio.sleep_forever
    guard = Guard(provider, timeout=10)
    caller = Caller(wait_for(guard, 50, wait=30))
    under_way(clock, provider, 1)
    for _ in range(40):
        clock.advance(1)
    assert isinstance(caller.outcome(), BalanceUnavailable)


def test_while_somebody_waits_for_credits_the_guard_refreshes_every_recheck_after(
    clock: HandClock, guard: Guard, provider: FakeProvider
) -> None:
    """A top-up reaches a waiter without any other call."""
    running = guard.acquire(80)
    (caller,) = queue_up(guard, [wait_for(guard, 50, wait=60)])
    clock.advance(0)
    asked = provider.requests
    for number in range(1, 5):
        clock.advance(4.9)
        assert provider.requests == asked + number - 1
        clock.advance(0.1)
        assert provider.requests == asked + number
    provider.top_up(100)
    clock.advance(5)
    assert caller.outcome().amount == 50
    clock.advance(60)
    assert provider.requests == asked + 5
    running.release()


def test_who_waits_for_a_slot_alone_makes_nobody_refresh(
    clock: HandClock, guard: Guard, provider: FakeProvider
) -> None:
    """A balance does not say when a session ends."""
    running = guard.acquire(1, slots=5)
    (caller,) = queue_up(guard, [wait_for(guard, 1, slots=1, wait=60)])
    clock.advance(1)
    asked = provider.requests
    clock.advance(30)
    assert provider.requests == asked
    running.release()
    caller.outcome()


def test_a_debit_that_clears_lets_those_who_wait_in(clock: HandClock) -> None:
    """The refresh that shows what a kept hold came to is theirs as well."""
    provider = FakeProvider(100, lag=5, linger=20)
    guard = Guard(provider)
    guard.acquire(80).keep()
    (caller,) = queue_up(guard, [wait_for(guard, 50, wait=60)])
    clock.advance(24.9)
    assert waiting(guard) == 1
    for _ in range(6):
        clock.advance(1)
    assert caller.outcome().amount == 50


@pytest.mark.anyio
async def test_tasks_are_admitted_in_order_of_arrival(guard: Guard) -> None:
    """On asyncio and trio."""
    running = guard.acquire(100)
    arrived: list[int] = []
    admitted: list[int] = []

    async def call(number: int) -> None:
        arrived.append(number)
        async with guard.require_credits(min=100, wait=30) as hold:
            admitted.append(number)
            await anyio.lowlevel.checkpoint()
            hold.settle(0)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(call, number)
        await let_run()
        assert len(arrived) == 20
        running.release()
    assert admitted == arrived
    assert guard.available == 100


@pytest.mark.anyio
async def test_a_tasks_wait_runs_out(clock: HandClock, guard: Guard) -> None:
    """As in threads."""
    errors: list[InsufficientCredits] = []

    async def call() -> None:
        try:
            await guard.aacquire(50, wait=30)
        except InsufficientCredits as error:
            errors.append(error)

    with guard.require_credits(min=80):
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await let_run()
            clock.advance(29.9)
            await let_run()
            assert errors == []
            clock.advance(0.1)
    assert [error.held for error in errors] == [80]
