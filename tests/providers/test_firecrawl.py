"""Firecrawl's balance, and what its replies say about credits (docs.firecrawl.dev, read 2026-11)."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hostile import KEY, Server, http

from budgetguard import BalanceUnavailable, ConfigurationError, InsufficientCredits, Paused
from budgetguard._core.balance import Balance
from budgetguard._core.errors import InvalidCredentials
from budgetguard._core.refresh_failure import Transient
from budgetguard.providers import EXHAUSTED, KEY_LIMIT, NOT_CREDITS, Firecrawl, WorkStatus
from budgetguard.providers.billing import BillingReply, Outcome

Serve = Callable[..., Server]
BILLING = Firecrawl.billing
PLAN = {
    "remainingCredits": 1000,
    "planCredits": 500000,
    "billingPeriodStart": "2026-11-01T00:00:00Z",
    "billingPeriodEnd": "2026-11-30T23:59:59Z",
}
SLOTS = {"success": True, "concurrency": 1, "maxConcurrency": 5}
# The words of the server's own 402 (firecrawl/firecrawl, routes/shared.ts, 2026).
LACKING = {
    "success": False,
    "error": (
        "Insufficient credits to perform this request. For more credits, you can upgrade your plan at "
        "https://firecrawl.dev/pricing or try changing the request limit to a lower value."
    ),
}


def usage(**changed: Any) -> bytes:
    """The reply to `GET /v2/team/credit-usage`; a field that is `...` is missing."""
    data = {name: value for name, value in (PLAN | changed).items() if value is not ...}
    return http(200, json.dumps({"success": True, "data": data}))


async def fetched(client: httpx.AsyncClient, server: Server, **options: Any) -> Balance:
    """The balance that this server replies with."""
    return await Firecrawl(KEY, base_url=server.url, **options).fetch(client)


@pytest.mark.anyio
async def test_the_example_of_the_page(serve: Serve, client: httpx.AsyncClient) -> None:
    """One bearer GET for the credits and for when they are renewed."""
    server = serve(usage())
    balance = await fetched(client, server)
    renews_at = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    assert balance == Balance(
        credits=Decimal(1000), unit="credits", renews_at=renews_at, as_of=balance.as_of
    )
    [request] = server.requests
    assert request.startswith(b"GET /v2/team/credit-usage HTTP/1.1\r\n")
    assert f"authorization: Bearer {KEY}\r\n".encode() in request


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("number", "credits"),
    [(0, "0"), (42.5, "42.5"), (-7, "-7"), (999_999, "999999"), (1e3, "1000")],
)
async def test_any_number_is_taken_exactly(
    number: float, credits: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """It may exceed the plan, be fractional, and fall below zero while pay-as-you-go is on."""
    balance = await fetched(client, serve(usage(remainingCredits=number)))
    assert balance.credits == Decimal(credits)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("end", "renews_at"),
    [
        (None, None),
        (..., None),
        ("2026-11-30T23:59:59.250+01:00", datetime(2026, 11, 30, 22, 59, 59, 250_000, tzinfo=UTC)),
    ],
)
async def test_when_the_credits_are_renewed(
    end: Any, renews_at: datetime | None, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Null on the free plan, and a time in UTC otherwise."""
    balance = await fetched(client, serve(usage(billingPeriodEnd=end)))
    assert balance.renews_at == renews_at
    assert renews_at is None or balance.renews_at is not None
    if balance.renews_at is not None:
        assert balance.renews_at.tzinfo is UTC


