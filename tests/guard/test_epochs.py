"""Which calls lower a checkpoint's bound: those whose credits it counted, and no others."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from budgetguard import Guard
from budgetguard._core.amounts import MICRO
from budgetguard._core.other_spenders import CHECKPOINT_EVERY, Checkpoint
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard on its fast path."""
    guard = Guard(FakeProvider(10_000))
    guard.balance()
    guard.acquire(1).settle()
    clock.advance(1)
    guard.balance(max_age=0)
    return guard


def checkpoint(guard: Guard, clock: HandClock) -> None:
    """A balance that arrives now becomes one, if anything is held."""
    clock.advance(CHECKPOINT_EVERY)
    guard.balance(max_age=0)


def bounds(guard: Guard) -> list[int]:
    """The bounds of the checkpoints there are, in credits."""
    account = binding_of(guard).account
    account.flush()
    found: list[Checkpoint] = account.ledger.head.others._checkpoints
    return [each.bound // MICRO for each in found]


def in_a_block(guard: Guard, work: Callable[[], None]) -> None:
    """A call in a block, which held 10 and costs 1."""
    with guard.require_credits(min=10) as hold:
        work()
        hold.settle(1)


def acquired(guard: Guard, work: Callable[[], None]) -> None:
    """A call by hand."""
    hold = guard.acquire(10)
    work()
    hold.settle(1)


def decorated(guard: Guard, work: Callable[[], None]) -> None:
    """A decorated function."""
    guard.require_credits(min=10, actual=lambda _: 1)(work)()


def with_slots(guard: Guard, work: Callable[[], None]) -> None:
    """A call that is decided, since it takes a slot."""
    guard.require_credits(min=10, slots=1, actual=lambda _: 1)(work)()


def decorated_coroutine(guard: Guard, work: Callable[[], None]) -> None:
    """A decorated coroutine function."""

    async def call() -> None:
        work()

    anyio.run(guard.require_credits(min=10, actual=lambda _: 1)(call))


WAYS = [in_a_block, acquired, decorated, with_slots, decorated_coroutine]


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_ran_at_a_checkpoint_lowers_its_bound(
    guard: Guard, clock: HandClock, way: Callable[..., Any]
) -> None:
    """It was held at 10 then, and turned out to cost 1."""
    way(guard, lambda: checkpoint(guard, clock))
    assert bounds(guard) == [1]


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_began_after_a_checkpoint_does_not(
    guard: Guard, clock: HandClock, way: Callable[..., Any]
) -> None:
    """Its 10 credits are not in the bound, so neither are the 9 that it did not cost."""
    other = guard.acquire(50)
    checkpoint(guard, clock)
    way(guard, lambda: None)
    assert bounds(guard) == [50]
    other.release()
    assert bounds(guard) == [0]
