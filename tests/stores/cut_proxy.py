"""A way to a server on which bytes get lost: replies never come, connections are cut between any two bytes.

It runs in a thread of the test's process. Each EVALSHA or EVAL with its reply is an exchange, about which `plan`
is asked; all else just passes, and so does everything with `plain`, as the link of a replica needs it.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

_T = TypeVar("_T")
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """So many bytes of a request get through, and then so many of its reply; None: all of them.

    Where one ends early, the connection is cut: in good order, or by a `reset`. If it is `silent` it stays open
    instead, and nothing more is heard over it. A `late` request arrives so many seconds later, and its reply takes
    `delay` seconds more; both also if the client has gone meanwhile.
    """

    request: int | None = None
    reply: int | None = None
    silent: bool = False
    reset: bool = False
    late: float = 0.0
    delay: float = 0.0


class CutError(Exception):
    """Nothing more goes over this connection."""


class CutProxy:
    """Listens on `port` of 127.0.0.1; `upstream` is the server's port, which may be changed at any time."""

    def __init__(self, upstream: int, *, plain: bool = False) -> None:
        self.upstream = upstream
        self.plain = plain
        self.plan: Callable[[bytes], Fault | None] = lambda _: None
        # New connections are closed at once.
        self.refuses = False
        # How many exchanges there were, and the bytes of the last whole reply.
        self.exchanges = 0
        self.last = (b"", b"")
        # And how many bytes the last request or reply had that was cut.
        self.cut_of = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    # From any thread.

    def hold(self) -> None:
        """Nothing passes any more, and nothing is cut."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def let_go(self) -> None:
        """What was held passes now."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def cut(self) -> None:
        """Cut all connections that there are."""
        self._do(self._cut())

    def close(self) -> None:
        """Cut everything, and listen no more."""
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # On its loop.

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _cut(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self) -> None:
        self._server.close()
        # One may just have been accepted.
        await asyncio.sleep(0)
        while self._tasks:
            await self._cut()
            # Since 3.12, to wait for what is done lets nothing else run, and so removes no task from the set.
            await asyncio.sleep(0)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            if not self.refuses:
                server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
                writers.append(to_server)
                if not self.plain:
                    await self._converse(reader, writer, server, to_server)
                await self._pass_all(reader, writer, server, to_server)
        except (OSError, EOFError, CutError):
            pass
        finally:
            await self._close(writers)

    async def _close(self, writers: list[asyncio.StreamWriter]) -> None:
        """What was written arrives, unless nobody reads it."""
        for each in writers:
            each.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.gather(
                    *(each.wait_closed() for each in writers), return_exceptions=True
                )
        for each in writers:
            each.transport.abort()

    async def _converse(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        """One command after the other, until one subscribes."""
        while True:
            request = await frame(reader)
            if b"SUBSCRIBE" in request[:40].upper():
                await self._write(to_server, request)
                return
            fault = None
            if b"\r\nEVAL" in request[:30].upper():
                self.exchanges += 1
                fault = self.plan(request)
            fault = fault or Fault()
            await asyncio.sleep(fault.late)
            await self._write(to_server, request[: fault.request])
            if fault.request is not None:
                self.cut_of = len(request)
                await self._end(fault, reader, writer)
            reply = await frame(server)
            await asyncio.sleep(fault.delay)
            self.last = request, reply
            if fault.reply is not None:
                self.cut_of = len(reply)
            await self._write(writer, reply[: fault.reply])
            if fault.reply is not None:
                await self._end(fault, reader, writer)

    async def _end(
        self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if fault.silent:
            # Until the client gives up.
            while await reader.read(4096):
                pass
        if fault.reset:
            its: socket.socket = writer.get_extra_info("socket")
            its.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        raise CutError

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        await self._flows.wait()
        writer.write(data)
        await writer.drain()

    async def _pass_all(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        """Both ways, until either side ends."""

        async def one_way(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                await self._write(target, data)

        ways = [
            asyncio.ensure_future(one_way(reader, to_server)),
            asyncio.ensure_future(one_way(server, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ways:
                each.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


async def frame(reader: asyncio.StreamReader) -> bytes:
    """One whole value of the protocol; raises EOFError."""
    line = await reader.readuntil(b"\r\n")
    kind, found = line[:1], line
    if kind in b"$=!" and line != b"$-1\r\n":
        return found + await reader.readexactly(int(line[1:]) + 2)
    for _ in range(_inside(kind, line)):
        found += await frame(reader)
    return found


def _inside(kind: bytes, line: bytes) -> int:
    """How many values follow."""
    if kind in b"*~>":
        return max(int(line[1:]), 0)
    return 2 * int(line[1:]) if kind == b"%" else 0
