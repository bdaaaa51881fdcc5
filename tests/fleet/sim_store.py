"""A store in the simulated world: servers that run the pure head, and links of members to one of them."""

import asyncio
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from processes import FleetRuntime, Process

from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import Message, Reply, ticks_down
from budgetguard.stores import SQLiteStore
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore

if TYPE_CHECKING:
    from fleet import Fleet

TIMEOUT = 2.0


class Server:
    """One server: a head, and a clock that may be set. It answers while it is `up`."""

    def __init__(self, name: str, head: SharedHead, clock: Callable[[], float]) -> None:
        self.name = name
        self.head = head
        self.up = True
        self.offset = 0.0
        self.began = 0.0
        """When, in the world, its state was promoted or begun anew."""
        self.known: set[str] = set()
        """The members that were in leases then."""
        self.unsaid: set[str] = set()
        """The members that its state had then, and has not heard or given up since."""
        self.unheard: set[str] = set()
        """The processes whose word is not in that state, and that have not said it since."""
        self.balance_at = self.refresh_at = float("-inf")
        """When, in the world, the requests of its balance and of its last refresh began."""
        self._clock = clock

    def clock(self) -> float:
        """Its time of day, or its boot-time."""
        return ticks_down(self._clock() + self.offset)


class SimStore:
    """A store, as a guard is given it; each process talks to the server that it takes for the primary.

    `expires` if members are given up by silence. If not, all are on one machine, and the store knows at
    once who died.
    """

    def __init__(self, fleet: "Fleet", process: Process, *, expires: bool) -> None:
        self.name = "the simulated store"
        self.identity: object = id(fleet)
        self.timeout = TIMEOUT
        self.expires = expires
        self.drift = (RedisStore if expires else SQLiteStore).drift
        self._fleet = fleet
        self._process = process

    def link(self, account: str, runtime: FleetRuntime) -> "SimLink":
        assert runtime.process is self._process
        return SimLink(self._fleet, self._process)


class SimLink:
    """One account of one process in the store."""

    def __init__(self, fleet: "Fleet", process: Process) -> None:
        self.member = process.name
        self._fleet = fleet
        self._process = process
        fleet.ears[self.member] = None

    async def exchange(self, message: Message) -> Reply:
        """Send it once, and wait for the answer; between the two, and after, anything may happen."""
        fleet, process = self._fleet, self._process
        fleet.weather.between(process, "before a message")
        await process.yields()
        answer: asyncio.Future[Reply] = process.loop.create_future()
        fleet.say(f"{self.member} sends {brief(message)}")
        fleet.network.carry(
            "out", self.member, self._arrive, fleet.primary[self.member], message, answer
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                reply = await answer
        except TimeoutError:
            fleet.say(f"{self.member} hears nothing")
            msg = "the simulated store did not answer"
            raise StoreUnavailable(msg) from None
        fleet.weather.between(process, "after a reply")
        await process.yields()
        return reply

    def _arrive(self, server: Server, message: Message, answer: "asyncio.Future[Reply]") -> None:
        """The message is at the server."""
        fleet = self._fleet
        if not server.up:
            fleet.counts["to a server that is down"] += 1
            return
        reply, woken = fleet.handle(server, message)
        fleet.weather.between(self._process, "before a reply")
        fleet.network.carry("in", self.member, self._process.call, self._answered, answer, reply)
        for member in sorted(woken):
            fleet.wake(server, member)

    @staticmethod
    def _answered(answer: "asyncio.Future[Reply]", reply: Reply) -> None:
        if not answer.done():
            answer.set_result(reply)

    def listen(self, hear: Callable[[], None] | None) -> None:
        self._fleet.ears[self.member] = hear

    def close(self) -> None:
        self._fleet.ears[self.member] = None


def copied(head: SharedHead) -> SharedHead:
    """A state of the head, to go back to."""
    return deepcopy(head)


def brief(message: Message) -> str:
    """A message in one line."""
    report, parts = message.report, [f"#{message.number} {message.epoch or '-'}"]
    if message.join:
        parts.append("join")
    parts.append(f"used {report.used} keep {report.keep} want {report.want}")
    if report.settled or report.kept:
        parts.append(f"settled {_sum(report.settled)} kept {_sum(report.kept)}")
    if report.needs:
        parts.append(f"needs {[(need.ticket, need.cost, need.slots) for need in report.needs]}")
    if message.refresh_after is not None:
        parts.append(f"refresh after {message.refresh_after:.3f}")
    if message.landing:
        balance = message.landing.balance
        parts.append(f"landing {message.landing.number}: {balance and balance.credits}")
    parts += [str(news) for news in message.news]
    if message.leave:
        parts.append("leave")
    return ", ".join(parts)


def shown(reply: Reply) -> str:
    """A reply in one line."""
    view = reply.view
    parts = [f"{reply.status} {reply.epoch} #{reply.number} lease {reply.lease}"]
    if reply.granted or reply.refused or reply.over:
        parts.append(f"granted {reply.granted} refused {reply.refused} over {reply.over}")
    if reply.refresh:
        parts.append(f"refresh {reply.refresh}")
    balance = None if view.snapshot is None else view.snapshot.credits
    parts.append(
        f"at {view.now:.3f}: balance {balance}, leased {view.leased}, used {view.used},"
        f" settled {view.settled}, kept {view.kept}, {view.members} members, recall {view.recall}"
    )
    return ", ".join(parts)


def _sum(debits: "Iterable[Any]") -> int:
    return sum(debit.amount for debit in debits)
