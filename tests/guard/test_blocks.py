"""`require_credits` around a block."""

import asyncio
from typing import Any

import anyio
import pytest
from staging import Caller, Slow, let_run, under_way

from budgetguard import Guard, HoldClosed, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard that knows of 100 credits; nothing that was charged shows within the test."""
    del clock
    guard = Guard(FakeProvider(100, lag=5, linger=300))
    guard.balance()
    return guard


def test_a_block_settles_at_its_cost(guard: Guard) -> None:
    """The hold is open inside and settled after."""
    with guard.require_credits(min=50, cost=30) as hold:
        assert (hold.state, hold.amount, hold.slots) == ("open", 30, 0)
        assert guard.available == 70
    assert hold.state == "settled"
    assert guard.available == 70


def test_the_end_of_a_block_after_a_settle_is_silent(guard: Guard) -> None:
    """What `settle` said stands."""
    with guard.require_credits(min=50, cost=30) as hold:
        hold.settle(12)
    assert hold.state == "settled"
    assert guard.available == 88


def test_a_block_that_raises_after_a_settle_stays_settled(guard: Guard) -> None:
    """The cost was known before."""
    hold = None

    def block() -> None:
        nonlocal hold
        with guard.require_credits(min=30) as hold:
            hold.settle(12)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        block()
    assert hold is not None
    assert hold.state == "settled"
    assert guard.available == 88


def test_a_block_that_released_stays_released(guard: Guard) -> None:
    """Its body knew that nothing was charged."""
    with guard.require_credits(min=30) as hold:
        hold.release()
    assert hold.state == "released"
    assert guard.available == 100


def test_a_block_that_raises_is_kept(guard: Guard) -> None:
    """The provider may work on."""
    with pytest.raises(ConnectionError), guard.require_credits(min=30) as hold:
        raise ConnectionError
    assert hold.state == "kept"
    assert guard.available == 70


def test_a_block_whose_error_proves_that_nothing_was_charged_is_released(guard: Guard) -> None:
    """As for functions."""
    with (
        pytest.raises(ConnectionError),
        guard.require_credits(min=30, release_on=ConnectionError) as hold,
    ):
        raise ConnectionError
    assert hold.state == "released"
    assert guard.available == 100


@pytest.mark.anyio
async def test_an_async_block_ends_alike(guard: Guard) -> None:
    """Settled at the end, kept when it is cancelled."""
    async with guard.require_credits(min=30) as settled:
        assert guard.available == 70
    with anyio.move_on_after(0):
        async with guard.require_credits(min=30) as kept:
            await anyio.sleep_forever()
    assert (settled.state, kept.state) == ("settled", "kept")
    assert guard.available == 40


def test_a_refused_block_does_not_run(guard: Guard) -> None:
    """And can be entered again when there is enough."""
    block = guard.require_credits(min=101)
    with pytest.raises(InsufficientCredits), block:
        raise AssertionError
    with pytest.raises(InsufficientCredits), block:
        raise AssertionError
    assert guard.available == 100


def test_one_object_may_be_entered_again_after_it_was_left(guard: Guard) -> None:
    """Also after its block raised."""
    block = guard.require_credits(min=10)
    with block as first:
        pass
    with pytest.raises(ConnectionError), block:
        raise ConnectionError
    with block as third:
        pass
    assert first.id != third.id
    assert guard.available == 70


def test_one_object_cannot_be_entered_twice_at_once(guard: Guard) -> None:
    """The error says to make a new one, and the first block goes on undisturbed."""
    block = guard.require_credits(min=10)
    with block as hold:
        with pytest.raises(RuntimeError, match="Make a new one"), block:
            raise AssertionError
        assert (hold.state, guard.available) == ("open", 90)
    assert hold.state == "settled"
    with block:
        pass


@pytest.mark.anyio
async def test_one_object_cannot_be_entered_by_two_tasks_at_once(guard: Guard) -> None:
    """Not even while the first one still waits for a refresh."""
    block = guard.require_credits(min=10)
    async with block:
        with pytest.raises(RuntimeError, match="Make a new one"):
            async with block:
                raise AssertionError
    assert guard.available == 90


def test_one_object_cannot_be_entered_while_another_thread_waits_in_it(clock: HandClock) -> None:
    """Waiting to be admitted counts as being inside."""
    provider = Slow(100)
    provider.takes = 1
    block = Guard(provider).require_credits(min=10)

    def enter() -> str:
        with block as hold:
            return hold.state

    caller = Caller(enter)
    under_way(clock, provider, 1)
    with pytest.raises(RuntimeError, match="Make a new one"), block:
        raise AssertionError
    clock.advance(1)
    assert caller.outcome() == "open"


def test_an_object_whose_wait_was_cancelled_can_be_entered_again(clock: HandClock) -> None:
    """A cancelled `async with` leaves it free."""
    provider = Slow(100)
    provider.takes = 1
    guard = Guard(provider)
    block = guard.require_credits(min=10)

    async def enter() -> None:
        async with block:
            raise AssertionError

    async def main() -> None:
        task = asyncio.create_task(enter())
        await let_run()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    under_way(clock, provider, 1)
    clock.advance(1)
    with block:
        assert guard.available == 90


def test_nested_blocks_each_hold(guard: Guard) -> None:
    """The inner one ends first, and the outer one goes on."""
    with guard.require_credits(min=30) as outer:
        with guard.require_credits(min=20) as inner:
            assert guard.available == 50
            inner.settle(5)
        assert (inner.state, outer.state) == ("settled", "open")
        assert guard.available == 65
    assert guard.available == 65


def test_one_object_decorates_any_number_of_functions_at_once(guard: Guard) -> None:
    """State belongs to the call, not to the object."""
    both = guard.require_credits(min=10)

    @both
    def first() -> object:
        return second()

    @both
    def second() -> object:
        with both:
            return guard.available

    assert first() == 70


def test_a_block_has_no_result_for_actual(guard: Guard) -> None:
    """`settle` is for that, and the error says so."""
    with pytest.raises(TypeError, match="settle"), guard.require_credits(min=1, actual=len):
        raise AssertionError


@pytest.mark.parametrize("end", ["settle", "release", "keep"])
def test_ending_a_blocks_hold_twice_is_an_error(guard: Guard, end: str) -> None:
    """The block's own end is not, an explicit second one is."""
    with guard.require_credits(min=30) as hold:
        hold.settle(5)
        with pytest.raises(HoldClosed, match="already settled"):
            getattr(hold, end)()
    with pytest.raises(HoldClosed):
        getattr(hold, end)()
    assert guard.available == 95


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, TypeError),
        ({"min": True}, TypeError),
        ({"min": -1}, ValueError),
        ({"min": float("nan")}, ValueError),
        ({"min": "1e13"}, ValueError),
        ({"cost": float("inf")}, ValueError),
        ({"slots": -1}, ValueError),
        ({"slots": True}, TypeError),
        ({"slots": 1.5}, TypeError),
        ({"min": 1, "wait": -1}, ValueError),
        ({"min": 1, "wait": float("inf")}, ValueError),
        ({"min": 1, "wait": "long"}, TypeError),
        ({"min": 1, "lag": -1}, ValueError),
        ({"min": 1, "linger": float("nan")}, ValueError),
        ({"min": 1, "release_on": 3}, TypeError),
        ({"min": 1, "release_on": (ConnectionError, 3)}, TypeError),
        ({"min": 1, "actual": 3}, TypeError),
        ({"min": 1, "name": 3}, TypeError),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_where_it_is_written(
    guard: Guard, options: dict[str, Any], problem: type[Exception]
) -> None:
    """Before any call is made."""
    with pytest.raises(problem):
        guard.require_credits(**options)


@pytest.mark.parametrize(
    ("amount", "problem"),
    [(True, TypeError), (-1, ValueError), (None, TypeError), ("x", ValueError)],
)
@pytest.mark.parametrize("which", ["min", "cost"])
def test_what_a_callable_cannot_return_is_refused_at_the_call(
    guard: Guard, which: str, amount: Any, problem: type[Exception]
) -> None:
    """The body does not run, and nothing is held."""

    @guard.require_credits(**{which: lambda: amount})
    def function() -> None:
        raise AssertionError

    with pytest.raises(problem):
        function()
    assert guard.available == 100


def test_amounts_may_depend_on_the_calls_arguments(guard: Guard) -> None:
    """Both callables are given them, `self` included."""

    class Client:
        rate = 3

        @guard.require_credits(
            min=lambda self, pages, **_: self.rate * pages * 2,
            cost=lambda self, pages, deep=False: self.rate * pages + deep,
        )
        def crawl(self, pages: int, *, deep: bool = False) -> object:
            return guard.available

    assert Client().crawl(10, deep=True) == 69
    with pytest.raises(InsufficientCredits) as refused:
        Client().crawl(12)
    assert refused.value.needed == 72
