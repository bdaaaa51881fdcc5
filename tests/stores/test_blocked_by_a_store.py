"""Plain code that waits for a store while an event loop runs in its thread says so; what is at hand does not."""

import asyncio
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from staging import until, waiting
from worlds import World, refused, world_of


def in_asyncio(main: Callable[[], Any]) -> Any:
    """Run it in an asyncio loop."""
    return asyncio.run(main())


RUNNERS = [in_asyncio, trio.run]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two members that know the balance."""
    with world_of("pair", tmp_path) as world:
        world.open()
        yield world


@pytest.fixture(params=RUNNERS, ids=["asyncio", "trio"])
def in_loop(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Run plain code in a thread with a running event loop."""

    def run(work: Callable[[], Any]) -> Any:
        async def main() -> Any:
            return work()

        return request.param(main)

    return run


@contextmanager
def slow(world: World) -> Iterator[None]:
    """The store takes its time, until somebody waits for it."""
    world.store.takes = 0.01
    asked = world.store.attempts

    def turn() -> None:
        until(lambda: waiting(world.guards[0]) == 1 and world.store.attempts > asked)
        world.clock.advance(0.02)

    turning = threading.Thread(target=turn)
    turning.start()
    yield
    turning.join()
    world.store.takes = 0.0


def test_a_call_that_draws_warns(world: World, in_loop: Any) -> None:
    """It has to wait for the store's answer."""
    guard = world.guards[0]
    with slow(world), pytest.warns(RuntimeWarning, match=r"has to wait, .* `await guard\.aacquire"):
        in_loop(lambda: guard.acquire(2).settle())


def test_a_call_from_the_lease_does_not_warn(world: World, in_loop: Any) -> None:
    """It waits for nothing, and sends nothing."""
    guard = world.guards[0]
    for _ in range(3):
        guard.acquire(2).release()
        world.advance(0.1)
    sent = world.store.attempts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_loop(lambda: guard.acquire(1).settle())
    assert world.store.attempts == sent


def test_an_extension_that_draws_warns_and_says_what_to_use(world: World, in_loop: Any) -> None:
    """It waits for one round trip."""
    hold = world.guards[0].acquire(2, name="spec")
    words = r"hold\.extend\(\) of spec has to wait, .* `await hold\.aextend\(\.\.\.\)`, or call it"
    with slow(world), pytest.warns(RuntimeWarning, match=words):
        in_loop(lambda: hold.extend(40))
    assert hold.amount == 42
    hold.release()


def test_a_warning_that_raises_leaves_nothing_behind(world: World, in_loop: Any) -> None:
    """Neither a hold nor a place in the queue, and what was asked for comes back."""
    guard = world.guards[0]
    hold = guard.acquire(2)
    world.store.takes = 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for work in (lambda: hold.extend(60), lambda: guard.acquire(90)):
            with pytest.raises(RuntimeWarning):
                in_loop(work)
    world.store.takes = 0.0
    world.advance(0.1)
    hold.release()
    world.all_hear()
    world.all_hear()
    world.guards[1].acquire(100).release()
    assert refused(world.turn(), 101).queued == 0


@pytest.mark.parametrize("run", RUNNERS)
def test_async_code_is_told_nothing(world: World, run: Callable[[Any], Any]) -> None:
    """It does not block its loop."""

    async def main() -> None:
        hold = await world.guards[0].aacquire(2)
        with slow(world):
            await hold.aextend(40)
        hold.release()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main)
