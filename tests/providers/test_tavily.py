"""Tavily's API reference, credits page and rate limits (docs.tavily.com, read 2026-11), to the letter."""

import json
import logging
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hostile import KEY, Server, http

from budgetguard import BalanceUnavailable, Guard, InsufficientCredits
from budgetguard._core.errors import InvalidCredentials
from budgetguard._core.refresh_failure import Transient
from budgetguard.providers import EXHAUSTED, KEY_LIMIT, NOT_CREDITS, ProviderRefusal, Tavily
from budgetguard.providers.billing import BillingReply, Unpriced, WorkStatus
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox, Vendor
from budgetguard.transport import GuardTransport

Serve = Callable[..., Server]

# The example of the reference, with the fields that are counted.
USAGE: dict[str, Any] = {
    "key": {"usage": 150, "limit": 1000, "search_usage": 100},
    "account": {
        "current_plan": "Bootstrap",
        "plan_usage": 500,
        "plan_limit": 15000,
        "paygo_usage": 25,
        "paygo_limit": 100,
        "search_usage": 350,
    },
}


def usage(key: Any = None, **account: Any) -> str:
    """The example, with other figures."""
    return json.dumps({"key": key or USAGE["key"], "account": USAGE["account"] | account})


@pytest.mark.anyio
async def test_the_example_of_the_page(serve: Serve, client: httpx.AsyncClient) -> None:
    """One bearer GET; of the key's limit and the account's, the smaller rest counts."""
    server = serve(http(200, json.dumps(USAGE)))
    balance = await Tavily(KEY, base_url=server.url).fetch(client)
    assert (balance.credits, balance.unit) == (850, "credits")
    assert (balance.tier, balance.max_concurrency, balance.renews_at) == ("Bootstrap", None, None)
    assert server.requests[0].startswith(b"GET /usage HTTP/1.1\r\n")
    assert f"authorization: Bearer {KEY}\r\n".encode() in server.requests[0]
    assert b"x-project-id" not in server.requests[0].lower()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "left"),
    [
        (usage({"usage": 150, "limit": None}), 14575),
        (usage({"usage": 150, "limit": None}, paygo_limit=None), 14500),
        (usage({"usage": 150, "limit": None}, paygo_limit=0, paygo_usage=0), 14500),
        (usage({"usage": 1500, "limit": 1000}), -500),
        (usage({"usage": 0, "limit": 20000}), 14575),
        (usage({"usage": 0, "limit": None}, plan_usage=15030), 75),
        (usage({"usage": 0, "limit": None}, plan_usage=15030, paygo_limit=None), 0),
        (usage({"usage": 0, "limit": None}, paygo_usage=125), 14500),
        (usage({"usage": 0.5, "limit": 2}), Decimal("1.5")),
    ],
)
async def test_what_is_left(
    body: str, left: Decimal, serve: Serve, client: httpx.AsyncClient
) -> None:
    """No limit of the key is documented as null; pay as you go counts only with a limit."""
    balance = await Tavily(KEY, base_url=serve(http(200, body)).url).fetch(client)
    assert balance.credits == left


