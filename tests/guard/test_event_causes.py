"""What events say about why a call was refused, and why a hold was kept."""

import contextlib
from typing import Any

import pytest

from budgetguard import BudgetGuardError, Event, Guard
from budgetguard.providers import ProviderRefusal
from budgetguard.testing import FakeProvider, HandClock

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], ProviderRefusal | None]] = {
    "credits": ({}, {"min": 101}, None),
    "cap": ({"cost_limit": 10}, {"min": 11}, None),
    "slots": ({"max_concurrency": 1}, {"min": 1, "slots": 2}, None),
    "key limit": ({}, {"min": 1}, ProviderRefusal("key_limit")),
    "busy": ({}, {"min": 1}, ProviderRefusal("busy", 30)),
    "unknown": ({"failure": ConnectionError("down")}, {"min": 1}, None),
}


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("cause", REFUSED)
def test_a_refusal_says_what_was_lacking(clock: HandClock, cause: str, mode: Any) -> None:
    """In one word, for metrics; also where the guard only observes."""
    figures, needs, refusal = REFUSED[cause]
    provider = FakeProvider(100, **{k: v for k, v in figures.items() if k != "failure"})
    provider.failure = figures.get("failure")
    told: list[Event] = []
    guard = Guard(provider, mode=mode, on_event=told.append)
    clock.advance(0)
    with contextlib.suppress(BudgetGuardError):
        guard.balance()
    if refusal is not None:
        guard.mark_refused(refusal)
    with contextlib.suppress(BudgetGuardError):
        guard.acquire(**needs)
    assert [event.cause for event in told if event.kind == "refused"] == [cause]


def test_a_refused_extension_says_what_was_lacking(clock: HandClock) -> None:
    """As every admission does."""
    told: list[Event] = []
    guard = Guard(FakeProvider(100), on_event=told.append)
    clock.advance(0)
    hold = guard.acquire(50)
    with pytest.raises(BudgetGuardError):
        hold.extend(51)
    assert [(event.kind, event.cause) for event in told] == [
        ("refreshed", None),
        ("admitted", None),
        ("refused", "credits"),
    ]


def test_a_kept_hold_says_what_the_call_raised(clock: HandClock) -> None:
    """As its reason does; there is none where no exception was raised."""
    told: list[Event] = []
    guard = Guard(FakeProvider(100), on_event=told.append)
    clock.advance(0)
    with pytest.raises(KeyError), guard.require_credits(min=1):
        raise KeyError
    guard.acquire(1).keep()
    kept = [event for event in told if event.kind == "kept"]
    assert [(event.cause, event.reason) for event in kept] == [("KeyError",) * 2, (None, None)]


def test_other_kinds_have_no_cause(clock: HandClock) -> None:
    """An overrun, and each ordinary end."""
    told: list[Event] = []
    guard = Guard(FakeProvider(100), on_event=told.append, alert_below=90)
    clock.advance(0)
    guard.acquire(5).settle(20)
    guard.acquire(5).release()
    guard.mark_exhausted()
    assert {event.kind for event in told} >= {"settled", "overrun", "released", "low", "exhausted"}
    assert {event.cause for event in told} == {None}
