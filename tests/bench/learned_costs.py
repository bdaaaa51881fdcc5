"""What learned costs gain: calls finished before the first refusal, and what it risks.

    python tests/bench/learned_costs.py               64 workers with an account to themselves, 40 seeds
    python tests/bench/learned_costs.py --seeds 4 --quantiles 0.8 0.95 --check

The same calls as in decision_quality.py. A constant cost holds the documented upper bound of each
kind of call; a learned one holds a quantile of what the calls of that kind really cost, and grows as
`charged()` reports more. Nobody else spends from the account, which the guard finds out by itself.
"""

import argparse
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "simulation"), str(HERE.parents[1])]

from ways import Seen
from workload import Died, Process, Refused, Scenario, Unknown, Way, World

from budgetguard import BalanceUnavailable, Event, Guard, InsufficientCredits, learned
from budgetguard._engine.account_registry import runtime_of

SCENARIOS = [Scenario("64 workers", 64, 4000), Scenario("8 workers", 8, 1000)]
# At least so much more is to finish before the first refusal, with at most so many overruns.
AIM, MOST_OVERRUNS = 4.0, 1.0


@dataclass
class Counted:
    """What one run, or all of them together, came to."""

    first: int = 0
    """Calls that had finished when the first was refused."""
    admitted: int = 0
    """Calls that had been admitted by then."""
    finished: int = 0
    died: int = 0
    overspent: float = 0.0
    overruns: int = 0
    wrong: int = 0
    decisions: int = 0
    requests: int = 0
    refused: bool = field(default=False, repr=False)

    def add(self, other: "Counted") -> None:
        """Count another run too."""
        for name in ("first", "admitted", "finished", "died", "overruns", "wrong", "decisions"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.requests += other.requests
        self.overspent = max(self.overspent, other.overspent)


def guarded(process: Process, *, quantile: float | None, counted: Counted) -> Way:
    """A guard that holds each call's upper bound, or what is learned with that quantile."""

    def heard(event: Event) -> None:
        if event.kind == "overrun":
            counted.overruns += 1

    with runtime_of(process.runtime):  # type: ignore[arg-type]
        guard = Guard(process.account, on_event=heard)

    @asynccontextmanager
    async def way(need: int) -> AsyncIterator[Seen]:
        cost = need if quantile is None else learned(need, quantile)
        try:
            hold = await guard.aacquire(cost=cost, name=f"up to {need}")
        except InsufficientCredits as error:
            counted.refused = True
            raise Refused from error
        except BalanceUnavailable as error:
            raise Unknown from error
        if not counted.refused:
            counted.admitted += 1
        async with hold:
            try:
                yield Seen(hold, follows=True)
            except Died:
                guard.mark_exhausted()
                raise
        if not counted.refused:
            counted.first += 1

    return way


def measure(scenario: Scenario, quantile: float | None, seeds: int) -> Counted:
    """Every seed of one scenario, together."""
    together = Counted()
    for seed in range(seeds):
        world, counted = World(scenario, seed), Counted()
        outcome = world.run(partial(guarded, quantile=quantile, counted=counted))
        counted.finished, counted.died = outcome.finished, outcome.died
        counted.overspent, counted.requests = outcome.overspent, outcome.requests
        counted.wrong = outcome.refusals.wrong
        counted.decisions = outcome.refusals.decisions
        together.add(counted)
    return together


def main() -> int:
    """Measure, print, and compare with the aims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=40, help="runs of each scenario")
    parser.add_argument(
        "--only", metavar="WORDS", default="64", help="scenarios whose name has them"
    )
    parser.add_argument("--quantiles", type=float, nargs="+", default=[0.95])
    parser.add_argument("--check", action="store_true", help="exit with 1 where an aim is missed")
    options = parser.parse_args()
    # What a guard logs about calls that were given up would be in between of the table.
    logging.getLogger("budgetguard").disabled = True
    missed = False
    for scenario in SCENARIOS:
        if options.only not in scenario.name:
            continue
        print(f"\n**{scenario.name}**, {options.seeds} seeds\n")
        print(
            "| cost | finished before the first refusal | more | admitted by then | finished | died "
            "| overspent | overruns | wrong refusals | requests per 1,000 |"
        )
        print("|---|" + "---:|" * 9)
        plain = measure(scenario, None, options.seeds)
        for quantile in [None, *options.quantiles]:
            row = plain if quantile is None else measure(scenario, quantile, options.seeds)
            more = 100 * (row.first / plain.first - 1)
            overruns = 100 * row.overruns / max(row.finished, 1)
            name = "constant" if quantile is None else f"learned, {quantile:g}"
            print(
                f"| {name} | {row.first} | {more:+.1f} % | {row.admitted} | {row.finished} | {row.died} "
                f"| {row.overspent:.1f} | {overruns:.2f} % | {100 * row.wrong / row.decisions:.2f} % "
                f"| {1000 * row.requests / row.decisions:.1f} |",
                flush=True,
            )
            if quantile is not None:
                missed |= more < AIM or overruns >= MOST_OVERRUNS or bool(row.died or row.overspent)
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
