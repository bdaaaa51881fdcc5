"""A caller that waits for a refresh, for credits or for a slot, on a thread, in asyncio or in trio."""

import contextlib
import threading
from dataclasses import replace
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from budgetguard._io.exit import EXIT

if TYPE_CHECKING:
    from budgetguard._core.balance import Balance
    from budgetguard._core.errors import BudgetGuardError
    from budgetguard._engine.hold import Hold, Owner
    from budgetguard._engine.subscriber import Call, Effects, Subscriber

# How long after its deadline a waiter requests a decision itself, in case the private loop is busy.
SLACK = 0.05

# The longest time that a waiting thread may take to notice a signal.
SIGNAL_CHECK = 0.5

# A waiter whose deadline passed more than this many seconds ago was frozen with the process.
OVERSLEPT = 0.5

# How long a refusal is withheld while the interpreter exits, in case someone waits for its thread.
_WITHHELD = 10.0


class Decider(Protocol):
    """What decides about waiters: their account."""

    def monotonic(self) -> float:
        """The time."""
        ...

    def overdue(self) -> None:
        """A waiter's deadline has passed, and it was not decided."""
        ...

    def abandon(self, waiter: "Waiter") -> None:
        """The caller no longer waits for this answer."""
        ...


class ThreadWaker:
    """Wakes one thread. A signal handler that runs in that same thread may ring it at any moment.

    A threading.Event would not do: a handler that interrupts its `wait` would deadlock in its `set`.
    """

    __slots__ = ("_silent",)

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> bool:
        """Wake the thread; ringing more than once is harmless."""
        with contextlib.suppress(RuntimeError):  # it has already rung
            self._silent.release()
        return True

    def wait(self, seconds: float) -> bool:
        """Block for at most that long; returns whether it rang."""
        return self._silent.acquire(timeout=seconds)


class _TaskWaker:
    """Wakes one task, from any thread."""

    __slots__ = ("_event", "_token")

    def __init__(self, event: Any, token: Any) -> None:
        self._event = event
        self._token = token

    def ring(self) -> bool:
        """Wake the task; False if its loop is closed."""
        # Not anyio.from_thread.run_sync, which waits for the caller's loop, and that may be busy.
        token = self._token
        soon = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon
        try:
            soon(self._event.set)
        except RuntimeError:  # asyncio: the loop is closed; trio.RunFinishedError is one too
            return False
        return True


class Waiter:
    """The answer to one caller, available at once or later.

    The decider calls `settle` once, and `wake` if it was not on the caller's thread. The caller calls one
    of the two waits, and then `check`. The waits notify the decider when the caller's deadline has passed and
    when it stops waiting.
    """

    __slots__ = ("_decider", "_settled_on", "_waker", "_woken", "done", "error")

    def __init__(self) -> None:
        self.done = self._woken = False
        self._settled_on = 0
        self.error: BudgetGuardError | RuntimeError | None = None
        self._waker: ThreadWaker | _TaskWaker | None = None
        self._decider: Decider | None = None

    def deadline(self, now: float) -> float:
        """When this caller's next deadline passes."""
        raise AssertionError(self, now)

    def settle(self, error: "BudgetGuardError | RuntimeError | None" = None) -> None:
        """Set the answer. The caller is woken later, outside the lock."""
        assert not self.done
        self.error = error
        self._settled_on = get_ident()
        self.done = True

    def check(self) -> None:
        """Raise the answer if it is an error, without leaving a cycle through its traceback."""
        error, self.error = self.error, None
        if error is not None:
            _withhold()
        self._report()
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _report(self) -> None:
        """Deliver what another thread has decided about this caller."""

    def wake(self) -> None:
        """Wake the caller, after what led to its answer was reported; harmless if it no longer waits."""
        self._woken = True
        waker = self._waker
        if waker is not None and not waker.ring() and self._decider is not None:
            self._decider.abandon(self)

    def wait(self, decider: Decider) -> None:
        """Block this thread until the answer is there. An interrupted caller has stopped waiting."""
        self._decider = decider
        if self._has_answer():
            return
        try:
            waker = self._waker = ThreadWaker()
            # `_woken` is read after `_waker` was set, and set before `_waker` is read, so one side
            # always notices the other.
            while not self._woken:
                patience = self._patience(decider)
                # In short parts: a signal that arrives right before the lock's own wait, or on
                # another thread, does not interrupt it, and a Ctrl-C would take effect only at its end.
                if waker.wait(min(patience, SIGNAL_CHECK)):
                    continue
                if self.done:
                    # Who decided takes long to report it, such as to a slow listener.
                    return
                if patience <= SIGNAL_CHECK:
                    decider.overdue()
        except BaseException:
            decider.abandon(self)
            raise

    async def wait_async(self, decider: Decider) -> None:
        """Wait until the answer is there, without blocking the caller's event loop.

        A caller that is cancelled has stopped waiting, and so has one whose loop is closed by the
        time the answer arrives.
        """
        self._decider = decider
        if self._has_answer():
            return
        try:
            import anyio
            from anyio.lowlevel import current_token
        except (ImportError, OSError, MemoryError):
            # The refresh needs anyio too and fails at once, so this wait is short.
            self.wait(decider)
            return
        try:
            woken = anyio.Event()
            self._waker = _TaskWaker(woken, current_token().native_token)
            while not self._woken:
                with anyio.move_on_after(self._patience(decider)) as patience:
                    await woken.wait()
                if patience.cancelled_caught:
                    if self.done:
                        return
                    decider.overdue()
        except BaseException:
            decider.abandon(self)
            raise

    def _has_answer(self) -> bool:
        """Whether there is nothing to wait for: it was decided here, or everything has been reported."""
        return self.done and (self._woken or self._settled_on == get_ident())

    def _patience(self, decider: Decider) -> float:
        """Seconds until the caller requests a decision itself."""
        now = decider.monotonic()
        return max(self.deadline(now) - now, 0.0) + SLACK


