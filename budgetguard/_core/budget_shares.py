"""What the members of a shared account hold and spent in one window of a keyed budget.

Pure: no clock, no lock. Amounts are integer micro-credits.
"""

from typing import Any

MOST_DEAD = 64
"""How many dead members of a window are remembered one by one, in case that they come back."""


class BudgetShares:
    """What members hold and spent in one window, or in one bucket of a rolling budget.

    `shares` and `dead` map members to what they hold and what they spent, as far as they told. `held`
    and `spent` are the sums. `spent` also has what members spent that have left, and what the dead
    held: what their calls cost is not known.
    """

    __slots__ = ("dead", "held", "shares", "spent")

    def __init__(self) -> None:
        self.held = 0
        self.spent = 0
        self.shares: dict[str, list[int]] = {}
        self.dead: dict[str, list[int]] = {}

    def of(self, member: str) -> tuple[int, int]:
        """What a member holds and spent."""
        held, spent = self.shares.get(member) or self.dead.get(member) or (0, 0)
        return held, spent

    def put(self, member: str, held: int, spent: int) -> None:
        """Replace what a member holds and spent. One that was believed to be dead is alive."""
        if share := self.dead.pop(member, None):
            self.held += share[0]
            self.spent -= share[0]
        share = share or self.shares.get(member) or [0, 0]
        self.held += held - share[0]
        self.spent += spent - share[1]
        if held or spent:
            self.shares[member] = [held, spent]
        else:
            self.shares.pop(member, None)

    def die(self, member: str) -> None:
        """A member is believed to be dead: what it held counts as spent until it comes back."""
        share = self.shares.pop(member, None)
        if share is None:
            return
        self.held -= share[0]
        self.spent += share[0]
        self.dead[member] = share
        if len(self.dead) > MOST_DEAD:
            del self.dead[next(iter(self.dead))]

    def leave(self, member: str) -> None:
        """A member is not told apart from others that have left; what it still held counts as spent."""
        held, _ = self.shares.pop(member, (0, 0))
        self.held -= held
        self.spent += held

    def clear_spent(self) -> None:
        """What was spent counts no more."""
        self.spent = 0
        self.dead.clear()
        self.shares = {member: [held, 0] for member, (held, _) in self.shares.items() if held}

    def dump(self) -> list[Any]:
        """The state, as values of JSON."""
        shares = [[member, *share] for member, share in self.shares.items()]
        dead = [[member, *share] for member, share in self.dead.items()]
        return [self.held, self.spent, shares, dead]

    @classmethod
    def load(cls, state: list[Any]) -> "BudgetShares":
        """The shares whose `dump` this is."""
        new = cls()
        new.held, new.spent, shares, dead = state
        new.shares = {member: share for member, *share in shares}
        new.dead = {member: share for member, *share in dead}
        return new
