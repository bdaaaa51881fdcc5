"""What has to be known of a session once the process that opened it is dead.

One small file per open session, in one folder. Its first line is written before the session is asked
for, with the random tag that goes along; its second line, the id, once that is known; the file is
removed when the session is confirmed gone. As long as its owner lives, the file is locked: who can
lock it may end the session. A lock ends with its process however that dies, and no process id is
asked, because those are given out again.
"""

import contextlib
import hashlib
import json
import os
import secrets
import sys
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from budgetguard.errors import ConfigurationError
from budgetguard.events import logger

_PREFIX, _SUFFIX = "session-", ".jsonl"
_MODE = 0o600
_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Note:
    """A session as it is written down before it is asked for.

    `minutes` is its longest life, `at` the wall clock's seconds, `account` a digest of base URL and
    key: equal for the same, and no way back.
    """

    tag: str
    minutes: int
    at: float
    account: str


class Entry:
    """One session's file, locked by this process. One that is dropped is left to the reapers."""

    def __init__(self, path: Path, file: int, note: Note, session: str | None = None) -> None:
        self._path = path
        self._file: int | None = file
        self.note = note
        self.session = session

    def record(self, session: str) -> None:
        """Write the session's id down; raises OSError."""
        assert self._file is not None
        _append(self._file, {"session": session})
        self.session = session

    def forget(self) -> None:
        """The session is gone: remove the file. Raises OSError."""
        if self._file is not None:
            # Before the lock is given up: nobody may find the file unlocked.
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            self.leave()

    def leave(self) -> None:
        """Give the lock up: whoever comes may end the session."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __del__(self) -> None:
        self.leave()


Found: TypeAlias = Entry | Literal["living", "unreadable"]


class Journal:
    """The sessions that are open, in a folder on a local disk.

    Made when it is first needed, for its owner alone; several processes may share it, and all of one
    account should. Writing waits for the disk (milliseconds), on an event loop too. Raises
    ConfigurationError on Windows, which has no such locks.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if sys.platform == "win32":
            msg = "Journal needs locks that end with their process, which Windows does not have."
            raise ConfigurationError(msg)
        self.folder = Path(folder)
        self._entries: weakref.WeakSet[Entry] = weakref.WeakSet()
        self._hooked = False

    def begin(self, note: Note) -> Entry:
        """Write a session down before it is asked for; raises OSError where that cannot be done."""
        self._hook()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path, file = self._create()
        entry = Entry(path, file, note)
        self._entries.add(entry)
        try:
            _append(file, asdict(note))
            _sync_folder(self.folder)
        except BaseException:
            entry.forget()
            raise
        return entry

    def find(self) -> Iterator[Found]:
        """All sessions written down: `"living"` where the owner lives, else an entry, locked.

        Leave or forget each entry before the next. A file without a whole first line is removed: its
        session was never asked for. One whose first line makes no sense is logged, and stays; with a
        broken second line, it is an entry without an id. Raises OSError for a folder that cannot be
        read; one that is not there is empty.
        """
        try:
            # Not glob, to which a folder without permission is an empty one.
            paths = sorted(self.folder.iterdir())
        except FileNotFoundError:
            return
        for path in paths:
            if not (path.name.startswith(_PREFIX) and path.suffix == _SUFFIX):
                continue
            try:
                found = _claim(path)
            except FileNotFoundError:  # another reaper's, or its owner's, doing
                continue
            except (OSError, ValueError, RecursionError) as error:
                logger.warning("%s is not to be read as a session's journal: %s", path, error)
                found = "unreadable"
            if found is not None:
                yield found

    def __repr__(self) -> str:
        return f"Journal({os.fspath(self.folder)!r})"

    def _create(self) -> tuple[Path, int]:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        while True:
            path = self.folder / f"{_PREFIX}{secrets.token_hex(16)}{_SUFFIX}"
            file = os.open(path, flags, _MODE)
            # A reaper may have come in between, have found it empty and removed it.
            if _lock(file) and os.fstat(file).st_nlink:
                return path, file
            os.close(file)

    def _hook(self) -> None:
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(self)))


def check_journal(journal: object) -> None:
    """Raise TypeError for what is no Journal."""
    if not isinstance(journal, Journal):
        msg = f"journal takes a Journal, not {type(journal).__name__}: Journal(folder) makes one"
        raise TypeError(msg)


def account_of(client: Any) -> str:
    """A digest of where a client goes and with which key."""
    written = f"budgetguard journal\n{client.base_url}\n{client.api_key}"
    return hashlib.sha256(written.encode()).hexdigest()


def _let_go(journal: "weakref.ref[Journal]") -> None:
    """In a forked child: the locks are the parent's, and are to end with it."""
    mine = journal()
    if mine is not None:
        for entry in list(mine._entries):  # noqa: SLF001  one file's own
            entry.leave()


def _claim(path: Path) -> Found | None:
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    kept = False
    try:
        if not _lock(file):
            return "living"
        if not os.fstat(file).st_nlink:  # another reaper was here first
            return None
        lines = os.read(file, _LARGEST).split(b"\n")
        whole = [line for line in lines[:-1] if line]  # what follows the last line's end is torn
        if not whole:
            path.unlink()
            return None
        note, ids = _read(whole)
        kept = True
        return Entry(path, file, note, ids[-1] if ids else None)
    finally:
        if not kept:
            os.close(file)


def _read(lines: list[bytes]) -> tuple[Note, list[str]]:
    """What was written; raises ValueError where the first line is no session's.

    A broken line after it is none: the tag leads to the session.
    """
    first, *others = lines
    try:
        note = Note(**json.loads(first))
    except TypeError as error:
        raise ValueError(error) from None
    kinds = {"tag": str, "minutes": int, "at": int | float, "account": str}
    if not note.tag or not all(
        isinstance(getattr(note, name), kind) for name, kind in kinds.items()
    ):
        msg = "a value is of another kind"
        raise ValueError(msg)
    return note, [id for id in map(_id_in, others) if id]


def _id_in(line: bytes) -> str | None:
    try:
        id = json.loads(line)["session"]
    except (ValueError, RecursionError, TypeError, LookupError):
        return None
    return id if isinstance(id, str) else None


def _append(file: int, record: dict[str, Any]) -> None:
    rest = json.dumps(record).encode() + b"\n"
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def _lock(file: int) -> bool:
    if sys.platform == "win32":  # no Journal was made
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
