"""What may still be taken within one limit: the arithmetic of every budget.

A call takes its cost from the account and from each budget around it, in one admission. In a budget no
balance ever corrects a figure: what a call took remains taken until it ends, and its cost remains spent.

Pure: no clock, no lock. Amounts are integer micro-credits.
"""

from typing import Protocol

from budgetguard._core.clock import Instant


class Allowance:
    """A limit, what was `spent` of it, and the `room` that is left. The rest is `held` by open calls.

    `room` is below zero after a call that cost more than it held.
    """

    __slots__ = ("limit", "room", "spent")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.room = limit
        self.spent = 0

    @property
    def held(self) -> int:
        """What open calls hold."""
        return self.limit - self.room - self.spent

    def may_free(self, amount: int) -> bool:
        """Whether there may be room for `amount` once open calls have ended."""
        return self.limit - self.spent >= amount

    def move(self, held: int, spent: int) -> None:
        """Change what is held and what is spent by these amounts."""
        # Two steps, each complete in itself: calls on the fast path take the same ones without a lock.
        self.room -= held + spent
        self.spent += spent


class CarvedAllowance(Allowance):
    """An allowance whose limit is set aside in those around it.

    From `open` on, they hold all of its limit. Once it was closed, they hold only what its open calls
    hold, and hear how these end.
    """

    __slots__ = ("_around", "closed")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.closed = False
        self._around: tuple[Allowance, ...] = ()

    @property
    def set_aside(self) -> bool:
        """Whether those around it hold what is left."""
        return bool(self._around) and not self.closed

    def open(self, around: tuple[Allowance, ...]) -> None:
        """Set the limit aside in all of these."""
        for each in around:
            each.move(self.limit, 0)
        # Last: if this is interrupted earlier, nothing is given back that was not taken.
        self._around = around

    def may_free(self, amount: int) -> bool:
        """The same; once it is closed, what its open calls free is given back."""
        return not self.closed and super().may_free(amount)

    def move(self, held: int, spent: int) -> None:
        """Change what is held and what is spent, in those around it too once this one is closed."""
        # Not by recursion: blocks nest to any depth.
        rest: list[Allowance] = [self]
        while rest:
            each = rest.pop()
            if not isinstance(each, CarvedAllowance):
                each.move(held, spent)
                continue
            Allowance.move(each, held, spent)
            if each.closed:
                each._narrow()  # noqa: SLF001  another of this class
                rest += each._around  # noqa: SLF001  likewise

    def close(self) -> None:
        """Give back what is neither spent nor held. Closing it again changes nothing."""
        if self.closed:
            return
        self.closed = True
        given_up, held = self.limit, self.held
        self._narrow()
        for each in self._around:
            each.move(held - given_up, self.spent)

    def _narrow(self) -> None:
        self.limit -= self.room
        self.room = 0


class CallBudget(Protocol):
    """One budget that bounds a call, as far as its admission needs to know."""

    @property
    def name(self) -> str | None:
        """What errors call it."""
        ...

    @property
    def shared(self) -> bool:
        """Whether the head of a shared account decides about it, and no figure here."""
        ...

    @property
    def valid_until(self) -> float:
        """How long `current` remains the same, in seconds since the epoch."""
        ...

    def current(self, now: Instant) -> Allowance:
        """The allowance that a call which is admitted at `now` takes from."""
        ...

    def renews_at(self, now: Instant) -> float | None:
        """When it gives back more than open calls can, in seconds since the epoch; None if it never does."""
        ...


class BlockBudget:
    """The budget of a block, which is one allowance as long as it lasts.

    `set_aside_in` are the budgets that its whole limit was set aside in.
    """

    __slots__ = ("allowance", "name", "set_aside_in")

    shared: bool = False
    valid_until = float("inf")

    def __init__(
        self, name: str | None, allowance: Allowance, set_aside_in: tuple[CallBudget, ...] = ()
    ) -> None:
        self.name = name
        self.allowance = allowance
        self.set_aside_in = set_aside_in

    def current(self, now: Instant) -> Allowance:  # noqa: ARG002  the time matters to others
        """The block's allowance."""
        return self.allowance

    def renews_at(self, now: Instant) -> float | None:  # noqa: ARG002  likewise
        """Never."""
        return None


def united(
    budgets: tuple[CallBudget, ...], others: tuple[CallBudget, ...]
) -> tuple[CallBudget, ...]:
    """What a call takes from that is in these budgets and in the others.

    Not from one that it takes from already, because the limit of another one was set aside there.
    """
    found = (*budgets, *(each for each in others if each not in budgets))
    paid, rest = list[CallBudget](), list(found)
    while rest:
        each = rest.pop()
        if isinstance(each, BlockBudget):
            paid += each.set_aside_in
            rest += each.set_aside_in
    return tuple(each for each in found if each not in paid)
