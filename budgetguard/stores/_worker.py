"""The thread that a process has for a store's file: it alone waits for the disk and for others' locks.

It takes all messages that came meanwhile into one transaction. While somebody listens, it asks SQLite every
20 ms whether the file has changed; more often while a caller waits and the file keeps changing, since what
that caller waits for passes from process to process.

There is no lock here: a signal handler that interrupts its owner, or a forked child, would find it locked. A
queue connects the thread with the others.
"""

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Literal, Protocol, TypeAlias

from budgetguard._core.clock import SYSTEM
from budgetguard._core.events import report
from budgetguard._core.store_messages import Message, Reply
from budgetguard.stores import _store_errors as words
from budgetguard.stores._living import LivingMembers
from budgetguard.stores._store_file import (
    FileMoved,
    GiveWay,
    StillLocked,
    StoreFile,
    is_busy,
    primary_code,
)
from budgetguard.stores._transactions import StoreAnswer, StoreLetter, StoreTransactions
from budgetguard.stores.base import StoreUnavailable

POLL_EVERY = 0.02
"""Seconds between two checks for wake-ups, while somebody listens."""

# The shortest pause between two checks, right after a change, and how fast it grows from there.
_POLL_SOON, _POLL_SLOWER = 0.001, 1.2

# Seconds until a file that could not be opened is tried again for those that listen, and how long that may take.
_RECONNECT_AFTER, _RECONNECT_WITHIN = 1.0, 0.1
# The longest that a fork waits for the end of a transaction.
_FORK_PATIENCE = 2.0
_NEVER = float("-inf")

_SAID: dict[int | None, Callable[[str], str]] = {
    sqlite3.SQLITE_FULL: words.full,
    sqlite3.SQLITE_NOTADB: words.no_database,
    sqlite3.SQLITE_CORRUPT: words.damaged,
    sqlite3.SQLITE_ERROR: words.damaged,  # no such table
    sqlite3.SQLITE_MISMATCH: words.damaged,
}
# Where the system knows more than SQLite.
_DENIED = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


class StoreListener(Protocol):
    """A link, as the thread sees it: `notify` tells it that its member should send a message."""

    account: str

    @property
    def member(self) -> str:
        """Who it is in the store."""
        ...

    @property
    def listening(self) -> bool:
        """Whether it wants to be told."""
        ...

    def notify(self) -> None:
        """Tell it; from any thread."""
        ...


class StoreDelivery(Protocol):
    """A message on its way. `deadline` is a monotonic time, by which it is finished."""

    letter: StoreLetter
    listener: StoreListener
    deadline: float
    timeout: float

    def finish(self, answer: StoreAnswer) -> None:
        """Take the answer; from any thread."""
        ...


_Item: TypeAlias = (
    tuple[Literal["send"], StoreDelivery]
    | tuple[Literal["attend", "part"], StoreListener]
    | tuple[Literal["pause"], SimpleQueue[None]]
    | tuple[Literal["resume"], None]
)


