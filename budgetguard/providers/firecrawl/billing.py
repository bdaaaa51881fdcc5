"""What Firecrawl's replies say about credits (docs.firecrawl.dev, API v2; firecrawl/firecrawl; 2026-11)."""

from collections.abc import Callable, Mapping
from decimal import ROUND_FLOOR, Decimal
from typing import Any, ClassVar, Final
from urllib.parse import quote

from budgetguard._core.errors import (
    BalanceUnavailable,
    BudgetGuardError,
    InsufficientCredits,
    Paused,
)
from budgetguard._core.provider_refusal import EXHAUSTED, KEY_LIMIT, NOT_CREDITS, ProviderRefusal
from budgetguard.providers.billing import (
    OK,
    PAYMENT_REQUIRED,
    Billing,
    BillingReply,
    Outcome,
    Prices,
    Unpriced,
    WorkStatus,
    amount,
    said_by,
    value_at,
)
from budgetguard.providers.firecrawl import prices
from budgetguard.providers.firecrawl.prices import PageCost

_NOT_FOUND = 404
_JOBS = ("/crawl", "/batch/scrape", "/agent", "/extract", "/deep-research", "/llmstxt")
JOB_ROUTES: Final = frozenset(f"/{version}{path}" for version in ("v1", "v2") for path in _JOBS)
"""The requests that submit work; the status of a job is at the same path, followed by its id."""

_WITH_PAGES = tuple(f"/{version}{path}/" for version in ("v1", "v2") for path in _JOBS[:2])
_SESSIONS = frozenset({"/v2/interact", "/v2/browser"})
_INDEXES = ("/v2/search/developer", "/v2/search/research/papers")
_OVER = frozenset({"completed", "failed", "cancelled", "refused", "credit_limit_reached"})
_RUNNING = frozenset({"scraping", "processing", "pending", "queued"})
# Refusals and failures for which something may be charged: a page was scanned or checked all the same.
_CHARGED = frozenset(
    {
        "SCRAPE_DNS_RESOLUTION_ERROR",
        "SCRAPE_LOCKDOWN_CACHE_MISS",
        "SCRAPE_PROMPT_INJECTION_DETECTED",
        "unsafe_domain_blocked",
    }
)
_KEY_SPENT = "unverified_credit_limit_reached"


class FirecrawlBilling(Billing):
    """Replies have `creditsUsed`; jobs report it in their status, while they run and when they are over."""

    prices: ClassVar[Prices] = prices.PRICES

    def cost_of(self, reply: BillingReply) -> Outcome:
        """Settle at `creditsUsed`; jobs and sessions go on after their reply."""
        if reply.status not in OK:
            code = _text(reply, "code")
            if code in _CHARGED:
                return "cost"
            if code.startswith("thread_"):
                # 409 for a conversation that is busy or over: no run began.
                return "release"
            return super().cost_of(reply)
        if not reply.complete or reply.path in JOB_ROUTES or is_session(reply.path):
            return "keep"
        used = _used(reply)
        return "cost" if used is None else used

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """A 402, but for that of a key which an agent made and nobody has confirmed: it may spend 50 credits.

        A key that has reached a limit set for it gets the same 402 as an account without credits, so it
        counts as the latter. 429 is about rates and concurrency.
        """
        if reply.status == PAYMENT_REQUIRED:
            return KEY_LIMIT if reply.field("error") == _KEY_SPENT else EXHAUSTED
        return NOT_CREDITS if reply.status not in OK else None

    def work(self, reply: BillingReply) -> str | None:
        """By the id in the reply to a submission."""
        if reply.status not in OK or reply.path not in JOB_ROUTES:
            return None
        id = reply.field("id")
        if not isinstance(id, str) or not id.strip("."):
            return None
        return f"{reply.path}/{quote(id, safe='')}"

    def status(self, reply: BillingReply) -> WorkStatus | None:
        """The credits used so far, and whether the job is over."""
        if reply.status == _NOT_FOUND:
            return WorkStatus(end="keep")
        if reply.status not in OK:
            return None
        used, state = amount(reply.field("creditsUsed")), _text(reply, "status")
        if state in _OVER:
            unknown: Outcome = "cost" if state == "completed" else "keep"
            return WorkStatus(end=unknown if used is None else used)
        return WorkStatus(charged=used) if state in _RUNNING else None

    def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
        """`limit` of a crawl or a search, `maxCredits` of an agent, `ttl` of a session, `maxPages` of PDFs.

        A cap that would be below the least that the request can cost is that least.
        """
        # Deferred, so that importing budgetguard does not import it.
        import json

        cap = _CAPS.get(path)
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            return None
        if cap is None or not isinstance(body, dict):
            return None
        try:
            return json.dumps(cap(body, most)).encode()
        except Unpriced:
            return None

    def refusal_body(self, error: BudgetGuardError, path: str) -> dict[str, Any]:
        """Firecrawl's shape, in which `error` is a text: firecrawl-py shows it (4.55.0, 2026-11)."""
        del path
        return {"success": False, "error": str(error), "code": _code(error), **said_by(error)}


def has_pages(path: str) -> bool:
    """Whether this is the status of a job whose pages come with it."""
    return path.startswith(_WITH_PAGES)


