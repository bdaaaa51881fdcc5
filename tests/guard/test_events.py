"""A guard's events: each kind once, with the figures of its moment, and never harmful to a call."""

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from budgetguard import Balance, BalanceUnavailable, Event, Guard, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def provider() -> FakeProvider:
    """An account with 100 credits."""
    return FakeProvider(100, lag=5)


@pytest.fixture
def events() -> list[Event]:
    """The events that were delivered."""
    return []


@pytest.fixture
def guard(clock: HandClock, provider: FakeProvider, events: list[Event]) -> Guard:
    """A guard with a listener and 100 credits; the event of that refresh is dropped."""
    del clock
    guard = Guard(provider, on_event=events.append, alert_below=20)
    guard.balance()
    events.clear()
    return guard


def told(events: list[Event]) -> list[tuple[str, str | None, Decimal | None, Decimal | None]]:
    """Kind, operation, credits and what was available; forgets them."""
    figures = [(event.kind, event.operation, event.credits, event.available) for event in events]
    events.clear()
    return figures  # type: ignore[return-value]


def test_a_first_balance_is_told(clock: HandClock) -> None:
    """With what it says and what can be promised of it."""
    events: list[Event] = []
    guard = Guard(FakeProvider(100), floor=10, on_event=events.append)
    clock.advance(0)
    guard.balance()
    (event,) = events
    assert (event.kind, event.provider, event.operation) == ("refreshed", "fake", None)
    assert (event.credits, event.available, event.age) == (100, 90, 0)
    assert (event.hold_id, event.held, event.duration) == (None, None, None)


def test_an_event_cannot_be_changed(guard: Guard, events: list[Event]) -> None:
    """It may be handed to other threads."""
    guard.acquire(1).release()
    with pytest.raises(AttributeError):
        events[0].kind = "low"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("end", "kind", "credits", "available"),
    [
        (lambda hold: hold.settle(), "settled", 30, 70),
        (lambda hold: hold.settle(5), "settled", 5, 95),
        (lambda hold: hold.release(), "released", 30, 100),
        (lambda hold: hold.keep(), "kept", 30, 70),
    ],
    ids=["settled", "settled for less", "released", "kept"],
)
def test_a_call_is_told_of_when_it_begins_and_when_it_ends(
    guard: Guard,
    events: list[Event],
    end: Callable[[Any], None],
    kind: str,
    credits: int,
    available: int,
) -> None:
    """Once each: what is held, and what became of it."""
    hold = guard.acquire(40, cost=30, name="spec")
    assert told(events) == [("admitted", "spec", 30, 70)]
    end(hold)
    assert told(events) == [(kind, "spec", credits, available)]


def test_an_overrun_is_told_by_how_much(guard: Guard, events: list[Event]) -> None:
    """After the settlement it belongs to."""
    hold = guard.acquire(30, name="spec")
    events.clear()
    hold.settle(42)
    assert told(events) == [("settled", "spec", 42, 58), ("overrun", "spec", 12, 58)]


def test_a_refusal_is_told_once_with_what_was_needed(guard: Guard, events: list[Event]) -> None:
    """And with the age of the balance that it rests on."""
    with pytest.raises(InsufficientCredits):
        guard.acquire(101, cost=5, name="spec")
    assert [event.age for event in events] == [0]
    assert [event.enforced for event in events] == [True]
    assert told(events) == [("refused", "spec", 101, 100)]


def test_a_failed_refresh_is_told_with_its_reason(
    clock: HandClock, guard: Guard, provider: FakeProvider, events: list[Event]
) -> None:
    """Also if no caller notices it."""
    provider.failure = ConnectionError("down")
    clock.advance(400)
    hold = guard.acquire(1)
    clock.advance(0)
    (failed,) = [event for event in events if event.kind == "refresh_failed"]
    hold.release()
    assert (failed.credits, failed.available, failed.age) == (100, 99, 400)
    assert failed.reason == "the balance request raised ConnectionError"


def test_a_refusal_for_want_of_a_balance_is_told(clock: HandClock) -> None:
    """There is nothing to say of what is available."""
    events: list[Event] = []
    provider = FakeProvider(1)
    provider.failure = ConnectionError("down")
    guard = Guard(provider, on_event=events.append)
    clock.advance(0)
    with pytest.raises(BalanceUnavailable):
        guard.acquire(5, name="spec")
    assert told(events) == [
        ("refresh_failed", None, None, None),
        ("refused", "spec", 5, None),
    ]


