"""Holds of attempts whose outcome nobody knows, until an SDK tries again or gives up."""

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
class _Attempt:
    request: bytes
    hold: Hold


class Parked:
    """Holds that stay open for a retry of the same request, for 65 s; then they are kept."""

    def __init__(self, guard: "Guard") -> None:
        self._guard = guard
        # No lock, which a fork could leave locked: what is done to the list is atomic.
        self._attempts: list[_Attempt] = []

    def put(self, request: Any, hold: Hold) -> None:
        """Set a hold aside."""
        attempt = _Attempt(_digest(request), hold)
        self._attempts.append(attempt)
        # Not kept from before: a fork has a runtime of its own.
        runtime = self._guard.runtime
        try:
            runtime.call_at(runtime.clock.monotonic() + PATIENCE, partial(self._give_up, attempt))
        except RuntimeError:
            # No thread can be started at exit.
            self._give_up(attempt)

    def take(self, request: Any) -> Hold | None:
        """The hold of an earlier attempt at the same request, if there is one."""
        digest = _digest(request)
        for attempt in list(self._attempts):
            if attempt.request == digest and self._remove(attempt):
                return attempt.hold
        return None

    def keep_all(self) -> None:
        """Nobody tries again."""
        for attempt in list(self._attempts):
            self._give_up(attempt)

    def _give_up(self, attempt: _Attempt) -> None:
        if self._remove(attempt):
            attempt.hold.keep()

    def _remove(self, attempt: _Attempt) -> bool:
        """Whether it was still there: of several that remove it at once, one does."""
        try:
            self._attempts.remove(attempt)
        except ValueError:
            return False
        return True


def _digest(request: Any) -> bytes:
    """The same for two attempts at one request: a body that is not at hand does not count."""
    try:
        content = request.content
    except RuntimeError:  # not read yet
        content = b""
    text = f"{request.method} {request.url}\n".encode()
    return hashlib.sha256(text + content).digest()