def is_session(path: str) -> bool:
    """Whether a POST to this path may open an interactive session, which goes on after its reply."""
    scraped = path.startswith("/v2/scrape/") and path.endswith("/interact")
    return scraped or path in _SESSIONS


def _text(reply: BillingReply, name: str) -> str:
    text = reply.field(name)
    return text if isinstance(text, str) else ""


def _used(reply: BillingReply) -> Decimal | None:
    for where in ("creditsUsed", "data.metadata.creditsUsed", "data.creditsCost"):
        used = amount(value_at(reply.body, where))
        if used is not None:
            return used
    if reply.path.startswith(_INDEXES):
        results = reply.field("results")
        if isinstance(results, list):
            return Decimal(prices.tens(len(results)))
    return None


def _code(error: BudgetGuardError) -> str:
    if isinstance(error, InsufficientCredits):
        return "insufficient_credits"
    if isinstance(error, Paused):
        return "paused"
    return "balance_unavailable" if isinstance(error, BalanceUnavailable) else "not_run"


def _whole(credits: Decimal) -> int:
    return int(credits.to_integral_value(ROUND_FLOOR))


def _pdfs(options: Mapping[str, Any], page: PageCost, pages: int, spare: Decimal) -> dict[str, Any]:
    """Scrape options that limit the pages of each PDF, so that all pages together take `spare` credits more."""
    # The default of the API's server; the API reference names only the first (2026-11).
    parsers = options.get("parsers", ["pdf", "image"])
    kinds = [*map(prices.kind_of_option, parsers)] if isinstance(parsers, list) else []
    if "pdf" not in kinds:
        return dict(options)
    each = 1 + max(0, _whole(spare / (page.further * pages)))
    at = kinds.index("pdf")
    given = parsers[at] if isinstance(parsers[at], dict) else {"type": "pdf"}
    limit = min(each, given.get("maxPages") or each, prices.MOST_PDF_PAGES)
    return {**options, "parsers": [*parsers[:at], {**given, "maxPages": limit}, *parsers[at + 1 :]]}


def _scrape(body: Mapping[str, Any], most: Decimal) -> dict[str, Any]:
    page = prices.page_cost(body, body.get("url"))
    return _pdfs(body, page, 1, most - page.first)


def _batch(body: Mapping[str, Any], most: Decimal) -> dict[str, Any]:
    pages = prices.batch_pages(body)
    if not pages:
        return dict(body)
    return _pdfs(body, pages[0], len(pages), most - sum(page.first for page in pages))


def _crawl(body: Mapping[str, Any], most: Decimal) -> dict[str, Any]:
    page, limit = prices.crawl_page(body), _crawl_limit(body, most)
    options = _pdfs(_inner(body), page, limit, most - page.first * limit)
    return {**body, "limit": limit, "scrapeOptions": options}


def _crawl_limit(body: Mapping[str, Any], most: Decimal) -> int:
    asked = prices.count(body.get("limit"), prices.CRAWL_LIMIT, "limit")
    return min(asked, max(1, _whole(most / prices.crawl_page(body).first)))


def _search(body: Mapping[str, Any], most: Decimal) -> dict[str, Any]:
    limit, page = _search_limit(body, most), prices.search_page(body)
    if page is None:
        return {**body, "limit": limit}
    results = prices.search_results(body, limit)
    spare = most - _search_cost(body, limit)
    return {**body, "limit": limit, "scrapeOptions": _pdfs(_inner(body), page, results, spare)}


def _search_limit(body: Mapping[str, Any], most: Decimal) -> int:
    asked = prices.count(body.get("limit"), prices.RESULTS, "limit")
    limits = (asked, *range(min(asked, prices.MOST_RESULTS), 1, -1))
    return next((each for each in limits if _search_cost(body, each) <= most), 1)


def _search_cost(body: Mapping[str, Any], limit: int) -> int:
    """What so many results of each source can cost if no PDF has a second page."""
    page, results = prices.search_page(body), prices.search_results(body, limit)
    alone = prices.search_cost({**body, "scrapeOptions": None}, limit)
    return alone + (0 if page is None else page.first * results)


def _inner(body: Mapping[str, Any]) -> dict[str, Any]:
    given = body.get("scrapeOptions")
    return dict(given) if isinstance(given, dict) else {}


def _agent(body: Mapping[str, Any], most: Decimal) -> dict[str, Any]:
    asked = prices.count(body.get("maxCredits"), prices.AGENT_CREDITS, "maxCredits")
    return {**body, "maxCredits": min(asked, max(1, _whole(most)))}


def _session(body: Mapping[str, Any], most: Decimal) -> dict[str, Any]:
    life = 60 * _whole(most / prices.minute_price(body))
    return {**body, "ttl": min(prices.session_life(body), max(prices.SHORTEST_SESSION, life))}


_CAPS: Final[Mapping[str, Callable[[Mapping[str, Any], Decimal], dict[str, Any]]]] = {
    "/v2/scrape": _scrape,
    "/v2/batch/scrape": _batch,
    "/v2/crawl": _crawl,
    "/v2/search": _search,
    "/v2/agent": _agent,
    **dict.fromkeys(_SESSIONS, _session),
    # Without `maxPages`, which v1 does not know.
    "/v1/crawl": lambda body, most: {**body, "limit": _crawl_limit(body, most)},
    "/v1/search": lambda body, most: {**body, "limit": _search_limit(body, most)},
}
