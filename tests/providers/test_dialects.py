"""Forty ways of saying what is left are read rightly, and nonsense in any of them admits nobody."""

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from dialects import DIALECTS, KEY, Dialect, nonsense
from hostile import Server, http

from budgetguard import BalanceUnavailable, Guard
from budgetguard.providers import HTTPBalance

Serve = Callable[..., Server]
every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def guard_of(dialect: Dialect, server: Server, account: str | None = None) -> Guard:
    """Give a guard of an account that speaks it."""
    options = {"headers": {"authorization": f"Bearer {KEY}"}, **dialect.options}
    return Guard(
        HTTPBalance(f"{server.url}/v1/left", left=dialect.left, account=account, **options)
    )


def refusal(guard: Guard) -> BalanceUnavailable | None:
    """Give the error that a call for next to nothing gets; None if it is admitted."""
    try:
        guard.acquire(cost="0.000001")
    except BalanceUnavailable as error:
        return error
    return None


@every_dialect
def test_what_is_left_is_read(dialect: Dialect, serve: Serve) -> None:
    """The amount to the last digit, its unit, the sessions and the renewal."""
    balance = guard_of(dialect, serve(http(200, dialect.reply))).balance()
    assert balance.credits == (None if dialect.credits is None else Decimal(dialect.credits))
    assert balance.unit == dialect.options.get("unit", "credits")
    assert balance.max_concurrency == dialect.slots
    assert (balance.renews_at and balance.renews_at.isoformat()) == dialect.renews


@every_dialect
def test_nonsense_admits_nobody(dialect: Dialect, serve: Serve) -> None:
    """Whatever stands in whichever place, the balance is unknown, and the reason shows none of it."""
    cases = list(nonsense(dialect))
    server = serve(*(http(200, reply) for _, reply in cases))
    admitted = []
    for number, (name, _) in enumerate(cases):
        error = refusal(guard_of(dialect, server, account=f"{number}"))
        if error is None:
            admitted.append(name)
        else:
            assert KEY not in str(error), name
            assert "many" not in error.reason, name
    assert admitted == []
    assert len(server.requests) == len(cases) > 40


def test_the_table_has_forty_dialects() -> None:
    """Each with a name of its own."""
    assert len({dialect.name for dialect in DIALECTS}) == len(DIALECTS) >= 40


def rows() -> dict[str, list[str]]:
    """Give the vendors of the page, each with the code in its row."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "any-vendor.md"
    table = re.findall(r"^\| ([\w. ]+) \| (`https:.*) \|", page.read_text("utf-8"), re.MULTILINE)
    return {vendor: re.findall(r"`([^`]+)`", cells) for vendor, cells in table}


def test_the_pages_vendors_are_dialects() -> None:
    """Each row can be pasted, and its expression is one that is tested."""
    lefts = {dialect.left for dialect in DIALECTS}
    assert len(rows()) >= 25
    for vendor, (url, *code) in rows().items():
        arguments: dict[str, Any] = {}
        for part in code:
            if re.match(r"\w+=", part):
                arguments |= eval(f"dict({part})", {"KEY": KEY})
        HTTPBalance(url, **arguments)
        assert arguments["left"] in lefts, vendor
