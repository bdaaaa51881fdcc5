"""An account that several processes spend from: this process's side, whose head is in a store.

Calls are admitted from the lease, in memory, by the same decisions as in an account of one process. What
the lease lacks is drawn from the head, while the caller waits in the queue. `Membership` says which message
is due; here it is sent, on the private loop, and its reply becomes changes of the account: what was granted
is admitted, what was refused is decided, and the balance and all figures are the head's.
"""

import hashlib
import os
import socket
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from budgetguard._core.clock import Instant
from budgetguard._core.drawn_budgets import DrawnBudget, DrawnBudgets
from budgetguard._core.events import logger
from budgetguard._core.leased_ledger import LeasedLedger
from budgetguard._core.other_spenders import Belief, SoleSpender
from budgetguard._core.pause import PausedBy
from budgetguard._core.policy import NEVER
from budgetguard._core.provider_refusal import ProviderRefusal
from budgetguard._core.refresh_failure import Failure
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._core.store_messages import (
    BudgetNeed,
    Busy,
    Exhausted,
    KeyLimited,
    Landing,
    Message,
    Need,
    Offered,
    Pausing,
    Reply,
    View,
)
from budgetguard._engine.account import Account
from budgetguard._engine.belief_messages import belief_changed, contradicted
from budgetguard._engine.membership import Membership, MemberTerms
from budgetguard._engine.refresh_schedule import LATER, Refresh
from budgetguard._engine.subscriber import Effects, Subscriber
from budgetguard._version import __version__
from budgetguard.stores.base import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from budgetguard._core.errors import BudgetGuardError
    from budgetguard._engine.hold import Hold
    from budgetguard._engine.subscriber import Call
    from budgetguard._engine.waiters import AdmissionWaiter
    from budgetguard._io.loop import Runtime
    from budgetguard.providers.base import Profile
    from budgetguard.stores.base import Link, Store


