"""When a provider is asked for the status of submitted work that the program itself no longer asks for.

Work that the program follows is left alone: each reply that it receives postpones our next request. Work
that nobody follows is asked about once in a while, until the provider says that it has ended. Nothing
holds for ever: work of which no reply has told anything for long enough is given up, and so is work that
has gone on for a day.

Failed requests say something about the provider rather than about one piece of work. So they pause all of
an account's requests, for twice as long after each failure in a row, and one request at a time ends the
pause. All times are monotonic seconds, passed in.
"""

from dataclasses import dataclass

EVERY = (30.0, 60.0)
"""Seconds between two requests for one piece of work; drawn anew each time, so that many do not coincide."""

LEFT_ALONE = 120.0
"""After a reply that the program itself asked for, its work is left alone for this long."""

SEARCH_AFTER = 10.0
"""When the work of a lost call is searched for: the provider has to record it first."""

SEARCH_FOR = 120.0
"""A search that has had no answer for so long is given up."""

SILENCE = 600.0
"""Work is given up when no reply has told anything for this long, beyond the provider's `linger`."""

LIFE = 86_400.0
"""Work is given up after a day, whatever the replies say."""

LONGEST_PAUSE = 600.0
AT_ONCE = 4
"""At most so many requests of one account are under way at the same time."""

_MOST_DOUBLINGS = 5


@dataclass(slots=True)
class StatusSchedule:
    """One piece of work: when its status is due, and when it is given up without one.

    `heard` is when a reply last told something about it, at first when it was submitted.
    """

    due: float
    submitted: float
    heard: float
    patience: float
    misses: int = 0

    @property
    def over_at(self) -> float:
        """When it is given up, unless a reply tells something before."""
        return min(self.heard + self.patience, self.submitted + LIFE)

    def told(self, now: float) -> None:
        """The program itself received a reply about it."""
        self.heard, self.misses = now, 0
        self.due = now + LEFT_ALONE

    def answered(self, now: float, wait: float) -> None:
        """Our request was answered, and the work goes on."""
        self.heard, self.misses = now, 0
        # Unless the program asked in the meantime.
        self.due = max(self.due, now + wait)

    def missed(self, now: float, wait: float) -> None:
        """Our request was answered, but the reply told nothing."""
        self.due = now + _doubled(wait, self.misses)
        self.misses += 1


@dataclass(slots=True)
class RequestPause:
    """An account's pause after failed requests."""

    failures: int = 0
    until: float = 0.0

    @property
    def at_once(self) -> int:
        """How many requests may be under way."""
        return 1 if self.failures else AT_ONCE

    def failed(self, now: float, wait: float, retry_after: float | None) -> None:
        """A request had no valid reply; the provider may have requested a longer wait."""
        if now < self.until:
            # It was under way when another one failed.
            self.until = max(self.until, now + (retry_after or 0.0))
            return
        self.until = now + max(_doubled(wait, self.failures), retry_after or 0.0)
        self.failures += 1

    def ended(self) -> None:
        """A request was answered."""
        self.failures, self.until = 0, 0.0


def _doubled(wait: float, times: int) -> float:
    return float(min(wait * 2 ** min(times, _MOST_DOUBLINGS), LONGEST_PAUSE))
