"""The demo's store in virtual time: a head in memory, as a store's file has it, or the script in a server."""

import asyncio
import json
import secrets
import threading
from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from budgetguard._core.shared_head import SharedHead
from budgetguard.stores import RedisStore
from budgetguard.stores.base import StoreUnavailable

if TYPE_CHECKING:
    from budgetguard._core.store_messages import Message, Reply
    from budgetguard._io.loop import Runtime

ROUND_TRIP = 0.005
"""Seconds that a message to the store and its reply take."""


class Heads(Protocol):
    """Where the accounts' heads are."""

    def handle(self, account: str, message: "Message", now: float) -> "tuple[Reply, Iterable[str]]":
        """Let a message take effect at that time; gives the reply, and which members should hear of it."""
        ...


class MemoryHeads:
    """Heads in memory."""

    def __init__(self) -> None:
        self._heads: dict[str, SharedHead] = {}

    def handle(self, account: str, message: "Message", now: float) -> "tuple[Reply, Iterable[str]]":
        """Let a message take effect."""
        return self._heads.setdefault(account, SharedHead("demo")).handle(message, now)


class ServerHeads:
    """Heads in a server, under a prefix of their own, and removed at the end. It is told the virtual time.

    While the server is asked, virtual time stands still. Entering raises StoreUnavailable if it does not answer.
    """

    def __init__(self, store: RedisStore) -> None:
        # Imported late: it needs a driver.
        from budgetguard.stores._redis_asker import RedisAsker

        self._asker = RedisAsker(store)
        # Of the programs' own prefix, which is what a user of the server may be restricted to.
        self._asker.prefix += f":demo-{secrets.token_hex(4)}"
        self._accounts: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.where = store.server.where
        self.failure: StoreUnavailable | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._ask("", "dump")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from budgetguard.stores._script import keys_of

        for account in self._accounts:
            # What is left there does no harm.
            with suppress(StoreUnavailable):
                keys = keys_of(self._asker.prefix, account)
                self._do(self._asker.command(keys[0], "DEL", *keys))
        self._close()

    def handle(self, account: str, message: "Message", now: float) -> "tuple[Reply, Iterable[str]]":
        """Let a message take effect; raises StoreUnavailable, and remembers it as the `failure`."""
        from budgetguard.stores._wire import message_text, reply_from

        self._accounts.add(account)
        options = json.dumps({"clock": now, "quiet": True})
        try:
            told = json.loads(self._ask(account, message_text(message), "", options))
        except StoreUnavailable as error:
            self.failure = error
            raise
        return reply_from(told), told["woken"]

    def _ask(self, account: str, *arguments: str) -> str:
        told: str | bytes = self._do(self._asker.script(account, *arguments))
        return told.decode() if isinstance(told, bytes) else told

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _close(self) -> None:
        self._do(self._asker.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class DemoStore:
    """A store whose members are all in this process. They cannot die, and every message arrives."""

    name = "the demo's store"
    timeout = 2.0
    expires = False
    drift = 0.0

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._links: dict[str, DemoLink] = {}
        self._numbers = count(1)

    @property
    def identity(self) -> Hashable:
        """Equal for no other object."""
        return id(self)

    def link(self, account: str, runtime: "Runtime") -> "DemoLink":
        """A link of one more member."""
        link = DemoLink(self, account, runtime, f"member {next(self._numbers)}")
        self._links[link.member] = link
        return link

    def handle(self, account: str, message: "Message") -> "Reply":
        """Let a message take effect, and wake who should hear of it."""
        now = asyncio.get_running_loop().time()
        reply, woken = self._heads.handle(account, message, now)
        for member in sorted(woken):
            self._links[member].wake()
        return reply


class DemoLink:
    """One member of one account."""

    def __init__(self, store: DemoStore, account: str, runtime: "Runtime", member: str) -> None:
        self.member = member
        self._store = store
        self._account = account
        self._runtime = runtime
        self._hear: Callable[[], None] | None = None

    async def exchange(self, message: "Message") -> "Reply":
        """Send a message, which arrives after half of a round trip."""
        await asyncio.sleep(ROUND_TRIP / 2)
        reply = self._store.handle(self._account, message)
        await asyncio.sleep(ROUND_TRIP / 2)
        return reply

    def listen(self, hear: Callable[[], None] | None) -> None:
        """While set, have `hear` called when this member should send a message."""
        self._hear = hear

    def wake(self) -> None:
        """Notify whoever listens."""
        self._runtime.nudge(self._heard)

    def close(self) -> None:
        """Nobody listens any more."""
        self._hear = None

    def _heard(self) -> None:
        if self._hear is not None:
            self._hear()