class StoreWorker:
    """The thread for one file; started with the first message, idle without any."""

    def __init__(self, path: str, process: str) -> None:
        self.path = path
        # Whether a fork did not find the file closed.
        self.copied = False
        self._process = process
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        # What came while a fork was under way.
        self._waiting: list[_Item] = []
        # One item for each fork that is under way.
        self._forks: list[None] = []
        # The thread that pops the item is started.
        self._turn = [None]
        self._thread: threading.Thread | None = None
        self._living = LivingMembers(f"{path}-members", process)
        self._file = StoreFile(path, self._interrupted)
        self._transactions = StoreTransactions(self._file, self._living)
        self._open: set[tuple[str, str]] = set()
        self._listeners: dict[tuple[str, str], StoreListener] = {}
        # How often each listener was woken, as it was last told.
        self._told: dict[tuple[str, str], int] = {}
        # Those whose callers wait for an answer that has not come yet.
        self._short: set[tuple[str, str]] = set()
        self._polled = self._connects_at = _NEVER
        self._pause = POLL_EVERY
        self._version: tuple[int, int] | None = None

    # From any thread.

    def send(self, delivery: StoreDelivery) -> None:
        """Have a message answered; raises StoreUnavailable if there can be no thread for it."""
        self._queue.put(("send", delivery))
        self._start()

    def attend(self, listener: StoreListener) -> None:
        """From now on check for its wake-ups, as long as it listens; raises StoreUnavailable likewise."""
        self._queue.put(("attend", listener))
        self._start()

    def part(self, listener: StoreListener) -> None:
        """A link is given up."""
        self._queue.put(("part", listener))

    def pause(self) -> None:
        """Before a fork: have the file closed, and wait for that."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            self.copied = thread is not None and self._file.connection is not None
            return
        closed: SimpleQueue[None] = SimpleQueue()
        self._forks.append(None)
        self._queue.put(("pause", closed))
        self.copied = False
        try:
            closed.get(timeout=_FORK_PATIENCE)
        except Empty:
            self.copied = True

    def resume(self) -> None:
        """After a fork, in the parent."""
        if self._thread not in {None, threading.current_thread()}:
            self._queue.put(("resume", None))

    def let_go(self) -> None:
        """In a forked child: the lock belongs to the parent's members."""
        with contextlib.suppress(OSError):
            self._living.let_go()

    def _start(self) -> None:
        if self._thread is None:
            try:
                self._turn.pop()
            except IndexError:
                return
            self._thread = threading.Thread(target=self._run, name="budgetguard-store", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                self._turn.append(None)
                raise StoreUnavailable(words.no_thread(self.path)) from None

    # In the thread.

    def _run(self) -> None:
        while True:
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  the thread serves all accounts
                report(
                    "%s was raised in the thread of a store, which continues", type(error).__name__
                )

    def _step(self) -> None:
        items = self._take()
        deliveries: list[StoreDelivery] = []
        for place, item in enumerate(items):
            match item:
                case ("send", delivery):
                    deliveries.append(delivery)
                case ("attend", listener):
                    self._listeners[listener.account, listener.member] = listener
                    self._version = None
                case ("part", listener):
                    self._serve(deliveries)
                    deliveries = []
                    self._part(listener)
                case ("pause" | "resume", _):
                    sends: list[_Item] = [("send", each) for each in deliveries]
                    self._waiting = sends + items[place:]
                    self._give_way()
                    return
        self._serve(deliveries)
        self._poll()

    def _take(self) -> list[_Item]:
        """What is to be done, as soon as there is something, or it is time to poll."""
        items, self._waiting = self._waiting, []
        if not items:
            patience = None
            if self._listeners:
                patience = max(self._polled + self._pause - SYSTEM.monotonic(), 0.0)
            with contextlib.suppress(Empty):
                items.append(self._queue.get(timeout=patience))
        with contextlib.suppress(Empty):
            while True:
                items.append(self._queue.get_nowait())
        return items

    def _interrupted(self) -> bool:
        return bool(self._forks)

    def _give_way(self) -> None:
        """A fork is under way: SQLite's idea of its own locks would be copied, and be wrong in the child."""
        self._drop()
        items, self._waiting = self._waiting, []
        paused = 0
        while True:
            for item in items:
                match item:
                    case ("pause", closed):
                        paused += 1
                        closed.put(None)
                    case ("resume", _):
                        paused -= 1
                        self._forks.pop()
                    case _:
                        self._waiting.append(item)
            if not self._forks:
                return
            items = [self._queue.get()]

    def _serve(self, deliveries: list[StoreDelivery]) -> None:
        why = words.silent
        while deliveries := _in_time(deliveries, self.path, why):
            try:
                self._attempt(deliveries)
            except StillLocked:
                why = words.locked
            except GiveWay:
                self._waiting = [("send", each) for each in deliveries]
                self._give_way()
                return
            except FileMoved:
                self._drop()
            else:
                return

    def _attempt(self, deliveries: list[StoreDelivery]) -> None:
        """Have messages answered, or told why not; raises StillLocked, GiveWay or FileMoved before that."""
        deadline = min(each.deadline for each in deliveries)
        try:
            answers, woken = self._transactions.run([each.letter for each in deliveries], deadline)
        except (StillLocked, GiveWay, FileMoved):
            raise
        except Exception as error:  # noqa: BLE001  those who wait have to hear of it
            if isinstance(error, sqlite3.Error) and self._file.connection is not None:
                self._file.check()
            unavailable = self._explained(error)
            for each in deliveries:
                each.finish(unavailable)
            return
        if woken:
            # SQLite does not count this connection's own changes, and some may be of this process.
            self._version = None
        for delivery, answer in zip(deliveries, answers, strict=True):
            self._note(delivery, answer)
        if not self._open:
            # Before the last member hears that it has left: its process may be about to end.
            self._rest()
        for delivery, answer in zip(deliveries, answers, strict=True):
            delivery.finish(answer)

    def _note(self, delivery: StoreDelivery, answer: StoreAnswer) -> None:
        key = delivery.listener.account, delivery.letter.message.member
        self._told.pop(key, None)
        self._short.discard(key)
        if not isinstance(answer, StoreUnavailable):
            if delivery.letter.message.leave and answer.status == "done":
                self._open.discard(key)
            else:
                self._open.add(key)
            if _waits(delivery.letter.message, answer):
                self._short.add(key)
                self._pause = _POLL_SOON

    def _part(self, listener: StoreListener) -> None:
        key = listener.account, listener.member
        self._open.discard(key)
        self._short.discard(key)
        self._listeners.pop(key, None)
        self._told.pop(key, None)
        with contextlib.suppress(OSError):
            self._living.go(*key)
        if not self._open:
            self._rest()

    def _rest(self) -> None:
        """No member is left: be as if nothing had been opened."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self._file.close()
        self._transactions.forget()
        self._living.leave()
        self._version = None

    def _drop(self) -> None:
        self._file.drop()
        self._transactions.forget()
        self._version = None

    def _poll(self) -> None:
        """Tell those that were woken."""
        now = SYSTEM.monotonic()
        if now < self._polled + self._pause:
            return
        self._polled = now
        self._pause = min(self._pause * _POLL_SLOWER, POLL_EVERY)
        for key in [key for key, each in self._listeners.items() if not each.listening]:
            del self._listeners[key]
        if not self._listeners:
            return
        try:
            self._look_for_wakes(now)
        except FileMoved:
            self._drop()
            for listener in self._listeners.values():
                listener.notify()
        except (StillLocked, GiveWay, StoreUnavailable):
            pass
        except Exception as error:  # noqa: BLE001  the next message tells what is wrong
            if not (isinstance(error, sqlite3.Error) and is_busy(error)):
                self._drop()

    def _look_for_wakes(self, now: float) -> None:
        connection = self._file.connection
        if connection is None:
            if now < self._connects_at:
                return
            self._connects_at = now + _RECONNECT_AFTER
            connection = self._file.connect(now + _RECONNECT_WITHIN)
        self._file.check()
        [(version,)] = connection.execute("PRAGMA data_version")
        if (self._file.connections, version) == self._version:
            return
        self._version = self._file.connections, version
        if self._short:
            self._pause = _POLL_SOON
        mine = (f"{self._process}.", f"{self._process}/")
        rows = connection.execute(
            "SELECT account, member, count FROM wakes WHERE member BETWEEN ? AND ?", mine
        ).fetchall()
        for account, member, count in rows:
            listener = self._listeners.get((account, member))
            if listener is not None and count > self._told.get((account, member), 0):
                self._told[account, member] = count
                listener.notify()

    def _explained(self, error: Exception) -> StoreUnavailable:
        """What to tell those who wait. The connection is closed, unless it is as good as before."""
        code = primary_code(error) if isinstance(error, sqlite3.Error) else None
        if code != sqlite3.SQLITE_FULL:
            self._drop()
        if isinstance(error, StoreUnavailable):
            return error
        unavailable = StoreUnavailable(_reason(self.path, error, code))
        unavailable.__cause__ = error
        return unavailable


def _waits(message: Message, reply: Reply) -> bool:
    """Whether callers go on waiting after this reply; one that is refused for now may, too."""
    if reply.status != "done":
        return False
    answered = {*reply.granted, *reply.refused, *(ticket for ticket, _ in reply.over)}
    needs = message.report.needs
    return (
        reply.refresh == "wait"
        or any(need.counts and need.ticket not in reply.granted for need in needs)
        or not answered.issuperset(need.ticket for need in needs)
    )


def _in_time(
    deliveries: list[StoreDelivery], path: str, why: Callable[[str, float], str]
) -> list[StoreDelivery]:
    """Those that have time left; the others are told why there was no answer."""
    now = SYSTEM.monotonic()
    for each in deliveries:
        if each.deadline <= now:
            each.finish(StoreUnavailable(why(path, each.timeout)))
    return [each for each in deliveries if each.deadline > now]


def _reason(path: str, error: Exception, code: int | None) -> str:
    """What to tell people of an error."""
    if isinstance(error, OSError):
        return words.of_the_system(path, error)
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHORT_READ:
        return words.torn(path)
    said = _SAID.get(code)
    if said is not None:
        return said(path)
    return (code in _DENIED and _why_not(path)) or words.failed(path, _told_by(error))


def _why_not(path: str) -> str | None:
    """What the system says where SQLite only says that it cannot."""
    folder = os.path.dirname(path)  # noqa: PTH120
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_CLOEXEC))
        if os.path.isdir(path):  # noqa: PTH112
            return words.of_the_system(path, IsADirectoryError(errno.EISDIR, ""))
        room = os.statvfs(folder)
    except OSError as error:
        return words.of_the_system(path, error)
    there = [name for name in (path, f"{path}-wal", f"{path}-shm") if os.path.exists(name)]  # noqa: PTH110
    if not all(os.access(name, os.R_OK | os.W_OK) for name in [folder, *there]):
        return words.unwritable(path)
    # Some file systems count no files at all.
    is_full = not room.f_bavail or (room.f_files and not room.f_favail)
    return words.full(path) if is_full else None


def _told_by(error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", None)
    return f"{error} ({name})" if name else type(error).__name__
