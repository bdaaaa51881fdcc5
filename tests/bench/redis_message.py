"""What one message to the head in a server costs, beside the smallest script, on each engine.

    python tests/bench/redis_message.py [--seconds 2]

Starts a Redis and a Valkey server where they are installed. Prints, by number of members:

- the server's own time for a message, by the CPU time of its main thread (`INFO cpu`), so that other work on
  the machine counts little: a call that needs a grant, and one in an account where a caller waits in vain;
- the median of a message from Python through `RedisHub.exchange`, and of `EVALSHA` of `return 1` with the same
  client and loop, in turn with it: their ratio is what can be compared between machines.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "stores"))

import redis_servers
from redis.asyncio import Redis

from budgetguard import Balance
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
from budgetguard.stores._script import keys_of, script, script_sha
from budgetguard.stores._wire import message_text
from budgetguard.stores.redis import RedisStore

ENGINES: dict[str, Callable[[], int]] = {
    "redis": redis_servers.redis_server,
    "valkey": redis_servers.valkey_server,
}
MEMBERS = (1, 10, 100, 1000)
CALL = 10**6
BATCH = 50
CREDITS = Decimal(10**6)


class Account:
    """Members of one account, each with its numbers; all credits are in one balance."""

    def __init__(self, hub: RedisHub, name: str, members: int) -> None:
        self.hub = hub
        self.name = name
        self.members = [f"{number:016x}.1" for number in range(members)]
        self.numbers = dict.fromkeys(self.members, 0)
        self.epoch = ""
        self.seen = NEVER

    def message(self, member: str, report: Report | None = None, **more: Any) -> Message:
        """Its next message. A minute may have passed since the view that it names."""
        self.numbers[member] += 1
        return Message(
            member,
            self.numbers[member],
            self.epoch,
            seen=self.seen,
            elapsed=60.0,
            report=report or Report(),
            **more,
        )

    async def say(self, member: str, report: Report | None = None, **more: Any) -> Reply:
        """Send it."""
        reply = await self.hub.exchange(self.name, self.message(member, report, **more), "")
        assert reply.status == "done", reply
        self.epoch, self.seen = reply.epoch, reply.view.now
        return reply

    async def open(self) -> None:
        """All join and hold a credit in use, the first one brings the balance."""
        first, join = self.members[0], Join(60.0)
        reply = await self.say(first, join=join, refresh_after=NEVER, refresh_timeout=3.0)
        balance = Balance(CREDITS, as_of=datetime(2026, 1, 1, tzinfo=UTC))
        await self.say(first, landing=Landing(self.epoch, reply.refresh_number, balance, 1.0))
        for member in self.members[1:]:
            await self.say(member, Report(used=CALL, running=1), join=join)

    def call(self) -> Message:
        """The first member ends a call and asks for the next one."""
        report = Report(settled=(Debit(CALL, 600.0),), needs=(self._need(CALL),))
        return self.message(self.members[0], report)

    def wait(self) -> Message:
        """The first member asks again for what nobody can give it."""
        return self.message(self.members[0], Report(needs=(self._need(10**13),)))

    def _need(self, amount: int) -> Need:
        return Need(self.numbers[self.members[0]] + 1, amount, amount)


async def server_time(
    client: Any, account: Account, kind: Callable[[], Message], many: int
) -> float:
    """Microseconds of the server for a message of that kind, as the median of batches."""
    keys, times = keys_of("bench", account.name), []
    for _ in range(many):
        pipeline = client.pipeline(transaction=False)
        for _ in range(BATCH):
            told = message_text(kind())
            pipeline.execute_command(
                "EVALSHA", script_sha(), len(keys), *keys, told, "bench:wake:", ""
            )
        before = await cpu(client)
        await pipeline.execute()
        times.append((await cpu(client) - before) / BATCH * 1e6)
    return statistics.median(times)


async def cpu(client: Any) -> float:
    """Seconds that the server's main thread has worked."""
    told = await client.info("cpu")
    return float(told["used_cpu_user_main_thread"]) + float(told["used_cpu_sys_main_thread"])


async def smallest(client: Any, many: int) -> float:
    """Microseconds of the server for `return 1`."""
    sha, times = await client.script_load("return 1"), []
    for _ in range(many):
        pipeline = client.pipeline(transaction=False)
        for _ in range(BATCH):
            pipeline.execute_command("EVALSHA", sha, 0)
        before = await cpu(client)
        await pipeline.execute()
        times.append((await cpu(client) - before) / BATCH * 1e6)
    return statistics.median(times)


async def over_raw(client: Any, account: Account, seconds: float) -> tuple[float, float]:
    """Medians in microseconds of a message through the hub, and of `return 1`, in turn."""
    sha, messages, raw = await client.script_load("return 1"), [], []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        message = account.call()
        start = time.perf_counter()
        await account.hub.exchange(account.name, message, "")
        middle = time.perf_counter()
        await client.execute_command("EVALSHA", sha, 0)
        messages.append(middle - start)
        raw.append(time.perf_counter() - middle)
    return statistics.median(messages) * 1e6, statistics.median(raw) * 1e6


async def measure(port: int, seconds: float) -> None:
    """Print the figures of one engine."""
    store = RedisStore(f"redis://127.0.0.1:{port}", prefix="bench")
    hub = RedisHub(store.server, store.prefix, 30.0, "bench")
    client = Redis(port=port)
    await client.script_load(script())
    many = max(int(seconds * 5), 5)
    print(f"  server, `return 1`: {await smallest(client, many):.0f} us")
    for members in MEMBERS:
        account = Account(hub, f"{members} members", members)
        await account.open()
        granted = await server_time(client, account, account.call, many)
        exchange, raw = await over_raw(client, account, seconds)
        hopeless = await server_time(client, account, account.wait, many)
        print(
            f"  {members:5} members: server {granted:5.0f} us a call, {hopeless:5.0f} us where one waits in vain; "
            f"p50 {exchange:.0f} us, {exchange / raw:.1f} x raw ({raw:.0f} us)",
            flush=True,
        )
    await client.aclose()
    await client.connection_pool.disconnect()
    await hub._route.close()


def main() -> None:
    """Measure both engines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    seconds = parser.parse_args().seconds
    for name, start in ENGINES.items():
        port = start()
        print(name)
        asyncio.run(measure(port, seconds))


if __name__ == "__main__":
    main()
