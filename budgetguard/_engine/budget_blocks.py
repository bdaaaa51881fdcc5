"""The budgets of blocks, on the side of the account: found around a call, carved, and given back."""

from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeAlias

from budgetguard._core.allowance import BlockBudget, CallBudget, CarvedAllowance
from budgetguard._core.budget_key import Key
from budgetguard._core.budget_windows import Period
from budgetguard._core.call_context import CallContext, context_of
from budgetguard._core.clock import Instant
from budgetguard._core.events import logger
from budgetguard._core.labels import Labels
from budgetguard._core.policy import CallNeed, exceeded
from budgetguard._core.reentrancy import CALL_STATE, CHANGING
from budgetguard._engine.binding import GuardBinding
from budgetguard._engine.refusal_figures import budget_exceeded
from budgetguard._engine.subscriber import Call, Effects, Subscriber

if TYPE_CHECKING:
    from budgetguard._core.branch import Reserve
    from budgetguard._core.drawn_budgets import DrawnBudget
    from budgetguard._core.errors import BudgetExceeded
    from budgetguard._core.keyed_budgets import KeyedBudget
    from budgetguard._core.leased_ledger import AnyLedger
    from budgetguard._engine.hold import Hold, Owner


def context_around(account: "Owner") -> CallContext[Any] | None:
    """The budgets and labels around a call that is about to be made; None without any.

    Raises RuntimeError in a forked child for the budget of a block that its parent entered: each of
    the two processes would spend all that is left of it.
    """
    context = context_of(account)
    if context is not None:
        check_process(context, account)
    return context


def context_here(account: "Owner") -> CallContext[Any] | None:
    """The budgets and labels around a block that is entered: of this process, not of its parent's."""
    context = context_of(account)
    return None if context is None or context.ledger is not account.ledger else context


def check_process(context: CallContext[Any], account: "Owner") -> None:
    """Raise RuntimeError in a forked child for the budget of a block that its parent entered."""
    if context.ledger is account.ledger or not context.budgets:
        return
    name = context.budget_name
    what = "A budget" if name is None else f"The budget {name}"
    msg = (
        f"{what} was entered in the process that this one was forked from, and bounds the calls there. "
        "Enter a budget of its own in the child."
    )
    raise RuntimeError(msg)


def open_context(
    binding: GuardBinding,
    budgets: tuple[CallBudget, ...],
    reserve: "Reserve | None",
    labels: Labels,
) -> CallContext[Any]:
    """Put the code that follows, and what it starts, into a context of that account's calls."""
    account, outer = binding.account, CALL_STATE.get()

    def make(now: Instant, _: Effects) -> CallContext[Any]:
        return CallContext(
            account,
            account.ledger,
            outer,
            budgets=budgets,
            reserve=reserve,
            labels=labels,
            now=now,
        )

    # Budgets with a period may begin their next window, which is for one thread at a time.
    windows = not all(isinstance(each, BlockBudget) for each in budgets)
    if windows and get_ident() not in CHANGING:
        context = account.change(make)
    else:
        context = make(binding.clock.now(), [])
    CALL_STATE.set(context)
    return context


def find_keyed(
    binding: GuardBinding, name: str, key: Key, period: Period, limit: int
) -> "KeyedBudget | DrawnBudget":
    """The budget of that name, key and period in the account."""

    def find(now: Instant, effects: Effects) -> "KeyedBudget | DrawnBudget":
        budgets = binding.account.keyed_budgets
        budget = budgets.find(name, key, period, limit, now)
        budget.current(now)
        jump = budgets.take_clock_jump()
        if jump is not None:
            effects.append(partial(logger.warning, "%s", jump))
        # A lower limit may leave no room for those who wait, and a higher one may give it to them.
        binding.account.ledger.tightened = True
        return budget

    return binding.account.change(find)


BudgetFigures: TypeAlias = tuple[int, int, int, float | None]
"""What is spent, held and left, in micro-credits, and when more is left again, in wall seconds."""


def figures_of(binding: GuardBinding, budget: CallBudget) -> BudgetFigures:
    """The current figures of a budget."""

    def read(now: Instant, _: Effects) -> BudgetFigures:
        its = budget.current(now)
        return its.spent, its.held, its.room, budget.renews_at(now)

    if isinstance(budget, BlockBudget):
        # Calls that were dropped, and blocks that were left by a finalizer, may not be recorded yet.
        binding.account.flush()
        return read(Instant(0, 0), [])
    return binding.account.change(read)


@dataclass(frozen=True, slots=True)
class Carving:
    """A block that sets its limit aside in the budgets around it; all or none."""

    subscriber: Subscriber
    operation: str
    carved: CarvedAllowance
    context: CallContext[Any]

    def carve(
        self, now: Instant, effects: Effects, ledger: "AnyLedger"
    ) -> "CarvedAllowance | BudgetExceeded":
        """The block's allowance, or the error if one of the budgets around it has too little left."""
        budgets, limit = self.context.budgets, self.carved.limit
        need = CallNeed(
            limit, limit, 0, now.mono, until=now.mono, give_up=now.mono, budgets=budgets
        )
        if exceeded(need, now) is not None:
            call = Call(self.subscriber, self.operation, need, 0, 0, context=self.context)
            error = budget_exceeded(call, now)
            error.labels = self.context.labels
            call.emit(effects, ledger, "refused", now, cause="budget", budget=error.budget)
            self.subscriber.log_refused(effects, error)
            if not self.subscriber.observes:
                return error
        ledger.tightened = True
        self.carved.open(self.context.of_call(now))
        return self.carved


def close_carved(_: Instant, __: Effects, carved: CarvedAllowance) -> bool:
    """A block that had set its limit aside was left; what is given back may be what waiters need."""
    carved.close()
    return True


def close_reserve(now: Instant, effects: Effects, reserve: "Reserve", hold: "Hold") -> bool:
    """A block that had set its limit aside in the account was left."""
    return hold.record_reserve_ended(now, effects, reserve)
