"""What led to a caller's answer is reported before the caller goes on, also if it had not fallen asleep yet."""

import anyio
import anyio.to_thread
import pytest
from staging import Caller, let_run, until

from budgetguard._core.clock import SYSTEM
from budgetguard._engine import waiters
from budgetguard._engine.waiters import Waiter


class Patient(Waiter):
    """A caller without a deadline, of this test."""

    __slots__ = ()

    def deadline(self, now: float) -> float:
        """Not in this test's time."""
        return now + 600

    @property
    def asleep(self) -> bool:
        """Whether it waits."""
        return self._waker is not None


class Elsewhere:
    """A decider that decides nothing more."""

    def monotonic(self) -> float:
        """The real time."""
        return SYSTEM.monotonic()

    def overdue(self) -> None:
        """Nothing is overdue."""

    def abandon(self, waiter: Waiter) -> None:
        """Nobody is supposed to."""
        raise AssertionError(waiter)


@pytest.fixture
def waiter(monkeypatch: pytest.MonkeyPatch) -> Patient:
    """A caller that waits for reports as long as it takes."""
    monkeypatch.setattr(waiters, "SIGNAL_CHECK", 600.0)
    return Patient()


def test_on_a_thread(waiter: Patient) -> None:
    """Its answer is there, and whoever decided it is about to tell a listener why."""
    waiter.settle()
    caller = Caller(lambda: waiter.wait(Elsewhere()))
    until(lambda: waiter.asleep)
    waiter.wake()
    assert caller.outcome() is None


def test_on_the_thread_that_decided(waiter: Patient) -> None:
    """Everything has been reported when it comes to wait."""
    waiter.settle()
    waiter.wait(Elsewhere())
    assert not waiter.asleep


@pytest.mark.anyio
async def test_in_a_task(waiter: Patient) -> None:
    """The same, on asyncio and trio."""
    await anyio.to_thread.run_sync(waiter.settle)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiter.wait_async, Elsewhere())
        await let_run()
        assert waiter.asleep
        waiter.wake()


def test_not_for_ever(waiter: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that takes its time holds up nobody for longer than a signal may be."""
    monkeypatch.setattr(waiters, "SIGNAL_CHECK", 0.0)
    waiter.settle()
    assert Caller(lambda: waiter.wait(Elsewhere())).outcome() is None
