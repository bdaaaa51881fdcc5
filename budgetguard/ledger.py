"""The books of one account: what may still be promised, and why that errs on one side.

    available = spendable - floor - open holds - debits the balance cannot show yet

A provider's balance is a look into the past: it shows what had been booked when the request was
*sent*, and a provider may book late. So three things stand between that figure and a promise:

* **holds**, the cost of calls that run now, whose spending the balance may or may not show;
* **debits**, the cost of calls that have ended. A debit leaves only when a look arrives whose
  request was sent at or after the debit's stamp: the end of the call plus `lag`, and plus `linger`
  where nobody knows when the provider stopped working (a *kept* hold);
* the **floor**, which belongs to the guard that asks and not to the account.

Looks are ordered by when they were sent. An older one never replaces a newer one, and arriving late
it frees nothing. Spending that both the balance and a hold or debit show is counted twice for a
while, which refuses too much; no spending is ever counted not at all, which would promise too much.

Where nobody else spends from the account, what a balance fell by since the look before is what our
own calls were charged, and a rise is a top-up. So it is known what part of holds and debits the
balance shows already: its *overlap*, which grows by what the balance fell, shrinks by the debits
that cleared, and is not taken off a second time. Carried from look to look, it gives the best bound of
all looks there were. A balance below what was still promised when it arrived shows that somebody else
spends, or that a call cost more than it was settled at; that look stands alone. The overlap is never
more than what is held and pending, so never is more promised than the balance shows.

Nothing here reads a clock, takes a lock or does I/O: time comes in as an argument. Amounts are
integer micro-credits (`UNLIMITED` where a balance has no bound), times are monotonic seconds.
"""

from collections import deque
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Context, Decimal
from heapq import merge
from itertools import repeat, starmap
from typing import TypeAlias

from budgetguard.balance import Balance
from budgetguard.clock import Instant
from budgetguard.credits import UNLIMITED, to_micro
from budgetguard.debits import BUCKETS_PER_SECOND, Debits, Kept

Micro: TypeAlias = int | float
"""Micro-credits: an int, or `UNLIMITED`."""

_FLOOR = Context(prec=60, rounding=ROUND_FLOOR)


@dataclass(frozen=True, slots=True)
class Look:
    """One balance in micro-credits, with the moment its request was sent.

    `credits` may be spent; `ceiling` is what a cost limit leaves for the period; `cap` is the most
    that one call may cost; `slots` is how many sessions may be open at once.

    Where `refused_until` is set, the provider itself refused a call for want of credits, and nothing
    may be spent: a look is believed again if it shows more than this one, or was sent at that time
    or later.

    `overlap` and `ceiling_overlap` are the parts of what is held and pending that `credits` and
    `ceiling` are known to show already, and `missing` is what nobody of ours spent; see `following`.
    """

    sent: Instant
    balance: Balance
    credits: Micro
    ceiling: Micro = UNLIMITED
    cap: Micro = UNLIMITED
    slots: float = UNLIMITED
    refused_until: float | None = None
    overlap: int = 0
    ceiling_overlap: int = 0
    missing: int = 0

    @classmethod
    def of(cls, balance: Balance, sent: Instant) -> "Look":
        """The look that `balance` amounts to; raises ValueError for an amount out of range."""
        limit, used = balance.cost_limit, balance.credits_used
        ceiling, cap = UNLIMITED, UNLIMITED
        if limit is not None and used is not None:
            ceiling = to_micro(_FLOOR.subtract(limit, used), "cost limit", rounding="down")
        elif limit is not None:
            cap = to_micro(limit, "cost limit", rounding="down")
        return cls(
            sent=sent,
            balance=balance,
            credits=_down(balance.credits),
            ceiling=ceiling,
            cap=cap,
            slots=UNLIMITED if balance.max_concurrency is None else balance.max_concurrency,
        )

    def spendable(self, extra: int) -> Micro:
        """What the account can pay, with `extra` micro-credits the endpoint does not report."""
        return 0 if self.refused_until is not None else min(self.credits + extra, self.ceiling)

    def before_holds(self, extra: int) -> Micro:
        """What holds and debits are to be taken from: `spendable`, and what both show of them."""
        if self.refused_until is not None:
            return 0
        return min(self.credits + self.overlap + extra, self.ceiling + self.ceiling_overlap)

    def following(self, earlier: "Look", committed: int, cleared: int) -> "Look":
        """The look, taking nobody to have spent but the calls that `committed` counted.

        Of that, it is sure to show `cleared`. Where a limit was changed in between, what was
        known of it is forgotten.
        """
        if earlier.refused_until is not None:
            return self
        same_limit = self.balance.cost_limit == earlier.balance.cost_limit
        ceiling = self.ceiling if same_limit else UNLIMITED
        missing = max(
            _lack(earlier.credits, earlier.overlap, self.credits, committed),
            _lack(earlier.ceiling, earlier.ceiling_overlap, ceiling, committed),
        )
        if missing:
            return replace(self, missing=missing)
        overlap = _overlap(earlier.credits, earlier.overlap, self.credits, cleared)
        below = _overlap(earlier.ceiling, earlier.ceiling_overlap, ceiling, cleared)
        rest = committed - cleared
        return replace(self, overlap=min(overlap, rest), ceiling_overlap=min(below, rest))


