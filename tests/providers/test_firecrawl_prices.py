"""What Firecrawl's requests may cost, as its pages say (docs.firecrawl.dev, read 2026-11)."""

import json
from decimal import Decimal
from typing import Any

import httpx
import pytest

from budgetguard.providers import Firecrawl
from budgetguard.providers.billing import Unpriced
from budgetguard.routes import Routes

PRICES = Firecrawl.prices
assert PRICES is not None
ROUTES = Routes(PRICES)
URL = "https://example.com/page"
PDF = "https://example.com/Paper.PDF?download=1"
JSON = {"type": "json", "prompt": "the price"}


def price(path: str, body: Any = None, method: str = "POST") -> Any:
    """What a transport is told that this request costs."""
    request = httpx.Request(method, f"https://api.firecrawl.dev{path}", json=body)
    found = ROUTES.find(method, request.url.path)
    return found(request) if callable(found) else found


def credits(path: str, body: Any = None, method: str = "POST") -> Any:
    """The credits alone."""
    found = price(path, body, method)
    return found["min"] if isinstance(found, dict) else found


@pytest.mark.parametrize(
    ("options", "cost"),
    [
        ({}, 1),
        ({"formats": ["markdown", "html", "rawHtml", "links", "images", "summary"]}, 1),
        ({"formats": [{"type": "screenshot", "fullPage": True}, "branding"]}, 1),
        ({"formats": ["markdown", JSON]}, 5),
        ({"formats": ["json", {"type": "changeTracking", "modes": ["json"]}]}, 5),
        ({"formats": ["markdown", {"type": "changeTracking", "modes": ["git-diff"]}]}, 1),
        ({"formats": [{"type": "changeTracking", "modes": ["git-diff", "json"]}]}, 5),
        ({"formats": [{"type": "question", "question": "?"}]}, 5),
        ({"formats": [{"type": "highlights", "query": "?"}, {"type": "question"}]}, 9),
        ({"formats": ["audio", "video"]}, 9),
        ({"formats": ["deterministicJson"]}, 10),
        ({"formats": ["newer than this library"]}, 5),
        ({"formats": [JSON], "checkPromptInjection": True}, 9),
        ({"formats": [JSON | {"checkPromptInjection": True}]}, 9),
        ({"zeroDataRetention": True}, 2),
        ({"formats": [JSON], "zeroDataRetention": True}, 6),
        ({"lockdown": True}, 5),
        ({"redactPII": {"mode": "fast"}}, 5),
        ({"redactPII": False, "lockdown": False, "zeroDataRetention": False}, 1),
        ({"proxy": "enhanced"}, 1),
        ({"proxy": "stealth"}, 1),
        ({"threatProtection": {"mode": "normal"}}, 5),
        ({"threatProtection": {"blacklist": ["x"]}}, 5),
        ({"threatProtection": {"mode": "zscaler"}}, 1),
        ({"url": "https://x.com/user/status/1"}, 30),
        ({"url": "mobile.twitter.com/user"}, 30),
        ({"url": "https://x.com/user", "formats": [JSON]}, 34),
        ({"url": "https://notx.com/x.com"}, 1),
        ({"url": "https://[x.com"}, 1),
        ({"url": PDF}, 100),
        ({"url": PDF, "parsers": []}, 1),
        ({"url": PDF, "parsers": ["image"]}, 1),
        ({"url": PDF, "parsers": ["pdf"]}, 100),
        ({"url": PDF, "parsers": [{"type": "pdf", "maxPages": 20}]}, 20),
        ({"url": PDF, "parsers": [{"type": "pdf", "mode": "fast"}], "redactPII": True}, 500),
        ({"parsers": [{"type": "pdf", "maxPages": 20}]}, 20),
        ({"url": None, "formats": "json", "parsers": "pdf"}, 1),
        ({"formats": [None, 3, {"type": ["json"]}]}, 13),
    ],
)
def test_a_page(options: dict[str, Any], cost: int) -> None:
    """The base and what each option adds; the same for a scrape, in a batch and in a crawl."""
    body = {"url": URL, **options}
    assert credits("/v2/scrape", body) == cost
    assert credits("/v2/batch/scrape", {**options, "urls": [body["url"]] * 3}) == 3 * cost
    inner = {key: value for key, value in options.items() if key != "url"}
    assert (
        credits("/v2/crawl", {"url": body["url"], "limit": 7, "scrapeOptions": inner}) == 7 * cost
    )


def test_a_scrape_without_a_body() -> None:
    """Whatever the API makes of it: an invalid request is not the guard's to refuse."""
    assert credits("/v2/scrape") == 1
    assert credits("/v2/scrape", [URL]) == 1


