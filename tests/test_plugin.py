"""The fixtures that the pytest plugin gives to people's own tests."""

from decimal import Decimal

import pytest

from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.testing.sandbox import Sandbox


def test_the_clock(budgetguard_clock: HandClock) -> None:
    """A guard made during the test goes by it."""
    provider = FakeProvider(10)
    guard = Guard(provider)
    guard.balance()
    budgetguard_clock.advance(200)
    assert guard.balance().age == 200
    budgetguard_clock.advance(200)
    assert guard.balance().age == 0
    assert provider.requests == 2
    with pytest.raises(ValueError, match="time only moves forward"):
        budgetguard_clock.advance(-1)


def test_the_sandbox(budgetguard_sandbox: Sandbox) -> None:
    """It has credits, and is asked over a real socket."""
    sandbox = budgetguard_sandbox
    guard = Guard(PreDev(sandbox.predev_key, base_url=sandbox.url))
    assert guard.balance().credits == Decimal(100)
    assert sandbox.balance_requests == 1


@pytest.mark.usefixtures("budgetguard_off")
def test_guards_are_off() -> None:
    """What would be refused runs."""
    guard = Guard(FakeProvider(0))
    with guard.require_credits(min=50) as hold:
        assert hold.amount == 0


def test_guards_are_on_again() -> None:
    """The fixture leaves no trace."""
    with pytest.raises(InsufficientCredits):
        Guard(FakeProvider(0)).acquire(50)
