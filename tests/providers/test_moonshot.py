"""Moonshot: its balance page to the letter, its prices, and what its replies say (2026-11)."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hostile import KEY, Server, http

from budgetguard import InsufficientCredits
from budgetguard._core.balance import Balance
from budgetguard._core.errors import BalanceUnavailable, ConfigurationError
from budgetguard.providers import EXHAUSTED, NOT_CREDITS, Moonshot, TokenPrice
from budgetguard.providers.billing import BillingReply, Unpriced, read
from budgetguard.providers.chat.moonshot.billing import MoonshotBilling

Serve = Callable[..., Server]
CHAT = "/v1/chat/completions"
CHINA = "https://api.moonshot.cn"
DATA = {"available_balance": 49.58894, "voucher_balance": 46.58893, "cash_balance": 3.00001}
GOOD = {"code": 0, "data": DATA, "scode": "0x0", "status": True}


async def ask(serve: Serve, client: httpx.AsyncClient, body: object) -> Balance:
    """The balance that a reply with this body is read as."""
    url = serve(http(200, json.dumps(body))).url
    return await Moonshot(KEY, currency="USD", base_url=url).fetch(client)


@pytest.mark.anyio
async def test_the_documented_reply(serve: Serve, client: httpx.AsyncClient) -> None:
    """What is available counts, in the currency of the account."""
    server = serve(http(200, json.dumps(GOOD)))
    provider = Moonshot(KEY, currency="CNY", base_url=f"{server.url}/v1")
    balance = await provider.fetch(client)
    assert balance == Balance(credits=Decimal("49.58894"), unit="CNY", as_of=balance.as_of)
    assert server.requests[0].startswith(b"GET /v1/users/me/balance HTTP/1.1\r\n")
    assert f"\r\nauthorization: Bearer {KEY}\r\n".encode() in server.requests[0]


@pytest.mark.anyio
@pytest.mark.parametrize("left", [0, -1.5])
async def test_debts(left: float, serve: Serve, client: httpx.AsyncClient) -> None:
    """Cash may be below zero; then what is available is the voucher alone, as its field says."""
    data = {"available_balance": left, "voucher_balance": 0, "cash_balance": -31.14918}
    assert (await ask(serve, client, GOOD | {"data": data})).credits == Decimal(str(left))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "code is missing"),
        (GOOD | {"code": 1}, "the provider reported a failure"),
        (GOOD | {"code": 5, "message": "No."}, "the provider reported a failure: No"),
        (GOOD | {"code": "0"}, "code .* is text, not a number"),
        (GOOD | {"code": False}, "code .* is false, not a number"),
        (GOOD | {"status": False}, "the provider reported a failure"),
        (GOOD | {"status": None}, "status .* is null"),
        (GOOD | {"status": 1}, "status .* is a number"),
        (GOOD | {"data": None}, "data .* is null"),
        (GOOD | {"data": []}, "data .* is a list"),
        (GOOD | {"data": {}}, "available_balance is missing"),
        (GOOD | {"data": {"available_balance": None}}, "available_balance .* is null"),
        (GOOD | {"data": {"available_balance": "49"}}, "available_balance .* is text"),
        (GOOD | {"data": {"available_balance": True}}, "available_balance .* is true"),
        (GOOD | {"data": {"available_balance": 1e13}}, "available_balance .* is beyond"),
    ],
)
async def test_no_nonsense_is_a_balance(
    body: Any, words: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Each fault is named; a failure with status 200 is one as well."""
    with pytest.raises(BalanceUnavailable, match=words):
        await ask(serve, client, body)


@pytest.mark.parametrize(
    ("url", "unit"),
    [
        (None, "USD"),
        ("https://api.moonshot.ai/v1", "USD"),
        (CHINA, "CNY"),
        (f"{CHINA}/v1", "CNY"),
        (f"{CHINA}/anthropic", "CNY"),
    ],
)
def test_the_host_decides_the_currency(url: str | None, unit: str) -> None:
    """And what a client needs at the end of its base URL is no part of it."""
    provider = Moonshot(KEY, base_url=url)
    assert provider.unit == unit
    assert provider.base_url == (CHINA if unit == "CNY" else "https://api.moonshot.ai")
    assert Moonshot(KEY, base_url=url, currency=unit).fingerprint == provider.fingerprint
    assert provider.top_up_url == f"https://platform.kimi.{'com' if unit == 'CNY' else 'ai'}"


