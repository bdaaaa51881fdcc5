"""Many processes on one loop: each goes by its own clocks, can be stopped, and can be killed.

A process is the context of a task. Whatever runs in it is held back while the process is stopped, and is
never run again after it was killed, as no `finally` is after a SIGKILL.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any

from clocks import Machine
from virtual import VirtualClock, VirtualLoop

from budgetguard._core.reentrancy import CALL_STATE, Inside

HERE: ContextVar["Process | None"] = ContextVar("process", default=None)
"""The process that runs now; None: the world outside."""


MOST_ROUNDS = 20_000
"""How often the loop may go round in one moment."""


class _Soon(asyncio.Handle):
    """A callback that waits while its process is stopped."""

    __slots__ = ()

    def _run(self) -> None:
        if not _held(self):
            super()._run()


class _Timer(asyncio.TimerHandle):
    """Likewise, at a moment of the world."""

    __slots__ = ()

    def _run(self) -> None:
        if not _held(self):
            super()._run()


def _held(handle: Any) -> bool:
    process: Process | None = handle._context.get(HERE)
    if process is None or process.runs:
        return False
    process.held.append(handle)
    return True


class FleetLoop(VirtualLoop):
    """One loop for all; its time is that of the process which asks."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self._outside = Context()
        self._rounds = 0

    def _run_once(self) -> None:
        now = self._virtual.mono
        super()._run_once()  # type: ignore[misc]
        self._rounds = self._rounds + 1 if self._virtual.mono == now else 0
        if self._rounds > MOST_ROUNDS:
            msg = f"time stands still: {self._ready[0]}"  # type: ignore[attr-defined]
            raise RuntimeError(msg)

    def time(self) -> float:
        process = HERE.get()
        return self._virtual.mono if process is None else process.machine.monotonic()

    def _call_soon(self, callback: Any, args: Any, context: Context | None) -> asyncio.Handle:
        handle = _Soon(callback, args, self, context or copy_context())
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        process = HERE.get()
        at = when if process is None else process.machine.moment(when)
        return self.at(at, callback, *args, context=context or copy_context())

    def at(self, moment: float, callback: Any, *args: Any, context: Context) -> asyncio.TimerHandle:
        """Call back at a moment of the world."""
        timer = _Timer(moment, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def outside(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Call back after so many seconds of the world, in no process."""
        self.at(self._virtual.mono + delay, callback, *args, context=self._outside)

    def go_on(self, process: "Process", slept: float) -> None:
        """Let everything happen that was held back; timers are late by what the machine slept."""
        if slept:
            for timer in self._scheduled:  # type: ignore[attr-defined]
                if timer._context.get(HERE) is process:
                    timer._when += slept
            heapq.heapify(self._scheduled)  # type: ignore[attr-defined]
        held, process.held = process.held, []
        for handle in held:
            if slept and isinstance(handle, _Timer):
                if not handle.cancelled():
                    handle._when += slept
                    heapq.heappush(self._scheduled, handle)  # type: ignore[attr-defined]
                    handle._scheduled = True  # type: ignore[attr-defined]
            else:
                self._ready.append(handle)  # type: ignore[attr-defined]


class Process:
    """One process. While it does not run, what happens to it is held back."""

    def __init__(self, number: int, machine: Machine, loop: FleetLoop, random: Random) -> None:
        self.number = number
        self.name = f"p{number}"
        self.machine = machine
        self.loop = loop
        self.alive = True
        self.stopped = False
        self.leaving = False
        """Whether it is about to exit."""
        self.held: list[asyncio.Handle] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.stops = 0
        """How often it was stopped."""
        self.idle = 0.0
        """Seconds of the world for which it was stopped, or asleep."""
        self._stopped_at = 0.0
        self.context = Context()
        self.context.run(HERE.set, self)
        self.runtime = FleetRuntime(self, random)
        self.spender: Any = None

    @property
    def runs(self) -> bool:
        """Whether it does anything."""
        return self.alive and not self.stopped

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """Run a coroutine in it."""
        context = self.context.copy()
        task = self.loop.create_task(work, name=name, context=context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard, context=Context())
        return task

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Something arrives from outside; it waits while the process is stopped."""
        if self.alive:
            self.loop.call_soon(callback, *args, context=self.context)

    def stop(self) -> None:
        """SIGSTOP, or its machine falls asleep."""
        self.stops += 1
        self.stopped, self._stopped_at = True, self.loop._virtual.mono

    def resume(self, *, slept: bool = False) -> None:
        """SIGCONT, or its machine wakes up."""
        seconds = self.loop._virtual.mono - self._stopped_at
        self.idle += seconds
        self.stopped = False
        if self.alive:
            self.loop.go_on(self, seconds if slept else 0.0)

    def idle_for(self) -> float:
        """For how many seconds of the world it has been stopped in all, until now."""
        return self.idle + (self.loop._virtual.mono - self._stopped_at if self.stopped else 0.0)

    def kill(self) -> None:
        """SIGKILL: nothing of it is ever run again."""
        self.alive = False
        self.runtime.stopping = True

    async def yields(self) -> None:
        """A point at which it may be stopped or killed."""
        await asyncio.sleep(0)

    def bury(self) -> None:
        """After the end of the world: let its tasks be cancelled."""
        self.alive = self.runtime.stopping = True
        self.stopped = False
        self.loop.go_on(self, 0.0)


class FleetRuntime:
    """The library's runtime of one process."""

    def __init__(self, process: Process, random: Random) -> None:
        self.process = process
        self.clock = process.machine
        self.jitter = random.uniform
        self.stopping = False
        self.pause_watch = None
        self.broken = 0
        self.farewells: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.context = process.context.copy()
        self.context.run(CALL_STATE.set, Inside())

    def submit(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine on the loop."""
        process, loop = self.process, self.process.loop

        def begin() -> None:
            task = loop.create_task(work(), context=self.context)
            process.tasks.add(task)
            task.add_done_callback(process.tasks.discard, context=Context())

        loop.call_soon(begin, context=self.context)

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Call back at a monotonic time of the process."""
        loop = self.process.loop
        loop.at(self.clock.moment(when), callback, context=self.context)

    def before_exit(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine when the process exits."""
        self.farewells.append(farewell)

    async def farewell(self) -> None:
        """The process exits: a moment is left for each."""
        for farewell in self.farewells:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await farewell()

    def nudge(self, callback: Callable[[], object]) -> bool:
        """Call back soon."""
        self.process.loop.call_soon(callback, context=self.context)
        return True

    def client(self, owner: object, *, trust_env: bool) -> nullcontext[None]:
        """The simulated provider needs none."""
        return nullcontext()
