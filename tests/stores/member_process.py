"""Members in processes of their own, and what tests do to them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spender import ACCOUNT

PROGRAM = Path(__file__).parent / "spender.py"
PATIENCE = 20.0


class MemberProcess:
    """A spender in a process of its own."""

    def __init__(self, path: Path, account: str = ACCOUNT, timeout: float = 2) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(path), account, str(timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def begin(self, do: str, **order: Any) -> None:
        """Tell it to do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """What came of it."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def do(self, do: str, **order: Any) -> dict[str, Any]:
        """Have it do something."""
        self.begin(do, **order)
        return self.end()

    def signal(self, number: int) -> None:
        """Send a signal to it."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.communicate()

    def finish(self) -> None:
        """Have it end by itself."""
        self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0


class Gone:
    """A link that nobody has any more."""

    listening = False

    def __init__(self, account: str, member: str) -> None:
        self.account = account
        self.member = member

    def notify(self) -> None:
        """Nobody hears it."""


def until(condition: Callable[[], object]) -> None:
    """Wait until it is so; a test that waits for ever has failed."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"


def stop(member: MemberProcess) -> None:
    """Stop a process, as Ctrl-Z or a debugger does."""
    member.signal(signal.SIGSTOP)
    until(lambda: stopped(member.pid))


def go_on(member: MemberProcess) -> None:
    """Let a stopped process go on."""
    member.signal(signal.SIGCONT)


def lines_of(path: Path) -> list[str]:
    """The names of the files of processes that live, or were not removed yet."""
    folder = Path(f"{path}-members")
    return sorted(os.listdir(folder)) if folder.exists() else []  # noqa: PTH208
