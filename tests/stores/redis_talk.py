"""Members that speak to a server by hand, one message after the other."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from budgetguard._core.store_messages import NEVER, Message, Pausing, Reply
from budgetguard.stores._redis_hub import RedisHub
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore

NUMBERS = count(1)
_PATIENCE = 20.0


class Talk:
    """A member that sends one message after the other, over a connection of its own."""

    def __init__(self, store: RedisStore, name: str, account: str) -> None:
        self.hub = RedisHub(store.server, store.prefix, store.timeout, name)
        self.name = f"{name}.1"
        self.account = account
        self.number = 0
        self.epoch = ""
        self.seen = NEVER
        self.confirm = store.confirm

    async def say(self, **more: Any) -> Reply:
        """The next message."""
        self.number += 1
        return await self.again(**more)

    async def again(self, **more: Any) -> Reply:
        """The last message's number once more."""
        message = Message(self.name, self.number, self.epoch, seen=self.seen, **more)
        reply = await self.hub.exchange(self.account, message, "", self.confirm)
        self.epoch, self.seen = reply.epoch, reply.view.now
        return reply


async def talking(store: RedisStore, work: Callable[..., Any], *, members: int = 1) -> None:
    """Let members talk, each with a subscription, and close everything."""
    account = f"account {next(NUMBERS)}"
    talks = [Talk(store, f"{number:016x}", account) for number in range(members)]
    serving = [asyncio.create_task(each.hub.serve()) for each in talks]
    try:
        await work(*talks)
    finally:
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


class Hints:
    """A listener that counts what it is told."""

    listens = True

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    def notify(self) -> None:
        """There is news."""
        self._heard.set()

    async def next(self) -> None:
        """Wait until it is told once more."""
        self._heard.clear()
        async with asyncio.timeout(_PATIENCE):
            await self._heard.wait()


async def answered(talk: Talk, **more: Any) -> Reply:
    """The reply to the next message, which is sent again until there is one."""
    talk.number += 1
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                return await talk.again(**more)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def wakes(talk: Talk, other: Talk, hints: Hints) -> None:
    """Two members of an account speak until a hint about the first one comes."""
    waking = asyncio.create_task(hints.next())
    on = True
    while not waking.done():
        await answered(talk)
        await answered(other, news=(Pausing("guard", "tea" if on else None),))
        on = not on
        await asyncio.wait([waking], timeout=0.3)
    await waking
