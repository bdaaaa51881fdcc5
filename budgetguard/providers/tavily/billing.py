"""What Tavily's requests cost and what its replies say (docs.tavily.com, 2026-11).

`COSTS` is the only table of its prices; the transport and the guarded SDK both use it.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import ROUND_CEILING, Decimal
from typing import Any, ClassVar, Final
from urllib.parse import quote

from budgetguard._core.amounts import exact
from budgetguard._core.errors import BudgetGuardError, InsufficientCredits
from budgetguard._core.provider_refusal import EXHAUSTED, KEY_LIMIT, ProviderRefusal
from budgetguard.providers.billing import (
    OK,
    Billing,
    BillingReply,
    Outcome,
    Prices,
    Unpriced,
    WorkStatus,
    amount,
    parse,
    value_at,
)

BASIC_SEARCH: Final = 1
ADVANCED_SEARCH: Final = 2
MINI_RESEARCH: Final = 110
PRO_RESEARCH: Final = 250
RESEARCH_LINGER: Final = 600.0

_URLS_A_BLOCK = 5
_PAGES_A_BLOCK = 10
# The API reference's own example of a refusal: "Max 20 URLs are allowed."
_MOST_URLS = 20
_PAGES = 50
# A map's results are URLs, all others are objects.
_RESULT: Final = {"map": str}
# Tuples, because a field of a request may be unhashable.
_AT_ONE = ("basic", "fast", "ultra-fast")
_OFF = (None, False)
_BASIC = (None, "basic")

LIMIT_REACHED = 432
PAYGO_LIMIT_REACHED = 433
_NOT_FOUND = 404
_UNFINISHED = frozenset({"pending", "in_progress"})
RESEARCH = "/research"

Fields = Mapping[str, Any]


def search_cost(fields: Fields) -> Decimal:
    """1 credit, or 2 for an advanced search and for one that may become advanced by itself."""
    depth = fields.get("search_depth")
    basic = depth in _AT_ONE if depth is not None else fields.get("auto_parameters") in _OFF
    return Decimal(BASIC_SEARCH if basic else ADVANCED_SEARCH)


def extract_cost(fields: Fields) -> Decimal:
    """1 or 2 credits for each 5 URLs begun."""
    urls = fields.get("urls")
    count = 1 if isinstance(urls, str) else _MOST_URLS
    return _extraction(fields, len(urls) if isinstance(urls, list | tuple) else count)


def map_cost(fields: Fields) -> Decimal:
    """1 or 2 credits for each 10 pages begun, up to `limit` pages."""
    return _mapping(fields, _limit(fields))


def crawl_cost(fields: Fields) -> Decimal:
    """What it costs to map and to extract `limit` pages."""
    limit = _limit(fields)
    return _mapping(fields, limit) + _extraction(fields, limit)


def research_cost(fields: Fields) -> Decimal:
    """The documented maximum of the model; of the larger one where Tavily chooses."""
    return Decimal(MINI_RESEARCH if fields.get("model") == "mini" else PRO_RESEARCH)


COSTS: Final[Mapping[str, Callable[[Fields], Decimal]]] = {
    "search": search_cost,
    "extract": extract_cost,
    "map": map_cost,
    "crawl": crawl_cost,
    "research": research_cost,
}


def charged(kind: str, fields: Fields | None, reply: Any) -> Decimal | None:
    """What a finished call cost: the credits in its reply, or else the most for what it returned.

    None if the reply gives neither; `fields` are those of the request, None if they are not known. Failed URLs
    are free, so a reply with few results costs less than was held. A reply gives its credits only if the
    request has `include_usage`.
    """
    told = _usage(value_at(reply, "usage.credits"))
    results = value_at(reply, "results")
    if told is not None or fields is None or not isinstance(results, list):
        return told
    if not all(isinstance(each, _RESULT.get(kind, dict)) for each in results):
        return None
    if kind == "extract":
        return _extraction(fields, len(results))
    if kind == "map":
        return _mapping(fields, len(results))
    if kind == "crawl":
        # Pages that were mapped and could not be extracted are not among the results.
        with suppress(Unpriced):
            return _mapping(fields, _limit(fields)) + _extraction(fields, len(results))
    return None


def refusal_of(text: str) -> ProviderRefusal:
    """Whose limit a 432 is about: its text names the key or the plan (help pages, field reports, 2026-11)."""
    return KEY_LIMIT if "api key" in text.lower() else EXHAUSTED


def _priced(cost: Callable[[Fields], Decimal]) -> Callable[[Any], Decimal]:
    return lambda request: cost(_fields(request.content) or {})


class TavilyBilling(Billing):
    """Flat prices; a reply says what was used if the request has `include_usage`."""

    prices: ClassVar[Prices] = {
        **{("POST", f"/{kind}"): _priced(cost) for kind, cost in COSTS.items()},
        ("POST", RESEARCH): lambda request: {
            "min": research_cost(_fields(request.content) or {}),
            "linger": RESEARCH_LINGER,
        },
    }

    def cost_of(self, reply: BillingReply) -> Outcome:
        """Settle at the credits in the reply, or at the most that its results can have cost."""
        outcome = super().cost_of(reply)
        if outcome != "cost":
            return outcome
        if reply.path == RESEARCH and _goes_on(reply.field("status")):
            return "keep"
        body = {"usage": reply.last("usage"), "results": reply.field("results")}
        found = charged(reply.path.removeprefix("/"), _fields(reply.request_body), body)
        return outcome if found is None else found

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """432 is the plan's limit or the key's own, 433 the pay-as-you-go limit."""
        if reply.status == PAYGO_LIMIT_REACHED:
            return EXHAUSTED
        if reply.status == LIMIT_REACHED:
            return refusal_of(_said(reply))
        return super().classify(reply)

    def work(self, reply: BillingReply) -> str | None:
        """Research goes on after its reply, under its request id."""
        if reply.path != RESEARCH or reply.status not in OK:
            return None
        return research_path(reply.field("request_id"))

    def status(self, reply: BillingReply) -> WorkStatus | None:
        """202 while research goes on, 200 when it is completed or failed."""
        if reply.status == _NOT_FOUND:
            return WorkStatus(end="keep")
        return research_status(reply.body) if reply.status in OK else None

    def refusal_status(self, error: BudgetGuardError) -> int:
        """432 for lack of credits: of a 402, its SDK shows nothing but the status (tavily-python 0.8.5)."""
        lacks = isinstance(error, InsufficientCredits)
        return LIMIT_REACHED if lacks else super().refusal_status(error)

    def refusal_body(self, error: BudgetGuardError, path: str) -> dict[str, Any]:
        """As Tavily writes it, whose SDK reads `detail.error`."""
        return {**super().refusal_body(error, path), "detail": {"error": str(error)}}


def research_path(id: object) -> str | None:
    """The path of the status of some research; None if that is not an id."""
    if not isinstance(id, str) or not id.strip("."):
        return None
    return f"{RESEARCH}/{quote(id, safe='')}"


def research_status(body: Any) -> WorkStatus | None:
    """What a reply gives of some research; None if it does not say in which state it is."""
    state = value_at(body, "status")
    if not isinstance(state, str):
        return None
    if _goes_on(state):
        return WorkStatus()
    told = charged("research", None, body)
    unknown: Outcome = "cost" if state == "completed" else "keep"
    return WorkStatus(end=unknown if told is None else told)


def _goes_on(state: object) -> bool:
    return isinstance(state, str) and state in _UNFINISHED


def _fields(content: bytes | None) -> Fields | None:
    body = None if content is None else parse(content)
    return body if isinstance(body, dict) else None


def _usage(credits: object) -> Decimal | None:
    # The SDK gives numbers as Python's own json module does.
    return amount(Decimal(str(credits)) if type(credits) in (int, float) else credits)


def _said(reply: BillingReply) -> str:
    detail = reply.field("detail")
    text = detail.get("error") if isinstance(detail, dict) else reply.field("error")
    return text if isinstance(text, str) else ""


def _extraction(fields: Fields, count: Decimal | int) -> Decimal:
    depth = fields.get("extract_depth")
    return _blocks(count, _URLS_A_BLOCK) * (1 if depth in _BASIC else 2)


def _mapping(fields: Fields, count: Decimal | int) -> Decimal:
    return _blocks(count, _PAGES_A_BLOCK) * (1 if fields.get("instructions") is None else 2)


def _blocks(count: Decimal | int, size: int) -> Decimal:
    """Blocks begun: Tavily counts over several requests, so that any one of them may fill a block."""
    return (Decimal(count) / size).to_integral_value(ROUND_CEILING)


def _limit(fields: Fields) -> Decimal:
    """The most pages that a request maps; raises Unpriced if that is not a number above zero."""
    limit = fields.get("limit")
    if limit is None:
        return Decimal(_PAGES)
    if isinstance(limit, int | float | Decimal) and not isinstance(limit, bool):
        try:
            pages = exact(limit, "limit").to_integral_value(ROUND_CEILING)
        except ValueError:
            pages = Decimal(0)
        if pages > 0:
            return pages
    msg = (
        f"the largest cost with this limit ({type(limit).__name__}) is not known: pass a whole number "
        "above zero, or set the price with prices= of a transport"
    )
    raise Unpriced(msg)
