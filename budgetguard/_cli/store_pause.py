"""Pausing an account for all members of a store: two messages to its head, in a session of their own."""

from concurrent.futures import Future

from budgetguard._core.clock import SYSTEM
from budgetguard._core.store_messages import Join, Message, Pausing
from budgetguard._engine.shared_account import described, name_in_store
from budgetguard._io.loop import Runtime
from budgetguard.providers.base import Provider
from budgetguard.stores import RedisStore, SQLiteStore

# Seconds after which a server forgets this session, should its end not arrive.
_HOLD_FOR = 60.0


def pause_members(
    store: SQLiteStore | RedisStore, provider: Provider, reason: str | None
) -> str | None:
    """Pause the account for every member, for that reason; None ends it. Returns the reason before.

    Raises StoreUnavailable.
    """
    runtime = Runtime(SYSTEM)
    before: Future[str | None] = Future()

    async def tell() -> None:
        try:
            before.set_result(await _tell(store, runtime, provider, reason))
        except BaseException as error:  # noqa: BLE001  the caller raises it, and waits for it
            before.set_exception(error)

    try:
        runtime.submit(tell)
        return before.result()
    finally:
        runtime.stop()


async def _tell(
    store: SQLiteStore | RedisStore, runtime: Runtime, provider: Provider, reason: str | None
) -> str | None:
    link = store.link(name_in_store(str(provider.fingerprint)), runtime)
    join = Join(hold_for=_HOLD_FOR if store.expires else None, words=described(provider.name))
    news = (Pausing("command", reason),)
    try:
        begun = await link.exchange(Message(link.member, 1, "", join=join))
        await link.exchange(Message(link.member, 2, begun.epoch, news=news, leave=True))
    finally:
        link.close()
    return dict(begun.view.pauses).get("command")
