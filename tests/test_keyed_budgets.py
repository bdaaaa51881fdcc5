"""`KeyedBudgets`: windows that never reopen, rolling ones that give nothing back early, and memory.

Amounts are credits as whole numbers, times are seconds.
"""

import gc
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budgetguard._core.allowance import Allowance
from budgetguard._core.budget_windows import period
from budgetguard._core.calendar_budget import SMALLEST_JUMP
from budgetguard._core.clock import Instant
from budgetguard._core.keyed_budgets import CHECKS_BEFORE_QUIET, KeyedBudget, KeyedBudgets
from budgetguard._core.rolling_budget import BUCKETS

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
NOON = datetime.fromisoformat("2024-06-03T12:00Z").timestamp()
DAILY = period("day")


class Shop:
    """The budgets of one account, and its two clocks, which begin at noon in UTC."""

    def __init__(self) -> None:
        self.budgets = KeyedBudgets()
        self.mono = 5000.0
        self.wall = NOON

    @property
    def now(self) -> Instant:
        return Instant(self.mono, self.wall)

    def advance(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds

    def find(
        self, key: Any = "ann", per: Any = "day", limit: int = 100, **more: Any
    ) -> KeyedBudget:
        name = more.get("name", "daily")
        return self.budgets.find(name, key, period(per, more.get("tz")), limit, self.now)

    def spend(self, cost: int, key: Any = "ann", per: Any = "day", limit: int = 100) -> None:
        allowance = self.find(key, per, limit).current(self.now)
        allowance.move(cost, 0)
        allowance.move(-cost, cost)

    def figures(self, key: Any = "ann", per: Any = "day") -> tuple[int, int, int]:
        """What is spent, held and left of a budget."""
        budget = self.find(key, per)
        allowance = budget.current(self.now)
        assert (allowance.limit, allowance.room) == (budget.limit, budget.left)
        assert (allowance.spent, allowance.held) == (budget.spent, budget.held)
        return budget.spent, budget.held, budget.left


@pytest.fixture
def shop() -> Shop:
    return Shop()


# Found again.


def test_a_budget_is_found_by_name_key_and_period(shop: Shop) -> None:
    """Equal ones find the same object; any other name, key, unit or zone has a budget of its own."""
    ann = shop.find()
    assert shop.find() is ann
    others = [
        shop.find("bob"),
        shop.find(None),
        shop.find(per="hour"),
        shop.find(tz="Asia/Kolkata"),
        shop.find(per=DAY),
        shop.find(name="weekly"),
    ]
    assert len({id(each) for each in [ann, *others]}) == 7
    assert shop.find(("team", 5)) is shop.find(("team", 5))
    assert (ann.name, ann.limit, others[-1].name) == ("daily", 100, "weekly")


@pytest.mark.parametrize("per", ["day", HOUR])
def test_a_changed_limit_counts_at_once(shop: Shop, per: Any) -> None:
    """For what is left of the running window; it may have fallen below what is spent."""
    shop.spend(60, per=per)
    allowance = shop.find(per=per, limit=80).current(shop.now)
    assert (allowance.limit, allowance.spent, allowance.held, allowance.room) == (80, 60, 0, 20)
    assert shop.find(per=per, limit=50).current(shop.now).room == -10
    assert shop.find(per=per, limit=200).current(shop.now).room == 140


@pytest.mark.parametrize("per", ["day", HOUR])
def test_an_overrun_is_recorded(shop: Shop, per: Any) -> None:
    """A call that cost more than it held leaves less than nothing."""
    allowance = shop.find(per=per).current(shop.now)
    allowance.move(90, 0)
    assert shop.figures(per=per) == (0, 90, 10)
    allowance.move(-90, 130)
    assert shop.figures(per=per) == (130, 0, -30)


@pytest.mark.parametrize("per", ["day", HOUR])
def test_a_key_is_shown_nowhere(shop: Shop, per: Any) -> None:
    """Neither the budget nor its allowance has a text with the key in it."""
    budget = shop.find("secret-user", per)
    assert "secret-user" not in f"{budget} {budget!r} {budget.current(shop.now)!r} {shop.budgets!r}"


# Hours, days and months.


def test_a_window_has_an_allowance_of_its_own(shop: Shop) -> None:
    """It is the same object until the window's end, and a new one from then on."""
    budget = shop.find()
    today = budget.current(shop.now)
    assert type(today) is Allowance
    assert budget.valid_until == budget.renews_at(shop.now) == NOON + 12 * HOUR
    shop.spend(100)
    shop.advance(12 * HOUR - 0.001)
    assert budget.current(shop.now) is today
    shop.advance(0.001)
    tomorrow = budget.current(shop.now)
    assert tomorrow is not today
    assert (tomorrow.room, today.room, budget.left) == (100, 0, 100)
    assert budget.valid_until == budget.renews_at(shop.now) == NOON + 36 * HOUR


def test_a_late_end_counts_in_the_window_that_admitted_the_call(shop: Shop) -> None:
    """Neither what it gives back nor an overrun changes the new window."""
    yesterday = shop.find().current(shop.now)
    yesterday.move(80, 0)
    shop.advance(DAY)
    assert shop.figures() == (0, 0, 100)
    yesterday.move(-80, 300)
    assert shop.figures() == (0, 0, 100)
    assert (yesterday.spent, yesterday.held, yesterday.room) == (300, 0, -200)


@pytest.mark.parametrize("back", [1.0, 13 * HOUR, 400 * DAY])
def test_a_clock_that_is_set_back_reopens_nothing(shop: Shop, back: float) -> None:
    """The day that was reached goes on, however often that happens."""
    shop.spend(100)
    shop.advance(12 * HOUR)
    budget = shop.find()
    today = budget.current(shop.now)
    shop.spend(100)
    for _ in range(3):
        shop.wall -= back
        shop.advance(HOUR)
        assert budget.current(shop.now) is today
        assert shop.figures() == (100, 0, 0)
    assert shop.budgets.take_clock_jump() is None


def test_a_clock_that_is_set_back_reopens_nothing_that_was_forgotten(shop: Shop) -> None:
    """Also where no budget of the later window is left."""
    shop.spend(100)
    shop.advance(DAY)
    for _ in range(3):
        shop.find("bob", HOUR)
    assert len(shop.budgets) == 1
    shop.wall -= DAY
    shop.spend(100)
    shop.wall += DAY - 1
    assert shop.figures() == (100, 0, 0)


def test_a_clock_that_was_far_ahead_delays_by_one_window(shop: Shop) -> None:
    """Once a whole day has passed by the monotonic clock, the day by the corrected clock begins."""
    shop.wall += 3650 * DAY
    shop.spend(100)
    shop.wall -= 3650 * DAY
    budget = shop.find()
    assert budget.renews_at(shop.now) == shop.wall + DAY
    shop.advance(DAY - 0.001)
    assert shop.figures() == (100, 0, 0)
    shop.advance(0.001)
    assert shop.figures() == (0, 0, 100)
    assert budget.valid_until == budget.renews_at(shop.now) == NOON + 36 * HOUR


def test_a_clock_that_is_an_hour_behind_changes_no_end(shop: Shop) -> None:
    """A day that is reached at its beginning, and then again, ends when clocks show its end."""
    shop.advance(12 * HOUR)
    shop.spend(100)
    shop.wall -= HOUR
    budget = shop.find()
    assert budget.renews_at(shop.now) == NOON + 36 * HOUR
    for _ in range(24):
        shop.advance(HOUR)
        assert shop.figures() == (100, 0, 0)
    shop.advance(HOUR)
    assert shop.figures() == (0, 0, 100)


def test_a_clock_that_is_set_forward_begins_a_window_and_is_reported_once(shop: Shop) -> None:
    """With by how much, and that a suspend looks like it."""
    shop.spend(100)
    shop.advance(HOUR)
    shop.wall += 11 * HOUR
    assert shop.figures() == (0, 0, 100)
    jump = shop.budgets.take_clock_jump()
    assert jump is not None
    assert jump.seconds == 11 * HOUR
    assert "moved 39600 s further" in str(jump)
    assert "was set forward, or the machine was suspended" in str(jump)
    shop.advance(DAY)
    shop.figures()
    assert shop.budgets.take_clock_jump() is None
    shop.wall += DAY
    shop.figures()
    shop.wall += DAY
    shop.figures()
    jump = shop.budgets.take_clock_jump()
    assert jump is not None
    assert jump.seconds == 2 * DAY


def test_a_clock_that_is_corrected_a_little_is_not_reported(shop: Shop) -> None:
    """A minute is, anything less is not, and neither is a clock that is set back."""
    for step in (SMALLEST_JUMP - 1, SMALLEST_JUMP - 1, -DAY):
        shop.figures()
        shop.wall += step
        shop.figures()
        assert shop.budgets.take_clock_jump() is None
    shop.wall += SMALLEST_JUMP
    shop.figures()
    assert shop.budgets.take_clock_jump() is not None


# Rolling windows.


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(0, 160)),
            st.tuples(st.just("admit"), st.integers(0, 9)),
            st.tuples(st.just("end"), st.integers(0, 12)),
            st.tuples(st.just("wall"), st.integers(-9999, 9999)),
            st.tuples(st.just("find"), st.integers(0, 3)),
        ),
        max_size=80,
    )
)
@example([("admit", 0), ("pass", 84), ("pass", 160), ("end", 1)])
def test_rolling_windows_give_back_neither_early_nor_later_than_stated(
    steps: list[tuple[str, int]],
) -> None:
    """Against a list of all calls; a window of a minute, in steps of a quarter of a second."""
    shop, window = Shop(), MINUTE
    ended: list[tuple[float, int]] = []
    running: list[tuple[float, int, Allowance]] = []
    for step, number in steps:
        if step == "pass":
            shop.advance(number / 4)
        elif step == "wall":
            shop.wall += number
        elif step == "find":
            shop.find(number)
        elif step == "admit":
            allowance = shop.find(per=window).current(shop.now)
            allowance.move(number, 0)
            running.append((shop.mono, number, allowance))
        elif running:
            admitted, cost, allowance = running.pop(number % len(running))
            allowance.move(-cost, number)
            ended.append((admitted, number))
        spent, held, left = shop.figures(per=window)
        assert held == sum(cost for _, cost, _ in running)
        assert left == 100 - held - spent
        least = sum(cost for admitted, cost in ended if shop.mono < admitted + window)
        late = window + window / BUCKETS
        most = sum(cost for admitted, cost in ended if shop.mono < admitted + late)
        assert least <= spent <= most
    for _, cost, allowance in running:
        allowance.move(-cost, cost)
    shop.advance(window + window / BUCKETS)
    assert shop.figures(per=window) == (0, 0, 100)
    assert shop.budgets.quiet(shop.now)


