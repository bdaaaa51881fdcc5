"""What each hostile reply costs a caller: seconds to the error, megabytes meanwhile.

python tests/edges/hostile_cost.py [--timeout 2]

Exits 1 where an error comes later than the deadline and a tenth of a second, where more than 2 MB
are taken, where a call is let in, or where an error is no BalanceUnavailable.
"""

import argparse
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "providers"), str(HERE.parents[1])]

from hostile import CASES, KEY, Server, predev

from budgetguard import BalanceUnavailable, Guard, PreDev

LATE = 0.1
MOST = 2_000_000
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"
Wire = bytes | Iterable[bytes]


@dataclass
class Cost:
    """What came of one guarded call."""

    error: str
    let_in: bool
    foreign: bool
    seconds: float
    peak: int


def cost_of(url: str, *, timeout: float, traced: bool) -> Cost:
    """Make a guarded call whose balance is asked for at `url`."""
    guard = Guard(PreDev(KEY, base_url=url), timeout=timeout)
    error: BaseException | None = None
    if traced:
        tracemalloc.start()
    begun = time.perf_counter()
    try:
        guard.acquire(1).release()
    except Exception as raised:
        error = raised
    seconds = time.perf_counter() - begun
    peak = 0
    if traced:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return Cost(
        error=type(error).__name__,
        let_in=error is None,
        foreign=error is not None and not isinstance(error, BalanceUnavailable),
        seconds=seconds,
        peak=peak,
    )


def slow(done: threading.Event) -> dict[str, Callable[[], Wire]]:
    """Replies that would never end, until `done`."""

    def drip(start: bytes, piece: bytes, every: float) -> Callable[[], Iterator[bytes]]:
        def pieces() -> Iterator[bytes]:
            yield start
            while not done.wait(every):
                yield piece

        return pieces

    return {
        "never-answers": drip(b"", b"", 0.05),
        "drips-its-status": drip(b"HTTP/1.1 200", b"0", 0.01),
        "drips-headers": drip(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", 0.01),
        "drips-one-header": drip(b"HTTP/1.1 200 OK\r\nx: ", b"y", 0.01),
        "drips-its-body": drip(OK, b" ", 0.01),
        "drips-chunks": drip(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.01
        ),
        "stops-in-its-body": drip(OK + b'{"success": true', b"", 0.05),
        "endless-early-hints": drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.001),
        "endless-body-at-once": drip(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", b" " * 262_144, 0
        ),
    }


def rows(timeout: float) -> Iterator[tuple[str, Cost, Cost]]:
    """For each case the costs of a plain call and of one whose memory is traced."""
    for case in CASES:
        with Server(case.wire) as server, Server(case.wire) as again:
            yield (
                case.name,
                cost_of(server.url, timeout=timeout, traced=False),
                cost_of(again.url, timeout=timeout, traced=True),
            )
    for name in slow(threading.Event()):
        costs = []
        for traced in (False, True):
            done = threading.Event()
            with Server(slow(done)[name]()) as server:
                try:
                    costs.append(cost_of(server.url, timeout=timeout, traced=traced))
                finally:
                    done.set()
        yield name, costs[0], costs[1]


def main() -> int:
    """Print a table; 1 where something costs too much, or is let in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeout", type=float, default=2.0, help="each look's deadline")
    timeout = parser.parse_args().timeout
    # What is made once, a client and its certificates, is made here.
    with Server(predev("5")) as server:
        Guard(PreDev(KEY, base_url=server.url)).balance()
    print(f"{'case':32}{'error':22}{'s':>8}{'MB':>8}")
    table = []
    for name, plain, traced in rows(timeout):
        table.append((plain, traced))
        print(f"{name:32}{plain.error:22}{plain.seconds:8.3f}{traced.peak / 1e6:8.3f}", flush=True)
    both = [cost for row in table for cost in row]
    let_in = sum(cost.let_in for cost in both)
    foreign = sum(cost.foreign for cost in both)
    slowest = max(plain.seconds for plain, _ in table)
    peak = max(traced.peak for _, traced in table)
    print(
        f"{len(table)} cases: {let_in} let in, {foreign} other errors, at most {slowest:.3f} s "
        f"of {timeout:g} s, at most {peak / 1e6:.3f} MB"
    )
    return int(let_in > 0 or foreign > 0 or slowest > timeout + LATE or peak > MOST)


if __name__ == "__main__":
    sys.exit(main())