@pytest.mark.anyio
async def test_slots_are_a_second_request(serve: Serve, client: httpx.AsyncClient) -> None:
    """On request alone: the limit of concurrent browsers."""
    server = serve(usage(), http(200, json.dumps(SLOTS)))
    balance = await fetched(client, server, slots=True)
    assert (balance.credits, balance.max_concurrency) == (1000, 5)
    assert server.requests[1].startswith(b"GET /v2/concurrency-check HTTP/1.1\r\n")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (usage(remainingCredits=...), "remainingCredits is missing"),
        (usage(remainingCredits=None), "remainingCredits in the provider's reply is null"),
        (usage(remainingCredits="1000"), "remainingCredits in the provider's reply is text"),
        (usage(remainingCredits=True), "remainingCredits in the provider's reply is true"),
        (usage(remainingCredits=1e13), "remainingCredits in the provider's reply is beyond 10^12"),
        (usage(billingPeriodEnd="soon"), "is not a date and time with an offset"),
        (usage(billingPeriodEnd="2026-11-30T23:59:59"), "is not a date and time with an offset"),
        (
            usage(billingPeriodEnd=1793620800),
            "billingPeriodEnd in the provider's reply is a number",
        ),
        (http(200, json.dumps({"success": True, **PLAN})), "data is missing"),
        (http(200, json.dumps({"success": True, "data": [PLAN]})), "data in the provider's reply"),
        (http(200, json.dumps({"data": PLAN})), "success is missing"),
        (
            http(200, json.dumps({"success": False, "error": "Try later", "data": PLAN})),
            "the provider reported a failure: Try later",
        ),
        (
            http(404, '{"success": false, "error": "Could not find credit usage information"}'),
            "the provider answered 404: Could not find credit usage information",
        ),
    ],
)
async def test_nonsense_is_no_balance(
    reply: bytes, reason: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """firecrawl-py makes 0 credits of a missing field, and raises on half a credit (4.55.0)."""
    with pytest.raises(BalanceUnavailable) as caught:
        await fetched(client, serve(reply))
    assert reason in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({}, "maxConcurrency is missing"),
        ({"maxConcurrency": None}, "maxConcurrency in the provider's reply is null"),
        ({"maxConcurrency": -1}, "is not a whole number of jobs"),
        ({"maxConcurrency": 2.5}, "is not a whole number of jobs"),
        ({"maxConcurrency": 5, "success": False}, "the provider reported a failure"),
    ],
)
async def test_slots_without_a_limit_are_no_balance(
    limit: Any, reason: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Whoever asks for them is not told that there is no limit."""
    server = serve(usage(), http(200, json.dumps({"success": True, **limit})))
    with pytest.raises(BalanceUnavailable, match=reason):
        await fetched(client, server, slots=True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "kind"), [(401, InvalidCredentials), (403, InvalidCredentials), (500, Transient)]
)
async def test_errors(
    status: int, kind: type[Exception], serve: Serve, client: httpx.AsyncClient
) -> None:
    """They have one shape, whose text comes along."""
    body = json.dumps({"success": False, "error": "Unauthorized: Invalid token"})
    with pytest.raises(kind, match=f"{status}: Unauthorized: Invalid token"):
        await fetched(client, serve(http(status, body)))


def test_what_a_guard_reads_off_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults, and where the key and the address come from."""
    for name in ("FIRECRAWL_API_KEY", "FIRECRAWL_BASE_URL", "FIRECRAWL_API_URL"):
        monkeypatch.delenv(name, raising=False)
    provider = Firecrawl(KEY)
    assert (provider.name, provider.unit) == ("Firecrawl", "credits")
    assert provider.base_url == "https://api.firecrawl.dev"
    assert (provider.lag, provider.linger) == (30.0, 300.0)
    assert provider.slots is False
    assert repr(provider) == "Firecrawl(base_url='https://api.firecrawl.dev')"
    with pytest.raises(ConfigurationError, match=r"FIRECRAWL_API_KEY.*api_key="):
        Firecrawl()
    with pytest.raises(TypeError, match="slots takes True or False"):
        Firecrawl(KEY, slots="yes")  # type: ignore[arg-type]
    monkeypatch.setenv("FIRECRAWL_API_KEY", KEY)
    monkeypatch.setenv("FIRECRAWL_API_URL", "https://ignored.example")
    assert Firecrawl().fingerprint == provider.fingerprint
    monkeypatch.setenv("FIRECRAWL_BASE_URL", "http://127.0.0.1:1")
    assert Firecrawl().base_url == "http://127.0.0.1:1"


def test_keys_of_one_team_are_one_account() -> None:
    """Named by `account`, whatever the key."""
    one, other = (Firecrawl(key, account="team") for key in (KEY, "fc-other"))
    assert one.fingerprint == other.fingerprint != Firecrawl(KEY).fingerprint
    assert one.credential != other.credential


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v2/crawl/1b", "/v2/crawl/1b?limit=1"),
        ("/v2/batch/scrape/1b", "/v2/batch/scrape/1b?limit=1"),
        ("/v1/crawl/1b", "/v1/crawl/1b?limit=1"),
        ("/v2/agent/1b", "/v2/agent/1b"),
        ("/v2/extract/1b", "/v2/extract/1b"),
    ],
)
async def test_a_status_comes_without_its_pages(
    path: str, sent: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """It would have 10 MB of them, more than is read of a reply."""
    server = serve(http(200, '{"status": "scraping", "creditsUsed": 3}'))
    reply = await Firecrawl(KEY, base_url=server.url).fetch_reply(client, path)
    assert server.requests[0].startswith(f"GET {sent} HTTP/1.1\r\n".encode())
    assert (reply.path, reply.status, reply.field("creditsUsed")) == (path, 200, 3)
    assert reply.complete


def reply(path: str, status: int = 200, body: Any = None, **rest: Any) -> BillingReply:
    """A reply whose body was read."""
    content = None if body is None else json.dumps(body).encode()
    return BillingReply(path, status, {}, content, **rest)


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (reply("/v2/scrape", 200, {"data": {"metadata": {"creditsUsed": 5}}}), Decimal(5)),
        (reply("/v2/scrape", 200, {"data": {"metadata": {}}}), "cost"),
        (reply("/v2/scrape", 200, {"data": {"metadata": {"creditsUsed": -5}}}), "cost"),
        (reply("/v2/scrape", 200, {"data": {"metadata": {"creditsUsed": True}}}), "cost"),
        (reply("/v2/scrape", 200, {"data": {"creditsCost": 7}}), Decimal(7)),
        (reply("/v2/scrape", 200, [1]), "cost"),
        (reply("/v2/scrape", 200), "cost"),
        (reply("/v2/scrape", 200, {"creditsUsed": 5}, complete=False), "keep"),
        (
            reply("/v2/scrape", 200, {"success": False, "code": "SCRAPE_DNS_RESOLUTION_ERROR"}),
            "cost",
        ),
        (reply("/v2/scrape", 404, {"code": "SCRAPE_LOCKDOWN_CACHE_MISS"}), "cost"),
        (reply("/v2/scrape", 404, {"code": "SCRAPE_NO_CACHED_DATA"}), "release"),
        (reply("/v2/scrape", 403, {"code": "unsafe_domain_blocked"}), "cost"),
        (reply("/v2/scrape", 403, {"code": "SCRAPE_PROMPT_INJECTION_DETECTED"}), "cost"),
        (reply("/v2/scrape", 403, {"error": "This website is not supported"}), "release"),
        (reply("/v2/scrape", 402, LACKING), "release"),
        (reply("/v2/scrape", 408, {"code": "SCRAPE_TIMEOUT"}), "keep"),
        (reply("/v2/scrape", 429, {"error": "Rate limit exceeded"}), "release"),
        (reply("/v2/scrape", 500, {"code": "SCRAPE_ALL_ENGINES_FAILED"}), "keep"),
        (reply("/v2/parse", 200, {"data": {"metadata": {"creditsUsed": 12}}}), Decimal(12)),
        (reply("/v2/map", 200, {"links": []}), "cost"),
        (reply("/v2/search", 200, {"creditsUsed": 2.5}), Decimal("2.5")),
        (reply("/v2/search/developer", 200, {"results": [{}] * 11}), Decimal(4)),
        (reply("/v2/search/research/papers", 200, {"results": []}), Decimal(0)),
        (reply("/v2/search/research/papers", 200, {}), "cost"),
        (reply("/v2/search/research/papers/1", 200, {"paper": {}}), "cost"),
        (reply("/v2/crawl", 200, {"id": "1b", "creditsUsed": 0}), "keep"),
        (reply("/v2/crawl", 402, LACKING), "release"),
        (reply("/v2/crawl", 409, {"error": "Idempotency key already used"}), "keep"),
        (reply("/v2/batch/scrape", 200, {"id": "1b"}), "keep"),
        (reply("/v2/agent", 200, {"id": "1b"}), "keep"),
        (reply("/v2/agent", 409, {"code": "thread_busy"}), "release"),
        (reply("/v2/extract", 200, {"id": "1b"}), "keep"),
        (reply("/v1/crawl", 200, {"id": "1b"}), "keep"),
        (reply("/v2/interact", 200, {"id": "1b"}), "keep"),
        (reply("/v2/browser", 200, {"id": "1b"}), "keep"),
        (reply("/v2/scrape/1b/interact", 200, {"success": False}), "keep"),
        (reply("/v2/interact", 429, {"error": "maximum number of concurrent jobs"}), "release"),
    ],
)
def test_what_became_of_a_call(given: BillingReply, end: Outcome) -> None:
    """Settled at `creditsUsed`; jobs and sessions go on; some refusals cost a scan or a look-up."""
    assert BILLING.cost_of(given) == end


