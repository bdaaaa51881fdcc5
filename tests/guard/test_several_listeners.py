"""Several listeners of one guard: each hears of everything, whatever becomes of the others."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from staging import calls

from budgetguard import Event, Guard
from budgetguard._engine.listener import delivery_to
from budgetguard.testing import FakeProvider, HandClock

KINDS = ["refreshed", "admitted", "low", "settled"]


class Failing:
    """A listener that raises at each event, after it took note of it."""

    def __init__(self, error: BaseException, kind: str | None = None) -> None:
        self.error = error
        self.kind = kind
        self.heard: list[str] = []

    def __call__(self, event: Event) -> None:
        """Take note, and raise."""
        self.heard.append(event.kind)
        if self.kind in {None, event.kind}:
            raise self.error


def use(clock: HandClock, *listeners: Callable[[Event], object]) -> None:
    """One call of a guard, which alerts too."""
    guard = Guard(FakeProvider(100), on_event=list(listeners), alert_below=50)
    clock.advance(0)
    guard.balance()
    with guard.require_credits(min=60):
        pass


@pytest.mark.parametrize("kind", [list, tuple])
def test_each_hears_of_everything_in_order(clock: HandClock, kind: Any) -> None:
    """One after the other, event by event; the same listener twice hears of it twice."""
    heard: list[tuple[str, str]] = []

    def first(event: Event) -> None:
        heard.append(("first", event.kind))

    def second(event: Event) -> None:
        heard.append(("second", event.kind))

    guard = Guard(FakeProvider(100), on_event=kind([first, second, first]))
    clock.advance(0)
    guard.acquire(1).release()
    kinds = ["refreshed", "admitted", "released"]
    assert heard == [(name, kind) for kind in kinds for name in ("first", "second", "first")]


@pytest.mark.parametrize("nobody", [None, [], ()])
def test_no_listener_is_as_none(
    clock: HandClock, nobody: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty list costs nothing: no event is made."""

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("budgetguard._engine.subscriber.Event", never)
    guard = Guard(FakeProvider(100), on_event=nobody)
    clock.advance(0)
    guard.acquire(1).release()
    assert guard.available == 100


def test_a_list_that_is_changed_later_changes_nothing(clock: HandClock) -> None:
    """The guard has its own."""
    heard: list[Event] = []
    listeners: list[Callable[[Event], object]] = [heard.append]
    guard = Guard(FakeProvider(100), on_event=listeners)
    listeners.clear()
    clock.advance(0)
    guard.balance()
    assert [event.kind for event in heard] == ["refreshed"]


def test_an_error_is_logged_once_for_each_listener(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """And keeps no other from being called."""
    one, two, heard = Failing(KeyError("one")), Failing(ValueError("two")), list[Event]()
    use(clock, one, heard.append, two)
    assert one.heard == two.heard == [event.kind for event in heard] == KINDS
    assert caplog.text.count("on_event raised") == 2
    assert caplog.text.count("KeyError: 'one'") == caplog.text.count("ValueError: two") == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt("first"), SystemExit("first")])
def test_an_interrupt_reaches_the_caller_when_all_were_called(
    clock: HandClock, error: BaseException, kind: str
) -> None:
    """The first of several interrupts; nobody hears of an event twice or not at all."""
    one, heard = Failing(error, kind), list[Event]()
    two = Failing(KeyboardInterrupt("second"), kind)
    if kind == "refreshed":  # on the library's own thread, where no signal arrives
        use(clock, one, heard.append, two)
    else:
        with pytest.raises(type(error), match="first"):
            use(clock, one, heard.append, two)
    clock.advance(0)
    assert one.heard == two.heard == [event.kind for event in heard]
    assert len(set(one.heard)) == len(one.heard)
    assert kind in one.heard


@pytest.mark.parametrize("several", [False, True])
def test_a_delivery_that_is_resumed_later_delivers_nothing_twice(
    clock: HandClock, *, several: bool
) -> None:
    """Other events may have come in between, and equal ones are others."""
    events: list[Event] = []
    guard = Guard(FakeProvider(100), on_event=events.append)
    clock.advance(0)
    guard.acquire(1).release()
    refreshed, admitted, released = events
    interrupted, heard = Failing(SystemExit(), "admitted"), list[Event]()
    deliver = delivery_to([heard.append, interrupted, heard.append] if several else [interrupted])
    with pytest.raises(SystemExit):
        deliver(admitted)
    deliver(released)
    deliver(admitted)
    deliver(refreshed)
    assert interrupted.heard == ["admitted", "released", "refreshed"]
    assert heard == [admitted, admitted, released, released, refreshed, refreshed] * several
    with pytest.raises(SystemExit):
        deliver(copy.copy(admitted))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({print}, "on_event takes a callable, or a list or tuple of them, not set"),
        ("print", "on_event takes a callable, or a list or tuple of them, not str"),
        ([print, "print"], "on_event takes callables, and number 2 of its list is str"),
        ((None,), "on_event takes callables, and number 1 of its list is NoneType"),
    ],
    ids=["set", "str", "text in a list", "None in a tuple"],
)
def test_what_is_no_listener(given: Any, message: str) -> None:
    """A TypeError that names the type alone."""
    with pytest.raises(TypeError, match=message):
        Guard(FakeProvider(100), on_event=given)


def test_an_async_listener_is_refused_in_a_list() -> None:
    """It would never be run."""

    async def listener(_: Event) -> None: ...

    with pytest.raises(TypeError, match="on_event takes a plain function"):
        Guard(FakeProvider(100), on_event=[print, listener])


def test_one_listener_in_a_list_costs_what_it_costs_alone(clock: HandClock) -> None:
    """The same Python calls; each further listener adds its own call, and its delivery."""

    def cost(on_event: Any) -> int:
        guard = Guard(FakeProvider(1000), on_event=on_event)
        clock.advance(0)
        call = guard.require_credits(min=1)(lambda: None)
        call()
        call()
        return calls(call)

    def heard(_: Event) -> None: ...

    assert cost([heard]) == cost(heard)
    events = 2
    one_more = cost([heard, heard, heard]) - cost([heard, heard])
    assert one_more == events * 2
