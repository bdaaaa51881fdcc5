"""A seeded crowd of callers over one guard, in a world that helps them little."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any, Literal

from budgets import Book, Crowd, Place
from invariants import COSTS, Broken, Watch
from provider import MICRO, Nature, Provider
from virtual import VirtualClock, VirtualLoop, VirtualRuntime

from budgetguard import learned
from budgetguard._core.errors import (
    BalanceUnavailable,
    BudgetExceeded,
    ConcurrencyLimit,
    InsufficientCredits,
)
from budgetguard._core.events import Event
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of
from budgetguard._engine.hold import Hold
from budgetguard.guard import Guard

# For how long after an outage a guard may still be backing off.
BACKOFF = 62.0
COLLECT_EVERY = 250


class ProviderFailed(Exception):
    """What a guarded call raises when the provider's work failed."""


class NeverConnected(ProviderFailed):
    """Proves that nothing was charged."""


@dataclass
class Facts:
    """What the simulation itself knows of one call, to hold the books against."""

    held: int = 0
    slots: int = 0
    charged: int = 0
    ended: int = 0
    asked: int = 0
    state: Literal["asking", "refused", "open", "leaving", "done"] = "asking"
    at: float = 0.0
    final: int | None = None
    """What it has cost in the end; what it held, if nobody says."""
    attempts: int = 0
    place: Place | None = None
    books: list[Book] = field(default_factory=list)
    answered: Callable[[], object] = lambda: None

    def bounds(self) -> tuple[int, int, int, int]:
        """What budgets hold for it, and what it has spent of them: at least and at most."""
        if self.state == "open":
            return self.rest(), self.rest(), *[self.charged + self.attempts] * 2
        spent = sorted((self.charged, self.final or 0))
        return 0, self.rest(), spent[0] + self.attempts, spent[1] + self.attempts

    def rest(self) -> int:
        """What has to be held for it."""
        return max(self.held - self.charged, 0)


