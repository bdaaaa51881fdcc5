"""OpenRouter's balances (its SDK 1.3.84 and API reference, read 2026-11), to the letter."""

import json
import logging
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hostile import Server, http
from test_canary import check

from budgetguard._core.errors import BalanceUnavailable, ConfigurationError, InvalidCredentials
from budgetguard.providers import OpenRouter
from budgetguard.providers.openrouter.provider import _renewal

Serve = Callable[..., Server]
KEY = "openrouter_canary_6d0e51b7_not_a_real_key"
MANAGING = "openrouter_canary_managing_93ac_not_a_real_key"
# The example of the API reference (2026-08), with the two fields that came later.
DATA: dict[str, Any] = {
    "byok_usage": 17.38,
    "creator_user_id": "user_2dHFtVWx2n56w6HkM0000000000",
    "expires_at": "2027-12-31T23:59:59Z",
    "include_byok_in_limit": False,
    "is_free_tier": False,
    "is_management_key": False,
    "label": "sk-or-v1-au7...890",
    "limit": 100,
    "limit_remaining": 74.5,
    "limit_reset": None,
    "rate_limit": {"interval": "1h", "note": "This field is deprecated.", "requests": 1000},
    "usage": 25.5,
    "budgets": [],
    "effective_budget": None,
}
FREE = {"limit": None, "limit_remaining": None}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "MANAGEMENT_KEY", "BASE_URL"):
        monkeypatch.delenv(f"OPENROUTER_{name}", raising=False)


def said(data: dict[str, Any]) -> bytes:
    """A reply of 200 with that data."""
    return http(200, json.dumps({"data": data}))


def key(**fields: Any) -> bytes:
    """A reply to `GET /key`; a field that is `...` is missing."""
    data = {name: value for name, value in (DATA | fields).items() if value is not ...}
    return said(data)


def credits(bought: Any, used: Any) -> bytes:
    """A reply to `GET /credits`."""
    return said({"total_credits": bought, "total_usage": used})


def budget(remaining: Any, resets_at: Any = "2026-12-01T00:00:00.000Z") -> dict[str, Any]:
    """One budget of a key."""
    return {"scope": "workspace", "remaining_usd": remaining, "resets_at": resets_at}


@pytest.mark.anyio
async def test_the_example_of_the_page(serve: Serve, client: httpx.AsyncClient) -> None:
    """One bearer GET with the normal key gives what the key may still spend, in dollars."""
    server = serve(key())
    balance = await OpenRouter(KEY, base_url=server.url).fetch(client)
    assert (balance.credits, balance.unit, balance.renews_at) == (Decimal("74.5"), "USD", None)
    assert len(server.requests) == 1
    assert server.requests[0].startswith(b"GET /key HTTP/1.1\r\n")
    assert f"authorization: Bearer {KEY}\r\n".encode() in server.requests[0]


