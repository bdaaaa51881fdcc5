"""Closing a guard ends the waits for it at once."""

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from staging import Caller, let_run, queue_up, until, waiting

from budgetguard import Guard
from budgetguard._engine.binding import GuardBinding, binding_of
from budgetguard.testing import FakeProvider, HandClock

WAYS: dict[str, Callable[[Guard], object]] = {
    "acquire": lambda guard: guard.acquire(60, wait=30),
    "block": lambda guard: guard.require_credits(min=60, wait=30).__enter__(),
    "decorated": lambda guard: guard.require_credits(min=60, wait=30)(lambda: None)(),
}


def told(outcome: object, operation: str) -> bool:
    """Whether that is the error of a guard that was closed."""
    words = f"{operation} was waiting when the guard of fake was closed."
    return type(outcome) is RuntimeError and str(outcome) == words


@pytest.mark.parametrize("way", WAYS)
def test_who_waits_for_credits_is_told_at_once(clock: HandClock, way: str) -> None:
    """And what comes free is not held for it."""
    guard = Guard(FakeProvider(100))
    running = guard.acquire(60)
    caller = queue_up(guard, [lambda: WAYS[way](guard)])[0]
    guard.close()
    assert type(caller.outcome()) is RuntimeError
    assert "was waiting when the guard of fake was closed" in str(caller.outcome())
    running.release()
    clock.advance(0)
    assert guard.available == 100
    assert waiting(guard) == 0


def test_who_waits_for_a_refresh_is_told_at_once(clock: HandClock) -> None:
    """To be admitted, or for the balance; the refresh goes on, for others."""
    asked, answer = threading.Event(), threading.Event()
    provider = FakeProvider(100)

    async def wait() -> None:
        asked.set()
        await anyio.to_thread.run_sync(answer.wait, 20)

    provider.on_fetch = wait
    guard, other = Guard(provider), Guard(provider)
    caller = Caller(lambda: guard.acquire(1))
    reader = Caller(guard.balance)
    theirs = Caller(lambda: other.acquire(1).amount)
    try:
        assert asked.wait(20)
        until(
            lambda: waiting(guard) == 2 and len(binding_of(guard).account.wait_queue.readers) == 1
        )
        guard.close()
        assert told(caller.outcome(), "acquire()")
        assert told(reader.outcome(), "balance()")
    finally:
        answer.set()
    assert theirs.outcome() == 1
    clock.advance(0)
    assert other.available == 99


@pytest.mark.anyio
async def test_who_awaits_is_told_at_once(clock: HandClock) -> None:
    """The same on asyncio and trio."""
    guard = Guard(FakeProvider(100))
    await guard.aacquire(60)
    outcomes: list[Any] = []

    async def wait() -> None:
        try:
            await guard.aacquire(60, wait=30)
        except RuntimeError as error:
            outcomes.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await let_run()
        await guard.aclose()
    assert told(outcomes[0], "aacquire()")
    clock.advance(0)


def test_who_stood_behind_is_admitted(clock: HandClock) -> None:
    """Another guard's caller, of the same account, whom the one that is gone stood in the way of."""
    provider = FakeProvider(100)
    closing, other = Guard(provider), Guard(provider)
    closing.acquire(50)
    first, second = queue_up(
        closing,
        [lambda: closing.acquire(60, wait=30), lambda: other.acquire(40, wait=30).amount],
    )
    closing.close()
    assert told(first.outcome(), "acquire()")
    assert second.outcome() == 40
    clock.advance(0)


def test_who_comes_between_the_check_and_the_close(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a caller found the guard open, and is not admitted by it."""
    guard = Guard(FakeProvider(100))
    guard.balance()
    monkeypatch.setattr(GuardBinding, "check_open", lambda *_: guard.close())
    with pytest.raises(RuntimeError, match=r"acquire\(\) was waiting"):
        guard.acquire(1)
    with pytest.raises(RuntimeError, match=r"balance\(\) was waiting"):
        guard.balance(max_age=0)
    clock.advance(0)
    assert guard.available == 100


def test_holds_end_as_they_would_have(clock: HandClock) -> None:
    """What is open goes on."""
    guard = Guard(FakeProvider(100, lag=5))
    hold = guard.acquire(30)
    guard.close()
    hold.settle(10)
    assert guard.available == 90
    clock.advance(0)
