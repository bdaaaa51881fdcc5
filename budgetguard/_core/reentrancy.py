"""Which code must not wait: code that the library called, and code that interrupted the library."""

import sys
from contextvars import ContextVar
from threading import get_ident


class Inside:
    """Marks that the thread with the ident `thread` runs inside the library; None when it no longer does.

    A context variable alone is not enough: tasks and threads that a listener or a provider starts
    copy its value, and continue after the library has returned.
    """

    __slots__ = ("thread",)

    def __init__(self, thread: int | None = None) -> None:
        self.thread = thread

    @property
    def here(self) -> bool:
        """Whether the current thread is the marked one."""
        return self.thread == get_ident()


INSIDE: ContextVar[Inside | None] = ContextVar("budgetguard_inside", default=None)
"""Set in a provider's fetch and in `on_event`, and copied to whatever these start, see `Inside.here`."""

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
    inside = INSIDE.get()
    if inside is not None and inside.here:
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
