"""Which code must not wait: code that the library called, and code that interrupted the library."""

import sys
from contextvars import ContextVar
from threading import get_ident
from typing import Protocol, Self


class CallState(Protocol):
    """What is known about the code that makes a call: see `Inside`, and `CallContext`.

    It belongs to the calls of one `ledger`; what it is about other ledgers is in `outer`.
    """

    @property
    def outer(self) -> "CallState | None":
        """The state around this one."""
        ...

    @property
    def ledger(self) -> object:
        """The ledger whose calls this state is about; None if it is about no ledger."""
        ...

    @property
    def here(self) -> bool:
        """Whether the code runs inside the library, which must not wait for itself."""
        ...


class Inside:
    """Marks that the thread with the ident `thread` runs inside the library; None when it no longer does.

    A context variable alone is not enough: tasks and threads that a listener or a provider starts
    copy its value, and continue after the library has returned. The budgets and labels around the call
    that led here, if any, are those of `outer`.
    """

    __slots__ = ("outer", "thread")

    ledger: None = None

    def __init__(self, thread: int | None = None, outer: CallState | None = None) -> None:
        self.thread = thread
        self.outer = outer

    def within(self, outer: CallState) -> Self:
        """The same for the code around which `outer` is."""
        return type(self)(self.thread, outer)

    @property
    def here(self) -> bool:
        """Whether the current thread is the marked one."""
        return self.thread == get_ident()


CALL_STATE: ContextVar[CallState | None] = ContextVar("budgetguard_call_state", default=None)
"""Set in a provider's fetch and in `on_event`, and in blocks with a budget or labels.

It is copied to whatever is started there. One variable for both, because every call reads it.
"""

ATOMIC = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether no other thread and no signal handler can run between steps that call nothing."""

CHANGING: dict[int, object] = {}
"""By thread: the object whose state or lock the thread is working on.

An entry is set before the lock is acquired and removed after it was released. A signal handler or a
finalizer may interrupt the thread in between. Code that runs there must not wait: neither for this
lock, nor for another one, nor for the private loop.
"""


def forbid_waiting(operation: str) -> None:
    """Raise RuntimeError where `operation` would deadlock by waiting for itself.

    This is the case in `on_event`, in a provider's fetch, and in a signal handler or a finalizer
    that interrupted a change on the same thread.
    """
    state = CALL_STATE.get()
    if state is not None and state.here:
        msg = (
            f"{operation} is guarded and was called from inside budgetguard itself (from on_event, "
            "or from a provider's fetch), where it would deadlock. Call it from your own code, or "
            "from another thread."
        )
        raise RuntimeError(msg)
    if get_ident() in CHANGING:
        raise RuntimeError(interrupting(operation))


def interrupting(operation: str) -> str:
    """The message for a call in a signal handler or a finalizer that interrupted the library."""
    return (
        f"{operation} was called by a signal handler or a finalizer (__del__) that interrupted "
        "budgetguard on the same thread, where waiting would deadlock. Let the handler set a "
        "flag or start a thread, and make the call there."
    )
