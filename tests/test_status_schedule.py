"""When the status of submitted work is requested: the pure decisions."""

import pytest

from budgetguard._core.status_schedule import (
    AT_ONCE,
    LEFT_ALONE,
    LIFE,
    LONGEST_PAUSE,
    RequestPause,
    StatusSchedule,
)


@pytest.fixture
def schedule() -> StatusSchedule:
    """Give that of work which was submitted at 1,000, and is given up after 900 s of silence."""
    return StatusSchedule(due=1045.0, submitted=1000.0, heard=1000.0, patience=900.0)


def test_each_reply_counts_as_hearing_of_it(schedule: StatusSchedule) -> None:
    """Ours lead to the next request, the program's own to a longer pause."""
    schedule.answered(1045, 50)
    assert (schedule.due, schedule.over_at) == (1095, 1945)
    schedule.told(1060)
    assert (schedule.due, schedule.over_at) == (1060 + LEFT_ALONE, 1960)
    schedule.answered(1061, 30)
    assert (schedule.due, schedule.over_at) == (1060 + LEFT_ALONE, 1961)


def test_replies_that_tell_nothing(schedule: StatusSchedule) -> None:
    """They are no news: the pauses double, up to a bound, and the silence goes on."""
    pauses = []
    for _ in range(7):
        schedule.missed(2000, 30)
        pauses.append(schedule.due - 2000)
    assert pauses == [30, 60, 120, 240, 480, LONGEST_PAUSE, LONGEST_PAUSE]
    assert schedule.over_at == 1900
    schedule.answered(2000, 30)
    schedule.missed(2000, 30)
    assert schedule.due == 2030


def test_no_reply_makes_it_last_for_more_than_a_day(schedule: StatusSchedule) -> None:
    """Work that never ends is given up all the same."""
    schedule.told(1000 + LIFE - 1)
    assert schedule.over_at == 1000 + LIFE


def test_failures_pause_everything() -> None:
    """One request at a time, and twice as long after each failure; the provider may ask for more."""
    pause = RequestPause()
    assert (pause.at_once, pause.until) == (AT_ONCE, 0)
    pause.failed(100, 40, None)
    assert (pause.at_once, pause.until) == (1, 140)
    pause.failed(140, 40, None)
    assert pause.until == 140 + 80
    pause.failed(220, 40, 300)
    assert pause.until == 220 + 300
    for _ in range(9):
        pause.failed(pause.until, 60, None)
    now = pause.until
    pause.failed(now, 60, None)
    assert pause.until == now + LONGEST_PAUSE
    pause.ended()
    assert (pause.at_once, pause.until) == (AT_ONCE, 0)


def test_requests_that_fail_together_count_once() -> None:
    """Those that were under way when the first one failed say nothing new."""
    pause = RequestPause()
    for _ in range(AT_ONCE):
        pause.failed(100, 40, None)
    assert (pause.failures, pause.until) == (1, 140)
    pause.failed(100, 40, 50)
    assert (pause.failures, pause.until) == (1, 150)
