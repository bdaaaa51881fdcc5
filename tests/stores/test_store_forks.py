"""A forked child is a new member, and takes nothing of its parent's: neither its life nor its locks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from interpreter import FORKING, PATIENCE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

HEAD = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import spender
from spender import Spender
from budgetguard.stores._processes import PROCESS
from budgetguard.stores.base import StoreUnavailable
PATH = os.environ["STORE"]

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
    return pid

def done(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def locks_of(pid):
    name = os.stat(PATH).st_ino
    with open("/proc/locks") as file:
        lines = [line.split() for line in file]
    return [each for each in lines if each[4] == str(pid) and each[5].endswith(f":{{name}}")]

here = Spender(PATH)
"""


@pytest.fixture
def store_script(path: Path, tmp_path: Path) -> Callable[[str], None]:
    """Run a script that has a store; it ends in order and in silence."""

    def run(code: str) -> None:
        script = tmp_path / "script.py"
        script.write_text(HEAD + code)
        done = subprocess.run(
            [sys.executable, *FORKING, str(script)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, "STORE": str(path)},
        )
        assert (done.stderr, done.returncode) == ("", 0)

    return run


def test_a_child_joins_as_a_new_member(store_script: Callable[[str], None]) -> None:
    """With an inherited link, too; both go on, and both are there."""
    store_script(
        """
here.join()
mine = here.link.member

def child():
    assert here.link.member != mine
    here.begin()
    assert here.join().view.members == 2
    assert here.leave().status == "done"

done(in_child(child))
assert here.link.member == mine
assert here.beat().view.members == 1
"""
    )


def test_children_of_a_process_that_never_used_its_store_are_strangers(
    store_script: Callable[[str], None],
) -> None:
    """A server makes the store and forks its workers: each of them has a name of its own."""
    store_script(
        """
def child():
    os.write(told[1], here.link.member.encode() + b" ")
    assert here.join().status == "done"
    assert here.leave().status == "done"

told = os.pipe()
children = [in_child(child) for _ in range(3)]
for each in children:
    done(each)
names = os.read(told[0], 1000).split()
assert len({here.link.member.encode(), *names}) == 4
assert here.join().view.members == 1
"""
    )


def test_a_child_is_shown_as_the_process_that_it_is(store_script: Callable[[str], None]) -> None:
    """Its guard was made by its parent, and whoever reads the store sees the child's own id."""
    store_script(
        """
from budgetguard import Guard, PreDev
from budgetguard.stores import SQLiteStore
from budgetguard.stores.members import read_members
from budgetguard.testing.sandbox import Sandbox

with Sandbox(credits=100) as sandbox:
    guard = Guard(PreDev(sandbox.predev_key, base_url=sandbox.url), store=SQLiteStore(PATH), timeout=60)

    def child():
        guard.acquire(10).settle()
        (account,) = read_members(PATH)
        assert [each.pid for each in account.members] == [os.getpid()]

    done(in_child(child))
"""
    )


def test_a_child_does_not_keep_its_parent_alive(store_script: Callable[[str], None]) -> None:
    """The parent is killed while its child lives on: the child sees that it is dead."""
    store_script(
        """
def parent():
    here.join()
    def child():
        os.kill(os.getppid(), 9)
        other = Spender(PATH)
        while other.number == 0 or other.beat().view.members > 1:
            if other.number == 0:
                other.join()
            time.sleep(0.01)
        os.write(finished, b"x")
    in_child(child)
    time.sleep(60)

reading, finished = os.pipe()
pid = in_child(parent)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
assert os.read(reading, 1) == b"x"
"""
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/locks")
def test_a_child_has_locks_of_its_own(store_script: Callable[[str], None]) -> None:
    """SQLite would take the parent's for its own, and the file would be taken for unused."""
    store_script(
        """
here.join()
assert locks_of(os.getpid())

def child():
    here.begin()
    here.join()
    assert locks_of(os.getpid())

done(in_child(child))
here.beat()
assert locks_of(os.getpid())
"""
    )


def test_forks_in_the_middle_of_everything(store_script: Callable[[str], None]) -> None:
    """While messages are under way in another thread, and while another process holds the lock."""
    store_script(
        """
import sqlite3, threading
here.join()
stop = threading.Event()

def busy():
    while not stop.is_set():
        assert here.beat().status == "done"

thread = threading.Thread(target=busy)
thread.start()

def child():
    other = Spender(PATH)
    assert other.join().status == "done"
    assert other.beat().status == "done"
    assert other.leave().status == "done"

for _ in range(20):
    done(in_child(child))
stop.set()
thread.join()

holder = sqlite3.connect(PATH, isolation_level=None)
holder.execute("BEGIN IMMEDIATE")
thread = threading.Thread(target=here.beat)
thread.start()
while not PROCESS.workers[PATH]._file._contended:
    time.sleep(0.001)
children = [in_child(lambda: None) for _ in range(3)]
holder.execute("COMMIT")
holder.close()
thread.join()
for each in children:
    done(each)
assert here.beat().view.members == 1
"""
    )


def test_a_child_of_a_fork_that_could_not_wait_says_so(store_script: Callable[[str], None]) -> None:
    """The disk hangs: the fork goes on after a while, and the child does not touch the file."""
    store_script(
        """
import threading
from budgetguard.stores import _worker
_worker._FORK_PATIENCE = 0.05
here.join()
worker = PROCESS.workers[PATH]
hanging, entered = threading.Event(), threading.Event()

def hang(*_):
    entered.set()
    hanging.wait(60)
    raise OSError(5, "Input/output error")

run, worker._transactions.run = worker._transactions.run, hang
thread = threading.Thread(target=lambda: print(spender.reason_of(here.beat)))
thread.start()
entered.wait()

def child():
    assert "forked while its parent was using the store at" in spender.reason_of(here.beat)

done(in_child(child))
worker._transactions.run = run
hanging.set()
thread.join()
assert here.again().status == "done"
"""
    )
