"""What the engine needs of a store: a link for each account, over which messages are exchanged."""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from budgetguard._core.store_messages import Message, Reply
    from budgetguard._io.loop import Runtime


class StoreUnavailable(Exception):
    """The store did not answer. `reason` says what happened, to which store, and what to do.

    The message may have taken effect: the sender sends the same one again.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Link(Protocol):
    """One account of one process in a store. Messages are exchanged one after the other."""

    @property
    def member(self) -> str:
        """Who this is in the store: no two links of living processes are the same member.

        In a forked child a link is another member.
        """
        ...

    async def exchange(self, message: "Message") -> "Reply":
        """Send a message, on the private loop; raises StoreUnavailable within the store's timeout."""
        ...

    def listen(self, hear: Callable[[], None] | None) -> None:
        """While set, have `hear` called on the private loop when this member should send a message.

        A hint, which may be late, lost or unfounded. With None nothing is watched any more.
        """
        ...

    def close(self) -> None:
        """Give up the link. A member that did not leave counts as dead from now on."""
        ...


class Store(Protocol):
    """A place where the heads of accounts live.

    - `name`: the store in messages for people.
    - `timeout`: seconds, within which one exchange ends.
    - `expires`: whether a member is given up because it is silent. If not, the store knows who lives.
    - `drift`: by how much the clocks of two members may differ in rate, as a share.
    """

    name: str
    timeout: float
    expires: bool
    drift: float

    @property
    def identity(self) -> Hashable:
        """Equal for two objects that stand for the same store."""
        ...

    def link(self, account: str, runtime: "Runtime") -> Link:
        """A link for the account with that fingerprint. Nothing is started before the first exchange."""
        ...
