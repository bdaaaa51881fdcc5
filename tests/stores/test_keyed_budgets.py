"""Keyed budgets in a shared store: they count over all its processes, for which a loop's own time goes by."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from in_memory import MemoryLink, MemoryStore
from virtual import VirtualClock, VirtualLoop, VirtualRuntime

from budgetguard import (
    Balance,
    BalanceUnavailable,
    BudgetExceeded,
    Guard,
)
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import Message, Reply
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of
from budgetguard.budget import Budget

HOUR = 3600.0


class DistantStore(MemoryStore):
    """A store a millisecond away, which hears of its members' deaths by their silence."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock, expires=True)

    def link(self, account: str, runtime: Any) -> MemoryLink:
        link = DistantLink(self, account, runtime, f"member {len(self.links) + 1}")
        self.links[link.member] = link
        return link

    def restart_empty(self) -> None:
        """All is forgotten but who the members are: each has to say what it holds."""
        for account, head in self.heads.items():
            living = [name for name, each in head.members.items() if not each.gone]
            self.heads[account] = SharedHead(self._epoch(), await_members=living)


class DistantLink(MemoryLink):
    """One process's link to the store."""

    async def exchange(self, message: Message) -> Reply:
        await asyncio.sleep(0.001)
        reply = await super().exchange(message)
        await asyncio.sleep(0.001)
        return reply


class Account:
    """The account at the provider."""

    name = "prov"
    fingerprint = "canary-fingerprint"
    lag = 5
    linger = 30
    extra_credits = 0

    def __init__(self, credits: int) -> None:
        self.credits = credits
        self.sent = 0

    async def fetch(self, client: object) -> Balance:
        self.sent += 1
        await asyncio.sleep(0.01)
        return Balance(credits=self.credits)


class World:
    """Processes with a guard each, on one loop."""

    def __init__(self, processes: int, credits: int = 10_000, **settings: Any) -> None:
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)
        self.store = DistantStore(self.clock)
        self.account = Account(credits)
        self.runtimes = [VirtualRuntime(self.clock, self.loop, Random(n)) for n in range(processes)]
        self.guards = list[Guard]()
        for runtime in self.runtimes:
            with runtime_of(runtime):
                self.guards.append(Guard(self.account, store=self.store, **settings))
        self.began = self.clock.mono

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.clock.mono - self.began

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(work, 1_000_000))


@pytest.fixture
def world() -> Iterable[Callable[..., World]]:
    """Make a world, which is closed after the test."""
    made = list[World]()

    def make(*args: Any, **settings: Any) -> World:
        made.append(World(*args, **settings))
        return made[-1]

    yield make
    for each in made:
        each.loop.run_until_complete(_cancel_all())
        each.loop.close()


async def _cancel_all() -> None:
    tasks = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def user(guard: Guard, limit: int = 100, *, key: str = "ada", per: Any = "day") -> Budget:
    """The budget of one user."""
    return guard.budget(limit, name="user", key=key, per=per)


async def call(
    guard: Guard, cost: int = 1, seconds: float = 0.01, *, wait: float = 0, **budget: Any
) -> None:
    """One call of a user."""
    with user(guard, **budget):
        async with guard.require_credits(min=cost, wait=wait, name="call"):
            await asyncio.sleep(seconds)


def figures(guard: Guard, **budget: Any) -> tuple[Decimal, Decimal, Decimal]:
    """What is spent, held and left, as a process sees it."""
    its = user(guard, **budget)
    return its.spent, its.held, its.left


async def settle(world: World) -> None:
    """Let all processes tell what they have to."""
    await asyncio.sleep(3)


def kinds(results: list[Any]) -> dict[str, int]:
    names = ["ok" if each is None else type(each).__name__ for each in results]
    return {name: names.count(name) for name in names}


# What is admitted.


