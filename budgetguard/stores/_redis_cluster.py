"""A store in a cluster: an account's keys are in one slot, and a node has the slot until it says who has."""

import asyncio
import binascii
from collections.abc import Hashable
from random import SystemRandom
from typing import Any, TypeAlias

from budgetguard.stores import _redis_words as words
from budgetguard.stores._redis_driver import Driver
from budgetguard.stores._redis_node import Node, Search, ServerAddress, ServerAway, end
from budgetguard.stores._redis_reasons import reason_of

_SLOTS = 16384
# So many nodes are asked at once who has which slots.
_ASKED = 4

_At: TypeAlias = tuple[str, int]
_sample = SystemRandom().sample


def slot_of(key: str) -> int:
    """The slot of a key: of what is in its first pair of braces, if there is anything."""
    tag = key.partition("{")[2].partition("}")
    part = tag[0] if tag[1] and tag[0] else key
    return binascii.crc_hqx(part.encode(), 0) % _SLOTS


class ClusterPlace:
    """A cluster, some of whose nodes are `known`; all are reached as `node` is, at another address."""

    def __init__(
        self, driver: Driver, known: list[_At], node: ServerAddress, remap: Any = None
    ) -> None:
        self.driver = driver
        self.known = known
        self.node = node
        self.remap = remap
        self.where = f"the cluster {', '.join(str(node.at(*each)) for each in known)}"

    @property
    def identity(self) -> Hashable:
        """Equal for the same nodes in any order."""
        return ("cluster", tuple(sorted(self.known)))

    def route(self, timeout: float) -> "ClusterRoute":
        """A way there for one event loop."""
        return ClusterRoute(self, timeout)


class ClusterRoute:
    """The nodes of a cluster, and which one has which slots, as far as this loop has heard."""

    def __init__(self, place: ClusterPlace, timeout: float) -> None:
        self._place = place
        self._timeout = timeout
        self._nodes: dict[_At, Node] = {}
        # Of each range its first slot, its last one and its primary; none if they are to be asked for.
        self._ranges: list[tuple[int, int, _At]] = []
        self._heard: set[_At] = set(place.known)
        self._moved: dict[int, _At] = {}
        self._search = Search(self._find)

    async def node(self, key: str, deadline: float) -> Node:
        """The primary of the key's slot."""
        slot = slot_of(key)
        at = self._moved.get(slot) or self._primary_of(slot)
        if at is None:
            await self._search.result(deadline)
            at = self._primary_of(slot)
        if at is None:
            raise ServerAway(words.no_slot(self._place.where, slot))
        return self._at(at)

    async def any(self, deadline: float) -> Node:
        """Each node hears what is published on any of them."""
        return _sample(await self.all(deadline), 1)[0]

    async def all(self, deadline: float) -> list[Node]:
        """All primaries."""
        if not self._ranges:
            await self._search.result(deadline)
        return [self._at(at) for at in sorted({at for _, _, at in self._ranges})]

    def redirected(self, node: Node, key: str, error: Exception) -> tuple[Node, bool] | None:
        """Where the slot has been moved to, or is being moved to."""
        told = redirection(error)
        if told is None:
            return None
        at = self._reached(told[0] or node.address.settings["host"], told[1])
        moved = code_of(error) == "MOVED"
        if moved:
            self._moved[slot_of(key)] = at
        return self._at(at), not moved

    def lost(self, node: Node) -> None:
        """The others are asked who has its slots now."""
        del node
        self._ranges, self._moved = [], {}

    def serves(self, node: Node) -> bool:
        """Whether it is a node of the cluster."""
        return not self._ranges or any(self._nodes.get(at) is node for _, _, at in self._ranges)

    async def close(self) -> None:
        """Close all connections."""
        await self._search.close()
        for node in self._nodes.values():
            await node.close()

    def _primary_of(self, slot: int) -> _At | None:
        for first, last, at in self._ranges:
            if first <= slot <= last:
                return at
        return None

    def _at(self, at: _At) -> Node:
        if at not in self._nodes:
            self._nodes[at] = Node(self._place.driver, self._place.node.at(*at), self._timeout)
        return self._nodes[at]

    async def _find(self) -> None:
        """Ask some nodes at once who has which slots, and take the first answer."""
        known = list({*self._heard, *self._place.known})
        asked = _sample(known, min(len(known), _ASKED))
        pending = {asyncio.ensure_future(self._ask(at)) for at in asked}
        reasons = []
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    if not isinstance(each.result(), str):
                        await self._take(each.result())
                        return
                    reasons.append(each.result())
        finally:
            await end(pending)
        unreachable = words.unreachable(self._place.where)
        raise ServerAway(next((each for each in reasons if each != unreachable), unreachable))

    async def _ask(self, at: _At) -> Any:
        """The ranges of slots with their nodes, the primary first; or why they are not known."""
        node, where, errors = self._at(at), self._place.where, self._place.driver.errors
        try:
            async with asyncio.timeout(self._timeout / 2), node.connection() as connection:
                told = await node.ask(connection, "CLUSTER", "SLOTS")
        except (errors.AuthenticationError, errors.NoPermissionError) as error:
            return reason_of(error, errors, where, "")
        except (OSError, TimeoutError, errors.ConnectionError, errors.TimeoutError):
            return words.unreachable(where)
        except self._place.driver.failures:
            return words.no_cluster(where)
        return [(int(row[0]), int(row[1]), self._addresses(row[2:], at)) for row in told]

    def _addresses(self, told: Any, asked: _At) -> list[_At]:
        found = []
        for each in told:
            host = each[0].decode() if isinstance(each[0], bytes) else each[0]
            # A node that does not know its own name is where it was asked.
            found.append(self._reached(asked[0] if host in {None, "", "?"} else host, int(each[1])))
        return found

    def _reached(self, host: str, port: int) -> _At:
        remap = self._place.remap
        return (host, port) if remap is None else remap((host, port))

    async def _take(self, told: list[tuple[int, int, list[_At]]]) -> None:
        self._ranges = [(first, last, nodes[0]) for first, last, nodes in told]
        self._moved = {}
        self._heard = {at for _, _, nodes in told for at in nodes}
        for at in self._nodes.keys() - self._heard - set(self._place.known):
            await self._nodes.pop(at).close()


# redis-py 8 has classes for these errors, whose texts have lost the first word.
_CODES = {
    "MovedError": "MOVED",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
}


def code_of(error: Exception) -> str:
    """The first word of a server's error."""
    return _CODES.get(type(error).__name__) or str(error).partition(" ")[0]


def redirection(error: Exception) -> _At | None:
    """The address in an error that says to ask elsewhere; None for other errors."""
    if code_of(error) not in {"MOVED", "ASK"}:
        return None
    host, _, port = str(error).rpartition(" ")[2].rpartition(":")
    return host.strip("[]"), int(port)
