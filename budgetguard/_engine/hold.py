"""Hold: the credits set aside while a call runs, and the ways in which it can end."""

from collections.abc import Callable, Sized
from decimal import Decimal
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, Self, TypeAlias

from budgetguard._core.allowance import BlockBudget, CallBudget
from budgetguard._core.amounts import Amount, cost, to_credits
from budgetguard._core.branch import MANY_ENDS
from budgetguard._core.call_context import CallContext
from budgetguard._core.clean_tracebacks import WRONG, clean_traceback, clear
from budgetguard._core.errors import BudgetGuardError, HoldClosed
from budgetguard._core.events import spell_id
from budgetguard._core.policy import CallNeed
from budgetguard._core.reentrancy import ATOMIC, CHANGING
from budgetguard._engine.blocked_loop import warn_if_looped
from budgetguard._engine.reservation import NUMBERS, Reservation
from budgetguard._engine.subscriber import Call, Subscriber

if TYPE_CHECKING:
    from budgetguard._core.leased_ledger import AnyLedger

State: TypeAlias = Literal["open", "settled", "released", "kept"]
_Ending: TypeAlias = tuple[State, tuple[Any, ...]]


class PendingAnswer(Protocol):
    """What a caller waits for that requested more for its hold."""

    done: bool

    def wait(self, decider: Any) -> None:
        """Block this thread until the answer is there."""
        ...

    async def wait_async(self, decider: Any) -> None:
        """Wait for the answer without blocking the caller's event loop."""
        ...

    def check(self) -> None:
        """Raise the answer if it is an error."""
        ...


class Owner(Protocol):
    """What a hold needs from its account."""

    ledger: "AnyLedger"
    monotonic: Callable[[], float]
    wall: Callable[[], float]

    @property
    def queue(self) -> Sized:
        """The waiters for credits or slots."""
        ...

    def extend(self, call: Call, hold: "Hold") -> "BudgetGuardError | PendingAnswer | None":
        """Hold more credits for `hold`; returns the error if it is refused."""
        ...

    def abandon(self, waiter: Any) -> None:
        """A caller no longer waits for this answer."""
        ...

    def post(self, change: Callable[..., bool], *args: Any) -> None:
        """Make a change."""
        ...

    def post_later(self, change: Callable[..., bool], *args: Any) -> None:
        """Have the private loop, or the next caller, make a change."""
        ...

    def flush(self) -> None:
        """Record the finished calls that were appended."""
        ...

    def flush_soon(self) -> None:
        """Have the private loop record the finished calls that were appended."""
        ...


