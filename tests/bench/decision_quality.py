"""Ways to guard the same calls, side by side: what each lets die, wastes, refuses and asks.

    python tests/bench/decision_quality.py                       all scenarios, a table of each
    python tests/bench/decision_quality.py --seeds 40 --jobs 2 --outcomes runs.jsonl
                                                                 a long run, that can be interrupted
    python tests/bench/decision_quality.py --plot picture.svg    and two pictures, for a light and a dark page (extra `bench`)
    python tests/bench/decision_quality.py --seeds 1 --check     exit with 1 where an aim is missed

Time is simulated; the guard, its refreshes and its ledger are the real ones. Amounts are
credits. A refusal is wrong where there was headroom: the true balance, less all that running calls
may still cost, less what was worked in the last `lag` seconds, covers the call. `in hindsight`
leaves out the last part, which only the provider can know.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TypeAlias

HERE = Path(__file__).parent
sys.path[:0] = [
    str(HERE),
    str(HERE.parent / "simulation"),
    str(HERE.parent / "stores"),
    str(HERE.parents[1]),
]

from decision_aims import REMEDIES, asks_more, missed, requests, wrong_share
from decision_picture import SHOWN, plot
from decision_rows import Row, Table, show, show_beliefs
from scenarios import SCENARIOS
from ways import DEFAULT, DISTRUSTING, OURS, WAYS, WAYS_OF_WORKERS
from workload import Outcome, Refusals, Scenario, World

Run: TypeAlias = tuple[Scenario, str, int]
"""A scenario, the name of a way, and a seed."""


def outcome_of(run: Run) -> Outcome:
    """Spend one account."""
    scenario, way, seed = run
    log = logging.getLogger("budgetguard")
    before = log.disabled
    try:
        # What a guard logs about calls that died would be in between of the progress.
        log.disabled = True
        return World(scenario, seed).run((WAYS | WAYS_OF_WORKERS)[way])
    finally:
        log.disabled = before


class Kept:
    """Outcomes in a file, a line each, so that a run that was interrupted can go on.

    They are those of the code that made them: begin with another file after a change.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Outcome] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                key, fields = json.loads(line)
                refusals = {name: Refusals(**fields.pop(name)) for name in ("refusals", "late")}
                self._known[key] = Outcome(**{**fields, **refusals})

    def get(self, run: Run) -> Outcome | None:
        """The outcome of a run, if it is there."""
        return self._known.get(repr(run))

    def add(self, run: Run, outcome: Outcome) -> None:
        """Note the outcome of a run."""
        self._known[repr(run)] = outcome
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([repr(run), asdict(outcome)]) + "\n")


def measure(
    scenarios: list[Scenario], ways: list[str], seeds: int, jobs: int, path: Path | None
) -> Table:
    """Run every way through every scenario."""
    kept = Kept(path)
    runs = [(each, way, seed) for each in scenarios for way in ways for seed in range(seeds)]
    left = [run for run in runs if kept.get(run) is None]
    for run, outcome in _told(left, _outcomes(left, jobs)):
        kept.add(run, outcome)
    return {
        scenario: {
            way: Row(tuple(kept.get((scenario, way, seed)) or Outcome() for seed in range(seeds)))
            for way in ways
        }
        for scenario in scenarios
    }


def _outcomes(runs: list[Run], jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(outcome_of, runs)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(outcome_of, runs)


def _told(runs: list[Run], outcomes: Iterable[Outcome]) -> Iterator[tuple[Run, Outcome]]:
    """Pair runs with outcomes, and tell on a terminal how far it is."""
    began, shown = time.monotonic(), sys.stderr.isatty()
    for number, (run, outcome) in enumerate(zip(runs, outcomes, strict=True), 1):
        if shown:
            left = (time.monotonic() - began) / number * (len(runs) - number)
            words = f"{number} of {len(runs)}, {left / 60:.0f} min left: {run[0].name}, {run[1]}"
            sys.stderr.write(f"\r{words[:79]:<79}")
            sys.stderr.flush()
        yield run, outcome
    if shown:
        sys.stderr.write("\r" + " " * 79 + "\r")


def summarise(table: Table, ways: list[str]) -> None:
    """Print what the scenarios say together."""
    print("\nWrong refusals where nobody else spends, in percent of all decisions:\n")
    for name in ways:
        share = wrong_share(table, name)
        if share is None:
            continue
        print(f"- {name}: {share:.2f} %")
        blind = REMEDIES.get(name, ())
        rest = wrong_share(table, name, without=blind)
        if blind and rest is not None:
            print(f"  - without {' and '.join(blind)}: {rest:.2f} %")
    asked = {name: requests(table, name) for name in (DEFAULT, DISTRUSTING)}
    if None not in asked.values():
        print("\nBalance requests over all scenarios:\n")
        print("| way | per 1,000 decisions, mean of the scenarios | of all decisions | requests |")
        print("|---|---:|---:|---:|")
        for name, each in asked.items():
            if each is not None:
                print(f"| {name} | {each.mean:.0f} | {each.pooled:.0f} | {each.total} |")
        print("\nScenarios in which the default asks more often by more than a tenth:\n")
        for line in asks_more(table) or ["none"]:
            print(f"- {line}")


def main() -> int:
    """Measure, print, and compare with the aims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="runs of each scenario")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", metavar="WORDS", default="", help="scenarios whose name has them")
    parser.add_argument(
        "--way", action="append", choices=list(WAYS), help="this way alone; may be given again"
    )
    parser.add_argument(
        "--outcomes",
        type=Path,
        metavar="PATH",
        help="a file that keeps the outcome of each run; runs that it has are not repeated",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PATH",
        help="an .svg or .png to write, as PATH-light and PATH-dark",
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 where an aim is missed")
    options = parser.parse_args()
    chosen = [scenario for scenario in SCENARIOS if options.only in scenario.name]
    if not chosen or options.seeds < 1 or options.jobs < 1:
        parser.error(
            f"nothing to run: {len(chosen)} scenarios, {options.seeds} seeds, {options.jobs} jobs"
        )
    if options.plot is not None and (options.only or not set(SHOWN) <= {*(options.way or WAYS)}):
        parser.error(f"--plot shows all scenarios, and at least these ways: {', '.join(SHOWN)}")
    if options.plot is not None and find_spec("matplotlib") is None:
        parser.error('--plot needs matplotlib: python -m pip install ".[bench]"')
    ways = [name for name in WAYS if not options.way or name in options.way]
    table = measure(chosen, ways, options.seeds, options.jobs, options.outcomes)
    show(table)
    show_beliefs(table, [name for name in ways if name in OURS])
    if options.plot is not None:
        plot(table, options.plot)
    summarise(table, ways)
    found = missed(table)
    print("\nAims: " + ("all met" if not found else "missed:"))
    for line in found:
        print(f"- {line}")
    return int(options.check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
