"""Approvals that a framework keeps while a run is paused: what is asked, and which answers fit.

A run may be resumed days later and in another process, after a price has changed. So the question says
everything that an approval is given for, in JSON values, and the answer repeats it.
"""

from collections.abc import Mapping, MutableMapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from budgetguard._core.approval import ApprovalRequest, NotCovered

QUESTION = "budgetguard.approval"

_FORGOTTEN_AFTER = timedelta(days=30)


def question(
    request: ApprovalRequest, call_id: str | None, arguments: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the framework asks about one call of a tool, in JSON values; amounts are text.

    `arguments` are those that the model wrote, if the framework does not show them anyway.
    """
    available = request.available
    asked: dict[str, Any] = {
        "type": QUESTION,
        "tool_call_id": call_id,
        "operation": request.operation,
        "needed": str(request.needed),
        "unit": request.unit,
        "provider": request.provider,
        "available": None if available is None else str(available),
        "asked_at": request.asked_at.isoformat(),
        "expires_at": request.expires_at.isoformat(),
    }
    return asked if arguments is None else {**asked, "arguments": dict(arguments)}


def is_about(
    answer: object,
    request: ApprovalRequest,
    call_id: str | None,
    arguments: Mapping[str, Any] | None = None,
) -> bool:
    """Whether an answer is about this very call: the same operation, call and arguments."""
    return (
        isinstance(answer, Mapping)
        and answer.get("type") == QUESTION
        and answer.get("tool_call_id") == call_id
        and answer.get("operation") == request.operation
        and answer.get("arguments") == (None if arguments is None else dict(arguments))
    )


def covers(
    answer: object,
    request: ApprovalRequest,
    call_id: str | None,
    arguments: Mapping[str, Any] | None = None,
) -> bool:
    """Whether what was approved still covers this call: it costs no more, and not too long has passed."""
    if not isinstance(answer, Mapping) or not is_about(answer, request, call_id, arguments):
        return False
    if (answer.get("unit"), answer.get("provider")) != (request.unit, request.provider):
        return False
    try:
        enough = request.needed <= Decimal(answer["needed"])
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return False  # written by hand, or by another version
    until = _expires(answer)
    return enough and until is not None and request.asked_at <= until


class Approvals:
    """What was asked, by the id of the call, for a framework that keeps only the decision."""

    def __init__(self, kept: MutableMapping[str, Any]) -> None:
        self._kept = kept

    def remember(
        self, request: ApprovalRequest, call_id: str, arguments: Mapping[str, Any]
    ) -> None:
        """An approval of this call is requested; forgets those that expired a month ago."""
        for each, asked in list(self._kept.items()):
            until = _expires(asked)
            if until is not None and until < request.asked_at - _FORGOTTEN_AFTER:
                self._kept.pop(each, None)
        self._kept[call_id] = question(request, call_id, arguments)

    def forget(self, call_id: str | None) -> None:
        """That call is over."""
        if call_id is not None:
            self._kept.pop(call_id, None)

    def check(
        self, request: ApprovalRequest, call_id: str | None, arguments: Mapping[str, Any]
    ) -> bool | NotCovered:
        """The framework says that this call was approved: whether that covers it.

        It may begin more than once: a call that pauses the run half-way begins anew.
        """
        asked = None if call_id is None else self._kept.get(call_id)
        if asked is None:
            return NotCovered("unknown")
        return covers(asked, request, call_id, arguments) or NotCovered("outdated")


def _expires(asked: object) -> datetime | None:
    """Until when an approval counts; None if that cannot be read."""
    try:
        until = datetime.fromisoformat(asked["expires_at"]) if isinstance(asked, Mapping) else None
    except (LookupError, TypeError, ValueError):
        return None
    return until if until is not None and until.tzinfo is not None else None
