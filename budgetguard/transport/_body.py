"""A reply's body as its caller reads it: its content, and whether it was read to the end.

Both HTTP libraries require streams of their own types, and neither reports when a reply is finished: a
body is finished when its stream was read to the end or closed.
"""

import functools
from collections.abc import Callable
from typing import Any, Self, TypeAlias

Over: TypeAlias = Callable[[bool, bytes | None], None]
"""Called once with whether the body is complete, and with its decoded content, or None if unknown."""

_SLICE = 1024


def watched(response: Any, library: Any, over: Over, most: int) -> Any:
    """The response, with `over` called when its body is finished; at most `most` bytes are stored."""
    if response.is_stream_consumed:
        over(True, response.content)
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

    def end(self, *, complete: bool) -> None:
        """Reading has stopped; only the first report counts."""
        over, self._over = self._over, None
        if over is not None:
            over(complete, self._decoded())

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

    def _stop(self, error: BaseException, end: type[Exception]) -> None:
        self._watch.end(complete=isinstance(error, end))

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
        """Reading stops here."""
        try:
            self._inner.close()
        finally:
            self._watch.end(complete=False)

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
        """Reading stops here."""
        try:
            await self._inner.aclose()
        finally:
            self._watch.end(complete=False)
