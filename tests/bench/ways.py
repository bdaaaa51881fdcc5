"""Ways to guard a call: none, three that people write by hand, and this library's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import Any

from workload import Died, MakeWay, Process, Refused, Unknown, Way

from budgetguard import BalanceUnavailable, Event, Guard, Hold, InsufficientCredits
from budgetguard._engine.account_registry import runtime_of
from budgetguard._engine.binding import binding_of

FIVE_MINUTES = 300.0


class Unseen:
    """A call whose guard does not follow it."""

    follows = False

    def charged(self, total: Decimal) -> None:
        """Nobody listens."""

    def settle(self, total: Decimal) -> None:
        """Nobody listens."""


class Seen(Unseen):
    """A call with a hold; one that `follows` is told what has been charged so far."""

    def __init__(self, hold: Hold, *, follows: bool) -> None:
        self._hold = hold
        self.follows = follows

    def charged(self, total: Decimal) -> None:
        if self.follows:
            self._hold.charged(total)

    def settle(self, total: Decimal) -> None:
        self._hold.settle(total)


def none(_: Process) -> Way:
    """Just call."""

    @asynccontextmanager
    async def way(_: int) -> AsyncIterator[Unseen]:
        yield Unseen()

    return way


def ask_every_time(process: Process) -> Way:
    """Ask for the balance before every call."""

    @asynccontextmanager
    async def way(need: int) -> AsyncIterator[Unseen]:
        if await _asked(process) < need:
            raise Refused
        yield Unseen()

    return way


def cache_and_check(process: Process, *, decrement: bool = False) -> Way:
    """Ask for the balance every five minutes, and compare; with `decrement`, count calls in between."""
    cached, asked_at = Decimal(0), float("-inf")

    @asynccontextmanager
    async def way(need: int) -> AsyncIterator[Unseen]:
        nonlocal cached, asked_at
        if process.now - asked_at >= FIVE_MINUTES:
            asked_at = process.now
            cached = await _asked(process)
        if cached < need:
            raise Refused
        if decrement:
            cached -= need
        yield Unseen()

    return way


def cache_and_decrement(process: Process) -> Way:
    """Ask for the balance every five minutes, and take the estimate of every call off it."""
    return cache_and_check(process, decrement=True)


def budgetguard(process: Process, *, follows: bool = False, **terms: Any) -> Way:
    """A guard at its defaults but for `terms`, with the provider's own lag and linger.

    With `follows`, it is told every second what a running call was charged so far.
    """

    def listen(event: Event) -> None:
        if believes_in_others(guard, event):
            process.believes_in_others()

    with runtime_of(process.runtime):  # type: ignore[arg-type]
        guard = Guard(process.account, on_event=listen, **terms)

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


def together(process: Process, **terms: Any) -> Way:
    """The guards of all processes share a store."""
    process.account.fingerprint = "the account"
    return budgetguard(process, store=process.store, **terms)


def believes_in_others(guard: Guard, event: Event) -> bool:
    """Whether an event tells that its guard has just found others to spend from its account."""
    if event.kind not in {"refreshed", "exhausted"} or event.reason is None:
        return False
    belief = binding_of(guard).account.ledger.belief
    return binding_of(guard).subscriber.sole_spender is True or (
        belief is not None and belief.others
    )


async def _asked(process: Process) -> Decimal:
    try:
        credits = (await process.account.fetch(None)).credits
    except BalanceUnavailable as error:
        raise Unknown from error
    assert credits is not None
    return credits


DEFAULT = "budgetguard"
DISTRUSTING = "budgetguard, sole_spender=False"
TRUSTING = "budgetguard, sole_spender=True"
ADVICE = "cache for 5 minutes"

WAYS: dict[str, MakeWay] = {
    "none": none,
    "ask before every call": ask_every_time,
    ADVICE: cache_and_check,
    "cache and decrement": cache_and_decrement,
    DEFAULT: budgetguard,
    f"{DEFAULT}, charged()": partial(budgetguard, follows=True),
    DISTRUSTING: partial(budgetguard, sole_spender=False),
    f"{DISTRUSTING}, charged()": partial(budgetguard, sole_spender=False, follows=True),
    TRUSTING: partial(budgetguard, sole_spender=True),
    f"{TRUSTING}, charged()": partial(budgetguard, sole_spender=True, follows=True),
}
"""Every way of one process by the name it is shown under."""

TOGETHER = "budgetguard, one store"
WAYS_OF_WORKERS: dict[str, MakeWay] = {
    DEFAULT: budgetguard,
    DISTRUSTING: partial(budgetguard, sole_spender=False),
    TOGETHER: together,
}
"""Ways for several processes that spend from one account."""

OURS = tuple(name for name in WAYS if name.startswith("budgetguard"))
