"""A store in a primary that sentinels watch: they say where it is, again after each failover."""

import asyncio
from collections.abc import Hashable

from budgetguard.stores import _redis_words as words
from budgetguard.stores._redis_driver import Driver
from budgetguard.stores._redis_node import Node, Search, ServerAddress, ServerAway, end

# Seconds for which the other sentinels may take longer than the first one: one may not know of a failover yet.
_GRACE = 0.1


class SentinelPlace:
    """The primary that sentinels call `service`; `server` says how it is reached once its address is known.

    A sentinel that sees fewer than `others` other sentinels is not believed. `host` replaces what they say.
    """

    def __init__(
        self,
        driver: Driver,
        service: str,
        sentinels: list[ServerAddress],
        server: ServerAddress,
        *,
        others: int = 0,
        host: str | None = None,
    ) -> None:
        self.driver = driver
        self.service = service
        self.sentinels = sentinels
        self.server = server
        self.others = others
        self.host = host
        self.where = f"{service} of the sentinels {', '.join(map(str, sentinels))}"

    @property
    def identity(self) -> Hashable:
        """Equal for the same service of the same sentinels, in any order."""
        db = int(self.server.settings.get("db") or 0)
        return (self.service, tuple(sorted(map(str, self.sentinels))), db)

    def route(self, timeout: float) -> "SentinelRoute":
        """A way there for one event loop."""
        return SentinelRoute(self, timeout)


class SentinelRoute:
    """The primary, as the sentinels said last."""

    def __init__(self, place: SentinelPlace, timeout: float) -> None:
        self._place = place
        self._timeout = timeout
        self._sentinels = [Node(place.driver, each, timeout) for each in place.sentinels]
        self._primary: Node | None = None
        # A primary that is named again is given its connections again, and what is known of its being away.
        self._last: tuple[str, int, Node] | None = None
        self._search = Search(self._find)

    async def node(self, key: str, deadline: float) -> Node:
        """The primary, whatever the key is."""
        del key
        primary = self._primary
        if primary is None:
            primary = self._primary = await self._search.result(deadline)
        return primary

    async def any(self, deadline: float) -> Node:
        """The primary: a replica that has lost it publishes nothing."""
        return await self.node("", deadline)

    async def all(self, deadline: float) -> list[Node]:
        """The primary."""
        return [await self.any(deadline)]

    def redirected(self, node: Node, key: str, error: Exception) -> None:
        """Nowhere."""

    def lost(self, node: Node) -> None:
        """The sentinels are asked again."""
        if node is self._primary:
            self._primary = None

    def serves(self, node: Node) -> bool:
        """Whether it is the primary, or the last one while the next one is not known."""
        return self._last is None or node is self._last[2]

    async def close(self) -> None:
        """Close all connections."""
        await self._search.close()
        for node in (*self._sentinels, *(self._last or ())[2:]):
            await node.close()

    async def _find(self) -> Node:
        said, denied = await self._ask_all()
        if not said:
            where = self._place.where
            raise ServerAway(words.sentinels_deny(where) if denied else words.no_primary(where))
        # A sentinel that has not heard of the last failover names an earlier configuration.
        _, host, port = max(said)
        last = self._last
        if last is not None and last[:2] == (host, port):
            return last[2]
        address = self._place.server.at(self._place.host or host, port)
        node = Node(self._place.driver, address, self._timeout)
        self._last = (host, port, node)
        if last is not None:
            await last[2].close()
        return node

    async def _ask_all(self) -> tuple[list[tuple[int, str, int]], bool]:
        """What the sentinels say that answer, and whether one refused the user."""
        pending = {asyncio.ensure_future(self._ask(each)) for each in self._sentinels}
        said: list[tuple[int, str, int]] = []
        denied = False
        wait: float | None = None
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for each in done:
                    answer = each.result()
                    denied = denied or answer == "denied"
                    if isinstance(answer, tuple):
                        said.append(answer)
                        wait = _GRACE
        finally:
            await end(pending)
        return said, denied

    async def _ask(self, sentinel: Node) -> "tuple[int, str, int] | str":
        """The configuration's number and the primary's address; or why there is none."""
        driver = self._place.driver
        try:
            async with asyncio.timeout(self._timeout / 2), sentinel.connection() as connection:
                told = await sentinel.ask(connection, "SENTINEL", "MASTERS")
        except (driver.errors.AuthenticationError, driver.errors.NoPermissionError):
            return "denied"
        except (OSError, TimeoutError, driver.failures):
            return "silent"
        for fields in told:
            texts = [each.decode() if isinstance(each, bytes) else str(each) for each in fields]
            state = dict(zip(texts[::2], texts[1::2], strict=False))
            if state.get("name") == self._place.service:
                return self._judged(state)
        return "unknown"

    def _judged(self, state: dict[str, str]) -> "tuple[int, str, int] | str":
        flags = set(state.get("flags", "").split(","))
        down = flags & {"s_down", "o_down"} or "master" not in flags
        if down or int(state.get("num-other-sentinels", 0)) < self._place.others:
            return "down"
        return int(state.get("config-epoch", 0)), state["ip"], int(state["port"])
