"""A clock turned by hand: time passes when a test says so, and nobody sleeps."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from budgetguard.clock import Instant
from budgetguard.loop import Runtime
from budgetguard.process import runtime_of

# A fetch that needs no I/O is done after about ten turns of the loop.
_ROUNDS = 30
_PATIENCE = 5.0


class HandClock:
    """Stands still until it is turned. Both clocks start at 1,000,000 seconds."""

    def __init__(self) -> None:
        self._mono = self._wall = 1_000_000.0
        self._turned: list[Callable[[], object]] = []

    def monotonic(self) -> float:
        """Seconds that only ever advance."""
        return self._mono

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._wall

    def now(self) -> Instant:
        """Both at once."""
        return Instant(self._mono, self._wall)

    def on_turn(self, callback: Callable[[], object]) -> None:
        """Call back after every turn."""
        self._turned.append(callback)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks, and have everything due by then begin."""
        if seconds < 0:
            msg = f"time only advances, not by {seconds}"
            raise ValueError(msg)
        self._mono += seconds
        self._wall += seconds
        self._tell()

    def suspend(self, seconds: float) -> None:
        """Let the machine sleep: the wall clock moves on, the monotonic clock does not."""
        self._wall += seconds
        self._tell()

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock, as a time server may."""
        self._wall = seconds
        self._tell()

    def _tell(self) -> None:
        for callback in self._turned:
            callback()


@contextmanager
def hand_clock() -> Iterator[HandClock]:
    """Within the block, guards that are made go by the clock it gives.

    They run on a private loop of their own, which is stopped at the end of the block.
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
    """Wait until the private loop has done what is due, as far as it needs no I/O for that."""
    done = threading.Event()

    def turn(rounds: int) -> None:
        if rounds:
            runtime.nudge(lambda: turn(rounds - 1))
        else:
            done.set()

    if runtime.nudge(lambda: turn(_ROUNDS)):
        done.wait(_PATIENCE)
