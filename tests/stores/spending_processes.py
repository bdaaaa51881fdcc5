"""Processes that spend from one account in a store, and what can be done to them from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from interpreter import FORKING, PATIENCE
from paid_provider import PaidAccount

HERE = Path(__file__).parent


class Nursery:
    """Processes that spend; each is known by its pid."""

    def __init__(
        self, folder: Path, account: PaidAccount, *before: str, place: str | None = None
    ) -> None:
        self.folder = folder
        self.path = folder / "disk" / "credits.db"
        self.path.parent.mkdir()
        self._words = (folder / "stderr").open("w+")
        (folder / "told").mkdir()
        self._process = subprocess.Popen(
            [
                *before,
                *(sys.executable, *FORKING, str(HERE / "nursery.py")),
                *(place or str(self.path), str(account.path), str(folder / "told")),
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
def spenders(
    folder: Path, credits: int, *before: str, place: str | None = None
) -> Iterator[tuple[PaidAccount, Nursery]]:
    """An account with so many credits, and processes that spend them, by a store in a file or at that place."""
    account = paid(folder, credits)
    nursery = Nursery(folder, account, *before, place=place)
    try:
        yield account, nursery
    finally:
        nursery.close()


def paid(folder: Path, credits: int) -> PaidAccount:
    """A new account with so many credits."""
    account = PaidAccount(folder / "account")
    account.top_up(credits)
    return account


def pause(random: Random, longest: float) -> None:
    """Let everything run for a random moment."""
    threading.Event().wait(random.uniform(0, longest))


def until(condition: Callable[[], object]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def go_on(account: PaidAccount, works: int) -> None:
    """Let processes spend, until so much more work was asked for; there have to be credits for it."""
    before = account.works
    until(lambda: account.works >= before + works)


def all_are_back(account: PaidAccount, nursery: Nursery) -> None:
    """A new process can hold all that there is, as soon as nothing of the dead counts any more."""
    account.top_up(max(1 - account.rest(), 0))
    left = account.credits
    assert nursery.end(nursery.start("take", left, PATIENCE))["took"] == left
