"""Processes that are killed at random moments, and how long it takes until what they held is back.

    python tests/stores/killed.py [--kills 300] [--seed 1] [--store sqlite|redis|valkey]

In each round, ten processes are killed in the middle of their calls, the last three of them at once; then a new
process waits for all that is left. Exits with 1 if credits were spent that there were not, or did not come back
in time.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parent / "process")]

from interpreter import PATIENCE
from paid_provider import LAG, LINGER
from server_process import ENGINES, servers
from spending_processes import go_on, pause, spenders
from store_place import ServerPlace

from budgetguard.stores.members import read_members

A_ROUND, AT_ONCE = 10, 3
# A process whose callers wait asks once a second; and the machine may be busy.
ALLOWED = LAG + LINGER + 3.0


def main() -> int:
    """Kill, and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=("sqlite", *ENGINES), default="sqlite")
    options = parser.parse_args()
    random = Random(options.seed)
    lost, seconds, alive = 0, [], 0
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        place, silence = None, 0.0
        if options.store != "sqlite":
            [server] = ends.enter_context(servers(options.store, folder))
            place, silence = ServerPlace(server.port).text, ServerPlace.hold_for
        account, nursery = ends.enter_context(spenders(folder, 60, place=place))
        for number in range(options.kills // A_ROUND):
            for one in range(AT_ONCE):
                nursery.start("spend", f"{options.seed} {number} {one}")
            for one in range(AT_ONCE, A_ROUND):
                account.top_up(random.randint(20, 40))
                go_on(account, random.randint(1, 5))
                pause(random, 0.1)
                nursery.kill(random.choice(nursery.living))
                nursery.start("spend", f"{options.seed} {number} {one}")
            account.top_up(random.randint(20, 40))
            go_on(account, AT_ONCE)
            for pid in list(nursery.living):
                nursery.kill(pid)
            killed = time.monotonic()
            if place is None:
                # Without removing their locks, as a process that joins does.
                [shared] = read_members(str(nursery.path))
                alive += sum(member.state == "alive" for member in shared.members)
            account.top_up(max(1 - account.last, 0))
            left = account.last
            told = nursery.end(nursery.start("take", left, PATIENCE))
            if told["took"] == left:
                seconds.append(told["at"] / 1000 - killed)
            else:
                lost += left
        words, works, lowest = nursery.words(), account.works, account.lowest
    print(f"{options.kills} kills, {works} calls, lowest balance {lowest}")
    if place is None:
        print(f"members that still counted as alive right after they were killed: {alive}")
    print(f"rounds whose credits all came back: {len(seconds)} of {options.kills // A_ROUND}")
    print(
        f"seconds until then: {min(seconds):.2f} .. {statistics.median(seconds):.2f} .. "
        f"{max(seconds):.2f} (hold_for + lag + linger are {silence + LAG + LINGER:.2f})"
    )
    print(f"words on stderr: {words[:500] or 'none'}")
    failed = lowest < 0 or lost or alive or max(seconds) > silence + ALLOWED or words
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
