"""What a program is asked before an expensive call: the request, and which answers count.

An approval counts for one call: for that operation, up to that many credits, and for a day after it
was requested. Where it does not fit, the approval is requested again.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

from budgetguard._core.amounts import Amount
from budgetguard._core.amounts import cost as to_cost
from budgetguard._core.errors import Unapproved
from budgetguard._core.labels import NO_LABELS, Labels
from budgetguard._core.sync_callables import check_plain, leave_alone

APPROVAL_FOR = 24 * 60 * 60
"""For how many seconds after its request an approval counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """What `approve` is asked about: one call that has not been admitted, and holds nothing yet.

    `repr` leaves out the arguments of the call, which may be private.
    """

    operation: str
    """The operation's name, as in errors and events."""

    needed: Decimal
    """What the call would hold, in `unit`. Its real cost may differ."""

    above: Decimal | None
    """`approve_above`; None without it, when every call that holds anything is asked about."""

    unit: str
    """What the amounts are counted in."""

    provider: str
    """The provider's name."""

    available: Decimal | None
    """What was available when the approval was requested, Infinity without a limit; None if unknown."""

    slots: int
    """The concurrent sessions that the call would hold."""

    asked_at: datetime
    """When the approval was requested, in UTC."""

    expires_at: datetime
    """An approval that comes later does not count: it is requested again. In UTC."""

    labels: Labels = NO_LABELS
    """The labels around the call, a read-only mapping."""

    args: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    """The call's positional arguments, `self` included; the request, for a transport."""

    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The call's keyword arguments; for a tool, those that the model wrote."""


Approve: TypeAlias = Callable[[ApprovalRequest], bool | Awaitable[bool]]


def check_approve(approve: object, approve_above: Amount | None) -> int | None:
    """`approve_above` in micro-credits; raises TypeError or ValueError for wrong arguments."""
    if approve is None:
        msg = "approve_above= needs approve=: a callable that is given an ApprovalRequest and returns a bool"
        raise TypeError(msg)
    if not callable(approve):
        msg = f"approve takes a callable that returns a bool, not {type(approve).__name__}"
        raise TypeError(msg)
    return None if approve_above is None else to_cost(approve_above, "approve_above")


def check_plain_approve(approve: Any) -> None:
    """Raise TypeError for an async `approve` in a place where nobody could await it."""
    check_plain(approve, "approve, for synchronous calls,")


@dataclass(frozen=True, slots=True)
class NotCovered:
    """A framework's answer, where it keeps approvals: none that fits. Users' callables return a bool."""

    reason: Unapproved


def verdict(answer: object) -> Unapproved | None:
    """Why the call is not approved, or None if it is; raises TypeError unless the answer is a bool."""
    if isinstance(answer, bool):
        return None if answer else "denied"
    if isinstance(answer, NotCovered):
        return answer.reason
    kind = type(answer).__name__
    awaits = inspect.isawaitable(answer)
    leave_alone(answer)
    del answer
    msg = f"approve must return True or False, not {kind}"
    if awaits:
        msg += ": an async approve is for async calls"
    raise TypeError(msg)