def _down(amount: Decimal | None) -> Micro:
    return UNLIMITED if amount is None else to_micro(amount, "balance", rounding="down")


def _lack(before: Micro, overlap: int, after: Micro, committed: int) -> int:
    """By how much a figure is below what was promised of the one before it."""
    if UNLIMITED in {before, after}:
        return 0
    return max(int(before) + overlap - committed - int(after), 0)


def _overlap(before: Micro, overlap: int, after: Micro, cleared: int) -> int:
    """What a figure fell by is what our calls were charged; a rise hides none of that."""
    if UNLIMITED in {before, after}:
        return 0
    fell = max(int(before) - int(after), 0)
    return max(overlap + fell - cleared, 0)


class Entry:
    """One hold in the books: `amount` set aside, of which `charged` has become a debit already."""

    __slots__ = ("amount", "charged", "ended", "slots")

    def __init__(self, amount: int, slots: int = 0) -> None:
        self.amount = amount
        self.slots = slots
        self.charged = 0
        self.ended = False

    @property
    def rest(self) -> int:
        """The part that is still held."""
        return max(self.amount - self.charged, 0)


class Ends(dict[int, deque[float]]):
    """When the debits clear of calls that ended at what they held, by that; not yet booked.

    A caller appends one float and no container, of which the cyclic collector would count a
    thousand.
    """

    def __missing__(self, held: int) -> deque[float]:
        # Not defaultdict: of two threads at once, one could append to what the other replaced.
        return self.setdefault(held, deque())


