"""The database file of a store: one connection, transactions in turn with other processes, and its identity.

SQLite's locks on a file belong to the process, by an old rule of POSIX: if any part of a program opens and
closes the file by itself, they are gone. Another process then takes itself for the last one that uses the
file, and removes its write-ahead log, while this one goes on writing to a log that nobody else reads. SQLite
notices none of this. So the file, its log and the index of that are compared with those at connection in
each transaction, before and after, and nothing here ever opens the file but SQLite.

Closing such a connection the usual way would write old pages over newer ones, and delete the newer log. A
second connection, which may only read, prevents that: SQLite tidies up only for the last connection of all.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from random import SystemRandom
from typing import Any, TypeAlias
from urllib.parse import quote

from budgetguard._core.clock import SYSTEM
from budgetguard.stores import _store_errors as words
from budgetguard.stores._machine import network_file_system
from budgetguard.stores.base import StoreUnavailable

FORMAT = 1
"""The version of the tables below; the state in them has its own."""

PROGRAM_ID = 0x62676364
"""What the file's header says it is."""

_TABLES = """
CREATE TABLE machine (id INTEGER PRIMARY KEY, boot TEXT, host TEXT, seen REAL);
CREATE TABLE heads (account TEXT PRIMARY KEY, revision INTEGER, origin TEXT) WITHOUT ROWID;
CREATE TABLE parts (
    account TEXT, part TEXT, member TEXT, state TEXT, PRIMARY KEY (account, part, member)
) WITHOUT ROWID;
CREATE TABLE wakes (
    member TEXT, account TEXT, count INTEGER, PRIMARY KEY (member, account)
) WITHOUT ROWID;
"""

_PRIMARY = 0xFF
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
# Who has waited longer tries more often, so that nobody is overtaken for long. Seconds.
_FIRST_PAUSE, _SHORTEST_PAUSE, _HALVED_AFTER = 0.001, 0.00005, 0.005
# Beyond that, the holder is not one of us, and trying often only costs time.
_LONG = 0.1
# After a contended transaction, others get their chance before this process's next one.
_YIELD = 0.0015

_uniform = SystemRandom().uniform


_Identity: TypeAlias = tuple[int, int] | None


class FileMoved(Exception):
    """The file, its log or the log's index is not the one that the connection was made to."""


class GiveWay(Exception):
    """Somebody wants the connection closed before the transaction began."""


class StillLocked(Exception):
    """The deadline passed before the transaction began."""