def without(part: str, name: str) -> str:
    """The example without one field."""
    left = {key: value for key, value in USAGE[part].items() if key != name}
    return json.dumps(USAGE | {part: left})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{}", "key is missing"),
        ('{"key": {"usage": 1, "limit": 2}}', "account is missing"),
        ('{"account": {"plan_usage": 1, "plan_limit": 2}}', "key is missing"),
        (json.dumps(USAGE | {"key": None}), "key in the provider's reply is null"),
        (json.dumps(USAGE | {"account": []}), "account in the provider's reply is a list"),
        (without("key", "limit"), "limit is missing"),
        (without("key", "usage"), "usage is missing"),
        (without("account", "plan_limit"), "plan_limit is missing"),
        (without("account", "plan_usage"), "plan_usage is missing"),
        (without("account", "paygo_usage"), "paygo_usage is missing"),
        (without("account", "paygo_limit"), "paygo_limit is missing"),
        (usage(plan_limit=None), "plan_limit in the provider's reply is null"),
        (usage(plan_usage=None), "plan_usage in the provider's reply is null"),
        (usage(paygo_usage=None), "paygo_usage in the provider's reply is null"),
        (usage(plan_usage=-1), "plan_usage in the provider's reply is negative"),
        (usage(plan_limit=-1), "plan_limit in the provider's reply is negative"),
        (usage(paygo_limit=-1), "paygo_limit in the provider's reply is negative"),
        (usage(paygo_usage=-1), "paygo_usage in the provider's reply is negative"),
        (usage({"usage": -1, "limit": 5}), "usage in the provider's reply is negative"),
        (usage({"usage": 1, "limit": -1}), "limit in the provider's reply is negative"),
        (usage({"usage": 1, "limit": "unlimited"}), "limit in the provider's reply is text"),
        (usage({"usage": 1, "limit": False}), "limit in the provider's reply is false"),
        (usage(plan_limit="15000"), "plan_limit in the provider's reply is text"),
        (usage(plan_limit=True), "plan_limit in the provider's reply is true"),
        (usage(plan_limit=10**13), "beyond 10^12"),
        (usage(plan_limit=float("nan")), "NaN"),
        (usage(current_plan=3), "current_plan in the provider's reply is a number"),
    ],
)
async def test_nonsense_is_no_balance(
    body: str, words: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """A field that is missing, null or of another type is never taken for a figure."""
    with pytest.raises(BalanceUnavailable) as caught:
        await Tavily(KEY, base_url=serve(http(200, body)).url).fetch(client)
    assert words in caught.value.reason


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, "Unauthorized: missing or invalid API key.", InvalidCredentials),
        (429, "Your request has been blocked due to excessive requests.", Transient),
    ],
)
async def test_every_documented_error(
    status: int,
    error: str,
    kind: type[BalanceUnavailable],
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """The provider's own words come along, and what its Retry-After says."""
    wire = http(status, json.dumps({"detail": {"error": error}}), "retry-after: 60")
    with pytest.raises(BalanceUnavailable) as caught:
        await Tavily(KEY, base_url=serve(wire).url).fetch(client)
    assert type(caught.value) is kind
    assert error.rstrip(".") in caught.value.reason
    assert caught.value.retry_after == (60 if status == 429 else None)


def test_what_a_guard_reads_off_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults, and the environment."""
    provider = Tavily(KEY)
    assert (provider.name, provider.base_url) == ("Tavily", "https://api.tavily.com")
    assert provider.top_up_url == "https://app.tavily.com/billing"
    assert (provider.lag, provider.linger) == (300, 150)
    assert repr(provider) == "Tavily(base_url='https://api.tavily.com')"
    monkeypatch.setenv("TAVILY_API_KEY", KEY)
    monkeypatch.setenv("TAVILY_BASE_URL", "https://tavily.example")
    assert Tavily().base_url == "https://tavily.example"
    assert Tavily(base_url=provider.base_url).fingerprint == provider.fingerprint


def sent(path: str, body: Any) -> httpx.Request:
    """A request to Tavily."""
    content = body if isinstance(body, str) else json.dumps(body)
    return httpx.Request("POST", f"https://api.tavily.com{path}", content=content)


def cost(path: str, body: Any) -> Any:
    """The most that it can cost."""
    price: Any = Tavily.billing.prices["POST", path]
    return price(sent(path, body))


URLS = [f"https://example.com/{at}" for at in range(20)]


@pytest.mark.parametrize(
    ("path", "body", "credits"),
    [
        ("/search", {"query": "x"}, 1),
        ("/search", {"query": "x", "search_depth": "basic"}, 1),
        ("/search", {"query": "x", "search_depth": "fast"}, 1),
        ("/search", {"query": "x", "search_depth": "ultra-fast"}, 1),
        ("/search", {"query": "x", "search_depth": "advanced"}, 2),
        ("/search", {"query": "x", "search_depth": None}, 1),
        ("/search", {"query": "x", "search_depth": "newest"}, 2),
        ("/search", {"query": "x", "search_depth": ["basic"]}, 2),
        ("/search", {"query": "x", "auto_parameters": True}, 2),
        ("/search", {"query": "x", "auto_parameters": {}}, 2),
        ("/search", {"query": "x", "auto_parameters": False}, 1),
        ("/search", {"query": "x", "auto_parameters": True, "search_depth": "basic"}, 1),
        ("/search", "not JSON", 1),
        ("/extract", {"urls": URLS[0]}, 1),
        ("/extract", {"urls": URLS[:5]}, 1),
        ("/extract", {"urls": URLS[:6]}, 2),
        ("/extract", {"urls": URLS, "extract_depth": "basic"}, 4),
        ("/extract", {"urls": URLS[:6], "extract_depth": "advanced"}, 4),
        ("/extract", {"urls": URLS[:6], "extract_depth": {}}, 4),
        ("/extract", {"urls": None}, 4),
        ("/map", {"url": "x"}, 5),
        ("/map", {"url": "x", "limit": 1}, 1),
        ("/map", {"url": "x", "limit": 11}, 2),
        ("/map", {"url": "x", "limit": 11.2}, 2),
        ("/map", {"url": "x", "limit": 20, "instructions": "all of it"}, 4),
        ("/crawl", {"url": "x", "limit": 10}, 3),
        ("/crawl", {"url": "x", "limit": 10, "extract_depth": "advanced"}, 5),
        ("/crawl", {"url": "x", "limit": 10, "instructions": "all of it"}, 4),
        ("/crawl", {"url": "x"}, 15),
        ("/research", {"input": "x", "model": "mini"}, 110),
        ("/research", {"input": "x", "model": "pro"}, 250),
        ("/research", {"input": "x", "model": "auto"}, 250),
        ("/research", {"input": "x"}, 250),
    ],
)
def test_the_most_that_a_request_costs(path: str, body: Any, credits: int) -> None:
    """Every row of the credits page, and the larger price for what it does not say."""
    found = cost(path, body)
    assert (found["min"] if path == "/research" else found) == credits


@pytest.mark.parametrize("limit", [0, -1, "50", True, [], 10**13])
def test_a_limit_that_is_none_has_no_price(limit: Any) -> None:
    """The request is not sent, and the value is not shown."""
    for path in ("/map", "/crawl"):
        with pytest.raises(Unpriced, match=r"not known: pass a whole number above zero"):
            cost(path, {"url": "x", "limit": limit})


def reply(path: str, body: Any, status: int = 200, **rest: Any) -> BillingReply:
    """A reply with this JSON to a request with that."""
    asked = rest.pop("asked", None)
    given = None if asked is None else json.dumps(asked).encode()
    return BillingReply(path, status, {}, json.dumps(body).encode(), request_body=given, **rest)


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (reply("/search", {"usage": {"credits": 2}}), 2),
        (reply("/search", {"usage": {"credits": 0}}), 0),
        (reply("/search", {"results": [{}]}, asked={}), "cost"),
        (reply("/search", {"usage": {"credits": -1}}), "cost"),
        (reply("/search", {"usage": {"credits": "lots"}}), "cost"),
        (reply("/search", {"usage": None}), "cost"),
        (reply("/search", {"usage": {"credits": 2}}, complete=False), "keep"),
        (reply("/search", {"usage": {"credits": 2}}, 500), "keep"),
        (reply("/search", {}, 400), "release"),
        (reply("/search", {}, 429), "release"),
        (reply("/search", {}, 432), "release"),
        (reply("/search", {}, 433), "release"),
        (reply("/extract", {"results": [{}] * 6}, asked={}), 2),
        (reply("/extract", {"results": [{}] * 6}, asked={"extract_depth": "advanced"}), 4),
        (reply("/extract", {"results": [], "failed_results": [{}]}, asked={}), 0),
        (reply("/extract", {"results": [{}], "usage": {"credits": 0}}, asked={}), 0),
        (reply("/extract", {"results": [{}] * 6}), "cost"),
        (reply("/extract", {"results": 6}, asked={}), "cost"),
        (reply("/extract", {"results": ["x"]}, asked={}), "cost"),
        (reply("/map", {"results": [{}]}, asked={}), "cost"),
        (reply("/map", {"results": ["x"] * 11}, asked={}), 2),
        (reply("/map", {"results": ["x"] * 11}, asked={"instructions": "x"}), 4),
        (reply("/crawl", {"results": [{}] * 6}, asked={"limit": 40}), 6),
        (reply("/crawl", {"results": [{}] * 6}, asked={"limit": "40"}), "cost"),
        (reply("/crawl", [], asked={}), "cost"),
        (reply("/research", {"status": "pending", "request_id": "r"}, 201), "keep"),
        (reply("/research", {"status": "in_progress"}), "keep"),
        (reply("/research", {"status": "completed", "usage": {"credits": 31}}), 31),
        (reply("/research", {"status": {}}), "cost"),
    ],
)
def test_what_a_call_cost(answer: BillingReply, end: Any) -> None:
    """The credits of the reply, or the most for its results; failed URLs are free."""
    assert Tavily.billing.cost_of(answer) == end


def test_a_stream_of_research_ends_at_its_usage() -> None:
    """It is given in one of the last frames, if at all."""
    frames = (("message", '{"choices": []}'), ("message", '{"usage": {"credits": 40}}'))
    done = BillingReply("/research", 200, {}, frames=frames)
    assert Tavily.billing.cost_of(done) == 40
    assert Tavily.billing.cost_of(BillingReply("/research", 200, {}, frames=frames[:1])) == "cost"
    broken = BillingReply("/research", 200, {}, frames=frames, complete=False)
    assert Tavily.billing.cost_of(broken) == "keep"


PLAN = "This request exceeds your plan's set usage limit. Please upgrade your plan"
OWN = "This request exceeds this API key's set usage limit. You can increase its limit"


@pytest.mark.parametrize(
    ("status", "body", "refusal"),
    [
        (200, {}, None),
        (432, {"detail": {"error": PLAN}}, EXHAUSTED),
        (432, {"detail": {"error": OWN}}, KEY_LIMIT),
        (432, {"error": OWN}, KEY_LIMIT),
        (432, {"detail": OWN}, EXHAUSTED),
        (432, {"detail": {"error": ["API key"]}}, EXHAUSTED),
        (432, [], EXHAUSTED),
        (433, {"detail": {"error": "This request exceeds the pay-as-you-go limit."}}, EXHAUSTED),
        (433, {"detail": {"error": OWN}}, EXHAUSTED),
        (402, {}, EXHAUSTED),
        (401, {"detail": {"error": "Unauthorized: missing or invalid API key."}}, NOT_CREDITS),
        (403, {"detail": {"error": "[403] URL is not supported"}}, NOT_CREDITS),
        (429, {"detail": {"error": "blocked due to excessive requests"}}, NOT_CREDITS),
        (500, {"detail": {"error": PLAN}}, None),
    ],
)
def test_how_a_refusal_is_read(status: int, body: Any, refusal: ProviderRefusal | None) -> None:
    """432 is the plan's limit unless it names the key's; a rate limit says nothing of credits."""
    assert Tavily.billing.classify(reply("/search", body, status)) == refusal


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (reply("/r", {"status": "in_progress"}, 202), WorkStatus()),
        (reply("/r", {"status": "completed"}), WorkStatus(end="cost")),
        (
            reply("/r", {"status": "completed", "usage": {"credits": 31}}),
            WorkStatus(end=Decimal(31)),
        ),
        (reply("/r", {"status": "failed"}), WorkStatus(end="keep")),
        (reply("/r", {"status": "failed", "usage": {"credits": 4}}), WorkStatus(end=Decimal(4))),
        (reply("/r", {}, 404), WorkStatus(end="keep")),
        (reply("/r", {"status": 3}), None),
        (reply("/r", []), None),
        (reply("/r", {"status": "completed"}, 500), None),
    ],
)
def test_the_status_of_research(answer: BillingReply, status: WorkStatus | None) -> None:
    """Completed and failed are its ends; only a completed one surely costs."""
    assert Tavily.billing.status(answer) == status


def test_where_the_status_of_research_is_found() -> None:
    """By its id, which may be anything; other replies name no work."""
    work = Tavily.billing.work
    assert work(reply("/research", {"request_id": "a/b c"}, 201)) == "/research/a%2Fb%20c"
    for body in ({"request_id": ".."}, {"request_id": 3}, {}, []):
        assert work(reply("/research", body)) is None
    assert work(reply("/search", {"request_id": "r"})) is None
    assert work(reply("/research", {"request_id": "r"}, 432)) is None


@pytest.fixture
def sandbox(clock: HandClock) -> Iterator[Sandbox]:
    """One with 100 credits, whose time is moved by hand as the guards' is."""
    del clock
    with Sandbox(100, clock="manual") as sandbox:
        yield sandbox


@pytest.fixture
def vendor(sandbox: Sandbox) -> Any:
    """Tavily there."""
    return sandbox.vendor("tavily")


def guard_of(vendor: Vendor, **options: Any) -> Guard:
    """A guard of its account."""
    return Guard(Tavily(vendor.key, base_url=vendor.url), **options)


def client_of(vendor: Vendor, guard: Guard) -> httpx.Client:
    """A guarded client."""
    headers = {"authorization": f"Bearer {vendor.key}"}
    transport = GuardTransport(guard)
    return httpx.Client(base_url=vendor.url, headers=headers, transport=transport)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/search", {"query": "x"}),
        ("/search", {"query": "x", "search_depth": "advanced"}),
        ("/extract", {"urls": URLS}),
        ("/extract", {"urls": [*URLS[:9], "https://no.invalid"], "extract_depth": "advanced"}),
        ("/map", {"url": "x"}),
        ("/map", {"url": "x", "instructions": "x"}),
        ("/crawl", {"url": "x", "limit": 5, "extract_depth": "advanced"}),
    ],
)
def test_each_call_is_settled_at_what_it_really_cost(
    vendor: Vendor, path: str, body: dict[str, Any]
) -> None:
    """Again and again, so that blocks of URLs are filled over several calls."""
    guard = guard_of(vendor)
    guard.balance()
    with client_of(vendor, guard) as http:
        for _ in range(9):
            assert http.post(path, json=body | {"include_usage": True}).status_code == 200
            assert guard.available == vendor.account.balance
    assert 0 < vendor.account.used < 100


