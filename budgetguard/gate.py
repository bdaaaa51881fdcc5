"""One decorated function's way in and out, kept short.

Most calls have a constant cost, a young balance and room enough. For those there is nothing to
decide and nothing to remember but the books they were let in by: `enter` takes the credits and
returns the ledger, `price` says what to post at the end. Every other call goes through a Hold.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from budgetguard.account import Account
from budgetguard.asker import Call
from budgetguard.events import logger
from budgetguard.hold import Hold
from budgetguard.inside import INSIDE
from budgetguard.ledger import End, Entry, Ledger
from budgetguard.opened import Open
from budgetguard.policy import Need
from budgetguard.switch import SWITCH
from budgetguard.unfinished import goes_on

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.requirement import Requirement


class Slot:
    """Where a function's guard is, if there is one yet."""

    def __init__(self, guard: "Guard | None") -> None:
        self._guard = guard

    @property
    def guard(self) -> "Guard | None":
        """The guard, if there is one."""
        return self._guard

    @guard.setter
    def guard(self, guard: "Guard | None") -> None:
        self._guard = guard
        SWITCH.turn()


_NOWHERE = Slot(None)


def _slot(guard: Any) -> Slot:
    """The slot of a guard; of callables only the default has one, others are to be asked each time."""
    if isinstance(guard, Slot):
        return guard
    return _NOWHERE if callable(guard) else Slot(guard)


