"""The interpreter exits at once, whatever the private loop is doing."""

import threading

import pytest
from interpreter import LONG, Script

from budgetguard import Guard
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock

HEAD = """
import atexit, contextlib, os, socket, sys, threading
from budgetguard._engine.binding import binding_of
from budgetguard import Guard, PreDev, BalanceUnavailable
from budgetguard.testing import FakeProvider
"""


def test_an_idle_loop(script: Script) -> None:
    """A program that made guarded calls ends in silence."""
    assert (
        script(
            HEAD
            + """
guard = Guard(FakeProvider(100))
guard.require_credits(min=10)(lambda: None)()
print(guard.available)
"""
        )
        == "90"
    )


@pytest.mark.parametrize("way", ["mark_exhausted()", "daemon thread"])
def test_a_fetch_that_hangs(script: Script, way: str) -> None:
    """A server that accepts and never answers does not keep the program."""
    start = {
        "mark_exhausted()": "guard.mark_exhausted()",
        "daemon thread": "threading.Thread(target=wait, daemon=True).start()",
    }[way]
    assert (
        script(
            HEAD
            + f"""
server = socket.create_server(("127.0.0.1", 0))
base_url = f"http://127.0.0.1:{{server.getsockname()[1]}}"
guard = Guard(PreDev("a-key-of-some-length", base_url=base_url), timeout=600)
def wait():
    with contextlib.suppress(BalanceUnavailable):
        guard.balance()
{start}
connection, _ = server.accept()
print(connection.recv(100).split()[1].decode())
connection.detach(), server.detach()
"""
        )
        == "/credits-balance"
    )


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_callable_that_hangs(script: Script, kind: str) -> None:
    """A balance function that never returns does not keep the program."""
    body = {
        "sync": "def balance():\n    asked.set()\n    threading.Event().wait(600)",
        "async": "async def balance():\n    import anyio\n    asked.set()\n    await anyio.sleep(600)",
    }[kind]
    assert (
        script(
            HEAD
            + f"""
asked = threading.Event()
{body}
guard = Guard(balance, timeout=600)
guard.mark_exhausted()
print(asked.wait(60))
"""
        )
        == "True"
    )


def test_a_name_that_is_not_resolved(script: Script) -> None:
    """A resolver that hangs does not keep the program."""
    assert (
        script(
            HEAD
            + """
asked = threading.Event()
def hang(*_, **__):
    asked.set()
    threading.Event().wait(60)
    os._exit(3)
socket.getaddrinfo = hang
guard = Guard(PreDev("a-key-of-some-length", base_url="https://example.invalid"), timeout=600)
guard.mark_exhausted()
print(asked.wait(60))
"""
        )
        == "True"
    )


def test_a_name_that_is_not_resolved_is_inside_the_deadline(script: Script) -> None:
    """A hanging name resolution is abandoned at `timeout`, and the caller gets an error."""
    assert (
        script(
            HEAD
            + """
def hang(*_, **__):
    threading.Event().wait(60)
    os._exit(3)
socket.getaddrinfo = hang
key = "a-key-of-some-length"
guard = Guard(PreDev(key, base_url="https://example.invalid"), timeout=0.2)
try:
    guard.balance()
except BalanceUnavailable as error:
    print(error.reason)
"""
        )
        == "no answer within 0.2 s"
    )


