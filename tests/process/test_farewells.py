"""What the private loop says goodbye with at exit has a moment of real time, whatever its clock does."""

import asyncio
import threading

from budgetguard._io.loop import Runtime
from budgetguard.testing import HandClock


def started(runtime: Runtime) -> Runtime:
    """Have its loop run."""
    runs = threading.Event()
    runtime.call_at(0.0, runs.set)
    assert runs.wait(20)
    return runtime


def ended(runtime: Runtime) -> bool:
    """Stop it; returns whether its thread ends."""
    runtime.stop()
    assert runtime._thread is not None
    runtime._thread.join(20)
    return not runtime._thread.is_alive()


def test_a_farewell_that_hangs_is_cut_off_though_the_clock_stands_still() -> None:
    """Nothing is left pending, and each farewell was said once."""
    runtime, said = started(Runtime(HandClock())), list[str]()

    async def farewell() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            said.append("cut off")
            raise

    runtime.before_exit(farewell)
    runtime.before_exit(farewell)
    assert ended(runtime)
    assert said == ["cut off"]


def test_a_farewell_that_was_dropped_is_not_said() -> None:
    """And one that raises keeps no other from being said."""
    runtime, said = started(Runtime(HandClock())), list[str]()

    async def dropped() -> None:
        said.append("dropped")

    async def wrong() -> None:
        raise ValueError

    async def right() -> None:
        said.append("right")

    for each in (dropped, wrong, right):
        runtime.before_exit(each)
    runtime.drop_farewell(dropped)
    assert ended(runtime)
    assert said == ["right"]
