"""The command `members`: which processes spend from the accounts in a store, and what each of them holds."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any

from budgetguard._cli.accounts import providers_of, required_store
from budgetguard._cli.output import ExitCode, number, print_answer, print_json
from budgetguard._core.amounts import spell
from budgetguard._core.errors import amount_of, in_seconds
from budgetguard._engine.shared_account import name_in_store
from budgetguard.stores import RedisStore
from budgetguard.stores.members import StoredAccount, StoredMember, read_members

_WIDTH = 80
# As they are shown. Of those that do not fit, the first ones in `_UNIMPORTANT` are left out.
_COLUMNS = (
    "pid",
    "host",
    "version",
    "since (UTC)",
    "lease",
    "used",
    "calls",
    "sessions",
    "waiting",
    "finished",
    "unresolved",
    "heard",
)
_UNIMPORTANT = (
    "sessions",
    "version",
    "since (UTC)",
    "finished",
    "waiting",
    "unresolved",
    "host",
    "calls",
)
# Shown where one of the members has any.
_RARE = {"sessions", "waiting", "finished", "unresolved"}
_TO_THE_LEFT = {"host", "version", "since (UTC)", "heard"}
_SHOWN_OF_A_NAME = 12
_SHOWN_OF_A_HOST = 12
_MINUTE, _HOUR = 60, 3600


def members(options: argparse.Namespace) -> int:
    """Print each account in the store with its members. Nothing is written, and the provider is not asked."""
    store = required_store(options)
    accounts = read_members(store)
    mine = {name_in_store(str(each.fingerprint)): each.name for each in providers_of(options)}
    if options.json:
        place = store.server.where if isinstance(store, RedisStore) else options.store
        print_json({"store": place, "accounts": [_figures(each, mine) for each in accounts]})
    elif accounts:
        print_answer("\n\n".join(_shown(each, mine) for each in accounts))
    else:
        under = f" under the prefix {store.prefix}" if isinstance(store, RedisStore) else ""
        print_answer(f"No process has used {store.name}{under} yet.")
    return ExitCode.ENOUGH


def _figures(account: StoredAccount, mine: Mapping[str, str]) -> dict[str, Any]:
    return {
        "account": account.name,
        "yours": account.name in mine,
        "provider": account.provider or mine.get(account.name),
        "unit": account.unit,
        "credits": number(account.credits),
        "free": number(account.free),
        "paused": account.paused,
        "granting": not account.waits,
        "members": [_member_figures(each) for each in account.members],
    }


def _member_figures(member: StoredMember) -> dict[str, Any]:
    return {
        "pid": member.pid,
        "host": member.host,
        "version": member.version,
        "since": None if member.since is None else member.since.isoformat(timespec="seconds"),
        "state": member.state,
        "lease": number(member.lease),
        "used": number(member.used),
        "slack": number(member.slack),
        "calls": member.calls,
        "sessions": member.sessions,
        "waiting": member.waiting,
        "finished": number(member.finished),
        "unresolved": number(member.unresolved),
        "last_heard": None if member.heard is None else round(member.heard, 3),
    }


def _shown(account: StoredAccount, mine: Mapping[str, str]) -> str:
    living = sum(each.state == "lives" for each in account.members)
    # The store knows the provider's name by its members alone.
    provider = account.provider or mine.get(account.name) or "an account"
    name = f"{provider} ({account.name[:_SHOWN_OF_A_NAME]}"
    name += ", yours)" if account.name in mine else ")"
    said = [f"{name}: {_money(account)}", _processes(living)]
    if account.waits:
        said.append("nothing is granted until all have said what they hold")
    if account.paused is not None:
        said.append(f"paused: {account.paused}")
    heading = "; ".join(said)
    if not account.members:
        return heading
    return "\n".join([heading, *_table([_row(each) for each in account.members])])


def _money(account: StoredAccount) -> str:
    if account.credits is None:
        return "the balance is not known yet"
    if account.free is None:
        return "no limit"
    of = amount_of(account.credits, account.unit)
    return f"{spell(max(account.free, Decimal(0)))} of {of} are free"


def _processes(living: int) -> str:
    return f"{living or 'no'} process{'es' * (living != 1)}"


def _row(member: StoredMember) -> dict[str, str]:
    since = member.since
    return {
        "pid": "?" if member.pid is None else str(member.pid),
        "host": _short(member.host) or "?",
        "version": member.version or "?",
        "since (UTC)": "?" if since is None else f"{since.astimezone(UTC):%m-%d %H:%M}",
        "lease": spell(member.lease),
        "used": spell(member.used),
        "calls": str(member.calls),
        "sessions": str(member.sessions),
        "waiting": str(member.waiting),
        "finished": spell(member.finished),
        "unresolved": spell(member.unresolved),
        "heard": "gone" if member.state == "gone" else _ago(member.heard),
    }


def _short(host: str) -> str:
    """Without its domain, unless it is an address; and of what is too long the end, which tells containers apart."""
    first = host.partition(".")[0]
    name = host if first.isdecimal() else first
    return name if len(name) <= _SHOWN_OF_A_HOST else f"..{name[2 - _SHOWN_OF_A_HOST :]}"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < _MINUTE:
        return f"{in_seconds(seconds)} ago"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min ago"
    return f"{seconds / _HOUR:.0f} h ago"


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    wide = {
        name: max(len(name), *(len(row[name]) for row in rows))
        for name in _COLUMNS
        if name not in _RARE or any(row[name] != "0" for row in rows)
    }
    left_out = []
    for name in _UNIMPORTANT:
        if sum(wide.values()) + 2 * len(wide) <= _WIDTH:
            break
        if wide.pop(name, None) is not None:
            left_out.append(name.partition(" ")[0])
    lines = []
    for row in ({name: name for name in wide}, *rows):
        cells = [
            row[name].ljust(width) if name in _TO_THE_LEFT else row[name].rjust(width)
            for name, width in wide.items()
        ]
        lines.append("  ".join(["", *cells]).rstrip())
    if left_out:
        lines.append(f"  (also with --json: {', '.join(left_out)})")
    return lines