def test_a_call_allowed_without_a_balance_is_told_as_that(clock: HandClock) -> None:
    """And not as admitted."""
    events: list[Event] = []
    provider = FakeProvider(1)
    provider.failure = ConnectionError("down")
    guard = Guard(provider, if_unknown="allow", on_event=events.append)
    clock.advance(0)
    guard.acquire(5, name="spec").settle()
    assert told(events) == [
        ("refresh_failed", None, None, None),
        ("allowed_unknown", "spec", 5, None),
        ("settled", "spec", 5, None),
    ]


def test_exhaustion_is_told_to_every_guard_of_the_account(
    clock: HandClock, provider: FakeProvider, guard: Guard, events: list[Event]
) -> None:
    """Whichever of them noticed."""
    others: list[Event] = []
    other = Guard(provider, on_event=others.append)
    clock.advance(0)
    other.mark_exhausted()
    assert guard.available == 0
    assert [event.kind for event in events if event.kind == "exhausted"] == ["exhausted"]
    assert [event.kind for event in others if event.kind == "exhausted"] == ["exhausted"]
    assert events[0].available == 0


def test_low_is_told_once_until_a_balance_above_it_arrives(
    clock: HandClock, guard: Guard, provider: FakeProvider, events: list[Event]
) -> None:
    """Below, below again, above, and below once more."""
    low = lambda: [event.available for event in events if event.kind == "low"]  # noqa: E731
    first = guard.acquire(80)
    assert low() == []
    second = guard.acquire(1)
    assert low() == [19]
    second.release()
    guard.acquire(10).release()
    first.release()
    guard.acquire(90).release()
    assert low() == [19]
    clock.advance(6)
    guard.balance(max_age=0)
    guard.acquire(95).release()
    assert low() == [19]
    provider.credits = 10
    clock.advance(6)
    guard.balance(max_age=0)
    assert low() == [19]
    provider.credits = 50
    clock.advance(6)
    guard.balance(max_age=0)
    provider.credits = 15
    clock.advance(6)
    guard.balance(max_age=0)
    assert low() == [19, 15]


def test_low_is_told_of_calls_that_are_repeated(clock: HandClock, provider: FakeProvider) -> None:
    """The fast path does not go below the mark unseen, with no other event asked for."""
    events: list[Event] = []
    guard = Guard(provider, alert_below=50, on_event=events.append)
    call = guard.require_credits(min=10)(lambda: None)
    for _ in range(5):
        call()
    assert [event for event in events if event.kind == "low"] == []
    call()
    clock.advance(0)
    assert [event.available for event in events if event.kind == "low"] == [40]


