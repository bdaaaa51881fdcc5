"""A long life of a guard: threads stay as many, memory stays as it is, and nothing is left held.

python tests/edges/soak.py --virtual-days 30        a crowd on a virtual clock, some minutes
python tests/edges/soak.py --real-minutes 10        threads and loops against a sandbox
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "simulation"), str(HERE.parents[1])]


def main() -> int:
    """Run one of both; 1 when something is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    how_long = parser.add_mutually_exclusive_group(required=True)
    how_long.add_argument("--virtual-days", type=float)
    how_long.add_argument("--real-minutes", type=float)
    parser.add_argument("--every", type=float, default=6.0, help="virtual seconds between callers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.virtual_days:
        from soak_virtual import Soak as Virtual

        return Virtual(options.virtual_days, options.every, options.seed).run()
    from soak_real import Soak as Real

    return Real(options.real_minutes, options.seed).run()


if __name__ == "__main__":
    sys.exit(main())
