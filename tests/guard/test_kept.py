"""Kept holds explain themselves: why, for how long, what to do; in refusals, logs and events."""

import asyncio
import logging
from asyncio import CancelledError
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
from budgetguard._core.debits import MOST_BUCKETS
from budgetguard._engine.binding import binding_of
from budgetguard.integrations import guarded
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard of 120 credits whose provider works on for 300 s, and posts charges within 5 s."""
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
    """The third call's error names both, when it can fit, and what to do; no top-up would help. Then it fits."""
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
        "300 s because 2 calls raised NameError (as of just now). Try again in 300 s. If the call "
        "never reached the provider, its credits need not be kept: list the exception in release_on=, "
        "or call hold.release()."
    )
    clock.advance(300)
    with pytest.raises(NameError):
        call(NameError("clinet"))


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, CancelledError])
def test_a_call_that_was_interrupted_had_begun(
    clock: HandClock, interrupt: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """So neither the log nor a refusal suggests that it cost nothing."""
    guard = Guard(FakeProvider(120), lag=0, linger=300)
    with pytest.raises(interrupt), guard.require_credits(min=100, name="spec"):
        raise interrupt
    clock.advance(5)
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(50, name="spec")
    assert refused.value.causes == {interrupt.__name__: 1}
    assert "release_on" not in str(refused.value)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage() == (
        f"The cost of spec is not known, because it raised {interrupt.__name__}. "
        "The guard counts 100 credits for it until a refresh in 300 s shows the charge."
    )


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
        "browse needs 1 slot, but 1 of the 1 that the provider allows is in use, unresolved for up to "
        "1250 s because a call raised NameError. Try again in 1250 s. If the call never reached the "
        "provider, its credits need not be kept: list the exception in release_on=, or call "
        "hold.release()."
    )
    clock.advance(1250)
    guard.acquire(min=1, slots=1).release()


def test_a_slot_of_a_call_that_raised_nothing_comes_without_advice(guard: Guard) -> None:
    """There is nothing to name in `release_on`, as of work that goes on behind a transport's reply."""
    for _ in range(2):
        guard.acquire(1, slots=1).keep()
    with pytest.raises(ConcurrencyLimit) as refused:
        guard.acquire(slots=1, name="browse")
    assert str(refused.value).endswith("the outcome of calls is not known. Try again in 305 s.")


def test_sessions_that_run_are_told_apart_from_those_that_may(guard: Guard) -> None:
    """While one runs, it may end at any time, and the other does not matter."""
    running = guard.acquire(1, slots=1)
    guard.acquire(1, slots=1).keep()
    with pytest.raises(ConcurrencyLimit) as refused:
        guard.acquire(slots=1, name="browse")
    assert (refused.value.retry_after, refused.value.unresolved) == (5, 1)
    assert str(refused.value) == (
        "browse needs 1 slot, but 2 of the 2 that fake allows are in use, 1 of them unresolved for up to "
        "305 s because the outcome of a call is not known. Try again when a session has ended, or pass "
        "wait=."
    )
    running.release()


def test_what_a_hold_was_released_for_is_not_kept(guard: Guard) -> None:
    """The advice in the message works: nothing is kept, and no call is refused."""
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
    "The cost of spec is not known, because it raised NameError. The guard counts 50 credits for it "
    "until a refresh in 305 s shows the charge. If the call never reached the provider, its credits "
    "need not be kept: list the exception in release_on=, or call hold.release()."
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
                "The cost of other is not known. The guard counts 1 credit and 1 slot for it until a "
                "refresh in 305 s shows the charge."
            ),
        )
    ]
    Guard(FakeProvider(100)).acquire(2, name="at once").keep()
    [(_, said)] = logged()
    assert said.endswith("The guard counts 2 credits for it until the next refresh.")


def test_what_counts_for_nothing_is_not_logged(
    guard: Guard, logged: Callable[[], list[tuple[str, str]]]
) -> None:
    """A call that only checks, and one that was charged all that it held, leave nothing to resolve."""
    with pytest.raises(NameError), guard.require_credits(min=50, cost=0, name="check"):
        raise NameError
    charged = guard.acquire(20, name="charged")
    charged.charged(20)
    charged.keep()
    assert logged() == []
    guard.acquire(0, slots=1, name="check").keep()
    [(level, said)] = logged()
    assert (level, "counts 0 credits and 1 slot" in said) == ("WARNING", True)


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
                "Observed and admitted: spec needs 50 credits, and 10 are available: fake reports 10 "
                "(as of just now). Top up: https://example.com/top-up"
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
    binding_of(guard).account.flush()
    settled = binding_of(guard).account.ledger.settled
    assert settled.total == calls * 10**6
    assert len(list(settled.in_order())) <= MOST_BUCKETS
    provider.failure = None
    clock.advance(120)
    guard.balance(max_age=0)
    assert guard.available == 10_000
