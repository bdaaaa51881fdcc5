"""A process that is stopped in the middle of a transaction keeps the file locked for all others."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from member_process import MemberProcess, go_on, stopped, until
from spender import Spender, reason_of

from budgetguard import BalanceUnavailable, Guard
from budgetguard.stores import SQLiteStore
from budgetguard.stores import _store_errors as words
from budgetguard.testing import FakeProvider

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no store in a file there")


def holder_of(member: Callable[..., MemberProcess], timeout: float = 60) -> MemberProcess:
    """A member that holds 30 credits, and is stopped in the transaction in which it takes 20 more."""
    holder = member(timeout=timeout)
    holder.do("join")
    holder.do("look", credits=100)
    holder.do("beat", needs=[30])
    holder.do("stop_inside")
    holder.begin("beat", used=30, needs=[20])
    until(lambda: stopped(holder.pid))
    return holder


def test_others_are_told_and_nothing_is_lost(
    path: Path, member: Callable[..., MemberProcess]
) -> None:
    """One sentence after their timeout; what both sent takes effect when the process goes on."""
    here = Spender(str(path), timeout=60)
    here.join()
    holder = holder_of(member)
    here.store.timeout = 0.3
    assert reason_of(lambda: here.beat(needs=[10])) == words.locked(str(path), 0.3)
    assert reason_of(here.again) == words.locked(str(path), 0.3)
    go_on(holder)
    assert holder.end()["granted"] == [0]
    here.store.timeout = 60
    assert here.again().granted == (0,)
    assert here.beat(used=10).view.leased == 60_000_000


def test_a_killed_one_has_done_nothing(path: Path, member: Callable[..., MemberProcess]) -> None:
    """Its transaction is undone, what it held before is kept, and the file is free."""
    here = Spender(str(path), timeout=60)
    here.join()
    holder = holder_of(member)
    holder.signal(signal.SIGKILL)
    holder.kill()
    view = here.beat().view
    while view.members > 1:
        view = here.beat().view
    assert (view.leased, view.kept) == (0, 30_000_000)


def test_a_guard_says_so(path: Path, member: Callable[..., MemberProcess]) -> None:
    """Its callers get the same sentence, and those that come later are admitted."""
    guard = Guard(FakeProvider(100), store=SQLiteStore(path, timeout=0.3), timeout=60)
    holder = holder_of(member)
    with pytest.raises(BalanceUnavailable) as error:
        guard.acquire(10)
    assert error.value.reason == words.locked(str(path), 0.3)
    go_on(holder)
    holder.end()
    admitted = False
    while not admitted:
        try:
            guard.acquire(10).settle()
            admitted = True
        except BalanceUnavailable:
            until(lambda: guard._binding.account.ledger.away is None)  # type: ignore[attr-defined]
