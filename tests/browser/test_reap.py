"""What a dead process left is ended by whoever comes next, and nothing else is touched."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import anyio
import pytest

from budgetguard.browser import Journal, Reaped, areap, browser_session, reap
from budgetguard.browser._journal import JournalEntry, Note, account_of

MINUTES = 5
ID = "session-000002"  # the first after the foreign one
SESSION = f"/v1/sessions/{ID}"


def leave_one(scene: Any) -> str:
    """Leave a session open that could not be deleted, as a process that died would."""
    number = len(scene.own) + 2
    path = f"/v1/sessions/session-{number:06d}"
    scene.sandbox.fault(path, method="DELETE", status=401, times=1)
    options = {"journal": scene.journal, "patience": scene.patience}
    with browser_session(scene.client, scene.guard, MINUTES, **options) as session:
        pass
    assert scene.own[session.id] == "running"
    return str(session.id)


def reap_all(scene: Any) -> Reaped:
    """Reap with the scene's client and patience."""
    return reap(scene.client, scene.journal, patience=scene.patience)


def test_nothing_to_do(scene: Any) -> None:
    """Without a journal there is nothing to reap, nor anything to ask."""
    before = scene.sandbox.requests
    assert reap_all(scene) == Reaped()
    assert scene.sandbox.requests == before


def test_a_folder_that_cannot_be_read(scene: Any) -> None:
    """It is not taken for an empty one."""
    scene.journal.folder.write_text("in the way")
    with pytest.raises(NotADirectoryError):
        reap_all(scene)


@pytest.mark.anyio
async def test_for_code_that_awaits(scene: Any) -> None:
    """An async client reaps the same."""
    await scene.guard.abalance()
    ids = {leave_one(scene), leave_one(scene)}
    async with scene.new_async_client() as client:
        reaped = await areap(client, scene.journal, patience=scene.patience)
    assert set(reaped.gone) == ids
    assert (set(scene.own.values()), scene.files) == ({"finished"}, [])


@pytest.mark.anyio
async def test_cancelled_between_two_sessions(scene: Any) -> None:
    """A cancelled reap leaves no session half ended, and the others to the next."""
    await scene.guard.abalance()
    leave_one(scene), leave_one(scene)
    async with scene.new_async_client() as client:
        with anyio.CancelScope() as scope:

            async def stop(_: float) -> None:
                scope.cancel()

            patience = replace(scene.patience, asleep=stop)
            await areap(client, scene.journal, patience=patience)
    assert scope.cancelled_caught
    assert sorted(scene.own.values()) == ["finished", "running"]
    assert len(reap_all(scene).gone) == 1


def test_the_living_are_left_alone(scene: Any) -> None:
    """A session whose process lives is not another's to end."""
    options = {"journal": scene.journal, "patience": scene.patience}
    with browser_session(scene.client, scene.guard, MINUTES, **options) as session:
        assert reap_all(scene) == Reaped(living=1)
        assert scene.own == {session.id: "running"}


def test_another_account_is_left_alone(scene: Any) -> None:
    """With another key a 404 says nothing: the session is neither ended nor forgotten."""
    leave_one(scene)
    [file] = scene.files
    stranger = scene.new_client().with_options(api_key="another")
    assert reap(stranger, scene.journal, patience=scene.patience) == Reaped(elsewhere=1)
    assert scene.files == [file]
    assert reap_all(scene).gone == (ID,)


