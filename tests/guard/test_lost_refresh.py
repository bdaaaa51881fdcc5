"""A refresh that was lost, to an interrupt or to a freeze of the process, begins anew at once."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from decimal import Decimal
from typing import Any

import anyio
import anyio.to_thread
import pytest
from staging import Caller, refreshing, until, waiting

from budgetguard import Balance, BalanceUnavailable, Event, Guard
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock

FREEZE = 60.0


class Hanging(FakeProvider):
    """A provider whose first answer, or each answer it is told to withhold, never arrives."""

    hangs = 1

    async def fetch(self, client: Any) -> Balance:
        """The balance, unless this is one of those that hang."""
        if self.requests < self.hangs:
            self.requests += 1
            await anyio.sleep_forever()
        return await super().fetch(client)


def test_a_lost_refresh_is_replaced(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun but never launched, as after an interrupt: its waiters get an error, the next caller starts it."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    launched: list[object] = []
    with monkeypatch.context() as interrupted:
        interrupted.setattr(binding_of(guard).account.runtime, "submit", launched.append)
        caller = Caller(lambda: guard.acquire(1))
        until(lambda: waiting(guard) == 1)
        clock.advance(10)
        assert isinstance(caller.outcome(), BalanceUnavailable)
    assert len(launched) == 1
    clock.advance(1.5)
    guard.acquire(1).release()
    assert provider.requests == 1


def in_flight(clock: HandClock, provider: FakeProvider) -> None:
    """Let the first refresh begin."""
    until(lambda: provider.requests == 1)
    clock.advance(0)


@pytest.mark.parametrize("way", ["acquire", "wait", "balance", "block", "decorated"])
def test_who_waits_through_a_freeze_is_served_after_it(clock: HandClock, way: str) -> None:
    """Its own time ran out while the process stood still, the provider is well: it waits for the next."""
    provider, events = Hanging(100), list[Event]()
    guard = Guard(provider, on_event=events.append)
    ways = {
        "acquire": lambda: guard.acquire(10).amount,
        "wait": lambda: guard.acquire(10, wait=5).amount,
        "balance": lambda: guard.balance().credits,
        "block": lambda: guard.require_credits(min=10).__enter__().amount,
        "decorated": guard.require_credits(min=10)(lambda: 10),
    }
    caller = Caller(ways[way])
    in_flight(clock, provider)
    clock.advance(FREEZE)
    assert caller.outcome() in {10, 100}
    assert provider.requests == 2
    assert "refresh_failed" not in {event.kind for event in events}


class Stopped:
    """A plain balance function whose first call starts before a freeze and returns after it."""

    def __init__(self) -> None:
        self.calls = 0
        self.thawed = threading.Event()

    def __call__(self) -> int:
        """What there was at the time of the call, or now."""
        self.calls += 1
        if self.calls > 1:
            return 100
        self.thawed.wait(20)
        return 1_000


@pytest.mark.parametrize("way", ["acquire", "balance"])
def test_a_plain_function_that_was_frozen_is_called_again(clock: HandClock, way: str) -> None:
    """Once it has returned: what it says is from before the freeze, and is not used."""
    function = Stopped()
    guard = Guard(function, lag=0)
    ways = {"acquire": lambda: guard.acquire(10).amount, "balance": lambda: guard.balance().credits}
    caller = Caller(ways[way])
    until(lambda: function.calls == 1)
    clock.advance(0)
    clock.advance(FREEZE)
    assert caller.is_alive()
    function.thawed.set()
    assert caller.outcome() in {10, 100}
    assert function.calls == 2
    assert guard.balance().credits == 100


def test_a_plain_function_that_hangs_after_a_freeze_is_waited_for_as_long_as_any(
    clock: HandClock,
) -> None:
    """A waiter gets the error at the deadline of the new refresh."""
    function = Stopped()
    guard = Guard(function)
    caller = Caller(lambda: guard.acquire(10))
    until(lambda: function.calls == 1)
    clock.advance(0)
    clock.advance(FREEZE)
    clock.advance(10)
    assert isinstance(caller.outcome(), BalanceUnavailable)
    assert function.calls == 1
    function.thawed.set()


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["aacquire", "abalance", "block", "decorated"])
async def test_who_awaits_through_a_freeze_is_served_after_it(clock: HandClock, way: str) -> None:
    """The same on an event loop that stood still as well."""
    provider = Hanging(100)
    guard = Guard(provider)
    done: list[object] = []

    @guard.require_credits(min=10)
    async def decorated() -> int:
        return 10

    async def call() -> None:
        match way:
            case "aacquire":
                done.append((await guard.aacquire(10)).amount)
            case "abalance":
                done.append((await guard.abalance()).credits)
            case "block":
                async with guard.require_credits(min=10) as hold:
                    done.append(hold.amount)
            case _:
                done.append(await decorated())

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.to_thread.run_sync(in_flight, clock, provider)
        await anyio.to_thread.run_sync(clock.advance, FREEZE)
    assert done in ([10], [100])
    assert provider.requests == 2


def test_who_comes_after_a_freeze_waits_for_the_refresh(clock: HandClock) -> None:
    """Also where the refresh ran behind a balance that is too old by now."""
    provider = Hanging(100)
    provider.hangs = 0
    guard = Guard(provider)
    guard.balance()
    provider.hangs = 2
    refreshing(clock, guard)
    clock._mono += 3600
    clock._wall += 3600
    guard.acquire(10).release()
    assert provider.requests == 3


def test_every_freeze_is_forgiven(clock: HandClock) -> None:
    """A function that is frozen after each of its invocations loses one refresh each time."""
    provider = Hanging(100)
    provider.hangs = 4
    guard = Guard(provider)
    caller = Caller(lambda: guard.acquire(10).amount)
    for requests in range(1, 5):
        until(lambda: provider.requests == requests)  # noqa: B023  called at once
        clock.advance(FREEZE)
    assert caller.outcome() == 10


def test_a_provider_that_hangs_is_no_freeze(clock: HandClock) -> None:
    """A refresh that ends at its deadline is a failure, and the provider is left alone."""
    provider = Hanging(100)
    guard = Guard(provider)
    caller = Caller(lambda: guard.acquire(10))
    in_flight(clock, provider)
    clock.advance(10)
    error = caller.outcome()
    assert isinstance(error, BalanceUnavailable)
    assert error.reason == "no answer within 10 s"
    assert provider.requests == 1


def test_a_loop_that_is_kept_busy_makes_nobody_wait_for_longer(clock: HandClock) -> None:
    """A waiter that was awake at its deadline gets its error then, whatever the refresh brings."""
    asked, busy = threading.Event(), threading.Event()

    async def balance() -> int:
        asked.set()
        assert busy.wait(20)
        return 100

    def later(seconds: float) -> None:
        clock._mono += seconds
        clock._wall += seconds

    guard = Guard(balance)
    first = Caller(lambda: guard.acquire(10))
    assert asked.wait(20)
    try:
        later(5)
        second = Caller(lambda: guard.acquire(10))
        until(lambda: waiting(guard) == 2)
        later(5.1)
        assert isinstance(first.outcome(), BalanceUnavailable)
        later(1.5)
        # The refresh is lost, and another one is due on a loop that is busy.
        binding_of(guard).account.overdue()
        later(3.5)
        assert isinstance(second.outcome(), BalanceUnavailable)
    finally:
        busy.set()


def test_a_late_answer_is_taken_all_the_same(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came right before the deadline, and the loop was late to see it."""
    provider = Hanging(100)
    guard = Guard(provider)
    launched = list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(binding_of(guard).account.runtime, "submit", launched.append)
        caller = Caller(lambda: guard.acquire(10).amount)
        until(lambda: len(launched) == 1)
        refresh = binding_of(guard).account._schedule._refresh
        clock._mono += FREEZE
        at = clock.now()
        snapshot = BalanceSnapshot.of(Balance(credits=Decimal(50)).sent_at(at, clock), at)
        binding_of(guard).account._change(binding_of(guard).account._land, refresh, snapshot)
        assert caller.outcome() == 10
        assert guard.available == 40


