"""Credits set aside while a call runs, and the ways in which that ends."""

import os
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias

from budgetguard.credits import Amount, cost, to_credits
from budgetguard.errors import HoldClosed

if TYPE_CHECKING:
    from budgetguard.account import Account
    from budgetguard.opened import Open

State: TypeAlias = Literal["open", "settled", "released", "kept"]


class Hold:
    """Credits and slots set aside for one running call. Made by a guard, never by hand.

    It ends once: settled at what the call cost, released where nothing was charged, or kept where
    nobody knows. As a context manager it ends with the block: settled at `amount`, or kept if the
    block raises. A hold that is dropped while open is kept. All methods but `aextend` are plain,
    and may be called from any thread, from sync and from async code.
    """

    __slots__ = (
        "__weakref__",
        "_account",
        "_ending",
        "_open",
        "_release_on",
        "id",
    )

    def __init__(
        self,
        account: "Account",
        open_: "Open",
        release_on: tuple[type[BaseException], ...] = (),
    ) -> None:
        # Filled by dict.setdefault, which is atomic: of two threads that end a hold, one is first.
        self._ending: dict[str, tuple[State, Callable[..., bool], tuple[Any, ...]]] = {}
        self._account = account
        self._open = open_
        self._release_on = release_on
        # Last: an interrupt can come at a call, and from here on __del__ can end the hold.
        self.id = os.urandom(16).hex()

    @property
    def operation(self) -> str:
        """The operation's name, as in errors and events."""
        return self._open.call.operation

    @property
    def amount(self) -> Decimal:
        """Credits that were set aside, extensions included."""
        return to_credits(self._open.entry.amount)

    @property
    def micro(self) -> int:
        """`amount` in micro-credits."""
        return self._open.entry.amount

    @property
    def slots(self) -> int:
        """Sessions that this hold counts for."""
        return self._open.entry.slots

    @property
    def state(self) -> State:
        """`"open"`, `"settled"`, `"released"` or `"kept"`."""
        ending = self._ending.get("end")
        return "open" if ending is None else ending[0]

    def same_account(self, other: "Hold") -> bool:
        """Whether both hold credits of one account."""
        return self._account is other._account  # noqa: SLF001  another of this class

    def settle(self, actual: Amount | None = None) -> None:
        """End the hold: the call cost `actual` credits, or `amount` if that is not given.

        More than was held is accepted and reported as an overrun: the credits are gone. Raises
        TypeError or ValueError for what is no cost, leaving the hold open, and HoldClosed if the
        hold has ended.
        """
        self.settle_micro(self.micro if actual is None else cost(actual, "actual"))

    def settle_micro(self, micro: int) -> None:
        """`settle`, in micro-credits."""
        self._end("settle", "settled", self._open.settle, micro)

    def release(self) -> None:
        """End the hold: nothing was charged. Raises HoldClosed if it has ended."""
        self._end("release", "released", self._open.release)

    def keep(self) -> None:
        """End the hold, not knowing what was charged: it counts until a late enough balance shows.

        Raises HoldClosed if it has ended.
        """
        self._end("keep", "kept", self._open.keep)

    def keep_attempt(self) -> None:
        """Count `amount` once more, as kept: an attempt before the one that begins may have cost it.

        The hold goes on for that one, and nobody is asked whether there is room. Raises HoldClosed
        if it has ended.
        """
        self._must_be_open("keep_attempt")
        self._post(self._open.keep_attempt)

    def charged(self, total: Amount) -> None:
        """The provider says that it has booked `total` credits of this call so far.

        That part is no longer held but spent, so that a balance which shows it does not count it
        twice. A smaller total than before changes nothing. Raises TypeError or ValueError for what
        is no cost, HoldClosed if the hold has ended.
        """
        micro = cost(total, "total")
        self._must_be_open("charged")
        self._post(self._open.charge, micro)

    def extend(self, credits: Amount) -> None:
        """Set more credits aside for a call that runs longer than thought.

        Decides on the balance at hand and starts a look, but never waits; raises
        InsufficientCredits or BalanceUnavailable like any admission, HoldClosed if the hold has
        ended, TypeError or ValueError for what is no cost, RuntimeError in a forked child, whose
        parent holds these credits.
        """
        more = cost(credits, "credits")
        self._must_be_open("extend")
        if self._inherited():
            msg = (
                f"The hold of {self.operation} was opened in the process that this one was forked "
                "from, and counts there. Acquire one here for what this process spends."
            )
            raise RuntimeError(msg)
        now = self._account.runtime.clock.monotonic()
        need = replace(
            self._open.call.need,
            amount=more,
            cost=more,
            slots=0,
            arrived=now,
            until=now,
            give_up=now,
        )
        error = self._account.extend(replace(self._open.call, need=need), self._open.entry)
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback holds this frame, which would hold it and, with it, a dropped hold.
                del error
        self._must_be_open("extend")

    async def aextend(self, credits: Amount) -> None:
        """`extend`, for code that awaits; it does not wait either."""
        self.extend(credits)

    def finish(self, error: BaseException | None) -> None:
        """End the hold as its block ended; does nothing if it has ended already."""
        if self._ending:
            return
        # A GeneratorExit may be the garbage collector's doing, in the middle of anything.
        later = isinstance(error, GeneratorExit)
        if error is None:
            self._finish("settled", self._open.settle, self._open.entry.amount)
        elif proves(error, self._release_on):
            self._finish("released", self._open.release, later=later)
        else:
            self._finish("kept", self._open.keep, cause_of(error), later=later)

    def _finish(
        self, state: State, change: Callable[..., bool], *args: Any, later: bool = False
    ) -> None:
        if self._claim(state, change, args):
            self._post(change, *args, later=later)

    def _end(self, verb: str, state: State, change: Callable[..., bool], *args: Any) -> None:
        if not self._claim(state, change, args):
            raise HoldClosed(operation=self.operation, state=self.state, verb=verb)
        self._post(change, *args)

    def _claim(self, state: State, change: Callable[..., bool], args: tuple[Any, ...]) -> bool:
        ending = (state, change, args)
        return self._ending.setdefault("end", ending) is ending

    def _post(self, change: Callable[..., bool], *args: Any, later: bool = False) -> None:
        if self._inherited():
            return
        account = self._account
        at = account.runtime.clock.monotonic()
        post = account.post_later if later else account.post
        post(change, at, *args)

    def _inherited(self) -> bool:
        """Whether a parent process opened this hold: it counts in her books, and ends there."""
        return self._open.ledger is not self._account.ledger

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
        if not self._ending:
            self._finish("kept", self._open.keep, later=True)
        elif not self._open.entry.ended:
            # Interrupted between the claim and the post: post again, the books take it once.
            _, change, args = self._ending["end"]
            self._post(change, *args, later=True)

    def __reduce_ex__(self, _: Any) -> NoReturn:
        # copy.copy and copy.deepcopy come here as well; a dropped copy would end the original.
        msg = (
            f"The hold of {self.operation} cannot be copied or pickled: it ends once, in the process "
            "that opened it. Hand on the hold itself; to another process, hand what the call cost, "
            "and settle here."
        )
        raise TypeError(msg)

    def __repr__(self) -> str:
        return f"<Hold of {self.amount} for {self.operation}, {self.state}>"


