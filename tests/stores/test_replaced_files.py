"""The file is deleted, replaced, or taken for unused: no member is told anything that others do not see."""

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from member_process import MemberProcess, stop, until
from spender import ACCOUNT, Spender, reason_of

from budgetguard.stores import _store_errors as words
from budgetguard.stores._living import LivingMembers
from budgetguard.stores._processes import PROCESS
from budgetguard.stores._store_file import FileMoved, StoreFile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no store in a file there")

PASSES_BY = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM heads').fetchall(); c.close()"


def pass_by(path: Path) -> None:
    """Somebody opens the file, and closes it."""
    subprocess.run([sys.executable, "-c", PASSES_BY, str(path)], check=True, timeout=60)


def touch(path: Path) -> None:
    """What a backup in this process does."""
    with path.open("rb") as file:
        file.read(1)


def revision(path: Path) -> int:
    """How often the head of the only account was written, as a newcomer sees it."""
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "print(c.execute('SELECT revision FROM heads').fetchone()[0], c.execute('PRAGMA integrity_check').fetchone()[0])\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    number, sound = told.stdout.split()
    assert sound == "ok"
    return int(number)


def delete(path: Path) -> None:
    """Delete the database, with what belongs to it."""
    for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        each.unlink(missing_ok=True)


def test_a_file_that_was_touched(path: Path) -> None:
    """The log is deleted by a passer-by: all that is answered afterwards is seen by others."""
    here = Spender(str(path))
    here.join()
    for _ in range(5):
        touch(path)
        pass_by(path)
        assert not Path(f"{path}-wal").exists()
        before = here.beat()
        assert before.status == "done"
        assert revision(path) == here.number


def test_an_old_log_is_not_written_over_newer_pages(
    path: Path, member: Callable[..., MemberProcess]
) -> None:
    """The log of this process was deleted, and another process died with one: that one's is what counts."""
    here = Spender(str(path))
    here.join()
    touch(path)
    pass_by(path)
    other = member()
    other.do("join")
    other.do("look", credits=70)
    other.kill()
    assert Path(f"{path}-wal").stat().st_size > 0
    reply = here.beat()
    assert reply.status == "done"
    assert reply.view.snapshot is not None
    assert reply.view.snapshot.credits == 70_000_000
    assert revision(path) == 5


def test_an_old_log_is_not_written_over_newer_pages_at_the_end(
    path: Path, member: Callable[..., MemberProcess]
) -> None:
    """Likewise where this process only closes the file."""
    here = Spender(str(path))
    here.join()
    touch(path)
    pass_by(path)
    other = member()
    other.do("join")
    other.do("look", credits=70)
    other.kill()
    here.link.close()
    file = PROCESS.workers[here.store.path]._file
    until(lambda: file.connection is None)
    assert member().do("join")["credits"] == 70


def test_a_commit_into_a_deleted_log_is_not_told(path: Path) -> None:
    """The log is deleted while a transaction is under way: the message is handled again where others see it."""
    here = Spender(str(path))
    here.join()
    file = PROCESS.workers[here.store.path]._file
    commit, left = file.commit, [None]

    def late() -> None:
        if left:
            left.pop()
            Path(f"{path}-wal").unlink()
        commit()

    file.commit = late  # type: ignore[method-assign]
    assert here.beat().status == "reassert"
    assert not left
    assert here.join().status == "done"
    before = revision(path)
    here.beat()
    assert revision(path) == before + 1


def test_what_was_answered_is_missing(path: Path) -> None:
    """The log is deleted by hand, with answers in it that no other process has seen: all is told anew."""
    here = Spender(str(path))
    here.join()
    here.look(100)
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    lease = here.beat(needs=[60]).lease
    for rest in ("-wal", "-shm"):
        Path(f"{path}{rest}").unlink()
    assert here.beat(used=60).status == "reassert"
    assert here.join(used=60).lease == lease


def test_a_file_that_is_replaced_while_it_is_opened(path: Path) -> None:
    """The connection is to the one that others do not see any more."""
    here = Spender(str(path))
    here.join()
    here.leave()
    until(lambda: PROCESS.workers[here.store.path]._file.connection is None)
    newer = path.with_name("newer.db")
    shutil.copy(path, newer)
    file = StoreFile(str(path), lambda: False)
    opened = file._open

    def late(mode: str) -> sqlite3.Connection:
        connection = opened(mode)
        if newer.exists():
            newer.replace(path)
        return connection

    file._open = late  # type: ignore[method-assign]
    with pytest.raises(FileMoved):
        file.connect(time.monotonic() + 10)
    file.connect(time.monotonic() + 10)
    assert file.inode == path.stat().st_ino
    file.close()