FROZEN = """
import sys, threading
from budgetguard import Guard, PreDev

guard = Guard(PreDev("a-key-of-some-length", base_url=sys.argv[1]), timeout=2)
while not guard.available:
    try:
        guard.balance()
    except Exception:  # on a machine that is busy enough
        pass

def wait():
    print("in", guard.balance(max_age=0).credits, flush=True)

waiter = threading.Thread(target=wait)
waiter.start()
waiter.join()
print("then", guard.balance(max_age=0).credits, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no way to stop a process")
def test_a_process_that_was_stopped() -> None:
    """A real process with a real request in flight: its waiter and the next caller are answered."""
    frozen = threading.Event()

    def serve(connection: socket.socket) -> None:
        nonlocal requests
        with connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                requests += 1
                body = b'{"success": true, "creditsRemaining": %d}' % requests
                if requests == 2:
                    # It has all it needs for an answer, and its process stands still.
                    os.kill(program.pid, signal.SIGSTOP)
                    frozen.set()
                    connection.recv(65536)
                    return
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
                )

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    requests = 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", FROZEN, url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            try:
                threading.Thread(target=accept, daemon=True).start()
                assert frozen.wait(60)
                # Longer than its deadline, on a clock that runs on while it stands still.
                assert not threading.Event().wait(3.5)
                os.kill(program.pid, signal.SIGCONT)
                told, words = program.communicate(timeout=60)
            finally:
                program.kill()
        server.shutdown(socket.SHUT_RDWR)
    assert words == ""
    assert [line.split()[0] for line in told.splitlines()] == ["in", "then"]
    assert int(told.split()[1]) > 2
