"""What Firecrawl's requests may cost, by their bodies and queries (docs.firecrawl.dev, API v2, 2026-11).

v1 has the same endpoints and prices, with a few options under other names; both are read.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from budgetguard._core.amounts import LIMIT, exact
from budgetguard.providers.billing import CallCost, Price, Prices, Unpriced, parse, value_at

PAGE: Final = 1
FORMAT: Final = 4
X_PAGE: Final = 30
MAP: Final = 1
TEN_RESULTS: Final = 2
TEN_PRIVATE_RESULTS: Final = 10
MINUTE: Final = 2
PROMPT_MINUTE: Final = 7
CRAWL_LIMIT: Final = 10_000
AGENT_CREDITS: Final = 2_500
PDF_PAGES: Final = 100

JOB_LAG: Final = 300.0
JOB_LINGER: Final = 3600.0

# The API reference's defaults: results of a search, of a paper search and of a developer search.
RESULTS: Final = 10
_PAPERS = 40
_DEVELOPER = 10
# Seconds of an interactive session's longest life: the default, the least and the most.
_SESSION = 600
SHORTEST_SESSION: Final = 30
_LONGEST_SESSION = 3600
_MINUTE = 60
MOST_RESULTS: Final = 100
MOST_PDF_PAGES: Final = 10_000

_PLAIN_FORMATS = frozenset(
    {
        *("markdown", "html", "rawHtml", "rawBase64", "links", "images", "screenshot"),
        *("screenshot@fullPage", "summary", "branding", "product", "menu", "attributes", "blocks"),
    }
)
_JSON_FORMATS = frozenset({"json", "extract"})
_TRACKING = frozenset({"changeTracking", "change_tracking"})
# 10 credits in all when it writes a new extractor, 3 when it has one (firecrawl/firecrawl, scrape-billing.ts).
_EXTRACTOR = 9
_X = ("x.com", "twitter.com")
# Two credits for each address that a scan classifies: the page's own, and one to which it redirects.
_SCANS = 4
_NO_SCANS = frozenset({"off", "manual-only", "zscaler"})
_UNKNOWN = "is not known: set it with prices= of a transport or of the guarded SDK"


@dataclass(frozen=True, slots=True)
class PageCost:
    """The most that scraping one page can cost, in credits.

    `first` is without the further pages of a PDF, of which each costs `further` and there are `pages - 1`.
    """

    first: int
    further: int
    pages: int

    @property
    def most(self) -> int:
        """All of it."""
        return self.first + self.further * (self.pages - 1)


def page_cost(options: Mapping[str, Any], url: object = None) -> PageCost:
    """The cost of a page with these scrape options; raises Unpriced if its price is not in its options."""
    for name in ("alexandria", "agent"):
        if options.get(name) is not None:
            msg = f"the largest cost of a scrape with {name} {_UNKNOWN}"
            raise Unpriced(msg)
    first = PAGE + _formats(options)
    first += FORMAT * sum(bool(options.get(name)) for name in ("lockdown", "redactPII"))
    first += bool(options.get("zeroDataRetention"))
    first += (X_PAGE - PAGE) * _is_on_x(url)
    first += _SCANS * scans(options)
    further = PAGE + FORMAT * bool(options.get("redactPII"))
    return PageCost(first, further, _pdf_pages(options, url))


def _formats(options: Mapping[str, Any]) -> int:
    formats = _items(options.get("formats"))
    guarded = bool(options.get("checkPromptInjection"))
    extracts, costs = False, 0
    for each in formats:
        kind = kind_of_option(each)
        if kind in _JSON_FORMATS:
            extracts = True
            guarded = guarded or bool(value_at(each, "checkPromptInjection"))
        elif kind in _TRACKING:
            modes = value_at(each, "modes") or value_at(options, "changeTrackingOptions.modes")
            extracts = extracts or "json" in _items(modes)
        elif kind == "deterministicJson":
            costs += _EXTRACTOR
        elif kind not in _PLAIN_FORMATS:
            # Also what is newer than this list: most such formats run a model.
            costs += FORMAT
    for name in ("jsonOptions", "extract"):
        if value_at(options, f"{name}.agent") is not None:
            msg = f"the largest cost of a scrape with FIRE-1 {_UNKNOWN}"
            raise Unpriced(msg)
        guarded = guarded or bool(value_at(options, f"{name}.checkPromptInjection"))
    return costs + FORMAT * (extracts + guarded)


def _pdf_pages(options: Mapping[str, Any], url: object = None) -> int:
    """The number of pages that are paid if the address is that of a PDF.

    `maxPages` if the request has it, PDF_PAGES if the address ends in `.pdf`, and 1 otherwise: only the reply
    tells what an address leads to.
    """
    parsers = options.get("parsers")
    if options.get("parsePDF") is False:
        return 1
    if isinstance(parsers, list):
        kinds = [*map(kind_of_option, parsers)]
        if "pdf" not in kinds:
            return 1
        most = value_at(parsers[kinds.index("pdf")], "maxPages")
        if most is not None:
            return count(most, 1, "maxPages")
    return PDF_PAGES if _split(url).path.lower().endswith(".pdf") else 1


def scans(options: Mapping[str, Any]) -> bool:
    """Whether the request has its addresses scanned for a price; the team's own policy is not known."""
    given = options.get("threatProtection")
    return isinstance(given, Mapping) and given.get("mode", "normal") not in _NO_SCANS


