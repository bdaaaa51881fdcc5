"""What must be known about a session after the process that opened it has died.

A folder holds one small file per open session. Its first line, written before the session is requested,
has the random tag that is sent along; its second line has the id, once that is known. The file is
removed when the session is confirmed gone. The owner keeps the file locked: a process that can lock it
may end the session. A lock ends with its process, however that dies. Process ids are not used, because
the system assigns them again.
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

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import ConfigurationError
from budgetguard._core.events import logger

_PREFIX, _SUFFIX = "session-", ".jsonl"
_MODE = 0o600
_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Note:
    """A session as it is recorded before it is requested.

    `minutes` is its longest life, `at` the wall clock in seconds, and `account` a digest of base URL and
    key, from which the key cannot be recovered.
    """

    tag: str
    minutes: int
    at: float
    account: str


class JournalEntry:
    """One session's file, locked by this process. A dropped entry is left to the reapers."""

    def __init__(self, path: Path, file: int, note: Note, session: str | None = None) -> None:
        self._path = path
        self._file: int | None = file
        self.note = note
        self.session = session

    def record(self, session: str) -> None:
        """Write the session's id to the file; raises OSError."""
        assert self._file is not None
        _append(self._file, {"session": session})
        self.session = session

    def forget(self) -> None:
        """The session is gone: remove the file. Raises OSError."""
        if self._file is not None:
            # Before the lock is released: nobody may find the file unlocked.
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            self.leave()

    def leave(self) -> None:
        """Release the lock: any reaper may now end the session."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __del__(self) -> None:
        self.leave()


Found: TypeAlias = JournalEntry | Literal["living", "unreadable"]


class Journal:
    """The open sessions, recorded in a folder on a local disk.

    The folder is created when it is first needed, readable only by its owner. Several processes can share
    it; let all processes of one account do so. Each write waits for the disk (milliseconds), also on an
    event loop. Raises ConfigurationError on Windows, which has no suitable locks.
    """

    @clean_traceback
    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if sys.platform == "win32":
            msg = "Journal needs locks that end with their process; Windows has none."
            raise ConfigurationError(msg)
        self.folder = Path(folder)
        self._entries: weakref.WeakSet[JournalEntry] = weakref.WeakSet()
        self._hooked = False

    def begin(self, note: Note) -> JournalEntry:
        """Record a session before it is requested; raises OSError if that fails."""
        self._hook()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path, file = self._create()
        entry = JournalEntry(path, file, note)
        self._entries.add(entry)
        try:
            _append(file, asdict(note))
            _sync_folder(self.folder)
        except BaseException:
            entry.forget()
            raise
        return entry

    def find(self) -> Iterator[Found]:
        """All recorded sessions: `"living"` if the owner is alive, else a locked entry.

        Leave or forget each entry before you take the next. A file without a complete first line is removed,
        because its session was never requested. A file with an invalid first line is logged and left in place;
        an invalid second line gives an entry without an id. Raises OSError for a folder that cannot be read; a
        folder that does not exist is empty.
        """
        try:
            # Not glob, which treats a folder without permission as empty.
            paths = sorted(self.folder.iterdir())
        except FileNotFoundError:
            return
        for path in paths:
            if not (path.name.startswith(_PREFIX) and path.suffix == _SUFFIX):
                continue
            try:
                found = _claim(path)
            except FileNotFoundError:  # removed by another reaper or by its owner
                continue
            except (OSError, ValueError, RecursionError) as error:
                logger.warning("%s cannot be read as the record of a session: %s", path, error)
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
            # A reaper may have found it empty meanwhile, and removed it.
            if _lock(file) and os.fstat(file).st_nlink:
                return path, file
            os.close(file)

    def _hook(self) -> None:
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(self)))


def check_journal(journal: object) -> None:
    """Raise TypeError if this is not a Journal."""
    if not isinstance(journal, Journal):
        msg = f"journal takes a Journal, not {type(journal).__name__}: Journal(folder) makes one"
        raise TypeError(msg)


def account_of(client: Any) -> str:
    """A digest of a client's address and key."""
    written = f"budgetguard journal\n{client.base_url}\n{client.api_key}"
    return hashlib.sha256(written.encode()).hexdigest()


def _let_go(journal: "weakref.ref[Journal]") -> None:
    """In a forked child: close the files, because the locks belong to the parent and must end with it."""
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
        if not os.fstat(file).st_nlink:  # another reaper was first
            return None
        lines = os.read(file, _LARGEST).split(b"\n")
        whole = [
            line for line in lines[:-1] if line
        ]  # anything after the last newline is incomplete
        if not whole:
            path.unlink()
            return None
        note, ids = _read(whole)
        kept = True
        return JournalEntry(path, file, note, ids[-1] if ids else None)
    finally:
        if not kept:
            os.close(file)


def _read(lines: list[bytes]) -> tuple[Note, list[str]]:
    """The recorded note and ids; raises ValueError if the first line is not a session's.

    An invalid line after it is ignored, because the tag identifies the session.
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
        msg = "a value has the wrong type"
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
    if sys.platform == "win32":  # no Journal exists there
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
