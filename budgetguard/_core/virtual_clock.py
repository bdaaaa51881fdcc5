"""The clock of a shared account, which advances only by what two clocks agree on.

The clock of a store's server may be set, and after a failover it is another machine's. A member's clock
may run faster or slower than others. So the account's clock advances by the lesser of what the server's
clock says and of what the member that sends a message says. No clock that jumps frees a debit or ends a
lease early: that would need both to be wrong at once.

A message that is late, or sent again, cannot vouch for all the time that has passed. The next one may, so
the clock can catch up, by `MOST_BEHIND` at most. Until then the true time is somewhere between `now` and
`latest`: what must not have happened yet counts from `now`, what must be over counts from `latest`.

Pure. Times are seconds, whole multiples of `TICK`.
"""

from budgetguard._core.store_messages import NEVER, TICK, ticks_down

MOST_BEHIND = 20.0
"""Seconds. The most that the clock may catch up."""


class VirtualClock:
    """`now` is the account's time, and `latest` what it may be if all that the server's clock said is true.

    `server` is the time of the server's clock that `now` stands for; None before it was first read. Stamps
    from before `vouched_from` are older than a loss of time that is not caught up.
    """

    __slots__ = ("behind", "now", "server", "vouched_from")

    def __init__(self) -> None:
        self.now = 0.0
        self.server: float | None = None
        self.behind = 0.0
        self.vouched_from = NEVER

    @property
    def latest(self) -> float:
        """The latest that it may be."""
        return self.now + self.behind

    def advance(self, server: float, seen: float, elapsed: float, *, alone: bool) -> None:
        """Advance to a message: the server's clock reads `server`, and the member's last reply was from `seen`.

        By the member's own clock, `elapsed` seconds have passed since then. `alone` if no other member
        lives that a jump of the server's clock could harm.
        """
        server = ticks_down(server)
        before, self.server = self.server, server
        if before is None:
            return
        step = max(server - before, 0.0)
        if seen < self.vouched_from and not alone:
            # It would vouch for the time that was lost as well, which a jump may then bring back at once.
            vouched = 0.0
        elif seen == NEVER:
            # A jump of the server's clock must not end what others hold.
            vouched = step if alone else 0.0
        else:
            vouched = max(seen + ticks_down(elapsed) - self.now, 0.0)
        by = min(step, vouched)
        self.now += by
        self.behind = min(step - by, MOST_BEHIND)
        if server < before or step - by > MOST_BEHIND:
            self.now += TICK
            self.vouched_from = self.now
        self.server = server - self.behind

    def restart(self) -> None:
        """From now on another server's clock is read."""
        self.server, self.behind = None, 0.0
