"""One account in this process: its books, its looks and its line; one short lock around all.

Every change runs the same course: under the lock, take in what callers posted, change the books,
decide about those who wait, plan the next look; then, outside it, carry out the effects that came
of this (wake somebody, start a fetch, set an alarm, tell of an event). Nothing under the lock does
I/O or calls a user's code.

Ends of calls are *posted*, not booked on the spot: appending to a deque is safe in a finalizer or a
signal handler, where taking the lock could wait for the very thread that is interrupted. Whatever
else a handler or a finalizer asks for in the middle of a change is posted too, answered from what
is known, or refused: see `_change`.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from budgetguard.asker import Asker, Call, Effects
from budgetguard.clock import Instant
from budgetguard.credits import UNLIMITED
from budgetguard.errors import BudgetGuardError
from budgetguard.events import Kind, logger, report
from budgetguard.failures import not_made
from budgetguard.inside import CHANGING, forbid_waiting
from budgetguard.ledger import End, Entry, Ledger, Look
from budgetguard.line import Line
from budgetguard.looks import LATER, Flight, Looks
from budgetguard.policy import NEVER
from budgetguard.refusals import missing
from budgetguard.switch import SWITCH
from budgetguard.waiting import Admission, Reading, Ticket

if TYPE_CHECKING:
    from decimal import Decimal

    from budgetguard.failures import Failure
    from budgetguard.loop import Runtime

# Ends of calls are taken in with the next change, and by the private loop every so many calls.
MANY_ENDS = 1024


class Account:
    """The state that all guards of one account share. All public methods are thread-safe."""

    def __init__(
        self, provider: Any, runtime: "Runtime", find_runtime: "Callable[[], Runtime]"
    ) -> None:
        self.provider = provider
        self._find_runtime = find_runtime
        self.askers: weakref.WeakSet[Asker] = weakref.WeakSet()
        self.joining = 0
        self._fresh_for = LATER
        self._any_extra = False
        self.mark = NEVER
        self._runtime: Runtime | None
        self.forget()
        self._runtime = runtime

    def forget(self) -> None:
        """Start afresh: no balance, no holds, nobody waiting. What was open ends in the old books."""
        # Not a plain lock: a handler that interrupts a change may call a function of constant cost.
        self.lock = threading.RLock()
        self.ledger = Ledger()
        self.quick_mono = self.quick_wall = self.young_wall = NEVER
        self.ends: deque[End] = deque()
        self._posts: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._contradicted = False
        self._denied = False
        self._looks = Looks()
        self.line = Line(self.ledger, self._looks)
        self.queue = self.line.queue
        self._source: Any = None
        self._flown: Flight | None = None
        self._alarm_at = LATER
        self._runtime = None
        self._last_asker: weakref.ref[Asker] | None = None

    @property
    def runtime(self) -> "Runtime":
        """The runtime of this process, looked up again after a fork."""
        runtime = self._runtime
        if runtime is None:
            runtime = self._runtime = self._find_runtime()
        return runtime

    def join(self, asker: Asker) -> None:
        """Count a guard in."""
        self._change(self._join, asker)

    # The ways in.

    def ask(self, call: Call) -> Admission:
        """Decide about a caller, or have it wait; raises RuntimeError inside the library's own calls."""
        forbid_waiting(call.operation)
        ticket = Admission(call)
        try:
            self._change(self._place, ticket)
        except BaseException:
            # Interrupted while it started a look, say: it may be in the queue, or let in.
            self.abandon(ticket)
            raise
        return ticket

    def read(self, asker: Asker, max_age: float) -> Reading:
        """A balance not older than `max_age` seconds, or the wait for one."""
        look = self.ledger.look
        if look is not None and get_ident() in CHANGING:
            now = self.runtime.clock.now()
            if now.since(look.sent) <= max_age:
                reading = Reading(asker, max_age, now.mono)
                reading.balance = look.balance
                reading.settle()
                return reading
        forbid_waiting("balance()")
        reading = Reading(asker, max_age, self.runtime.clock.monotonic())
        try:
            self._change(self._place_reading, reading)
        except BaseException:
            self.abandon(reading)
            raise
        return reading

    def extend(self, call: Call, entry: Entry) -> BudgetGuardError | None:
        """Hold more for an open entry, deciding on the balance at hand; starts a look."""
        forbid_waiting(call.operation)
        answer: list[BudgetGuardError | None] = []
        self._change(self._extend, call, entry, answer)
        return answer[0]

    def refuse(self, asker: Asker, lag: float) -> None:
        """The provider itself refused a call for want of credits."""
        self._change(self._refuse, asker, lag)

    def offer(self, credits: "Decimal", sent: Instant) -> None:
        """A balance came along with the reply to a call that was sent at that moment."""
        self._change(self._offer, credits, sent)

    def peek(self, asker: Asker) -> float | None:
        """Micro-credits available now, None while unknown."""
        if get_ident() in CHANGING:
            return self._available(self.runtime.clock.now(), asker)
        answer: list[float | None] = []
        self._change(self._peek, asker, answer)
        return answer[0]

    def abandon(self, ticket: Ticket) -> None:
        """A caller stopped waiting: it leaves no trace, and what it was given goes to the next."""
        self.post_later(self._abandon, ticket)

    def dismiss(self, asker: Asker) -> None:
        """A guard was closed: nobody is let in by it any more, and who waits for it is told."""
        asker.closed = True
        self._change(self._dismiss, asker)

    def monotonic(self) -> float:
        """The time that those who wait go by."""
        return self.runtime.clock.monotonic()

    def overdue(self) -> None:
        """Look after those who wait, because one of them had to wait for too long."""
        self._change(self.line.expire)

    def quiet(self) -> bool:
        """Whether forgetting this account would forget nothing that somebody may still spend."""
        if get_ident() in CHANGING:
            return False
        answer: list[bool] = []
        self._change(self._quiet, answer)
        return answer[0]

    # Posting, for the ends of calls.

    def post(self, change: Callable[..., bool], *args: Any) -> None:
        """Have a change made now, or by the change that this very thread is in the middle of."""
        self._posts.append((change, args))
        self.flush()

    def post_later(self, change: Callable[..., bool], *args: Any) -> None:
        """Have a change made by the private loop, or the next caller: for use in finalizers."""
        self._posts.append((change, args))
        runtime = self._runtime
        if runtime is not None:
            runtime.nudge(self.flush)

    def flush_soon(self) -> None:
        """Have everything posted taken in by the private loop, which no signal interrupts."""
        runtime = self._runtime
        if runtime is None or not runtime.nudge(self.flush):
            self.flush()

    def flush(self) -> None:
        """Take in everything posted, unless this very thread is about to."""
        if CHANGING.get(get_ident()) is not self:
            self._change(_nothing)

    # The course of a change.

    def _change(self, act: Callable[..., object], *args: Any) -> None:
        me = get_ident()
        if me in CHANGING:
            # Whom this interrupted holds a lock, and another thread that has ours may wait for it.
            self._posts.append((act, args))
            if CHANGING[me] is not self:
                self.runtime.nudge(self.flush)
            return
        effects: Effects = []
        clock = self.runtime.clock
        try:
            try:
                # Before the lock is there: a handler must not find it taken and think it is free.
                CHANGING[me] = self
                with self.lock:
                    self.quick_wall = NEVER
                    now = clock.now()
                    freed = self._take_in(now, effects)
                    if self._looks.lost(now) is not None:
                        self._begin_anew(now, effects)
                    if (freed or self.line.left) and self.line.queue:
                        self.line.pass_on(now, effects)
                    act(now, effects, *args)
                    self._plan(now, effects)
                    self._set_quick()
                    if self.mark > NEVER:
                        self._warn(now, effects)
            finally:
                if me in CHANGING:  # a fork may have come meanwhile
                    del CHANGING[me]
        finally:
            if effects:
                self._carry_out(effects)
        if self._posts:
            self.flush()

    def _carry_out(self, effects: Effects) -> None:
        done = 0
        try:
            for effect in effects:
                effect()
                done += 1
        except BaseException:
            # Interrupted: the one that was begun may be carried out twice, and bears it.
            self._carry_out_later(effects[done:])
            raise

    def _carry_out_later(self, effects: Effects) -> None:
        def carry_out() -> None:
            for effect in effects:
                try:
                    effect()
                except BaseException:  # noqa: BLE001  a log's handler, say; the others come all the same
                    report("Telling what became of a call failed", exc_info=True)

        if not self.runtime.nudge(carry_out):
            carry_out()

    def _take_in(self, now: Instant, effects: Effects) -> bool:
        ends, posts, freed = self.ends, self._posts, False
        self.ledger.put_ends()
        while ends:
            ledger, held, debit, clears_at = ends.popleft()
            ledger.put(held, debit, clears_at)
            freed = freed or debit < held
        while posts:
            change, args = posts.popleft()
            freed = change(now, effects, *args) is True or freed
        return freed

    # What `_change` can do; each runs under the lock.

    def _join(self, _: Instant, __: Effects, asker: Asker) -> None:
        self.askers.add(asker)
        self._fresh_for = min(self._fresh_for, asker.terms.fresh_for)
        self._any_extra = self._any_extra or asker.terms.extra > 0
        if asker.mark > self.mark:
            self.mark = asker.mark
            if len(self.askers) > 1:
                # What the fast paths of the other guards know of the marks is outdated.
                SWITCH.turn()
        self.ledger.sole_spender = self.ledger.sole_spender or asker.sole_spender

    def _place(self, now: Instant, effects: Effects, ticket: Admission) -> None:
        asker = ticket.call.asker
        if asker.closed:  # since the caller looked
            ticket.settle(_closed(asker, ticket.call.operation))
            return
        self._last_asker = weakref.ref(asker)
        self.line.place(now, effects, ticket)

    def _place_reading(self, now: Instant, effects: Effects, reading: Reading) -> None:
        if reading.asker.closed:
            reading.settle(_closed(reading.asker, "balance()"))
            return
        self._last_asker = weakref.ref(reading.asker)
        self.line.place_reading(now, effects, reading)

    def _extend(
        self,
        now: Instant,
        effects: Effects,
        call: Call,
        entry: Entry,
        answer: list[BudgetGuardError | None],
    ) -> None:
        answer.append(self.line.extend(now, effects, call, entry))
        self._looks.want_again(call.asker.terms.recheck_after, now)

    def _refuse(self, now: Instant, effects: Effects, asker: Asker, lag: float) -> None:
        self._last_asker = weakref.ref(asker)
        self.ledger.refuse(now, lag)
        self._looks.want_again(asker.terms.recheck_after, now)
        self._tell_all(effects, "exhausted", now)
        self.line.review(now, effects)

    def _dismiss(self, now: Instant, effects: Effects, asker: Asker) -> None:
        self.line.dismiss(now, effects, asker, partial(_closed, asker))

    def _peek(self, now: Instant, _: Effects, asker: Asker, answer: list[float | None]) -> None:
        answer.append(self._available(now, asker))

    def _available(self, now: Instant, asker: Asker) -> float | None:
        look, terms = self.ledger.look, asker.terms
        known = look is not None and now.since(look.sent) <= terms.stale_for
        return self.ledger.available(terms.floor, terms.extra) if known else None

    def _abandon(self, now: Instant, effects: Effects, ticket: Ticket) -> bool:
        if isinstance(ticket, Admission) and ticket.opened is not None:
            return ticket.opened.release(now, effects, now.mono)
        self.line.leave(ticket)
        return False

    def _quiet(self, now: Instant, _: Effects, answer: list[bool]) -> None:
        ledger = self.ledger
        stamps = (ledger.settled.last_clears_at, ledger.kept.last_clears_at)
        young = any(stamp is not None and stamp > now.mono for stamp in stamps)
        answer.append(not (ledger.running or self.line.queue or self.line.readers or young))

    # Looks.

    def _plan(self, now: Instant, effects: Effects) -> None:
        """Start the look that is due, or set an alarm for what comes next."""
        if self.line.unsure and self._looks.callers_due <= now.mono:
            self.line.review(now, effects)
        due = self._looks.due(self._kept_due())
        if due <= now.mono:
            self._start_look(now, effects)
            due = LATER
        due = min(due, self.line.deadline)
        if due < self._alarm_at:
            self._alarm_at = due
            effects.append(partial(self._set_alarm, due))

    def _kept_due(self) -> float:
        """When to look for what a kept hold came to; not left to the next caller."""
        asker = self._an_asker()
        clears_at = self.ledger.kept.next_clears_at
        if asker is None or clears_at is None:
            return LATER
        return max(clears_at, self._looks.known.last_sent + asker.terms.recheck_after)

    def _start_look(self, now: Instant, effects: Effects) -> None:
        asker = self._an_asker()
        if asker is not None:
            flight = self._looks.next(asker, now)
            # In this order: a look that is under way and was never launched would be waited for.
            effects.append(partial(self._launch, flight))
            self._looks.begin(flight, now)

    def _begin_anew(self, now: Instant, effects: Effects) -> None:
        """A look was lost to a freeze, or to an interrupt before its launch: make it now.

        The provider is well, for all that is known, so there is no backoff, and nobody is told of a
        failure.
        """
        lost = self._looks.lost(now)
        assert lost is not None
        self._looks.drop(lost)
        self._start_look(now, effects)
        self.line.thaw(now, effects)

    def _an_asker(self) -> Asker | None:
        """On whose terms to look: the latest caller's, or those of any guard that is left."""
        asker = self._last_asker() if self._last_asker else None
        return asker or next(iter(self.askers), None)

    def _launch(self, flight: Flight) -> None:
        try:
            self.runtime.submit(partial(self._fly, flight))
        except Exception as error:  # noqa: BLE001  no file for a loop, no thread, no memory
            self._change(self._land, flight, not_made(error, flight.failures))

    async def _fly(self, flight: Flight) -> None:
        if flight is self._flown or not self._looks.awaits(flight):
            return
        self._flown = flight
        answer: Look | Failure
        try:
            from budgetguard.flight import Source, fly

            if self._source is None:
                self._source = Source(self.provider)
            sent = partial(self._change, self._sent, flight)
            timeout = flight.asker.terms.timeout
            answer = await fly(self._source, self.runtime, timeout, flight.failures, sent)
        except BaseException as error:
            if self.runtime.stopping:
                # At exit. Nobody is told: nothing is known to be wrong, and nobody will need it.
                self._change(self._drop, flight)
                raise
            answer = not_made(error, flight.failures)
        self._change(self._land, flight, answer)
        # Nobody awaits it any more, and it knows its guard.
        self._flown = None

    def _drop(self, _: Instant, __: Effects, flight: Flight) -> None:
        self._looks.drop(flight)

    def _sent(self, _: Instant, __: Effects, flight: Flight, at: Instant) -> None:
        self._looks.sent(flight, at)

    def _land(
        self, now: Instant, effects: Effects, flight: Flight, answer: "Look | Failure"
    ) -> None:
        if not self._looks.land(flight, answer, now):
            # Another look took its place. What it saw is true all the same, unless more is known.
            if isinstance(answer, Look) and self._apply(now, effects, answer):
                self.line.review(now, effects)
            return
        if isinstance(answer, Look):
            self._denied = False
            self._apply(now, effects, answer)
        else:
            self._tell_all(effects, "refresh_failed", now, answer.reason)
            if answer.denied and not self._denied:
                # No other try will help, and who reads refusals may be a model.
                self._denied = True
                warn = partial(logger.warning, "The balance at %s cannot be read: %s.")
                effects.append(partial(warn, flight.asker.provider, answer.reason))
        self.line.review(now, effects)

    def _offer(self, now: Instant, effects: Effects, credits: "Decimal", sent: Instant) -> None:
        at_hand = self.ledger.look
        # What else a look knows stays as it was; below a cost limit, that would be too old.
        if at_hand is None or at_hand.balance.cost_limit is not None:
            return
        balance = replace(at_hand.balance, credits=credits).sent_at(sent, self.runtime.clock)
        if self._apply(now, effects, Look.of(balance, sent)):
            self.line.came_along(now, effects)

    def _apply(self, now: Instant, effects: Effects, look: Look) -> bool:
        before = self.ledger.look
        if not self.ledger.apply(look):
            return False
        for asker in self.askers:
            asker.rearm(before, self.ledger.look)
        self._tell_all(effects, "refreshed", now, self._contradiction(effects))
        return True

    def _contradiction(self, effects: Effects) -> str | None:
        """What a look has to say against `sole_spender`, if anything; logged once."""
        look, asker = self.ledger.look, self._an_asker()
        if look is None or asker is None or not look.missing:
            return None
        reason = missing(asker, look)
        if not self._contradicted:
            self._contradicted = True
            effects.append(partial(logger.warning, "%s", reason))
        return reason

    def _set_alarm(self, at: float) -> None:
        try:
            self.runtime.call_at(at, partial(self._change, self._ring, at))
        except Exception:  # noqa: BLE001  no thread can be started: whoever waits looks after itself
            self._alarm_at = LATER

    def _ring(self, now: Instant, effects: Effects, at: float) -> None:
        if at == self._alarm_at:
            self._alarm_at = LATER
        self.line.expire(now, effects)

    # The quick way, and what is told.

    def _set_quick(self) -> None:
        """Say until when a caller of constant cost needs no decision, only enough room.

        `Ledger.room` knows neither extra credits below a cost limit nor caps, nobody goes past a
        queue unseen, and while a look is under way callers take the long way, which finds those
        who call from inside the library.
        """
        look = self.ledger.look
        plain = (
            look is not None
            and not (self.line.queue or self._looks.known.in_flight)
            and look.refused_until is None
            and look.cap == UNLIMITED
            and not (self._any_extra and look.ceiling != UNLIMITED)
        )
        if plain and look is not None:
            self.quick_mono = look.sent.mono + self._fresh_for
            self.quick_wall = self.young_wall = look.sent.wall + self._fresh_for
        else:
            self.quick_mono = self.quick_wall = self.young_wall = NEVER

    def _warn(self, now: Instant, effects: Effects) -> None:
        if self.ledger.look is not None:
            for asker in self.askers:
                if asker.falls_low(self.ledger):
                    asker.tell(effects, self.ledger, "low", now)

    def _tell_all(
        self, effects: Effects, kind: Kind, now: Instant, reason: str | None = None
    ) -> None:
        for asker in self.askers:
            asker.tell(effects, self.ledger, kind, now, reason=reason)


def _nothing(_: Instant, __: Effects) -> None:
    """Change nothing: what was posted is taken in anyway."""


def _closed(asker: Asker, operation: str) -> RuntimeError:
    msg = f"{operation} was waiting when the guard of {asker.provider} was closed."
    return RuntimeError(msg)
