"""The hold of a call whose cost is learned: it teaches its real cost, and grows as it is charged."""

from typing import Any, Protocol

from budgetguard._core.clock import Instant
from budgetguard._core.cost_sample import CostSample
from budgetguard._engine.hold import Hold, Owner
from budgetguard._engine.subscriber import Call, Effects


class Grows(Protocol):
    """What decides about more credits for a hold: the account's wait queue."""

    def grow(self, now: Instant, call: Call, hold: Hold) -> None:
        """Hold more if it fits."""
        ...


class GrowingOwner(Owner, Protocol):
    """An account, whose holds can grow."""

    @property
    def wait_queue(self) -> Grows:
        """Whom a growing hold waits behind."""
        ...


class LearnedHold(Hold):
    """A hold whose settlement at a real cost is added to a sample."""

    __slots__ = ("_sample",)

    _account: GrowingOwner

    def __init__(self, sample: CostSample, *of_hold: Any) -> None:
        """The other arguments are those of Hold."""
        self._sample = sample
        super().__init__(*of_hold)

    def end_at(self, actual: int | None = None) -> bool:
        """Settle the hold, as every hold; a known cost is learned from."""
        ended = super().end_at(actual)
        if ended and actual is not None:
            spent = max(actual, self.charged_micro)
            self._sample.add(spent, missed=spent > self.micro)
        return ended

    def record_charged(self, now: Instant, effects: Effects, at: float, total: int) -> bool:
        """The provider has charged `total` so far: hold more if that is most of what is held."""
        before = self.charged_micro
        freed = super().record_charged(now, effects, at, total)
        if self.charged_micro > before and not self.ended:
            more = self._sample.growth(self.micro, self.charged_micro)
            if more:
                self._grow(now, more)
        return freed

    def _grow(self, now: Instant, more: int) -> None:
        self._account.wait_queue.grow(now, self._asks_for(more, now.mono), self)
