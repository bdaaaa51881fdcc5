"""Guarded generators: admitted at the first step, ended in every case."""

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from decimal import Decimal
from types import FrameType
from typing import Any

import anyio.lowlevel
import pytest
from staging import Caller

from budgetguard import BudgetGuardError, Guard, InsufficientCredits
from budgetguard._core.reentrancy import CHANGING
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock

pytestmark = pytest.mark.usefixtures("few_to_collect")


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard that knows of 100 credits; nothing that was charged shows within the test."""
    del clock
    guard = Guard(FakeProvider(100, lag=5, linger=300))
    guard.balance()
    return guard


def echo(guard: Guard, **options: Any) -> Callable[[], Generator[object, object, int]]:
    """A generator that yields what it is sent, and "thrown" for a ValueError, until it gets None."""

    @guard.require_credits(min=30, **options)
    def steps() -> Generator[object, object, int]:
        said: object = "first"
        while said is not None:
            try:
                said = yield said
            except ValueError:
                said = "thrown"
        return 20

    return steps


def aecho(guard: Guard, **options: Any) -> Callable[[], AsyncGenerator[object, object]]:
    """The same, asynchronous."""

    @guard.require_credits(min=30, **options)
    async def steps() -> AsyncGenerator[object, object]:
        said: object = "first"
        while said is not None:
            await anyio.lowlevel.checkpoint()
            try:
                said = yield said
            except ValueError:
                said = "thrown"

    return steps


def test_a_generator_is_admitted_at_its_first_step(guard: Guard) -> None:
    """One that is made and never started holds nothing."""
    steps = echo(guard)()
    assert guard.available == 100
    assert next(steps) == "first"
    assert guard.available == 70
    echo(guard)()
    gc.collect()
    assert guard.available == 70
    steps.close()


def test_a_generator_that_is_refused_runs_no_step_of_its_body(guard: Guard) -> None:
    """The refusal comes from the first step."""
    ran = []

    @guard.require_credits(min=101)
    def steps() -> Generator[int, None, None]:
        ran.append(1)
        yield 1

    started = steps()
    with pytest.raises(InsufficientCredits):
        next(started)
    assert ran == []
    assert guard.available == 100


@pytest.mark.parametrize(
    ("actual", "available"), [(None, 70), (lambda result: result, 80)], ids=["cost", "actual"]
)
def test_an_exhausted_generator_is_settled(
    guard: Guard, actual: Callable[[Any], Any] | None, available: int
) -> None:
    """At its cost, or at what `actual` makes of its return value, which reaches the caller."""
    steps = echo(guard, actual=actual)()
    next(steps)
    with pytest.raises(StopIteration) as stopped:
        steps.send(None)
    assert stopped.value.value == 20
    assert guard.available == available


def test_send_and_throw_reach_the_generator(guard: Guard) -> None:
    """And what it answers reaches the caller."""
    steps = echo(guard)()
    assert next(steps) == "first"
    assert steps.send("second") == "second"
    assert steps.throw(ValueError()) == "thrown"
    assert guard.available == 70
    steps.close()


def _closed(steps: Generator[object, object, int]) -> None:
    steps.close()


def _thrown(steps: Generator[object, object, int]) -> None:
    with pytest.raises(KeyError):
        steps.throw(KeyError())


def _interrupted(steps: Generator[object, object, int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt())


@pytest.mark.parametrize(
    "leave", [_closed, _thrown, _interrupted], ids=["closed", "thrown", "Ctrl-C"]
)
def test_a_generator_that_is_left_half_way_is_kept(
    guard: Guard, clock: HandClock, leave: Callable[[Generator[object, object, int]], None]
) -> None:
    """The provider may work on, until a balance 305 seconds later shows."""
    steps = echo(guard)()
    next(steps)
    leave(steps)
    clock.advance(304)
    assert guard.available == 70
    clock.advance(1)
    assert guard.available == 100


def test_a_generator_that_fails_before_its_first_item_is_kept(
    guard: Guard, clock: HandClock
) -> None:
    """A stream that breaks before anything came may have been charged."""

    @guard.require_credits(min=30)
    def steps() -> Generator[int, None, None]:
        raise ConnectionError
        yield 1

    with pytest.raises(ConnectionError):
        next(steps())
    clock.advance(0)
    assert guard.available == 70


def test_a_generator_whose_error_proves_that_nothing_was_charged_is_released(guard: Guard) -> None:
    """`release_on` counts at every step."""
    steps = echo(guard, release_on=KeyError)()
    next(steps)
    _thrown(steps)
    assert guard.available == 100


def test_a_dropped_generator_is_kept(guard: Guard, clock: HandClock) -> None:
    """After a `break`, the last reference goes, and the hold ends with it."""
    for _ in echo(guard)():
        break
    gc.collect()
    clock.advance(304)
    assert guard.available == 70
    clock.advance(1)
    assert guard.available == 100


def test_a_generator_in_a_reference_cycle_is_kept_when_it_is_collected(
    guard: Guard, clock: HandClock
) -> None:
    """Only the collector finds it."""
    steps = echo(guard)()
    cycle: list[Any] = [next(steps), steps]
    cycle.append(cycle)
    del steps, cycle
    gc.collect()
    clock.advance(305)
    assert guard.available == 100


@pytest.mark.parametrize("kind", ["generator", "hold", "generator that cleans up"])
def test_collection_in_the_midst_of_the_ledger_does_not_deadlock(
    guard: Guard, clock: HandClock, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Guarded things in cycles are collected while this very thread changes the account."""

    @guard.require_credits(min=1)
    def cleans_up() -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            raise ConnectionError

    def drop() -> None:
        cycle: list[Any] = []
        if kind == "hold":
            cycle.append(guard.acquire(1))
        else:
            steps: Any = (echo(guard) if kind == "generator" else cleans_up)()
            next(steps)
            cycle.append(steps)
        cycle.append(cycle)

    collected = 0
    now = clock.now

    def collecting_now() -> Any:
        # The account reads the clock under its lock.
        nonlocal collected
        assert CHANGING.get(threading.get_ident()) is binding_of(guard).account
        collected += gc.collect()
        return now()

    errors: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", errors.append)
    gc.disable()
    try:
        drop()
        clock.now = collecting_now  # type: ignore[method-assign]
        guard.acquire(1).release()
    finally:
        clock.now = now  # type: ignore[method-assign]
        gc.enable()
    assert collected > 0
    assert len(errors) == (kind == "generator that cleans up")
    clock.advance(304)
    assert guard.available == (70 if kind == "generator" else 99)
    clock.advance(1)
    assert guard.available == 100


