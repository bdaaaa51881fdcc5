"""The two clocks a guard goes by: one that never jumps, and one that runs on through a suspend."""

import time
from typing import NamedTuple, Protocol


class Instant(NamedTuple):
    """One moment, read off both clocks, in seconds."""

    mono: float
    wall: float

    def since(self, earlier: "Instant") -> float:
        """The age of `earlier`: the larger of both differences, and never below zero.

        The monotonic clock stands still while a machine is suspended, the wall clock may be set
        back: a balance is as old as the worse of the two says.
        """
        return max(self.mono - earlier.mono, self.wall - earlier.wall, 0.0)


class Clock(Protocol):
    """Where the time comes from: the system, or a test's hand."""

    def monotonic(self) -> float:
        """Seconds that only ever advance."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, as the machine believes at present."""
        ...

    def now(self) -> Instant:
        """Both at once."""
        ...


class SystemClock:
    """The machine's own clocks, whatever a test library puts in place of `time` later on.

    Both are taken once. To look them up anew each time would let a frozen clock into the private
    loop, whose deadlines and pauses would then never be over. A test that wants the time to pass
    says so to `budgetguard.testing.hand_clock`.
    """

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def now(self) -> Instant:
        """Both clocks, read one after the other."""
        return Instant(self.monotonic(), self.wall())


SYSTEM = SystemClock()
