"""An admitted call: its entry in the ledger, its options, and the changes that can happen to it.

Each change is posted to the account, which makes it under its lock. The ledger ends an entry only
once, even if the change is posted several times.
"""

import itertools
import os
from typing import TYPE_CHECKING, Any

from budgetguard._core.branch import LedgerEntry, Reserve
from budgetguard._core.call_context import CallContext
from budgetguard._core.clock import Instant
from budgetguard._core.events import Kind
from budgetguard._engine.fork import start_afresh_by
from budgetguard._engine.subscriber import Effects, HoldFigures, Subscriber

if TYPE_CHECKING:
    from budgetguard._core.leased_ledger import AnyLedger


class Numbers:
    """The numbers of holds: unique across processes, but guessable from one another."""

    __slots__ = ("counter",)

    def __init__(self) -> None:
        self.counter: itertools.count[int]
        self.begin()

    def begin(self) -> None:
        """Count from a new random number, because a child must not use its parent's numbers."""
        # Halved, to leave room to count upwards within 32 hexadecimal digits.
        self.counter = itertools.count(int.from_bytes(os.urandom(16)) >> 1)


NUMBERS = Numbers()
start_afresh_by(NUMBERS.begin)


class Reservation(LedgerEntry):
    """The engine's side of a hold: an admitted call, and its entry in the ledger that counts it.

    Each `record_...` method runs under the account's lock and returns whether it freed something
    that waiters may use; `at` is when the change happened.
    """

    __slots__ = (
        "_began",
        "_context",
        "_lag",
        "_ledger",
        "_linger",
        "_number",
        "_subscriber",
        "operation",
    )

    operation: str
    _context: CallContext[Any] | None
    _subscriber: Subscriber
    _ledger: "AnyLedger"
    _lag: float
    _linger: float
    _began: float
    _number: int

    @property
    def figures(self) -> HoldFigures:
        """The hold's figures, as events show them."""
        return self._number, self.micro, self._began

    @property
    def linger(self) -> float:
        """How long the provider may go on after the call was abandoned, in seconds."""
        return self._linger

    def is_of(self, subscriber: Subscriber) -> bool:
        """Whether that guard admitted the call."""
        return self._subscriber is subscriber

    @property
    def orphaned(self) -> bool:
        """Whether the guard that admitted the call was closed."""
        return self._subscriber.closed

    def _emit_now(self, kind: Kind, amount: int, mono: float, wall: float) -> None:
        """Deliver an event at once, on the fast path.

        The caller ensures that no finished call that frees credits is waiting to be recorded.
        """
        subscriber, context = self._subscriber, self._context
        figures = (self._number, self.micro, self._began)
        event = subscriber.event(
            self._ledger,
            kind,
            mono,
            wall,
            self.operation,
            amount,
            figures,
            labels=None if context is None else context.labels,
            budget=None if context is None else context.budget_name,
        )
        subscriber.deliver(event)

    def record_settled(self, now: Instant, effects: Effects, at: float, actual: int) -> bool:
        """The call cost `actual`."""
        held = self.micro
        if not self._ledger.settle(self, actual, at + self._lag):
            return False
        spent = max(actual, self.charged_micro)
        self._emit(effects, "settled", now, spent)
        if spent > held:
            self._emit(effects, "overrun", now, spent - held)
        return spent < held or self.slots > 0

    def record_released(self, now: Instant, effects: Effects, _: float) -> bool:
        """The call cost nothing."""
        released = self._ledger.release(self)
        if released:
            self._emit(effects, "released", now, self.micro)
        return released

    def record_reserve_ended(self, now: Instant, effects: Effects, reserve: Reserve) -> bool:
        """The budget that this hold was set aside for has ended: what is left goes back."""
        left = self.micro
        ended = self._ledger.end_reserve(reserve)
        if ended:
            self._emit(effects, "released", now, left)
        return ended

    def record_kept(
        self, now: Instant, effects: Effects, at: float, cause: str | None = None
    ) -> bool:
        """The call's cost is not known, and the provider may still be working on it.

        `cause` is the name of the exception that it raised, if known.
        """
        if self._ledger.keep(self, at + self._linger + self._lag, cause):
            self._emit_kept(now, effects, self, cause)
        return False

    def record_attempt(self, now: Instant, effects: Effects, at: float) -> bool:
        """An earlier attempt of a call that continues may have cost what the call holds."""
        attempt = self._ledger.repeat(self, at + self._linger + self._lag)
        self._emit_kept(now, effects, attempt, None)
        return False

    def record_charged(self, now: Instant, effects: Effects, at: float, total: int) -> bool:
        """The provider has charged `total` for the call so far, and the call continues."""
        del now, effects
        self._ledger.charge(self, total, at + self._lag)
        return False

    def _emit_kept(
        self, now: Instant, effects: Effects, kept: LedgerEntry, cause: str | None
    ) -> None:
        self._emit(effects, "kept", now, kept.micro, cause)
        counts_for = self._linger + self._lag
        self._subscriber.log_kept(effects, self.operation, kept, counts_for, cause)

    def _emit(
        self, effects: Effects, kind: Kind, now: Instant, amount: int, cause: str | None = None
    ) -> None:
        subscriber, context = self._subscriber, self._context
        if subscriber.on_event is not None:
            subscriber.emit(
                effects,
                self._ledger,
                kind,
                now,
                self.operation,
                amount,
                self.figures,
                reason=cause,
                labels=None if context is None else context.labels,
                budget=None if context is None else context.budget_name,
                cause=cause,
            )