def test_a_rolling_window_gives_back_what_is_older(shop: Shop) -> None:
    """`renews_at` says when that begins: a 60th of the window after the first call's age at most."""
    budget = shop.find(per=HOUR)
    assert budget.renews_at(shop.now) is None
    shop.spend(30, per=HOUR)
    shop.advance(30 * MINUTE)
    shop.spend(50, per=HOUR)
    assert budget.renews_at(shop.now) == NOON + 61 * MINUTE
    shop.advance(31 * MINUTE - 0.001)
    assert shop.figures(per=HOUR) == (80, 0, 20)
    shop.advance(0.001)
    assert shop.figures(per=HOUR) == (50, 0, 50)
    assert budget.renews_at(shop.now) == NOON + 91 * MINUTE


def test_an_open_call_counts_beyond_the_window_and_then_gives_back_all(shop: Shop) -> None:
    """What it cost is older than the window, and so is an overrun."""
    budget = shop.find(per=HOUR)
    allowance = budget.current(shop.now)
    allowance.move(80, 0)
    allowance.move(0, 10)
    shop.advance(3 * HOUR)
    assert shop.figures(per=HOUR) == (0, 80, 20)
    assert budget.renews_at(shop.now) is None
    shop.spend(5, per=HOUR)
    allowance.move(-80, 500)
    assert shop.figures(per=HOUR) == (5, 0, 95)
    shop.advance(HOUR + MINUTE)
    assert shop.figures(per=HOUR) == (0, 0, 100)


