"""The last credits of an account, nearly all of them stranded in leases, when everybody wants one at once.

    python tests/stores/last_credits.py [--runs 100] [--minutes 25] [--processes 8] [--callers 1000] [--url URL]

The store is in a file, or in the Redis or Valkey server at the URL.

Each run has new processes. Exits with 1 unless each of the credits is given away in each run, and once only.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "bench"), str(HERE.parents[1])]

from store_members import MICRO, members, rush
from stores import EDGE, STRANDED, strand


def spread(values: list[float]) -> str:
    """The least, the one in the middle, and the most."""
    return f"{min(values):g} .. {statistics.median(values):g} .. {max(values):g}"


def main() -> int:
    """Run, and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--url")
    options = parser.parse_args()
    processes, callers = options.processes, options.callers
    end = time.monotonic() + 60 * options.minutes
    runs = exact = 0
    messages: list[float] = []
    most: list[float] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        while runs < options.runs and time.monotonic() < end:
            runs += 1
            # Each process has spent two before it begins.
            with members(processes, Path(folder), EDGE + 2 * processes, options.url) as group:
                stranded = strand(group)
                assert stranded >= STRANDED * MICRO
                found = group.together(rush, callers)
            admitted = sum(each.admitted for each in found)
            refused = sum(each.refused for each in found)
            exact += (admitted, admitted + refused) == (EDGE, processes * callers)
            messages += [each.messages for each in found]
            most.append(max(each.messages for each in found))
            seconds.append(round(max(each.seconds for each in found), 2))
            print(
                f"{runs}: {admitted} admitted, {refused} refused, messages "
                f"{sorted(each.messages for each in found)}, {seconds[-1]} s",
                flush=True,
            )
    print(f"{EDGE} of {EDGE} credits, of which {STRANDED} were stranded: {exact} of {runs} runs")
    print(f"messages of a process: {spread(messages)}; the most of a run: {spread(most)}")
    print(f"seconds until all had an answer: {spread(seconds)}")
    return int(exact < runs)


if __name__ == "__main__":
    sys.exit(main())