def test_a_finalizer_that_calls_a_guarded_function_does_not_deadlock(
    guard: Guard, clock: HandClock
) -> None:
    """Garbage that settles a hold while this thread changes the account."""

    class Session:
        def __init__(self) -> None:
            self.hold = guard.acquire(1)
            self.cycle = self

        def __del__(self) -> None:
            self.hold.settle()

    now = clock.now

    def collecting_now() -> Any:
        gc.collect()
        return now()

    gc.disable()
    try:
        Session()
        clock.now = collecting_now  # type: ignore[method-assign]
        guard.acquire(1).release()
    finally:
        clock.now = now  # type: ignore[method-assign]
        gc.enable()
    assert guard.available == 99


def test_a_hold_dropped_after_a_refused_extension_is_kept_at_once(
    guard: Guard, clock: HandClock
) -> None:
    """No cycle through the error keeps it from being let go of."""
    gc.disable()
    try:
        hold = guard.acquire(40)
        with pytest.raises(InsufficientCredits):
            hold.extend(1000)
        del hold
        guard.balance(max_age=0)
        clock.advance(305)
        assert guard.balance(max_age=0).credits == guard.available == 100
    finally:
        gc.enable()


@pytest.mark.parametrize("refuse", ["acquire", "extend", "balance"])
def test_an_error_leaves_nothing_to_the_collector(guard: Guard, refuse: str) -> None:
    """What was at hand where it was raised is let go of with the error itself."""

    class Work:
        """Something large."""

    def unreachable() -> int:
        raise OSError

    def call() -> "weakref.ref[Work]":
        work = Work()
        try:
            if refuse == "acquire":
                guard.acquire(1000)
            elif refuse == "extend":
                guard.acquire(1).extend(1000)
            else:
                Guard(unreachable).balance()
        except BudgetGuardError:
            return weakref.ref(work)
        raise AssertionError

    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()


def test_holds_may_end_in_the_midst_of_anything_the_account_does(guard: Guard) -> None:
    """What a finalizer or a signal handler does at some line of this very thread, done at each."""
    holds = [guard.acquire(0, cost=0) for _ in range(1000)]
    lines: set[tuple[str, int]] = set()
    changed = ("account.py", "wait_queue.py", "reservation.py", "hold.py")

    def trace(frame: FrameType, event: str, _: object) -> Any:
        # `_change` is where the lock is taken, in two steps that no finalizer can come between.
        name = frame.f_code.co_name
        if not frame.f_code.co_filename.endswith(changed) or name == "_change":
            return trace
        if event == "line" and (name, frame.f_lineno) not in lines:
            lines.add((name, frame.f_lineno))
            holds.pop().release()
        return trace

    def work() -> None:
        sys.settrace(trace)
        try:
            other = Guard(guard.provider, floor=1, alert_below=5)
            with other.require_credits(min=10) as hold:
                hold.charged(2)
                hold.extend(3)
            with pytest.raises(InsufficientCredits):
                other.acquire(1000)
            other.acquire(1).keep()
            other.mark_exhausted()
            assert other.available is not None
        finally:
            sys.settrace(None)

    assert Caller(work).outcome() is None
    assert {name for name, _ in lines} >= {"_join", "place", "_decide", "_plan", "review"}
    assert holds


