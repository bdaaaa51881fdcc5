"""What a process has for one server on one event loop: a client, and a subscription for wake-ups.

All runs on the private loop, which needs no thread and no lock for this. A forked child has another loop,
and with it another client: connections of its parent are neither used nor closed there.
"""

import asyncio
import itertools
import json
import os
import secrets
import ssl
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from budgetguard._core.store_messages import FORMAT, Message, Reply
from budgetguard.stores import _redis_words as words
from budgetguard.stores._redis_cluster import code_of
from budgetguard.stores._redis_node import JITTER, NEVER, Node, ServerAway, cut, end
from budgetguard.stores._redis_place import StorePlace
from budgetguard.stores._redis_reasons import reason_of
from budgetguard.stores._script import keys_of, script, script_sha
from budgetguard.stores._wire import message_text, reply_from
from budgetguard.stores.base import StoreUnavailable

if TYPE_CHECKING:
    from budgetguard._io.loop import Runtime

T = TypeVar("T")

# Seconds until a lost subscription is made again: the first time, and at most.
_AGAIN, _LONGEST_AGAIN = 1.0, 8.0
# Seconds of silence after which a subscription asks whether its server is still there.
_SILENCE = 20.0
# A slot that is being moved is asked for in two places.
REDIRECTIONS = 5
# Seconds for which a member that joins waits for a replica, where nobody asked for that.
_JOINING = 0.1


class WakeListener(Protocol):
    """A link, as the subscription sees it."""

    @property
    def listens(self) -> bool:
        """Whether hints are of use to it now."""
        ...

    def notify(self) -> None:
        """Its member should send a message."""
        ...


class RedisProcess:
    """The name of this process in the store; another one in a forked child."""

    def __init__(self) -> None:
        self._hooked: list[None] = []
        # Of the parents: never used, and never collected, which would close what is in them.
        self._left: list[Any] = []
        self.numbers = itertools.count(1)
        self._begin()

    def hook(self) -> None:
        """Notice forks from now on."""
        if not self._hooked and hasattr(os, "register_at_fork"):
            self._hooked.append(None)
            os.register_at_fork(after_in_child=self._in_child)

    def _begin(self) -> None:
        self.token = secrets.token_hex(8)
        self.hubs: weakref.WeakKeyDictionary[Any, dict[Any, RedisHub]] = weakref.WeakKeyDictionary()

    def _in_child(self) -> None:
        self._left.append(list(self.hubs.items()))
        self._begin()

    def hub(self, place: StorePlace, prefix: str, timeout: float, runtime: "Runtime") -> "RedisHub":
        """The one for the running loop."""
        hubs = self.hubs.setdefault(asyncio.get_running_loop(), {})
        key = (place.identity, prefix, timeout)
        if key not in hubs:
            hubs[key] = RedisHub(place, prefix, timeout, self.token)
            runtime.submit(hubs[key].serve)
        return hubs[key]


PROCESS = RedisProcess()


