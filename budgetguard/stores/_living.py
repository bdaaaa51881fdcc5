"""Which members of a file live: the kernel knows, by a lock that ends with its process.

Each process keeps a file of its own locked, in a directory beside the database. A lock survives a stopped
process, and is gone when a process dies, however it dies. In the file is a line for each of its members, so
that a new database, which knows of nobody, can be told whom to wait for.

A file that can be locked belongs to nobody any more. Whoever finds it removes it: a member whose process has
no file is dead, too.
"""

import contextlib
import errno
import os
import re
import sys
import time
from dataclasses import dataclass

_LINE = 128
_WIDTH = _LINE - 1
_NAME = re.compile(r"[0-9a-f]{16}\Z")
_COMING, _HOLDS = "?", "+"
# Whoever has the file locked in passing lets go within microseconds.
_TRIES, _PAUSE = 2000, 0.001


@dataclass(frozen=True, slots=True)
class Living:
    """The members that live, and by account those that may hold credits: their first message took effect."""

    members: frozenset[str]
    holders: dict[str, frozenset[str]]


class LivingMembers:
    """The lock of this process, and what the locks of others tell. Only for the store's own thread."""

    def __init__(self, folder: str, process: str) -> None:
        self._folder = folder
        self._path = f"{folder}/{process}"
        self._process = process
        self._file: int | None = None
        # What is in this process's file, by line; None where a line is free.
        self._lines: list[tuple[str, str, str] | None] = []
        self._places: dict[tuple[str, str], int] = {}
        self._free: list[int] = []

    def enter(self) -> None:
        """Be alive for others, also if somebody removed the file; raises OSError."""
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._path), os.fstat(self._file)):  # noqa: PTH116
                    return
            os.close(self._file)
            self._file = None
        self._file = self._create()
        for place in range(len(self._lines)):
            self._write(place)

    def come(self, account: str, member: str) -> None:
        """The member lives, also if it holds nothing yet; before its message. Raises OSError."""
        if (account, member) in self._places:
            return
        if self._free:
            place = self._free.pop()
        else:
            place = len(self._lines)
            self._lines.append(None)
        self._places[account, member] = place
        self._lines[place] = (_COMING, account, member)
        self._write(place)

    def hold(self, account: str, member: str) -> None:
        """The member may hold credits from now on; before it hears so. Raises OSError."""
        place = self._places.get((account, member))
        if place is not None and self._lines[place] != (_HOLDS, account, member):
            self._lines[place] = (_HOLDS, account, member)
            self._write(place)

    def go(self, account: str, member: str) -> None:
        """The member is no more; raises OSError."""
        place = self._places.pop((account, member), None)
        if place is not None:
            self._lines[place] = None
            self._free.append(place)
            if self._file is not None:
                self._write(place)

    def survey(self) -> Living:
        """Who lives now, and remove the files of dead processes; raises OSError."""
        lines = [line for line in self._lines if line is not None]
        for name in os.listdir(self._folder):  # noqa: PTH208  not a Path of each
            if name != self._process and _NAME.match(name):
                lines += _lines_of(f"{self._folder}/{name}")
        holders: dict[str, set[str]] = {}
        for mark, account, member in lines:
            if mark == _HOLDS:
                holders.setdefault(account, set()).add(member)
        return Living(
            frozenset(member for _, _, member in lines),
            {account: frozenset(members) for account, members in holders.items()},
        )

    def leave(self) -> None:
        """Have no members any more."""
        self._lines, self._places, self._free = [], {}, []
        if self._file is not None:
            # Before the lock is released: nobody has to find the file unlocked.
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108
            self.let_go()

    def let_go(self) -> None:
        """Close the file. In a forked child: the lock is the parent's, and lasts as long as any copy is open."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _create(self) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)  # noqa: PTH102
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        for _ in range(_TRIES):
            file = os.open(self._path, flags, 0o600)
            try:
                # Somebody may have found it before it was locked, and removed it.
                if _lock(file, alone=True) and os.fstat(file).st_nlink:
                    kept, file = file, -1
                    return kept
            finally:
                if file >= 0:
                    os.close(file)
            time.sleep(_PAUSE)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def _write(self, place: int) -> None:
        assert self._file is not None
        line = self._lines[place]
        text = "" if line is None else " ".join(line)
        assert len(text) <= _WIDTH
        os.pwrite(self._file, f"{text:{_WIDTH}}\n".encode("ascii"), place * _LINE)


def members_with_locks(folder: str) -> frozenset[str]:
    """The members that live now, without any of one's own; removes nothing. Raises OSError."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  not a Path of each
    except FileNotFoundError:
        return frozenset()
    lines = [
        line
        for name in names
        if _NAME.match(name)
        for line in _lines_of(f"{folder}/{name}", remove=False)
    ]
    return frozenset(member for _, _, member in lines)


def _lines_of(path: str, *, remove: bool = True) -> list[tuple[str, str, str]]:
    """What is in the file of another process; nothing, and the file is removed, if that is dead."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return []
    try:
        # Shared, so that two that check at once do not take each other for its owner.
        if not _lock(file, alone=False):
            text = os.pread(file, os.fstat(file).st_size, 0).decode("ascii")
            return [
                (mark, account, member)
                for mark, account, member in map(str.split, filter(str.strip, text.split("\n")))
            ]
        # Alone, because another one may have removed it, and its owner made a new one.
        if remove and _lock(file, alone=True) and os.fstat(file).st_nlink:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(file)):  # noqa: PTH116
                    os.unlink(path)  # noqa: PTH108
        return []
    finally:
        os.close(file)


def _lock(file: int, *, alone: bool) -> bool:
    if sys.platform == "win32":  # there is no store in a file
        return False
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
