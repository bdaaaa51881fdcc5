"""The clock of a shared account, which advances only by what two clocks agree on.

The clock of a store's server may be set, and after a failover it is another machine's. A member's clock
may run faster or slower than others. So the account's clock advances by the lesser of what the server's
clock says and of what the member that sends a message says. No clock that jumps frees a debit or ends a
lease early: that would need both to be wrong at once.

A message that is late, or sent again, cannot vouch for all the time that has passed. The next one may, so
the clock can catch up, by `MOST_BEHIND` at most. Until then the true time is somewhere between `now` and
`latest`: what must not have happened yet counts from `now`, what must be over counts from `latest`.

Time that is not caught up is *dropped* for good. A member whose last reply is from before that would vouch for
it as well, and a jump of the server's clock might then bring it back at once. So a reply says how much had
been dropped until then, and what was dropped since is taken off what the member vouches for.

Pure. Times are seconds, whole multiples of `TICK`.
"""

from budgetguard._core.store_messages import NEVER, ticks_down

MOST_BEHIND = 20.0
"""Seconds. The most that the clock may catch up."""

_ALL = 2.0**30
"""Seconds that nobody vouches for."""


class VirtualClock:
    """`now` is the account's time, and `latest` what it may be if all that the server's clock said is true.

    `server` is the time of the server's clock that `now` stands for; None before it was first read. `dropped` is
    how much time was lost so far, or more.
    """

    __slots__ = ("behind", "dropped", "now", "server")

    def __init__(self) -> None:
        self.now = 0.0
        self.server: float | None = None
        self.behind = self.dropped = 0.0

    @property
    def latest(self) -> float:
        """The latest that it may be."""
        return self.now + self.behind

    def advance(
        self, server: float, seen: float, dropped: float, elapsed: float, *, alone: bool
    ) -> None:
        """Advance to a message: the server's clock reads `server`, and the member's last reply was from `seen`.

        So much was `dropped` then, and by the member's own clock `elapsed` seconds have passed since. `alone` if
        no other member lives that a jump of the server's clock could harm.
        """
        server = ticks_down(server)
        before, self.server = self.server, server
        if before is None:
            return
        step = max(server - before, 0.0)
        if seen == NEVER:
            # A jump of the server's clock must not end what others hold.
            vouched = step if alone else 0.0
        else:
            since = seen + ticks_down(elapsed) - (self.dropped - dropped)
            vouched = max(since - self.now, 0.0)
        by = min(step, vouched)
        self.now += by
        self.behind = min(step - by, MOST_BEHIND)
        self.server = server - self.behind
        if server < before:
            # Nobody can tell how much has passed; at most what the member says.
            self.dropped += vouched or _ALL
        self.dropped += step - by - self.behind

    def restart(self) -> None:
        """From now on another server's clock is read."""
        self.server, self.behind = None, 0.0
