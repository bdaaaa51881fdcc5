"""The providers' clock, and the work that is scheduled on it.

All work of the sandbox consists of timed callbacks that run in order under one lock; there are no
tasks that sleep. So work continues after its client has gone, no reader sees an unfinished step,
and every charge that is due has been made by the time `advance` returns.
"""

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from budgetguard._core.argument_types import shown

if TYPE_CHECKING:
    import asyncio

EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
_MICRO = 1_000_000


class Clock:
    """Counts provider seconds since the sandbox was made.

    `speed` is how many of them pass per real second. With `None`, only `advance` moves the time.
    """

    def __init__(self, speed: float | None, *, timer: Callable[[], float] = time.monotonic) -> None:
        if speed is not None and not 0 < speed < math.inf:
            msg = f"speed is a positive number of provider seconds per real second, not {shown(speed)}"
            raise ValueError(msg)
        self._speed = speed
        self._timer = timer
        self._started = timer()
        # In whole microseconds, so that ten steps of 0.1 s are exactly 1 s.
        self._stopped_at: int | None = 0 if speed is None else None
        self._due: list[tuple[int, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._running = False
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._waking = False

    @contextmanager
    def settled(self) -> Iterator[float]:
        """Do everything that is due, then hold the lock for the block and yield the time."""
        with self._lock:
            now = self._read()
            self._run_until(now)
            yield now / _MICRO

    def at(self, when: float, do: Callable[[float], None]) -> None:
        """Call `do(when)` at the time `when`. The caller holds the lock."""
        heapq.heappush(self._due, (round(when * _MICRO), next(self._order), do))
        if self._loop is not None and not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)

    def advance(self, seconds: float) -> None:
        """Advance a manual clock, and do everything that becomes due on the way, in order."""
        if self._speed is not None:
            msg = 'the clock of this sandbox runs by itself; to advance it, make it with clock="manual"'
            raise RuntimeError(msg)
        if not 0 <= seconds < math.inf:
            msg = f"time moves forward by a number of seconds, not by {shown(seconds)}"
            raise ValueError(msg)
        with self._lock:
            self._stopped_at = target = self._read() + round(seconds * _MICRO)
            self._run_until(target)

    def wait_until(self, true: Callable[[], bool], timeout: float) -> bool:
        """Block until `true()`, which is called after each change; False after `timeout` real seconds."""
        with self._changed:
            return self._changed.wait_for(true, timeout)

    def tell(self) -> None:
        """Let every `wait_until` check its condition again. The caller holds the lock."""
        self._changed.notify_all()

    def real(self, seconds: float) -> float:
        """Convert provider seconds to real seconds."""
        return seconds if self._speed is None else seconds / self._speed

    def follow(self, loop: "asyncio.AbstractEventLoop") -> None:
        """Do scheduled work on `loop`, from now until `stop`."""
        if self._speed is not None:
            self._loop = loop

    def stop(self) -> None:
        """Stop the time, so that nothing more becomes due. A manual clock can still be advanced."""
        with self.settled():
            if self._stopped_at is None:
                self._stopped_at = self._read()
            self._loop = None
            if self._handle is not None:
                self._handle.cancel()

    def _read(self) -> int:
        if self._stopped_at is not None or self._speed is None:
            return self._stopped_at or 0
        return int((self._timer() - self._started) * self._speed * _MICRO)

    def _run_until(self, limit: int) -> None:
        if self._running or not self._due or self._due[0][0] > limit:
            return
        self._running = True  # a callback may read the account that it changes
        began = self._timer()
        try:
            while self._due and self._due[0][0] <= limit:
                when, _, do = heapq.heappop(self._due)
                do(when / _MICRO)
        finally:
            self._running = False
            # The time stops meanwhile. On a clock that is faster than this loop, each round
            # would otherwise find more to do than the one before, without end.
            self._started += self._timer() - began

    def _wake(self) -> None:
        with self.settled() as now:
            self._waking = False
            if self._handle is not None:
                self._handle.cancel()
            if self._loop is not None and self._due:
                delay = self.real(self._due[0][0] / _MICRO - now)
                self._handle = self._loop.call_later(delay, self._wake)


def after(when: float, seconds: float) -> float:
    """The time `seconds` after `when`, rounded to whole microseconds as the clock's times are.

    The sum of two floats may be a fraction of a microsecond too large. Code that compares it with
    the clock's time would then be late, or wait without end.
    """
    return round(when + seconds, 6)


def date(when: float) -> str:
    """The provider's date and time at `when`, in ISO 8601."""
    return (EPOCH + timedelta(seconds=when)).isoformat().replace("+00:00", "Z")
