"""A reply's body, read by somebody else: what it was, and whether it came to its end.

Both HTTP libraries ask for streams of their own types, and settle nothing themselves: the end of a
body is when its stream was read to the end or closed.
"""

from collections.abc import Callable
from typing import Any, Self, TypeAlias

Over: TypeAlias = Callable[[bool, bytes | None], None]
"""Told once whether the body is whole, and the body, decoded; None where that cannot be had."""


def watched(response: Any, library: Any, over: Over, most: int) -> Any:
    """The response, with `over` called when its body has ended; at most `most` bytes are kept."""
    if response.is_stream_consumed:
        over(True, response.content)
        return response
    watch = _Watch(response, library, over, most)
    kind: type[_Stream] = _SyncStream
    base = library.SyncByteStream
    if isinstance(response.stream, library.AsyncByteStream):
        kind, base = _AsyncStream, library.AsyncByteStream
    response.stream = type(kind.__name__, (kind, base), {})(response.stream, watch)
    return response


class _Watch:
    """What has been read of one body, and the one report of its end."""

    def __init__(self, response: Any, library: Any, over: Over, most: int) -> None:
        self._status = response.status_code
        self._headers = response.headers
        self._library = library
        self._over: Over | None = over
        self._most = most
        self._read: bytearray | None = bytearray()

    def note(self, chunk: bytes) -> None:
        """A part of the body, as it came over the wire."""
        if self._read is not None:
            self._read += chunk
            if len(self._read) > self._most:
                self._read = None

    def end(self, *, complete: bool) -> None:
        """No more is read; only the first report counts."""
        over, self._over = self._over, None
        if over is not None:
            over(complete, self._decoded())

    def _decoded(self) -> bytes | None:
        if self._read is None:
            return None
        try:
            whole = self._library.Response(
                self._status, headers=self._headers, content=bytes(self._read)
            )
            content: bytes = whole.content
        except Exception:  # noqa: BLE001  a body that cannot be decoded says nothing
            return None
        return content


class _Stream:
    def __init__(self, inner: Any, watch: _Watch) -> None:
        self._inner = inner
        self._steps: Any = None
        self._watch = watch

    def _take(self, chunk: bytes) -> bytes:
        self._watch.note(chunk)
        return chunk

    def _stop(self, error: BaseException, end: type[Exception]) -> None:
        self._watch.end(complete=isinstance(error, end))


class _SyncStream(_Stream):
    """A stream of bytes that is read by a client."""

    def __iter__(self) -> Self:
        self._steps = iter(self._inner)
        return self

    def __next__(self) -> bytes:
        try:
            return self._take(next(self._steps))
        except BaseException as error:
            self._stop(error, StopIteration)
            raise

    def close(self) -> None:
        """Nobody reads on."""
        try:
            self._inner.close()
        finally:
            self._watch.end(complete=False)


class _AsyncStream(_Stream):
    """A stream of bytes that is read by an awaiting client; no generator, which trio would miss."""

    def __aiter__(self) -> Self:
        self._steps = aiter(self._inner)
        return self

    async def __anext__(self) -> bytes:
        try:
            return self._take(await anext(self._steps))
        except BaseException as error:
            self._stop(error, StopAsyncIteration)
            raise

    async def aclose(self) -> None:
        """Nobody reads on."""
        try:
            await self._inner.aclose()
        finally:
            self._watch.end(complete=False)
