"""The heads of accounts in a store's file: loaded when somebody else changed them, written where they changed."""

import json
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from budgetguard._core.head_state import dump, load
from budgetguard._core.shared_head import SharedHead
from budgetguard.stores._living import Living
from budgetguard.stores._machine import boot_id
from budgetguard.stores._store_file import StoreFile

UNUSED_FOR = 86_400.0
"""Seconds after its last message before an account is checked whether it may be removed."""

# What of a state has no entry for each member.
_WHOLE = "account"


@dataclass(slots=True)
class StoredHead:
    """A head, and what is in the file of it: `rows` are JSON texts by part and member.

    `origin` says which file it was written to, and since which start of the machine.
    """

    head: SharedHead
    revision: int = 0
    origin: str = ""
    rows: dict[tuple[str, str], str] = field(default_factory=dict)


class StoredHeads:
    """The heads in a file, as this process last saw them. All of it inside a transaction of the file."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self._known: dict[str, StoredHead] = {}
        # The last revision that this process was told to be in the file for good.
        self._told: dict[str, int] = {}
        # Those that this transaction wrote.
        self._written: dict[str, int] = {}
        self._version: tuple[int, int] | None = None
        self._fresh: set[str] = set()
        # How many accounts this transaction has added.
        self.added = 0
        # The last account that was checked for being unused. Each process begins somewhere else.
        self._checked = secrets.token_hex(32)

    def begin(self, connection: sqlite3.Connection) -> bool:
        """A transaction has begun; returns whether another process has written since the last one."""
        self._written.clear()
        self.added = 0
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
        here = self._here()
        rows = connection.execute(
            "SELECT revision, origin FROM heads WHERE account = ?", (account,)
        ).fetchall()
        if not rows:
            if living is None:
                return None
            head = SharedHead(_epoch(), await_members=living.holders.get(account, ()))
            known = StoredHead(head)
            self.added += 1
        else:
            [(revision, origin)] = rows
            if known is None or (known.revision, known.origin) != (revision, origin):
                known = StoredHead(SharedHead(""), revision, origin)
                rows = connection.execute(
                    "SELECT part, member, state FROM parts WHERE account = ?", (account,)
                ).fetchall()
                known.rows = {(part, member): text for part, member, text in rows}
                known.head = load(_joined(known.rows))
            if origin != here or revision < self._told.get(account, 0):
                # A copy of an earlier time took the file's place, or the machine lost power, and with it
                # what was in the log.
                if living is None:
                    return None
                known.head.fail_over(_epoch())
                known.head.awaited |= living.holders.get(account, frozenset())
        known.origin = here
        self._known[account] = known
        self._fresh.add(account)
        return known.head

    def write(self, connection: sqlite3.Connection, account: str) -> None:
        """Write what changed of an account's head."""
        known = self._known[account]
        rows = dict(_split(dump(known.head)))
        connection.executemany(
            "INSERT INTO parts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state",
            [(account, *key, text) for key, text in rows.items() if known.rows.get(key) != text],
        )
        connection.executemany(
            "DELETE FROM parts WHERE account = ? AND part = ? AND member = ?",
            [(account, *key) for key in known.rows.keys() - rows.keys()],
        )
        known.rows = rows
        known.revision += 1
        connection.execute(
            "INSERT INTO heads VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET revision = excluded.revision, origin = excluded.origin",
            (account, known.revision, known.origin),
        )
        self._written[account] = known.revision

    def committed(self) -> None:
        """What was written is in the file for good."""
        self._told |= self._written
        self._written.clear()

    def unused(self, connection: sqlite3.Connection, most: int, now: float) -> list[str]:
        """Of so many accounts, in turn, those whose last message was `UNUSED_FOR` before `now`, or in another boot."""
        after = "SELECT account, origin FROM heads WHERE account > ? ORDER BY account LIMIT ?"
        rows = connection.execute(after, (self._checked, most)).fetchall()
        if len(rows) < most:
            rows += connection.execute(after, ("", most - len(rows))).fetchall()
        found = []
        for account, origin in dict(rows).items():
            self._checked = account
            # Not all of its rows: there may be many.
            parts = connection.execute(
                "SELECT state FROM parts WHERE account = ? AND part = ?", (account, _WHOLE)
            ).fetchall()
            if origin != self._here() or _unused_since(parts) <= now - UNUSED_FOR:
                found.append(account)
        return found

    def delete(self, connection: sqlite3.Connection, account: str) -> None:
        """Remove all that is in the file of an account."""
        connection.execute("DELETE FROM heads WHERE account = ?", (account,))
        connection.execute("DELETE FROM parts WHERE account = ?", (account,))
        connection.execute("DELETE FROM wakes WHERE account = ?", (account,))
        self._told.pop(account, None)
        self._written.pop(account, None)

    def _here(self) -> str:
        return f"{self._file.inode} {boot_id()}"

    def drop(self, account: str) -> None:
        """What is known of this head may be wrong."""
        self._known.pop(account, None)
        self._fresh.discard(account)

    def forget(self) -> None:
        """What is known of the file may be wrong: it is read again."""
        self._known.clear()
        self._fresh.clear()
        self._written.clear()
        self._version = None


def stored_states(connection: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    """The state of each account in the file, for `load`; raises ValueError if one is no JSON."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for account, part, member, text in connection.execute(
        "SELECT account, part, member, state FROM parts ORDER BY account"
    ):
        found.setdefault(account, {})[part, member] = text
    return {account: _joined(rows) for account, rows in found.items()}


def _unused_since(parts: list[tuple[str]]) -> float:
    """By the machine's clock, when the last message came; long ago where nobody can tell."""
    try:
        [(text,)] = parts
        server = json.loads(text)["server"]
    except (LookupError, TypeError, ValueError):
        return float("-inf")
    return server if isinstance(server, float | int) else float("-inf")


def _split(state: dict[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    """The rows of a state: one for what is the account's, and some for each member."""
    for part, value in state.items():
        if part == _WHOLE:
            yield (part, ""), _text(value)
        else:
            yield from (((part, member), _text(each)) for member, each in value.items())


def _joined(rows: dict[tuple[str, str], str]) -> dict[str, Any]:
    """The state that has these rows; raises ValueError if one is no JSON."""
    state: dict[str, Any] = {"members": {}, "debits": {}}
    for (part, member), text in rows.items():
        if part == _WHOLE:
            state[part] = json.loads(text)
        else:
            state.setdefault(part, {})[member] = json.loads(text)
    return state


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _epoch() -> str:
    return secrets.token_hex(8)