def test_not_confirmed_is_not_forgotten(scene: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A session that the provider does not confirm remains for the next reap."""
    leave_one(scene)
    scene.sandbox.fault(SESSION, method="DELETE", status=500)
    assert reap_all(scene) == Reaped(left=(ID,))
    assert f"Not confirmed gone: {ID}" in caplog.text
    scene.sandbox.clear_faults()
    scene.sandbox.fault("/v1/sessions/*", method="GET", reset=True)
    assert reap_all(scene) == Reaped(left=(ID,))
    scene.sandbox.clear_faults()
    assert reap_all(scene) == Reaped(gone=(ID,))
    assert scene.files == []


@pytest.mark.parametrize("status", [400, 409, 410, 422])
def test_ended_by_itself(scene: Any, status: int) -> None:
    """A session that cannot be deleted because it is over does not remain in the journal."""
    leave_one(scene)
    scene.sandbox.fault(SESSION, method="DELETE", status=status)
    if status != 410:
        assert reap_all(scene) == Reaped(left=(ID,))
    scene.elapse(60 * MINUTES)
    assert reap_all(scene) == Reaped(gone=(ID,))
    assert (scene.own, scene.files) == ({ID: "finished"}, [])


@pytest.mark.anyio
async def test_ended_by_itself_for_code_that_awaits(scene: Any) -> None:
    """The same with an async client; and where only a tag is left, that leads to it."""
    await scene.guard.abalance()
    leave_one(scene)
    write(scene)
    session = {"tags": ["budgetguard-lost"], "timeout": {"max_duration": MINUTES}}
    tagged = scene.client.sessions.create_session(session=session).data.id
    scene.elapse(60 * MINUTES)
    scene.sandbox.fault("/v1/sessions/*", method="DELETE", status=409)
    async with scene.new_async_client() as client:
        reaped = await areap(client, scene.journal, patience=scene.patience)
    assert (sorted(reaped.gone), scene.files) == ([ID, tagged], [])


def write(scene: Any, *, tag: str = "budgetguard-lost", minutes: int = MINUTES) -> None:
    """Write an intent down and die before its id is known."""
    note = Note(tag, minutes, scene.waits.wall(), account_of(scene.client))
    scene.journal.begin(note).leave()


def test_found_by_its_tag(scene: Any) -> None:
    """Where the id was not written any more, the tag leads to it."""
    write(scene)
    session = {"tags": ["x", "budgetguard-lost"], "timeout": {"max_duration": MINUTES}}
    id = scene.client.sessions.create_session(session=session).data.id
    assert reap_all(scene) == Reaped(gone=(id,))
    assert (scene.own, scene.files) == ({id: "finished"}, [])


def test_a_filter_that_does_not_filter(scene: Any) -> None:
    """Of all that the provider lists, on any page, what does not carry the tag is not touched."""
    write(scene)
    session = {"tags": ["budgetguard-lost"], "timeout": {"max_duration": MINUTES}}
    id = scene.client.sessions.create_session(session=session).data.id
    others = [
        {"id": scene.foreign, "status": "running", "tags": tags}
        for tags in ([], None, ["budgetguard-lost-not"], ["budgetguard"])
    ]
    pages = [others, [{"id": id, "status": "running", "tags": ["budgetguard-lost"]}]]
    for number, shown in enumerate(pages, 1):
        data = {"sessions": shown, "total": 5, "page": number, "total_pages": 2}
        scene.sandbox.fault("/v1/sessions", method="GET", body={"data": data}, times=1)
    assert reap_all(scene) == Reaped(gone=(id,))
    assert scene.own == {id: "finished"}
    assert scene.deletions == 1


def test_a_session_nobody_saw(scene: Any) -> None:
    """It is searched for until it would have ended by itself, because it may appear late."""
    write(scene)
    lost = Reaped(unseen=("budgetguard-lost",))
    assert (reap_all(scene), reap_all(scene), len(scene.files)) == (lost, lost, 1)
    session = {"tags": ["budgetguard-lost"]}
    id = scene.client.sessions.create_session(session=session).data.id
    assert reap_all(scene) == Reaped(gone=(id,))
    write(scene, tag="budgetguard-older", minutes=30)
    lost = Reaped(unseen=("budgetguard-older",))
    soon, later = (replace(scene.waits, began=scene.waits.began + n) for n in (1800, 2500))
    assert reap(scene.client, scene.journal, patience=soon.patience()) == lost
    assert len(scene.files) == 1
    assert reap(scene.client, scene.journal, patience=later.patience()) == lost
    assert scene.files == []


def test_a_tag_that_cannot_be_looked_for(scene: Any) -> None:
    """A failed search proves nothing about a session, however old."""
    write(scene)
    scene.sandbox.fault("/v1/sessions", method="GET", status=500)
    much_later = replace(scene.waits, began=scene.waits.began + 10**6).patience()
    reaped = reap(scene.client, scene.journal, patience=much_later)
    assert (reaped, len(scene.files)) == (Reaped(left=("budgetguard-lost",)), 1)


def test_two_reapers_at_once(open_scene: Callable[..., Any]) -> None:
    """Each session is ended by one of them, and both are done."""
    scene = open_scene(1, max_concurrent_browsers=-1)
    ids = {leave_one(scene) for _ in range(8)}
    deletions = scene.deletions
    start = threading.Barrier(4)

    def work(_: int) -> Reaped:
        start.wait(30)
        return reap(scene.client, Journal(scene.journal.folder), patience=scene.patience)

    with ThreadPoolExecutor(4) as pool:
        gone = [id for reaped in pool.map(work, range(4)) for id in reaped.gone]
    assert sorted(gone) == sorted(ids)
    assert scene.deletions - deletions == len(ids)
    assert (set(scene.own.values()), scene.files) == ({"finished"}, [])


@pytest.mark.parametrize("torn", [b"", b'{"tag": "budg', b'{"tag": "x"}'], ids=str)
def test_a_torn_first_line(scene: Any, torn: bytes) -> None:
    """The request was not sent before the line was whole: the file is just removed."""
    scene.journal.folder.mkdir()
    (scene.journal.folder / "session-torn.jsonl").write_bytes(torn)
    assert reap_all(scene) == Reaped()
    assert scene.files == []


def test_a_torn_second_line(scene: Any) -> None:
    """Half an id is none: the tag leads to the session."""
    id = leave_one(scene)
    [file] = scene.files
    file.write_bytes(file.read_bytes()[:-3])
    assert reap_all(scene) == Reaped(gone=(id,))


@pytest.mark.parametrize(
    "line",
    [
        b"\xff",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'"session"',
        b'{"session": ""}',
        b'{"session": 5}',
        b'{"session": null}',
        pytest.param(b"[" * 60_000, id="too deep"),
    ],
    ids=str,
)
def test_a_broken_second_line(scene: Any, line: bytes) -> None:
    """A whole tag finds the session, whatever became of the line with its id."""
    write(scene)
    session = {"tags": ["budgetguard-lost"], "timeout": {"max_duration": MINUTES}}
    id = scene.client.sessions.create_session(session=session).data.id
    [file] = scene.files
    file.write_bytes(file.read_bytes() + line + b"\n")
    assert reap_all(scene) == Reaped(gone=(id,))
    assert (scene.own, scene.files) == ({id: "finished"}, [])


def test_a_whole_line_after_a_broken_one(scene: Any) -> None:
    """An id that can be read is gone by."""
    id = leave_one(scene)
    [file] = scene.files
    first, second, _ = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([first, b"\x00", second, b"{", b""]))
    listed = scene.sandbox.requests["GET", "/v1/sessions"]
    assert reap_all(scene) == Reaped(gone=(id,))
    assert scene.sandbox.requests["GET", "/v1/sessions"] == listed


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\n",
        b"[]\n",
        b'{"tag": 1, "minutes": 1, "at": 1, "account": ""}\n',
        b'{"tag": "", "minutes": 1, "at": 1, "account": ""}\n{"session": "s"}\n',
        b'{"tag": "x", "minutes": 1, "at": 1}\n{"session": "s"}\n',
        b'{"tag": "x", "minutes": 1, "at": "1", "account": ""}\n',
        b'{"tag": "x", "minutes": 1, "at": 1, "account": "", "more": 1}\n',
        pytest.param(b"[" * 60_000 + b"\n", id="too deep"),
    ],
    ids=str,
)
def test_what_makes_no_sense_stays(
    scene: Any, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not prevent the others from being reaped, and is reported."""
    id = leave_one(scene)
    (scene.journal.folder / "session-0.jsonl").write_bytes(content)
    (scene.journal.folder / "session-1.jsonl").symlink_to("elsewhere")
    (scene.journal.folder / "other.txt").write_text("not ours")
    assert reap_all(scene) == Reaped(gone=(id,), unreadable=2)
    assert "session-0.jsonl cannot be read as the record of a session" in caplog.text
    assert len(scene.files) == 3


def test_a_reaper_between_making_and_locking(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a reaper took for a torn one is made anew, under a lock."""
    import fcntl

    locked, interleaved = fcntl.flock, []

    def flock(file: int, operation: int) -> None:
        if not interleaved:
            interleaved.append(file)
            reap_all(scene)
        locked(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    write(scene)
    assert interleaved
    assert reap_all(scene).unseen == ("budgetguard-lost",)


def test_an_entry_that_is_dropped(scene: Any) -> None:
    """Nobody's entry is everybody's."""
    note = Note("budgetguard-lost", MINUTES, scene.waits.wall(), account_of(scene.client))
    entry: JournalEntry | None = scene.journal.begin(note)
    assert reap_all(scene) == Reaped(living=1)
    del entry
    assert reap_all(scene) == Reaped(unseen=("budgetguard-lost",))


FORKING = """
import os, signal, sys
from anchorbrowser import Anchorbrowser
from budgetguard import AnchorBrowser, Guard
from budgetguard.browser import Journal, browser_session

key, url, folder = sys.argv[1:]
client = Anchorbrowser(api_key=key, base_url=url)
guard = Guard(AnchorBrowser(key, base_url=url))
has_left, left = os.pipe()
with browser_session(client, guard, 5, journal=Journal(folder)) as session:
    child = os.fork()
    if child:
        os.read(has_left, 1)
        print(session.id, child, flush=True)
        signal.pause()
os.write(left, b".")
signal.pause()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child(scene: Any) -> None:
    """It closes no session of its parent's, and does not prevent a dead parent's from being reaped."""
    where = [scene.sandbox.anchor_key, scene.sandbox.url, str(scene.journal.folder)]
    parent = subprocess.Popen([sys.executable, "-c", FORKING, *where], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    id, child = parent.stdout.readline().decode().split()
    try:
        assert scene.own == {id: "running"}
        assert reap_all(scene) == Reaped(living=1)
        parent.kill()
        parent.wait(30)
        assert reap_all(scene) == Reaped(gone=(id,))
        assert (scene.own, scene.files) == ({id: "finished"}, [])
    finally:
        os.kill(int(child), signal.SIGKILL)
        parent.kill()
        parent.wait(30)
        parent.stdout.close()


LEAVING = """
import os, sys
from anchorbrowser import Anchorbrowser
from budgetguard import AnchorBrowser, Guard
from budgetguard.browser import Journal, browser_session

key, url, folder = sys.argv[1:]
client = Anchorbrowser(api_key=key, base_url=url)
guard = Guard(AnchorBrowser(key, base_url=url))
try:
    with browser_session(client, guard, 5, journal=Journal(folder)) as session:
        child = os.fork()
        if child == 0:
            raise ZeroDivisionError
        print(session.id, os.waitpid(child, 0)[1], flush=True)
        sys.stdin.readline()
except ZeroDivisionError:
    os._exit(7)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_that_leaves_the_block(scene: Any) -> None:
    """The session, its deletion and its journal entry are the parent's alone."""
    where = [scene.sandbox.anchor_key, scene.sandbox.url, str(scene.journal.folder)]
    with subprocess.Popen(
        [sys.executable, "-c", LEAVING, *where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        id, status = parent.stdout.readline().split()
        assert os.waitstatus_to_exitcode(int(status)) == 7
        assert (scene.own, len(scene.files), scene.deletions) == ({id: "running"}, 1, 0)
        assert reap_all(scene) == Reaped(living=1)
        parent.communicate("\n", timeout=30)
        assert parent.returncode == 0
    assert (scene.own, scene.files, scene.deletions) == ({id: "finished"}, [], 1)
