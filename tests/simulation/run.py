"""Run the simulation: `python tests/simulation/run.py --seed 7 --steps 1000 --trace`."""

import argparse
import sys
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from scenario import Simulation


def main() -> int:
    """Run some seeds; 1 when one breaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args()
    broken = 0
    started = time.perf_counter()
    for seed in range(options.seed, options.seed + options.seeds):
        simulation = Simulation(seed, options.steps)
        try:
            simulation.run()
        except Exception as error:
            broken += 1
            print(f"seed {seed}: {type(error).__name__}: {error}")
            if options.seeds == 1:
                traceback.print_exc()
        if options.trace:
            print("\n".join(simulation.trace))
        elif options.seeds == 1:
            print(simulation.trace[-1])
        if sys.stderr.isatty() and options.seeds > 1:
            sys.stderr.write(
                f"\r{seed - options.seed + 1} of {options.seeds} seeds, {broken} broken"
            )
    took = time.perf_counter() - started
    print(f"{options.seeds} seeds x {options.steps} steps, {broken} broken, {took:.1f} s")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
