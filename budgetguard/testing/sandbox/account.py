"""An account that is charged while work is done, and the figures that a test may check."""

import math
from collections import deque
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from budgetguard._core.argument_types import shown
from budgetguard.testing.sandbox.bounds import within
from budgetguard.testing.sandbox.clock import Clock, after

Amount = int | float | Decimal | str

_MICRO = 1_000_000
_LARGEST = 10**9


def micro(amount: Amount) -> int:
    """Convert `amount` credits to whole micro-credits, exactly.

    Raises `ValueError` below 0, above 10^9 and for parts of a micro-credit. With that bound every
    amount has at most 15 digits, so the double in a JSON body shows the same decimal.
    """
    try:
        exact = Decimal(str(amount)) * _MICRO
        if exact == exact.to_integral_value() and 0 <= exact <= _LARGEST * _MICRO:
            return int(exact)
    except InvalidOperation:
        pass
    msg = f"credits are a number from 0 to 10^9 with at most 6 decimals, not {shown(amount)}"
    raise ValueError(msg)


def credits_of(micros: int) -> Decimal:
    """Convert micro-credits to credits, without trailing zeros."""
    amount = Decimal(micros).scaleb(-6).normalize()
    return amount.quantize(Decimal(1)) if amount == amount.to_integral_value() else amount


def number(micros: int) -> int | float:
    """Convert micro-credits to the number of credits that a JSON body shows."""
    return micros // _MICRO if micros % _MICRO == 0 else micros / _MICRO


@dataclass(slots=True)
class Operation:
    """One piece of paid work, such as a spec, a batch of browser tasks or a browser session.

    `id` is the provider's id of it, `kind` says what it is, and `state` is `"running"`,
    `"finished"`, or `"died"` if a charge was refused before the work was done.
    """

    id: str
    kind: str
    state: Literal["running", "finished", "died"] = "running"
    micros: int = 0

    @property
    def charged(self) -> Decimal:
        """Credits charged so far. They are wasted if the operation died."""
        return credits_of(self.micros)


