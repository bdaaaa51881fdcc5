"""Those who wait for one account, in the order of their arrival: for credits, for slots, for a refresh.

Cold callers, callers about to be refused and callers with `wait` stand in one line and are decided
by one function; who only reads the balance waits beside it. The account's lock is held by whoever
calls in here, and what is to be done outside it is left in `effects`.

A refresh is followed by a decision about everybody who waits. Whatever comes more often (an end of a
call, somebody who leaves, a deadline, a balance that came along with a reply) costs what it lets in,
and not the length of the line: `arrivals` says who could be next.
"""

import math
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, assert_never

from budgetguard.arrivals import Arrivals
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
    from collections.abc import Callable

    from budgetguard.events import Kind


# So many entries of waiters that are gone may stay in the heap of deadlines.
_GONE = 64


class Line:
    """The line of one account, over its books and its looks."""

    def __init__(self, ledger: Ledger, looks: Looks) -> None:
        self._arrivals = Arrivals()
        self.queue = self._arrivals.waiting
        self.readers: dict[Reading, None] = {}
        self.left = False
        # Whether somebody for whose sake a refresh may be due waits no more.
        self.unsure = False
        self._ledger = ledger
        self._looks = looks
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._numbers = count()

    @property
    def deadline(self) -> float:
        """When the next deadline of somebody who waits passes; a monotonic time."""
        deadlines = self._deadlines
        while deadlines and not self._waits(deadlines[0][2]):
            heappop(deadlines)
        return deadlines[0][0] if deadlines else LATER

    def place(self, now: Instant, effects: Effects, ticket: Admission) -> None:
        """Decide about a caller who comes, or let it stand at the end."""
        self._decide(ticket, self._arrivals.total, now, effects)
        if not ticket.done:
            self._arrivals.add(ticket, counts=self._queues(ticket, now))
            self._wait_until(ticket.deadline(now.mono), ticket)

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
            self.readers[reading] = None
            self._wait_until(reading.give_up, reading)

    def thaw(self, now: Instant, effects: Effects) -> None:
        """The process stood still: who was asleep with it is not late for that."""
        for ticket in self.queue:
            ticket.thaw(now.mono)
        for reading in self.readers:
            reading.thaw(now.mono)
        self.review(now, effects)

    def dismiss(
        self, now: Instant, effects: Effects, asker: Asker, why: "Callable[[str], RuntimeError]"
    ) -> None:
        """A guard was closed: who waits for it is told, by the name of what it wanted."""
        for ticket in [each for each in self.queue if each.call.asker is asker]:
            self._arrivals.remove(ticket)
            ticket.settle(why(ticket.call.operation))
            effects.append(ticket.wake)
        for reading in [each for each in self.readers if each.asker is asker]:
            del self.readers[reading]
            reading.settle(why("balance()"))
            effects.append(reading.wake)
        # Whoever stood behind them may fit now.
        self.review(now, effects)

    def leave(self, ticket: Ticket) -> None:
        """Somebody stopped waiting; whoever stood behind it may fit now."""
        if isinstance(ticket, Reading):
            self.readers.pop(ticket, None)
        elif isinstance(ticket, Admission) and self._arrivals.remove(ticket):
            self.left = True
        self.unsure = True
        if not (self.queue or self.readers):
            self._looks.callers_due = LATER

    def pass_on(self, now: Instant, effects: Effects) -> None:
        """Let in, in order, those who fit now that something came free."""
        for ticket in self._arrivals.firsts():
            ahead = self._arrivals.ahead_of(ticket)
            if self._fits(ticket.call, ahead) or not self._possible(ticket.call):
                self._decide_again(ticket, ahead, now, effects)
        self.left = False

    def expire(self, now: Instant, effects: Effects) -> None:
        """Decide about those whose deadline has passed."""
        due: list[Admission] = []
        while self.deadline <= now.mono:
            ticket = heappop(self._deadlines)[2]
            if isinstance(ticket, Admission):
                due.append(ticket)
            elif isinstance(ticket, Reading):
                self._read_again(ticket, now, effects)
        for ticket in self._arrivals.in_order(due):
            self._decide_again(ticket, self._arrivals.ahead_of(ticket), now, effects)
            if not ticket.done:
                self._wait_until(ticket.deadline(now.mono), ticket)
        if self.left:
            self.pass_on(now, effects)

    def came_along(self, now: Instant, effects: Effects) -> None:
        """A balance came along with a reply: nobody asked for it, but it may decide."""
        for reading in list(self.readers):
            self._read_again(reading, now, effects)
        for ticket in self._arrivals.in_order(self._arrivals.uncounted):
            self._decide_again(ticket, self._arrivals.ahead_of(ticket), now, effects)
        self.pass_on(now, effects)

    def review(self, now: Instant, effects: Effects) -> None:
        """Decide anew about everybody who waits."""
        self.left = self.unsure = False
        self._looks.callers_due = LATER
        ahead = NOBODY
        for ticket in list(self.queue):
            self._decide_again(ticket, ahead, now, effects)
            if not ticket.done and self._arrivals.counts(ticket):
                need = ticket.call.need
                ahead = Ahead(ahead.amount + need.amount, ahead.slots + need.slots)
        # Everybody was decided with the right sum: nobody is left to be passed on to.
        self.left = False
        for reading in list(self.readers):
            self._read_again(reading, now, effects)

    def extend(
        self, now: Instant, effects: Effects, call: Call, entry: Entry
    ) -> BudgetGuardError | None:
        """Hold more for a call that is let in already: behind all who wait, on the balance at hand."""
        decision = self._decision(call, self._arrivals.total, now)
        look, total = self._ledger.look, entry.amount + call.need.cost
        if look is not None and decision in {Admit(), Admit(look=True)} and total > look.cap:
            # A cost limit for one call bounds what that call asks for in all.
            call = replace(call, need=replace(call.need, amount=total))
            decision = Refuse(Why.CAP, hopeless=True)
        error = None
        if isinstance(decision, Refuse):
            call.tell(effects, self._ledger, "refused", now)
            why = self._why(call, decision, self._arrivals.total, now)
            call.asker.log_refused(effects, why)
            if not call.asker.observes:
                error = why
        if error is None and not entry.ended:
            self._ledger.extend(entry, call.need.cost)
        return error

    def _waits(self, ticket: Ticket) -> bool:
        return ticket in self.queue or ticket in self.readers

    def _wait_until(self, at: float, ticket: Ticket) -> None:
        heappush(self._deadlines, (at, next(self._numbers), ticket))
        if len(self._deadlines) > 2 * (len(self.queue) + len(self.readers)) + _GONE:
            self._deadlines = [entry for entry in self._deadlines if self._waits(entry[2])]
            heapify(self._deadlines)

    def _fits(self, call: Call, ahead: Ahead) -> bool:
        ledger = self._ledger
        return bool(ledger.look) and shortage(ledger, call.asker.terms, call.need, ahead) is None

    def _possible(self, call: Call) -> bool:
        return possible(self._ledger, call.asker.terms, call.need)

    def _queues(self, ticket: Admission, now: Instant) -> bool:
        """Whether a waiter is in the way of those behind it: one with time left, who could fit."""
        return now.mono < ticket.call.need.until and self._possible(ticket.call)

    def _decide_again(
        self, ticket: Admission, ahead: Ahead, now: Instant, effects: Effects
    ) -> None:
        """Decide about somebody who waits already."""
        self._decide(ticket, ahead, now, effects)
        if ticket.done:
            self.left = self._arrivals.remove(ticket) or self.left
        elif self._arrivals.counts(ticket) != (counts := self._queues(ticket, now)):
            self._arrivals.count(ticket, counts=counts)
            self.left = self.left or not counts

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
                why = self._why(call, decision, ahead, now)
                if call.asker.observes:
                    self._open(ticket)
                else:
                    ticket.settle(why)
                call.tell(effects, self._ledger, "refused", now)
                call.asker.log_refused(effects, why)
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

    def _read_again(self, reading: Reading, now: Instant, effects: Effects) -> None:
        self._decide_reading(reading, now, effects)
        if reading.done:
            del self.readers[reading]

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
