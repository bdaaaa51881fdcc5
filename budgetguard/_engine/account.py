"""One account in this process: its ledger, its refresh schedule and its wait queue, under one short lock.

Every change follows the same sequence. Under the lock, it makes the posted changes, changes the
ledger, decides about the waiters, and plans the next refresh. Then, outside the lock, it carries out
the resulting effects: wake a caller, start a fetch, set an alarm, deliver an event. Nothing under the
lock does I/O or calls a user's code.

When a call finishes, the change is *posted* instead of made on the spot: appending to a deque is safe
in a finalizer or a signal handler, where acquiring the lock could wait for the same thread that was
interrupted. Anything else that a handler or a finalizer requests in the middle of a change is posted
too, answered from the current state, or refused: see `_change`.
"""

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from budgetguard._core.amounts import UNLIMITED
from budgetguard._core.call_context import context_of
from budgetguard._core.clock import SYSTEM, Clock, Instant
from budgetguard._core.errors import ApprovalDenied, BudgetExceeded, BudgetGuardError
from budgetguard._core.events import Kind, logger, report
from budgetguard._core.keyed_budgets import KeyedBudgets
from budgetguard._core.labels import Labels
from budgetguard._core.other_spenders import SoleSpender
from budgetguard._core.pause import PausedBy, note_name
from budgetguard._core.policy import NEVER
from budgetguard._core.provider_refusal import ProviderRefusal
from budgetguard._core.reentrancy import CHANGING, forbid_waiting, interrupting
from budgetguard._core.refresh_failure import not_made
from budgetguard._engine.hold import Hold
from budgetguard._engine.known_costs import KnownCosts
from budgetguard._engine.refresh_schedule import LATER, Refresh, RefreshSchedule
from budgetguard._engine.subscriber import Call, Effects, Subscriber
from budgetguard._engine.wait_queue import WaitQueue
from budgetguard._engine.waiters import AdmissionWaiter, BalanceWaiter, Waiter

if TYPE_CHECKING:
    from decimal import Decimal

    from budgetguard._core.drawn_budgets import DrawnBudgets
    from budgetguard._core.leased_ledger import AnyLedger
    from budgetguard._core.refresh_failure import Failure
    from budgetguard._core.snapshot import BalanceSnapshot, Micro
    from budgetguard._engine.follower import Follower
    from budgetguard._io.loop import Runtime
    from budgetguard._io.pause_watch import PauseWatch
    from budgetguard.providers.base import Profile


P = ParamSpec("P")
R = TypeVar("R")

KEY_LIMIT_REACHED = "the provider refused a call because of a limit of this key's own"

Change: TypeAlias = Callable[Concatenate[Instant, Effects, P], R]
"""A change to an account: a method that is given the time and a list to append its effects to."""


