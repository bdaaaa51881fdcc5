"""Nothing left to make a request with: callers get an error of their own at once, and nobody else does."""

import pytest
from interpreter import Script

HEAD = """
import asyncio, os, sys, threading
import budgetguard
from budgetguard._engine.binding import binding_of
from budgetguard._engine.binding import binding_of
from budgetguard import BalanceUnavailable, Guard, PreDev
from budgetguard.testing import FakeProvider

def told(call):
    try:
        return call()
    except BalanceUnavailable as error:
        assert type(error) is BalanceUnavailable and error.retryable
        assert error.retry_after is not None and error.retry_after < 0.01, error.retry_after
        return error.reason
"""

FILES = """
import resource
least, most = resource.getrlimit(resource.RLIMIT_NOFILE)

def no_files():
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, most))

def files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
"""

# In -X dev, asyncio tells of a caller's slow step, and an import is one.
QUIET = ("-W", "error")

LOADED = """
import budgetguard._io.connections, budgetguard._io.http, budgetguard._io.refresh_attempts
"""

resource = pytest.importorskip("resource")


@pytest.mark.parametrize("loaded", [False, True], ids=["nothing loaded", "all loaded"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_no_file_is_left_for_the_first_refresh(script: Script, loaded: bool, way: str) -> None:
    """Not for an import, nor for the loop; as soon as there is one, the next caller is admitted."""
    call = {
        "sync": "amount(guard.acquire(1))",
        # A loop for the caller itself needs files, too.
        "async": "amount(loop.run_until_complete(guard.aacquire(1)))",
    }[way]
    assert script(
        HEAD
        + FILES
        + (LOADED if loaded else "")
        + f"""
def amount(hold):
    hold.release()
    return hold.amount

guard = Guard(FakeProvider(100))
loop = asyncio.new_event_loop()
no_files()
first, second = told(lambda: {call}), told(lambda: {call})
files()
print(first)
print(second == first, told(lambda: {call}))
loop.close()
""",
        flags=QUIET,
    ).split("\n") == [
        "the request could not be made (OSError: [Errno 24] Too many open files)",
        "True 1",
    ]


def test_no_file_is_left_for_a_connection(script: Script) -> None:
    """The loop runs, and the provider cannot be reached from this machine: it is not said to be down."""
    assert script(
        HEAD
        + FILES
        + LOADED
        + """
import socket
server = socket.create_server(("127.0.0.1", 0))
guard = Guard(PreDev("a-key-of-some-length", base_url=f"http://127.0.0.1:{server.getsockname()[1]}"))
Guard(FakeProvider(100)).balance()

# Certificates are read before.
import httpx
contexts = [httpx.create_ssl_context(trust_env=False)]
httpx.create_ssl_context = lambda **_: contexts[0]

def serve():
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        body = b'{"success": true, "creditsRemaining": 100}'
        connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body)

no_files()
first = told(guard.balance)
files()
print(first)
server_thread = threading.Thread(target=serve)
server_thread.start()
print(told(guard.balance).credits)
server_thread.join()
server.close()
"""
    ).split("\n") == [
        "the request could not be made: this machine has run out of something (OSError: Too many open files)",
        "100",
    ]


@pytest.mark.parametrize("what", ["loop", "function"])
def test_no_thread_is_left(script: Script, what: str) -> None:
    """For the private loop, or for a balance function, which runs in one of its own."""
    provider = {"loop": "FakeProvider(100)", "function": "lambda: 100"}[what]
    first = {"loop": "", "function": "Guard(FakeProvider(100)).balance()"}[what]
    words = {
        "loop": "the request could not be made (RuntimeError: can't start new thread)",
        "function": "the request could not be made: this machine has no thread left (RuntimeError: can't start new thread)",
    }[what]
    assert script(
        HEAD
        + f"""
guard = Guard({provider})
{first}
start = threading.Thread.start

def none_left(self):
    raise RuntimeError("can't start new thread")

threading.Thread.start = none_left
print(told(guard.balance))
print(told(lambda: guard.acquire(1)))
threading.Thread.start = start
print(told(guard.balance).credits)
"""
    ).split("\n") == [words, words, "100"]


@pytest.mark.parametrize("where", ["selectors.DefaultSelector", "socket.socketpair"])
def test_no_memory_is_left(script: Script, where: str) -> None:
    """For the loop, and half of one says nothing when it goes."""
    module = where.split(".", maxsplit=1)[0]
    assert script(
        HEAD
        + f"""
import gc, {module}
guard = Guard(FakeProvider(100))
real = {where}

def none_left(*_):
    raise MemoryError

{where} = none_left
print(told(guard.balance))
{where} = real
gc.collect()
print(told(guard.balance).credits)
"""
    ).split("\n") == ["the request could not be made (MemoryError)", "100"]


@pytest.mark.parametrize("name", ["httpx", "anyio"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_library_that_does_not_import(script: Script, name: str, way: str) -> None:
    """It is named, in the caller's own error; once it can be imported, the next caller is admitted."""
    call = {"sync": "guard.acquire(1).amount", "async": "asyncio.run(guard.aacquire(1)).amount"}[
        way
    ]
    words = script(
        HEAD
        + f"""
guard = Guard(PreDev("a-key-of-some-length", base_url="http://127.0.0.1:9"))
sys.modules["{name}"] = None
print(told(lambda: {call}))
print(told(lambda: {call}))
""",
        flags=QUIET,
    ).split("\n")
    assert words[0] == words[1]
    assert f"import of {name} halted" in words[0]


def test_who_waits_for_credits_does_not_ask_all_the_time(script: Script) -> None:
    """Where no refresh can be made, the queue tries as often as it would refresh."""
    assert script(
        HEAD
        + """
guard = Guard(FakeProvider(100), recheck_after=3600)
hold = guard.acquire(60)
tries = []

def none_left(work):
    tries.append(work)
    raise RuntimeError("can't start new thread")

binding_of(guard).account.runtime.submit = none_left
waiter = threading.Thread(target=lambda: guard.acquire(60, wait=600).release())
waiter.start()
while not binding_of(guard).account.wait_queue.queue:
    pass
for _ in range(100):
    binding_of(guard).account.overdue()
hold.release()
waiter.join()
print(len(tries))
"""
    ) in {"0", "1"}
