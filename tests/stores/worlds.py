"""The worlds in which the same scenarios run: without a store, and with members that take turns."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import redis_servers
from in_memory import MemoryStore

from budgetguard import Event, Guard, InsufficientCredits
from budgetguard._engine.account import Account
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of
from budgetguard._engine.shared_account import SharedAccount
from budgetguard._io.loop import Runtime
from budgetguard.stores import SQLiteStore, _transactions
from budgetguard.stores.redis import RedisStore
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.testing.clock import settle

# After so long all members have told what their calls did.
BEATS = 0.25
# What a world may need in real seconds until nobody has anything left to do.
_PATIENCE = 10.0
_NUMBERS = count(1)


class World:
    """An account, and one guard for each member that spends from it; all go by the same clock.

    `events` has what the guards told of calls, in order; `told` has what they told of the account.
    """

    def __init__(self, clock: HandClock, store: Any, members: int) -> None:
        self.clock = clock
        self.store = store
        self.events: list[Event] = []
        self.told: list[Event] = []
        self.guards: list[Guard] = []
        self._made: set[Account] = set()
        self.runtimes = [Runtime(clock) for _ in range(members)]
        for runtime in self.runtimes:
            # The longest pause each time, so that no test depends on a draw.
            runtime.jitter = max
        clock.on_turn(self.settle)
        self._turns: Iterator[Guard] = iter(())

    def open(self, provider: Any = None, *, cold: bool = False, **settings: Any) -> FakeProvider:
        """Make a guard for each member; returns the provider. Unless `cold`, all know the balance."""
        provider = FakeProvider(100, lag=7, linger=300) if provider is None else provider
        self.guards = self.more(provider, **settings)
        self._turns = cycle(self.guards)
        if not cold:
            for guard in self.guards:
                guard.balance()
        return provider  # type: ignore[no-any-return]

    def more(self, provider: Any, **settings: Any) -> list[Guard]:
        """One more guard for each member."""
        guards = []
        for runtime in self.runtimes:
            with runtime_of(runtime):
                guards.append(Guard(provider, store=self.store, on_event=self._hear, **settings))
                self._made.add(binding_of(guards[-1]).account)
        return guards

    def turn(self) -> Guard:
        """The guard whose turn it is, once it knows what the others did."""
        self.advance(BEATS)
        guard = next(self._turns)
        self.hear(guard)
        return guard

    def hear(self, guard: Guard) -> None:
        """Have a member ask its head for news, as it does by itself as long as it has calls or a lease."""
        account = binding_of(guard).account
        if isinstance(account, SharedAccount) and account.membership.joined:
            account.membership.nudged = True
            account.flush()
            self.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass for all members, once what is under way has arrived."""
        self.settle()
        if seconds > 2 * BEATS:
            self.clock.advance(BEATS)
            seconds -= BEATS
        self.clock.advance(seconds)

    def all_hear(self) -> None:
        """Have all members know what the others did."""
        self.advance(BEATS)
        for guard in self.guards:
            self.hear(guard)

    def rest(self, seconds: float) -> None:
        """Let so much time pass that members may have been given up, and say anew what was charged."""
        self.advance(seconds)
        self.advance(6)

    def settle(self) -> None:
        """Wait until no member has anything left to do at this time."""
        deadline = time.monotonic() + _PATIENCE
        calm = 0
        while calm < 2 and time.monotonic() < deadline:
            for runtime in self.runtimes:
                settle(runtime)
            hangs = getattr(self.store, "hangs", False)
            calm = 0 if not hangs and any(map(_busy, self.accounts)) else calm + 1

    @property
    def accounts(self) -> list[Account]:
        """Each member's side of the account."""
        return [binding_of(guard).account for guard in self.guards]

    @property
    def shared(self) -> bool:
        """Whether there is a store."""
        return self.store is not None

    def kinds(self, *but: str) -> list[str]:
        """What was told of calls so far, which is then forgotten."""
        kinds = [event.kind for event in self.events if event.kind not in but]
        self.events.clear()
        return kinds

    def _hear(self, event: Event) -> None:
        (self.told if event.operation is None else self.events).append(event)

    def close(self) -> None:
        """End the members' loops, once what is under way has arrived: their time stands still from now on."""
        self.settle()
        for runtime in self.runtimes:
            runtime.stop()
        for account in self._made:
            if isinstance(account, SharedAccount) and account._link is not None:
                account._link.close()


def _busy(account: Account) -> bool:
    if not isinstance(account, SharedAccount):
        return False
    return account.membership.under_way is not None and account.ledger.away is None


def _no_store(_: HandClock, __: Path) -> Any:
    return None


def _memory(clock: HandClock, _: Path) -> Any:
    return MemoryStore(clock)


def _memory_that_expires(clock: HandClock, _: Path) -> Any:
    return MemoryStore(clock, expires=True)


def _sqlite(_: HandClock, folder: Path) -> Any:
    return SQLiteStore(folder / "credits.db")


class ClockedRedisStore(RedisStore):
    """A store whose server goes by a test's clock."""

    clock: HandClock

    def options(self) -> str:
        """The server's time is the test's."""
        return json.dumps({"clock": self.clock.monotonic()})


def _redis(clock: HandClock, folder: Path) -> Any:
    redis_servers.driver()
    store = ClockedRedisStore(
        f"redis://127.0.0.1:{redis_servers.redis_server()}", prefix=f"test-{next(_NUMBERS)}"
    )
    store.clock = clock
    return store


WORLDS: dict[str, tuple[Callable[[HandClock, Path], Any], int]] = {
    "alone": (_no_store, 1),
    "single": (_memory, 1),
    "pair": (_memory, 2),
    "trio": (_memory_that_expires, 3),
    "sqlite": (_sqlite, 2),
}
"""Names, stores and numbers of members."""

if os.environ.get("BUDGETGUARD_REDIS") == "1":
    # Only on request, until the store is public: a hint that is lost hangs where the clock stands still.
    WORLDS["redis"] = (_redis, 2)


@contextmanager
def world_of(name: str, folder: Path) -> Iterator[World]:
    """One of these worlds, whose time a test turns on."""
    make, members = WORLDS[name]
    clock = HandClock()
    before = _transactions.since_boot
    with ExitStack() as undo:
        _transactions.since_boot = clock.monotonic
        undo.callback(setattr, _transactions, "since_boot", before)
        world = World(clock, make(clock, folder), members)
        undo.callback(world.close)
        yield world


def refused(guard: Guard, amount: Any, **options: Any) -> InsufficientCredits:
    """The refusal of a call that needs `amount`."""
    try:
        guard.acquire(amount, **options)
    except InsufficientCredits as error:
        return error
    msg = f"{amount} credits were granted"
    raise AssertionError(msg)
