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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from interpreter import FORKING, LONG, PATIENCE, Script
from paid_provider import LAG, LINGER, PaidProvider

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

HERE = Path(__file__).parent
SEED = os.environ.get("BUDGETGUARD_SEED", "1")

# A store looks for dead processes once a second; and the machine may be busy.
BACK = LAG + LINGER + 1.0
BUSY = 10.0


class Nursery:
    """Processes that spend; each is known by its pid."""

    def __init__(self, folder: Path, port: int, *before: str) -> None:
        self.folder = folder
        self.path = folder / "credits.db"
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


def unresolved(path: Path) -> list[str]:
    """The members of all accounts in the file whose calls' costs are not known, or who hold anything."""
    script = """
import json, sqlite3, sys
from budgetguard._core.head_state import load
found = []
with sqlite3.connect(sys.argv[1]) as connection:
    accounts = {}
    for account, part, state in connection.execute("SELECT account, part, state FROM parts"):
        accounts.setdefault(account, {})[part] = json.loads(state)
connection.close()
for parts in accounts.values():
    for name, member in load(parts).members.items():
        if member.lease or member.kept.total or member.kept.slots or not member.gone:
            found.append(name)
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


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
        assert provider.rest() <= 60 + 40 * KILLS
        all_are_back(provider, nursery)
        assert provider.lowest >= 0
        assert told["spent"] > 0
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
