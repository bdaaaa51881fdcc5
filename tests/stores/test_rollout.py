"""Members that are not alike: other keys, other terms, other versions of the library."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from random import Random
from typing import Any

import pytest
from in_memory import MemoryStore
from virtual import VirtualClock, VirtualLoop, VirtualRuntime

from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard._core.balance import Balance
from budgetguard._core.head_state import NewerFormat, dump, load
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import FORMAT, Join, Message
from budgetguard._engine.account_registry import runtime_of


class Provider:
    """An account with credits, whose provider needs a second to post what was charged."""

    name = "the provider"
    fingerprint = "the account"
    lag = 1
    linger = 2

    def __init__(self, credits: int = 100) -> None:
        self.credits = credits

    async def fetch(self, _: Any) -> Balance:
        """The balance, after a round trip."""
        await asyncio.sleep(0.05)
        return Balance(credits=self.credits)  # type: ignore[arg-type]


class World:
    """Processes with a clock in common, and one store."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)
        self.store = MemoryStore(self.clock)
        self.runtimes: list[VirtualRuntime] = []

    def guard(self, provider: Any = None, **terms: Any) -> Guard:
        """A guard in a process of its own."""
        self.runtimes.append(VirtualRuntime(self.clock, self.loop, Random(1)))
        with runtime_of(self.runtimes[-1]):  # type: ignore[arg-type]
            return Guard(provider or Provider(), store=self.store, **terms)

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it to its end."""
        self.loop.run_until_complete(asyncio.wait_for(work(), 3600))


@pytest.fixture
def world() -> Iterator[World]:
    """A new one."""
    world = World()
    yield world
    for runtime in world.runtimes:
        runtime.die()
    # What they were about to do is cancelled.
    world.loop.run_until_complete(asyncio.sleep(0.01))
    world.loop.close()


def test_keys_of_one_account_share_it_by_its_name(world: World) -> None:
    """While a key is rotated, old and new processes spend from one account; without `account` they would not."""
    old, new = (PreDev(key, account="production") for key in ("key-1", "key-2"))
    assert old.fingerprint == new.fingerprint
    assert PreDev("key-1").fingerprint != PreDev("key-2").fingerprint
    guards = [world.guard(_with_credits(each)) for each in (old, new)]

    async def work() -> None:
        hold = await guards[0].aacquire(70)
        with pytest.raises(InsufficientCredits) as refused:
            await guards[1].aacquire(40)
        assert (refused.value.held, refused.value.available) == (70, 30)
        hold.release()

    world.run(work)
    assert len(world.store.heads) == 1


def _with_credits(provider: PreDev) -> PreDev:
    async def fetch(_: Any) -> Balance:
        return Balance(credits=100)  # type: ignore[arg-type]

    provider.fetch = fetch  # type: ignore[method-assign]
    return provider


def test_each_member_has_its_own_floor(world: World) -> None:
    """What one process leaves in the account, another one may spend."""
    careful, bold = world.guard(floor=60), world.guard()

    async def work() -> None:
        with pytest.raises(InsufficientCredits) as refused:
            await careful.aacquire(41)
        assert (refused.value.floor, refused.value.available) == (60, 40)
        hold = await bold.aacquire(95)
        with pytest.raises(InsufficientCredits) as refused:
            await careful.aacquire(1)
        assert refused.value.available == -55
        hold.release()

    world.run(work)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        (("auto", True), True),
        ((True, False), False),
        (("auto", False), False),
        (("auto", "auto"), "auto"),
    ],
)
def test_the_most_careful_word_on_other_spenders_counts(
    world: World, settings: tuple[Any, Any], setting: Any
) -> None:
    """False wins over True, and both win over "auto", in whatever process somebody says it."""
    guards = [world.guard(sole_spender=each) for each in settings]

    async def work() -> None:
        for guard in guards:
            (await guard.aacquire(1)).release()
        assert world.store.head.others.setting == setting

    world.run(work)


def test_each_member_waits_for_its_own_lag(world: World) -> None:
    """A process that trusts the provider less counts its calls for longer; its balance is everybody's."""
    quick, slow = world.guard(lag=1, recheck_after=0), world.guard(lag=30, recheck_after=0)

    async def work() -> None:
        for guard in (quick, slow):
            (await guard.aacquire(10)).settle()
        await asyncio.sleep(10)
        await quick.abalance(max_age=0)
        assert quick.available == 90
        await asyncio.sleep(30)
        await quick.abalance(max_age=0)
        assert quick.available == 100

    world.run(work)


def test_a_newer_member_waits_with_its_format_for_the_last_older_one() -> None:
    """The state remains readable for every living member, and so does what they are told."""
    head = SharedHead("e1")
    head.handle(Message("new", 1, "", join=Join(None, format=FORMAT + 1)), 0.0)
    head.handle(Message("old", 1, "", join=Join(None)), 0.0)
    assert head.format == FORMAT
    assert dump(head)["account"]["format"] == FORMAT
    assert load(dump(head)).members.keys() == {"new", "old"}


def test_a_format_that_is_too_new_is_refused() -> None:
    """An old process that meets the state of newer ones alone does not guess what it means."""
    state = dump(SharedHead("e1"))
    state["account"]["format"] = FORMAT + 1
    with pytest.raises(NewerFormat, match="a newer version is needed here"):
        load(state)
