"""A seeded crowd of callers over one guard, and what has to hold at every moment of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from provider import MICRO, Nature, Provider
from virtual import VirtualClock, VirtualLoop, VirtualRuntime

from budgetguard.errors import BalanceUnavailable, ConcurrencyLimit, InsufficientCredits
from budgetguard.events import Event
from budgetguard.guard import Guard
from budgetguard.hold import Hold
from budgetguard.process import runtime_of


class Broken(AssertionError):
    """An invariant does not hold."""


class ProviderFailed(Exception):
    """What a guarded call raises when the provider's work failed."""


class NeverConnected(ProviderFailed):
    """Proves that nothing was charged."""


@dataclass
class Facts:
    """What the simulation itself knows of one call, to hold the books against."""

    held: int = 0
    slots: int = 0
    ended: int = 0


class Simulation:
    """One run of `steps` calls; `trace` has a line for everything that happened, in order."""

    def __init__(self, seed: int, steps: int, **terms: Any) -> None:
        self.random = Random(seed)
        self.steps = steps
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)
        self.runtime = VirtualRuntime(self.clock, self.loop, Random(f"jitter {seed}"))
        self.trace: list[str] = []
        self.open: dict[int, Facts] = {}
        self.begun = 0
        self.counts = {"admitted": 0, "refused": 0, "unknown": 0, "slots": 0}
        draw = self.random
        self.nature = Nature(
            lag=draw.choice([0.0, 1.0, 5.0, 60.0]),
            linger=draw.choice([0.0, 30.0, 300.0]),
            books=draw.choice(["start", "per inference", "end"]),
            latency=draw.choice([0.05, 0.3, 2.0, 6.0]),
            failing=draw.choice([0.0, 0.0, 0.1, 0.5]),
            slots=draw.choice([None, None, 1, 5]),
            others=draw.choice([0.0, 0.0, 0.0, 0.05]),
        )
        self.provider = Provider(
            self.nature, draw.choice([60, 300, 2000]), self.clock, Random(f"provider {seed}")
        )
        self.jumps = draw.random() < 0.3
        self.guard = self._guard(terms)
        self.last_sent = float("-inf")
        self.worked: dict[int, int] = {}

    def _guard(self, terms: dict[str, Any]) -> Guard:
        draw = self.random
        drawn = {
            "floor": draw.choice([0, 0, 10]),
            "recheck_after": draw.choice([1, 5]),
            "timeout": draw.choice([3, 10]),
            "fresh_for": draw.choice([20, 300]),
            "on_event": draw.choice([None, self._event]),
        }
        with runtime_of(self.runtime):  # type: ignore[arg-type]
            return Guard(self.provider, **{**drawn, **terms})

    def _event(self, event: Event) -> None:
        self.say(f"event {event.kind} {event.credits} {event.available}")

    def say(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.clock.mono - 1_000_000:12.6f} {what}")

    def run(self) -> None:
        """Run it to its end; raises Broken where something does not hold."""
        try:
            self.loop.run_until_complete(self._main())
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    async def _main(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        busy = self.random.choice([0.02, 0.5, 3.0])
        for number in range(self.steps):
            await asyncio.sleep(self.random.expovariate(1 / busy))
            self._weather()
            task = self.loop.create_task(self._caller(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if self.random.random() < 0.1 and tasks:
                self.loop.call_later(
                    self.random.expovariate(1 / 5),
                    self.random.choice(sorted(tasks, key=id_of)).cancel,
                )
            self.check()
        self.provider.down = False
        while tasks:
            await asyncio.wait(tasks)
        await self._end()

    def _weather(self) -> None:
        """What the world does besides: others spend, somebody pays, clocks jump, links break."""
        draw = self.random.random
        if self.nature.others and draw() < 0.05:
            self.provider.spend_elsewhere(self.random.randint(1, 3) * MICRO)
        if draw() < 0.004:
            credits = self.random.randint(20, 400)
            self.provider.top_up(credits)
            self.say(f"top-up {credits}")
        if self.jumps and draw() < 0.01:
            self.clock.offset += self.random.choice([-3600.0, -30.0, 30.0, 3600.0])
            self.say(f"wall clock off by {self.clock.offset:g}")
        if draw() < 0.004:
            self.provider.down = not self.provider.down
            self.say(f"provider {'down' if self.provider.down else 'up'}")
        if draw() < 0.004:
            self.say("the provider refused a call, says a user")
            self.guard.mark_exhausted()

    async def _caller(self, number: int) -> None:
        way = self.random.choice([self._block, self._block, self._call, self._acquired, self._walk])
        cost = self.random.choice([1, 5, 10, 50])
        wait = self.random.choice([0, 0, 0, 5, 60])
        facts = Facts()
        try:
            await way(number, cost, wait, facts)
        except InsufficientCredits as error:
            self.counts["refused"] += 1
            self.say(f"{number} refused: {error}")
            self._check_refusal(error)
        except ConcurrencyLimit as error:
            self.counts["slots"] += 1
            self.say(f"{number} refused: {error}")
        except BalanceUnavailable as error:
            self.counts["unknown"] += 1
            self.say(f"{number} unknown: {error.reason}")
        except ProviderFailed:
            self.say(f"{number} failed")
        except asyncio.CancelledError:
            self.say(f"{number} cancelled")
            raise
        finally:
            if facts.ended > 1:
                msg = f"S2: call {number} ended {facts.ended} times"
                raise Broken(msg)

    # The ways of guarding a call.

    async def _block(self, number: int, cost: int, wait: float, facts: Facts) -> None:
        slots = self.random.choice([0, 1]) if self.nature.slots else 0
        block = self.guard.require_credits(
            min=cost, slots=slots, wait=wait, release_on=NeverConnected, name=f"block {number}"
        )
        async with block as hold:
            with self._in(number, hold, cost, slots, facts):
                await self._provider_works(number, cost, hold)
                if self.random.random() < 0.5:
                    hold.settle(self.worked[number])

    async def _call(self, number: int, cost: int, wait: float, facts: Facts) -> None:
        guarded = self.guard.require_credits(
            min=cost, wait=wait, actual=lambda worked: worked, release_on=NeverConnected
        )(self._body)
        await guarded(number, cost, facts)

    async def _body(self, number: int, cost: int, facts: Facts) -> Any:
        with self._in(number, None, cost, 0, facts):
            await self._provider_works(number, cost, None)
            return self.worked[number]

    async def _acquired(self, number: int, cost: int, wait: float, facts: Facts) -> None:
        hold = await self.guard.aacquire(cost, wait=wait, name=f"acquired {number}")
        with self._in(number, hold, cost, 0, facts):
            try:
                await self._provider_works(number, cost, hold)
            except NeverConnected:
                hold.release()
            except BaseException:
                hold.keep()
                raise
            else:
                if self.random.random() < 0.9:
                    hold.settle(self.worked[number])
                # Otherwise it is dropped while open, and has to be kept.
        del hold

    async def _walk(self, number: int, cost: int, wait: float, facts: Facts) -> None:
        @self.guard.require_credits(min=cost, wait=wait, release_on=NeverConnected)
        async def steps() -> AsyncIterator[int]:
            with self._in(number, None, cost, 0, facts):
                for part in range(3):
                    await self._provider_works(number, cost // 2 if part else 0, None)
                    yield part

        walk = steps()
        async with contextlib.aclosing(walk):
            async for part in walk:
                if part == 1 and self.random.random() < 0.3:
                    break

    @contextlib.contextmanager
    def _in(
        self, number: int, hold: Hold | None, cost: int, slots: int, facts: Facts
    ) -> Iterator[None]:
        """The call was let in: hold it against what may be let in, and count it while it is."""
        self.counts["admitted"] += 1
        self.say(f"{number} in at {cost}, {slots} slots")
        facts.held, facts.slots = cost * MICRO, slots
        self.open[number] = facts
        self._check_admission(number, slots)
        try:
            yield
        finally:
            del self.open[number]
            facts.ended += 1
            self.say(f"{number} out after {self.worked.get(number, 0)}")

    # What the provider does for a call.

    async def _provider_works(self, number: int, cost: int, hold: Hold | None) -> None:
        """Work that costs `cost` at most; goes on for a while after its client was cancelled."""
        draw = self.random
        if draw.random() < 0.03:
            raise NeverConnected
        total = draw.randint(0, cost)
        parts = self._parts(total)
        seconds = draw.expovariate(1 / 5)
        done = 0
        try:
            for index, part in enumerate(parts):
                if self.nature.books != "start" or index:
                    await asyncio.sleep(seconds / len(parts))
                self._work(number, part)
                done = index + 1
                if hold is not None and draw.random() < 0.3:
                    hold.charged(self.worked.get(number, 0))
                if draw.random() < 0.02:
                    raise ProviderFailed  # noqa: TRY301  as the provider's work may
            await asyncio.sleep(seconds / len(parts) if self.nature.books == "start" else 0)
        except (asyncio.CancelledError, ProviderFailed):
            self._goes_on(number, parts[done:])
            raise

    def _parts(self, total: int) -> list[int]:
        if self.nature.books != "per inference" or total < 4:
            return [total]
        return [total // 4] * 3 + [total - total // 4 * 3]

    def _work(self, number: int, credits: int) -> None:
        self.worked[number] = self.worked.get(number, 0) + credits
        self.provider.work(credits * MICRO)
        self.say(f"{number} worked {credits}, {self.provider.true // MICRO} left")

    def _goes_on(self, number: int, parts: list[int]) -> None:
        for part in parts:
            after = self.random.uniform(0, self.nature.linger)
            self.loop.call_later(after, self._work, number, part)

    # What has to hold.

    def check(self) -> None:
        """S1, S2, S4 and S6, between any two steps."""
        ledger = self.guard.account.ledger
        if self.provider.lowest + self.provider.spent_by_others < 0:
            msg = f"S1: overspent, {self.provider.lowest / MICRO} at the lowest"
            raise Broken(msg)
        if self.provider.most_in_flight > 1:
            msg = f"S6: {self.provider.most_in_flight} looks in flight at once"
            raise Broken(msg)
        look = ledger.look
        if look is not None:
            if look.sent.mono < self.last_sent:
                msg = "S4: an older look replaced a newer one"
                raise Broken(msg)
            self.last_sent = look.sent.mono

    def _check_admission(self, number: int, slots: int) -> None:
        ledger = self.guard.account.ledger
        if ledger.look is None:
            msg = f"S3: call {number} was let in without a balance"
            raise Broken(msg)
        if slots and self.nature.slots:
            using = sum(facts.slots for facts in self.open.values())
            if using > self.nature.slots:
                msg = f"{using} sessions at once, {self.nature.slots} allowed"
                raise Broken(msg)

    def _check_refusal(self, error: InsufficientCredits) -> None:
        sum_ = error.balance + error.extra - error.held - error.pending - error.queued - error.floor
        if sum_ != error.available:
            msg = f"the figures of a refusal do not add up: {error}"
            raise Broken(msg)
        if error.available >= error.needed:
            msg = f"refused although enough was available: {error}"
            raise Broken(msg)

    async def _end(self) -> None:
        """L2: after everything has ended, nothing is held and the books equal the provider's."""
        terms = self.guard.asker.terms
        self.nature = self.provider.nature = Nature(
            **{**vars_of(self.nature), "failing": 0.0, "latency": 0.05, "others": 0.0}
        )
        await asyncio.sleep(self.nature.linger + 2 * self.nature.lag + 1)
        for _ in range(10):
            await asyncio.sleep(terms.timeout + terms.recheck_after + 61)
            with contextlib.suppress(BalanceUnavailable):
                await self.guard.abalance(max_age=0)
        available = self.guard.available
        ledger = self.guard.account.ledger
        if (ledger.held, ledger.pending, ledger.running, ledger.slots_in_use) != (0, 0, 0, 0):
            msg = f"L2: held {ledger.held}, pending {ledger.pending}, running {ledger.running}"
            raise Broken(msg)
        true = self.provider.true - terms.floor
        if available is None or int(available * MICRO) != true:
            msg = f"L2: {available} available, {true / MICRO} there"
            raise Broken(msg)
        self.say(f"end: {self.counts}, {len(self.provider.sent)} looks")


def id_of(task: "asyncio.Task[None]") -> str:
    """A stable order, so that the same seed cancels the same task."""
    return task.get_name()


def vars_of(nature: Nature) -> dict[str, Any]:
    """Its fields."""
    return {name: getattr(nature, name) for name in nature.__dataclass_fields__}
