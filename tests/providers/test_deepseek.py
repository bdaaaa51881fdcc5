"""DeepSeek: its balance page to the letter, its prices, and what its replies say (2026-11)."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hostile import KEY, Server, http

from budgetguard import InsufficientCredits, Paused
from budgetguard._core.balance import Balance
from budgetguard._core.errors import BalanceUnavailable, ConfigurationError
from budgetguard.providers import EXHAUSTED, NOT_CREDITS, DeepSeek, TokenPrice
from budgetguard.providers._tokens import TokenCount
from budgetguard.providers.billing import BillingReply, Unpriced, read
from budgetguard.providers.chat.deepseek.billing import DeepSeekBilling

Serve = Callable[..., Server]
FLASH = DeepSeek.PRICES["USD"]["deepseek-flash"]
CHAT = "/chat/completions"
PEAK = datetime(2026, 11, 18, 2, tzinfo=UTC)


def entry(currency: object = "USD", amount: object = "110.00", **more: object) -> dict[str, object]:
    """One balance, as the page shows it."""
    return {
        "currency": currency,
        "total_balance": amount,
        "granted_balance": "10.00",
        "topped_up_balance": "100.00",
        **more,
    }


async def ask(
    serve: Serve, client: httpx.AsyncClient, *entries: object, available: object = True, **more: Any
) -> Balance:
    """The balance that a reply with these entries is read as."""
    body = json.dumps({"is_available": available, "balance_infos": entries})
    return await DeepSeek(KEY, base_url=serve(http(200, body)).url, **more).fetch(client)


@pytest.mark.anyio
async def test_the_documented_reply(serve: Serve, client: httpx.AsyncClient) -> None:
    """Amounts are text, and the unit is the currency."""
    server = serve(http(200, json.dumps({"is_available": True, "balance_infos": [entry("CNY")]})))
    balance = await DeepSeek(KEY, currency="CNY", base_url=server.url).fetch(client)
    assert balance == Balance(credits=Decimal(110), unit="CNY", as_of=balance.as_of)
    assert server.requests[0].startswith(b"GET /user/balance HTTP/1.1\r\n")
    assert f"\r\nauthorization: Bearer {KEY}\r\n".encode() in server.requests[0]


@pytest.mark.anyio
@pytest.mark.parametrize("order", [1, -1])
async def test_currencies_are_told_apart_in_any_order(
    order: int, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Each account counts in its own, and an empty one does not become the other."""
    entries = [entry("CNY", "71.46"), entry("USD", "0.00")][::order]
    assert (await ask(serve, client, *entries)).credits == 0
    assert (await ask(serve, client, *entries, currency="CNY")).credits == Decimal("71.46")


@pytest.mark.anyio
async def test_the_currencies_that_are_there_are_named(
    serve: Serve, client: httpx.AsyncClient
) -> None:
    """No other currency is taken in the place of one that is missing."""
    with pytest.raises(BalanceUnavailable, match="no balance in USD, but in CNY and EUR") as caught:
        await ask(serve, client, entry("EUR"), entry("CNY"))
    assert "DEEPSEEK_CURRENCY" in caught.value.reason
    with pytest.raises(BalanceUnavailable, match="no balance in USD, but in no currency"):
        await ask(serve, client)


