"""Ctrl-C at any moment of a call whose cost is constant leaves neither hold nor lock behind."""

import signal

import pytest
from interpreter import STRICT, Script


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this platform")
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_real_signals(script: Script, kind: str) -> None:
    """A thousand interrupts at random moments: afterwards all credits can be had again."""
    script(
        f"""
import faulthandler, random, signal
from budgetguard import Guard
from budgetguard.testing import FakeProvider

faulthandler.dump_traceback_later(80, exit=True)
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
# A call that was interrupted is kept until a look sent later; none is held for good.
guard.acquire(10**9).release()
assert guard.available == 10**9, guard.available
""",
        # Interrupted before its first step, a coroutine was never awaited.
        flags=(*STRICT, "-W", "ignore::RuntimeWarning"),
        # Where coverage is measured: its own lock is lost to an interrupt, and then it hangs.
        COVERAGE_PROCESS_CONFIG="",
    )