class SharedAccount(Account):
    """The state that all guards of one account share in a process that is a member of a store."""

    ledger: LeasedLedger  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        provider: "Profile",
        runtime: "Runtime",
        find_runtime: "Callable[[], Runtime]",
        store: "Store",
        hold_for: float | None,
    ) -> None:
        self.store = store
        # Says which account it is, and shows neither the key nor the digests that this process uses.
        self._name_in_store = name_in_store(provider.fingerprint or "")
        self._budgets = DrawnBudgets(provider.fingerprint or "")
        self._member_terms = MemberTerms(
            hold_for=hold_for if store.expires else None,
            topup_step=provider.topup_step,
            unit=provider.unit,
        )
        self._provider_name = provider.name
        super().__init__(provider, runtime, find_runtime)

    def _new_ledger(self) -> LeasedLedger:
        # Not new ones in a forked child: those that its parent made are as good there.
        self._budgets.begin()
        ledger = LeasedLedger(self._budgets)
        terms = replace(self._member_terms, words=described(self._provider_name))
        self.membership = Membership(self.store, ledger, terms)
        self._link: Link | None = None
        self._landed: Failure | None = None
        self._lease_lost = False
        self._told = _Told()
        return ledger

    def _new_keyed_budgets(self) -> DrawnBudgets:
        return self._budgets

    def _rejoin(self, subscriber: Subscriber) -> None:
        # The child is another member, so what a guard says of spenders that are no members still holds.
        self._tell_of(subscriber)

    def _join(self, now: Instant, effects: Effects, subscriber: Subscriber) -> None:
        subscriber.by_formula = True
        super()._join(now, effects, subscriber)
        self._tell_of(subscriber)

    def _tell_of(self, subscriber: Subscriber) -> None:
        membership, terms = self.membership, subscriber.terms
        membership.welcome((terms.floor, terms.extra), subscriber.sole_spender, subscriber.patience)
        self.ledger.one_level = membership.one_level

    def expect(self, patience: float) -> None:
        """Some calls may be charged for so many seconds after they were abandoned."""
        self.membership.patience = max(self.membership.patience, patience)

    # What this process learns, and tells the head.

    def _believe(self, setting: SoleSpender) -> None:
        """Part of what `_tell_of` tells."""

    def _exhaust(self, now: Instant, effects: Effects, lag: float) -> str | None:
        del effects
        self.ledger.refuse(now, lag)
        self.membership.news.append(Exhausted(lag, now.wall))
        return None

    def _refuse(
        self,
        now: Instant,
        effects: Effects,
        subscriber: Subscriber,
        refusal: ProviderRefusal,
        lag: float,
    ) -> None:
        news = self.membership.news
        if refusal.kind == "busy":
            news.append(Busy(refusal.pause()))
        elif refusal.kind == "key_limit":
            news.append(KeyLimited(subscriber.terms.credential, refusal.pause()))
        super()._refuse(now, effects, subscriber, refusal, lag)

    def _pause(self, now: Instant, effects: Effects, by: PausedBy, reason: str | None) -> None:
        if by == "guard" and self.ledger.reason_of("guard") != reason:
            self.membership.news.append(Pausing("guard", reason))
        super()._pause(now, effects, by, reason)

    def _offer(self, now: Instant, effects: Effects, credits: "Decimal", sent: Instant) -> None:
        del now, effects
        cached = self.ledger.snapshot
        began = self.membership.stamp_before(sent.mono)
        # Only `credits` is replaced. With a cost limit, the other figures would be too old.
        if cached is None or cached.balance.cost_limit is not None or began is None:
            return
        balance = replace(cached.balance, credits=credits)
        epoch = self.membership.epoch
        self.membership.news.append(Offered(balance, epoch, began, sent.wall))

    # Refreshes: by whichever member asks first, for all.

    def _start_refresh(
        self, now: Instant, launches: Effects, *, after_freeze: bool = False
    ) -> None:
        del launches
        subscriber = self._a_subscriber()
        if subscriber is not None:
            refresh = self._schedule.next(subscriber, now, after_freeze=after_freeze)
            self._schedule.begin(refresh, now)
            self.membership.ask_to_refresh(refresh)

    def _land(
        self, now: Instant, effects: Effects, refresh: Refresh, answer: "BalanceSnapshot | Failure"
    ) -> None:
        if isinstance(answer, Failure):
            self._tell_failure(now, effects, refresh, answer)
        if not self._schedule.awaits(refresh):
            return
        self._landed = answer if isinstance(answer, Failure) else None
        if not self.membership.land(partial(_landing, answer)):
            # Another head was begun meanwhile: it gives the right to refresh anew.
            self._schedule.drop(refresh)
            self._schedule.want(now.mono)

    # Messages.

    def _take_in(self, now: Instant, effects: Effects) -> bool:
        freed = super()._take_in(now, effects)
        if self.ledger.has_slack and self.membership.lapsed(now):
            self._lose_lease(now, effects)
            return False
        return freed

    def _plan(self, now: Instant, launches: Effects) -> None:
        super()._plan(now, launches)
        membership = self.membership
        queue = self.wait_queue
        membership.waits, membership.gathers = bool(queue.queue), queue.gathering
        if membership.ready(now, drawing=queue.drawing):
            message = membership.build(now, self._member, partial(self._needs, now))
            launches.append(partial(self._send, message))
        alarm = membership.alarm(now)
        if alarm < self._alarm_at:
            self._alarm_at = alarm
            launches.append(partial(self._set_alarm, alarm))

    @property
    def _member(self) -> str:
        link = self._link
        if link is None:
            link = self._link = self.store.link(self._name_in_store, self.runtime)
            self.runtime.before_exit(self._farewell)
        return link.member

    def _needs(self, now: Instant) -> tuple[Need, ...]:
        return tuple(
            _need(waiter, now, counts=counts) for waiter, counts in self.wait_queue.lacking(now)
        )

    def _send(self, message: Message) -> None:
        try:
            self.runtime.submit(partial(self._exchange, message))
        except Exception as error:  # noqa: BLE001  no file for a loop, no thread, no memory
            words = f"{type(error).__name__}: {error}"
            self._change(self._store_failed, message, f"no message could be sent ({words})")

    async def _exchange(self, message: Message) -> None:
        link = self._link
        if link is None or message is not self.membership.under_way:
            return
        try:
            reply = await link.exchange(message)
        except StoreUnavailable as error:
            self._change(self._store_failed, message, error.reason)
        except Exception as error:
            reason = f"{self.store.name} failed with {type(error).__name__}"
            self._change(self._store_failed, message, reason)
            raise
        else:
            self._change(self._receive, message, reply)
        if self._link is link:
            link.listen(self._hear_hint if self.membership.listens else None)

    async def _farewell(self) -> None:
        """Tell the head what finished, and that this process holds no more; raises StoreUnavailable."""
        link = self._link
        message = None if link is None else self._change(self._last_message)
        while link is not None and message is not None:
            message = self._change(self._told_last, message, await link.exchange(message))

    def _told_last(
        self, now: Instant, effects: Effects, message: Message, reply: Reply
    ) -> Message | None:
        self._receive(now, effects, message, reply)
        # In the same change: others may still call, and what they need would go first.
        return self._last_message(now, effects)

    def _last_message(self, now: Instant, _: Effects) -> Message | None:
        # If one is under way, that one once more: nothing may be there any more that would send it.
        if not self.membership.may_be_known:
            return None
        return self.membership.build(now, self._member, tuple, leave=True)

    def retire(self) -> None:
        """Nobody in this process uses the account any more: leave the store, and let others forget it."""
        if self._link is not None:
            try:
                self.runtime.submit(self._retire)
            except Exception:  # noqa: BLE001  no thread for a loop, or it is stopped
                self._part()

    async def _retire(self) -> None:
        try:
            await self._farewell()
        except StoreUnavailable:
            pass  # then its members are given up as dead, and had nothing
        finally:
            self._part()

    def _part(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self.membership.part()
            self.runtime.drop_farewell(self._farewell)
            link.close()

    def _hear_hint(self) -> None:
        membership = self.membership
        # The reply to a message that is under way may bring the slack that the hint is about.
        if membership.listens or membership.under_way is not None:
            membership.nudged = True
            self.flush()

    def _receive(self, now: Instant, effects: Effects, message: Message, reply: Reply) -> None:
        membership, ledger = self.membership, self.ledger
        was_away, epoch = ledger.away, membership.epoch
        sent = membership.sent_at(message)
        if not membership.receive(message, reply, now):
            return
        if was_away is not None:
            self._emit_all(effects, "store_back", now, self.store.name)
            report = partial(logger.info, "%s answers again", self.store.name)
            effects.append(report)
        too_late = reply.status == "done" and membership.lapsed(now)
        if reply.status == "expired" or too_late:
            self._lose_lease(now, effects)
        elif reply.status == "done":
            self._lease_lost = False
        if epoch and reply.epoch != epoch:
            self._emit_all(effects, "regrouped", now, self.store.name)
        changed = self._see(now, effects, reply, sent, anew=reply.epoch != epoch)
        windows = ledger.budgets.granted
        granted = {ticket: windows.get(ticket, ()) for ticket in reply.granted}
        if too_late:
            # The head may have given it to others meanwhile, so it is asked for again.
            granted, membership.nudged = {}, True
        over = {ticket: ledger.budgets.over(budget, now) for ticket, budget in reply.over}
        # First: what was granted is in the lease already, and others must not take it.
        self.wait_queue.answered(now, granted, set(reply.refused), over)
        self._follow(now, effects, message, reply)
        if changed or reply.refused or was_away is not None or reply.status != "done":
            self.wait_queue.review(now)
        else:
            self.wait_queue.pass_on(now)

    def _store_failed(self, now: Instant, effects: Effects, message: Message, reason: str) -> None:
        membership = self.membership
        if message is not membership.under_way:
            return
        # At exit it is this process that goes, and not the store.
        first = self.ledger.away is None and not self.runtime.stopping
        membership.lost(reason, now, self.runtime.jitter)
        refresh = self._schedule.refresh
        if refresh is not None and not membership.refreshes:
            delay = max(membership.retry_at - now.mono, 0.0)
            failure = Failure(reason, None, denied=False, failures=0, delay=delay)
            self._schedule.land(refresh, failure, now)
            membership.ask_to_refresh(None)
        if first:
            self._emit_all(effects, "store_lost", now, reason)
            effects.append(partial(logger.warning, "%s", reason))
        self.wait_queue.review(now)

    def _lose_lease(self, now: Instant, effects: Effects) -> None:
        lost, self._lease_lost = self._lease_lost, True
        if self.ledger.lapse() and not lost:
            self._emit_all(effects, "lease_lost", now, self.store.name)

    # What replies tell.

    def _see(
        self, now: Instant, effects: Effects, reply: Reply, sent: float, *, anew: bool
    ) -> bool:
        """Take over the head's view; returns whether the balance is another one."""
        ledger, before, view = self.ledger, self.ledger.snapshot, reply.view
        busy_until = ledger.busy_until
        ahead = now.wall - now.mono if self.store.drift else None
        changed = ledger.see(view, sent, anew=anew, wall_ahead=ahead)
        snapshot = ledger.snapshot
        if changed and snapshot is not None:
            for subscriber in self.subscribers:
                subscriber.rearm(before, ledger)
            if self._alerts:
                self._set_mark()
            reason = self._news_of_others(effects, view)
            exhausted = snapshot.refused_until is not None
            if exhausted and not (before and before.refused_until is not None):
                self._emit_all(effects, "exhausted", now, reason)
            elif not exhausted:
                self._denied = False
                self._emit_all(effects, "refreshed", now, reason)
        if ledger.busy_until > max(busy_until, now.mono) + 1.0:
            self._emit_all(effects, "busy", now)
        pauses = dict(view.pauses)
        told = [each for each in self.membership.news if isinstance(each, Pausing)]
        if not told and pauses.get("guard") != ledger.reason_of("guard"):
            super()._pause(now, effects, "guard", pauses.get("guard"))
        if pauses.get("command") != ledger.reason_of("store"):
            super()._pause(now, effects, "store", pauses.get("command"))
        return changed

    def _follow(self, now: Instant, effects: Effects, message: Message, reply: Reply) -> None:
        """Take over the state of the refreshes, and end the one that callers here wait for."""
        membership, schedule, view = self.membership, self._schedule, reply.view
        refresh, state = schedule.refresh, view.refresh
        if membership.granted_right(reply) and refresh is not None:
            effects.append(partial(self._launch, refresh))
        failure = None
        if state.reason:
            delay = max(self.ledger.time_of(state.blocked_until) - now.mono, 0.0)
            failure = self._landed or Failure(
                state.reason, None, state.denied, state.failures, delay
            )
        if refresh is not None and not membership.refreshes:
            ended = reply.refresh in {"newer", "blocked"} or (
                not state.in_flight
                and reply.status == "done"
                and (message.landing is not None or membership.began_after(state.last_began))
            )
            if ended:
                if failure is not None and state.blocked_until > view.now:
                    schedule.land(refresh, failure, now)
                elif message.landing is not None:
                    schedule.drop(refresh)
                else:
                    schedule.supersede(refresh, self.ledger.time_of(state.last_began))
                membership.ask_to_refresh(None)
                self._landed = None
                self.wait_queue.review(now)
        began, snapshot = self.ledger.time_of(state.last_began), self.ledger.snapshot
        if view.snapshot is not None and view.snapshot.sent.mono == state.last_began:
            # The same moment, as it was converted before: or the last refresh would seem to have failed.
            assert snapshot is not None
            began = snapshot.sent.mono
        schedule.follow(began, self.ledger.time_of(state.blocked_until), failure)

    def _news_of_others(self, effects: Effects, view: View) -> str | None:
        """What the head concludes about spenders that are no members, if it is news."""
        others, provider, told = view.others, self.provider.name, self._told
        if others.changes != told.changes:
            first, told.changes = told.changes is None, others.changes
            belief = Belief(
                others.others, Instant(others.since, others.wall), others.proven, others.spell
            )
            if first and not others.others:
                return None
            reason = belief_changed(provider, belief)
            log = logger.warning if others.others else logger.info
            effects.append(partial(log, "%s", reason))
            return reason
        if others.setting is not True or not others.contradiction:
            return None
        reason = contradicted(provider, others.contradiction)
        if not self._contradicted:
            self._contradicted = True
            effects.append(partial(logger.warning, "%s", reason))
        return reason

    # Holds, the fast path, and rest.

    def extend(self, call: "Call", hold: "Hold") -> "BudgetGuardError | AdmissionWaiter | None":
        """Hold more for an open call: from the slack at once, else once the head has answered."""
        now = self.runtime.clock.monotonic()
        need = replace(call.need, give_up=now + self.store.timeout)
        return super().extend(replace(call, need=need), hold)

    def _set_fresh_until(self, now: float) -> None:
        super()._set_fresh_until(now)
        membership = self.membership
        ledger = self.ledger
        if ledger.at_hand(*membership.level) < ledger.room:
            self.fresh_until_mono = self.fresh_until_wall = NEVER
        elif membership.until_mono != LATER:
            self.fresh_until_mono = min(self.fresh_until_mono, membership.until_mono)
            self.fresh_until_wall = min(self.fresh_until_wall, membership.until_wall)

    def _quiet(self, now: Instant, effects: Effects) -> bool:
        ledger, membership = self.ledger, self.membership
        told = membership.under_way is None and not (ledger.head or membership.news)
        history = ledger.history
        # The head has these, and would hear them again if it lost what it knows.
        stamps = (history.settled.last_clears_at, history.kept.last_clears_at)
        told = told and not any(stamp is not None and stamp > now.mono for stamp in stamps)
        return told and ledger.room <= 0 and super()._quiet(now, effects)


def name_in_store(fingerprint: str) -> str:
    """64 hexadecimal digits that stand for an account in stores."""
    return hashlib.sha256(f"budgetguard store 1\0{fingerprint}".encode()).hexdigest()


def described(provider: str) -> tuple[tuple[str, str], ...]:
    """What `budgetguard members` shows of this process."""
    return (
        ("provider", provider),
        ("pid", str(os.getpid())),
        ("host", socket.gethostname()),
        ("version", __version__),
        ("since", datetime.now(UTC).isoformat(timespec="seconds")),
    )


class _Told:
    """What was said of other spenders."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes: int | None = None


def _need(waiter: "AdmissionWaiter", now: Instant, *, counts: bool) -> Need:
    call = waiter.call
    need, terms, amount = call.need, call.subscriber.terms, call.need.from_account
    budgets = _budgets_needed(waiter, now)
    from_budgets = budgets and need.amount
    return Need(
        ticket=waiter.ticket,
        amount=need.amount if from_budgets else amount,
        cost=need.cost if from_budgets or amount else 0,
        slots=need.slots,
        floor=terms.floor,
        extra=terms.extra,
        counts=counts,
        budgets=budgets,
        reserved=bool(from_budgets and not amount),
    )


def _budgets_needed(waiter: "AdmissionWaiter", now: Instant) -> tuple[BudgetNeed, ...]:
    """What a caller needs of budgets that the head decides about, innermost first."""
    budgets, extends = waiter.call.need.budgets, waiter.extends
    admitted = (None,) * len(budgets) if extends is None else extends.allowances
    its = zip(budgets, admitted, strict=False)
    return tuple(each.needed(now, within) for each, within in its if isinstance(each, DrawnBudget))


def _landing(answer: "BalanceSnapshot | Failure", epoch: str, number: int) -> Landing:
    if isinstance(answer, BalanceSnapshot):
        return Landing(epoch, number, balance=answer.balance, wall=answer.sent.wall)
    return Landing(
        epoch,
        number,
        reason=answer.reason,
        denied=answer.denied,
        failures=answer.failures,
        delay=answer.delay,
    )
