"""The last credits of an account, nearly all of them slack of many processes, when everybody wants one at once."""

import asyncio
import threading
from collections import Counter
from typing import Any

from in_memory import MemoryStore
from member_process import until
from worlds import World

from budgetguard import Guard, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.testing.clock import settle

PROCESSES, CALLERS, LEFT, STRANDED = 8, 125, 500, 470
ROUND_TRIP = 0.01
MICRO = 10**6


class Crowd(threading.Thread):
    """The callers of one process, in a loop of their own, for a credit each."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(daemon=True)
        self.guard = guard
        self.answers: list[bool] = []

    async def call(self) -> None:
        """Whether the guard lets a caller in, who does nothing there."""
        try:
            async with self.guard.require_credits(min=1):
                self.answers.append(True)
        except InsufficientCredits:
            self.answers.append(False)

    def run(self) -> None:
        """All of them at once."""

        async def together() -> None:
            await asyncio.gather(*(self.call() for _ in range(CALLERS)))

        asyncio.run(together())


def strand(world: World) -> None:
    """Lend nearly all credits as slack, though no calls want so many."""
    accounts: list[Any] = world.accounts
    for account in accounts:
        account.membership._want = lambda: LEFT * MICRO
    while sum(account.ledger.room for account in accounts) < STRANDED * MICRO:
        world.clock.advance(0.05)
        for account in accounts:
            account.membership.nudged = True
            account.flush()
            world.settle()
    for account in accounts:
        del account.membership._want


def test_each_is_given_away_once_and_for_few_messages() -> None:
    """Whoever asks first; and each process has its answers after four messages at most."""
    clock = HandClock()
    store = MemoryStore(clock)
    world = World(clock, store, PROCESSES)
    try:
        # Nothing that is spent is cleared by a balance while this lasts.
        world.open(FakeProvider(LEFT + PROCESSES, lag=6000, linger=6000), sole_spender=True)
        for guard in world.guards:
            guard.acquire(1).settle()
        strand(world)
        store.messages.clear()
        # From here on nobody waits until a message has arrived: that is for the clock to say.
        store.takes, store.hangs = ROUND_TRIP, True
        crowds = [Crowd(guard) for guard in world.guards]
        for crowd in crowds:
            crowd.start()
        queues = [account.wait_queue.queue for account in world.accounts]

        def answered() -> int:
            return sum(len(crowd.answers) for crowd in crowds)

        until(lambda: answered() + sum(map(len, queues)) >= PROCESSES * CALLERS)
        for _ in range(200):
            for runtime in world.runtimes:
                settle(runtime)
            if answered() == PROCESSES * CALLERS:
                break
            clock.advance(ROUND_TRIP)
        messages = Counter(message.member for message in store.messages)
        admitted = sum(crowd.answers.count(True) for crowd in crowds)
        assert (admitted, answered()) == (LEFT, PROCESSES * CALLERS)
        assert max(messages.values()) <= 4
    finally:
        world.close()