@pytest.mark.parametrize(
    ("url", "currency", "words"),
    [
        (CHINA, "USD", "Accounts at api.moonshot.cn are in CNY, and currency .* says USD"),
        (None, "CNY", "Accounts at api.moonshot.ai are in USD, and currency .* says CNY"),
        ("https://proxy.example", None, "for another base_url, pass currency="),
        ("https://moonshot.ai.example", None, "for another base_url, pass currency="),
        ("https://notmoonshot.cn", None, "for another base_url, pass currency="),
        ("https://api.kimi.com/coding", None, "for another base_url, pass currency="),
        ("http://127.0.0.1:1", None, "for another base_url, pass currency="),
        (None, KEY, "must be USD or CNY"),
    ],
)
def test_a_currency_is_never_guessed(url: str | None, currency: str | None, words: str) -> None:
    """A wrong one would be taken for seven times as much, and a wrong text may be the key."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        Moonshot(KEY, base_url=url, currency=currency)
    assert KEY not in str(caught.value)


def test_a_currency_is_a_text() -> None:
    """Anything else is refused by its type."""
    with pytest.raises(TypeError, match="currency takes a str"):
        Moonshot(KEY, currency=1)  # type: ignore[arg-type]


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, base URL and currency can come from it."""
    monkeypatch.setenv("MOONSHOT_API_KEY", KEY)
    monkeypatch.setenv("MOONSHOT_BASE_URL", "https://proxy.example/kimi/v1")
    monkeypatch.setenv("MOONSHOT_CURRENCY", "CNY")
    assert repr(Moonshot()) == "Moonshot(currency='CNY', base_url='https://proxy.example/kimi')"
    monkeypatch.setenv("MOONSHOT_BASE_URL", "")
    with pytest.raises(ConfigurationError, match="says CNY"):
        Moonshot()


def test_each_currency_is_an_account() -> None:
    """Through a proxy, the base URL does not tell them apart."""
    proxy = "https://proxy.example"
    units = {Moonshot(KEY, base_url=proxy, currency=each).fingerprint for each in ("USD", "CNY")}
    assert len(units) == 2


class Asked:
    """A request, as far as a price needs it."""

    def __init__(self, **fields: Any) -> None:
        body = {"model": "kimi-k3", "messages": [{"role": "user", "content": "Hello"}]}
        self.content = json.dumps(body | fields).encode()


def held(provider: Moonshot, path: str = CHAT, **fields: Any) -> Any:
    """What a request holds."""
    prices: Any = provider.prices
    return prices["POST", path](Asked(**fields))


def test_a_call_holds_the_most_that_it_can_cost() -> None:
    """Its bytes at the price of input, and its limit at that of output."""
    size = len(Asked(max_completion_tokens=1000).content) + 2048
    assert held(Moonshot(KEY), max_completion_tokens=1000) == Decimal(size * 3 + 15_000) / 10**6
    china = Moonshot(KEY, base_url=CHINA)
    assert held(china, max_completion_tokens=1000) == Decimal(size * 20 + 100_000) / 10**6
    assert held(Moonshot(KEY)) > Decimal("1.96")
    assert held(Moonshot(KEY), model="kimi-k2.6") < Decimal("0.14")


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_cache_options": {"ttl": "1h"}},
        {"system": [{"type": "text", "text": "a", "cache_control": {"ttl": "1h"}}]},
    ],
)
def test_what_is_stored_for_an_hour_costs_twice_as_much(fields: dict[str, Any]) -> None:
    """Only where a request asks for it, and only what was not in the cache."""
    size = len(Asked(max_completion_tokens=1, **fields).content) + 2048
    most = held(Moonshot(KEY), max_completion_tokens=1, **fields)
    assert most == Decimal(size * 6 + 15) / 10**6
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "cached_tokens": 500_000}
    long, short = (reply({"usage": usage}, asked=each) for each in (fields, {}))
    assert billing().cost_of(long) == Decimal("3.15")
    assert billing().cost_of(short) == Decimal("1.65")


def test_an_unknown_model_has_no_price() -> None:
    """Nor has one whose price in yuan nobody quotes, or work whose cost is not in its request."""
    with pytest.raises(Unpriced, match=r"none of kimi-k3\.1-pro, .*prices_per_model"):
        held(Moonshot(KEY), model="kimi-k4")
    with pytest.raises(Unpriced, match=r"none of kimi-k3, kimi-k2\.7-code, kimi-k2\.6"):
        held(Moonshot(KEY, base_url=CHINA), model="kimi-k3.1-pro")
    own = {"kimi-k3.1-pro": TokenPrice(14, 70)}
    assert held(Moonshot(KEY, base_url=CHINA, prices_per_model=own), model="kimi-k3.1-pro") > 70
    with pytest.raises(Unpriced, match="cost of a batch"):
        held(Moonshot(KEY), "/v1/batches")
    with pytest.raises(Unpriced, match="a tool that the vendor runs"):
        held(Moonshot(KEY), "/v1/formulas/**")


