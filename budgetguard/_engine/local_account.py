"""An account whose head is in this process's memory: nobody else takes part, so all is decided here."""

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from budgetguard._core.backoff import backoff
from budgetguard._core.clock import Instant
from budgetguard._core.events import logger
from budgetguard._core.ledger import Ledger
from budgetguard._core.other_spenders import SoleSpender
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._engine.account import Account
from budgetguard._engine.belief_messages import belief_changed, contradicted
from budgetguard._engine.other_workers import tell_of_other_workers
from budgetguard._engine.refresh_schedule import Refresh
from budgetguard._engine.subscriber import Effects

if TYPE_CHECKING:
    from decimal import Decimal

    from budgetguard._core.refresh_failure import Failure


class LocalAccount(Account):
    """The state that all guards of one account share in a process that spends alone, as far as it knows."""

    ledger: Ledger  # pyright: ignore[reportIncompatibleVariableOverride]

    def forget(self) -> None:
        """Reset, as in a forked child, whose parent had these guards."""
        self._of_the_parent = bool(self.subscribers)
        super().forget()

    def _new_ledger(self) -> Ledger:
        ledger = Ledger()
        ledger.head.unit = self.provider.unit
        ledger.head.others.topup_step = self.provider.topup_step
        return ledger

    def _believe(self, setting: SoleSpender) -> None:
        """Combine what one more guard says of other spenders."""
        self.ledger.head.others.join(setting)

    def _exhaust(self, now: Instant, effects: Effects, lag: float) -> str | None:
        self.ledger.refuse(now, lag)
        return self._news_of_others(effects)

    def _land(
        self, now: Instant, effects: Effects, refresh: Refresh, answer: "BalanceSnapshot | Failure"
    ) -> None:
        if self.provider.fingerprint:
            # By now it is used: a server's main process only makes guards for its workers.
            name, forked = self.provider.name, self._of_the_parent
            effects.append(partial(tell_of_other_workers, name, forked=forked))
        if isinstance(answer, BalanceSnapshot):
            head = self.ledger.head
            answer = head.in_unit(answer) or self._in_other_unit(refresh, answer.balance.unit)
        if not self._schedule.land(refresh, answer, now):
            # Another refresh replaced it. Its balance is still valid unless a newer one is here.
            if isinstance(answer, BalanceSnapshot) and self._apply(now, effects, answer):
                self.wait_queue.review(now)
            return
        if isinstance(answer, BalanceSnapshot):
            self._denied = False
            self._apply(now, effects, answer)
        else:
            self._tell_failure(now, effects, refresh, answer)
        self.wait_queue.review(now)

    def _in_other_unit(self, refresh: Refresh, unit: str) -> "Failure":
        from budgetguard._core.refresh_failure import Failure

        failures = refresh.failures + 1
        reason = f"it is in {unit}, and this account is counted in {self.ledger.head.unit}"
        delay = backoff(failures, None, self.runtime.jitter)
        return Failure(reason, None, denied=False, failures=failures, delay=delay)

    def _offer(self, now: Instant, effects: Effects, credits: "Decimal", sent: Instant) -> None:
        cached = self.ledger.snapshot
        # Only `credits` is replaced. With a cost limit, the other figures would be too old.
        if cached is None or cached.balance.cost_limit is not None:
            return
        balance = replace(cached.balance, credits=credits).sent_at(sent, self.runtime.clock)
        if self._apply(now, effects, BalanceSnapshot.of(balance, sent)):
            self.wait_queue.offered(now)

    def _apply(self, now: Instant, effects: Effects, snapshot: BalanceSnapshot) -> bool:
        before = self.ledger.snapshot
        if not self.ledger.apply(snapshot, now.mono):
            return False
        for subscriber in self.subscribers:
            subscriber.rearm(before, self.ledger)
        if self._alerts:
            self._set_mark()
        self._emit_all(effects, "refreshed", now, self._news_of_others(effects))
        return True

    def _news_of_others(self, effects: Effects) -> str | None:
        """What the balance or the refusal that just came says about other spenders, if it is news.

        A change of what the guards believe is logged; what contradicts `sole_spender=True`, only once.
        """
        others, provider = self.ledger.head.others, self.provider.name
        if others.changed:
            assert others.belief is not None
            reason = belief_changed(provider, others.belief)
            level = logging.WARNING if others.belief.others else logging.INFO
            effects.append(partial(logger.log, level, "%s", reason))
            return reason
        if others.setting is not True or not others.contradiction:
            return None
        reason = contradicted(provider, others.contradiction)
        if not self._contradicted:
            self._contradicted = True
            effects.append(partial(logger.warning, "%s", reason))
        return reason