def test_without_its_usage_a_call_never_counts_for_less_than_it_cost(vendor: Vendor) -> None:
    """What is known is the number of results, and not what earlier calls had begun."""
    guard = guard_of(vendor)
    guard.balance()
    with client_of(vendor, guard) as http:
        for body in ({"urls": URLS[:3]}, {"urls": URLS[:3]}, {"urls": ["https://no.invalid"]}):
            http.post("/extract", json=body)
        http.post("/crawl", json={"url": "x"})
    assert guard.available == 100 - 1 - 1 - 0 - (5 + 2)
    assert guard.available <= vendor.account.balance


def test_the_accounts_limits_are_read_off_the_sandbox(vendor: Any, clock: HandClock) -> None:
    """The key's own limit, and what may be spent beyond the plan."""
    guard = guard_of(vendor)
    vendor.account.spend(30)
    for paygo, limit, left in ((None, None, 70), (20, None, 70), (20, 50, 20)):
        vendor.paygo_limit, vendor.key_limit = paygo, limit
        clock.advance(1)
        assert guard.balance(max_age=0).credits == left


def test_our_refusal_is_as_tavilys(vendor: Vendor) -> None:
    """A 432 whose `detail.error` says what is lacking; the SDK shows nothing of a 402."""
    vendor.account.spend(99)
    guard = guard_of(vendor)
    with client_of(vendor, guard) as http:
        refused = http.post("/search", json={"query": "x", "search_depth": "advanced"})
        invalid = http.post("/map", json={"url": "x", "limit": -1})
    assert refused.status_code == 432
    assert "needs 2 credits, and 1 is available" in refused.json()["detail"]["error"]
    assert refused.json()["error"]["message"] == refused.json()["detail"]["error"]
    assert invalid.status_code == 400
    assert "limit" in invalid.json()["detail"]["error"]
    assert vendor.requests.arrived == 0


def test_an_unknown_balance_is_no_limit(vendor: Vendor) -> None:
    """It keeps the status that clients do not send again."""
    guard = guard_of(vendor)
    error = BalanceUnavailable(provider="Tavily", reason="nothing answers")
    assert Tavily.billing.refusal_status(error) == 424
    with pytest.raises(InsufficientCredits) as caught, guard.require_credits(min=101):
        pass
    assert Tavily.billing.refusal_status(caught.value) == 432


def test_no_key_is_logged(vendor: Vendor, caplog: pytest.LogCaptureFixture) -> None:
    """With every logger at DEBUG, through a call, a refusal and a failed refresh."""
    caplog.set_level(logging.DEBUG)
    guard = guard_of(vendor)
    with client_of(vendor, guard) as http:
        http.post("/search", json={"query": "x"})
        vendor.refuse_with = "exhausted"
        http.post("/search", json={"query": "x"})
        http.post("/search", json={"query": "x"})
    assert caplog.records
    assert vendor.key not in caplog.text
    assert vendor.key not in repr([vars(record) for record in caplog.records])