def test_what_on_event_raises_is_logged_once_and_reaches_nobody(
    clock: HandClock, provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """The call goes on, and so does the telling."""
    heard = []

    def on_event(event: Event) -> None:
        heard.append(event.kind)
        raise KeyError(event)

    guard = Guard(provider, on_event=on_event)
    call = guard.require_credits(min=10)(lambda: "result")
    assert [call(), call()] == ["result", "result"]
    with pytest.raises(InsufficientCredits):
        guard.acquire(1000)
    clock.advance(0)
    assert heard.count("admitted") == heard.count("settled") == 2
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("budgetguard", logging.ERROR)
    assert "KeyError" in caplog.text


def test_on_event_may_use_the_guard(guard: Guard, events: list[Event]) -> None:
    """It is called outside every lock."""
    seen: list[object] = []
    curious = Guard(
        guard.provider, on_event=lambda _: seen.append((curious.available, len(events)))
    )
    curious.acquire(30).release()
    assert [available for available, _ in seen] == [70, 100]  # type: ignore[misc]


def test_on_event_may_end_a_hold(clock: HandClock, provider: FakeProvider) -> None:
    """An event of one call may be the end of another."""
    holds: list[Any] = []

    def on_event(event: Event) -> None:
        if event.kind == "refused" and holds:
            holds.pop().release()

    guard = Guard(provider, on_event=on_event)
    holds.append(guard.acquire(100))
    clock.advance(0)
    with pytest.raises(InsufficientCredits):
        guard.acquire(50)
    guard.acquire(50).release()


WAYS: dict[str, Callable[[Guard], object]] = {
    "decorated": lambda guard: guard.require_credits(min=1)(lambda: None)(),
    "block": lambda guard: guard.require_credits(min=1).__enter__(),
    "acquire": lambda guard: guard.acquire(1),
    "balance": lambda guard: guard.balance(),
    "refused": lambda guard: guard.acquire(1000),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whose", ["the same guard", "another account"])
def test_a_guarded_call_from_on_event_is_an_error(
    clock: HandClock, provider: FakeProvider, way: str, whose: str
) -> None:
    """It would wait for itself, so it gets an error at once, and the call that emits the event goes on."""
    outcomes: list[object] = []
    other = Guard(FakeProvider(1000))
    other.balance()

    def on_event(_: Event) -> None:
        try:
            outcomes.append(WAYS[way](guard if whose == "the same guard" else other))
        except RuntimeError as error:
            outcomes.append(error)

    guard = Guard(provider, on_event=on_event)
    guard.acquire(1).release()
    clock.advance(0)
    assert {type(outcome) for outcome in outcomes} == {RuntimeError}
    assert "was called from inside budgetguard" in str(outcomes[0])
    assert other.available == 1000


@pytest.mark.parametrize("cost", [0, 1], ids=["check only", "with a cost"])
@pytest.mark.parametrize("whose", ["the same account", "another account"])
def test_a_repeated_call_from_on_event_is_an_error_too(
    clock: HandClock, provider: FakeProvider, whose: str, cost: int
) -> None:
    """Whether it would have had to wait, or could have gone the fast path."""
    outcomes: list[object] = []
    quiet = Guard(provider if whose == "the same account" else FakeProvider(1000))
    call = quiet.require_credits(min=1, cost=cost)(lambda: "ran")
    assert [call(), call()] == ["ran", "ran"]

    def on_event(_: Event) -> None:
        try:
            outcomes.append(call())
        except RuntimeError as error:
            outcomes.append(error)

    guard = Guard(provider, on_event=on_event)
    guard.acquire(1).release()
    clock.advance(0)
    assert {type(outcome) for outcome in outcomes} == {RuntimeError}
    assert call() == "ran"


class _Recursive:
    """A provider that makes a guarded call while it is asked; its other guard is warm, or not."""

    name = "recursive"

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    async def fetch(self, client: object) -> Any:
        """Call, and pass the error on."""
        del client
        self.call()
        return Balance(credits=Decimal(1))

    def sync(self) -> Any:
        """The same as a plain function."""
        self.call()
        return 1

    async def coroutine(self) -> Any:
        """The same as a coroutine function."""
        self.call()
        return 1


@pytest.mark.parametrize("kind", ["fetch", "sync function", "async function"])
@pytest.mark.parametrize("whose", ["itself", "another, warm", "another, cold"])
def test_a_guarded_call_from_a_provider_is_an_error(
    clock: HandClock, kind: str, whose: str
) -> None:
    """A RuntimeError inside, which makes the refresh fail, and no deadlock."""
    other = Guard(FakeProvider(1000))
    call = other.require_credits(min=1)(lambda: "ran")
    if whose == "another, warm":
        call()
        call()
    clock.advance(0)
    recursive = _Recursive(lambda: guard.acquire(1) if whose == "itself" else call())
    guard = Guard(
        {"fetch": recursive, "sync function": recursive.sync}.get(kind, recursive.coroutine)
    )
    with pytest.raises(BalanceUnavailable) as error:
        guard.acquire(1)
    assert error.value.reason == "the balance request raised RuntimeError"
    assert isinstance(error.value.__cause__, RuntimeError)
    assert "inside budgetguard" in str(error.value.__cause__)


def test_no_event_is_made_for_a_guard_that_listens_to_none(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch, provider: FakeProvider
) -> None:
    """With no `on_event` there is nothing to pay for."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("budgetguard._engine.subscriber.Event", never)
    guard = Guard(provider)
    guard.acquire(10).settle()
    guard.require_credits(min=1)(lambda: None)()
    clock.advance(0)
    assert guard.available == 89
