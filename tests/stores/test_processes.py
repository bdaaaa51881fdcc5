"""Real processes that share an account in a file: killed, stopped and forked in the middle of everything.

The provider keeps the true balance, and books what killed processes asked for, too. It must never go below
zero, and what dead processes held must come back in time. The long form takes several minutes.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from interpreter import FORKING, LONG, PATIENCE
from paid_provider import LAG, LINGER, PaidProvider
from store_members import MICRO, members, rush
from stores import EDGE, STRANDED, strand

from budgetguard.stores import _store_errors as words
from budgetguard.stores.members import read_members

# They wait for real processes, for minutes on a busy machine.
pytestmark = pytest.mark.skipif(
    not (hasattr(os, "fork") and os.environ.get("BUDGETGUARD_LONG")),
    reason="a long test: set BUDGETGUARD_LONG=1",
)

HERE = Path(__file__).parent
SEED = os.environ.get("BUDGETGUARD_SEED", "1")

# A store looks for dead processes once a second; and the machine may be busy.
BACK = LAG + LINGER + 1.0
BUSY = 30.0


class Nursery:
    """Processes that spend; each is known by its pid."""

    def __init__(self, folder: Path, port: int, *before: str) -> None:
        self.folder = folder
        self.path = folder / "disk" / "credits.db"
        self.path.parent.mkdir()
        self._words = (folder / "stderr").open("w+")
        (folder / "told").mkdir()
        self._process = subprocess.Popen(
            [
                *before,
                *(sys.executable, *FORKING, str(HERE / "nursery.py")),
                *(str(self.path), str(port), str(folder / "told")),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            env={**os.environ, "DISK": str(self.path.parent)},
        )
        self.living: list[int] = []

    def tell(self, *words: Any) -> Any:
        """Have it do something, and wait for its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(words) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, self.words()
        return json.loads(line)

    def start(self, *words: Any) -> int:
        """Start a process."""
        pid: int = self.tell(*words)
        self.living.append(pid)
        return pid

    def kill(self, pid: int) -> None:
        """End it without a word."""
        os.kill(pid, signal.SIGKILL)
        self.living.remove(pid)
        assert self.tell("reap", pid) == -signal.SIGKILL

    def end(self, pid: int) -> Counter[str]:
        """Wait for its end, in order; gives what it told."""
        self.living.remove(pid)
        assert self.tell("reap", pid) == 0, self.words()
        told: dict[str, int] = json.loads((self.folder / "told" / str(pid)).read_text())
        return Counter(told)

    def end_all(self) -> Counter[str]:
        """Have all of them end in order; gives what they told."""
        told: Counter[str] = Counter()
        for pid in list(self.living):
            os.kill(pid, signal.SIGTERM)
        for pid in list(self.living):
            told += self.end(pid)
        return told

    def words(self) -> str:
        """All that was written to stderr."""
        self._words.seek(0)
        return self._words.read()

    def close(self) -> None:
        for pid in self.living:
            os.kill(pid, signal.SIGKILL)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()
        self._words.close()


@contextmanager
def spenders(folder: Path, credits: int, *before: str) -> Iterator[tuple[PaidProvider, Nursery]]:
    """A provider with so many credits, and a nursery of processes that spend them."""
    with PaidProvider(credits) as provider:
        nursery = Nursery(folder, provider.port, *before)
        try:
            yield provider, nursery
        finally:
            nursery.close()


def pause(random: Random, longest: float) -> None:
    """Let everything run for a random moment."""
    threading.Event().wait(random.uniform(0, longest))


def all_are_back(provider: PaidProvider, nursery: Nursery) -> None:
    """A new process can hold all that there is, as soon as nothing of the dead counts any more."""
    provider.top_up(max(1 - provider.rest(), 0))
    left = provider.rest()
    assert nursery.end(nursery.start("take", left, BACK + BUSY)) == {"took": left}


KILLS = 300 if LONG else 20


def test_processes_are_killed_at_random_moments(tmp_path: Path) -> None:
    """Nothing is overspent, nothing is printed, and every credit comes back."""
    random = Random(f"kills {SEED}")
    print(f"seed: {SEED}")
    with spenders(tmp_path, 60) as (provider, nursery):
        for number in range(3):
            nursery.start("spend", f"{SEED} {number}")
        for number in range(KILLS):
            pause(random, 0.3)
            nursery.kill(random.choice(nursery.living))
            nursery.start("spend", f"{SEED} again {number}")
            provider.top_up(random.randint(0, 40))
        told = nursery.end_all()
        all_are_back(provider, nursery)
        assert 0 <= provider.lowest < 60
        assert set(told) <= {"spent", "refused"}
        assert nursery.words() == ""


STOPS = 100 if LONG else 10


