"""The wait queue of one account: callers that wait for credits, slots or a refresh, in order of arrival.

Callers without a balance, callers about to be refused and callers with `wait` are in one queue, and
one function decides about them. Callers that only read the balance wait in a separate list. The
caller of these methods holds the account's lock; work for outside the lock is appended to `effects`.

After a refresh, every waiter is decided again. More frequent occasions (a call that finishes, a
waiter that leaves, a deadline, a balance carried by a response) cost time in proportion to the
waiters that they admit, not to the length of the queue: `QueueOrder` finds who could be next.
"""

import math
from dataclasses import replace
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, assert_never

from budgetguard._core.call_context import filled_up
from budgetguard._core.clock import Instant
from budgetguard._core.errors import BalanceUnavailable, BudgetExceeded, BudgetGuardError
from budgetguard._core.policy import (
    DRAWN,
    NOBODY,
    Admit,
    Decision,
    Draw,
    OverBudget,
    QueuedAhead,
    Refuse,
    Shortfall,
    Wait,
    decide,
    decide_reading,
    exceeded,
    possible,
    seems_exceeded,
    shortage,
    usable,
)
from budgetguard._core.queue_order import QueueOrder
from budgetguard._engine.hold import Hold, Owner
from budgetguard._engine.learned_hold import LearnedHold
from budgetguard._engine.refresh_schedule import LATER, RefreshSchedule
from budgetguard._engine.refusal_figures import budget_exceeded, unavailable, why_refused
from budgetguard._engine.subscriber import Call, Effects, HoldFigures, Subscriber
from budgetguard._engine.waiters import AdmissionWaiter, BalanceWaiter, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from budgetguard._core.allowance import Allowance
    from budgetguard._core.events import Kind
    from budgetguard._core.leased_ledger import AnyLedger


# Seconds. Wall times are rounded, so an alarm might ring a little before the budget renews, and must not
# be set for the same moment again.
_SHORTEST = 0.001

# The heap of deadlines may contain this many entries of waiters that are gone.
_GONE = 64


