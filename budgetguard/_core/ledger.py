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
from budgetguard._core.debits import Causes, Debits, Kept
from budgetguard._core.head import Head
from budgetguard._core.other_spenders import Belief
from budgetguard._core.pause import PausedBy
from budgetguard._core.snapshot import BalanceSnapshot, Micro


class KeptFigures(Protocol):
    """Calls whose cost is not known, as far as errors tell of them."""

    @property
    def total(self) -> int:
        """Their credits."""
        ...

    @property
    def slots(self) -> int:
        """Their sessions."""
        ...

    @property
    def calls(self) -> Causes:
        """Those that held credits, by what they raised."""
        ...

    @property
    def sessions(self) -> Causes:
        """Their sessions, by what the calls raised."""
        ...

    @property
    def next_clears_at(self) -> float | None:
        """When the first of them clear; None without any."""
        ...

    @property
    def last_clears_at(self) -> float | None:
        """When the last of them clear; None without any."""
        ...

    @property
    def last_slot_clears_at(self) -> float | None:
        """When the last session clears; None without any."""
        ...


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
    def kept(self) -> KeptFigures:
        """Calls whose cost is not known, until a balance shows it."""
        ...

    @property
    def pending(self) -> int:
        """Debits that the balance cannot show yet, of both kinds."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes spend by the same head."""
        ...

    @property
    def held_by_all(self) -> int:
        """What running calls hold; with a shared head, of all its members."""
        ...

    @property
    def running_of_all(self) -> int:
        """How many calls are running, likewise."""
        ...

    @property
    def holders(self) -> int | None:
        """With a shared head, how many of its members hold what is held by all."""
        ...

    @property
    def slot_holders(self) -> int | None:
        """With a shared head, how many of its members have open sessions."""
        ...

    @property
    def room(self) -> Micro:
        """What calls may take: `available(0, 0)`, kept up to date; 0 without a balance.

        With a shared head it is what of the lease no call uses.
        """
        ...

    @property
    def slots_in_use(self) -> int:
        """Sessions that are open or may be open."""
        ...

    @property
    def queued(self) -> int:
        """With a shared head, what callers in other members wait for."""
        ...

    @property
    def queued_slots(self) -> int:
        """Likewise, the slots that they wait for."""
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

    def headless(self, now: float) -> tuple[str, float] | None:
        """Why a shared head grants nothing, and in how many seconds it may; None if it does, and without one."""
        ...

    def at_hand(self, floor: int, extra: int) -> Micro:
        """What can be taken at once; with a shared head, more may be available."""
        ...

    @property
    def slots_at_hand(self) -> float:
        """How many sessions can be opened at once; needs a balance."""
        ...

    @property
    def away(self) -> str | None:
        """Why a shared head gives no answers at present; None if it does, and without one."""
        ...

    @property
    def regroups(self) -> bool:
        """Whether a shared head has lost its state, and waits for its members to say what they hold."""
        ...

    @property
    def answers(self) -> int:
        """Names the state of the account in which a shared head gives its answers."""
        ...

    def left_by(self, amount: Micro, slots: float) -> float | None:
        """When debits of that many micro-credits and slots will have cleared."""
        ...


class Ledger(Branch):
    """The whole ledger of one account in this process's memory: a branch together with its head."""

    __slots__ = ()

    shared: bool = False
    slack_elsewhere: int = 0
    queued: int = 0
    queued_slots: int = 0
    away: str | None = None
    regroups: bool = False
    answers: int = 0
    head: Head

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
    def held_by_all(self) -> int:
        """What running calls hold."""
        return self.held

    @property
    def running_of_all(self) -> int:
        """How many calls are running."""
        return self.running

    @property
    def holders(self) -> None:
        """Nobody else holds anything by this head."""
        return None

    @property
    def slot_holders(self) -> None:
        """Likewise."""
        return None

    @property
    def slots_in_use(self) -> int:
        """Sessions that are open or may be open."""
        return self.slots_held + self.head.kept.slots

    @property
    def slots_at_hand(self) -> float:
        """How many sessions can be opened now; needs a balance."""
        assert self.head.snapshot is not None
        return self.head.snapshot.slots - self.slots_in_use

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

    def busy(self, until: float) -> None:
        """The provider refuses calls until then although the account has credits."""
        self.head.busy(until)

    def limit_key(self, credential: str, until: float, now: float) -> None:
        """A key has reached a limit of its own, and is refused until then or until the balance rises."""
        self.head.limit_key(credential, until, now)

    def any_limited(self, now: float) -> bool:
        """Whether some key is refused, or every call is."""
        return self.head.any_limited(now)

    def pause(self, by: PausedBy, reason: str | None) -> None:
        """Somebody pauses the account, for that reason; None: they no longer do."""
        self.head.pause(by, reason)

    def reason_of(self, by: PausedBy) -> str | None:
        """For what reason they have paused the account; None if they have not."""
        return self.head.pauses.get(by)

    @property
    def belief(self) -> Belief | None:
        """Whether others are believed to spend; None before the first balance."""
        return self.head.others.belief

    def distrusts(self, now: float) -> bool:
        """Whether there is a proof of other spenders that must not be forgotten."""
        return self.head.others.distrusted(now)

    def available(self, floor: int, extra: int) -> Micro:
        """What is available now; negative if more is held than the account has.

        Needs a cached balance.
        """
        head = self.head
        assert head.snapshot is not None
        return head.snapshot.before_holds(extra) - floor - self.held - head.pending

    at_hand = available

    def headless(self, now: float) -> tuple[str, float] | None:  # noqa: ARG002  nor has it to be asked
        """Nothing: the head is here."""
        return None

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
