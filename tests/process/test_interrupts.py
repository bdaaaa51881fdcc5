"""Ctrl-C at any moment of a call whose cost is constant leaves neither hold nor lock behind."""

import signal
from typing import Any

import pytest
from interpreter import STRICT, Script

from budgetguard import Guard
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this platform")
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_real_signals(script: Script, kind: str) -> None:
    """A thousand interrupts at random moments: afterwards all credits can be had again."""
    script(
        f"""
import faulthandler, logging, random, signal
from budgetguard import Guard
from budgetguard.testing import FakeProvider

faulthandler.dump_traceback_later(80, exit=True)
logging.getLogger("budgetguard").setLevel(logging.ERROR)  # of holds that are kept
guard = Guard(FakeProvider(10**9, lag=0, linger=0), fresh_for=10**6, stale_for=10**6)

@guard.require_credits(min=1)
def plain():
    return None

@guard.require_credits(min=1)
async def later():
    return None

def coroutine():
    try:
        later().send(None)
    except StopIteration:
        pass

def interrupt(*_):
    raise KeyboardInterrupt

choose = random.Random(1)
guard.balance()
work = {kind}
work(), work()
signal.signal(signal.SIGALRM, interrupt)
interrupted = 0
while interrupted < 1_000:
    try:
        signal.setitimer(signal.ITIMER_REAL, choose.uniform(2e-6, 2e-4))
        while True:
            work()
    except KeyboardInterrupt:
        interrupted += 1
guard.balance(max_age=0)
guard.balance(max_age=0)
# A call that was interrupted is kept until a balance requested later; none is held for good.
guard.acquire(10**9).release()
assert guard.available == 10**9, guard.available
""",
        # Interrupted before its first step, a coroutine was never awaited.
        flags=(*STRICT, "-W", "ignore::RuntimeWarning"),
        # Where coverage is measured: its own lock is lost to an interrupt, and then it hangs.
        COVERAGE_PROCESS_CONFIG="",
    )


@pytest.mark.parametrize("started", [True, False], ids=["started", "not yet started"])
@pytest.mark.parametrize("way", ["decorated", "block", "acquire", "aacquire"])
def test_an_interrupt_where_the_refresh_is_started(
    way: str, started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's own thread starts its refresh, and may be interrupted there: nothing remains held.

    The refresh is made all the same, once.
    """
    provider = FakeProvider(100)
    guard = Guard(provider)
    submit = binding_of(guard).account.runtime.submit
    interrupts = iter([True])

    def interrupted(work: Any) -> None:
        come = next(interrupts, False)
        if started or not come:
            submit(work)
        if come:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(binding_of(guard).account.runtime, "submit", interrupted)
        match way:
            case "decorated":
                guard.require_credits(min=10)(lambda: None)()
            case "block":
                guard.require_credits(min=10).__enter__()
            case "acquire":
                guard.acquire(10)
            case "aacquire":
                guard.aacquire(10).send(None)
    assert guard.balance().credits == guard.available == 100
    assert provider.requests == 1


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads")
def test_an_interrupt_that_does_not_end_the_wait_is_heard(script: Script) -> None:
    """Another thread was given the signal: the one that waits for a refresh is not woken by it."""
    script("""
import signal, sys, threading, time
from budgetguard import Guard
from budgetguard._engine import waiters as waiting

never = threading.Event()
guard = Guard(never.wait, timeout=3600)
signal.signal(signal.SIGINT, signal.default_int_handler)
main = threading.main_thread().ident

def where():
    frame = sys._current_frames()[main]
    return frame.f_code.co_filename, frame.f_code.co_name, frame.f_lasti

def interrupt():
    # In the lock's wait is who was given many turns and is where it was.
    still = 0
    while still < 20:
        before = where()
        time.sleep(0.001)
        is_waiting = before[0] == waiting.__file__ and before[1] == "wait"
        still = still + 1 if is_waiting and where() == before else 0
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    guard.acquire(1)
except KeyboardInterrupt:
    never.set()
else:
    raise AssertionError
""")


def test_an_interrupt_as_the_refresh_goes_out(script: Script) -> None:
    """The same by real signals: three hundred that arrive when the provider has the request."""
    script(
        """
import signal, socket, threading
from budgetguard import Guard, PreDev

server = socket.create_server(("127.0.0.1", 0))
base_url = f"http://127.0.0.1:{server.getsockname()[1]}"
body = b'{"success": true, "creditsRemaining": 100}'
reply = b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body
interrupted = threading.Semaphore(0)
main = threading.get_ident()

def serve():
    # Each account has a connection of its own.
    for _ in range(300):
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            signal.pthread_kill(main, signal.SIGINT)
            interrupted.acquire()
            connection.sendall(reply)

threading.Thread(target=serve, daemon=True).start()
left = 0
for number in range(300):
    guard = Guard(PreDev(f"a-key-of-some-length-{number}", base_url=base_url), timeout=60)
    try:
        guard.require_credits(min=10)(lambda: None)()
    except KeyboardInterrupt:
        pass
    interrupted.release()
    guard.balance()
    left += guard.available != 100
assert left == 0, left
server.close()
"""
    )


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this platform")
def test_a_handler_that_uses_the_guard(script: Script) -> None:
    """A thousand real signals at random moments, whose handler does all there is: nothing hangs.

    What it cannot do at that moment it is told, and what it ends is ended.
    """
    script(
        """
import faulthandler, random, signal, sys, threading
from budgetguard._engine.binding import binding_of
from budgetguard import Guard, GuardPool
from budgetguard.testing import FakeProvider

faulthandler.dump_traceback_later(80, exit=True)
# A thread that holds the GIL gives it up after this many seconds. With the usual 5 ms, each lock
# that the other thread has would cost the main thread 5 ms, some ten thousand times.
sys.setswitchinterval(1e-5)
provider = FakeProvider(10**9, lag=0, linger=0)
guard = Guard(provider, recheck_after=0)
pool = GuardPool(lambda key: Guard(provider))

@guard.require_credits(min=1)
def work():
    return None

@guard.require_credits(min=lambda: 1)
def slowly():
    return None

holds, refused = [], 0

def use(*_):
    global refused
    assert guard.available is not None
    if holds:
        holds.pop().release()
    for call in (work, slowly, lambda: pool["known"], lambda: guard.balance(max_age=60)):
        try:
            call()
        except RuntimeError as error:
            assert "interrupted budgetguard" in str(error), error
            refused += 1
    Guard(provider).close()

def go_on():
    # Another thread, at the same locks.
    while not done.is_set():
        slowly()

guard.balance()
pool["known"]
done = threading.Event()
other = threading.Thread(target=go_on)
other.start()
choose = random.Random(1)
signal.signal(signal.SIGALRM, use)
came = 0
while came < 1_000:
    holds.append(guard.acquire(1))
    signal.setitimer(signal.ITIMER_REAL, choose.uniform(2e-6, 2e-4))
    while holds:
        work()
        slowly()
        guard.available
    came += 1
signal.setitimer(signal.ITIMER_REAL, 0)
done.set()
other.join()
guard.balance(max_age=0)
assert binding_of(guard).account.ledger.held == 0, binding_of(guard).account.ledger.held
""",
        COVERAGE_PROCESS_CONFIG="",
    )
