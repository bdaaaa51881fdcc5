"""Run the simulation of a fleet.

python tests/fleet/run.py --seeds 200 --jobs 2      a short proof, with how often each thing went wrong
python tests/fleet/run.py --seeds 5000 --jobs 2     a long one
python tests/fleet/run.py --seed 7 --trace          one seed, line by line
"""

import argparse
import logging
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "simulation"), str(HERE.parents[1])]

from fleet import Fleet
from guard_member import GuardMember
from plain_member import PlainMember

SPENDERS = {"guard": GuardMember, "plain": PlainMember}
CALLS = 200


def run(seed: int, calls: int, spender: str) -> tuple[str | None, Counter[str]]:
    """Run one seed: what broke, if anything did, and what went wrong in its world."""
    logging.disable()
    fleet = Fleet(seed, calls, SPENDERS[spender])
    try:
        fleet.run()
    except Exception as error:
        return f"{type(error).__name__}: {error}", fleet.counts
    return None, fleet.counts


def run_many(seeds: range, calls: int, jobs: int, spender: str) -> int:
    """Run many, telling how far it is; how many broke."""
    broken, started = 0, time.perf_counter()
    counts: Counter[str] = Counter()
    seeds_with: Counter[str] = Counter()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        work = partial(run, calls=calls, spender=spender)
        outcomes = pool.map(work, seeds, chunksize=5)
        for number, (seed, (outcome, faults)) in enumerate(zip(seeds, outcomes, strict=True), 1):
            counts += faults
            seeds_with += Counter(faults.keys())
            if outcome is not None:
                broken += 1
                print(f"seed {seed}: {outcome}")
                print(f"    {replay(seed, calls, spender)}", flush=True)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{number} of {len(seeds)} seeds, {broken} broken")
    took = time.perf_counter() - started
    width = max(map(len, counts), default=0)
    for name, times in sorted(counts.items()):
        print(f"  {name:{width}} {times:8} in {seeds_with[name]:5} seeds")
    print(f"{len(seeds)} seeds x {calls} calls, {broken} broken, {took:.1f} s")
    return broken


def replay(seed: int, calls: int, spender: str) -> str:
    """The command that runs a seed again, to the same trace."""
    also = "" if calls == CALLS else f" --calls {calls}"
    also += "" if spender == next(iter(SPENDERS)) else f" --spender {spender}"
    return f"python tests/fleet/run.py --seed {seed}{also} --trace"


def main() -> int:
    """Run some seeds; 1 when one breaks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--calls", type=int, default=CALLS, help="calls in each")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--spender", choices=SPENDERS, default=next(iter(SPENDERS)))
    parser.add_argument(
        "--trace", action="store_true", help="print all that happened, for one seed"
    )
    options = parser.parse_args()
    if options.seeds != 1:
        seeds = range(options.seed, options.seed + options.seeds)
        return int(run_many(seeds, options.calls, options.jobs, options.spender) > 0)
    logging.disable()
    fleet = Fleet(options.seed, options.calls, SPENDERS[options.spender])
    try:
        fleet.run()
    finally:
        print("\n".join(fleet.trace if options.trace else fleet.trace[-1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
