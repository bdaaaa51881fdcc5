"""Who must not be made to wait: code that the library called, or that it was interrupted by."""

from contextvars import ContextVar
from threading import get_ident


class Inside:
    """A stay inside the library, on the thread that began it, until it is `over`.

    A context variable alone would not do: tasks and threads that a listener or a provider starts
    take its value with them, and go on when the library is done.
    """

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        self._thread: int | None = get_ident()

    def over(self) -> None:
        """From now on, code that runs in this context is its own master."""
        self._thread = None

    @property
    def here(self) -> bool:
        """Whether this thread is the one, and still at it."""
        return self._thread == get_ident()


INSIDE: ContextVar[Inside | None] = ContextVar("budgetguard_inside", default=None)
"""Set in a provider's fetch and in `on_event`, and in what these start, see `Inside.here`."""

CHANGING: dict[int, object] = {}
"""By thread, whose books or locks it is at: a signal's handler or a finalizer may interrupt it there.

Set before a lock is asked for, and taken back after it was given back. What runs on such a thread
all the same must not wait: not for this lock, not for another, not for the private loop.
"""


def forbid_waiting(operation: str) -> None:
    """Raise RuntimeError where `operation` would wait for itself.

    That is in `on_event` and in a provider's fetch, and in a signal's handler or a finalizer that
    came in the middle of a change on its own thread.
    """
    inside = INSIDE.get()
    if inside is not None and inside.here:
        msg = (
            f"{operation} is guarded and was called from inside budgetguard itself (from on_event, "
            "or from a provider's fetch). Call it from your own code, or from another thread."
        )
        raise RuntimeError(msg)
    if get_ident() in CHANGING:
        raise RuntimeError(interrupting(operation))


def interrupting(operation: str) -> str:
    """What to say of a call in a handler or finalizer that came at the wrong moment."""
    return (
        f"{operation} was called by a signal handler or a finalizer (__del__) that interrupted "
        "budgetguard on this very thread, where it can wait for nothing. Let the handler set a "
        "flag or start a thread, and make the call there."
    )
