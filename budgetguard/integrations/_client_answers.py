"""A refusal as a server's client receives it: text for its model, figures for its program.

The text of any error that is not budgetguard's own remains in the server's log, because it may contain
something that a client must not see.
"""

from decimal import Decimal
from typing import Any

from budgetguard._core.amounts import as_number
from budgetguard._core.errors import (
    ApprovalDenied,
    BalanceUnavailable,
    BudgetExceeded,
    BudgetGuardError,
    ConcurrencyLimit,
    InsufficientCredits,
    Paused,
)
from budgetguard._core.events import logger
from budgetguard.integrations._model_words import for_model


def for_client(name: str, error: Exception) -> tuple[str, dict[str, Any]]:
    """The text and the figures that explain why the tool `name` did not run.

    The figures are JSON numbers, so credits are rounded to a double: use them for display, not for
    accounting. `"error"` is `insufficient_credits`, `budget_exceeded`, `concurrency_limit`,
    `balance_unavailable`, `approval_denied`, `paused` or `not_run`; `"retry_after"` is in seconds, or
    None if a retry does not help.
    """
    if isinstance(error, BudgetGuardError):
        return for_model(error), _figures(error)
    logger.error("%s was not run: the credits for it could not be set aside", name, exc_info=error)
    words = (
        f"BUDGET: {name} was not run because the credits for it could not be set aside. "
        "Do not retry with the same arguments."
    )
    return words, {"error": "not_run", "retry_after": None}


def status_code(error: Exception) -> int:
    """The code of the protocol error: 402, 403, 429, 503 or 500, as in HTTP."""
    return error.status_code if isinstance(error, BudgetGuardError) else 500


def _figures(error: BudgetGuardError) -> dict[str, Any]:  # noqa: PLR0911  one return per kind
    if isinstance(error, BudgetExceeded):
        return {
            "error": "budget_exceeded",
            "budget": error.budget,
            "limit": as_number(error.limit),
            "needed": as_number(error.needed),
            "available": as_number(max(error.available, Decimal(0))),
            "retry_after": error.retry_after,
            "renews_at": None if error.renews_at is None else error.renews_at.isoformat(),
        }
    if isinstance(error, InsufficientCredits):
        return {
            "error": "insufficient_credits",
            "needed": as_number(error.needed),
            "available": as_number(max(error.available, Decimal(0))),
            "retry_after": error.retry_after,
            "top_up_url": error.top_up_url,
        }
    if isinstance(error, ConcurrencyLimit):
        return {
            "error": "concurrency_limit",
            "limit": error.limit,
            "in_use": error.in_use,
            "retry_after": error.retry_after,
        }
    if isinstance(error, BalanceUnavailable):
        return {"error": "balance_unavailable", "retry_after": error.retry_after}
    if isinstance(error, ApprovalDenied):
        needed = as_number(error.needed)
        return {"error": "approval_denied", "needed": needed, "retry_after": None}
    if isinstance(error, Paused):
        return {"error": "paused", "retry_after": None}
    return {"error": "not_run", "retry_after": None}
