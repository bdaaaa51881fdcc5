"""Budget: bounds what the guarded calls inside a block hold and spend."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.allowance import Allowance, BlockBudget, CallBudget, CarvedAllowance, united
from budgetguard._core.amounts import to_credits
from budgetguard._core.branch import Reserve
from budgetguard._core.budget_key import plain_key
from budgetguard._core.budget_windows import Period
from budgetguard._core.call_context import CallContext, leave, step_out
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import BudgetExceeded
from budgetguard._core.labels import NO_LABELS
from budgetguard._engine import nested_holds as nested
from budgetguard._engine.binding import Bound, binding_of
from budgetguard._engine.budget_blocks import (
    Carving,
    check_process,
    close_carved,
    close_reserve,
    context_around,
    context_here,
    figures_of,
    find_keyed,
    open_context,
)
from budgetguard._engine.call_spec import CallSpec
from budgetguard._engine.hold import Hold, NullHold

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """What a budget allows: `limit` in micro-credits, in all or per period; and whom it is for."""

    limit: int
    name: str | None
    key: Any
    period: Period | None
    carved: bool

    @property
    def called(self) -> str:
        """What errors call it, at the beginning of a sentence."""
        return "This budget" if self.name is None else f"The budget {self.name}"

    @property
    def operation(self) -> str:
        """What a block that sets credits aside is called, where it is refused."""
        return "a budget" if self.name is None else f"the budget {self.name}"


class Budget:
    """Bounds what the guarded calls inside a block hold and spend. Guards make budgets, see `Guard.budget`.

    It is entered once, with `with` or `async with`. It bounds the calls of its guard's account that are
    made in the block, and in the tasks that are started there, also after the block was left. Other
    threads enter it with `use()`. As a decorator it makes a new block for each call, and generators are
    in it while they run.

    Calls that are open when the block is left remain counted until they end. Blocks may be left in any
    order, and in another task or thread than they were entered in. The figures can be read at any time.
    """

    __slots__ = (
        "__weakref__",
        "_binding",
        "_context",
        "_entered",
        "_guard",
        "_hold",
        "_its",
        "_terms",
    )

    def __init__(self, guard: Bound, terms: BudgetTerms) -> None:
        # The guard too: a pool makes no second one while somebody refers to it.
        self._guard = guard
        self._binding = binding = binding_of(guard)
        self._terms = terms
        self._its: CallBudget = BlockBudget(terms.name, Allowance(terms.limit))
        self._context: CallContext[Any] | None = None
        self._entered = False
        self._hold: tuple[Reserve, Hold] | None = None
        if terms.period is not None and not callable(terms.key):
            self._its = find_keyed(binding, terms.name or "", terms.key, terms.period, terms.limit)

    @property
    def name(self) -> str | None:
        """The budget's name in errors and events; None without one."""
        return self._terms.name

    @property
    def limit(self) -> Decimal:
        """Credits that may be spent in all, or in each period."""
        return to_credits(self._terms.limit)

    @property
    def spent(self) -> Decimal:
        """What finished calls cost. A call whose cost is not known counts at what it held."""
        return to_credits(self._figures[0])

    @property
    def held(self) -> Decimal:
        """What open calls hold, and what was carved out for other budgets."""
        return to_credits(self._figures[1])

    @property
    def left(self) -> Decimal:
        """What may still be spent; negative after a call that cost more than it held."""
        return to_credits(self._figures[2])

    @property
    def renews_at(self) -> datetime | None:
        """When more is left again, UTC; None for a budget that lasts as long as its block."""
        at = self._figures[3]
        return None if at is None else datetime.fromtimestamp(at, UTC)

    @property
    def _figures(self) -> tuple[int, int, int, float | None]:
        return figures_of(self._binding, self._its)

    @clean_traceback
    def __call__(self, function: F, /) -> F:
        """Put each call of `function` into a budget of its own, or into that of the call's key.

        Raises TypeError for an object that is neither a function nor a method.
        """
        from budgetguard._decorators.in_block import in_block

        terms = self._terms
        if terms.name is None:
            terms = replace(terms, name=getattr(function, "__qualname__", None))
        return in_block(
            lambda args, kwargs: Budget(self._guard, terms_for(terms, args, kwargs)), function
        )

    def use(self) -> contextlib.AbstractContextManager[Self]:
        """Enter the budget in another thread or task, for as long as this block lasts.

        Any number of threads may do so at once. The budgets that the code is in already bound it too.
        Raises RuntimeError unless the budget was entered and is not left yet.
        """
        return self._used()

    @contextlib.contextmanager
    def _used(self) -> Iterator[Self]:
        theirs = self._context
        if theirs is None or theirs.ended:
            state = "has ended" if theirs is not None else "was not entered"
            msg = f"{self._terms.called} {state}: use() is for other threads while its block lasts"
            raise RuntimeError(msg)
        check_process(theirs, self._binding.account)
        around = context_around(self._binding.account)
        budgets, reserve, labels = theirs.budgets, theirs.reserve, theirs.labels
        if around is not None:
            budgets, reserve = united(budgets, around.budgets), reserve or around.reserve
            labels = around.labels.joined(labels)
        context = open_context(self._binding, budgets, reserve, labels)
        try:
            yield self
        finally:
            leave(context)

    def step_out(self) -> None:
        """What follows in this task or thread is not in the block, although the block lasts.

        For code that is entered in one place and continued in another, such as a generator: with `use()`
        around each of its steps, whoever iterates over it is not in the budget. Does nothing unless the
        block is the innermost one here.
        """
        assert self._context is not None
        step_out(self._context)

    @clean_traceback
    def __enter__(self) -> Self:
        with self._entering():
            spec = self._begin()
            if spec is not None:
                self._reserve(spec.open(warns=True))
        return self

    @clean_traceback
    async def __aenter__(self) -> Self:
        with self._entering():
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
        context = self._context
        assert context is not None
        leave(context)
        self._give_back(error)

    def _give_back(self, error: BaseException | None) -> None:
        context, account = self._context, self._binding.account
        if context is not None and context.ledger is not account.ledger:
            # In a forked child: what was set aside counts in the parent, and goes back there.
            return
        # The garbage collector may leave the block at any point, even inside a change.
        post = account.post_later if isinstance(error, GeneratorExit) else account.post
        if isinstance(self._its, BlockBudget) and isinstance(self._its.allowance, CarvedAllowance):
            # Closing what is closed changes nothing, nor does ending what has ended.
            post(close_carved, self._its.allowance)
        if self._hold is not None:
            post(close_reserve, *self._hold)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __del__(self) -> None:
        # Never left, as in a coroutine that nobody awaited, or interrupted while it was: what was set
        # aside goes back.
        try:
            context = self._context
            unreturned = self._sets_aside
        except AttributeError:  # interrupted while it was constructed
            return
        if context is not None and not context.ended:
            self.__exit__(GeneratorExit, GeneratorExit(), None)
        elif unreturned:
            self._give_back(GeneratorExit())

    @property
    def _sets_aside(self) -> bool:
        """Whether something is set aside for the block."""
        its = self._its
        carved = its.allowance if isinstance(its, BlockBudget) else None
        if isinstance(carved, CarvedAllowance) and carved.set_aside:
            return True
        return self._hold is not None and not self._hold[1].ended

    def __reduce_ex__(self, _: Any) -> NoReturn:
        msg = (
            f"{self._terms.called} cannot be copied or pickled: it bounds the calls of this process"
        )
        raise TypeError(msg)

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name}"
        return f"<Budget{name}: {self.left} of {self.limit} left>"

    @contextlib.contextmanager
    def _entering(self) -> Iterator[None]:
        """Only one may enter the block, who may have to wait for a balance; again if that fails."""
        if self._entered:
            ended = self._context is not None and self._context.ended
            how = "has ended" if ended else "is entered already"
            msg = f"{self._terms.called} {how}. Make a new one for each block; other threads call use()"
            raise RuntimeError(msg)
        self._entered = True
        try:
            yield
        finally:
            self._entered = self._context is not None

    def _begin(self) -> CallSpec | None:
        """Enter the block; returns what it needs from the account first, if it needs anything."""
        binding, terms = self._binding, self._terms
        if callable(terms.key):
            msg = "key= takes a callable only on a decorator, which gives it the call's arguments"
            raise TypeError(msg)
        if not ACTIVATION.read:
            ACTIVATION.read_environment()
        binding.check_open(terms.called)
        around = context_here(binding.account)
        budgets = () if around is None else around.budgets
        carves = terms.carved and not ACTIVATION.passive
        if carves and around is not None and budgets:
            self._carve(around)
            budgets = ()
        elif carves:
            return CallSpec(binding, min=to_credits(terms.limit), name=terms.operation)
        self._open(budgets, None if around is None else around.reserve, around)
        return None

    def _carve(self, around: CallContext[Any]) -> None:
        account, terms = self._binding.account, self._terms
        for each in around.budgets:
            if each.shared:
                msg = (
                    f"{terms.called} cannot be set aside in the budget {each.name}, which is kept in a "
                    'store: leave out share="carve", or enter it outside of that budget'
                )
                raise ValueError(msg)
        carved = CarvedAllowance(terms.limit)
        # Before anything is set aside, so that it is given back if this is interrupted.
        self._its = BlockBudget(terms.name, carved, set_aside_in=around.budgets)
        carving = Carving(self._binding.subscriber, terms.operation, carved, around)
        error = account.change(carving.carve, account.ledger)
        if isinstance(error, BudgetExceeded):
            try:
                raise error
            finally:
                del error

    def _reserve(self, hold: Hold) -> None:
        """The account has set the limit aside: enter the block."""
        reserve = None
        if not isinstance(hold, NullHold):
            reserve = Reserve(hold)
            self._hold = reserve, hold
            # The calls inside take their credits from it, so they are not held twice.
            nested.step_out(hold)
        self._open((), reserve, context_here(self._binding.account))

    def _open(
        self,
        budgets: tuple[CallBudget, ...],
        reserve: Reserve | None,
        around: CallContext[Any] | None,
    ) -> None:
        labels = NO_LABELS if around is None else around.labels
        # A budget with a period may be entered inside itself: a call counts in it once.
        budgets = united((self._its,), budgets)
        self._context = open_context(self._binding, budgets, reserve, labels)


def budget_terms(
    limit: int, name: str | None, key: Any, period: Period | None, *, carved: bool
) -> BudgetTerms:
    """Checked terms of a budget; raises TypeError or ValueError for what does not go together."""
    if period is None:
        if key is not None:
            msg = 'key= needs per=: a budget by key lasts longer than a block. Pass per="day", or seconds'
            raise TypeError(msg)
    elif name is None:
        msg = "per= needs name=: a budget with a period is found again by its name and key"
        raise TypeError(msg)
    elif carved:
        msg = 'share="carve" sets credits aside for one block, and a budget with per= lasts longer: leave it out'
        raise ValueError(msg)
    if not callable(key):
        key = plain_key(key)
    return BudgetTerms(limit, name, key, period, carved)


def terms_for(terms: BudgetTerms, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BudgetTerms:
    """The terms of one call of a decorated function."""
    if not callable(terms.key):
        return terms
    return replace(terms, key=plain_key(terms.key(*args, **kwargs)))