class RedisHub:
    """The servers of a place as one loop knows them, and who listens. Only on its loop."""

    def __init__(self, place: StorePlace, prefix: str, timeout: float, token: str) -> None:
        self._place = place
        self._prefix = prefix
        self._timeout = timeout
        self._errors = place.driver.errors
        self._failures = place.driver.failures
        self._route = place.route(timeout)
        self._channel = f"{prefix}:wake:{token}"
        self._listeners: dict[str, WakeListener] = {}
        self._listens = asyncio.Event()
        self._subscribed: tuple[Node, asyncio.Task[None]] | None = None
        self._heard_at = NEVER

    async def exchange(
        self, account: str, message: Message, options: str, confirm: int = 0
    ) -> Reply:
        """Have a message answered, and what it was granted confirmed; raises StoreUnavailable."""
        keys = keys_of(self._prefix, account)
        arguments = (len(keys), *keys, message_text(message), f"{self._prefix}:wake:", options)
        deadline = asyncio.get_running_loop().time() + self._timeout
        asking = _Asking(keys[0], arguments, message, confirm, deadline)
        node = await self._in_words(self._route.node(asking.key, deadline), deadline)
        self._follow()
        reply, confirmed = await self._asked(node, asking)
        if confirmed < confirm:
            reason = words.unconfirmed(self._place.where, confirmed, confirm, self._timeout)
            raise StoreUnavailable(reason)
        return reply

    async def _asked(self, node: Node, asking: "_Asking") -> tuple[Reply, int]:
        there = asking
        for _ in range(REDIRECTIONS):
            try:
                return await node.turns.run(partial(self._ask, node, there), asking.deadline)
            except _Redirected as error:
                node, there = error.node, replace(asking, asks_there=error.asks_there)
            except ServerAway:
                self._route.lost(node)
                raise
        raise StoreUnavailable(words.moving(self._place.where))

    async def _ask(self, node: Node, asking: "_Asking") -> tuple[Reply, int]:
        try:
            return await self._in_words(self._said(node, asking), asking.deadline)
        except StoreUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, Exception) and isinstance(cause, self._errors.ResponseError):
                there = self._route.redirected(node, asking.key, cause)
                if there is not None:
                    raise _Redirected(*there) from None
            raise

    async def _said(self, node: Node, asking: "_Asking") -> tuple[Reply, int]:
        async with node.connection() as connection:
            told = json.loads(await self._run(node, connection, asking))
            if "newer" in told:
                reason = words.too_new(self._place.where, told["newer"], FORMAT)
                raise StoreUnavailable(reason)
            reply = reply_from(told)
            confirmed = await self._confirmed(node, connection, asking, reply)
        return reply, confirmed

    async def _run(self, node: Node, connection: Any, asking: "_Asking") -> Any:
        try:
            if asking.asks_there:
                await node.ask(connection, "ASKING")
            return await node.ask(connection, "EVALSHA", script_sha(), *asking.arguments)
        except self._errors.NoScriptError:
            # Never both in one pipeline: what follows an error there is run all the same.
            if asking.asks_there:
                await node.ask(connection, "ASKING")
            return await node.ask(connection, "EVAL", script(), *asking.arguments)

    async def _confirmed(self, node: Node, connection: Any, asking: "_Asking", reply: Reply) -> int:
        """How many replicas have what was granted; `confirm` where nothing was.

        On the connection of the script, since WAIT is about what its own connection wrote last. A message that
        is sent again writes, too (when its member was heard), and all that was written before comes before
        that in what replicas receive. So it does not matter which connection wrote the first time.
        """
        if asking.confirm and asking.promised(reply):
            rest = asking.deadline - asyncio.get_running_loop().time()
            # Its answer has to arrive in time. 0 would wait for ever.
            wait = max(int(rest * 900), 1)
            return int(await node.ask(connection, "WAIT", asking.confirm, wait))
        if not asking.confirm and asking.message.join is not None:
            with suppress(OSError, self._failures):
                await self._shown(node, connection, asking.deadline)
        return asking.confirm

    async def _shown(self, node: Node, connection: Any, deadline: float) -> None:
        """Let a replica have a new member, if there is one: a failover then knows for whom it has to wait."""
        told = await node.ask(connection, "INFO", "replication")
        text = told.decode() if isinstance(told, bytes) else str(told)
        rest = min(deadline - asyncio.get_running_loop().time() - _JOINING, _JOINING)
        if rest > 0 and "connected_slaves:0" not in text:
            await node.ask(connection, "WAIT", 1, max(int(rest * 1000), 1))

    async def _in_words(self, work: Awaitable[T], deadline: float) -> T:
        """Do something until then; what goes wrong is raised as StoreUnavailable."""
        where = self._place.where
        try:
            async with asyncio.timeout_at(deadline):
                result = await work
        except TimeoutError as error:
            raise ServerAway(words.silent(where, self._timeout)) from error
        except OSError as error:
            raise ServerAway(_unreachable(where, error)) from error
        except self._failures as error:
            raise self._unavailable(error) from error
        return result

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        """In words. The server's own text may quote what we sent."""
        where, errors = self._place.where, self._errors
        if isinstance(error, errors.TimeoutError):
            return ServerAway(words.silent(where, self._timeout))
        refused = reason_of(error, errors, where, self._prefix)
        if refused is not None:
            there = isinstance(error, (errors.AuthenticationError, errors.ConnectionError))
            return ServerAway(refused) if there else StoreUnavailable(refused)
        away: dict[Any, Callable[[str], str]] = {
            errors.BusyLoadingError: words.loading,
            errors.ReadOnlyError: words.read_only,
        }
        for kind, reason in away.items():
            if isinstance(error, kind):
                return ServerAway(reason(where))
        if isinstance(error, errors.ConnectionError):
            return ServerAway(_unreachable(where, error))
        code = code_of(error)
        if code in _BY_CODE:
            failure, reason = _BY_CODE[code]
            return failure(reason(where))
        return StoreUnavailable(
            words.failed(where, code if code.isupper() else type(error).__name__)
        )

    # Wake-ups.

    def register(self, member: str, listener: WakeListener) -> None:
        """From now on, tell a link when its member is woken."""
        self._listeners[member] = listener

    def attend(self) -> None:
        """Somebody wants to hear it: subscribe, if that is not done yet."""
        self._listens.set()

    def part(self, member: str) -> None:
        """Tell it no more."""
        self._listeners.pop(member, None)

    def _follow(self) -> None:
        """Give up the subscription if what it hears is not of the servers that messages go to."""
        if self._subscribed is not None and not self._route.serves(self._subscribed[0]):
            self._subscribed[1].cancel()

    async def serve(self) -> None:
        """Listen as long as the loop runs, once anybody wants to; then close what was opened."""
        again = _AGAIN
        try:
            while True:
                await self._listens.wait()
                heard_at = self._heard_at
                subscription = asyncio.ensure_future(self._subscribe())
                try:
                    await asyncio.wait([subscription])
                finally:
                    await end([subscription])
                again = _AGAIN if self._heard_at > heard_at else min(again * 2, _LONGEST_AGAIN)
                # All processes lose theirs at the same moment.
                await asyncio.sleep(JITTER(again / 2, again))
        finally:
            await self._route.close()

    async def _subscribe(self) -> None:
        with suppress(StoreUnavailable, OSError, self._failures):
            deadline = asyncio.get_running_loop().time() + self._timeout
            node = await self._in_words(self._route.any(deadline), deadline)
            task = asyncio.current_task()
            if task is None:
                return
            self._subscribed = node, task
            try:
                async with node.connection() as connection:
                    try:
                        await self._listen(node, connection)
                    finally:
                        # It hears wake-ups, so nobody else may use it.
                        await cut(connection)
            finally:
                self._subscribed = None

    async def _listen(self, node: Node, connection: Any) -> None:
        self._note(await node.ask(connection, "SUBSCRIBE", self._channel))
        asked = False
        while True:
            heard = await connection.read_response(timeout=self._timeout if asked else _SILENCE)
            if heard is not None:
                asked = False
                self._note(heard)
            elif asked:
                return
            elif any(each.listens for each in self._listeners.values()):
                # A connection that was cut without a word is silent, as one is on which there is no news.
                asked = True
                await connection.send_command("PING")

    def _note(self, heard: list[Any]) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        kind, *rest = (each.decode() if isinstance(each, bytes) else each for each in heard)
        if kind == "subscribe":
            # Hints may have been lost before.
            for listener in list(self._listeners.values()):
                listener.notify()
        elif kind == "message":
            listener_ = self._listeners.get(rest[1])
            if listener_ is not None:
                listener_.notify()


