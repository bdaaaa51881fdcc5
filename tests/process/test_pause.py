"""`budgetguard pause` reaches the processes of one user, on real clocks, and so does a fork."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interpreter import FORKING, PATIENCE, STRICT, Script

from budgetguard.testing.sandbox import Sandbox

# Calls for ever, and writes down what becomes of each kind of call as it changes.
WORKER = """
import sys, time
from budgetguard import Guard, Paused, PreDev, require_credits, set_default_guard

guard = Guard(PreDev(), timeout=60)
set_default_guard(guard)

@require_credits(min=1, actual=lambda _: 0)
def decorated():
    return None

def state():
    try:
        decorated()
        guard.acquire(cost=0).release()
    except Paused as paused:
        return f"paused: {paused.reason}"
    return "admitted"

before = None
with open(sys.argv[1], "a", buffering=1) as told:
    while True:
        now = state()
        if now != before:
            told.write(now + "\\n")
            before = now
        time.sleep(0.002)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The account of a sandbox, and a directory for its pauses."""
    with Sandbox(credits=1000) as sandbox:
        yield {
            **os.environ,
            "PREDEV_API_KEY": sandbox.predev_key,
            "PREDEV_BASE_URL": sandbox.url,
            "BUDGETGUARD_PAUSE_DIR": str(tmp_path / "pauses"),
        }


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[[], Path]]:
    """Start a process that calls for ever; returns the file in which it tells what becomes of that."""
    (tmp_path / "worker.py").write_text(WORKER)
    workers: list[subprocess.Popen[bytes]] = []

    def begin() -> Path:
        told = tmp_path / f"told by {len(workers)}"
        code = [str(tmp_path / "worker.py"), str(told)]
        workers.append(subprocess.Popen([sys.executable, *STRICT, *code], env=environment))
        return told

    yield begin
    for worker in workers:
        worker.kill()
        worker.wait()


def command(environment: dict[str, str], *words: str) -> None:
    """Run `budgetguard` in a process of its own."""
    program = [sys.executable, *STRICT, "-m", "budgetguard", *words]
    subprocess.run(program, env=environment, check=True, capture_output=True, timeout=PATIENCE)


def hears(told: Path, *expected: str) -> None:
    """Wait until a process has told that, and nothing else, in this order."""
    begun = time.monotonic()
    lines: list[str] = []
    while time.monotonic() - begun < PATIENCE:
        lines = told.read_text().splitlines() if told.exists() else []
        if lines == list(expected):
            return
        time.sleep(0.01)
    assert lines == list(expected)


def test_all_processes_of_one_account(
    environment: dict[str, str], start: Callable[[], Path]
) -> None:
    """Those that run, and one that starts in between; all of them go on when it is resumed."""
    first, second = start(), start()
    for told in (first, second):
        hears(told, "admitted")
    command(environment, "pause", "--reason", "the key may have leaked")
    late = start()
    for told in (first, second):
        hears(told, "admitted", "paused: the key may have leaked")
    hears(late, "paused: the key may have leaked")
    command(environment, "resume")
    for told in (first, second):
        hears(told, "admitted", "paused: the key may have leaked", "admitted")
    hears(late, "paused: the key may have leaked", "admitted")


FORKED = """
import logging, os, sys, threading, time
from budgetguard import Guard, Paused
from budgetguard._io import pause_file
from budgetguard.testing import FakeProvider

def in_child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def by():
    try:
        guard.acquire(1).release()
    except Paused as paused:
        return paused.by

def becomes(expected):
    end = time.monotonic() + 60
    while by() != expected:
        assert time.monotonic() < end, by()
        time.sleep(0.01)

# Pauses are warned about.
logging.disable()
provider = FakeProvider(100)
# A busy machine takes its time for imports.
guard = Guard(provider, timeout=60)
guard.acquire(1).release()
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


@forks
def test_a_child_of_a_paused_parent_is_paused(script: Script) -> None:
    """Until it resumes, which its parent does not hear of."""
    script(
        FORKED
        + """
guard.pause("in the parent")

def child():
    assert by() == "guard"
    guard.resume()
    assert by() is None

in_child(child)
assert by() == "guard"
""",
        flags=FORKING,
    )


@forks
def test_a_child_hears_of_files_itself(script: Script, tmp_path: Path) -> None:
    """Also where its parent had been paused by one that is gone since."""
    script(
        FORKED
        + """
pause_file.write(provider.fingerprint, "by hand")
becomes("command")

def paused():
    assert by() == "command"
    pause_file.remove(provider.fingerprint)
    becomes(None)
    pause_file.write(provider.fingerprint, "again")
    becomes("command")

def resumed():
    pause_file.remove(provider.fingerprint)
    assert by() is None

in_child(paused)
in_child(resumed)
becomes(None)
""",
        flags=FORKING,
        BUDGETGUARD_PAUSE_DIR=str(tmp_path / "pauses"),
    )


@forks
def test_a_pause_is_heard_although_no_file_is_left(script: Script, tmp_path: Path) -> None:
    """Its reason cannot be read then, and nothing is said about the directory."""
    script(
        FORKED
        + """
import resource
least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
becomes(None)
elsewhere = pause_file.directory().parent / "elsewhere"
pause_file.write(provider.fingerprint, "by hand")
pause_file.directory().rename(elsewhere)
becomes(None)
free = os.open(os.devnull, os.O_RDONLY)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, most))
elsewhere.rename(pause_file.directory())
becomes("command")
try:
    guard.acquire(1)
except Paused as paused:
    assert paused.reason == "the reason cannot be read"
resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
pause_file.remove(provider.fingerprint)
becomes(None)
""",
        flags=("-W", "error"),
        BUDGETGUARD_PAUSE_DIR=str(tmp_path / "pauses"),
    )


@forks
def test_a_pause_is_heard_by_a_loop_that_was_broken(script: Script, tmp_path: Path) -> None:
    """A program that closes all files breaks it; the next caller that is decided about makes another."""
    script(
        FORKED
        + """
becomes(None)
pause_file.write(provider.fingerprint, "by hand")
becomes("command")
os.closerange(3, 256)
while any(thread.name == "budgetguard" for thread in threading.enumerate()):
    time.sleep(0.01)
pause_file.remove(provider.fingerprint)
becomes(None)
""",
        flags=("-W", "error", "-W", "ignore::ResourceWarning"),
        BUDGETGUARD_PAUSE_DIR=str(tmp_path / "pauses"),
    )
