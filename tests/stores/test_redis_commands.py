"""The commands that take `--store`, with the URL of a server: what they say is what they say of a file."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis_servers
from member_process import until

from budgetguard._cli import demo
from budgetguard._cli.main import main
from budgetguard._cli.members import _row as row_of
from budgetguard._cli.members import _table
from budgetguard._core.store_messages import Join, Message
from budgetguard.stores import RedisStore, _redis_driver
from budgetguard.stores._redis_asker import RedisAsker
from budgetguard.stores._script import keys_of
from budgetguard.stores._wire import message_text
from budgetguard.stores.members import StoredMember, read_members
from budgetguard.testing.sandbox import Sandbox

PROGRAM = Path(__file__).parent / "guard_process.py"
SERVERS: dict[str, Callable[[], int]] = {
    "redis": redis_servers.redis_server,
    "valkey": redis_servers.valkey_server,
}
COMMANDS = ["members", "balance", "check --min 1", "pause", "resume", "demo --workers 2"]
PASSWORD = "not-a-real-password"
NUMBERS = count(1)

Start = Callable[[], "Spender"]


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a server of each engine."""
    redis_servers.driver()
    return f"redis://127.0.0.1:{SERVERS[request.param]()}"


@pytest.fixture
def prefix() -> str:
    """What no other test uses, and what would mean other things in a pattern of the server."""
    return f"test-commands[*?]{next(NUMBERS)}"


@pytest.fixture
def store(url: str, prefix: str) -> list[str]:
    """The options that name the store."""
    return ["--store", url, "--prefix", prefix]


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give 100 credits, and pre.dev's key in the environment."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    monkeypatch.setenv("NO_PROXY", "*")
    with Sandbox(credits=100, clock="manual") as sandbox:
        monkeypatch.setenv("PREDEV_BASE_URL", sandbox.url)
        yield sandbox


def run(*words: str) -> tuple[int, str]:
    """Run a command as a program: its exit code, and all that it printed."""
    command = [sys.executable, "-m", "budgetguard", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


class Spender:
    """A process that spends through a guard."""

    def __init__(self, url: str, prefix: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), url, prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, order: str) -> str:
        """Have it do something, and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture
def worker(url: str, prefix: str, sandbox: Sandbox) -> Iterator[Start]:
    """Start a process that spends through a guard; killed at the end of the test."""
    del sandbox
    started: list[Spender] = []

    def start() -> Spender:
        started.append(Spender(url, prefix))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_members(store: list[str], worker: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """Each process with what it holds, in JSON and in a table; one that left is gone."""
    first, second = worker(), worker()
    first.do("hold 30")
    second.do("hold 20")
    assert main(["members", *store, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    [account] = shown["accounts"]
    assert shown["store"] == store[1].removeprefix("redis://")
    assert (account["provider"], account["yours"], account["granting"]) == ("pre.dev", True, True)
    assert (account["credits"], account["paused"]) == (100, None)
    told = {member["pid"]: member for member in account["members"]}
    assert told.keys() == {first.process.pid, second.process.pid}
    mine = told[first.process.pid]
    assert (mine["used"], mine["calls"], mine["waiting"], mine["state"]) == (30, 1, 0, "lives")
    assert mine["lease"] == mine["used"] + mine["slack"]
    assert account["free"] == 100 - sum(each["lease"] for each in told.values())
    assert mine["last_heard"] >= 0
    second.do("quit")
    second.process.wait()
    assert main(["members", *store]) == 0
    heading, columns, *rows = capsys.readouterr().out.splitlines()
    assert heading.endswith("of 100 credits are free; 1 process")
    assert columns.split()[:3] == ["pid", "host", "version"]
    [row] = [row for row in rows if row.split()[0] == str(second.process.pid)]
    assert row.endswith("  gone")
    assert max(len(line) for line in (columns, *rows)) <= 80


def test_the_time_since_the_last_message(url: str, prefix: str, worker: Start) -> None:
    """It is told by the server's clock."""
    worker().do("hold 1")
    [account] = read_members(RedisStore(url, prefix=prefix))
    [member] = account.members
    assert member.state == "lives"
    assert member.heard is not None
    assert 0 <= member.heard < 60
    assert isinstance(member.lease, Decimal)


def test_balance_and_check(store: list[str], worker: Start) -> None:
    """Both say what all processes together leave, and a refusal of how many processes the calls are."""
    first, second = worker(), worker()
    first.do("hold 30")
    second.do("hold 20")
    said = "pre.dev: 100 credits; 50 available, 2 other processes in the store\n"
    assert run("balance", *store) == (0, said)
    said = "Enough for 50 credits: 50 available at pre.dev.\n"
    assert run("check", "--min", "50", *store) == (0, said)
    code, said = run("check", "--min", "51", "--json", *store)
    figures = json.loads(said)
    assert (code, figures["available"], figures["processes"]) == (1, 50, 2)
    assert "50 are held by 2 running calls of 2 processes" in figures["reason"]


