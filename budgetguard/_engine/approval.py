"""A call that needs an approval before it is admitted: who is asked, and when.

Nothing is held meanwhile, and no lock: `approve` runs in the caller's own thread or task, for as long
as it takes.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from budgetguard._core.amounts import to_credits
from budgetguard._core.approval import (
    APPROVAL_FOR,
    ApprovalRequest,
    Approve,
    check_plain_approve,
    verdict,
)
from budgetguard._core.errors import ApprovalDenied, Unapproved
from budgetguard._core.labels import NO_LABELS
from budgetguard._core.reentrancy import forbid_waiting
from budgetguard._engine.budget_blocks import context_around

if TYPE_CHECKING:
    from budgetguard._engine.binding import GuardBinding

NOTHING_APPROVED = -1
"""The micro-credits that are approved before anybody was asked, and if the answer came too late."""


class Asks(Protocol):
    """The needs of a call, as far as an approval is concerned."""

    approve: Approve | None
    approve_above: int | None
    slots: int


@dataclass(frozen=True, slots=True)
class NeedsApproval:
    """A call before `approve` was asked about it, and what is needed to go on with it afterwards."""

    request: ApprovalRequest
    cost: int
    operation: str
    args: tuple[Any, ...]
    kwargs: Any
    amounts: tuple[int, int, int] | None

    def asked(self, spec: Asks, binding: "GuardBinding") -> int:
        """Ask; returns the micro-credits that are approved, or NOTHING_APPROVED. Raises ApprovalDenied for a no.

        What `approve` raises is raised, too.
        """
        assert spec.approve is not None
        check_plain_approve(spec.approve)
        asked = binding.clock.now()
        why_not = verdict(spec.approve(self.request))
        return self._outcome(binding, why_not, binding.clock.now().since(asked))

    async def aasked(self, spec: Asks, binding: "GuardBinding") -> int:
        """`asked`, for async code: `approve` may be async."""
        assert spec.approve is not None
        asked = binding.clock.now()
        why_not = verdict(await _awaited(spec.approve(self.request)))
        return self._outcome(binding, why_not, binding.clock.now().since(asked))

    def _outcome(self, binding: "GuardBinding", why_not: Unapproved | None, took: float) -> int:
        if why_not is not None:
            error = _denied(self.request, why_not)
            binding.account.deny(binding.subscriber, error, self.cost)
            raise error
        return self.cost if took <= APPROVAL_FOR else NOTHING_APPROVED


async def _awaited(answer: Any) -> Any:
    # A function of its own: the frames of an error about the answer must not contain it.
    return await answer if inspect.isawaitable(answer) else answer


def needs_approval(
    spec: Asks,
    binding: "GuardBinding",
    operation: str,
    cost: int,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    amounts: tuple[int, int, int] | None,
) -> NeedsApproval | None:
    """What comes before the admission of a call at that cost; None if it needs no approval.

    A guard that only observes asks nobody. Raises RuntimeError inside the library's own callbacks.
    """
    above = spec.approve_above
    holds = cost > above if above is not None else bool(cost or spec.slots)
    if not holds or binding.subscriber.observes:
        return None
    forbid_waiting(operation)
    request = _request(spec, binding, operation, cost, args, dict(kwargs or {}))
    return NeedsApproval(request, cost, operation, args, kwargs, amounts)


def _request(
    spec: Asks,
    binding: "GuardBinding",
    operation: str,
    cost: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> ApprovalRequest:
    above, subscriber = spec.approve_above, binding.subscriber
    available, context = binding.account.peek(subscriber), context_around(binding.account)
    asked = datetime.fromtimestamp(binding.clock.wall(), UTC)
    return ApprovalRequest(
        operation=operation,
        needed=to_credits(cost),
        above=None if above is None else to_credits(above),
        unit=subscriber.unit,
        provider=subscriber.provider,
        available=None if available is None else to_credits(available),
        slots=spec.slots,
        asked_at=asked,
        expires_at=asked + timedelta(seconds=APPROVAL_FOR),
        labels=NO_LABELS if context is None else context.labels,
        args=args,
        kwargs=kwargs,
    )


def _denied(request: ApprovalRequest, reason: Unapproved) -> ApprovalDenied:
    """The error of a call that was not approved."""
    error = ApprovalDenied(
        operation=request.operation,
        needed=request.needed,
        provider=request.provider,
        unit=request.unit,
        reason=reason,
    )
    error.labels = request.labels
    return error
