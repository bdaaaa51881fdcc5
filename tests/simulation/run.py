"""Run the simulation.

python tests/simulation/run.py --seeds 200                 a short proof
python tests/simulation/run.py --seeds 10000 --jobs 2      a long one
python tests/simulation/run.py --seeds 200 --budgets       the same with budgets in every seed
python tests/simulation/run.py --seed 7 --trace            one seed, line by line
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from scenario import Simulation


def run(seed: int, steps: int, budgets: bool | None) -> str | None:
    """Run one seed; what broke, if anything did."""
    try:
        Simulation(seed, steps, budgets=budgets).run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def run_many(seeds: range, steps: int, jobs: int, budgets: bool | None) -> int:
    """Run many, telling how far it is; how many broke."""
    broken, started = 0, time.perf_counter()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        outcomes = pool.map(partial(run, steps=steps, budgets=budgets), seeds, chunksize=5)
        for number, (seed, outcome) in enumerate(zip(seeds, outcomes, strict=True), 1):
            if outcome is not None:
                broken += 1
                print(f"seed {seed}: {outcome}")
                print(f"    {replay(seed, steps, budgets)}", flush=True)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{number} of {len(seeds)} seeds, {broken} broken")
    took = time.perf_counter() - started
    print(f"{len(seeds)} seeds x {steps} steps, {broken} broken, {took:.1f} s")
    return broken


def replay(seed: int, steps: int, budgets: bool | None) -> str:
    """The command that runs a seed again, to the same trace."""
    also = " --budgets" if budgets else ""
    return f"python tests/simulation/run.py --seed {seed} --steps {steps}{also} --trace"


def main() -> int:
    """Run some seeds; 1 when one breaks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--steps", type=int, default=1000, help="calls in each")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--trace", action="store_true", help="print all that happened, for one seed"
    )
    parser.add_argument("--budgets", action="store_true", help="have budgets in every seed")
    options = parser.parse_args()
    budgets = options.budgets or None
    if options.seeds != 1:
        seeds = range(options.seed, options.seed + options.seeds)
        return int(run_many(seeds, options.steps, options.jobs, budgets) > 0)
    simulation = Simulation(options.seed, options.steps, budgets=budgets)
    try:
        simulation.run()
    finally:
        print("\n".join(simulation.trace if options.trace else simulation.trace[-1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