_BY_CODE: dict[str, tuple[type[StoreUnavailable], Callable[[str], str]]] = {
    "CLUSTERDOWN": (ServerAway, words.cluster_down),
    "MASTERDOWN": (ServerAway, words.read_only),
    # What WAIT says when its server becomes a replica.
    "UNBLOCKED": (ServerAway, words.read_only),
    "TRYAGAIN": (StoreUnavailable, words.moving),
    "MOVED": (StoreUnavailable, words.in_cluster),
    "ASK": (StoreUnavailable, words.in_cluster),
}


@dataclass(frozen=True, slots=True)
class _Asking:
    """A message that is sent: the first of its keys, what the script is given, and until when on the loop.

    With `asks_there`, the server only has the key if that is said (ASKING).
    """

    key: str
    arguments: tuple[Any, ...]
    message: Message
    confirm: int
    deadline: float
    asks_there: bool = False

    def promised(self, reply: Reply) -> bool:
        """Whether the reply promises what a failover must not forget.

        Not what was only reported: a head that forgot it counts that still as held. What a member tells the
        others (a pause, a refusal by the provider) nobody would tell again.
        """
        message, report = self.message, self.message.report
        if reply.status != "done":
            return False
        lent = reply.lease > report.used + report.keep
        told = bool(message.news) or message.join is not None
        return lent or told or bool(reply.granted) or reply.refresh == "yours"


class _Redirected(Exception):
    """Another server has the key; `asks_there` if that has to be said first (ASKING)."""

    def __init__(self, node: Node, asks_there: bool) -> None:  # noqa: FBT001
        super().__init__()
        self.node = node
        self.asks_there = asks_there


def _unreachable(where: str, error: BaseException) -> str:
    """Why there is no connection: TLS has reasons of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return words.untrusted(where)
        if isinstance(cause, ssl.SSLError):
            return words.no_tls(where)
        cause = cause.__cause__ or cause.__context__
    return words.unreachable(where)