@pytest.mark.anyio
@pytest.mark.parametrize(("amount", "left"), [("12.50", 0), ("-0.30", Decimal("-0.3"))])
async def test_an_account_that_cannot_make_calls_has_nothing(
    amount: str,
    left: Decimal,
    serve: Serve,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is_available says counts, and the log says why; debts remain what they are."""
    with caplog.at_level(logging.WARNING, "budgetguard"):
        balance = await ask(serve, client, entry(amount=amount), available=False)
    assert balance.credits == left
    said = "DeepSeek reports 12.50 USD, and that the account cannot make calls"
    assert [said in message for message in caplog.messages] == [True] * (left == 0)


@pytest.mark.anyio
async def test_an_unavailable_account_is_logged_once(
    serve: Serve, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Again only after it was available."""
    bodies = [
        json.dumps({"is_available": available, "balance_infos": [entry()]})
        for available in (False, False, True, False)
    ]
    provider = DeepSeek(KEY, base_url=serve(*(http(200, body) for body in bodies)).url)
    counts = []
    for _ in bodies:
        await provider.fetch(client)
        counts.append(len(caplog.records))
    assert counts == [1, 1, 1, 2]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "balance_infos is missing"),
        ({"balance_infos": None}, "balance_infos in the provider's reply is null"),
        ({"balance_infos": {"USD": "1"}}, "is an object, not a list"),
        ({"balance_infos": ["1"]}, "an entry of balance_infos .* is text, not an object"),
        ({"balance_infos": [{"total_balance": "1"}]}, "not the code of a currency"),
        ({"balance_infos": [entry(currency=KEY)]}, "not the code of a currency"),
        ({"balance_infos": [entry(currency=1)]}, "currency .* is a number, not text"),
        ({"balance_infos": [entry(), entry()]}, "two balances in USD"),
        ({"balance_infos": [entry(amount=110)]}, "total_balance .* is a number, not a number as"),
        ({"balance_infos": [entry(amount=None)]}, "total_balance .* is null"),
        ({"balance_infos": [{"currency": "USD"}]}, "total_balance is missing"),
        ({"balance_infos": [entry(amount="")]}, "is text, and not a number"),
        ({"balance_infos": [entry(amount="NaN")]}, "is text, and not a number"),
        ({"balance_infos": [entry(amount="1e3")]}, "is text, and not a number"),
        ({"balance_infos": [entry(amount="1_000")]}, "is text, and not a number"),
        ({"balance_infos": [entry(amount="1,000")]}, "is text, and not a number"),
        ({"balance_infos": [entry(amount="1" * 20)]}, "is beyond 10"),
        ({"balance_infos": [entry("CNY", "much"), entry()]}, "is text, and not a number"),
        ({"balance_infos": [entry()]}, "is_available is missing"),
        ({"balance_infos": [entry()], "is_available": None}, "is_available .* is null"),
        ({"balance_infos": [entry()], "is_available": "true"}, "is_available .* is text"),
    ],
)
async def test_no_nonsense_is_a_balance(
    body: Any, words: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Each fault is named, and no value of the reply is shown."""
    provider = DeepSeek(KEY, base_url=serve(http(200, json.dumps(body))).url)
    with pytest.raises(BalanceUnavailable, match=words) as caught:
        await provider.fetch(client)
    assert KEY not in caught.value.reason


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, base URL and currency can come from it."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)
    monkeypatch.setenv("DEEPSEEK_BASE_URL", "https://proxy.example/deepseek")
    monkeypatch.setenv("DEEPSEEK_CURRENCY", " CNY ")
    provider = DeepSeek()
    assert repr(provider) == "DeepSeek(currency='CNY', base_url='https://proxy.example/deepseek')"
    assert provider.unit == "CNY"
    monkeypatch.setenv("DEEPSEEK_CURRENCY", "")
    assert DeepSeek().unit == "USD"


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/beta", "/anthropic", "/anthropic/v1"])
def test_the_base_url_of_a_client_will_do(end: str) -> None:
    """What OpenAI's and Anthropic's clients need in theirs is no part of the account's."""
    assert DeepSeek(KEY, base_url=f"https://api.deepseek.com{end}").base_url == DeepSeek.base_url
    same = {DeepSeek(KEY, base_url=url).fingerprint for url in (None, f"{DeepSeek.base_url}{end}")}
    assert len(same) == 1


def test_each_currency_is_an_account() -> None:
    """Two guards with one key share credits only if they count in the same currency."""
    assert DeepSeek(KEY).fingerprint != DeepSeek(KEY, currency="CNY").fingerprint
    named = [DeepSeek(key, account="a", currency="CNY").fingerprint for key in (KEY, f"{KEY}2")]
    assert named[0] == named[1] != DeepSeek(KEY, account="a").fingerprint


@pytest.mark.parametrize("wrong", [KEY, "usd", "", "EUR"])
def test_a_wrong_currency_is_not_shown(wrong: str) -> None:
    """It may be the key, in the wrong place."""
    with pytest.raises(ConfigurationError, match="must be USD or CNY") as caught:
        DeepSeek(KEY, currency=wrong)
    assert not wrong or wrong not in str(caught.value)
    with pytest.raises(TypeError, match="currency takes a str"):
        DeepSeek(KEY, currency=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"a": 1}, {1: FLASH}, [FLASH], {"a": ("1", "2")}])
def test_wrong_prices_are_refused(wrong: Any) -> None:
    """They are prices by model."""
    with pytest.raises(TypeError, match="prices_per_model takes prices by model"):
        DeepSeek(KEY, prices_per_model=wrong)