class Gate:
    """The quick way for one decorated function, and the long way behind it."""

    __slots__ = (
        "_edge",
        "_known",
        "_learning",
        "_least",
        "_linger",
        "_slot",
        "_stamp",
        "_wall",
        "account",
        "checks_only",
        "constant",
        "cost",
        "lag",
        "monotonic",
        "operation",
        "plain",
        "requirement",
    )

    # Set when `_known` is, and not before.
    account: Account
    cost: int
    lag: float
    monotonic: Callable[[], float]
    _edge: float
    _least: float
    _linger: float
    _wall: Callable[[], float]

    def __init__(self, requirement: "Requirement", operation: str) -> None:
        self.requirement = requirement
        self.operation = requirement.name or operation
        self.constant = requirement.actual is None
        # The type of the last result whose work had ended: looked up once, not at every call.
        self.plain: type = type(None)
        dynamic = callable(requirement.min) or callable(requirement.cost) or requirement.slots
        self._slot = _NOWHERE if dynamic else _slot(requirement.guard)
        self.checks_only = requirement.cost == 0 and requirement.actual is None and not dynamic
        # The first one's, by dict.setdefault: a lock could be left taken, by a fork or an interrupt.
        self._learning: dict[str, Guard] = {}
        self._known: Guard | None = None
        self._stamp: object = None

    def __reduce__(self) -> tuple[type["Gate"], tuple[Any, ...]]:
        # For cloudpickle, which sends functions by value: what is known of a guard stays here.
        return Gate, (self.requirement, self.operation)

    def enter(self) -> Ledger | None:
        """Take the credits if there is nothing to decide; None sends the caller the long way."""
        if self._stamp is not SWITCH.stamp or INSIDE.get():
            # The long way says what is wrong with that, or that nothing is.
            return None
        account = self.account
        mono, wall = self.monotonic(), self._wall()
        taken = None
        try:
            # No call in here, and so neither a signal's handler nor a finalizer.
            with account.lock:
                ledger = account.ledger
                if (
                    mono < account.quick_mono
                    and wall < account.quick_wall
                    and ledger.room >= self._edge
                ):
                    cost = self.cost
                    ledger.room -= cost
                    ledger.held += cost
                    ledger.running += 1
                    taken = ledger
        except BaseException:
            if taken is not None:
                account.ends.append((taken, self.cost, 0, mono))
            raise
        return taken

    def passes(self) -> bool:
        """Whether there is room, for a call that holds nothing: so it needs no lock either."""
        if self._stamp is not SWITCH.stamp:
            return False
        account = self.account
        return (
            self.monotonic() < account.quick_mono
            and self._wall() < account.young_wall
            and account.ledger.room >= self._edge
            and not INSIDE.get()
        )

    def is_unfinished(self, result: Any) -> bool:
        """Whether the work goes on that a result stands for; its type is remembered if not."""
        kind, shown = type(result), result.__class__
        if goes_on(kind, self.requirement.until):
            return True
        if shown is not kind:
            # A proxy, whose type says nothing of the next one's.
            return goes_on(shown, self.requirement.until)
        self.plain = kind
        return False

    def price(self, ledger: Ledger, result: Any) -> End:
        """The function returned: its end, for the caller to append to `account.ends`.

        Where the cost is constant, callers spell this out: a call would cost them a tenth. An
        interrupt can come at every call; appending in the caller's own frame is what makes it plain
        to see there whether the end was posted.
        """
        cost = self.cost
        real = self.requirement.real_cost(result, cost, self.operation)
        return ledger, cost, real, self.monotonic() + self.lag

    def fail(self, ledger: Ledger, error: BaseException) -> None:
        """The function raised: end as a hold would."""
        try:
            open_ = self.adopt(ledger)
        except BaseException:
            # Interrupted, and nobody else knows of this call: counted in full, if not as kept.
            at = self.monotonic() + self._linger + self.lag
            self.account.ends.append((ledger, self.cost, self.cost, at))
            raise
        # From here on it has an entry, which the books end once, however often they are told to.
        self.hold(open_).finish(error)

    def adopt(self, ledger: Ledger) -> Open:
        """The entry of a call that came in the quick way, for it to go on as others do."""
        guard, cost = cast("Guard", self._known), self.cost
        need = Need(cost, cost, slots=0, arrived=0.0, until=0.0, give_up=0.0)
        call = Call(guard.asker, self.operation, need, self.lag, self._linger)
        return Open(call, ledger, Entry(cost))

    def hold(self, open_: Open) -> Hold:
        """The Hold of an adopted call."""
        return Hold(self.account, open_, self.requirement.release_on)

    def open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hold:
        """Go the long way."""
        hold = self.requirement.open(self.operation, args, kwargs, warns=True)
        self._learn()
        return hold

    async def aopen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hold:
        """Go the long way, awaiting."""
        hold = await self.requirement.aopen(self.operation, args, kwargs)
        self._learn()
        return hold

    def _learn(self) -> None:
        """Remember what the quick way needs of the guard, if this function may go it at all.

        Once and for all: calls that are under way go by it. With another guard in the slot, with a
        guard that was closed, and while guards are off, calls take the long way.
        """
        # Read first: what changes from here on leaves this stamp behind.
        stamp, guard = SWITCH.stamp, self._slot.guard
        if logger.isEnabledFor(logging.DEBUG):  # the long way tells of calls that are held twice
            return
        if (
            self._known is None
            and guard is not None
            and guard.asker.on_event is None
            and self._learning.setdefault("from", guard) is guard
        ):
            # Who comes here at the same time remembers the same.
            self._remember(guard)
        if guard is not None and guard is self._known and not (guard.closed or SWITCH.passive):
            # A call that leaves too little for any guard of the account not to alert goes the long way.
            self._edge = max(self._least, self.account.mark + self.cost)
            self._stamp = stamp

    def _remember(self, guard: "Guard") -> None:
        requirement, terms, clock = self.requirement, guard.asker.terms, guard.runtime.clock
        least, cost = cast("int", requirement.min or 0), cast("int | None", requirement.cost)
        self.cost = least if cost is None else cost
        # A call that leaves less than its cost takes the long way.
        self._least = max(least, 2 * self.cost) + terms.floor - terms.extra
        self.lag = guard.lag if requirement.lag is None else requirement.lag
        self._linger = guard.linger if requirement.linger is None else requirement.linger
        self.monotonic, self._wall = clock.monotonic, clock.wall
        self.account = guard.account
        self._known = guard
