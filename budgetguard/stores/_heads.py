"""The heads of accounts in a store's file: loaded when somebody else changed them, written where they changed."""

import json
import secrets
import sqlite3
from dataclasses import dataclass, field

from budgetguard._core.head_state import dump, load
from budgetguard._core.shared_head import SharedHead
from budgetguard.stores._living import Living
from budgetguard.stores._store_file import StoreFile


@dataclass(slots=True)
class StoredHead:
    """A head, and what is in the file of it: `parts` are JSON texts by name."""

    head: SharedHead
    revision: int = 0
    file: int = 0
    parts: dict[str, str] = field(default_factory=dict)


class StoredHeads:
    """The heads in a file, as this process last saw them. All of it inside a transaction of the file."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self._known: dict[str, StoredHead] = {}
        # The last revision that this process was told to be in the file for good.
        self._told: dict[str, int] = {}
        self._version: tuple[int, int] | None = None
        self._fresh: set[str] = set()

    def begin(self, connection: sqlite3.Connection) -> bool:
        """A transaction has begun; returns whether another process has written since the last one."""
        [(version,)] = connection.execute("PRAGMA data_version")
        seen = (self._file.connections, version)
        if seen == self._version:
            return False
        self._version = seen
        self._fresh.clear()
        return True

    def find(
        self, connection: sqlite3.Connection, account: str, living: Living | None
    ) -> SharedHead | None:
        """The head of an account; None if it cannot be told without knowing who is `living`."""
        known = self._known.get(account)
        if known is not None and account in self._fresh:
            return known.head
        rows = connection.execute(
            "SELECT revision, file FROM heads WHERE account = ?", (account,)
        ).fetchall()
        if not rows:
            if living is None:
                return None
            head = SharedHead(_epoch(), await_members=living.holders.get(account, ()))
            known = StoredHead(head)
        else:
            [(revision, file)] = rows
            if known is None or known.revision != revision or known.file != file:
                known = StoredHead(SharedHead(""), revision, file)
                parts = connection.execute(
                    "SELECT part, state FROM parts WHERE account = ?", (account,)
                )
                known.parts = dict(parts.fetchall())
                known.head = load({part: json.loads(text) for part, text in known.parts.items()})
            if file != self._file.inode or revision < self._told.get(account, 0):
                # A copy of an earlier time took the file's place.
                if living is None:
                    return None
                known.head.fail_over(_epoch())
                known.head.awaited |= living.holders.get(account, frozenset())
        known.file = self._file.inode
        self._known[account] = known
        self._fresh.add(account)
        return known.head

    def write(self, connection: sqlite3.Connection, account: str) -> None:
        """Write what changed of an account's head."""
        known = self._known[account]
        parts = {
            part: json.dumps(state, separators=(",", ":"))
            for part, state in dump(known.head).items()
        }
        connection.executemany(
            "INSERT INTO parts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state",
            [
                (account, part, text)
                for part, text in parts.items()
                if known.parts.get(part) != text
            ],
        )
        connection.executemany(
            "DELETE FROM parts WHERE account = ? AND part = ?",
            [(account, part) for part in known.parts.keys() - parts.keys()],
        )
        known.parts = parts
        known.revision += 1
        connection.execute(
            "INSERT INTO heads VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET revision = excluded.revision, file = excluded.file",
            (account, known.revision, known.file),
        )

    def committed(self, account: str) -> None:
        """What was written is in the file for good."""
        self._told[account] = self._known[account].revision

    def drop(self, account: str) -> None:
        """What is known of this head may be wrong."""
        self._known.pop(account, None)
        self._fresh.discard(account)

    def forget(self) -> None:
        """What is known of the file may be wrong: it is read again."""
        self._known.clear()
        self._fresh.clear()
        self._version = None


def _epoch() -> str:
    return secrets.token_hex(8)
