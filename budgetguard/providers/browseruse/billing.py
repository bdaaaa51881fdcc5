"""What Browser Use's requests and replies say about US dollars (docs.browser-use.com, browser-use-sdk 3.12.1, 2026-11).

The paths are those of its three APIs, v2, v3 and v4, which share one account. docs/providers/browser-use.md
has the sources, and what they leave open.
"""

import json
import math
import re
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any, ClassVar, Final
from urllib.parse import quote

from budgetguard._core.provider_refusal import (
    EXHAUSTED,
    NOT_CREDITS,
    ProviderRefusal,
    key_limit,
)
from budgetguard.providers.billing import (
    OK,
    PAYMENT_REQUIRED,
    Billing,
    BillingReply,
    CallCost,
    LostCall,
    Outcome,
    Price,
    Prices,
    WorkStatus,
    amount,
    parse,
    value_at,
)

RUN: Final = Decimal(2)
SESSION: Final = Decimal(1)
BROWSER_HOUR: Final = Decimal("0.02")
TASK: Final = Decimal("0.01")
STEP: Final = Decimal("0.05")
SKILL: Final = Decimal("0.02")

STEPS: Final = 100
MINUTES: Final = 60
LONGEST_MINUTES: Final = 240

# USD for one step of a task in API v2; the dearest is STEP.
_STEP_OF = {
    "browser-use-llm": Decimal("0.002"),
    "browser-use-2.0": Decimal("0.006"),
    "gemini-flash-lite-latest": Decimal("0.005"),
    "gemini-flash-latest": Decimal("0.0075"),
    "gpt-4.1-mini": Decimal("0.004"),
    "o3": Decimal("0.03"),
}
_DEFAULT_LLM = "browser-use-2.0"
_MOST_STEPS = 10_000

_TASKS = "/api/v2/tasks"
_SESSIONS = "/api/v3/sessions"
_RUNS = "/api/v4/runs"
_BROWSERS = tuple(f"/api/v{version}/browsers" for version in (2, 3, 4))
# Where the status is found of what a POST to a path began.
_STATUS_OF = {
    _TASKS: f"{_TASKS}/{{}}/status",
    _SESSIONS: f"{_SESSIONS}/{{}}",
    _RUNS: f"{_RUNS}/{{}}",
    "/api/v2/sessions": "/api/v2/sessions/{}",
    **{path: f"{path}/{{}}" for path in _BROWSERS},
}
_QUEUE = re.compile(r"/api/v4/sessions/[^/]+/queue")

_LIMITED = "api_key_monthly_spend_limit_reached"
# A 402 from these says that a plan is missing, not credits (OpenAPI of v2, v3 and v4, 2026-08).
_PLANS = re.compile(r"/api/v\d+/(profiles|boxes)\b")

_ENDED = frozenset(
    {"finished", "failed", "stopped", "timed_out", "error", "completed", "cancelled"}
)
_UNFINISHED = frozenset(
    {"created", "started", "running", "queued", "dispatching", "pending", "active"}
)
_NOT_FOUND = 404
_CONFLICT = 409
_DELETED = 204

# The number of continued sessions for which the cost of earlier tasks is remembered.
_REMEMBERED = 1024
# The most entries of a page in v2, and the number of a page in v4.
_PAGES = {_TASKS: f"{_TASKS}?pageSize=100", _RUNS: f"{_RUNS}?limit=50"}


def browser_cost(minutes: Decimal | int) -> Decimal:
    """USD for a browser that is open for so many minutes; traffic is not included."""
    return BROWSER_HOUR * minutes / 60


def task_cost(steps: Decimal | int = STEPS, llm: str = _DEFAULT_LLM) -> Decimal:
    """USD for a task of API v2 with so many steps; browser time and traffic are not included.

    A model without a documented price counts as the dearest one that has one.
    """
    return TASK + steps * _STEP_OF.get(llm, STEP)


def _run(request: Any) -> Decimal:
    return _cap(_fields(request.content)) or RUN


def _session(request: Any) -> Decimal | None:
    fields = _fields(request.content)
    if fields.get("task") is None:
        # A session that waits for a task.
        return None
    return _cap(fields) or SESSION


def _task(request: Any) -> Decimal:
    fields = _fields(request.content)
    steps = _whole(fields.get("maxSteps"), STEPS, _MOST_STEPS)
    llm = fields.get("llm")
    return task_cost(steps, llm if isinstance(llm, str) else _DEFAULT_LLM)


