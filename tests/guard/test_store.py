"""The whole guard against pen and paper: whatever is done with it, its ledger is the naive one."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from virtual import VirtualClock, VirtualLoop, VirtualRuntime

from budgetguard import Balance, Guard, Hold, InsufficientCredits
from budgetguard._core.amounts import MICRO, UNLIMITED
from budgetguard._core.errors import BalanceUnavailable, BudgetGuardError
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of

sys.path.append(str(Path(__file__).parents[1]))
from test_ledger import UNIT, Debit, Paper, Run, SolePaper  # the naive ledger

if TYPE_CHECKING:
    from budgetguard._core.clock import Instant

LAG, LINGER = 5.0, 30.0
FRESH_FOR, STALE_FOR = 60.0, 600.0
# So often a loop turns until all that can run has run, and no time has passed.
TURNS = 25
# Of the guards, which are of one account: floor and extra credits.
TERMS = ((0, 0), (7, 0), (0, 30))
NUMBERS = count()


class NeverConnected(Exception):
    """Nothing was charged."""


class Failed(Exception):
    """Nobody knows what was charged."""


class Even(Random):
    """Draws the most there is, so that all times are sixteenths of a second."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


class Provider:
    """Says what the machine has it say, `takes` seconds after it was asked."""

    name = "the provider"
    lag = LAG
    linger = LINGER

    def __init__(self, world: "Store", extra: int) -> None:
        self.fingerprint = world.account_name
        self.extra_credits = extra
        self._world = world

    async def fetch(self, _: Any) -> Balance:
        """The balance as it stood when it was asked for."""
        world = self._world
        sent, balance = world.clock.now(), world.balance
        await asyncio.sleep(world.takes)
        if world.failing:
            raise BalanceUnavailable(provider=self.name, reason="down")
        world.arrived.append((sent, balance))
        return balance


@dataclass(eq=False)
class Guarded:
    """One guarded piece of work, and how it stands on paper."""

    terms: tuple[int, int]
    needed: int
    cost: int
    slots: int
    lag: float
    linger: float
    ended: "asyncio.Future[int | None]"
    constant: bool = False
    run: Run | None = None
    hold: Hold | None = None
    task: "asyncio.Task[None] | None" = None


COST = st.integers(0, 40)
CONSTANT = st.sampled_from([3, 10])
SIXTEENTHS = st.integers(0, 160).map(lambda n: n * UNIT)
GUARD = st.integers(0, len(TERMS) - 1)
ANY = st.integers(0, 1000)
WAIT = st.sampled_from([0, 0, 4, 64])
OTHER_LAG = st.none() | SIXTEENTHS
LIMIT = st.none() | st.tuples(st.integers(50, 200), st.none() | st.integers(0, 100))
ENDS = st.none() | COST | st.sampled_from([NeverConnected, Failed])


