"""One guard per key, for programs that spend on behalf of many customers."""

import weakref
from collections.abc import Callable, Hashable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.reentrancy import CHANGING, interrupting
from budgetguard._core.sync_callables import check_plain, leave_alone
from budgetguard._engine.binding import binding_of
from budgetguard._engine.fork import Locked
from budgetguard.guard import Guard

if TYPE_CHECKING:
    from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)


class GuardPool(Generic[K]):
    """A pool of guards: `pool[key]` is the guard of that key, made by `make_guard(key)` on first use.

    The pool keeps about `maxsize` guards and drops the least recently used ones first. It keeps a
    guard beyond that number while the guard has an open hold, a waiter, or a debit that its balance
    cannot show yet. A dropped guard that is still referenced elsewhere is returned again instead of
    making a second one for the same key.

    The pool is thread-safe. `make_guard` is called under the pool's lock, and an exception that it
    raises reaches the caller. Keys are never shown, neither in the pool's repr nor in its errors.
    """

    @clean_traceback
    def __init__(self, make_guard: Callable[[K], Guard], maxsize: int = 1024) -> None:
        if not callable(make_guard):
            msg = f"make_guard takes a callable, not {type(make_guard).__name__}"
            raise TypeError(msg)
        check_plain(make_guard, "make_guard")
        if isinstance(maxsize, bool) or not isinstance(maxsize, int):
            msg = f"maxsize takes an int, not {type(maxsize).__name__}"
            raise TypeError(msg)
        if maxsize < 1:
            msg = f"maxsize must be at least 1, not {maxsize}"
            raise ValueError(msg)
        self._make_guard = make_guard
        self._locked = Locked()
        self._changing: object = None
        self._busy: dict[K, Guard] = {}
        self._referenced: weakref.WeakValueDictionary[K, Guard] = weakref.WeakValueDictionary()
        self._recent = _recent(maxsize, self._busy)

    def __getitem__(self, key: K) -> Guard:
        if get_ident() in CHANGING:
            return self._known(key)
        if not _hashable(key):
            msg = f"a pool's key must be hashable, and a {type(key).__name__} is not"
            # A traceback may be printed together with its locals.
            del key
            raise TypeError(msg)
        with self._locked.lock:
            if self._changing is self._locked.lock:
                # Only this same thread can be inside already.
                return self._known(key)
            guard = self._find(key)
            if guard is None:
                try:
                    guard = _checked(self._make_guard(key))
                except BaseException:
                    # A traceback may be printed together with its locals.
                    del key
                    raise
                # A signal handler on this same thread may have made one in the meantime.
                guard = self._find(key, guard)
            assert guard is not None
            return guard

    def __len__(self) -> int:
        return len(self._recent) + len(self._busy)

    def __reduce_ex__(self, _: Any) -> NoReturn:
        msg = (
            "A GuardPool cannot be copied or pickled: its guards' holds and keys belong to this process. "
            "Make another pool in the other process, with the same make_guard."
        )
        raise TypeError(msg)

    def __repr__(self) -> str:
        return f"<GuardPool of {len(self)} guards>"

    def _known(self, key: K) -> Guard:
        """An existing guard, for a signal handler or a finalizer, which must not wait."""
        guard = self._referenced.get(key)
        if guard is None:
            raise RuntimeError(interrupting("A pool's guard"))
        return guard

    def _find(self, key: K, otherwise: Guard | None = None) -> Guard | None:
        """The guard of that key, or else `otherwise`, marked as the most recently used."""
        # The lock itself and not a flag, because a forked child has a different lock.
        self._changing = self._locked.lock
        try:
            guard = self._recent.get(key)
            if guard is None:
                guard = self._busy.pop(key, None) or self._referenced.get(key)
                if guard is None and otherwise is not None:
                    guard = otherwise
                    self._drop_quiet()
                if guard is not None:
                    self._recent[key] = self._referenced[key] = guard
            return guard
        finally:
            self._changing = None

    def _drop_quiet(self) -> None:
        for key in [key for key, guard in self._busy.items() if binding_of(guard).account.quiet()]:
            del self._busy[key]


def _hashable(key: object) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


@clean_traceback
def _checked(guard: object) -> Guard:
    if not isinstance(guard, Guard):
        leave_alone(guard)
        msg = f"make_guard must return a Guard, not {type(guard).__name__}"
        raise TypeError(msg)
    return guard


def _recent(maxsize: int, busy: "dict[Any, Guard]") -> "LRUCache[Any, Guard]":
    from cachetools import LRUCache

    class Recent(LRUCache[Any, Guard]):
        """The recently used guards; one that is evicted while it is in use moves to `busy`."""

        def popitem(self) -> tuple[Any, Guard]:
            key, guard = super().popitem()
            if not binding_of(guard).account.quiet():
                busy[key] = guard
            return key, guard

    return Recent(maxsize)
