"""Processes that spend from one shared account, as `stores.py` measures them, and what they can be told to do.

Each process has two guards of accounts that look alike: one whose books are in its memory, and one whose
books it shares with the other processes, in a file or a server.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from budgetguard import Balance, Guard, InsufficientCredits
from budgetguard._engine.binding import binding_of
from budgetguard._engine.membership import Membership
from budgetguard._engine.shared_account import SharedAccount
from budgetguard.stores import RedisStore, SQLiteStore

PATIENCE = 120
MICRO = 10**6

_NUMBERS = count(1)

# Seconds from here until all members have heard that they begin.
_TOGETHER = 0.2


class Constant:
    """A provider that always tells the same balance; what was spent is known to the ledgers alone."""

    extra_credits = 0
    # As long as any run: no debit clears.
    lag = 600.0
    linger = 0.0

    def __init__(self, name: str, credits: int) -> None:
        self.name = self.fingerprint = name
        self.credits = credits

    async def fetch(self, _: Any) -> Balance:
        return Balance(credits=self.credits)


@dataclass(frozen=True, slots=True)
class Timed:
    """How many calls there were in `seconds`, and how long they took, in seconds, the shortest first."""

    times: list[float]
    seconds: float

    @property
    def calls(self) -> int:
        return len(self.times)

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds

    @property
    def mean(self) -> float:
        return statistics.fmean(self.times)

    def quantile(self, part: float) -> float:
        """The time that this part of all calls did not exceed."""
        return self.times[min(int(part * self.calls), self.calls - 1)]


def together(each: list[Timed]) -> Timed:
    """The calls of several processes in the same time."""
    times = sorted(one for timed in each for one in timed.times)
    return Timed(times, max(timed.seconds for timed in each))


def store_at(place: str) -> SQLiteStore | RedisStore:
    """The store in a file at a path, or in a server at a URL, behind which its prefix is written after a `|`.

    The timeouts are for a machine that is busy with other things.
    """
    if "://" in place:
        url, _, prefix = place.partition("|")
        return RedisStore(url, prefix=prefix, timeout=15)
    return SQLiteStore(place, timeout=60)


def plain(x: int) -> int:
    """What is guarded: nothing."""
    return x


class Guards:
    """The two guards of a process, and a function that each of them guards, for one credit a call."""

    def __init__(self, place: str, credits: int) -> None:
        self.memory = Guard(Constant("alone", credits), timeout=60)
        store = store_at(place)
        self.leased = Guard(Constant("shared", credits), store=store, timeout=PATIENCE)
        self.in_memory = self.memory.require_credits(min=1)(plain)
        self.in_lease = self.leased.require_credits(min=1)(plain)

    def call(self, *, leased: bool) -> Callable[[int], int]:
        """The function that one of them guards."""
        return self.in_lease if leased else self.in_memory

    @property
    def account(self) -> SharedAccount:
        """The shared one."""
        account = binding_of(self.leased).account
        assert isinstance(account, SharedAccount)
        return account

    @property
    def membership(self) -> Membership:
        return self.account.membership

    @property
    def messages(self) -> int:
        """How many messages this process has sent."""
        return self.membership._number


# What a member can be told to do. Each is given the member's guards first.


def begin(guards: Guards) -> None:
    """Know the balance, and have both fast paths open."""
    for call in (guards.in_memory, guards.in_lease):
        call(1)
        call(1)


def call_for(guards: Guards, at: float, seconds: float, *, leased: bool) -> Timed:
    """One call after the other, from a monotonic time on."""
    call, clock = guards.call(leased=leased), time.perf_counter
    times: list[float] = []
    _sleep_until(at)
    began = before = clock()
    while before - began < seconds:
        call(1)
        now = clock()
        times.append(now - before)
        before = now
    return Timed(sorted(times), before - began)


def call_at_rate(guards: Guards, at: float, seconds: float, rate: int) -> tuple[float, float]:
    """So many calls a second, as evenly as sleeping can; gives calls and messages a second."""
    call, before, calls = guards.in_lease, guards.messages, 0
    _sleep_until(at)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate) + 1
        while calls < due:
            call(1)
            calls += 1
        time.sleep(max(began + calls / rate - time.monotonic(), 0.0))
    return calls / passed, (guards.messages - before) / passed


def contend(guards: Guards, at: float, seconds: float, callers: int, inside: float) -> Timed:
    """So many threads take a credit, use it for a moment, and give it back, again and again."""
    times: list[float] = []
    _sleep_until(at)
    end = time.monotonic() + seconds

    def call() -> None:
        while (before := time.monotonic()) < end:
            hold = guards.leased.acquire(1, wait=PATIENCE)
            times.append(time.monotonic() - before)
            time.sleep(inside)
            hold.release()

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return Timed(sorted(times), seconds)


def stir(guards: Guards, want: int) -> int:
    """Send a message that wants so many credits of slack; gives the micro-credits that are in the lease.

    No calls that end want as much slack as could be lent, so the wish itself is replaced.
    """
    membership, before = guards.membership, guards.messages
    membership._want = lambda: want * MICRO  # type: ignore[method-assign]
    # Or it would give back its slack while others are told to take theirs, on a machine that is slow.
    membership._active_at = float("inf")
    membership.nudged = True
    guards.account.flush()
    end = time.monotonic() + PATIENCE
    while guards.messages == before or membership.under_way is not None:
        assert time.monotonic() < end
        time.sleep(0.0005)
    return int(guards.account.ledger.room)


@dataclass(frozen=True, slots=True)
class Rush:
    """How many callers were let in and refused, in how many seconds, and with how many messages."""

    admitted: int
    refused: int
    seconds: float
    messages: int


def rush(guards: Guards, at: float, callers: int) -> Rush:
    """So many callers at once, for a credit each."""
    del guards.membership._want  # type: ignore[attr-defined]
    before = guards.messages
    _sleep_until(at)
    began = time.monotonic()

    async def call() -> bool:
        try:
            async with guards.leased.require_credits(min=1):
                return True
        except InsufficientCredits:
            return False

    async def crowd() -> list[bool]:
        return await asyncio.gather(*(call() for _ in range(callers)))

    answers = asyncio.run(crowd())
    seconds = time.monotonic() - began
    return Rush(sum(answers), callers - sum(answers), seconds, guards.messages - before)


def rest(guards: Guards, seconds: float, *, held: bool) -> float:
    """Do nothing, with slack in the lease or with one open hold; gives processor seconds a second."""
    hold = guards.leased.acquire(1)
    if not held:
        hold.release()
    began, before = time.monotonic(), time.process_time()
    time.sleep(seconds)
    used = (time.process_time() - before) / (time.monotonic() - began)
    if held:
        hold.release()
    return used


def _sleep_until(at: float) -> None:
    time.sleep(max(at - time.monotonic(), 0.0))


# The parent's side.


class Members:
    """Processes with guards of one account in a store; each does what it is told, one thing at a time."""

    def __init__(self, connections: list[Connection]) -> None:
        self._connections = connections

    def all(self, act: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
        """Have all of them do something at once."""
        for connection in self._connections:
            connection.send((act, args, options))
        return [_answer(connection) for connection in self._connections]

    def together(self, act: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
        """The same for what begins at a given time."""
        return self.all(act, time.monotonic() + _TOGETHER, *args, **options)

    def one(self, number: int, act: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Have one of them do something."""
        self._connections[number].send((act, args, options))
        return _answer(self._connections[number])

    def __len__(self) -> int:
        return len(self._connections)


def _answer(connection: Connection) -> Any:
    assert connection.poll(PATIENCE), "a member does not answer"
    return connection.recv()


@contextmanager
def members(number: int, folder: Path, credits: int, url: str | None = None) -> Iterator[Members]:
    """That many new processes, with an account in a new file in that folder, or in the server at a URL."""
    spawn = get_context("spawn")
    which = next(_NUMBERS)
    place = str(folder / f"{which}.db") if url is None else f"{url}|{folder.name}-{which}"
    with ExitStack() as stack:
        connections = []
        for _ in range(number):
            here, there = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(there, place, credits), daemon=True)
            process.start()
            there.close()
            stack.callback(process.join, PATIENCE)
            connections.append(here)
        for each in connections:
            # Before any of them is waited for: callbacks run in reverse.
            stack.callback(each.close)
        group = Members(connections)
        group.all(begin)
        yield group


def _serve(connection: Connection, place: str, credits: int) -> None:
    guards = Guards(place, credits)
    with suppress(EOFError):
        while True:
            act, args, options = connection.recv()
            connection.send(act(guards, *args, **options))
