"""The demo's store: the head that an `SQLiteStore` keeps in its file, in memory and in virtual time."""

import asyncio
from collections.abc import Callable, Hashable
from itertools import count
from typing import TYPE_CHECKING

from budgetguard._core.shared_head import SharedHead

if TYPE_CHECKING:
    from budgetguard._core.store_messages import Message, Reply
    from budgetguard._io.loop import Runtime

ROUND_TRIP = 0.005
"""Seconds that a message to the store and its reply take."""


class DemoStore:
    """A store whose members are all in this process. They cannot die, and every message arrives."""

    name = "the demo's store"
    timeout = 2.0
    expires = False
    drift = 0.0

    def __init__(self) -> None:
        self._heads: dict[str, SharedHead] = {}
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
        head = self._heads.setdefault(account, SharedHead("demo"))
        reply, woken = head.handle(message, asyncio.get_running_loop().time())
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
