"""The clocks of a simulated machine: they drift, stand still while it sleeps, and are set."""

from math import inf, nextafter
from random import Random

from virtual import VirtualClock

from budgetguard._core.clock import Instant

FASTEST = 0.01
"""How much the rates of two machines' clocks may differ from the world's."""


class Machine:
    """One machine. `rate` is how many seconds its clocks count in one second of the world.

    The monotonic clock stands still during a suspend; the boot-time and the wall clock go on.
    """

    def __init__(self, world: VirtualClock, random: Random, *, drifts: bool = True) -> None:
        self.rate = random.choice([1 - FASTEST, 1.0, 1 + FASTEST]) if drifts else 1.0
        self.offset = random.uniform(-100, 100)
        self.suspended = False
        self._world = world
        self._start = world.mono
        self._booted = random.choice([10.0, 5000.0, 10_000_000.0])
        self._slept = 0.0
        self._fell_asleep = 0.0
        self._set_back_at = -inf

    def boottime(self) -> float:
        """Seconds since it was started."""
        return self._booted + self.rate * (self._world.mono - self._start)

    def monotonic(self) -> float:
        """Seconds that it was awake."""
        now = self._fell_asleep if self.suspended else self.boottime()
        return now - self._slept

    def wall(self) -> float:
        """What it takes for the time of day."""
        return self._world.mono + self.offset + (self.rate - 1) * (self._world.mono - self._start)

    def now(self) -> Instant:
        """The monotonic and the wall clock, at once."""
        return Instant(self.monotonic(), self.wall())

    def set_wall(self, by: float) -> None:
        """Somebody sets the wall clock."""
        self.offset += by
        if by < 0:
            self._set_back_at = self._world.mono

    def hides_time(self, seconds: float) -> bool:
        """Whether neither clock shows how much time has passed: it sleeps, and its wall clock was set back lately."""
        return self.suspended and self._set_back_at >= self._world.mono - 2 * seconds

    def moment(self, monotonic: float) -> float:
        """The world's time at which the monotonic clock will show that, and not a moment before."""
        at = self._start + (monotonic + self._slept - self._booted) / self.rate
        while self._booted + self.rate * (at - self._start) - self._slept < monotonic:
            at = nextafter(at, inf)
        return at

    def suspend(self) -> None:
        """Fall asleep."""
        self._fell_asleep, self.suspended = self.boottime(), True

    def resume(self) -> None:
        """Wake up."""
        self._slept += self.boottime() - self._fell_asleep
        self.suspended = False
