"""One guard per key, for programs that spend on behalf of many."""

import weakref
from collections.abc import Callable, Hashable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from budgetguard.guard import Guard
from budgetguard.inside import CHANGING, interrupting
from budgetguard.process import Locked

if TYPE_CHECKING:
    from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)


class GuardPool(Generic[K]):
    """`pool[key]` is the one guard of that key, made by `make_guard(key)` on first use.

    Keeps about `maxsize` guards, least recently used first out. A guard is kept beyond that while
    it has an open hold, a waiting caller, or a debit that its balance cannot show yet; one that
    somebody still references is handed out again instead of being made twice. Thread-safe;
    `make_guard` is called under the pool's lock, and what it raises reaches the caller. Keys are
    never shown: not in the pool's repr, not in errors of its own.
    """

    def __init__(self, make_guard: Callable[[K], Guard], maxsize: int = 1024) -> None:
        if not callable(make_guard):
            msg = f"make_guard takes a callable, not {type(make_guard).__name__}"
            raise TypeError(msg)
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
        with self._locked.lock:
            if self._changing is self._locked.lock:
                # Only this very thread can be inside already.
                return self._known(key)
            guard = self._find(key)
            if guard is None:
                try:
                    guard = _checked(self._make_guard(key))
                except BaseException:
                    # A traceback may be printed together with its locals.
                    del key
                    raise
                # A handler that came meanwhile, on this very thread, may have been faster.
                guard = self._find(key, guard)
            assert guard is not None
            return guard

    def __len__(self) -> int:
        return len(self._recent) + len(self._busy)

    def __repr__(self) -> str:
        return f"<GuardPool of {len(self)} guards>"

    def _known(self, key: K) -> Guard:
        """For a handler or a finalizer, that can wait for nothing: a guard that is there, or none."""
        guard = self._referenced.get(key)
        if guard is None:
            raise RuntimeError(interrupting("A pool's guard"))
        return guard

    def _find(self, key: K, otherwise: Guard | None = None) -> Guard | None:
        """The guard of that key, or else the one given, as the latest used."""
        # The lock itself, and no flag: in a forked child it is another one.
        self._changing = self._locked.lock
        try:
            guard = self._recent.get(key)
            if guard is None:
                guard = self._busy.pop(key, None) or self._referenced.get(key)
                if guard is None and otherwise is not None:
                    guard = otherwise
                    self._let_go()
                if guard is not None:
                    self._recent[key] = self._referenced[key] = guard
            return guard
        finally:
            self._changing = None

    def _let_go(self) -> None:
        for key in [key for key, guard in self._busy.items() if guard.account.quiet()]:
            del self._busy[key]


def _checked(guard: object) -> Guard:
    if not isinstance(guard, Guard):
        msg = f"make_guard has to return a Guard, not {type(guard).__name__}"
        raise TypeError(msg)
    return guard


def _recent(maxsize: int, busy: "dict[Any, Guard]") -> "LRUCache[Any, Guard]":
    from cachetools import LRUCache

    class Recent(LRUCache[Any, Guard]):
        """The recently used; what has to go and may not be forgotten goes to `busy`."""

        def popitem(self) -> tuple[Any, Guard]:
            key, guard = super().popitem()
            if not guard.account.quiet():
                busy[key] = guard
            return key, guard

    return Recent(maxsize)
