"""Kept holds explain themselves: why, for how long, what to do; in refusals, logs and events."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from budgetguard import (
    Balance,
    BudgetGuardError,
    ConcurrencyLimit,
    Event,
    Guard,
    InsufficientCredits,
    require_credits,
    set_default_guard,
)
from budgetguard.debits import MOST_BUCKETS
from budgetguard.integrations import guarded
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard of 120 credits whose provider works on for 300 s, and books within 5 s."""
    del clock
    return Guard(FakeProvider(120, lag=5, linger=300, max_concurrency=2))


class Client:
    """What an SDK's client is."""

    def spec(self, error: BaseException) -> None:
        raise error


def plain(guard: Guard) -> Callable[[BaseException], object]:
    @guard.require_credits(min=50, name="spec")
    def call(error: BaseException) -> None:
        raise error

    return call


def dynamic(guard: Guard) -> Callable[[BaseException], object]:
    @guard.require_credits(min=lambda _: 50, name="spec")
    def call(error: BaseException) -> None:
        raise error

    return call


def coroutine(guard: Guard) -> Callable[[BaseException], object]:
    @guard.require_credits(min=50, name="spec")
    async def call(error: BaseException) -> None:
        raise error

    return lambda error: anyio.run(call, error)


def generator(guard: Guard) -> Callable[[BaseException], object]:
    @guard.require_credits(min=50, name="spec")
    def call(error: BaseException) -> Any:
        yield 1
        raise error

    return lambda error: list(call(error))


def async_generator(guard: Guard) -> Callable[[BaseException], object]:
    @guard.require_credits(min=50, name="spec")
    async def call(error: BaseException) -> Any:
        yield 1
        raise error

    async def consume(error: BaseException) -> None:
        async for _ in call(error):
            pass

    return lambda error: anyio.run(consume, error)


def block(guard: Guard) -> Callable[[BaseException], object]:
    def call(error: BaseException) -> None:
        with guard.require_credits(min=50, name="spec"):
            raise error

    return call


def async_block(guard: Guard) -> Callable[[BaseException], object]:
    async def call(error: BaseException) -> None:
        async with guard.require_credits(min=50, name="spec"):
            raise error

    return lambda error: anyio.run(call, error)


def acquired(guard: Guard) -> Callable[[BaseException], object]:
    def call(error: BaseException) -> None:
        with guard.acquire(50, name="spec"):
            raise error

    return call


def default(guard: Guard) -> Callable[[BaseException], object]:
    set_default_guard(guard)

    @require_credits(min=50, name="spec")
    def call(error: BaseException) -> None:
        raise error

    return call


def sdk_object(guard: Guard) -> Callable[[BaseException], object]:
    return guarded(Client(), guard, {"spec": {"min": 50, "name": "spec"}}).spec


WAYS = [
    plain,
    dynamic,
    coroutine,
    generator,
    async_generator,
    block,
    async_block,
    acquired,
    default,
    sdk_object,
]
every_way = pytest.mark.parametrize("way", WAYS)


@every_way
def test_a_bug_in_ones_own_function_is_named_in_what_it_keeps_away(
    clock: HandClock, guard: Guard, way: Callable[[Guard], Callable[[BaseException], object]]
) -> None:
    """The third call hears of both, when it can fit, and what to do; no top-up would help. And then it fits."""
    call = way(guard)
    for _ in range(2):
        with pytest.raises(NameError):
            call(NameError("clinet"))
    clock.advance(5)
    with pytest.raises(InsufficientCredits) as refused:
        call(NameError("clinet"))
    error = refused.value
    assert (error.held, error.running, error.pending, error.kept) == (0, 0, 100, 100)
    assert (error.unresolved, error.causes) == (2, {"NameError": 2})
    assert (error.unresolved_for, error.retry_after) == (300, 300)
    assert str(error) == (
        "spec needs 50 credits, and 20 are available: fake reports 120, 100 are unresolved for up to "
        "300 s because 2 calls raised NameError (looked just now). Try again in 300 s. Of a call that "
        "never reached the provider nothing need be kept: name what it raises in release_on=, or call "
        "hold.release()."
    )
    clock.advance(300)
    with pytest.raises(NameError):
        call(NameError("clinet"))