class StoreFile:
    """A file with one connection, which its thread opens and closes. Deadlines are monotonic seconds.

    `inode` is that of the file, and `connections` counts how often it was connected to.
    """

    def __init__(self, path: str, interrupted: Callable[[], bool]) -> None:
        self.path = path
        self.connection: sqlite3.Connection | None = None
        self.inode = 0
        self.connections = 0
        self._interrupted = interrupted
        self._anchor: sqlite3.Connection | None = None
        self._files: tuple[_Identity, _Identity, _Identity] = (None, None, None)
        self._contended = False
        self._ended = float("-inf")

    def begin(self, deadline: float) -> sqlite3.Connection:
        """Begin a transaction that may write; connects first where that is needed.

        Raises FileMoved, GiveWay, StillLocked, sqlite3.Error, OSError or StoreUnavailable.
        """
        connection = self.connection or self.connect(deadline)
        if self._contended:
            time.sleep(max(self._ended + _YIELD - SYSTEM.monotonic(), 0.0))
        self._in_turn(connection, "BEGIN IMMEDIATE", deadline)
        self.check()
        return connection

    def commit(self) -> None:
        """End the transaction; raises FileMoved if it is not certain that others will see it."""
        assert self.connection is not None
        self.connection.execute("COMMIT")
        self._ended = SYSTEM.monotonic()
        self.check()

    def check(self) -> None:
        """Raise FileMoved if one of the three files was deleted or replaced."""
        if self._files != self._found():
            raise FileMoved

    def check_format(self, connection: sqlite3.Connection) -> None:
        """Raise StoreUnavailable if a newer version has changed the tables; inside a transaction."""
        [(version,)] = connection.execute("PRAGMA user_version")
        if version > FORMAT:
            raise StoreUnavailable(words.too_new(self.path, version, FORMAT))

    def connect(self, deadline: float) -> sqlite3.Connection:
        """Open the file, and create it if it is not there."""
        kind = network_file_system(self.path)
        if kind is not None:
            raise StoreUnavailable(words.on_a_network(self.path, kind))
        # SQLite would create it readable for others. Only a file that is new is ever opened by hand.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        before = _identity(self.path)
        connection, anchor = self._open("rw"), None
        self.connections += 1
        try:
            self._prepare(connection, deadline)
            anchor = self._open("ro")
            # From now on it takes part in the lock of this process.
            self._in_turn(anchor, "SELECT count(*) FROM heads", deadline)
            files = self._found()
        except BaseException:
            _close_quietly(connection, anchor)
            raise
        if files[0] is None or files[0] != before or None in files:
            _close_quietly(connection, anchor)
            raise FileMoved
        self.connection, self._anchor, self._files = connection, anchor, files
        self.inode = files[0][1]
        return connection

    def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        if self.connection is not None and self.connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection; the last one of all processes tidies up."""
        connection, anchor = self.connection, self._anchor
        if connection is not None and anchor is not None:
            try:
                self.check()
            except (FileMoved, OSError):
                self.drop()
                return
            self.connection = self._anchor = None
            anchor.close()
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def drop(self) -> None:
        """Close the connection, and leave all files as they are."""
        connection, anchor = self.connection, self._anchor
        self.connection = self._anchor = None
        if connection is not None:
            _close_quietly(connection, anchor)

    def _prepare(self, connection: sqlite3.Connection, deadline: float) -> None:
        """See that it is a file of ours, and make it one if it is empty."""
        self._recognise(connection, deadline)
        [(mode,)] = self._in_turn(connection, "PRAGMA journal_mode", deadline)
        if mode != "wal":
            [(mode,)] = self._in_turn(connection, "PRAGMA journal_mode = WAL", deadline)
            if mode != "wal":
                raise StoreUnavailable(words.no_wal(self.path))
        # A crash of the machine ends all members, so what it may take of the last moment says little.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute(f"PRAGMA journal_size_limit = {2**20}")
        self._in_turn(connection, "BEGIN IMMEDIATE", deadline)
        if self._recognise(connection, deadline):
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {PROGRAM_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")

    def _recognise(self, connection: sqlite3.Connection, deadline: float) -> bool:
        """Whether the database is empty; raises StoreUnavailable if it is not one of ours."""
        # In this order: whoever makes the tables says whose they are in the same transaction.
        [(things,)] = self._in_turn(connection, "SELECT count(*) FROM sqlite_master", deadline)
        [(program,)] = self._in_turn(connection, "PRAGMA application_id", deadline)
        if program == PROGRAM_ID:
            self.check_format(connection)
            return False
        if program or things:
            raise StoreUnavailable(words.of_another_program(self.path))
        return True

    def _in_turn(
        self, connection: sqlite3.Connection, statement: str, deadline: float
    ) -> list[tuple[Any, ...]]:
        """The rows of a statement, which is run when nobody is in the way.

        SQLite's own waiting backs off, so that of several processes one gets everything.
        """
        began = SYSTEM.monotonic()
        self._contended = False
        while True:
            try:
                return connection.execute(statement).fetchall()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
            self._contended = True
            now = SYSTEM.monotonic()
            if now >= deadline:
                raise StillLocked
            if self._interrupted():
                raise GiveWay
            age = now - began
            pause = _FIRST_PAUSE
            if age < _LONG:
                pause = max(_FIRST_PAUSE * 0.5 ** (age / _HALVED_AFTER), _SHORTEST_PAUSE)
            time.sleep(_uniform(pause / 2, pause))

    def _open(self, mode: str) -> sqlite3.Connection:
        # Never created here: it would be readable for others.
        address = f"file:{quote(os.fsencode(self.path))}?mode={mode}"
        return sqlite3.connect(address, uri=True, isolation_level=None, timeout=0)

    def _found(self) -> tuple[_Identity, _Identity, _Identity]:
        path = self.path
        return _identity(path), _identity(f"{path}-wal"), _identity(f"{path}-shm")


def primary_code(error: sqlite3.Error) -> int:
    """What SQLite says went wrong, without the details."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process is in the way for the moment."""
    return primary_code(error) in _BUSY


def _identity(path: str) -> _Identity:
    try:
        found = os.stat(path)  # noqa: PTH116  a Path of it would be made in each transaction
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _close_quietly(connection: sqlite3.Connection, anchor: sqlite3.Connection | None) -> None:
    """Close so that no file is written or deleted: they may be others' by now."""
    for each in (connection, anchor):
        if each is not None:
            with contextlib.suppress(sqlite3.Error):
                each.close()
