"""A guard as its account sees it: its settings, its alerts and its event listener."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.amounts import CREDITS, spell, to_credits
from budgetguard._core.branch import LedgerEntry
from budgetguard._core.call_context import CallContext
from budgetguard._core.clock import Instant
from budgetguard._core.cost_sample import CostSample
from budgetguard._core.errors import BudgetGuardError
from budgetguard._core.events import Event, Kind, OnEvent, logger, report
from budgetguard._core.labels import Labels
from budgetguard._core.ledger import LedgerView
from budgetguard._core.other_spenders import SoleSpender
from budgetguard._core.policy import NEVER, CallNeed, GuardTerms
from budgetguard._core.reentrancy import CALL_STATE, Inside
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._engine.call_log import log_kept, log_refused

if TYPE_CHECKING:
    from decimal import Decimal

Effects: TypeAlias = list[Callable[[], object]]
"""What a change caused and what is carried out after it, outside the lock."""

HoldFigures: TypeAlias = tuple[int, int, float]
"""A hold's number, its micro-credits, and when it was opened, by the monotonic clock."""

_NO_HOLD = (None, None, 0.0)


class _Here(threading.local):
    """Each thread's own marker for being inside a listener; one per thread is enough, and is reused."""

    def __init__(self) -> None:
        self.inside = Inside()
        self.ident = threading.get_ident()


_HERE = _Here()

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
        alert_below: int | None = None,
        on_event: OnEvent | None = None,
        top_up_url: str | None = None,
        unit: str = CREDITS,
    ) -> None:
        self.terms = terms
        self.provider = provider
        self.sole_spender: SoleSpender = sole_spender
        self.alert_below = alert_below
        self.on_event = on_event
        self.top_up_url = top_up_url
        self.unit = unit
        self.closed = False
        self.reserve: float | None = None
        # In the account's terms: with less room than this, the guard has less than `alert_below`.
        self.mark = NEVER if alert_below is None else alert_below + terms.floor - terms.extra
        self._observe = observe
        self._armed = True
        self._complained = False
        self._kept: set[str] = set()
        # An interrupted delivery is resumed, and must not deliver the event that it began with twice.
        self._delivered: Event | None = None
        ACTIVATION.notify(self)

    def close_fast_path(self) -> None:
        """Make this guard's next call go through a decision, because something relevant has changed."""
        self.reserve = None

    @property
    def observes(self) -> bool:
        """Whether calls that would be refused are admitted."""
        return self._observe or ACTIVATION.observe

    def falls_low(self, ledger: LedgerView) -> bool:
        """True, once, when less than `alert_below` is available."""
        if self.alert_below is None or not self._armed:
            return False
        self._armed = self._available(ledger) >= self.alert_below
        return not self._armed

    def rearm(self, before: BalanceSnapshot | None, snapshot: BalanceSnapshot | None) -> None:
        """A balance arrived: arm the alert again if it is above the mark and higher than before.

        Holds are ignored here: a hold that is opened and ended is no reason for another alert.
        """
        if self.alert_below is None or snapshot is None:
            return
        terms = self.terms
        left = snapshot.spendable(terms.extra) - terms.floor
        rose = before is None or snapshot.spendable(terms.extra) > before.spendable(terms.extra)
        self._armed = self._armed or (rose and left > self.alert_below)

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
                effects.append(partial(self._log_low, self._available(ledger)))
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

    def _log_low(self, available: float) -> None:
        """Log what would otherwise go unnoticed, as there is no listener."""
        low, mark = to_credits(available), to_credits(self.alert_below or 0)
        logger.warning(
            "Less than %s %s are available at %s: %s",
            spell(mark),
            self.unit,
            self.provider,
            spell(low),
        )

    def deliver(self, event: Event) -> None:
        """Call the listener with an event, on this thread."""
        on_event = self.on_event
        if on_event is None or event is self._delivered:
            return
        self._delivered = event
        here, token = _HERE, None
        inside = here.inside
        # A listener may end a hold of another guard, whose listener is then called inside this one.
        before = inside.thread
        try:
            inside.thread = here.ident
            token = CALL_STATE.set(inside)
            around = token.old_value
            if isinstance(around, CallContext):
                # For the threads and tasks that the listener starts.
                inside = inside.within(around)
                CALL_STATE.set(inside)
            on_event(event)
        except BaseException as error:
            # On the main thread this is most likely Ctrl-C, or a SIGTERM handler that exits. On any
            # other thread no signal arrives, and the error would end a thread that serves others.
            if isinstance(error, KeyboardInterrupt | SystemExit) and _receives_signals():
                raise
            if not self._complained:
                self._complained = True
                message = "on_event raised an error for %r; further errors are not logged"
                report(message, event.kind, exc_info=True)
        finally:
            inside.thread = before
            if token is not None:
                CALL_STATE.reset(token)

    def _available(self, ledger: LedgerView) -> float:
        terms = self.terms
        if terms.extra:  # a cost limit may bound these credits
            return ledger.available(terms.floor, terms.extra)
        return ledger.room - terms.floor


def _receives_signals() -> bool:
    return threading.get_ident() == threading.main_thread().ident


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
