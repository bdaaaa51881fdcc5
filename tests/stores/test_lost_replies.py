"""Real connections on which replies get lost, and which are cut between any two bytes of an exchange.

Members send the same message until it is answered. The test keeps a book of what each message says, and what the
store says must be exactly that: no message took effect twice, and none got lost. With BUDGETGUARD_LONG=1 there
are more replies that get lost, and a cut after every byte.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis_servers
from cut_proxy import CutProxy, Fault
from interpreter import LONG
from server_process import ENGINES, ServerProcess, servers

from budgetguard._core.balance import Balance
from budgetguard._core.store_messages import (
    NEVER,
    Debit,
    Join,
    Landing,
    Message,
    Need,
    Reply,
    Report,
)
from budgetguard.stores._redis_hub import RedisHub
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore

SEED = os.environ.get("BUDGETGUARD_SEED", "1")
LOSSES = 1000 if LONG else 60
STEP = 1 if LONG else 37
# The script is long, and all but the first bytes of it are alike.
SCRIPT_STEP = 997 if LONG else 20011
TIMEOUT = 0.05
CREDITS = 10**9
NAMES = count(1)


@pytest.fixture(params=ENGINES)
def port(request: pytest.FixtureRequest) -> int:
    """A server of each engine."""
    redis_servers.driver()
    return {"redis": redis_servers.redis_server, "valkey": redis_servers.valkey_server}[
        request.param
    ]()


@pytest.fixture
def proxy(port: int) -> Iterator[CutProxy]:
    """A way to it."""
    with CutProxy(port) as made:
        yield made


class Book:
    """A member, and what its messages did if each took effect once."""

    def __init__(self, port: int, account: str, timeout: float = TIMEOUT) -> None:
        self.name = f"{next(NAMES):016x}.1"
        self.server = RedisStore(f"redis://127.0.0.1:{port}").server
        self.timeout = timeout
        self.hub = self.new_hub()
        self.account = account
        self.number, self.epoch, self.seen = 0, "", NEVER
        self.used = self.settled = self.tries = self.losses = 0
        self.last: tuple[Message, Reply] | None = None

    def new_hub(self) -> RedisHub:
        """One that does not yet know that its server was away, and so asks it at once."""
        return RedisHub(self.server, "lost", self.timeout, self.name[:16])

    async def send(self, **fields: Any) -> Reply:
        """The next message, again and again until it is answered."""
        self.number += 1
        message = Message(
            self.name, self.number, self.epoch, seen=self.seen, elapsed=60.0, **fields
        )
        while True:
            self.tries += 1
            try:
                reply = await self.hub.exchange(self.account, message, "")
                break
            except StoreUnavailable:
                self.losses += 1
                await self.close()
                self.hub = self.new_hub()
        assert (reply.status, reply.number) == ("done", self.number)
        self.epoch, self.seen = reply.epoch, reply.view.now
        self.last = message, reply
        return reply

    async def join(self) -> None:
        """Join, and tell the balance."""
        await self.send(join=Join(60.0))
        right = await self.send(refresh_after=self.seen, refresh_timeout=1.0)
        if right.refresh == "yours":
            balance = Balance(credits=CREDITS)
            landing = Landing(right.epoch, right.refresh_number, balance=balance, wall=0.0)
            await self.send(landing=landing)

    async def spend(self, ended: int, cost: int) -> Reply:
        """So much ended, and a caller needs something, which it gets."""
        self.used -= ended
        self.settled += ended
        needs = (Need(self.number, cost, cost, counts=True),)
        debits = (Debit(ended, 600.0),) if ended else ()
        reply = await self.send(report=Report(used=self.used, settled=debits, needs=needs))
        self.used += cost
        assert reply.granted == (needs[0].ticket,)
        assert reply.lease == self.used
        return reply

    async def close(self) -> None:
        """Close its connections, which is what the hub does when it is told to listen no more."""
        serving = asyncio.create_task(self.hub.serve())
        await asyncio.sleep(0)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def exact(reply: Reply, *books: Book) -> None:
    """The store knows what the members did, and nothing else."""
    assert reply.view.leased == sum(book.used for book in books)
    assert reply.view.settled == sum(book.settled for book in books)


def any_fault(random: Random) -> Fault:
    """A way in which a reply gets lost."""
    return random.choice(
        [
            Fault(reply=0),
            Fault(reply=0, reset=True),
            Fault(reply=0, silent=True),
            Fault(reply=random.randint(1, 200)),
            Fault(delay=1.5 * TIMEOUT),
            Fault(late=1.5 * TIMEOUT),
            Fault(late=1.5 * TIMEOUT, reply=0),
        ]
    )


def test_lost_replies(port: int, proxy: CutProxy) -> None:
    """However a reply gets lost, and if an earlier try arrives last, its message took effect once."""
    random = Random(f"losses {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    account = f"lost {next(NAMES)}"

    async def run() -> None:
        one, other = Book(proxy.port, account), Book(port, account)
        await other.join()
        await one.join()
        proxy.plan = lambda _: any_fault(random) if random.random() < 0.7 else None
        while one.losses < LOSSES:
            ended = random.randint(0, one.used)
            reply = await one.spend(ended, random.randint(1, 9))
            exact(reply, one, other)
            exact(
                await other.spend(random.randint(0, other.used), random.randint(1, 9)), one, other
            )
        proxy.plan = lambda _: None
        # What is late is there by then.
        await asyncio.sleep(2 * TIMEOUT)
        exact(await one.spend(one.used, 1), one, other)
        await one.close()
        await other.close()

    asyncio.run(run())


@contextmanager
def cutting(proxy: CutProxy, fault: Fault, word: bytes) -> Iterator[list[int]]:
    """Cut one exchange of that command so; tells how many were cut."""
    cuts: list[int] = []

    def plan(request: bytes) -> Fault | None:
        if cuts or request[4:30].split(b"\r\n")[1] != word:
            return None
        cuts.append(1)
        return fault

    proxy.plan = plan
    yield cuts
    proxy.plan = lambda _: None


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("side", ["request", "reply"])
def test_a_cut_between_any_two_bytes(port: int, proxy: CutProxy, side: str, reset: bool) -> None:
    """Of a request it leaves nothing, of a reply all; the next try is answered, and the sums are exact."""
    account = f"cut {next(NAMES)}"

    async def run() -> None:
        one, other = Book(proxy.port, account, 5.0), Book(port, account, 5.0)
        await other.join()
        await one.join()
        reply = await one.spend(0, 5)
        at, most = 0, 1
        while at < most:
            with cutting(proxy, Fault(**{side: at}, reset=reset), b"EVALSHA") as cuts:
                tries = one.tries
                reply = await one.spend(1, 1)
            assert cuts
            # Messages are not all of one length. A whole request gets no reply, and a whole reply is one.
            lost = side == "request" or at < proxy.cut_of
            assert one.tries == tries + 1 + lost
            exact(reply, one, other)
            most = proxy.cut_of
            at += STEP
        exact(await other.spend(0, 1), one, other)
        await one.close()
        await other.close()

    asyncio.run(run())


def test_a_cut_while_the_script_is_sent(tmp_path: Path) -> None:
    """Also where the server has forgotten it, and a cut leaves half of it on the way."""
    with servers("redis", tmp_path) as [server], CutProxy(server.port) as proxy:
        asyncio.run(_cut_the_script(server, proxy))


async def _cut_the_script(server: ServerProcess, proxy: CutProxy) -> None:
    one = Book(proxy.port, "cut", 5.0)
    await one.join()
    reply = await one.spend(0, 5)
    at, most = 0, 1
    while at < most:
        server.do("SCRIPT", "FLUSH")
        with cutting(proxy, Fault(request=at), b"EVAL") as cuts:
            reply = await one.spend(1, 1)
        assert cuts
        exact(reply, one)
        most = max(most, len(proxy.last[0]))
        at += SCRIPT_STEP
    assert most > 10**4
    await one.close()
