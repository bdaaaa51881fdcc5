"""The store in a file: for processes on one machine, without a server."""

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.durations import seconds
from budgetguard._core.errors import ConfigurationError
from budgetguard.stores._machine import network_file_system
from budgetguard.stores._store_errors import on_a_network
from budgetguard.stores.base import StoreUnavailable

if TYPE_CHECKING:
    from budgetguard._core.store_messages import Message, Reply
    from budgetguard._io.loop import Runtime
    from budgetguard.stores._worker import StoreWorker


# A database in memory, and URLs.
_NO_PATHS = (":memory:", "file:", "sqlite:")


class SQLiteStore:
    """A file on a local disk that all processes of one user on one machine can share.

    - `path`: of the file, which is created when it is first needed. Its folder must exist. Beside it there will
      be `-wal` and `-shm` files and a folder `-members`, all readable by their owner alone.
    - `timeout`: seconds that one transaction may take, waiting for other processes included.

    Nothing is started here. A file that is deleted while it is used is made again, and its members tell it
    what they hold; credits of members that died before that are forgotten. Do not open, copy or restore
    the file while it is used. Raises ConfigurationError for a path that cannot serve, and on Windows.
    """

    expires = False
    drift = 0.0

    @clean_traceback
    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 2) -> None:
        if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
            msg = f"SQLiteStore takes the path of a file, not {type(path).__name__}"
            raise TypeError(msg)
        self.timeout = seconds(timeout, "timeout", positive=True)
        if sys.platform == "win32":
            msg = "SQLiteStore needs locks that end with their process; Windows has none."
            raise ConfigurationError(msg)
        given = os.fspath(path)
        if not given or "\0" in given or given.startswith(_NO_PATHS) or "://" in given:
            msg = (
                "SQLiteStore takes the path of a file that its processes share, such as "
                '"/var/lib/my-service/credits.db".'
            )
            raise ConfigurationError(msg)
        if given.startswith("~"):
            msg = 'SQLiteStore does not expand "~": pass Path(path).expanduser().'
            raise ConfigurationError(msg)
        # One file is one store, whatever name it is reached by.
        self.path = os.path.realpath(given)
        _check_place(self.path)
        self.name = f"the store at {self.path}"
        # Not in the first call: a child that another thread forks meanwhile would wait for the import for ever.
        from budgetguard.stores import _delivery, _processes  # noqa: F401

    @property
    def identity(self) -> Hashable:
        """Equal for two objects with the same file."""
        return ("sqlite", self.path)

    def link(self, account: str, runtime: "Runtime") -> "SQLiteLink":
        """A link for the account with that fingerprint. Nothing is started before the first exchange."""
        return SQLiteLink(self, account, runtime)

    def __repr__(self) -> str:
        return f"SQLiteStore({self.path!r}, timeout={self.timeout:g})"


class SQLiteLink:
    """One account of this process in a file."""

    def __init__(self, store: SQLiteStore, account: str, runtime: "Runtime") -> None:
        # Imported late: most programs that could have a store have none.
        from budgetguard.stores._processes import PROCESS

        self.account = account
        self._process = PROCESS
        self._number = next(PROCESS.numbers)
        self._store = store
        self._runtime = runtime
        self._hear: Callable[[], None] | None = None
        self._attended: StoreWorker | None = None

    @property
    def member(self) -> str:
        """The process and a number; another one in a forked child."""
        return f"{self._process.token}.{self._number}"

    async def exchange(self, message: "Message") -> "Reply":
        """Send a message, on the private loop; raises StoreUnavailable within the store's timeout."""
        from budgetguard.stores._delivery import exchange

        worker = self._process.of(self._store.path)
        return await exchange(worker, self, message, self._store.timeout)

    def listen(self, hear: Callable[[], None] | None) -> None:
        """While set, have `hear` called on the private loop when this member should send a message."""
        listened, self._hear = self._hear is not None, hear
        if hear is not None:
            # A hint may be lost: the next exchange tells what is wrong.
            with contextlib.suppress(StoreUnavailable):
                worker = self._process.of(self._store.path)
                if not listened or worker is not self._attended:
                    self._attended = worker
                    worker.attend(self)

    def close(self) -> None:
        """Give up the link. A member that did not leave counts as dead from now on."""
        self._hear = None
        worker = self._process.workers.get(self._store.path)
        if worker is not None:
            worker.part(self)

    @property
    def listening(self) -> bool:
        """Whether it wants to be notified."""
        return self._hear is not None

    def notify(self) -> None:
        """Have whoever listens called on the private loop."""
        self._runtime.nudge(self._heard)

    def _heard(self) -> None:
        if self._hear is not None:
            self._hear()


def _check_place(path: str) -> None:
    """Raise ConfigurationError where no file of ours can be."""
    folder = os.path.dirname(path)  # noqa: PTH120  as the path is: a str
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116  likewise
            msg = f"{path} is a directory: SQLiteStore takes the path of a file in it."
            raise ConfigurationError(msg)
    except OSError:
        pass  # it is not there yet, or that is told when it is opened
    if os.path.isfile(folder):  # noqa: PTH113  likewise
        msg = f"{folder} is a file, and no file can be in it: give SQLiteStore another path."
        raise ConfigurationError(msg)
    if not os.path.isdir(folder):  # noqa: PTH112  likewise
        msg = f"There is no directory {folder}: create it, because SQLiteStore does not."
        raise ConfigurationError(msg)
    kind = network_file_system(path)
    if kind is not None:
        reason = on_a_network(path, kind)
        msg = f"{reason[0].upper()}{reason[1:]}."
        raise ConfigurationError(msg)
