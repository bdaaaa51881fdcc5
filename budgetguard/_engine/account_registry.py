"""The state that exists once per process: the private loop, and one account per credential.

Apart from the default guard and the switch, the package has no other global state.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, TypeVar

from budgetguard._core.clock import SYSTEM
from budgetguard._core.reentrancy import CHANGING
from budgetguard._engine.account import Account
from budgetguard._engine.fork import hook, start_afresh_by
from budgetguard._engine.local_account import LocalAccount
from budgetguard._engine.subscriber import Subscriber
from budgetguard._io.exit import EXIT

if TYPE_CHECKING:
    from budgetguard._io.loop import Runtime
    from budgetguard.providers.base import Profile
    from budgetguard.stores.base import Store

T = TypeVar("T")
_SWEEP_ABOVE = 64


class _Process:
    def __init__(self) -> None:
        self.accounts: weakref.WeakSet[Account] = weakref.WeakSet()
        self.begin()
        self.sweep_above = _SWEEP_ABOVE
        self.abandoned: list[Runtime] = []

    def begin(self) -> None:
        self.lock = threading.RLock()
        self.runtime: Runtime | None = None
        self.override: Runtime | None = None
        self.named: dict[tuple[int, Hashable, str], Account] = {}


_PROCESS = _Process()


def _alone(work: Callable[[], T]) -> T:
    """Do `work` under the process's lock. It must not wait for another lock, see `CHANGING`."""
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
    """The runtime of this process; it starts no thread until one is needed."""
    from budgetguard._io.loop import Runtime

    def find() -> Runtime:
        here = _PROCESS.override or _PROCESS.runtime
        if here is None:
            made = Runtime(SYSTEM)
            # A signal handler or a finalizer may have made one in the meantime.
            here = _PROCESS.runtime = _PROCESS.runtime or made
        return here

    return _alone(find)


@contextlib.contextmanager
def runtime_of(other: "Runtime") -> Iterator[None]:
    """Within the block, new guards use `other`; for tests that turn the clock by hand."""
    before, _PROCESS.override = _PROCESS.override, other
    try:
        yield
    finally:
        _PROCESS.override = before


def join(
    provider: "Profile",
    subscriber: Subscriber,
    store: "Store | None" = None,
    hold_for: float | None = None,
) -> Account:
    """Add a guard to its account: one for each fingerprint and store, a new one without a fingerprint.

    `hold_for` is how long the store keeps the lease of a process that it does not hear of.
    """
    here = runtime()
    fingerprint = provider.fingerprint
    _sweep()
    hook()

    def find() -> Account:
        where = None if store is None else store.identity
        key = (id(here), where, fingerprint) if fingerprint else None
        account = _PROCESS.named.get(key) if key else None
        if account is None:
            account = _new_account(provider, here, store, hold_for)
            if key:
                # A signal handler or a finalizer may have made one in the meantime.
                account = _PROCESS.named.setdefault(key, account)
            _PROCESS.accounts.add(account)
        account.joining += 1
        return account

    def found() -> None:
        account.joining -= 1

    account = _alone(find)
    try:
        # Not under the lock: its effects may call a user's code, which may make a guard.
        account.join(subscriber)
    finally:
        _alone(found)
    return account


def _new_account(
    provider: "Profile", here: "Runtime", store: "Store | None", hold_for: float | None
) -> Account:
    if store is None:
        return LocalAccount(provider, here, runtime)
    from budgetguard._engine.shared_account import SharedAccount

    return SharedAccount(provider, here, runtime, store, hold_for)


def _sweep() -> None:
    """Drop accounts without guards, open holds, waiters and recent debits."""
    named = _PROCESS.named
    if len(named) < _PROCESS.sweep_above:
        return
    idle = [(key, account) for key, account in list(named.items()) if not account.subscribers]
    # Also not under the lock.
    quiet = [(key, account) for key, account in idle if account.quiet()]

    def forget() -> list[Account]:
        gone = [(key, each) for key, each in quiet if not (each.subscribers or each.joining)]
        for key, _ in gone:
            named.pop(key, None)
        _PROCESS.sweep_above = max(_SWEEP_ABOVE, 2 * len(named))
        return [account for _, account in gone]

    for account in _alone(forget):
        account.retire()


def _after_fork() -> None:
    """Reset the child's state. The parent's loop is only set aside: closing it here would break it there."""
    for runtime_before in (_PROCESS.runtime, _PROCESS.override):
        if runtime_before is not None:
            _PROCESS.abandoned.append(runtime_before)
    named = _PROCESS.named
    accounts = list(_PROCESS.accounts)
    CHANGING.clear()
    EXIT.begun = False
    _PROCESS.begin()
    fresh = runtime()
    for (_, where, fingerprint), account in named.items():
        _PROCESS.named[id(fresh), where, fingerprint] = account
    for account in accounts:
        account.forget()


start_afresh_by(_after_fork)
