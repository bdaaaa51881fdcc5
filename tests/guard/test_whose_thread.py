"""A caller's events are delivered on its own thread, with its context variables, before its call returns."""

import threading
from contextvars import ContextVar

import pytest

from budgetguard import Event, Guard, InsufficientCredits
from budgetguard._core.amounts import MICRO
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock

REQUEST: ContextVar[str] = ContextVar("REQUEST", default="nobody's")


class Listener:
    """Remembers of each event on which thread and in whose context it was delivered."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, str]] = []

    def __call__(self, event: Event) -> None:
        self.seen.append((event.kind, threading.get_ident(), REQUEST.get()))

    def of_calls(self) -> list[tuple[str, int, str]]:
        """Without those of the account, which are nobody's."""
        return [each for each in self.seen if each[0] not in {"refreshed", "low"}]


@pytest.fixture
def listener() -> Listener:
    """A listener that has heard nothing yet."""
    return Listener()


@pytest.fixture
def guard(clock: HandClock, listener: Listener) -> Guard:
    """A guard without a balance: its first caller waits for one."""
    del clock
    return Guard(FakeProvider(100), on_event=listener, alert_below=40)


def test_a_caller_that_waited(guard: Guard, listener: Listener) -> None:
    """Admitted by the refresh, and refused by the next one."""
    token = REQUEST.set("mine")
    with guard.require_credits(min=70):
        pass
    with pytest.raises(InsufficientCredits):
        guard.acquire(200)
    REQUEST.reset(token)
    here = threading.get_ident()
    assert listener.of_calls() == [
        (kind, here, "mine") for kind in ("admitted", "settled", "refused")
    ]


@pytest.mark.anyio
async def test_a_task_that_waited(guard: Guard, listener: Listener) -> None:
    """Likewise."""
    token = REQUEST.set("mine")
    async with guard.require_credits(min=70):
        pass
    with pytest.raises(InsufficientCredits):
        await guard.aacquire(200)
    REQUEST.reset(token)
    here = threading.get_ident()
    assert listener.of_calls() == [
        (kind, here, "mine") for kind in ("admitted", "settled", "refused")
    ]


def test_an_alert_is_delivered_before_the_caller_is_woken(guard: Guard, listener: Listener) -> None:
    """Else its call might return first."""
    with guard.require_credits(min=70):
        pass
    assert [kind for kind, *_ in listener.seen] == ["refreshed", "low", "admitted", "settled"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_listener_that_is_interrupted(clock: HandClock, error: type[BaseException]) -> None:
    """As its caller is admitted: the hold is released, and that is told once."""
    seen = []

    def interrupted(event: Event) -> None:
        seen.append(event.kind)
        if event.kind == "admitted":
            raise error

    guard = Guard(FakeProvider(100), on_event=interrupted)
    with pytest.raises(error):
        guard.acquire(70)
    clock.advance(0)
    assert seen == ["refreshed", "admitted", "released"]
    assert guard.available == 100


def test_a_caller_that_leaves_when_it_was_admitted(clock: HandClock) -> None:
    """Its events are delivered all the same, in order."""
    seen: list[str] = []
    guard = Guard(FakeProvider(100), lag=0, on_event=lambda event: seen.append(event.kind))
    hold = guard.acquire(100)
    spec, binding = guard.require_credits(50, wait=60).spec, binding_of(guard)
    waiter = binding.account.ask(spec._call(binding, "work", 50 * MICRO, 50 * MICRO))
    hold.release()
    assert waiter.done
    assert seen == ["refreshed", "admitted", "released"]
    binding.account.abandon(waiter)
    clock.advance(0)
    assert seen == ["refreshed", "admitted", "released", "admitted", "released"]
    assert guard.available == 100
