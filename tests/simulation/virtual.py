"""A world in which time is a number: one asyncio loop, one thread, no waiting."""

import asyncio
import selectors
import socket
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from contextvars import Context
from random import Random
from typing import Any

from budgetguard._core.clock import Instant
from budgetguard._core.reentrancy import CALL_STATE, Inside

START = 1_000_000.0


class VirtualClock:
    """Both clocks of the world; they can be set apart."""

    def __init__(self) -> None:
        self.mono = START
        self.offset = 0.0

    def monotonic(self) -> float:
        """Seconds that only ever advance."""
        return self.mono

    def wall(self) -> float:
        """What the machine believes."""
        return self.mono + self.offset

    def now(self) -> Instant:
        """Both at once."""
        return Instant(self.mono, self.wall())


class _Patience(selectors.BaseSelector):
    """Where a loop would wait, this lets the time pass at once."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj.fileno() if isinstance(fileobj, socket.socket) else fileobj
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            msg = "nothing is due, and somebody waits: a deadlock"
            raise RuntimeError(msg)
        self._clock.mono += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that goes by the virtual clock."""

    def __init__(self, clock: VirtualClock) -> None:
        self._virtual = clock
        super().__init__(_Patience(clock))

    def time(self) -> float:
        return self._virtual.mono

    def _write_to_self(self) -> None:
        """Nobody waits in another thread."""


class VirtualRuntime:
    """The library's runtime, on the world's own loop, in a process that can die.

    `begins` is called when a look is asked for, and says after how many seconds it really begins,
    or None if it never does; `landed` is called when one is over.
    """

    def __init__(
        self,
        clock: VirtualClock,
        loop: VirtualLoop,
        random: Random,
        *,
        begins: Callable[[], float | None] = lambda: 0.0,
        landed: Callable[[], object] = lambda: None,
    ) -> None:
        self.clock = clock
        self.jitter = random.uniform
        self.starts: list[float] = []
        self.context = Context()
        self.context.run(CALL_STATE.set, Inside())
        self.stopping = False
        self.pause_watch = None
        self._loop = loop
        self._begins = begins
        self._landed = landed
        self._dead = False
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine on the loop."""
        delay = self._begins()
        self.starts.append(self.clock.mono)

        async def fly() -> None:
            await work()
            self._landed()

        def begin() -> None:
            if not self._dead:
                task = self._loop.create_task(fly())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        if delay is not None:
            self._loop.call_later(delay, begin, context=self.context)

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Call back at a monotonic time."""
        if not self._dead:
            self._loop.call_at(when, self._alive, callback, context=self.context)

    def nudge(self, callback: Callable[[], object]) -> bool:
        """Call back soon."""
        if not self._dead:
            self._loop.call_soon(self._alive, callback, context=self.context)
        return True

    def before_exit(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Nobody exits in good order here."""

    def client(self, owner: object, *, trust_env: bool) -> nullcontext[None]:
        """The simulated provider needs none."""
        return nullcontext()

    def die(self) -> None:
        """The process is gone, and with it whatever it was about to do."""
        self._dead = self.stopping = True
        for task in self._tasks:
            task.cancel()

    def _alive(self, callback: Callable[[], object]) -> None:
        if not self._dead:
            callback()