class Hold(Reservation):
    """Credits and slots set aside for one running call. Guards make holds, your code never does.

    A hold ends once, in one of three states:

    - settled: the call cost this much;
    - released: nothing was charged;
    - kept: unresolved. The outcome is unknown, so the credits remain counted until a later
      balance shows what was charged.

    As a context manager it ends with the block: settled at `amount`, or kept if the block raises. A
    hold that is garbage-collected while open is kept. All methods except `aextend` are plain
    functions; sync and async code may call them, from any thread.
    """

    __slots__ = ("__weakref__", "_account", "_ending", "_release_on")

    operation: str
    """The operation's name, as in errors and events."""

    slots: int
    """The number of concurrent sessions that this hold counts."""

    def __init__(
        self,
        account: Owner,
        subscriber: Subscriber,
        operation: str,
        ledger: "AnyLedger",
        micro: int,
        slots: int,
        lag: float,
        linger: float,
        release_on: tuple[type[BaseException], ...],
        began: float,
        context: CallContext[Any] | None = None,
    ) -> None:
        """Durations and times are seconds. Nothing is held until the credits are taken."""
        # Filled by dict.setdefault, which is atomic: if two threads end a hold, only one succeeds.
        self._ending: dict[str, _Ending] = {}
        # The attributes of LedgerEntry, set here to save a call to its __init__.
        self.ended = True
        self.micro = micro
        self.charged_micro = 0
        self.slots = slots
        self.operation = operation
        self._account = account
        self._subscriber = subscriber
        self._ledger = ledger
        self._lag = lag
        self._linger = linger
        self._release_on = release_on
        self._began = began
        self._number = next(NUMBERS.counter)
        self.reserve = None
        self._context = context
        self.allowances = () if context is None else context.allowances

    @property
    def id(self) -> str:
        """32 hexadecimal digits, unique to this hold. Not a secret: the next id can be guessed."""
        return spell_id(self._number)

    @property
    def amount(self) -> Decimal:
        """Credits that were set aside, including extensions."""
        return to_credits(self.micro)

    @property
    def state(self) -> State:
        """`"open"`, `"settled"`, `"released"` or `"kept"`."""
        ending = self._ending.get("end")
        return "open" if ending is None else ending[0]

    def same_account(self, other: "Hold") -> bool:
        """Whether both hold credits of the same account."""
        return self._account is other._account  # noqa: SLF001  another of this class

    def settle(self, actual: Amount | None = None) -> None:
        """End the hold: the call cost `actual` credits, or `amount` if `actual` is not given.

        A cost above `amount` is accepted, because the credits are already spent, and reported as an
        overrun. A value that is not a valid cost raises TypeError or ValueError and leaves the hold
        open. Raises HoldClosed if the hold has already ended.
        """
        try:
            micro = None if actual is None else cost(actual, "actual")
        except WRONG as error:
            del actual
            clear(error)
            raise
        if not self.end_at(micro):
            raise HoldClosed(operation=self.operation, state=self.state, verb="settle")

    def end_at(self, actual: int | None = None) -> bool:
        """Settle the hold at `actual` micro-credits, by default at what it held; False if it has ended.

        Where nothing has to react to it at once, the settlement is only appended to a queue, without
        a lock, and the next change of the account records it.
        """
        if actual is None:
            actual = self.micro
        ending: _Ending = ("settled", (actual,))
        if self._ending.setdefault("end", ending) is not ending:
            return False
        account, ledger, context = self._account, self._ledger, self._context
        listened, now = self._subscriber.on_event is not None, account.monotonic()
        # Listeners are called outside every lock, so not from a handler that interrupted a change.
        posts = listened and get_ident() in CHANGING
        if (
            posts
            or not ATOMIC
            or not (context is None or context.plain)
            or actual > self.micro
            or self.charged_micro
            or self.slots
            or account.queue
            or ledger is not account.ledger  # the parent process's hold, which ends there
            or (listened and (actual < self.micro or ledger.frees))
        ):
            self._post(self.record_settled, actual)
            return True
        if actual < self.micro:
            ledger.frees = True
        # No call in these steps: another thread can extend the hold only before all of them.
        self.ended, ends = True, ledger.ends
        if context is not None:
            first, second, third = self.allowances
            first.room += self.micro - actual
            first.spent += actual
            second.room += self.micro - actual
            second.spent += actual
            third.room += self.micro - actual
            third.spent += actual
        ends.append((self.micro, actual, now + self._lag, self.epoch))
        if listened:
            self._emit_now("settled", actual, now, account.wall())
        if not len(ends) % MANY_ENDS:
            account.flush_soon()
        return True

    def emit_admitted(self, wall: float) -> None:
        """Report to the listener that the call was admitted. If that is interrupted, release the hold."""
        try:
            if self._ledger.frees:
                self._account.flush()
            self._emit_now("admitted", self.micro, self._began, wall)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """End the hold: nothing was charged. Raises HoldClosed if it has already ended."""
        self._end("release", "released")

    def keep(self) -> None:
        """End the hold with an unknown outcome: its credits remain counted until a balance shows it.

        That balance must have been requested late enough (`linger + lag` seconds from now) to show
        whatever was charged. Raises HoldClosed if the hold has already ended.
        """
        self._end("keep", "kept")

    def keep_because(self, cause: str | None) -> bool:
        """Keep the hold; False if it has ended. `cause` is the name of the call's exception, if known."""
        if not self._claim("kept", cause):
            return False
        self._post(self.record_kept, cause)
        return True

    def keep_attempt(self) -> None:
        """Count `amount` once more, as kept, because an earlier attempt of the call may have cost it.

        The hold itself remains open for the next attempt. The extra amount is counted even if too
        few credits are available. Raises HoldClosed if the hold has already ended.
        """
        self._must_be_open("keep_attempt")
        self._post(self.record_attempt)

    def charged(self, total: Amount) -> None:
        """Report that the provider has charged `total` credits for this call so far.

        That part is then counted as spent and no longer as held, so that it is not counted twice
        once the balance shows it. A total that is smaller than before changes nothing. Raises
        TypeError or ValueError for a value that is not a valid cost, HoldClosed if the hold has
        already ended.
        """
        try:
            micro = cost(total, "total")
        except WRONG as error:
            del total
            clear(error)
            raise
        self._must_be_open("charged")
        self._post(self.record_charged, micro)

    @clean_traceback
    def extend(self, credits: Amount) -> None:
        """Set more credits aside for a call that runs longer than expected.

        Decides on the cached balance and starts a refresh, but does not wait for it. With a store it
        may wait for the store, for at most its `timeout`: async code uses `aextend`. Raises
        InsufficientCredits, BalanceUnavailable or Paused like any admission, HoldClosed if the hold has
        already ended, TypeError or ValueError for a value that is not a valid cost, and RuntimeError
        in a forked child, because these credits are held by its parent.
        """
        waiter = self._extend(credits)
        if waiter is not None:
            if not waiter.done:
                try:
                    warn_if_looped(
                        f"hold.extend() of {self.operation}", "Use `await hold.aextend(...)`"
                    )
                except BaseException:
                    # A warning raises where warnings are turned into errors.
                    self._account.abandon(waiter)
                    raise
            waiter.wait(self._account)
            waiter.check()
            self._must_be_open("extend")

    def _extend(self, credits: Amount) -> "PendingAnswer | None":
        """Request more; returns what to wait for, if anything."""
        more = cost(credits, "credits")
        self._must_be_open("extend")
        if self._inherited():
            msg = (
                f"The hold of {self.operation} was opened in the process that this one was forked "
                "from, and counts there. Acquire another hold here for what this process spends."
            )
            raise RuntimeError(msg)
        error = self._account.extend(self._asks_for(more, self._account.monotonic()), self)
        if error is not None and not isinstance(error, BudgetGuardError):
            return error
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback refers to this frame: without this, the cycle would keep the hold alive.
                del error
        self._must_be_open("extend")
        return None

    def _asks_for(self, more: int, now: float) -> Call:
        """The request for more credits that an open call makes, without waiting for them."""
        context = self._context
        budgets: tuple[CallBudget, ...] = ()
        if context is not None:
            # The windows that the call was admitted in, whichever these are by now.
            its = zip(context.budgets, self.allowances, strict=False)
            budgets = tuple(
                each if each.shared else BlockBudget(each.name, allowance)
                for each, allowance in its
            )
        need = CallNeed(
            amount=more,
            cost=more,
            slots=0,
            arrived=now,
            until=now,
            give_up=now,
            budgets=budgets,
            reserve=self.reserve,
        )
        return Call(
            self._subscriber, self.operation, need, self._lag, self._linger, context=context
        )

    @clean_traceback
    async def aextend(self, credits: Amount) -> None:
        """The async form of `extend`: what may wait does not block the event loop."""
        waiter = self._extend(credits)
        if waiter is not None:
            await waiter.wait_async(self._account)
            waiter.check()
            self._must_be_open("extend")

    def finish(self, error: BaseException | None) -> None:
        """End the hold the way its block ended; does nothing if it has already ended."""
        if self._ending:
            return
        # The garbage collector may raise a GeneratorExit at any point, even inside a change.
        later = isinstance(error, GeneratorExit)
        if error is None:
            self.end_at()
        elif proves(error, self._release_on):
            self._finish("released", later=later)
        else:
            self._finish("kept", cause_of(error), later=later)

    def _finish(self, state: State, *args: Any, later: bool = False) -> None:
        if self._claim(state, *args):
            self._post(self._change_to(state), *args, later=later)

    def _end(self, verb: str, state: State) -> None:
        if not self._claim(state):
            raise HoldClosed(operation=self.operation, state=self.state, verb=verb)
        self._post(self._change_to(state))

    def _claim(self, state: State, *args: Any) -> bool:
        # Without the bound method that records it, which would refer back to this hold in a cycle.
        ending = (state, args)
        return self._ending.setdefault("end", ending) is ending

    def _change_to(self, state: State) -> Callable[..., bool]:
        if state == "settled":
            return self.record_settled
        return self.record_released if state == "released" else self.record_kept

    def _post(self, change: Callable[..., bool], *args: Any, later: bool = False) -> None:
        if self._inherited():
            return
        account = self._account
        at = account.monotonic()
        post = account.post_later if later else account.post
        post(change, at, *args)

    def _inherited(self) -> bool:
        """Whether a parent process opened this hold: it counts in that process, and ends there."""
        return self._ledger is not self._account.ledger

    def _must_be_open(self, verb: str) -> None:
        if self._ending:
            raise HoldClosed(operation=self.operation, state=self.state, verb=verb)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish(error)

    def __del__(self) -> None:
        try:
            if self.ended:
                return
        except AttributeError:  # interrupted while it was constructed
            return
        if not self._ending:
            self._finish("kept", later=True)
        else:
            # Interrupted between the claim and the post: post again, the ledger ends it only once.
            state, args = self._ending["end"]
            self._post(self._change_to(state), *args, later=True)

    def __reduce_ex__(self, _: Any) -> NoReturn:
        # copy.copy and copy.deepcopy come here as well; dropping a copy would end the original.
        msg = (
            f"The hold of {self.operation} cannot be copied or pickled: it ends once, in the process "
            "that opened it. Pass on the hold itself. If another process does the work, let it "
            "report the cost, and settle the hold here."
        )
        raise TypeError(msg)

    def __repr__(self) -> str:
        return f"<Hold of {self.amount} for {self.operation}, {self.state}>"