@pytest.mark.anyio
async def test_an_async_generator_passes_everything_through(guard: Guard) -> None:
    """Admitted at the first step; `asend` and `athrow` reach the body."""
    steps = aecho(guard)()
    assert guard.available == 100
    assert await anext(steps) == "first"
    assert guard.available == 70
    assert await steps.asend("second") == "second"
    assert await steps.athrow(ValueError()) == "thrown"
    with pytest.raises(StopAsyncIteration):
        await steps.asend(None)
    assert guard.available == 70


@pytest.mark.anyio
async def test_an_exhausted_async_generator_is_settled(guard: Guard, clock: HandClock) -> None:
    """It counts until a balance `lag` later, and not for `linger`."""

    @guard.require_credits(min=30)
    async def steps() -> AsyncGenerator[int, None]:
        yield 1
        yield 2

    assert [item async for item in steps()] == [1, 2]
    assert guard.available == 70
    clock.advance(5)
    await guard.abalance(max_age=0)
    assert guard.available == 100


@pytest.mark.anyio
async def test_a_closed_async_generator_is_kept(guard: Guard, clock: HandClock) -> None:
    """`aclose` half way."""
    steps = aecho(guard)()
    await anext(steps)
    await steps.aclose()
    clock.advance(304)
    await guard.abalance(max_age=0)
    assert guard.available == 70
    clock.advance(1)
    await guard.abalance(max_age=0)
    assert guard.available == 100


@pytest.mark.anyio
async def test_closing_an_async_generator_closes_what_it_wraps(guard: Guard) -> None:
    """The body's own clean-up runs, and may await."""
    cleaned = []

    @guard.require_credits(min=30)
    async def steps() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await anyio.lowlevel.checkpoint()
            cleaned.append(1)

    started = steps()
    await anext(started)
    await started.aclose()
    assert cleaned == [1]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("release_on", "available"), [((), 70), (KeyError, 100)], ids=["kept", "released"]
)
async def test_an_async_generator_that_is_thrown_at_ends_as_the_error_says(
    guard: Guard, clock: HandClock, release_on: Any, available: int
) -> None:
    """Kept, unless the error proves that nothing was charged."""
    steps = aecho(guard, release_on=release_on)()
    await anext(steps)
    with pytest.raises(KeyError):
        await steps.athrow(KeyError())
    clock.advance(0)
    assert guard.available == available


@pytest.mark.anyio
async def test_an_async_generator_that_is_cancelled_while_it_waits_is_kept(
    guard: Guard, clock: HandClock
) -> None:
    """The consumer's cancellation reaches the body's own wait."""

    @guard.require_credits(min=30)
    async def steps() -> AsyncGenerator[int, None]:
        yield 1
        await anyio.sleep_forever()

    started = steps()
    await anext(started)
    with anyio.move_on_after(0):
        await anext(started)
    clock.advance(0)
    assert guard.available == 70
    await started.aclose()


def test_a_dropped_async_generator_is_kept_on_asyncio(guard: Guard, clock: HandClock) -> None:
    """After a `break` the loop's hooks close it."""

    async def main() -> None:
        async for _ in aecho(guard)():
            break
        gc.collect()
        await asyncio.sleep(0)
        clock.advance(0)

    asyncio.run(main())
    clock.advance(304)
    assert guard.available == 70
    clock.advance(1)
    assert guard.available == 100


def test_an_async_generator_that_outlives_its_loop_is_kept(guard: Guard, clock: HandClock) -> None:
    """One that cannot be awaited any more ends when it is collected."""
    loop = asyncio.new_event_loop()
    steps = aecho(guard)()

    async def step(steps: AsyncGenerator[object, object]) -> object:
        return await anext(steps)

    assert loop.run_until_complete(step(steps)) == "first"
    loop.close()
    assert guard.available == 70
    del steps, step
    gc.collect()
    clock.advance(305)
    assert guard.available == 100


def test_an_async_generator_that_is_refused_runs_no_step_of_its_body(guard: Guard) -> None:
    """The refusal comes from the first step."""

    @guard.require_credits(min=101)
    async def steps() -> AsyncGenerator[int, None]:
        raise AssertionError
        yield 1

    async def main() -> None:
        with pytest.raises(InsufficientCredits):
            await anext(steps())

    asyncio.run(main())
    assert guard.available == Decimal(100)
