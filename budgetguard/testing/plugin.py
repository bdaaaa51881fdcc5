"""The pytest plugin: fixtures that start nothing unless a test asks for them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from budgetguard.testing.clock import HandClock
    from budgetguard.testing.sandbox import Sandbox


@pytest.fixture
def budgetguard_clock() -> "Iterator[HandClock]":
    """A clock turned by hand; guards made during the test go by it."""
    from budgetguard.testing.clock import hand_clock

    with hand_clock() as clock:
        yield clock


@pytest.fixture
def budgetguard_sandbox() -> "Iterator[Sandbox]":
    """A sandbox on loopback with 100 credits in each account."""
    from budgetguard.testing.sandbox import Sandbox

    with Sandbox(credits=100) as sandbox:
        yield sandbox


@pytest.fixture
def budgetguard_off() -> Iterator[None]:
    """Guards are switched off for the test."""
    from budgetguard.switch import SWITCH

    before = SWITCH.save()
    SWITCH.set_active(False)
    yield
    SWITCH.restore(before)
