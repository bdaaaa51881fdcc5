"""One HTTP request between a server and an app, and what its response means for its holds.

What becomes of a guarded request's hold is not known until the whole app has finished: middleware may
send the last part long after the endpoint returned, and background tasks run after that. So holds are
collected here and end with the exchange.
"""

from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeAlias

from budgetguard._core.errors import HoldClosed
from budgetguard._engine.hold import Hold
from budgetguard.asgi import _disconnects as listening
from budgetguard.asgi._disconnects import ASGIMessage, Listener, Receive

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[ASGIMessage], Awaitable[None]]

EXCHANGE = "budgetguard.exchange"
"""The key in the scope under which an HTTP request's Exchange is stored."""

_SERVER_ERROR = 500
# More than servers queue for an app that has not read its request's body; hypercorn: 10.
_AHEAD = 16
_BODIES = ("http.response.body", "http.response.zerocopysend")


def answers_websockets(scope: Scope) -> bool:
    """Whether the server can answer a websocket's handshake with an HTTP response."""
    return "websocket.http.response" in (scope.get("extensions") or {})


class Exchange:
    """A block in which an app responds; afterwards it ends the watched holds that are still open.

    They are settled at cost if a response below 500 was completed, and kept otherwise; `GuardMiddleware`
    gives the details.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self.status: int | None = None
        self._receive = receive
        self._send = send
        self._holds: list[Hold] = []
        self._ahead: deque[ASGIMessage] = deque()
        self._receiving = 0
        self._listener: Listener | None = None
        self._complete = False
        self._lost = False

    def watch(self, hold: Hold) -> None:
        """End this hold together with the exchange."""
        self._holds.append(hold)
        if self._listener is None and not self._receiving and listening.is_needed():
            self._listener = Listener(self._receive, self._note)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._listener is not None:
            self._listener.stop()
        delivered = self._complete and not self._lost and (self.status or 0) < _SERVER_ERROR
        for hold in self._holds:
            if error is None and not delivered:
                with suppress(HoldClosed):
                    hold.keep()
            hold.finish(error)

    async def receive(self) -> ASGIMessage:
        """The next message for the app."""
        if self._ahead:
            return self._ahead.popleft()
        if self._listener is not None:
            return await self._listener.receive()
        self._receiving += 1
        try:
            message = await self._receive()
        finally:
            self._receiving -= 1
        self._note(message)
        return message

    async def send(self, message: ASGIMessage) -> None:
        """Send a message of the app."""
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
        elif kind == "http.response.pathsend" or (
            kind in _BODIES and not message.get("more_body", False)
        ):
            if self._listener is not None:
                await self._listener.catch_up()
            elif self._holds and not self._receiving:
                await self._receive_ahead()
            # Set before it is sent: afterwards, servers report a disconnect that only means that
            # there is nothing more to receive.
            self._complete = True
        try:
            await self._send(message)
        except BaseException:
            self._lost = True
            raise

    async def _receive_ahead(self) -> None:
        """Receive the messages that are ready, for the app to read later."""
        from anyio import CancelScope

        with CancelScope() as scope:
            scope.cancel()
            for _ in range(_AHEAD):
                try:
                    message = await self._receive()
                except Exception:  # noqa: BLE001  the app did not call receive: it still responds
                    self._lost = True
                    return
                self._ahead.append(message)
                self._note(message)
                if self._lost:
                    return

    def _note(self, message: ASGIMessage) -> None:
        if message["type"] == "http.disconnect" and not self._complete:
            self._lost = True