def _browser(request: Any) -> dict[str, Any]:
    minutes = _whole(_fields(request.content).get("timeout"), MINUTES, LONGEST_MINUTES)
    return {"min": browser_cost(minutes), "linger": float(minutes * 60)}


def with_slots(prices: Prices) -> dict[tuple[str, str], Price]:
    """These prices, and one slot for each request that starts a session, until its work has ended.

    A task in a session of v2 takes none, because the session has one; nor does a message in a session's queue.
    """
    return {
        route: _with_slot(price) if route[1] in _STATUS_OF else price
        for route, price in prices.items()
    }


def _with_slot(price: Price) -> Price:
    def priced(request: Any) -> CallCost | None:
        cost = price(request) if callable(price) else price
        shares = request.url.path.endswith(_TASKS) and _fields(request.content).get("sessionId")
        if cost is None or shares:
            return cost
        return {**(cost if isinstance(cost, Mapping) else {"min": cost}), "slots": 1}

    return priced


def _cap(fields: dict[str, Any]) -> Decimal | None:
    """The request's own limit on what it may cost; None if it has no valid one."""
    return amount(fields.get("maxCostUsd")) or None


def _whole(value: Any, default: int, most: int) -> Decimal:
    """A whole number up to `most`; `most` for what is no number, because it is not known how it is read."""
    if value is None:
        return Decimal(default)
    number = amount(value)
    if number is None or not 0 < number <= most:
        return Decimal(most)
    return number.to_integral_value(ROUND_CEILING)


def _fields(content: bytes | None) -> dict[str, Any]:
    body = parse(content) if content else None
    return body if isinstance(body, dict) else {}


class BrowserUseBilling(Billing):
    """Nearly everything that costs goes on after its reply, and says what it has cost so far when it is asked.

    A session of v3 reports the cost of all its tasks. What it had cost before is remembered, so that a task
    that continues a session is settled at its own cost.
    """

    prices: ClassVar[Prices] = {
        ("POST", _RUNS): _run,
        ("POST", "/api/v4/sessions/*/queue"): RUN,
        ("POST", _SESSIONS): _session,
        ("POST", _TASKS): _task,
        ("POST", "/api/v2/sessions"): browser_cost(LONGEST_MINUTES),
        **{("POST", path): _browser for path in _BROWSERS},
        ("POST", "/api/v2/skills/*/execute"): SKILL,
        ("POST", "/api/v2/marketplace/skills/*/execute"): SKILL,
    }

    def __init__(self) -> None:
        self._before: deque[tuple[str, Decimal]] = deque(maxlen=_REMEMBERED)

    def cost_of(self, reply: BillingReply) -> Outcome:
        """What began goes on; a run that a busy session refuses has not begun."""
        if reply.status == _CONFLICT and reply.path == _RUNS:
            return "release"
        if reply.status not in OK or not (reply.path in _STATUS_OF or _QUEUE.fullmatch(reply.path)):
            return super().cost_of(reply)
        before, work = amount(reply.field("totalCostUsd")), self.work(reply)
        if reply.path == _SESSIONS and before and work is not None:
            self._before.append((work, before))
        return "keep"

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """A 402, unless it is about a missing plan; with a code of its own, the key's monthly limit."""
        if reply.status != PAYMENT_REQUIRED:
            return super().classify(reply)
        # The SDK shows `message` rather than `detail`.
        if _LIMITED in (value_at(reply.body, f"{name}.code") for name in ("detail", "message")):
            return key_limit(reply.retry_after())
        return NOT_CREDITS if _PLANS.match(reply.path) else EXHAUSTED

    def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
        """With `maxCostUsd`, for a task in a new session of v3 or v4.

        A request that continues a session takes none: there the limit is the session's, and includes what
        it has spent before, which is not known here.
        """
        fields = _plain(content) if path in {_SESSIONS, _RUNS} and most > 0 else {}
        if fields.get("task") is None or fields.get("sessionId") is not None:
            return None
        present = _cap(_fields(content))
        if present is not None and present <= most:
            return content
        # Text, which both APIs accept, is exact.
        return json.dumps({**fields, "maxCostUsd": f"{most:f}"}).encode()

    def work(self, reply: BillingReply) -> str | None:
        """By the id of a task, session, run or browser; a message in a session's queue by that of its run."""
        if reply.status not in OK:
            return None
        if not _QUEUE.fullmatch(reply.path):
            return _path(_STATUS_OF.get(reply.path), reply.field("id"))
        id = reply.field("id")
        waits = _path(f"{reply.path}/{{}}", str(id) if isinstance(id, Decimal) else None)
        return _path(_STATUS_OF[_RUNS], reply.field("runId")) or waits

    def status(self, reply: BillingReply) -> WorkStatus | None:
        """The cost so far, and the final one; a browser's only when it has stopped.

        A browser is charged for its longest life when it starts, and the rest is given back.
        """
        if reply.status not in OK or not isinstance(reply.body, dict):
            return _gone(reply)
        state = str(reply.field("status"))
        if "/queue/" in reply.path:
            return _queued(state)
        if reply.path.startswith(_BROWSERS):
            return WorkStatus(end=_browser_total(reply) if state in _ENDED else None)
        spent = self._spent(reply)
        if state in _ENDED or (state == "idle" and _has_run(reply)):
            return WorkStatus(end="cost" if spent is None else spent)
        return WorkStatus(spent) if state in _UNFINISHED or state == "idle" else None

    def _spent(self, reply: BillingReply) -> Decimal | None:
        total = amount(reply.field("cost" if reply.path.startswith(_TASKS) else "totalCostUsd"))
        if total is None:
            return None
        # A copy, made at once: another thread may be adding one.
        before = dict(tuple(self._before)).get(reply.path, Decimal(0))
        return max(total - before, Decimal(0))

    def lost(self, path: str, content: bytes | None) -> LostCall | None:
        """A task's of v2 and a run's of v4, by its text; lists of v3 do not say the task."""
        text = _fields(content).get("task") if path in _PAGES else None
        if not isinstance(text, str) or not text:
            return None
        return LostCall(_PAGES[path], (path, text))

    def candidates(
        self, lost: LostCall, reply: BillingReply, since: float, until: float
    ) -> list[str] | None:
        """Tasks or runs with that text, by `createdAt`.

        The list is complete if it is the only page, or if it is sorted, the newest first, and reaches back
        far enough.
        """
        path, text = lost.key
        entries = reply.field("items" if path == _TASKS else "runs")
        if reply.status not in OK or not isinstance(entries, list):
            return None
        times, found = [], []
        for entry in entries:
            created = _moment(value_at(entry, "createdAt"))
            place = _path(_STATUS_OF[path], value_at(entry, "id"))
            if created is None or place is None or not isinstance(value_at(entry, "task"), str):
                return None
            times.append(created)
            if since <= created <= until and entry["task"] == text:
                found.append(place)
        reaches = bool(times) and times == sorted(times, reverse=True) and times[-1] < since
        return found if reaches or _is_all(reply, path, len(entries)) else None


