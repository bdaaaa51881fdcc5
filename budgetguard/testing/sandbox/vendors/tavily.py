"""Tavily's API, as its API reference and its credits page describe it (docs.tavily.com, 2026-11).

The statuses, the shapes and the prices are documented. So is the text of each refusal but that of a key's limit,
which comes from field reports. Invented are the site that every crawl finds, the figures of a research, and that
URLs on `.invalid` fail.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from budgetguard.testing.sandbox.account import Operation, micro, number
from budgetguard.testing.sandbox.clock import after
from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.vendor import Handlers, Vendor

SITE = 7
"""How many pages each crawl and each map finds."""

RESEARCH: Mapping[str, int] = {"mini": 20, "pro": 80, "auto": 80}
"""The credits that a research costs, by model."""

RESEARCH_SECONDS = 60


class Tavily(Vendor):
    """It sells searches for credits. Half-filled blocks of URLs and pages are carried over to later calls.

    - `key_limit`: the limit of the key itself, which `/usage` reports, or None.
    - `paygo_limit`: what may be spent beyond the plan, which `/usage` reports, or None. The account has to
      have these credits, too.
    """

    name = "tavily"
    key = "tvly-sandbox_not_a_real_key"
    other_key = "tvly-sandbox_other_not_a_real_key"
    retry_after = 60
    key_limit: int | None = None
    paygo_limit: int | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._counted = {"extract": 0, "map": 0}
        self._research: dict[str, Operation] = {}

    def free(self) -> Handlers:
        """The usage, and the results of research."""
        return {("GET", "/usage"): self._usage, ("GET", "/research/{id}"): self._result}

    def paid(self) -> Handlers:
        """The five endpoints."""
        return {
            ("POST", "/search"): self._search,
            ("POST", "/extract"): self._extract,
            ("POST", "/map"): self._map,
            ("POST", "/crawl"): self._crawl,
            ("POST", "/research"): self._submit,
        }

    def refusals(self) -> Mapping[str, Refusal]:
        """Two limits with the status 432, a third one with 433, and the rate limit."""
        support = "Please upgrade your plan or contact support@tavily.com"
        dashboard = "You can increase {} limit on the Tavily dashboard."
        busy = "Your request has been blocked due to excessive requests. Please reduce rate of requests."
        return {
            "exhausted": _error(
                432, f"This request exceeds your plan's set usage limit. {support}"
            ),
            "not_credits_rate": _error(429, busy, {"retry-after": f"{self.retry_after:g}"}),
            "key_limit": _error(
                432,
                f"This request exceeds this API key's set usage limit. {dashboard.format('its')}",
            ),
            "exhausted_paygo": _error(
                433, f"This request exceeds the pay-as-you-go limit. {dashboard.format('your')}"
            ),
        }

    def error(self, status: int, message: str) -> Refusal:
        """An error with its text in `detail.error`."""
        return _error(status, message)

    def unauthorized(self) -> Refusal:
        """In the words of the API reference."""
        return _error(401, "Unauthorized: missing or invalid API key.")

    async def _usage(self, _: Request) -> Response:
        paygo = self.paygo_limit or 0
        account = {
            "current_plan": "Researcher",
            "plan_usage": self.used,
            "plan_limit": self.left + self.used - paygo,
            "paygo_usage": 0,
            "paygo_limit": self.paygo_limit,
        }
        return JSONResponse(
            {"key": {"usage": self.used, "limit": self.key_limit}, "account": account}
        )

    async def _search(self, request: Request) -> Response:
        given = await self.body(request)
        if not isinstance(given.get("query"), str):
            raise self.error(400, "Query is missing.")
        depth = given.get("search_depth", "basic")
        operation = self.charge(2 if depth == "advanced" else 1, "search")
        result = {"title": "Page", "url": "https://example.com/", "content": "...", "score": 0.5}
        return _answer(given, operation, {"query": given["query"], "results": [result]})

    async def _extract(self, request: Request) -> Response:
        given = await self.body(request)
        urls = given.get("urls")
        urls = [urls] if isinstance(urls, str) else urls
        if not isinstance(urls, list) or not all(isinstance(each, str) for each in urls):
            raise self.error(400, "URLs are missing.")
        if len(urls) > 20:  # noqa: PLR2004  as the refusal says
            raise self.error(400, "Max 20 URLs are allowed.")
        failed = [url for url in urls if ".invalid" in url]
        found = [url for url in urls if ".invalid" not in url]
        operation = self.charge(self._of_urls(given, len(found)), "extract")
        body = {
            "results": [{"url": url, "raw_content": "..."} for url in found],
            "failed_results": [{"url": url, "error": "Failed to fetch url"} for url in failed],
        }
        return _answer(given, operation, body)

    async def _map(self, request: Request) -> Response:
        given = await self.body(request)
        pages = self._pages(given)
        operation = self.charge(self._of_pages(given, pages), "map")
        return _answer(given, operation, {"results": _site(pages)})

    async def _crawl(self, request: Request) -> Response:
        given = await self.body(request)
        pages = self._pages(given)
        cost = self._of_pages(given, pages) + self._of_urls(given, pages)
        operation = self.charge(cost, "crawl")
        results = [{"url": url, "raw_content": "..."} for url in _site(pages)]
        return _answer(given, operation, {"results": results})

    async def _submit(self, request: Request) -> Response:
        given = await self.body(request)
        model = given.get("model", "auto")
        if not isinstance(given.get("input"), str) or model not in RESEARCH:
            raise self.error(400, "Invalid model. Must be one of: mini, pro, auto")
        with self.clock.settled() as now:
            operation = self.begin("research", RESEARCH[model])
            self._research[operation.id] = operation
            done = partial(self._done, operation, micro(RESEARCH[model]))
            self.clock.at(after(now, RESEARCH_SECONDS), done)
        body = {"request_id": operation.id, "status": "pending", "model": model}
        # The reference says 201. tavily-python (0.8.5, 2026-11) accepts only 200, and works in the field.
        return JSONResponse(body | {"input": given["input"], "response_time": 0.04})

    async def _result(self, request: Request) -> Response:
        with self.clock.settled():
            operation = self._research.get(request.path_params["id"])
            if operation is None:
                raise self.error(404, "Research task not found")
            body: dict[str, Any] = {"request_id": operation.id, "response_time": 43}
            if operation.state == "running":
                return JSONResponse(body | {"status": "in_progress"}, 202)
            if operation.state == "died":
                return JSONResponse(body | {"status": "failed"})
            body |= {"status": "completed", "content": "A report.", "sources": []}
            if request.query_params.get("include_usage") == "true":
                body["usage"] = {"credits": number(operation.micros)}
            return JSONResponse(body)

    def _done(self, operation: Operation, micros: int, when: float) -> None:
        paid = self.account.charge(operation, micros, when)
        self.account.end(operation, "finished" if paid else "died")

    def _pages(self, given: Mapping[str, Any]) -> int:
        limit = given.get("limit", 50)
        if not isinstance(given.get("url"), str) or type(limit) is not int or limit < 1:
            raise self.error(400, "[400] No starting url provided")
        return min(SITE, limit)

    def _of_urls(self, given: Mapping[str, Any], count: int) -> int:
        rate = 2 if given.get("extract_depth") == "advanced" else 1
        return rate * self._blocks("extract", count, 5)

    def _of_pages(self, given: Mapping[str, Any], count: int) -> int:
        return (2 if given.get("instructions") else 1) * self._blocks("map", count, 10)

    def _blocks(self, kind: str, count: int, size: int) -> int:
        """Return how many blocks are full now."""
        with self.clock.settled():
            before = self._counted[kind]
            self._counted[kind] = before + count
            return math.floor((before + count) / size) - math.floor(before / size)


def _site(pages: int) -> list[str]:
    return [f"https://example.com/{page}" for page in range(pages)]


def _answer(given: Mapping[str, Any], operation: Operation, body: dict[str, Any]) -> Response:
    if given.get("include_usage") is True:
        body["usage"] = {"credits": number(operation.micros)}
    return JSONResponse(body | {"response_time": 1.2, "request_id": operation.id})


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Refusal:
    return Refusal(status, {"detail": {"error": message}}, headers)
