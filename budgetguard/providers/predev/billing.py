"""What pre.dev's replies say about credits (docs.pre.dev, API reference and AI gateway, 2026-11)."""

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Final
from urllib.parse import quote

from budgetguard._core.errors import (
    ApprovalDenied,
    BalanceUnavailable,
    BudgetGuardError,
    InsufficientCredits,
    Paused,
)
from budgetguard._core.provider_refusal import EXHAUSTED, NOT_CREDITS, ProviderRefusal
from budgetguard.providers.billing import (
    OK,
    PAYMENT_REQUIRED,
    Billing,
    BillingReply,
    LostCall,
    Outcome,
    Prices,
    WorkStatus,
    amount,
    balance,
    parse,
    said_by,
)

FAST_SPEC: Final = 10
DEEP_SPEC: Final = 50
BROWSER_TASK: Final = Decimal("0.5")
GATEWAY_CALL: Final = Decimal("1.4")

_MOST_TASKS = 1000
_GATEWAY = "/v1/"
_SPECS = {"/fast-spec": "fast_spec", "/deep-spec": "deep_spec"}
_BATCHES = "/browser-agent"
# The most entries that one page of a list has (predev-api 1.1.0, 2026-11).
_PAGE = 100
_NOT_FOUND = 404
OVER = frozenset({"completed", "failed"})
_UNFINISHED = frozenset({"pending", "processing", "queued", "running", "in_progress"})


def tasks_cost(tasks: Any) -> Decimal:
    """BROWSER_TASK for each task of a batch; if it is not a list of tasks, the cost of the largest batch."""
    return BROWSER_TASK * (len(tasks) if isinstance(tasks, list | tuple) else _MOST_TASKS)


def _batch(request: Any) -> Decimal:
    body = parse(request.content)
    return tasks_cost(body.get("tasks") if isinstance(body, dict) else None)


class PreDevBilling(Billing):
    """Specs and browser batches report what they used in the body, the AI gateway in a header."""

    prices: ClassVar[Prices] = {
        ("POST", "/fast-spec"): FAST_SPEC,
        ("POST", "/deep-spec"): DEEP_SPEC,
        ("POST", "/browser-agent"): _batch,
        ("POST", "/v1/**"): GATEWAY_CALL,
    }

    def cost_of(self, reply: BillingReply) -> Outcome:
        """Settle at what the reply says was used, if the work is done."""
        if reply.path.startswith(_GATEWAY):
            charged = amount(reply.headers.get("x-predev-credits-charged"))
            if not charged and reply.status in OK and _goes_on(reply.body):
                return "keep"
            return super().cost_of(reply) if charged is None else charged
        if reply.status == PAYMENT_REQUIRED and reply.field("code") is None:
            # A spec may fail half-way, and what it used until then is charged.
            return "keep"
        if reply.status not in OK:
            return super().cost_of(reply)
        if reply.frames or "text/event-stream" in reply.headers.get("content-type", ""):
            return _streamed(reply)
        return _finished(reply.body) if reply.complete else "keep"

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """A 402, unless it is about a missing plan; in a stream, an error for lack of credits."""
        if reply.status == PAYMENT_REQUIRED:
            return NOT_CREDITS if _code(reply.body) == "subscription_required" else EXHAUSTED
        if any(_code(error) == "insufficient_credits" for error in reply.events("error")):
            return EXHAUSTED
        return super().classify(reply)

    def remaining(self, reply: BillingReply) -> Decimal | None:
        """The balance in the gateway's header."""
        return balance(reply.headers.get("x-predev-credits-remaining"))

    def work(self, reply: BillingReply) -> str | None:
        """By the id of a spec or a browser batch (spec-status page, agents page, 2026-11)."""
        if reply.status not in OK:
            return None
        if reply.path in _SPECS:
            return spec_path(reply.field("specId")) or spec_path(reply.field("_id"))
        return batch_path(reply.field("id")) if reply.path == _BATCHES else None

    def status(self, reply: BillingReply) -> WorkStatus | None:
        """The credits used so far, "available in real-time during processing" (spec-status page, 2026-11)."""
        if reply.status == _NOT_FOUND:
            return WorkStatus(end="keep")
        if reply.status not in OK or not isinstance(reply.body, dict):
            return None
        body, state = reply.body, str(reply.body.get("status", "")).lower()
        used = amount(body.get("creditsUsed"))
        used = amount(body.get("totalCreditsUsed")) if used is None else used
        if state in OVER:
            unknown: Outcome = "keep" if state == "failed" else "cost"
            return WorkStatus(end=unknown if used is None else used)
        return WorkStatus(charged=used) if state in _UNFINISHED else None

    def lost(self, path: str, content: bytes | None) -> LostCall | None:
        """A spec's, by its endpoint and its input text; one with a file or a missing text cannot be found."""
        body = parse(content) if path in _SPECS and content else None
        return lost_spec(path, body.get("input")) if isinstance(body, dict) else None

    def candidates(
        self, lost: LostCall, reply: BillingReply, since: float, until: float
    ) -> list[str] | None:
        """Specs of that endpoint and input, by `created`; all fields are those of the SDK's `SpecResponse`.

        The list is complete if `hasMore` is false, or if it is sorted, the newest first, and reaches back
        far enough (predev-api 1.1.0, 2026-11; the order of `/list-specs` is not documented).
        """
        entries = reply.field("specs")
        if reply.status not in OK or not isinstance(entries, list):
            return None
        times, found = [], []
        for entry in entries:
            created = _moment(entry.get("created")) if isinstance(entry, dict) else None
            if created is None:
                return None
            times.append(created)
            if not since <= created <= until:
                continue
            key, path = (entry.get("endpoint"), entry.get("input")), spec_path(entry.get("_id"))
            if path is None or not all(isinstance(each, str) and each for each in key):
                return None
            if key == lost.key:
                found.append(path)
        reaches = bool(times) and times == sorted(times, reverse=True) and times[-1] < since
        return found if reply.field("hasMore") is False or reaches else None

    def refusal_body(self, error: BudgetGuardError, path: str) -> dict[str, Any]:
        """The shape of a refusal by the gateway, by the browser agents or by the specs, depending on the path."""
        kind, top_up = _kind(error), getattr(error, "top_up_url", None)
        if path.startswith(_GATEWAY):
            return {"error": _gateway_error(error, kind, top_up), **said_by(error)}
        if path.startswith("/browser-agent"):
            code = kind.upper()
            return {"error": str(error), "code": code, "actionUrl": top_up, **said_by(error)}
        title = kind.replace("_", " ").capitalize()
        return {"error": title, **said_by(error), "generationsAvailable": 0}