class Account:
    """The state that all guards of one account share. Its public methods are thread-safe."""

    def __init__(
        self, provider: "Profile", runtime: "Runtime", find_runtime: "Callable[[], Runtime]"
    ) -> None:
        self.provider = provider
        self._find_runtime = find_runtime
        self.subscribers: weakref.WeakSet[Subscriber] = weakref.WeakSet()
        # Not reset by a fork: what calls cost is as true in the child.
        self.costs = KnownCosts()
        self.joining = 0
        self.note_name = note_name(provider.fingerprint) if provider.fingerprint else ""
        self._fresh_for = LATER
        self._any_extra = False
        self._alerts = False
        self.mark: Micro = NEVER
        self.ledger: AnyLedger = self._new_ledger()
        self._runtime: Runtime | None
        self.forget()
        self._runtime = runtime
        self._use(runtime.clock)

    def forget(self) -> None:
        """Reset: no balance, no holds, no waiters. Open holds end in the old ledger."""
        self.lock = threading.RLock()
        # A child of a paused parent admits nothing either. It checks for a file by itself.
        reason = self.ledger.reason_of("guard")
        self.ledger = self._new_ledger()
        self.ledger.pause("guard", reason)
        self.watched = False
        self._watch: PauseWatch | None = None
        # A child counts its own spending alone, as each process does.
        self.keyed_budgets = self._new_keyed_budgets()
        for subscriber in self.subscribers:
            self._rejoin(subscriber)
        self.fresh_until_mono = self.fresh_until_wall = self.checks_until_wall = NEVER
        self._posts: deque[Callable[[Instant, Effects], object]] = deque()
        self._contradicted = False
        self._denied = False
        self._schedule = RefreshSchedule()
        self.wait_queue = WaitQueue(self.ledger, self._schedule)
        self.queue = self.wait_queue.queue
        self._source: Any = None
        self.followers: dict[str, Follower] = {}
        self._fetched: Refresh | None = None
        self._alarm_at = LATER
        self._runtime = None
        self._use(SYSTEM)
        self._last_subscriber: weakref.ref[Subscriber] | None = None
        for subscriber in self.subscribers:
            subscriber.close_fast_path()

    # What depends on where the head is.

    def _new_ledger(self) -> "AnyLedger":
        raise NotImplementedError

    def _new_keyed_budgets(self) -> "KeyedBudgets | DrawnBudgets":
        return KeyedBudgets()

    def _rejoin(self, subscriber: Subscriber) -> None:
        """In a forked child: a guard of the parent is one of the child's, too."""
        # Its parent and siblings spend too, so True no longer holds.
        if subscriber.sole_spender is False:
            self._believe(False)

    def expect(self, patience: float) -> None:
        """Some calls may be charged for so many seconds after they were abandoned."""

    def _believe(self, setting: SoleSpender) -> None:
        """Combine what one more guard says of other spenders."""
        raise NotImplementedError

    def _exhaust(self, now: Instant, effects: Effects, lag: float) -> str | None:
        """The provider refused a call for lack of credits; returns what that says about other spenders."""
        raise NotImplementedError

    def _offer(self, now: Instant, effects: Effects, credits: "Decimal", sent: Instant) -> None:
        """A response carried the balance."""
        raise NotImplementedError

    def _land(
        self, now: Instant, effects: Effects, refresh: Refresh, answer: "BalanceSnapshot | Failure"
    ) -> None:
        """A refresh that this process made has ended."""
        raise NotImplementedError

    @property
    def runtime(self) -> "Runtime":
        """The runtime of this process; found again after a fork."""
        runtime = self._runtime
        if runtime is None:
            runtime = self._runtime = self._find_runtime()
            self._use(runtime.clock)
        return runtime

    @property
    def follower(self) -> "Follower | None":
        """What follows submitted work in this process, once there is some."""
        return self.followers.get("here")

    def _use(self, clock: Clock) -> None:
        # Attributes of the account, because every call reads them.
        self.monotonic, self.wall = clock.monotonic, clock.wall

    def join(self, subscriber: Subscriber) -> None:
        """Add a guard to the account."""
        self._change(self._join, subscriber)

    # Requests from callers.

    def ask(self, call: Call) -> AdmissionWaiter:
        """Decide about a call, or enqueue it; raises RuntimeError inside the library's own callbacks."""
        forbid_waiting(call.operation)
        waiter = AdmissionWaiter(self, call)
        try:
            self._change(self._place, waiter)
        except BaseException:
            # Interrupted, for example while it started a refresh: it may be queued, or admitted.
            self.abandon(waiter)
            raise
        return waiter

    def read(self, subscriber: Subscriber, max_age: float) -> BalanceWaiter:
        """A balance that is at most `max_age` seconds old, or the wait for one."""
        snapshot = self.ledger.snapshot
        if snapshot is not None and get_ident() in CHANGING:
            now = self.runtime.clock.now()
            if now.since(snapshot.sent) <= max_age:
                reading = BalanceWaiter(subscriber, max_age, now.mono)
                reading.balance = snapshot.balance
                reading.settle()
                return reading
        forbid_waiting("balance()")
        reading = BalanceWaiter(subscriber, max_age, self.runtime.clock.monotonic())
        try:
            self._change(self._place_reading, reading)
        except BaseException:
            self.abandon(reading)
            raise
        return reading

    def extend(self, call: Call, hold: Hold) -> BudgetGuardError | AdmissionWaiter | None:
        """Hold more for an open call, deciding on the cached balance; starts a refresh.

        Returns the error if it was refused, and what to wait for if another head decides.
        """
        forbid_waiting(call.operation)
        return self._change(self._extend, call, hold)

    def change(self, act: "Change[P, R]", *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a change and return its result; raises RuntimeError in code that interrupted another one."""
        if get_ident() in CHANGING:
            raise RuntimeError(interrupting("A budget"))
        result = self._change(act, *args, **kwargs)
        assert result is not None
        return result

    def refuse(self, subscriber: Subscriber, refusal: ProviderRefusal, lag: float) -> None:
        """The provider itself refused a call."""
        if refusal.kind != "not_credits":
            self._change(self._refuse, subscriber, refusal, lag)

    def deny(self, subscriber: Subscriber, error: ApprovalDenied, cost: int) -> None:
        """Somebody was asked about a call of `cost` micro-credits and said no: report it as refused."""
        self._change(self._deny, subscriber, error, cost)

    def offer(self, credits: "Decimal", sent: Instant) -> None:
        """A response carried the balance; its request was sent at that moment."""
        self._change(self._offer, credits, sent)

    def pause(self, by: PausedBy, reason: str | None) -> None:
        """Admit nothing from now on, for that reason; with None, as far as they are concerned, admit again."""
        self._change(self._pause, by, reason)

    def peek(self, subscriber: Subscriber) -> float | None:
        """Micro-credits that are available now; None while unknown."""
        if get_ident() in CHANGING:
            return self._available(self.runtime.clock.now(), subscriber)
        return self._change(self._peek, subscriber)

    def abandon(self, waiter: Waiter) -> None:
        """A caller stopped waiting: it leaves the queue, and a hold that it was granted is released."""
        self.post_later(self._abandon, waiter)

    def dismiss(self, subscriber: Subscriber) -> None:
        """A guard was closed: it admits no more calls, and its waiters get an error."""
        subscriber.closed = True
        subscriber.close_fast_path()
        self._change(self._dismiss, subscriber)
        if self.follower is not None:
            self.follower.leave(subscriber)

    def overdue(self) -> None:
        """Decide about waiters whose deadline has passed; called by one that was not woken in time."""
        self._change(self._expire)

    def retire(self) -> None:
        """Nobody in this process uses the account any more."""

    def quiet(self) -> bool:
        """Whether the account can be dropped: no hold, waiter, debit, proof or pause would be lost."""
        if get_ident() in CHANGING:
            return False
        return self._change(self._quiet) is True

    # Posting, for calls that finish.

    def post(self, change: "Change[P, bool]", *args: P.args, **kwargs: P.kwargs) -> None:
        """Make a change now, or leave it to the change that this same thread is in the middle of."""
        self._posts.append(_bound(change, args, kwargs))
        self.flush()

    def post_later(self, change: "Change[P, bool]", *args: P.args, **kwargs: P.kwargs) -> None:
        """Leave a change to the private loop, or to the next caller; for use in finalizers."""
        self._posts.append(_bound(change, args, kwargs))
        runtime = self._runtime
        if runtime is not None:
            runtime.nudge(self.flush)

    def flush_soon(self) -> None:
        """Have the private loop, which no signal interrupts, make everything that was posted."""
        runtime = self._runtime
        if runtime is None or not runtime.nudge(self.flush):
            self.flush()

    def flush(self) -> None:
        """Make everything that was posted, unless this same thread is about to."""
        if CHANGING.get(get_ident()) is not self:
            self._change(_nothing)

    # The sequence of a change.

    def _change(self, act: "Change[P, R]", *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Make a change and return its result; None where it has to be posted."""
        me = get_ident()
        if me in CHANGING:
            # The interrupted code holds a lock, and another thread that has ours may wait for it.
            self._posts.append(_bound(act, args, kwargs))
            if CHANGING[me] is not self:
                self.runtime.nudge(self.flush)
            return None
        effects: Effects = []
        launches: Effects = []
        clock = self.runtime.clock
        try:
            try:
                # Before the lock is acquired: a handler must not find it locked with no entry here.
                CHANGING[me] = self
                with self.lock:
                    self.fresh_until_wall = NEVER
                    now = clock.now()
                    freed = self._take_in(now, effects)
                    if self._schedule.lost(now) is not None:
                        self._replace_lost(now, launches)
                    waiting = self.wait_queue
                    if (freed or waiting.left or waiting.bounded) and waiting.queue:
                        waiting.pass_on(now)
                    result = act(now, effects, *args, **kwargs)
                    self._plan(now, launches)
                    self._set_fresh_until(now.mono)
                    if self._alerts or self.wait_queue.woken:
                        self._finish(now, effects)
            finally:
                try:
                    if launches:
                        # Still marked: a handler would wait for what its own thread has to launch.
                        self._carry_out(launches)
                finally:
                    if me in CHANGING:  # a fork may have cleared it
                        del CHANGING[me]
        finally:
            if effects:
                self._carry_out(effects)
        if self._posts:
            self.flush()
        return result

    def _carry_out(self, effects: Effects) -> None:
        done = 0
        try:
            for effect in effects:
                effect()
                done += 1
        except BaseException:
            # Interrupted: the effect that had begun may be carried out twice, which is harmless.
            self._carry_out_later(effects[done:])
            raise

    def _carry_out_later(self, effects: Effects) -> None:
        def carry_out() -> None:
            for effect in effects:
                try:
                    effect()
                except BaseException:  # noqa: BLE001  such as a log handler's; the others must still run
                    report("Reporting the outcome of a call failed", exc_info=True)

        if not self.runtime.nudge(carry_out):
            carry_out()

    def _take_in(self, now: Instant, effects: Effects) -> bool:
        posts, freed = self._posts, self.ledger.record_ends()
        while posts:
            freed = posts.popleft()(now, effects) is True or freed
        return freed

    # The changes that `_change` can make; each runs under the lock.

    def _join(self, now: Instant, effects: Effects, subscriber: Subscriber) -> None:
        del now, effects
        self.subscribers.add(subscriber)
        self._fresh_for = min(self._fresh_for, subscriber.terms.fresh_for)
        self._any_extra = self._any_extra or subscriber.terms.extra > 0
        if subscriber.marks:
            self._alerts = True
            self._set_mark()
        self._believe(subscriber.sole_spender)

    def _place(self, now: Instant, effects: Effects, waiter: AdmissionWaiter) -> None:
        subscriber = waiter.call.subscriber
        if subscriber.closed:  # since the caller checked
            waiter.settle(_closed(subscriber, waiter.call.operation))
            return
        self._last_subscriber = weakref.ref(subscriber)
        self.wait_queue.place(now, effects, waiter)

    def _place_reading(self, now: Instant, _: Effects, reading: BalanceWaiter) -> None:
        if reading.subscriber.closed:
            reading.settle(_closed(reading.subscriber, "balance()"))
            return
        self._last_subscriber = weakref.ref(reading.subscriber)
        self.wait_queue.place_reading(now, reading)

    def _extend(
        self, now: Instant, effects: Effects, call: Call, hold: Hold
    ) -> BudgetGuardError | AdmissionWaiter | None:
        error = self.wait_queue.extend(now, effects, call, hold, self)
        # No balance would change what a budget or a pause refused, or a shared head's budget may refuse.
        asked = isinstance(error, AdmissionWaiter) and call.need.draws
        if not (asked or isinstance(error, BudgetExceeded)) and self.ledger.paused is None:
            self._schedule.want_again(call.subscriber.terms.recheck_after, now)
        return error

    def _refuse(
        self,
        now: Instant,
        effects: Effects,
        subscriber: Subscriber,
        refusal: ProviderRefusal,
        lag: float,
    ) -> None:
        self._last_subscriber = weakref.ref(subscriber)
        ledger, terms = self.ledger, subscriber.terms
        if refusal.kind == "busy":
            ledger.busy(now.mono + refusal.pause())
            self._emit_all(effects, "busy", now)
        elif refusal.kind == "key_limit":
            ledger.limit_key(terms.credential, now.mono + refusal.pause(), now.mono)
            self._schedule.want_again(terms.recheck_after, now)
            for each in self.subscribers:
                if each.terms.credential == terms.credential:
                    each.emit(effects, self.ledger, "exhausted", now, reason=KEY_LIMIT_REACHED)
        else:
            reason = self._exhaust(now, effects, lag)
            self._schedule.want_again(terms.recheck_after, now)
            self._emit_all(effects, "exhausted", now, reason)
        self.wait_queue.review(now)

    def _deny(
        self,
        now: Instant,
        effects: Effects,
        subscriber: Subscriber,
        error: ApprovalDenied,
        cost: int,
    ) -> None:
        subscriber.log_refused(effects, error)
        context = context_of(self)
        subscriber.emit(
            effects,
            self.ledger,
            "refused",
            now,
            error.operation,
            cost,
            labels=Labels(error.labels),
            budget=None if context is None else context.budget_name,
            cause="approval",
        )

    def _pause(self, now: Instant, effects: Effects, by: PausedBy, reason: str | None) -> None:
        ledger = self.ledger
        before = ledger.paused
        ledger.pause(by, reason)
        if (before is None) == (ledger.paused is None):
            return
        kind: Kind = "resumed" if ledger.paused is None else "paused"
        level = logging.INFO if ledger.paused is None else logging.WARNING
        self._emit_all(effects, kind, now, ledger.paused or before)
        said = partial(logger.log, level, "The account at %s is %s: %s")
        effects.append(partial(said, self.provider.name, kind, ledger.paused or before))
        self.wait_queue.review(now)

    def _dismiss(self, now: Instant, _: Effects, subscriber: Subscriber) -> None:
        self.wait_queue.dismiss(now, subscriber, partial(_closed, subscriber))

    def _peek(self, now: Instant, _: Effects, subscriber: Subscriber) -> float | None:
        return self._available(now, subscriber)

    def _available(self, now: Instant, subscriber: Subscriber) -> float | None:
        snapshot, terms = self.ledger.snapshot, subscriber.terms
        known = snapshot is not None and now.since(snapshot.sent) <= terms.stale_for
        return self.ledger.available(terms.floor, terms.extra) if known else None

    def _expire(self, now: Instant, _: Effects) -> None:
        self.wait_queue.expire(now)

    def _abandon(self, now: Instant, effects: Effects, waiter: Waiter) -> bool:
        if isinstance(waiter, AdmissionWaiter):
            effects += waiter.effects
        if isinstance(waiter, AdmissionWaiter) and waiter.hold is not None:
            return waiter.hold.record_released(now, effects, now.mono)
        self.wait_queue.leave(waiter)
        return False

    def _quiet(self, now: Instant, effects: Effects) -> bool:
        del effects
        ledger = self.ledger
        stamps = (ledger.settled.last_clears_at, ledger.kept.last_clears_at)
        young = any(stamp is not None and stamp > now.mono for stamp in stamps)
        waiting = self.wait_queue.queue or self.wait_queue.readers
        busy = ledger.running or waiting or young or ledger.distrusts(now.mono)
        lasting = ledger.reason_of("guard") is not None or not self.keyed_budgets.quiet(now)
        return not (busy or lasting)

    # Refreshes.

    def _plan(self, now: Instant, launches: Effects) -> None:
        """Start the refresh that is due, or set an alarm for whatever is due next."""
        while self.ledger.tightened and self.wait_queue.bounded:
            # This change took from budgets: who waits in one that has no room any more blocks nobody.
            self.wait_queue.pass_on(now)
        if self.wait_queue.outdated and self._schedule.callers_due <= now.mono:
            self.wait_queue.review(now)
        due = self._schedule.due(self._kept_due())
        if due <= now.mono:
            self._start_refresh(now, launches)
            due = LATER
        due = min(due, self.wait_queue.deadline, self._busy_until(now))
        if self.wait_queue.bounded:
            due = min(due, self.wait_queue.renewal(now))
        if due < self._alarm_at:
            self._alarm_at = due
            launches.append(partial(self._set_alarm, due))
        watch = self._watch
        if watch is not None and watch.lapsed(self, now.mono):
            launches.append(partial(watch.check_soon, self))

    def _busy_until(self, now: Instant) -> float:
        """When the provider is no longer busy, if somebody waits for that."""
        until = self.ledger.busy_until
        return until if self.wait_queue.queue and until > now.mono else LATER

    def _kept_due(self) -> float:
        """When a refresh is due that resolves a kept hold; it does not wait for the next caller."""
        clears_at = self.ledger.kept.next_clears_at
        subscriber = None if clears_at is None else self._a_subscriber()
        if subscriber is None or clears_at is None:
            return LATER
        return max(clears_at, self._schedule.known.last_sent + subscriber.terms.recheck_after)

    def _start_refresh(
        self, now: Instant, launches: Effects, *, after_freeze: bool = False
    ) -> None:
        subscriber = self._a_subscriber()
        if subscriber is not None:
            refresh = self._schedule.next(subscriber, now, after_freeze=after_freeze)
            # In this order: callers would wait for a refresh that has begun but was never launched.
            launches.append(partial(self._launch, refresh))
            self._schedule.begin(refresh, now)

    def _replace_lost(self, now: Instant, launches: Effects) -> None:
        """A refresh was lost to a freeze, or to an interrupt before its launch: start another one.

        Nothing indicates that the provider failed, so there is no backoff and no failure is reported.
        """
        lost = self._schedule.lost(now)
        assert lost is not None
        self._schedule.drop(lost)
        self._start_refresh(now, launches, after_freeze=True)
        self.wait_queue.thaw(now)

    def _a_subscriber(self) -> Subscriber | None:
        """The guard whose settings a refresh uses: the latest caller's, or any that is left."""
        subscriber = self._last_subscriber() if self._last_subscriber else None
        return subscriber or next(iter(self.subscribers), None)

    def _launch(self, refresh: Refresh) -> None:
        try:
            self.runtime.submit(partial(self._fetch, refresh))
        except Exception as error:  # noqa: BLE001  no file for a loop, no thread, no memory
            self._change(self._land, refresh, not_made(error, refresh.failures))

    async def _fetch(self, refresh: Refresh) -> None:
        if refresh is self._fetched or not self._schedule.awaits(refresh):
            return
        self._fetched = refresh
        watch = self.runtime.pause_watch
        if watch is not None and self.note_name:
            # Before there is a balance to decide on: no call may be admitted before the first check.
            watch.check(self)
            self._watch = watch
        answer: BalanceSnapshot | Failure
        try:
            from budgetguard._io.refresh_attempts import Source, fetch_balance

            if self._source is None:
                its = self.provider
                self._source = Source(
                    its.source, its.name, fetches=its.fetches, trust_env=its.trust_env
                )

            def sent(at: Instant) -> None:
                self._change(self._sent, refresh, at)

            timeout = refresh.subscriber.terms.timeout
            answer = await fetch_balance(
                self._source,
                self.runtime,
                timeout,
                refresh.failures,
                sent,
                after_freeze=refresh.after_freeze,
            )
        except BaseException as error:
            if self.runtime.stopping:
                # At exit: no failure is reported, because none is known and no caller needs it.
                self._change(self._drop, refresh)
                raise
            answer = not_made(error, refresh.failures)
        self._change(self._land, refresh, answer)
        # It refers to its guard, and must not keep it alive.
        self._fetched = None

    def _drop(self, _: Instant, __: Effects, refresh: Refresh) -> None:
        self._schedule.drop(refresh)

    def _sent(self, _: Instant, __: Effects, refresh: Refresh, at: Instant) -> None:
        self._schedule.sent(refresh, at)

    def _tell_failure(
        self, now: Instant, effects: Effects, refresh: Refresh, failure: "Failure"
    ) -> None:
        self._emit_all(effects, "refresh_failed", now, failure.reason)
        if failure.denied and not self._denied:
            # Retrying does not help, and the reader of the refusals may be a language model.
            self._denied = True
            warn = partial(logger.warning, "The balance at %s is not available: %s.")
            effects.append(partial(warn, refresh.subscriber.provider, failure.reason))

    def _set_alarm(self, at: float) -> None:
        try:
            self.runtime.call_at(at, lambda: self._change(self._ring, at))
        except Exception:  # noqa: BLE001  no thread can be started: waiters check their own deadlines
            self._alarm_at = LATER

    def _ring(self, now: Instant, _: Effects, at: float) -> None:
        if at == self._alarm_at:
            self._alarm_at = LATER
        self.wait_queue.expire(now)
        if at <= self.ledger.busy_until <= now.mono or self.wait_queue.bounded:
            self.wait_queue.review(now)

    # What the watch for pause files sees of an account.

    @property
    def guarded(self) -> bool:
        """Whether the account has guards."""
        return len(self.subscribers) > 0

    @property
    def heard(self) -> str | None:
        """The reason in the file that pauses this account, as it was last heard."""
        return self.ledger.reason_of("command")

    def hear(self, reason: str | None) -> None:
        """The file that pauses this account is there, for that reason; None: it is not."""
        self.pause("command", reason)

    # The fast path, and alerts.

    def _set_fresh_until(self, now: float) -> None:
        """Set until when a call needs no decision, only enough room.

        `Ledger.room` accounts for neither extra credits below a cost limit nor caps, nor for what the
        provider refuses although there is room. No call may pass the wait queue undecided. While a refresh is in flight every call is decided, which detects
        calls that were made from inside the library.
        """
        snapshot = self.ledger.snapshot
        plain = (
            snapshot is not None
            and not (self.wait_queue.queue or self._schedule.known.in_flight)
            and snapshot.refused_until is None
            and snapshot.cap == UNLIMITED
            and self.ledger.paused is None
            and not self.ledger.any_limited(now)
            and not (self._any_extra and snapshot.ceiling != UNLIMITED)
        )
        if plain and snapshot is not None:
            self.fresh_until_mono = snapshot.sent.mono + self._fresh_for
            self.fresh_until_wall = self.checks_until_wall = snapshot.sent.wall + self._fresh_for
        else:
            self.fresh_until_mono = self.fresh_until_wall = self.checks_until_wall = NEVER

    def _finish(self, now: Instant, effects: Effects) -> None:
        """Alert the guards that fell low, then wake callers: one that is awake may return at once."""
        told = False
        if self.ledger.snapshot is not None:
            for subscriber in self.subscribers:
                for reason in subscriber.falls_low(self.ledger):
                    subscriber.emit(effects, self.ledger, "low", now, reason=reason)
                    told = True
        if told:
            self._set_mark()
        effects += self.wait_queue.woken
        self.wait_queue.woken.clear()

    def _set_mark(self) -> None:
        """Set the highest armed alert mark of all guards, which calls on the fast path must not cross."""
        mark = max((each.mark for each in self.subscribers), default=NEVER)
        if mark != self.mark:
            self.mark = mark
            # The fast paths were opened for the old mark.
            for each in self.subscribers:
                each.close_fast_path()

    def _emit_all(
        self, effects: Effects, kind: Kind, now: Instant, reason: str | None = None
    ) -> None:
        for subscriber in self.subscribers:
            subscriber.emit(effects, self.ledger, kind, now, reason=reason)


def _bound(act: Callable[..., object], args: Any, kwargs: Any) -> Callable[..., object]:
    return lambda now, effects: act(now, effects, *args, **kwargs)


def _nothing(_: Instant, __: Effects) -> None:
    """Change nothing: `_change` makes the posted changes anyway."""


def _closed(subscriber: Subscriber, operation: str) -> RuntimeError:
    msg = f"{operation} was waiting when the guard of {subscriber.provider} was closed."
    return RuntimeError(msg)
