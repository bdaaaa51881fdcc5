"""Firecrawl: scrapes, maps, searches, and crawls and batches that are charged page by page."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from budgetguard.testing.sandbox.account import Operation, number
from budgetguard.testing.sandbox.clock import after, date
from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.vendor import Handlers, Vendor

_PAGE = 1
_JSON = 4
_MAP = 1
_TEN_RESULTS = 2
_CRAWL_LIMIT = 10_000
_RESULTS = 10
_MOST_RESULTS = 100
_STATUS_PAGE = 100
_MONTH = 30 * 86_400
_DAY = 86_400
_MICRO = 1_000_000

Body = Mapping[str, Any]


@dataclass(slots=True)
class Job:
    """A crawl or a batch: its pages with what each costs, and how many are done."""

    operation: Operation
    pages: list[tuple[str, int]]
    done: int = 0
    cancelled: bool = False

    @property
    def status(self) -> Literal["scraping", "completed", "failed", "cancelled"]:
        """Its status as the API reports it."""
        if self.cancelled:
            return "cancelled"
        if self.operation.state == "running":
            return "scraping"
        return "completed" if self.operation.state == "finished" else "failed"


class Firecrawl(Vendor):
    """Its API v2, as far as guards and firecrawl-py need it.

    From the documentation (API reference and billing page, 2026-11): the bodies of all replies with 200, the
    prices, and that jobs are charged as each page completes. From the source of its server
    (firecrawl/firecrawl, 2026): the words of a 402, that a `limit` above the balance is lowered to it, and
    what an unconfirmed key of an agent gets. Invented: how many pages a site has, and how long each takes.

    - `GET /v2/team/credit-usage`, `GET /v2/concurrency-check`.
    - `POST /v2/scrape`: a page is 1 credit, 5 with the format `json`; an address that ends in `.pdf` has
      `pdf_pages` pages, of which `maxPages` are parsed and paid.
    - `POST /v2/map`: 1 credit. `POST /v2/search`: 2 credits for each ten results begun, and each page if
      the results are scraped; there are always as many as `limit` allows.
    - `POST /v2/crawl`: of `site_pages` pages, at most `limit`. `POST /v2/batch/scrape`: of its `urls`. Their
      status is at `GET` of the same path with the id, and `DELETE` cancels them. A page takes
      `page_seconds`, one after the other.

    Jobs above the limit would wait for their turn, and no request is refused for them: it takes no `slots`.
    Attributes that a test may set: `site_pages`, `page_seconds`, `pdf_pages` and `max_concurrency`.
    """

    name = "firecrawl"
    key = "fc-sandbox_not_a_real_key"
    other_key = "fc-sandbox_other_not_a_real_key"
    # firecrawl-py's sync client drops the path of its `api_url` (4.55.0, 2026-11).
    also_at_root = True

    site_pages = 12
    page_seconds = 2.0
    pdf_pages = 3
    max_concurrency = 5

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._jobs: dict[str, Job] = {}

    def free(self) -> Handlers:
        """The account, and the jobs."""
        jobs = ("/v2/crawl/{id}", "/v2/batch/scrape/{id}")
        return {
            ("GET", "/v2/team/credit-usage"): self._usage,
            ("GET", "/v2/concurrency-check"): self._concurrency,
            **{("GET", path): self._status for path in jobs},
            **{("DELETE", path): self._cancel for path in jobs},
        }

    def paid(self) -> Handlers:
        """All that is paid by the page, the result or the call."""
        return {
            ("POST", "/v2/scrape"): self._scrape,
            ("POST", "/v2/map"): self._map,
            ("POST", "/v2/search"): self._search,
            ("POST", "/v2/crawl"): self._crawl,
            ("POST", "/v2/batch/scrape"): self._batch,
        }

    def refusals(self) -> Mapping[str, Refusal]:
        """402 for the account and for a key of an agent, 429 for too many requests in a minute."""
        wait = {"retry-after": f"{self.retry_after:g}"}
        lacking = (
            "Insufficient credits to perform this request. For more credits, you can upgrade your "
            "plan at https://firecrawl.dev/pricing or try changing the request limit to a lower "
            "value."
        )
        unconfirmed = {"error": "unverified_credit_limit_reached", "credit_limit": 50}
        return {
            "exhausted": self.error(402, lacking),
            "not_credits_rate": Refusal(429, self.error(429, "Rate limit exceeded").body, wait),
            "key_limit": Refusal(402, {"success": False, **unconfirmed}),
        }

    def error(self, status: int, message: str) -> Refusal:
        """The one shape of its errors (errors page, 2026-11)."""
        return Refusal(status, {"success": False, "error": message})

    async def _usage(self, _: Request) -> Response:
        with self.clock.settled() as now:
            start = now - now % _MONTH
            data = {
                "remainingCredits": self.left,
                "planCredits": 1000,
                "billingPeriodStart": date(start),
                "billingPeriodEnd": date(start + _MONTH),
            }
        return JSONResponse({"success": True, "data": data})

    async def _concurrency(self, _: Request) -> Response:
        limits = {"concurrency": self.account.running, "maxConcurrency": self.max_concurrency}
        return JSONResponse({"success": True, **limits})

    async def _scrape(self, request: Request) -> Response:
        body = await self.body(request)
        url = self._text(body, "url")
        cost = self._page(url, body)
        self.charge(cost, "scrape")
        return JSONResponse({"success": True, "data": _document(url, cost)})

    async def _map(self, request: Request) -> Response:
        url = self._text(await self.body(request), "url")
        self.charge(_MAP, "map")
        links = [{"url": page} for page in self._site(url, self.site_pages)]
        return JSONResponse({"success": True, "links": links})

    async def _search(self, request: Request) -> Response:
        body = await self.body(request)
        query = self._text(body, "query")
        limit = self._granted(self._limit(body, _RESULTS, _MOST_RESULTS), body)
        cost, options = _TEN_RESULTS * -(-limit // 10), body.get("scrapeOptions") or {}
        results = []
        for place in range(1, limit + 1):
            url = f"https://example.com/{place}"
            found = {"url": url, "title": f"{query} {place}", "description": ""}
            if options.get("formats"):
                page = self._page(url, options)
                found |= _document(url, page)
                cost += page
            results.append(found)
        operation = self.charge(cost, "search")
        reply = {"data": {"web": results}, "creditsUsed": cost, "id": operation.id}
        return JSONResponse({"success": True, **reply})

    async def _crawl(self, request: Request) -> Response:
        body = await self.body(request)
        url = self._text(body, "url")
        limit = self._limit(body, _CRAWL_LIMIT, math.inf)
        if "limit" in body:
            limit = self._granted(limit, body)
        options = body.get("scrapeOptions") or {}
        pages = [(page, self._page(page, options)) for page in self._site(url, limit)]
        return self._submit(request, "crawl", pages)

    async def _batch(self, request: Request) -> Response:
        body = await self.body(request)
        urls = body.get("urls")
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls) or not urls:
            raise self.error(400, "Bad Request")
        self._granted(len(urls), {})
        pages = [(url, self._page(url, body)) for url in urls]
        return self._submit(request, "batch_scrape", pages)

    def _submit(self, request: Request, kind: str, pages: list[tuple[str, int]]) -> Response:
        with self.clock.settled() as now:
            job = Job(self.begin(kind, _PAGE), pages)
            self._jobs[job.operation.id] = job
            self.clock.at(after(now, self.page_seconds), partial(self._next, job))
        where = f"{request.url.path}/{job.operation.id}"
        return JSONResponse({"success": True, "id": job.operation.id, "url": where})

    def _next(self, job: Job, when: float) -> None:
        if job.operation.state != "running":
            return
        if not self.account.charge(job.operation, job.pages[job.done][1] * _MICRO, when):
            self.account.end(job.operation, "died")
            return
        job.done += 1
        if job.done == len(job.pages):
            self.account.end(job.operation, "finished")
        else:
            self.clock.at(after(when, self.page_seconds), partial(self._next, job))

    async def _status(self, request: Request) -> Response:
        asked = request.query_params.get("limit", str(_STATUS_PAGE))
        with self.clock.settled() as now:
            job = self._job(request)
            shown = job.pages[: job.done][: int(asked)]
            reply = {
                "success": job.status != "failed",
                "status": job.status,
                "total": len(job.pages),
                "completed": job.done,
                "creditsUsed": number(job.operation.micros),
                "expiresAt": date(now + _DAY),
                "data": [_document(*page) for page in shown],
            }
        return JSONResponse(reply)

    async def _cancel(self, request: Request) -> Response:
        with self.clock.settled():
            job = self._job(request)
            if job.operation.state != "running":
                raise self.error(409, "Conflict")
            job.cancelled = True
            self.account.end(job.operation, "finished")
        return JSONResponse({"status": "cancelled"})

    def _job(self, request: Request) -> Job:
        job = self._jobs.get(request.path_params["id"])
        if job is None:
            raise self.error(404, "Job not found")
        return job

    def _granted(self, limit: int, body: Body) -> int:
        """The limit that the account's credits allow; without one to lower, too few are a refusal."""
        with self.clock.settled():
            left = int(self.account.balance)
            if left >= limit:
                return limit
            if "limit" not in body or left <= 0:
                self.refuse("exhausted")
            return left

    def _limit(self, body: Body, default: int, most: float) -> int:
        limit = body.get("limit", default)
        if type(limit) is not int or not 0 < limit <= most:
            raise self.error(400, "Bad Request")
        return limit

    def _text(self, body: Body, name: str) -> str:
        text = body.get(name)
        if not isinstance(text, str) or not text:
            raise self.error(400, "Bad Request")
        return text

    def _site(self, url: str, limit: int) -> list[str]:
        return [f"{url.rstrip('/')}/{page}" for page in range(min(self.site_pages, limit))]

    def _page(self, url: str, options: Body) -> int:
        formats = options.get("formats") or []
        kinds = [each.get("type") if isinstance(each, dict) else each for each in formats]
        pages = 1
        if url.lower().endswith(".pdf"):
            parsers = options.get("parsers", ["pdf"])
            given = [each for each in parsers if isinstance(each, dict)]
            most = [each["maxPages"] for each in given if "maxPages" in each]
            pages = min([self.pdf_pages, *most]) if parsers else 1
        return _PAGE * pages + _JSON * ("json" in kinds)


def _document(url: str, cost: int) -> dict[str, Any]:
    metadata = {"sourceURL": url, "statusCode": 200, "creditsUsed": cost}
    return {"markdown": f"# {url}", "metadata": metadata}