def _is_on_x(url: object) -> bool:
    host = (_split(url).hostname or "").lower()
    return any(f".{host}".endswith(f".{each}") for each in _X)


def kind_of_option(option: object) -> str:
    """The name of a format or a parser, which is given as a text or as an object with a `type`."""
    return option if isinstance(option, str) else str(value_at(option, "type"))


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _split(url: object) -> SplitResult:
    text = url if isinstance(url, str) else ""
    with suppress(ValueError):
        parts = urlsplit(text if "://" in text else f"//{text}")
        if parts.hostname is not None:
            return parts
    return urlsplit("")


def count(value: Any, default: int, what: str) -> int:
    """A whole number above zero, rounded up, or `default` for None; raises Unpriced for anything else."""
    if value is None:
        return default
    # Text is not shown: it may be long, or a secret in the wrong place.
    shown = f"<{type(value).__name__}>"
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        shown = "<number>"
        with suppress(ValueError):
            number = exact(value, what)
            if number > 0:
                return int(number.to_integral_value(ROUND_CEILING))
            shown = f"{number:f}"
    msg = f"the largest cost with {what}={shown} {_UNKNOWN}"
    raise Unpriced(msg)


def fields(request: Any) -> Mapping[str, Any]:
    """The JSON object in a request; an empty one if it has none."""
    body = parse(request.content)
    return body if isinstance(body, dict) else {}


def _options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scrape options of a crawl or a search, with the option that is beside them."""
    given = body.get("scrapeOptions")
    options = dict(given) if isinstance(given, Mapping) else {}
    return {"zeroDataRetention": body.get("zeroDataRetention")} | options


def crawl_page(body: Mapping[str, Any]) -> PageCost:
    """The most that each page of a crawl can cost."""
    return page_cost(_options(body), body.get("url"))


def crawl_limit(body: Mapping[str, Any]) -> int:
    """The most pages of a crawl; raises Unpriced if a prompt may set the limit."""
    if body.get("limit") is None and body.get("prompt"):
        msg = f"the largest cost of a crawl whose prompt sets its limit {_UNKNOWN}, or add a limit"
        raise Unpriced(msg)
    return count(body.get("limit"), CRAWL_LIMIT, "limit")


def batch_pages(body: Mapping[str, Any]) -> list[PageCost]:
    """The most that each page of a batch can cost; raises Unpriced if the request names none."""
    urls = body.get("urls")
    if not isinstance(urls, list):
        msg = f"the largest cost of a batch without a list of urls {_UNKNOWN}"
        raise Unpriced(msg)
    return [page_cost(body, url) for url in urls]


def search_results(body: Mapping[str, Any], limit: int | None = None) -> int:
    """The most results of a search: up to `limit` from each source, and from a category's own index."""
    each = count(body.get("limit"), RESULTS, "limit") if limit is None else limit
    return each * (max(1, len(_items(body.get("sources")))) + bool(body.get("categories")))


def search_page(body: Mapping[str, Any]) -> PageCost | None:
    """The most that scraping each result can cost; None if they are not scraped."""
    options = _options(body)
    return page_cost(options) if options.get("formats") else None


