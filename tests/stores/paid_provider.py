"""A provider with the one true balance, for processes that spend and may be killed at any moment.

Its books are a file to which whoever has work done appends a record, which no kill can tear. A record counts
from a moment after its work is done, whether or not the process that asked still lives; how long the machine
takes for anything makes no difference. And it never refuses: if processes admit too much, the balance goes below
zero, and `lowest` tells.
"""

import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from budgetguard import Balance

LAG = LINGER = 0.5

_LATEST, _LONGEST = 0.15, 0.15
# From when on it counts, on the clock that all processes share, how much, and for which process.
_RECORD = struct.Struct("<dqq")


class PaidAccount:
    """The account, in any process; a guard's provider."""

    name = fingerprint = "a paid account"
    extra_credits = 0
    lag, linger = LAG, LINGER

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._random = Random()

    async def fetch(self, _: Any) -> Balance:
        return Balance(credits=self.credits)

    def work(self, cost: int, seconds: float) -> None:
        """Have that much done, in that many seconds."""
        assert seconds <= _LONGEST
        # Each process, also one that was forked since, has a moment of its own.
        self._random.seed(os.urandom(8))
        self._append(time.monotonic() + seconds + self._random.uniform(0, _LATEST), cost)
        time.sleep(seconds)

    def top_up(self, credits: int) -> None:
        self._append(time.monotonic(), -credits)

    @property
    def credits(self) -> int:
        """What is left by now."""
        now = time.monotonic()
        return -sum(cost for counts, cost, _ in self._records() if counts <= now)

    @property
    def works(self) -> int:
        """How much work was asked for."""
        return sum(cost > 0 for _, cost, _ in self._records())

    def spent_by(self, pids: Iterable[int]) -> int:
        """What the work of these processes cost so far, also if it does not count yet."""
        spenders = set(pids)
        return sum(cost for _, cost, pid in self._records() if cost > 0 and pid in spenders)

    @property
    def lowest(self) -> int:
        """The lowest balance that there ever was."""
        balance, found = 0, []
        for _, cost, _ in sorted(self._records(), key=lambda record: record[0]):
            balance -= cost
            found.append(balance)
        return min(found)

    @property
    def last(self) -> int:
        """What is left once all work counts that was asked for so far."""
        return -sum(cost for _, cost, _ in self._records())

    def rest(self) -> int:
        """Wait until all work counts; gives the credits that are left."""
        last = max(counts for counts, _, _ in self._records())
        time.sleep(max(last - time.monotonic(), 0.0))
        return self.credits

    def _append(self, counts: float, cost: int) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, _RECORD.pack(counts, cost, os.getpid()))
        finally:
            os.close(file)

    def _records(self) -> list[tuple[float, int, int]]:
        return list(_RECORD.iter_unpack(Path(self.path).read_bytes()))
