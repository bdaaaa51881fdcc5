"""A refusal as a problem document that HTTP clients in any language can read (RFC 9457)."""

import json
import math
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias, assert_never

from budgetguard._core.amounts import as_number
from budgetguard._core.errors import (
    REFUSALS,
    ApprovalDenied,
    BalanceUnavailable,
    BudgetExceeded,
    BudgetGuardError,
    ConcurrencyLimit,
    InsufficientCredits,
    Paused,
)

MEDIA_TYPE = "application/problem+json"

AnyRefusal: TypeAlias = (
    InsufficientCredits | ConcurrencyLimit | BalanceUnavailable | ApprovalDenied | Paused
)
ERRORS = REFUSALS

_POLICY_VIOLATION = 1008
# The longest reason that a websocket's close frame can carry (RFC 6455, 5.5).
_REASON = 123

_FIGURES = (
    "operation",
    "provider",
    "needed",
    "available",
    "unit",
    "budget",
    "limit",
    "spent",
    "in_use",
    "processes",
    "top_up_url",
    "renews_at",
)

SCHEMA: dict[str, Any] = {
    "title": "Refusal",
    "description": "Nothing was spent. Members that do not apply are left out.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "provider", "retryable"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "Why the call was refused, in a sentence."},
        "operation": {"type": "string"},
        "provider": {"type": "string"},
        "needed": {"type": "number", "description": "In `unit`, or slots if too few are free."},
        "available": {"type": "number", "description": "In `unit`; negative if too much is held."},
        "unit": {"type": "string", "description": "What the amounts are counted in."},
        "budget": {"type": "string", "description": "The name of the budget that was exceeded."},
        "limit": {
            "type": "number",
            "description": "Of the budget, in `unit`; or sessions that may be open at once.",
        },
        "spent": {"type": "number", "description": "What was spent of the budget, in `unit`."},
        "in_use": {"type": "integer", "description": "Sessions that count as open."},
        "processes": {
            "type": "integer",
            "description": "With a store: how many processes hold credits, or have open sessions.",
        },
        "top_up_url": {"type": "string"},
        "renews_at": {
            "type": "string",
            "format": "date-time",
            "description": "When the account's allocation renews, or the budget.",
        },
        "retryable": {"type": "boolean", "description": "Whether waiting alone may help."},
        "retry_after": {"type": "number", "description": "The least number of seconds to wait."},
    },
}
"""The JSON Schema of a document."""


def document(error: AnyRefusal) -> dict[str, Any]:
    """The members of a refusal's document, all of JSON types.

    `detail` is the error's message. It contains what the message shows of the account, which is the
    balance and what is held of it, and never a key.
    """
    figures = {name: getattr(error, name, None) for name in _FIGURES}
    again = getattr(error, "retry_after", None) if error.retryable else None
    title = _title(error)
    members = {
        "type": f"urn:budgetguard:{title.lower().replace(' ', '-')}",
        "title": title,
        "status": error.status_code,
        "detail": str(error),
        **{name: _plain(figure) for name, figure in figures.items()},
        "retryable": error.retryable,
        "retry_after": None if again is None else round(again, 3),
    }
    return {name: member for name, member in members.items() if member is not None}


def body(error: AnyRefusal) -> bytes:
    """A refusal's document, as it is sent."""
    return json.dumps(document(error), allow_nan=False).encode()


def headers(error: AnyRefusal) -> dict[str, str]:
    """The headers of the response with the document."""
    return {"content-type": MEDIA_TYPE, "cache-control": "no-store", **retry_after(error)}


def closing(error: AnyRefusal) -> tuple[int, str]:
    """The code and reason for closing a refused websocket where a document cannot be sent."""
    return _POLICY_VIOLATION, str(error).encode()[:_REASON].decode(errors="ignore")


def retry_after(error: BudgetGuardError) -> dict[str, str]:
    """The header `retry-after`, in whole seconds, if waiting may help.

    It is rounded up and at least 1, because a client that receives 0 may retry in a tight loop.
    """
    wait = getattr(error, "retry_after", None)
    if wait is None or not error.retryable:
        return {}
    return {"retry-after": str(max(math.ceil(wait), 1))}


def _title(error: AnyRefusal) -> str:
    match error:
        case BudgetExceeded():
            return "Budget exceeded"
        case InsufficientCredits():
            return "Insufficient credits"
        case ConcurrencyLimit():
            return "Too many sessions"
        case BalanceUnavailable():
            return "Balance unavailable"
        case ApprovalDenied():
            return "Approval denied"
        case Paused():
            return "Paused"
        case _:
            assert_never(error)


def _plain(figure: Any) -> Any:
    if isinstance(figure, datetime):
        return figure.isoformat()
    return as_number(figure) if isinstance(figure, Decimal) else figure
