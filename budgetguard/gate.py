"""One decorated function's way in and out, kept short.

Most calls have a constant cost, a young balance and room enough. For those there is nothing to
decide and nothing to remember but the books they were let in by: `enter` takes the credits and
returns the ledger, `leave` posts the end. Every other call goes through a Hold.
"""

from typing import TYPE_CHECKING, Any

from budgetguard.account import MANY_ENDS, Account
from budgetguard.asker import Call
from budgetguard.credits import cost as to_cost
from budgetguard.defaults import DEFAULT
from budgetguard.events import logger
from budgetguard.hold import Hold
from budgetguard.ledger import Entry, Ledger
from budgetguard.policy import Need
from budgetguard.switch import SWITCH

if TYPE_CHECKING:
    from budgetguard.guard import Guard
    from budgetguard.requirement import Requirement


class Gate:
    """The quick way for one decorated function, and the long way behind it."""

    __slots__ = (
        "_account",
        "_actual",
        "_constant",
        "_cost",
        "_edge",
        "_guard",
        "_known",
        "_lag",
        "_linger",
        "_monotonic",
        "_wall",
        "operation",
        "requirement",
    )

    def __init__(self, requirement: "Requirement", operation: str) -> None:
        self.requirement = requirement
        self.operation = requirement.name or operation
        self._actual = requirement.actual
        amounts = (requirement.min, requirement.cost, requirement.guard)
        self._constant = not (any(map(callable, amounts)) or requirement.slots)
        self._guard: Guard | None = requirement.guard  # type: ignore[assignment]
        self._known: Guard | None = None
        self._account: Account | None = None
        self._cost = 0
        self._edge: float = 0
        self._lag = self._linger = 0.0

    def enter(self) -> Ledger | None:
        """Take the credits if there is nothing to decide; None sends the caller the long way."""
        guard = self._guard or DEFAULT.guard
        if guard is None or guard is not self._known or guard.closed or SWITCH.passive:
            return None
        account = self._account
        mono, wall = self._monotonic(), self._wall()
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
                    cost = self._cost
                    ledger.room -= cost
                    ledger.held += cost
                    ledger.running += 1
                    taken = ledger
        except BaseException:
            if taken is not None:
                account.ends.append((taken, self._cost, 0, mono))
            raise
        return taken

    def leave(self, ledger: Ledger, result: Any) -> None:
        """The function returned: post what it cost."""
        account, cost = self._account, self._cost
        debit = cost if self._actual is None else self._real_cost(result)
        ends = account.ends
        ends.append((ledger, cost, debit, self._monotonic() + self._lag))
        if debit != cost or account.queue or len(ends) > MANY_ENDS:
            account.flush()

    def fail(self, ledger: Ledger, error: BaseException) -> None:
        """The function raised: end as a hold would."""
        self.adopt(ledger).finish(error)

    def adopt(self, ledger: Ledger) -> Hold:
        """A Hold for a call that came in the quick way."""
        requirement, guard = self.requirement, self._known
        need = Need(self._cost, self._cost, 0, 0.0, 0.0, 0.0)
        call = Call(guard.asker, self.operation, need, self._lag, self._linger)
        return Hold(self._account, call, ledger, Entry(self._cost), requirement.release_on)

    def open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hold:
        """Go the long way."""
        hold = self.requirement.open(self.operation, args, kwargs)
        self._learn()
        return hold

    async def aopen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hold:
        """Go the long way, awaiting."""
        hold = await self.requirement.aopen(self.operation, args, kwargs)
        self._learn()
        return hold

    def settle(self, hold: Hold, result: Any) -> None:
        """The function returned: settle its hold, at what `actual` says where there is one."""
        if self._actual is None:
            hold.finish(None)
        elif hold.state == "open":
            hold.settle_micro(self._real_cost(result))

    def _real_cost(self, result: Any) -> int:
        """What `actual` says; `cost` where it raises or returns nonsense, which is reported."""
        try:
            return to_cost(self._actual(result), "actual")
        except Exception:
            logger.exception("actual of %s failed; its hold is settled at cost", self.operation)
            return self._cost

    def _learn(self) -> None:
        """Remember what the quick way needs of the guard, if this function may go it at all."""
        guard = self._guard or DEFAULT.guard
        if not self._constant or guard is None or guard is self._known:
            return
        if guard.asker.on_event is not None:
            return
        requirement, terms, clock = self.requirement, guard.asker.terms, guard.runtime.clock
        least, cost = requirement.min or 0, requirement.cost
        self._cost = least if cost is None else cost
        alert = guard.asker.alert_below
        # A call that leaves less than its cost, or too little not to alert, takes the long way.
        edge = max(least, 2 * self._cost, 0 if alert is None else alert + self._cost)
        self._edge = edge + terms.floor - terms.extra
        self._lag = guard.lag if requirement.lag is None else requirement.lag
        self._linger = guard.linger if requirement.linger is None else requirement.linger
        self._monotonic, self._wall = clock.monotonic, clock.wall
        self._account = guard.account
        self._known = guard
