"""Real processes that share an account in a file: killed, stopped and forked in the middle of everything.

The provider keeps the true balance, and books what killed processes asked for, too. It must never go below
zero, and what dead processes held must come back. Nothing is asserted about how long that takes, because the
machine may be busy: `killed.py` and `last_credits.py` measure it. With BUDGETGUARD_LONG=1 there is much more of
everything.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from interpreter import FORKING, LONG, PATIENCE
from spending_processes import HERE, all_are_back, go_on, paid, pause, spenders, until
from store_members import MICRO, members, rush
from stores import EDGE, STRANDED, strand

from budgetguard.stores import _store_errors as words
from budgetguard.stores.members import read_members

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

SEED = os.environ.get("BUDGETGUARD_SEED", "1")


KILLS = 300 if LONG else 6


def test_processes_are_killed_at_random_moments(tmp_path: Path) -> None:
    """Nothing is overspent, nothing is printed, and every credit comes back."""
    random = Random(f"kills {SEED}")
    print(f"seed: {SEED}")
    with spenders(tmp_path, 60) as (account, nursery):
        for number in range(3):
            nursery.start("spend", f"{SEED} {number}")
        for number in range(KILLS):
            account.top_up(random.randint(20, 40))
            go_on(account, random.randint(1, 5))
            pause(random, 0.05)
            nursery.kill(random.choice(nursery.living))
            nursery.start("spend", f"{SEED} again {number}")
        told = nursery.end_all()
        all_are_back(account, nursery)
        assert account.lowest >= 0
        assert set(told) <= {"spent", "refused"}
        assert nursery.words() == ""


STOPS = 100 if LONG else 4


def test_processes_are_stopped_and_continue(tmp_path: Path) -> None:
    """A stopped process keeps what it holds, and whoever waits for it meanwhile is not let in twice."""
    random = Random(f"stops {SEED}")
    print(f"seed: {SEED}")
    with spenders(tmp_path, 60) as (account, nursery):
        for number in range(3):
            nursery.start("spend", f"{SEED} {number}")
        for _ in range(STOPS):
            account.top_up(random.randint(20, 30))
            go_on(account, random.randint(1, 5))
            stopped = random.sample(nursery.living, random.randint(1, 2))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            # The others may have to wait for one that was stopped in the middle of a transaction.
            pause(random, 0.2)
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        told = nursery.end_all()
        all_are_back(account, nursery)
        assert account.lowest >= 0
        assert set(told) <= {"spent", "refused"}
        assert nursery.words() == ""


FORKS = 60 if LONG else 4


def test_forks_in_the_middle_of_calls(tmp_path: Path) -> None:
    """Each child is a member of its own, and its parent goes on; both ways to end are safe."""
    with spenders(tmp_path, 200) as (account, nursery):
        forking = [nursery.start("fork", f"{SEED} {number}", FORKS) for number in range(2)]
        told: Counter[str] = Counter()
        for pid in forking:
            told += nursery.end(pid)
        all_are_back(account, nursery)
        assert 0 <= account.lowest < 200
        assert set(told) <= {"spent", "refused"}
        assert nursery.words() == ""


def test_processes_that_end_in_order_leave_nothing(tmp_path: Path) -> None:
    """No lease and nothing unresolved is left of them, and all credits are at hand at once."""
    with spenders(tmp_path, 10_000) as (account, nursery):
        for number in range(3):
            nursery.start("spend", f"{SEED} {number}")
        go_on(account, 50)
        told = nursery.end_all()
        assert set(told) == {"spent"}
        assert told["spent"] == 10_000 - account.rest()
        [shared] = read_members(str(nursery.path))
        assert {member.state for member in shared.members} <= {"gone"}
        assert not any(member.lease or member.unresolved for member in shared.members)
        assert nursery.words() == ""


WAYS = """
import concurrent.futures, multiprocessing, sys
sys.path[:0] = [{here!r}]
from paid_provider import PaidAccount
from budgetguard import Guard
from budgetguard._io import loop
from budgetguard.stores import SQLiteStore

