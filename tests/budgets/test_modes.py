"""What the guard's modes mean for budgets: observe, an unknown balance, switched off."""

import logging
from typing import Any

import pytest
from looking import NOTHING, figures, open_in
from staging import until

from budgetguard import (
    BalanceUnavailable,
    BudgetExceeded,
    Event,
    Guard,
    InsufficientCredits,
    set_active,
)
from budgetguard._core.activation import ACTIVATION
from budgetguard.testing import FakeProvider, HandClock

UNKNOWN = ConnectionError("no route")


def spend(guard: Guard, credits: int, **options: Any) -> None:
    """One call at that cost."""
    guard.acquire(credits, **options).settle()


@pytest.fixture
def told() -> list[Event]:
    """Give what a listener was told."""
    return []


@pytest.fixture
def observing(provider: FakeProvider, told: list[Event]) -> Guard:
    """Give a guard that refuses nothing, with a balance."""
    guard = Guard(provider, mode="observe", on_event=told.append)
    guard.balance()
    told.clear()
    return guard


@pytest.mark.parametrize("wait", [0, 5])
def test_observe_books_and_refuses_nothing(
    observing: Guard, told: list[Event], wait: float
) -> None:
    """The event says that it would have: by which budget, and why; nobody waits."""
    with observing.budget(10, name="run") as run:
        spend(observing, 8)
        hold = observing.acquire(8, wait=wait)
        assert figures(run) == (8, 8, -6)
        hold.settle()
        observing.acquire(1, wait=wait).settle()
        assert figures(run) == (17, 0, -7)
    refused = [event for event in told if event.kind == "refused"]
    assert [(event.budget, event.cause, event.enforced) for event in refused] == [
        ("run", "budget", False)
    ] * 2
    assert observing.available == 983


def test_observe_lets_a_call_go_on_that_would_wait(observing: Guard) -> None:
    """Where an open call holds the rest of the budget, which another would wait for."""
    with observing.budget(10, name="run") as run:
        first = observing.acquire(8)
        second = observing.acquire(8, wait=30)
        assert figures(run) == (0, 16, -6)
        first.settle()
        second.settle()
    assert open_in(observing) == NOTHING


def test_observe_extends_and_carves_too(observing: Guard, told: list[Event]) -> None:
    """Whatever the budget has left."""
    with observing.budget(10, name="run") as run:
        hold = observing.acquire(8)
        hold.extend(8)
        with observing.budget(20, name="part", share="carve") as part:
            spend(observing, 25)
            assert figures(part) == (25, 0, -5)
        hold.settle()
        assert figures(run) == (41, 0, -31)
    assert [event.kind for event in told].count("refused") == 3
    assert observing.available == 959


