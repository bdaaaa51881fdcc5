"""Who lives is known from kernel locks: exactly, at once, and whatever a process is doing."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from member_process import MemberProcess, go_on, lines_of, stop, until
from spender import Spender

from budgetguard.stores._living import LivingMembers

if sys.platform != "win32":
    import fcntl

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no store in a file there")


def with_lease(member: MemberProcess) -> float:
    """Have a member join, and take slack; returns its lease."""
    member.do("join")
    if member.do("beat")["credits"] is None:
        member.do("look", credits=1000)
    lease: float = member.do("beat", want=100)["lease"]
    assert lease > 0
    return lease


def test_a_killed_member_is_dead_at_once(path: Path, member: Callable[..., MemberProcess]) -> None:
    """Its whole lease is kept, and its file is removed, when somebody joins."""
    victim = member()
    lease = with_lease(victim)
    victim.kill()
    told = member().do("join")
    assert (told["kept"], told["leased"], told["members"]) == (lease, 0, 1)
    assert len(lines_of(path)) == 1


def test_a_death_is_noticed_by_those_that_are_there(
    path: Path, member: Callable[..., MemberProcess]
) -> None:
    """Without anybody who joins, within about a second."""
    victim, other = member(), member()
    with_lease(victim)
    other.do("join")
    victim.kill()
    until(lambda: other.do("beat")["members"] == 1)


def test_a_stopped_member_lives(path: Path, member: Callable[..., MemberProcess]) -> None:
    """Its lease remains its own, and it goes on with it."""
    sleeper, other = member(), member()
    lease = with_lease(sleeper)
    stop(sleeper)
    told = other.do("join")
    assert (told["kept"], told["leased"], told["members"]) == (0, lease, 2)
    go_on(sleeper)
    told = sleeper.do("beat", keep=int(lease))
    assert (told["status"], told["lease"]) == ("done", lease)


def test_a_link_that_is_closed_without_leaving_is_a_dead_member(
    path: Path, member: Callable[..., MemberProcess]
) -> None:
    """Its process lives, and has others."""
    here, there = Spender(str(path)), member()
    here.join()
    here.look(1000)
    lease = here.beat(want=100).lease / 1_000_000
    Spender(str(path)).join()
    here.link.close()
    until(lambda: there.do("begin") and there.do("join")["members"] == 2)
    assert there.do("beat")["kept"] == lease


def test_a_removed_lock_is_made_again(path: Path, member: Callable[..., MemberProcess]) -> None:
    """Somebody cleans the directory: a member that is heard again counts as living again."""
    here = Spender(str(path))
    here.join()
    [name] = lines_of(path)
    Path(f"{path}-members", name).unlink()
    Path(f"{path}-members").rmdir()
    here.beat()
    assert lines_of(path) == [name]
    assert member().do("join")["members"] == 2


def test_files_of_others_are_left_alone(path: Path) -> None:
    """Only what has the name of a lock is taken for one, and no link or pipe."""
    folder = Path(f"{path}-members")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    os.mkfifo(folder / ("0" * 16))
    Spender(str(path)).join()
    assert (folder / "notes.txt").read_text() == "mine"


def test_who_looks_at_a_dead_process_s_file_is_not_taken_for_its_owner(path: Path) -> None:
    """Two may look at the same moment, and neither may believe that it lives."""
    folder = f"{path}-members"
    victim, here = LivingMembers(folder, "0" * 16), LivingMembers(folder, "1" * 16)
    for each, name in ((victim, "dead"), (here, "here")):
        each.enter()
        each.come("a" * 64, name)
    victim.let_go()
    looks = os.open(f"{folder}/{'0' * 16}", os.O_RDONLY)
    try:
        fcntl.flock(looks, fcntl.LOCK_SH)
        assert here.survey().members == {"here"}
    finally:
        os.close(looks)
    assert len(lines_of(path)) == 2
    assert here.survey().members == {"here"}
    assert len(lines_of(path)) == 1
    here.leave()


def test_many_lines_are_used_again(path: Path) -> None:
    """The file grows with the members that a process has at once, not with those that it had."""
    living = LivingMembers(f"{path}-members", "0" * 16)
    living.enter()
    for number in range(100):
        living.come("a" * 64, f"me.{number}")
        living.hold("a" * 64, f"me.{number}")
        living.go("a" * 64, f"me.{number - 1}")
    found = living.survey()
    assert found.members == {"me.99"}
    assert found.holders == {"a" * 64: {"me.99"}}
    [lock] = Path(f"{path}-members").iterdir()
    assert lock.stat().st_size == 2 * 128
    living.leave()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_nobody_is_taken_for_dead_while_locks_come_and_go(path: Path) -> None:
    """Processes that enter, look around and leave all the time never miss one that stays, nor lose their own."""
    folder = f"{path}-members"
    stays = LivingMembers(folder, "f" * 16)
    stays.enter()
    stays.come("a" * 64, "stays")
    end = time.monotonic() + 1.0
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                stays.let_go()
                number = 0
                while time.monotonic() < end:
                    number += 1
                    mine = LivingMembers(folder, f"{child:08x}{number:08x}")
                    mine.enter()
                    mine.come("a" * 64, "mine")
                    for _ in range(3):
                        assert {"stays", "mine"} <= mine.survey().members
                    assert Path(mine._path).exists()
                    if number % 2:
                        mine.leave()
                    else:
                        mine.let_go()  # as if it had died
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    assert stays.survey().members == {"stays"}
    stays.leave()
    assert lines_of(path) == []
