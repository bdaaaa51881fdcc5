"""Plain functions as providers, and which guards share credits."""

import asyncio
import functools
import threading
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import anyio
import pytest
from staging import Caller, until, waiting

from budgetguard import Balance, BalanceUnavailable, Guard, InsufficientCredits
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


def as_sync(answer: object) -> Callable[[], object]:
    """A plain function that returns it."""
    return lambda: answer


def as_async(answer: object) -> Callable[[], object]:
    """A coroutine function that returns it."""

    async def function() -> object:
        await asyncio.sleep(0)
        return answer

    return function


def as_object(answer: object) -> Callable[[], object]:
    """An object with an async `__call__`."""

    class Asked:
        async def __call__(self) -> object:
            return answer

    return Asked()


def as_partial(answer: object) -> Callable[[], object]:
    """A partial of a coroutine function."""

    async def function(answer: object) -> object:
        return answer

    return functools.partial(function, answer)


def as_awaitable(answer: object) -> Callable[[], object]:
    """A plain function that returns a coroutine."""
    function = as_async(answer)

    def call() -> object:
        return function()

    return call


KINDS = pytest.mark.parametrize(
    "kind",
    [as_sync, as_async, as_object, as_partial, as_awaitable],
    ids=["sync", "async", "object", "partial", "returns a coroutine"],
)


@KINDS
@pytest.mark.parametrize(
    ("answer", "available"),
    [
        (42, Decimal(42)),
        (41.7, Decimal("41.7")),
        (Decimal("1e-6"), Decimal("0.000001")),
        ("41.70", Decimal("41.7")),
        (0, Decimal(0)),
        (-5, Decimal(-5)),
        (Balance(credits=7), Decimal(7)),  # type: ignore[arg-type]
        (Balance(credits=None), Decimal("Infinity")),
    ],
    ids=["int", "float", "tiny", "text", "nothing", "below zero", "Balance", "unlimited"],
)
@pytest.mark.usefixtures("clock")
def test_a_function_returns_the_balance(
    kind: Callable[[object], Any], answer: object, available: Decimal
) -> None:
    """As a number, exactly as written, or as a Balance."""
    guard = Guard(kind(answer))
    guard.balance()
    assert guard.available == available


@KINDS
@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        float("nan"),
        Decimal("NaN"),
        float("inf"),
        "nan",
        "many",
        10**13,
        [42],
        {"credits": 42},
        Fraction(1, 2),
    ],
    ids=repr,
)
@pytest.mark.usefixtures("clock")
def test_an_answer_that_makes_no_sense_is_no_balance(
    kind: Callable[[object], Any], answer: object
) -> None:
    """Never unlimited, never zero: not known."""
    guard = Guard(kind(answer))
    with pytest.raises(BalanceUnavailable) as error:
        guard.acquire(1)
    assert guard.available is None
    assert error.value.retryable


@KINDS
@pytest.mark.parametrize("infinite", ["credits", "cost_limit"])
@pytest.mark.usefixtures("clock")
def test_a_balance_out_of_range_is_no_balance(kind: Callable[[object], Any], infinite: str) -> None:
    """A Balance cannot be made of it in the first place."""
    with pytest.raises(ValueError, match="finite"):
        kind(Balance(**{"credits": 1, infinite: float("inf")}))


@pytest.mark.parametrize(
    "error", [ConnectionError("down"), StopIteration(), KeyError("x")], ids=repr
)
@pytest.mark.usefixtures("clock")
def test_a_function_that_raises_brings_no_balance(error: Exception) -> None:
    """What it raised is the cause of what its callers get."""

    def function() -> int:
        raise error

    with pytest.raises(BalanceUnavailable) as unavailable:
        Guard(function).acquire(1)
    assert type(error).__name__ in f"{unavailable.value} {unavailable.value.__cause__}"


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_function_that_would_end_the_program_ends_nothing(
    clock: HandClock, kind: str, error: BaseException
) -> None:
    """It runs on the library's own threads, which go on."""
    broken = True

    def function() -> int:
        if broken:
            raise error
        return 42

    async def coroutine() -> int:
        return function()

    guard = Guard(function if kind == "sync" else coroutine)
    with pytest.raises(BalanceUnavailable):
        guard.acquire(1)
    broken = False
    clock.advance(60)
    guard.acquire(1).release()
    assert guard.available == 42


