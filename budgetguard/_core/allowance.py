"""What may still be taken within one limit."""


class Allowance:
    """A limit with what is held and spent within it; all amounts are micro-credits.

    `room` is `limit` less what is held and spent. It is negative after a call that cost more than it
    held.
    """

    __slots__ = ("limit", "room", "spent")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.room = limit
        self.spent = 0

    @property
    def held(self) -> int:
        """What running calls hold."""
        return self.limit - self.room - self.spent

    def move(self, held: int, spent: int) -> None:
        """Change what is held and what is spent by these amounts; either may be negative."""
        self.room -= held + spent
        self.spent += spent
