"""Fixtures of the budgets' tests."""

import sys
from collections.abc import Iterator

import pytest

from budgetguard import Guard
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


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
