"""A crowd that spends an account: calls that are charged as they run, and what became of each."""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from random import Random
from typing import Any, Protocol

from in_memory import MemoryStore
from virtual import VirtualClock, VirtualLoop, VirtualRuntime

from budgetguard import Balance
from budgetguard._core.refresh_failure import Transient

MICRO = 10**6
MINUTE = 60.0

# How often a running call's status is asked for; pre.dev's shows `creditsUsed` while it generates.
POLL_EVERY = 1.0


@dataclass(frozen=True)
class Kind:
    """A kind of call: what it may cost, what it does cost, how long it runs; credits, seconds."""

    name: str
    estimate: int
    least: float
    mode: float
    shortest: float
    longest: float


FAST_SPEC = Kind("fast spec", 10, least=5, mode=7, shortest=30, longest=60)
DEEP_SPEC = Kind("deep spec", 50, least=10, mode=28, shortest=120, longest=300)
SESSION = Kind("browser session", 20, least=5, mode=8, shortest=60, longest=1200)
KINDS = [FAST_SPEC] * 12 + [DEEP_SPEC] * 5 + [SESSION] * 3


@dataclass(frozen=True)
class Scenario:
    """Who works on an account, and what befalls it."""

    name: str
    workers: int
    credits: int
    lag: float = 5.0
    linger: float = 300.0
    given_up: float = 0.0
    others: float = 0.0
    """Credits a minute that somebody else spends, on average, in the seconds from `others_from` to
    `others_until`, `others_each` credits at a time (None: as much as in a minute)."""
    others_each: float | None = None
    others_from: float = 0.0
    others_until: float = float("inf")
    processes: int = 1
    """Processes among which the workers are dealt out; each has a guard and a ledger of its own."""
    bursts: float | None = None
    """Every so many seconds all workers call at once."""
    outage: tuple[float, float] | None = None
    top_ups: tuple[tuple[float, int], ...] = ()
    topup_step: int | None = None
    """What the provider says of its top-ups: multiples of so many credits."""

    @property
    def alone(self) -> bool:
        """Whether nobody spends but the calls of one guard."""
        return not self.others and self.processes == 1


class Refused(Exception):
    """The guard did not let the call in."""


class Unknown(Refused):
    """The guard had no balance to go by."""


class Died(Exception):
    """The provider ended the call half-way: 402."""


class Token(Protocol):
    """A call that was let in, as its guard sees it; amounts in credits.

    `follows` says whether it wants to be told what a running call was charged so far.
    """

    @property
    def follows(self) -> bool: ...
    def charged(self, total: Decimal) -> None: ...
    def settle(self, total: Decimal) -> None: ...


Way = Callable[[int], AbstractAsyncContextManager[Token]]
MakeWay = Callable[["Process"], Way]


class Account:
    """The provider: books what was worked up to `lag` later, and ends what it cannot book."""

    name = "simulated"
    fingerprint: str | None = None
    extra_credits = 0

    def __init__(self, scenario: Scenario, clock: VirtualClock, random: Random) -> None:
        self.lag = scenario.lag
        self.linger = scenario.linger
        self.topup_step = scenario.topup_step
        self.true = self.booked = self.lowest = scenario.credits * MICRO
        self.full = self.true
        self.requests = 0
        self.down = False
        self._clock = clock
        self._random = random
        self._bookings: list[tuple[float, int, int]] = []
        self._order = count()
        self._lately: deque[tuple[float, int]] = deque()

    def worked_lately(self) -> int:
        """What was worked in the last `lag` seconds."""
        while self._lately and self._lately[0][0] <= self._clock.mono - self.lag:
            self._lately.popleft()
        return sum(micro for _, micro in self._lately)

    def now_booked(self) -> int:
        """The balance as the provider knows it now."""
        while self._bookings and self._bookings[0][0] <= self._clock.mono:
            self.booked -= heapq.heappop(self._bookings)[2]
        return self.booked

    def work(self, micro: int) -> None:
        """One inference; raises Died where the books have nothing left for it."""
        if self.now_booked() < micro:
            raise Died
        self.true -= micro
        self.lowest = min(self.lowest, self.true)
        self._lately.append((self._clock.mono, micro))
        at = self._clock.mono + self._random.uniform(0, self.lag)
        heapq.heappush(self._bookings, (at, next(self._order), micro))

    def spend_elsewhere(self, micro: int) -> int:
        """Somebody else spends as much of it as there is."""
        taken = max(min(micro, self.now_booked(), self.true), 0)
        self.true -= taken
        self.booked -= taken
        return taken

    def top_up(self, credits: int) -> None:
        """Somebody pays."""
        self.true += credits * MICRO
        self.booked += credits * MICRO
        self.full = self.true

    async def fetch(self, _: Any) -> Balance:
        """The balance, after a round trip."""
        self.requests += 1
        await asyncio.sleep(self._random.uniform(0.05, 0.15))
        if self.down:
            raise Transient(provider=self.name, reason="the provider is down")
        seen = self.now_booked()
        await asyncio.sleep(self._random.uniform(0.05, 0.15))
        return Balance(credits=Decimal(seen) / MICRO)  # type: ignore[arg-type]


