"""The part of an account's ledger that all its spenders share: its balance and its debits.

A balance shows the charges that were posted when its request was *sent*. So the cost of a call counts
here until a balance arrives that must show it. Balances are ordered by when they were sent.
"""

from dataclasses import replace
from heapq import merge

from budgetguard._core.balance import Balance
from budgetguard._core.clock import Instant
from budgetguard._core.debits import Debits, Kept
from budgetguard._core.other_spenders import OtherSpenders
from budgetguard._core.snapshot import BalanceSnapshot, Micro, refused


class Head:
    """The cached balance, the debits that it cannot show yet, and what it tells about other spenders.

    Times are monotonic seconds.
    """

    __slots__ = ("kept", "others", "settled", "snapshot")

    def __init__(self) -> None:
        self.snapshot: BalanceSnapshot | None = None
        self.others = OtherSpenders()
        self.settled = Debits()
        self.kept = Kept()

    @property
    def pending(self) -> int:
        """Debits that the balance cannot show yet."""
        return self.settled.total + self.kept.total

    def apply(self, snapshot: BalanceSnapshot, landed: float, held: int) -> bool:
        """Store a new balance whose reply arrived at `landed`, while `held` is held.

        False if it is not newer than the cached one.
        """
        cached = self.snapshot
        if cached is not None:
            if snapshot.sent.mono <= cached.sent.mono:
                return False
            until = cached.refused_until
            if (
                until is not None
                and snapshot.credits <= cached.credits
                and snapshot.sent.mono < until
            ):
                snapshot = refused(snapshot, until)
        before = self.pending
        self.settled.clear(snapshot.sent.mono)
        self.kept.clear(snapshot.sent.mono)
        cleared = before - self.pending
        self._adopt(self.others.with_overlap(snapshot, landed, held + before, cleared))
        return True

    def refuse(self, now: Instant, lag: float, held: int) -> None:
        """The provider refused a call for lack of credits: store a balance of zero, sent now."""
        self.others.refused(self.snapshot, held + self.pending, now)
        cached = self.snapshot or BalanceSnapshot(
            sent=now, balance=Balance(credits=None), credits=0
        )
        alone = replace(cached, sent=now, overlap=0, ceiling_overlap=0)
        self._adopt(refused(alone, now.mono + lag))

    def left_by(self, amount: Micro, slots: float) -> float | None:
        """When debits of that many micro-credits and slots will have cleared.

        None if no debit has to clear for that, or if there are too few debits.
        """
        if amount <= 0 and slots <= 0:
            return None
        for clears_at, credits, sessions in merge(self.settled.in_order(), self.kept.in_order()):
            amount -= credits
            slots -= sessions
            if amount <= 0 and slots <= 0:
                return clears_at
        return None

    def _adopt(self, snapshot: BalanceSnapshot) -> None:
        assert self.snapshot is None or snapshot.sent.mono >= self.snapshot.sent.mono
        self.snapshot = snapshot
