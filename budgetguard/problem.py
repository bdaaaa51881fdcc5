"""A refusal as a problem document, which HTTP clients in any language can read (RFC 9457)."""

import json
import math
from decimal import Decimal
from typing import Any, TypeAlias, assert_never

from budgetguard.credits import as_number
from budgetguard.errors import (
    BalanceUnavailable,
    BudgetGuardError,
    ConcurrencyLimit,
    InsufficientCredits,
)

MEDIA_TYPE = "application/problem+json"

Refusal: TypeAlias = InsufficientCredits | ConcurrencyLimit | BalanceUnavailable
ERRORS = (InsufficientCredits, ConcurrencyLimit, BalanceUnavailable)
"""What an admission raises where it does not admit."""

_POLICY_VIOLATION = 1008
# The longest reason that a websocket's close frame can carry (RFC 6455, 5.5).
_REASON = 123

_FIGURES = ("operation", "provider", "needed", "available", "limit", "in_use", "top_up_url")

SCHEMA: dict[str, Any] = {
    "title": "Refusal",
    "description": "Nothing was spent. Members that do not apply are left out.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "provider", "retryable"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is lacking, in a sentence."},
        "operation": {"type": "string"},
        "provider": {"type": "string"},
        "needed": {"type": "number", "description": "Credits, or slots where these lack."},
        "available": {"type": "number", "description": "Credits; below 0 if too many are held."},
        "limit": {"type": "integer", "description": "Sessions that may be open at once."},
        "in_use": {"type": "integer", "description": "Sessions that count as open."},
        "top_up_url": {"type": "string"},
        "retryable": {"type": "boolean", "description": "Whether waiting alone may help."},
        "retry_after": {"type": "number", "description": "Seconds to wait at least."},
    },
}
"""The JSON Schema of a document."""


def document(error: Refusal) -> dict[str, Any]:
    """The members of a refusal's document, all of JSON's own types.

    `detail` is the error's message. It tells of the account what the message tells: the balance,
    and what is held of it; never a key.
    """
    figures = {name: getattr(error, name, None) for name in _FIGURES}
    again = error.retry_after if error.retryable else None
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


def body(error: Refusal) -> bytes:
    """A refusal's document, as it goes over the wire."""
    return json.dumps(document(error), allow_nan=False).encode()


def headers(error: Refusal) -> dict[str, str]:
    """What goes with the document."""
    return {"content-type": MEDIA_TYPE, "cache-control": "no-store", **retry_after(error)}


def closing(error: Refusal) -> tuple[int, str]:
    """Code and reason for closing a websocket that was refused, where it can have no document."""
    return _POLICY_VIOLATION, str(error).encode()[:_REASON].decode(errors="ignore")


def retry_after(error: BudgetGuardError) -> dict[str, str]:
    """The header `retry-after` where waiting may help, in whole seconds.

    It is rounded up and at least 1: a client that is told 0 asks in a tight loop.
    """
    wait = getattr(error, "retry_after", None)
    if wait is None or not error.retryable:
        return {}
    return {"retry-after": str(max(math.ceil(wait), 1))}


def _title(error: Refusal) -> str:
    match error:
        case InsufficientCredits():
            return "Insufficient credits"
        case ConcurrencyLimit():
            return "Too many sessions"
        case BalanceUnavailable():
            return "Balance unavailable"
        case _:
            assert_never(error)


def _plain(figure: Any) -> Any:
    return as_number(figure) if isinstance(figure, Decimal) else figure