def test_v1_has_its_own_names() -> None:
    """The same prices, for options that have other names."""
    assert credits("/v1/scrape", {"url": URL, "formats": ["extract"]}) == 5
    assert credits("/v1/scrape", {"url": URL, "formats": ["screenshot@fullPage"]}) == 1
    assert credits("/v1/scrape", {"url": PDF, "parsePDF": False}) == 1
    modes = {"formats": ["changeTracking"], "changeTrackingOptions": {"modes": ["json"]}}
    assert credits("/v1/scrape", {"url": URL, **modes}) == 5
    asks = {"formats": ["json"], "jsonOptions": {"checkPromptInjection": True}}
    assert credits("/v1/scrape", {"url": URL, **asks}) == 9
    assert credits("/v1/crawl", {"url": URL, "limit": 3}) == 3
    assert credits("/v1/map", {"url": URL}) == 1
    assert credits("/v1/search", {"query": "?", "limit": 5}) == 2
    assert credits("/v1/batch/scrape", {"urls": [URL]}) == 1


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        ({"url": URL}, 10_000),
        ({"url": URL, "limit": None}, 10_000),
        ({"url": URL, "limit": 2.5}, 3),
        ({"url": URL, "limit": 100, "scrapeOptions": {"formats": [JSON]}}, 500),
        ({"url": URL, "limit": 100, "zeroDataRetention": True}, 200),
        ({"url": URL, "limit": 100, "prompt": "only the blog"}, 100),
        ({"url": "https://x.com/user", "limit": 2}, 60),
        ({"url": URL, "limit": 10**12, "scrapeOptions": {"formats": [JSON]}}, 10**12),
    ],
)
def test_a_crawl(body: dict[str, Any], cost: int) -> None:
    """Its `limit` of pages, 10,000 by default; it goes on, and is charged, after its reply."""
    assert price("/v2/crawl", body) == {"min": cost, "lag": 300, "linger": 3600}


def test_a_batch_is_the_sum_of_its_pages() -> None:
    """Each address has a price of its own."""
    urls = [URL, "https://x.com/user", PDF]
    cost = {"min": 131, "lag": 300, "linger": 3600}
    assert price("/v2/batch/scrape", {"urls": urls}) == cost
    assert credits("/v2/batch/scrape", {"urls": []}) == 0


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        ({}, 2),
        ({"limit": 10}, 2),
        ({"limit": 11}, 4),
        ({"limit": 100}, 20),
        ({"limit": 5, "sources": ["web", "news", "images"]}, 4),
        ({"limit": 10, "categories": ["developer"]}, 4),
        ({"limit": 10, "enterprise": ["zdr"]}, 10),
        ({"limit": 10, "enterprise": ["anon"]}, 2),
        ({"limit": 5, "scrapeOptions": {"onlyMainContent": True}}, 2),
        ({"limit": 5, "scrapeOptions": {"formats": ["markdown"]}}, 7),
        ({"limit": 5, "scrapeOptions": {"formats": [JSON]}}, 27),
        ({"limit": 5, "sources": ["web", "news"], "scrapeOptions": {"formats": ["links"]}}, 12),
    ],
)
def test_a_search(body: dict[str, Any], cost: int) -> None:
    """Each ten results begun, of each source; and each result that is scraped."""
    assert credits("/v2/search", {"query": "?", **body}) == cost


@pytest.mark.parametrize(
    ("method", "path", "body", "cost"),
    [
        ("POST", "/v2/map", {"url": URL, "limit": 100_000}, 1),
        ("POST", "/v2/agent", {"prompt": "?"}, 2_500),
        ("POST", "/v2/agent", {"prompt": "?", "maxCredits": 90}, 90),
        ("POST", "/v2/parse", None, 100),
        ("POST", "/v2/interact", {}, 20),
        ("POST", "/v2/browser", {"ttl": 61}, 4),
        ("POST", "/v2/interact", {"ttl": 9_999}, 120),
        ("POST", "/v2/scrape/1b/interact", {"code": "1"}, 20),
        ("POST", "/v2/scrape/1b/interact", {"prompt": "click"}, 70),
        ("GET", "/v2/search/research/papers?query=x", None, 8),
        ("GET", "/v2/search/research/papers?query=x&k=500", None, 100),
        ("GET", "/v2/search/research/papers/arxiv:1", None, 1),
        ("GET", "/v2/search/research/papers/arxiv:1/similar?intent=x&k=11", None, 4),
        ("GET", "/v2/search/developer?query=x", None, 2),
        ("POST", "/v2/search/developer", {"query": "x", "k": 100}, 20),
    ],
)
def test_all_else_that_has_a_price(method: str, path: str, body: Any, cost: int) -> None:
    """Maps, agents, files, sessions, and the indexes."""
    assert credits(path, body, method) == cost