@pytest.mark.parametrize("used", [False, True], ids=["first use", "used before"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_guarded_calls_in_atexit(script: Script, order: str, used: bool) -> None:
    """A guarded call at exit is decided one way or the other; it neither hangs nor breaks."""
    first = "guard.balance()" if used else ""
    told = script(
        HEAD
        + f"""
guard = Guard(FakeProvider(100))
small = guard.require_credits(min=10)(lambda: None)
large = guard.require_credits(min=lambda: 20)(lambda: None)
def at_exit():
    for call in (small, large, small):
        try:
            call()
            print("ran")
        except BalanceUnavailable:
            print("unavailable")
{"atexit.register(at_exit)" if order == "before" else ""}
{first}
{"atexit.register(at_exit)" if order == "after" else ""}
"""
    ).split()
    assert len(told) == 3
    assert used is False or told == ["ran"] * 3


def test_an_open_generator_and_an_open_hold(script: Script) -> None:
    """What is open when the interpreter ends is dropped in silence."""
    assert (
        script(
            HEAD
            + """
guard = Guard(FakeProvider(100))
@guard.require_credits(min=10)
def steps():
    yield 1
    yield 2
open_steps = steps()
print(next(open_steps))
hold = guard.acquire(10)
cycle = [open_steps, hold]
cycle.append(cycle)
"""
        )
        == "1"
    )


def test_a_waiting_thread(script: Script) -> None:
    """A daemon thread that waits for credits does not keep the program."""
    assert (
        script(
            HEAD
            + """
guard = Guard(FakeProvider(100))
hold = guard.acquire(60)
started = threading.Event()
def wait():
    started.set()
    guard.acquire(60, wait=600)
threading.Thread(target=wait, daemon=True).start()
print(started.wait(60))
"""
        )
        == "True"
    )


RUNS = 30 if LONG else 6


def test_daemon_threads_that_wait_are_told_nothing(script: Script) -> None:
    """In every way there is to wait: no outage that never was is raised into them, nothing is printed.

    Several runs, since it depends on which thread is faster to its end.
    """
    for _ in range(RUNS):
        assert (
            script(
                HEAD
                + """
import asyncio, time
import anyio, trio

server = socket.create_server(("127.0.0.1", 0))
base_url = f"http://127.0.0.1:{server.getsockname()[1]}"
hanging = Guard(PreDev("a-key-of-some-length", base_url=base_url), timeout=600)
full = Guard(FakeProvider(100))
held = full.acquire(60)

@hanging.require_credits(min=1)
def decorated():
    raise AssertionError

def block():
    with hanging.require_credits(min=1):
        raise AssertionError

async def later():
    await hanging.aacquire(1)

ways = [
    hanging.balance,
    lambda: hanging.acquire(1),
    block,
    decorated,
    lambda: full.acquire(60, wait=600),
    lambda: asyncio.run(later()),
    lambda: trio.run(later),
]
for way in ways:
    threading.Thread(target=way, daemon=True).start()

def waiting():
    lines = [binding_of(guard).account.wait_queue for guard in (hanging, full)]
    return sum(waiter._waker is not None for line in lines for waiter in (*line.queue, *line.readers))

while waiting() < len(ways):
    time.sleep(0)
connection, _ = server.accept()
connection.recv(100)
connection.detach(), server.detach()
print("all wait")
""",
                # In -X dev, asyncio tells of its slow steps.
                flags=("-W", "error"),
            )
            == "all wait"
        )


def test_a_refresh_that_the_exit_breaks_off_is_not_told_of(script: Script) -> None:
    """A listener gets no event about a failure that did not happen."""
    assert (
        script(
            HEAD
            + """
server = socket.create_server(("127.0.0.1", 0))
base_url = f"http://127.0.0.1:{server.getsockname()[1]}"
tell = lambda event: print(event.kind)
guard = Guard(PreDev("a-key-of-some-length", base_url=base_url), timeout=600, on_event=tell)
threading.Thread(target=guard.balance, daemon=True).start()
connection, _ = server.accept()
connection.recv(100)
connection.detach(), server.detach()
print("the end")
"""
        )
        == "the end"
    )


def test_daemon_threads_that_go_on_asking_are_told_nothing(script: Script) -> None:
    """Also one that comes when the private loop has been stopped already."""
    for _ in range(RUNS):
        assert (
            script(
                HEAD
                + """
guard = Guard(FakeProvider(10**9), recheck_after=0)
rounds = threading.Semaphore(0)

def ask():
    while True:
        guard.balance(max_age=0)
        rounds.release()

for _ in range(5):
    threading.Thread(target=ask, daemon=True).start()
for _ in range(50):
    rounds.acquire()
print("asked")
"""
            )
            == "asked"
        )


def test_an_exit_handler_that_waits_is_told(script: Script) -> None:
    """The main thread continues: it can have no refresh any more, and gets an error at once."""
    assert (
        script(
            HEAD
            + """
server = socket.create_server(("127.0.0.1", 0))
base_url = f"http://127.0.0.1:{server.getsockname()[1]}"

def at_exit():
    try:
        guard.acquire(1, wait=600)
    except BalanceUnavailable as error:
        print(error.reason)
    server.detach()

atexit.register(at_exit)
guard = Guard(PreDev("a-key-of-some-length", base_url=base_url), timeout=600)
threading.Thread(target=guard.balance, daemon=True).start()
connection, _ = server.accept()
connection.recv(100)
connection.detach()
"""
        )
        == "the request could not be made (RuntimeError: the private event loop is stopped, because the interpreter is exiting)"
    )


def test_import_starts_nothing(script: Script) -> None:
    """Importing starts no thread, opens no file or socket, and loads no HTTP or async library."""
    assert (
        script(
            """
import os, sys, threading
before = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
import budgetguard
guard = budgetguard.Guard(lambda: 100)
guard.require_credits(min=1)(lambda: None)
budgetguard.GuardPool(lambda key: guard)
after = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
print([thread.name for thread in threading.enumerate()], before == after)
"""
        )
        == "['MainThread'] True"
    )
    assert script(
        """
import sys
import budgetguard
print([name for name in ("httpx", "anyio", "trio", "asyncio", "wrapt") if name in sys.modules])
"""
    ) in {"[]", "['asyncio']"}


def test_a_loop_is_closed_however_late_its_thread_ends(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stops it waits for a moment only; what is left open then would be found by nobody else."""
    guard = Guard(FakeProvider(100))
    guard.balance()
    runtime = binding_of(guard).account.runtime
    loop, thread = runtime._made["loop"], runtime._thread
    assert thread is not None
    blocked, go_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        assert go_on.wait(20)

    runtime.nudge(block)
    assert blocked.wait(20)
    monkeypatch.setattr("budgetguard._io.loop._EXIT_PATIENCE", 0)
    runtime.stop()
    assert not loop.is_closed()
    go_on.set()
    thread.join(20)
    assert loop.is_closed()
