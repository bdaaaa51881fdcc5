"""What one process's calls finished and has not been reported to the head of a shared account."""

from typing import TYPE_CHECKING

from budgetguard._core.debits import Debits, Kept
from budgetguard._core.store_messages import Debit, KeptDebit, ticks_up

if TYPE_CHECKING:
    from collections.abc import Iterator


class Savings:
    """How much less, or more, calls cost than they held, for the head's evidence about other spenders.

    `epoch` is the number of the next message. A call belongs to the epoch in which it began, so that the
    head can tell whether it counted that call when it judged a balance.
    """

    __slots__ = ("by_epoch", "epoch")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.by_epoch: dict[int, int] = {}

    def cost_less(self, epoch: int, by: int) -> None:
        """A call of that epoch ended, and cost so much less than it may have been charged."""
        self.by_epoch[epoch] = self.by_epoch.get(epoch, 0) + by

    def may_cost_more(self, epoch: int, by: int) -> None:
        """A call of that epoch may be charged so much more."""
        self.cost_less(epoch, -by)


class Unreported:
    """Finished calls since the last report: `settled` and `kept` debits, and what the calls saved."""

    __slots__ = ("kept", "others", "settled")

    def __init__(self, epoch: int) -> None:
        self.settled = Debits()
        self.kept = Kept()
        self.others = Savings(epoch)

    @property
    def total(self) -> int:
        """The credits of all that finished."""
        return self.settled.total + self.kept.total

    def __bool__(self) -> bool:
        return (
            self.settled.next_clears_at is not None
            or self.kept.next_clears_at is not None
            or bool(self.others.by_epoch)
        )

    def settled_from(self, now: float, margin: float) -> "Iterator[Debit]":
        """The settled debits as messages have them; each clears `margin` seconds later than here."""
        for clears_at, amount, _ in self.settled.in_order():
            yield Debit(amount, ticks_up(clears_at - now + margin))

    def kept_from(self, now: float, margin: float) -> "Iterator[KeptDebit]":
        """The kept debits, likewise."""
        for bucket in self.kept.buckets():
            yield KeptDebit(
                bucket.amount,
                ticks_up(bucket.clears_at - now + margin),
                bucket.slots,
                tuple((bucket.calls or {}).items()),
                tuple((bucket.sessions or {}).items()),
            )

    def add(self, other: "Unreported") -> None:
        """Take over what another one has, but for what the calls saved."""
        for clears_at, amount, slots in other.settled.in_order():
            self.settled.add(amount, clears_at, slots)
        for bucket in other.kept.buckets():
            self.kept.add_counted(
                bucket.amount,
                bucket.clears_at,
                bucket.slots,
                (bucket.calls or {}).items(),
                (bucket.sessions or {}).items(),
            )

    def clear(self, sent: float) -> None:
        """Drop what a balance requested at `sent` must show."""
        self.settled.clear(sent)
        self.kept.clear(sent)
