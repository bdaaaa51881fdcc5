"""What a user's code raises on the private loop, whatever it is, ends nothing for anybody else."""

import asyncio
import contextlib
import logging
import sys
import threading
from typing import Any

import pytest
from staging import Caller, until, waiting

from budgetguard import Balance, BalanceUnavailable, Event, Guard, InvalidCredentials
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


class Odd(BaseException):
    """No Exception, and none of Python's own."""


ERRORS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), Odd()]
every_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


def lives(guard: Guard) -> None:
    """Other guards' refreshes are made as ever, on the one loop there is."""
    other = Guard(FakeProvider(7))
    assert other.balance(max_age=0).credits == 7
    threads = [thread for thread in threading.enumerate() if thread.name == "budgetguard"]
    assert binding_of(guard).account.runtime._thread in threads


@every_error
@pytest.mark.parametrize("kind", ["fetch", "coroutine", "function"])
def test_a_provider(
    clock: HandClock, caplog: pytest.LogCaptureFixture, kind: str, error: BaseException
) -> None:
    """Its refresh has failed, by name, at once; the next one is made; somebody can read of it."""
    fails = True

    def function() -> int:
        if fails:
            raise error
        return 100

    async def coroutine() -> int:
        return function()

    provider = FakeProvider(100)
    provider.on_fetch = lambda: function() and None
    guard = Guard({"coroutine": coroutine, "function": function}.get(kind, provider))
    with pytest.raises(BalanceUnavailable) as caught:
        guard.acquire(1)
    assert caught.value.reason == f"the balance request raised {type(error).__name__}"
    assert f"raised {type(error).__name__}" in caplog.text
    lives(guard)
    fails = False
    clock.advance(1)
    assert guard.balance(max_age=0).credits == 100


@every_error
@pytest.mark.parametrize("kind", ["task", "callback"])
def test_what_a_provider_starts_on_the_loop(
    clock: HandClock, caplog: pytest.LogCaptureFixture, kind: str, error: BaseException
) -> None:
    """It is no part of the refresh, and ends neither that nor the loop."""
    started: list[object] = []

    def fail() -> None:
        raise error

    async def fail_later() -> None:
        fail()

    def start() -> None:
        loop = asyncio.get_running_loop()
        if kind == "callback":
            loop.call_soon(fail)
            return
        task = loop.create_task(fail_later())
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        started.append(task)

    provider = FakeProvider(100)
    provider.on_fetch = start
    guard = Guard(provider)
    with caplog.at_level(logging.CRITICAL, "asyncio"):
        guard.acquire(1).release()
        lives(guard)
    clock.advance(1)
    assert guard.balance(max_age=0).credits == 100


def test_a_provider_that_cancels_its_own_task(clock: HandClock) -> None:
    """It fails its own refresh, and no other."""
    provider = FakeProvider(100)

    async def give_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    provider.on_fetch = give_up
    guard = Guard(provider)
    with pytest.raises(BalanceUnavailable, match="CancelledError"):
        guard.acquire(1)
    provider.on_fetch = None
    clock.advance(1)
    guard.acquire(1)
    lives(guard)


def test_a_provider_that_stops_the_loop(clock: HandClock) -> None:
    """It is not its loop to stop: what others wait for goes on."""
    provider = FakeProvider(100)
    provider.on_fetch = lambda: asyncio.get_running_loop().stop()
    guard = Guard(provider)
    assert guard.acquire(1).amount == 1
    lives(guard)


