"""Warns, once per place and loop, when a wait blocks a thread that runs an event loop."""

import sys
import warnings
from weakref import WeakKeyDictionary

from budgetguard._engine.call_site import caller

_WARNED: "WeakKeyDictionary[object, set[tuple[str, int]]]" = WeakKeyDictionary()


_ADMISSIONS = "Use `async with guard.require_credits(...)`, `await guard.aacquire(...)` or an `async def` function"


def warn_if_looped(operation: str, use: str = _ADMISSIONS) -> None:
    """Warn that `operation` blocks this thread's event loop, and say what to use instead.

    Does nothing if no loop runs in this thread, as in worker threads. The wait may also be futile:
    credits held by the loop's own tasks cannot be returned while its thread is blocked.
    """
    found = _running_loop()
    if found is None:
        return
    library, loop = found
    frame, depth = caller()
    place = ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
    warned = _WARNED.setdefault(loop, set())
    if place in warned:
        return
    warned.add(place)
    msg = (
        f"{operation} has to wait, which blocks the {library} event loop that runs in this thread: "
        f"no other task can run meanwhile. {use}, or call it in another thread."
    )
    warnings.warn(msg, RuntimeWarning, stacklevel=depth + 1)


def _running_loop() -> tuple[str, object] | None:
    """The event loop that runs in this thread, if there is one; imports no event loop library."""
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    try:
        if asyncio is not None:
            return "asyncio", asyncio.get_running_loop()
    except (RuntimeError, AttributeError):  # AttributeError: only half imported
        pass
    try:
        if trio is not None:
            return "trio", trio.lowlevel.current_trio_token()
    except (RuntimeError, AttributeError):
        pass
    return None