def test_a_function_that_hangs_has_no_second_thread_beside_it(clock: HandClock) -> None:
    """Until it returns, refreshes fail at once; after that they work again."""
    calls = 0
    hanging = threading.Event()

    def function() -> int:
        nonlocal calls
        calls += 1
        hanging.wait(20)
        return 42

    guard = Guard(function, timeout=10)
    caller = Caller(lambda: guard.acquire(1))
    until(lambda: calls == 1 and waiting(guard) == 1)
    clock.advance(0)
    clock.advance(10)
    error = caller.outcome()
    assert isinstance(error, BalanceUnavailable)
    for _ in range(5):
        clock.advance(60)
        with pytest.raises(BalanceUnavailable, match="has not returned yet"):
            guard.acquire(1)
    assert calls == 1
    threads = [thread for thread in threading.enumerate() if thread.name == "budgetguard-call"]
    hanging.set()
    for thread in threads:
        thread.join(20)
    assert guard.available is None
    clock.advance(60)
    guard.acquire(1).release()
    assert calls == 2
    assert guard.available == 42


def test_a_coroutine_that_hangs_is_given_up(clock: HandClock) -> None:
    """It is cancelled at its deadline, and the next refresh calls it anew."""
    calls = 0
    cancelled = 0

    async def function() -> int:
        nonlocal calls, cancelled
        calls += 1
        if calls == 1:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled += 1
        return 42

    guard = Guard(function, timeout=10)
    caller = Caller(lambda: guard.acquire(1))
    until(lambda: calls == 1 and waiting(guard) == 1)
    clock.advance(0)
    clock.advance(10)
    assert isinstance(caller.outcome(), BalanceUnavailable)
    assert cancelled == 1
    clock.advance(60)
    guard.acquire(1).release()
    assert calls == 2


@pytest.mark.usefixtures("clock")
def test_a_sync_function_runs_in_a_daemon_thread_of_its_own() -> None:
    """It may block without blocking anybody, or the exit."""
    threads: list[threading.Thread] = []

    def function() -> int:
        threads.append(threading.current_thread())
        return 1

    Guard(function).balance()
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert thread.daemon


@pytest.mark.usefixtures("clock")
def test_a_plain_function_has_a_lag_of_five_seconds_and_no_linger() -> None:
    """The defaults for a provider that says nothing of itself."""
    guard = Guard(lambda: 100)
    binding = binding_of(guard)
    assert (binding.lag, binding.linger) == (5, 0)


@pytest.mark.usefixtures("clock")
def test_two_guards_on_one_function_share_nothing() -> None:
    """A function has no identity."""
    function = as_sync(100)
    first, second = Guard(function), Guard(function)
    first.acquire(60).settle()
    second.balance()
    assert (first.available, second.available) == (40, 100)


@pytest.mark.usefixtures("clock")
def test_two_guards_of_one_account_share_one_ledger() -> None:
    """Refreshes, holds, debits and refusals."""
    provider = FakeProvider(100, lag=5)
    first, second = Guard(provider), Guard(provider)
    hold = first.acquire(60)
    assert second.available == 40
    with pytest.raises(InsufficientCredits):
        second.acquire(50)
    hold.settle(30)
    second.acquire(70).release()
    assert provider.requests == 1


@pytest.mark.usefixtures("clock")
def test_one_fingerprint_is_one_account_whoever_made_the_provider() -> None:
    """Two modules that each make a guard of the same credential."""
    first, second = FakeProvider(100), FakeProvider(100)
    second.fingerprint = first.fingerprint
    Guard(first).acquire(60).settle()
    guard = Guard(second)
    assert guard.available == 40
    assert Guard(FakeProvider(100)).available is None


@pytest.mark.parametrize(
    "provider",
    [42, None, "key", FakeProvider, object()],
    ids=["number", "None", "text", "class", "any object"],
)
def test_what_is_no_provider_is_refused(provider: Any) -> None:
    """A class that was not called, too."""
    with pytest.raises(TypeError, match="Guard takes a provider"):
        Guard(provider)
