"""Whatever is wrong with a file, one sentence says so within the timeout, and what was answered is not lost."""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from spender import ACCOUNT, Spender, reason_of

from budgetguard._core.errors import ConfigurationError
from budgetguard._core.store_messages import Debit, Join, Report
from budgetguard.stores import SQLiteStore, _machine, _store_file
from budgetguard.stores import _store_errors as words
from budgetguard.stores._processes import PROCESS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no store in a file there")

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:50 / /srv/team rw,relatime - nfs4 server:/team rw
24 23 8:2 / /srv/team/local\\040disk rw,relatime - xfs /dev/sdb1 rw
25 22 0:51 / /media/far rw - fuse.sshfs me@far: rw
"""


# A privileged process may write to everything. It reads all that it needs before it becomes another user.
AS_NOBODY = """
import os, sys, tempfile
sys.path.insert(0, sys.argv[2])
import spender
with tempfile.TemporaryDirectory() as folder:
    spender.Spender(folder + "/credits.db").join()
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
spender.main(sys.argv[1])
"""


@pytest.fixture
def written(path: Path) -> Spender:
    """A member, whose file has a book."""
    here = Spender(str(path))
    here.join()
    here.look(100)
    return here


def close(spender: Spender) -> None:
    """Have the file closed, as if nobody used it."""
    spender.leave()
    assert PROCESS.workers[spender.store.path]._file.connection is None


def test_a_directory(tmp_path: Path) -> None:
    """It is refused at once; also if it comes later."""
    with pytest.raises(
        ConfigurationError, match=r"is a directory: SQLiteStore takes the path of a file"
    ):
        SQLiteStore(tmp_path)
    path = tmp_path / "later"
    here = Spender(str(path))
    path.mkdir()
    assert (
        reason_of(here.join) == f"{path} is a directory; SQLiteStore takes the path of a file in it"
    )


def test_no_directory(tmp_path: Path) -> None:
    """None is made for a path that may be misspelled."""
    with pytest.raises(ConfigurationError, match=r"There is no directory .*/none: create it"):
        SQLiteStore(tmp_path / "none" / "credits.db")
    folder = tmp_path / "some"
    folder.mkdir()
    here = Spender(str(folder / "credits.db"))
    folder.rmdir()
    assert reason_of(here.join) == (
        f"the directory of the store at {here.store.path} is gone; create {folder} again"
    )


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    """Creating a directory would not help."""
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"notes is a file, and no file can be in it"):
        SQLiteStore(tmp_path / "notes" / "credits.db")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("~/credits.db", 'does not expand "~": pass Path'),
        ("sqlite:credits.db", "takes the path of a file that its processes share"),
        ("redis://localhost/0", "takes the path of a file that its processes share"),
    ],
)
def test_what_is_no_path(given: str, said: str) -> None:
    """A shell's abbreviation and a URL would be taken for directories that do not exist."""
    with pytest.raises(ConfigurationError, match=said):
        SQLiteStore(given)


def test_not_a_database(path: Path) -> None:
    """The file is left as it is."""
    path.write_text("my notes, which are long enough to be read as the header of a database" * 20)
    before = path.read_bytes()
    assert reason_of(Spender(str(path)).join) == words.no_database(str(path))
    assert path.read_bytes() == before


def test_a_database_of_another_program(path: Path) -> None:
    """It is not even put into another mode."""
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    other.close()
    before = path.read_bytes()
    assert reason_of(Spender(str(path)).join) == words.of_another_program(str(path))
    assert path.read_bytes() == before


def test_a_newer_file(path: Path, written: Spender) -> None:
    """Its tables may mean something else."""
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {_store_file.FORMAT + 1}")
    other.close()
    assert reason_of(written.beat) == words.too_new(str(path), 2, 1)
    assert reason_of(Spender(str(path)).join) == words.too_new(str(path), 2, 1)


def test_a_newer_state(path: Path, written: Spender) -> None:
    """Of one account alone: the others go on."""
    other = Spender(str(path), "b" * 64)
    with sqlite3.connect(path) as changed:
        [(text,)] = changed.execute("SELECT state FROM parts WHERE part = 'account'")
        state = json.loads(text) | {"format": 99}
        changed.execute("UPDATE parts SET state = ? WHERE part = 'account'", (json.dumps(state),))
        changed.execute("UPDATE heads SET revision = revision + 1")
    changed.close()
    assert reason_of(written.beat) == words.too_new(str(path), 99, 1)
    assert other.join().status == "done"


@pytest.mark.parametrize(
    "statement", ["DELETE FROM parts WHERE part = 'members'", "UPDATE parts SET state = '{'"]
)
def test_a_damaged_state(path: Path, written: Spender, statement: str) -> None:
    """Credits that nobody counts are never given out."""
    with sqlite3.connect(path) as changed:
        changed.execute(statement)
        changed.execute("UPDATE heads SET revision = revision + 1")
    changed.close()
    assert reason_of(written.beat) == words.damaged(str(path))
    assert Spender(str(path), "b" * 64).join().status == "done"


