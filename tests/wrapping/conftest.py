"""A guard with a lag and a linger, so that the three endings of a hold can be told apart."""

import pytest
from kinds import LAG, LINGER, Meter

from budgetguard import Guard
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard of 100 credits."""
    return Guard(FakeProvider(100, lag=LAG, linger=LINGER))


@pytest.fixture
def meter(guard: Guard, clock: HandClock) -> Meter:
    """Tells how a hold of the guard ended."""
    return Meter(guard, clock.advance)