def test_how_long_it_goes_on() -> None:
    """An agent is a job, and a session lives as long as it may."""
    assert price("/v2/agent", {"prompt": "?"}) == {"min": 2_500, "lag": 300, "linger": 3600}
    assert price("/v2/interact", {"ttl": 30}) == {"min": 2, "linger": 30.0}
    assert price("/v2/scrape/1b/interact", {"code": "1"}) == {"min": 20, "linger": 600.0}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/team/credit-usage"),
        ("GET", "/v2/concurrency-check"),
        ("GET", "/v2/crawl/1b"),
        ("DELETE", "/v2/crawl/1b"),
        ("GET", "/v2/crawl/active"),
        ("GET", "/v2/batch/scrape/1b"),
        ("GET", "/v2/agent/1b"),
        ("GET", "/v2/scrape/1b"),
        ("DELETE", "/v2/scrape/1b/interact"),
        ("POST", "/v2/interact/1b/execute"),
        ("POST", "/v2/crawl/params-preview"),
        ("POST", "/v2/search/gov"),
        ("POST", "/v2/search/1b/feedback"),
    ],
)
def test_what_is_free(method: str, path: str) -> None:
    """Status requests, and searches of the Government Index (changelog, 2026-11), among others."""
    assert ROUTES.find(method, path) is None


@pytest.mark.parametrize(
    ("method", "path", "body", "why"),
    [
        ("POST", "/v2/crawl", {"url": URL, "prompt": "the blog"}, "whose prompt sets its limit"),
        ("POST", "/v2/crawl", {"url": URL, "limit": 0}, "with limit=0 is"),
        ("POST", "/v2/crawl", {"url": URL, "limit": -1}, "with limit=-1 is"),
        ("POST", "/v2/crawl", {"url": URL, "limit": "50"}, "with limit=<str> is"),
        ("POST", "/v2/crawl", {"url": URL, "limit": True}, "with limit=<bool> is"),
        ("POST", "/v2/crawl", {"url": URL, "limit": 10**13}, "with limit=<number> is"),
        ("POST", "/v2/agent", {"prompt": "?", "maxCredits": 0}, "with maxCredits=0 is"),
        ("POST", "/v2/scrape", {"parsers": [{"type": "pdf", "maxPages": 0}]}, "with maxPages=0 is"),
        ("POST", "/v2/scrape", {"alexandria": []}, "a scrape with alexandria"),
        ("POST", "/v1/scrape", {"url": URL, "agent": {"model": "FIRE-1"}}, "a scrape with agent"),
        ("POST", "/v1/scrape", {"jsonOptions": {"agent": {"model": "FIRE-1"}}}, "with FIRE-1"),
        ("POST", "/v2/batch/scrape", {"urls": "x"}, "a batch without a list of urls"),
        ("POST", "/v2/search", {"threatProtection": {"mode": "normal"}}, "results are scanned"),
        ("POST", "/v2/search", {"scrapeOptions": {"threatProtection": {}}}, "results are scanned"),
        ("POST", "/v2/map", {"threatProtection": {"mode": "normal"}}, "links are scanned"),
        ("POST", "/v2/extract", {"urls": [URL]}, "an extraction"),
        ("POST", "/v1/extract", {"urls": [URL]}, "an extraction"),
        ("POST", "/v1/deep-research", {"query": "?"}, "deep research"),
        ("POST", "/v1/llmstxt", {"url": URL}, "llms.txt"),
        ("POST", "/v2/monitor", {}, "a monitor"),
        ("PATCH", "/v2/monitor/1b", {}, "a monitor"),
        ("POST", "/v2/monitor/1b/run", {}, "a monitor"),
        ("GET", "/v2/search/developer?k=lots", None, "with k=<str> is"),
    ],
)
def test_what_has_no_known_limit(method: str, path: str, body: Any, why: str) -> None:
    """It is refused until somebody names its price, in a sentence that says what is missing."""
    with pytest.raises(Unpriced, match=why) as caught:
        price(path, body, method)
    assert "is not known: set it with prices=" in str(caught.value)


def capped(path: str, body: Any, most: float) -> Any:
    """The request as it is sent with so many credits held."""
    content = Firecrawl.billing.capped(path, json.dumps(body).encode(), Decimal(str(most)))
    return None if content is None else json.loads(content)


