"""Hearing that a client has gone from servers which tell nobody but who waits for it.

Granian may answer `receive` only some time after it was awaited, and sends to a client that has gone
without a word (2.8, 2026-11): an app that does not listen never hears, and there is nothing to be
asked at the end. So under it a task waits beside the app, and hands on what it receives.
"""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from budgetguard.events import logger

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]

# Not more than this is taken in before the app asks.
_AHEAD = 16


def is_needed() -> bool:
    """Whether this process serves by such a server; all of them run on asyncio."""
    return "granian" in sys.modules


class Listener:
    """Receives beside the app, in a task that ends with `stop`; `note` is told of each message."""

    def __init__(self, receive: Receive, note: Callable[[Message], None]) -> None:
        import asyncio

        self._receive = receive
        self._note = note
        self._heard: asyncio.Queue[Message | None] = asyncio.Queue(_AHEAD)
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def receive(self) -> Message:
        """What comes next, for the app."""
        message = await self._heard.get()
        if message is not None:
            return message
        # There is no more to hear; the app's further questions are the server's to answer.
        self._heard.put_nowait(None)
        message = await self._receive()
        self._note(message)
        return message

    async def catch_up(self) -> None:
        """Let the task take in what the server has told already."""
        import asyncio

        for _ in range(3):
            await asyncio.sleep(0)

    def stop(self) -> None:
        """Listen no longer."""
        self._task.cancel()

    async def _listen(self) -> None:
        try:
            while True:
                message = await self._receive()
                self._note(message)
                await self._heard.put(message)
                if message["type"] == "http.disconnect":
                    break
        except Exception as error:  # noqa: BLE001  who asks the server itself is told
            logger.debug("nothing more is heard of a client", exc_info=error)
        await self._heard.put(None)