# A busy machine may take longer than users are kept waiting.
loop._FAREWELL = loop._EXIT_PATIENCE = 60.0

guard = Guard(PaidAccount({account!r}), store=SQLiteStore({path!r}, timeout=60), timeout=120)

@guard.require_credits(min=2)
def call(_):
    guard.provider.work(2, 0.001)
    return 2

def calls(number):
    return sum(map(call, range(number)))
"""
THROUGH = {
    "spawn": "pool = multiprocessing.get_context('spawn').Pool(2)",
    "fork": "pool = multiprocessing.get_context('fork').Pool(3)",
    "forkserver": "pool = multiprocessing.get_context('forkserver').Pool(2)",
    "executor": "pool = concurrent.futures.ProcessPoolExecutor(3)",
}


@pytest.mark.parametrize("way", THROUGH)
def test_pools_of_processes(tmp_path: Path, way: str) -> None:
    """Workers of all kinds share the account with their parent, whose guard was used before they began."""
    path = tmp_path / "credits.db"
    account = paid(tmp_path, 1000)
    program = tmp_path / "program.py"
    head = WAYS.format(here=str(HERE), account=str(account.path), path=str(path))
    program.write_text(
        head
        + f"""
if __name__ == "__main__":
    spent = calls(5)
    {THROUGH[way]}
    with pool:
        spent += sum(pool.map(calls, [5] * 8))
        if hasattr(pool, "close"):
            pool.close()
            pool.join()
    print(spent + calls(5))
"""
    )
    done = subprocess.run(
        [sys.executable, *FORKING, str(program)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("100\n", "", 0)
    assert account.rest() == 900
    [shared] = read_members(str(path))
    assert not any(member.lease or member.unresolved for member in shared.members)


def may_mount() -> bool:
    """Whether a process may have a small disk of its own."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        [*SMALL_DISK, "true"], env={**os.environ, "DISK": "/mnt"}, capture_output=True, check=False
    )
    return tried.returncode == 0


# Only what is run so sees it. A write-ahead log has up to 4 MB before it begins anew.
SMALL_DISK = (
    *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size=16m tmpfs "$DISK" && exec "$0" "$@"',
)


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """Whoever has a lease goes on, others are told what to do, and nothing is lost when there is room again."""
    if not may_mount():
        pytest.skip("no disks of one's own on this platform")
    with spenders(tmp_path, 3000, *SMALL_DISK) as (account, nursery):
        for number in range(2):
            nursery.start("spend", f"{SEED} {number}")
        for _ in range(20 if LONG else 2):
            go_on(account, 10)
            nursery.tell("fill")
            # Until the log's room is used up, nobody notices.
            before, written = account.works, nursery.words()
            until(lambda: nursery.words() != written or account.works >= before + 30)  # noqa: B023  at once
            nursery.tell("empty")
        for pid in list(nursery.living):
            os.kill(pid, signal.SIGTERM)
            nursery.living.remove(pid)
            assert nursery.tell("reap", pid) == 0
        all_are_back(account, nursery)
        assert account.lowest >= 0
        full = words.full(str(nursery.path))
        assert set(nursery.words().splitlines()) <= {full}


def test_the_last_credits_are_admitted_exactly(tmp_path: Path) -> None:
    """Nearly all of them are stranded as slack, everybody wants one at once, and each one is given away."""
    processes, callers = (8, 1000) if LONG else (3, 300)
    with members(processes, tmp_path, EDGE + 2 * processes) as group:
        assert strand(group) >= STRANDED * MICRO
        found = group.together(rush, callers)
    assert sum(each.admitted for each in found) == EDGE
    assert sum(each.refused for each in found) == processes * callers - EDGE


def test_a_new_process_does_not_refuse_on_an_old_balance(tmp_path: Path) -> None:
    """Others asked long before it came; it asks again, as any process does before it refuses."""
    with spenders(tmp_path, 0) as (account, nursery):
        assert "took" not in nursery.end(nursery.start("take", 1, 0))
        account.top_up(5)
        assert nursery.end(nursery.start("take", 5, 0))["took"] == 5
        assert nursery.words() == ""
