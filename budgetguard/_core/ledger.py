"""The ledger of one account: what is available, and why that figure is conservative.

    available = spendable - floor - open holds - debits the balance cannot show yet

A provider's balance is already out of date when it arrives: it shows the charges that were posted
when the request was *sent*, and a provider may post charges late. So three figures are subtracted:

* **holds**: the cost of calls that run now. The balance may or may not show their spending.
* **debits**: the cost of finished calls. A debit clears only when a balance arrives whose request
  was sent at or after the debit's stamp: the time at which the call finished plus `lag`, and plus
  `linger` where it is not known when the provider stopped working (a *kept* hold).
* the **floor**, which belongs to the requesting guard and not to the account.

Balances are ordered by when they were sent. An older balance never replaces a newer one, and a late
one clears nothing. Spending that is in the balance and also in a hold or debit is counted twice for a
while, which refuses too much. No spending is ever left out, which would admit too much.

The balance may already show a part of the holds and debits: the *overlap*. It is not subtracted a
second time. `other_spenders` decides how large it is, which depends on whether anybody else spends. It
is never more than what is held and pending, so `available` never exceeds what the balance shows.

Nothing here reads a clock, takes a lock or does I/O: the time is passed in. Amounts are integer
micro-credits (`UNLIMITED` where a balance has no bound), times are monotonic seconds.
"""

from typing import Protocol

from budgetguard._core.branch import Branch
from budgetguard._core.clock import Instant
from budgetguard._core.debits import Debits, Kept
from budgetguard._core.head import Head
from budgetguard._core.pause import PausedBy
from budgetguard._core.snapshot import BalanceSnapshot, Micro


class LedgerView(Protocol):
    """The figures that can be read from a ledger, wherever it is stored."""

    @property
    def snapshot(self) -> BalanceSnapshot | None:
        """The cached balance."""
        ...

    @property
    def settled(self) -> Debits:
        """The cost of finished calls, until a balance shows it."""
        ...

    @property
    def kept(self) -> Kept:
        """Calls whose cost is not known, until a balance shows it."""
        ...

    @property
    def pending(self) -> int:
        """Debits that the balance cannot show yet, of both kinds."""
        ...

    @property
    def held(self) -> int:
        """What running calls hold."""
        ...

    @property
    def running(self) -> int:
        """How many calls are running."""
        ...

    @property
    def room(self) -> Micro:
        """`available(0, 0)`, kept up to date; 0 without a balance."""
        ...

    @property
    def slots_held(self) -> int:
        """Sessions that are open."""
        ...

    @property
    def slots_in_use(self) -> int:
        """Sessions that are open or may be open."""
        ...

    @property
    def busy_until(self) -> float:
        """Until when the provider refuses calls although the account has credits."""
        ...

    @property
    def paused(self) -> str | None:
        """Why nothing is admitted at all; None unless somebody has paused the account."""
        ...

    @property
    def paused_by(self) -> PausedBy:
        """Who has paused the account; only while it is paused."""
        ...

    def limited_until(self, credential: str) -> float:
        """Until when a key is refused because of a limit of its own."""
        ...

    def available(self, floor: int, extra: int) -> Micro:
        """What is available now; negative if more is held than the account has."""
        ...

    def left_by(self, amount: Micro, slots: float) -> float | None:
        """When debits of that many micro-credits and slots will have cleared."""
        ...


class Ledger(Branch):
    """The whole ledger of one account in this process's memory: a branch together with its head."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Head())

    @property
    def snapshot(self) -> BalanceSnapshot | None:
        """The cached balance."""
        return self.head.snapshot

    @property
    def settled(self) -> Debits:
        """The cost of finished calls, until a balance shows it."""
        return self.head.settled

    @property
    def kept(self) -> Kept:
        """Calls whose cost is not known, until a balance shows it."""
        return self.head.kept

    @property
    def pending(self) -> int:
        """Debits that the balance cannot show yet, of both kinds."""
        return self.head.pending

    @property
    def slots_in_use(self) -> int:
        """Sessions that are open or may be open."""
        return self.slots_held + self.head.kept.slots

    @property
    def busy_until(self) -> float:
        """Until when the provider refuses calls although the account has credits."""
        return self.head.busy_until

    @property
    def paused(self) -> str | None:
        """Why nothing is admitted at all; None unless somebody has paused the account."""
        return self.head.paused

    @property
    def paused_by(self) -> PausedBy:
        """Who has paused the account; only while it is paused."""
        return self.head.paused_by

    def limited_until(self, credential: str) -> float:
        """Until when a key is refused because of a limit of its own."""
        return self.head.limited_until(credential)

    def available(self, floor: int, extra: int) -> Micro:
        """What is available now; negative if more is held than the account has.

        Needs a cached balance.
        """
        head = self.head
        assert head.snapshot is not None
        return head.snapshot.before_holds(extra) - floor - self.held - head.pending

    def left_by(self, amount: Micro, slots: float) -> float | None:
        """When debits of that many micro-credits and slots will have cleared.

        None if no debit has to clear for that, or if there are too few debits.
        """
        return self.head.left_by(amount, slots)

    def apply(self, snapshot: BalanceSnapshot, landed: float | None = None) -> bool:
        """Store a new balance; False if it is not newer than the cached one.

        `landed` is when its reply arrived, by default when it was requested.
        """
        if not self.head.apply(
            snapshot, snapshot.sent.mono if landed is None else landed, self.held
        ):
            return False
        self.epoch = self.head.others.epoch
        self.room = self.available(0, 0)
        return True

    def refuse(self, now: Instant, lag: float) -> None:
        """The provider refused a call for lack of credits: store a balance of zero, sent now."""
        self.head.refuse(now, lag, self.held)
        self.room = self.available(0, 0)
