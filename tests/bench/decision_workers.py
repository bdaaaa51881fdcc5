"""The same calls by one process, by four with a guard each, and by four whose guards share a store.

    python tests/bench/decision_workers.py                     ten seeds
    python tests/bench/decision_workers.py --seeds 40 --jobs 2
    python tests/bench/decision_workers.py --seeds 1 --check   exit with 1 where an aim is missed

Time is simulated, and so is the store, which hands the real messages to the real head. Amounts are credits.
What a wrong refusal is says `decision_quality.py`.
"""

import argparse
import sys
from dataclasses import replace

import decision_quality as quality
from decision_rows import Row
from scenarios import WORKERS
from ways import DEFAULT, TOGETHER, WAYS_OF_WORKERS


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="runs of each scenario")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--check", action="store_true", help="exit with 1 where an aim is missed")
    options = parser.parse_args()
    ways = list(WAYS_OF_WORKERS)
    apart = quality.measure(WORKERS, ways, options.seeds, options.jobs, None)
    alone = [replace(each, processes=1) for each in WORKERS]
    one = quality.measure(alone, [DEFAULT], options.seeds, options.jobs, None)
    print("| scenario | processes | finished | died | wasted | wrong, % | requests |")
    print("|---|---|---:|---:|---:|---:|---:|")
    found: list[str] = []
    for scenario, single in zip(WORKERS, alone, strict=True):
        _print(scenario.name, "1", one[single][DEFAULT])
        for way in ways:
            _print(scenario.name, f"4: {way}", apart[scenario][way])
        shared = apart[scenario][TOGETHER]
        if shared.died or any(each.overspent for each in shared.outcomes):
            found.append(f"{scenario.name}: {shared.died} calls died with one store")
    print("\nAims: " + ("all met" if not found else "missed:"))
    for line in found:
        print(f"- {line}")
    return int(options.check and bool(found))


def _print(scenario: str, processes: str, row: Row) -> None:
    outcomes = row.outcomes
    wasted = sum(each.wasted for each in outcomes)
    requests = sum(each.requests for each in outcomes)
    print(
        f"| {scenario} | {processes} | {row.finished} | {row.died} | {wasted:.0f} "
        f"| {row.wrong:.2f} | {requests} |"
    )


if __name__ == "__main__":
    sys.exit(main())
