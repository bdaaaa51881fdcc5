"""OpenRouter in the sandbox: both balances, one model, and its refusals."""

import json
from typing import Any

import httpx
import pytest

from budgetguard.testing.sandbox import Sandbox

HELLO = {"model": "sandbox/parrot", "messages": [{"role": "user", "content": "Hello"}]}
COST = 0.015


@pytest.fixture
def vendor(manual: Sandbox) -> Any:
    """The vendor of a sandbox with 100 dollars."""
    return manual.vendor("openrouter")


def client(vendor: Any, key: str | None = None) -> httpx.Client:
    """A client with one of its keys."""
    headers = {"authorization": f"Bearer {key or vendor.key}"}
    return httpx.Client(base_url=vendor.url, headers=headers, trust_env=False)


def test_what_a_key_may_spend(vendor: Any) -> None:
    """Its own limit is what the account has; a test may take it away, and set budgets."""
    with client(vendor) as http:
        http.post("/chat/completions", json=HELLO)
        data = http.get("/key").json()["data"]
        assert (data["limit"], data["limit_remaining"], data["usage"]) == (100, 99.985, COST)
        assert (data["budgets"], data["effective_budget"]) == ([], None)
        vendor.limit_left = None
        vendor.limit_reset = "daily"
        vendor.budgets = [{"remaining_usd": 7}, {"remaining_usd": -2, "scope": "member"}]
        data = http.get("/key").json()["data"]
        assert (data["limit"], data["limit_remaining"], data["limit_reset"]) == (
            None,
            None,
            "daily",
        )
        assert [each["remaining_usd"] for each in data["budgets"]] == [7, -2]
        assert data["effective_budget"] == data["budgets"][1]


def test_what_the_account_has(vendor: Any) -> None:
    """For the management key alone, which spends nothing."""
    with client(vendor, vendor.management_key) as http:
        assert http.get("/credits").json() == {"data": {"total_credits": 100, "total_usage": 0}}
        data = http.get("/key").json()["data"]
        assert (data["is_management_key"], data["limit_remaining"]) == (True, None)
        assert http.post("/chat/completions", json=HELLO).status_code == 401
    with client(vendor) as http:
        assert http.get("/credits").status_code == 403
        vendor.zeros_for_others = True
        assert http.get("/credits").json() == {"data": {"total_credits": 0, "total_usage": 0}}


def test_answers(vendor: Any) -> None:
    """An answer costs what its tokens cost, and no more than its limit allows."""
    with client(vendor) as http:
        body = http.post("/chat/completions", json=HELLO).json()
        assert body["usage"]["cost"] == COST
        assert body["choices"][0]["message"]["content"].endswith("the sandbox.")
        short = http.post("/chat/completions", json=HELLO | {"max_tokens": 2}).json()
        assert (short["usage"]["completion_tokens"], short["usage"]["cost"]) == (2, 0.005)
        pricing = http.get("/models").json()["data"][0]["pricing"]
        assert (pricing["prompt"], pricing["completion"]) == ("0.001000", "0.002000")
    assert [each.kind for each in vendor.account.operations.values()] == ["chat", "chat"]


def test_a_stream(vendor: Any) -> None:
    """A comment, the words, and the usage in the last chunk; or an error in place of the rest."""
    with client(vendor) as http:
        text = http.post("/chat/completions", json=HELLO | {"stream": True}).text
        frames = [each for each in text.split("\n\n") if each]
        assert (frames[0], frames[-1]) == (": OPENROUTER PROCESSING", "data: [DONE]")
        assert json.loads(frames[-2].removeprefix("data: "))["usage"]["cost"] == COST
        assert all('"usage"' not in each for each in frames[:-2])
        vendor.fails_midway = {"code": 402, "message": "No."}
        text = http.post("/chat/completions", json=HELLO | {"stream": True}).text
        last = json.loads(text.split("\n\n")[-2].removeprefix("data: "))
        assert (last["error"]["code"], last["choices"][0]["finish_reason"]) == (402, "error")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "Hello"},
        {"model": "m"},
        HELLO | {"max_tokens": 0},
        HELLO | {"max_tokens": 1.5},
        HELLO | {"max_completion_tokens": "9"},
    ],
)
def test_invalid_requests(vendor: Any, body: dict[str, Any]) -> None:
    """They are a 400, and cost nothing."""
    with client(vendor) as http:
        reply = http.post("/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, 400)
    assert vendor.requests == (1, 0, 0)


def test_an_empty_account(vendor: Any) -> None:
    """What it cannot pay is refused with the source of the limit; a busy one says how long to wait."""
    with client(vendor) as http:
        vendor.account.spend(100)
        reply = http.post("/chat/completions", json=HELLO)
        assert reply.status_code == 402
        assert reply.json()["error"]["metadata"]["limit_source"] == "openrouter_credits"
        vendor.account.top_up(1)
        vendor.retry_after = 120
        vendor.refuse_with = "busy"
        reply = http.post("/chat/completions", json=HELLO)
        assert (reply.status_code, reply.headers["retry-after"]) == (402, "120")
        assert reply.json()["error"]["metadata"]["reason"] == "in_flight_budget_exhausted"