class Asked:
    """A request, as far as a price needs it."""

    def __init__(self, **fields: Any) -> None:
        body = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hello"}]}
        self.content = json.dumps(body | fields).encode()


def held(provider: DeepSeek, path: str = CHAT, **fields: Any) -> Any:
    """What a request holds."""
    prices: Any = provider.prices
    price = prices["POST", path]
    return price(Asked(**fields)) if callable(price) else price


def test_a_call_holds_the_most_that_it_can_cost() -> None:
    """Its bytes at the price of input, and its limit at that of output, both in the peak hours."""
    size = len(Asked(max_tokens=1000).content) + 2048
    usd = (size * Decimal("0.3") + 1000 * Decimal("1.2")) / 10**6
    assert held(DeepSeek(KEY), max_tokens=1000) == usd
    yuan = (size * Decimal(2) + 1000 * Decimal(8)) / 10**6
    assert held(DeepSeek(KEY, currency="CNY"), max_tokens=1000) == yuan
    assert held(DeepSeek(KEY)) > Decimal("0.47")


def test_a_models_price_can_be_replaced() -> None:
    """And others are added; the documented ones remain."""
    own = TokenPrice(1_000_000, 0, context=10)
    short = replace(FLASH, longest=1000)
    provider = DeepSeek(KEY, prices_per_model={"own": own, "deepseek-flash": short})
    assert held(provider, model="own") == 10
    assert held(provider) < Decimal("0.002")
    assert held(provider, model="deepseek-v4-pro") > 1


@pytest.mark.parametrize("fields", [{"model": KEY}, {"model": None}, {"model": ["deepseek-flash"]}])
def test_an_unknown_model_has_no_price(fields: dict[str, Any]) -> None:
    """The error names those that have one, and how to give another; not the model, which may be a key."""
    with pytest.raises(Unpriced, match=r"none of deepseek-flash, .*prices_per_model") as caught:
        held(DeepSeek(KEY), **fields)
    assert KEY not in str(caught.value)


def test_a_search_has_a_price_of_its_own() -> None:
    """5 yuan or 0.75 dollars a thousand, whatever is searched."""
    assert held(DeepSeek(KEY), "/v1/tools/search") == Decimal("0.00075")
    assert held(DeepSeek(KEY, currency="CNY"), "/v1/tools/fetch") == Decimal("0.005")


def billing(currency: str = "USD", **models: TokenPrice) -> DeepSeekBilling:
    """DeepSeek's, with its own prices."""
    return DeepSeekBilling({**DeepSeek.PRICES[currency], **models}, currency)


USAGE = {
    "prompt_tokens": 1_000_000,
    "completion_tokens": 100_000,
    "prompt_cache_hit_tokens": 400_000,
    "prompt_cache_miss_tokens": 600_000,
}
COST = Decimal("0.3") * 6 / 10 + Decimal("0.006") * 4 / 10 + Decimal("0.12")


def reply(
    body: Any, path: str = CHAT, status: int = 200, asked: Any = None, **more: Any
) -> BillingReply:
    """A reply with this body, to a request of Asked(**asked)."""
    request = None if asked is None else Asked(**asked).content
    return BillingReply(path, status, {}, json.dumps(body).encode(), request_body=request, **more)


def answer(at: datetime = PEAK, **more: Any) -> dict[str, Any]:
    """The body of an answer that began then."""
    return {"model": "deepseek-flash", "created": int(at.timestamp()), "usage": USAGE, **more}


def test_a_call_costs_its_tokens() -> None:
    """Those that were in the cache cost less."""
    assert billing().cost_of(reply(answer())) == COST
    assert billing("CNY").cost_of(reply(answer())) == Decimal("2.016")


@pytest.mark.parametrize(
    ("at", "half"),
    [
        ("2026-11-18T01:00", False),
        ("2026-11-18T05:00", False),
        ("2026-11-18T11:59", False),
        ("2026-11-18T12:00", True),
        ("2026-11-18T22:59", True),
        ("2026-11-18T23:00", False),
        ("2026-11-20T22:59", True),
        ("2026-11-20T23:00", True),
        ("2026-11-21T02:00", True),
        ("2026-11-22T08:00", True),
        ("2026-11-22T22:59", True),
        ("2026-11-22T23:00", False),
    ],
)
def test_it_costs_half_well_outside_of_the_peak_hours(at: str, half: bool) -> None:
    """Two hours around them count as peak: whether the beginning or the end decides is not documented."""
    began = datetime.fromisoformat(f"{at}+00:00")
    assert billing().cost_of(reply(answer(began))) == (COST / 2 if half else COST)