def test_a_slot_of_a_call_that_failed_says_so_too(clock: HandClock) -> None:
    """With plain callables as provider, for 21 minutes."""
    guard = Guard(lambda: Balance(credits=100, max_concurrency=1), lag=60, linger=1200)
    with pytest.raises(NameError), guard.require_credits(min=1, slots=1):
        raise NameError
    clock.advance(10)
    with pytest.raises(ConcurrencyLimit) as refused:
        guard.acquire(min=1, slots=1, name="browse")
    error = refused.value
    assert (error.unresolved, error.causes) == (1, {"NameError": 1})
    assert (error.unresolved_for, error.retry_after) == (1250, 1250)
    assert str(error) == (
        "browse needs 1 slot, and the provider allows 1 at once, and 1 is in use, unresolved for up to "
        "1250 s because a call raised NameError. Try again in 1250 s. Of a call that never reached the "
        "provider nothing need be kept: name what it raises in release_on=, or call hold.release()."
    )
    clock.advance(1250)
    guard.acquire(min=1, slots=1).release()


def test_sessions_that_run_are_told_apart_from_those_that_may(guard: Guard) -> None:
    """While one runs, it may end at any time, and the other does not matter."""
    running = guard.acquire(1, slots=1)
    guard.acquire(1, slots=1).keep()
    with pytest.raises(ConcurrencyLimit) as refused:
        guard.acquire(slots=1, name="browse")
    assert (refused.value.retry_after, refused.value.unresolved) == (5, 1)
    assert str(refused.value) == (
        "browse needs 1 slot, and fake allows 2 at once, and 2 are in use, of which 1 is unresolved for "
        "up to 305 s because what a call came to is not known. Try again when one has ended, or pass wait=."
    )
    running.release()


