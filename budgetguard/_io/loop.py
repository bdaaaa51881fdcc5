"""The private event loop: one daemon thread per process that does all I/O.

Callers come from any thread and any event loop, and may go away at any time. A loop of the library's
own lets them share one refresh, and keeps connections open between refreshes. It is started when it
is first needed, is made again in a forked child, and never keeps the interpreter from exiting.
"""

import asyncio
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

from budgetguard._core.clock import Clock
from budgetguard._core.events import report
from budgetguard._core.reentrancy import CALL_STATE, Inside
from budgetguard._io.exit import EXIT, at_exit
from budgetguard._io.pause_watch import PauseWatch

if TYPE_CHECKING:
    import httpx

    from budgetguard._io.connections import Clients

T = TypeVar("T")

_EXIT_PATIENCE = 0.3
_FAREWELL = 0.2


class _Loop(asyncio.SelectorEventLoop):
    """An asyncio loop that uses a guard's clock and resolves names in daemon threads."""

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
        # With -X dev, asyncio would report our own first import as a slow step of the user's program.
        self.set_debug(False)

    def __del__(self) -> None:
        # A loop whose construction failed has nothing to close, and asyncio's __del__ would complain.
        if self._whole:
            super().__del__()

    def abandon(self) -> None:
        """Never close this loop."""
        self._whole = False

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        # The default executor's threads are joined at exit: a hanging DNS query would delay it.
        return await in_daemon_thread(lambda: socket.getaddrinfo(*args, **kwargs))


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """The result of a blocking function, run in a thread that is not joined at exit."""
    loop = asyncio.get_running_loop()
    # Not the future's own exception: a GeneratorExit in there would close the awaiting coroutine.
    answer: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def inside() -> T:
        marker = Inside(threading.get_ident())
        CALL_STATE.set(marker)
        try:
            return function()
        finally:
            marker.thread = None

    def deliver(result: T | None, error: BaseException | None) -> None:
        if not answer.done():
            answer.set_result((result, error))

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(inside)
        except BaseException as raised:  # noqa: BLE001  it is raised in the awaiting coroutine
            error = raised
            if isinstance(raised, StopIteration):  # a coroutine must not raise it
                error = RuntimeError(f"{type(raised).__name__}: {raised}")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing awaits the result
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=run, name="budgetguard-call", daemon=True).start()
    result, error = await answer
    if error is not None:
        raise error
    return cast("T", result)