@pytest.mark.parametrize("table", ["heads", "parts", "wakes", "machine"])
def test_a_missing_table(path: Path, written: Spender, table: str) -> None:
    """Likewise."""
    with sqlite3.connect(path) as changed:
        changed.execute(f"DROP TABLE {table}")
    changed.close()
    assert reason_of(lambda: [written.join(), written.beat(needs=[1])]) == words.damaged(str(path))


def test_damaged_pages(path: Path, written: Spender) -> None:
    """SQLite finds them when it reads them; moved away, the members tell a new file what they hold."""
    used = written.beat(needs=[40]).lease
    close_all(written)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    assert reason_of(written.beat) == words.damaged(str(path))
    path.unlink()
    for rest in ("-wal", "-shm"):
        Path(f"{path}{rest}").unlink(missing_ok=True)
    written.again()
    assert written.join(used=40).lease == used


def close_all(spender: Spender) -> None:
    """Have the file closed, while its member lives on."""
    worker = PROCESS.workers[spender.store.path]
    pause = threading.Thread(target=worker.pause)
    pause.start()
    pause.join()
    sqlite3.connect(spender.store.path).close()
    other = sqlite3.connect(spender.store.path)
    other.execute("SELECT count(*) FROM heads").fetchall()
    other.close()
    worker.resume()


@pytest.fixture
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program keeps the file locked."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    yield other
    other.close()


def test_a_lock_that_is_held_for_long(path: Path, locked: sqlite3.Connection) -> None:
    """It is waited for, but not beyond the timeout; then all is as before."""
    here = Spender(str(path), timeout=0.3)
    here.join()
    locked.execute("BEGIN IMMEDIATE")
    assert reason_of(here.beat) == words.locked(str(path), 0.3)
    locked.execute("ROLLBACK")
    assert here.again().status == "done"


def test_a_new_file_that_is_locked(path: Path, locked: sqlite3.Connection) -> None:
    """Likewise before the first transaction."""
    locked.execute("BEGIN EXCLUSIVE")
    here = Spender(str(path), timeout=0.3)
    assert reason_of(here.join) == words.locked(str(path), 0.3)
    locked.execute("ROLLBACK")
    assert here.again().status == "done"


def test_a_disk_that_hangs(path: Path, written: Spender) -> None:
    """The thread waits for ever, and nobody else does; a message whose outcome is not known is sent again."""
    worker = PROCESS.workers[str(path)]
    hanging = threading.Event()
    run, runs = worker._transactions.run, []

    def hang(*arguments: object) -> object:
        runs.append(None)
        if len(runs) == 1:
            hanging.wait()
        return run(*arguments)  # type: ignore[arg-type]

    worker._transactions.run = hang  # type: ignore[method-assign, assignment]
    written.store.timeout = 0.2
    assert reason_of(written.beat) == words.silent(str(path), 0.2)
    assert reason_of(written.again) == words.silent(str(path), 0.2)
    written.store.timeout = 20
    hanging.set()
    assert written.again().status == "done"
    # Whom nobody waited for any more was not handled.
    assert len(runs) == 2


def test_a_full_disk(path: Path, written: Spender) -> None:
    """Nothing of the transaction remains, and it goes on when there is room again."""
    file = PROCESS.workers[str(path)]._file
    begin, more = file.begin, 100

    def limited(deadline: float) -> sqlite3.Connection:
        connection = begin(deadline)
        [(pages,)] = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count = {pages + more}")
        return connection

    file.begin = limited  # type: ignore[method-assign]
    before = written.beat(needs=[10])
    more = 0
    long = (("note", "x" * 20_000),)
    assert reason_of(lambda: written.send(join=Join(None, words=long))) == words.full(str(path))
    more = 100
    reply = written.again()
    assert (reply.status, reply.view.snapshot) == ("done", before.view.snapshot)
    # And not only in the memory of this process.
    with sqlite3.connect(path) as reader:
        [(state,)] = reader.execute("SELECT state FROM parts WHERE part = 'members'")
    reader.close()
    assert long[0][1] in state


def test_a_disk_that_is_full_at_the_commit(path: Path, written: Spender) -> None:
    """What was not committed is not taken for written: the message is handled again, and all of it is."""
    file = PROCESS.workers[str(path)]._file
    commit, left = file.commit, [None]

    def full() -> None:
        if left:
            left.pop()
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        commit()

    file.commit = full  # type: ignore[method-assign]
    report = Report(settled=(Debit(7_000_000, 60.0),))
    assert reason_of(lambda: written.send(report=report)) == words.full(str(path))
    assert written.again().view.settled == 7_000_000
    with sqlite3.connect(path) as reader:
        [(state,)] = reader.execute("SELECT state FROM parts WHERE part = 'debits'")
    reader.close()
    assert "7000000" in state


