"""Ways to guard a call: none, three that people write by hand, and this library's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

from workload import Died, Refused, Unknown, Way, World

from budgetguard import BalanceUnavailable, Guard, Hold, InsufficientCredits
from budgetguard._engine.account_registry import runtime_of

FIVE_MINUTES = 300.0


class Unseen:
    """A call whose guard does not follow it."""

    def charged(self, total: Decimal) -> None:
        """Nobody listens."""

    def settle(self, total: Decimal) -> None:
        """Nobody listens."""


class Seen(Unseen):
    """A call with a hold; `follows` tells the hold what has been charged so far."""

    def __init__(self, hold: Hold, *, follows: bool) -> None:
        self._hold = hold
        self._follows = follows

    def charged(self, total: Decimal) -> None:
        if self._follows:
            self._hold.charged(total)

    def settle(self, total: Decimal) -> None:
        self._hold.settle(total)


def none(_: World) -> Way:
    """Just call."""

    @asynccontextmanager
    async def way(_: int) -> AsyncIterator[Unseen]:
        yield Unseen()

    return way


def ask_every_time(world: World) -> Way:
    """Ask for the balance before every call."""

    @asynccontextmanager
    async def way(need: int) -> AsyncIterator[Unseen]:
        if await _asked(world) < need:
            raise Refused
        yield Unseen()

    return way


def cache_and_check(world: World, *, decrement: bool = False) -> Way:
    """Ask for the balance every five minutes, and compare; with `decrement`, count calls in between."""
    cached, asked_at = Decimal(0), float("-inf")

    @asynccontextmanager
    async def way(need: int) -> AsyncIterator[Unseen]:
        nonlocal cached, asked_at
        if world.now - asked_at >= FIVE_MINUTES:
            asked_at = world.now
            cached = await _asked(world)
        if cached < need:
            raise Refused
        if decrement:
            cached -= need
        yield Unseen()

    return way


def cache_and_decrement(world: World) -> Way:
    """Ask for the balance every five minutes, and take the estimate of every call off it."""
    return cache_and_check(world, decrement=True)


def budgetguard(world: World, *, follows: bool = False, sole_spender: bool = False) -> Way:
    """A guard at its defaults, with the provider's own lag and linger."""
    with runtime_of(world.runtime):  # type: ignore[arg-type]
        guard = Guard(world.account, sole_spender=sole_spender)

    @asynccontextmanager
    async def way(need: int) -> AsyncIterator[Unseen]:
        try:
            hold = await guard.aacquire(need)
        except InsufficientCredits as error:
            raise Refused from error
        except BalanceUnavailable as error:
            raise Unknown from error
        async with hold:
            try:
                yield Seen(hold, follows=follows)
            except Died:
                guard.mark_exhausted()
                raise

    return way


def budgetguard_charged(world: World) -> Way:
    """The same, told every few seconds what a running call was charged."""
    return budgetguard(world, follows=True)


def budgetguard_sole_spender(world: World) -> Way:
    """The same, told that nobody else spends."""
    return budgetguard(world, sole_spender=True)


def budgetguard_both(world: World) -> Way:
    """The same, told both."""
    return budgetguard(world, follows=True, sole_spender=True)


async def _asked(world: World) -> Decimal:
    try:
        credits = (await world.account.fetch(None)).credits
    except BalanceUnavailable as error:
        raise Unknown from error
    assert credits is not None
    return credits


WAYS = {
    "none": none,
    "ask before every call": ask_every_time,
    "cache for 5 minutes": cache_and_check,
    "cache and decrement": cache_and_decrement,
    "budgetguard": budgetguard,
    "budgetguard, charged()": budgetguard_charged,
    "budgetguard, sole_spender": budgetguard_sole_spender,
    "budgetguard, both": budgetguard_both,
}
