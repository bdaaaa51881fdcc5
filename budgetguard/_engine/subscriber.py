"""A guard as its account sees it: its settings, its alerts and its event listener."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.alert_marks import AlertMarks, Mark
from budgetguard._core.amounts import CREDITS, spell, to_credits
from budgetguard._core.branch import LedgerEntry
from budgetguard._core.call_context import CallContext
from budgetguard._core.clock import Instant
from budgetguard._core.cost_sample import CostSample
from budgetguard._core.errors import BudgetGuardError
from budgetguard._core.events import Event, Kind, OnEvent, logger
from budgetguard._core.labels import Labels
from budgetguard._core.ledger import LedgerView
from budgetguard._core.other_spenders import SoleSpender
from budgetguard._core.policy import NEVER, CallNeed, GuardTerms
from budgetguard._core.snapshot import BalanceSnapshot, Micro
from budgetguard._engine.call_log import log_kept, log_refused
from budgetguard._engine.listener import delivery_to

if TYPE_CHECKING:
    from decimal import Decimal

Effects: TypeAlias = list[Callable[[], object]]
"""What a change caused and what is carried out after it, outside the lock."""

HoldFigures: TypeAlias = tuple[int, int, float]
"""A hold's number, its micro-credits, and when it was opened, by the monotonic clock."""

_NO_HOLD = (None, None, 0.0)


# A limit, because programs may generate a new operation name for each call.
_MOST_WARNINGS = 256