def test_no_clock_that_is_set_frees_a_rolling_window(shop: Shop) -> None:
    """Forward or back: its time is that of the monotonic clock; and none needs to be reported."""
    shop.spend(100, per=HOUR)
    for step in (DAY, -2 * DAY, 3650 * DAY):
        shop.wall += step
        shop.advance(MINUTE)
        assert shop.figures(per=HOUR) == (100, 0, 0)
    assert shop.budgets.take_clock_jump() is None
    # While the machine is suspended, the monotonic clock may stand still.
    shop.wall += 10 * HOUR
    assert shop.figures(per=HOUR) == (100, 0, 0)
    shop.mono += HOUR
    assert shop.figures(per=HOUR) == (0, 0, 100)


def test_a_rolling_budget_is_asked_before_each_admission(shop: Shop) -> None:
    """A wall clock cannot tell until when its allowance may admit calls."""
    budget = shop.find(per=HOUR)
    budget.current(shop.now)
    assert budget.valid_until < shop.wall


@pytest.mark.parametrize("window", [0.5, HOUR, 366 * DAY])
def test_a_rolling_window_has_a_bounded_number_of_buckets(shop: Shop, window: float) -> None:
    """However many calls there are, and whether they cost anything."""
    allowances: dict[int, Allowance] = {}
    for _ in range(5000):
        allowance = shop.find(per=window).current(shop.now)
        allowances[id(allowance)] = allowance
        allowance.move(1, 0)
        allowance.move(-1, 1)
        shop.advance(window / 1000)
    assert len(allowances) <= 5 * BUCKETS + 1
    shop.advance(2 * window)
    free = {id(shop.find(per=window).current(shop.now))}
    for _ in range(100):
        shop.advance(window / 100)
        free.add(id(shop.find(per=window).current(shop.now)))
    assert len(free) <= 2


