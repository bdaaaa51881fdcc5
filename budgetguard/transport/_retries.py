"""Holds of requests whose outcome is unknown, until another request continues the same call.

That is either the request that follows a redirect, or a retry by an SDK whose header says so.
`_repeats` has those without a header.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from budgetguard._engine.binding import binding_of
from budgetguard._engine.hold import Hold

if TYPE_CHECKING:
    from budgetguard.guard import Guard

# SDKs made by Stainless wait at most 8 s, or 60 s if a reply says so (openai 3.54, 2026-11).
PATIENCE = 65.0


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A hold, and the marks of the requests that may continue it.

    `onward` describes the redirect that the next request follows; None if it is a retry.
    """

    hold: Hold
    marks: tuple[bytes, ...]
    onward: Any


class Parked:
    """Holds that remain open for another request of the same call, for 65 s; after that they are kept."""

    def __init__(self, guard: "Guard") -> None:
        self._guard = guard
        # No lock, which a fork could leave locked: each list operation is atomic.
        self._waiting: list[Waiting] = []

    def put(self, hold: Hold, *marks: bytes, onward: Any = None) -> Waiting:
        """Set a hold aside for a request with one of these marks."""
        waiting = Waiting(hold, marks, onward)
        self._waiting.append(waiting)
        # Not stored: a forked child has its own runtime.
        runtime = binding_of(self._guard).account.runtime
        try:
            runtime.call_at(runtime.clock.monotonic() + PATIENCE, partial(self._give_up, waiting))
        except RuntimeError:
            # No thread can start while the interpreter exits.
            self._give_up(waiting)
        return waiting

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self, request: Any, *, again: bool) -> Waiting | None:
        """The hold that waits for this request, if any; `again` selects holds that wait for a retry."""
        if not self._waiting:
            return None
        seen = mark_of(request)
        for waiting in list(self._waiting):
            fits = seen in waiting.marks and again is (waiting.onward is None)
            if fits and self.claim(waiting):
                return waiting
        return None

    def claim(self, waiting: Waiting) -> bool:
        """Whether the hold was still waiting: only one of several concurrent claims succeeds."""
        try:
            self._waiting.remove(waiting)
        except ValueError:
            return False
        return True

    def keep_all(self) -> None:
        """No further request will come."""
        for waiting in list(self._waiting):
            self._give_up(waiting)

    def _give_up(self, waiting: Waiting) -> None:
        if self.claim(waiting):
            waiting.hold.keep()


def mark_of(request: Any, *, to: Any = None) -> bytes:
    """A mark that is equal for two attempts of one request; a body that was not read is ignored.

    `to` replaces the request's address.
    """
    return mark(request.method, request.url if to is None else to, content_of(request) or b"")


def content_of(request: Any) -> bytes | None:
    """A request's content; None if it is a stream that nobody has read."""
    try:
        return bytes(request.content)
    except RuntimeError:
        return None


def mark(method: str, url: Any, content: bytes = b"") -> bytes:
    """The digest by which a request is recognized."""
    return hashlib.sha256(f"{method} {url}\n".encode() + content).digest()
