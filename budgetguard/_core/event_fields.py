"""An event as plain values, for JSON and for structured logs."""

from typing import TYPE_CHECKING, Any

from budgetguard._core.amounts import spell
from budgetguard._core.events import Event

if TYPE_CHECKING:
    from decimal import Decimal

MAX_TEXT = 500
"""Longer texts are cut, so that no name or label makes an event too large to send."""

_FIGURES = ("credits", "available", "held")
_TEXTS = ("operation", "budget", "cause", "reason", "hold_id")
_SECONDS = ("age", "duration")


def event_fields(event: Event) -> dict[str, Any]:
    """What an event says, without its time and without what it says nothing about.

    Amounts are text, as they are exact ("unlimited" for an unlimited one); ages are seconds.
    """
    fields: dict[str, Any] = {"kind": event.kind, "provider": event.provider[:MAX_TEXT]}
    for name in _TEXTS:
        text: str | None = getattr(event, name)
        if text is not None:
            fields[name] = text[:MAX_TEXT]
    for name in _FIGURES:
        amount: Decimal | None = getattr(event, name)
        if amount is not None:
            fields[name] = spell(amount)
    for name in _SECONDS:
        seconds: float | None = getattr(event, name)
        if seconds is not None:
            fields[name] = round(seconds, 3)
    if not event.enforced:
        fields["enforced"] = False
    if event.labels:
        fields["labels"] = {
            name[:MAX_TEXT]: value[:MAX_TEXT] for name, value in event.labels.items()
        }
    return fields
