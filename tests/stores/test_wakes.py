"""A member that listens is told when it should send a message; nobody else costs anything."""

import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from member_process import PATIENCE, MemberProcess, until
from spender import Spender

from budgetguard.stores._processes import PROCESS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no store in a file there")


class Hears:
    """A spender that listens."""

    def __init__(self, path: Path) -> None:
        self.spender = Spender(str(path))
        self.heard: queue.SimpleQueue[None] = queue.SimpleQueue()

    def listen(self) -> None:
        self.spender.link.listen(lambda: self.heard.put(None))

    def wait(self) -> None:
        self.heard.get(timeout=PATIENCE)


@pytest.fixture
def here(path: Path) -> Iterator[Hears]:
    """A member of this process that has all the credits."""
    hears = Hears(path)
    hears.spender.join()
    hears.spender.look(100)
    assert hears.spender.beat(needs=[100]).granted == (0,)
    yield hears
    hears.spender.link.listen(None)


def test_a_recall_is_heard(here: Hears, member: Callable[..., MemberProcess]) -> None:
    """Another process lacks credits that this one does not use."""
    there = member()
    there.do("join")
    here.spender.beat(used=0, keep=100)
    here.listen()
    assert there.do("beat", needs=[60])["granted"] == []
    here.wait()
    here.spender.send()
    assert there.do("beat", needs=[60])["granted"] == [0]


def test_what_happened_before_is_heard(here: Hears, member: Callable[..., MemberProcess]) -> None:
    """It was woken before it listened, and has not been heard since."""
    there = member()
    there.do("join")
    here.spender.beat(used=0, keep=100)
    assert there.do("beat", needs=[60])["granted"] == []
    here.listen()
    here.wait()


def test_a_member_of_the_same_process_is_heard(here: Hears, path: Path) -> None:
    """SQLite does not count the changes of its own connection."""
    other = Spender(str(path))
    other.join()
    here.spender.beat(used=0, keep=100)
    here.listen()
    other.beat(needs=[60])
    here.wait()


def test_one_wake_is_heard_once(here: Hears, member: Callable[..., MemberProcess]) -> None:
    """Until there is another one; a message of its own settles what it was woken for."""
    there = member()
    there.do("join")
    here.spender.beat(used=0, keep=100)
    here.listen()
    there.do("beat", needs=[60])
    here.wait()
    for _ in range(3):
        there.do("beat")
    here.spender.send()
    assert here.heard.empty()
    rows = PROCESS.workers[here.spender.store.path]._file.connection
    assert rows is not None


def test_nobody_polls_for_those_that_do_not_listen(here: Hears) -> None:
    """The thread sleeps until there is something to do."""
    worker = PROCESS.workers[here.spender.store.path]
    here.listen()
    until(lambda: worker._listeners)
    here.spender.link.listen(None)
    until(lambda: not worker._listeners)
    # With nobody to poll for, it waits for the next message without a limit.
    waited: list[float | None] = []
    get = worker._queue.get

    class Watched:
        """The queue, which tells how long the thread is ready to wait."""

        put, get_nowait = worker._queue.put, worker._queue.get_nowait

        def get(self, timeout: float | None = None) -> object:
            waited.append(timeout)
            return get(timeout=timeout)

    worker._queue = Watched()  # type: ignore[assignment]
    # The thread is in the real one's `get` once more before.
    here.spender.send()
    here.spender.send()
    until(lambda: waited)
    assert set(waited) == {None}


def test_a_listener_hears_when_the_file_is_gone(here: Hears, path: Path) -> None:
    """Then it has to tell a new one what it holds."""
    here.listen()
    until(lambda: PROCESS.workers[here.spender.store.path]._listeners)
    for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        each.unlink()
    here.wait()
    assert here.spender.beat(used=100).status == "reassert"