def spec_path(id: object) -> str | None:
    """The path of a spec's status; None if that is not an id."""
    return _below("/spec-status", id)


def batch_path(id: object) -> str | None:
    """The path of a browser batch's status; None if that is not an id."""
    return _below(_BATCHES, id)


def lost_spec(path: str, text: object) -> LostCall | None:
    """How to find a spec that was requested at `path` with this input; None without a text."""
    if path not in _SPECS or not isinstance(text, str) or not text:
        return None
    kind = _SPECS[path]
    return LostCall(f"/list-specs?endpoint={kind}&limit={_PAGE}", (kind, text))


def _below(path: str, id: object) -> str | None:
    if not isinstance(id, str) or not id.strip("."):
        return None
    return f"{path}/{quote(id, safe='')}"


def _moment(text: object) -> float | None:
    """An ISO date and time with its offset, in seconds since the epoch; None if it is not one."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment.timestamp() if moment is not None and moment.tzinfo is not None else None


def _kind(error: BudgetGuardError) -> str:
    """The code of a refusal. Only a lack of credits has the one that clients answer with a top-up."""
    match error:
        case InsufficientCredits():
            return "insufficient_credits"
        case BalanceUnavailable():
            return "balance_unavailable"
        case Paused():
            return "paused"
        case ApprovalDenied():
            return "approval_denied"
        case _:
            return "not_run"


def _gateway_error(error: BudgetGuardError, kind: str, top_up: str | None) -> dict[str, Any]:
    figures: dict[str, Any] = {"topup_url": top_up}
    if isinstance(error, InsufficientCredits):
        figures["credits_remaining"] = float(max(error.available, Decimal(0)))
        figures["estimated_credits"] = float(error.needed)
    return {"message": str(error), "type": kind, "code": kind, "param": None, "predev": figures}


def _code(body: Any) -> str:
    """The code in an error body, in lower case; "" if there is none."""
    if not isinstance(body, dict):
        return ""
    inner = body.get("error")
    # Anthropic's shape has only a type.
    code = inner.get("code") or inner.get("type") if isinstance(inner, dict) else body.get("code")
    return str(code or "").lower()


def _streamed(reply: BillingReply) -> Outcome:
    for done in reply.events("done"):
        return _finished(done)
    return "keep"


def _goes_on(body: Any) -> bool:
    return isinstance(body, dict) and str(body.get("status", "")).lower() in _UNFINISHED


def _finished(body: Any) -> Outcome:
    """What finished work used; a reply about work that continues has no final figure."""
    if not isinstance(body, dict):
        return "cost"
    if _goes_on(body):
        return "keep"
    used = amount(body.get("creditsUsed"))
    total = amount(body.get("totalCreditsUsed")) if used is None else used
    return "cost" if total is None else total
