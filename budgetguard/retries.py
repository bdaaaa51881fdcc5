"""Holds of attempts whose outcome nobody knows, until an SDK tries again or gives up."""

import hashlib
import threading
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
        self._lock = threading.Lock()
        self._attempts: list[_Attempt] = []

    def put(self, request: Any, hold: Hold) -> None:
        """Set a hold aside."""
        attempt = _Attempt(_digest(request), hold)
        with self._lock:
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
        with self._lock:
            for attempt in self._attempts:
                if attempt.request == digest:
                    self._attempts.remove(attempt)
                    return attempt.hold
        return None

    def keep_all(self) -> None:
        """Nobody tries again."""
        with self._lock:
            attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt.hold.keep()

    def _give_up(self, attempt: _Attempt) -> None:
        with self._lock:
            if attempt not in self._attempts:
                return
            self._attempts.remove(attempt)
        attempt.hold.keep()


def _digest(request: Any) -> bytes:
    """The same for two attempts at one request: a body that is not at hand does not count."""
    try:
        content = request.content
    except RuntimeError:  # not read yet
        content = b""
    text = f"{request.method} {request.url}\n".encode()
    return hashlib.sha256(text + content).digest()
