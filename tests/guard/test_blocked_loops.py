"""Plain code that has to wait while an event loop runs in its thread says so, once for each place."""

import asyncio
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import trio
from staging import Slow, under_way, until, waiting

from budgetguard import Guard, InsufficientCredits
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock

pytestmark = pytest.mark.anyio

WORDS = r"has to wait, which blocks the (asyncio|trio) event loop .* Use `async with .*aacquire"


@pytest.fixture
def cold(clock: HandClock) -> Callable[[], Any]:
    """Make a guard that has to refresh first, which takes until somebody waits for it."""

    @contextmanager
    def make() -> Iterator[Guard]:
        provider = Slow(100)
        provider.takes = 1
        guard = Guard(provider)

        def turn() -> None:
            until(lambda: waiting(guard) == 1)
            under_way(clock, provider, 1)
            clock.advance(1)

        turning = threading.Thread(target=turn)
        turning.start()
        yield guard
        turning.join()

    return make


class Later:
    """Something to await."""

    def __await__(self) -> Generator[None, None, None]:
        yield


def block(guard: Guard) -> None:
    """Guard a block."""
    with guard.require_credits(min=10):
        pass


def stacked(guard: Guard) -> None:
    """Guard a block, by a stack of them."""
    with ExitStack() as stack:
        stack.enter_context(guard.require_credits(min=10))


def acquire(guard: Guard) -> None:
    """Acquire."""
    guard.acquire(10).settle()


def function(guard: Guard) -> None:
    """Call a decorated function."""
    guard.require_credits(min=10)(lambda: None)()


def priced(guard: Guard) -> None:
    """Call a function whose price has to be computed."""
    guard.require_credits(min=lambda: 10)(lambda: None)()


def awaitable(guard: Guard) -> None:
    """Call one that returns something to await."""
    guard.require_credits(min=10)(lambda: Later())()  # noqa: PLW0108  no class


def generator(guard: Guard) -> None:
    """Take a generator's first step."""

    @guard.require_credits(min=10)
    def steps() -> Any:
        yield 1

    assert list(steps()) == [1]


WAYS = [block, stacked, acquire, function, priced, awaitable, generator]


every = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@every
async def test_it_warns_where_it_was_called(cold: Any, way: Callable[[Guard], None]) -> None:
    """Of the user's own line, though others' code is in between."""
    with cold() as guard, pytest.warns(RuntimeWarning, match=WORDS) as warned:
        way(guard)
    [said] = warned
    first = way.__code__.co_firstlineno
    assert Path(said.filename) == Path(__file__)
    assert first < said.lineno <= first + 7


@every
async def test_who_does_not_have_to_wait_is_told_nothing(way: Callable[[Guard], None]) -> None:
    """With a cached balance there is nothing to wait for."""
    guard = Guard(FakeProvider(100))
    await guard.abalance()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        way(guard)


@every
async def test_a_worker_thread_may_wait(cold: Any, way: Callable[[Guard], None]) -> None:
    """No loop runs there, even if a loop waits for the thread."""
    with cold() as guard, warnings.catch_warnings():
        warnings.simplefilter("error")
        await anyio.to_thread.run_sync(way, guard)


@every
def test_without_a_loop_nothing_is_said(cold: Any, way: Callable[[Guard], None]) -> None:
    """Plain programs wait as they like."""
    with cold() as guard, warnings.catch_warnings():
        warnings.simplefilter("error")
        way(guard)


async def test_once_for_each_place(cold: Any) -> None:
    """However often it waits there; another line is another place."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(3):
            with cold() as guard:
                guard.acquire(1).settle()
        with cold() as guard:
            guard.acquire(1).settle()
    assert len(warned) == 2


@pytest.mark.parametrize(
    "run", [lambda main: asyncio.run(main()), trio.run], ids=["asyncio", "trio"]
)
def test_once_for_each_loop(cold: Any, run: Callable[[Any], None]) -> None:
    """The next loop gets a warning, too."""

    async def main() -> None:
        with cold() as guard, pytest.warns(RuntimeWarning, match=WORDS):
            acquire(guard)

    run(main)
    run(main)


async def test_a_warning_that_is_an_error_leaves_nothing_behind(clock: HandClock) -> None:
    """Neither a hold nor a place in the queue."""
    provider = Slow(100)
    provider.takes = 1
    guard = Guard(provider)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            guard.acquire(10)
    under_way(clock, provider, 1)
    clock.advance(1)
    until(lambda: guard.available is not None)
    assert guard.available == 100
    assert not binding_of(guard).account.wait_queue.queue


async def test_the_wait_for_ones_own_task(clock: HandClock) -> None:
    """It waits in vain for what its own loop's task holds, and is refused at last."""
    guard = Guard(FakeProvider(100))
    await guard.abalance()

    def turn() -> None:
        until(lambda: waiting(guard) == 1)
        clock.advance(20)

    turning = threading.Thread(target=turn)
    turning.start()
    async with guard.require_credits(min=80):
        with pytest.warns(RuntimeWarning, match=WORDS), pytest.raises(InsufficientCredits):
            guard.acquire(50, wait=10)
    turning.join()


async def test_who_awaits_is_told_nothing(cold: Any) -> None:
    """Its loop goes on."""
    with cold() as guard, warnings.catch_warnings():
        warnings.simplefilter("error")
        async with guard.require_credits(min=10):
            (await guard.aacquire(10)).settle()