class Simulation:
    """One run of `steps` calls; `trace` has a line for everything that happened, in order.

    `terms` go to the guard, over those that the seed draws. `budgets` says whether callers are in
    budgets, if the seed is not to draw that.
    """

    def __init__(self, seed: int, steps: int, *, budgets: bool | None = None, **terms: Any) -> None:
        self.random = Random(seed)
        self.steps = steps
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)
        self.trace: list[str] = []
        self.open: dict[int, Facts] = {}
        self.worked: dict[int, int] = {}
        self.failures: list[BaseException] = []
        self.reading = False
        self.exhausted_at = self.exhausted_until = self.up_since = float("-inf")
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
        self.lossy = draw.random() < 0.2
        self.dies = draw.random() < 0.2
        self._lingering: dict[int, int] = {}
        self._jitter = Random(f"jitter {seed}")
        self._drawn = {
            "floor": draw.choice([0, 0, 10]),
            "recheck_after": draw.choice([1, 5]),
            "timeout": draw.choice([3, 10]),
            "fresh_for": draw.choice([20, 300]),
            "sole_spender": _setting(draw.random(), alone=not self.nature.others),
            "on_event": draw.choice([None, self._event]),
            **terms,
        }
        # Apart, so that seeds without budgets are what they were before there were any.
        self._budgets = Random(f"budgets {seed}")
        drawn = self._budgets.random() < 0.4
        self.budgeted = drawn if budgets is None else budgets
        self.crowd: Crowd | None = None
        self.numbers = count(10**6)
        self._tasks: set[asyncio.Task[None]] = set()
        self.watch = Watch(self)
        self._begin_process()

    def _begin_process(self) -> None:
        self.runtime = VirtualRuntime(
            self.clock, self.loop, self._jitter, begins=self._look_begins, landed=self._look_landed
        )
        with runtime_of(self.runtime):  # type: ignore[arg-type]
            self.guard = Guard(self.provider, **self._drawn)
        if self.budgeted:
            elsewhere = VirtualRuntime(self.clock, self.loop, self._jitter)
            with runtime_of(elsewhere):  # type: ignore[arg-type]
                self.crowd = Crowd(self, self._budgets)
        self._guarded: dict[tuple[int, float], Callable[..., Awaitable[Any]]] = {}

    def _event(self, event: Event) -> None:
        with self._failing():
            self.watch.told(event)
        self.say(f"event {event.kind} {event.credits} {event.available}")

    def _look_begins(self) -> float | None:
        """A look is sent; with bad luck it begins late, or never."""
        with self._failing():
            self.watch.look_begins()
        lost = self.lossy and not self.reading and self.random.random() < 0.05
        self.watch.lost = lost
        return self.random.choice([None, 30.0]) if lost else 0.0

    def _look_landed(self) -> None:
        with self._failing():
            self.watch.look_landed()
        self.say("a look is over")

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """What breaks inside the library's own calls: it would go on, with a look that failed."""
        try:
            yield
        except Broken as broken:
            self.failures.append(broken)

    # What the invariants ask.

    def spare(self) -> int:
        """What the account holds beyond all that is running and may still cost; micro-credits."""
        running = sum(
            max(facts.held - self.worked.get(number, 0) * MICRO, 0)
            for number, facts in self.open.items()
        )
        promised = running + sum(self._lingering.values()) * MICRO
        if self.crowd is not None:
            promised += self.crowd.set_aside()
        return self.provider.true - promised

    def reachable(self) -> bool:
        """Whether looks succeed, and no backoff of an outage is left."""
        return (
            self.nature.prompt
            and not self.lossy
            and not self.provider.down
            and self.clock.mono > self.up_since + BACKOFF
        )

    def say(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.clock.mono - 1_000_000:12.6f} {what}")
        self.watch.happened()

    def run(self) -> None:
        """Run it to its end; raises Broken where something does not hold.

        What is dropped in a cycle is collected at set times, or else no two traces would be alike.
        """
        gc.collect()
        gc.disable()
        try:
            self.loop.run_until_complete(self._main())
        finally:
            gc.enable()
            self.loop.run_until_complete(self._close())
            self.loop.close()

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in sorted(others, key=id_of):
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
        self.runtime.die()

    async def _main(self) -> None:
        tasks = self._tasks
        busy = self.random.choice([0.02, 0.5, 3.0])
        dies_at = self.random.randrange(self.steps) if self.dies else None
        for number in range(self.steps):
            await asyncio.sleep(self.random.expovariate(1 / busy))
            if number % COLLECT_EVERY == 0:
                gc.collect()
            self._weather()
            if number == dies_at:
                await self._die(tasks)
            self.start(
                number, self._caller(number) if self.crowd is None else self.crowd.caller(number)
            )
            if self.random.random() < 0.1 and tasks:
                self.loop.call_later(
                    self.random.expovariate(1 / 5),
                    self.random.choice(sorted(tasks, key=id_of)).cancel,
                )
            self.watch.step()
        self._up()
        while tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self.watch.step()
        await self._end()

    def start(self, number: int, caller: "Coroutine[Any, Any, None]") -> None:
        """Start a caller's task."""
        task = self.loop.create_task(caller, name=f"{number:06}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._returned)

    async def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        await asyncio.sleep(seconds)

    def _returned(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self.failures.append(task.exception())

    async def _die(self, tasks: "set[asyncio.Task[None]]") -> None:
        """The process is killed; its memory is gone, and the provider works on.

        The next one begins when the provider can be done with all that, as the docs advise.
        """
        self.say("the process dies")
        self.runtime.die()
        for task in sorted(tasks, key=id_of):
            task.cancel()
        while tasks:
            await asyncio.wait(tasks)
        self.watch.begin_anew()
        self._begin_process()
        await asyncio.sleep(self.nature.linger + self.nature.lag + 0.001)

    def _up(self) -> None:
        self.provider.down = False
        self.up_since = self.clock.mono

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
            if self.crowd is not None:
                self.crowd.look()
            self.clock.offset += self.random.choice([-3600.0, -30.0, 30.0, 3600.0])
            if self.crowd is not None:
                self.clock.offset += self._budgets.choice([0.0, 0.0, -43200.0, 43200.0])
                self.crowd.look()
            self.say(f"wall clock off by {self.clock.offset:g}")
        if draw() < 0.004 and self.provider.down:
            self._up()
            self.say("provider up")
        elif draw() < 0.004:
            self.provider.down = True
            self.say("provider down")
        if draw() < 0.004:
            self.exhausted_at = self.clock.mono
            self.exhausted_until = self.exhausted_at + self.nature.lag
            self.say("the provider refused a call, says a user")
            self.guard.mark_exhausted()

    async def _caller(self, number: int) -> None:
        way = self._a_way()
        cost = self.random.choice(COSTS)
        wait = self.random.choice([0, 0, 0, 5, 60])
        arrived = self.clock.mono
        facts = Facts()
        try:
            self._asks(number, cost, facts)
            await way(number, cost, wait, facts)
        except BudgetExceeded as error:
            self.say(f"{number} refused: {error}")
            self._over_budget(number, cost, facts, error)
        except InsufficientCredits as error:
            self.say(f"{number} refused: {error}")
            self.watch.refused(error, arrived, wait, cost)
            if error.queued == 0 and wait == 0:
                self.watch.refused_again(lambda: self._refused_at_once(cost))
        except ConcurrencyLimit as error:
            self.watch.counts["slots"] += 1
            self.watch.mine(error)
            self.say(f"{number} refused: {error}")
        except BalanceUnavailable as error:
            self.watch.counts["unknown"] += 1
            self.watch.mine(error)
            self.say(f"{number} unknown: {error.reason}")
        except ProviderFailed:
            self.say(f"{number} failed")
        except asyncio.CancelledError:
            self.say(f"{number} cancelled")
            raise
        finally:
            self.watch.ended(facts, number)
            self._answered(facts)

    def _a_way(self) -> Callable[..., Awaitable[None]]:
        way = self.random.choice(
            [self._block, self._block, self._call, self._call, self._acquired, self._walk]
        )
        learns = self.crowd is not None and self._budgets.random() < 0.1
        return self._learned if learns else way

    def _asks(self, number: int, cost: int, facts: Facts) -> None:
        if self.crowd is not None:
            self.crowd.asks(self.guard, number, facts, cost * MICRO)

    def _answered(self, facts: Facts) -> None:
        if self.crowd is not None:
            self.crowd.soon(facts.answered)

    def _over_budget(self, number: int, cost: int, facts: Facts, error: BudgetExceeded) -> None:
        assert self.crowd is not None
        self.watch.mine(error)
        self.watch.counts["over budget"] += 1
        self.crowd.refused(error, facts, number)
        with self.crowd.changing_nothing() as unchanged:
            if self._refused_at_once(cost):
                unchanged()

    def _refused_at_once(self, cost: int) -> bool:
        """Ask again in the same moment; whether that was refused without a wait."""
        asking = self.guard.aacquire(cost, name="asked again")
        try:
            asking.send(None)
        except InsufficientCredits:
            return True
        except StopIteration as admitted:
            admitted.value.release()
        else:
            asking.close()
        return False

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
                    facts.final = self._cost(number, cost)
                    hold.settle(facts.final / MICRO)

    async def _learned(self, number: int, cost: int, wait: float, facts: Facts) -> None:
        """Its calls all cost the same, so it learns nothing; what is charged for it makes it grow."""
        need = self.guard.require_credits(
            cost=learned(start=cost),
            wait=wait,
            release_on=NeverConnected,
            name=f"learned {cost}",
        )
        async with need as hold:
            with self._in(number, hold, cost, 0, facts):
                await self._provider_works(number, cost, hold)
                facts.final = cost * MICRO
                hold.settle(cost)

    async def _call(self, number: int, cost: int, wait: float, facts: Facts) -> None:
        if (cost, wait) not in self._guarded:
            self._guarded[cost, wait] = self.guard.require_credits(
                min=cost, wait=wait, actual=lambda worked: worked, release_on=NeverConnected
            )(self._body)
        await self._guarded[cost, wait](number, cost, facts)

    async def _body(self, number: int, cost: int, facts: Facts) -> Any:
        with self._in(number, None, cost, 0, facts):
            await self._provider_works(number, cost, None)
            facts.final = self._cost(number, cost)
            return facts.final / MICRO

    async def _acquired(self, number: int, cost: int, wait: float, facts: Facts) -> None:
        hold = await self.guard.aacquire(cost, wait=wait, name=f"acquired {number}")
        with self._in(number, hold, cost, 0, facts):
            try:
                await self._provider_works(number, cost, hold)
            except NeverConnected:
                hold.release()
                facts.final = facts.charged
            except BaseException:
                hold.keep()
                raise
            else:
                if self.random.random() < 0.9:
                    facts.final = self._cost(number, cost)
                    hold.settle(facts.final / MICRO)
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
        left_open = self.random.random() < 0.2
        async with contextlib.nullcontext() if left_open else contextlib.aclosing(walk):
            async for part in walk:
                if part == 1 and self.random.random() < 0.3:
                    # From here on it is kept, before its own block is left.
                    facts.state, facts.final = "leaving", facts.held
                    break

    @contextlib.contextmanager
    def _in(
        self, number: int, hold: Hold | None, cost: int, slots: int, facts: Facts
    ) -> Iterator[None]:
        """The call was let in: hold it against what may be let in, and count it while it is."""
        self.say(f"{number} in at {cost}, {slots} slots")
        facts.held, facts.slots = cost * MICRO if hold is None else int(hold.amount * MICRO), slots
        self.open[number] = facts
        if self.crowd is not None:
            self.crowd.let_in(self.guard, number, facts)
        self.watch.admitted(number, cost, slots)
        try:
            yield
        except NeverConnected:
            facts.final = facts.charged
            raise
        except BaseException:
            facts.final = max(facts.held, facts.charged)
            raise
        finally:
            del self.open[number]
            facts.ended += 1
            facts.final = max(facts.held if facts.final is None else facts.final, facts.charged)
            if self.crowd is not None:
                self.crowd.ends(number, facts)
            self.say(f"{number} out after {self.worked.get(number, 0)}")

    def _cost(self, number: int, cost: int) -> int:
        """What its user says that it cost, in micro-credits; with budgets, it may be more than it held."""
        if self.crowd is not None and self._budgets.random() < 0.08:
            return (cost + self._budgets.randint(1, 20)) * MICRO
        return self.worked[number] * MICRO

    # What the provider does for a call.

    async def _provider_works(self, number: int, cost: int, hold: Hold | None) -> None:
        """Work that costs `cost` at most; goes on for a while after its client was cancelled."""
        draw = self.random
        if draw.random() < 0.03 and number not in self.worked:
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
                    self.open[number].charged = self.worked.get(number, 0) * MICRO
                if hold is not None and self.crowd is not None:
                    self._goes_further(number, hold)
                if draw.random() < 0.02:
                    raise ProviderFailed  # noqa: TRY301  as the provider's work may
            await asyncio.sleep(seconds / len(parts) if self.nature.books == "start" else 0)
        except (asyncio.CancelledError, ProviderFailed):
            self._goes_on(number, parts[done:])
            raise

    def _goes_further(self, number: int, hold: Hold) -> None:
        """It needs more, or is made again; a call whose cost is learned may have grown."""
        facts, draw = self.open[number], self._budgets.random()
        facts.held = int(hold.amount * MICRO)
        assert self.crowd is not None
        if draw < 0.05:
            hold.keep_attempt()
            if self._drawn["on_event"] is not None:
                self.watch.attempts += 1
            self.crowd.repeats(facts)
        elif draw < 0.15:
            more = self._budgets.choice(COSTS)
            with self.crowd.changing_nothing() as unchanged:
                try:
                    hold.extend(more)
                except BudgetExceeded:
                    unchanged()
                except (InsufficientCredits, BalanceUnavailable):
                    pass
                else:
                    facts.held = int(hold.amount * MICRO)

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
            self._lingering[number] = self._lingering.get(number, 0) + part
            self.loop.call_later(after, self._works_on, number, part)

    def _works_on(self, number: int, part: int) -> None:
        self._lingering[number] -= part
        self._work(number, part)

    async def _end(self) -> None:
        """Let everything come to rest, and look at the books once more."""
        terms = binding_of(self.guard).subscriber.terms
        self.reading = True
        self.nature = self.provider.nature = replace(
            self.nature, failing=0.0, latency=0.05, others=0.0
        )
        await asyncio.sleep(self.nature.linger + 2 * self.nature.lag + 1)
        for _ in range(10):
            await asyncio.sleep(terms.timeout + terms.recheck_after + 61)
            with contextlib.suppress(BalanceUnavailable):
                await self.guard.abalance(max_age=0)
        self.watch.step()
        self.watch.after_everything()
        if self.crowd is not None:
            self.crowd.after_everything()
        self.say(f"end: {self.watch.counts}, {len(self.provider.sent)} looks")


def _setting(drawn: float, *, alone: bool) -> bool | str:
    """What a guard is told of other spenders: half the time nothing, and never a lie."""
    return "auto" if drawn < 0.5 else alone and drawn < 0.75


def id_of(task: "asyncio.Task[None]") -> str:
    """A stable order, so that the same seed cancels the same task."""
    return task.get_name()