def billing() -> MoonshotBilling:
    """Moonshot's, with its own prices."""
    return MoonshotBilling(Moonshot.PRICES["USD"])


USAGE = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000, "cached_tokens": 400_000}
COST = Decimal(3) * 6 / 10 + Decimal("0.3") * 4 / 10 + Decimal("1.5")
EVENTS = {"content-type": "text/event-stream"}


def reply(body: Any, path: str = CHAT, status: int = 200, asked: Any = None) -> BillingReply:
    """A reply with this body, to a request of Asked(**asked)."""
    request = None if asked is None else Asked(**asked).content
    return BillingReply(path, status, {}, json.dumps(body).encode(), request_body=request)


def test_a_call_costs_its_tokens() -> None:
    """Those that were in the cache cost less."""
    assert billing().cost_of(reply({"usage": USAGE}, asked={})) == COST
    assert billing().cost_of(reply({"usage": USAGE, "model": "kimi-k3"})) == COST
    assert billing().cost_of(reply({"usage": USAGE})) == "cost"
    assert billing().cost_of(reply({}, asked={})) == "cost"


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_costs_what_its_end_says(asked: bool) -> None:
    """In its last choice, and in a chunk of its own if the request asks for that."""
    chunks: list[Any] = [
        {"choices": [{"delta": {"content": "a"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop", "usage": USAGE}]},
    ]
    chunks += [{"choices": [], "usage": USAGE}] * asked
    text = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks)
    request = Asked(stream=True).content
    whole = read(CHAT, 200, EVENTS, f"{text}data: [DONE]\n\n".encode(), request_body=request)
    assert billing().cost_of(whole) == COST
    broken = read(CHAT, 200, EVENTS, text.encode(), complete=False, request_body=request)
    assert billing().cost_of(broken) == "keep"


SUSPENDED = "Your account org-1 <ak-1> is suspended due to insufficient balance, please recharge"


@pytest.mark.parametrize(
    ("status", "kind", "message", "lacks"),
    [
        (429, "exceeded_current_quota_error", SUSPENDED, True),
        (403, "exceeded_current_quota_error", "Your account is not active", True),
        (429, "exceeded_current_quota_error", None, True),
        (429, "EXCEEDED_CURRENT_QUOTA_ERROR", "", True),
        (403, "permission_denied_error", SUSPENDED, True),
        (402, "anything", "", True),
        (429, "rate_limit_reached_error", "Your account reached max request: 3", False),
        (429, "engine_overloaded_error", "The engine is currently overloaded", False),
        (403, "permission_denied_error", "Permission denied", False),
        (401, "invalid_authentication_error", "Invalid Authentication", False),
        (400, "content_filter", "high risk", False),
        (429, None, None, False),
    ],
)
def test_a_lack_of_credits_is_known_by_its_type(
    status: int, kind: str | None, message: str | None, lacks: bool
) -> None:
    """The same status is a rate limit with another type (errors page)."""
    error = {"type": kind, "message": message}
    assert billing().classify(reply({"error": error}, status=status)) is (
        EXHAUSTED if lacks else NOT_CREDITS
    )


@pytest.mark.parametrize(
    "content", [None, b"", b"no JSON", b"[]", b'{"error": "no"}', b'{"error": [1]}']
)
def test_a_refusal_in_no_shape_is_not_about_credits(content: bytes | None) -> None:
    """Except for a 402, whatever is in it."""
    assert billing().classify(BillingReply(CHAT, 429, {}, content)) is NOT_CREDITS
    assert billing().classify(BillingReply(CHAT, 402, {}, content)) is EXHAUSTED


def test_our_refusals_have_their_shape() -> None:
    """With the type by which clients know that they need not try again."""
    nothing: Any = dict.fromkeys(("balance", "held", "pending", "floor", "available"), Decimal(0))
    error = InsufficientCredits(
        operation="a", needed=Decimal(1), age=1.0, provider="Moonshot", **nothing
    )
    found = billing().refusal_body(error, CHAT)["error"]
    assert (found["type"], found["message"]) == ("exceeded_current_quota_error", str(error))


def test_a_hold_is_a_limit_of_tokens() -> None:
    """Under the name that is not deprecated, if the request has none."""
    found = billing().capped(CHAT, Asked().content, Decimal("0.1"))
    assert json.loads(found or b"")["max_completion_tokens"] > 6000