class Subscriber:
    """One guard's side of an account. Compared by identity: several guards may share an account.

    `reserve` is how many micro-credits a call on the fast path must leave available; it is None
    while the fast path is closed.
    """

    def __init__(
        self,
        terms: GuardTerms,
        provider: str,
        *,
        sole_spender: SoleSpender = "auto",
        observe: bool = False,
        alert_below: Sequence[Mark] = (),
        on_event: Sequence[OnEvent] = (),
        top_up_url: str | None = None,
        unit: str = CREDITS,
        patience: float = 0.0,
    ) -> None:
        self.terms = terms
        self.provider = provider
        self.sole_spender: SoleSpender = sole_spender
        self.on_event = on_event or None
        self.deliver = delivery_to(on_event)
        self.top_up_url = top_up_url
        self.unit = unit
        # For how many seconds after its calls were abandoned they may be charged.
        self.patience = patience
        self.closed = False
        self.reserve: float | None = None
        # A cost limit may bound extra credits; and with a shared head, `room` is only this process's slack.
        self.by_formula = terms.extra > 0
        self.marks = AlertMarks(alert_below, terms.floor, terms.extra)
        self._observe = observe
        self._kept: set[str] = set()
        ACTIVATION.notify(self)

    def close_fast_path(self) -> None:
        """Make this guard's next call go through a decision, because something relevant has changed."""
        self.reserve = None

    @property
    def observes(self) -> bool:
        """Whether calls that would be refused are admitted."""
        return self._observe or ACTIVATION.observe

    def falls_low(self, ledger: LedgerView) -> list[str]:
        """What to say of each alert mark that was crossed; of each once, until it is armed again."""
        marks = self.marks
        if not marks.highest > NEVER:
            return []
        crossed = marks.crossed(self._available(ledger))
        return [mark.words(threshold, self.unit) for mark, threshold in crossed]

    def rearm(self, before: BalanceSnapshot | None, ledger: LedgerView) -> None:
        """A balance arrived: set the thresholds of the alert marks, and arm those that it is above of."""
        if ledger.snapshot is not None:
            self.marks.renew(before, ledger.snapshot, ledger.pending)

    @property
    def mark(self) -> Micro:
        """In the account's terms: with less room than this, an armed alert mark is crossed."""
        return self.marks.highest + self.terms.floor - self.terms.extra

    def emit(
        self,
        effects: Effects,
        ledger: LedgerView,
        kind: Kind,
        now: Instant,
        operation: str | None = None,
        amount: int | None = None,
        hold: HoldFigures | None = None,
        *,
        enforced: bool = True,
        reason: str | None = None,
        labels: Labels | None = None,
        budget: str | None = None,
        cause: str | None = None,
    ) -> None:
        """Make an event with the current figures, to be delivered outside the lock.

        `amount` is in micro-credits and defaults to the balance. `hold` are the figures of the hold
        that the event is about.
        """
        if self.on_event is None:
            if kind == "low":
                effects.append(partial(self._log_low, reason or "", self._available(ledger)))
            return
        event = self.event(
            ledger,
            kind,
            now.mono,
            now.wall,
            operation,
            amount,
            hold or _NO_HOLD,
            enforced,
            reason,
            labels=labels,
            budget=budget,
            cause=cause,
        )
        effects.append(partial(self.deliver, event))

    def event(
        self,
        ledger: LedgerView,
        kind: Kind,
        mono: float,
        wall: float,
        operation: str | None,
        amount: int | None,
        hold: HoldFigures | tuple[None, None, float],
        enforced: bool = True,  # noqa: FBT001, FBT002
        reason: str | None = None,
        *,
        labels: Labels | None = None,
        budget: str | None = None,
        cause: str | None = None,
    ) -> Event:
        """An event with the current figures; the arguments are those of `emit`."""
        snapshot = ledger.snapshot
        credits: int | Decimal | None = amount
        number, held, began = hold
        sent = available = None
        if snapshot is not None:
            sent, available = snapshot.sent, self._available(ledger)
            if amount is None:
                credits = snapshot.balance.credits
        return Event(
            (
                kind,
                self.provider,
                operation,
                enforced,
                reason,
                credits,
                available,
                mono,
                wall,
                sent,
                number,
                held,
                began,
                labels,
                budget,
                cause,
            )
        )

    def log_refused(self, effects: Effects, error: BudgetGuardError) -> None:
        """Log a refusal, or one that observe mode did not enforce."""
        effects.append(partial(log_refused, error, observed=self.observes))

    def log_kept(
        self,
        effects: Effects,
        operation: str,
        held: LedgerEntry,
        for_seconds: float,
        cause: str | None,
    ) -> None:
        """Log a kept hold: as a warning the first time that it happens to an operation.

        A kept hold without credits and slots, as of a call that only checks, is not logged.
        """
        if not held.rest and not held.slots:
            return
        first = operation not in self._kept and len(self._kept) < _MOST_WARNINGS
        if first:
            self._kept.add(operation)
        effects.append(
            partial(
                log_kept,
                operation,
                held.rest,
                held.slots,
                for_seconds,
                cause,
                self.unit,
                first=first,
            )
        )

    def _log_low(self, reason: str, available: float) -> None:
        """Log what would otherwise go unnoticed, as there is no listener."""
        said = reason[:1].upper() + reason[1:]
        logger.warning("%s at %s: %s", said, self.provider, spell(to_credits(available)))

    def _available(self, ledger: LedgerView) -> float:
        terms = self.terms
        if self.by_formula:
            return ledger.available(terms.floor, terms.extra)
        return ledger.room - terms.floor


@dataclass(frozen=True, slots=True)
class Call:
    """One caller's request, and the options of its hold; `lag` and `linger` in seconds."""

    subscriber: Subscriber
    operation: str
    need: CallNeed
    lag: float
    linger: float
    release_on: tuple[type[BaseException], ...] = ()
    sample: CostSample | None = None
    """What the call's real cost is added to, if it is learned from."""
    context: CallContext[Any] | None = None
    """The budgets and labels around it."""

    def emit(
        self,
        effects: Effects,
        ledger: LedgerView,
        kind: Kind,
        now: Instant,
        amount: int | None = None,
        hold: HoldFigures | None = None,
        *,
        cause: str | None = None,
        budget: str | None = None,
    ) -> None:
        """Make an event about this call; `amount` defaults to what the call requested.

        `budget` defaults to the innermost one around the call.
        """
        subscriber, context = self.subscriber, self.context
        if subscriber.on_event is not None:
            subscriber.emit(
                effects,
                ledger,
                kind,
                now,
                self.operation,
                self.need.amount if amount is None else amount,
                hold,
                enforced=not (kind == "refused" and subscriber.observes),
                labels=None if context is None else context.labels,
                budget=budget or (None if context is None else context.budget_name),
                cause=cause,
            )
