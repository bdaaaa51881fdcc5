"""What Anchor Browser's requests and replies say about credits (docs.anchorbrowser.io, 2026-11).

`SPENDING` is the one table of its prices: a transport goes by it, and so does the guarded SDK.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, ClassVar, Final

from budgetguard.credits import LIMIT, exact
from budgetguard.durations import LONGEST
from budgetguard.routes import Routes
from budgetguard.wire import OK, End, Price, Prices, Reply, Unpriced, Wire, parse, said

BROWSER: Final = Decimal("0.01")
BROWSER_HOUR: Final = Decimal("0.05")
PROXY_GB: Final = Decimal(8)
AI_STEP: Final = Decimal("0.01")

# The API reference's defaults: minutes of a session's longest life, steps of a task.
MINUTES: Final = 20
STEPS: Final = 200

# What a batch's retry may cost is looked up among so many that were begun last.
_REMEMBERED = 1024
_UNKNOWN = "may cost at most is not known: name it by costs= of the guarded SDK, or by prices= of a transport"


def session_cost(minutes: int | Decimal) -> Decimal:
    """Credits that a session may cost within so many minutes, and the one that billing rounds up to.

    Without what goes through the provider's proxies.
    """
    return BROWSER + BROWSER_HOUR * (minutes + 1) / 60


PAGE: Final = session_cost(0)
FETCH: Final = PAGE + PROXY_GB / 100  # 10 MB through the provider's proxies


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: the fields of its JSON, and those of its query."""

    body: Mapping[str, Any]
    query: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Most:
    """What a request may cost at most, in credits; `life` is how many seconds its browsers live."""

    credits: Decimal
    life: float | None = None

    def terms(self) -> dict[str, Any]:
        """The same as arguments of `require_credits`."""
        linger = {} if self.life is None else {"linger": self.life}
        return {"min": self.credits, **linger}


@dataclass(frozen=True, slots=True)
class Spends:
    """A request that spends: what it may cost, and whether that goes on after a reply.

    `most` raises Unpriced where nobody can say. Both are given what the SDK has as well as JSON.
    """

    most: Most | Callable[[Asked], Most]
    goes_on: Callable[[Any], bool]


def _session(asked: Asked) -> Most:
    return _sessions(asked.body, Decimal(1))


def _batch(asked: Asked) -> Most:
    # 1,000 sessions by the schema, 5,000 by the page: a count is taken as it is.
    count = _positive(said(asked.body, "count"), "count")
    return _sessions(said(asked.body, "configuration"), count)


def _sessions(configuration: Any, count: Decimal) -> Most:
    longest = said(configuration, "session.timeout.max_duration") or MINUTES
    minutes = _positive(longest, "max_duration")
    credits = min(session_cost(minutes) * count, LIMIT)
    return Most(credits, min(float(minutes * 60), LONGEST))


def _web_task(asked: Asked) -> Most:
    steps = _positive(said(asked.body, "max_steps") or STEPS, "max_steps")
    own = Decimal(0) if asked.query.get("sessionId") else session_cost(MINUTES)
    return Most(AI_STEP * steps + own)


def _positive(value: Any, what: str) -> Decimal:
    """A whole number above zero; -1, which lifts a limit, is none, nor is what can be no number."""
    # Text is not shown: it may be long, or a secret in the wrong place.
    shown = str(value) if value is None else f"<{type(value).__name__}>"
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        with suppress(ValueError):
            number = exact(value, what)
            if number > 0:
                return number.to_integral_value(ROUND_CEILING)
            shown = f"{number:f}"
    msg = f"what {what}={shown} {_UNKNOWN}"
    raise Unpriced(msg)


def _retry(_: Asked) -> Most:
    msg = f"what the retry of a batch that was not begun here {_UNKNOWN}"
    raise Unpriced(msg)


def _always(_: Any) -> bool:
    return True


def _never(_: Any) -> bool:
    return False


def _has_no_result(reply: Any) -> bool:
    return said(reply, "data.result") is None


def run_is_over(reply: Any) -> bool:
    """Whether the status of a task's run is one that it ends with."""
    return said(reply, "status") in {"success", "failure", "timeout", "cancelled"}


def _runs(reply: Any) -> bool:
    return not run_is_over(reply)


def _is_async(reply: Any) -> bool:
    # In JSON, and in the SDK, where it would be a keyword of Python.
    return all(said(reply, f"data.{name}") is not False for name in ("async", "async_"))


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


def _price(most: Most | Callable[[Asked], Most]) -> Price:
    if isinstance(most, Most):
        return most.terms()

    def price(request: Any) -> dict[str, Any]:
        return most(Asked(_object(request.content), request.url.params)).terms()

    return price


def _object(content: bytes) -> Mapping[str, Any]:
    body = parse(content)
    return body if isinstance(body, dict) else {}


class AnchorBrowserWire(Wire):
    """No reply says what was spent: sessions go on, and tasks are settled at what was held.

    A batch is remembered with what it may cost, for its retry says nothing of that.
    """

    prices: ClassVar[Prices] = {route: _price(it.most) for route, it in SPENDING.items()}

    def __init__(self) -> None:
        self._goes_on = Routes({route: it.goes_on for route, it in SPENDING.items()})
        self._begun: deque[tuple[str, Most]] = deque(maxlen=_REMEMBERED)

    def retry(self, request: Any) -> dict[str, Any]:
        """The price of a batch's retry: it may begin each of its sessions again."""
        id = request.url.path.split("/")[-2]
        # A copy, made at once: another thread may be adding one.
        begun = dict(tuple(self._begun))
        return (begun.get(id) or _retry(Asked({}, {}))).terms()

    def end(self, reply: Reply) -> End:
        """What goes on behind its reply is kept: a session's hold for its longest life."""
        goes_on = self._goes_on.find("POST", reply.path)
        if goes_on is None or reply.status not in OK:
            return super().end(reply)
        if reply.path == _BATCH:
            self._remember(reply)
        return "keep" if goes_on(reply.body) else super().end(reply)

    def _remember(self, reply: Reply) -> None:
        id = said(reply.body, "data.batch_id")
        if isinstance(id, str) and reply.asked is not None:
            try:
                self._begun.append((id, _batch(Asked(_object(reply.asked), {}))))
            except Unpriced:
                return  # by prices of the caller's own: so will its retry be
