"""The needs that wait for the head of a shared account, and what is left for one after another."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from operator import attrgetter
from typing import Protocol

from budgetguard._core.amounts import UNLIMITED
from budgetguard._core.snapshot import BalanceSnapshot, Micro
from budgetguard._core.store_messages import Need


class QueuedNeeds:
    """Callers in the queue of all members: of one member, in a row, and with the same `need` but for the ticket.

    `order` is the place of the first one, `turn` the message that they came with. Their member was told that
    those from the ticket `told` on cannot be met; tickets ascend. A crowd of callers is a few of these, so
    that a message costs by members and not by callers.
    """

    __slots__ = ("need", "order", "tickets", "told", "turn")

    def __init__(self, need: Need, order: int, turn: int, tickets: list[int] | None = None) -> None:
        self.need = need
        self.order = order
        self.turn = turn
        self.tickets = [need.ticket] if tickets is None else tickets
        self.told: int | None = None

    @property
    def untold(self) -> int:
        """How many of them have no answer at all."""
        told = self.told
        return len(self.tickets) if told is None else sum(each < told for each in self.tickets)


class Holder(Protocol):
    """What a member holds, and the message with which it said so."""

    lease: int
    used: int
    slots: int
    turn: int

    @property
    def slack(self) -> int:
        """The part of its lease that no call was using when it last reported."""
        ...


class Remainder:
    """What is left for one need after another, in order of arrival: sums are made once for all of them.

    `committed` credits are in leases or debits, `slots` sessions are in use. Without a balance nothing fits.
    `answering` gives the members that may be asked to give something back.
    """

    __slots__ = (
        "_ahead",
        "_answering",
        "_committed",
        "_slack",
        "_slots",
        "_slots_ahead",
        "_snapshot",
        "_turns",
        "_untold",
    )

    def __init__(
        self,
        snapshot: BalanceSnapshot | None,
        committed: int,
        slots: int,
        answering: Callable[[], Iterable[tuple[str, Holder]]],
    ) -> None:
        self._snapshot = snapshot
        self._committed = committed
        self._slots = slots
        self._answering = answering
        self._ahead = self._slots_ahead = 0
        # Only where somebody is short: see `_sum`.
        self._slack: int | None = None
        self._turns: list[int] = []
        self._untold: list[tuple[int, int]] = []

    def above_floor(self, need: Need) -> Micro:
        """What is free above the floor of a need, behind those that came before it."""
        assert self._snapshot is not None
        before = self._snapshot.before_holds(need.extra)
        return before - need.floor - self._committed - self._ahead

    def others(self, turn: int) -> list[str]:
        """Who may give back what a need lacks that came with the message of that number.

        What a member used when it reported last, it may have finished since; or else it has no more to say.
        """
        found = []
        for name, member in self._answering():
            told = member.turn >= turn
            if member.slack > 0 if told else member.lease > 0 or member.slots > 0:
                found.append(name)
        return found

    def helped(self, queued: QueuedNeeds) -> int:
        """How many of these callers could be granted, if others gave back all that they may."""
        need, helped = queued.need, len(queued.tickets)
        amount, free = need.from_account, self.above_floor(need)
        credits, sessions = self._may_give_back(queued.turn)
        if amount and free != UNLIMITED:
            helped = min(helped, int(free + credits) // amount)
        slots = self.slots_left(less=sessions)
        if need.slots and slots != UNLIMITED:
            helped = min(helped, int(slots) // need.slots)
        if need.counts or helped <= 0:
            return max(helped, 0)
        # Where nobody blocks others, each may get what there is.
        return len(queued.tickets)

    def _may_give_back(self, turn: int) -> tuple[int, int]:
        """Credits and sessions: slack of all, and what those use that have not reported since that turn."""
        if self._slack is None:
            self._sum()
            assert self._slack is not None
        credits, sessions = self._untold[bisect_left(self._turns, turn)]
        return self._slack + credits, sessions

    def _sum(self) -> None:
        """Sum up what members hold, once for all needs, by the turn of their last message."""
        answering = sorted((each for _, each in self._answering()), key=attrgetter("turn"))
        self._slack = sum(each.slack for each in answering)
        self._turns = [each.turn for each in answering]
        used = accumulate((each.used for each in answering), initial=0)
        slots = accumulate((each.slots for each in answering), initial=0)
        # At each place: of those that reported before.
        self._untold = list(zip(used, slots, strict=True))

    def slots_left(self, *, less: int = 0) -> Micro:
        """How many sessions may be opened; or might be, with so many `less` in use."""
        assert self._snapshot is not None
        return self._snapshot.slots - self._slots - self._slots_ahead + less

    def fits(self, need: Need) -> bool:
        """Whether it may be granted."""
        if self._snapshot is None:
            return False
        amount = need.from_account
        enough = not amount or self.above_floor(need) >= amount
        return enough and (not need.slots or self.slots_left() >= need.slots)

    def take(self, need: Need) -> None:
        """It is granted."""
        self._committed += need.drawn
        self._slots += need.slots

    def pass_by(self, queued: QueuedNeeds) -> None:
        """These are not, and those behind them must leave what they wait for."""
        need, callers = queued.need, len(queued.tickets)
        if need.counts:
            self._ahead += need.from_account * callers
            self._slots_ahead += need.slots * callers