RESET = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "left", "renews"),
    [
        ({"limit_remaining": 0}, "0", None),
        ({"limit_remaining": -0.25}, "-0.25", None),
        ({"budgets": ..., "effective_budget": ...}, "74.5", None),
        ({"budgets": [budget(80)]}, "74.5", None),
        ({"budgets": [budget(80), budget(12.5)]}, "12.5", RESET),
        ({"budgets": [budget(-3, None)]}, "-3", None),
        ({"budgets": [budget(74.5)]}, "74.5", RESET),
        ({"budgets": [], "effective_budget": budget(2)}, "2", RESET),
        (FREE | {"budgets": [budget(5)]}, "5", RESET),
        ({"budgets": [budget(5, "soon")]}, "5", None),
        ({"budgets": [budget(5, "2026-12-01T00:00:00")]}, "5", None),
    ],
)
async def test_the_smallest_limit_counts(
    fields: dict[str, Any],
    left: str,
    renews: datetime | None,
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """Of the key's own limit and all budgets, with the date at which that one renews."""
    balance = await OpenRouter(KEY, base_url=serve(key(**fields)).url).fetch(client)
    assert (balance.credits, balance.renews_at) == (Decimal(left), renews)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"limit_remaining": ...}, "limit_remaining is missing"),
        ({"limit_remaining": "74.5"}, "limit_remaining in the provider's reply is text"),
        ({"limit_remaining": True}, "is true, not a number"),
        ({"limit_remaining": None}, "has a limit, but not what remains of it"),
        ({"budgets": None}, "budgets in the provider's reply is null"),
        ({"budgets": {}}, "budgets in the provider's reply is an object, not a list"),
        (
            {"budgets": [7]},
            "an entry of budgets in the provider's reply is a number, not an object",
        ),
        ({"budgets": [None]}, "an entry of budgets in the provider's reply is null"),
        ({"budgets": [{}]}, "remaining_usd is missing"),
        ({"budgets": [budget(None)]}, "remaining_usd in the provider's reply is null"),
        ({"budgets": [budget("5")]}, "remaining_usd in the provider's reply is text"),
        ({"budgets": [budget(5, 7)]}, "resets_at in the provider's reply is a number"),
        ({"effective_budget": []}, "effective_budget in the provider's reply is a list"),
        ({"limit_remaining": 1e13}, "beyond 10^12"),
    ],
)
async def test_what_makes_no_sense_is_no_balance(
    fields: dict[str, Any], words: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """A missing or mistyped field is named, and never taken for "no limit"."""
    with pytest.raises(BalanceUnavailable) as caught:
        await OpenRouter(KEY, base_url=serve(key(**fields)).url).fetch(client)
    assert words in str(caught.value)


@pytest.mark.anyio
async def test_a_key_without_a_limit_has_an_unknown_balance(
    serve: Serve, client: httpx.AsyncClient
) -> None:
    """It is not unlimited: the error says which key shows the account's credits, and where to get it."""
    with pytest.raises(BalanceUnavailable) as caught:
        await OpenRouter(KEY, base_url=serve(key(**FREE)).url).fetch(client)
    assert not isinstance(caught.value, InvalidCredentials)
    for words in ("management_key=", "OPENROUTER_MANAGEMENT_KEY", "openrouter.ai/settings"):
        assert words in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "bought", "used", "left"),
    [
        (FREE, 100.5, 25.75, "74.75"),
        (FREE, 10, 12.25, "-2.25"),
        ({}, 100.5, 25.75, "74.5"),
        ({}, 100.5, 95, "5.5"),
        ({"budgets": [budget(3)]}, 100.5, 95, "3"),
    ],
)
async def test_with_a_management_key_the_smaller_counts(
    fields: dict[str, Any],
    bought: float,
    used: float,
    left: str,
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """What the account has is what it bought less what it used; each request has its own key."""
    server = serve(key(**fields), credits(bought, used))
    balance = await OpenRouter(KEY, MANAGING, base_url=server.url).fetch(client)
    assert balance.credits == Decimal(left)
    assert [each.split(b" ")[1] for each in server.requests] == [b"/key", b"/credits"]
    for request, value in zip(server.requests, (KEY, MANAGING), strict=True):
        assert f"authorization: Bearer {value}\r\n".encode() in request


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("replies", "words", "kind"),
    [
        (
            [http(403, '{"error": {"code": 403, "message": "Only management keys can do this"}}')],
            "management_key= or OPENROUTER_MANAGEMENT_KEY",
            InvalidCredentials,
        ),
        ([credits(None, 1)], "total_credits in the provider's reply is null", BalanceUnavailable),
        ([credits("5", 1)], "total_credits in the provider's reply is text", BalanceUnavailable),
        ([said({"total_credits": 1})], "total_usage is missing", BalanceUnavailable),
        ([http(200, "{}")], "data is missing", BalanceUnavailable),
        ([credits(0, 0), key()], "is not a management key", BalanceUnavailable),
        ([credits(0, 0), key(is_management_key=...)], "is missing", BalanceUnavailable),
    ],
)
async def test_a_wrong_management_key_is_no_empty_account(
    replies: list[bytes],
    words: str,
    kind: type[BalanceUnavailable],
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """Another key gets a 403, or zeros (openchamber#3411, 2026-09), and the error says which key is meant."""
    server = serve(key(), *replies)
    with pytest.raises(BalanceUnavailable) as caught:
        await OpenRouter(KEY, MANAGING, base_url=server.url).fetch(client)
    assert words in str(caught.value)
    assert type(caught.value) is kind
    check_both(caught.value)


@pytest.mark.anyio
async def test_an_account_that_never_bought_anything_has_nothing(
    serve: Serve, client: httpx.AsyncClient
) -> None:
    """If the key that was sent zeros is a management key, they are the balance."""
    server = serve(key(**FREE), credits(0, 0), key(is_management_key=True))
    balance = await OpenRouter(KEY, MANAGING, base_url=server.url).fetch(client)
    assert balance.credits == 0
    assert f"authorization: Bearer {MANAGING}\r\n".encode() in server.requests[2]


@pytest.mark.parametrize(
    ("reset", "at", "renews"),
    [
        ("daily", "2026-11-30T23:59:59", "2026-12-01"),
        ("daily", "2026-12-31T00:00:00", "2027-01-01"),
        ("weekly", "2026-11-30T00:00:00", "2026-12-07"),
        ("weekly", "2026-12-02T12:00:00", "2026-12-07"),
        ("weekly", "2026-12-06T23:59:59", "2026-12-07"),
        ("monthly", "2026-11-01T00:00:00", "2026-12-01"),
        ("monthly", "2026-12-31T23:59:59", "2027-01-01"),
        ("monthly", "2027-01-31T12:00:00", "2027-02-01"),
        ("yearly", "2026-11-30T00:00:00", None),
        (None, "2026-11-30T00:00:00", None),
    ],
)
def test_when_a_limit_renews(reset: str | None, at: str, renews: str | None) -> None:
    """At the next midnight UTC, Monday or first of the month; an unknown word says nothing."""
    found = _renewal(reset, datetime.fromisoformat(f"{at}+00:00"))
    assert found == (None if renews is None else datetime.fromisoformat(f"{renews}T00:00+00:00"))


@pytest.mark.anyio
@pytest.mark.parametrize("reset", ["daily", "weekly", "monthly", "yearly", None])
async def test_a_limit_that_resets_says_when(
    reset: str | None, serve: Serve, client: httpx.AsyncClient
) -> None:
    """The date is that of the balance, so that a refusal can say it."""
    before = datetime.now(UTC)
    balance = await OpenRouter(KEY, base_url=serve(key(limit_reset=reset)).url).fetch(client)
    at = balance.renews_at
    if reset not in ("daily", "weekly", "monthly"):
        assert at is None
        return
    assert at is not None
    assert before < at
    # Midnight may have passed in between.
    assert at in {_renewal(reset, now) for now in (before, datetime.now(UTC))}


def check_both(error: BaseException) -> None:
    """No key is in the error, its frames or its dump."""
    check(error)
    for value in (KEY, MANAGING):
        assert value not in f"{error} {error!r} {error.args!r}"
        assert value.encode() not in pickle.dumps(error)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "replies",
    [
        [key(**FREE), credits(7, 2)],
        [key(label=f"{KEY} {MANAGING}"), http(500, f"{KEY} {MANAGING}")],
        [http(401, f'{{"error": {{"code": 401, "message": "No key {KEY}"}}}}')],
        [key(), http(403, f'{{"error": {{"code": 403, "message": "Key {MANAGING} is not it"}}}}')],
        [key(), credits(0, 0), key()],
        [key(**{KEY: MANAGING}), said({MANAGING: KEY})],
    ],
)
async def test_neither_key_is_shown(
    replies: list[bytes],
    serve: Serve,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With every logger at DEBUG, in no error, log line, balance or repr."""
    caplog.set_level(logging.DEBUG)
    provider = OpenRouter(KEY, MANAGING, base_url=serve(*replies).url)
    try:
        shown = repr(await provider.fetch(client))
    except BalanceUnavailable as error:
        check_both(error)
        shown = str(error)
    shown += f"{provider!r} {vars(provider)!r} {caplog.text}"
    shown += "".join(repr(vars(record)) for record in caplog.records)
    assert "httpcore" in caplog.text
    assert KEY not in shown
    assert MANAGING not in shown


@pytest.mark.parametrize("value", [f"{MANAGING} x", f"{MANAGING}\n{MANAGING}", 7, "", b"x"])
def test_an_invalid_management_key_is_an_error(value: Any) -> None:
    """The error names which of the two keys it is, and shows neither."""
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        OpenRouter(KEY, value)
    assert "management key" in str(caught.value)
    assert MANAGING not in str(caught.value)


@pytest.mark.anyio
async def test_both_keys_and_the_address_come_from_the_environment(
    serve: Serve, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENROUTER_MANAGEMENT_KEY is what OpenRouter's own Terraform provider reads, too."""
    server = serve(key(**FREE), credits(9, 4))
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    monkeypatch.setenv("OPENROUTER_MANAGEMENT_KEY", f" {MANAGING}\n")
    monkeypatch.setenv("OPENROUTER_BASE_URL", server.url)
    assert (await OpenRouter().fetch(client)).credits == 5
    monkeypatch.setenv("OPENROUTER_MANAGEMENT_KEY", "two words")
    with pytest.raises(ConfigurationError, match="OPENROUTER_MANAGEMENT_KEY"):
        OpenRouter()
    monkeypatch.delenv("OPENROUTER_API_KEY")
    with pytest.raises(ConfigurationError, match="OPENROUTER_API_KEY"):
        OpenRouter(management_key=MANAGING)


def test_its_own_figures() -> None:
    """The address of the API, the unit, and the times that are ours."""
    provider = OpenRouter(KEY)
    assert provider.base_url == "https://openrouter.ai/api/v1"
    assert (provider.unit, provider.lag, provider.linger) == ("USD", 60, 600)
    assert provider.top_up_url == "https://openrouter.ai/settings/credits"
    assert OpenRouter(KEY).fingerprint == OpenRouter(KEY, MANAGING).fingerprint
    assert OpenRouter(KEY).fingerprint != OpenRouter(MANAGING).fingerprint
