"""One crowd of calls, run twice against the sandbox: as it comes, and guarded.

Every figure is read off the wire: from the replies that the callers got, and from the sandbox's
own books, asked for over HTTP when all is done.
"""

import json
import random
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import anyio
import httpx

from budgetguard.demo_screen import Screen
from budgetguard.errors import ConcurrencyLimit, InsufficientCredits
from budgetguard.guard import Guard
from budgetguard.hold import Hold
from budgetguard.providers import AnchorBrowser, PreDev
from budgetguard.testing.sandbox import Sandbox

CREDITS = 240
SPEED = 120.0
LAG = 30.0
BROWSERS = 5
BROWSER_PRICE = 2
MINUTE_PRICE = 3

SPECS = 36
SESSIONS = 24

Outcome: TypeAlias = Literal["finished", "cut off", "refused"]
Admission: TypeAlias = Callable[["Job"], AbstractAsyncContextManager[Hold | None]]

_OK = 200
_OUT_OF_CREDITS = 402
_TOO_MANY = 429
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Job:
    """One call of the crowd: a spec, or a browser session of so many minutes."""

    kind: Literal["fast-spec", "deep-spec", "session"]
    arrives: float
    minutes: int = 0

    @property
    def longest_cost(self) -> int:
        """The most it can cost, as its provider documents it or its length tells."""
        if self.kind == "session":
            return BROWSER_PRICE + MINUTE_PRICE * (self.minutes + 1)
        return PreDev.DEEP_SPEC if self.kind == "deep-spec" else PreDev.FAST_SPEC


@dataclass(slots=True)
class Tally:
    """What became of the calls of one run.

    A caller that gets a 402 cannot tell whether it was charged before: which of the calls that were
    cut off had begun, and died, is in the provider's books.
    """

    counts: dict[Outcome, int] = field(
        default_factory=lambda: {"finished": 0, "cut off": 0, "refused": 0}
    )
    books: dict[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """The run's object in the JSON output."""
        accounts = [self.books["predev"], self.books["anchor"]]
        died = sum(account["died"] for account in accounts)
        return {
            "finished": self.counts["finished"],
            "died": died,
            "refused": self.counts["refused"] + self.counts["cut off"] - died,
            "credits_spent": _plain(sum(account["charged"] for account in accounts)),
            "credits_wasted": _plain(sum(account["wasted"] for account in accounts)),
            "lowest_balance": _plain(min(account["lowest_balance"] for account in accounts)),
            "balance_requests": self.books["balance_requests"],
        }


def crowd(seed: int) -> list[Job]:
    """The calls, the same for the same seed; they come within the first seconds."""
    draw = random.Random(seed)  # noqa: S311  a simulation
    jobs = [Job(draw.choice(("fast-spec", "deep-spec")), draw.uniform(0, 3)) for _ in range(SPECS)]
    jobs += [Job("session", draw.uniform(0, 3), draw.randint(1, 4)) for _ in range(SESSIONS)]
    return sorted(jobs, key=lambda job: job.arrives)


def run(*, seed: int = 0, as_json: bool = False) -> int:
    """Run the demo and print its table, or with `as_json` one object; returns the exit code."""
    jobs = crowd(seed)
    with Screen(len(jobs)) as screen:
        unguarded = anyio.run(_run, jobs, seed, "unguarded", screen.follow("unguarded"))
        guarded = anyio.run(_run, jobs, seed, "guarded", screen.follow("guarded"))
    results = {"unguarded": unguarded.figures(), "guarded": guarded.figures(), "seed": seed}
    if as_json:
        sys.stdout.write(json.dumps(results) + "\n")
    else:
        screen.show(results)
    return 0


async def _run(
    jobs: list[Job], seed: int, run: str, show: Callable[[dict[Outcome, int]], None]
) -> Tally:
    tally = Tally()
    sandbox = Sandbox(
        CREDITS,
        seed=seed,
        speed=SPEED,
        lag=LAG,
        max_concurrent_browsers=BROWSERS,
        browser_price=BROWSER_PRICE,
        minute_price=MINUTE_PRICE,
    )
    with sandbox:
        admit = _guards(sandbox) if run == "guarded" else _anybody
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=sandbox.url, timeout=60, limits=limits) as client:

            async def work(job: Job) -> None:
                await anyio.sleep(job.arrives)
                tally.counts[await _outcome(sandbox, client, job, admit)] += 1
                show(tally.counts)

            async with anyio.create_task_group() as tasks:
                for job in jobs:
                    tasks.start_soon(work, job)
            reply = await client.get("/_sandbox/state")
            tally.books = reply.raise_for_status().json()
    return tally


def _anybody(_: Job) -> AbstractAsyncContextManager[None]:
    return nullcontext()


def _guards(sandbox: Sandbox) -> Admission:
    """What a user would write, but that `lag` is as short as the sandbox's clock is fast."""
    predev = Guard(PreDev(sandbox.predev_key, base_url=sandbox.url), lag=1, recheck_after=2)
    anchor = Guard(
        AnchorBrowser(sandbox.anchor_key, sandbox.project_id, base_url=sandbox.url),
        lag=1,
        recheck_after=2,
    )

    def admit(job: Job) -> AbstractAsyncContextManager[Hold]:
        if job.kind == "session":
            return anchor.require_credits(
                min=job.longest_cost, slots=1, wait=_PATIENCE, name=job.kind
            )
        return predev.require_credits(min=job.longest_cost, wait=_PATIENCE, name=job.kind)

    return admit


async def _outcome(
    sandbox: Sandbox, client: httpx.AsyncClient, job: Job, admit: Admission
) -> Outcome:
    call = _session if job.kind == "session" else _spec
    try:
        async with admit(job) as hold:
            return await call(sandbox, client, job, hold)
    except (InsufficientCredits, ConcurrencyLimit):
        return "refused"


async def _spec(
    sandbox: Sandbox, client: httpx.AsyncClient, job: Job, hold: Hold | None
) -> Outcome:
    headers = {"authorization": f"Bearer {sandbox.predev_key}"}
    reply = await client.post(f"/{job.kind}", json={"input": "A demo"}, headers=headers)
    if reply.status_code == _OUT_OF_CREDITS:
        return "cut off"
    spec = reply.raise_for_status().json()
    if hold is not None:
        hold.settle(spec["creditsUsed"])
    return "finished"


async def _session(
    sandbox: Sandbox, client: httpx.AsyncClient, job: Job, hold: Hold | None
) -> Outcome:
    headers = {"anchor-api-key": sandbox.anchor_key}
    body = {"session": {"timeout": {"max_duration": job.minutes + 1}}}
    reply = await client.post("/v1/sessions", json=body, headers=headers)
    if reply.status_code in {_OUT_OF_CREDITS, _TOO_MANY}:
        return "cut off"
    path = f"/v1/sessions/{reply.raise_for_status().json()['data']['id']}"
    await anyio.sleep(job.minutes * 60 / SPEED)
    await client.delete(path, headers=headers)
    seen = (await client.get(path, headers=headers)).raise_for_status().json()["data"]
    if hold is not None:
        hold.settle(seen["credits_used"])
    return "cut off" if seen["status"] == "failed" else "finished"


def _plain(amount: float) -> int | float:
    rounded = round(amount, 6)
    return int(rounded) if rounded == int(rounded) else rounded
