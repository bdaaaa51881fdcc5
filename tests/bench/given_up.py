"""Calls that are given up half-way, with and without their status: what is refused wrongly, what is asked.

    python tests/bench/given_up.py              10 seeds of the scenario "2 % given up half-way"
    python tests/bench/given_up.py --check      exit with 1 where an aim is missed

The world is that of decision_quality.py; the follower is the library's own, and asks a simulated provider
for the status of each call that was given up. `wrong` goes by what can be known without a status: a call
that was given up may run for `linger`. `by status` goes by what the provider's status says: it counts
only what still runs.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "simulation"), str(HERE.parents[1])]

from scenarios import GIVEN_UP
from workload import (
    MICRO,
    Died,
    Kind,
    Outcome,
    Process,
    Refused,
    Running,
    Scenario,
    Token,
    Unknown,
    World,
)

from budgetguard import BalanceUnavailable, Guard, Hold, InsufficientCredits
from budgetguard._core.refresh_failure import Transient
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of
from budgetguard._engine.follower import follower_of
from budgetguard._engine.submitted_work import Work
from budgetguard.providers.billing import WorkStatus

AIM_WRONG = 0.5
AIM_ASKED = 10.0


class Call:
    """A call with a hold, as the program that makes it sees it; `run` is the provider's side, once given up."""

    follows = False

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.run: Running | None = None

    def charged(self, total: Decimal) -> None:
        """The program does not say."""

    def settle(self, total: Decimal) -> None:
        self.hold.settle(total)


class GivenUpWorld(World):
    """A world that tells a call what the provider makes of it after it was given up."""

    def __init__(self, scenario: Scenario, seed: int, *, by_status: bool) -> None:
        super().__init__(scenario, seed)
        self.asked = 0
        self._by_status = by_status
        self._weather = Random(f"status {seed}")

    async def _attend(
        self, process: Process, run: Running, token: Token, *, gives_up: bool
    ) -> None:
        try:
            await super()._attend(process, run, token, gives_up=gives_up)
        except TimeoutError:
            if isinstance(token, Call):
                token.run = run
            raise

    def _headroom(self, kind: Kind) -> tuple[bool, bool]:
        given_up = self._given_up
        if self._by_status:
            self._given_up = {}
        try:
            return super()._headroom(kind)
        finally:
            self._given_up = given_up

    async def status(self, run: Running) -> WorkStatus:
        """What the provider answers about a call, after a round trip."""
        self.asked += 1
        await asyncio.sleep(self._weather.uniform(0.1, 0.3))
        if self.account.down:
            raise Transient(provider=self.account.name, reason="the provider is down")
        used = Decimal(run.worked) / MICRO
        runs = any(each is run for each in self._calls.values())
        return WorkStatus(charged=used) if runs else WorkStatus(end=used)


def guarded(
    world: GivenUpWorld, process: Process, *, sole_spender: bool | str, follows: bool
) -> Any:
    """A guard, with or without a follower for what is given up."""
    with runtime_of(process.runtime):  # type: ignore[arg-type]
        guard = Guard(process.account, sole_spender=sole_spender)  # type: ignore[arg-type]
    follower = follower_of(binding_of(guard).account)

    @asynccontextmanager
    async def way(need: int) -> AsyncIterator[Call]:
        try:
            hold = await guard.aacquire(need)
        except InsufficientCredits as error:
            raise Refused from error
        except BalanceUnavailable as error:
            raise Unknown from error
        call = Call(hold)
        try:
            yield call
        except TimeoutError:
            run = call.run
            if follows and run is not None:
                follower.follow(Work(hold, f"/calls/{id(run)}", lambda _: world.status(run)))
            raise
        except Died:
            guard.mark_exhausted()
            raise
        finally:
            if not (follows and call.run is not None):
                hold.finish(sys.exception())

    return way


def measure(scenario: Scenario, seeds: int, *, by_status: bool, **options: Any) -> dict[str, float]:
    """Sums over some seeds; shares are percent of decisions."""
    outcomes: list[Outcome] = []
    asked = 0
    for seed in range(seeds):
        world = GivenUpWorld(scenario, seed, by_status=by_status)
        outcomes.append(world.run(partial(guarded, world, **options)))
        asked += world.asked
    decisions = sum(each.refusals.decisions for each in outcomes)
    return {
        "decisions": decisions,
        "wrong": 100 * sum(each.refusals.wrong for each in outcomes) / decisions,
        "died": sum(each.died for each in outcomes),
        "overspent": max(each.overspent for each in outcomes),
        "asked": 1000 * asked / decisions,
        "requests": 1000 * sum(each.requests for each in outcomes) / decisions,
    }


def main() -> int:
    """Measure, print, and compare with the aims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="runs of each way")
    parser.add_argument("--check", action="store_true", help="exit with 1 where an aim is missed")
    options = parser.parse_args()
    # What a guard logs about calls that were given up would be in between of the table.
    logging.getLogger("budgetguard").disabled = True
    scenario = GIVEN_UP
    print(f"**{scenario.name}**, {options.seeds} seeds\n")
    print(
        "| sole_spender | status | decisions | wrong | by status | died | overspent "
        "| status requests per 1,000 | balance requests per 1,000 |"
    )
    print("|---|---|" + "---:|" * 7)
    missed = False
    for sole in (False, True, "auto"):
        for follows in (False, True):
            how = {"sole_spender": sole, "follows": follows}
            plain = measure(scenario, options.seeds, by_status=False, **how)
            strict = measure(scenario, options.seeds, by_status=True, **how)
            print(
                f"| {sole} | {'asked' if follows else 'not asked'} | {plain['decisions']:.0f} "
                f"| {plain['wrong']:.2f} % | {strict['wrong']:.2f} % | {plain['died']:.0f} "
                f"| {plain['overspent']:.1f} | {plain['asked']:.1f} | {plain['requests']:.0f} |"
            )
            if sole == "auto" and follows:
                missed = strict["wrong"] >= AIM_WRONG or plain["asked"] > AIM_ASKED
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