@dataclass
class Refusals:
    """Decisions, and the refusals among them for which there was headroom.

    `wrong` goes by what can be known from outside the provider, `in_hindsight` by its own books:
    those know of the last `lag` seconds what was booked already.
    """

    decisions: int = 0
    wrong: int = 0
    in_hindsight: int = 0


@dataclass
class Outcome:
    """What became of one run, in calls, credits, seconds."""

    finished: int = 0
    died: int = 0
    wasted: float = 0.0
    overspent: float = 0.0
    refusals: Refusals = field(default_factory=Refusals)
    late: Refusals = field(default_factory=Refusals)
    """The same while less than 20 % of the account is left."""
    unknown: int = 0
    """Refusals for lack of a balance."""
    longest: float = 0.0
    """For how long one caller was refused wrongly, time after time."""
    requests: int = 0
    by_others: float = 0.0
    """What somebody else spent; of several processes, beside the one that spent most."""
    overpromised: float = 0.0
    """The most that one process had promised beyond what the account held."""
    committed: float = 0.0
    """The most that its running calls might still have cost, when it promised that."""
    unexplained: float = 0.0
    """The most of an `overpromised` above what others had spent, or above `committed`."""
    first_proof: float | None = None
    """When a guard first came to believe that others spend."""
    false_proofs: int = 0
    """How often one came to believe it although nobody else had spent."""
    seconds: float = 0.0


@dataclass
class Running:
    """One call as the provider sees it."""

    kind: Kind
    parts: list[int]
    pause: float
    worked: int = 0

    @property
    def rest(self) -> int:
        """What it may still cost."""
        return self.kind.estimate * MICRO - self.worked


class Process:
    """One process with a guard of its own, as a way to guard sees it."""

    def __init__(self, world: "World", number: int) -> None:
        self.account = world.account
        jitter = f"jitter {world.seed}" + (f" {number}" if number else "")
        self.runtime = VirtualRuntime(world.clock, world.loop, Random(jitter))
        self.worked = 0
        self.calls: dict[int, Running] = {}
        """What runs for it, also what it gave up on."""
        self._world = world

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self._world.now

    @property
    def store(self) -> MemoryStore:
        """The one that all processes of this world share."""
        return self._world.store

    def believes_in_others(self) -> None:
        """Its guard has just come to believe that somebody else spends."""
        outcome = self._world.outcome
        if outcome.first_proof is None:
            outcome.first_proof = self.now
        outcome.false_proofs += not self._world.spent_beside(self)


