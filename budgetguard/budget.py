"""Budget: bounds what the guarded calls inside a block hold and spend."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, NoReturn, Self

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.allowance import Allowance, BlockBudget, CallBudget, CarvedAllowance
from budgetguard._core.amounts import to_credits
from budgetguard._core.branch import Reserve
from budgetguard._core.call_context import CallContext, leave
from budgetguard._core.errors import BudgetExceeded
from budgetguard._core.labels import NO_LABELS
from budgetguard._engine.binding import GuardBinding
from budgetguard._engine.budget_blocks import (
    Carving,
    close_carved,
    close_reserve,
    context_around,
    open_context,
)
from budgetguard._engine.call_spec import CallSpec
from budgetguard._engine.hold import Hold, NullHold


class Budget:
    """Bounds what the guarded calls inside a block hold and spend. Guards make budgets, see `Guard.budget`.

    A budget is entered once, with `with` or `async with`. It bounds the calls of its guard's account
    that are made in the block, and in the tasks that are started there, also after the block was left.
    Other threads enter it with `use()`. As a decorator it makes a new budget for each call.

    Calls that are open when the block is left remain counted until they end. Blocks may be left in any
    order, and in another task or thread than they were entered in. The figures can be read at any time.
    """

    __slots__ = (
        "__weakref__",
        "_binding",
        "_carves",
        "_context",
        "_hold",
        "_limit",
        "_name",
        "_own",
    )

    def __init__(
        self, binding: GuardBinding, limit: int, *, name: str | None, carved: bool
    ) -> None:
        self._binding = binding
        self._limit = limit
        self._name = name
        self._carves = carved
        self._own = Allowance(limit)
        self._context: CallContext[Any] | None = None
        self._hold: tuple[Reserve, Hold] | None = None

    @property
    def name(self) -> str | None:
        """The budget's name in errors and events; None without one."""
        return self._name

    @property
    def limit(self) -> Decimal:
        """Credits that may be spent in all."""
        return to_credits(self._limit)

    @property
    def spent(self) -> Decimal:
        """What finished calls cost. A call whose cost is not known counts at what it held."""
        return to_credits(self._own.spent)

    @property
    def held(self) -> Decimal:
        """What open calls hold, and what was carved out for other budgets."""
        return to_credits(self._own.held)

    @property
    def left(self) -> Decimal:
        """What may still be spent; negative after a call that cost more than it held."""
        return to_credits(self._own.room)

    @property
    def renews_at(self) -> datetime | None:
        """When more is left again; None, because the budget lasts as long as the block."""
        return None

    def use(self) -> contextlib.AbstractContextManager[Self]:
        """Enter the budget in another thread or task, for as long as this block lasts.

        Any number of threads may do so at once. Budgets that the code is in already bound it too.
        Raises RuntimeError unless the budget was entered and is not left yet.
        """
        return self._used()

    @contextlib.contextmanager
    def _used(self) -> Iterator[Self]:
        theirs = self._context
        if theirs is None or theirs.ended:
            state = "has ended" if theirs is not None else "was not entered"
            msg = f"{self._called} {state}: use() is for other threads while its block lasts"
            raise RuntimeError(msg)
        around = context_around(self._binding.account)
        budgets, labels = theirs.budgets, theirs.labels
        if around is not None:
            budgets += tuple(each for each in around.budgets if each not in budgets)
            labels = around.labels.joined(labels)
        context = open_context(self._binding, budgets, theirs.reserve, labels)
        try:
            yield self
        finally:
            leave(context)

    def __enter__(self) -> Self:
        spec = self._begin()
        if spec is not None:
            self._reserve(spec.open(warns=True))
        return self

    async def __aenter__(self) -> Self:
        spec = self._begin()
        if spec is not None:
            self._reserve(await spec.aopen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        context, account, own = self._context, self._binding.account, self._own
        assert context is not None
        leave(context)
        # The garbage collector may leave the block at any point, even inside a change.
        post = account.post_later if isinstance(error, GeneratorExit) else account.post
        if isinstance(own, CarvedAllowance):
            post(close_carved, own)
        if self._hold is not None:
            post(close_reserve, *self._hold)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __reduce_ex__(self, _: Any) -> NoReturn:
        msg = f"{self._called} cannot be copied or pickled: it bounds the calls of this process"
        raise TypeError(msg)

    def __repr__(self) -> str:
        return f"<Budget {self._name or ''}: {self.left} of {self.limit} left>".replace(" :", ":")

    @property
    def _called(self) -> str:
        return "This budget" if self._name is None else f"The budget {self._name}"

    def _begin(self) -> CallSpec | None:
        """Enter the block; returns what it needs from the account first, if it needs anything."""
        if self._context is not None:
            how = "has ended" if self._context.ended else "is entered already"
            msg = f"{self._called} {how}. Make a new one for each block; other threads call use()"
            raise RuntimeError(msg)
        binding = self._binding
        binding.check_open(self._called)
        around = context_around(binding.account)
        budgets = () if around is None else around.budgets
        reserve = None if around is None else around.reserve
        labels = NO_LABELS if around is None else around.labels
        carves = self._carves and not ACTIVATION.passive
        if carves and around is not None and budgets:
            self._own, budgets = self._carved(around), ()
        elif carves:
            operation = "a budget" if self._name is None else f"the budget {self._name}"
            return CallSpec(binding, min=to_credits(self._limit), name=operation)
        own: CallBudget = BlockBudget(self._name, self._own)
        self._context = open_context(binding, (own, *budgets), reserve, labels)
        return None

    def _carved(self, around: CallContext[Any]) -> CarvedAllowance:
        account, subscriber = self._binding.account, self._binding.subscriber
        carving = Carving(subscriber, self._name, self._limit, around)
        carved = account.change(carving.carve, account.ledger)
        if isinstance(carved, BudgetExceeded):
            try:
                raise carved
            finally:
                del carved
        return carved

    def _reserve(self, hold: Hold) -> None:
        """The account has set the limit aside: enter the block."""
        around = context_around(self._binding.account)
        labels = NO_LABELS if around is None else around.labels
        reserve = None
        if not isinstance(hold, NullHold):
            reserve = Reserve(hold)
            self._hold = reserve, hold
        own = BlockBudget(self._name, self._own)
        self._context = open_context(self._binding, (own,), reserve, labels)