# Memory.


@pytest.mark.parametrize("per", ["day", DAY])
def test_a_million_keys_that_spend_nothing_are_not_remembered(shop: Shop, per: Any) -> None:
    """What is whole and referred to by nobody is forgotten by the next calls."""
    for number in range(10_000):
        shop.find(number, per).current(shop.now)
        assert len(shop.budgets) <= 3


@pytest.mark.parametrize("per", ["day", DAY])
def test_what_is_spent_or_held_is_remembered(shop: Shop, per: Any) -> None:
    """However many other keys there are; of those that are whole, no more than of the rest."""
    shop.spend(100, "ann", per)
    allowance = shop.find("bob", per).current(shop.now)
    allowance.move(70, 0)
    for number in range(1000):
        shop.spend(1, number, per)
    for number in range(5000):
        shop.find(-number, per)
    assert len(shop.budgets) <= 2 * 1002 + 3
    assert shop.figures("ann", per) == (100, 0, 0)
    assert shop.figures("bob", per) == (0, 70, 30)
    assert all(shop.figures(number, per) == (1, 0, 99) for number in range(1000))
    allowance.move(-70, 70)
    assert shop.figures("bob", per) == (70, 0, 30)


@pytest.mark.parametrize("per", ["day", DAY])
def test_what_somebody_refers_to_is_remembered(shop: Shop, per: Any) -> None:
    """Who has entered a budget that is whole, and then spends, spends of the one that is found."""
    ann = shop.find("ann", per)
    for number in range(100):
        shop.find(number, per)
    shop.advance(3 * DAY)
    for number in range(100):
        shop.find(number, per)
    assert shop.find("ann", per) is ann
    ann.current(shop.now).move(0, 40)
    del ann
    gc.collect()
    for number in range(100):
        shop.find(number, per)
    assert shop.figures("ann", per) == (40, 0, 60)


