"""What the tests of followed work share: waiting for the library's own requests, and counting them."""

import asyncio
import threading
from collections.abc import Callable

from budgetguard import Guard
from budgetguard._engine.binding import binding_of
from budgetguard._engine.follower import Follower, follower_of
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox

STATUS = ("GET", "/spec-status/{spec_id}")
BATCH = ("GET", "/browser-agent/{batch_id}")
LIST = ("GET", "/list-specs")

# The wall clock's time at which a sandbox begins: 2026-11-01, UTC.
BEGUN = 1_793_491_200.0


def follower(guard: Guard) -> Follower:
    """Give what follows the work of the guard's account."""
    return follower_of(binding_of(guard).account)


def at_rest(guard: Guard) -> None:
    """Return when no request about work is under way; those that are due have begun by then."""
    done = threading.Event()
    here = follower(guard)

    async def wait() -> None:
        await asyncio.sleep(0)
        while here._asking:  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0)
        done.set()

    binding_of(guard).account.runtime.submit(wait)
    assert done.wait(20), "a request about work has no end"
    binding_of(guard).account.flush()


def elapsed(clock: HandClock, *guards: Guard) -> Callable[[Sandbox, float], None]:
    """Let seconds pass in steps, at the provider first, and wait for the requests that become due."""

    def elapse(sandbox: Sandbox, seconds: float, step: float = 15) -> None:
        while seconds > 0:
            passed = min(step, seconds)
            sandbox.advance(passed)
            clock.advance(passed)
            for guard in guards:
                at_rest(guard)
            seconds -= passed

    return elapse
