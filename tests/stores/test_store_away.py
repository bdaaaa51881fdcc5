"""While the store gives no answers, and when its head has lost what it knew."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from staging import Caller, until, waiting
from worlds import World, refused, world_of

from budgetguard import BalanceUnavailable, InsufficientCredits
from budgetguard._engine.shared_account import SharedAccount
from budgetguard.testing import FakeProvider

if TYPE_CHECKING:
    from in_memory import MemoryStore

AWAY = "the store in memory is away"


@pytest.fixture(params=["pair", "trio"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Members of a store that can be made to fail; silence ends a membership in the second one."""
    with world_of(request.param, tmp_path) as world:
        yield world


def kinds(world: World) -> list[str]:
    """What members told of their store, in order."""
    ours = {"store_lost", "store_back", "lease_lost", "regrouped"}
    return [event.kind for event in world.told if event.kind in ours]


def lend(world: World) -> None:
    """Let the first member have some slack."""
    first = world.guards[0]
    for _ in range(4):
        hold = first.acquire(2)
        world.advance(0.2)
        hold.settle(0)
        world.advance(0.2)
    assert first._binding.account.ledger.room > 0  # type: ignore[attr-defined]


def unavailable(world: World, amount: int) -> BalanceUnavailable:
    """The refusal of a call that the first member's lease does not cover."""
    with pytest.raises(BalanceUnavailable) as error:
        world.guards[0].acquire(amount)
    return error.value


def test_calls_go_on_within_the_lease_and_beyond_it_are_refused_at_once(world: World) -> None:
    """With the store's reason; what happened is told once, and reported once when it answers again."""
    store: MemoryStore = world.store
    world.open()
    lend(world)
    first = world.guards[0]
    store.away = AWAY
    first.acquire(2).settle()
    world.advance(0.5)
    error = unavailable(world, 90)
    assert (error.reason, error.provider, error.retryable) == (AWAY, "fake", True)
    assert error.retry_after is not None
    assert 0 <= error.retry_after <= 5
    world.advance(1)
    assert unavailable(world, 90).reason == AWAY
    assert kinds(world) == ["store_lost"]
    store.away = None
    world.advance(6)
    assert kinds(world) == ["store_lost", "store_back"]
    world.advance(3)
    for guard in world.guards:
        world.hear(guard)
        assert guard.available == 98
    assert sum(each.settled.total for each in store.head.members.values()) == 2_000_000


def test_nobody_waits_longer_for_a_store_than_its_timeout(world: World) -> None:
    """Also where it does not say that it is away."""
    store: MemoryStore = world.store
    world.open()
    store.away, store.hangs, attempts = AWAY, True, store.attempts
    caller = Caller(lambda: world.guards[0].acquire(10))
    until(lambda: waiting(world.guards[0]) > 0 and store.attempts > attempts)
    # Not by `world.advance`, which waits until nothing is under way.
    world.clock.advance(store.timeout / 2)
    assert caller.is_alive()
    world.clock.advance(store.timeout / 2)
    assert isinstance(caller.outcome(), BalanceUnavailable)
    store.away = None
    world.advance(8)
    world.guards[0].acquire(10).release()


def test_who_waits_for_a_balance_is_told_that_the_store_is_away(world: World) -> None:
    """At once: nobody gives this process the right to refresh."""
    store: MemoryStore = world.store
    world.open()
    world.clock.advance(6)
    store.away = AWAY
    error = Caller(lambda: world.guards[0].balance(max_age=0)).outcome()
    assert isinstance(error, BalanceUnavailable)
    assert error.reason == AWAY
    store.away = None


def test_a_caller_with_time_is_let_in_once_the_store_is_back(world: World) -> None:
    """It has not been refused meanwhile, or has been with the store's reason."""
    store: MemoryStore = world.store
    world.open(if_unknown="allow")
    store.away = AWAY
    hold = world.guards[0].acquire(30)
    assert world.kinds() == ["allowed_unknown"]
    store.away = None
    world.advance(8)
    for guard in world.guards:
        world.hear(guard)
        assert guard.available == 70
    hold.release()
    world.advance(1)
    world.hear(world.guards[-1])
    assert world.guards[-1].available == 100


@pytest.mark.parametrize("times", [1, 3])
def test_a_lost_reply_changes_nothing(world: World, times: int) -> None:
    """The message took effect, and is sent again with the same number; what it granted is not lost."""
    store: MemoryStore = world.store
    world.open()
    for _ in range(times):
        world.settle()
        store.loses = 1
        assert unavailable(world, 10).reason == "the reply was lost"
        world.advance(1)
        world.advance(6)
        world.guards[0].acquire(10).settle()
        world.advance(3)
    for guard in world.guards:
        world.hear(guard)
        assert guard.available == 100 - 10 * times