@pytest.mark.parametrize("value", ["observe", "off"])
def test_the_environment_is_heard_of(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Also where a block is the first that asks."""
    monkeypatch.setenv("BUDGETGUARD", value)
    ACTIVATION.restore((False, False, False, False))
    with guard.budget(10) as run, guard.budget(20, share="carve") as part:
        spend(guard, 25)
    assert run.spent == part.spent == (25 if value == "observe" else 0)


@pytest.mark.parametrize("share", ["shared", "carve"])
def test_switched_off_nothing_is_bounded(guard: Guard, share: Any) -> None:
    """Blocks and decorators run as if they were not there."""
    set_active(False)
    run = guard.budget(10, name="run", share=share)
    with run:
        spend(guard, 25)
        with run.use(), guard.budget(2000, share=share):
            spend(guard, 25)
        assert guard.budget(1)(lambda: 3)() == 3
    assert figures(run) == (0, 0, 10)
    set_active(True)
    assert guard.available == 1000
    assert open_in(guard) == NOTHING


def test_switched_off_and_on_in_a_block(guard: Guard) -> None:
    """A call belongs to what was true when it began."""
    with guard.budget(10, name="run") as run:
        hold = guard.acquire(5)
        set_active(False)
        spend(guard, 50)
        hold.settle()
        set_active(True)
        with pytest.raises(BudgetExceeded):
            guard.acquire(6)
    assert figures(run) == (5, 0, 5)


def test_an_unknown_balance_is_bounded_all_the_same(
    provider: FakeProvider, told: list[Event]
) -> None:
    """`if_unknown="allow"` lets the calls through, as far as their budget goes."""
    provider.failure = UNKNOWN
    guard = Guard(provider, if_unknown="allow", on_event=told.append)
    with guard.budget(10, name="run") as run:
        spend(guard, 8)
        with pytest.raises(BudgetExceeded):
            guard.acquire(8)
        with guard.budget(2, share="carve"):
            spend(guard, 2)
    assert figures(run) == (10, 0, 0)
    with guard.budget(10, name="part", share="carve") as part:
        spend(guard, 8)
        with pytest.raises(BudgetExceeded):
            guard.acquire(8)
    assert (part.spent, part.held) == (8, 0)
    assert "allowed_unknown" in {event.kind for event in told}
    assert open_in(guard) == NOTHING


@pytest.mark.parametrize("wait", [0, 5])
def test_a_budgets_refusal_needs_no_balance(provider: FakeProvider, wait: float) -> None:
    """It is given before any balance was asked for, and asks for none."""
    guard = Guard(provider)
    with guard.budget(10, name="run") as run:
        with pytest.raises(BudgetExceeded):
            guard.acquire(11, wait=wait)
        with pytest.raises(BudgetExceeded):
            guard.budget(11, share="carve").__enter__()
    assert provider.requests == 0
    assert figures(run) == (0, 0, 10)


def test_a_budgets_refusal_starts_no_refresh(
    guard: Guard, provider: FakeProvider, clock: HandClock
) -> None:
    """Neither of a balance that is old, nor of one that is too low."""
    with guard.budget(10):
        for seconds in (0, 301, 400):
            clock.advance(seconds)
            with pytest.raises(BudgetExceeded):
                guard.acquire(11)
            with pytest.raises(BudgetExceeded):
                guard.acquire(2000)
    clock.advance(0)
    assert provider.requests == 1
    spend(guard, 1)
    until(lambda: provider.requests == 2)


def test_without_a_balance_its_own_refusal_says_so(provider: FakeProvider) -> None:
    """Where the budget has room, the account decides, as without one."""
    provider.failure = UNKNOWN
    guard = Guard(provider)
    with guard.budget(10) as run, pytest.raises(BalanceUnavailable):
        guard.acquire(5)
    assert figures(run) == (0, 0, 10)
    with pytest.raises(BalanceUnavailable):
        guard.budget(5, share="carve").__enter__()


def test_the_account_refuses_where_the_budget_has_room(guard: Guard) -> None:
    """With its own error and figures."""
    with guard.budget(5000) as run:
        with pytest.raises(InsufficientCredits) as refused:
            guard.acquire(1500)
        assert not isinstance(refused.value, BudgetExceeded)
    assert run.spent == 0


def test_a_repeat_is_not_refused_by_a_budget(guard: Guard) -> None:
    """A call that was admitted and failed is admitted once more, and its budget counts both."""
    spec = guard.require_credits(min=8).spec
    with guard.budget(10, name="run") as run:
        spec.open("a call").keep()
        spec.open("its repeat", forced=True).settle()
        with pytest.raises(BudgetExceeded):
            spec.open("another call")
    assert figures(run) == (16, 0, -6)


def test_a_refusal_is_logged_once_and_names_its_budget(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """At the level of other refusals."""
    caplog.set_level(logging.DEBUG, "budgetguard")
    with guard.budget(10, name="run"), pytest.raises(BudgetExceeded):
        guard.acquire(11, name="deep_spec")
    found = [each for each in caplog.messages if "deep_spec needs 11 credits" in each]
    assert len(found) == 1
    assert "the budget run has 10 of 10 credits left" in found[0]
    assert "Top up" not in found[0]


def test_a_call_in_a_part_of_the_account_is_not_held_twice(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """So nothing is said of that, neither in the block nor after it."""
    caplog.set_level(logging.DEBUG, "budgetguard")
    with guard.budget(100, name="run", share="carve") as run:
        spend(guard, 5)
    spend(guard, 5)
    assert run.spent == 5
    assert not [each for each in caplog.messages if "held twice" in each]
