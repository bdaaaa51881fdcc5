"""What it costs that processes share an account through a file, as ratios within one run.

    python tests/bench/stores.py [--short] [--check]

Wherever it is about time, a figure is the median of 11 pairs, taken in turns with the baseline, so that a
machine whose speed drifts drifts for both. The baseline is the same with books in the process's memory.
With `--check`, exits with 1 where an aim is missed; aims are for a machine with a core for each process.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from store_members import (
    MICRO,
    Guards,
    Members,
    begin,
    call_at_rate,
    call_for,
    contend,
    members,
    rest,
    rush,
    stir,
    together,
)

PLENTY = 10**9
EDGE = 500
STRANDED = 470
LOOP = 2000


@dataclass(frozen=True, slots=True)
class Length:
    """How much is measured."""

    loops: int
    pairs: int
    seconds: float
    calls: int
    processes: int
    callers: int
    rushes: int
    resting: float


LONG = Length(
    loops=101, pairs=11, seconds=1.0, calls=100_000, processes=8, callers=1000, rushes=5, resting=5
)
SHORT = Length(
    loops=41, pairs=5, seconds=0.3, calls=20_000, processes=4, callers=200, rushes=1, resting=1
)


class Aims:
    """Prints figures beside what is aimed at, and remembers whether one was missed."""

    def __init__(self) -> None:
        self.missed = False

    def tell(self, what: str, figure: str, aim: str = "", *, met: bool = True) -> None:
        """Print a line."""
        self.missed = self.missed or not met
        said = f"   aim {aim}{'' if met else ': MISSED'}" if aim else ""
        print(f"  {what:<52} {figure:>10}{said}", flush=True)


def milliseconds(seconds: float) -> str:
    """The time, as it is printed."""
    return f"{1e3 * seconds:.2f} ms"


def nanoseconds(seconds: float) -> str:
    """Likewise, for what is short."""
    return f"{1e9 * seconds:.0f} ns"


def one_process(aims: Aims, length: Length, folder: Path) -> None:
    """One process alone: a call in its lease, and the pauses in which the lease is filled."""
    guards = Guards(str(folder / "one.db"), PLENTY)
    begin(guards)
    # Until the slack is as large as such a loop wants it.
    call_for(guards, 0.0, 1.0, leased=True)

    def timed(call: Callable[[int], int]) -> float:
        began = time.perf_counter()
        for _ in range(LOOP):
            call(1)
        return (time.perf_counter() - began) / LOOP

    bases, ratios = [], []
    for _ in range(length.loops):
        bases.append(timed(guards.in_memory))
        ratios.append(timed(guards.in_lease) / bases[-1])
    base, ratio = statistics.median(bases), statistics.median(ratios)
    print(f"one process: a decorated sync call of constant cost ({nanoseconds(base)} in memory)")
    aims.tell("in the lease, over in memory", f"{ratio:.2f}", "<= 1.1", met=ratio <= 1.1)
    clock = time.perf_counter
    for name, call in (("memory", guards.in_memory), ("lease", guards.in_lease)):
        times, before = [], guards.messages
        for _ in range(length.calls):
            began = clock()
            call(1)
            times.append(clock() - began)
        times.sort()
        mean = statistics.fmean(times)
        print(
            f"  {length.calls:,} calls, {name}: p50 {nanoseconds(times[len(times) // 2])}", end=""
        )
        print(
            f", p99 {nanoseconds(times[len(times) * 99 // 100])}, mean {nanoseconds(mean)}", end=""
        )
        print(f", longest {milliseconds(times[-1])}, messages {guards.messages - before}")


def plenty(aims: Aims, length: Length, group: Members) -> None:
    """Four processes, away from exhaustion."""
    group.together(call_for, length.seconds, leased=True)
    ratios, p99s, longest = [], [], []
    for _ in range(length.pairs):
        base = together(group.together(call_for, length.seconds, leased=False))
        found = together(group.together(call_for, length.seconds, leased=True))
        ratios.append(found.rate / base.rate)
        p99s.append(found.quantile(0.99))
        longest.append(found.times[-1])
    ratio, p99 = statistics.median(ratios), statistics.median(p99s)
    print(
        f"\n{len(group)} processes, away from exhaustion ({found.rate:,.0f} calls/s, all together)"
    )
    aims.tell(
        "calls/s, over books in each one's memory", f"{ratio:.2f}", ">= 0.5", met=ratio >= 0.5
    )
    aims.tell("p99 of a call", milliseconds(p99), "< 1 ms", met=p99 < 1e-3)
    print(f"  longest call, median of the pairs: {milliseconds(statistics.median(longest))}")


def pace(aims: Aims, length: Length, group: Members) -> None:
    """Messages a second, at several rates of calls."""
    print(f"\nmessages a second and process, {len(group)} processes")
    for rate in (1, 10, 100, 1000, 10_000, 100_000):
        seconds = max(2 * length.seconds, 1.0)
        found = group.together(call_at_rate, seconds, rate)
        most, calls = max(each[1] for each in found), statistics.fmean(each[0] for each in found)
        aims.tell(f"at {calls:,.0f} calls/s each", f"{most:.1f}", "<= 20", met=most <= 20)


def near(aims: Aims, length: Length, folder: Path) -> None:
    """Four processes that take and give back credits of which there are hardly enough, or too few."""
    callers, inside = 2, 0.002
    for credits, what in ((12, "enough for all, and no slack"), (6, "too few for all")):
        with members(4, folder, credits + 8) as group:
            each = group.together(contend, 4 * length.seconds, callers, inside)
        found = together(each)
        slowest = min(one.calls for one in each) / statistics.fmean(one.calls for one in each)
        print(f"\n4 processes with {callers} threads each, {credits} credits: {what}")
        p99 = found.quantile(0.99)
        print(f"  {found.rate:,.0f} calls/s, p50 {milliseconds(found.quantile(0.5))}", end="")
        print(f", longest {milliseconds(found.times[-1])}")
        aims.tell("p99 of a call", milliseconds(p99), "< 50 ms", met=p99 < 0.05)
        aims.tell(
            "slowest process, over the mean", f"{slowest:.2f}", ">= 0.25", met=slowest >= 0.25
        )


def strand(group: Members) -> int:
    """Lend as slack nearly all that there is; gives how many micro-credits are stranded so."""
    rooms = [0] * len(group)
    while sum(rooms) < STRANDED * MICRO:
        for number in range(len(group)):
            rooms[number] = group.one(number, stir, EDGE)
    return sum(rooms)


def edge(aims: Aims, length: Length, folder: Path) -> None:
    """The last 500 credits, nearly all of them stranded as slack, and everybody wants one at once."""
    processes, callers = length.processes, length.callers
    print(f"\n{EDGE} credits, {processes} processes x {callers:,} callers at once")
    for _ in range(length.rushes):
        # Each process has spent two before it begins.
        with members(processes, folder, EDGE + 2 * processes) as group:
            stranded = strand(group)
            found = group.together(rush, callers)
        admitted = sum(each.admitted for each in found)
        refused = sum(each.refused for each in found)
        messages = max(each.messages for each in found)
        whole = admitted == EDGE and admitted + refused == processes * callers
        aims.tell(
            f"admitted, with {stranded / MICRO:.0f} stranded", f"{admitted}", f"{EDGE}", met=whole
        )
        aims.tell("messages, most of any process", f"{messages}", "<= 4", met=messages <= 4)
        print(f"  until all had an answer: {max(each.seconds for each in found):.2f} s")


def idle(aims: Aims, length: Length, group: Members) -> None:
    """What processes use that do nothing."""
    print("\nprocessor time a second of a process that does nothing")
    for held, what in ((False, "with slack, which it gives back"), (True, "with one open hold")):
        used = statistics.fmean(group.all(rest, length.resting, held=held))
        aims.tell(what, milliseconds(used))


def main() -> int:
    """Print all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="less of everything, for CI")
    parser.add_argument("--check", action="store_true", help="exit with 1 where an aim is missed")
    options = parser.parse_args()
    length, aims = SHORT if options.short else LONG, Aims()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {length.pairs} pairs\n")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        one_process(aims, length, folder)
        with members(4, folder, PLENTY) as group:
            plenty(aims, length, group)
            pace(aims, length, group)
            idle(aims, length, group)
        near(aims, length, folder)
        edge(aims, length, folder)
    return int(options.check and aims.missed)


if __name__ == "__main__":
    sys.exit(main())
