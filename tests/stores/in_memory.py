"""A store in this process's memory: its links hand messages to a `SharedHead`, and can be made to fail."""

import asyncio
import threading
from collections.abc import Callable, Hashable
from itertools import count
from typing import TYPE_CHECKING

from budgetguard._core.shared_head import SharedHead
from budgetguard.stores.base import StoreUnavailable

if TYPE_CHECKING:
    from budgetguard._core.clock import Clock
    from budgetguard._core.store_messages import Message, Reply
    from budgetguard._io.loop import Runtime

_NUMBERS = count(1)
_LOST = "the reply was lost"


class MemoryStore:
    """Heads of accounts, shared by the guards that are made with this store, each a member.

    - `away`: why there are no answers at present; None while there are.
    - `hangs`: whether an exchange takes `timeout` seconds of its runtime's clock to fail while away. Worlds do
      not wait for what is under way then.
    - `takes`: how many seconds of its runtime's clock an exchange takes.
    - `tells_after`: how many seconds pass until a reply is heard, as where a process is stopped meanwhile.
    - `loses`: how many of the next messages take effect without an answer.
    - `messages`: every message that took effect or was answered, in order.
    - `dead`: members whose processes are known to have died.
    """

    name = "the store in memory"
    drift = 0.0

    def __init__(self, clock: "Clock", *, expires: bool = False, timeout: float = 2.0) -> None:
        self.clock = clock
        self.expires = expires
        self.timeout = timeout
        self.away: str | None = None
        self.hangs = False
        self.takes = 0.0
        self.tells_after = 0.0
        self.loses = 0
        self.messages: list[Message] = []
        self.attempts = 0
        self.dead: set[str] = set()
        self.heads: dict[str, SharedHead] = {}
        self.links: dict[str, MemoryLink] = {}
        self._lock = threading.Lock()
        self._epochs = count(1)
        self._identity = f"memory {next(_NUMBERS)}"

    @property
    def identity(self) -> Hashable:
        """Of this object alone."""
        return self._identity

    @property
    def head(self) -> SharedHead:
        """The only account's."""
        [head] = self.heads.values()
        return head

    def link(self, account: str, runtime: "Runtime") -> "MemoryLink":
        """A link of one more member."""
        link = MemoryLink(self, account, runtime, f"member {len(self.links) + 1}")
        self.links[link.member] = link
        return link

    def lose_all(self, *, regroup: float = 0.0) -> None:
        """Restart the store empty: nobody knows what there was."""
        with self._lock:
            for account in self.heads:
                self.heads[account] = SharedHead(self._epoch(), regroup=regroup)

    def fail_over(self) -> None:
        """Have another server take over, with the state that there is."""
        with self._lock:
            for head in self.heads.values():
                head.fail_over(self._epoch())

    def handle(self, account: str, message: "Message") -> "Reply":
        """Let a message take effect, and wake who should hear of it."""
        with self._lock:
            head = self.heads.setdefault(account, SharedHead(self._epoch()))
            reply, woken = head.handle(message, self.clock.monotonic(), self.dead)
            self.messages.append(message)
        for member in sorted(woken):
            if (link := self.links.get(member)) is not None:
                link.wake()
        return reply

    def _epoch(self) -> str:
        return f"epoch {next(self._epochs)}"


class MemoryLink:
    """One member of one account."""

    def __init__(self, store: MemoryStore, account: str, runtime: "Runtime", member: str) -> None:
        self.member = member
        self.closed = False
        self._store = store
        self._account = account
        self._runtime = runtime
        self._hear: Callable[[], None] | None = None

    async def exchange(self, message: "Message") -> "Reply":
        """Hand a message to the head, unless the store is away."""
        store = self._store
        store.attempts += 1
        if store.away is not None:
            if store.hangs:
                await asyncio.sleep(store.timeout)
            raise StoreUnavailable(store.away)
        if store.takes:
            await asyncio.sleep(store.takes)
        late = store.tells_after
        reply = store.handle(self._account, message)
        if store.loses:
            store.loses -= 1
            raise StoreUnavailable(_LOST)
        if late:
            await asyncio.sleep(late)
        return reply

    def listen(self, hear: Callable[[], None] | None) -> None:
        """Have `hear` called when this member should send a message."""
        self._hear = hear

    def wake(self) -> None:
        """Have whoever listens called on the member's own loop."""
        self._runtime.nudge(self._heard)

    def close(self) -> None:
        """Nobody listens any more."""
        self._hear, self.closed = None, True

    def _heard(self) -> None:
        if self._hear is not None:
            self._hear()