@pytest.mark.parametrize("created", [None, "now", True, -1, 10**20, 1.5e300])
def test_a_reply_without_a_time_costs_the_peak_price(created: object) -> None:
    """Also if its time is none, or beyond all calendars."""
    cost = billing().cost_of(reply(answer() | {"created": created}))
    assert cost == COST or created == -1


def test_users_prices_have_their_own_factor() -> None:
    """Without one, they count at all times."""
    own = billing(own=TokenPrice("0.3", "1.2", cached="0.006"))
    cheap = datetime(2026, 11, 21, tzinfo=UTC)
    assert own.cost_of(reply(answer(cheap, model="own"))) == COST


def test_the_model_that_was_asked_for_decides() -> None:
    """The one that replied counts only if the request is not known."""
    pro = "deepseek-v4-pro"
    dear = billing().cost_of(reply(answer(), asked={"model": pro}))
    assert dear == billing().cost_of(reply(answer(model=pro))) == Decimal("1.2056")
    assert billing().cost_of(reply(answer(model="other"), asked={"model": "other"})) == "cost"
    assert billing().cost_of(reply(answer(), asked={"model": "other"})) == COST
    assert billing().cost_of(reply(answer(model=None))) == "cost"


def test_searches_of_the_vendor_are_charged() -> None:
    """Each costs as much as one by itself."""
    used = {"web_search_requests": 3, "web_fetch_requests": 1, "other": "2", "less": -1}
    found = billing().cost_of(reply(answer(usage=USAGE | {"server_tool_use": used})))
    assert found == COST + 4 * Decimal("0.00075")


def test_counts_beyond_belief_cost_what_is_held() -> None:
    """No cost is larger than an amount may be, and none takes long to work out."""
    for many in ("1e12", "1e999999", "1e99999999999"):
        usage = (
            '{"prompt_tokens": 9, "completion_tokens": 4, "server_tool_use": {"a": %s, "b": %s}}'
        )
        content = '{"model": "deepseek-flash", "usage": ' + usage % (many, many) + "}"
        found = BillingReply("/chat/completions", 200, {}, content.encode())
        assert billing().cost_of(found) == "cost"
    dear = billing(mine=TokenPrice("1e12", "1e12"))
    assert dear.cost_of(reply(answer(), asked={"model": "mine"})) == "cost"


def test_anthropics_shape_is_read() -> None:
    """It has no time, and so costs the peak price."""
    usage = {"input_tokens": 600_000, "cache_read_input_tokens": 400_000, "output_tokens": 100_000}
    body = {"model": "deepseek-flash", "usage": usage}
    assert billing().cost_of(reply(body, "/anthropic/v1/messages")) == COST


def test_responses_are_read() -> None:
    """In a stream, the time of a response is in its last event."""
    usage = {
        "input_tokens": 1_000_000,
        "output_tokens": 100_000,
        "input_tokens_details": {"cached_tokens": 400_000},
    }
    cheap = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp())
    whole = {"model": "deepseek-flash", "created_at": cheap, "usage": usage}
    assert billing().cost_of(reply(whole, "/responses")) == COST / 2
    content = f"data: {json.dumps({'response': whole})}\n\ndata: [DONE]\n\n".encode()
    request = Asked().content
    stream = read("/responses", 200, EVENTS, content, request_body=request)
    assert billing().cost_of(stream) == COST / 2


EVENTS = {"content-type": "text/event-stream"}


def test_a_stream_costs_what_its_last_chunk_says() -> None:
    """Which it says also if the request did not ask for it; keep-alive comments do not matter."""
    chunks = [answer(usage=None), answer(usage=None, choices=[]), answer()]
    text = ": keep-alive\n\n" + "".join(f"data: {json.dumps(each)}\n\n" for each in chunks)
    assert billing().cost_of(read(CHAT, 200, EVENTS, f"{text}data: [DONE]\n\n".encode())) == COST
    broken = read(CHAT, 200, EVENTS, text.encode(), complete=False)
    assert billing().cost_of(broken) == "keep"
    silent = read(CHAT, 200, EVENTS, b"data: {}\n\ndata: [DONE]\n\n")
    assert billing().cost_of(silent) == "cost"


