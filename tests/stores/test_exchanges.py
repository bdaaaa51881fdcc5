"""Messages to the head of an account in a file, and what of it is where."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from member_process import MemberProcess, lines_of, until
from spender import ACCOUNT, Spender
from staging import Caller

from budgetguard._core.errors import ConfigurationError
from budgetguard._engine.account_registry import runtime
from budgetguard.stores import SQLiteStore
from budgetguard.stores._processes import PROCESS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no store in a file there")


def mode(path: Path) -> int:
    """Who may read and write it."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_constructor_starts_nothing(path: Path) -> None:
    """Neither a store nor a link makes a file or a thread; a link that is not used is closed for nothing."""
    threads = threading.active_count()
    SQLiteStore(path).link(ACCOUNT, runtime()).close()
    assert list(path.parent.iterdir()) == []
    assert threading.active_count() == threads


def test_importing_stores_is_cheap() -> None:
    """Neither SQLite nor asyncio is imported before a file is used."""
    code = "import sys, budgetguard.stores; print({'sqlite3', 'asyncio'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


def test_only_the_owner_can_read(path: Path) -> None:
    """The file, its log and the directory with the members' locks are its owner's, whatever the umask."""
    before = os.umask(0)
    try:
        Spender(str(path)).join()
    finally:
        os.umask(before)
    [lock] = Path(f"{path}-members").iterdir()
    files = [path, Path(f"{path}-wal"), Path(f"{path}-shm"), lock]
    assert [mode(each) for each in files] == [0o600] * 4
    assert mode(lock.parent) == 0o700


def test_one_book_for_all_processes(path: Path, member: Callable[..., MemberProcess]) -> None:
    """What one process leases is not free for another one."""
    here, there = Spender(str(path)), member()
    here.join()
    here.look(100)
    assert here.beat(keep=0, want=40).lease > 0
    told = there.do("join")
    assert (told["credits"], told["members"]) == (100, 2)
    assert there.do("beat", needs=[100])["granted"] == []
    here.beat()
    assert there.do("beat", needs=[100])["granted"] == [0]


def test_a_message_sent_again_takes_effect_once(path: Path) -> None:
    """It is answered as before."""
    here = Spender(str(path))
    here.join()
    here.look(100)
    first = here.beat(needs=[30])
    assert first.granted == (0,)
    assert here.again().lease == first.lease == 30_000_000
    assert here.beat(used=30, keep=0).view.leased == 30_000_000


def test_the_state_outlives_all_processes(path: Path, member: Callable[..., MemberProcess]) -> None:
    """The last known balance is there for the next process that comes; nothing else is left over."""
    first = member()
    first.do("join")
    epoch = first.do("look", credits=100)["epoch"]
    first.do("leave")
    assert lines_of(path) == []
    assert [each.name for each in path.parent.iterdir() if each.is_file()] == [path.name]
    first.finish()
    told = member().do("join")
    assert (told["credits"], told["epoch"], told["members"]) == (100, epoch, 1)


def test_one_file_is_one_store(path: Path) -> None:
    """Whatever it is called: one thread serves all links of the process, each of which is a member."""
    name = path.parent / "same.db"
    path.touch()
    name.symlink_to(path)
    assert SQLiteStore(path).identity == SQLiteStore(str(name)).identity
    before = threading.active_count()
    some, more = Spender(str(path)), Spender(str(name), "b" * 64)
    some.join()
    started = threading.active_count() - before
    more.join()
    assert threading.active_count() - before == started
    assert some.link.member != more.link.member
    assert len(lines_of(path)) == 1


@pytest.mark.parametrize(
    "name", ["a b?c=d#e%41&.db", "b\u00fccher \U0001f4b3.db", os.fsdecode(b"\xff.db")]
)
def test_any_name_is_that_of_a_file(path: Path, name: str) -> None:
    """Nothing in it means anything to SQLite."""
    odd = path.with_name(name)
    Spender(str(odd)).join()
    assert {each.name for each in path.parent.iterdir()} == {
        f"{name}{rest}" for rest in ("", "-wal", "-shm", "-members")
    }


def test_accounts_know_nothing_of_each_other(path: Path) -> None:
    """Each has its own head in the file."""
    some, more = Spender(str(path)), Spender(str(path), "b" * 64)
    some.join()
    some.look(100)
    reply = more.join()
    assert (reply.view.snapshot, reply.view.members) == (None, 1)
    assert reply.epoch != some.epoch


@pytest.mark.parametrize("value", [7, b"x.db", None])
def test_a_path_is_text(value: object) -> None:
    """Anything else is described by its type."""
    with pytest.raises(TypeError, match=f"not {type(value).__name__}$"):
        SQLiteStore(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", ":memory:", "file:x.db?mode=rw", "a\0b"])
def test_a_path_is_that_of_a_file(value: str) -> None:
    """What SQLite would take for something else is refused."""
    with pytest.raises(ConfigurationError, match="path of a file that its processes share"):
        SQLiteStore(value)


@pytest.mark.parametrize("timeout", [0, -1, float("inf")])
def test_a_timeout_is_a_duration(path: Path, timeout: float) -> None:
    """It has to be above 0 and finite."""
    with pytest.raises(ValueError, match="timeout must be above 0"):
        SQLiteStore(path, timeout=timeout)


def test_members_of_one_process_leave_at_once(path: Path) -> None:
    """In one transaction, and each of them hears that it has left."""
    pair = [Spender(str(path)), Spender(str(path))]
    for each in pair:
        each.join()
    worker = PROCESS.workers[str(path)]
    worker.pause()
    callers = [Caller(each.leave) for each in pair]
    until(lambda: len(worker._waiting) == len(pair))
    worker.resume()
    assert [caller.outcome().status for caller in callers] == ["done"] * len(pair)
    assert Spender(str(path)).join().view.members == 1
