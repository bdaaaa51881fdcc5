"""The part of an account's ledger about one process's own calls: what they hold and how they finish.

The cost of a finished call is reported to the head, which counts it until a balance shows it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import repeat, starmap
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from budgetguard._core.debits import BUCKETS_PER_SECOND, Debits, Kept

if TYPE_CHECKING:
    from budgetguard._core.allowance import Allowance
    from budgetguard._core.snapshot import Micro

T = TypeVar("T")

End: TypeAlias = tuple[int, int, float, int]
"""A finished call: what it held, what it cost, when its debit clears, and its epoch."""

# The next change records the finished calls that were appended; so does the private loop, whenever
# this many have been appended.
MANY_ENDS = 1024


class LedgerEntry:
    """One hold in the ledger: `micro` credits set aside; the part `charged_micro` is already a debit.

    `epoch` is that of `OtherSpenders` in which the credits were taken. It is set when they are, or
    later: an earlier one would lower the bounds of checkpoints that do not count this hold.

    What the call holds and costs counts in `allowances` too, the budgets around it. If its credits were
    set aside before, they come out of `reserve`, and go back there.
    """

    __slots__ = ("allowances", "charged_micro", "ended", "epoch", "micro", "reserve", "slots")

    epoch: int

    def __init__(self, micro: int, slots: int = 0) -> None:
        self.micro = micro
        self.slots = slots
        self.charged_micro = 0
        self.allowances: tuple[Allowance, ...] = ()
        self.reserve: Reserve | None = None
        self.ended = False

    @property
    def rest(self) -> int:
        """The part that is still held."""
        return max(self.micro - self.charged_micro, 0)

    @property
    def bound(self) -> int:
        """The most that the call may cost, as far as is known."""
        return max(self.micro, self.charged_micro)


class Reserve:
    """An open entry that others take their credits out of; `lowest` is the least that was ever left.

    `beyond` is what its calls took from the account because nothing was left here.
    """

    __slots__ = ("beyond", "entry", "lowest")

    def __init__(self, entry: LedgerEntry) -> None:
        self.entry = entry
        self.lowest = entry.micro
        self.beyond = 0

    def covers(self, amount: int) -> bool:
        """Whether that much is set aside."""
        return not self.entry.ended and self.entry.micro >= amount


class Evidence(Protocol):
    """What hears how much finished calls cost, compared to what they held."""

    @property
    def epoch(self) -> int:
        """The one that calls belong to which begin now."""
        ...

    def cost_less(self, epoch: int, by: int) -> None:
        """A call of that epoch ended, and cost so much less than it may have been charged."""
        ...

    def may_cost_more(self, epoch: int, by: int) -> None:
        """A call of that epoch may be charged so much more."""
        ...


class FinishedCalls(Protocol):
    """What finished calls are reported to."""

    @property
    def settled(self) -> Debits:
        """Calls whose cost is known."""
        ...

    @property
    def kept(self) -> Kept:
        """Calls whose cost is not known."""
        ...

    @property
    def others(self) -> Evidence:
        """What hears of their cost besides."""
        ...


class EndsAtCost(dict[int, deque[float]]):
    """Finished calls that cost exactly what they held, not yet recorded.

    Maps the amount held to the times at which the debits clear. Callers append a float instead of a
    tuple, because tuples would make the cyclic garbage collector run more often.
    """

    def __missing__(self, held: int) -> deque[float]:
        # Not defaultdict: with two threads, one could append to a deque that the other replaced.
        return self.setdefault(held, deque())


class Branch:
    """What the calls of one process hold of an account.

    `room` is what may still be taken. It is kept up to date, so that an admission costs the same
    with one hold as with a hundred thousand. `epoch` is that of the head's `others`.

    Callers append their finished calls to one of two queues, without a lock, and `record_ends`
    records them: `ends_at_cost` for calls of constant cost, `ends` for all others. `frees` is True
    if one of the appended calls cost less than it held, so that there is more room than `room`.

    `tightened` is True if a call took from a budget since somebody set it to False.
    """

    __slots__ = (
        "ends",
        "ends_at_cost",
        "epoch",
        "frees",
        "head",
        "held",
        "room",
        "running",
        "slots_held",
        "tightened",
    )

    def __init__(self, head: FinishedCalls) -> None:
        self.head = head
        self.ends_at_cost = EndsAtCost()
        self.ends: deque[End] = deque()
        self.frees = False
        self.epoch = head.others.epoch
        self.room: Micro = 0
        self.held = 0
        self.running = 0
        self.slots_held = 0
        self.tightened = False

    # A call of constant cost needs no entry, because the code that ends it knows the amount.

    def take(self, amount: int) -> None:
        """Hold `amount` for one more running call."""
        self.room -= amount
        self.held += amount
        self.running += 1

    def record_ends(self) -> bool:
        """Record all finished calls that were appended; True if one cost less than it held."""
        self.frees = False
        for held, stamps in list(self.ends_at_cost.items()):
            ended = list(_taken(stamps))
            # Two threads may have appended out of order; it only matters that nothing clears early.
            if ended and (last := max(ended)) - ended[0] < 1 / BUCKETS_PER_SECOND:
                calls = len(ended)
                self.put(calls * held, calls * held, last, calls)
            else:
                for clears_at in ended:
                    self.put(held, held, clears_at)
        return bool(self.ends) and self._put_all(_taken(self.ends))

    def _put_all(self, ends: Iterable[End]) -> bool:
        """Record finished calls, several at once where they fall within one bucket's time."""
        calls = held = debit = 0
        first = last = 0.0
        freed = False
        saved: dict[int, int] = {}
        for amount, cost, clears_at, epoch in ends:
            if calls and abs(clears_at - first) >= 1 / BUCKETS_PER_SECOND:
                self.put(held, debit, last, calls)
                calls = held = debit = 0
            if not calls:
                first = last = clears_at
            elif clears_at > last:
                last = clears_at
            calls += 1
            held += amount
            debit += cost
            if cost != amount:
                freed = freed or cost < amount
                saved[epoch] = saved.get(epoch, 0) + amount - cost
        if calls:
            self.put(held, debit, last, calls)
        for epoch, by in saved.items():
            self.head.others.cost_less(epoch, by)
        return freed

    def put(self, held: int, debit: int, clears_at: float, calls: int = 1) -> None:
        """End a taken hold, or several at once; `debit` is the cost."""
        self.room += held - debit
        self.held -= held
        self.running -= calls
        self.head.settled.add(debit, clears_at)

    def give_back(self, held: int) -> None:
        """End a taken hold that cost nothing."""
        self.room += held
        self.held -= held
        self.running -= 1

    def lose(self, held: int, clears_at: float, slots: int = 0, cause: str | None = None) -> None:
        """End a taken hold whose cost is not known: it counts in full.

        `cause` is the name of the exception that the call raised, if known.
        """
        self.held -= held
        self.running -= 1
        self.head.kept.add(held, clears_at, slots, cause)

    def open(self, entry: LedgerEntry) -> None:
        """Hold an entry's amount and slots."""
        self.take(entry.micro)
        self._count(entry, entry.micro, 0)
        self.slots_held += entry.slots
        entry.epoch = self.epoch
        # Last: if this is interrupted earlier, the entry must not be ended, as it never began.
        entry.ended = False

    def extend(self, entry: LedgerEntry, more: int) -> None:
        """Hold `more` for an open entry; does nothing if the entry has ended."""
        # No call between these two steps: an end without a lock comes before both or after both.
        if entry.ended:
            return
        entry.micro += more
        held = entry.rest - max(entry.micro - more - entry.charged_micro, 0)
        self._hold(held)
        self._count(entry, held, 0)
        raised = entry.bound - max(entry.micro - more, entry.charged_micro)
        self.head.others.may_cost_more(entry.epoch, raised)

    def charge(self, entry: LedgerEntry, total: int, clears_at: float) -> None:
        """The provider has charged `total` for an open entry: that much moves from held to debit."""
        before = entry.charged_micro
        if entry.ended or total <= before:  # as above
            return
        entry.charged_micro = total
        held = entry.rest - max(entry.micro - before, 0)
        self._hold(held)
        self._count(entry, held, total - before)
        self.head.settled.add(total - before, clears_at)
        self.room -= total - before
        self.head.others.may_cost_more(entry.epoch, entry.bound - max(entry.micro, before))

    def repeat(self, entry: LedgerEntry, clears_at: float) -> LedgerEntry:
        """An earlier attempt of an open entry's call may have cost what it holds; returns its entry."""
        attempt = LedgerEntry(entry.micro)
        attempt.allowances, attempt.reserve = entry.allowances, entry.reserve
        self.open(attempt)
        self.keep(attempt, clears_at)
        # Its charges may be in balances that came before.
        self.head.others.may_cost_more(entry.epoch, attempt.micro)
        return attempt

    def settle(self, entry: LedgerEntry, actual: int, clears_at: float) -> bool:
        """End an entry at its real cost; False if it had already ended."""
        if not self._close(entry):
            return False
        debit = max(actual - entry.charged_micro, 0)
        self.put(entry.rest, debit, clears_at)
        self._count(entry, -entry.rest, debit)
        self.head.others.cost_less(entry.epoch, entry.bound - max(actual, entry.charged_micro))
        return True

    def release(self, entry: LedgerEntry) -> bool:
        """End an entry for which nothing more was charged; False if it had already ended."""
        if not self._close(entry):
            return False
        self.give_back(entry.rest)
        self._count(entry, -entry.rest, 0)
        self.head.others.cost_less(entry.epoch, entry.rest)
        return True

    def keep(self, entry: LedgerEntry, clears_at: float, cause: str | None = None) -> bool:
        """End an entry whose cost is not known, slots included; False if it had already ended."""
        if not self._close(entry):
            return False
        self.lose(entry.rest, clears_at, entry.slots, cause)
        self._count(entry, -entry.rest, entry.rest)
        return True

    def end_reserve(self, reserve: Reserve) -> bool:
        """Give back what is left of a reserve; False if it had already ended."""
        entry = reserve.entry
        if not self._close(entry):
            return False
        self.give_back(entry.micro)
        # No more than what was never taken out: the rest was in the bounds of the calls that took it.
        self.head.others.cost_less(entry.epoch, reserve.lowest)
        return True

    def _count(self, entry: LedgerEntry, held: int, spent: int) -> None:
        """Count a change of what an entry holds and has cost in its budgets, and against its reserve."""
        if not entry.allowances:
            return
        for allowance in entry.allowances:
            allowance.move(held, spent)
        more, reserve = held + spent, entry.reserve
        if more > 0:
            self.tightened = True
        if reserve is None or reserve.entry.ended:
            return
        # What was taken beyond it goes back first: the calls may not use more than was set aside.
        more += reserve.beyond
        reserve.beyond = max(more - reserve.entry.micro, 0)
        more -= reserve.beyond
        # No call in these steps: an interrupt must not leave more in the reserve than is held.
        reserve.entry.micro -= more
        self.held -= more
        self.room += more
        if reserve.entry.micro < reserve.lowest:  # noqa: PLR1730  min() is a call
            reserve.lowest = reserve.entry.micro

    def _hold(self, change: int) -> None:
        self.held += change
        self.room -= change

    def _close(self, entry: LedgerEntry) -> bool:
        if entry.ended:
            return False
        entry.ended = True
        self.slots_held -= entry.slots
        return True


def _taken(ends: deque[T]) -> Iterator[T]:
    """Remove the items that are there now; other threads may be appending."""
    return starmap(ends.popleft, repeat((), len(ends)))