def test_an_answer_that_waits_begins_with_empty_lines() -> None:
    """Which is how DeepSeek keeps a connection alive that does not stream (rate limit page, 2026-11)."""
    content = b"\n\n\n" + json.dumps(answer()).encode()
    assert billing().cost_of(BillingReply(CHAT, 200, {}, content)) == COST


def test_other_requests_cost_what_they_hold() -> None:
    """A search says nothing about tokens, and a refused call spent nothing."""
    assert billing().cost_of(reply(answer(), "/v1/tools/search")) == "cost"
    assert billing().cost_of(reply({}, status=402)) == "release"
    assert billing().cost_of(reply({}, status=503)) == "keep"


def refused(status: int, message: str = "", path: str = CHAT) -> BillingReply:
    """A refusal in DeepSeek's shape."""
    error = {"message": message, "type": "unknown_error", "code": "invalid_request_error"}
    return reply({"error": error}, path, status)


def test_a_lack_of_credits_is_told_from_other_refusals() -> None:
    """It is 402 (error codes page); 429 is a limit of concurrency, and 503 an overload."""
    classify = billing().classify
    assert classify(refused(402, "Insufficient Balance")) is EXHAUSTED
    assert classify(BillingReply(CHAT, 402, {})) is EXHAUSTED
    assert classify(refused(400, "Insufficient Balance")) is EXHAUSTED
    for status in (400, 401, 403, 404, 422, 429):
        assert classify(refused(status, "Rate Limit Reached")) is NOT_CREDITS
        assert classify(BillingReply(CHAT, status, {}, b"no JSON")) is NOT_CREDITS
    assert classify(refused(200, "Insufficient Balance")) is None
    assert classify(refused(503, "Server Overloaded")) is None


def test_our_refusals_have_their_shape() -> None:
    """OpenAI's, and Anthropic's at its path; the sentence is in both."""
    nothing: Any = dict.fromkeys(("balance", "held", "pending", "floor", "available"), Decimal(0))
    error = InsufficientCredits(
        operation="a", needed=Decimal(1), age=1.0, provider="DeepSeek", **nothing
    )
    found = billing().refusal_body(error, CHAT)
    assert found["error"] == {
        "message": str(error),
        "type": "insufficient_balance",
        "param": None,
        "code": "insufficient_balance",
    }
    assert found["message"] == found["detail"] == found["title"] == str(error)
    unknown = billing().refusal_body(BalanceUnavailable(provider="a", reason="b"), CHAT)
    assert unknown["error"]["type"] == "balance_unavailable"
    assert billing().refusal_body(Paused("a", "b"), CHAT)["error"]["type"] == "paused"
    assert billing().refusal_body(Unpriced("c"), CHAT)["error"]["type"] == "invalid_request_error"
    theirs = billing().refusal_body(error, "/anthropic/v1/messages")
    assert theirs["type"] == "error"
    assert theirs["error"] == {"message": str(error), "type": "insufficient_balance"}


def capped(most: str, path: str = CHAT, **fields: Any) -> Any:
    """The request with a cap, as JSON."""
    found = billing().capped(path, Asked(**fields).content, Decimal(most))
    return None if found is None else json.loads(found)


def test_a_hold_is_a_limit_of_tokens() -> None:
    """What is left of it after the prompt pays for so many tokens, and the call costs no more."""
    found = capped("0.01", temperature=0.5)
    assert found["max_tokens"] > 7000
    assert found["temperature"] == 0.5
    prompt = len(Asked(temperature=0.5).content) + 2048
    dearest = FLASH.dearest(TokenCount(prompt, found["max_tokens"]))
    assert dearest <= Decimal("0.01") < dearest + Decimal("0.0000012")
    assert capped("0.01", "/responses")["max_output_tokens"] > 7000


def test_a_lower_limit_remains() -> None:
    """A higher one in the request is lowered, under its own name."""
    asked = Asked(max_tokens=5)
    assert billing().capped(CHAT, asked.content, Decimal("0.01")) == asked.content
    found = capped("0.01", max_completion_tokens=10**6)
    assert found["max_completion_tokens"] < 10_000
    assert "max_tokens" not in found
    asked = Asked()
    assert billing().capped(CHAT, asked.content, Decimal(1)) == asked.content


def test_a_hold_that_pays_for_no_token_is_no_cap() -> None:
    """Neither is one of a request without a price, or of another path."""
    assert capped("0.0001") is None
    assert capped("1", model="other") is None
    assert capped("1", n="2") is None
    assert capped("1", "/v1/tools/search") is None
