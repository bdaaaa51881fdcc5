"""The provider of the simulation: work that costs, booked late, seen through replies that fail."""

import asyncio
import heapq
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, Literal

from virtual import VirtualClock

from budgetguard._core.balance import Balance
from budgetguard._core.errors import BalanceUnavailable
from budgetguard._core.refresh_failure import Transient

MICRO = 10**6


@dataclass(frozen=True)
class Nature:
    """What kind of provider it is; seconds."""

    lag: float
    linger: float
    books: Literal["start", "per inference", "end"]
    latency: float
    failing: float
    """The share of looks that go wrong."""
    slots: int | None = None
    others: float = 0.0
    """Credits per second that somebody else spends, on average."""

    @property
    def prompt(self) -> bool:
        """Whether every look brings a balance, within a second."""
        return self.failing == 0 and self.latency <= 0.3


class Provider:
    """An account whose true balance is what was worked for, and whose reports lag behind."""

    name = "simulated"
    fingerprint = None
    extra_credits = 0

    def __init__(self, nature: Nature, credits: int, clock: VirtualClock, random: Random) -> None:
        self.nature = nature
        self.lag = nature.lag
        self.linger = nature.linger
        self.true = credits * MICRO
        self.reported = self.true
        self.lowest = self.true
        self.spent_by_others = 0
        self.sent: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.down = False
        self._clock = clock
        self._random = random
        self._bookings: list[tuple[float, int, int]] = []
        self._order = count()
        self._by_others: list[tuple[float, int]] = []
        self._top_ups: list[tuple[float, int]] = []

    def work(self, micro: int) -> None:
        """So much was just worked; it is booked later, by at most `lag`."""
        self.true -= micro
        self.lowest = min(self.lowest, self.true)
        at = self._clock.mono + self._random.uniform(0, self.nature.lag)
        heapq.heappush(self._bookings, (at, next(self._order), micro))

    def spend_elsewhere(self, micro: int) -> None:
        """Somebody else spends, and it is booked at once."""
        self.spent_by_others += micro
        self._by_others.append((self._clock.mono, micro))
        self.true -= micro
        self.reported -= micro
        self.lowest = min(self.lowest, self.true)

    def spent_since(self, mono: float) -> int:
        """What others spent since then."""
        return sum(micro for at, micro in self._by_others if at >= mono)

    def paid_since(self, mono: float) -> int:
        """What was topped up since then."""
        return sum(micro for at, micro in self._top_ups if at >= mono)

    def top_up(self, credits: int) -> None:
        """Somebody pays; it shows at once."""
        self._top_ups.append((self._clock.mono, credits * MICRO))
        self.true += credits * MICRO
        self.reported += credits * MICRO

    def now_reported(self) -> int:
        """What a request that is answered now would see."""
        while self._bookings and self._bookings[0][0] <= self._clock.mono:
            self.reported -= heapq.heappop(self._bookings)[2]
        return self.reported

    async def fetch(self, _: Any) -> Balance:
        """One look; sees the books at some moment between request and reply."""
        self.sent.append(self._clock.mono)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            latency = self._random.expovariate(1 / self.nature.latency)
            if self.nature.prompt:
                latency = min(latency, 1.0)
            before = self._random.uniform(0, latency)
            await asyncio.sleep(before)
            seen = self.now_reported()
            await asyncio.sleep(latency - before)
            return self._reply(seen, await self._mishap())
        finally:
            self.in_flight -= 1

    async def _mishap(self) -> str:
        if self.down:
            return "refused"
        if self._random.random() >= self.nature.failing:
            return ""
        mishap = self._random.choice(["500", "nonsense", "hang", "refused", "nan", "raises"])
        if mishap == "hang":
            await asyncio.sleep(3600)
        return mishap

    def _reply(self, seen: int, mishap: str) -> Balance:
        if mishap in {"500", "refused"}:
            raise Transient(provider=self.name, reason=mishap)
        if mishap == "nonsense":
            raise BalanceUnavailable(provider=self.name, reason=mishap)
        if mishap == "nan":
            return Balance(credits=float("nan"))  # type: ignore[arg-type]
        if mishap == "raises":
            raise OSError(mishap)
        amount = str(seen / MICRO) if seen % MICRO else seen // MICRO
        return Balance(credits=amount, max_concurrency=self.nature.slots)  # type: ignore[arg-type]