@pytest.mark.parametrize(("per", "later"), [("day", DAY), (DAY, DAY * 61 / 60)])
def test_a_window_that_ends_is_forgotten_bit_by_bit(shop: Shop, per: Any, later: float) -> None:
    """No call forgets more than a few, and half as many calls as there are keys forget all."""
    for number in range(2000):
        shop.spend(1, number, per)
    shop.advance(later)
    before = len(shop.budgets)
    for _ in range(1001):
        shop.find("ann", per)
        assert before - len(shop.budgets) <= 2
        before = len(shop.budgets)
    assert before == 1


def test_a_call_that_is_open_across_midnight_ends_although_its_budget_was_forgotten(
    shop: Shop,
) -> None:
    """It gives back to the allowance that admitted it, and the new day has its own."""
    yesterday = shop.find("ann").current(shop.now)
    yesterday.move(80, 0)
    shop.advance(DAY)
    for _ in range(3):
        shop.find("bob")
    shop.spend(30)
    yesterday.move(-80, 90)
    assert shop.figures() == (30, 0, 70)


@pytest.mark.parametrize(("per", "later"), [("day", DAY), (DAY, DAY * 61 / 60)])
def test_when_an_account_may_be_dropped(shop: Shop, per: Any, later: float) -> None:
    """When nothing is held or spent in a running window, whoever refers to its budgets."""
    assert shop.budgets.quiet(shop.now)
    budget = shop.find(per=per)
    assert shop.budgets.quiet(shop.now)
    allowance = budget.current(shop.now)
    allowance.move(10, 0)
    assert not shop.budgets.quiet(shop.now)
    allowance.move(-10, 0)
    assert shop.budgets.quiet(shop.now)
    shop.spend(10, per=per)
    assert not shop.budgets.quiet(shop.now)
    shop.advance(later)
    assert shop.budgets.quiet(shop.now)


def test_an_account_with_many_budgets_is_not_searched_at_once(shop: Shop) -> None:
    """One that is not whole is found in the end, wherever it is."""
    for number in range(2 * CHECKS_BEFORE_QUIET + 100):
        shop.spend(1, number)
    shop.advance(DAY)
    shop.spend(1, "ann")
    answers = [shop.budgets.quiet(shop.now) for _ in range(5)]
    assert answers == [False] * 5
    assert len(shop.budgets) == 1
    shop.advance(DAY)
    assert shop.budgets.quiet(shop.now)


def interrupted(call: Callable[[], object], line: int) -> bool:
    """Whether the call came to that many lines of the module, and was interrupted at the last."""
    module, left = KeyedBudgets.find.__code__.co_filename, line

    def step(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != module:
            return None
        left -= event == "line"
        if not left:
            raise KeyboardInterrupt
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_loses_nothing() -> None:
    """Wherever it comes, what is spent is remembered, and so is what somebody refers to."""
    line, shop = 1, Shop()
    ann = shop.find("ann")
    shop.spend(100, "bob")
    while interrupted(partial(shop.find, "cleo"), line):
        assert shop.find("ann") is ann
        assert shop.figures("bob") == (100, 0, 0)
        # Tomorrow, only the new budget has spent something.
        shop.advance(12 * HOUR)
        shop.spend(50, "cleo")
        for _ in range(5):
            assert not shop.budgets.quiet(shop.now)
        line, shop = line + 1, Shop()
        ann = shop.find("ann")
        shop.spend(100, "bob")
    assert line > 20
