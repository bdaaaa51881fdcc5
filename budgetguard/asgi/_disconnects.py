"""How to detect a client's disconnect under servers that report it only to a pending `receive`.

Granian may answer `receive` only some time after it was awaited, and it sends to a disconnected client
without an error (2.8, 2026-11). An app that does not wait in `receive` never finds out, and a check at
the end comes too late. So under Granian, a task waits beside the app and passes on what it receives.
"""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from budgetguard._core.events import logger

ASGIMessage: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[ASGIMessage]]

# The most messages that are received before the app reads one.
_AHEAD = 16


def is_needed() -> bool:
    """Whether this process uses such a server; all of them run on asyncio."""
    return "granian" in sys.modules


class Listener:
    """Receives beside the app, in a task that `stop` cancels; `note` is called with each message."""

    def __init__(self, receive: Receive, note: Callable[[ASGIMessage], None]) -> None:
        import asyncio

        self._receive = receive
        self._note = note
        self._received: asyncio.Queue[ASGIMessage | None] = asyncio.Queue(_AHEAD)
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def receive(self) -> ASGIMessage:
        """The next message for the app."""
        message = await self._received.get()
        if message is not None:
            return message
        # The task has finished; further messages come from the server itself.
        self._received.put_nowait(None)
        message = await self._receive()
        self._note(message)
        return message

    async def catch_up(self) -> None:
        """Let the task receive what the server has ready."""
        import asyncio

        for _ in range(3):
            await asyncio.sleep(0)

    def stop(self) -> None:
        """Cancel the task."""
        self._task.cancel()

    async def _listen(self) -> None:
        try:
            while True:
                message = await self._receive()
                self._note(message)
                await self._received.put(message)
                if message["type"] == "http.disconnect":
                    break
        except Exception as error:  # noqa: BLE001  the app gets it from the server's own `receive`
            logger.debug("receiving from a client failed", exc_info=error)
        await self._received.put(None)