def test_processes_are_stopped_and_continue(tmp_path: Path) -> None:
    """A stopped process keeps what it holds, and whoever waits for it meanwhile is not let in twice."""
    random = Random(f"stops {SEED}")
    print(f"seed: {SEED}")
    with spenders(tmp_path, 60) as (provider, nursery):
        for number in range(3):
            nursery.start("spend", f"{SEED} {number}")
        for _ in range(STOPS):
            pause(random, 0.2)
            stopped = random.sample(nursery.living, random.randint(1, 2))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            pause(random, 0.5)
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            provider.top_up(random.randint(0, 30))
        told = nursery.end_all()
        all_are_back(provider, nursery)
        assert provider.lowest >= 0
        assert set(told) <= {"spent", "refused"}
        assert nursery.words() == ""


FORKS = 60 if LONG else 6


def test_forks_in_the_middle_of_calls(tmp_path: Path) -> None:
    """Each child is a member of its own, and its parent goes on; both ways to end are safe."""
    with spenders(tmp_path, 200) as (provider, nursery):
        forking = [nursery.start("fork", f"{SEED} {number}", FORKS) for number in range(2)]
        told: Counter[str] = Counter()
        for pid in forking:
            told += nursery.end(pid)
        all_are_back(provider, nursery)
        assert 0 <= provider.lowest < 200
        assert set(told) <= {"spent", "refused"}
        assert nursery.words() == ""


def test_processes_that_end_in_order_leave_nothing(tmp_path: Path) -> None:
    """No lease and nothing unresolved is left of them, and all credits are at hand at once."""
    with spenders(tmp_path, 10_000) as (provider, nursery):
        for number in range(3):
            nursery.start("spend", f"{SEED} {number}")
        while provider.credits > 9_800:
            pause(Random(SEED), 0.1)
        told = nursery.end_all()
        assert set(told) == {"spent"}
        assert told["spent"] == 10_000 - provider.rest()
        for account in read_members(str(nursery.path)):
            assert {member.state for member in account.members} <= {"gone"}
            assert not any(member.lease or member.unresolved for member in account.members)
        assert nursery.words() == ""


WAYS = """
import concurrent.futures, multiprocessing, sys
sys.path[:0] = [{here!r}]
from paid_provider import PaidAccount
from budgetguard import Guard
from budgetguard._io import loop
from budgetguard.stores import SQLiteStore

# A busy machine may take longer than users are kept waiting.
loop._FAREWELL = loop._EXIT_PATIENCE = 30.0

guard = Guard(PaidAccount({port}), store=SQLiteStore({path!r}, timeout=10), timeout=60)

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
    with PaidProvider(1000) as provider:
        program = tmp_path / "program.py"
        head = WAYS.format(here=str(HERE), port=provider.port, path=str(path))
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
        assert provider.rest() == 900
    for account in read_members(str(path)):
        assert not any(member.lease or member.unresolved for member in account.members)


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
    with spenders(tmp_path, 3000, *SMALL_DISK) as (provider, nursery):
        for number in range(2):
            nursery.start("spend", f"{SEED} {number}")
        random = Random(f"disk {SEED}")
        for _ in range(5):
            pause(random, 0.5)
            nursery.tell("fill")
            pause(random, 0.5)
            nursery.tell("empty")
        for pid in list(nursery.living):
            os.kill(pid, signal.SIGTERM)
            nursery.living.remove(pid)
            assert nursery.tell("reap", pid) == 0
        all_are_back(provider, nursery)
        assert provider.lowest >= 0
        full = words.full(str(nursery.path))
        assert set(nursery.words().splitlines()) <= {full}


def test_the_last_credits_are_admitted_exactly(tmp_path: Path) -> None:
    """Nearly all of them are stranded as slack, everybody wants one at once, and each one is given away."""
    processes, callers = (8, 1000) if LONG else (4, 200)
    for _ in range(100 if LONG else 1):
        with members(processes, tmp_path, EDGE + 2 * processes) as group:
            assert strand(group) >= STRANDED * MICRO
            found = group.together(rush, callers)
        assert sum(each.admitted for each in found) == EDGE
        assert sum(each.refused for each in found) == processes * callers - EDGE
        # On a busy machine a few more than on an idle one.
        assert max(each.messages for each in found) <= 8


def test_a_new_process_does_not_refuse_on_an_old_balance(tmp_path: Path) -> None:
    """Others asked long before it came; it asks again, as any process does before it refuses."""
    with spenders(tmp_path, 0) as (provider, nursery):
        assert "took" not in nursery.end(nursery.start("take", 1, 0))
        provider.top_up(5)
        assert nursery.end(nursery.start("take", 5, 0)) == {"took": 5}
        assert nursery.words() == ""
