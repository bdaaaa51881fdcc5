"""An HTTP transport in memory: it answers every host, and notes what was sent where."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

import httpx

from budgetguard.testing.provider_check.cases import ANY, ELSEWHERE, MOVED, CannedReply, ReplyCase

_MOST_REQUESTS: Final = 100
_MOST_READ: Final = 32 * 1024 * 1024
_CHUNK: Final = b" " * 65_536
_DRIPS: Final = 3_600


class TooMuch(Exception):
    """A provider has sent, or read, so much that it would go on without end."""


@dataclass(frozen=True, slots=True)
class SentRequest:
    """One request: where it went, and whether it had the key."""

    host: str
    path: str
    with_key: bool


class Wire(httpx.AsyncBaseTransport):
    """Answers requests as `case` says; `sent` and `read` are of this case.

    A reply that repeats the key repeats the one of its request, which may begin or end in further characters.
    """

    def __init__(self, example: ReplyCase, key: str) -> None:
        self._key = key.encode()
        self._carried = re.compile(rb"[\w-]*" + re.escape(self._key) + rb"[\w-]*")
        self._example = example
        self.begin(example)

    def begin(self, case: ReplyCase) -> None:
        """Answer as `case` says from now on."""
        self._case = case
        self.sent: list[SentRequest] = []
        self.read = 0
        self.unknown: str | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send what the case has for the request's path."""
        if len(self.sent) >= _MOST_REQUESTS:
            msg = f"{_MOST_REQUESTS} requests were sent for one balance"
            raise TooMuch(msg)
        content = await request.aread()
        carried = [str(request.url).encode(), content, *(value for _, value in request.headers.raw)]
        found = self._carried.search(b"\n".join(carried))
        self.sent.append(SentRequest(request.url.host, request.url.path, found is not None))
        reply = self._reply(request.url)
        if reply.manner == "unreachable":
            msg = "All connection attempts failed"
            raise httpx.ConnectError(msg, request=request)
        if reply.manner == "quoting":
            msg = f"Illegal header value in {request.headers.raw!r} for {request.url}"
            raise httpx.LocalProtocolError(msg, request=request)
        if found is not None:
            reply = _repeating(reply, self._key, found[0])
        headers = dict(reply.headers)
        if reply.manner == "whole":
            headers["content-length"] = str(len(reply.content))
        return httpx.Response(
            reply.status, headers=headers, stream=_Body(self, reply), request=request
        )

    @property
    def followed(self) -> list[SentRequest]:
        """The requests that followed a redirect."""
        return [each for each in self.sent if each.host == ELSEWHERE or each.path.startswith(MOVED)]

    @property
    def read_on(self) -> bool:
        """Whether a body without an end was read until it was cut off."""
        return self.read >= _MOST_READ

    def _reply(self, url: httpx.URL) -> CannedReply:
        moved = url.host == ELSEWHERE or url.path.startswith(MOVED)
        replies = (self._example if moved else self._case).replies
        known = [path for path in replies if path == ANY or url.path.endswith(path)]
        if not known:
            self.unknown = url.path
            return CannedReply(b"", 404)
        return replies[max(known, key=len)]


def _repeating(reply: CannedReply, key: bytes, carried: bytes) -> CannedReply:
    headers = {
        name: value.replace(key.decode(), carried.decode()) for name, value in reply.headers.items()
    }
    return replace(reply, content=reply.content.replace(key, carried), headers=headers)


class _Body(httpx.AsyncByteStream):
    """A body, sent in the manner of its reply."""

    def __init__(self, wire: Wire, reply: CannedReply) -> None:
        self._wire = wire
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content, manner = self._reply.content, self._reply.manner
        if manner == "drip":
            for index in range(_DRIPS):
                await asyncio.sleep(1)
                yield content[index : index + 1] or b" "
        elif manner == "lost":
            yield content[: len(content) // 2]
        else:
            yield content
        while manner == "endless":
            await asyncio.sleep(0)
            self._wire.read += len(_CHUNK)
            if self._wire.read_on:
                msg = f"{_MOST_READ:,} bytes were read for one balance"
                raise TooMuch(msg)
            yield _CHUNK
        if manner != "whole":
            msg = "The connection was lost"
            raise httpx.ReadError(msg)