def can_mount(folder: Path) -> bool:
    """Whether this process may have a small disk of its own."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() or not can_mount(folder):
        pytest.skip("mounting takes a privileged process on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    """Wherever a write fails: before there is a file, and with one; and it goes on when there is room again."""
    path = small_disk / "credits.db"
    filler = small_disk / "filler"
    fill(filler)
    here = Spender(str(path))
    assert reason_of(here.join) == words.full(str(path))
    filler.unlink()
    here.again()
    here.look(100)
    fill(filler)
    reasons = set()
    for _ in range(300):
        try:
            here.beat(needs=[1])
        except Exception as error:
            reasons.add(getattr(error, "reason", repr(error)))
            break
    assert reasons == {words.full(str(path))}
    filler.unlink()
    reply = here.again()
    assert reply.status == "done"
    assert reply.view.snapshot is not None


def fill(path: Path) -> None:
    """Use all the room that is left."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users on this platform")
@pytest.mark.parametrize("which", ["file", "directory"])
def test_what_may_not_be_written(which: str) -> None:
    """The file is another user's, or the directory is, in which there is no file yet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "credits.db"
        if which == "file":
            here = Spender(str(path))
            here.join()
            close(here)
            path.chmod(0o444)
        Path(folder).chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(path), str(Path(__file__).parent)],
            input='{"do": "join"}\n',
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        Path(folder).chmod(0o755)
        assert json.loads(done.stdout)["unavailable"] == words.unwritable(str(path))


def test_too_many_open_files(path: Path) -> None:
    """The limit is named, not the disk."""
    assert "raise the limit for open files" in words.of_the_system(
        str(path), OSError(24, "Too many open files")
    )


def test_a_network_file_system(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told from the list of mounts, at construction and at each connection."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(_machine, "_MOUNTS", mounts)
    kinds = {
        "/srv/team/credits.db": "nfs4",
        "/srv/team/local disk/credits.db": None,
        "/srv/teams/credits.db": None,
        "/media/far/a/credits.db": "fuse.sshfs",
        "/credits.db": None,
    }
    assert {each: _machine.network_file_system(each) for each in kinds} == kinds
    here = Spender(str(path))
    mounts.write_text(f"{MOUNTS}26 22 0:52 / {path.parent} rw - cifs //server/share rw\n")
    assert reason_of(here.join) == words.on_a_network(str(path), "cifs")
    with pytest.raises(
        ConfigurationError, match=r"The store at .* network file system \(cifs\), whose"
    ):
        SQLiteStore(path)


def test_another_start_of_the_machine(path: Path, written: Spender) -> None:
    """All members are dead, and what is in the file may be older than what the provider charged."""
    epoch = written.epoch
    close(written)
    with sqlite3.connect(path) as changed:
        changed.execute("UPDATE machine SET boot = 'another'")
        changed.execute(
            "UPDATE heads SET origin = replace(origin, ?, 'another')", (_machine.boot_id(),)
        )
    changed.close()
    reply = Spender(str(path)).join()
    assert reply.epoch != epoch
    assert (reply.view.snapshot, reply.view.members) == (None, 1)


def test_another_machine(path: Path, written: Spender, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of one that used it lately is left alone, until a minute has passed."""
    close(written)
    elsewhere(path, host="far-away", seen=time.time() - 7)
    assert reason_of(written.join) == words.on_another_machine(str(path), "far-away", 7)
    elsewhere(path, host="far-away", seen=time.time() - 61)
    written.begin()
    assert Spender(str(path), "b" * 64).join().status == "done"
    elsewhere(path, host=_machine.host(), seen=time.time())
    assert Spender(str(path), "c" * 64).join().status == "done"
    with sqlite3.connect(path) as now:
        assert now.execute("SELECT boot FROM machine").fetchall() == [(_machine.boot_id(),)]
    now.close()


def elsewhere(path: Path, host: str, seen: float) -> None:
    """Another start of a machine has used the file."""
    with sqlite3.connect(path) as changed:
        changed.execute("UPDATE machine SET boot = 'another', host = ?, seen = ?", (host, seen))
    changed.close()


def test_windows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no locks that end with their process."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match="Windows has none"):
        SQLiteStore(path)


def test_no_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses one; the next message tries again."""
    here = Spender(str(path))
    Spender(str(path) + "2").join()  # the loop has its thread

    def refuse(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert reason_of(here.join) == words.no_thread(str(path))
    assert here.again().status == "done"


def test_a_disk_without_a_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite keeps another mode there."""
    in_turn = _store_file.StoreFile._in_turn

    def without(
        self: _store_file.StoreFile, connection: sqlite3.Connection, statement: str, deadline: float
    ) -> list[tuple[object, ...]]:
        if statement == "PRAGMA journal_mode = WAL":
            return [("delete",)]
        return in_turn(self, connection, statement, deadline)

    monkeypatch.setattr(_store_file.StoreFile, "_in_turn", without)
    assert reason_of(Spender(str(path)).join) == words.no_wal(str(path))


def test_a_fault_of_the_disk(path: Path) -> None:
    """Anything else is told in the words of SQLite or of the system."""
    assert words.of_the_system(str(path), OSError(5, "Input/output error")) == (
        f"the store at {path} cannot be used: Input/output error"
    )
    assert ACCOUNT not in words.failed(str(path), "x")
