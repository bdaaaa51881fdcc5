"""A client for those who ask a store's server without being a member: the command line."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from budgetguard.stores import _redis_words as words
from budgetguard.stores._redis_hub import RedisHub
from budgetguard.stores._script import keys_of
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore


class RedisAsker(RedisHub):
    """A client for one event loop, without a subscription. What it asks raises StoreUnavailable."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store.server, store.prefix, store.timeout, "")
        self.prefix = store.prefix
        self.where = store.server.where

    async def keys(self, pattern: str, at_once: int) -> AsyncIterator[str]:
        """The keys like that; in a cluster, of all its primaries. The server checks so many at a time."""
        found = self._client.scan_iter(match=pattern, count=at_once)
        while True:
            async with self._in_words():
                key = await anext(found, None)
            if key is None:
                return
            yield key.decode() if isinstance(key, bytes) else key

    async def script(self, account: str, *arguments: str) -> Any:
        """What the script of an account answers."""
        keys = keys_of(self.prefix, account)
        async with self._in_words():
            return await self._run((len(keys), *keys, *arguments))

    async def command(self, *words: Any) -> Any:
        """What the server answers."""
        async with self._in_words():
            return await self._client.execute_command(*words)

    async def close(self) -> None:
        """Close what was opened."""
        with suppress(Exception):
            await self._client.aclose()

    @asynccontextmanager
    async def _in_words(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError as error:
            raise StoreUnavailable(words.silent(self.where, self._timeout)) from error
        except OSError as error:
            raise StoreUnavailable(words.unreachable(self.where)) from error
        except self._failures as error:
            raise StoreUnavailable(self._reason(error)) from error
