"""Notifies requests that wait on the server's loop of changes that any thread makes."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


class Bell:
    """Rings after each change of one piece of work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake all waiting requests."""
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            with suppress(RuntimeError):  # the server has stopped in the meantime
                future.get_loop().call_soon_threadsafe(_wake, future)

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait on the server's loop until `true()` returns True."""
        while True:
            future = asyncio.get_running_loop().create_future()
            # Added before the check, so that a change between the two rings for this future.
            with self._lock:
                self._waiting.add(future)
            try:
                if true():
                    return
                await future
            finally:
                with self._lock:
                    self._waiting.discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
