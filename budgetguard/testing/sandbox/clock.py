"""Provider time: how late it is at the providers, and what is due when.

All work of the sandbox is a timed callback run in order under one lock, not a task that sleeps.
So it goes on when a client has gone, nobody ever reads a half-made step, and moving a manual clock
leaves every charge booked by the time `advance` returns.
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

from budgetguard.wrong import shown

if TYPE_CHECKING:
    import asyncio

EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
_MICRO = 1_000_000


class Clock:
    """Seconds at the providers since the sandbox was made.

    `speed` is how many of them pass per real second; `None`: they pass by `advance` alone.
    """

    def __init__(self, speed: float | None, *, timer: Callable[[], float] = time.monotonic) -> None:
        if speed is not None and not 0 < speed < math.inf:
            msg = f"speed is a positive number of provider seconds per real second, not {shown(speed)}"
            raise ValueError(msg)
        self._speed = speed
        self._timer = timer
        self._started = timer()
        # Whole microseconds: ten steps of 0.1 s are then exactly 1 s.
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
        """Hold the lock with everything done that is due by now; gives the time."""
        with self._lock:
            now = self._read()
            self._run_until(now)
            yield now / _MICRO

    def at(self, when: float, do: Callable[[float], None]) -> None:
        """Call `do(when)` once that time has come; callers hold the lock."""
        heapq.heappush(self._due, (round(when * _MICRO), next(self._order), do))
        if self._loop is not None and not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)

    def advance(self, seconds: float) -> None:
        """Move a manual clock on, doing what falls due on the way in order."""
        if self._speed is not None:
            msg = 'this sandbox keeps its own time; make it with clock="manual" to move it by hand'
            raise RuntimeError(msg)
        if not 0 <= seconds < math.inf:
            msg = f"time moves forward by a number of seconds, not by {shown(seconds)}"
            raise ValueError(msg)
        with self._lock:
            self._stopped_at = target = self._read() + round(seconds * _MICRO)
            self._run_until(target)

    def wait_until(self, true: Callable[[], bool], timeout: float) -> bool:
        """Block until `true()`, looked at after each change; False after `timeout` real seconds."""
        with self._changed:
            return self._changed.wait_for(true, timeout)

    def tell(self) -> None:
        """Have those in `wait_until` look again; callers hold the lock."""
        self._changed.notify_all()

    def real(self, seconds: float) -> float:
        """How many of a client's seconds these provider seconds take."""
        return seconds if self._speed is None else seconds / self._speed

    def follow(self, loop: "asyncio.AbstractEventLoop") -> None:
        """Do what falls due on `loop`, from now until `stop`."""
        if self._speed is not None:
            self._loop = loop

    def stop(self) -> None:
        """Freeze the time: nothing more falls due. A manual clock can still be moved."""
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
        self._running = True  # a callback may read the books that it is writing
        began = self._timer()
        try:
            while self._due and self._due[0][0] <= limit:
                when, _, do = heapq.heappop(self._due)
                do(when / _MICRO)
        finally:
            self._running = False
            # Time stands still meanwhile: on a clock faster than this loop each round would
            # otherwise find more to do than the one before, for ever.
            self._started += self._timer() - began

    def _wake(self) -> None:
        with self.settled() as now:
            self._waking = False
            if self._handle is not None:
                self._handle.cancel()
            if self._loop is not None and self._due:
                delay = self.real(self._due[0][0] / _MICRO - now)
                self._handle = self._loop.call_later(delay, self._wake)


def date(when: float) -> str:
    """The provider's date at that time, in ISO 8601."""
    return (EPOCH + timedelta(seconds=when)).isoformat().replace("+00:00", "Z")
