"""Holds of requests whose outcome nobody knows, until a next one goes on with their call.

That is the attempt after, where an SDK tries again, or the request that follows a redirect.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from budgetguard.hold import Hold

if TYPE_CHECKING:
    from budgetguard.guard import Guard

# SDKs made by Stainless wait at most 8 s, or 60 s where they are told to (openai 3.54, 2026-11).
PATIENCE = 65.0


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A hold, and the marks of the requests that may go on with it.

    `onward` is what a request goes by that follows a redirect; None for another attempt.
    """

    hold: Hold
    marks: tuple[bytes, ...]
    onward: Any


class Parked:
    """Holds that stay open for a next request of the same call, for 65 s; then they are kept."""

    def __init__(self, guard: "Guard") -> None:
        self._guard = guard
        # No lock, which a fork could leave locked: what is done to the list is atomic.
        self._waiting: list[Waiting] = []

    def put(self, hold: Hold, *marks: bytes, onward: Any = None) -> Waiting:
        """Set a hold aside for a request with one of these marks."""
        waiting = Waiting(hold, marks, onward)
        self._waiting.append(waiting)
        # Not kept from before: a fork has a runtime of its own.
        runtime = self._guard.runtime
        try:
            runtime.call_at(runtime.clock.monotonic() + PATIENCE, partial(self._give_up, waiting))
        except RuntimeError:
            # No thread can be started at exit.
            self._give_up(waiting)
        return waiting

    def take(self, request: Any, *, again: bool) -> Waiting | None:
        """What waits for this request, if anything does; `again` where it is another attempt."""
        if not self._waiting:
            return None
        seen = mark_of(request)
        for waiting in list(self._waiting):
            fits = seen in waiting.marks and again is (waiting.onward is None)
            if fits and self.claim(waiting):
                return waiting
        return None

    def claim(self, waiting: Waiting) -> bool:
        """Whether it was still there: of several that claim it at once, one gets it."""
        try:
            self._waiting.remove(waiting)
        except ValueError:
            return False
        return True

    def keep_all(self) -> None:
        """No next request comes."""
        for waiting in list(self._waiting):
            self._give_up(waiting)

    def _give_up(self, waiting: Waiting) -> None:
        if self.claim(waiting):
            waiting.hold.keep()


def mark_of(request: Any, *, to: Any = None) -> bytes:
    """The same for two attempts at one request: a body that is not at hand does not count.

    `to` is another address for it.
    """
    try:
        content = bytes(request.content)
    except RuntimeError:  # not read yet
        content = b""
    return mark(request.method, request.url if to is None else to, content)


def mark(method: str, url: Any, content: bytes = b"") -> bytes:
    """What a request is told by."""
    return hashlib.sha256(f"{method} {url}\n".encode() + content).digest()
