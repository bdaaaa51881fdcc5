"""The private event loop: one daemon thread per process, where all I/O is done.

Callers come from any thread and any event loop, and go as they like; a loop of our own is what
makes their looks one look, and keeps a kept connection alive between them. It is started on first
need, is made anew in a forked child, and never keeps an interpreter from exiting.
"""

import asyncio
import atexit
import contextlib
import contextvars
import os
import socket
import threading
import weakref
from collections.abc import Callable, Coroutine
from random import SystemRandom
from typing import TYPE_CHECKING, Any, TypeVar

from budgetguard.clock import Clock
from budgetguard.inside import INSIDE

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_EXIT_PATIENCE = 0.3


class _Loop(asyncio.SelectorEventLoop):
    """An asyncio loop that goes by a guard's clock and resolves names in daemon threads."""

    def __init__(self, clock: Clock) -> None:
        # Before super().__init__, which reads the time.
        self.time = clock.monotonic  # type: ignore[method-assign]
        super().__init__()
        # In -X dev, asyncio would report our own first import as a slow step of the user's program.
        self.set_debug(False)

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        # The default executor's threads are joined at exit: a hung look-up would delay it.
        return await in_daemon_thread(lambda: socket.getaddrinfo(*args, **kwargs))


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """The result of a blocking function, run in a thread that nobody waits for at exit."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(function)
        except BaseException as raised:  # noqa: BLE001  it is handed to whoever asked
            error = raised
            if isinstance(raised, StopIteration) or not isinstance(raised, Exception):
                # A future takes no StopIteration, and what ends a program would end the loop.
                error = RuntimeError(f"{type(raised).__name__}: {raised}")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=run, name="budgetguard-call", daemon=True).start()
    return await answer


class Runtime:
    """The loop, its thread, its clock and its HTTP clients."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.jitter: Callable[[float, float], float] = SystemRandom().uniform
        self._starting = threading.Lock()
        self._loop: _Loop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_task: asyncio.Task[None] | None = None
        self._clients: dict[bool, httpx.AsyncClient] = {}
        # Not the caller's context: sniffio's variable in it would tell the loop that it is trio.
        self._context = contextvars.Context()
        self._context.run(INSIDE.set, True)

    def submit(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine on the loop; raises RuntimeError where no thread can be started."""

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._started().call_soon_threadsafe(begin, context=self._context)

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Call back at a monotonic time, on the loop's thread."""
        loop = self._started()
        loop.call_soon_threadsafe(
            lambda: loop.call_at(when, callback, context=self._context), context=self._context
        )

    def nudge(self, callback: Callable[[], object]) -> bool:
        """Call back soon, if the loop runs at all; takes no lock, so finalizers may use it."""
        loop = self._loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(callback, context=self._context)
        except RuntimeError:  # closed
            return False
        return True

    def client(self, *, trust_env: bool) -> "httpx.AsyncClient":
        """The kept client; only for code that runs on the loop."""
        if trust_env not in self._clients:
            from budgetguard.fetching import make_client

            self._clients[trust_env] = make_client(trust_env=trust_env)
        return self._clients[trust_env]

    def _started(self) -> _Loop:
        loop = self._loop
        if loop is not None:
            return loop
        with self._starting:
            if self._loop is None:
                loop = _Loop(self.clock)
                thread = threading.Thread(target=loop.run_forever, name="budgetguard", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                self._thread = thread
                self._loop = loop
                atexit.register(_stop, weakref.ref(self), os.getpid())
            assert self._loop is not None
            return self._loop

    def stop(self) -> None:
        """Cancel what runs, close the clients and end the thread; waits 0.3 s at most."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or loop.is_closed():
            return

        async def wind_up() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for client in self._clients.values():
                await client.aclose()
            loop.stop()

        def begin() -> None:
            self._last_task = loop.create_task(wind_up())

        try:
            loop.call_soon_threadsafe(begin, context=self._context)
        except RuntimeError:  # closed in between
            return
        thread.join(_EXIT_PATIENCE)
        if not thread.is_alive():
            loop.close()


def _stop(runtime: "weakref.ref[Runtime]", pid: int) -> None:
    alive = runtime()
    if alive is not None and pid == os.getpid():
        alive.stop()
