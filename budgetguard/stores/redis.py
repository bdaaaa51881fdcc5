"""The store in a server that speaks Redis's protocol: for processes on many machines."""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.durations import seconds
from budgetguard._core.errors import ConfigurationError

if TYPE_CHECKING:
    from budgetguard._core.store_messages import Message, Reply
    from budgetguard._io.loop import Runtime
    from budgetguard.stores._redis_hub import RedisHub


class RedisStore:
    """A Redis (7.0 or newer) or Valkey server that processes on many machines share.

    - `url_or_client`: such as "redis://localhost:6379", or a client of redis-py or valkey-py, of which the
      store takes the address and the credentials, and nothing else.
    - `prefix`: of all keys and channels.
    - `timeout`: seconds that one exchange may take, connecting and confirming included.
    - `confirm`: how many replicas must have the write before what it granted counts, 0 or more. Nothing is lost
      at a failover if the replica that becomes the primary is one that confirmed. Each grant then takes
      about twice as long, and none counts while fewer replicas answer.
    """

    expires = True
    # The clocks of two machines: each may be wrong by 1 %.
    drift = 0.02

    @clean_traceback
    def __init__(
        self,
        url_or_client: object,
        *,
        prefix: str = "budgetguard",
        timeout: float = 2,
        confirm: int = 0,
    ) -> None:
        self.timeout = seconds(timeout, "timeout", positive=True)
        if not isinstance(prefix, str) or not prefix or set(prefix) & set("{} \r\n"):
            msg = 'prefix takes a name such as "budgetguard", without spaces and braces.'
            raise ConfigurationError(msg)
        if not isinstance(confirm, int) or isinstance(confirm, bool) or confirm < 0:
            msg = "confirm takes a number of replicas, 0 or more."
            raise ConfigurationError(msg)
        self.prefix = prefix
        self.confirm = confirm
        # Imported late, with asyncio: most programs that could have a store have none.
        from budgetguard.stores._redis_server import server_of

        self.server = server_of(url_or_client)
        self.name = f"the store at {self.server.where}"

    @property
    def identity(self) -> Hashable:
        """Equal for two objects with the same server, prefix and number of replicas that confirm."""
        return ("redis", self.server.identity, self.prefix, self.confirm)

    def link(self, account: str, runtime: "Runtime") -> "RedisLink":
        """A link for the account with that fingerprint. Nothing is started before the first exchange."""
        return RedisLink(self, account, runtime)

    def options(self) -> str:
        """What the script is told beside the message: nothing, but in tests."""
        return ""

    def __repr__(self) -> str:
        return (
            f"RedisStore({self.server.where!r}, prefix={self.prefix!r}, timeout={self.timeout:g})"
        )


class RedisLink:
    """One account of this process in a server."""

    def __init__(self, store: RedisStore, account: str, runtime: "Runtime") -> None:
        # Imported late: most programs that could have a store have none.
        from budgetguard.stores._redis_hub import PROCESS

        PROCESS.hook()
        self._process = PROCESS
        self._number = next(PROCESS.numbers)
        self._store = store
        self._account = account
        self._runtime = runtime
        self._hear: Callable[[], None] | None = None
        # Whether a hint came while nobody wanted to hear it: it may be about the reply to come.
        self._missed = False
        self._known: tuple[RedisHub, str] | None = None

    @property
    def member(self) -> str:
        """The process and a number; another one in a forked child."""
        return f"{self._process.token}.{self._number}"

    async def exchange(self, message: "Message") -> "Reply":
        """Send a message, on the private loop; raises StoreUnavailable within the store's timeout."""
        hub, member, store = self._hub(), self.member, self._store
        if self._known != (hub, member):
            self._known = hub, member
            hub.register(member, self)
        self._missed = False
        return await hub.exchange(self._account, message, store.options(), store.confirm)

    def listen(self, hear: Callable[[], None] | None) -> None:
        """While set, have `hear` called on the private loop when this member should send a message."""
        self._hear = hear
        if hear is not None:
            self._hub().attend()
            if self._missed:
                self._missed = False
                self._runtime.nudge(self.notify)

    def close(self) -> None:
        """Give up the link. A member that did not leave counts as dead from now on."""
        self._hear = None
        if self._known is not None:
            hub, member = self._known
            self._runtime.nudge(lambda: hub.part(member))

    @property
    def listens(self) -> bool:
        """Whether somebody wants to hear hints now."""
        return self._hear is not None

    def notify(self) -> None:
        """Tell whoever listens; on the private loop."""
        if self._hear is None:
            self._missed = True
        else:
            self._hear()

    def _hub(self) -> "RedisHub":
        store = self._store
        return self._process.hub(store.server, store.prefix, store.timeout, self._runtime)