class World:
    """One scenario under one way to guard, from a full account to an empty one."""

    LONGEST = 8 * 3600.0
    AFTERWARDS = 120.0

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.clock = VirtualClock()
        self._began = self.clock.mono
        self.loop = VirtualLoop(self.clock)
        self.account = Account(scenario, self.clock, Random(f"account {seed}"))
        self.outcome = Outcome()
        self.processes = [Process(self, number) for number in range(scenario.processes)]
        self.store = MemoryStore(self.clock)
        self._elsewhere = 0
        self._calls: dict[int, Running] = {}
        self._given_up: dict[int, Running] = {}
        self._works: set[asyncio.Task[None]] = set()
        self._numbers = count()
        self._empty_since: float | None = None

    def run(self, make: MakeWay) -> Outcome:
        """Spend the account; what became of it."""
        try:
            self.loop.run_until_complete(self._main([make(each) for each in self.processes]))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()
        outcome, account = self.outcome, self.account
        outcome.overspent = max(-account.lowest, 0) / MICRO
        outcome.requests = account.requests
        outcome.by_others = min(map(self.spent_beside, self.processes)) / MICRO
        outcome.seconds = self.now
        return outcome

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.clock.mono - self._began

    def spent_beside(self, process: Process) -> int:
        """What others than this process have spent so far."""
        return self._elsewhere + sum(each.worked for each in self.processes if each is not process)

    async def _main(self, ways: list[Way]) -> None:
        weather = [self.loop.create_task(self._others()), self.loop.create_task(self._events())]
        workers = [
            self.loop.create_task(
                self._worker(ways[number % len(ways)], self._process_of(number), number)
            )
            for number in range(self.scenario.workers)
        ]
        while not self._drained():  # noqa: ASYNC110  the only events are the clock's
            await asyncio.sleep(10)
        everybody = [*weather, *workers, *self._works]
        for task in everybody:
            task.cancel()
        await asyncio.gather(*everybody, return_exceptions=True)

    def _drained(self) -> bool:
        """Whether nothing more can be had: the run ends when all is quiet, or a little later."""
        # A top-up of this very moment may be about to come.
        more = [at for at, _ in self.scenario.top_ups if at > self.now - 1]
        if more or self.account.true >= FAST_SPEC.estimate * MICRO:
            self._empty_since = None
            return self.now > self.LONGEST
        if self._empty_since is None:
            self._empty_since = self.now
        return not self._calls or self.now - self._empty_since > self.AFTERWARDS

    async def _events(self) -> None:
        happenings = [(at, "pay", credits) for at, credits in self.scenario.top_ups]
        if self.scenario.outage is not None:
            begin, seconds = self.scenario.outage
            happenings += [(begin, "down", 0), (begin + seconds, "up", 0)]
        for at, what, credits in sorted(happenings):
            await asyncio.sleep(at - self.now)
            if what == "pay":
                self.account.top_up(credits)
            else:
                self.account.down = what == "down"

    async def _others(self) -> None:
        scenario, random = self.scenario, Random(f"others {self.seed}")
        if not scenario.others:
            return
        each = scenario.others_each or scenario.others
        await asyncio.sleep(scenario.others_from)
        while True:
            await asyncio.sleep(random.expovariate(1 / (MINUTE * each / scenario.others)))
            if self.now >= scenario.others_until:
                return
            self._elsewhere += self.account.spend_elsewhere(int(each * MICRO))

    def _process_of(self, number: int) -> Process:
        return self.processes[number % len(self.processes)]

    async def _worker(self, way: Way, process: Process, number: int) -> None:
        random = Random(f"worker {self.seed} {number}")
        await asyncio.sleep(random.uniform(0, 30))
        while True:
            kind = random.choice(KINDS)
            since: float | None = None
            for _ in range(4):
                headroom, known = self._headroom(kind)
                if await self._tried(way, process, kind, random):
                    break
                since = self._refused(headroom, known, since)
                await asyncio.sleep(random.uniform(5, 15))
            await self._rest(random)

    async def _rest(self, random: Random) -> None:
        if self.scenario.bursts is not None:
            beat = self.scenario.bursts
            await asyncio.sleep(beat - self.now % beat + random.uniform(0, 0.5))
        else:
            await asyncio.sleep(random.expovariate(1 / 10))

    def _headroom(self, kind: Kind) -> tuple[bool, bool]:
        """Whether such a call fits beyond all that running ones may cost: in truth, and knowably.

        A call that was given up may run for `linger`; what was worked in the last `lag` seconds may
        not be booked yet. Nobody outside the provider can know better.
        """
        account, running = self.account, {**self._given_up, **self._calls}.values()
        spare = account.true - kind.estimate * MICRO
        spare -= sum(each.rest for each in running)
        return spare >= 0, spare >= account.worked_lately()

    def _refused(self, headroom: bool, known: bool, since: float | None) -> float | None:
        """Note a refusal; since when this caller has been refused wrongly."""
        outcome, late = self.outcome, self._late()
        outcome.refusals.in_hindsight += headroom
        outcome.late.in_hindsight += headroom and late
        if not known:
            return None
        outcome.refusals.wrong += 1
        outcome.late.wrong += late
        since = self.now if since is None else since
        outcome.longest = max(outcome.longest, self.now - since)
        return since

    def _late(self) -> bool:
        return self.account.true < 0.2 * self.account.full

    def _promised(self, process: Process) -> None:
        """Hold what one process has promised against what there is."""
        outcome = self.outcome
        committed = sum(each.rest for each in process.calls.values())
        beyond = committed - max(self.account.true, 0)
        if beyond <= 0:
            return
        spent = min(committed, self.spent_beside(process))
        outcome.unexplained = max(outcome.unexplained, (beyond - spent) / MICRO)
        if beyond / MICRO > outcome.overpromised:
            outcome.overpromised, outcome.committed = beyond / MICRO, committed / MICRO

    async def _tried(self, way: Way, process: Process, kind: Kind, random: Random) -> bool:
        outcome = self.outcome
        outcome.refusals.decisions += 1
        outcome.late.decisions += self._late()
        run = _drawn(kind, random)
        gives_up = random.random() < self.scenario.given_up
        try:
            async with way(kind.estimate) as token:
                await self._attend(process, run, token, gives_up=gives_up)
        except Unknown:
            outcome.unknown += 1
            await asyncio.sleep(random.uniform(5, 15))
            return True
        except Refused:
            return False
        except (Died, TimeoutError):
            return True
        outcome.finished += 1
        return True

    async def _attend(
        self, process: Process, run: Running, token: Token, *, gives_up: bool
    ) -> None:
        """Wait for the provider's work, asking now and then how far it has come."""
        number = next(self._numbers)
        process.calls[number] = run
        self._promised(process)
        work = self.loop.create_task(self._provider_works(process, number, run))
        self._works.add(work)
        work.add_done_callback(self._done)
        patience = run.pause * len(run.parts) * 0.5 if gives_up else float("inf")
        # Nobody listens to what is asked for a guard that does not follow.
        last_poll = POLL_EVERY * (patience // POLL_EVERY + 1) if gives_up else None
        began = self.now
        while not work.done():
            await asyncio.wait([work], timeout=POLL_EVERY if token.follows else last_poll)
            if not work.done():
                token.charged(Decimal(run.worked) / MICRO)
                if self.now - began > patience:
                    self._given_up[number] = run
                    self.loop.call_later(self.account.linger, self._stopped, number, work)
                    raise TimeoutError
        await work
        token.settle(Decimal(run.worked) / MICRO)

    def _stopped(self, number: int, work: "asyncio.Task[None]") -> None:
        del self._given_up[number]
        work.cancel()

    def _done(self, work: "asyncio.Task[None]") -> None:
        self._works.discard(work)
        if not work.cancelled():
            work.exception()  # one that nobody waits for any more is no news

    async def _provider_works(self, process: Process, number: int, run: Running) -> None:
        self._calls[number] = run
        try:
            for part in run.parts:
                await asyncio.sleep(run.pause)
                self.account.work(part)
                run.worked += part
                process.worked += part
        except Died:
            self.outcome.died += 1
            self.outcome.wasted += run.worked / MICRO
            raise
        finally:
            del self._calls[number], process.calls[number]


def _drawn(kind: Kind, random: Random) -> Running:
    cost = int(random.triangular(kind.least, kind.estimate, kind.mode) * MICRO)
    seconds = random.uniform(kind.shortest, kind.longest)
    parts = 20 if seconds > 3 * MINUTE else 8
    each = cost // parts
    return Running(kind, [each] * (parts - 1) + [cost - each * (parts - 1)], seconds / parts)
