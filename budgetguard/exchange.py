"""One HTTP request on its way between a server and an app, and what its response says of its holds.

Where a request is guarded, what becomes of its hold is not known until all of the app has ended:
middleware may send the last part when the endpoint has long returned, and background tasks run
after it. So holds are collected here and end with the exchange.
"""

from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeAlias

from budgetguard import listening
from budgetguard.errors import HoldClosed
from budgetguard.hold import Hold
from budgetguard.listening import Listener, Message, Receive

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

EXCHANGE = "budgetguard.exchange"
"""Where in the scope of an HTTP request its Exchange is."""

_SERVER_ERROR = 500
# More than servers queue up for an app that has not read its request's body; hypercorn: 10.
_AHEAD = 16
_BODIES = ("http.response.body", "http.response.zerocopysend")


def answers_websockets(scope: Scope) -> bool:
    """Whether the server can answer a websocket's handshake as an HTTP request."""
    return "websocket.http.response" in (scope.get("extensions") or {})


class Exchange:
    """A block in which an app responds; ends the holds that it watches after it, if nobody has.

    Settled at cost where a response below 500 was completed, else kept; `GuardMiddleware` tells
    the whole of it.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self.status: int | None = None
        self._receive = receive
        self._send = send
        self._holds: list[Hold] = []
        self._ahead: deque[Message] = deque()
        self._receiving = 0
        self._listener: Listener | None = None
        self._complete = False
        self._lost = False

    def watch(self, hold: Hold) -> None:
        """End this hold as the exchange ends."""
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
        heard = self._complete and not self._lost and (self.status or 0) < _SERVER_ERROR
        for hold in self._holds:
            if error is None and not heard:
                with suppress(HoldClosed):
                    hold.keep()
            hold.finish(error)

    async def receive(self) -> Message:
        """What the app receives."""
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

    async def send(self, message: Message) -> None:
        """What the app sends."""
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
        elif kind == "http.response.pathsend" or (
            kind in _BODIES and not message.get("more_body", False)
        ):
            if self._listener is not None:
                await self._listener.catch_up()
            elif self._holds and not self._receiving:
                await self._look()
            # Before it is sent: from then on servers say that the client has gone, and mean that
            # there is nothing more to receive.
            self._complete = True
        try:
            await self._send(message)
        except BaseException:
            self._lost = True
            raise

    async def _look(self) -> None:
        """Receive what is there already, to be handed to the app when it asks."""
        from anyio import CancelScope

        with CancelScope() as scope:
            scope.cancel()
            for _ in range(_AHEAD):
                try:
                    message = await self._receive()
                except Exception:  # noqa: BLE001  the app did not ask: its response goes on
                    self._lost = True
                    return
                self._ahead.append(message)
                self._note(message)
                if self._lost:
                    return

    def _note(self, message: Message) -> None:
        if message["type"] == "http.disconnect" and not self._complete:
            self._lost = True