def test_what_a_hold_was_released_for_is_not_kept(guard: Guard) -> None:
    """What the message advises works: nothing is kept, and nobody refused."""
    call = guard.require_credits(min=50, release_on=NameError)(Client().spec)
    for _ in range(5):
        with pytest.raises(NameError):
            call(NameError())
    assert guard.available == 120


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ConnectionError("reset"), "ConnectionError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (ExceptionGroup("one", [ExceptionGroup("of", [NameError()])]), "NameError"),
        (ExceptionGroup("two", [NameError(), OSError()]), "ExceptionGroup"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_the_event_of_a_kept_hold_tells_the_type_it_raised(
    clock: HandClock, error: BaseException, cause: str
) -> None:
    """Never the text, which may say anything; of a group with one leaf, the leaf's."""
    events: list[Event] = []
    guard = Guard(FakeProvider(120, linger=300), on_event=events.append)
    clock.advance(0)
    with pytest.raises(type(error)), guard.require_credits(min=50):
        raise error
    guard.acquire(1).keep()
    assert [event.reason for event in events if event.kind == "kept"] == [cause, None]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """Level and text of what was logged since the last time."""
    caplog.set_level(logging.INFO, "budgetguard")

    def take() -> list[tuple[str, str]]:
        taken = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return taken

    return take


KEPT = (
    "What spec cost is not known, because it raised NameError. Counting 50 credits for it until a "
    "refresh can tell, 305 s from now. Of a call that never reached the provider nothing need be kept: "
    "name what it raises in release_on=, or call hold.release()."
)


@every_way
def test_a_kept_hold_is_logged(
    guard: Guard,
    logged: Callable[[], list[tuple[str, str]]],
    way: Callable[[Guard], Callable[[BaseException], object]],
) -> None:
    """As a warning once for each operation, since it may be every call's; then as information."""
    call = way(guard)
    for _ in range(2):
        with pytest.raises(NameError):
            call(NameError("clinet"))
    assert logged() == [("WARNING", KEPT), ("INFO", KEPT)]
    guard.acquire(1, slots=1, name="other").keep()
    assert logged() == [
        (
            "WARNING",
            (
                "What other cost is not known. Counting 1 credit and 1 slot for it until a refresh can "
                "tell, 305 s from now. Of a call that never reached the provider nothing need be kept: "
                "name what it raises in release_on=, or call hold.release()."
            ),
        )
    ]
    Guard(FakeProvider(100)).acquire(2, name="at once").keep()
    [(_, said)] = logged()
    assert "Counting 2 credits for it until the next refresh. Of a call" in said


def test_operations_made_up_at_each_call_do_not_warn_for_ever(
    guard: Guard, logged: Callable[[], list[tuple[str, str]]]
) -> None:
    """Nor are they all remembered."""
    for n in range(1000):
        guard.acquire("0.001", name=f"request {n}").keep()
    levels = [level for level, _ in logged()]
    assert 100 < levels.count("WARNING") < 500
    assert levels.count("INFO") == 1000 - levels.count("WARNING")


def test_refusals_are_logged(guard: Guard, logged: Callable[[], list[tuple[str, str]]]) -> None:
    """As information, in the error's own words: for credits, slots, extensions, and an unknown balance."""
    errors: list[BudgetGuardError] = []
    hold = guard.acquire(20, slots=2)
    for refused in (
        lambda: guard.acquire(121),
        lambda: guard.acquire(slots=1),
        lambda: hold.extend(101),
        lambda: Guard(lambda: None).acquire(1),
    ):
        with pytest.raises(BudgetGuardError) as raised:
            refused()
        errors.append(raised.value)
    hold.release()
    assert logged() == [("INFO", f"Refused: {error}") for error in errors]


def test_what_observing_lets_in_is_logged_as_that(
    clock: HandClock, logged: Callable[[], list[tuple[str, str]]]
) -> None:
    """With the words that would have refused it."""
    guard = Guard(FakeProvider(10), mode="observe")
    guard.balance()
    guard.acquire(50, name="spec").release()
    assert logged() == [
        (
            "INFO",
            (
                "Observed, and let in: spec needs 50 credits, and 10 are available: fake reports 10 "
                "(looked just now). Top up: https://example.com/top-up"
            ),
        )
    ]
    clock.advance(0)


def test_no_refusal_is_logged_where_nobody_listens(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """By default, INFO is off."""
    caplog.set_level(logging.WARNING, "budgetguard")
    with pytest.raises(InsufficientCredits):
        guard.acquire(121)
    assert caplog.records == []


def test_a_log_handler_may_use_the_guard(guard: Guard) -> None:
    """Nothing is locked while it runs."""
    seen: list[object] = []

    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(guard.available)

    logger, handler = logging.getLogger("budgetguard"), Asks()
    logger.addHandler(handler)
    try:
        guard.acquire(50).keep()
    finally:
        logger.removeHandler(handler)
    assert seen == [70]


def test_debits_under_an_unknown_balance_do_not_pile_up(clock: HandClock) -> None:
    """With `if_unknown="allow"` no balance clears them; all of them count, and the first one clears all."""
    provider = FakeProvider(10_000, lag=5)
    provider.failure = ConnectionError("down")
    guard = Guard(provider, if_unknown="allow")
    calls = 2 * MOST_BUCKETS
    for _ in range(calls):
        guard.acquire(1).settle()
        clock.advance(1 / 16)
    settled = guard.account.ledger.settled
    assert settled.total == calls * 10**6
    assert len(list(settled.in_order())) <= MOST_BUCKETS
    provider.failure = None
    clock.advance(120)
    guard.balance(max_age=0)
    assert guard.available == 10_000
