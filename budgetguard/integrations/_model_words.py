"""The words in which a model reads a refusal: what is missing, and what to do instead."""

from datetime import UTC
from decimal import Decimal
from math import ceil

from budgetguard._core.amounts import spell
from budgetguard._core.errors import (
    ApprovalDenied,
    BalanceUnavailable,
    BudgetExceeded,
    BudgetGuardError,
    ConcurrencyLimit,
    InsufficientCredits,
    Paused,
    ago,
)

_ASK_AGAIN = "Call it once more to ask for another approval."
_DO_WITHOUT = "Do not retry; continue without this tool, and tell the user."
_FOR_NOW = {
    "busy": "{} is busy",
    "key limit": "a limit of this key's own at {} is reached",
}


def for_model(error: BudgetGuardError) -> str:  # noqa: PLR0911  one return per kind of refusal
    """The text in which a model reads a refusal: what is missing, and what to do instead.

    It leaves out the figures of other callers, and suggests a retry only where one can help.
    """
    if isinstance(error, BudgetExceeded):
        return f"BUDGET: {_left(error)} {_rather(error)}"
    if isinstance(error, InsufficientCredits):
        return f"BUDGET: {_lack(error)} {_instead(error)}"
    if isinstance(error, ConcurrencyLimit):
        if error.retry_after is None:
            return (
                f"BUDGET: needs {error.needed} sessions, but {error.provider} allows {error.limit} "
                "at once. Do not retry; continue without this tool, and tell the user."
            )
        return (
            f"BUDGET: {error.in_use} of {error.limit} sessions at {error.provider} are in use. "
            "Do something else first, or continue without this tool."
        )
    if isinstance(error, BalanceUnavailable):
        return (
            f"BUDGET: the balance at {error.provider} is not known, so nothing was started. "
            "Do not retry; continue without this tool, and tell the user."
        )
    if isinstance(error, ApprovalDenied):
        again = error.reason == "outdated"
        return f"BUDGET: {error} {_ASK_AGAIN if again else _DO_WITHOUT}"
    if isinstance(error, Paused):
        return (
            f"BUDGET: {error.provider} is paused: {error.reason}. "
            "Do not retry; continue without this tool, and tell the user."
        )
    return f"BUDGET: {error}"


def _left(error: BudgetExceeded) -> str:
    name = "the budget of this run" if error.budget is None else error.budget
    left, limit = spell(max(error.available, Decimal(0))), spell(error.limit)
    return (
        f"{name} has {left} of {limit} {error.unit} left; "
        f"{error.operation} needs {spell(error.needed)}."
    )


def _rather(error: BudgetExceeded) -> str:
    if error.retry_after is not None:
        wait = max(ceil(error.retry_after), 1)
        return f"The rest is held by what still runs: wait {wait} s before you retry, or finish with what you have."
    again = "Do not retry"
    if error.renews_at is not None and error.needed <= error.limit:
        again += f" before {error.renews_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{again}; finish with what you have."


def _lack(error: InsufficientCredits) -> str:
    available = max(error.available, Decimal(0))
    as_of = f"as of {ago(error.age)}"
    needs = f"needs {spell(error.needed)} {error.unit}"
    if error.basis in {"busy", "key limit"}:
        return f"{needs}, and {_FOR_NOW[error.basis].format(error.provider)}."
    return f"{needs}, {spell(available)} available ({as_of})."


def _instead(error: InsufficientCredits) -> str:
    if error.basis == "cap":
        return "Do not retry: the account's cost limit does not allow a single call at that cost."
    if error.basis == "key limit":
        return "Do not retry; ask for a higher limit of this key."
    if error.retry_after is not None:
        wait = max(ceil(error.retry_after), 1)
        if error.basis == "busy":
            return f"Wait {wait} s before you retry."
        return f"The rest is counted for other calls: wait {wait} s before you retry."
    remedy = "a higher cost limit" if error.basis == "cost limit" else "a top-up"
    at = "." if error.top_up_url is None else f": {error.top_up_url}"
    return f"Do not retry; ask for {remedy}{at}"
