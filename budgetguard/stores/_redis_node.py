"""One server of a store, on one event loop: its connections, and what to do while it does not answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from random import SystemRandom
from typing import Any, TypeVar

from budgetguard.stores._redis_driver import Driver
from budgetguard.stores.base import StoreUnavailable

T = TypeVar("T")

JITTER = SystemRandom().uniform
NEVER = float("-inf")

# For so long after a failure, and at most so long, nobody else asks. Less than an account's own first pause.
_FIRST_REST, _LONGEST_REST = 0.04, 0.5


class ServerAway(StoreUnavailable):
    """The server, and not this message, is the cause: whoever else asks it now would hear the same."""


class Turns:
    """While a server gives no answers, one message at a time asks it, and the others share its failure.

    So the accounts of a process do not each wait for their time-out, with a connection each.
    """

    def __init__(self) -> None:
        self._failure: ServerAway | None = None
        self._failures = 0
        self._rest_until = NEVER
        self._asking: asyncio.Future[None] | None = None

    async def run(self, work: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Do something with the server, unless it is known to be away; raises what `work` does.

        Waits for others until `deadline`, a time of the loop.
        """
        now = asyncio.get_running_loop().time
        if self._failure is None:
            return await self._noted(work)
        if self._asking is not None:
            # Not for the future itself, which would be cancelled for all if this task is.
            await asyncio.wait([self._asking], timeout=deadline - now())
            if self._failure is None:
                return await self._noted(work)
        if self._asking is not None or now() < self._rest_until:
            raise ServerAway(self._failure.reason) from self._failure
        asking = self._asking = asyncio.get_running_loop().create_future()
        try:
            return await self._noted(work)
        finally:
            self._asking = None
            asking.set_result(None)

    async def _noted(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await work()
        except ServerAway as error:
            self._failures = min(self._failures + 1, 10)
            most = min(_FIRST_REST * 2**self._failures, _LONGEST_REST)
            self._rest_until = asyncio.get_running_loop().time() + JITTER(most / 2, most)
            self._failure = error
            raise
        except Exception:
            self._failure, self._failures = None, 0
            raise
        self._failure, self._failures = None, 0
        return result


class Search:
    """Find a server, once for all who need it at the same time."""

    def __init__(self, find: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._find = find
        self._turns = Turns()
        self._running: asyncio.Task[Any] | None = None

    async def result(self, deadline: float) -> Any:
        """What was found; raises what `find` does, and TimeoutError at `deadline`, a time of the loop."""
        return await self._turns.run(partial(self._shared, deadline), deadline)

    async def _shared(self, deadline: float) -> Any:
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._find())
            # A failure that nobody waits for any more is no news.
            self._running.add_done_callback(lambda it: it.cancelled() or it.exception())
        async with asyncio.timeout_at(deadline):
            return await asyncio.shield(self._running)

    async def close(self) -> None:
        """Stop it."""
        if self._running is not None:
            await end([self._running])


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server: the `settings` of a connection of class `kind`, with its host and port."""

    kind: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        settings = self.settings
        if settings.get("path"):
            return str(settings["path"])
        host = str(settings.get("host") or "localhost")
        return f"{f'[{host}]' if ':' in host else host}:{settings.get('port') or 6379}"

    def at(self, host: str, port: int) -> "ServerAddress":
        """Another one that is reached alike."""
        return ServerAddress(self.kind, {**self.settings, "host": host, "port": port})


class Node:
    """A server, and connections to it that nobody uses now."""

    def __init__(self, driver: Driver, address: ServerAddress, timeout: float) -> None:
        self.address = address
        self._driver = driver
        self._timeout = timeout
        self._idle: list[Any] = []
        self._closed = False
        self.turns = Turns()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """One that is made and that nobody else uses; it is cut if what is done with it fails."""
        connection = await self._sound() or self._driver.connection(
            self.address.kind, self.address.settings, self._timeout
        )
        try:
            if not connection.is_connected:
                await connection.connect()
            yield connection
        except BaseException as error:
            if not isinstance(error, self._driver.errors.ResponseError):
                await cut(connection)
            raise
        finally:
            if connection.is_connected:
                if self._closed:
                    await cut(connection)
                else:
                    self._idle.append(connection)

    async def _sound(self) -> Any:
        """One that the server has not closed meanwhile, nor sent anything on; None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            readable = getattr(connection, "can_read", None) or connection.can_read_destructive
            try:
                if connection.is_connected and not await readable():
                    return connection
            except (OSError, self._driver.failures):
                pass
            except BaseException:
                # Nobody else knows of it any more.
                await cut(connection)
                raise
            await cut(connection)
        return None

    async def ask(self, connection: Any, *command: Any) -> Any:
        """The reply to a command on that very connection; raises what the driver does, and OSError."""
        if not connection.is_connected:
            # A driver would make another one, on which WAIT knows nothing of what was written before.
            raise self._driver.errors.ConnectionError
        await connection.send_command(*command)
        return await connection.read_response()

    async def close(self) -> None:
        """Close what nobody uses now, and the rest when it is given back."""
        self._closed = True
        while self._idle:
            await cut(self._idle.pop())


async def end(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait until they are."""
    for each in tasks:
        each.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def cut(connection: Any) -> None:
    """Close a connection without waiting for the other side."""
    with suppress(Exception):
        await connection.disconnect(nowait=True)
