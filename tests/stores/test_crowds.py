"""Many callers of one process near exhaustion: how many messages they cost, and that nobody is answered later."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from staging import Caller, until, waiting
from worlds import World, world_of

from budgetguard import InsufficientCredits
from budgetguard._core.store_messages import Join, Message, Report
from budgetguard._engine.membership import GATHER

if TYPE_CHECKING:
    from in_memory import MemoryStore

ELSEWHERE = "a process that is slow"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """One process that is a member, of an account of 100 credits."""
    with world_of("single", tmp_path) as world:
        yield world


class Elsewhere:
    """Another process with an open call for all credits, which sends its messages when it is told to."""

    def __init__(self, world: World) -> None:
        self.store: MemoryStore = world.store
        self.world = world
        self.numbers = 0
        self.send(join=Join(None, sole_spender=False))

    def send(self, used: int = 100, **what: Any) -> None:
        """Its next message, with what its calls use."""
        self.numbers += 1
        [(account, head)] = self.store.heads.items()
        epoch = "" if self.numbers == 1 else head.epoch
        report = Report(used=used * 10**6, running=1, patience=5.0, recall=head.recall)
        message = Message(ELSEWHERE, self.numbers, epoch, head.now, 0.0, report, **what)
        self.store.handle(account, message)
        self.world.settle()


def crowd(world: World, callers: int, amount: int, **options: Any) -> list[Caller]:
    """So many callers, who come one after the other and wait by now."""
    [guard] = world.guards
    found = []
    for _ in range(callers):
        before = waiting(guard)
        found.append(Caller(lambda: guard.acquire(amount, **options)))
        until(lambda before=before: waiting(guard) == before + 1)  # type: ignore[misc]
        world.settle()
    return found


def test_who_comes_behind_others_that_need_the_same_waits_for_their_answer(world: World) -> None:
    """No message is sent for each of them; the next one has all, and is sent when the head has an answer."""
    world.open()
    elsewhere = Elsewhere(world)
    before = len(world.store.messages)
    callers = crowd(world, 8, 1)
    # The first one's, which asks the other process to report.
    assert len(world.store.messages) == before + 1
    elsewhere.send(used=92)
    holds = [each.outcome() for each in callers]
    assert [hold.amount for hold in holds] == [1] * 8
    # The other process's, and the one for all of them.
    assert len(world.store.messages) == before + 3


def test_who_needs_something_else_is_not_held_up(world: World) -> None:
    """It may be granted where the others are not."""
    world.open()
    Elsewhere(world).send(used=99)
    before = len(world.store.messages)
    first = crowd(world, 2, 5)
    assert len(world.store.messages) == before + 1
    [guard] = world.guards
    assert guard.acquire(1).amount == 1
    assert len(world.store.messages) == before + 2
    world.advance(1.5)
    assert all(isinstance(each.outcome(), InsufficientCredits) for each in first)


def test_a_crowd_whose_head_is_silent_asks_again(world: World) -> None:
    """No hint may have been heard: after a moment all callers are told to the head, with the next message."""
    world.open()
    Elsewhere(world)
    before = len(world.store.messages)
    callers = crowd(world, 3, 1)
    assert len(world.store.messages) == before + 1
    world.advance(GATHER)
    assert len(world.store.messages) == before + 2
    assert len(world.store.messages[-1].report.needs) == 3
    # The other process has had its time to answer by now.
    world.advance(1.5)
    assert all(isinstance(each.outcome(), InsufficientCredits) for each in callers)


def test_who_leaves_without_an_answer_is_taken_out_of_the_head(world: World) -> None:
    """Nothing is lent while somebody is short, and nobody is any more."""
    world.open()
    Elsewhere(world)
    callers = crowd(world, 2, 1)
    [head] = world.store.heads.values()
    assert head.somebody_waits
    world.guards[0].close()
    for each in callers:
        assert isinstance(each.outcome(), RuntimeError)
    world.settle()
    assert not head.somebody_waits


def test_a_hint_that_is_faster_than_a_reply_is_heard(world: World) -> None:
    """It may be about the slack that the reply brings, and came over another connection."""
    world.open()
    store: MemoryStore = world.store
    account: Any = world.accounts[0]
    store.takes, store.hangs = 0.01, True
    account.membership.nudged = True
    account.flush()
    before = len(store.messages)
    until(lambda: account.membership.under_way is not None)
    assert not account.membership.listens
    account._hear_hint()
    for _ in range(4):
        world.advance(0.01)
    assert len(store.messages) == before + 2
