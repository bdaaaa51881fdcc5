"""Who spends from the accounts in a store, read without disturbing anybody.

Of a file, one read transaction and a glance at the members' locks; of a server, what its script tells. Nothing is
written, and nobody waits for it.
"""

import os
import sqlite3
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from budgetguard._core.amounts import CREDITS, to_credits
from budgetguard._core.head_state import DamagedState, NewerFormat, load
from budgetguard._core.member_record import MemberRecord
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import NEVER
from budgetguard.stores import _store_errors as words
from budgetguard.stores._heads import stored_states
from budgetguard.stores._living import members_with_locks
from budgetguard.stores._machine import boot_id, since_boot
from budgetguard.stores._store_file import FORMAT, PROGRAM_ID, is_busy
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore
from budgetguard.stores.sqlite import SQLiteStore

MemberState: TypeAlias = Literal["lives", "gone"]

# Whether a member lives that the head has not given up, by its name, its record, and how long it has been silent.
_Lives: TypeAlias = Callable[[str, MemberRecord, float | None], bool]

# Seconds that a read waits where SQLite recovers the file after a crash.
_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class StoredMember:
    """One process that spends from an account, as the store last heard of it. Amounts are Decimal.

    - `pid`, `host`, `version`, `since`: what it says of itself. `since` is when it made its account.
    - `state`: `"gone"` if it left or died; in a server also if it has been silent for its guard's `hold_for`. It is
      listed until a balance shows what its calls cost.
    - `lease`: what was taken out of the account for it: `used` by its `calls` running calls, and `slack`,
      from which it admits calls without asking.
    - `sessions`: how many it has open. `waiting`: how many of its callers wait for credits or sessions.
    - `finished`: the cost of its calls that the balance cannot show yet. `unresolved`: the same of calls
      whose real cost is not known, such as those of a process that died.
    - `heard`: seconds since its last message; None if that is not known. One that has nothing to say is
      silent for long.
    """

    name: str
    pid: int | None
    host: str
    version: str
    since: datetime | None
    state: MemberState
    lease: Decimal
    used: Decimal
    slack: Decimal
    calls: int
    sessions: int
    waiting: int
    finished: Decimal
    unresolved: Decimal
    heard: float | None


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """One account in a store. Amounts are Decimal, in `unit`.

    - `name`: stands for the account in the store. It is not the key, and says nothing about it.
    - `provider`: its provider's name, as its members say.
    - `credits`: the last balance; None before the first one. `free`: what is in nobody's lease; None if
      that is not known, or unlimited.
    - `paused`: why the account is paused for all members; None unless it is.
    - `waits`: whether nothing is granted at present, because not all members have said what they hold.
    """

    name: str
    provider: str | None
    unit: str
    credits: Decimal | None
    free: Decimal | None
    paused: str | None
    waits: bool
    members: tuple[StoredMember, ...]


def read_members(
    store: str | os.PathLike[str] | SQLiteStore | RedisStore,
) -> tuple[StoredAccount, ...]:
    """The accounts in a store, with their members; raises StoreUnavailable.

    `store` is the path of a `SQLiteStore`'s file, or a store. Nothing is written to it, and no process that uses
    it waits. Run it in a process of its own or beside guards, as you like. A server searches all its keys for
    accounts, a thousand at a time.
    """
    if isinstance(store, RedisStore):
        return _in_server(store)
    path = store.path if isinstance(store, SQLiteStore) else os.fspath(store)
    return _in_file(os.path.realpath(path))


def _in_server(store: RedisStore) -> tuple[StoredAccount, ...]:
    # Imported late: it needs asyncio.
    from budgetguard.stores._redis_members import read_heads

    def lives(_: str, record: MemberRecord, heard: float | None) -> bool:
        return heard is None or record.hold_for is None or heard < record.hold_for

    return tuple(_account(name, head, now, lives) for name, head, now in read_heads(store))


