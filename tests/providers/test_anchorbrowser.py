"""Anchor Browser's two balance pages, to the letter.

They are `GET /v1/projects/{projectId}/credits` and `GET /v1/billing`, as read 2026-11.
"""

import json
from collections.abc import Callable
from decimal import Decimal

import httpx
import pytest
from hostile import KEY, Server, http

from budgetguard._core.balance import Balance
from budgetguard._core.errors import BalanceUnavailable, ConfigurationError, InvalidCredentials
from budgetguard._core.refresh_failure import Transient
from budgetguard.providers import AnchorBrowser

pytestmark = pytest.mark.anyio
Serve = Callable[..., Server]

PROJECT = {"credits": 42.5, "tier": "growth", "maxConcurrentBrowsers": 25, "cost_limit": 100}
BILLING = {
    "credits": 42.5,
    "credits_used": 12.5,
    "included_credits": 50,
    "billing_period": "2026-04",
    "tier": "monthly_starter",
    "gifts_balance": 42.5,
    "max_concurrent_browsers": 25,
    "cost_limit": 100,
}


async def ask(
    serve: Serve, client: httpx.AsyncClient, fields: object, project: str | None
) -> Balance:
    """The balance that a reply with these fields is read as."""
    body = json.dumps(fields if project else {"data": fields})
    return await AnchorBrowser(KEY, project, base_url=serve(http(200, body)).url).fetch(client)


async def test_every_field_of_a_project(serve: Serve, client: httpx.AsyncClient) -> None:
    """The flat page, with the key in a header of its own."""
    server = serve(http(200, json.dumps(PROJECT)))
    balance = await AnchorBrowser(KEY, "prj_1.a-b", base_url=server.url).fetch(client)
    assert balance == Balance(
        credits=Decimal("42.5"),
        tier="growth",
        max_concurrency=25,
        cost_limit=Decimal(100),
        as_of=balance.as_of,
    )
    assert server.requests[0].startswith(b"GET /v1/projects/prj_1.a-b/credits HTTP/1.1\r\n")
    assert f"\r\nanchor-api-key: {KEY}\r\n".encode() in server.requests[0]
    assert b"authorization" not in server.requests[0].lower()


async def test_every_field_of_the_bill(serve: Serve, client: httpx.AsyncClient) -> None:
    """The page of the project that the key belongs to, wrapped in data."""
    server = serve(http(200, json.dumps({"data": BILLING})))
    balance = await AnchorBrowser(KEY, base_url=server.url).fetch(client)
    assert balance == Balance(
        credits=Decimal("42.5"),
        tier="monthly_starter",
        max_concurrency=25,
        cost_limit=Decimal(100),
        credits_used=Decimal("12.5"),
        as_of=balance.as_of,
    )
    assert server.requests[0].startswith(b"GET /v1/billing HTTP/1.1\r\n")
    assert f"\r\nanchor-api-key: {KEY}\r\n".encode() in server.requests[0]


@pytest.mark.parametrize("project", [None, "p1"])
async def test_only_credits_have_to_be_there(
    project: str | None, serve: Serve, client: httpx.AsyncClient
) -> None:
    """They may be below zero, where a plan allows overage."""
    balance = await ask(serve, client, {"credits": -1.25}, project)
    assert balance == Balance(credits=Decimal("-1.25"), as_of=balance.as_of)


