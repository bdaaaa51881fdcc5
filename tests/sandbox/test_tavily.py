"""Tavily in the sandbox: its limits, its prices, and research that goes on after its reply."""

from typing import Any

import httpx
import pytest

from budgetguard.testing.sandbox import Sandbox

URLS = [f"https://example.com/{at}" for at in range(4)]


@pytest.fixture
def vendor(manual: Sandbox) -> Any:
    """The vendor of a sandbox with 100 credits."""
    return manual.vendor("tavily")


def client(vendor: Any) -> httpx.Client:
    """A client with its key."""
    headers = {"authorization": f"Bearer {vendor.key}"}
    return httpx.Client(base_url=vendor.url, headers=headers, trust_env=False)


def cost(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """The credits that a call says it used."""
    return http.post(path, json=body | {"include_usage": True}).json()["usage"]["credits"]


def test_the_limits(vendor: Any) -> None:
    """The key's, the plan's, and that for what is paid as one goes, which is part of the account."""
    with client(vendor) as http:
        http.post("/search", json={"query": "x", "search_depth": "advanced"})
        usage = http.get("/usage").json()
        assert usage["key"] == {"usage": 2, "limit": None}
        account = usage["account"]
        assert (account["plan_usage"], account["plan_limit"]) == (2, 100)
        assert (account["paygo_usage"], account["paygo_limit"]) == (0, None)
        vendor.key_limit, vendor.paygo_limit = 7, 30
        usage = http.get("/usage").json()
        assert usage["key"]["limit"] == 7
        assert (usage["account"]["plan_limit"], usage["account"]["paygo_limit"]) == (70, 30)


def test_the_usage_of_a_call(vendor: Any) -> None:
    """It is in the reply only if the request asks for it."""
    with client(vendor) as http:
        assert "usage" not in http.post("/search", json={"query": "x"}).json()
        assert cost(http, "/search", {"query": "x"}) == 1
        assert cost(http, "/search", {"query": "x", "search_depth": "advanced"}) == 2


def test_blocks_are_carried_over(vendor: Any) -> None:
    """A call costs the blocks that it fills, whoever began them; what failed is free."""
    with client(vendor) as http:
        body = {"urls": [*URLS, "https://no.invalid"]}
        assert [cost(http, "/extract", body) for _ in range(4)] == [0, 1, 1, 1]
        reply = http.post("/extract", json=body).json()
        assert (len(reply["results"]), len(reply["failed_results"])) == (4, 1)
        assert cost(http, "/extract", {"urls": "x", "extract_depth": "advanced"}) == 0
        found = {"url": "x", "limit": 6}
        assert [cost(http, "/map", found) for _ in range(3)] == [0, 1, 0]
        assert cost(http, "/map", found | {"instructions": "x"}) == 2
        assert cost(http, "/crawl", found) == 1 + 1


def test_research(vendor: Any) -> None:
    """Its reply comes at once, its result and its cost after a minute."""
    with client(vendor) as http:
        task = http.post("/research", json={"input": "x", "model": "mini"}).json()
        assert (task["status"], vendor.account.balance) == ("pending", 100)
        where = f"/research/{task['request_id']}"
        waiting = http.get(where)
        assert (waiting.status_code, waiting.json()["status"]) == (202, "in_progress")
        vendor.clock.advance(60)
        assert vendor.account.balance == 80
        done = http.get(where, params={"include_usage": "true"}).json()
        assert (done["status"], done["usage"]) == ("completed", {"credits": 20})
        assert "usage" not in http.get(where).json()
        assert http.get("/research/another").status_code == 404


def test_research_that_the_account_cannot_pay(vendor: Any) -> None:
    """It fails when its cost is due."""
    with client(vendor) as http:
        task = http.post("/research", json={"input": "x"}).json()
        vendor.account.spend(90)
        vendor.clock.advance(60)
        reply = http.get(f"/research/{task['request_id']}")
    assert (reply.status_code, reply.json()["status"]) == (200, "failed")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/search", {}),
        ("/extract", {"urls": [1]}),
        ("/extract", {"urls": URLS * 6}),
        ("/map", {}),
        ("/crawl", {"url": "x", "limit": 0}),
        ("/research", {"input": "x", "model": "maxi"}),
    ],
)
def test_invalid_requests(vendor: Any, path: str, body: dict[str, Any]) -> None:
    """They are a 400, and cost nothing."""
    with client(vendor) as http:
        reply = http.post(path, json=body)
    assert reply.status_code == 400
    assert isinstance(reply.json()["detail"]["error"], str)
    assert vendor.requests == (1, 0, 0)


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("exhausted", 432, "your plan's set usage limit"),
        ("key_limit", 432, "this API key's set usage limit"),
        ("exhausted_paygo", 433, "pay-as-you-go limit"),
        ("not_credits_rate", 429, "excessive requests"),
    ],
)
def test_refusals(vendor: Any, kind: str, status: int, words: str) -> None:
    """Two limits share a status, and differ in their words."""
    vendor.refuse_with = kind
    with client(vendor) as http:
        reply = http.post("/search", json={"query": "x"})
    assert (reply.status_code, words in reply.json()["detail"]["error"]) == (status, True)
    assert reply.headers.get("retry-after") == ("60" if status == 429 else None)
