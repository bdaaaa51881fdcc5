"""The state of an account's refreshes, and when the next one is due."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from budgetguard._core.clock import Instant
from budgetguard._core.policy import RefreshState
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._engine.subscriber import Subscriber

if TYPE_CHECKING:
    from budgetguard._core.refresh_failure import Failure

LATER = float("inf")

# A refresh ends itself at its deadline. If it has not ended this many seconds later, the private loop
# did not run: the process was frozen, or the refresh was never launched.
GRACE = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Refresh:
    """A refresh in flight; compared by identity, to distinguish a late one from its successor."""

    subscriber: Subscriber
    failures: int
    expires: float
    after_freeze: bool


class RefreshSchedule:
    """At most one refresh is in flight. Times are monotonic; the caller holds the account's lock."""

    def __init__(self) -> None:
        self.known = RefreshState()
        self.failure: Failure | None = None
        self.callers_due = LATER
        self._wanted = LATER
        self._refresh: Refresh | None = None

    def want(self, at: float | None) -> None:
        """A refresh is due at that time, whether or not a caller waits for it."""
        if at is not None:
            self._wanted = min(self._wanted, at)

    def want_again(self, recheck_after: float, now: Instant) -> None:
        """A refresh is due as soon as that many seconds have passed since the last one."""
        self.want(max(now.mono, self.known.last_sent + recheck_after))

    def due_for_callers(self, at: float | None) -> None:
        """A refresh is due at that time if the caller that needs it is still waiting."""
        if at is not None:
            self.callers_due = min(self.callers_due, at)

    def due(self, kept_due: float) -> float:
        """When to begin the next refresh; `LATER` while one is in flight, or if none is due."""
        due = min(self.callers_due, self._wanted, kept_due)
        if self._refresh is not None or due == LATER:
            return LATER
        return max(due, self.known.blocked_until)

    def next(self, subscriber: Subscriber, now: Instant, *, after_freeze: bool) -> Refresh:
        """The refresh that could begin now, with the settings of `subscriber`."""
        failures = self.failure.failures if self.failure else 0
        return Refresh(
            subscriber, failures, now.mono + subscriber.terms.timeout + GRACE, after_freeze
        )

    def begin(self, refresh: Refresh, now: Instant) -> None:
        """That refresh begins."""
        assert self._refresh is None
        self._refresh = refresh
        self.known = RefreshState(now.mono, in_flight=True)
        self.callers_due = self._wanted = LATER

    def follow(self, began: float, blocked_until: float, failure: "Failure | None") -> None:
        """Another process refreshes the same account: the state of its latest refresh."""
        last_sent = max(began, self.known.last_sent)
        if self._refresh is not None:
            self.known = replace(self.known, last_sent=last_sent)
            return
        if failure is None:
            # Not one of this process that another one's made superfluous.
            last_sent = began
        self.known = RefreshState(last_sent, blocked_until=blocked_until)
        self.failure = failure

    @property
    def refresh(self) -> Refresh | None:
        """The refresh in flight."""
        return self._refresh

    def lost(self, now: Instant) -> Refresh | None:
        """The refresh in flight, if its deadline has passed long ago without a result."""
        refresh = self._refresh
        return refresh if refresh is not None and now.mono > refresh.expires else None

    def drop(self, refresh: Refresh) -> None:
        """That refresh will have no result, and the provider is not at fault."""
        if refresh is self._refresh:
            self._refresh = None
            self.known = replace(self.known, in_flight=False)

    def supersede(self, refresh: Refresh, began: float) -> None:
        """Another process's refresh took its place, which began then: maybe before the callers here came."""
        if refresh is self._refresh:
            self._refresh = None
            self.known = replace(self.known, last_sent=began, in_flight=False)

    def awaits(self, refresh: Refresh) -> bool:
        """Whether that is the refresh in flight, and not one that was replaced."""
        return refresh is self._refresh

    def sent(self, refresh: Refresh, at: Instant) -> None:
        """An attempt of that refresh is sent."""
        if refresh is self._refresh:
            self.known = replace(self.known, last_sent=at.mono)

    def land(self, refresh: Refresh, answer: "BalanceSnapshot | Failure", now: Instant) -> bool:
        """That refresh has a result; False if another one has replaced it."""
        if refresh is not self._refresh:
            return False
        self._refresh = None
        last_sent = self.known.last_sent
        if isinstance(answer, BalanceSnapshot):
            self.failure = None
            self.known = RefreshState(last_sent)
        else:
            self.failure = answer
            self.known = RefreshState(last_sent, blocked_until=now.mono + answer.delay)
        return True
