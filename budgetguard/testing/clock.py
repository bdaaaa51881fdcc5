"""A manual clock: time passes when a test advances it, so no test has to sleep."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from budgetguard._core.clock import Instant
from budgetguard._engine.account_registry import runtime_of
from budgetguard._io.loop import Runtime

# A fetch that needs no I/O is done after about ten iterations of the loop.
_ROUNDS = 30
_PATIENCE = 5.0


class HandClock:
    """A clock that stands still until a test advances it.

    It has a monotonic and a wall clock, as a computer has. Both start at 1,000,000 seconds.
    """

    def __init__(self) -> None:
        self._mono = self._wall = 1_000_000.0
        self._turned: list[Callable[[], object]] = []

    def monotonic(self) -> float:
        """The monotonic time in seconds. It never goes back."""
        return self._mono

    def wall(self) -> float:
        """The wall clock's time in seconds since the epoch."""
        return self._wall

    def now(self) -> Instant:
        """Both times at once."""
        return Instant(self._mono, self._wall)

    def on_turn(self, callback: Callable[[], object]) -> None:
        """Register a callback that runs after every change of the time."""
        self._turned.append(callback)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks, and start everything that is due by then."""
        if seconds < 0:
            msg = f"time only moves forward, so it cannot advance by {seconds} seconds"
            raise ValueError(msg)
        self._mono += seconds
        self._wall += seconds
        self._tell()

    def suspend(self, seconds: float) -> None:
        """Simulate a sleeping computer: only the wall clock moves on, by `seconds`."""
        self._wall += seconds
        self._tell()

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock, as a time server may do. The monotonic clock does not change."""
        self._wall = seconds
        self._tell()

    def _tell(self) -> None:
        for callback in self._turned:
            callback()


@contextmanager
def hand_clock() -> Iterator[HandClock]:
    """A block in which every new guard uses the manual clock that the block yields.

    These guards run on a private event loop, which stops when the block ends.
    """
    clock = HandClock()
    runtime = Runtime(clock)
    clock.on_turn(lambda: settle(runtime))
    with runtime_of(runtime):
        try:
            yield clock
        finally:
            runtime.stop()


def settle(runtime: Runtime) -> None:
    """Wait until the private loop has done everything due that needs no I/O."""
    done = threading.Event()

    def turn(rounds: int) -> None:
        if rounds:
            runtime.nudge(lambda: turn(rounds - 1))
        else:
            done.set()

    if runtime.nudge(lambda: turn(_ROUNDS)):
        done.wait(_PATIENCE)
