"""A real guard in one process of the fleet."""

import contextlib
from contextvars import Context
from random import Random
from typing import TYPE_CHECKING, Any

from allowances import Allowed
from processes import Process
from sim_store import SimStore
from spenders import Body, NeverConnected, Refused, Terms
from vendor import Call, Vendor

from budgetguard._core.errors import (
    BalanceUnavailable,
    BudgetExceeded,
    ConcurrencyLimit,
    InsufficientCredits,
)
from budgetguard._engine.account_registry import _PROCESS, runtime_of
from budgetguard._engine.binding import binding_of
from budgetguard._engine.shared_account import SharedAccount
from budgetguard.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgetguard.budget import Budget

MICRO = 10**6


class GuardMember:
    """A guard whose account is in the simulated store, with callers in every way there is."""

    every_kind = True

    def __init__(self, process: Process, store: SimStore, vendor: Vendor, terms: Terms) -> None:
        also: dict[str, Any] = {"hold_for": terms.hold_for} if store.expires else {}
        self._random = Random(f"ways of {process.name}")
        with runtime_of(process.runtime):  # type: ignore[arg-type]
            self.guard = Guard(
                vendor,
                store=store,
                fresh_for=terms.fresh_for,
                floor=terms.floor / MICRO,
                recheck_after=terms.recheck_after,
                timeout=terms.timeout,
                lag=terms.lag,
                linger=terms.linger,
                sole_spender=terms.sole_spender,
                on_event=lambda _: None,
                **also,
            )
        account = binding_of(self.guard).account
        assert isinstance(account, SharedAccount)
        self.account = account
        self._clock = process.machine
        self._process = process
        self._blocks: dict[Allowed, Budget] = {}
        self._guarded: dict[tuple[int, float, int], Callable[..., Any]] = {}

    @property
    def used(self) -> int:
        return self.account.ledger.held

    def slack(self) -> int:
        ledger = self.account.ledger
        if not ledger.usable or self.account.membership.lapsed(self._clock.now()):
            return 0
        return max(int(ledger.room), 0)

    def unsettled(self, number: int) -> int:
        ledger, under_way = self.account.ledger, self.account.membership.under_way
        told = 0
        if under_way is not None and number < under_way.number and under_way.join is None:
            report = under_way.report
            told = sum(each.amount for each in (*report.settled, *report.kept))
        return ledger.head.settled.total + ledger.head.kept.total + told

    def bound_to(self, epoch: str) -> bool:
        return self.account.membership.epoch == epoch

    def exhausted(self) -> None:
        self.guard.mark_exhausted()

    async def refresh(self) -> None:
        # The provider is left alone for a while after failures that are over by now.
        with contextlib.suppress(BalanceUnavailable):
            await self.guard.abalance(max_age=0)

    async def exit(self) -> None:
        await self._process.runtime.farewell()

    async def call(self, call: Call, body: Body) -> None:
        try:
            with contextlib.ExitStack() as inside:
                for allowed in call.budgets:
                    inside.enter_context(self._budget(allowed))
                await self._random.choice([self._block, self._function, self._acquired])(call, body)
        except BudgetExceeded as error:
            raise Refused(str(error), "budget") from None
        except InsufficientCredits as error:
            raise Refused(
                str(error), "credits", final=not error.retryable, queued=float(error.queued)
            ) from None
        except ConcurrencyLimit as error:
            raise Refused(str(error), "slots", final=not error.retryable) from None
        except BalanceUnavailable as error:
            raise Refused(error.reason, "an answer") from None

    def _budget(self, allowed: Allowed) -> contextlib.AbstractContextManager[Any]:
        limit = allowed.limit / MICRO
        if allowed.per is not None:
            return self.guard.budget(limit, name="fleet", key=allowed.name, per=allowed.per)
        block = self._blocks.get(allowed)
        if block is None:
            block = self._blocks[allowed] = self.guard.budget(limit, name=allowed.name)
            # It lasts: calls are in it that come later.
            Context().run(block.__enter__)
        return block.use()

    def held_in_blocks(self) -> float:
        return float(sum(block.held for block in self._blocks.values()))

    async def _block(self, call: Call, body: Body) -> None:
        block = self.guard.require_credits(
            cost=call.cost / MICRO,
            slots=call.slots,
            wait=call.wait,
            release_on=NeverConnected,
            name=f"block {call.number}",
        )
        async with block as hold:
            actual = await body(hold)
            hold.settle(actual / MICRO)

    async def _function(self, call: Call, body: Body) -> None:
        """Calls of constant cost take the fast path."""
        terms = call.cost, call.wait, call.slots
        if terms not in self._guarded:
            cost, wait, slots = terms
            require = self.guard.require_credits(
                cost=cost / MICRO, slots=slots, wait=wait, release_on=NeverConnected
            )
            self._guarded[terms] = require(_constant)
        await self._guarded[terms](body)

    async def _acquired(self, call: Call, body: Body) -> None:
        hold = await self.guard.aacquire(
            cost=call.cost / MICRO,
            slots=call.slots,
            wait=call.wait,
            name=f"acquired {call.number}",
        )
        try:
            actual = await body(hold)
        except NeverConnected:
            hold.release()
            raise
        except BaseException:
            hold.keep()
            raise
        hold.settle(actual / MICRO)


async def _constant(body: Body) -> None:
    await body(None)


def forget(runtimes: set[int]) -> None:
    """Forget the accounts of the processes of a fleet that has ended."""
    for key in [key for key in _PROCESS.named if key[0] in runtimes]:
        with contextlib.suppress(KeyError):
            del _PROCESS.named[key]
