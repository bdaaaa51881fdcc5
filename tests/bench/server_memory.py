"""What an account in a Redis server takes: bytes for each member, and server time for each message.

    python tests/bench/server_memory.py redis://localhost:6379

A process talks for all members, one message at a time. Its keys are removed at the end.
"""

import argparse
import asyncio
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2])]

from budgetguard._core.store_messages import Join, Message, Report
from budgetguard.stores import RedisStore
from budgetguard.stores._redis_asker import RedisAsker
from budgetguard.stores._script import keys_of
from budgetguard.stores._wire import message_text

ACCOUNT = "measured"
WORDS = {"provider": "pre.dev", "pid": "123456", "host": "web-1", "version": "0.1.0"}
MESSAGES = 3000


class Talk:
    """All members of an account, as one process."""

    def __init__(self, url: str) -> None:
        self.prefix = f"bench-{secrets.token_hex(4)}"
        self.asker = RedisAsker(RedisStore(url, prefix=self.prefix, timeout=10))
        self.keys = keys_of(self.prefix, ACCOUNT)

    async def say(self, message: Message) -> Any:
        """Send a message; gives the reply."""
        text = message_text(message)
        return json.loads(await self.asker.script(ACCOUNT, text, f"{self.prefix}:wake:", ""))

    async def memory(self) -> int:
        """How many bytes the account's keys take."""
        sizes = [
            await self.asker.command(key, "MEMORY", "USAGE", key, "SAMPLES", 0) for key in self.keys
        ]
        return sum(int(size or 0) for size in sizes)


async def measure(url: str, members: int) -> None:
    """Print the figures."""
    talk = Talk(url)
    reply: Any = None
    try:
        for number in range(members):
            join = Join(60.0, words=tuple(WORDS.items()))
            reply = await talk.say(Message(f"{number:016x}.1", 1, "", join=join))
            if number + 1 in {1, 10, 100, members}:
                print(f"{number + 1:5} members: {await talk.memory():,} bytes")
        began = time.perf_counter()
        for number in range(MESSAGES):
            at, turn = number % members, number // members
            message = Message(
                *(f"{at:016x}.1", turn + 2, reply["epoch"]),
                seen=reply["view"]["now"],
                report=Report(),
            )
            reply = await talk.say(message)
        each = (time.perf_counter() - began) / MESSAGES
        print(f"a message with {members} members: {1e6 * each:.0f} us, one after the other")
        print(f"after {MESSAGES:,} of them: {await talk.memory():,} bytes")
    finally:
        await talk.asker.command(talk.keys[0], "DEL", *talk.keys)
        await talk.asker.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--members", type=int, default=1000)
    options = parser.parse_args()
    asyncio.run(measure(options.url, options.members))


if __name__ == "__main__":
    main()
