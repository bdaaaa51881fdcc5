"""The budgets and labels around a call: what it takes its cost from, besides the account.

Contexts form a chain by `outer`, innermost first, and never change once a call has seen them, except
that a budget with a period moves on to its next window. A context belongs to the calls of one ledger.

Pure: no lock, and the time is an argument.
"""

from typing import Generic, TypeVar

from budgetguard._core.allowance import Allowance, CallBudget, CarvedAllowance
from budgetguard._core.branch import Reserve
from budgetguard._core.clock import Instant
from budgetguard._core.labels import Labels
from budgetguard._core.reentrancy import CALL_STATE, CallState, Inside

A = TypeVar("A")

ALWAYS, NEVER = float("inf"), float("-inf")

# Fills the places of a context with fewer budgets: taking from it changes nothing.
UNBOUNDED = Allowance(0)
UNBOUNDED.room = ALWAYS  # type: ignore[assignment]

# As many allowances are taken from without a loop, in which another thread could come in between.
_INLINE = 3


def filled_up(allowances: tuple[Allowance, ...]) -> tuple[Allowance, ...]:
    """As many as are taken from without a loop, or more."""
    return (*allowances, *(UNBOUNDED,) * (_INLINE - len(allowances)))


class CallContext(Generic[A]):
    """The budgets and labels around the calls of one account in one process.

    `budgets` are all that a call takes its cost from, innermost first, and `allowances` are those
    budgets' current ones, filled up to three. `reserve` is the hold that was carved from the account
    for these calls. `until`, in seconds since the epoch, is how long a call may take from `allowances`
    without a decision, and `plain_until` the same for a call whose end is recorded without one.
    """

    __slots__ = (
        "_inside",
        "account",
        "allowances",
        "budget_name",
        "budgets",
        "ended",
        "labels",
        "ledger",
        "outer",
        "plain",
        "plain_until",
        "reserve",
        "until",
    )

    def __init__(
        self,
        account: A,
        ledger: object,
        outer: CallState | None,
        *,
        budgets: tuple[CallBudget, ...],
        reserve: Reserve | None,
        labels: Labels,
        now: Instant,
    ) -> None:
        self.account = account
        self.ledger = ledger
        self.outer = outer
        self.budgets = budgets
        self.reserve = reserve
        self.labels = labels
        self.budget_name = budgets[0].name if budgets else None
        self.ended = False
        # Opened inside a listener or a provider: its calls there would wait for themselves.
        self._inside = outer if outer is not None and outer.here else None
        self.allowances: tuple[Allowance, ...]
        self.move_on(now)

    @property
    def here(self) -> bool:
        """Whether the code runs inside the library, which must not wait for itself."""
        return self._inside is not None and self._inside.here

    def move_on(self, now: Instant) -> None:
        """Take from the windows that `now` is in from here on."""
        allowances = tuple(budget.current(now) for budget in self.budgets)
        kinds = set(map(type, allowances))
        inline = (
            len(allowances) <= _INLINE
            and kinds <= {Allowance, CarvedAllowance}
            and self.reserve is None
            and self._inside is None
        )
        self.plain = inline and kinds <= {Allowance}
        ends = min((budget.valid_until for budget in self.budgets), default=ALWAYS)
        # Before the allowances change: a call that sees the new ones without a check takes nothing.
        self.until = self.plain_until = NEVER
        self.allowances = filled_up(allowances)
        self.plain_until = ends if self.plain else NEVER
        self.until = ends if inline else NEVER

    def of_call(self, now: Instant) -> tuple[Allowance, ...]:
        """What a call that is admitted at `now` takes from."""
        # Not by when they end: another context, or who read the figures, may have moved them on.
        current = tuple(budget.current(now) for budget in self.budgets)
        if current != self.allowances[: len(current)]:
            self.move_on(now)
        return self.allowances


def context_of(account: A) -> "CallContext[A] | None":
    """The budgets and labels around a call of that account, which this code is about to make."""
    state = CALL_STATE.get()
    while state is not None:
        if isinstance(state, CallContext) and state.account is account:
            return state
        state = state.outer
    return None


def state_for(account: object, state: CallState) -> CallState | None:
    """The part of a call's state that matters to a call of that account, for the fast path.

    None if nothing around the call is about the account. Inside the library it is a state that is about
    no ledger, so that the call is decided, which finds out whether it must not wait.
    """
    around: CallState | None = state
    while around is not None:
        if around.here or (isinstance(around, CallContext) and around.account is account):
            return around
        around = around.outer
    return None


def step_out(context: CallContext[A]) -> None:
    """What follows in this task or thread is not in that block, although the block lasts."""
    if CALL_STATE.get() is context:
        CALL_STATE.set(context.outer)


def leave(context: CallContext[A]) -> None:
    """A block was left: the code that follows is in the blocks around it.

    Blocks may be left in any order, and in another task or thread than they were entered in. Tasks that
    were started in the block remain in it.
    """
    context.ended = True
    state = CALL_STATE.get()
    if state is context:
        CALL_STATE.set(context.outer)
    while state is not None:
        # Left before a block inside it, which leads past it from here on.
        if state.outer is context and isinstance(state, CallContext | Inside):
            state.outer = context.outer
        state = state.outer
