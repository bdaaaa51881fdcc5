"""What Anchor Browser's requests and replies say about credits (docs.anchorbrowser.io, 2026-11).

`SPENDING` is the only table of its prices; the transport and the guarded SDK both use it.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, ClassVar, Final

from budgetguard._core.amounts import LIMIT, exact
from budgetguard._core.durations import LONGEST
from budgetguard._core.provider_refusal import EXHAUSTED, ProviderRefusal
from budgetguard.providers.billing import (
    OK,
    Billing,
    BillingReply,
    Outcome,
    Price,
    Prices,
    Unpriced,
    parse,
    value_at,
)
from budgetguard.routes import Routes

BROWSER: Final = Decimal("0.01")
BROWSER_HOUR: Final = Decimal("0.05")
PROXY_GB: Final = Decimal(8)
AI_STEP: Final = Decimal("0.01")

# The API reference's defaults: minutes of a session's longest life, steps of a task.
MINUTES: Final = 20
STEPS: Final = 200

# The number of recent batches for which the cost of a retry is remembered.
_REMEMBERED = 1024
_FORBIDDEN = 403
_UNKNOWN = "is not known: set it with costs= of the guarded SDK, or with prices= of a transport"


def session_cost(minutes: int | Decimal) -> Decimal:
    """Credits that a session of so many minutes can cost, with the minute that billing rounds up to.

    Traffic through the provider's proxies is not included.
    """
    return BROWSER + BROWSER_HOUR * (minutes + 1) / 60


PAGE: Final = session_cost(0)
FETCH: Final = PAGE + PROXY_GB / 100  # 10 MB through the provider's proxies


@dataclass(frozen=True, slots=True)
class RequestFields:
    """What a request asks for: the fields of its JSON and of its query."""

    body: Mapping[str, Any]
    query: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Most:
    """The most that a request can cost, in credits; `life` is how many seconds its browsers can live."""

    credits: Decimal
    life: float | None = None

    def options(self) -> dict[str, Any]:
        """The same as arguments of `require_credits`."""
        linger = {} if self.life is None else {"linger": self.life}
        return {"min": self.credits, **linger}


@dataclass(frozen=True, slots=True)
class Spends:
    """A request that costs credits: how much it may cost, and whether work continues after a reply.

    `most` raises Unpriced if that is not known. Both accept the SDK's objects as well as JSON.
    """

    most: Most | Callable[[RequestFields], Most]
    goes_on: Callable[[Any], bool]


def _session(fields: RequestFields) -> Most:
    return _sessions(fields.body, Decimal(1))


def _batch(fields: RequestFields) -> Most:
    # The schema allows 1,000 sessions, the page 5,000: no limit is applied here.
    count = _positive(value_at(fields.body, "count"), "count")
    return _sessions(value_at(fields.body, "configuration"), count)


def _sessions(configuration: Any, count: Decimal) -> Most:
    longest = value_at(configuration, "session.timeout.max_duration") or MINUTES
    minutes = _positive(longest, "max_duration")
    credits = min(session_cost(minutes) * count, LIMIT)
    return Most(credits, min(float(minutes * 60), LONGEST))


def _web_task(fields: RequestFields) -> Most:
    steps = _positive(value_at(fields.body, "max_steps") or STEPS, "max_steps")
    own = Decimal(0) if fields.query.get("sessionId") else session_cost(MINUTES)
    return Most(AI_STEP * steps + own)


def _positive(value: Any, what: str) -> Decimal:
    """A whole number above zero; raises Unpriced for anything else, such as -1, which lifts a limit."""
    # Text is not shown: it may be long, or a secret in the wrong place.
    shown = str(value) if value is None else f"<{type(value).__name__}>"
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        with suppress(ValueError):
            number = exact(value, what)
            if number > 0:
                return number.to_integral_value(ROUND_CEILING)
            shown = f"{number:f}"
    msg = f"the largest cost with {what}={shown} {_UNKNOWN}"
    raise Unpriced(msg)


def _retry(_: RequestFields) -> Most:
    msg = f"the largest cost of retrying a batch that was not started here {_UNKNOWN}"
    raise Unpriced(msg)


def _always(_: Any) -> bool:
    return True


def _never(_: Any) -> bool:
    return False


def _has_no_result(reply: Any) -> bool:
    return value_at(reply, "data.result") is None


def run_is_over(reply: Any) -> bool:
    """Whether the status of a task's run is final."""
    # Not a set: the status may be anything, a list included.
    return value_at(reply, "status") in ("success", "failure", "timeout", "cancelled")


