"""A reply's body as its caller reads it: its content, and whether it was read to the end.

Both HTTP libraries require streams of their own types, and neither reports when a reply is finished: a
body is finished when its stream was read to the end or closed.
"""

import functools
from collections.abc import Callable
from enum import Enum
from typing import Any, Self, TypeAlias


class BodyEnd(Enum):
    """How reading a body ended: at its end, with an error of the connection, or because nobody read on."""

    COMPLETE = "complete"
    BROKEN = "broken"
    CLOSED = "closed"


Over: TypeAlias = Callable[[BodyEnd, bytes | None], None]
"""Called once with how reading ended, and with the body's decoded content, or None if unknown."""

_SLICE = 1024


def watched(response: Any, library: Any, over: Over, most: int) -> Any:
    """The response, with `over` called when its body is finished; at most `most` bytes are stored."""
    if response.is_stream_consumed:
        over(BodyEnd.COMPLETE, response.content)
        return response
    watch = _Watch(response, library, over, most)
    # Some streams are of both kinds, and only the client decides how to read them.
    both = library.SyncByteStream, library.AsyncByteStream
    kinds = tuple(kind for kind in both if isinstance(response.stream, kind))
    response.stream = _watched_kind(kinds)(response.stream, watch)
    return response


@functools.cache
def _watched_kind(kinds: tuple[type, ...]) -> Any:
    """Our stream class for a library's kinds; cached, because every class would wait for the collector."""
    return type("WatchedStream", (_Stream, *kinds), {})


class _Watch:
    """What has been read of one body, and the single report that it is finished."""

    def __init__(self, response: Any, library: Any, over: Over, most: int) -> None:
        self._status = response.status_code
        self._headers = response.headers
        self._library = library
        self._over: Over | None = over
        self._most = most
        self._read: bytearray | None = bytearray()

    def note(self, chunk: bytes) -> None:
        """A part of the body, as received from the network."""
        if self._read is not None:
            self._read += chunk
            if len(self._read) > self._most:
                self._read = None

    def end(self, how: BodyEnd) -> None:
        """Reading has stopped; only the first report counts."""
        over, self._over = self._over, None
        if over is not None:
            over(how, self._decoded())

    def stop(self, error: BaseException, end: type[Exception]) -> None:
        """Reading has raised an error; one of type `end` marks the end of the body."""
        if isinstance(error, end):
            self.end(BodyEnd.COMPLETE)
        else:
            broken = isinstance(error, self._library.TransportError)
            self.end(BodyEnd.BROKEN if broken else BodyEnd.CLOSED)

    def _decoded(self) -> bytes | None:
        if self._read is None:
            return None
        read, content = bytes(self._read), bytearray()
        if "content-encoding" not in self._headers:
            return read
        # In slices: a compressed body of 8 MiB may decode to 8 GB.
        slices = (read[at : at + _SLICE] for at in range(0, len(read), _SLICE))
        packed = self._library.Response(self._status, headers=self._headers, content=slices)
        try:
            for part in packed.iter_bytes():
                content += part
                if len(content) > self._most:
                    return None
        except Exception:  # noqa: BLE001  a body that cannot be decoded has no content
            return None
        return bytes(content)


class _Stream:
    """A stream of bytes for sync and async clients; not a generator, which trio would not finalize."""

    def __init__(self, inner: Any, watch: _Watch) -> None:
        self._inner = inner
        self._steps: Any = None
        self._watch = watch

    def _take(self, chunk: bytes) -> bytes:
        self._watch.note(chunk)
        return chunk

    def __iter__(self) -> Self:
        self._steps = iter(self._inner)
        return self

    def __next__(self) -> bytes:
        try:
            return self._take(next(self._steps))
        except BaseException as error:
            self._watch.stop(error, StopIteration)
            raise

    def close(self) -> None:
        """Reading stops here."""
        try:
            self._inner.close()
        finally:
            self._watch.end(BodyEnd.CLOSED)

    def __aiter__(self) -> Self:
        self._steps = aiter(self._inner)
        return self

    async def __anext__(self) -> bytes:
        try:
            return self._take(await anext(self._steps))
        except BaseException as error:
            self._watch.stop(error, StopAsyncIteration)
            raise

    async def aclose(self) -> None:
        """Reading stops here."""
        try:
            await self._inner.aclose()
        finally:
            self._watch.end(BodyEnd.CLOSED)
