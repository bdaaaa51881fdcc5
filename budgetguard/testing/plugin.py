"""The pytest plugin. Its fixtures start nothing unless a test requests them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from budgetguard.testing.clock import HandClock
    from budgetguard.testing.sandbox import Sandbox


@pytest.fixture
def budgetguard_clock() -> "Iterator[HandClock]":
    """A manual clock, which all guards made during the test use."""
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
    """Switch all guards off for the test."""
    from budgetguard._core.activation import ACTIVATION

    before = ACTIVATION.save()
    ACTIVATION.set_active(False)
    yield
    ACTIVATION.restore(before)
