"""How these tests set a scene: refreshes that take their time, concurrent callers, and callers in threads."""

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import httpx

from budgetguard import Balance, Guard
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock

_TURNS = 200_000
_PATIENCE = 20.0


class Slow(FakeProvider):
    """Reads the account when it is asked, and answers `takes` seconds of the hand clock later."""

    takes: float = 0

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        """The balance as it stood when it was asked for."""
        balance = await super().fetch(client)
        if self.takes:
            await anyio.sleep(self.takes)
        return balance


class Caller(threading.Thread):
    """One caller in a thread of its own."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._outcome: object = None
        self.start()

    def run(self) -> None:
        """Call, and remember what came of it."""
        try:
            self._outcome = self._work()
        except BaseException as error:
            self._outcome = error

    def outcome(self) -> Any:
        """What the call returned or raised, once it has."""
        self.join(_PATIENCE)
        assert not self.is_alive(), "the caller is still waiting"
        return self._outcome


def waiting(guard: Guard) -> int:
    """How many callers wait to be admitted; there is no public view of them.

    Who has joined the queue may still have a refresh to start; who can be woken has nothing left to do.
    """
    return sum(
        waiter._waker is not None for waiter in list(binding_of(guard).account.wait_queue.queue)
    )


def until(true: Callable[[], bool]) -> None:
    """Let other threads run until `true()`; no time passes for that."""
    for _ in range(_TURNS):
        if true():
            return
        time.sleep(0)
    msg = "it never came true"
    raise AssertionError(msg)


def under_way(clock: HandClock, provider: FakeProvider, requests: int) -> None:
    """Let the refresh that is the `requests`-th one begin, before time is turned on."""
    until(lambda: provider.requests == requests)
    clock.advance(0)


def refreshing(clock: HandClock, guard: Guard) -> None:
    """Let the balance grow stale, and the refresh behind it begin."""
    before = guard.provider.requests
    clock.advance(301)
    guard.acquire(1).release()
    under_way(clock, guard.provider, before + 1)


def queue_up(guard: Guard, works: Iterable[Callable[[], object]]) -> list[Caller]:
    """Start callers in threads; each of them waits before the next one starts."""
    callers = []
    for work in works:
        before = waiting(guard)
        callers.append(Caller(work))
        until(lambda: waiting(guard) > before)  # noqa: B023  called at once
    return callers


def start_together(guard: Guard, work: Callable[[], object], callers: int) -> list[Caller]:
    """Start callers in threads at the same time, and return once all of them wait."""
    together = [Caller(work) for _ in range(callers)]
    until(lambda: waiting(guard) == callers)
    return together


async def let_run() -> None:
    """Let all tasks of this loop run until they wait for something."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


def all_at_once(pool: ThreadPoolExecutor, work: Callable[[], object], callers: int) -> list[object]:
    """What comes of `callers` calls in as many threads that start together."""
    start = threading.Barrier(callers)

    def call() -> object:
        start.wait(_PATIENCE)
        try:
            return work()
        except Exception as error:
            return error

    return [call.result(_PATIENCE) for call in [pool.submit(call) for _ in range(callers)]]


def answered(status: int, **headers: str) -> httpx.HTTPStatusError:
    """The error of a provider whose fetch uses `raise_for_status`."""
    request = httpx.Request("GET", "https://api.example.com/balance")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, headers=named, request=request)
    return httpx.HTTPStatusError(f"{status}", request=request, response=response)


def calls(work: Callable[[], object]) -> int:
    """How many Python functions are called in this thread, but for the finalizers of older objects."""
    count = 0
    gc.collect()
    gc.disable()

    def note(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count
