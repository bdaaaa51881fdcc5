"""Where a store's servers are, and how they are reached on an event loop; and the place with one server."""

from collections.abc import Hashable
from typing import Protocol

from budgetguard.stores._redis_driver import Driver
from budgetguard.stores._redis_node import Node, ServerAddress


class Route(Protocol):
    """The servers of a place as one event loop knows them."""

    async def node(self, key: str, deadline: float) -> Node:
        """The server that a message about this key goes to.

        Raises ServerAway, and TimeoutError at `deadline`, a time of the loop.
        """
        ...

    async def any(self, deadline: float) -> Node:
        """A server on which all wake-ups are heard; raises as `node` does."""
        ...

    async def all(self, deadline: float) -> list[Node]:
        """The servers that have all keys together; raises as `node` does."""
        ...

    def redirected(self, node: Node, key: str, error: Exception) -> tuple[Node, bool] | None:
        """Where a server's error says that the key is; and whether it has to be told so (ASKING)."""
        ...

    def lost(self, node: Node) -> None:
        """It did not answer, or is no primary any more: find another one with the next message."""
        ...

    def serves(self, node: Node) -> bool:
        """Whether wake-ups are still heard there, as far as is known."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class StorePlace(Protocol):
    """Where a store's servers are. `where` is for people."""

    driver: Driver
    where: str

    @property
    def identity(self) -> Hashable:
        """Equal for the same place, if it is written alike."""
        ...

    def route(self, timeout: float) -> Route:
        """A way there for one event loop. Nothing is connected yet."""
        ...


class OneServer:
    """A server with one address."""

    def __init__(self, driver: Driver, address: ServerAddress) -> None:
        self.driver = driver
        self.address = address
        self.where = str(address)
        self.db = int(address.settings.get("db") or 0)

    @property
    def identity(self) -> Hashable:
        """Equal for the same database of the same server, if it is written alike."""
        return (self.where, self.db)

    def route(self, timeout: float) -> "OneRoute":
        """A way there for one event loop."""
        return OneRoute(Node(self.driver, self.address, timeout))


class OneRoute:
    """There is but one server."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def node(self, key: str, deadline: float) -> Node:
        """The only one."""
        del key, deadline
        return self._node

    async def any(self, deadline: float) -> Node:
        """The only one."""
        del deadline
        return self._node

    async def all(self, deadline: float) -> list[Node]:
        """The only one."""
        return [await self.any(deadline)]

    def redirected(self, node: Node, key: str, error: Exception) -> None:
        """Nowhere."""

    def lost(self, node: Node) -> None:
        """There is no other."""

    def serves(self, node: Node) -> bool:
        """Always."""
        return node is self._node

    async def close(self) -> None:
        """Close all connections."""
        await self._node.close()