@pytest.mark.parametrize("rest", ["", "-wal"])
def test_some_of_the_files_are_deleted(
    path: Path, member: Callable[..., MemberProcess], rest: str
) -> None:
    """As long as a process has the others open that cannot work, which is said; then it does."""
    sleeper, here = member(), Spender(str(path))
    sleeper.do("join")
    here.join()
    stop(sleeper)
    Path(f"{path}{rest}").unlink()
    assert reason_of(here.beat) == words.torn(str(path))
    sleeper.kill()
    assert here.again().status == "reassert"
    assert here.join().status == "done"


def test_the_index_of_the_log_is_deleted(path: Path, member: Callable[..., MemberProcess]) -> None:
    """Newcomers have another one: nobody goes on with the old one."""
    here, there = Spender(str(path)), member()
    here.join()
    there.do("join")
    Path(f"{path}-shm").unlink()
    member().do("join")
    for _ in range(3):
        here.beat()
        there.do("beat")
    assert here.beat().view.members == 3
    revision(path)


def test_a_deleted_file_is_made_again(path: Path, member: Callable[..., MemberProcess]) -> None:
    """Members tell the new one what they hold; nothing is granted before all that live have."""
    one, two, newcomer = member(), member(), member()
    one.do("join")
    one.do("look", credits=100)
    used = one.do("beat", needs=[30])["lease"]
    two.do("join")
    assert two.do("beat", needs=[50])["granted"] == [0]
    delete(path)
    told = newcomer.do("join")
    assert (told["status"], told["members"], told["credits"]) == ("done", 1, None)
    newcomer.do("look", credits=100)
    assert newcomer.do("beat", needs=[20])["granted"] == []
    assert one.do("beat", used=30)["status"] == "reassert"
    told = one.do("join", used=30)
    assert (told["status"], told["lease"]) == ("done", used)
    assert newcomer.do("beat", needs=[20])["granted"] == []
    assert two.do("beat", used=50)["status"] == "reassert"
    two.do("join", used=50)
    told = newcomer.do("beat", needs=[20])
    assert (told["granted"], told["leased"]) == ([0], 100)


def test_a_member_that_died_since_is_not_waited_for(
    path: Path, member: Callable[..., MemberProcess]
) -> None:
    """Nor is one that is stopped forgotten."""
    victim, sleeper, newcomer = member(), member(), member()
    for each in (victim, sleeper):
        each.do("join")
    stop(sleeper)
    delete(path)
    newcomer.do("join")
    victim.kill()
    newcomer.do("look", credits=100)
    assert newcomer.do("beat", needs=[20])["granted"] == []
    sleeper.kill()
    newcomer.do("join")
    assert newcomer.do("beat", needs=[20])["granted"] == [0]


def test_members_of_other_accounts_are_not_waited_for(
    path: Path, member: Callable[..., MemberProcess]
) -> None:
    """Nor are those that have only begun to come."""
    other, newcomer = member(account="b" * 64), member()
    other.do("join")
    delete(path)
    newcomer.do("join")
    newcomer.do("look", credits=100)
    assert newcomer.do("beat", needs=[20])["granted"] == [0]


def test_one_that_is_about_to_come_is_not_waited_for(path: Path) -> None:
    """It holds nothing yet, and may be stopped before its first message is handled."""
    coming = LivingMembers(f"{path}-members", "f" * 16)
    coming.enter()
    coming.come(ACCOUNT, "coming")
    here = Spender(str(path))
    here.join()
    here.look(100)
    assert here.beat(needs=[20]).granted == (0,)
    coming.leave()


def test_a_copy_that_does_not_know_a_member(
    path: Path, member: Callable[..., MemberProcess]
) -> None:
    """It came after the backup: what it leased is not granted a second time either."""
    first, later, newcomer = member(), member(), member()
    first.do("join")
    first.do("look", credits=100)
    first.do("leave")
    shutil.copy(path, path.with_name("backup.db"))
    later.do("join")
    assert later.do("beat", needs=[80])["granted"] == [0]
    delete(path)
    shutil.move(path.with_name("backup.db"), path)
    newcomer.do("join")
    newcomer.do("look", credits=100)
    assert newcomer.do("beat", needs=[80])["granted"] == []
    assert later.do("beat", used=80)["status"] == "reassert"
    later.do("join", used=80)
    assert newcomer.do("beat", needs=[20])["granted"] == [0]


def test_a_copy_of_an_earlier_time(path: Path, member: Callable[..., MemberProcess]) -> None:
    """A backup takes the file's place: what was leased since is not granted a second time."""
    one, newcomer = member(), member()
    one.do("join")
    one.do("look", credits=100)
    backup = path.with_name("backup.db")
    with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    source.close()
    target.close()
    assert one.do("beat", needs=[80])["granted"] == [0]
    delete(path)
    shutil.move(backup, path)
    told = newcomer.do("join")
    assert (told["credits"], told["members"]) == (None, 2)
    newcomer.do("look", credits=100)
    assert newcomer.do("beat", needs=[80])["granted"] == []
    assert one.do("beat", used=80)["status"] == "reassert"
    one.do("join", used=80)
    told = newcomer.do("beat", needs=[80])
    assert (told["granted"], told["leased"]) == ([], 80)
