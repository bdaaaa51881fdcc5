"""A thread that has to wait while an event loop runs in it: told once for each place and loop."""

import sys
import warnings
from weakref import WeakKeyDictionary

from budgetguard.callers import caller

_TOLD: "WeakKeyDictionary[object, set[tuple[str, int]]]" = WeakKeyDictionary()


def warn_if_looped(operation: str) -> None:
    """Warn that `operation` keeps this thread's event loop from running; say what to use instead.

    Nothing where there is no such loop: worker threads have none. What a loop's own tasks hold is
    not given back while its thread waits, so the wait may be in vain, too.
    """
    found = _running_loop()
    if found is None:
        return
    library, loop = found
    frame, depth = caller()
    place = ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
    told = _TOLD.setdefault(loop, set())
    if place in told:
        return
    told.add(place)
    msg = (
        f"{operation} has to wait, and the {library} event loop that runs in this thread waits with "
        "it: no other task goes on meanwhile. Use `async with guard.require_credits(...)`, "
        "`await guard.aacquire(...)` or an `async def` function, or call it in another thread."
    )
    warnings.warn(msg, RuntimeWarning, stacklevel=depth + 1)


def _running_loop() -> tuple[str, object] | None:
    """The event loop that runs in this very thread, if there is one; imports none."""
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    try:
        if asyncio is not None:
            return "asyncio", asyncio.get_running_loop()
    except (RuntimeError, AttributeError):  # the other: half imported
        pass
    try:
        if trio is not None:
            return "trio", trio.lowlevel.current_trio_token()
    except (RuntimeError, AttributeError):
        pass
    return None
