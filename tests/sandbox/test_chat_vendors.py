"""DeepSeek and Moonshot in the sandbox: their balances, answers and refusals, as their pages have them (2026-11)."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest

from budgetguard.testing.sandbox import Sandbox

Client = Callable[..., httpx.Client]
# Long enough that its price is a whole number of micro-credits, and not rounded.
HELLO = [{"role": "user", "content": "a" * 4_000}]
MODELS = {"deepseek": "deepseek-flash", "moonshot": "kimi-k3"}
PATHS = {"deepseek": "/chat/completions", "moonshot": "/v1/chat/completions"}
BALANCES = {"deepseek": "/user/balance", "moonshot": "/v1/users/me/balance"}
vendors = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def speak(client: Client, manual: Sandbox) -> Callable[[str], httpx.Client]:
    """Make a client of a vendor."""

    def make(name: str) -> httpx.Client:
        vendor = manual.vendor(name)
        http = client(manual, authorization=f"Bearer {vendor.key}")
        http.base_url = httpx.URL(vendor.url)
        return http

    return make


def ask(http: httpx.Client, name: str, **more: Any) -> httpx.Response:
    """A request for an answer."""
    return http.post(PATHS[name], json={"model": MODELS[name], "messages": HELLO} | more)


def chunks(reply: httpx.Response) -> list[Any]:
    """The JSON of a stream's frames, which end as OpenAI's do."""
    *frames, done, rest = reply.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def test_balances(speak: Callable[[str], httpx.Client], manual: Sandbox) -> None:
    """Text in a list of currencies, or numbers of which one may be negative."""
    manual.vendor("deepseek").account.spend("99.5")
    manual.vendor("moonshot").account.spend("0.000001")
    usd = {"total_balance": "0.50", "granted_balance": "0.00", "topped_up_balance": "0.50"}
    found = speak("deepseek").get("/user/balance").json()
    assert found["is_available"] is True
    assert [entry["currency"] for entry in found["balance_infos"]] == ["CNY", "USD"]
    assert found["balance_infos"][1] == {"currency": "USD", **usd}
    assert speak("moonshot").get("/v1/users/me/balance").json() == {
        "code": 0,
        "data": {"available_balance": 99.999999, "voucher_balance": 0, "cash_balance": 99.999999},
        "scode": "0x0",
        "status": True,
    }


def test_empty_balances(client: Client) -> None:
    """DeepSeek says that calls cannot be made, and Moonshot that only a voucher is left, of which there is none."""
    with Sandbox(credits="0.000001", clock="manual", overdraft=True) as sandbox:
        for name in MODELS:
            http = client(sandbox, authorization=f"Bearer {sandbox.vendor(name).key}")
            http.base_url = httpx.URL(sandbox.vendor(name).url)
            assert ask(http, name).status_code == 200
            refused = ask(http, name)
            assert refused.json() == sandbox.vendor(name).refusals()["exhausted"].body
            balance = http.get(BALANCES[name]).json()
            if name == "deepseek":
                assert balance["is_available"] is False
                assert balance["balance_infos"][1]["total_balance"].startswith("-0.0")
            else:
                assert balance["data"]["cash_balance"] < balance["data"]["available_balance"] == 0


@vendors
def test_an_answer_is_charged_by_its_tokens(
    name: str, speak: Callable[[str], httpx.Client], manual: Sandbox
) -> None:
    """What was in the cache costs less, and a limit bounds the rest; DeepSeek sells at half the price on a Sunday."""
    vendor: Any = manual.vendor(name)
    input, cached, output = (rate / 10**6 for rate in vendor.models[MODELS[name]])
    for hit, limit in ((0, 100), (500, 10)):
        vendor.cached = hit
        before = vendor.account.balance
        used = ask(speak(name), name, max_tokens=limit).json()["usage"]
        assert used["completion_tokens"] == limit
        new = used["prompt_tokens"] - hit
        cost = input * new + cached * hit + output * limit
        cost /= 2 if name == "deepseek" else 1
        assert 0 <= before - vendor.account.balance - cost < Decimal("0.000001")
        names = {"deepseek": "prompt_cache_hit_tokens", "moonshot": "cached_tokens"}
        assert used[names[name]] == hit


def test_deepseek_is_dearer_on_a_monday_morning(
    speak: Callable[[str], httpx.Client], manual: Sandbox
) -> None:
    """Its peak hours are from 1 to 4 and from 6 to 10 (UTC), and no others."""
    costs = []
    for _ in range(24 * 2):
        before = manual.vendor("deepseek").account.balance
        ask(speak("deepseek"), "deepseek")
        costs.append(before - manual.vendor("deepseek").account.balance)
        manual.advance(3600)
    dear = [hour for hour, cost in enumerate(costs) if cost > min(costs)]
    assert dear == [25, 26, 27, 30, 31, 32, 33]


ASKED = {"stream_options": {"include_usage": True}}


@vendors
@pytest.mark.parametrize("options", [{}, ASKED])
def test_a_stream_is_the_answer_in_pieces(
    name: str, options: dict[str, Any], speak: Callable[[str], httpx.Client]
) -> None:
    """With a null for the usage in each, if the request asks for usage."""
    found = chunks(ask(speak(name), name, stream=True, **options))
    pieces = [choice["delta"].get("content", "") for c in found for choice in c["choices"]]
    assert "".join(pieces) == "No model is behind the sandbox."
    assert [chunk.get("usage", "none") for chunk in found[:6]] == [None if options else "none"] * 6


@pytest.mark.parametrize("options", [{}, ASKED])
def test_deepseeks_last_chunk_has_the_usage(
    options: dict[str, Any], speak: Callable[[str], httpx.Client]
) -> None:
    """Beside the reason to stop, asked for or not."""
    last = chunks(ask(speak("deepseek"), "deepseek", stream=True, **options))[6:]
    assert [chunk["usage"]["completion_tokens"] for chunk in last] == [100]
    assert last[0]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("options", [{}, ASKED])
def test_moonshots_last_choice_has_the_usage(
    options: dict[str, Any], speak: Callable[[str], httpx.Client]
) -> None:
    """And so has a chunk without choices, as OpenAI's, if it was asked for."""
    stop, *more = chunks(ask(speak("moonshot"), "moonshot", stream=True, **options))[6:]
    assert stop["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in stop
    usage = stop["choices"][0]["usage"]
    assert usage["completion_tokens"] == 100
    shown = [(chunk["choices"], chunk["usage"]) for chunk in more]
    assert shown == [([], usage)] * bool(options)


@vendors
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": 1}, 400),
        ({"messages": []}, 400),
        ({"messages": "hello"}, 400),
        ({"model": "other"}, 404),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": "9"}, 400),
        ({"max_completion_tokens": True}, 400),
    ],
)
def test_invalid_requests(
    name: str,
    fields: dict[str, Any],
    status: int,
    speak: Callable[[str], httpx.Client],
    manual: Sandbox,
) -> None:
    """They cost nothing, and are answered in the vendor's shape."""
    reply = ask(speak(name), name, **fields)
    assert reply.status_code == status
    assert reply.json()["error"].keys() >= {"message", "type"}
    assert manual.vendor(name).account.balance == 100


def test_refusals_for_want_of_credits_and_others(manual: Sandbox) -> None:
    """Moonshot has one status for both, and two for one."""
    deepseek, moonshot = (manual.vendor(name).refusals() for name in MODELS)
    assert deepseek["exhausted"].status == 402
    assert deepseek["exhausted"].body["error"]["message"] == "Insufficient Balance"
    same = {
        moonshot[each].status for each in ("exhausted", "not_credits_rate", "not_credits_overload")
    }
    assert same == {429}
    kinds = {moonshot[each].body["error"]["type"] for each in ("exhausted", "exhausted_inactive")}
    assert kinds == {"exceeded_current_quota_error"}
    assert moonshot["exhausted_inactive"].status == moonshot["not_credits_denied"].status == 403
