"""200 calls at once in each node of a tree of budgets, in threads and in asyncio tasks.

Run by `budget_trees.py`, in an environment that has the package whose budgets they are.
"""

import asyncio
import contextlib
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from tree_packages import AGENTS, LIMITS, PACKAGES, Package, without_a_server

CALLS = 200
PLENTY = 10**9
ROUNDS = 11
TIMED = 2000


class Gate:
    """Where calls wait in their bodies until each of them has been asked for."""

    def __init__(self, calls: int, event: threading.Event | asyncio.Event) -> None:
        self.event: Any = event
        self._left = calls
        self._lock = threading.Lock()

    def asked(self) -> None:
        with self._lock:
            self._left -= 1
            if not self._left:
                self.event.set()


class Call:
    """One call: it runs once it is in its body, whatever its package says afterwards."""

    def __init__(self, gate: Gate) -> None:
        self.ran = False
        self._gate = gate

    def body(self) -> None:
        self._enter()
        self._gate.event.wait()

    async def async_body(self) -> None:
        self._enter()
        await self._gate.event.wait()

    @contextlib.contextmanager
    def expected(self, refusals: tuple[type[Exception], ...]) -> Iterator[None]:
        """Take note of a refusal; let nobody wait for a call that failed otherwise."""
        try:
            yield
        except refusals:
            if not self.ran:
                self._gate.asked()
        except BaseException:
            self._gate.event.set()
            raise

    def _enter(self) -> None:
        self.ran = True
        self._gate.asked()


class Crowd:
    """What the two crowds have in common."""

    def __init__(self, package: Package, tree: str, event: type[Any], barrier: type[Any]) -> None:
        self.package = package
        self.tree = tree
        self.ran: Counter[str] = Counter()
        if package.together:
            self._gates = dict.fromkeys(LIMITS, Gate(CALLS * len(LIMITS), event()))
        else:
            self._gates = {node: Gate(CALLS, event()) for node in LIMITS}
        # The agents open before the run's own calls begin, which would leave nothing to carve.
        self._ready = barrier(len(LIMITS) if package.together else 1)

    def calls(self, node: str) -> list[Call]:
        return [Call(self._gates[node]) for _ in range(CALLS)]

    @contextlib.contextmanager
    def opened(self, name: str, parent: Any = None) -> Iterator[Any]:
        """Open a budget. Closing it may be refused: the limit above is known to be exceeded."""
        is_open = False
        try:
            with self.package.budget(LIMITS[name], name, self.tree, parent) as budget:
                is_open = True
                yield budget
        except self.package.refusals:
            if not is_open:
                raise


class InThreads(Crowd):
    """A thread for each call, and one for each agent."""

    where = "threads"

    def __init__(self, package: Package, tree: str) -> None:
        super().__init__(package, tree, threading.Event, threading.Barrier)
        self._pool = ThreadPoolExecutor(CALLS * len(LIMITS) + len(AGENTS))

    def run(self) -> Any:
        """Make all calls; give the run's budget."""
        with self._pool, self.package.account(), self.opened("run") as run:
            agents: list[Future[None]] = []
            for name in AGENTS:
                inside = self.package.carried(run, partial(self._agent, name, run))
                agents.append(self._pool.submit(inside))
                if not self.package.together:
                    agents[-1].result()
            self._make_calls("run", run)
            for agent in agents:
                agent.result()
        return run

    def _agent(self, name: str, run: Any) -> None:
        try:
            with self.opened(name, run) as budget:
                self._make_calls(name, budget)
        except BaseException:
            self._ready.abort()
            raise

    def _make_calls(self, node: str, budget: Any) -> None:
        self._ready.wait()
        calls = self.calls(node)
        made = [
            self._pool.submit(self.package.carried(budget, partial(self._call, budget, call)))
            for call in calls
        ]
        for each in made:
            each.result()
        self.ran[node] = sum(call.ran for call in calls)

    def _call(self, budget: Any, call: Call) -> None:
        with call.expected(self.package.refusals):
            self.package.guarded(budget, call.body)()


class InTasks(Crowd):
    """A task for each call, and one for each agent."""

    where = "asyncio"

    def __init__(self, package: Package, tree: str) -> None:
        super().__init__(package, tree, asyncio.Event, asyncio.Barrier)

    def run(self) -> Any:
        """Make all calls; give the run's budget."""
        return asyncio.run(self._run())

    async def _run(self) -> Any:
        with self.package.account(), self.opened("run") as run:
            async with asyncio.TaskGroup() as agents:
                for name in AGENTS:
                    task = agents.create_task(self._agent(name, run))
                    if not self.package.together:
                        await task
                await self._make_calls("run", run)
        return run

    async def _agent(self, name: str, run: Any) -> None:
        with self.opened(name, run) as budget:
            await self._make_calls(name, budget)

    async def _make_calls(self, node: str, budget: Any) -> None:
        await self._ready.wait()
        calls = self.calls(node)
        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(self._call(budget, call))
        self.ran[node] = sum(call.ran for call in calls)

    async def _call(self, budget: Any, call: Call) -> None:
        with call.expected(self.package.refusals):
            await self.package.guarded_async(budget, call.async_body)()


def ratio(package: Package) -> float:
    """Time a call in the inner one of two budgets in an account against a bare call, in turns: the median."""

    def plain() -> None:
        pass

    def timed(function: Callable[[], Any], times: int = TIMED) -> float:
        started = time.perf_counter()
        for _ in range(times):
            function()
        return (time.perf_counter() - started) / times

    tree = next(iter(package.trees))
    with (
        package.account(PLENTY),
        package.budget(PLENTY, "run", tree) as run,
        package.budget(PLENTY // 2, "a", tree, run) as inner,
    ):
        guarded = package.guarded(inner, plain)
        timed(guarded)
        return statistics.median(timed(guarded) / timed(plain, 20 * TIMED) for _ in range(ROUNDS))


def tried(name: str) -> dict[str, Any]:
    """Try all of it with one package."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = [] if PACKAGES[name] else without_a_server()
    for made in PACKAGES[name]:
        for tree, how in made.trees.items():
            for made_in in (InThreads, InTasks):
                crowd = made_in(made(), tree)
                run = crowd.run()
                row = {"tree": tree, "how": how, "where": crowd.where, "ran": crowd.ran}
                row |= {"counted": crowd.package.counted(run), "held": crowd.package.held(run)}
                rows.append(row)
        notes += [made.caveat] if made.caveat else []
        notes += [f"{tree}: not supported, {why}" for tree, why in made.missing.items()]
    figure = ratio(PACKAGES[name][0]()) if PACKAGES[name] else None
    return {"rows": rows, "notes": notes, "ratio": figure}
