"""A provider that is down for ten minutes of virtual time, under a thousand decisions a second."""

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

from virtual import VirtualClock, VirtualLoop, VirtualRuntime

from budgetguard import Balance, BalanceUnavailable, Guard, InsufficientCredits
from budgetguard._core.events import Event
from budgetguard._core.refresh_failure import Transient
from budgetguard._engine.account_registry import runtime_of

BEFORE, DOWN, AFTER = 200.0, 600.0, 75.0
LATENCY = 0.05
STALE_FOR = 600.0


class Provider:
    """Has plenty; while it is down it refuses connections, or takes them and never answers."""

    name = "down"

    def __init__(self, clock: VirtualClock, credits: int, *, hangs: bool) -> None:
        self.credits = credits
        self.hangs = hangs
        self.down = False
        self.answered: list[float] = []
        self.refused: list[float] = []
        self._clock = clock

    async def fetch(self, _: Any) -> Balance:
        sent = self._clock.mono
        if self.down:
            self.refused.append(sent)
            if self.hangs:
                await asyncio.sleep(3_600)
            raise Transient(provider=self.name, reason="no connection")
        await asyncio.sleep(LATENCY)
        self.answered.append(sent)
        return Balance(credits=self.credits)  # type: ignore[arg-type]


@dataclass
class Outage:
    """One run; `rate` decisions a second. What came of them is in the fields."""

    seed: int
    rate: int
    cold: bool = False
    hangs: bool = False
    credits: int = 10**9
    terms: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    noticed_after: float = float("inf")
    admitted: int = 0
    unknown: int = 0
    insufficient: int = 0
    allowed_unknown: int = 0
    wrong: int = 0

    def run(self) -> "Outage":
        """Run it: some time before, ten minutes down, some time after."""
        self._clock = VirtualClock()
        loop = VirtualLoop(self._clock)
        runtime = VirtualRuntime(self._clock, loop, Random(self.seed))
        self._provider = Provider(self._clock, self.credits, hangs=self.hangs)
        with runtime_of(runtime):  # type: ignore[arg-type]
            guard = Guard(self._provider, on_event=self._event, **self.terms)
        self._call = guard.require_credits(min=1)(_nothing)
        try:
            loop.run_until_complete(self._main(loop))
        finally:
            loop.close()
        return self

    async def _main(self, loop: VirtualLoop) -> None:
        if not self.cold:
            await self._decide()
            await asyncio.sleep(BEFORE)
        self._provider.down = True
        down_at = self._clock.mono
        tasks: set[asyncio.Task[None]] = set()
        for number in range(int((DOWN + AFTER) * self.rate)):
            due = down_at + number / self.rate
            await asyncio.sleep(due - self._clock.mono)
            self._provider.down = due < down_at + DOWN
            task = loop.create_task(self._decide())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.wait(tasks)
        up_at = down_at + DOWN
        self.attempts = len(self._provider.refused)
        noticed = [sent for sent in self._provider.answered if sent >= up_at]
        self.noticed_after = min(noticed, default=float("inf")) - up_at

    async def _decide(self) -> None:
        came = self._clock.mono
        known = max(self._provider.answered, default=float("-inf"))
        try:
            await self._call()
        except BalanceUnavailable:
            self.unknown += 1
            # Whoever has a usable balance goes by that.
            self.wrong += came - known < STALE_FOR
        except InsufficientCredits:
            self.insufficient += 1
        else:
            self.admitted += 1
            # Not by a balance that was too old, nor by none.
            now_known = max(self._provider.answered, default=float("-inf"))
            self.wrong += self._clock.mono - now_known > STALE_FOR

    def _event(self, event: Event) -> None:
        self.allowed_unknown += event.kind == "allowed_unknown"


async def _nothing() -> None:
    pass
