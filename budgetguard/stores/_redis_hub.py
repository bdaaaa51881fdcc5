"""What a process has for one server on one event loop: a client, and a subscription for wake-ups.

All runs on the private loop, which needs no thread and no lock for this. A forked child has another loop,
and with it another client: connections of its parent are neither used nor closed there.
"""

import asyncio
import itertools
import json
import os
import secrets
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from budgetguard._core.store_messages import FORMAT, Message, Reply
from budgetguard.stores import _redis_words as words
from budgetguard.stores._redis_server import RedisServer
from budgetguard.stores._script import keys_of, script, script_sha
from budgetguard.stores._wire import message_text, reply_from
from budgetguard.stores.base import StoreUnavailable

if TYPE_CHECKING:
    from budgetguard._io.loop import Runtime

# Seconds until a lost subscription is made again.
_AGAIN = 1.0
# Without one of its own, redis-py 5 ends a subscription that hears nothing for the connection's time-out.
_PATIENCE = 3600.0


class WakeListener(Protocol):
    """A link, as the subscription sees it."""

    def notify(self) -> None:
        """Its member should send a message."""
        ...


class RedisProcess:
    """The name of this process in the store; another one in a forked child."""

    def __init__(self) -> None:
        self._hooked: list[None] = []
        # Of the parents: never used, and never collected, which would close what is in them.
        self._left: list[Any] = []
        self.numbers = itertools.count(1)
        self._begin()

    def hook(self) -> None:
        """Notice forks from now on."""
        if not self._hooked and hasattr(os, "register_at_fork"):
            self._hooked.append(None)
            os.register_at_fork(after_in_child=self._in_child)

    def _begin(self) -> None:
        self.token = secrets.token_hex(8)
        self.hubs: weakref.WeakKeyDictionary[Any, dict[Any, RedisHub]] = weakref.WeakKeyDictionary()

    def _in_child(self) -> None:
        self._left.append(list(self.hubs.items()))
        self._begin()

    def hub(
        self, server: RedisServer, prefix: str, timeout: float, runtime: "Runtime"
    ) -> "RedisHub":
        """The one for the running loop."""
        hubs = self.hubs.setdefault(asyncio.get_running_loop(), {})
        key = (server.identity, prefix, timeout)
        if key not in hubs:
            hubs[key] = RedisHub(server, prefix, timeout, self.token)
            runtime.submit(hubs[key].serve)
        return hubs[key]


PROCESS = RedisProcess()


class RedisHub:
    """A client, and who listens. Only on its loop."""

    def __init__(self, server: RedisServer, prefix: str, timeout: float, token: str) -> None:
        self._server = server
        self._prefix = prefix
        self._timeout = timeout
        self._errors = server.errors()
        # The base class of all, whatever the driver calls it.
        self._failures: type[Exception] = self._errors.ConnectionError.__mro__[1]
        self._client = server.client(timeout)
        self._channel = f"{prefix}:wake:{token}"
        self._listeners: dict[str, WakeListener] = {}
        self._listens = asyncio.Event()

    async def exchange(self, account: str, message: Message, options: str) -> Reply:
        """Have a message answered; raises StoreUnavailable."""
        keys = keys_of(self._prefix, account)
        arguments = (len(keys), *keys, message_text(message), f"{self._prefix}:wake:", options)
        where = self._server.where
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._run(arguments)
        except TimeoutError as error:
            raise StoreUnavailable(words.silent(where, self._timeout)) from error
        except OSError as error:
            raise StoreUnavailable(words.unreachable(where)) from error
        except self._failures as error:
            raise StoreUnavailable(self._reason(error)) from error
        told = json.loads(answer)
        if "newer" in told:
            raise StoreUnavailable(words.too_new(where, told["newer"], FORMAT))
        return reply_from(told)

    async def _run(self, arguments: tuple[Any, ...]) -> Any:
        try:
            return await self._client.execute_command("EVALSHA", script_sha(), *arguments)
        except self._errors.NoScriptError:
            # Never both in one pipeline: what follows an error there is run all the same.
            return await self._client.execute_command("EVAL", script(), *arguments)

    def _reason(self, error: Exception) -> str:
        """In words. The server's own text may quote what we sent."""
        where, errors = self._server.where, self._errors
        if isinstance(error, errors.TimeoutError):
            return words.silent(where, self._timeout)
        said = {
            errors.AuthenticationError: words.denied,
            errors.NoPermissionError: words.denied,
            errors.BusyLoadingError: words.loading,
            errors.ReadOnlyError: words.read_only,
            errors.OutOfMemoryError: words.full,
            errors.ConnectionError: words.unreachable,
        }
        for kind, reason in said.items():
            if isinstance(error, kind):
                return reason(where)
        code = str(error).partition(" ")[0]
        return words.failed(where, code if code.isupper() else type(error).__name__)

    # Wake-ups.

    def register(self, member: str, listener: WakeListener) -> None:
        """From now on, tell a link when its member is woken."""
        self._listeners[member] = listener

    def attend(self) -> None:
        """Somebody wants to hear it: subscribe, if that is not done yet."""
        self._listens.set()

    def part(self, member: str) -> None:
        """Tell it no more."""
        self._listeners.pop(member, None)

    async def serve(self) -> None:
        """Listen as long as the loop runs, once anybody wants to; then close what was opened."""
        try:
            while True:
                await self._listens.wait()
                with suppress(OSError, self._failures):
                    await self._subscribe()
                await asyncio.sleep(_AGAIN)
        finally:
            with suppress(Exception):
                await self._client.aclose()
                await self._client.connection_pool.disconnect()

    async def _subscribe(self) -> None:
        subscription = self._client.pubsub()
        try:
            await subscription.subscribe(self._channel)
            while True:
                heard = await subscription.get_message(timeout=_PATIENCE)
                if heard is None:
                    continue
                if heard["type"] == "subscribe":
                    # Hints may have been lost before.
                    for listener in list(self._listeners.values()):
                        listener.notify()
                elif heard["type"] == "message":
                    self._wake(heard["data"])
        finally:
            with suppress(Exception):
                await subscription.aclose()

    def _wake(self, data: bytes | str) -> None:
        member = data.decode() if isinstance(data, bytes) else data
        listener = self._listeners.get(member)
        if listener is not None:
            listener.notify()
