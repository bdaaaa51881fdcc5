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
import selectors
import socket
import threading
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any, TypeVar, cast

from budgetguard.clock import Clock
from budgetguard.events import report
from budgetguard.inside import INSIDE, Inside
from budgetguard.waiting import EXIT

if TYPE_CHECKING:
    import httpx

    from budgetguard.connections import Clients

T = TypeVar("T")

_EXIT_PATIENCE = 0.3


class _Loop(asyncio.SelectorEventLoop):
    """An asyncio loop that goes by a guard's clock and resolves names in daemon threads."""

    def __init__(self, clock: Clock) -> None:
        # Before super().__init__, which reads the time.
        self.time = clock.monotonic  # type: ignore[method-assign]
        self._whole = False
        selector = selectors.DefaultSelector()
        try:
            super().__init__(selector)
        except BaseException:
            selector.close()
            raise
        self._whole = True
        # In -X dev, asyncio would report our own first import as a slow step of the user's program.
        self.set_debug(False)

    def __del__(self) -> None:
        # What there were no files left for has nothing to close, and asyncio's own would say so.
        if self._whole:
            super().__del__()

    def abandon(self) -> None:
        """Leave it as it is, for good."""
        self._whole = False

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        # The default executor's threads are joined at exit: a hung look-up would delay it.
        return await in_daemon_thread(lambda: socket.getaddrinfo(*args, **kwargs))


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """The result of a blocking function, run in a thread that nobody waits for at exit."""
    loop = asyncio.get_running_loop()
    # Not the future's own exception: a GeneratorExit in there would close who awaits it.
    answer: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def inside() -> T:
        stay = Inside()
        INSIDE.set(stay)
        try:
            return function()
        finally:
            stay.over()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if not answer.done():
            answer.set_result((result, error))

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(inside)
        except BaseException as raised:  # noqa: BLE001  it is handed to whoever asked
            error = raised
            if isinstance(raised, StopIteration):  # which no coroutine may raise
                error = RuntimeError(f"{type(raised).__name__}: {raised}")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=run, name="budgetguard-call", daemon=True).start()
    result, error = await answer
    if error is not None:
        raise error
    return cast("T", result)


class Runtime:
    """The loop, its thread, its clock and its HTTP clients.

    It has no lock of its own: a signal's handler that interrupts the start of the loop, or a fork,
    would find it taken. Whoever is first makes the loop, and the thread that is first runs it.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.jitter: Callable[[float, float], float] = SystemRandom().uniform
        self.stopping = False
        self._made: dict[str, _Loop] = {}
        self._broken: list[_Loop] = []
        # Whoever has taken it runs the loop.
        self._turn = [None]
        self._runs = False
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_task: asyncio.Task[None] | None = None
        self._clients: Clients | None = None
        # Not the caller's context: sniffio's variable in it would tell the loop that it is trio.
        self._context = contextvars.Context()

    def submit(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine on the loop; raises RuntimeError or OSError where no loop can be started."""

        async def run() -> None:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001  it would end the loop for all others
                _tell(error)

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._started().call_soon_threadsafe(begin, context=self._context)

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Call back at a monotonic time, on the loop's thread; raises as `submit` does."""
        loop = self._started()
        later = partial(_safely, callback)
        loop.call_soon_threadsafe(
            lambda: loop.call_at(when, later, context=self._context), context=self._context
        )

    def nudge(self, callback: Callable[[], object]) -> bool:
        """Call back soon, if there is a loop at all; takes no lock, so finalizers may use it."""
        loop = self._made.get("loop")
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(partial(_safely, callback), context=self._context)
        except RuntimeError:  # closed
            return False
        return True

    def client(
        self, owner: object, *, trust_env: bool
    ) -> "contextlib.AbstractAsyncContextManager[httpx.AsyncClient]":
        """The kept client of an account, for as long as it asks; only for code that runs on the loop."""
        if self._clients is None:
            from budgetguard.connections import Clients

            self._clients = Clients()
        return self._clients.lend(owner, trust_env=trust_env)

    def _started(self) -> _Loop:
        if self.stopping:
            msg = "the private loop has been stopped, as at exit"
            raise RuntimeError(msg)
        loop = self._made.get("loop")
        if loop is None:
            mine = _Loop(self.clock)
            loop = self._made.setdefault("loop", mine)
            if loop is not mine:
                mine.close()
            else:
                atexit.register(_stop, weakref.ref(self), os.getpid())
        if not self._runs:
            threading.Thread(
                target=self._run, args=(loop,), name="budgetguard", daemon=True
            ).start()
        return loop

    def _run(self, loop: _Loop) -> None:
        """Run the loop, whatever a user's code that it calls may raise, until it is stopped."""
        try:
            self._turn.pop()
        except IndexError:
            return
        self._thread, self._runs = threading.current_thread(), True
        stay = Inside()
        self._context.run(INSIDE.set, stay)
        # A finalizer may run between two callbacks, and so outside of their context.
        around = self._context.copy()
        try:
            while not self.stopping:
                try:
                    around.run(loop.run_forever)
                except (KeyboardInterrupt, SystemExit) as error:
                    # From a callback or task that a user's code made here; asyncio goes on with the rest.
                    _tell(error)
                except Exception as error:  # noqa: BLE001  the loop's own: somebody closed its files
                    _tell(error)
                    # Not closed: other files may have its numbers by now. The next look makes another.
                    loop.abandon()
                    self._broken.append(self._made.pop("loop"))
                    self._tasks, self._clients = set(), None
                    return
        finally:
            stay.over()
            self._runs = False
            self._turn.append(None)

    def stop(self) -> None:
        """Cancel what runs, close the clients and end the thread; waits 0.3 s at most."""
        self.stopping = True
        loop, thread = self._made.get("loop"), self._thread
        if loop is None or loop.is_closed():
            return
        if thread is None:  # none could be started
            loop.close()
            return

        async def wind_up() -> None:
            try:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                if self._clients is not None:
                    await self._clients.aclose()
            finally:
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


def _safely(callback: Callable[[], object]) -> None:
    try:
        callback()
    except BaseException as error:  # noqa: BLE001  it would end the loop for all others
        _tell(error)


def _tell(error: BaseException) -> None:
    # Not its words: they may quote a key.
    report("%s was raised on the private loop, which goes on", type(error).__name__)


def _stop(runtime: "weakref.ref[Runtime]", pid: int) -> None:
    alive = runtime()
    if alive is not None and pid == os.getpid():
        EXIT.begun = True
        alive.stop()
