"""What Anchor Browser's requests and replies say about credits (docs.anchorbrowser.io, 2026-11)."""

from decimal import Decimal
from typing import Any, ClassVar, Final

from budgetguard.credits import LIMIT
from budgetguard.durations import LONGEST
from budgetguard.wire import OK, End, Prices, Reply, Wire, parse

BROWSER: Final = Decimal("0.01")
BROWSER_HOUR: Final = Decimal("0.05")
PROXY_GB: Final = Decimal(8)
AI_STEP: Final = Decimal("0.01")

# Minutes that a session lives at most by default, and what one without a limit is priced at. A
# batch's limit is 1,000 sessions by its schema and 5,000 by its page: a count is taken as it is.
_LONGEST = 20
_NO_LIMIT = 24 * 60
_MOST_STEPS = 200
_MOST_SESSIONS = 1000


def session_cost(minutes: int | Decimal) -> Decimal:
    """Credits that a session may cost within so many minutes, and the one that billing rounds up to.

    Without what goes through the provider's proxies.
    """
    return BROWSER + BROWSER_HOUR * (minutes + 1) / 60


PAGE: Final = session_cost(0)
FETCH: Final = PAGE + PROXY_GB / 100  # 10 MB through the provider's proxies


def _session(request: Any) -> dict[str, Any]:
    """A session goes on after the reply: it may cost until its longest life is over."""
    return _sessions(_object(parse(request.content)), 1)


def _batch(request: Any) -> dict[str, Any]:
    body = _object(parse(request.content))
    count = _positive(body.get("count"), _MOST_SESSIONS)
    return _sessions(_object(body.get("configuration")), count)


def _sessions(configuration: dict[str, Any], count: int | Decimal) -> dict[str, Any]:
    timeout = _object(_object(configuration.get("session")).get("timeout"))
    minutes = _positive(timeout.get("max_duration", Decimal(_LONGEST)), _NO_LIMIT)
    return {"min": session_cost(minutes) * count, "linger": min(float(minutes * 60), LONGEST)}


def _web_task(request: Any) -> Decimal:
    steps = _object(parse(request.content)).get("max_steps")
    return AI_STEP * _positive(steps, _MOST_STEPS)


def _positive(value: Any, otherwise: int) -> Decimal:
    """A number above zero; for -1, which lifts a limit, and for what can be none, `otherwise`."""
    usable = isinstance(value, Decimal) and value.is_finite() and 0 < value <= LIMIT
    return value if usable else Decimal(otherwise)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class AnchorBrowserWire(Wire):
    """No reply says what was spent: sessions go on, and tasks are settled at what was held."""

    prices: ClassVar[Prices] = {
        ("POST", "/v1/sessions"): _session,
        ("POST", "/v1/sessions/async"): _session,
        ("POST", "/v1/batch-sessions"): _batch,
        ("POST", "/v1/tools/perform-web-task"): _web_task,
        ("POST", "/v1/tools/fetch/webpage"): FETCH,
        ("POST", "/v2/tasks/*/run"): AI_STEP * _MOST_STEPS,
        ("POST", "/v1/task/run"): AI_STEP * _MOST_STEPS,
        ("POST", "/v1/task/run/*"): AI_STEP * _MOST_STEPS,
    }

    def end(self, reply: Reply) -> End:
        """A session's hold is kept for its longest life, and so is that of work behind a reply."""
        if reply.status not in OK:
            return super().end(reply)
        goes_on = "sessions" in reply.path or "/run" in reply.path
        return "keep" if goes_on or _accepted(reply) else super().end(reply)


def _accepted(reply: Reply) -> bool:
    """Whether a task was only taken on: it answers with a workflow to ask about later."""
    data = reply.field("data")
    return isinstance(data, dict) and "workflow_id" in data
