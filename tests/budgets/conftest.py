"""Fixtures of the budgets' tests."""

import sys
from collections.abc import Iterator

import pytest

from budgetguard import Guard
from budgetguard._core.reentrancy import CALL_STATE
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def provider(clock: HandClock) -> FakeProvider:
    """Give an account with 1,000 credits."""
    del clock
    return FakeProvider(1000)


@pytest.fixture
def guard(provider: FakeProvider) -> Guard:
    """Give a guard that knows its balance."""
    guard = Guard(provider)
    guard.balance()
    return guard


@pytest.fixture(autouse=True)
def outside() -> Iterator[None]:
    """What a test leaves its thread in bounds no other test."""
    yield
    CALL_STATE.set(None)


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