def _runs(reply: Any) -> bool:
    return not run_is_over(reply)


def _is_async(reply: Any) -> bool:
    # The name in JSON, and in the SDK, where `async` would be a keyword of Python.
    return all(value_at(reply, f"data.{name}") is not False for name in ("async", "async_"))


_TASK = Most(AI_STEP * STEPS + session_cost(MINUTES))
_BATCH = "/v1/batch-sessions"
RETRY: Final = ("POST", f"{_BATCH}/*/retry")

SPENDING: Final[Mapping[tuple[str, str], Spends]] = {
    ("POST", "/v1/sessions"): Spends(_session, _always),
    ("POST", "/v1/sessions/async"): Spends(_session, _always),
    ("POST", _BATCH): Spends(_batch, _always),
    RETRY: Spends(_retry, _always),
    ("POST", "/v1/tools/perform-web-task"): Spends(_web_task, _has_no_result),
    ("POST", "/v1/tools/fetch/webpage"): Spends(Most(FETCH), _never),
    ("POST", "/v1/tools/screenshot"): Spends(Most(PAGE), _never),
    ("POST", "/v1/tools/page-pdf"): Spends(Most(PAGE), _never),
    ("POST", "/v2/tasks/*/run"): Spends(_TASK, _runs),
    ("POST", "/v2/tasks/generate"): Spends(_TASK, _always),
    ("POST", "/v1/task/run"): Spends(_TASK, _is_async),
    ("POST", "/v1/task/run/*"): Spends(_TASK, _is_async),
}


def _price(most: Most | Callable[[RequestFields], Most]) -> Price:
    if isinstance(most, Most):
        return most.options()

    def price(request: Any) -> dict[str, Any]:
        return most(RequestFields(_object(request.content), request.url.params)).options()

    return price


def _object(content: bytes) -> Mapping[str, Any]:
    body = parse(content)
    return body if isinstance(body, dict) else {}


class AnchorBrowserBilling(Billing):
    """No reply says what was spent: sessions continue, and tasks are settled at what was held.

    The cost of each batch is remembered, because a request to retry it does not include that.
    """

    prices: ClassVar[Prices] = {route: _price(it.most) for route, it in SPENDING.items()}

    def __init__(self) -> None:
        self._goes_on = Routes({route: it.goes_on for route, it in SPENDING.items()})
        self._begun: deque[tuple[str, Most]] = deque(maxlen=_REMEMBERED)

    def retry(self, request: Any) -> dict[str, Any]:
        """The price of a batch's retry, which may start each of its sessions again."""
        id = request.url.path.split("/")[-2]
        # A copy, made at once: another thread may be adding one.
        begun = dict(tuple(self._begun))
        return (begun.get(id) or _retry(RequestFields({}, {}))).options()

    def cost_of(self, reply: BillingReply) -> Outcome:
        """Work that continues after its reply is kept: a session's hold counts for its longest life."""
        goes_on = self._goes_on.find("POST", reply.path)
        if goes_on is None or reply.status not in OK:
            return super().cost_of(reply)
        if reply.path == _BATCH:
            self._remember(reply)
        return "keep" if goes_on(reply.body) else super().cost_of(reply)

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """A 402, or a 403 for the project's cost limit; any other 403 concerns the key (API reference, 2026-11)."""
        if reply.status == _FORBIDDEN and b"cost limit reached" in (reply.content or b"").lower():
            return EXHAUSTED
        return super().classify(reply)

    def _remember(self, reply: BillingReply) -> None:
        id = value_at(reply.body, "data.batch_id")
        if isinstance(id, str) and reply.request_body is not None:
            try:
                self._begun.append((id, _batch(RequestFields(_object(reply.request_body), {}))))
            except Unpriced:
                return  # the caller priced it, and must price the retry as well