class Ledger:
    """The running sums of one account.

    `room` is the look's figure less everything held and pending, kept up to date so that an
    admission costs the same with one hold and with a hundred thousand. `sole_spender` says that
    nobody else spends from the account.
    """

    __slots__ = (
        "ends",
        "held",
        "kept",
        "look",
        "room",
        "running",
        "settled",
        "slots_held",
        "sole_spender",
    )

    def __init__(self) -> None:
        self.ends = Ends()
        self.look: Look | None = None
        self.sole_spender = False
        self.room: Micro = 0
        self.held = 0
        self.running = 0
        self.slots_held = 0
        self.settled = Debits()
        self.kept = Kept()

    @property
    def pending(self) -> int:
        """Debits that the balance cannot show yet."""
        return self.settled.total + self.kept.total

    @property
    def slots_in_use(self) -> int:
        """Sessions that are open, or may be."""
        return self.slots_held + self.kept.slots

    def available(self, floor: int, extra: int) -> Micro:
        """What could be promised now; below zero when more is promised than there is.

        There has to be a look.
        """
        assert self.look is not None
        return self.look.before_holds(extra) - floor - self.held - self.pending

    # A call of constant cost needs no entry: its amount is known to whoever ends it.

    def take(self, amount: int) -> None:
        """Hold `amount` for one more running call."""
        self.room -= amount
        self.held += amount
        self.running += 1

    def put_ends(self) -> None:
        """Book what was appended to `ends`: as one, where it lies within one bucket's time."""
        for held, stamps in list(self.ends.items()):
            ended = list(starmap(stamps.popleft, repeat((), len(stamps))))
            # Two threads may have swapped places; what counts is that nothing clears early.
            if ended and (last := max(ended)) - ended[0] < 1 / BUCKETS_PER_SECOND:
                calls = len(ended)
                self.put(calls * held, calls * held, last, calls)
            else:
                for clears_at in ended:
                    self.put(held, held, clears_at)

    def put(self, held: int, debit: int, clears_at: float, calls: int = 1) -> None:
        """End a taken hold, or several at once: `debit` is what it cost."""
        self.room += held - debit
        self.held -= held
        self.running -= calls
        self.settled.add(debit, clears_at)

    def give_back(self, held: int) -> None:
        """End a taken hold that cost nothing."""
        self.room += held
        self.held -= held
        self.running -= 1

    def lose(self, held: int, clears_at: float, slots: int = 0, cause: str | None = None) -> None:
        """End a taken hold of which nobody knows what it cost: it counts in full.

        `cause` is the name of what the call raised, if that is known.
        """
        self.held -= held
        self.running -= 1
        self.kept.add(held, clears_at, slots, cause)

    def open(self, entry: Entry) -> None:
        """Hold an entry's amount and slots."""
        self.take(entry.amount)
        self.slots_held += entry.slots

    def extend(self, entry: Entry, more: int) -> None:
        """Hold `more` for an open entry."""
        assert not entry.ended
        before = entry.rest
        entry.amount += more
        self._hold(entry.rest - before)

    def charge(self, entry: Entry, total: int, clears_at: float) -> None:
        """The provider has booked `total` of an open entry: that much moves from held to debit."""
        if entry.ended or total <= entry.charged:
            return
        before, debit = entry.rest, total - entry.charged
        entry.charged = total
        self._hold(entry.rest - before)
        self.settled.add(debit, clears_at)
        self.room -= debit

    def settle(self, entry: Entry, actual: int, clears_at: float) -> bool:
        """End an entry at its real cost; False when it had ended before."""
        if not self._close(entry):
            return False
        self.put(entry.rest, max(actual - entry.charged, 0), clears_at)
        return True

    def release(self, entry: Entry) -> bool:
        """End an entry of which nothing more was charged; False when it had ended before."""
        if not self._close(entry):
            return False
        self.give_back(entry.rest)
        return True

    def keep(self, entry: Entry, clears_at: float, cause: str | None = None) -> bool:
        """End an entry whose cost is not known, slots included; False when it had ended before."""
        if not self._close(entry):
            return False
        self.lose(entry.rest, clears_at, entry.slots, cause)
        return True

    def left_by(self, amount: Micro, slots: float) -> float | None:
        """By when debits of that many micro-credits and slots will have left.

        None where none has to leave for that, or not so much is there.
        """
        if amount <= 0 and slots <= 0:
            return None
        for clears_at, credits, sessions in merge(self.settled.in_order(), self.kept.in_order()):
            amount -= credits
            slots -= sessions
            if amount <= 0 and slots <= 0:
                return clears_at
        return None

    def _hold(self, change: int) -> None:
        self.held += change
        self.room -= change

    def _close(self, entry: Entry) -> bool:
        if entry.ended:
            return False
        entry.ended = True
        self.slots_held -= entry.slots
        return True

    def apply(self, look: Look) -> bool:
        """Take a look into the books; False when one sent later, or at once, is there already."""
        at_hand = self.look
        if at_hand is not None:
            if look.sent.mono <= at_hand.sent.mono:
                return False
            until = at_hand.refused_until
            if until is not None and look.credits <= at_hand.credits and look.sent.mono < until:
                look = _refused(look, until)
        committed = self.held + self.pending
        self.settled.clear(look.sent.mono)
        self.kept.clear(look.sent.mono)
        if self.sole_spender and at_hand is not None and look.refused_until is None:
            look = look.following(at_hand, committed, committed - self.held - self.pending)
        self._adopt(look)
        self._sum()
        return True

    def refuse(self, now: Instant, lag: float) -> None:
        """The provider refused for want of credits: a balance of zero, sent now."""
        at_hand = self.look or Look(sent=now, balance=Balance(credits=None), credits=0)
        alone = replace(at_hand, sent=now, overlap=0, ceiling_overlap=0, missing=0)
        self._adopt(_refused(alone, now.mono + lag))
        self._sum()

    def _adopt(self, look: Look) -> None:
        assert self.look is None or look.sent.mono >= self.look.sent.mono
        self.look = look

    def _sum(self) -> None:
        self.room = self.available(0, 0)


End: TypeAlias = tuple[Ledger, int, int, float]
"""How a taken hold ended: its books, what was held, what it cost, when that clears."""


def _refused(look: Look, until: float) -> Look:
    return replace(look, balance=replace(look.balance, credits=Decimal(0)), refused_until=until)