def test_a_limit_counts_over_all_processes(world: Callable[..., World]) -> None:
    """Of many calls at once, as many are admitted as fit, and not one more."""
    its = world(3)

    async def work() -> None:
        calls = [call(its.guards[n % 3]) for n in range(150)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert kinds(results) == {"ok": 100, "BudgetExceeded": 50}
        await settle(its)
        for guard in its.guards:
            with pytest.raises(BudgetExceeded):
                await call(guard)
            assert figures(guard) == (100, 0, 0)

    its.run(work())


def test_calls_one_after_the_other_count_as_well(world: Callable[..., World]) -> None:
    """Also where each process has slack enough for all of them."""
    its = world(2)

    async def work() -> None:
        admitted = 0
        for n in range(30):
            try:
                await call(its.guards[n % 2], 10)
                admitted += 1
            except BudgetExceeded:
                pass
        assert admitted == 10

    its.run(work())


def test_each_key_has_a_budget_of_its_own(world: Callable[..., World]) -> None:
    """And each period: one used up leaves the others whole."""
    its = world(2)

    async def work() -> None:
        await call(its.guards[0], 100)
        with pytest.raises(BudgetExceeded):
            await call(its.guards[1])
        await call(its.guards[1], 100, key="bob")
        await call(its.guards[1], 100, per="hour")

    its.run(work())


def test_account_and_budget_grant_together_or_not_at_all(world: Callable[..., World]) -> None:
    """What the account refuses takes nothing from the budget, and the other way round."""
    its = world(2, 25)

    async def work() -> None:
        calls = [call(its.guards[n % 2], 10, 1) for n in range(6)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert kinds(results) == {"ok": 2, "InsufficientCredits": 4}
        await settle(its)
        assert figures(its.guards[0]) == (20, 0, 80)
        with pytest.raises(BudgetExceeded):
            await call(its.guards[1], 3, limit=22)
        assert its.guards[1].available == 5
        await call(its.guards[1], 5)

    its.run(work())


def test_a_call_that_needs_more_than_it_costs_uses_the_process_own_slack(
    world: Callable[..., World],
) -> None:
    """The head grants it from the slack that the message gives back, since nothing else is free."""
    its = world(1, 60)

    async def work() -> None:
        guard = its.guards[0]
        for _ in range(20):
            async with guard.require_credits(min=1):
                await asyncio.sleep(0.001)
        with user(guard):
            async with guard.require_credits(min=38, cost=2):
                pass

    its.run(work())


# Time.


def test_a_caller_waits_for_the_next_hour(world: Callable[..., World]) -> None:
    """It asks again when the hour begins, gets in at once, and sends no more than a message a second."""
    its = world(2)

    async def work() -> None:
        await call(its.guards[0], 100, per="hour")
        ends = its.now + HOUR - its.clock.wall() % HOUR
        before = len(its.store.messages)
        await call(its.guards[1], 60, wait=HOUR, per="hour")
        assert ends <= its.now <= ends + 1
        assert len(its.store.messages) - before < its.now
        assert figures(its.guards[1], per="hour")[2] == 40

    its.run(work())


def test_who_cannot_wait_for_the_renewal_is_refused_at_once(world: Callable[..., World]) -> None:
    """With the time at which it renews."""
    its = world(2)

    async def work() -> None:
        await call(its.guards[0], 100)
        with pytest.raises(BudgetExceeded) as caught:
            await call(its.guards[1], 1, wait=60)
        assert its.now < 1
        assert caught.value.renews_at is not None
        assert caught.value.renews_at.timestamp() == its.clock.wall() // 86_400 * 86_400 + 86_400

    its.run(work())


def test_a_rolling_budget_gives_back_little_by_little(world: Callable[..., World]) -> None:
    """What is older than the window, in any process, and a 60th later at most."""
    its = world(2)

    async def work() -> None:
        # Nobody but a member that was there vouches for the time that passed.
        await asyncio.gather(call(its.guards[1], key="bob"), call(its.guards[0], 60, per=60))
        await asyncio.sleep(30)
        await call(its.guards[1], 40, per=60)
        with pytest.raises(BudgetExceeded):
            await call(its.guards[1], 1, per=60)
        await call(its.guards[1], 50, wait=60, per=60)
        assert 60 <= its.now <= 62
        with pytest.raises(BudgetExceeded):
            await call(its.guards[0], 20, per=60)
        await call(its.guards[0], 20, wait=60, per=60)
        assert 90 <= its.now <= 93

    its.run(work())


def test_a_caller_waits_for_a_call_that_ends_in_another_process(
    world: Callable[..., World],
) -> None:
    """Meanwhile it stands in nobody's way: calls outside its budget go on from slack."""
    its = world(2)

    async def work() -> None:
        first, second = its.guards

        async def releases() -> None:
            with user(first):
                hold = await first.aacquire(100)
            await asyncio.sleep(5)
            hold.release()

        async def waits() -> None:
            await asyncio.sleep(1)
            await call(second, 80, wait=20)
            assert 5 <= its.now <= 5.5

        async def goes_past() -> None:
            await asyncio.sleep(2)
            recalls = its.store.head.recall
            before = len(its.store.messages)
            for _ in range(100):
                async with second.require_credits(min=1):
                    pass
            assert len(its.store.messages) <= before + 8
            assert its.store.head.recall == recalls
            assert its.now < 2.1

        await asyncio.gather(releases(), waits(), goes_past())

    its.run(work())


def test_a_raised_limit_lets_those_in_who_wait_here(world: Callable[..., World]) -> None:
    """They wait for the next hour, and need not any more."""
    its = world(2)

    async def work() -> None:
        await call(its.guards[0], 100, per="hour")
        waiting = asyncio.ensure_future(call(its.guards[1], 50, wait=HOUR, per="hour"))
        await asyncio.sleep(1)
        user(its.guards[1], 150, per="hour")
        await waiting
        assert its.now < 2

    its.run(work())


# What ends calls.


def test_whatever_becomes_of_a_call_counts(world: Callable[..., World]) -> None:
    """Extensions, charges, overruns and kept calls, as any process sees them."""
    its = world(2)

    async def work() -> None:
        first, second = its.guards
        with user(first):
            hold = await first.aacquire(10)
            await hold.aextend(20)
        await settle(its)
        with pytest.raises(BudgetExceeded):
            await call(second, 71)
        assert figures(second) == (0, 30, 70)
        with pytest.raises(BudgetExceeded):
            await hold.aextend(71)
        hold.charged(15)
        await settle(its)
        with pytest.raises(BudgetExceeded):
            await call(second, 71)
        assert figures(second) == (15, 15, 70)
        hold.settle(35)
        with user(first):
            kept = await first.aacquire(5)
            free = await first.aacquire(60)
        kept.keep()
        free.release()
        await settle(its)
        with pytest.raises(BudgetExceeded):
            await call(second, 61)
        assert figures(second) == (40, 0, 60)

    its.run(work())


def test_a_refusal_has_the_figures_of_all_and_starts_no_refresh(
    world: Callable[..., World],
) -> None:
    """It names the budget, and says whether calls hold what is missing."""
    its = world(3)

    async def work() -> None:
        first, second, third = its.guards
        await call(first, 30)
        with user(second):
            hold = await second.aacquire(50)
        await settle(its)
        await call(third, 1, key="bob")
        sent = its.account.sent
        with pytest.raises(BudgetExceeded) as caught:
            await call(third, 40)
        error = caught.value
        assert (error.budget, error.limit, error.spent, error.held) == ("user", 100, 30, 50)
        assert error.retryable
        hold.settle()
        await settle(its)
        with pytest.raises(BudgetExceeded) as caught:
            await call(third, 40)
        error = caught.value
        assert (error.spent, error.held, error.available) == (80, 0, 20)
        assert not error.retryable
        assert its.account.sent == sent

    its.run(work())


def test_a_process_that_dies_has_spent_what_it_held(world: Callable[..., World]) -> None:
    """Nobody knows what its calls cost."""
    its = world(2, hold_for=10)

    async def work() -> None:
        first, second = its.guards
        with user(first):
            hold = await first.aacquire(60)
        await call(first, 10)
        await asyncio.sleep(1)
        its.runtimes[0].die()
        await call(second, 5)
        await asyncio.sleep(30)
        with pytest.raises(BudgetExceeded):
            await call(second, 50)
        assert figures(second) == (75, 0, 25)
        del hold

    its.run(work())


@pytest.mark.parametrize("happens", ["restart_empty", "fail_over"])
@pytest.mark.parametrize("per", ["day", 600])
def test_a_store_that_begins_anew_hears_what_was_spent(
    world: Callable[..., World], happens: str, per: Any
) -> None:
    """And what is held, from all who live, before it grants anything."""
    its = world(3)

    async def work() -> None:
        first, second, third = its.guards
        await call(first, 20, per=per)
        await call(second, 30, per=per)
        with user(second, per=per):
            hold = await second.aacquire(15)
        await call(third, 1, per=per)
        await settle(its)
        getattr(its.store, happens)()
        calls = [call(each, 5, 1, wait=90, per=per) for each in its.guards]
        await asyncio.gather(*calls)
        await settle(its)
        with pytest.raises(BudgetExceeded):
            await call(third, 20, per=per)
        assert figures(third, per=per) == (66, 15, 19)
        hold.settle(10)
        await settle(its)
        with pytest.raises(BudgetExceeded):
            await call(third, 25, per=per)
        assert figures(third, per=per) == (76, 0, 24)
        await asyncio.sleep(650)
        if per == 600:
            await call(first, 100, per=per)

    its.run(work())


# Other budgets around, and other settings.


def test_budgets_of_blocks_stay_in_their_process(world: Callable[..., World]) -> None:
    """Inside a keyed budget and around it, each bounds what is inside, and the head hears of one alone."""
    its = world(2)

    async def work() -> None:
        guard = its.guards[0]
        with user(guard), guard.budget(30, name="run") as run:
            async with guard.require_credits(min=20):
                pass
            with pytest.raises(BudgetExceeded) as caught:
                await guard.aacquire(20)
            assert caught.value.budget == "run"
        assert run.spent == 20
        with guard.budget(30, name="run") as run, user(guard, 40):
            hold = await guard.aacquire(15)
            with pytest.raises(BudgetExceeded) as caught:
                await guard.aacquire(10)
            assert caught.value.budget == "user"
            hold.settle(12)
        assert (run.spent, run.left) == (12, 18)
        await settle(its)
        with pytest.raises(BudgetExceeded):
            await call(its.guards[1], 69)
        assert figures(its.guards[1]) == (32, 0, 68)

    its.run(work())


def test_a_keyed_budget_inside_of_one_that_was_carved_from_the_account(
    world: Callable[..., World],
) -> None:
    """Its calls use what was set aside, and take from the keyed budget what they cost."""
    its = world(2, 100)

    async def work() -> None:
        guard = its.guards[0]
        async with guard.budget(100, name="run", share="carve") as run:
            with user(guard, 70):
                hold = await guard.aacquire(60)
                with pytest.raises(BudgetExceeded):
                    await guard.aacquire(20)
                hold.settle(50)
            assert run.left == 50
        await settle(its)
        assert its.store.head.leased < 50
        with pytest.raises(BudgetExceeded):
            await call(its.guards[1], 21, limit=70)

    its.run(work())


def test_nothing_is_set_aside_in_a_budget_of_a_store(world: Callable[..., World]) -> None:
    """The sentence says what to do instead."""
    its = world(1)

    async def work() -> None:
        guard = its.guards[0]
        inner = guard.budget(10, name="run", share="carve")
        with user(guard), pytest.raises(ValueError, match='leave out share="carve"'):
            async with inner:
                pass

    its.run(work())


def test_observe_mode_counts_and_refuses_nobody(world: Callable[..., World]) -> None:
    """What it admits counts for the processes that enforce."""
    its = world(2)
    with runtime_of(its.runtimes[0]):
        watching = Guard(its.account, store=its.store, mode="observe")

    async def work() -> None:
        await watching.abalance()
        for _ in range(3):
            await call(watching, 50)
        await settle(its)
        assert figures(watching) == (150, 0, -50)
        with pytest.raises(BudgetExceeded) as caught:
            await call(its.guards[1])
        assert caught.value.spent == 150

    its.run(work())


def test_a_store_that_is_away_admits_nobody_to_a_budget(world: Callable[..., World]) -> None:
    """Slack or not; with `if_unknown="allow"` the call is let through, and counts once it is back."""
    its = world(2)
    with runtime_of(its.runtimes[0]):
        allowing = Guard(its.account, store=its.store, if_unknown="allow")

    async def work() -> None:
        await call(its.guards[0], 10)
        its.store.away = "the store is away"
        with pytest.raises(BalanceUnavailable):
            await call(its.guards[0], 1)
        await call(allowing, 20)
        its.store.away = None
        await asyncio.sleep(10)
        with pytest.raises(BudgetExceeded) as caught:
            await call(its.guards[1], 71)
        assert caught.value.spent == 30

    its.run(work())


def test_the_store_is_not_told_the_keys(world: Callable[..., World]) -> None:
    """Nor anything that the key could be found by without the account's own."""
    its = world(1)

    async def work() -> None:
        await call(its.guards[0], 10, key="canary-key")
        await settle(its)
        said = repr(its.store.messages)
        assert "canary" not in said
        assert "BudgetNeed" in said

    its.run(work())


def test_a_call_given_up_while_the_head_is_asked_holds_nothing(
    world: Callable[..., World],
) -> None:
    """Nobody refers to its budget any more when the answer comes, and the head has to hear of that."""
    its = world(2)

    async def work() -> None:
        first, second = its.guards
        await asyncio.gather(call(first, 1, key="bob"), call(second, 1, key="bob"))
        given_up = asyncio.ensure_future(call(first, 70, wait=10))
        await asyncio.sleep(0.0015)
        given_up.cancel()
        await asyncio.wait([given_up])
        await settle(its)
        await call(second, 60)
        await settle(its)
        await call(first, 40)
        assert figures(first)[1:] == (0, 0)

    its.run(work())


def test_a_budget_that_calls_are_made_in_for_long_takes_little_memory(
    world: Callable[..., World],
) -> None:
    """Its buckets are forgotten when they count no more."""
    its = world(1)

    async def work() -> None:
        guard = its.guards[0]
        with user(guard, 1000, per=60):
            for _ in range(400):
                async with guard.require_credits(min=1):
                    await asyncio.sleep(1)
        assert len(binding_of(guard).account.keyed_budgets) < 130

    its.run(work())


# Real processes.

PROCESS = """
import asyncio, sys
from budgetguard import Balance, BudgetExceeded, Guard
from budgetguard.stores import SQLiteStore

class Account:
    name, fingerprint, lag, linger, extra_credits = "prov", "fp", 5, 30, 0
    async def fetch(self, client):
        return Balance(credits=100_000)

guard = Guard(Account(), store=SQLiteStore(sys.argv[1]))

async def call():
    try:
        with guard.budget(100, name="user", key="ada", per=86_400):
            async with guard.require_credits(min=1):
                await asyncio.sleep(0)
        return 1
    except BudgetExceeded:
        return 0

async def work():
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum([sum(await asyncio.gather(*(call() for _ in range(10)))) for _ in range(8)]))

asyncio.run(work())
"""


@contextmanager
def _processes(number: int, path: Path) -> Iterable[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-c", PROCESS, str(path)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(number)]
    try:
        yield started
    finally:
        for each in started:
            each.kill()
            each.communicate()


def test_four_processes_share_one_user_s_budget(tmp_path: Path) -> None:
    """All of them at once, over a file: exactly as many calls are admitted as the limit allows."""
    with _processes(4, tmp_path / "credits.db") as started:
        for each in started:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in started:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        assert sum(int(each.communicate(timeout=120)[0]) for each in started) == 100
