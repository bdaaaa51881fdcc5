"""Pausing an account for all members of a store: two messages to its head, in a session of their own."""

import asyncio

from budgetguard._core.clock import SYSTEM
from budgetguard._core.store_messages import Join, Message, Pausing
from budgetguard._engine.shared_account import described, name_in_store
from budgetguard._io.loop import Runtime
from budgetguard.providers.base import Provider
from budgetguard.stores import SQLiteStore


def pause_members(store: SQLiteStore, provider: Provider, reason: str | None) -> str | None:
    """Pause the account for every member, for that reason; None ends it. Returns the reason before.

    Raises StoreUnavailable.
    """
    return asyncio.run(_tell(store, provider, reason))


async def _tell(store: SQLiteStore, provider: Provider, reason: str | None) -> str | None:
    link = store.link(name_in_store(str(provider.fingerprint)), Runtime(SYSTEM))
    join = Join(hold_for=None, words=described(provider.name))
    news = (Pausing("command", reason),)
    try:
        begun = await link.exchange(Message(link.member, 1, "", join=join))
        await link.exchange(Message(link.member, 2, begun.epoch, news=news, leave=True))
    finally:
        link.close()
    return dict(begun.view.pauses).get("command")
