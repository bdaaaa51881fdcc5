"""The same answers with every store as without one: figures, states and events, field by field.

Each scenario runs in several worlds. Where there are several members, they take turns, so that what one
does is what another one decides on.
"""

import asyncio
import gc
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from staging import Caller, until, waiting
from worlds import WORLDS, World, refused, world_of

from budgetguard import (
    BalanceUnavailable,
    BudgetExceeded,
    ConcurrencyLimit,
    Event,
    GuardPool,
    HoldClosed,
    InsufficientCredits,
    Paused,
    learned,
    set_active,
)
from budgetguard._core.provider_refusal import ProviderRefusal
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider


@pytest.fixture(params=list(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Every world in turn."""
    with world_of(request.param, tmp_path) as world:
        yield world


class Unsent(Exception):
    """Nothing was charged."""


def limited(work: Callable[[], Any]) -> ConcurrencyLimit:
    """The refusal of a session."""
    with pytest.raises(ConcurrencyLimit) as error:
        work()
    return error.value


def waits(guard: Any, amount: Any, wait: float = 60, **options: Any) -> Caller:
    """A caller that is in the queue of its member."""
    before = waiting(guard)
    caller = Caller(lambda: guard.acquire(amount, wait=wait, **options))
    until(lambda: waiting(guard) > before)
    return caller


def story(events: list[Event]) -> list[tuple[Any, ...]]:
    """What events say, but for times and ids."""
    return [
        (each.kind, each.operation, each.credits, each.held, each.enforced, each.cause)
        for each in events
    ]


# Figures.


def test_the_figures_of_a_refusal_add_up(world: World) -> None:
    """Every part of the formula is there, whichever member adds to it."""
    world.open(floor=10)
    world.turn().acquire(20).settle()
    held = world.turn().acquire(15)
    world.turn().acquire(5).keep()
    error = refused(world.turn(), 60, name="spec")
    assert (error.operation, error.provider, error.needed) == ("spec", "fake", 60)
    assert (error.balance, error.held, error.pending, error.kept) == (100, 15, 25, 5)
    assert (error.floor, error.overlap, error.queued, error.extra) == (10, 0, 0, 0)
    assert error.available == 50 == error.balance - error.held - error.pending - error.floor
    assert (error.running, error.unresolved, error.causes) == (1, 1, {})
    assert (error.retryable, error.status_code, error.basis) == (True, 402, "reported")
    assert error.age == pytest.approx(4 * 0.25, abs=0.1)
    assert error.unresolved_for == pytest.approx(307 - 0.25, abs=0.1)
    held.release()
    assert {guard.available for guard in [world.turn() for _ in range(3)]} == {Decimal(65)}


def test_when_it_is_worth_a_retry(world: World) -> None:
    """Open holds may end by the next refresh; debits have to clear; nothing helps against the account itself."""
    world.open(floor=10)
    error = refused(world.turn(), 91)
    assert (error.retryable, error.retry_after, error.held) == (False, None, 0)
    hold = world.turn().acquire(50)
    error = refused(world.turn(), 50)
    assert error.retry_after == pytest.approx(5 - 3 * 0.25, abs=0.01)
    hold.settle()
    error = refused(world.turn(), 50)
    assert error.retry_after == pytest.approx(7 - 0.25, abs=0.2)
    world.advance(7)
    hold = world.turn().acquire(50)
    hold.keep()
    error = refused(world.turn(), 50)
    assert error.retry_after == pytest.approx(307 - 0.25, abs=0.2)
    world.rest(308)
    world.turn().acquire(50).release()


def test_available_is_what_could_be_promised_to_anybody(world: World) -> None:
    """Other members' slack is in nobody's use."""
    world.open()
    for _ in range(4):
        hold = world.turn().acquire(3)
        assert {guard.available for guard in world.guards} >= {Decimal(97)}
        assert world.turn().available == 97
        hold.release()
    assert world.turn().available == 100
    hold = world.turn().acquire(100)
    assert (hold.state, world.turn().available) == ("open", 0)
    hold.release()


def test_unlimited_credits(world: World) -> None:
    """Nothing is refused for want of credits."""
    world.open(FakeProvider(None, max_concurrency=2))
    assert world.turn().available == Decimal("Infinity")
    holds = [world.turn().acquire(10**6, slots=1) for _ in range(2)]
    assert limited(lambda: world.turn().acquire(1, slots=1)).in_use == 2
    for hold in holds:
        hold.release()


# What becomes of a hold.


@pytest.mark.parametrize(
    ("end", "state", "kinds", "left"),
    [
        (lambda hold: hold.settle(), "settled", ["settled"], 70),
        (lambda hold: hold.settle(12), "settled", ["settled"], 88),
        (lambda hold: hold.settle(45), "settled", ["settled", "overrun"], 55),
        (lambda hold: hold.release(), "released", ["released"], 100),
        (lambda hold: hold.keep(), "kept", ["kept"], 70),
    ],
    ids=["settled", "for less", "for more", "released", "kept"],
)
def test_a_hold_ends(
    world: World, end: Callable[[Any], None], state: str, kinds: list[str], left: int
) -> None:
    """All members see what it cost; ending it twice is an error."""
    world.open()
    hold = world.turn().acquire(30, name="spec")
    assert (hold.state, hold.amount, world.turn().available) == ("open", 30, 70)
    end(hold)
    assert hold.state == state
    assert [world.turn().available for _ in range(3)] == [left] * 3
    assert [event.hold_id for event in world.events] == [hold.id] * (1 + len(kinds))
    assert world.kinds() == ["admitted", *kinds]
    with pytest.raises(HoldClosed):
        hold.settle()
    world.rest(310)
    world.turn().balance(max_age=0)
    assert [world.turn().available for _ in range(3)] == [100] * 3


def test_charged_attempts_and_extensions(world: World) -> None:
    """What a running call was charged is a debit; an earlier attempt is kept; more is held at once."""
    world.open()
    hold = world.turn().acquire(30)
    hold.charged(10)
    error = refused(world.turn(), 90)
    assert (error.held, error.pending, error.available) == (20, 10, 70)
    hold.extend(15)
    assert (hold.amount, world.turn().available) == (45, 55)
    hold.keep_attempt()
    error = refused(world.turn(), 90)
    assert (error.held, error.pending, error.kept, error.running) == (35, 55, 45, 1)
    assert error.available == 10
    with pytest.raises(InsufficientCredits) as too_much:
        hold.extend(11)
    assert (too_much.value.needed, too_much.value.available) == (11, 10)
    assert (hold.state, hold.amount) == ("open", 45)
    asyncio.run(hold.aextend(10))
    hold.settle(20)
    assert world.turn().available == 100 - 45 - 20
    assert [event.credits for event in world.events if event.kind == "refused"] == [90, 90, 11]


def test_an_attempt_may_exceed_all_there_is(world: World) -> None:
    """The money may be gone, so it is counted."""
    world.open()
    hold = world.turn().acquire(80)
    hold.keep_attempt()
    assert world.turn().available == -60
    hold.release()
    assert [world.turn().available for _ in range(2)] == [20, 20]


def test_checks_and_minimums(world: World) -> None:
    """`cost=0` holds nothing, and a `min` above the cost only has to be there."""
    world.open()
    hold = world.turn().acquire(100, cost=0)
    assert (hold.amount, world.turn().available) == (0, 100)
    hold.settle(3)
    assert world.turn().available == 97
    assert refused(world.turn(), 98, cost=0).available == 97
    hold = world.turn().acquire(97, cost=40)
    assert (hold.amount, world.turn().available) == (40, 57)
    assert refused(world.turn(), 58, cost=1).needed == 58
    hold.release()


# Everything that can be guarded.


def test_every_kind_of_callable(world: World) -> None:  # noqa: C901  one function for each kind
    """Decorated, as a block, and by hand: they are admitted, cost what `actual` says, and say so alike."""
    world.open()

    def run(work: Any) -> None:
        asyncio.run(work)

    def plain(guard: Any) -> None:
        guard.require_credits(min=10, actual=lambda got: got, name="call")(lambda: 4)()

    def coroutine(guard: Any) -> None:
        @guard.require_credits(min=10, actual=lambda got: got, name="call")
        async def call() -> int:
            return 4

        run(call())

    def generator(guard: Any) -> None:
        @guard.require_credits(min=10, actual=lambda got: got, name="call")
        def call() -> Iterator[int]:
            yield 1
            return 4

        assert list(call()) == [1]

    def async_generator(guard: Any) -> None:
        @guard.require_credits(min=10, cost=4, name="call")
        async def call() -> Any:
            yield 1

        async def consume() -> None:
            assert [each async for each in call()] == [1]

        run(consume())

    def method(guard: Any) -> None:
        class Client:
            @guard.require_credits(min=10, actual=lambda got: got, name="call")
            def call(self) -> int:
                return 4

        Client().call()

    def block(guard: Any) -> None:
        with guard.require_credits(min=10, name="call") as hold:
            hold.settle(4)

    def async_block(guard: Any) -> None:
        async def enter() -> None:
            async with guard.require_credits(min=10, name="call") as hold:
                hold.settle(4)

        run(enter())

    def by_hand(guard: Any) -> None:
        guard.acquire(10, name="call").settle(4)

    def by_hand_later(guard: Any) -> None:
        async def acquire() -> None:
            (await guard.aacquire(10, name="call")).settle(4)

        run(acquire())

    ways = [plain, coroutine, generator, async_generator, method, block, async_block]
    for number, way in enumerate([*ways, by_hand, by_hand_later], start=1):
        way(world.turn())
        assert world.turn().available == 100 - 4 * number, way.__name__
        held = 4 if way is async_generator else 10
        assert story(world.events) == [
            ("admitted", "call", held, held, True, None),
            ("settled", "call", 4, held, True, None),
        ], way.__name__
        world.events.clear()


def test_what_raises_is_kept_or_released(world: World) -> None:
    """Nobody knows what it cost, unless its exception says that it was nothing."""
    world.open()

    def call(error: BaseException) -> None:
        @world.turn().require_credits(min=10, release_on=Unsent, name="call")
        def fail() -> None:
            raise error

        with pytest.raises(type(error)):
            fail()

    call(Unsent())
    call(ValueError())
    error = refused(world.turn(), 95)
    assert (error.kept, error.pending, error.unresolved) == (10, 10, 1)
    assert error.causes == {"ValueError": 1}
    assert story(world.events)[:4] == [
        ("admitted", "call", 10, 10, True, None),
        ("released", "call", 10, 10, True, None),
        ("admitted", "call", 10, 10, True, None),
        ("kept", "call", 10, 10, True, "ValueError"),
    ]


def test_what_is_cancelled_is_kept(world: World) -> None:
    """The provider may go on with it."""
    world.open()
    begun = asyncio.Event()

    @world.turn().require_credits(min=10)
    async def call() -> None:
        begun.set()
        await asyncio.sleep(3600)

    async def main() -> None:
        task = asyncio.create_task(call())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert world.turn().available == 90
    assert world.kinds() == ["admitted", "kept"]


def test_what_is_dropped_is_kept(world: World) -> None:
    """It does not prove that nothing was charged."""
    world.open()
    world.turn().acquire(10)
    gc.collect()
    assert world.turn().available == 90
    assert world.kinds() == ["admitted", "kept"]


def test_events_come_on_the_callers_thread(world: World) -> None:
    """In order, before the call returns, in every member."""
    import threading

    threads: list[int] = []
    world.open()
    for guard in world.guards:
        binding_of(guard).subscriber.deliver = lambda event: threads.append(threading.get_ident())
    for _ in range(3):
        world.turn().acquire(10).settle()
        refused_by = world.turn()
        refused(refused_by, 1000)
    assert set(threads) == {threading.get_ident()}


# Slots.


def test_sessions_count_in_every_member(world: World) -> None:
    """Open ones and those that may be open."""
    world.open(FakeProvider(100, lag=7, linger=300, max_concurrency=3))
    first = world.turn().acquire(1, slots=2)
    error = limited(lambda: world.turn().acquire(1, slots=2, name="session"))
    assert (error.operation, error.limit, error.in_use, error.needed) == ("session", 3, 2, 2)
    assert (error.retryable, error.retry_after, error.unresolved) == (True, 5, 0)
    assert error.processes == (1 if world.shared else None)
    assert limited(lambda: world.turn().acquire(slots=4)).retryable is False
    second = world.turn().acquire(slots=1)
    second.keep()
    error = limited(lambda: world.turn().acquire(slots=2, name="session"))
    assert (error.in_use, error.unresolved, error.retry_after) == (3, 1, 5)
    assert error.processes == (1 if world.shared else None)
    first.keep()
    error = limited(lambda: world.turn().acquire(slots=2, name="session"))
    assert (error.in_use, error.unresolved) == (3, 3)
    assert error.processes == (0 if world.shared else None)
    assert error.retry_after == pytest.approx(307 - 0.25, abs=0.3)
    world.rest(308)
    for _ in range(3):
        world.turn().acquire(slots=3).release()


def test_a_session_that_ends_is_free_for_all(world: World) -> None:
    """Also where nothing but slots is held."""
    world.open(FakeProvider(100, max_concurrency=1))
    for _ in range(4):
        hold = world.turn().acquire(slots=1)
        assert limited(lambda: world.turn().acquire(slots=1)).in_use == 1
        hold.release()


def test_a_limit_that_falls_lets_nobody_in_until_enough_have_ended(world: World) -> None:
    """A plan that was changed while sessions run."""
    provider = world.open(FakeProvider(100, max_concurrency=5))
    holds = [world.turn().acquire(slots=1) for _ in range(4)]
    provider.max_concurrency = 2
    world.turn().balance(max_age=0)
    for hold in holds[:3]:
        assert limited(lambda: world.turn().acquire(slots=1)).limit == 2
        hold.release()
    world.turn().acquire(slots=1).release()


# The queue.


def test_who_waits_gets_what_comes_free_in_another_member(world: World) -> None:
    """As soon as its holder has told."""
    world.open()
    running = world.turn().acquire(80)
    caller = waits(world.turn(), 40)
    error = refused(world.turn(), 10)
    assert (error.held, error.queued, error.available) == (80, 40, -20)
    running.release()
    world.advance(1)
    assert caller.outcome().amount == 40
    assert world.turn().available == 60


def test_who_waits_is_served_in_order_of_arrival(world: World) -> None:
    """A smaller call that came later does not go first, whoever it comes to."""
    world.open()
    running = world.turn().acquire(90)
    callers = [waits(world.turn(), amount) for amount in (60, 20, 30)]
    world.advance(0.5)
    running.settle(30)
    world.advance(1)
    assert callers[0].outcome().amount == 60
    assert callers[1].is_alive()
    assert callers[2].is_alive()
    callers[0].outcome().settle(50)
    world.advance(1)
    assert callers[1].outcome().amount == 20
    assert callers[2].is_alive()
    callers[1].outcome().release()
    callers[0].outcome()
    world.advance(10)
    assert callers[2].outcome().amount == 30


def test_a_wait_runs_out(world: World) -> None:
    """With the figures of that moment, which were verified."""
    world.open()
    running = world.turn().acquire(80)
    caller = waits(world.turn(), 50, wait=12)
    for _ in range(24):
        assert caller.is_alive()
        world.advance(0.5)
    world.advance(0.5)
    error = caller.outcome()
    assert isinstance(error, InsufficientCredits)
    assert (error.held, error.available, error.retryable, error.running) == (80, 20, True, 1)
    assert error.age <= 5
    running.release()
    world.turn().acquire(100).release()


def test_who_has_waited_long_enough_makes_way(world: World) -> None:
    """Those behind get what it did not fit into, in whichever member they are."""
    world.open()
    running = world.turn().acquire(70)
    impatient = waits(world.turn(), 50, wait=3)
    patient = waits(world.turn(), 30)
    world.advance(0.5)
    assert patient.is_alive()
    world.advance(3)
    assert isinstance(impatient.outcome(), InsufficientCredits)
    assert patient.outcome().amount == 30
    running.release()


def test_who_is_cancelled_makes_way(world: World) -> None:
    """And leaves nothing behind."""
    world.open()
    running = world.turn().acquire(70)
    guard = world.turn()

    async def give_up() -> None:
        task = asyncio.create_task(guard.aacquire(50, wait=60))
        while not waiting(guard):  # noqa: ASYNC110  no event of ours tells that
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    world.advance(0.5)
    world.turn().acquire(30).release()
    running.release()
    world.turn().acquire(100).release()


def test_a_slot_is_waited_for(world: World) -> None:
    """It is handed over, and nobody refreshes for it."""
    provider = world.open(FakeProvider(100, max_concurrency=1))
    running = world.turn().acquire(1, slots=1)
    caller = waits(world.turn(), 1, slots=1)
    before = provider.requests
    world.advance(12)
    assert provider.requests == before
    running.release()
    world.advance(1)
    assert caller.outcome().slots == 1


def test_what_can_never_fit_is_refused_at_once(world: World) -> None:
    """However long it would wait."""
    world.open(FakeProvider(100, max_concurrency=3), floor=10)
    running = world.turn().acquire(50)
    error = refused(world.turn(), 91, wait=60)
    assert (error.retryable, error.available) == (False, 40)
    assert limited(lambda: world.turn().acquire(1, slots=4, wait=60)).retryable is False
    running.release()


def test_a_top_up_reaches_who_waits(world: World) -> None:
    """The account is asked every `recheck_after` meanwhile, once for all."""
    provider = world.open()
    running = world.turn().acquire(80)
    callers = [waits(world.turn(), 50) for _ in range(2)]
    world.advance(1)
    before = provider.requests
    for _ in range(4):
        world.advance(5)
    assert 3 <= provider.requests - before <= 5
    provider.top_up(100)
    world.advance(5.5)
    assert [caller.outcome().amount for caller in callers] == [50, 50]
    running.release()


def test_a_guard_that_is_closed_lets_nobody_wait(world: World) -> None:
    """Its own waiters hear so; those of others wait on."""
    world.open()
    running = world.turn().acquire(80)
    guard = world.turn()
    [same] = [each for each in world.more(guard.provider) if _same(each, guard)]
    caller, other = waits(guard, 50), waits(same, 40)
    guard.close()
    assert isinstance(caller.outcome(), RuntimeError)
    running.release()
    world.advance(1)
    assert other.outcome().amount == 40


def _same(one: Any, other: Any) -> bool:
    return binding_of(one).account is binding_of(other).account


# Balances and refreshes.


def test_one_refresh_is_for_all(world: World) -> None:
    """Whoever asks first."""
    provider = world.open(FakeProvider(100), cold=True)
    callers = [Caller(lambda guard=guard: guard.acquire(1)) for guard in world.guards * 3]
    for caller in callers:
        caller.outcome().release()
    assert provider.requests == 1
    balance = world.turn().balance()
    assert (balance.credits, balance.tier, balance.unit) == (100, None, "credits")
    assert [guard.balance().as_of for guard in world.guards] == [balance.as_of] * len(world.guards)
    assert provider.requests == 1


def test_a_newer_balance_on_demand(world: World) -> None:
    """`max_age=0` is always a new request, which all learn from."""
    provider = world.open()
    before = provider.requests
    provider.credits = 60
    assert world.turn().balance().credits == 100
    assert world.turn().balance(max_age=0).credits == 60
    assert provider.requests == before + 1
    assert [world.turn().available for _ in range(3)] == [60] * 3
    assert world.turn().balance(max_age=10).credits == 60
    assert provider.requests == before + 1


def test_a_refusal_is_verified(world: World) -> None:
    """A top-up works within `recheck_after`, in every member."""
    provider = world.open()
    provider.credits = 300
    assert refused(world.turn(), 200).balance == 100
    world.advance(5)
    world.turn().acquire(200).release()
    world.turn().acquire(300).release()


def test_a_provider_that_fails_is_left_alone(world: World) -> None:
    """By all members; each caller hears why, and a usable balance goes on to decide."""
    provider = world.open(FakeProvider(100), stale_for=600)
    provider.failure = BalanceUnavailable("fake", "down for repairs", None)
    world.advance(301)
    world.turn().acquire(10).release()
    failed = provider.requests
    for _ in range(3):
        world.turn().acquire(10).release()
    assert provider.requests - failed <= 3
    world.advance(600)
    with pytest.raises(BalanceUnavailable) as error:
        world.turn().acquire(10)
    assert (error.value.provider, error.value.reason) == ("fake", "down for repairs")
    assert error.value.retryable
    assert error.value.retry_after is not None
    assert 0 < error.value.retry_after <= 60
    asked = provider.requests
    for _ in range(2):
        with pytest.raises(BalanceUnavailable) as error:
            world.turn().acquire(10)
        assert error.value.reason == "down for repairs"
    assert provider.requests - asked <= 1
    provider.failure = None
    world.advance(61)
    world.turn().acquire(10).release()


def test_an_unknown_balance(world: World) -> None:
    """It never admits, unless told to; then the hold counts all the same."""
    provider = FakeProvider(100)
    provider.failure = BalanceUnavailable("fake", "down for repairs", None)
    world.open(provider, cold=True, if_unknown="allow")
    hold = world.turn().acquire(30)
    assert (hold.state, hold.amount, world.guards[0].available) == ("open", 30, None)
    assert world.kinds() == ["allowed_unknown"]
    provider.failure = None
    world.advance(61)
    # A member that is new cannot tell how much time has passed.
    world.guards[0].balance(max_age=0)
    for guard in world.guards:
        guard.balance()
    assert [world.turn().available for _ in range(3)] == [70] * 3
    hold.release()


def test_the_account_is_asked_again_near_its_end(world: World) -> None:
    """A call that leaves less than its own cost starts a refresh behind it."""
    provider = world.open()
    world.advance(6)
    before = provider.requests
    hold = world.turn().acquire(60)
    world.advance(1)
    assert provider.requests == before + 1
    hold.release()


# What the provider refuses.


def test_exhausted_is_exhausted_for_all(world: World) -> None:
    """A higher balance ends it, and an equal one that is late enough."""
    provider = world.open()
    hold = world.turn().acquire(10)
    world.turn().mark_exhausted()
    assert world.turn().available is not None
    for _ in range(3):
        error = refused(world.turn(), 1)
        assert (error.basis, error.balance) == ("refused", 0)
    hold.release()
    assert refused(world.turn(), 1).available == 0
    provider.credits = 150
    world.advance(6)
    world.turn().acquire(150).release()


def test_a_busy_provider_lets_nobody_in(world: World) -> None:
    """Until it is over, in every member; who has time waits."""
    world.open()
    world.turn().mark_refused(ProviderRefusal("busy", 5))
    error = refused(world.turn(), 1)
    assert (error.basis, error.retryable, error.available) == ("busy", True, 100)
    assert error.retry_after == pytest.approx(5 - 0.25, abs=0.1)
    caller = waits(world.turn(), 1)
    world.advance(5.5)
    assert caller.outcome().amount == 1
    world.turn().acquire(1).release()


def test_a_key_at_its_limit_is_refused_everywhere(world: World) -> None:
    """That key alone."""
    world.open()
    world.turn().mark_refused(ProviderRefusal("key_limit"))
    for _ in range(3):
        assert refused(world.turn(), 1).basis == "key limit"


def test_a_pause_holds_for_all(world: World) -> None:
    """Whoever pauses, and whoever resumes."""
    world.open()
    world.turn().pause("the price has changed")
    for _ in range(3):
        with pytest.raises(Paused) as error:
            world.turn().acquire(1)
        assert (error.value.reason, error.value.provider) == ("the price has changed", "fake")
    caller = waits(world.turn(), 1)
    world.turn().resume()
    world.advance(1.5)
    assert caller.outcome().amount == 1
    world.turn().acquire(1).release()
    assert [event.kind for event in world.told if event.kind in {"paused", "resumed"}] == (
        ["paused"] * len(world.guards) + ["resumed"] * len(world.guards)
    )


# Settings.


def test_floors_and_extra_credits_are_each_guards_own(world: World) -> None:
    """In one process, and in different members."""
    provider = FakeProvider(100, lag=7, linger=300, extra_credits=20)
    world.open(provider)
    careful = world.more(provider, floor=50)
    bold = world.turn().acquire(30)
    world.all_hear()
    for guard in careful:
        assert guard.available == 40
        error = refused(guard, 41)
        assert (error.floor, error.extra, error.available, error.held) == (50, 20, 40, 30)
    assert world.turn().available == 90
    world.turn().acquire(90).release()
    world.all_hear()
    careful[-1].acquire(40).release()
    bold.release()


def test_low_is_told_once(world: World) -> None:
    """By each guard, when what is available falls below its mark; again after a higher balance."""
    provider = world.open(alert_below=50)

    def lows() -> int:
        return sum(event.kind == "low" for event in world.told)

    world.turn().acquire(30).settle()
    world.all_hear()
    assert lows() == 0
    world.turn().acquire(30).settle()
    world.all_hear()
    assert lows() == len(world.guards)
    world.turn().acquire(10).settle()
    world.all_hear()
    assert lows() == len(world.guards)
    provider.credits = 200
    world.turn().balance(max_age=0)
    world.advance(8)
    hold = world.turn().acquire(180)
    world.all_hear()
    assert lows() == 2 * len(world.guards)
    hold.release()


def test_observe_mode_lets_everybody_in(world: World) -> None:
    """And says what it would have done."""
    world.open(mode="observe")
    holds = [world.turn().acquire(60, name="call") for _ in range(2)]
    assert [hold.state for hold in holds] == ["open", "open"]
    assert story(world.events) == [
        ("admitted", "call", 60, 60, True, None),
        ("refused", "call", 60, 60, False, "credits"),
    ]
    assert world.turn().available == -20
    for hold in holds:
        hold.release()
    assert world.turn().available == 100


def test_costs_are_learned(world: World) -> None:
    """Each process learns what it sees, and holds that."""
    world.open()
    for guard in world.guards:
        call = guard.require_credits(cost=learned(20), actual=lambda got: got, name="call")(
            lambda: 2
        )
        for _ in range(20):
            call()
        with guard.require_credits(cost=learned(20), name="call") as hold:
            assert hold.amount < 20
            hold.release()
        world.advance(8)
        guard.balance(max_age=0)
    assert world.turn().available == 100


def test_a_budget_may_be_carved_out_of_the_account(world: World) -> None:
    """What it sets aside is held for all, and what is left goes back."""
    world.open()
    guard = world.turn()
    with guard.budget(60, share="carve") as budget:
        assert world.turn().available == 40
        outside = world.turn()
        assert Caller(lambda: refused(outside, 50)).outcome().held == 60
        guard.acquire(25).settle()
        with pytest.raises(BudgetExceeded) as error:
            guard.acquire(36)
        assert (error.value.limit, error.value.spent, error.value.needed) == (60, 25, 36)
        assert (budget.spent, budget.left) == (25, 35)
        assert world.turn().available == 40
    assert world.turn().available == 75


def test_a_shared_budget_draws_as_it_goes(world: World) -> None:
    """It bounds what is inside, and holds nothing itself."""
    world.open()
    guard = world.turn()
    with guard.budget(60) as budget:
        guard.acquire(25).settle()
        assert (budget.spent, world.turn().available) == (25, 75)
        with pytest.raises(BudgetExceeded):
            guard.acquire(36)
    assert world.turn().available == 75


@pytest.mark.parametrize("setting", [False, True])
def test_sole_spenders_count_once_what_the_balance_shows(world: World, setting: bool) -> None:
    """And others count it twice until it must be shown."""
    provider = world.open(sole_spender=setting)
    world.turn().acquire(30).settle()
    provider.charge(30)
    world.advance(5)
    world.turn().balance(max_age=0)
    expected = 70 if setting else 40
    assert [world.turn().available for _ in range(3)] == [expected] * 3
    world.advance(8)
    world.turn().balance(max_age=0)
    assert [world.turn().available for _ in range(3)] == [70] * 3


def test_labels_are_in_errors_and_events(world: World) -> None:
    """Whatever answers in between."""
    world.open()
    guard = world.turn()
    with guard.labels(team="search", run=7):
        guard.acquire(30).settle()
        error = refused(guard, 90)
    assert dict(error.labels) == {"team": "search", "run": "7"}
    assert [dict(event.labels) for event in world.events] == [{"team": "search", "run": "7"}] * 3


def test_a_switch_turns_everything_off(world: World) -> None:
    """Guarded code runs as if undecorated, and no message is sent."""
    provider = world.open(FakeProvider(100), cold=True)
    set_active(False)
    hold = world.turn().acquire(1000)
    hold.settle()
    with world.turn().require_credits(min=5000):
        pass
    assert provider.requests == 0
    set_active(True)
    assert refused(world.turn(), 1000).available == 100


def test_a_quiet_guard_is_evicted_and_a_busy_one_is_not(world: World) -> None:
    """What it lent it has given back by then."""
    from budgetguard._engine.account_registry import runtime_of

    with runtime_of(world.runtimes[0]):
        pool = GuardPool(
            lambda key: world.more(FakeProvider(100, lag=1))[0],
            maxsize=1,
        )
        first = pool["one"]
        hold = first.acquire(10)
        second = pool["two"]
        second.acquire(10).settle()
        del second
        assert pool["one"] is first
        hold.settle()
        world.advance(1)
        world.advance(5)
        third = pool["three"]
        third.acquire(1).release()
        assert binding_of(first).account.quiet()
        assert third.available == 100
