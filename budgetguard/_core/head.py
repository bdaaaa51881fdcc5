"""The part of an account's ledger that all its spenders share: its balance and its debits.

A balance shows the charges that were posted when its request was *sent*. So the cost of a call counts
here until a balance arrives that must show it. Balances are ordered by when they were sent.

What the provider's refusals say about the account is here, too: that its credits are used up, that it is
busy for a while, or that one of its keys has reached a limit of its own. So is who has paused the account.
"""

from dataclasses import replace
from datetime import UTC, datetime
from heapq import merge
from typing import Any

from budgetguard._core.amounts import CREDITS
from budgetguard._core.balance import Balance
from budgetguard._core.clock import Instant
from budgetguard._core.debits import Debits, Kept
from budgetguard._core.other_spenders import OtherSpenders
from budgetguard._core.pause import PausedBy
from budgetguard._core.snapshot import BalanceSnapshot, Micro, refused


class AccountState:
    """The cached balance, what it tells about other spenders, refusals and pauses; without the debits.

    Times are seconds of one clock that only ever advances. `unit` is what the account is counted in: that
    of its first balance, unless it is set before. Until `busy_until` the provider refuses what would be
    admitted. While `paused` has a reason, nothing is admitted.
    """

    __slots__ = (
        "_limited",
        "busy_until",
        "others",
        "paused",
        "pauses",
        "snapshot",
        "unit",
    )

    def __init__(self) -> None:
        self.snapshot: BalanceSnapshot | None = None
        self.unit: str | None = None
        self.busy_until = float("-inf")
        # Until when each of the keys that have reached their own limit is refused.
        self._limited: dict[str, float] = {}
        # The reason of each who has paused the account, and that of the first of them.
        self.pauses: dict[PausedBy, str] = {}
        self.paused: str | None = None
        self.others = OtherSpenders()

    @property
    def pending(self) -> int:
        """Debits that the balance cannot show yet."""
        raise NotImplementedError

    def clear_debits(self, sent: float) -> None:
        """Drop the debits that a balance requested at `sent` must show."""
        raise NotImplementedError

    def forget_charges(self, by: int) -> None:
        """So much of what was held or pending counts no more, although no balance has cleared it.

        The balance may show it, so its overlap must not.
        """
        self.others.forget_charges(by)
        if self.snapshot is not None:
            overlap = max(self.snapshot.overlap - by, 0)
            ceiling_overlap = max(self.snapshot.ceiling_overlap - by, 0)
            self.snapshot = replace(self.snapshot, overlap=overlap, ceiling_overlap=ceiling_overlap)

    def in_unit(self, snapshot: BalanceSnapshot) -> BalanceSnapshot | None:
        """The snapshot in the account's unit; None if its balance is in another one.

        Amounts in different units are never compared or added. A balance that does not say otherwise
        is in the account's unit.
        """
        unit = snapshot.balance.unit
        if self.unit is None:
            self.unit = unit
        if unit == self.unit:
            return snapshot
        if unit != CREDITS:
            return None
        return replace(snapshot, balance=replace(snapshot.balance, unit=self.unit))

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
            if snapshot.credits > cached.credits:
                self._limited.clear()
        before = self.pending
        self.clear_debits(snapshot.sent.mono)
        cleared = before - self.pending
        self._adopt(self.others.with_overlap(snapshot, landed, held + before, cleared))
        return True

    def refuse(self, now: Instant, lag: float, held: int) -> None:
        """The provider refused a call for lack of credits: store a balance of zero, sent now."""
        self.others.refused(self.snapshot, held + self.pending, now)
        as_of = datetime.fromtimestamp(now.wall, UTC)
        cached = self.snapshot or BalanceSnapshot(
            sent=now, balance=Balance(credits=None, as_of=as_of), credits=0
        )
        alone = replace(cached, sent=now, overlap=0, ceiling_overlap=0)
        self._adopt(refused(alone, now.mono + lag))

    def busy(self, until: float) -> None:
        """The provider refuses calls until then although the account has credits."""
        self.busy_until = max(self.busy_until, until)

    def limit_key(self, credential: str, until: float, now: float) -> None:
        """A key has reached a limit of its own, and is refused until then or until the balance rises."""
        self._limited = {key: at for key, at in self._limited.items() if at > now}
        self._limited[credential] = max(until, self._limited.get(credential, until))

    def limited_until(self, credential: str) -> float:
        """Until when a key is refused; in the past if it is not."""
        return self._limited.get(credential, float("-inf"))

    def any_limited(self, now: float) -> bool:
        """Whether some key is refused, or every call is."""
        return self.busy_until > now or any(at > now for at in self._limited.values())

    def pause(self, by: PausedBy, reason: str | None) -> None:
        """Somebody pauses the account, for that reason; None: they no longer do."""
        if reason is None:
            self.pauses.pop(by, None)
        else:
            self.pauses[by] = reason
        self.paused = next(iter(self.pauses.values()), None)

    @property
    def paused_by(self) -> PausedBy:
        """Whose reason `paused` is; only while there is one."""
        return next(iter(self.pauses))

    def dump(self) -> dict[str, Any]:
        """What this class keeps as JSON values; a time that has not come yet is null."""
        never = self.busy_until == float("-inf")
        return {
            "snapshot": None if self.snapshot is None else self.snapshot.dump(),
            "unit": self.unit,
            "busy_until": None if never else self.busy_until,
            "limited": [[key, until] for key, until in self._limited.items()],
            "pauses": [[by, reason] for by, reason in self.pauses.items()],
            "others": self.others.dump(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `dump` gave; only while nothing is known."""
        snapshot, busy_until = state["snapshot"], state["busy_until"]
        self.snapshot = None if snapshot is None else BalanceSnapshot.load(snapshot)
        self.unit = state["unit"]
        self.busy_until = float("-inf") if busy_until is None else busy_until
        self._limited = dict(state["limited"])
        for by, reason in state["pauses"]:
            self.pause(by, reason)
        self.others = OtherSpenders.load(state["others"])

    def _adopt(self, snapshot: BalanceSnapshot) -> None:
        assert self.snapshot is None or snapshot.sent.mono >= self.snapshot.sent.mono
        self.snapshot = snapshot


class Head(AccountState):
    """What one process keeps in its memory of an account: its state, and the debits of its own calls."""

    __slots__ = ("kept", "settled")

    def __init__(self) -> None:
        super().__init__()
        self.settled = Debits()
        self.kept = Kept()

    @property
    def pending(self) -> int:
        """Debits that the balance cannot show yet."""
        return self.settled.total + self.kept.total

    def clear_debits(self, sent: float) -> None:
        """Drop the debits that a balance requested at `sent` must show."""
        self.settled.clear(sent)
        self.kept.clear(sent)

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