class AdmissionWaiter(Waiter):
    """A caller that requests admission; once `done` without an error, it has a `hold` of `account`."""

    __slots__ = ("account", "asked", "call", "effects", "extends", "hold", "ticket")

    def __init__(self, account: "Owner", call: "Call", extends: "Hold | None" = None) -> None:
        super().__init__()
        self.account = account
        self.call = call
        self.hold: Hold | None = None
        # The open hold that it requests more for.
        self.extends = extends
        # Its number for a shared head, once it waits.
        self.ticket = 0
        # Whether a shared head that was asked heard that it blocks others; None if it has to be asked.
        self.asked: bool | None = None
        # Events and log lines, for the caller's own thread and context.
        self.effects: Effects = []

    @property
    def operation(self) -> str:
        """What the caller's call is named."""
        return self.call.operation

    def _report(self) -> None:
        try:
            while self.effects:
                self.effects[0]()
                del self.effects[0]
        except BaseException:
            # Interrupted: the account delivers the rest, and releases the hold.
            assert self._decider is not None
            self._decider.abandon(self)
            raise

    def deadline(self, now: float) -> float:
        """When this caller's next deadline passes: first that of its `wait`, then the final one."""
        need = self.call.need
        return need.until if now < need.until else need.give_up

    def thaw(self, now: float) -> None:
        """The process was frozen: if the time ran out meanwhile, allow the time of one refresh again."""
        need = self.call.need
        if now > need.give_up + OVERSLEPT:
            need = replace(need, give_up=now + self.call.subscriber.terms.timeout)
            self.call = replace(self.call, need=need)


class BalanceWaiter(Waiter):
    """A caller that reads a balance: one requested at or after `oldest`, or a recent cached one."""

    __slots__ = ("balance", "give_up", "max_age", "oldest", "subscriber")

    def __init__(self, subscriber: "Subscriber", max_age: float, now: float) -> None:
        super().__init__()
        self.subscriber = subscriber
        self.max_age = max_age
        self.oldest = now - max_age
        self.give_up = now + subscriber.terms.timeout
        self.balance: Balance | None = None

    def deadline(self, now: float) -> float:  # noqa: ARG002  a reader has only one deadline
        """When this caller's only deadline passes."""
        return self.give_up

    def thaw(self, now: float) -> None:
        """The process was frozen: if the time ran out meanwhile, allow the time of one refresh again."""
        if now > self.give_up + OVERSLEPT:
            self.give_up = now + self.subscriber.terms.timeout


def _withhold() -> None:
    """Withhold a refusal from a daemon thread while the interpreter exits, which is its only cause.

    The main thread, in an exit handler, gets it at once.
    """
    if EXIT.begun and threading.get_ident() != threading.main_thread().ident:
        ThreadWaker().wait(_WITHHELD)
