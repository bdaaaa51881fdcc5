"""Imports that other threads are in the middle of, and forks.

They are lost to a child: there is nobody who would release the lock of the import. Python waits for it for
ever then, or takes the half of the module that was there for the whole. The private loop itself imports an HTTP
client with its first refresh, so without this a program that forks in that moment would have children whose
refreshes fail or hang. The same goes for the locks of OpenSSL, which its first client takes.
"""

import sys
import time
from threading import get_ident

from budgetguard._core.clock import SYSTEM

# Longer than imports take; but a module may also serve requests while it is imported.
_PATIENCE = 5.0
_PAUSE = 0.001
# Modules whose functions are on the stack of a thread that imports, or makes a client with its certificates.
# The first one has two names: the other is its name until somebody imports `importlib`.
_NOT_TO_BE_CUT = frozenset(
    {"importlib._bootstrap", "_frozen_importlib", "budgetguard._io.connections"}
)

_NOT_WAITED_FOR: set[int] = set()


def await_imports() -> None:
    """Before a fork: wait until no other thread is importing anything, at most five seconds, and once for each."""
    until = SYSTEM.monotonic() + _PATIENCE
    while True:
        importing = _importing_threads()
        _NOT_WAITED_FOR.intersection_update(importing)
        if importing == _NOT_WAITED_FOR:
            return
        if SYSTEM.monotonic() >= until:
            _NOT_WAITED_FOR.update(importing)
            return
        time.sleep(_PAUSE)


def _importing_threads() -> set[int]:
    found, me = set(), get_ident()
    for thread, top in sys._current_frames().items():  # noqa: SLF001  documented
        frame = None if thread == me else top
        while frame is not None:
            if frame.f_globals.get("__name__") in _NOT_TO_BE_CUT:
                found.add(thread)
                break
            frame = frame.f_back
    return found