def _in_file(found: str) -> tuple[StoredAccount, ...]:
    try:
        boot, states = _read(found)
        living = set(members_with_locks(f"{found}-members"))
    except sqlite3.Error as error:
        if is_busy(error):
            raise StoreUnavailable(words.locked(found, _PATIENCE)) from error
        reason = words.no_database if _is_no_database(error) else words.damaged
        raise StoreUnavailable(reason(found)) from error
    except OSError as error:
        raise StoreUnavailable(words.of_the_system(found, error)) from error
    now = since_boot() if boot == boot_id() else None
    accounts = []
    for name, parts in states.items():
        try:
            head = load(parts)
        except NewerFormat as error:
            raise StoreUnavailable(words.too_new(found, error.format, FORMAT)) from error
        except DamagedState as error:
            raise StoreUnavailable(words.damaged(found)) from error
        accounts.append(_account(name, head, now, lambda each, _, __: each in living))
    return tuple(accounts)


def _read(path: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The boot of the machine that last used the file, and the state of each account, by its parts."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  errors as of the system
        raise StoreUnavailable(words.no_database(path))
    # Read-only, also so that closing it never tidies up behind others.
    connection = sqlite3.connect(
        f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None, timeout=_PATIENCE
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("BEGIN")
        if not _is_ours(connection, path):
            return "", {}
        [boot] = [str(boot) for (boot,) in connection.execute("SELECT boot FROM machine")] or [""]
        states = stored_states(connection)
    except ValueError as error:
        raise StoreUnavailable(words.damaged(path)) from error
    finally:
        connection.close()
    return boot, states


def _is_ours(connection: sqlite3.Connection, path: str) -> bool:
    """Whether it is a store; False if it is empty, because it is being made."""
    [(program,)] = connection.execute("PRAGMA application_id")
    [(version,)] = connection.execute("PRAGMA user_version")
    [(things,)] = connection.execute("SELECT count(*) FROM sqlite_master")
    if not (program or version or things):
        return False
    if program != PROGRAM_ID:
        raise StoreUnavailable(words.of_another_program(path))
    if version > FORMAT:
        raise StoreUnavailable(words.too_new(path, version, FORMAT))
    return True


def _is_no_database(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB


def _account(name: str, head: SharedHead, now: float | None, lives: _Lives) -> StoredAccount:
    snapshot = head.snapshot
    members = [_member(each, record, head, now, lives) for each, record in head.members.items()]
    free = None if snapshot is None else to_credits(head.free(0, 0))
    said = [dict(record.words).get("provider") for record in head.members.values()]
    return StoredAccount(
        name=name,
        provider=next((each for each in said if each), None),
        unit=head.unit or CREDITS,
        credits=None if snapshot is None else snapshot.balance.credits,
        free=None if free is None or not free.is_finite() else free,
        paused=next(iter(head.pauses.values()), None),
        waits=not head.granting,
        # A server tells them in no order.
        members=tuple(sorted(members, key=lambda each: (str(each.since), each.name))),
    )


def _member(
    name: str, record: MemberRecord, head: SharedHead, now: float | None, lives: _Lives
) -> StoredMember:
    said: Mapping[str, str] = dict(record.words)
    pid, since = said.get("pid", ""), said.get("since", "")
    heard = None
    if now is not None and head.clock.server is not None and record.heard > NEVER:
        # The account's clock has not advanced since the last message of any member.
        heard = max(head.clock.now + now - head.clock.server - record.heard, 0.0)
    return StoredMember(
        name=name,
        pid=int(pid) if pid.isdecimal() else None,
        host=said.get("host", ""),
        version=said.get("version", ""),
        since=datetime.fromisoformat(since).astimezone(UTC) if since else None,
        state="gone" if record.gone or not lives(name, record, heard) else "lives",
        lease=to_credits(record.lease),
        used=to_credits(record.used),
        slack=to_credits(record.slack),
        calls=record.running,
        sessions=record.slots,
        waiting=sum(len(each.tickets) for each in record.needs),
        finished=to_credits(record.settled.total),
        unresolved=to_credits(sum(each.total for each in record.unresolved)),
        heard=heard,
    )