def test_a_lease_ends_with_its_time(tmp_path: Path) -> None:
    """Who was not heard for `hold_for` admits nothing more, tells so once, and begins anew."""
    with world_of("trio", tmp_path) as world:
        store: MemoryStore = world.store
        world.open(hold_for=10)
        lend(world)
        held = world.guards[0].acquire(2)
        store.away = AWAY
        world.advance(1)
        room = world.accounts[0].ledger.room
        for _ in range(12):
            world.advance(1)
        assert room > 0
        assert world.accounts[0].ledger.room <= 0
        assert kinds(world).count("lease_lost") == 1
        store.away = None
        world.advance(8)
        assert kinds(world).count("store_back") == kinds(world).count("store_lost")
        world.hear(world.guards[1])
        error = refused(world.guards[1], 99)
        assert error.held >= 2
        held.release()
        world.advance(1)
        world.guards[0].acquire(5).release()


def asked(store: "MemoryStore") -> int:
    """How many messages said that callers need something."""
    return sum(bool(each.report.needs) for each in store.messages)


@pytest.mark.parametrize(("cost", "slots"), [(60, 0), (1, 1)])
def test_what_was_granted_too_long_ago_is_asked_for_again(
    tmp_path: Path, cost: int, slots: int
) -> None:
    """A process that was stopped with the reply in its hands lets nobody in by it: others have that by now."""
    with world_of("trio", tmp_path) as world:
        store: MemoryStore = world.store
        provider = FakeProvider(100, max_concurrency=1, lag=1, linger=0)
        world.open(provider, hold_for=10)
        first, second = world.guards[:2]
        # Nothing is sent once more meanwhile: the process stands still.
        store.timeout = store.tells_after = 20.0
        store.hangs = True
        caller = Caller(lambda: first.acquire(cost, slots=slots, wait=300))
        until(lambda: asked(store) == 1)
        store.tells_after = 0.0
        for _ in range(14):
            world.clock.advance(1)
            world.hear(second)
        second.balance(max_age=0)
        held = second.acquire(cost, slots=slots)
        for _ in range(10):
            world.advance(1)
        assert asked(store) > 2
        assert caller.is_alive()
        held.release()
        world.advance(2)
        caller.outcome().release()


def test_a_member_that_was_given_up_keeps_no_slack(world: World) -> None:
    """Others may have been granted it meanwhile. It is told, once."""
    store: MemoryStore = world.store
    world.open()
    lend(world)
    first = world.accounts[0]._link.member  # type: ignore[attr-defined]
    store.dead = {first}
    world.hear(world.guards[1])
    store.dead = set()
    world.hear(world.guards[0])
    world.advance(1)
    joins = [each for each in store.messages if each.member == first and each.join is not None]
    assert [each.report.keep for each in joins] == [0, 0]
    assert kinds(world) == ["lease_lost"]


def test_calls_without_a_decision_end_with_the_lease(tmp_path: Path) -> None:
    """By either clock: nobody else would notice there that it has lapsed."""
    with world_of("trio", tmp_path) as world:
        world.open(hold_for=10, fresh_for=300)
        lend(world)
        account = world.accounts[0]
        assert isinstance(account, SharedAccount)
        session = account.membership
        until = session.until_mono, session.until_wall
        assert (account.fresh_until_mono, account.fresh_until_wall) == until


def test_slack_that_the_balance_does_not_cover_any_more_is_not_used(world: World) -> None:
    """Somebody else has spent it; also a call that needs no decision finds that out."""
    provider = world.open()
    lend(world)
    first, second = world.guards[:2]
    call = first.require_credits(min=1, name="call")(lambda: "done")
    assert call() == "done"
    provider.credits = 0
    world.clock.advance(1)
    second.balance(max_age=0)
    world.hear(first)
    assert world.accounts[0].ledger.room >= 2_000_000
    with pytest.raises(InsufficientCredits):
        call()


@pytest.mark.parametrize("way", ["restart", "failover"])
def test_a_head_that_lost_its_state_hears_of_all_that_is_held(world: World, way: str) -> None:
    """Open calls and young debits count as before, and every member tells that it said so."""
    store: MemoryStore = world.store
    # A head that has lost everything waits for as long as a lease may last.
    world.open(**({"hold_for": 6} if store.expires else {}))
    holds = [guard.acquire(10) for guard in world.guards]
    world.guards[0].acquire(5).settle()
    world.advance(1)
    if way == "restart":
        store.lose_all(regroup=1.0)
    else:
        store.fail_over()
    for _ in range(8):
        for guard in world.guards:
            world.hear(guard)
        world.advance(1)
    expected = 100 - 5 - 10 * len(world.guards)
    world.guards[0].balance(max_age=0)
    for guard in world.guards:
        world.hear(guard)
    assert kinds(world).count("regrouped") == len(world.guards)
    left = [guard.available for guard in world.guards]
    assert left in ([expected] * len(left), [expected + 5] * len(left))
    for hold in holds:
        hold.release()
    world.advance(1)
    world.guards[0].acquire(95).release()