@pytest.mark.parametrize(
    ("status", "body", "refusal"),
    [
        (200, {"success": False}, None),
        (402, LACKING, EXHAUSTED),
        (402, {"error": "Payment Required: Insufficient credits"}, EXHAUSTED),
        (402, {"success": False, "code": "insufficient_credits"}, EXHAUSTED),
        (402, None, EXHAUSTED),
        (402, [], EXHAUSTED),
        (402, {"success": False, "error": "unverified_credit_limit_reached"}, KEY_LIMIT),
        (403, {"error": "This API key has been blocked by the account holder."}, NOT_CREDITS),
        (409, {"code": "thread_busy"}, NOT_CREDITS),
        (429, {"error": "Rate limit exceeded"}, NOT_CREDITS),
        (429, {"error": "Concurrency limit reached"}, NOT_CREDITS),
        (500, {"code": "UNKNOWN_ERROR"}, NOT_CREDITS),
    ],
)
def test_how_a_refusal_is_read(status: int, body: Any, refusal: Any) -> None:
    """Only 402 is about credits, and one kind of it about a key alone."""
    assert BILLING.classify(reply("/v2/scrape", status, body)) == refusal


@pytest.mark.parametrize(
    ("path", "body", "work"),
    [
        ("/v2/crawl", {"success": True, "id": "019a-1b"}, "/v2/crawl/019a-1b"),
        ("/v2/batch/scrape", {"id": "1b"}, "/v2/batch/scrape/1b"),
        ("/v2/agent", {"id": "1b"}, "/v2/agent/1b"),
        ("/v2/extract", {"id": "1b"}, "/v2/extract/1b"),
        ("/v1/crawl", {"id": "1b"}, "/v1/crawl/1b"),
        ("/v2/crawl", {"id": "../scrape?x"}, "/v2/crawl/..%2Fscrape%3Fx"),
        ("/v2/crawl", {"id": ".."}, None),
        ("/v2/crawl", {"id": ""}, None),
        ("/v2/crawl", {"id": 7}, None),
        ("/v2/crawl", {}, None),
        ("/v2/crawl", None, None),
        ("/v2/scrape", {"id": "1b"}, None),
    ],
)
def test_where_the_status_of_a_job_is(path: str, body: Any, work: str | None) -> None:
    """Below the path of its submission, by its id."""
    assert BILLING.work(reply(path, 200, body)) == work
    assert BILLING.work(reply(path, 500, body)) is None


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, {"status": "scraping", "creditsUsed": 12}, WorkStatus(charged=Decimal(12))),
        (200, {"status": "scraping"}, WorkStatus()),
        (200, {"status": "processing", "creditsUsed": 3}, WorkStatus(charged=Decimal(3))),
        (200, {"status": "completed", "creditsUsed": 40}, WorkStatus(end=Decimal(40))),
        (200, {"status": "completed"}, WorkStatus(end="cost")),
        (200, {"status": "cancelled", "creditsUsed": 7}, WorkStatus(end=Decimal(7))),
        (200, {"status": "cancelled"}, WorkStatus(end="keep")),
        (200, {"success": False, "status": "failed", "creditsUsed": 0}, WorkStatus(end=Decimal(0))),
        (200, {"status": "failed", "creditsUsed": "?"}, WorkStatus(end="keep")),
        (200, {"status": "resting", "creditsUsed": 7}, None),
        (200, {"creditsUsed": 7}, None),
        (200, [], None),
        (200, None, None),
        (404, {"success": False, "error": "Job not found"}, WorkStatus(end="keep")),
        (500, {"status": "completed", "creditsUsed": 40}, None),
    ],
)
def test_what_the_status_of_a_job_says(status: int, body: Any, said: WorkStatus | None) -> None:
    """The credits so far, and at its end."""
    assert BILLING.status(reply("/v2/crawl/1b", status, body)) == said


def test_refusals_have_firecrawls_shape() -> None:
    """`error` is a text there, and firecrawl-py shows it; the other fields are for other SDKs."""
    unknown = BalanceUnavailable(provider="Firecrawl", reason="no answer", retry_after=2)
    words = str(unknown)
    assert BILLING.refusal_body(unknown, "/v2/crawl") == {
        "success": False,
        "error": words,
        "code": "balance_unavailable",
        **dict.fromkeys(("message", "detail", "title"), words),
    }
    lacking = InsufficientCredits(
        "crawl", "100", "4", "4", "0", "0", "0", age=1, provider="Firecrawl"
    )
    assert BILLING.refusal_body(lacking, "/v2/crawl")["code"] == "insufficient_credits"
    assert BILLING.refusal_body(lacking, "/v2/crawl")["error"] == str(lacking)
    assert BILLING.refusal_body(Paused("a", "b"), "/v2/crawl")["code"] == "paused"
    other = ConfigurationError("A sentence.")
    assert BILLING.refusal_body(other, "/v2/crawl")["code"] == "not_run"
