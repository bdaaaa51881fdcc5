"""The command `members`: which processes spend from the accounts in a store, and what each of them holds."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any

from budgetguard._cli.accounts import providers_of, store_path
from budgetguard._cli.output import ExitCode, number, print_answer, print_json
from budgetguard._core.amounts import spell
from budgetguard._core.errors import amount_of, in_seconds
from budgetguard._engine.shared_account import name_in_store
from budgetguard.stores.members import StoredAccount, StoredMember, read_members

_COLUMNS = (
    "pid",
    "host",
    "version",
    "since",
    "lease",
    "used",
    "slack",
    "calls",
    "sessions",
    "waiting",
    "finished",
    "unresolved",
    "last heard",
)
_TO_THE_LEFT = {"host", "version", "since"}
_SHOWN_OF_A_NAME = 12
_MINUTE, _HOUR = 60, 3600


def members(options: argparse.Namespace) -> int:
    """Print each account in the file with its members. Nothing is written, and no request is made."""
    path = store_path(options)
    accounts = read_members(path)
    mine = {name_in_store(str(each.fingerprint)): each.name for each in providers_of(options)}
    if options.json:
        print_json({"store": path, "accounts": [_figures(each, mine) for each in accounts]})
    elif accounts:
        print_answer("\n\n".join(_shown(each, mine) for each in accounts))
    else:
        print_answer(f"No process has used the store at {path} yet.")
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


def _row(member: StoredMember) -> tuple[str, ...]:
    since = member.since
    gone = member.state == "gone"
    return (
        "?" if member.pid is None else str(member.pid),
        member.host or "?",
        member.version or "?",
        "?" if since is None else f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        spell(member.lease),
        spell(member.used),
        spell(member.slack),
        str(member.calls),
        str(member.sessions),
        str(member.waiting),
        spell(member.finished),
        spell(member.unresolved),
        ("gone, " if gone else "") + _ago(member.heard),
    )


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "not since the machine started"
    if seconds < _MINUTE:
        return f"{in_seconds(seconds)} ago"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min ago"
    return f"{seconds / _HOUR:.0f} h ago"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    wide = [max(len(row[at]) for row in (_COLUMNS, *rows)) for at in range(len(_COLUMNS))]
    last = len(_COLUMNS) - 1
    lines = []
    for row in (_COLUMNS, *rows):
        cells = [
            cell.ljust(width) if name in _TO_THE_LEFT or at == last else cell.rjust(width)
            for at, (name, cell, width) in enumerate(zip(_COLUMNS, row, wide, strict=True))
        ]
        lines.append("  ".join(["", *cells]).rstrip())
    return lines
