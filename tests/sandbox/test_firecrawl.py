"""Firecrawl in the sandbox: what it charges, and what it replies, to plain requests and to its SDK."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from needed import need

from budgetguard.testing.sandbox import Sandbox
from budgetguard.testing.sandbox.vendors.firecrawl import Firecrawl as Account

need("firecrawl")
from firecrawl import AsyncFirecrawl, Firecrawl  # noqa: E402
from firecrawl.v2.types import PDFParser  # noqa: E402
from firecrawl.v2.utils.error_handler import PaymentRequiredError, UnauthorizedError  # noqa: E402

Client = Callable[..., httpx.Client]
SITE = "https://example.com"


@pytest.fixture
def account(manual: Sandbox) -> Account:
    """The vendor's side."""
    vendor = manual.vendor("firecrawl")
    assert isinstance(vendor, Account)
    return vendor


@pytest.fixture
def api(client: Client, manual: Sandbox, account: Account) -> httpx.Client:
    """A client with its key, below its prefix."""
    http = client(manual)
    http.base_url = httpx.URL(account.url)
    http.headers["authorization"] = f"Bearer {account.key}"
    return http


@pytest.fixture
def sdk(manual: Sandbox, account: Account, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The SDK, which drops the path of its URL and so needs the routes at the root."""
    monkeypatch.setenv("NO_PROXY", "*")
    return Firecrawl(account.key, api_url=manual.url)


def used(api: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """What a scrape says that it cost."""
    return api.post(path, json=body).json()["data"]["metadata"]["creditsUsed"]


def test_the_account(api: httpx.Client, account: Account) -> None:
    """The balance in a plan's period, and how many jobs may run."""
    account.account.spend(2.5)
    account.max_concurrency = 7
    assert api.get("/v2/team/credit-usage").json() == {
        "success": True,
        "data": {
            "remainingCredits": 97.5,
            "planCredits": 1000,
            "billingPeriodStart": "2026-11-01T00:00:00Z",
            "billingPeriodEnd": "2026-12-01T00:00:00Z",
        },
    }
    limits = {"success": True, "concurrency": 0, "maxConcurrency": 7}
    assert api.get("/v2/concurrency-check").json() == limits


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        ({"url": SITE}, 1),
        ({"url": SITE, "formats": ["markdown", {"type": "json", "prompt": "A price"}]}, 5),
        ({"url": f"{SITE}/a.PDF"}, 3),
        ({"url": f"{SITE}/a.pdf", "parsers": [{"type": "pdf", "maxPages": 2}]}, 2),
        ({"url": f"{SITE}/a.pdf", "parsers": []}, 1),
    ],
)
def test_a_scrape(api: httpx.Client, account: Account, body: dict[str, Any], cost: int) -> None:
    """It costs a credit for each page, and more for JSON."""
    assert used(api, "/v2/scrape", body) == cost
    assert account.account.charged == cost


def test_a_map_and_searches(api: httpx.Client, account: Account) -> None:
    """A map is a credit; a search is paid by tens, and by the page if its results are scraped."""
    assert len(api.post("/v2/map", json={"url": SITE}).json()["links"]) == account.site_pages
    assert account.account.charged == 1
    reply = api.post("/v2/search", json={"query": "shops", "limit": 11}).json()
    assert (reply["creditsUsed"], len(reply["data"]["web"])) == (4, 11)
    scraped = {"query": "shops", "limit": 3, "scrapeOptions": {"formats": ["markdown"]}}
    assert api.post("/v2/search", json=scraped).json()["creditsUsed"] == 5
    assert account.account.charged == 10


def test_a_crawl(api: httpx.Client, manual: Sandbox, account: Account) -> None:
    """Its pages are charged one after the other, and its status says how many by then."""
    submitted = api.post("/v2/crawl", json={"url": SITE, "limit": 3}).json()
    path = f"/v2/crawl/{submitted['id']}"
    assert submitted == {"success": True, "id": submitted["id"], "url": f"/firecrawl{path}"}
    seen = []
    for _ in range(4):
        status = api.get(path, params={"limit": 1}).json()
        assert len(status["data"]) == min(1, status["completed"])
        seen.append((status["status"], status["completed"], status["creditsUsed"]))
        manual.advance(account.page_seconds)
    assert seen == [("scraping", 0, 0), ("scraping", 1, 1), ("scraping", 2, 2), ("completed", 3, 3)]
    assert account.account.charged == 3
    assert len(api.get(path).json()["data"]) == 3