class WaitQueue:
    """The wait queue of one account, with access to its ledger and its refresh schedule."""

    def __init__(self, ledger: "AnyLedger", schedule: RefreshSchedule) -> None:
        self._order: QueueOrder[AdmissionWaiter] = QueueOrder()
        self.queue = self._order.waiting
        self.readers: dict[BalanceWaiter, None] = {}
        self.left = False
        # Whether a caller for whom a refresh may be due has left, so that it may not be due.
        self.outdated = False
        # Whether a shared head has to hear of the callers: one came whose needs only it may meet, or one
        # that it knew of no longer blocks those behind it.
        self.drawing = False
        # Whether a caller came behind one that needs the same and waits for the head's answer: it can wait too.
        self.gathering = False
        # The last of each kind that the head was told of and has not answered yet.
        self._asked: dict[tuple[object, ...], AdmissionWaiter] = {}
        # The waiters in budgets.
        self.bounded: dict[AdmissionWaiter, None] = {}
        # Wakes those that the change has decided about, for when its other effects are done.
        self.woken: Effects = []
        self._ledger = ledger
        self._schedule = schedule
        self._deadlines: list[tuple[float, int, Waiter]] = []
        self._numbers = count()
        self._tickets = count(1)

    @property
    def deadline(self) -> float:
        """When the next deadline of a waiter passes; a monotonic time."""
        deadlines = self._deadlines
        while deadlines and not self._waits(deadlines[0][2]):
            heappop(deadlines)
        return deadlines[0][0] if deadlines else LATER

    def place(self, now: Instant, effects: Effects, waiter: AdmissionWaiter) -> None:
        """Decide about a new caller, or append it to the queue."""
        if self._ledger.tightened and self.bounded:
            self._step_aside(now)
            if self.left:
                self.pass_on(now)
        self._decide(waiter, self._order.total, now, effects)
        if not waiter.done:
            call, counts = waiter.call, self._queues(waiter, now)
            ahead = self._order.total
            self._order.add(waiter, call.need, call.subscriber.terms, counts=counts)
            waiter.ticket = next(self._tickets)
            if call.need.bounded_here:
                self.bounded[waiter] = None
                # A call that ends without the lock wakes nobody if the queue is empty, so one may
                # have ended between the decision and now.
                self._decide_again(waiter, ahead, now)
            if not waiter.done:
                self._wait_until(waiter.deadline(now.mono), waiter)

    def place_reading(self, now: Instant, reading: BalanceWaiter) -> None:
        """Give a reader the cached balance, or let it wait for a refresh."""
        snapshot = self._ledger.snapshot
        if snapshot is not None and now.since(snapshot.sent) <= reading.max_age:
            reading.balance = snapshot.balance
            reading.settle()
            return
        if snapshot is not None:
            # After a suspend, a balance may be too old although few monotonic seconds have passed.
            reading.oldest = max(reading.oldest, math.nextafter(snapshot.sent.mono, LATER))
        self._decide_reading(reading, now)
        if not reading.done:
            self.readers[reading] = None
            self._wait_until(reading.give_up, reading)

    def thaw(self, now: Instant) -> None:
        """The process was frozen: waiters that slept with it get more time."""
        for waiter in self.queue:
            waiter.thaw(now.mono)
        for reading in self.readers:
            reading.thaw(now.mono)
        self.review(now)

    def dismiss(
        self,
        now: Instant,
        subscriber: Subscriber,
        why: "Callable[[str], RuntimeError]",
    ) -> None:
        """A guard was closed: each of its waiters gets the error that `why` makes for its operation."""
        for waiter in [each for each in self.queue if each.call.subscriber is subscriber]:
            self._remove(waiter)
            waiter.settle(why(waiter.call.operation))
            self.woken.append(waiter.wake)
        for reading in [each for each in self.readers if each.subscriber is subscriber]:
            del self.readers[reading]
            reading.settle(why("balance()"))
            self.woken.append(reading.wake)
        # The waiters behind them may fit now.
        self.review(now)

    def leave(self, waiter: Waiter) -> None:
        """A caller stopped waiting; the waiters behind it may fit now."""
        if isinstance(waiter, BalanceWaiter):
            self.readers.pop(waiter, None)
        elif isinstance(waiter, AdmissionWaiter) and self._remove(waiter):
            self._make_way()
        self.outdated = True
        if not (self.queue or self.readers):
            self._schedule.callers_due = LATER

    def _step_aside(self, now: Instant) -> None:
        """Calls took from budgets: who waits in one that has no room any more blocks nobody."""
        self._ledger.tightened = False
        for waiter in list(self.bounded):
            need = waiter.call.need
            if need.over is not None and exceeded(need, now) is not need.over.budget:
                # Its limit was changed.
                self._decide_again(waiter, self._order.ahead_of(waiter), now)
            elif self._order.counts(waiter) and not self._queues(waiter, now):
                self._order.count(waiter, counts=False)
                self.left = True

    def pass_on(self, now: Instant) -> None:
        """Credits or slots were freed: admit, in order, the waiters that fit now."""
        if self._ledger.tightened and self.bounded:
            self._step_aside(now)
        for waiter in self._order.firsts():
            ahead, call = self._order.ahead_of(waiter), waiter.call
            if waiter in self.bounded or self._fits(call, ahead, now) or not self._possible(call):
                self._decide_again(waiter, ahead, now)
        self.left = False

    def expire(self, now: Instant) -> None:
        """Decide about the waiters whose deadline has passed."""
        due: list[AdmissionWaiter] = []
        while self.deadline <= now.mono:
            waiter = heappop(self._deadlines)[2]
            if isinstance(waiter, AdmissionWaiter):
                due.append(waiter)
            elif isinstance(waiter, BalanceWaiter):
                self._read_again(waiter, now)
        for waiter in self._order.in_order(due):
            self._decide_again(waiter, self._order.ahead_of(waiter), now)
            if not waiter.done:
                self._wait_until(waiter.deadline(now.mono), waiter)
        if self.left:
            self.pass_on(now)

    def lacking(self, now: Instant) -> list[tuple[AdmissionWaiter, bool]]:
        """The waiters that lack what a shared head may have, in order; and whether they block others."""
        self.drawing = self.gathering = False
        self._asked.clear()
        found: list[tuple[AdmissionWaiter, bool]] = []
        ledger, ahead = self._ledger, NOBODY
        known = ledger.snapshot is not None and ledger.paused is None
        for waiter in self.queue:
            call, waiter.asked = waiter.call, None
            if not known:
                continue
            need, terms = call.need, call.subscriber.terms
            lacks = shortage(ledger, terms, need, ahead, now)
            if lacks in DRAWN and usable(ledger.snapshot, terms, now, need.arrived):
                waits = self._may_wait(waiter, now)
                # Who waits for a refresh alone has its answer, until that has come.
                if waits or need.refused_at != ledger.answers:
                    waiter.asked = waits
                    self._asked[_kind(call, counts=waits)] = waiter
                    found.append((waiter, waits))
            if self._order.counts(waiter):
                ahead = QueuedAhead(ahead.amount + need.from_account, ahead.slots + need.slots)
        return found

    def answered(
        self,
        now: Instant,
        granted: "Mapping[int, Sequence[Allowance]]",
        refused: "AbstractSet[int]",
        over: "Mapping[int, OverBudget | None]",
    ) -> None:
        """A shared head has added what some waiters lack to the lease, and refused others.

        Those `granted` count in these of its budgets' windows. Those `over` a budget are refused by it.
        """
        if not (granted or refused or over):
            return
        self._asked.clear()
        for waiter in list(self.queue):
            call, ticket = waiter.call, waiter.ticket
            if ticket in granted:
                windows = iter(granted[ticket])
                allowances = tuple(
                    next(windows) if each.shared else each.current(now)
                    for each in call.need.budgets
                )
                need = replace(call.need, granted=True, allowances=filled_up(allowances), over=None)
                waiter.call, waiter.asked = replace(call, need=need), None
                self._decide_again(waiter, NOBODY, now)
                if not waiter.done:
                    # Something else holds it up. What was granted is slack from here on.
                    waiter.call = call
            elif ticket in refused:
                need = replace(call.need, refused_at=self._ledger.answers)
                waiter.call, waiter.asked = replace(call, need=need), None
            elif ticket in over:
                waiter.call = replace(call, need=replace(call.need, over=over[ticket]))
                waiter.asked = None
                self.bounded[waiter] = None
                self._decide_again(waiter, self._order.ahead_of(waiter), now)
            elif waiter.asked is not None:
                self._asked[_kind(call, counts=waiter.asked)] = waiter

    def offered(self, now: Instant) -> None:
        """A response carried a balance: nobody requested it, but decisions may use it."""
        for reading in list(self.readers):
            self._read_again(reading, now)
        for waiter in self._order.in_order(self._order.uncounted):
            self._decide_again(waiter, self._order.ahead_of(waiter), now)
        self.pass_on(now)

    def review(self, now: Instant) -> None:
        """Decide again about every waiter."""
        self.left = self.outdated = False
        self._schedule.callers_due = LATER
        ahead = NOBODY
        for waiter in list(self.queue):
            self._decide_again(waiter, ahead, now)
            if not waiter.done and self._order.counts(waiter):
                need = waiter.call.need
                ahead = QueuedAhead(ahead.amount + need.from_account, ahead.slots + need.slots)
        # Every decision used the right sum, so no waiter is left that could now fit.
        self.left = False
        for reading in list(self.readers):
            self._read_again(reading, now)

    def extend(
        self, now: Instant, effects: Effects, call: Call, hold: Hold, account: Owner
    ) -> BudgetGuardError | AdmissionWaiter | None:
        """Hold more for an admitted call: behind all waiters, and on the cached balance.

        Returns what to wait for if a shared head may have what is not at hand.
        """
        call, decision = self._decide_extension(now, call, hold)
        if isinstance(decision, Wait | Draw) and self._ledger.shared:
            waiter = AdmissionWaiter(account, call, extends=hold)
            self.place(now, effects, waiter)
            return waiter
        error = None
        if isinstance(decision, Refuse):
            why = self._why(call, decision, self._order.total, now)
            self._report(call, decision, why, now, effects, hold.figures)
            if not call.subscriber.observes:
                error = why
        if error is None:
            self._ledger.extend(hold, call.need.cost)
        return error

    def grow(self, now: Instant, call: Call, hold: Hold) -> None:
        """Hold more for an admitted call if it fits, as `extend` does, but report no refusal.

        While the account is paused it always fits: nobody else is admitted meanwhile, and what a running
        call is expected to cost is as true as before.
        """
        if self._ledger.paused is not None:
            self._ledger.extend(hold, call.need.cost)
            return
        call, decision = self._decide_extension(now, call, hold)
        by_budget = isinstance(decision, Refuse) and decision.why is Shortfall.BUDGET
        if decision != Admit() and not by_budget:
            self._schedule.want_again(call.subscriber.terms.recheck_after, now)
        if isinstance(decision, Draw):
            left = self._ledger.available(call.subscriber.terms.floor, call.subscriber.terms.extra)
            fits = left - self._ledger.slack_elsewhere >= call.need.from_account
            fits = fits and seems_exceeded(call.need, now) is None
        else:
            fits = not isinstance(decision, Refuse)
        if fits or call.subscriber.observes:
            self._ledger.extend(hold, call.need.cost)

    def _decide_extension(self, now: Instant, call: Call, hold: Hold) -> tuple[Call, Decision]:
        decision = self._decision(call, self._order.total, now)
        snapshot, total = self._ledger.snapshot, hold.micro + call.need.cost
        if (
            snapshot is not None
            and decision in {Admit(), Admit(refresh=True), Draw()}
            and total > snapshot.cap
        ):
            # A cost limit for one call bounds the total that the call requests.
            call = replace(call, need=replace(call.need, amount=total))
            decision = Refuse(Shortfall.CAP, permanent=True)
        return call, decision

    def _remove(self, waiter: AdmissionWaiter) -> bool:
        """Take a waiter out of the queue; returns whether it blocked others."""
        self.bounded.pop(waiter, None)
        if waiter.asked is not None and waiter.hold is None:
            # The head still has its need, and lends nothing meanwhile.
            self.drawing = True
        return self._order.remove(waiter)

    def renewal(self, now: Instant) -> float:
        """When the next budget that somebody waits for renews; a monotonic time."""
        due = LATER
        for waiter in self.bounded:
            need = waiter.call.need
            budget = exceeded(need, now)
            if need.over is not None and budget is need.over.budget:
                due = min(due, need.over.until)
            elif budget is not None and (at := budget.renews_at(now)) is not None:
                due = min(due, now.mono + max(at - now.wall, _SHORTEST))
        return due

    def _waits(self, waiter: Waiter) -> bool:
        return waiter in self.queue or waiter in self.readers

    def _wait_until(self, at: float, waiter: Waiter) -> None:
        heappush(self._deadlines, (at, next(self._numbers), waiter))
        if len(self._deadlines) > 2 * (len(self.queue) + len(self.readers)) + _GONE:
            self._deadlines = [entry for entry in self._deadlines if self._waits(entry[2])]
            heapify(self._deadlines)

    def _fits(self, call: Call, ahead: QueuedAhead, now: Instant) -> bool:
        ledger, terms = self._ledger, call.subscriber.terms
        return bool(ledger.snapshot) and shortage(ledger, terms, call.need, ahead, now) is None

    def _possible(self, call: Call) -> bool:
        return possible(self._ledger, call.subscriber.terms, call.need)

    def _queues(self, waiter: AdmissionWaiter, now: Instant) -> bool:
        """Whether a waiter blocks those behind it.

        It does while it has time left, could fit, and its budgets have room for it.
        """
        return self._may_wait(waiter, now) and seems_exceeded(waiter.call.need, now) is None

    def _may_wait(self, waiter: AdmissionWaiter, now: Instant) -> bool:
        """The same, for a shared head, which decides by itself about its own budgets."""
        call = waiter.call
        in_time = now.mono < call.need.until
        return in_time and self._possible(call) and exceeded(call.need, now) is None

    def _decide_again(self, waiter: AdmissionWaiter, ahead: QueuedAhead, now: Instant) -> None:
        """Decide about a caller that is already waiting."""
        self._decide(waiter, ahead, now, waiter.effects)
        if waiter.done:
            if self._remove(waiter):
                self._make_way(admitted=waiter.hold is not None)
            self.woken.append(waiter.wake)
        elif self._order.count(waiter, counts=self._queues(waiter, now)):
            self._make_way()

    def _make_way(self, *, admitted: bool = False) -> None:
        """A waiter no longer blocks those behind it; a shared head has to hear so unless it let it in."""
        self.left = True
        self.drawing = self.drawing or (self._ledger.shared and not admitted)

    def _decide(
        self, waiter: AdmissionWaiter, ahead: QueuedAhead, now: Instant, effects: Effects
    ) -> None:
        call = waiter.call
        decision = self._decision(call, ahead, now)
        if isinstance(decision, Wait | Draw):
            if not self._impatient(waiter, decision, now):
                return
            call = self._as_it_is(call, decision, ahead, now)
            decision = self._decision(call, ahead, now)
        match decision:
            case Admit(refresh, unknown):
                hold = self._open(waiter, now)
                if refresh:
                    self._schedule.want(now.mono)
                kind: Kind = "allowed_unknown" if unknown else "admitted"
                call.emit(effects, self._ledger, kind, now, call.need.cost, hold)
            case Refuse():
                why = self._why(call, decision, ahead, now)
                figures = None
                if call.subscriber.observes:
                    figures = self._open(waiter, now)
                else:
                    waiter.settle(why)
                self._report(call, decision, why, now, effects, figures)
            case Wait() | Draw():
                raise AssertionError(decision)
            case _:
                assert_never(decision)

    def _impatient(self, waiter: AdmissionWaiter, decision: Wait | Draw, now: Instant) -> bool:
        """Whether a caller has to be decided about now; otherwise, plan what it waits for.

        In observe mode nobody waits, and who extends a hold waits for no refresh.
        """
        if waiter.call.subscriber.observes:
            return True
        if isinstance(decision, Draw):
            waits = self._may_wait(waiter, now)
            if waiter.asked is None and self._is_behind_its_like(waiter, counts=waits):
                self.gathering = True
            elif waiter.asked != waits:
                self.drawing = True
        elif waiter.extends is not None:
            return True
        else:
            self._schedule.due_for_callers(decision.refresh_at)
        return False

    def _is_behind_its_like(self, waiter: AdmissionWaiter, *, counts: bool) -> bool:
        """Whether one that needs the same waits for the head's answer."""
        like = self._asked.get(_kind(waiter.call, counts=counts))
        return like is not None and like.asked is not None and not like.done

    def _as_it_is(
        self, call: Call, decision: Wait | Draw, ahead: QueuedAhead, now: Instant
    ) -> Call:
        """The call, to be decided on what is known, while a refresh may run behind it."""
        ledger, need, terms = (
            self._ledger,
            replace(call.need, give_up=now.mono),
            call.subscriber.terms,
        )
        if isinstance(decision, Wait):
            self._schedule.want(decision.refresh_at)
        elif ledger.snapshot is not None:
            # The head is not asked, but what it last said is enough to tell what it would say.
            left = ledger.available(terms.floor, terms.extra) - ledger.queued - ahead.amount
            slots = ledger.snapshot.slots - ledger.slots_in_use - ledger.queued_slots - ahead.slots
            need = replace(need, granted=left >= need.from_account and slots >= need.slots)
            budget = seems_exceeded(need, now)
            if budget is not None:
                over = OverBudget(budget, LATER, budget.current(now).limit)
                need = replace(need, over=over)
        return replace(call, need=need)

    def _decision(self, call: Call, ahead: QueuedAhead, now: Instant) -> Decision:
        return decide(
            self._ledger, self._schedule.known, call.subscriber.terms, call.need, ahead, now
        )

    def _open(self, waiter: AdmissionWaiter, now: Instant) -> HoldFigures:
        call = waiter.call
        if waiter.extends is not None:
            self._ledger.extend(waiter.extends, call.need.cost)
            if call.need.draws:
                # Not before: had a budget refused it, no balance would have changed that.
                self._schedule.want_again(call.subscriber.terms.recheck_after, now)
            waiter.settle()
            return waiter.extends.figures
        kind = Hold if call.sample is None else partial(LearnedHold, call.sample)
        hold = kind(
            waiter.account,
            call.subscriber,
            call.operation,
            self._ledger,
            call.need.cost,
            call.need.slots,
            call.lag,
            call.linger,
            call.release_on,
            now.mono,
            call.context,
        )
        if call.context is not None:
            allowances = call.need.allowances or call.context.of_call(now)
            hold.allowances, hold.reserve = allowances, call.need.reserve
        waiter.hold = hold
        self._ledger.open(hold)
        waiter.settle()
        return hold.figures

    def _why(
        self, call: Call, refuse: Refuse, ahead: QueuedAhead, now: Instant
    ) -> BudgetGuardError:
        why: BudgetGuardError
        known = self._ledger.snapshot is not None or refuse.why is Shortfall.PAUSED
        if refuse.why is Shortfall.BUDGET:
            why = budget_exceeded(call, now)
        elif refuse.why is Shortfall.UNKNOWN or not known:
            why = self._unavailable(call.subscriber, now)
        else:
            why = why_refused(self._ledger, self._schedule.known, call, refuse, ahead, now)
        if call.context is not None and call.context.labels:
            why.labels = call.context.labels
        return why

    def _report(
        self,
        call: Call,
        refuse: Refuse,
        why: BudgetGuardError,
        now: Instant,
        effects: Effects,
        hold: HoldFigures | None,
    ) -> None:
        """Tell of a refusal."""
        budget = why.budget if isinstance(why, BudgetExceeded) else None
        cause = refuse.why.value
        call.emit(effects, self._ledger, "refused", now, hold=hold, cause=cause, budget=budget)
        call.subscriber.log_refused(effects, why)

    def _unavailable(self, subscriber: Subscriber, now: Instant) -> BalanceUnavailable:
        wait = max(self._schedule.known.blocked_until - now.mono, 0.0)
        without = self._ledger.headless(now.mono)
        if without is not None:
            return BalanceUnavailable(subscriber.provider, *without)
        return unavailable(subscriber, self._schedule.failure, wait)

    def _read_again(self, reading: BalanceWaiter, now: Instant) -> None:
        self._decide_reading(reading, now)
        if reading.done:
            del self.readers[reading]

    def _decide_reading(self, reading: BalanceWaiter, now: Instant) -> None:
        snapshot = self._ledger.snapshot
        decision = decide_reading(
            snapshot, self._schedule.known, reading.oldest, reading.give_up, now
        )
        match decision:
            case Wait(refresh_at):
                self._schedule.due_for_callers(refresh_at)
                return
            case Refuse():
                reading.settle(self._unavailable(reading.subscriber, now))
            case Draw():
                raise AssertionError(decision)
            case Admit():
                assert snapshot is not None
                reading.balance = snapshot.balance
                reading.settle()
            case _:
                assert_never(decision)
        self.woken.append(reading.wake)


def _kind(call: Call, *, counts: bool) -> tuple[object, ...]:
    """Equal for callers that a shared head gives the same answer, if the one behind is not admitted first."""
    need, terms = call.need, call.subscriber.terms
    amounts = (need.from_account, need.amount, need.cost, need.slots)
    return (*amounts, terms.floor, terms.extra, counts, need.budgets)
