"""What is known of an account's looks, and when the next one is due."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from budgetguard.asker import Asker
from budgetguard.clock import Instant
from budgetguard.ledger import Look
from budgetguard.policy import Looking

if TYPE_CHECKING:
    from budgetguard.failures import Failure

LATER = float("inf")

# A look ends itself at its deadline. Where one has not, so many seconds later, the private loop did
# not run: the process stood still, or the look was never launched.
GRACE = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A look under way; compared by identity, so that a late one is told from its successor."""

    asker: Asker
    failures: int
    expires: float


class Looks:
    """At most one look is in flight. Times are monotonic; the caller holds the account's lock."""

    def __init__(self) -> None:
        self.known = Looking()
        self.failure: Failure | None = None
        self.callers_due = LATER
        self._wanted = LATER
        self._flight: Flight | None = None

    def want(self, at: float | None) -> None:
        """A look is due at that time, whoever waits then."""
        if at is not None:
            self._wanted = min(self._wanted, at)

    def want_again(self, recheck_after: float, now: Instant) -> None:
        """A look is due as soon as that many seconds have passed since the last one."""
        self.want(max(now.mono, self.known.last_sent + recheck_after))

    def due_for_callers(self, at: float | None) -> None:
        """A look is due at that time if the caller who needs it waits still."""
        if at is not None:
            self.callers_due = min(self.callers_due, at)

    def due(self, kept_due: float) -> float:
        """When to begin the next look; later than ever while one is in flight, or none is due."""
        due = min(self.callers_due, self._wanted, kept_due)
        if self._flight is not None or due == LATER:
            return LATER
        return max(due, self.known.blocked_until)

    def next(self, asker: Asker, now: Instant) -> Flight:
        """The look that could go out now, on the terms of `asker`."""
        failures = self.failure.failures if self.failure else 0
        return Flight(asker, failures, now.mono + asker.terms.timeout + GRACE)

    def begin(self, flight: Flight, now: Instant) -> None:
        """That look goes out."""
        assert self._flight is None
        self._flight = flight
        self.known = Looking(now.mono, in_flight=True)
        self.callers_due = self._wanted = LATER

    def lost(self, now: Instant) -> Flight | None:
        """The look in flight, where its own deadline has long passed and it is not back."""
        flight = self._flight
        return flight if flight is not None and now.mono > flight.expires else None

    def drop(self, flight: Flight) -> None:
        """Nothing will come of that look, and the provider is not to blame."""
        if flight is self._flight:
            self._flight = None
            self.known = replace(self.known, in_flight=False)

    def awaits(self, flight: Flight) -> bool:
        """Whether that is the look in flight, and not one that another took the place of."""
        return flight is self._flight

    def sent(self, flight: Flight, at: Instant) -> None:
        """An attempt of that look goes out."""
        if flight is self._flight:
            self.known = replace(self.known, last_sent=at.mono)

    def land(self, flight: Flight, answer: "Look | Failure", now: Instant) -> bool:
        """That look is back; False if nobody asks for it any more."""
        if flight is not self._flight:
            return False
        self._flight = None
        last_sent = self.known.last_sent
        if isinstance(answer, Look):
            self.failure = None
            self.known = Looking(last_sent)
        else:
            self.failure = answer
            self.known = Looking(last_sent, blocked_until=now.mono + answer.delay)
        return True
