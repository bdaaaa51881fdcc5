"""An account that work is charged to bit by bit, and the books a test wants to see."""

from collections import deque
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from budgetguard.testing.sandbox.clock import Clock
from budgetguard.wrong import shown

Amount = int | float | Decimal | str

_MICRO = 1_000_000
_LARGEST = 10**9


def micro(amount: Amount) -> int:
    """`amount` credits as whole micro-credits, exactly.

    Raises `ValueError` below 0, above 10^9 and for parts of a micro-credit. With that bound every
    amount has at most 15 digits, so the double in a JSON body is written as the same decimal.
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
    """Micro-credits as credits, without trailing zeros."""
    amount = Decimal(micros).scaleb(-6).normalize()
    return amount.quantize(Decimal(1)) if amount == amount.to_integral_value() else amount


def number(micros: int) -> int | float:
    """Micro-credits as the number that a JSON body shows."""
    return micros // _MICRO if micros % _MICRO == 0 else micros / _MICRO


@dataclass(slots=True)
class Operation:
    """One piece of paid work: a spec, a batch of browser tasks, a browser session."""

    id: str
    kind: str
    state: Literal["running", "finished", "died"] = "running"
    micros: int = 0

    @property
    def charged(self) -> Decimal:
        """Credits charged so far; lost if the operation died."""
        return credits_of(self.micros)


class Account:
    """One provider's account. Reads are up to date, and safe from any thread.

    `lag` is how many provider seconds a charge takes to show in `reported`. Without `overdraft`
    a charge that the balance does not cover is refused; with it, work goes on while the balance
    is above zero, so that one charge can take the balance below. `cost_limit` refuses what would
    take `used` beyond it.
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
        self._lag = lag
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
        """What is truly left."""
        with self._clock.settled():
            return credits_of(self._balance)

    @property
    def reported(self) -> Decimal:
        """What the provider's balance endpoints say is left: `lag` behind."""
        return credits_of(self.reported_micros())

    @property
    def lowest_balance(self) -> Decimal:
        """The lowest that `balance` ever was."""
        with self._clock.settled():
            return credits_of(self._lowest)

    @property
    def used(self) -> Decimal:
        """What was taken altogether: `charged`, and what somebody else spent."""
        with self._clock.settled():
            return credits_of(self._used)

    @property
    def charged(self) -> Decimal:
        """What the sandbox's operations were charged."""
        with self._clock.settled():
            return credits_of(sum(each.micros for each in self._operations.values()))

    @property
    def wasted(self) -> Decimal:
        """What the operations were charged that died half-way."""
        with self._clock.settled():
            died = (each for each in self._operations.values() if each.state == "died")
            return credits_of(sum(each.micros for each in died))

    @property
    def operations(self) -> dict[str, Operation]:
        """All operations that were started, by id."""
        with self._clock.settled():
            return dict(self._operations)

    @property
    def running(self) -> int:
        """How many operations are under way."""
        with self._clock.settled():
            return self._running

    @property
    def finished(self) -> int:
        """How many operations came to their end."""
        return self._count("finished")

    @property
    def died(self) -> int:
        """How many operations were cut off because a charge was refused."""
        return self._count("died")

    @property
    def refused(self) -> int:
        """How many operations were refused for want of credits before they began."""
        with self._clock.settled():
            return self._refused

    @property
    def max_concurrency_seen(self) -> int:
        """The most operations that were ever under way at once."""
        with self._clock.settled():
            return self._most_running

    def top_up(self, credits: Amount) -> None:
        """Add credits; they show in `reported` at once."""
        with self._clock.settled():
            self._balance += micro(credits)
            self._clock.tell()

    def spend(self, credits: Amount) -> Decimal:
        """Somebody else spends: at most what is left. Returns what was taken."""
        with self._clock.settled() as now:
            taken = max(0, min(micro(credits), self._balance))
            self._book(taken, now)
            return credits_of(taken)

    def reported_micros(self) -> int:
        """`reported` in micro-credits."""
        with self._clock.settled() as now:
            return self._balance + self._not_shown(now)

    def reported_used_micros(self) -> int:
        """`used` as the billing endpoint shows it: `lag` behind, like `reported`."""
        with self._clock.settled() as now:
            return self._used - self._not_shown(now)

    def begin(self, kind: str, id: str) -> Operation:
        """Start an operation; whether it can be paid was asked before."""
        operation = self._operations[id] = Operation(id, kind)
        self._running += 1
        self._most_running = max(self._most_running, self._running)
        self._clock.tell()
        return operation

    def charge(self, operation: Operation, micros: int, when: float) -> bool:
        """Book a part of an operation at that time. False: refused, nothing was booked."""
        if not self.covers(micros) or not self.within_limit(micros):
            return False
        operation.micros += micros
        self._book(micros, when)
        return True

    def end(self, operation: Operation, state: Literal["finished", "died"]) -> None:
        """The operation is over."""
        operation.state = state
        self._running -= 1
        self._clock.tell()

    def refuse(self) -> None:
        """Count an operation that was refused before it began."""
        self._refused += 1

    def covers(self, micros: int) -> bool:
        """Whether the balance pays this now."""
        return self._balance > 0 if self._overdraft else 0 < self._balance >= micros

    def within_limit(self, micros: int) -> bool:
        """Whether the cost limit leaves room for this."""
        return self._limit is None or self._used + micros <= self._limit

    def _book(self, micros: int, when: float) -> None:
        self._balance -= micros
        self._used += micros
        self._lowest = min(self._lowest, self._balance)
        self._clock.tell()
        if self._lag > 0:
            self._unseen.append((when + self._lag, micros))

    def _not_shown(self, now: float) -> int:
        while self._unseen and self._unseen[0][0] <= now:
            self._unseen.popleft()
        return sum(micros for _, micros in self._unseen)

    def _count(self, state: str) -> int:
        with self._clock.settled():
            return sum(each.state == state for each in self._operations.values())