def search_cost(body: Mapping[str, Any], limit: int | None = None) -> int:
    """The most that a search can cost, with its own limit or another one."""
    if scans(body) or scans(_options(body)):
        msg = f"the largest cost of a search whose results are scanned {_UNKNOWN}"
        raise Unpriced(msg)
    results, page = search_results(body, limit), search_page(body)
    private = "zdr" in _items(body.get("enterprise"))
    return tens(results, private=private) + (0 if page is None else results * page.most)


def tens(results: int, *, private: bool = False) -> int:
    """The price of so many results, of which each ten begun are paid."""
    return -(-results // 10) * (TEN_PRIVATE_RESULTS if private else TEN_RESULTS)


def session_life(body: Mapping[str, Any]) -> int:
    """The most seconds that an interactive session can last."""
    return min(count(body.get("ttl"), _SESSION, "ttl"), _LONGEST_SESSION)


def minute_price(body: Mapping[str, Any]) -> int:
    """What a minute of an interactive session costs."""
    return PROMPT_MINUTE if body.get("prompt") else MINUTE


def _scrape(request: Any) -> int:
    body = fields(request)
    return page_cost(body, body.get("url")).most


def _crawl(request: Any) -> CallCost:
    body = fields(request)
    return _job(crawl_limit(body) * crawl_page(body).most)


def _batch(request: Any) -> CallCost:
    return _job(sum(page.most for page in batch_pages(fields(request))))


def _agent(request: Any) -> CallCost:
    return _job(count(fields(request).get("maxCredits"), AGENT_CREDITS, "maxCredits"))


def _job(credits: int) -> CallCost:
    """The arguments of a call whose work goes on after its reply, and is charged late."""
    return {"min": min(credits, LIMIT), "lag": JOB_LAG, "linger": JOB_LINGER}


def _map(request: Any) -> int:
    if scans(fields(request)):
        msg = f"the largest cost of a map whose links are scanned {_UNKNOWN}"
        raise Unpriced(msg)
    return MAP


def _search(request: Any) -> int:
    return search_cost(fields(request))


def _session(request: Any) -> CallCost:
    body = fields(request)
    life = session_life(body)
    return {"min": minute_price(body) * -(-life // _MINUTE), "linger": float(life)}


def _index(default: int) -> Callable[[Any], int]:
    def price(request: Any) -> int:
        asked = fields(request).get("k")
        if asked is None and (query := request.url.params.get("k")) is not None:
            asked = Decimal(query) if query.isdecimal() else query
        return tens(count(asked, default, "k"))

    return price


def _unknown(what: str) -> Callable[[Any], CallCost]:
    def price(_: Any) -> CallCost:
        msg = f"the largest cost of {what} {_UNKNOWN}"
        raise Unpriced(msg)

    return price


_EXTRACT = _unknown("an extraction, which depends on the pages that it reads,")
_MONITOR = _unknown("a monitor, which goes on spending by its own schedule,")


def _in_both(routes: Mapping[str, Price]) -> Iterable[tuple[tuple[str, str], Price]]:
    return (
        (("POST", f"/{version}{path}"), it)
        for version in ("v2", "v1")
        for path, it in routes.items()
    )


PRICES: Final[Prices] = {
    **dict(
        _in_both(
            {
                "/scrape": _scrape,
                "/crawl": _crawl,
                "/batch/scrape": _batch,
                "/map": _map,
                "/search": _search,
                "/extract": _EXTRACT,
            }
        )
    ),
    ("POST", "/v2/parse"): PDF_PAGES,
    ("POST", "/v2/agent"): _agent,
    ("POST", "/v2/interact"): _session,
    ("POST", "/v2/browser"): _session,
    ("POST", "/v2/scrape/*/interact"): _session,
    ("GET", "/v2/search/research/papers"): _index(_PAPERS),
    ("GET", "/v2/search/research/papers/*"): PAGE,
    ("GET", "/v2/search/research/papers/*/similar"): _index(_PAPERS),
    ("GET", "/v2/search/developer"): _index(_DEVELOPER),
    ("POST", "/v2/search/developer"): _index(_DEVELOPER),
    ("POST", "/v2/monitor"): _MONITOR,
    ("PATCH", "/v2/monitor/*"): _MONITOR,
    ("POST", "/v2/monitor/*/run"): _MONITOR,
    ("POST", "/v1/deep-research"): _unknown("deep research"),
    ("POST", "/v1/llmstxt"): _unknown("llms.txt, which depends on the pages that it reads,"),
}
