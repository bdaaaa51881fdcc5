"""An account that nobody in a process uses any more leaves its store, and the process forgets it."""

import gc
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from member_process import until
from worlds import World, world_of

from budgetguard import Guard
from budgetguard._engine import account_registry
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of
from budgetguard.stores._processes import PROCESS
from budgetguard.stores.members import read_members
from budgetguard.testing import FakeProvider

if TYPE_CHECKING:
    from in_memory import MemoryStore

    from budgetguard._engine.account import Account

ACCOUNTS = 5


@pytest.fixture(autouse=True)
def _sweeps_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests change of the registry is put back."""
    monkeypatch.setattr(account_registry._PROCESS, "sweep_above", 64)


def spend(world: World, lag: float = 1) -> "weakref.ref[Account]":
    """Have an account of its own used by a guard that is dropped at once."""
    with runtime_of(world.runtimes[0]):
        guard = Guard(FakeProvider(100, lag=lag), store=world.store)
    guard.acquire(10).settle()
    world.settle()
    return weakref.ref(binding_of(guard).account)


def sweep(world: World) -> None:
    """Make one more account, as the last one that is not too many: others are dropped."""
    gc.collect()
    account_registry._PROCESS.sweep_above = 0
    with runtime_of(world.runtimes[0]):
        Guard(FakeProvider(100))
    world.settle()
    # Its alarms refer to it until they ring.
    world.advance(12)
    gc.collect()


def alive(accounts: "list[weakref.ref[Account]]") -> int:
    """How many are still there."""
    return sum(each() is not None for each in accounts)


def test_a_dropped_account_leaves_its_store(tmp_path: Path) -> None:
    """Its member is gone from the head, its link is closed, and nothing refers to it any more."""
    with world_of("single", tmp_path) as world:
        store: MemoryStore = world.store
        accounts = [spend(world) for _ in range(ACCOUNTS)]
        # What a balance may not show yet would be told again to a store that lost it.
        sweep(world)
        assert alive(accounts) == ACCOUNTS
        world.advance(5)
        assert not any(link.closed for link in store.links.values())
        sweep(world)
        assert alive(accounts) == 0
        assert all(link.closed for link in store.links.values())
        assert all(each.gone for head in store.heads.values() for each in head.members.values())
        assert not world.runtimes[0]._farewells


def test_a_dropped_account_has_no_member_in_the_file(tmp_path: Path) -> None:
    """The thread for the file no longer knows of it, and others do not see it as alive."""
    with world_of("sqlite", tmp_path) as world:
        accounts = [spend(world) for _ in range(ACCOUNTS)]
        worker = PROCESS.workers[world.store.path]
        assert len(worker._open) == ACCOUNTS
        world.advance(5)
        until(lambda: all(account.quiet() for each in accounts if (account := each()) is not None))
        sweep(world)
        until(lambda: not (worker._open or world.runtimes[0]._farewells))
        world.advance(12)
        # What brought the last answer may not have ended yet.
        until(lambda: gc.collect() >= 0 and alive(accounts) == 0)
        members = [each for account in read_members(world.store.path) for each in account.members]
        assert {each.state for each in members} <= {"gone"}
        assert worker._file.connection is None


def test_a_store_that_is_away_keeps_no_dropped_account(tmp_path: Path) -> None:
    """It holds nothing, so it need not leave: the store gives it up."""
    with world_of("single", tmp_path) as world:
        accounts = [spend(world)]
        world.advance(5)
        world.store.away = "the store is away"
        sweep(world)
        assert alive(accounts) == 0
        assert all(link.closed for link in world.store.links.values())
        world.store.away = None
        sent: Any = world.store.attempts
        world.advance(60)
        assert world.store.attempts == sent


def test_who_comes_later_is_another_member(tmp_path: Path) -> None:
    """The account is made again, and knows what the head knows."""
    with world_of("sqlite", tmp_path) as world:
        provider = FakeProvider(100, lag=300)
        with runtime_of(world.runtimes[0]):
            guard = Guard(provider, store=world.store)
        guard.acquire(30).settle()
        world.advance(5)
        with runtime_of(world.runtimes[1]):
            Guard(provider, store=world.store).balance()
        account = binding_of(guard).account
        account.retire()
        world.settle()
        del guard, account
        sweep(world)
        with runtime_of(world.runtimes[0]):
            again = Guard(provider, store=world.store)
        assert again.balance().credits == 100
        assert again.available == 70
