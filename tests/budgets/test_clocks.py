"""A wall clock that is set while budgets by the day are in use."""

import logging

import pytest
from looking import figures

from budgetguard import Guard
from budgetguard.testing import HandClock

DAY = 86_400


def spend(guard: Guard, credits: int) -> tuple[object, object, object]:
    """Spend in one day's budget; returns its figures."""
    with guard.budget(10, name="daily", per="day") as daily:
        guard.acquire(credits).settle()
    return figures(daily)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about the clock."""
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    return [each for each in said if "wall clock moved" in each]


def test_a_clock_that_is_set_forward_is_logged_once(
    guard: Guard, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The next day's budget begins, and the log says why."""
    assert spend(guard, 6) == (6, 0, 4)
    assert warnings(caplog) == []
    clock.set_wall(clock.wall() + DAY)
    clock.advance(20)  # the balance is too old, and the next one is of a later moment
    assert spend(guard, 6) == (6, 0, 4)
    assert spend(guard, 1) == (7, 0, 3)
    [said] = warnings(caplog)
    assert said.startswith(f"The wall clock moved {DAY} s further than the monotonic clock")


def test_a_clock_that_is_set_back_reopens_nothing(
    guard: Guard, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What was spent remains spent, and nothing is logged."""
    assert spend(guard, 6) == (6, 0, 4)
    clock.set_wall(clock.wall() - DAY)
    assert spend(guard, 1) == (7, 0, 3)
    assert warnings(caplog) == []