def test_a_crawl_without_a_limit(api: httpx.Client, manual: Sandbox, account: Account) -> None:
    """It goes on as long as there are pages, or until the credits are spent."""
    account.account.spend(95)
    path = f"/v2/crawl/{api.post('/v2/crawl', json={'url': SITE}).json()['id']}"
    manual.advance(60)
    status = api.get(path).json()
    assert (status["success"], status["status"], status["total"]) == (False, "failed", 12)
    assert (status["completed"], account.account.balance) == (5, 0)


def test_a_limit_is_lowered_to_the_credits(api: httpx.Client, account: Account) -> None:
    """With a limit above them, as many pages as they pay for; without credits, a refusal."""
    account.account.spend(96)
    reply = api.post("/v2/crawl", json={"url": SITE, "limit": 10})
    path = f"/v2/crawl/{reply.json()['id']}"
    assert api.get(path).json()["total"] == 4
    assert api.post("/v2/batch/scrape", json={"urls": [SITE] * 5}).status_code == 402
    account.account.spend(4)
    for body in ({"url": SITE, "limit": 10}, {"url": SITE}):
        assert api.post("/v2/crawl", json=body).status_code == 402


def test_a_job_that_is_cancelled(api: httpx.Client, manual: Sandbox, account: Account) -> None:
    """It is charged for the pages until then, and cannot be cancelled again."""
    urls = [f"{SITE}/{each}" for each in range(4)]
    batch = api.post("/v2/batch/scrape", json={"urls": urls, "formats": [{"type": "json"}]})
    path = f"/v2/batch/scrape/{batch.json()['id']}"
    manual.advance(2 * account.page_seconds)
    assert api.delete(path).json() == {"status": "cancelled"}
    manual.advance(60)
    status = api.get(path).json()
    assert (status["status"], status["completed"], status["creditsUsed"]) == ("cancelled", 2, 10)
    assert api.delete(path).status_code == 409
    assert account.account.charged == 10


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/scrape", {}),
        ("/v2/map", {"url": 1}),
        ("/v2/search", {"query": "shops", "limit": 0}),
        ("/v2/search", {"query": "shops", "limit": 101}),
        ("/v2/crawl", {"url": SITE, "limit": "10"}),
        ("/v2/batch/scrape", {"urls": []}),
    ],
)
def test_an_invalid_request(
    api: httpx.Client, account: Account, path: str, body: dict[str, Any]
) -> None:
    """It gets 400 in Firecrawl's shape, and costs nothing."""
    reply = api.post(path, json=body)
    assert (reply.status_code, reply.json()) == (400, {"success": False, "error": "Bad Request"})
    assert account.requests == (1, 0, 0)


def test_unknown_jobs(api: httpx.Client) -> None:
    """They are not found."""
    for method in ("GET", "DELETE"):
        reply = api.request(method, "/v2/crawl/none")
        assert (reply.status_code, reply.json()["error"]) == (404, "Job not found")


def test_the_sdk(sdk: Any, account: Account) -> None:
    """The SDK understands every reply, and its requests are the vendor's although they are at the root."""
    page = sdk.scrape(f"{SITE}/a.pdf", parsers=[PDFParser(max_pages=2)])
    assert page.metadata.credits_used == 2
    assert len(sdk.map(SITE).links) == 12
    assert len(sdk.search("shops", limit=3).web) == 3
    assert sdk.get_credit_usage().remaining_credits == 95
    assert sdk.get_concurrency().max_concurrency == 5
    crawl = sdk.get_crawl_status(sdk.start_crawl(SITE, limit=2).id)
    assert (crawl.status, crawl.total, crawl.credits_used) == ("scraping", 2, 0)
    batch = sdk.get_batch_scrape_status(sdk.start_batch_scrape([SITE]).id)
    assert (batch.status, batch.total) == ("scraping", 1)
    assert account.requests == (5, 5, 0)


def test_the_sdks_errors(sdk: Any, manual: Sandbox, account: Account) -> None:
    """What it makes of a refusal and of a wrong key."""
    account.refuse_with = "exhausted"
    with pytest.raises(PaymentRequiredError, match="Insufficient credits to perform this request"):
        sdk.scrape(SITE)
    with pytest.raises(UnauthorizedError, match="Unauthorized"):
        Firecrawl("fc-another_not_a_real_key", api_url=manual.url).scrape(SITE)


def test_the_async_sdk(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the path of its URL, and runs on asyncio alone."""
    monkeypatch.setenv("NO_PROXY", "*")

    async def main() -> None:
        sdk: Any = AsyncFirecrawl(account.key, api_url=account.url)
        assert (await sdk.scrape(SITE)).metadata.credits_used == 1
        crawl = await sdk.get_crawl_status((await sdk.start_crawl(SITE, limit=2)).id)
        assert crawl.total == 2
        await sdk.v2.async_http_client.close()

    asyncio.run(main())
    assert account.requests == (2, 2, 0)
