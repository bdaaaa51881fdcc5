"""What OpenRouter's replies say about credits (its pages on limits, errors and usage, 2026-07 to 2026-10)."""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final

from budgetguard._core.errors import BudgetGuardError, InsufficientCredits
from budgetguard._core.learned_cost import learned
from budgetguard._core.provider_refusal import (
    EXHAUSTED,
    LONGEST_RETRY,
    NOT_CREDITS,
    ProviderRefusal,
    busy,
    key_limit,
)
from budgetguard._core.retry_after import moment, retry_after
from budgetguard.providers._tokens import usage_of
from budgetguard.providers.billing import (
    OK,
    PAYMENT_REQUIRED,
    Billing,
    BillingReply,
    CallCost,
    Outcome,
    Prices,
    WorkStatus,
    amount,
    parse,
    said_by,
)
from budgetguard.providers.openrouter.prices import PRICED, PriceList, model_of

CALL: Final = Decimal("0.1")

_LEARNED: Final = learned(CALL, by=model_of)
# What else the API reference and the SDK list that spends (openrouter 1.3.84, 2026-11).
_METERED = (
    "/embeddings",
    "/rerank",
    "/images",
    "/audio/speech",
    "/audio/transcriptions",
    "/systemone",
    "/presets/*/chat/completions",
    "/presets/*/responses",
    "/presets/*/messages",
)
_VIDEOS = "/videos"
_BATCHES = "/batches"
_MESSAGES = "/messages"

_FORBIDDEN = 403
_NOT_FOUND = 404

_IN_FLIGHT = "openrouter_in_flight_budget"
_CREDITS = "openrouter_credits"
_KEY_LIMIT = "openrouter_key_limit"
_BUDGET = "openrouter_guardrail_budget"
_LIMITS = frozenset([_KEY_LIMIT, _BUDGET, "openrouter_workspace_budget"])
_TOO_LARGE = "weight_exceeds_budget"
# Errors within a stream may have a type in place of a status.
_BY_TYPE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "payment_required": PAYMENT_REQUIRED,
        "billing_error": PAYMENT_REQUIRED,
        "permission_denied": _FORBIDDEN,
        "permission_error": _FORBIDDEN,
    }
)
# "Key limit exceeded (monthly limit)", "Budget limit exceeded (monthly limit)", "Workspace monthly budget of
# $500.00 exceeded": refusals had no metadata until the middle of 2026.
_SPENT = re.compile(r"\b(key|budget) limit exceeded|\bbudget of \S+ exceeded", re.IGNORECASE)
# "can only afford 30104", "128000 token capacity required, 19484 available", "tokens limit exceeded: 230799 >
# 91442": a smaller request would be carried out, unless the last figure is 0.
_AFFORDABLE = re.compile(
    r"(?:can only afford |required, |tokens limit exceeded: [0-9]+ > )0*[1-9]", re.IGNORECASE
)

_ENDED = frozenset(["completed", "failed", "cancelled", "expired"])
_UNFINISHED = frozenset(
    ["pending", "validating", "queued", "in_progress", "finalizing", "cancelling"]
)
# One segment of a path.
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_MAX_DATE = 40


def batch_cost(request: Any) -> Decimal:
    """CALL for each request of a batch; if it is not a list of requests, for one."""
    body = parse(request.content)
    requests = body.get("requests") if isinstance(body, dict) else None
    return CALL * (len(requests) if isinstance(requests, list) else 1)


class OpenRouterBilling(Billing):
    """Replies report what they cost in `usage.cost`, streams in one of their last frames."""

    prices: ClassVar[Prices] = {
        **{("POST", path): _LEARNED for path in (*PRICED, *_METERED, _VIDEOS)},
        ("POST", _BATCHES): batch_cost,
    }

    def __init__(self, listed: PriceList | None = None) -> None:
        self._listed = listed

    def prices_of_account(self) -> Prices:
        """The prices, from the user's list where that says what a request may cost."""
        if self._listed is None:
            return self.prices
        price = partial(_listed_price, self._listed)
        return {**self.prices, **{("POST", path): price for path in PRICED}}

    def cost_of(self, reply: BillingReply) -> Outcome:
        """Settle at `usage.cost`; a reply with an error and without that figure is kept."""
        if reply.status not in OK:
            return super().cost_of(reply)
        charged = amount(usage_of(reply).get("cost"))
        if charged is not None:
            return charged
        goes_on = reply.path in {_VIDEOS, _BATCHES} or _text(reply.body, "status") in _UNFINISHED
        return "keep" if goes_on or _error(reply) else super().cost_of(reply)

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """By `error.metadata.limit_source`, if there is one; also an error within a reply of 200."""
        error = _error(reply)
        status = _code(error) if reply.status in OK else reply.status
        if status == PAYMENT_REQUIRED:
            return _refusal(reply, error)
        metadata = _metadata(error)
        if status == _FORBIDDEN and (
            _text(metadata, "limit_source") in _LIMITS or _SPENT.search(_text(error, "message"))
        ):
            return key_limit(_until_reset(reply, metadata))
        return None if reply.status in OK else super().classify(reply)

    def work(self, reply: BillingReply) -> str | None:
        """A video or a batch, by its id (guides on both, 2026-08)."""
        id = reply.field("id")
        if reply.status not in OK or reply.path not in {_VIDEOS, _BATCHES}:
            return None
        return f"{reply.path}/{id}" if isinstance(id, str) and _ID.fullmatch(id) else None

    def status(self, reply: BillingReply) -> WorkStatus | None:
        """What it cost, which is known once it has ended (guides on videos and batches, 2026-08)."""
        if reply.status == _NOT_FOUND:
            return WorkStatus(end="keep")
        state = _text(reply.body, "status") if reply.status in OK else ""
        if state in _ENDED:
            unknown: Outcome = "cost" if state == "completed" else "keep"
            charged = amount(usage_of(reply).get("cost"))
            return WorkStatus(end=unknown if charged is None else charged)
        return WorkStatus() if state in _UNFINISHED else None

    def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
        """With a limit on the answer's tokens: OpenRouter takes no cap in dollars."""
        return None if self._listed is None else self._listed.capped(path, content, most)

    def refusal_body(self, error: BudgetGuardError, path: str) -> dict[str, Any]:
        """Like OpenRouter's own, whose SDK requires a whole number as `code`; for messages, like Anthropic's."""
        lacks = isinstance(error, InsufficientCredits)
        if path.endswith(_MESSAGES):
            kind = "billing_error" if lacks else "api_error"
            inner: dict[str, Any] = {"type": kind, "message": str(error)}
            body = {"type": "error", "error": inner, "request_id": None, **said_by(error)}
        else:
            body = super().refusal_body(error, path)
            inner = body["error"]
        if isinstance(error, InsufficientCredits):
            inner["error_type"] = "payment_required"
            inner["metadata"] = {
                "error_type": "payment_required",
                "limit_source": _source(error),
                "remedy_hint": str(error),
            }
        return body