class Account:
    """The account at one provider.

    All figures are up to date when you read them. You can read them from any thread.

    - `lag`: how many provider seconds pass until a charge shows in `reported`.
    - `overdraft`: if False, a charge that the balance does not cover is refused. If True, work
      continues while the balance is above zero, so that one charge can take it below zero.
    - `cost_limit`: a charge that would take `used` above this is refused.
    """

    def __init__(
        self,
        credits: Amount,
        clock: Clock,
        *,
        lag: float = 0.0,
        overdraft: bool = False,
        cost_limit: Amount | None = None,
    ) -> None:
        self._clock = clock
        self._lag = within(lag, 0, math.inf, "lag is a number of provider seconds")
        self._overdraft = overdraft
        self._limit = None if cost_limit is None else micro(cost_limit)
        self._balance = self._lowest = micro(credits)
        self._used = 0
        self._unseen: deque[tuple[float, int]] = deque()
        self._operations: dict[str, Operation] = {}
        self._running = 0
        self._most_running = 0
        self._refused = 0

    @property
    def balance(self) -> Decimal:
        """The true balance in credits."""
        with self._clock.settled():
            return credits_of(self._balance)

    @property
    def reported(self) -> Decimal:
        """The balance that the provider's balance endpoints report. It is `lag` behind `balance`."""
        return credits_of(self.reported_micros())

    @property
    def lowest_balance(self) -> Decimal:
        """The lowest value that `balance` ever had."""
        with self._clock.settled():
            return credits_of(self._lowest)

    @property
    def used(self) -> Decimal:
        """All credits spent: those in `charged`, and those that `spend` took."""
        with self._clock.settled():
            return credits_of(self._used)

    @property
    def charged(self) -> Decimal:
        """Credits charged for all operations."""
        with self._clock.settled():
            return credits_of(sum(each.micros for each in self._operations.values()))

    @property
    def wasted(self) -> Decimal:
        """Credits charged for operations that died."""
        with self._clock.settled():
            died = (each for each in self._operations.values() if each.state == "died")
            return credits_of(sum(each.micros for each in died))

    @property
    def operations(self) -> dict[str, Operation]:
        """All operations that were started, by their id."""
        with self._clock.settled():
            return dict(self._operations)

    @property
    def running(self) -> int:
        """How many operations are running now."""
        with self._clock.settled():
            return self._running

    @property
    def finished(self) -> int:
        """How many operations finished."""
        return self._count("finished")

    @property
    def died(self) -> int:
        """How many operations stopped because a charge was refused."""
        return self._count("died")

    @property
    def refused(self) -> int:
        """How many operations were refused before they started, for lack of credits."""
        with self._clock.settled():
            return self._refused

    @property
    def max_concurrency_seen(self) -> int:
        """The largest number of operations that ever ran at the same time."""
        with self._clock.settled():
            return self._most_running

    def top_up(self, credits: Amount) -> None:
        """Add credits. They show in `reported` at once."""
        with self._clock.settled():
            self._balance += micro(credits)
            self._clock.tell()

    def spend(self, credits: Amount) -> Decimal:
        """Spend credits as another user of the account would, at most those that are left.

        Returns the credits that were taken.
        """
        with self._clock.settled() as now:
            taken = max(0, min(micro(credits), self._balance))
            self._post(taken, now)
            return credits_of(taken)

    def reported_micros(self) -> int:
        """Return `reported` in micro-credits."""
        with self._clock.settled() as now:
            return self._balance + self._not_shown(now)

    def reported_used_micros(self) -> int:
        """Return `used` in micro-credits as the billing endpoint reports it: `lag` behind."""
        with self._clock.settled() as now:
            return self._used - self._not_shown(now)

    def begin(self, kind: str, id: str) -> Operation:
        """Start an operation. The caller has checked that it can be paid."""
        operation = self._operations[id] = Operation(id, kind)
        self._running += 1
        self._most_running = max(self._most_running, self._running)
        self._clock.tell()
        return operation

    def charge(self, operation: Operation, micros: int, when: float) -> bool:
        """Charge an operation, as of the time `when`. False means refused: nothing was charged."""
        if not self.payable(micros):
            return False
        operation.micros += micros
        self._post(micros, when)
        return True

    def refund(self, operation: Operation, micros: int, when: float) -> None:
        """Give back a part of what an operation was charged, as of the time `when`."""
        operation.micros -= micros
        self._post(-micros, when)

    def end(self, operation: Operation, state: Literal["finished", "died"]) -> None:
        """Set the final state of an operation."""
        operation.state = state
        self._running -= 1
        self._clock.tell()

    def refuse(self) -> None:
        """Count an operation that was refused before it started."""
        self._refused += 1

    def covers(self, micros: int) -> bool:
        """Whether the balance covers this charge now."""
        return self._balance > 0 if self._overdraft else 0 < self._balance >= micros

    def within_limit(self, micros: int) -> bool:
        """Whether the cost limit allows this charge."""
        return self._limit is None or self._used + micros <= self._limit

    def payable(self, micros: int) -> bool:
        """Whether both the balance and the cost limit allow this charge now."""
        return self.covers(micros) and self.within_limit(micros)

    def _post(self, micros: int, when: float) -> None:
        self._balance -= micros
        self._used += micros
        self._lowest = min(self._lowest, self._balance)
        self._clock.tell()
        if self._lag > 0:
            self._unseen.append((after(when, self._lag), micros))

    def _not_shown(self, now: float) -> int:
        while self._unseen and self._unseen[0][0] <= now:
            self._unseen.popleft()
        return sum(micros for _, micros in self._unseen)

    def _count(self, state: str) -> int:
        with self._clock.settled():
            return sum(each.state == state for each in self._operations.values())