def test_pause_and_resume(store: list[str], worker: Start) -> None:
    """All processes stop, also one that has nothing open, and go on when they hear of the end."""
    first, second = worker(), worker()
    first.do("hold 30")
    second.do("call 1")
    code, said = run("pause", *store, "--reason", "the key may have leaked")
    assert code == 0
    assert "No process that shares the store at 127.0.0.1:" in said
    refused = (
        "The account at pre.dev is paused by `budgetguard pause --store`: the key may have leaked. "
        "No call is admitted until `budgetguard resume --store` is run."
    )
    until(lambda: first.do("call 1") == refused)
    until(lambda: second.do("call 1") == refused)
    assert "; paused: the key may have leaked\n" in run("members", *store)[1]
    for words in ("is resumed: processes that share", "was not paused by `budgetguard pause --st"):
        code, said = run("resume", *store)
        assert code == 0
        assert words in said
    until(lambda: first.do("call 1") == "call")
    until(lambda: second.do("call 1") == "call")


def test_a_read_changes_nothing(url: str, prefix: str, worker: Start) -> None:
    """No key is written, and a loop that runs already is no obstacle."""
    import redis

    worker().do("hold 10")
    own = RedisStore(url, prefix=prefix)
    with redis.Redis.from_url(url) as admin:

        def written() -> dict[bytes, Any]:
            keys = [key for key in admin.scan_iter() if key.startswith(prefix.encode())]
            assert keys
            return {key: admin.dump(key) for key in keys if not key.endswith(b":words")}

        async def inside() -> int:
            return len(read_members(own))

        before = written()
        assert asyncio.run(inside()) == len(read_members(own)) == 1
        assert written() == before


