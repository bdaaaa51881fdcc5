"""`release_on` and exception groups, which every nursery and every TaskGroup raises."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio

from budgetguard import Guard
from budgetguard._engine.hold import proves
from budgetguard.testing import FakeProvider, HandClock


class Refused(Exception):
    """Nothing was charged."""


class Busy(Refused):
    """Nor for this."""


class OwnGroup(ExceptionGroup[Exception]):
    """A group of a kind of one's own."""


class BareGroup(BaseExceptionGroup[BaseException]):
    """One that may hold what is no Exception."""


def deep(error: Exception, levels: int) -> Exception:
    """A group in a group, and so on."""
    for _ in range(levels):
        error = ExceptionGroup("deep", [error])
    return error


NOTHING = [
    Refused(),
    ExceptionGroup("one", [Refused()]),
    ExceptionGroup("two", [Refused(), Busy()]),
    ExceptionGroup("nested", [Refused(), ExceptionGroup("inner", [Busy(), Busy()])]),
    OwnGroup("own", [Busy()]),
    BareGroup("bare", [Refused(), OwnGroup("own", [Busy()])]),
    deep(Busy(), 5000),
]
SOMETHING = [
    ValueError(),
    ExceptionGroup("mixed", [Refused(), ValueError()]),
    ExceptionGroup("nested", [Refused(), ExceptionGroup("inner", [Busy(), ValueError()])]),
    BareGroup("cancelled too", [Refused(), asyncio.CancelledError()]),
    OwnGroup("own", [ValueError()]),
    deep(ValueError(), 5000),
]


@pytest.mark.parametrize("error", NOTHING, ids=lambda error: type(error).__name__)
def test_a_group_of_nothing_else(error: BaseException) -> None:
    """However deep, and of whatever class."""
    assert proves(error, (Refused,))
    assert proves(error, (KeyError, Refused))
    assert not proves(error, (Busy,)) or isinstance(error, OwnGroup) or error is NOTHING[-1]
    assert not proves(error, ())


@pytest.mark.parametrize("error", SOMETHING, ids=lambda error: type(error).__name__)
def test_a_mixed_group(error: BaseException) -> None:
    """One that says something else may have been charged for."""
    assert not proves(error, (Refused,))


def test_the_group_itself_may_be_named() -> None:
    """As any other type."""
    assert proves(SOMETHING[1], (ExceptionGroup,))
    assert not proves(SOMETHING[3], (ExceptionGroup,))


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """Give a guard that knows of its 100 credits, and keeps for long."""
    del clock
    guard = Guard(FakeProvider(100, linger=300))
    guard.balance()
    return guard


async def fail(error: Exception) -> None:
    """Raise it at once: before a sibling that does could have this task cancelled."""
    raise error


async def by_anyio(*errors: Exception) -> None:
    """Have tasks of anyio's raise these."""
    async with anyio.create_task_group() as tasks:
        for error in errors:
            tasks.start_soon(fail, error)


async def by_the_library(*errors: Exception) -> None:
    """Have tasks of the loop's own kind of group raise these."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        async with trio.open_nursery() as nursery:
            for error in errors:
                nursery.start_soon(fail, error)
    else:
        async with asyncio.TaskGroup() as tasks:
            for error in errors:
                tasks.create_task(fail(error))


async def decorated(guard: Guard, work: Callable[[], Awaitable[None]]) -> None:
    """By a decorator."""

    @guard.require_credits(min=10, release_on=Refused)
    async def call() -> None:
        await work()

    await call()


async def blocked(guard: Guard, work: Callable[[], Awaitable[None]]) -> None:
    """By a block."""
    async with guard.require_credits(min=10, release_on=Refused):
        await work()


async def acquired(guard: Guard, work: Callable[[], Awaitable[None]]) -> None:
    """By a hold as a block."""
    with await guard.aacquire(10, release_on=Refused):
        await work()


async def returned(guard: Guard, work: Callable[[], Awaitable[None]]) -> None:
    """By a plain function that returns what is to be awaited."""
    await guard.require_credits(min=10, release_on=Refused)(work)()


async def stepped(guard: Guard, work: Callable[[], Awaitable[None]]) -> None:
    """By an async generator."""

    @guard.require_credits(min=10, release_on=Refused)
    async def steps() -> Any:
        yield await work()

    async for _ in steps():
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("group", [by_anyio, by_the_library], ids=["anyio", "own"])
@pytest.mark.parametrize("way", [decorated, blocked, acquired, returned, stepped])
@pytest.mark.parametrize(
    ("errors", "available"),
    [((Refused(), Busy()), 100), ((Busy(),), 100), ((Refused(), ValueError()), 90)],
    ids=["nothing else", "one", "mixed"],
)
async def test_by_real_groups(
    guard: Guard, group: Any, way: Any, errors: tuple[Exception, ...], available: int
) -> None:
    """The first call and the later ones, on both loops."""
    for times in (1, 2):
        with pytest.raises(ExceptionGroup):
            await way(guard, lambda: group(*errors))
        assert guard.available == 100 - times * (100 - available)
