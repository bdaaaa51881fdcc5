"""What a process has for its stores: a thread for each file, and a name that no other process has.

SQLite may not be carried through a fork. The child would believe that it has the locks of its parent's
connection, also for connections of its own, and would read and write a file that others take for unused. So
all files are closed before a fork, and opened again after it, by the parent and by the child.
"""

import itertools
import os
import secrets

from budgetguard.stores import _store_errors as words
from budgetguard.stores._worker import StoreWorker
from budgetguard.stores.base import StoreUnavailable


class StoreThreads:
    """The threads of this process by path, and its name; both are new in a forked child."""

    def __init__(self) -> None:
        # Of the parents: never used, and never collected, which would close what is in them.
        self._left: list[StoreWorker] = []
        self._unusable: frozenset[str] = frozenset()
        self.numbers = itertools.count(1)
        self._begin()
        # Not with the first use: a child of a process that never used its store would have the same name.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child
            )

    def of(self, path: str) -> StoreWorker:
        """The thread for a file; raises StoreUnavailable where a fork has made that impossible."""
        if path in self._unusable:
            raise StoreUnavailable(words.copied_by_a_fork(path))
        # A signal handler or a finalizer may have made one in the meantime.
        return self.workers.get(path) or self.workers.setdefault(
            path, StoreWorker(path, self.token)
        )

    def _begin(self) -> None:
        self.token = secrets.token_hex(8)
        self.workers: dict[str, StoreWorker] = {}

    def _before(self) -> None:
        for worker in list(self.workers.values()):
            worker.pause()

    def _in_parent(self) -> None:
        for worker in list(self.workers.values()):
            worker.resume()

    def _in_child(self) -> None:
        workers = self.workers
        self._left += workers.values()
        self._unusable |= {path for path, worker in workers.items() if worker.copied}
        self._begin()
        for worker in self._left:
            worker.let_go()


PROCESS = StoreThreads()
