"""A call that was let in: what it goes by, its entry in the books, and the ways it goes on.

Each of them is posted to the account, which carries it out under its lock; the books take an end
once, however often they are told.
"""

from dataclasses import dataclass, replace

from budgetguard.asker import Call, Effects
from budgetguard.clock import Instant
from budgetguard.ledger import Entry, Ledger


@dataclass(frozen=True, slots=True)
class Open:
    """A call, and its entry in the books it was let in by.

    Each way returns whether something came free for those who wait; `at` is when it happened.
    """

    call: Call
    ledger: Ledger
    entry: Entry

    def settle(self, now: Instant, effects: Effects, at: float, actual: int) -> bool:
        """The call cost `actual`."""
        entry, amount = self.entry, self.entry.amount
        if not self.ledger.settle(entry, actual, at + self.call.lag):
            return False
        spent = max(actual, entry.charged)
        self.call.tell(effects, self.ledger, "settled", now, spent)
        if spent > amount:
            self.call.tell(effects, self.ledger, "overrun", now, spent - amount)
        return spent < amount or entry.slots > 0

    def release(self, now: Instant, effects: Effects, _: float) -> bool:
        """The call cost nothing."""
        released = self.ledger.release(self.entry)
        if released:
            self.call.tell(effects, self.ledger, "released", now, self.entry.amount)
        return released

    def keep(self, now: Instant, effects: Effects, at: float, cause: str | None = None) -> bool:
        """Nobody knows what the call cost, and the provider may work on.

        `cause` is the name of what it raised, if that is known.
        """
        entry, call = self.entry, self.call
        unresolved_for = call.linger + call.lag
        if self.ledger.keep(entry, at + unresolved_for, cause):
            call.tell(effects, self.ledger, "kept", now, entry.amount, reason=cause)
            call.asker.log_kept(effects, call.operation, entry, unresolved_for, cause)
        return False

    def keep_attempt(self, now: Instant, effects: Effects, at: float) -> bool:
        """An attempt at a call that goes on may have cost what the call holds."""
        attempt = Entry(self.entry.amount)
        self.ledger.open(attempt)
        return replace(self, entry=attempt).keep(now, effects, at)

    def charge(self, _: Instant, __: Effects, at: float, total: int) -> bool:
        """The provider has booked `total` of the call, which runs on."""
        self.ledger.charge(self.entry, total, at + self.call.lag)
        return False
