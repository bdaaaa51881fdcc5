"""Handling of forks: the child starts with fresh state, and with new locks."""

import os
import threading
import weakref
from collections.abc import Callable

from budgetguard._engine.running_imports import await_imports

_AFRESH: list[Callable[[], None]] = []
_HOOKED: list[None] = []


class Locked:
    """Has a lock under which a user's code may run, and so a fork may happen."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        hook()
        _LOCKED.add(self)


_LOCKED: weakref.WeakSet[Locked] = weakref.WeakSet()


def start_afresh_by(start: Callable[[], None]) -> None:
    """Have `start` called in every child that is forked after `hook` was called."""
    _AFRESH.append(start)


def hook() -> None:
    """Register for forks, as soon as there is state that a child must not share."""
    # If two threads register at the same time, running the handler twice is harmless.
    if not _HOOKED and hasattr(os, "register_at_fork"):
        _HOOKED.append(None)
        os.register_at_fork(before=await_imports, after_in_child=_in_child)


def _in_child() -> None:
    for start in _AFRESH:
        start()
    for locked in list(_LOCKED):
        locked.lock = threading.RLock()
