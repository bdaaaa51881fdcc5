"""The commands that take `--store`: what they say of the processes that share an account."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from member_process import MemberProcess, until

from budgetguard import Guard, PreDev
from budgetguard._cli.main import main
from budgetguard._engine.shared_account import name_in_store
from budgetguard.stores import SQLiteStore
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.members import read_members
from budgetguard.testing.sandbox import Sandbox

PROGRAM = Path(__file__).parent / "guard_process.py"


class GuardProcess:
    """A process that spends through a guard."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, order: str) -> str:
        """Have it do something, and return its answer; nothing from one that exits."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it, without a word to the store if it is still there."""
        self.process.kill()
        self.process.communicate()


def files_in(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Each file below, and what changes when it is written; not SQLite's locks, which readers have too."""
    found = {file: file.stat() for file in folder.rglob("*") if not file.name.endswith("-shm")}
    return {file: (told.st_ino, told.st_size, told.st_mtime_ns) for file, told in found.items()}


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give 100 credits, and pre.dev's key in the environment."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    monkeypatch.setenv("NO_PROXY", "*")
    with Sandbox(credits=100, clock="manual") as sandbox:
        monkeypatch.setenv("PREDEV_BASE_URL", sandbox.url)
        yield sandbox


@pytest.fixture
def worker(path: Path, sandbox: Sandbox) -> Iterator[Callable[[], GuardProcess]]:
    """Start a process that spends through a guard; killed at the end of the test."""
    del sandbox
    started: list[GuardProcess] = []

    def start() -> GuardProcess:
        started.append(GuardProcess(path))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def test_members(
    path: Path, worker: Callable[[], GuardProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each process with what it holds; one that was killed is gone at once, and its credits are unresolved."""
    first, second = worker(), worker()
    first.do("hold 30")
    second.do("hold 20")
    assert main(["members", "--store", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    [account] = shown["accounts"]
    assert shown["store"] == str(path)
    assert (account["provider"], account["yours"], account["granting"]) == ("pre.dev", True, True)
    assert (account["credits"], account["paused"]) == (100, None)
    told = {member["pid"]: member for member in account["members"]}
    assert told.keys() == {first.process.pid, second.process.pid}
    mine = told[first.process.pid]
    assert (mine["used"], mine["calls"], mine["waiting"], mine["state"]) == (30, 1, 0, "lives")
    assert mine["lease"] == mine["used"] + mine["slack"]
    assert account["free"] == 100 - sum(each["lease"] for each in told.values())
    second.kill()
    assert main(["members", "--store", str(path)]) == 0
    heading, columns, *rows = capsys.readouterr().out.splitlines()
    assert heading.endswith("of 100 credits are free; 1 process")
    assert columns.split()[:3] == ["pid", "host", "version"]
    [row] = [row for row in rows if row.split()[0] == str(second.process.pid)]
    assert row.endswith("  gone")


def test_an_account_whose_members_do_not_name_its_provider(
    path: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named all the same, if it is the one in the environment: all its members may have gone."""
    del sandbox
    member = MemberProcess(path, name_in_store(str(PreDev().fingerprint)))
    member.do("join")
    assert main(["members", "--store", str(path)]) == 0
    heading = capsys.readouterr().out.splitlines()[0]
    member.kill()
    assert heading.startswith("pre.dev (")
    assert heading.endswith(", yours): the balance is not known yet; 1 process")


def test_balance_and_check(
    path: Path, worker: Callable[[], GuardProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both say what all processes together leave, and a refusal of how many processes the calls are."""
    first, second = worker(), worker()
    first.do("hold 30")
    second.do("hold 20")
    assert main(["balance", "--store", str(path)]) == 0
    said = capsys.readouterr().out
    assert said == "pre.dev: 100 credits; 50 available, 2 other processes in the store\n"
    assert main(["check", "--min", "50", "--store", str(path)]) == 0
    assert capsys.readouterr().out == "Enough for 50 credits: 50 available at pre.dev.\n"
    assert main(["check", "--min", "51", "--json", "--store", str(path)]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert (figures["available"], figures["processes"]) == (50, 2)
    assert "50 are held by 2 running calls of 2 processes" in figures["reason"]


def test_pause_and_resume(
    path: Path, worker: Callable[[], GuardProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    """All processes stop, also one that has nothing open, and go on when they hear of the end."""
    first, second = worker(), worker()
    first.do("hold 30")
    second.do("call 1")
    assert main(["pause", "--store", str(path), "--reason", "the key may have leaked"]) == 0
    assert f"No process that shares the store at {path} admits" in capsys.readouterr().out
    refused = (
        "The account at pre.dev is paused by `budgetguard pause --store`: the key may have leaked. "
        "No call is admitted until `budgetguard resume --store` is run."
    )
    until(lambda: first.do("call 1") == refused)
    until(lambda: second.do("call 1") == refused)
    assert first.do("end") == "end"
    assert main(["members", "--store", str(path)]) == 0
    assert "; paused: the key may have leaked\n" in capsys.readouterr().out
    assert main(["check", "--min", "1", "--store", str(path)]) == 1
    assert capsys.readouterr().out == f"{refused}\n"
    for said in ("is resumed: processes that share", "was not paused by `budgetguard pause --st"):
        assert main(["resume", "--store", str(path)]) == 0
        assert said in capsys.readouterr().out
    until(lambda: first.do("call 1") == "call")
    until(lambda: second.do("call 1") == "call")


def test_a_read_changes_nothing(path: Path, member: Callable[..., MemberProcess]) -> None:
    """No file is written, made or removed, also where a member has died; and members go on undisturbed."""
    [spender, victim] = [member() for _ in range(2)]
    for each in (spender, victim):
        each.do("join")
    victim.kill()
    before = files_in(path.parent)
    for _ in range(3):
        [account] = read_members(path)
        assert sorted(each.state for each in account.members) == ["gone", "lives"]
        assert (account.provider, account.credits, account.free) == (None, None, None)
    assert files_in(path.parent) == before
    assert spender.do("join")["status"] in {"done", "expired"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no database", "is not an SQLite database"),
        (None, "is the database of another program"),
    ],
    ids=["text", "of another program"],
)
def test_a_file_that_is_no_store(
    path: Path, content: bytes | None, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says what is wrong with it, and exits with 3."""
    if content is None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE theirs (id)")
        connection.close()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=reason):
        read_members(path)
    assert main(["members", "--store", str(path), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "StoreUnavailable"
    assert reason in told["reason"]


@pytest.mark.parametrize("command", ["members", "balance", "check --min 1", "pause", "resume"])
def test_there_is_no_store(
    command: str, path: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path that was mistyped is wrong usage: no file is made, and nothing is asked."""
    assert main([*command.split(), "--store", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"budgetguard: There is no store at {path}. Give --store the path that the programs give to "
        "SQLiteStore; the first of them that uses it makes it.\n"
    )
    assert not [*path.parent.iterdir()]
    assert not sandbox.balance_requests


@pytest.mark.parametrize("command", ["members", "balance", "check --min 1", "pause", "resume"])
@pytest.mark.parametrize(
    ("given", "said"), [("", "--store is empty"), ("{}", "is a directory: give --store the path")]
)
def test_a_path_that_names_no_file(
    command: str,
    given: str,
    said: str,
    path: Path,
    sandbox: Sandbox,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is wrong usage, and the sentence says what to give."""
    del sandbox
    assert main([*command.split(), "--store", given.format(path.parent)]) == 2
    assert said in capsys.readouterr().err


def test_an_account_with_a_name(
    path: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """`balance` and `check` answer for the account that programs name, and not for another one with its key."""
    store = SQLiteStore(path)
    with Guard(PreDev(account="team"), store=store).acquire(40):
        assert main(["balance", "--store", str(path), "--account", "team"]) == 0
        assert "; 60 available, " in capsys.readouterr().out
        assert main(["check", "--min", "61", "--store", str(path), "--account", "team"]) == 1
        assert "40 are held by 1 running call" in capsys.readouterr().out
    assert len(read_members(path)) == 1
    del sandbox


def test_a_store_that_nobody_used(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty store is no failure, and neither is a file that is just being made."""
    path.touch()
    assert read_members(path) == ()
    member = MemberProcess(path)
    member.do("join")
    member.kill()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM parts")
    connection.close()
    assert read_members(path) == ()
    assert main(["members", "--store", str(path)]) == 0
    assert capsys.readouterr().out == f"No process has used the store at {path} yet.\n"


def test_amounts_are_exact(path: Path, member: Callable[..., MemberProcess]) -> None:
    """What is read are Decimals, as everywhere that users see amounts."""
    member().do("join")
    [account] = read_members(path)
    assert all(isinstance(each.lease, Decimal) for each in account.members)
