"""What a process has one of: the private loop, and one account per credential; and what a fork does.

This is all the state that the package keeps of itself, besides the default guard and the switch.
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from budgetguard.account import Account
from budgetguard.asker import Asker
from budgetguard.clock import SYSTEM
from budgetguard.inside import CHANGING
from budgetguard.waiting import EXIT

if TYPE_CHECKING:
    from budgetguard.loop import Runtime

T = TypeVar("T")
_SWEEP_ABOVE = 64


class _Process:
    def __init__(self) -> None:
        self.accounts: weakref.WeakSet[Account] = weakref.WeakSet()
        self.locked: weakref.WeakSet[Locked] = weakref.WeakSet()
        self.begin()
        self.hooked = False
        self.sweep_above = _SWEEP_ABOVE
        self.abandoned: list[Runtime] = []

    def begin(self) -> None:
        self.lock = threading.RLock()
        self.runtime: Runtime | None = None
        self.override: Runtime | None = None
        self.named: dict[tuple[int, str], Account] = {}


class Locked:
    """Something with a lock that a user's code may run under, so that a fork may come meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        _hook()
        _PROCESS.locked.add(self)


_PROCESS = _Process()


def _alone(work: Callable[[], T]) -> T:
    """Do `work` under the process's lock. It must not wait for another, see `CHANGING`."""
    me = get_ident()
    before = CHANGING.get(me)
    try:
        CHANGING[me] = _PROCESS
        with _PROCESS.lock:
            return work()
    finally:
        if before is None:
            CHANGING.pop(me, None)
        else:
            CHANGING[me] = before


def runtime() -> "Runtime":
    """The runtime of this process; no thread is started before somebody needs one."""
    from budgetguard.loop import Runtime

    def find() -> Runtime:
        here = _PROCESS.override or _PROCESS.runtime
        if here is None:
            made = Runtime(SYSTEM)
            # A handler or finalizer that came meanwhile may have made one.
            here = _PROCESS.runtime = _PROCESS.runtime or made
        return here

    return _alone(find)


@contextlib.contextmanager
def runtime_of(other: "Runtime") -> Iterator[None]:
    """Within the block, guards that are made use `other`; for tests that turn the clock by hand."""
    before, _PROCESS.override = _PROCESS.override, other
    try:
        yield
    finally:
        _PROCESS.override = before


def join(provider: Any, asker: Asker) -> Account:
    """Count a guard in at its account: one for each fingerprint, a new one where it has none."""
    here = runtime()
    fingerprint = getattr(provider, "fingerprint", None)
    _sweep()
    _hook()

    def find() -> Account:
        key = (id(here), fingerprint) if fingerprint else None
        account = _PROCESS.named.get(key) if key else None
        if account is None:
            account = Account(provider, here, runtime)
            if key:
                # A handler or finalizer that came meanwhile may have made one.
                account = _PROCESS.named.setdefault(key, account)
            _PROCESS.accounts.add(account)
        account.joining += 1
        return account

    def found() -> None:
        account.joining -= 1

    account = _alone(find)
    try:
        # Not under the lock: what comes of it may call a user's code, and that may make a guard.
        account.join(asker)
    finally:
        _alone(found)
    return account


def _sweep() -> None:
    """Forget accounts that no guard uses and nobody may still spend from; the rest stay."""
    named = _PROCESS.named
    if len(named) < _PROCESS.sweep_above:
        return
    idle = [(key, account) for key, account in list(named.items()) if not account.askers]
    # Not under the lock either.
    quiet = [(key, account) for key, account in idle if account.quiet()]

    def forget() -> None:
        for key, account in quiet:
            if not (account.askers or account.joining):
                named.pop(key, None)
        _PROCESS.sweep_above = max(_SWEEP_ABOVE, 2 * len(named))

    _alone(forget)


def _hook() -> None:
    # Twice, should two threads come at once, does no harm.
    if not _PROCESS.hooked and hasattr(os, "register_at_fork"):
        _PROCESS.hooked = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """Start the child afresh. The parent's loop is kept, untouched: closing it would close hers."""
    for runtime_before in (_PROCESS.runtime, _PROCESS.override):
        if runtime_before is not None:
            _PROCESS.abandoned.append(runtime_before)
    named = _PROCESS.named
    accounts = list(_PROCESS.accounts)
    CHANGING.clear()
    EXIT.begun = False
    _PROCESS.begin()
    fresh = runtime()
    for (_, fingerprint), account in named.items():
        _PROCESS.named[id(fresh), fingerprint] = account
    for account in accounts:
        account.forget()
    for locked in list(_PROCESS.locked):
        locked.lock = threading.RLock()