def proves(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether `error` is one of `kinds`, or a group of nothing else, however deep."""
    rest = [error]
    while rest:
        each = rest.pop()
        if isinstance(each, kinds):
            continue
        if not isinstance(each, BaseExceptionGroup):
            return False
        rest += each.exceptions
    return True


class NoHold(Hold):
    """What a block gets while guards are switched off: it looks like a hold and does nothing."""

    __slots__ = ("_amount", "_operation", "_slots")

    def __init__(self, operation: str, slots: int) -> None:
        self._ending = {}
        self.id = os.urandom(16).hex()
        self._operation = operation
        self._slots = slots

    @property
    def operation(self) -> str:
        """The operation's name."""
        return self._operation

    @property
    def amount(self) -> Decimal:
        """Nothing is set aside."""
        return Decimal(0)

    @property
    def micro(self) -> int:
        """Nothing is set aside."""
        return 0

    @property
    def slots(self) -> int:
        """Sessions that this hold would count for."""
        return self._slots

    def settle(self, actual: Amount | None = None) -> None:
        """Note the end; raises as `Hold.settle` does."""
        self.settle_micro(0 if actual is None else cost(actual, "actual"))

    def settle_micro(self, micro: int) -> None:
        """Note the end; raises HoldClosed if there was one."""
        self._end("settle", "settled", _nothing, micro)

    def release(self) -> None:
        """Note the end; raises HoldClosed if there was one."""
        self._end("release", "released", _nothing)

    def keep(self) -> None:
        """Note the end; raises HoldClosed if there was one."""
        self._end("keep", "kept", _nothing)

    def charged(self, total: Amount) -> None:
        """Check the argument; raises as `Hold.charged` does."""
        cost(total, "total")
        self._must_be_open("charged")

    def extend(self, credits: Amount) -> None:
        """Check the argument; raises as `Hold.extend` does, but refuses nothing."""
        cost(credits, "credits")
        self._must_be_open("extend")

    def finish(self, error: BaseException | None) -> None:
        """Note the end."""
        self._claim("settled" if error is None else "kept", _nothing, ())

    def _post(self, change: Callable[..., bool], *args: Any, later: bool = False) -> None:
        """Tell nobody."""

    def __del__(self) -> None:
        """Leave without a trace."""


def cause_of(error: BaseException) -> str:
    """The name of an exception's type, never its text, which may say anything; of a group's only one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return type(error).__name__


def _nothing(*_: Any) -> bool:
    return False
