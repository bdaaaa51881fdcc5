"""The calls of the demo, as a program makes them: submit, ask how far it is, and retry a refusal."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import httpx

from budgetguard._core.errors import ConcurrencyLimit, InsufficientCredits
from budgetguard._engine.hold import Hold
from budgetguard.providers import PreDev
from budgetguard.testing.sandbox import Sandbox

BROWSER_PRICE = 2
MINUTE_PRICE = 3

PATIENCE = 20
RETRY_AFTER = 2
POLL_EVERY = 10

CallResult: TypeAlias = Literal["finished", "died", "refused", "refused_by_provider"]
Admission: TypeAlias = Callable[["Job", float], AbstractAsyncContextManager[Hold | None]]

_REFUSALS = frozenset([402, 429])
_PREDEV = {"authorization": f"Bearer {Sandbox.predev_key}"}
_ANCHOR = {"anchor-api-key": Sandbox.anchor_key}


class NotStarted(Exception):
    """The provider answered 402 or 429 to the submission: nothing was charged."""


class Died(Exception):
    """The provider ended the work half-way, for lack of credits."""


@dataclass(frozen=True, slots=True)
class Job:
    """One call: a specification, or a browser session of so many minutes."""

    kind: Literal["fast-spec", "deep-spec", "session"]
    number: int
    arrives: float
    minutes: int = 0

    @property
    def highest_cost(self) -> int:
        """The most that it can cost: the documented range's end, or each minute that it may begin."""
        if self.kind == "session":
            return BROWSER_PRICE + MINUTE_PRICE * (self.minutes + 1)
        return PreDev.DEEP_SPEC if self.kind == "deep-spec" else PreDev.FAST_SPEC


async def attempt(client: httpx.AsyncClient, job: Job, admit: Admission) -> CallResult:
    """Make a call, again and again for as long as it is refused and `PATIENCE` lasts."""
    now = asyncio.get_running_loop().time
    gives_up = now() + PATIENCE
    work = _session if job.kind == "session" else _spec
    while True:
        try:
            async with admit(job, max(gives_up - now(), 0)) as hold:
                cost = await work(client, job, hold)
                if hold is not None:
                    hold.settle(cost)
        except (InsufficientCredits, ConcurrencyLimit):
            return "refused"
        except Died:
            return "died"
        except NotStarted:
            if now() + RETRY_AFTER > gives_up:
                return "refused_by_provider"
            await asyncio.sleep(RETRY_AFTER)
        else:
            return "finished"


async def _spec(client: httpx.AsyncClient, job: Job, hold: Hold | None) -> float:
    body = {"input": f"Specification {job.number}", "async": True}
    submitted = await _submit(client, f"/{job.kind}", body, _PREDEV)
    while True:
        await asyncio.sleep(POLL_EVERY)
        reply = await client.get(f"/spec-status/{submitted['specId']}", headers=_PREDEV)
        spec = reply.raise_for_status().json()
        if spec["status"] == "failed":
            raise Died
        if hold is not None:
            hold.charged(spec["creditsUsed"])
        if spec["status"] == "completed":
            return float(spec["creditsUsed"])


async def _session(client: httpx.AsyncClient, job: Job, hold: Hold | None) -> float:
    body = {"session": {"timeout": {"max_duration": job.minutes + 1}}}
    submitted = await _submit(client, "/v1/sessions", body, _ANCHOR)
    path = f"/v1/sessions/{submitted['data']['id']}"
    now = asyncio.get_running_loop().time
    ends = now() + 60 * job.minutes
    while True:
        await asyncio.sleep(min(POLL_EVERY, ends - now()))
        over = now() >= ends
        if over:
            await client.delete(path, headers=_ANCHOR)
        session = (await client.get(path, headers=_ANCHOR)).raise_for_status().json()["data"]
        if session["status"] == "failed":
            raise Died
        if hold is not None:
            hold.charged(session["credits_used"])
        if over:
            return float(session["credits_used"])


async def _submit(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], headers: dict[str, str]
) -> Any:
    reply = await client.post(path, json=body, headers=headers)
    if reply.status_code in _REFUSALS:
        raise NotStarted
    return reply.raise_for_status().json()
