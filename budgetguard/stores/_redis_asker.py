"""A client for those who ask a store's servers without being a member: the command line."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from budgetguard.stores import _redis_words as words
from budgetguard.stores._redis_hub import REDIRECTIONS, RedisHub
from budgetguard.stores._redis_node import Node
from budgetguard.stores._script import keys_of, script, script_sha
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore


class RedisAsker(RedisHub):
    """A client for one event loop, without a subscription. What it asks raises StoreUnavailable."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store.server, store.prefix, store.timeout, "")
        self.prefix = store.prefix
        self.where = store.server.where

    async def keys(self, pattern: str, at_once: int) -> AsyncIterator[str]:
        """The keys like that; in a cluster, of all its primaries. A server checks so many at a time."""
        deadline = self._deadline()
        for node in await self._in_words(self._route.all(deadline), deadline):
            cursor = 0
            while True:
                command = ("SCAN", cursor, "MATCH", pattern, "COUNT", at_once)
                cursor, found = await self._in_words(self._told(node, command), self._deadline())
                for key in found:
                    yield key.decode() if isinstance(key, bytes) else key
                if not int(cursor):
                    break

    async def script(self, account: str, *arguments: str) -> Any:
        """What the script of an account answers."""
        keys = keys_of(self.prefix, account)
        try:
            return await self.command(
                keys[0], "EVALSHA", script_sha(), len(keys), *keys, *arguments
            )
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, self._errors.NoScriptError):
                raise
        return await self.command(keys[0], "EVAL", script(), len(keys), *keys, *arguments)

    async def command(self, key: str, *command: Any) -> Any:
        """What the server with that key answers."""
        deadline = self._deadline()
        node = await self._in_words(self._route.node(key, deadline), deadline)
        asks_there = False
        for _ in range(REDIRECTIONS):
            try:
                return await self._in_words(
                    self._told(node, command, asks_there=asks_there), deadline
                )
            except StoreUnavailable as error:
                cause, there = error.__cause__, None
                if isinstance(cause, Exception) and isinstance(cause, self._errors.ResponseError):
                    there = self._route.redirected(node, key, cause)
                if there is None:
                    raise
                node, asks_there = there
        raise StoreUnavailable(words.moving(self.where))

    async def close(self) -> None:
        """Close what was opened."""
        await self._route.close()

    async def _told(self, node: Node, command: tuple[Any, ...], *, asks_there: bool = False) -> Any:
        async with node.connection() as connection:
            if asks_there:
                await node.ask(connection, "ASKING")
            return await node.ask(connection, *command)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout
