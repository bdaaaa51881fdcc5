"""Those who wait for one account, in the order of their arrival: for credits, for slots, for a look.

Cold callers, callers about to be refused and callers with `wait` stand in one line and are decided
by one function; who only reads the balance waits beside it. The account's lock is held by whoever
calls in here, and what is to be done outside it is left in `effects`.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from budgetguard.asker import Asker, Call, Effects
from budgetguard.clock import Instant
from budgetguard.errors import BalanceUnavailable, BudgetGuardError
from budgetguard.ledger import Entry, Ledger
from budgetguard.looks import LATER, Looks
from budgetguard.opened import Open
from budgetguard.policy import (
    NOBODY,
    Admit,
    Ahead,
    Decision,
    Refuse,
    Stay,
    Why,
    decide,
    decide_reading,
    possible,
    shortage,
)
from budgetguard.refusals import unavailable, why_refused
from budgetguard.waiting import Admission, Reading, Ticket

if TYPE_CHECKING:
    from budgetguard.events import Kind


class Line:
    """The line of one account, over its books and its looks."""

    def __init__(self, ledger: Ledger, looks: Looks) -> None:
        self.queue: list[Admission] = []
        self.readers: list[Reading] = []
        self.deadline = LATER
        self.left = False
        self._ledger = ledger
        self._looks = looks
        self._ahead = NOBODY

    def place(self, now: Instant, effects: Effects, ticket: Admission) -> None:
        """Decide about a caller who comes, or let it stand at the end."""
        self._decide(ticket, self._ahead, now, effects)
        if not ticket.done:
            self.queue.append(ticket)
            self._ahead = self._behind(ticket, self._ahead, now)
            self.deadline = min(self.deadline, ticket.deadline(now.mono))

    def place_reading(self, now: Instant, effects: Effects, reading: Reading) -> None:
        """Give a reader the balance at hand, or let it wait for a look."""
        look = self._ledger.look
        if look is not None and now.since(look.sent) <= reading.max_age:
            reading.balance = look.balance
            reading.settle()
            return
        if look is not None:
            # After a suspend, a look may be too old although few monotonic seconds have passed.
            reading.oldest = max(reading.oldest, math.nextafter(look.sent.mono, LATER))
        self._decide_reading(reading, now, effects)
        if not reading.done:
            self.readers.append(reading)
            self.deadline = min(self.deadline, reading.give_up)

    def thaw(self, now: Instant, effects: Effects) -> None:
        """The process stood still: who was asleep with it is not late for that."""
        for ticket in self.queue:
            ticket.thaw(now.mono)
        for reading in self.readers:
            reading.thaw(now.mono)
        self.review(now, effects)

    def dismiss(
        self, now: Instant, effects: Effects, asker: Asker, why: Callable[[str], RuntimeError]
    ) -> None:
        """A guard was closed: who waits for it is told, by the name of what it wanted."""
        for ticket in self.queue:
            if ticket.call.asker is asker:
                ticket.settle(why(ticket.call.operation))
                effects.append(ticket.wake)
        for reading in self.readers:
            if reading.asker is asker:
                reading.settle(why("balance()"))
                effects.append(reading.wake)
        self.queue = [ticket for ticket in self.queue if not ticket.done]
        self.readers = [reading for reading in self.readers if not reading.done]
        # Whoever stood behind them may fit now.
        self.review(now, effects)

    def leave(self, ticket: Ticket) -> None:
        """Somebody stopped waiting; whoever stood behind it is to be reviewed."""
        if isinstance(ticket, Reading):
            self.readers = [reading for reading in self.readers if reading is not ticket]
        else:
            self.queue = [waiting for waiting in self.queue if waiting is not ticket]
            self.left = True

    def pass_on(self, now: Instant, effects: Effects) -> None:
        """Let in, in order, those who fit now that something came free."""
        self._go_through(now, effects, self._fits)

    def review(self, now: Instant, effects: Effects) -> None:
        """Decide anew about everybody who waits."""
        self.left = False
        self._looks.callers_due = LATER
        self._go_through(now, effects)
        for reading in self.readers:
            self._decide_reading(reading, now, effects)
        self.readers = [reading for reading in self.readers if not reading.done]
        deadlines = [ticket.deadline(now.mono) for ticket in self.queue]
        deadlines += [reading.give_up for reading in self.readers]
        self.deadline = min(deadlines, default=LATER)

    def extend(
        self, now: Instant, effects: Effects, call: Call, entry: Entry
    ) -> BudgetGuardError | None:
        """Hold more for a call that is let in already: behind all who wait, on the balance at hand."""
        decision = self._decision(call, self._ahead, now)
        look, total = self._ledger.look, entry.amount + call.need.cost
        if look is not None and decision in {Admit(), Admit(look=True)} and total > look.cap:
            # A cost limit for one call bounds what that call asks for in all.
            call = replace(call, need=replace(call.need, amount=total))
            decision = Refuse(Why.CAP, hopeless=True)
        error = None
        if isinstance(decision, Refuse):
            call.tell(effects, self._ledger, "refused", now)
            if not call.asker.observes:
                error = self._why(call, decision, self._ahead, now)
        if error is None and not entry.ended:
            self._ledger.extend(entry, call.need.cost)
        return error

    def _go_through(
        self,
        now: Instant,
        effects: Effects,
        concerns: Callable[[Call, Ahead], bool] = lambda _, __: True,
    ) -> None:
        staying, ahead = [], NOBODY
        for ticket in self.queue:
            if concerns(ticket.call, ahead):
                self._decide(ticket, ahead, now, effects)
            if not ticket.done:
                staying.append(ticket)
                ahead = self._behind(ticket, ahead, now)
        self.queue, self._ahead = staying, ahead

    def _fits(self, call: Call, ahead: Ahead) -> bool:
        ledger = self._ledger
        return bool(ledger.look) and shortage(ledger, call.asker.terms, call.need, ahead) is None

    def _behind(self, ticket: Admission, ahead: Ahead, now: Instant) -> Ahead:
        """What is ahead of whoever comes after `ticket`; who does not queue is not in the way."""
        need = ticket.call.need
        queues = now.mono < need.until and possible(self._ledger, ticket.call.asker.terms, need)
        return Ahead(ahead.amount + need.amount, ahead.slots + need.slots) if queues else ahead

    def _decide(self, ticket: Admission, ahead: Ahead, now: Instant, effects: Effects) -> None:
        call = ticket.call
        decision = self._decision(call, ahead, now)
        if isinstance(decision, Stay) and not call.asker.observes:
            self._looks.due_for_callers(decision.look_at)
            return
        if isinstance(decision, Stay):
            # Observing never waits: it looks behind, and decides on what is at hand.
            self._looks.want(decision.look_at)
            call = replace(call, need=replace(call.need, give_up=now.mono))
            decision = self._decision(call, ahead, now)
        match decision:
            case Admit(look, unknown):
                self._open(ticket)
                if look:
                    self._looks.want(now.mono)
                kind: Kind = "allowed_unknown" if unknown else "admitted"
                call.tell(effects, self._ledger, kind, now, call.need.cost)
            case Refuse():
                if call.asker.observes:
                    self._open(ticket)
                else:
                    ticket.settle(self._why(call, decision, ahead, now))
                call.tell(effects, self._ledger, "refused", now)
            case Stay():
                raise AssertionError(decision)
            case _:
                assert_never(decision)
        effects.append(ticket.wake)

    def _decision(self, call: Call, ahead: Ahead, now: Instant) -> Decision:
        return decide(self._ledger, self._looks.known, call.asker.terms, call.need, ahead, now)

    def _open(self, ticket: Admission) -> None:
        call = ticket.call
        entry = Entry(call.need.cost, call.need.slots)
        ticket.opened = Open(call, self._ledger, entry)
        self._ledger.open(entry)
        ticket.settle()

    def _why(self, call: Call, refuse: Refuse, ahead: Ahead, now: Instant) -> BudgetGuardError:
        if self._ledger.look is None or refuse.why is Why.UNKNOWN:
            return self._unavailable(call.asker, now)
        return why_refused(self._ledger, self._looks.known, call, refuse, ahead, now)

    def _unavailable(self, asker: Asker, now: Instant) -> BalanceUnavailable:
        wait = max(self._looks.known.blocked_until - now.mono, 0.0)
        return unavailable(asker, self._looks.failure, wait)

    def _decide_reading(self, reading: Reading, now: Instant, effects: Effects) -> None:
        look = self._ledger.look
        decision = decide_reading(look, self._looks.known, reading.oldest, reading.give_up, now)
        match decision:
            case Stay(look_at):
                self._looks.due_for_callers(look_at)
                return
            case Refuse():
                reading.settle(self._unavailable(reading.asker, now))
            case Admit():
                assert look is not None
                reading.balance = look.balance
                reading.settle()
            case _:
                assert_never(decision)
        effects.append(reading.wake)