def test_a_store_that_nobody_used(
    store: list[str], prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no failure, and the answer names the prefix, which may be another than the programs'."""
    assert main(["members", *store]) == 0
    said = capsys.readouterr().out
    assert said.startswith("No process has used the store at 127.0.0.1:")
    assert said.endswith(f" under the prefix {prefix} yet.\n")


def test_an_account_of_a_newer_version(url: str, store: list[str], prefix: str) -> None:
    """The command asks for an upgrade, and exits with 3; of one that is damaged it says so."""
    import redis

    async def joined() -> str:
        asker = RedisAsker(RedisStore(url, prefix=prefix))
        join = message_text(Message("a.1", 1, "", join=Join(60.0)))
        await asker.script("of somebody", join, "", "")
        await asker.close()
        return keys_of(prefix, "of somebody")[0]

    key = asyncio.run(joined())
    with redis.Redis.from_url(url) as admin:
        first = "local s = cmsgpack.unpack(redis.call('HGET', KEYS[1], 'state')); "
        assert admin.eval(f"{first} return s[1]", 1, key) == 1
        later = "s[1] = 99; redis.call('HSET', KEYS[1], 'state', cmsgpack.pack(s))"
        admin.eval(first + later, 1, key)
        code, said = run("members", *store)
        assert code == 3
        assert "the format 99 of a newer version of budgetguard" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_no_server(
    command: str, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """One sentence says where it was looked for, without the password; the exit code is 3."""
    redis_servers.driver()
    place = f"redis://user:{PASSWORD}@127.0.0.1:1"
    assert main([*command.split(), "--store", place, *["--json"] * as_json]) == 3
    told = capsys.readouterr()
    sentence = json.loads(told.out)["reason"] if as_json else told.err.splitlines()[-1]
    assert "the store at 127.0.0.1:1 cannot be reached; check the server" in sentence.lower()
    assert PASSWORD not in told.out + told.err
    assert not sandbox.requests


@pytest.fixture(params=[False, True], ids=["text", "json"])
def as_json(request: pytest.FixtureRequest) -> bool:
    """Whether a failure is a JSON object."""
    given: bool = request.param
    return given


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "place",
    [
        f"redis://:{PASSWORD}@localhost:port",
        f"mysql://:{PASSWORD}@localhost",
        f"redis://localhost?{PASSWORD}=1",
        "redis://",
    ],
    ids=["port", "scheme", "option", "empty"],
)
def test_a_wrong_url(
    command: str, place: str, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """It is wrong usage, in one sentence without what may be a password."""
    redis_servers.driver()
    assert main([*command.split(), "--store", place, *["--json"] * as_json]) == 2
    told = capsys.readouterr()
    said = told.out if as_json else told.err
    assert "RedisStore" in said
    if PASSWORD + "=" not in place:
        assert PASSWORD not in told.out + told.err
    assert not sandbox.requests


@pytest.mark.parametrize("command", COMMANDS)
def test_a_password_that_is_refused(command: str, url: str, sandbox: Sandbox) -> None:
    """The sentence says what to check, and not what was given."""
    place = url.replace("redis://", f"redis://:{PASSWORD}@")
    code, said = run(*command.split(), "--store", place)
    assert code == 3
    assert "default user; leave it out of the store's URL" in said
    assert PASSWORD not in said
    del sandbox


@pytest.mark.parametrize("command", COMMANDS)
def test_no_driver(
    command: str,
    sandbox: Sandbox,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sentence says what to install; it is wrong usage, as everywhere that something is missing."""

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(_redis_driver, "importlib", SimpleNamespace(import_module=missing))
    assert main([*command.split(), "--store", "redis://localhost"]) == 2
    assert "`python -m pip install redis`" in capsys.readouterr().err
    del sandbox


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["members", "--store", "{path}", "--prefix", "p"], "--store names a file"),
        (["balance", "--prefix", "p"], "name that with --store"),
        (["demo", "--store", "redis://localhost"], "give their number with --workers"),
        (["demo", "--workers", "2", "--store", "{path}"], "a file has no simulated time"),
        (["members", "--store", "redis://localhost", "--prefix", "a b"], "prefix takes a name"),
    ],
)
def test_options_that_do_not_fit(
    given: list[str],
    said: str,
    tmp_path: Path,
    sandbox: Sandbox,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is wrong usage, and the sentence says why."""
    redis_servers.driver()
    path = tmp_path / "credits.db"
    path.touch()
    assert main([each.format(path=path) for each in given]) == 2
    assert said in capsys.readouterr().err
    del sandbox


def test_the_demo_in_a_server(url: str, prefix: str) -> None:
    """Its figures are those of the store in memory, and nothing of it remains in the server."""
    import redis

    def unseen(_: str) -> Callable[[Any], None]:
        return lambda _: None

    own = RedisStore(url, prefix=prefix)
    assert demo.compare(0, unseen, 3, own) == demo.compare(0, unseen, 3)
    with redis.Redis.from_url(url) as admin:
        assert not [key for key in admin.scan_iter() if key.startswith(prefix.encode())]


def test_the_demo_says_where_its_store_is(
    store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """On the screen and in JSON."""
    assert main(["demo", "--workers", "2", *store]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"The store is the real one in the server at {store[1].removeprefix('redis://')}" in said
    assert said.endswith("many-machines.md has the three lines that a worker needs.")
    assert main(["demo", "--workers", "2", "--json", *store]) == 0
    assert json.loads(capsys.readouterr().out)["store"] == store[1].removeprefix("redis://")


def member(**given: Any) -> StoredMember:
    """A member with large figures of everything."""
    large = Decimal("123456.789012")
    figures: dict[str, Any] = {
        **dict.fromkeys(("lease", "used", "slack", "finished", "unresolved"), large),
        **dict.fromkeys(("calls", "sessions", "waiting"), 12_345),
        "name": "a",
        "pid": 4_194_304,
        "host": "my-service-7d9f8b6c5-x2x4z.my-company.example",
        "version": "0.11.12",
        "since": datetime(2026, 12, 1, 3, 4, 5, tzinfo=UTC),
        "state": "lives",
        "heard": 3500.0,
    }
    return StoredMember(**figures | given)


def test_the_table_fits_80_columns() -> None:
    """However large the figures are: what people need least is left out, and named."""
    lines = _table([row_of(member()), row_of(member(state="gone", heard=None))])
    assert max(map(len, lines)) <= 80
    assert {"pid", "lease", "used", "heard"} <= set(lines[0].split())
    assert lines[-1].startswith("  (also with --json: sessions, version, since, finished")


def test_the_table_of_a_quiet_service() -> None:
    """All columns that say something are there; hosts are short, and told apart by how they end."""
    quiet: dict[str, Any] = dict.fromkeys(("finished", "unresolved"), Decimal(0))
    quiet |= dict.fromkeys(("sessions", "waiting"), 0)
    small = {"lease": Decimal(20), "used": Decimal(10), "calls": 1, "heard": 0.25, "pid": 7}
    lines = _table([row_of(member(**small, **quiet))])
    assert lines == [
        "  pid  host          version  since (UTC)  lease  used  calls  heard",
        "    7  ..b6c5-x2x4z  0.11.12  12-01 03:04     20    10      1  0.2 s ago",
    ]