class Store(RuleBasedStateMachine):
    """Guards of one account, in a world without waiting; amounts are credits, on paper micro-credits."""

    sole_spender = False

    def __init__(self) -> None:
        super().__init__()
        self.account_name = f"account {next(NUMBERS)}"
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)
        self.runtime = VirtualRuntime(self.clock, self.loop, Even(), landed=self.landed)
        self.paper: Paper = SolePaper() if self.sole_spender else Paper()
        self.seen_at: Instant | None = None
        # Whether those who were admitted begin at once, with nothing overrun in between.
        self.in_order = True
        self.arrived: list[tuple[Instant, Balance]] = []
        self.balance = Balance(credits=100)
        self.takes = UNIT
        self.failing = False
        self.calls: list[Guarded] = []
        self.decorated: dict[tuple[int, int, bool], Callable[..., Coroutine[Any, Any, Any]]] = {}
        with runtime_of(self.runtime):  # type: ignore[arg-type]
            self.guards = [
                Guard(
                    Provider(self, extra),
                    floor=floor,
                    fresh_for=FRESH_FOR,
                    stale_for=STALE_FOR,
                    sole_spender="auto"
                    if self.sole_spender and (floor or extra)
                    else self.sole_spender,
                )
                for floor, extra in TERMS
            ]

    @property
    def now(self) -> float:
        """The monotonic time."""
        return self.clock.mono

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, and whatever else comes meanwhile."""
        self.loop.run_until_complete(work)

    async def turn(self) -> None:
        """Let all run that can run without time passing, and check the outcome."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.in_order = True
        for call in self.calls:
            if call.task is not None and call.task.done():
                self.over(call.task)
                call.task = None
        self.calls = [call for call in self.calls if call.task or (call.run and call.run.open)]

    def over(self, task: "asyncio.Task[None]") -> None:
        """A caller is refused, or its call ends, in known ways alone."""
        if not task.cancelled():
            error = task.exception()
            known = BudgetGuardError, NeverConnected, Failed, asyncio.CancelledError
            if error is not None and not isinstance(error, known):
                raise error
            if isinstance(error, InsufficientCredits):
                assert error.available < error.needed

    # On paper.

    def landed(self) -> None:
        """A refresh is over; none that it admitted has run yet."""
        for sent, balance in self.arrived:
            limit, used = balance.cost_limit, balance.credits_used
            ceiling = UNLIMITED if None in {limit, used} else int((limit - used) * MICRO)
            credits = UNLIMITED if balance.credits is None else int(balance.credits * MICRO)
            rest = (limit,) if self.sole_spender else ()
            if self.paper.see(sent.mono, credits, ceiling, *rest):
                self.seen_at = sent
        self.arrived.clear()

    def begin(self, call: Guarded) -> None:
        """A call was admitted, and its credits are there, unless more happened since."""
        if call.needed and self.in_order:
            assert self.paper.available(*(each * MICRO for each in call.terms)) >= call.needed
        call.run = Run(None, call.cost, call.slots)  # type: ignore[arg-type]
        self.paper.runs.append(call.run)

    def settle(self, call: Guarded, actual: int) -> None:
        """A call cost so much."""
        run = call.run
        assert run is not None
        self.paper.record(Debit(max(actual - run.charged, 0), self.now, call.lag))
        run.open = False
        self.in_order = self.in_order and actual <= run.amount

    def keep(self, call: Guarded) -> None:
        """Nobody knows what a call cost."""
        run = call.run
        assert run is not None
        rest = max(run.amount - run.charged, 0)
        self.paper.record(Debit(rest, self.now, call.linger + call.lag, run.slots))
        run.open = False

    async def work(self, call: Guarded, hold: Hold | None) -> int:
        """What is guarded: it goes on until the machine says how it ends."""
        self.begin(call)
        call.hold = hold
        assert call.run is not None
        try:
            said = await call.ended
            actual = call.run.amount if said is None else said * MICRO
        except NeverConnected:
            call.run.open = False
            raise
        except BaseException:
            if call.run.open:
                self.keep(call)
            raise
        finally:
            call.hold = None
        if call.run.open:
            if hold is not None and said is not None:
                hold.settle(said)
            self.settle(call, actual)
        return actual // MICRO

    # The ways in.

    def guarded(
        self, which: int, needed: int, cost: int, slots: int = 0, lag: float | None = None
    ) -> Guarded:
        """A call that is about to ask."""
        call = Guarded(
            TERMS[which],
            max(needed, cost) * MICRO,
            cost * MICRO,
            slots,
            LAG if lag is None else lag,
            LINGER,
            self.loop.create_future(),
        )
        self.calls.append(call)
        return call

    def start(self, call: Guarded, work: Coroutine[Any, Any, Any]) -> None:
        """Have a caller of its own ask."""
        call.task = self.loop.create_task(work)
        self.run(self.turn())

    def decorate(self, which: int, cost: int, *, actual: bool) -> Callable[..., Any]:
        """A decorated function of that cost, the same each time."""
        known = self.decorated.get((which, cost, actual))
        if known is None:
            known = self.decorated[which, cost, actual] = self.guards[which].require_credits(
                min=cost, actual=(lambda said: said) if actual else None, release_on=NeverConnected
            )(self.work)
        return known

    @initialize(limit=LIMIT)
    def look_at_first(self, limit: tuple[int, int | None] | None) -> None:
        """Most things need a balance."""
        self.another_balance(100, limit, None)
        self.snapshot(0)

    @rule(which=GUARD, cost=CONSTANT, actual=st.booleans())
    def call(self, which: int, cost: int, actual: bool) -> None:
        """A decorated coroutine function of constant cost is called."""
        call = self.guarded(which, cost, cost)
        call.constant = not actual
        self.start(call, self.decorate(which, cost, actual=actual)(call, None))

    @rule(
        which=GUARD,
        cost=CONSTANT,
        ends=st.lists(st.tuples(ENDS, st.sampled_from([0, 0, 1, 32])), min_size=2, max_size=6),
    )
    def call_again_and_again(self, which: int, cost: int, ends: list[tuple[Any, int]]) -> None:
        """Calls that begin and end before anybody takes in the end of the first."""

        async def one_by_one() -> None:
            self.in_order = False
            for said, pause in ends:
                call = self.guarded(which, cost, cost)
                self.end_future(call, said)
                with contextlib.suppress(BudgetGuardError, Failed, NeverConnected):
                    await self.decorate(which, cost, actual=True)(call, None)
                if binding_of(self.guards[0]).account._schedule.known.in_flight:
                    # A refresh that a busy loop holds up for too long counts as lost.
                    await asyncio.sleep(pause * UNIT)
                else:
                    self.clock.mono += pause * UNIT
            await self.turn()

        self.run(one_by_one())

    @rule(which=GUARD, needed=COST)
    def check(self, which: int, needed: int) -> None:
        """A call that holds nothing leaves nothing."""

        async def once() -> None:
            with contextlib.suppress(BudgetGuardError):
                await self.guards[which].require_credits(min=needed, cost=0)(nothing)()
            await self.turn()

        self.run(once())

    @rule(
        which=GUARD,
        needed=COST,
        cost=COST,
        slots=st.integers(0, 2),
        wait=WAIT,
        lag=OTHER_LAG,
    )
    def block(
        self, which: int, needed: int, cost: int, slots: int, wait: int, lag: float | None
    ) -> None:
        """A block is entered."""
        call = self.guarded(which, needed, cost, slots, lag)
        block = self.guards[which].require_credits(
            min=needed, cost=cost, slots=slots, wait=wait, lag=lag, release_on=NeverConnected
        )

        async def enter() -> None:
            async with block as hold:
                await self.work(call, hold)

        self.start(call, enter())

    @rule(which=GUARD, needed=COST, cost=COST, slots=st.integers(0, 2), wait=WAIT)
    def acquire(self, which: int, needed: int, cost: int, slots: int, wait: int) -> None:
        """A hold is acquired, and its owner keeps it."""
        call = self.guarded(which, needed, cost, slots)

        async def ask() -> None:
            call.hold = await self.guards[which].aacquire(needed, cost=cost, slots=slots, wait=wait)
            self.begin(call)

        self.start(call, ask())

    @rule(which=GUARD, more=st.integers(1, 20), slots=st.integers(0, 1), again=st.booleans())
    def want_more_than_there_is(self, which: int, more: int, slots: int, again: bool) -> None:
        """Callers wait for what others hold."""
        if self.seen_at is not None:
            floor, extra = TERMS[which]
            available = self.paper.available(floor * MICRO, extra * MICRO)
            if available != UNLIMITED:
                needed = max(int(available) // MICRO, 0) + more
                self.acquire(which, needed, more, slots, 64)
                if again:
                    self.block(which, more, 0, slots, 64, None)

    # The ways out.

    def pick(self, which: int) -> Guarded | None:
        """A call whose hold is accessible."""
        found = [call for call in self.calls if call.hold and call.run and call.run.open]
        return found[which % len(found)] if found else None

    def end_future(self, call: Guarded, said: Any) -> None:
        """Say how a call ends."""
        if said is None or isinstance(said, int):
            call.ended.set_result(said if not call.constant else None)
        else:
            call.ended.set_exception(said())
            call.ended.exception()  # looked at, should nobody await it

    @precondition(lambda self: any(call.task for call in self.calls))
    @rule(which=ANY, said=ENDS)
    def end(self, which: int, said: Any) -> None:
        """A call comes to its end."""
        running = [call for call in self.calls if call.task and call.run]
        calls = [call for call in running if not call.ended.done()]
        if calls:
            self.end_future(calls[which % len(calls)], said)
            self.run(self.turn())

    @precondition(lambda self: any(call.task for call in self.calls))
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        """A caller is cancelled, waiting or running."""
        tasks = [call.task for call in self.calls if call.task]
        tasks[which % len(tasks)].cancel()
        self.run(self.turn())

    @precondition(lambda self: self.calls)
    @rule(which=ANY, how=st.sampled_from(["settle", "release", "keep"]), said=st.none() | COST)
    def end_by_hand(self, which: int, how: str, said: int | None) -> None:
        """A hold is ended by hand."""
        call = self.pick(which)
        if call is not None and call.hold is not None and call.run is not None:
            if how == "settle":
                call.hold.settle(said)
                self.settle(call, call.run.amount if said is None else said * MICRO)
            elif how == "keep":
                call.hold.keep()
                self.keep(call)
            else:
                call.hold.release()
                call.run.open = False
            self.run(self.turn())

    @precondition(lambda self: self.calls)
    @rule(which=ANY, whom=ANY)
    def release_and_cancel(self, which: int, whom: int) -> None:
        """Freed credits go to a waiter that is cancelled before it notices."""
        call = self.pick(which)
        if call is not None and call.run is not None:
            rest = (call.run.amount - call.run.charged) // MICRO
            self.want_more_than_there_is(whom % len(TERMS), max(rest, 1), 0, again=False)
        waiting = [each for each in self.calls if each.run is None and each.task is not None]
        if call is not None and call.hold is not None and call.run is not None:
            call.hold.release()
            call.run.open = False
            if waiting:
                task = waiting[whom % len(waiting)].task
                assert task is not None
                task.cancel()
            self.run(self.turn())

    @precondition(lambda self: self.calls)
    @rule(which=ANY)
    def drop(self, which: int) -> None:
        """A hold without any reference is kept."""
        call = self.pick(which)
        if call is not None and call.task is None:
            self.keep(call)
            call.hold = None
            self.run(self.turn())

    @precondition(lambda self: self.calls)
    @rule(which=ANY, totals=st.lists(COST, min_size=1, max_size=3))
    def charged(self, which: int, totals: list[int]) -> None:
        """The provider says what it has charged of a call, in whatever order."""
        call = self.pick(which)
        if call is not None and call.hold is not None and call.run is not None:
            for total in totals:
                call.hold.charged(total)
                if total * MICRO > call.run.charged:
                    self.paper.record(Debit(total * MICRO - call.run.charged, self.now, call.lag))
                    call.run.charged = total * MICRO
            self.run(self.turn())

    @precondition(lambda self: self.calls)
    @rule(which=ANY, more=COST)
    def extend(self, which: int, more: int) -> None:
        """A call turns out longer."""
        call = self.pick(which)
        if call is not None and call.hold is not None and call.run is not None:
            try:
                call.hold.extend(more)
                call.run.amount += more * MICRO
            except BudgetGuardError as refused:
                # Its frames would hold on to the hold until garbage is collected.
                refused.__traceback__ = None
            self.run(self.turn())

    # The world.

    @rule(seconds=SIXTEENTHS | st.sampled_from([LAG, LINGER + LAG, FRESH_FOR, STALE_FOR]))
    def time_passes(self, seconds: float) -> None:
        """Refreshes come that are due, and waiting callers go that are tired."""

        async def pause() -> None:
            await asyncio.sleep(seconds)
            await self.turn()

        self.run(pause())

    @rule(seconds=st.sampled_from([-100, 30, 100]))
    def wall_clock_jumps(self, seconds: int) -> None:
        """Somebody sets the clock."""
        self.clock.offset += seconds

    @rule(
        credits=st.none() | st.integers(-10, 200), limit=LIMIT, slots=st.none() | st.integers(1, 3)
    )
    def another_balance(
        self,
        credits: int | None,
        limit: tuple[int, int | None] | None,
        slots: int | None,
    ) -> None:
        """Whatever the provider says from now on."""
        most, used = limit or (None, None)
        self.balance = Balance(
            credits=credits, max_concurrency=slots, cost_limit=most, credits_used=used
        )

    @rule(
        quarters=st.lists(st.integers(0, 4), min_size=1, max_size=3),
        topped_up=st.sampled_from([0, 0, 0, 10, 50]),
        which=GUARD,
    )
    def calls_are_charged(self, quarters: list[int], topped_up: int, which: int) -> None:
        """Parts of what is held and pending are recorded, and a refresh shows each."""
        for quarter in quarters:
            pending = sum(debit.amount for debit in self.paper.debits)
            part = (self.paper.held() + pending) // MICRO * quarter // 4
            credits, used = self.balance.credits, self.balance.credits_used
            self.balance = replace(
                self.balance,
                credits=None if credits is None else credits - part + topped_up,
                credits_used=None if used is None else used + part,
            )
            self.snapshot(which)

    @rule(failing=st.sampled_from([False, False, True]), takes=st.sampled_from([UNIT, UNIT, 3.0]))
    def weather(self, failing: bool, takes: float) -> None:
        """The provider is up or down, fast or slow."""
        self.failing, self.takes = failing, takes

    @rule(which=GUARD)
    def snapshot(self, which: int) -> None:
        """Somebody wants a balance of this moment."""

        async def read() -> None:
            with contextlib.suppress(BalanceUnavailable):
                await self.guards[which].abalance(max_age=0)
            await self.turn()

        self.run(read())

    @rule(which=GUARD)
    def exhausted(self, which: int) -> None:
        """A call met a 402."""
        self.guards[which].mark_exhausted()
        self.paper.exhaust(self.now, LAG)
        self.seen_at = self.clock.now()
        self.run(self.turn())

    # What has to hold.

    @invariant()
    def the_ledger_is_the_naive_one(self) -> None:
        """Every figure of every guard."""
        paper, seen_at = self.paper, self.seen_at
        known = seen_at is not None and self.clock.now().since(seen_at) <= STALE_FOR
        for guard, (floor, extra) in zip(self.guards, TERMS, strict=True):
            available = guard.available
            naive = paper.available(floor * MICRO, extra * MICRO) if known else None
            assert (None if available is None else float(available) * MICRO) == naive
        ledger = binding_of(self.guards[0]).account.ledger
        assert ledger.held == paper.held()
        assert ledger.pending == sum(debit.amount for debit in paper.debits)
        assert ledger.running == sum(run.open for run in paper.runs)
        assert ledger.slots_in_use == sum(run.slots for run in paper.runs if run.open) + sum(
            debit.slots for debit in paper.debits
        )
        if seen_at is not None:
            assert ledger.snapshot is not None
            assert ledger.snapshot.sent == seen_at
            assert ledger.room == paper.available(0, 0)

    def teardown(self) -> None:
        """When everything has finished and is shown, nothing is left, and no waiter remains."""
        try:
            self.run(self.end_all())
            ledger = binding_of(self.guards[0]).account.ledger
            assert (ledger.held, ledger.pending, ledger.running, ledger.slots_in_use) == (0,) * 4
            assert not binding_of(self.guards[0]).account.wait_queue.queue
        finally:
            self.runtime.die()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    async def end_all(self) -> None:
        """Cancel and drop whatever is open, and refresh when a balance can show it."""
        for call in self.calls:
            if call.task is not None:
                call.task.cancel()
            call.hold = None
        self.failing = False
        await asyncio.sleep(LINGER + LAG + STALE_FOR)
        await self.guards[0].abalance(max_age=0)
        await self.turn()


class SoleStore(Store):
    """The same where one of the guards says that nobody else spends."""

    sole_spender = True


async def nothing() -> None:
    """A call without cost."""


LONG = bool(os.environ.get("BUDGETGUARD_LONG"))
Store.TestCase.settings = settings(
    max_examples=1250 if LONG else 100, stateful_step_count=40, deadline=None
)
SoleStore.TestCase.settings = Store.TestCase.settings
TestStore = Store.TestCase
TestSoleStore = SoleStore.TestCase
