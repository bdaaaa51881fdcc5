"""Weeks of one guard's life in minutes: a virtual clock, a crowd, and everything that goes wrong."""

import asyncio
import contextlib
import gc
import heapq
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from random import Random
from typing import Any

from soaked import Figures
from virtual import VirtualClock, VirtualLoop, VirtualRuntime

from budgetguard import Balance, BudgetGuardError, Guard, GuardPool
from budgetguard._core.errors import BalanceUnavailable
from budgetguard._core.refresh_failure import Transient
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider

MICRO = 10**6
DAY = 86_400.0
LAG, LINGER = 5.0, 60.0
MISHAPS = ["500", "nonsense", "hang", "raises", "nan"]


class NothingCharged(Exception):
    """What a call raises that never reached the provider."""


class Failed(Exception):
    """What a call raises whose cost nobody knows."""


class Account:
    """Charges what was worked up to LAG seconds later; its replies fail now and then."""

    name = "soaked"
    lag, linger = LAG, LINGER

    def __init__(self, clock: VirtualClock, random: Random) -> None:
        self.true = self.reported = self.lowest = 5_000 * MICRO
        self.schedule = 0
        self.sound = False
        self.down_until = 0.0
        self._clock = clock
        self._random = random
        self._bookings: list[tuple[float, int, int]] = []
        self._order = count()

    def work(self, credits: int) -> None:
        self.true -= credits * MICRO
        self.lowest = min(self.lowest, self.true)
        at = self._clock.mono + self._random.uniform(0, LAG)
        heapq.heappush(self._bookings, (at, next(self._order), credits * MICRO))

    def top_up(self, credits: int) -> None:
        self.true += credits * MICRO
        self.reported += credits * MICRO

    async def fetch(self, _: Any) -> Balance:
        self.schedule += 1
        await asyncio.sleep(self._random.uniform(0, 1))
        mishap = ""
        if not self.sound and (self._clock.mono < self.down_until or self._random.random() < 0.1):
            mishap = self._random.choice(MISHAPS)
        while self._bookings and self._bookings[0][0] <= self._clock.mono:
            self.reported -= heapq.heappop(self._bookings)[2]
        seen = self.reported
        match mishap:
            case "500":
                raise Transient(provider=self.name, reason="500")
            case "nonsense":
                raise BalanceUnavailable(provider=self.name, reason="nonsense")
            case "raises":
                raise OSError
            case "nan":
                return Balance(credits=float("nan"))  # type: ignore[arg-type]
            case "hang":
                await asyncio.sleep(DAY)
        return Balance(credits=seen // MICRO, max_concurrency=8)  # type: ignore[arg-type]


class Soak:
    """`days` of virtual time, with a caller every `every` seconds on average."""

    def __init__(self, days: float, every: float, seed: int) -> None:
        self.days = days
        self.every = every
        self.random = Random(seed)
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)
        self.runtime = VirtualRuntime(self.clock, self.loop, Random(seed + 1))
        self.account = Account(self.clock, Random(seed + 2))
        self.counts: Counter[str] = Counter()
        self.figures = Figures()
        with runtime_of(self.runtime):  # type: ignore[arg-type]
            self.guard = Guard(self.account, alert_below=500)
            self.told = Guard(FakeProvider(10**9), on_event=self._event)
        self.pool: GuardPool[int] = GuardPool(self._tenant, maxsize=50)
        self.ways = [self._quick, self._long, self._block, self._acquired, self._dropped]
        self.ways += [self._walk, self._slots, self._tenants]
        require = self.guard.require_credits
        self.quick = require(min=1, release_on=NothingCharged)(self._work)
        self.long = require(
            min=lambda cost, _: cost, actual=lambda cost: cost, wait=30, release_on=NothingCharged
        )(self._work)
        self.steps = require(min=5)(self._steps)

    def run(self) -> int:
        """Run to the end; 1 when something is broken."""
        try:
            held = self.loop.run_until_complete(self._main())
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
        return self.figures.verdict(held)

    async def _main(self) -> int:
        begun, day = self.clock.mono, 0
        tasks: set[asyncio.Task[None]] = set()
        while self.clock.mono < begun + self.days * DAY:
            await asyncio.sleep(self.random.expovariate(1 / self.every))
            self._weather()
            task = self.loop.create_task(self._caller())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if self.random.random() < 0.05:
                self.loop.call_later(self.random.expovariate(1 / 3), task.cancel)
            if self.clock.mono >= begun + (day + 1) * DAY:
                day += 1
                # What is made once has been made by the evening of the first tenth of the days.
                if day >= max(1, self.days / 10):
                    self._tell(day)
        while tasks:
            await asyncio.wait(tasks)
        del task
        return await self._end()

    def _tell(self, day: int) -> None:
        # Which the runtime notes for the simulation, of every look.
        getattr(self.runtime, "starts", []).clear()
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        self.figures.take(f"day {day}: {counts}, {self.account.schedule} looks")

    async def _end(self) -> int:
        """What is held or pending once everything ended, and the books are the provider's again."""
        self.account.sound = True
        # What was dropped in a cycle is kept from when it is collected.
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(LINGER + 2 * LAG + 60)
            with contextlib.suppress(BalanceUnavailable):
                await self.guard.abalance(max_age=0)
        if self.account.lowest < 0:
            self.figures.troubles.append(f"overspent by {-self.account.lowest / MICRO}")
        if self.guard.available != self.account.true // MICRO:
            self.figures.troubles.append(
                f"{self.guard.available} available, {self.account.true // MICRO} there"
            )
        self._tell(round(self.days))
        left = 0
        for guard in (self.guard, self.told, *map(self.pool.__getitem__, range(200))):
            account = binding_of(guard).account
            account.flush()
            ledger = account.ledger
            left += ledger.held + ledger.running + ledger.slots_in_use + len(account.queue)
        ledger = binding_of(self.guard).account.ledger
        return left + ledger.pending

    def _weather(self) -> None:
        draw = self.random.random()
        if self.account.true < 300 * MICRO and draw < 0.02:
            self.account.top_up(5_000)
        if draw < 0.0005:
            self.clock.offset += self.random.uniform(-600, 600)
            self.guard.mark_exhausted()
        if draw > 0.9995:
            self.account.down_until = self.clock.mono + self.random.uniform(0, 1_800)

    async def _caller(self) -> None:
        cost = self.random.choice([1, 2, 5, 10, 50])
        try:
            await self.random.choice(self.ways)(cost)
        except BudgetGuardError as error:
            self.counts[type(error).__name__] += 1
        except (Failed, NothingCharged) as error:
            self.counts[type(error).__name__] += 1
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            raise
        else:
            self.counts["done"] += 1

    # The ways of guarding a call, and of ending it.

    async def _quick(self, _: int) -> None:
        await self.quick(1, self.random.random())

    async def _long(self, cost: int) -> None:
        await self.long(cost, self.random.random())

    async def _block(self, cost: int) -> None:
        async with self.guard.require_credits(
            min=cost, wait=self.random.choice([0, 10]), release_on=NothingCharged
        ) as hold:
            await self._work(cost, self.random.random())
            match self.random.randrange(4):
                case 0:
                    hold.charged(cost)
                case 1:
                    hold.extend(1)
                case 2:
                    # More than it was: the next balance puts it right.
                    hold.settle(2 * cost)

    async def _acquired(self, cost: int) -> None:
        hold = await self.guard.aacquire(cost, wait=60)
        await self._work(cost, 1.0)
        self.random.choice([hold.settle, hold.keep])()

    async def _dropped(self, cost: int) -> None:
        cycle: list[Any] = [await self.guard.aacquire(cost)]
        cycle.append(cycle)
        await self._work(cost, self.random.random())

    async def _walk(self, _: int) -> None:
        async for part in self.steps():
            if part and self.random.random() < 0.3:
                break

    async def _slots(self, cost: int) -> None:
        async with self.guard.require_credits(min=cost, slots=1, wait=20):
            await self._work(cost, self.random.random())

    async def _tenants(self, cost: int) -> None:
        guard = self.pool[self.random.randrange(200)]
        async with guard.require_credits(min=cost):
            await asyncio.sleep(1)
        async with self.told.require_credits(min=cost):
            await asyncio.sleep(0)

    async def _work(self, cost: int, luck: float) -> int:
        """Work that costs `cost`, some of it after the caller gave up."""
        if luck < 0.05:
            raise NothingCharged
        try:
            await asyncio.sleep(self.random.expovariate(1 / 5))
        except asyncio.CancelledError:
            self.loop.call_later(self.random.uniform(0, LINGER), self.account.work, cost)
            raise
        self.account.work(cost)
        if luck < 0.1:
            raise Failed
        return cost

    async def _steps(self) -> AsyncIterator[int]:
        for part in range(3):
            await self._work(1, 1.0)
            yield part

    def _tenant(self, _: int) -> Guard:
        # Some have accounts that are known by name, some do not.
        provider = FakeProvider(10**6)
        if self.random.random() < 0.5:
            provider.fingerprint = None  # type: ignore[assignment]
        with runtime_of(self.runtime):  # type: ignore[arg-type]
            return Guard(provider)

    def _event(self, _: object) -> None:
        self.counts["events"] += 1