def proves(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether `error` is one of `kinds`, or a group that contains nothing else, at any depth."""
    rest = [error]
    while rest:
        each = rest.pop()
        if isinstance(each, kinds):
            continue
        if not isinstance(each, BaseExceptionGroup):
            return False
        rest += each.exceptions
    return True


class NullHold(Hold):
    """The hold that a block gets while guards are switched off: it holds nothing."""

    __slots__ = ()

    def __init__(self, operation: str, slots: int) -> None:
        self._ending = {}
        self.ended = True
        self.micro = 0
        self.slots = slots
        self.operation = operation
        self._number = next(NUMBERS.counter)

    @clean_traceback
    def settle(self, actual: Amount | None = None) -> None:
        """Set the state; raises as `Hold.settle` does."""
        if not self.end_at(0 if actual is None else cost(actual, "actual")):
            raise HoldClosed(operation=self.operation, state=self.state, verb="settle")

    @clean_traceback
    def charged(self, total: Amount) -> None:
        """Check the argument; raises as `Hold.charged` does."""
        cost(total, "total")
        self._must_be_open("charged")

    @clean_traceback
    def extend(self, credits: Amount) -> None:
        """Check the argument; raises as `Hold.extend` does, but refuses nothing."""
        cost(credits, "credits")
        self._must_be_open("extend")

    def finish(self, error: BaseException | None) -> None:
        """Set the state."""
        self._claim("settled" if error is None else "kept")

    def end_at(self, actual: int | None = None) -> bool:
        """Set the state; False if the hold has already ended."""
        return self._claim("settled", actual)

    def _post(self, change: Callable[..., bool], *args: Any, later: bool = False) -> None:
        """Post nothing: no account is involved."""


def cause_of(error: BaseException) -> str:
    """The name of the exception's type, or of the only exception in a group.

    Never its text, which may contain anything.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return type(error).__name__
