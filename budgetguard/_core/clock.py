"""The two clocks that a guard uses: one that never jumps, and one that continues during a suspend."""

import time
from typing import NamedTuple, Protocol


class Instant(NamedTuple):
    """One moment, as read from both clocks, in seconds."""

    mono: float
    wall: float

    def since(self, earlier: "Instant") -> float:
        """The age of `earlier`: the larger of the two clocks' differences, and never below zero.

        The monotonic clock stands still while a machine is suspended, and the wall clock may be set
        back. So the age of a balance is the larger of the two.
        """
        return max(self.mono - earlier.mono, self.wall - earlier.wall, 0.0)


class Clock(Protocol):
    """The source of time: the system, or a clock that a test turns by hand."""

    def monotonic(self) -> float:
        """Seconds that only ever advance."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, by the machine's current setting."""
        ...

    def now(self) -> Instant:
        """Both clocks, read together."""
        ...


class SystemClock:
    """The machine's own clocks, even if a test library replaces those in `time` later.

    Both functions are read from `time` once. Otherwise a library that freezes time would freeze the
    private loop, whose deadlines and pauses would never pass. A test that wants to control the time
    uses `budgetguard.testing.hand_clock`.
    """

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def now(self) -> Instant:
        """Both clocks, read one after the other."""
        return Instant(self.monotonic(), self.wall())


SYSTEM = SystemClock()
