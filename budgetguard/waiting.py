"""A caller who waits: for a look, for credits, for a slot. One ticket for threads, asyncio, trio."""

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from budgetguard.asker import Asker, Call
    from budgetguard.balance import Balance
    from budgetguard.errors import BudgetGuardError
    from budgetguard.opened import Open

# How long after its deadline a waiter looks for itself, should the private loop be kept busy.
SLACK = 0.05

# At most so long a thread that waits does not hear of a signal.
HEARS_AFTER = 0.5

# A waiter whose time was up so many seconds ago was not awake to say so.
OVERSLEPT = 0.5

# How long a refusal is kept back when the interpreter is ending, should somebody wait for its thread.
_KEPT_BACK = 10.0


class _Exit:
    """Whether the interpreter has begun to end."""

    begun = False


EXIT = _Exit()


class Desk(Protocol):
    """Who decides about those who wait: their account."""

    def monotonic(self) -> float:
        """The time."""
        ...

    def overdue(self) -> None:
        """Somebody's time is up, and nobody decided."""
        ...

    def abandon(self, ticket: "Ticket") -> None:
        """Nobody takes this answer any more."""
        ...


class Bell:
    """Wakes one thread. A signal's handler that runs in that thread may ring it, at any moment.

    Inside of a threading.Event's own wait, its `set` would wait for that Event's lock.
    """

    __slots__ = ("_silent",)

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> bool:
        """Wake the thread; once is enough, and more is no harm."""
        with contextlib.suppress(RuntimeError):  # it has rung
            self._silent.release()
        return True

    def wait(self, seconds: float) -> bool:
        """Block for that long at most; whether it rang."""
        return self._silent.acquire(timeout=seconds)


class _LoopBell:
    """Wakes one task, from any thread."""

    __slots__ = ("_event", "_token")

    def __init__(self, event: Any, token: Any) -> None:
        self._event = event
        self._token = token

    def ring(self) -> bool:
        """Wake the task; False where its loop is closed."""
        # Not anyio.from_thread.run_sync: it waits for the caller's loop, which may be busy for long.
        token = self._token
        soon = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon
        try:
            soon(self._event.set)
        except RuntimeError:  # asyncio: the loop is closed; trio.RunFinishedError is one too
            return False
        return True


class Ticket:
    """The answer to one caller, there at once or later.

    `settle` is called once, by whoever decides; the caller calls `check` after one of the two waits.
    These tell the desk when the caller's time is up and nobody decided, and when it stops waiting.
    """

    __slots__ = ("_bell", "_desk", "done", "error")

    def __init__(self) -> None:
        self.done = False
        self.error: BudgetGuardError | RuntimeError | None = None
        self._bell: Bell | _LoopBell | None = None
        self._desk: Desk | None = None

    def deadline(self, now: float) -> float:
        """When this caller's next deadline passes."""
        raise AssertionError(self, now)

    def settle(self, error: "BudgetGuardError | RuntimeError | None" = None) -> None:
        """Give the answer, without waking anybody yet: that happens outside the lock."""
        assert not self.done
        self.error = error
        self.done = True

    def check(self) -> None:
        """Raise the answer where it is an error, without leaving a cycle through its traceback."""
        error, self.error = self.error, None
        if error is not None:
            _keep_back()
            try:
                raise error
            finally:
                del error

    def wake(self) -> None:
        """Wake the caller; harmless where nobody waits any more."""
        bell = self._bell
        if bell is not None and not bell.ring() and self._desk is not None:
            self._desk.abandon(self)

    def wait(self, desk: Desk) -> None:
        """Block this thread until the answer is there; who is interrupted has stopped waiting."""
        if self.done:
            return
        try:
            bell = self._bell = Bell()
            # `done` is read after `_bell` was set, and set before `_bell` is read: one sees the other.
            while not self.done:
                patience = self._patience(desk)
                # In parts: a signal that comes right before the lock's own wait, or is delivered to
                # another thread, does not end that wait, and a Ctrl-C would be heard at its end.
                if not bell.wait(min(patience, HEARS_AFTER)) and patience <= HEARS_AFTER:
                    desk.overdue()
        except BaseException:
            desk.abandon(self)
            raise

    async def wait_async(self, desk: Desk) -> None:
        """Wait until the answer is there, without blocking the caller's event loop.

        Who is cancelled has stopped waiting, and so has whose loop is closed when the answer comes.
        """
        if self.done:
            return
        try:
            import anyio
            from anyio.lowlevel import current_token
        except (ImportError, OSError, MemoryError):
            # The refresh needs it as well, and so fails at once: this wait is a short one.
            self.wait(desk)
            return
        try:
            woken = anyio.Event()
            self._desk = desk
            self._bell = _LoopBell(woken, current_token().native_token)
            while not self.done:
                with anyio.move_on_after(self._patience(desk)) as patience:
                    await woken.wait()
                if patience.cancelled_caught:
                    desk.overdue()
        except BaseException:
            desk.abandon(self)
            raise

    def _patience(self, desk: Desk) -> float:
        """Seconds until the caller looks for itself."""
        now = desk.monotonic()
        return max(self.deadline(now) - now, 0.0) + SLACK


class Admission(Ticket):
    """A caller who wants in; once `done` without an error, it is `opened`."""

    __slots__ = ("call", "opened")

    def __init__(self, call: "Call") -> None:
        super().__init__()
        self.call = call
        self.opened: Open | None = None

    def deadline(self, now: float) -> float:
        """When this caller's next deadline passes: the end of its queueing, then of everything."""
        need = self.call.need
        return need.until if now < need.until else need.give_up

    def thaw(self, now: float) -> None:
        """The process stood still: whose time ran out meanwhile has that of one refresh again."""
        need = self.call.need
        if now > need.give_up + OVERSLEPT:
            need = replace(need, give_up=now + self.call.asker.terms.timeout)
            self.call = replace(self.call, need=need)


class Reading(Ticket):
    """A caller who wants a balance sent at or after `oldest`, or at hand and young enough."""

    __slots__ = ("asker", "balance", "give_up", "max_age", "oldest")

    def __init__(self, asker: "Asker", max_age: float, now: float) -> None:
        super().__init__()
        self.asker = asker
        self.max_age = max_age
        self.oldest = now - max_age
        self.give_up = now + asker.terms.timeout
        self.balance: Balance | None = None

    def deadline(self, now: float) -> float:  # noqa: ARG002  it has one deadline, whatever the time
        """When everything ends for this caller."""
        return self.give_up

    def thaw(self, now: float) -> None:
        """The process stood still: whose time ran out meanwhile has that of one refresh again."""
        if now > self.give_up + OVERSLEPT:
            self.give_up = now + self.asker.terms.timeout


def _keep_back() -> None:
    """Have a daemon thread wait on while the interpreter ends: its refusal would tell of nothing else.

    The main thread, in an exit handler, is told.
    """
    if EXIT.begun and threading.get_ident() != threading.main_thread().ident:
        Bell().wait(_KEPT_BACK)
