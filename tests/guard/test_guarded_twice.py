"""One call guarded at two places holds twice; a debug line says so."""

import logging

import pytest

from budgetguard import Guard
from budgetguard.testing import FakeProvider


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of calls inside calls."""
    return [record.getMessage() for record in caplog.records if "held twice" in record.msg]


def test_a_call_inside_a_call_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """The inner one names the outer one, however often both are called."""
    guard = Guard(FakeProvider(100))
    inner = guard.require_credits(min=1, name="transport")(lambda: guard.available)
    outer = guard.require_credits(min=1, name="decorator")(inner)
    with caplog.at_level(logging.DEBUG, logger="budgetguard"):
        assert outer() == 98
        assert outer() == 96
    assert len(lines(caplog)) == 2
    assert lines(caplog)[0].startswith("transport holds credits while decorator, around it, does")


def test_calls_one_after_the_other_are_not(caplog: pytest.LogCaptureFixture) -> None:
    """Nor are calls of two accounts, one in the other."""
    guard, other = Guard(FakeProvider(100)), Guard(FakeProvider(100))
    with caplog.at_level(logging.DEBUG, logger="budgetguard"):
        guard.acquire(1).settle()
        with guard.require_credits(min=1), other.require_credits(min=1):
            pass
    assert not lines(caplog)
