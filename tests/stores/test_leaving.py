"""A process that ends in order tells the store so, whatever was under way when it began to end."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from member_process import until
from staging import Caller
from worlds import World, world_of

from budgetguard._io import loop


@pytest.fixture(params=["single", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A store in memory, and one in a file."""
    with world_of(request.param, tmp_path) as world:
        yield world


def all_gone(world: World) -> bool:
    """Whether each member has left: the head took its last message."""
    return not any(account.membership.joined for account in world.accounts)  # type: ignore[attr-defined]


def end(world: World) -> None:
    """Have all processes end, each of which has left then."""
    # Their clock stands still, so the loop's patience does not run out.
    for runtime in world.runtimes:
        runtime.stop()
    until(lambda: all_gone(world))
    assert not any(account.membership.under_way for account in world.accounts)  # type: ignore[attr-defined]


def test_with_a_lease(world: World) -> None:
    """Nothing was under way."""
    world.open()
    world.guards[0].acquire(10).settle()
    end(world)


def test_with_a_balance_that_arrives_meanwhile(world: World) -> None:
    """It would be told in a message of its own, for which there is no time any more."""
    provider = world.open()
    runtime = world.runtimes[0]
    world.advance(1)

    def ends() -> None:
        threading.Thread(target=runtime.stop, daemon=True).start()
        until(lambda: runtime.stopping)

    provider.on_fetch = ends
    caller = Caller(lambda: world.guards[0].balance(max_age=0))
    until(lambda: runtime.stopping)
    end(world)
    caller.outcome()


def test_with_a_message_that_the_store_did_not_take(tmp_path: Path) -> None:
    """It was away for a moment, and would have been asked again later."""
    with world_of("single", tmp_path) as world:
        world.open()
        guard = world.guards[0]
        hold = guard.acquire(10)
        world.store.away = "away"
        hold.settle()
        world.advance(1)
        assert world.accounts[0].membership.under_way is not None  # type: ignore[attr-defined]
        world.store.away = None
        end(world)
        assert world.store.head.members[world.store.messages[-1].member].gone
        assert sum(each.settled.total for each in world.store.head.members.values()) == 10_000_000


def test_before_the_store_has_answered_for_the_first_time(tmp_path: Path) -> None:
    """Its first message may have taken effect: the head would wait for a member that never was."""
    with world_of("single", tmp_path) as world:
        provider = world.open(cold=True)
        world.store.loses = 1
        caller = Caller(lambda: world.guards[0].acquire(10))
        caller.outcome()
        assert not world.accounts[0].membership.joined  # type: ignore[attr-defined]
        end(world)
        assert world.store.messages[-1].leave
        assert provider.requests == 0


def test_a_store_that_is_locked_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    """The interpreter waits at most 0.3 s in all, and the loop gives up after 0.2 s."""
    with world_of("sqlite", tmp_path) as world:
        world.open()
        world.guards[0].acquire(10).settle()
        locks = sqlite3.connect(world.store.path, isolation_level=None)
        locks.execute("BEGIN IMMEDIATE")
        # Or the clock would wait for an answer of the store.
        world.store.hangs = True
        runtime: Any = world.runtimes[0]
        thread, waits = runtime._thread, []
        runtime._thread = SimpleNamespace(join=waits.append)
        runtime.stop()
        # A child of multiprocessing that ends by itself may be told twice.
        runtime.stop()
        # The first is for farewells, and the second for what is cancelled then.
        assert waits == [loop._FAREWELL, loop._EXIT_PATIENCE - loop._FAREWELL]
        assert loop._EXIT_PATIENCE <= 0.3
        thread.join(20)
        assert not thread.is_alive()
        locks.close()