@every_error
@pytest.mark.parametrize("kind", ["refreshed", "refresh_failed", "low", "admitted", "settled"])
def test_a_listener_on_another_thread(
    clock: HandClock, caplog: pytest.LogCaptureFixture, kind: str, error: BaseException
) -> None:
    """On the loop's thread, and on a caller's that is not the main one: logged once, and passed over."""

    def on_event(event: Event) -> None:
        told.append(event.kind)
        if event.kind == kind:
            raise error

    told: list[str] = []
    provider = FakeProvider(100)
    guard = Guard(provider, on_event=on_event, alert_below=50)
    if kind == "refresh_failed":
        provider.failure = LookupError()
        assert isinstance(Caller(lambda: guard.acquire(1)).outcome(), BalanceUnavailable)
        provider.failure = None
        clock.advance(1)

    def use() -> str:
        with guard.require_credits(min=60):
            return "ran"

    assert Caller(use).outcome() == "ran"
    until(lambda: kind in told)
    clock.advance(0)
    assert guard.available == 40
    lives(guard)
    assert caplog.text.count("on_event raised") == 1
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("error", [GeneratorExit(), asyncio.CancelledError(), Odd(), LookupError()])
def test_a_listener_on_the_main_thread(clock: HandClock, error: BaseException) -> None:
    """What it raises is not the guarded call's, whatever it is."""

    def on_event(_: Event) -> None:
        raise error

    assert (
        Guard(FakeProvider(100), on_event=on_event).require_credits(min=1)(lambda: "ran")() == "ran"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_a_signal_that_comes_while_a_listener_runs(clock: HandClock, error: BaseException) -> None:
    """On the main thread both may come from a signal, and reach the caller; nothing remains held or waiting."""
    interrupt = True

    def on_event(event: Event) -> None:
        nonlocal interrupt
        if event.kind == "settled" and interrupt:
            interrupt = False
            raise error

    guard = Guard(FakeProvider(100), on_event=on_event)
    hold = guard.acquire(80)
    waiter = Caller(lambda: guard.acquire(60, wait=30).amount)
    until(lambda: waiting(guard) == 1)
    with pytest.raises(type(error)):
        hold.settle(10)
    assert waiter.outcome() == 60
    assert guard.available == 30
    with pytest.raises(type(error)):
        interrupt = True
        with guard.require_credits(min=5):
            pass
    clock.advance(0)
    assert guard.available == 25


class Raising(logging.Handler):
    """A log's handler that fails, as a user's may."""

    def emit(self, record: logging.LogRecord) -> None:
        """Fail."""
        raise Odd


@pytest.mark.parametrize("denied", [False, True])
def test_a_handler_of_the_log(clock: HandClock, denied: bool) -> None:
    """A caller that waits for the refresh of that event is answered all the same."""
    provider = FakeProvider(100)
    provider.failure = (
        InvalidCredentials(provider="fake", reason="no") if denied else LookupError("no")
    )

    def on_event(_: Event) -> None:
        raise Odd

    guard = Guard(provider, on_event=None if denied else on_event)
    handler = Raising()
    logger = logging.getLogger("budgetguard")
    logger.addHandler(handler)
    try:
        error = Caller(lambda: guard.acquire(1)).outcome()
        assert isinstance(error, BalanceUnavailable)
        lives(guard)
    finally:
        logger.removeHandler(handler)


def test_a_handler_of_the_log_and_one_who_awaits(clock: HandClock) -> None:
    """Woken by what came after the line that could not be logged, and not by its own deadline."""
    provider = FakeProvider(100)
    provider.failure = InvalidCredentials(provider="fake", reason="no")
    guard = Guard(provider, timeout=600)
    handler = Raising()
    logger = logging.getLogger("budgetguard")
    logger.addHandler(handler)
    try:
        outcome = Caller(lambda: asyncio.run(guard.aacquire(1))).outcome()
    finally:
        logger.removeHandler(handler)
    assert isinstance(outcome, InvalidCredentials)
    clock.advance(0)


def test_a_loop_whose_files_were_closed_is_made_anew(clock: HandClock) -> None:
    """As a program does that becomes a daemon."""
    guard = Guard(FakeProvider(100))
    guard.balance()
    runtime = binding_of(guard).account.runtime
    loop, thread = runtime._made["loop"], runtime._thread
    assert thread is not None

    def broken(_: Any = None) -> Any:
        raise OSError(9, "Bad file descriptor")

    loop._selector.select = broken  # type: ignore[attr-defined]
    loop.call_soon_threadsafe(lambda: None)
    thread.join(20)
    assert not thread.is_alive()
    clock.advance(1)
    assert guard.balance(max_age=0).credits == 100
    assert runtime._made["loop"] is not loop
    # What the other one left behind does not keep this one from its end.
    thread = runtime._thread
    runtime.stop()
    thread.join(20)
    assert not thread.is_alive()
    del loop._selector.select  # type: ignore[attr-defined]
    loop.close()


@pytest.mark.skipif(not hasattr(sys, "getswitchinterval"), reason="CPython's own")
def test_an_exception_thrown_into_the_thread_does_not_end_it(clock: HandClock) -> None:
    """As tools do that end all threads of a program."""
    import ctypes

    guard = Guard(FakeProvider(100))
    guard.balance()
    thread = binding_of(guard).account.runtime._thread
    assert thread is not None
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert throw(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)) == 1
    clock.advance(1)
    assert guard.balance(max_age=0).credits == 100
    lives(guard)


def test_a_task_factory_on_the_private_loop() -> None:
    """One that raises is heard of where a provider needs it, and stops no refresh."""

    def no_tasks(*_: object, **__: object) -> Any:
        raise LookupError

    class Meddling(FakeProvider):
        async def fetch(self, client: Any) -> Balance:
            loop = asyncio.get_running_loop()
            if loop.get_task_factory() is None:
                loop.set_task_factory(no_tasks)
            else:
                try:
                    with contextlib.closing(asyncio.sleep(0)) as work:
                        await loop.create_task(work)
                finally:
                    loop.set_task_factory(None)
            return await super().fetch(client)

    meddling, other = Guard(Meddling(100), timeout=2), Guard(FakeProvider(100), timeout=2)
    assert meddling.balance().credits == 100
    assert other.balance().credits == 100
    with pytest.raises(BalanceUnavailable, match="LookupError"):
        meddling.balance(max_age=0)