def _is_all(reply: BillingReply, path: str, shown: int) -> bool:
    if path == _TASKS:
        return bool(reply.field("totalItems") == shown)
    return reply.field("hasMore") is False


def _gone(reply: BillingReply) -> WorkStatus | None:
    """Work that was deleted has ended; what is not found may go on in another project."""
    if reply.status == _DELETED:
        return WorkStatus(end="cost")
    # A new run may be unknown for some seconds (browser-use-sdk 3.12.1).
    is_unknown = reply.status == _NOT_FOUND and not reply.path.startswith(_RUNS)
    return WorkStatus(end="keep") if is_unknown else None


def _queued(state: str) -> WorkStatus | None:
    """A message that waits in a session's queue; one that was taken has become a run, whose id is not known."""
    if state in {"cancelled", "superseded"}:
        return WorkStatus(end="release")
    return WorkStatus(end="keep") if state in {"consumed", "failed"} else None


def _has_run(reply: BillingReply) -> bool:
    """Whether an idle session shows a trace of its task; before that, it is idle because it has not begun."""
    if amount(reply.field("totalCostUsd")) or reply.field("stepCount"):
        return True
    return any(reply.field(name) is not None for name in ("output", "isTaskSuccessful"))


def _browser_total(reply: BillingReply) -> Outcome:
    parts = [amount(reply.field(name)) for name in ("browserCost", "proxyCost")]
    if parts[0] is None:
        return "cost"
    return parts[0] + (parts[1] or 0)


def _plain(content: bytes) -> dict[str, Any]:
    """The request's JSON as Python writes it again; empty if some of it would come out as no JSON."""

    def refuse(_: str) -> float:
        raise ValueError

    def finite(text: str) -> float:
        return number if math.isfinite(number := float(text)) else refuse(text)

    try:
        body = json.loads(content, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _path(template: str | None, id: object) -> str | None:
    if template is None or not isinstance(id, str) or not id.strip("."):
        return None
    return template.format(quote(id, safe=""))


def _moment(text: object) -> float | None:
    """A date and time in seconds since the epoch; one without an offset is UTC, as v2's are documented."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    if moment is None:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
