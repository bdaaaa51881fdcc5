"""One transaction of a store's file: the messages that wait are handled, and what they changed is written."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from budgetguard._core.clock import SYSTEM
from budgetguard._core.head_state import NewerFormat
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import FORMAT as HEAD_FORMAT
from budgetguard._core.store_messages import Message, Reply
from budgetguard.stores import _store_errors as words
from budgetguard.stores._heads import StoredHeads
from budgetguard.stores._living import Living, LivingMembers
from budgetguard.stores._machine import boot_id, host, since_boot
from budgetguard.stores._store_file import StoreFile
from budgetguard.stores.base import StoreUnavailable

# Seconds between two surveys of who lives: without a reason, and where somebody lacks credits.
_SURVEY_EVERY, _SURVEY_WHEN_SHORT = 1.0, 0.05
# How many accounts are checked for being unused.
_CHECKS_PER_CONNECTION, _CHECKS_PER_ACCOUNT = 8, 2
# How often a machine says that it uses the file, and until when no other one may take it over.
_SEEN_EVERY, _SEEN_LATELY = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class StoreLetter:
    """A message to the head of an account."""

    account: str
    message: Message


StoreAnswer: TypeAlias = Reply | StoreUnavailable


class StoreTransactions:
    """All that is done in a file, by one thread."""

    def __init__(self, file: StoreFile, living: LivingMembers) -> None:
        self.file = file
        self._living = living
        self._heads = StoredHeads(file)
        self._surveyed = self._seen = float("-inf")
        # The connection with which some accounts were checked for being unused.
        self._tidied = 0

    def run(
        self, letters: Sequence[StoreLetter], deadline: float
    ) -> tuple[list[StoreAnswer], bool]:
        """Handle messages in one transaction; returns the answers, and whether any member was woken.

        Raises what `StoreFile.begin` and `commit` do; then nothing has changed, or nobody knows.
        """
        self._living.enter()
        for each in letters:
            self._living.come(each.account, each.message.member)
        connection = self.file.begin(deadline)
        try:
            if self._heads.begin(connection):
                self.file.check_format(connection)
                self._check_machine(connection)
            living = self._survey(letters)
            woken: set[tuple[str, str]] = set()
            answers = [self._answer(connection, each, living, woken) for each in letters]
            self._wake(connection, woken)
            self._tidy(connection)
            self._say_seen(connection)
            self.file.commit()
        except BaseException:
            self.file.rollback()
            self.forget()
            raise
        self._note(letters, answers)
        return answers, bool(woken)

    def forget(self) -> None:
        """What is known of the file may be wrong: it is read again."""
        self._heads.forget()

    def _answer(
        self,
        connection: sqlite3.Connection,
        letter: StoreLetter,
        living: Living | None,
        woken: set[tuple[str, str]],
    ) -> StoreAnswer:
        account, message = letter.account, letter.message
        try:
            head = self._heads.find(connection, account, living)
            if head is None:
                living = self._living.survey()
                head = self._heads.find(connection, account, living)
                assert head is not None
            dead = () if living is None else _dead(head, living)
            reply, others = head.handle(message, since_boot(), dead)
            self._heads.write(connection, account)
        except (sqlite3.Error, OSError):
            raise
        except NewerFormat as error:
            # The others of the file may be older.
            self._heads.drop(account)
            return StoreUnavailable(words.too_new(self.file.path, error.format, HEAD_FORMAT))
        except Exception as error:  # noqa: BLE001  this account's state contradicts itself, others' may not
            self._heads.drop(account)
            unavailable = StoreUnavailable(words.damaged(self.file.path))
            unavailable.__cause__ = error
            return unavailable
        gone = [(message.member, account), *((member, account) for member in dead)]
        connection.executemany("DELETE FROM wakes WHERE member = ? AND account = ?", gone)
        woken.update((member, account) for member in others)
        return reply

    def _tidy(self, connection: sqlite3.Connection) -> None:
        """Remove accounts that nobody uses any more: some with each connection, and two with each new one."""
        most = _CHECKS_PER_ACCOUNT * self._heads.added
        if self._tidied != self.file.connections:
            self._tidied = self.file.connections
            most += _CHECKS_PER_CONNECTION
        if not most:
            return
        unused = self._heads.unused(connection, most, since_boot())
        living = self._living.survey() if unused else None
        for account in unused:
            assert living is not None
            try:
                head = self._heads.find(connection, account, living)
                assert head is not None
                if living.members.isdisjoint(head.members.keys() | head.awaited):
                    if head.rest(since_boot(), _dead(head, living)):
                        self._heads.delete(connection, account)
                    else:
                        self._heads.write(connection, account)
            except (sqlite3.Error, OSError):
                raise
            except Exception:  # noqa: BLE001, S110  whoever uses it is told
                pass
            self._heads.drop(account)

    def _survey(self, letters: Iterable[StoreLetter]) -> Living | None:
        """Who lives, if it is time to ask. Only what is asked inside a transaction tells who is dead."""
        age = SYSTEM.monotonic() - self._surveyed
        joins = any(each.message.join is not None for each in letters)
        short = any(each.message.report.needs for each in letters)
        if not (joins or age >= _SURVEY_EVERY or (short and age >= _SURVEY_WHEN_SHORT)):
            return None
        self._surveyed = SYSTEM.monotonic()
        return self._living.survey()

    def _wake(self, connection: sqlite3.Connection, woken: Iterable[tuple[str, str]]) -> None:
        connection.executemany(
            "INSERT INTO wakes VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            sorted(woken),
        )

    def _note(self, letters: Sequence[StoreLetter], answers: Sequence[StoreAnswer]) -> None:
        """What was committed is certain now, and is about to be told."""
        self._heads.committed()
        for letter, answer in zip(letters, answers, strict=True):
            if isinstance(answer, StoreUnavailable):
                continue
            if letter.message.leave and answer.status == "done":
                self._living.go(letter.account, letter.message.member)
                self._heads.drop(letter.account)
            else:
                self._living.hold(letter.account, letter.message.member)

    def _check_machine(self, connection: sqlite3.Connection) -> None:
        """Locks say nothing about another machine's processes: two machines must not use one file at once."""
        rows = connection.execute("SELECT boot, host, seen FROM machine").fetchall()
        boot, name = boot_id(), host()
        for theirs, where, seen in rows:
            ago = abs(SYSTEM.wall() - seen)
            if theirs == boot and (boot or where == name):
                return
            if where != name and ago < _SEEN_LATELY:
                raise StoreUnavailable(words.on_another_machine(self.file.path, where, ago))
        self._seen = float("-inf")

    def _say_seen(self, connection: sqlite3.Connection) -> None:
        now = SYSTEM.monotonic()
        if now >= self._seen + _SEEN_EVERY:
            self._seen = now
            connection.execute(
                "INSERT INTO machine VALUES (1, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "boot = excluded.boot, host = excluded.host, seen = excluded.seen",
                (boot_id(), host(), SYSTEM.wall()),
            )


def _dead(head: SharedHead, living: Living) -> tuple[str, ...]:
    """The members of an account that the kernel does not know any more."""
    known = {name for name, member in head.members.items() if not member.gone} | head.awaited
    return tuple(sorted(known - living.members))