@pytest.mark.parametrize(
    ("path", "body", "most", "sent"),
    [
        ("/v2/crawl", {"url": URL}, 500, {"limit": 500}),
        ("/v2/crawl", {"url": URL, "limit": 20}, 500, {"limit": 20}),
        ("/v2/crawl", {"url": URL, "limit": 20, "prompt": "p"}, 7.9, {"limit": 7}),
        ("/v2/crawl", {"url": URL}, 0.5, {"limit": 1}),
        ("/v1/crawl", {"url": URL}, 500, {"limit": 500}),
        ("/v2/search", {"query": "?", "limit": 100}, 6, {"limit": 30}),
        ("/v2/search", {"query": "?", "limit": 7}, 6, {"limit": 7}),
        ("/v2/search", {"query": "?", "sources": ["web", "news"]}, 2, {"limit": 5}),
        ("/v2/search", {"query": "?"}, 1, {"limit": 1}),
        ("/v1/search", {"query": "?", "limit": 100}, 6, {"limit": 30}),
        ("/v2/agent", {"prompt": "?"}, 90.5, {"maxCredits": 90}),
        ("/v2/agent", {"prompt": "?", "maxCredits": 40}, 90, {"maxCredits": 40}),
        ("/v2/agent", {"prompt": "?", "maxCredits": 4000}, 9000, {"maxCredits": 4000}),
        ("/v2/agent", {"prompt": "?"}, 0.5, {"maxCredits": 1}),
        ("/v2/interact", {}, 8, {"ttl": 240}),
        ("/v2/browser", {"ttl": 100}, 8, {"ttl": 100}),
        ("/v2/interact", {}, 1, {"ttl": 30}),
    ],
)
def test_the_hold_is_sent_as_the_cap(path: str, body: Any, most: float, sent: Any) -> None:
    """A cap of the request's own remains if it is lower, and so does all else that it says."""
    found = capped(path, body, most)
    assert {key: found[key] for key in sent} == sent
    assert {key: found.get(key) for key in body if key not in sent} == {
        key: value for key, value in body.items() if key not in sent
    }


@pytest.mark.parametrize(
    ("path", "body", "most", "pages"),
    [
        ("/v2/scrape", {"url": URL}, 1, 1),
        ("/v2/scrape", {"url": PDF}, 100, 100),
        ("/v2/scrape", {"url": PDF, "redactPII": True}, 20, 4),
        ("/v2/scrape", {"url": PDF, "parsers": ["pdf"]}, 30, 30),
        ("/v2/scrape", {"url": PDF, "parsers": [{"type": "pdf", "maxPages": 4}]}, 30, 4),
        ("/v2/scrape", {"url": PDF}, 99_999, 10_000),
        ("/v2/scrape", {"url": PDF}, 0.5, 1),
        ("/v2/batch/scrape", {"urls": [URL, PDF]}, 101, 50),
        ("/v2/crawl", {"url": URL, "limit": 100}, 500, 5),
        ("/v2/crawl", {"url": URL}, 500, 1),
        ("/v2/search", {"query": "?", "scrapeOptions": {"formats": ["links"]}}, 32, 3),
    ],
)
def test_pdfs_are_capped_too(path: str, body: Any, most: float, pages: int) -> None:
    """How many pages a PDF has is known to nobody before: with the cap, the hold is the most."""
    found = capped(path, body, most)
    options = found.get("scrapeOptions", found)
    [parser, *others] = options["parsers"]
    assert parser == {"type": "pdf", "maxPages": pages}
    assert others == ([] if "parsers" in body else ["image"])
    request = httpx.Request("POST", f"https://api.firecrawl.dev{path}", json=found)
    table = ROUTES.find("POST", path)
    assert callable(table)
    held: Any = table(request)
    assert (held["min"] if isinstance(held, dict) else held) <= max(most, 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/map", {"url": URL}),
        ("/v2/extract", {"urls": [URL]}),
        ("/v2/parse", None),
        ("/v2/crawl", None),
        ("/v2/crawl", [1]),
        ("/v2/crawl", {"url": URL, "limit": "many"}),
        ("/v2/batch/scrape", {"urls": None}),
    ],
)
def test_what_takes_no_cap(path: str, body: Any) -> None:
    """It is sent as it is."""
    content = b"--boundary" if body is None else json.dumps(body).encode()
    assert Firecrawl.billing.capped(path, content, Decimal(5)) is None


def test_a_request_that_parses_no_pdfs_is_capped_without() -> None:
    """An own list of parsers remains as it is."""
    for parsers in ([], ["image"], None, "pdf"):
        assert capped("/v2/scrape", {"url": URL, "parsers": parsers}, 5)["parsers"] == parsers
    assert capped("/v2/batch/scrape", {"urls": []}, 5) == {"urls": []}
