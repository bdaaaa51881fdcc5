"""The same calls, run against the sandbox: unguarded, and guarded; by one process, or by several workers.

The guard, the calls, the sandbox's API and its accounts are the real ones. The network between them
is not: requests are handed to the sandbox's application directly, in virtual time. So a seed gives
the same figures at every run, however busy the machine is. Workers are accounts of their own in this
process, which share nothing but a store in the last run: no memory, and no connection.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, get_args

import httpx

from budgetguard._cli.demo_calls import (
    BROWSER_PRICE,
    MINUTE_PRICE,
    PATIENCE,
    RETRY_AFTER,
    Admission,
    CallResult,
    Job,
    NotStarted,
    attempt,
)
from budgetguard._cli.demo_screen import Conditions, Figures, Results, Screen, Show
from budgetguard._cli.demo_store import DemoStore, Heads, MemoryHeads, ServerHeads
from budgetguard._cli.output import print_json
from budgetguard._engine.hold import Hold
from budgetguard.guard import Guard
from budgetguard.providers import AnchorBrowser, PreDev
from budgetguard.testing.sandbox import Sandbox
from budgetguard.testing.sandbox.app import build
from budgetguard.testing.sandbox.clock import Clock
from budgetguard.testing.sandbox.specs import Kind, Spec, Specs
from budgetguard.testing.sandbox.world import World
from budgetguard.testing.virtual_time import VirtualLoop, guards_on

if TYPE_CHECKING:
    from budgetguard._core.other_spenders import SoleSpender
    from budgetguard.stores import RedisStore

CREDITS = 240
SPECS = 36
SESSIONS = 24
# Seconds within which all calls begin.
RUSH = 600

LAG = 5.0
LATENCY = 0.1
BROWSERS = 5

_URL = "http://127.0.0.1"


class _SameSpecs(Specs):
    """Each specification costs the same in both runs, whatever else was admitted before it."""

    def submit(self, kind: Kind, prompt: str) -> Spec:
        draw = Random(f"{self._seed}:{prompt}")  # noqa: S311  a simulation
        credits, seconds = draw.randint(*kind.credits), draw.randint(*kind.seconds)
        known = replace(kind, credits=(credits, credits), seconds=(seconds, seconds))
        return super().submit(known, prompt)


def calls(seed: int) -> list[Job]:
    """The calls, the same for the same seed."""
    draw = Random(seed)  # noqa: S311  a simulation
    jobs = [
        Job(draw.choice(("fast-spec", "deep-spec")), n, draw.uniform(0, RUSH)) for n in range(SPECS)
    ]
    jobs += [Job("session", n, draw.uniform(0, RUSH), draw.randint(1, 4)) for n in range(SESSIONS)]
    return sorted(jobs, key=lambda job: job.arrives)


def run(
    *,
    seed: int = 0,
    workers: int = 1,
    as_json: bool = False,
    server: "RedisStore | None" = None,
) -> int:
    """Run the demo and print its table, or with `as_json` one object; returns the exit code.

    With a `server` the workers' store is in there; raises StoreUnavailable if it does not answer.
    """
    where = None if server is None else server.server.where
    with Screen(conditions(seed, workers, where)) as screen:
        results = compare(seed, screen.follow, workers, server)
    if as_json:
        given: dict[str, Any] = {"seed": seed, "credits": CREDITS, "patience": PATIENCE}
        if workers > 1:
            given["workers"] = workers
        if where is not None:
            given["store"] = where
        print_json(results | given)
    else:
        screen.show(results)
    return 0


def conditions(seed: int, workers: int = 1, server: str | None = None) -> Conditions:
    """What all runs have in common."""
    return Conditions(
        calls=SPECS + SESSIONS,
        minutes=RUSH // 60,
        credits=CREDITS,
        patience=PATIENCE,
        retry_after=RETRY_AFTER,
        seed=seed,
        workers=workers,
        server=server,
    )


def compare(
    seed: int,
    follow: Callable[[str], Show],
    workers: int = 1,
    server: "RedisStore | None" = None,
) -> Results:
    """The figures of all runs; `follow(run)` gives a function that is called with them as they grow.

    Raises StoreUnavailable if a server that is given does not answer.
    """
    jobs = calls(seed)
    results = {}
    with ExitStack() as stack:
        heads: Heads = MemoryHeads() if server is None else stack.enter_context(ServerHeads(server))
        for name in conditions(seed, workers).runs:
            store = DemoStore(heads) if name == "together" else None
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                # Before the coroutine is made: Ctrl-C meanwhile would leave one that nobody awaited.
                runner.get_loop()
                results[name] = runner.run(_play(jobs, seed, follow, name, workers, store))
        if isinstance(heads, ServerHeads) and heads.failure is not None:
            # Guards went on without their store, so the figures are of something else.
            raise heads.failure
    return results


async def _play(
    jobs: list[Job],
    seed: int,
    follow: Callable[[str], Show],
    name: str,
    workers: int,
    store: DemoStore | None,
) -> Figures:
    show = follow(name)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    world = _world(seed, loop)
    transport = httpx.ASGITransport(build(world, lambda _: None))
    outcomes: dict[str, int] = dict.fromkeys(get_args(CallResult), 0)
    begun = loop.time()
    client = httpx.AsyncClient(transport=transport, base_url=_URL)

    async def call(job: Job, admit: Admission) -> None:
        await asyncio.sleep(job.arrives)
        outcomes[await attempt(client, job, admit)] += 1
        show({**outcomes, "seconds": round(loop.time() - begun)})

    async with client:
        with ExitStack() as stack:
            admit: list[Admission] = []
            for worker in range(workers):
                # A runtime of its own, so an account of its own.
                stack.enter_context(guards_on(loop, client, seed + worker))
                admit.append(_anybody if name == "unguarded" else _guards(store, workers))
            whose = Random(f"{seed} workers")  # noqa: S311  a simulation
            async with asyncio.TaskGroup() as tasks:
                for job in jobs:
                    tasks.create_task(call(job, admit[whose.randrange(workers)]))
        seconds = loop.time() - begun
        state = (await client.get("/_sandbox/state")).raise_for_status().json()
    return _figures(outcomes, state, seconds)


def _world(seed: int, loop: VirtualLoop) -> World:
    clock = Clock(1.0, timer=loop.time)
    clock.follow(loop)
    world = World(
        CREDITS,
        clock=clock,
        seed=seed,
        lag=LAG,
        overdraft=False,
        max_concurrent_browsers=BROWSERS,
        sessions_per_minute=None,
        browser_price=BROWSER_PRICE,
        minute_price=MINUTE_PRICE,
        cost_limit=None,
        latency=LATENCY,
        fail=0.0,
        tier="free",
    )
    world.specs = _SameSpecs(world.predev, clock, seed)
    return world


def _anybody(_: Job, __: float) -> AbstractAsyncContextManager[None]:
    return nullcontext()


def _guards(store: DemoStore | None, workers: int) -> Admission:
    # Without a store, the other workers are other spenders.
    sole_spender: SoleSpender = "auto" if store is not None or workers == 1 else False
    predev, anchor = (
        Guard(provider, store=store, sole_spender=sole_spender)
        for provider in (
            PreDev(Sandbox.predev_key, base_url=_URL),
            AnchorBrowser(Sandbox.anchor_key, Sandbox.project_id, base_url=_URL),
        )
    )

    def admit(job: Job, patience: float) -> AbstractAsyncContextManager[Hold]:
        guard, slots = (anchor, 1) if job.kind == "session" else (predev, 0)
        return guard.require_credits(
            min=job.highest_cost,
            slots=slots,
            wait=patience,
            release_on=NotStarted,
            name=job.kind,
        )

    return admit


def _figures(outcomes: dict[str, int], state: dict[str, Any], seconds: float) -> Figures:
    accounts = [state["predev"], state["anchor"]]
    assert sum(account["died"] for account in accounts) == outcomes["died"]
    return {
        **outcomes,
        "credits_spent": sum(account["charged"] for account in accounts),
        "credits_wasted": sum(account["wasted"] for account in accounts),
        "lowest_balance": min(account["lowest_balance"] for account in accounts),
        "balance_requests": state["balance_requests"],
        "seconds": round(seconds, 1),
    }
