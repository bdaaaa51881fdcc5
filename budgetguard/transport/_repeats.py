"""Requests that a client sends again after a failure, without a header that says so.

The first attempt may have been paid for, so it remains kept at its full price. The next attempt is
admitted without a decision, with a hold of its own: refusing it would turn an outage of the provider into
a lack of credits.

Two equal requests are not always one call. So a repeat is recognized only where it cannot be another
caller's: in the same task or thread, after the attempt before has ended, and once for each attempt.
"""

import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from budgetguard._engine.binding import binding_of
from budgetguard.transport._retries import PATIENCE, content_of, mark

if TYPE_CHECKING:
    from budgetguard.guard import Guard

Place: TypeAlias = weakref.ref[Any]
"""The task or the thread that sends a request. Weak, because a later one may have its id."""

# SDKs repeat a request up to 9 times, and one of them for an hour (docs/integrations/sdk-retries.md, 2026-11).
# Whoever repeats a failing request for ever must be refused at some time: each attempt may cost its price.
MOST_REPEATS = 10
# The oldest is forgotten: its repeat is an ordinary call.
_MOST_FAILURES = 256
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a client would send again: the mark of its request, and how many repeats it has been already.

    Without a mark it is never recognized: its content was not read, so nobody knows what it was.
    """

    mark: bytes | None
    repeats: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Failure:
    attempt: Attempt
    place: Place
    until: float
    # A forked child has another one: it does not repeat what its parent sent.
    ledger: object


class Failures:
    """Attempts that failed with an unknown outcome, each remembered for 65 s and for one repeat."""

    def __init__(self, guard: "Guard") -> None:
        self._account = binding_of(guard).account
        # No lock, which a fork could leave locked: each list operation is atomic.
        self._failures: list[_Failure] = []

    def put(self, attempt: Attempt, place: Place) -> None:
        """An attempt failed that was sent from this place."""
        if attempt.mark is None or attempt.repeats >= MOST_REPEATS:
            return
        account = self._account
        now = account.monotonic()
        self._drop(now)
        self._failures.append(_Failure(attempt, place, now + PATIENCE, account.ledger))
        for oldest in self._failures[:-_MOST_FAILURES]:
            self._claim(oldest)

    def take(self, request: Any) -> Attempt | None:
        """The attempt that this request is, if it repeats one that failed; only one request ever does."""
        if not self._failures:
            return None
        account, here = self._account, _here()
        self._drop(account.monotonic())
        own = [
            failure
            for failure in self._failures[::-1]
            if failure.place() is here and failure.ledger is account.ledger
        ]
        seen = mark_read(request) if own else None
        for failure in own:
            if failure.attempt.mark == seen and self._claim(failure):
                return Attempt(seen, failure.attempt.repeats + 1)
        return None

    def forget_all(self) -> None:
        """No further request will come."""
        self._failures.clear()

    def _drop(self, now: float) -> None:
        for failure in list(self._failures):
            if failure.until <= now or failure.place() is None:
                self._claim(failure)

    def _claim(self, failure: _Failure) -> bool:
        try:
            self._failures.remove(failure)
        except ValueError:
            return False
        return True


def is_failure(status: int) -> bool:
    """Whether a client may send a request again after this reply: the provider is busy, or has failed."""
    return status == _TOO_MANY_REQUESTS or status >= 500  # noqa: PLR2004


def mark_read(request: Any) -> bytes | None:
    """The mark of a request; None if its content was not read, because it may be any."""
    content = content_of(request)
    return None if content is None else mark(request.method, request.url, content)


def current_place() -> Place | None:
    """Where this code runs; None if it cannot be referred to weakly."""
    with suppress(TypeError):
        return weakref.ref(_here())
    return None


class _Thread(threading.local):
    """Each thread's own object, which ends with it."""

    def __init__(self) -> None:
        self.marker = _Marker()


class _Marker:
    """Stands for one thread."""


_THREAD = _Thread()


def _here() -> Any:
    """The task that runs here, or what stands for the thread where there is none."""
    # Libraries that are not loaded run no task.
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    # RuntimeError: it runs no loop in this thread; AttributeError: another thread is importing it.
    if asyncio is not None:
        with suppress(RuntimeError, AttributeError):
            task = asyncio.current_task()
            if task is not None:
                return task
    if trio is not None:
        with suppress(RuntimeError, AttributeError):
            return trio.lowlevel.current_task()
    return _THREAD.marker