def _listed_price(listed: PriceList, request: Any) -> CallCost:
    most = listed.most(request.content)
    return _LEARNED if most is None else most


def _source(error: InsufficientCredits) -> str:
    """What programs that branch on OpenRouter's `limit_source` find in our refusal."""
    if error.basis == "key limit":
        return _KEY_LIMIT
    if error.retryable:
        return _IN_FLIGHT
    return _BUDGET if error.basis == "budget" else _CREDITS


def _error(reply: BillingReply) -> dict[str, Any]:
    """The error in a reply, in any of the three shapes of the API; empty if there is none."""
    places = [reply.last("error"), _field(reply.last("response"), "error")]
    choices = reply.field("choices")
    places += [_field(each, "error") for each in choices] if isinstance(choices, list) else []
    found = next((each for each in places if each), None)
    if isinstance(found, str):
        return {"message": found}
    if not isinstance(found, dict):
        return {}
    kind = reply.last("error_type") or _field(reply.last("response"), "error_type")
    return {"error_type": kind, **found}


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _metadata(error: dict[str, Any]) -> dict[str, Any]:
    metadata = error.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _text(value: Any, name: str) -> str:
    text = _field(value, name)
    return text if isinstance(text, str) else ""


def _code(error: dict[str, Any]) -> int | None:
    """The status that an error within a reply of 200 stands for; None if it has none."""
    code = error.get("code")
    if isinstance(code, Decimal) and code in (PAYMENT_REQUIRED, _FORBIDDEN):
        return int(code)
    kinds = (_metadata(error).get("error_type"), error.get("error_type"), error.get("type"))
    return next(
        (_BY_TYPE[kind] for kind in kinds if isinstance(kind, str) and kind in _BY_TYPE), None
    )


def _refusal(reply: BillingReply, error: dict[str, Any]) -> ProviderRefusal:
    """What a 402 means: lack of credits is one of five things."""
    metadata = _metadata(error)
    source, wait = _text(metadata, "limit_source"), _wait(reply, metadata)
    if source == _IN_FLIGHT:
        return busy(wait)
    if metadata.get("reason") == _TOO_LARGE or _AFFORDABLE.search(_text(error, "message")):
        return NOT_CREDITS
    if source in _LIMITS:
        return key_limit(_until_reset(reply, metadata))
    if source == _CREDITS:
        return EXHAUSTED
    # "A 402 without a Retry-After header is not a wait-and-retry case" (errors page, 2026-10).
    if wait is not None:
        return busy(wait)
    # The provider of the model refused the account's own key there.
    return NOT_CREDITS if metadata.get("provider_name") else EXHAUSTED


def _wait(reply: BillingReply, metadata: dict[str, Any]) -> float | None:
    """The Retry-After header, or the copy of it in the body, for clients that see no headers."""
    found = reply.retry_after()
    copied = _field(metadata.get("headers"), "Retry-After")
    return (
        retry_after(copied, None, most=LONGEST_RETRY)
        if found is None and isinstance(copied, str)
        else found
    )


def _until_reset(reply: BillingReply, metadata: dict[str, Any]) -> float | None:
    """Seconds until a limit's window ends, by the provider's clock; None if it does not say."""
    at, now = reset_at(metadata.get("resets_at")), moment(reply.headers.get("date"))
    return None if at is None or now is None else max(at.timestamp() - now, 0.0)


def reset_at(value: object) -> datetime | None:
    """An ISO 8601 date and time with its offset; None if it is not one."""
    try:
        at = (
            datetime.fromisoformat(value)
            if isinstance(value, str) and len(value) <= _MAX_DATE
            else None
        )
    except ValueError:
        return None
    return at if at is not None and at.utcoffset() is not None else None