@pytest.mark.parametrize("project", [None, "p1"])
@pytest.mark.parametrize(
    ("limit", "sessions"), [(-1, None), (0, 0), (5, 5), (25.0, 25), (10**12, 10**12)]
)
async def test_limits_on_sessions(
    limit: float,
    sessions: int | None,
    project: str | None,
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """-1 stands for no limit; JSON does not tell 25 from 25.0."""
    name = "maxConcurrentBrowsers" if project else "max_concurrent_browsers"
    balance = await ask(serve, client, {"credits": 1, name: limit}, project)
    assert balance.max_concurrency == sessions
    assert type(balance.max_concurrency) is type(sessions)


@pytest.mark.parametrize("project", [None, "p1"])
async def test_a_cost_limit_may_be_null(
    project: str | None, serve: Serve, client: httpx.AsyncClient
) -> None:
    """It is the one field that is documented as nullable."""
    balance = await ask(serve, client, {"credits": 1, "cost_limit": None}, project)
    assert balance.cost_limit is None


@pytest.mark.parametrize("project", [None, "p1"])
async def test_a_tier_that_is_null_refuses_no_call(
    project: str | None, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Nothing is decided by it."""
    balance = await ask(serve, client, {"credits": 1, "tier": None}, project)
    assert (balance.credits, balance.tier) == (1, None)


BAD_FIELDS = [
    ({"credits": None}, "credits in the provider's reply is null"),
    ({"credits": "42.5"}, "credits in the provider's reply is text, not a number"),
    ({"credits": True}, "credits in the provider's reply is true, not a number"),
    ({"credits": -1e13}, "credits in the provider's reply is beyond"),
    ({}, "credits is missing from"),
    ({"tier": 5}, "tier in the provider's reply is a number, not text"),
    ({"tier": ["growth"]}, "tier in the provider's reply is a list, not text"),
    ({"max": 2.5}, "is not a whole number of sessions"),
    ({"max": -2}, "is not a whole number of sessions"),
    ({"max": -1.5}, "is not a whole number of sessions"),
    ({"max": "25"}, "is text, not a number"),
    ({"max": None}, "is null"),
    ({"max": True}, "is true, not a number"),
    ({"max": 1e13}, "is beyond"),
    ({"cost_limit": "100"}, "cost_limit in the provider's reply is text"),
    ({"cost_limit": False}, "cost_limit in the provider's reply is false"),
    ({"cost_limit": -1}, "cost_limit in the provider's reply is negative"),
    ({"cost_limit": 1e13}, "cost_limit in the provider's reply is beyond"),
    ({"cost_limit": {}}, "cost_limit in the provider's reply is an object"),
]
BAD_USE = [
    ({"credits_used": None}, "credits_used in the provider's reply is null"),
    ({"credits_used": "1"}, "credits_used in the provider's reply is text"),
    ({"credits_used": -0.5}, "credits_used in the provider's reply is negative"),
]


@pytest.mark.parametrize(
    ("project", "fields", "words"),
    [("p1", *bad) for bad in BAD_FIELDS] + [(None, *bad) for bad in BAD_FIELDS + BAD_USE],
)
async def test_mistyped_fields_are_refused(
    project: str | None,
    fields: dict[str, object],
    words: str,
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """Each by its name, even where it could have been left out."""
    sent = ({"credits": 5} if fields else {}) | fields
    if "max" in sent:
        name = "maxConcurrentBrowsers" if project else "max_concurrent_browsers"
        sent[name] = sent.pop("max")
    with pytest.raises(BalanceUnavailable) as caught:
        await ask(serve, client, sent, project)
    assert type(caught.value) is BalanceUnavailable
    assert words in caught.value.reason


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PROJECT, "data is missing"),
        ({"data": None}, "data in the provider's reply is null"),
        ({"data": [BILLING]}, "data in the provider's reply is a list, not an object"),
        ({"data": "x"}, "data in the provider's reply is text, not an object"),
        ({"data": {}}, "credits is missing"),
    ],
)
async def test_a_bill_without_data(
    body: object, words: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """The flat page is not taken for the bill."""
    server = serve(http(200, json.dumps(body)))
    with pytest.raises(BalanceUnavailable, match=words):
        await AnchorBrowser(KEY, base_url=server.url).fetch(client)


FLAT = '{"error": "%s", "code": %d}'
NESTED = '{"error": {"code": %d, "message": "%s"}}'


@pytest.mark.parametrize(
    ("project", "status", "body", "kind", "reason"),
    [
        (
            "p1",
            404,
            FLAT % ("Project not found.", 404),
            BalanceUnavailable,
            "the provider answered 404: Project not found",
        ),
        (
            "p1",
            404,
            '{"error": "Project not found."}',
            BalanceUnavailable,
            "the provider answered 404: Project not found",
        ),
        (
            "p1",
            500,
            FLAT % ("Failed to get project credits.", 500),
            Transient,
            "the provider answered 500: Failed to get project credits",
        ),
        (
            None,
            401,
            NESTED % (401, "Invalid API key"),
            InvalidCredentials,
            "the provider answered 401: Invalid API key; check the key",
        ),
        (
            None,
            500,
            NESTED % (500, "Failed to retrieve billing."),
            Transient,
            "the provider answered 500: Failed to retrieve billing",
        ),
    ],
)
async def test_every_documented_error(
    project: str | None,
    status: int,
    body: str,
    kind: type[BalanceUnavailable],
    reason: str,
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """In either shape, of which the code is optional in the flat one."""
    url = serve(http(status, body)).url
    with pytest.raises(BalanceUnavailable) as caught:
        await AnchorBrowser(KEY, project, base_url=url).fetch(client)
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert caught.value.provider == "Anchor Browser"


def test_what_a_guard_reads_off_it() -> None:
    """The documented defaults."""
    provider = AnchorBrowser(KEY)
    assert provider.name == "Anchor Browser"
    assert provider.base_url == "https://api.anchorbrowser.io"
    assert provider.top_up_url == "https://app.anchorbrowser.io"
    assert (provider.lag, provider.linger) == (60.0, 1200.0)
    assert provider.extra_credits == 0
    assert provider.trust_env is False
    assert repr(provider) == (
        "AnchorBrowser(project_id=None, base_url='https://api.anchorbrowser.io')"
    )


def test_key_and_project_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each where it is not given, and an empty project is none."""
    with pytest.raises(ConfigurationError, match=r"ANCHORBROWSER_API_KEY.*api_key="):
        AnchorBrowser()
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", f"{KEY}\n")
    monkeypatch.setenv("ANCHORBROWSER_PROJECT_ID", " ")
    assert AnchorBrowser().project_id is None
    assert AnchorBrowser().fingerprint == AnchorBrowser(KEY).fingerprint
    monkeypatch.setenv("ANCHORBROWSER_PROJECT_ID", "p1\n")
    assert AnchorBrowser().project_id == "p1"
    assert AnchorBrowser(project_id="p2").project_id == "p2"


def test_the_fingerprint_is_the_account() -> None:
    """A key's projects are accounts of their own."""
    made = [AnchorBrowser(KEY), AnchorBrowser(KEY, "p1"), AnchorBrowser(KEY, "p2")]
    made += [AnchorBrowser("k2", "p1"), AnchorBrowser(KEY, "p1", base_url="https://x.example")]
    assert len({provider.fingerprint for provider in made}) == len(made)
    assert AnchorBrowser(KEY, "p1").fingerprint == AnchorBrowser(KEY, " p1 ").fingerprint


@pytest.mark.parametrize(
    "project",
    [
        "",
        " ",
        "..",
        ".",
        ".p",
        "a/b",
        "../billing",
        "p1?x",
        "p1#x",
        "a%2Fb",
        "a\\b",
        "p 1",
        "é",
        "p1\r\nx: y",
        "a" * 129,
        f"{KEY}/",
    ],
)
def test_a_project_that_would_change_the_path_is_refused(project: str) -> None:
    """It is not quoted: it may be a key in the wrong place."""
    with pytest.raises(ConfigurationError, match="project_id") as caught:
        AnchorBrowser("k", project)
    assert KEY not in str(caught.value)


def test_a_project_is_text() -> None:
    """A number would have to be written as one."""
    with pytest.raises(TypeError, match="project_id takes a str, not int"):
        AnchorBrowser("k", 5)  # type: ignore[arg-type]
