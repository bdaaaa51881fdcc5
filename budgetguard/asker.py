"""A guard as its account sees it: its terms, and what it wants to be told."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from budgetguard.clock import Instant
from budgetguard.credits import to_credits
from budgetguard.events import Event, Kind, OnEvent, report
from budgetguard.inside import INSIDE, Inside
from budgetguard.ledger import Ledger
from budgetguard.policy import Need, Terms
from budgetguard.switch import SWITCH

Effects: TypeAlias = list[Callable[[], object]]
"""What came of a change and is to be carried out after it, outside the lock."""


class Asker:
    """One guard's side of an account; identity matters, several guards may share an account."""

    def __init__(
        self,
        terms: Terms,
        provider: str,
        *,
        sole_spender: bool = False,
        observe: bool = False,
        alert_below: int | None = None,
        on_event: OnEvent | None = None,
        top_up_url: str | None = None,
    ) -> None:
        self.terms = terms
        self.provider = provider
        self.sole_spender = sole_spender
        self.alert_below = alert_below
        self.on_event = on_event
        self.top_up_url = top_up_url
        self.closed = False
        self._observe = observe
        self._armed = True
        self._complained = False
        # An interrupted delivery is taken up again: the event that was begun is not told twice.
        self._told: Event | None = None

    @property
    def observes(self) -> bool:
        """Whether calls are let in that would be refused."""
        return self._observe or SWITCH.observe

    def falls_low(self, ledger: Ledger) -> bool:
        """True once when less than `alert_below` is available."""
        if self.alert_below is None or not self._armed:
            return False
        self._armed = self._available(ledger) >= self.alert_below
        return not self._armed

    def rearm(self, ledger: Ledger) -> None:
        """A balance arrived: be ready to alert again if it is above the mark."""
        if self.alert_below is not None and self._available(ledger) >= self.alert_below:
            self._armed = True

    def tell(
        self,
        effects: Effects,
        ledger: Ledger,
        kind: Kind,
        now: Instant,
        operation: str | None = None,
        amount: int | None = None,
        *,
        enforced: bool = True,
        reason: str | None = None,
    ) -> None:
        """Have an event with the figures of this moment delivered, outside the lock."""
        if self.on_event is None:
            return
        look = ledger.look
        credits = look.balance.credits if look and amount is None else None
        event = Event(
            kind=kind,
            provider=self.provider,
            operation=operation,
            credits=credits if amount is None else to_credits(amount),
            available=None if look is None else to_credits(self._available(ledger)),
            age=None if look is None else now.since(look.sent),
            enforced=enforced,
            reason=reason,
        )
        effects.append(partial(self._deliver, event))

    def _deliver(self, event: Event) -> None:
        on_event = self.on_event
        if on_event is None or event is self._told:
            return
        self._told = event
        inside = Inside()
        token = INSIDE.set(inside)
        try:
            on_event(event)
        except BaseException as error:
            # Not a listener's own, as far as can be told: Ctrl-C, or a handler of SIGTERM that
            # exits. Where no signal arrives, it would end a thread that serves others.
            if isinstance(error, KeyboardInterrupt | SystemExit) and _hears_signals():
                raise
            if not self._complained:
                self._complained = True
                said = "on_event raised on %r; further errors are not logged"
                report(said, event.kind, exc_info=True)
        finally:
            inside.over()
            INSIDE.reset(token)

    def _available(self, ledger: Ledger) -> float:
        return ledger.available(self.terms.floor, self.terms.extra)


def _hears_signals() -> bool:
    return threading.get_ident() == threading.main_thread().ident


@dataclass(frozen=True, slots=True)
class Call:
    """One caller's request, and what its hold goes by when it ends; `lag`, `linger` in seconds."""

    asker: Asker
    operation: str
    need: Need
    lag: float
    linger: float

    def tell(
        self, effects: Effects, ledger: Ledger, kind: Kind, now: Instant, amount: int | None = None
    ) -> None:
        """Tell this call's guard what became of it; `amount` is what it asked for, if not given."""
        asker = self.asker
        if asker.on_event is not None:
            enforced = not (kind == "refused" and asker.observes)
            said = self.need.amount if amount is None else amount
            asker.tell(effects, ledger, kind, now, self.operation, said, enforced=enforced)