class Runtime:
    """The loop, its thread, its clock and its HTTP clients.

    It has no lock: a signal handler that interrupts the start of the loop, or a forked child, would
    find it locked. Instead, the first caller's loop is used, and the first thread to start runs it.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.jitter: Callable[[float, float], float] = SystemRandom().uniform
        self.stopping = False
        self.pause_watch: PauseWatch | None = PauseWatch(self)
        self._made: dict[str, _Loop] = {}
        self._broken: list[_Loop] = []
        # The thread that pops the item runs the loop.
        self._turn = [None]
        self._runs = False
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_task: asyncio.Task[None] | None = None
        self._clients: Clients | None = None
        # In order; each only once.
        self._farewells: dict[Callable[[], Coroutine[Any, Any, None]], None] = {}
        self._parting: asyncio.Future[Any] | None = None
        self._hurries = False
        # Not the caller's context: a sniffio variable in it could make asyncio code believe in trio.
        self._context = contextvars.Context()

    @property
    def broken(self) -> int:
        """How many loops of this process broke; what ran on them never goes on."""
        return len(self._broken)

    def submit(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine on the loop; raises RuntimeError or OSError where no loop can be started."""

        async def run() -> None:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001  it would stop the loop for all others
                _log(error)

        def begin() -> None:
            # Not create_task: a provider may have set a task factory that raises.
            task = asyncio.Task(run(), loop=asyncio.get_running_loop())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._started().call_soon_threadsafe(begin, context=self._context)

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Call `callback` at a monotonic time, on the loop's thread; raises as `submit` does."""
        loop = self._started()
        later = partial(_safely, callback)
        loop.call_soon_threadsafe(
            lambda: loop.call_at(when, later, context=self._context), context=self._context
        )

    def before_exit(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine on the loop when the interpreter exits; it has at most 0.2 s."""
        self._farewells[farewell] = None

    def drop_farewell(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do not run it after all."""
        self._farewells.pop(farewell, None)

    def nudge(self, callback: Callable[[], object]) -> bool:
        """Call `callback` soon, if there is a loop; takes no lock, so finalizers may use it."""
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
        """The client of an account, lent for one request; only for code that runs on the loop."""
        if self._clients is None:
            from budgetguard._io.connections import Clients

            self._clients = Clients()
        return self._clients.lend(owner, trust_env=trust_env)

    def _started(self) -> _Loop:
        if self.stopping:
            msg = "the private event loop is stopped, because the interpreter is exiting"
            raise RuntimeError(msg)
        loop = self._made.get("loop")
        if loop is None:
            mine = _Loop(self.clock)
            loop = self._made.setdefault("loop", mine)
            if loop is not mine:
                mine.close()
            else:
                at_exit(_stop, weakref.ref(self), os.getpid())
        if not self._runs:
            threading.Thread(
                target=self._run, args=(loop,), name="budgetguard", daemon=True
            ).start()
        return loop

    def _run(self, loop: _Loop) -> None:
        """Run the loop until it is stopped, even if user code that it calls raises."""
        try:
            self._turn.pop()
        except IndexError:
            return
        self._thread, self._runs = threading.current_thread(), True
        marker = Inside(threading.get_ident())
        self._context.run(CALL_STATE.set, marker)
        # A finalizer may run between two callbacks, and so outside their context.
        around = self._context.copy()
        try:
            while not self.stopping:
                try:
                    around.run(loop.run_forever)
                except (KeyboardInterrupt, SystemExit) as error:
                    # From a callback or task that user code made here; asyncio continues with the rest.
                    _log(error)
                except Exception as error:  # noqa: BLE001  the loop's own: its files were closed
                    _log(error)
                    # Not closed: other files may have its numbers by now. The next refresh makes another.
                    loop.abandon()
                    self._broken.append(self._made.pop("loop"))
                    self._tasks, self._clients = set(), None
                    return
            # Here and not in `stop`, which waits only briefly.
            loop.close()
        finally:
            marker.thread = None
            self._runs = False
            self._turn.append(None)

    def stop(self) -> None:
        """Cancel the tasks, close the clients, end the thread and the loop; waits at most 0.3 s."""
        if self.stopping:  # `at_exit` may call twice
            return
        self.stopping = True
        loop = self._made.get("loop")
        if loop is None:
            return
        try:
            self._turn.pop()
        except IndexError:  # the thread that runs it closes it
            pass
        else:  # no thread runs it, and none will
            loop.close()
            return

        def begin() -> None:
            self._last_task = asyncio.Task(self._wind_up(loop), loop=loop)

        try:
            loop.call_soon_threadsafe(begin, context=self._context)
            if self._thread is not None:
                # Not a time-out on the loop, whose clock a test may have stopped.
                self._thread.join(_FAREWELL)
                loop.call_soon_threadsafe(self._hurry, context=self._context)
                self._thread.join(_EXIT_PATIENCE - _FAREWELL)
        except RuntimeError:  # closed in between
            return

    async def _wind_up(self, loop: _Loop) -> None:
        try:
            if not self._hurries:
                farewells = [each() for each in list(self._farewells)]
                self._parting = asyncio.gather(*farewells, return_exceptions=True)
                with contextlib.suppress(asyncio.CancelledError):
                    await self._parting
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._clients is not None:
                await self._clients.aclose()
        finally:
            loop.stop()

    def _hurry(self) -> None:
        """No more time is left for farewells."""
        self._hurries = True
        if self._parting is not None:
            self._parting.cancel()


def _safely(callback: Callable[[], object]) -> None:
    try:
        callback()
    except BaseException as error:  # noqa: BLE001  it would stop the loop for all others
        _log(error)


def _log(error: BaseException) -> None:
    # Not its text, which may quote a key.
    report("%s was raised on the private event loop, which continues", type(error).__name__)


def _stop(runtime: "weakref.ref[Runtime]", pid: int) -> None:
    alive = runtime()
    if alive is not None and pid == os.getpid():
        EXIT.begun = True
        alive.stop()
