"""The heads of all accounts in a server, read as its script tells them. Nothing is written there."""

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from budgetguard._core.head_state import DamagedState
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import FORMAT
from budgetguard.stores import _redis_words as words
from budgetguard.stores._redis_asker import RedisAsker
from budgetguard.stores._script import keys_of
from budgetguard.stores._script_state import head_from
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore

_KEYS_AT_ONCE = 1000
_TIME = "return redis.call('TIME')"


class ServerHead(NamedTuple):
    """The head of the account `name`, and what the server's clock read when it was told, in seconds."""

    name: str
    head: SharedHead
    now: float


def read_heads(store: RedisStore) -> list[ServerHead]:
    """The head of each account of the store, by name; raises StoreUnavailable.

    An exchange takes as long as the store's timeout at most; there are two for each account, and one for each
    thousand keys of the server.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_read(store))
    # A loop runs no other one in its thread.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _read(store)).result()


async def _read(store: RedisStore) -> list[ServerHead]:
    asker = RedisAsker(store)
    before, after = f"{store.prefix}:{{", "}:account"
    pattern = f"{_literally(store.prefix)}:{{*}}:account"
    try:
        # A server may tell a key twice.
        found = {key async for key in asker.keys(pattern, _KEYS_AT_ONCE)}
        names = sorted(key.removeprefix(before).removesuffix(after) for key in found)
        heads = [await _head(asker, name) for name in names]
    finally:
        await asker.close()
    return [each for each in heads if each is not None]


async def _head(asker: RedisAsker, name: str) -> ServerHead | None:
    """The head of an account; None if it is gone by now."""
    text = await asker.script(name, "dump")
    told = json.loads(text)
    if "account" not in told:
        return None
    format = told["account"]["format"]
    if format > FORMAT:
        # Nothing else of it is read, since it may be anything.
        raise StoreUnavailable(words.too_new(asker.where, format, FORMAT))
    try:
        head = head_from(text)
    except (DamagedState, KeyError, TypeError, ValueError) as error:
        raise StoreUnavailable(words.failed(asker.where, "what is in it is damaged")) from error
    # By a script, because it is asked where the account is, which in a cluster is one of many servers.
    key = keys_of(asker.prefix, name)[0]
    seconds, microseconds = await asker.command(key, "EVAL", _TIME, 1, key)
    return ServerHead(name, head, int(seconds) + int(microseconds) / 1e6)


def _literally(prefix: str) -> str:
    """The prefix in a pattern of the server, where some characters stand for others."""
    return re.sub(r"[][*?^\\]", lambda found: f"\\{found[0]}", prefix)
