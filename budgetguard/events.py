"""What a guard tells of its doings, for logs, metrics and alarms."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "admitted",
    "refused",
    "settled",
    "kept",
    "released",
    "overrun",
    "refreshed",
    "refresh_failed",
    "exhausted",
    "allowed_unknown",
    "low",
]

logger = logging.getLogger("budgetguard")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; amounts are credits, `age` is the balance's in seconds.

    `credits` is what the event is about: the amount held, settled, refused or overrun by, or the
    balance that arrived. `available` is what could be promised right after it, None while unknown.
    `enforced` is False where a guard in observe mode let a call pass that it would have refused.
    `reason` says why a refresh failed, or what a balance has to say against `sole_spender`.
    """

    kind: Kind
    provider: str
    operation: str | None = None
    credits: Decimal | None = None
    available: Decimal | None = None
    age: float | None = None
    enforced: bool = True
    reason: str | None = None


OnEvent: TypeAlias = Callable[[Event], object]


def report(message: str, *args: Any, exc_info: bool = False) -> None:
    """Log what went wrong in a user's code, where nobody is called back for it."""
    # The log's handlers are a user's code as well, and there is nobody left to tell.
    with contextlib.suppress(BaseException):
        logger.error(message, *args, exc_info=exc_info)
