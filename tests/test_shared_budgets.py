"""`SharedBudgets`: the keyed budgets of several processes, compared with a list of every call.

Amounts are credits as whole numbers, times are seconds.
"""

import json
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from budgetguard._core.budget_shares import MOST_DEAD
from budgetguard._core.shared_budgets import (
    BUCKETS,
    MOST_BEHIND,
    SharedBudgets,
    bucket_end,
    rebased,
)
from budgetguard._core.store_messages import TICK, BudgetNeed, BudgetUse, BudgetView, Need
from budgetguard._core.virtual_clock import VirtualClock

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
NOON = datetime.fromisoformat("2024-06-03T12:00Z").timestamp()


def day(wall: float, budget: str = "daily", limit: int = 100, length: float = DAY) -> BudgetNeed:
    """What a member needs of a daily budget when its wall clock shows `wall`."""
    start = wall // length * length
    return BudgetNeed(budget, limit, start, start + length)


def rolling(seconds: float = 60.0, budget: str = "rolling", limit: int = 100) -> BudgetNeed:
    """What a member needs of a rolling budget."""
    return BudgetNeed(budget, limit, rolling=seconds)


def need(cost: int, *budgets: BudgetNeed, amount: int | None = None) -> Need:
    """A caller that needs its cost, or `amount`, in each of these budgets."""
    return Need(1, cost if amount is None else amount, cost, budgets=budgets)


def use(of: BudgetNeed, window: float, held: int, spent: int) -> BudgetUse:
    """What a member tells about a window of that budget."""
    return BudgetUse(of.budget, window, held, spent, of.until, of.rolling)


def spend(
    budgets: SharedBudgets, member: str, cost: int, of: BudgetNeed, now: float = 0.0
) -> float:
    """A call is granted and reported as finished; returns the window that admitted it."""
    (window,) = budgets.take(member, need(cost, of), at(now))
    budgets.report(member, (use(of, window, 0, cost),), at(now))
    return window


def at(now: float, behind: float = 0.0) -> VirtualClock:
    """The account's time, which may be so many seconds later."""
    clock = VirtualClock()
    clock.now, clock.behind = now, behind
    return clock


@pytest.fixture
def budgets() -> SharedBudgets:
    return SharedBudgets()


# Grants.


def test_what_all_members_hold_and_spent_counts(budgets: SharedBudgets) -> None:
    """There is room for as much as the limit leaves beside it."""
    spend(budgets, "ann", 30, day(NOON))
    budgets.take("bob", need(20, day(NOON)), at(0.0))
    assert budgets.figures("daily", NOON - 12 * HOUR) == (100, 30, 20)
    assert budgets.fits(need(50, day(NOON)), at(0.0)) is None
    assert budgets.fits(need(51, day(NOON)), at(0.0)) == "daily"
    assert budgets.fits(need(10, day(NOON), amount=51), at(0.0)) == "daily"


def test_the_first_budget_without_room_is_named(budgets: SharedBudgets) -> None:
    """Budgets are given from the innermost on, and a call that needs nothing fits in any."""
    inner, outer = rolling(limit=10), day(NOON, limit=5)
    assert budgets.fits(need(11, inner, outer), at(0.0)) == "rolling"
    assert budgets.fits(need(7, inner, outer), at(0.0)) == "daily"
    assert budgets.fits(need(5, inner, outer), at(0.0)) is None
    budgets.take("ann", need(20, inner, outer), at(0.0))
    assert budgets.fits(need(0, inner, outer), at(0.0)) is None


@pytest.mark.parametrize("of", [day(NOON), rolling()])
def test_a_call_is_forced_beyond_the_limit(budgets: SharedBudgets, of: BudgetNeed) -> None:
    """An account may let calls in although their cost is not covered: they count all the same."""
    (window,) = budgets.take("ann", need(130, of), at(0.0))
    assert budgets.figures(of.budget, window) == (100, 0, 130)
    assert budgets.fits(need(1, of), at(0.0)) == of.budget


@pytest.mark.parametrize("kind", ["daily", "rolling"])
def test_a_limit_counts_from_the_moment_at_which_it_is_named(
    budgets: SharedBudgets, kind: str
) -> None:
    """For all members, also where the need that names it does not fit."""

    def of(limit: int) -> BudgetNeed:
        return day(NOON, limit=limit) if kind == "daily" else rolling(budget=kind, limit=limit)

    window = spend(budgets, "ann", 60, of(100))
    assert budgets.fits(need(1, of(50)), at(0.0)) == kind
    assert budgets.figures(kind, window) == (50, 60, 0)
    assert budgets.fits(need(140, of(200)), at(0.0)) is None


def test_open_calls_may_free_what_is_missing(budgets: SharedBudgets) -> None:
    """And what is spent may not, so that nobody waits for it."""
    budgets.take("ann", need(70, day(NOON)), at(0.0))
    spend(budgets, "bob", 20, day(NOON))
    assert budgets.may_free(need(80, day(NOON)), at(0.0))
    assert not budgets.may_free(need(81, day(NOON)), at(0.0))
    assert budgets.may_free(need(0, day(NOON, limit=0)), at(0.0))


# Reports.


@pytest.mark.parametrize("of", [day(NOON), rolling()])
def test_a_report_says_what_is_held_in_all_and_spent_since_the_last(
    budgets: SharedBudgets, of: BudgetNeed
) -> None:
    """So what is granted with the next reply adds to it."""
    (window,) = budgets.take("ann", need(40, of), at(0.0))
    budgets.report("ann", (use(of, window, 30, 12),), at(0.0))
    assert budgets.figures(of.budget, window) == (100, 12, 30)
    budgets.take("ann", need(5, of), at(0.0))
    budgets.report("ann", (use(of, window, 5, 25),), at(0.0))
    assert budgets.figures(of.budget, window) == (100, 37, 5)
    budgets.report("ann", (), at(0.0))
    assert budgets.figures(of.budget, window) == (100, 37, 5)


@pytest.mark.parametrize("of", [day(NOON), rolling()])
def test_what_a_dead_member_held_counts_as_spent(budgets: SharedBudgets, of: BudgetNeed) -> None:
    """Nobody knows what its calls cost, and no balance will tell."""
    (window,) = budgets.take("ann", need(40, of), at(0.0))
    budgets.report("ann", (use(of, window, 40, 3),), at(0.0))
    budgets.died("ann", 0.0)
    assert budgets.figures(of.budget, window) == (100, 43, 0)
    budgets.died("ann", 0.0)
    assert budgets.figures(of.budget, window) == (100, 43, 0)


@pytest.mark.parametrize("of", [day(NOON), rolling()])
def test_a_member_that_comes_back_says_what_it_holds_and_spent(
    budgets: SharedBudgets, of: BudgetNeed
) -> None:
    """All of it, in place of what was believed."""
    (window,) = budgets.take("ann", need(40, of), at(0.0))
    spend(budgets, "bob", 7, of)
    budgets.died("ann", 0.0)
    budgets.reassert("ann", (use(of, window, 10, 5),), at(0.0))
    assert budgets.figures(of.budget, window) == (100, 12, 10)
    budgets.reassert("ann", (), at(0.0))
    assert budgets.figures(of.budget, window) == (100, 7, 0)


def test_a_member_that_left_holds_nothing(budgets: SharedBudgets) -> None:
    """What it spent remains, what it still held counts as spent, and nothing is its own any more."""
    of = day(NOON)
    window = spend(budgets, "ann", 30, of)
    budgets.take("ann", need(20, of), at(0.0))
    budgets.left("ann", 0.0)
    assert budgets.figures("daily", window) == (100, 50, 0)
    budgets.reassert("ann", (use(of, window, 0, 5),), at(0.0))
    assert budgets.figures("daily", window) == (100, 55, 0)


def test_a_process_that_dies_again_and_again_takes_little_memory(budgets: SharedBudgets) -> None:
    """Of many dead members only the last are told apart; what the others spent is a sum."""
    of = day(NOON)
    for n in range(10 * MOST_DEAD):
        budgets.take(f"p{n}", need(1, of), at(0.0))
        budgets.died(f"p{n}", 0.0)
    assert budgets.figures("daily", of.window) == (100, 10 * MOST_DEAD, 0)
    assert json.dumps(budgets.dump()).count('"p') == MOST_DEAD
    budgets.reassert(f"p{10 * MOST_DEAD - 1}", (), at(0.0))
    assert budgets.figures("daily", of.window) == (100, 10 * MOST_DEAD - 1, 0)


def test_an_empty_head_learns_from_the_members(budgets: SharedBudgets) -> None:
    """After a restart without any state: what the living hold and spent, and which day it is."""
    budgets.reassert("ann", (use(day(NOON), NOON - 12 * HOUR, 0, 60),), at(0.0))
    budgets.reassert("bob", (use(day(NOON), NOON - 12 * HOUR, 15, 5),), at(0.0))
    assert budgets.fits(need(21, day(NOON)), at(0.0)) == "daily"
    assert budgets.fits(need(21, day(NOON - DAY)), at(0.0)) == "daily"
    assert budgets.fits(need(20, day(NOON)), at(0.0)) is None


# Hours, days and months: whose clock counts.


def test_the_first_clock_that_reaches_a_day_begins_it(budgets: SharedBudgets) -> None:
    """For all members; one whose clock is behind is decided in the new day and reopens nothing."""
    yesterday = spend(budgets, "ann", 100, day(NOON))
    assert budgets.fits(need(1, day(NOON)), at(5.0)) == "daily"
    assert budgets.fits(need(1, day(NOON + DAY)), at(5.0)) is None
    spend(budgets, "bob", 99, day(NOON + DAY), 5.0)
    assert budgets.fits(need(2, day(NOON)), at(6.0)) == "daily"
    assert budgets.take("ann", need(1, day(NOON)), at(6.0)) == (yesterday + DAY,)
    assert budgets.figures("daily", yesterday + DAY) == (100, 99, 1)


def test_what_a_call_costs_after_midnight_belongs_to_the_day_that_admitted_it(
    budgets: SharedBudgets,
) -> None:
    """It neither counts in the new day nor gives anything back there."""
    (window,) = budgets.take("ann", need(80, day(NOON)), at(0.0))
    assert budgets.fits(need(100, day(NOON + DAY)), at(1.0)) is None
    budgets.report("ann", (use(day(NOON), window, 50, 300),), at(1.0))
    assert budgets.figures("daily", window) == (100, 300, 50)
    assert budgets.fits(need(100, day(NOON + DAY)), at(1.0)) is None
    budgets.report("ann", (use(day(NOON), window, 0, 50),), at(1.0))
    assert budgets.figures("daily", window) == (100, 0, 0)
    assert budgets.fits(need(100, day(NOON + DAY)), at(1.0)) is None


def test_a_call_is_extended_in_the_day_that_admitted_it(budgets: SharedBudgets) -> None:
    """However much is left of the new one."""
    (window,) = budgets.take("ann", need(80, day(NOON)), at(0.0))
    spend(budgets, "bob", 100, day(NOON + DAY), 1.0)
    more = BudgetNeed("daily", 100, window, window + DAY, admitted=window)
    assert budgets.fits(need(20, more), at(2.0)) is None
    assert budgets.fits(need(21, more), at(2.0)) == "daily"
    assert budgets.take("ann", need(20, more), at(2.0)) == (window,)
    assert budgets.figures("daily", window) == (100, 0, 100)
    assert budgets.window("daily") == (window + DAY, window + 2 * DAY)


@pytest.mark.parametrize("ahead", [DAY, 400 * DAY])
def test_a_clock_that_is_ahead_costs_the_others_one_day_at_most(
    budgets: SharedBudgets, ahead: float
) -> None:
    """They are decided in the day that it began, until that has lasted a day by the account's clock."""
    spend(budgets, "ann", 100, day(NOON + ahead))
    assert budgets.fits(need(1, day(NOON)), at(1.0)) == "daily"
    assert budgets.fits(need(1, day(NOON + DAY)), at(DAY - TICK)) == "daily"
    assert budgets.fits(need(1, day(NOON + DAY)), at(DAY)) is (None if ahead > DAY else "daily")
    assert budgets.fits(need(1, day(NOON + 2 * DAY)), at(2 * DAY)) is None


def test_clocks_that_disagree_for_ever_do_not_take_turns(budgets: SharedBudgets) -> None:
    """In a month there are about as many days as a month has, whatever two clocks say."""
    began = list[tuple[float, float] | None]()
    for minute in range(30 * 24 * 6):
        now = minute * 10 * MINUTE
        for ahead in (0.0, 4000 * DAY):
            budgets.fits(need(1, day(NOON + now + ahead)), at(now))
            if budgets.window("daily") not in began[-1:]:
                began.append(budgets.window("daily"))
    assert 30 <= len(began) <= 33


def test_a_late_report_does_not_begin_a_day_again(budgets: SharedBudgets) -> None:
    """A call that was admitted by a clock that was far ahead ends when the others are back in their day."""
    ahead = day(NOON + 400 * DAY)
    (window,) = budgets.take("ann", need(10, ahead), at(0.0))
    spend(budgets, "bob", 5, day(NOON + DAY), DAY)
    budgets.report("ann", (use(ahead, window, 8, 0),), at(2.5 * DAY))
    assert budgets.window("daily") == (NOON + 12 * HOUR, NOON + 36 * HOUR)
    assert budgets.fits(need(96, day(NOON + 1.4 * DAY)), at(2.5 * DAY)) == "daily"


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0, 7, 24, 24 * 500])), max_size=60))
def test_a_day_that_nobody_is_behind_begins_at_once(steps: list[tuple[int, int]]) -> None:
    """And a day is never left for an earlier one before it has lasted as long as a day."""
    budgets, now, reached, clocks = SharedBudgets(), 0.0, -inf, set[int]()
    before: tuple[float, float] | None = None
    for hours, ahead in steps:
        now += hours * HOUR
        clocks.add(ahead)
        asked = day(NOON + now + ahead * HOUR)
        budgets.fits(need(1, asked), at(now))
        current = budgets.window("daily")
        assert current is not None
        if len(clocks) == 1:
            assert current == (asked.window, asked.until)
        if before is None or current > before:
            reached = now
        elif current < before:
            assert now >= reached + DAY
            reached = now
        before = current


# Rolling budgets.


def test_a_clock_that_catches_up_ends_no_window_early(budgets: SharedBudgets) -> None:
    """A call may be as late as the account's time may be, and what it took is given back as late."""
    budgets.take("ann", need(100, rolling()), at(0.5, behind=15.0))
    assert budgets.fits(need(1, rolling()), at(76.0 - TICK)) == "rolling"
    budgets.report("ann", (use(rolling(), 16.0, 0, 100),), at(20.0))
    assert budgets.fits(need(1, rolling()), at(76.0 - TICK)) == "rolling"
    assert budgets.fits(need(100, rolling()), at(76.0)) is None
    hour = day(NOON, "hourly", length=HOUR)
    budgets.take("ann", need(60, hour), at(100.0, behind=15.0))
    assert budgets.fits(need(41, day(NOON - HOUR, "hourly", length=HOUR)), at(3714.0)) == "hourly"
    assert budgets.fits(need(41, day(NOON - HOUR, "hourly", length=HOUR)), at(3715.0)) is None


def test_a_rolling_budget_gives_back_bucket_by_bucket(budgets: SharedBudgets) -> None:
    """Not before a call's admission is as old as the window, and a 60th of it later at most."""
    first = spend(budgets, "ann", 60, rolling(), 0.5)
    second = spend(budgets, "bob", 40, rolling(), 1.0)
    assert (first, second) == (1.0, 2.0)
    assert budgets.gives_back_in("rolling", 1.0) == 60.0
    assert budgets.fits(need(1, rolling()), at(61.0 - TICK)) == "rolling"
    assert budgets.fits(need(60, rolling()), at(61.0)) is None
    assert budgets.fits(need(61, rolling()), at(61.0)) == "rolling"
    assert budgets.fits(need(100, rolling()), at(62.0)) is None
    assert budgets.gives_back_in("rolling", 62.0) is None


def test_what_was_given_back_is_not_given_back_once_more(budgets: SharedBudgets) -> None:
    """A member that was believed to be dead comes back when what it held counts no more."""
    of = rolling()
    (window,) = budgets.take("ann", need(40, of), at(0.0))
    budgets.take("bob", need(10, of), at(0.0))
    budgets.died("ann", 0.0)
    assert budgets.figures("rolling", window) == (100, 40, 10)
    later = window + 60.0
    assert budgets.fits(need(90, of), at(later)) is None
    budgets.reassert("ann", (), at(later))
    assert budgets.figures("rolling", window) == (100, 0, 10)


def test_an_open_call_counts_however_old_it_is(budgets: SharedBudgets) -> None:
    """Once its bucket is past it gives back all that it held, whatever it cost."""
    (window,) = budgets.take("ann", need(70, rolling()), at(0.0))
    assert budgets.fits(need(31, rolling()), at(500.0)) == "rolling"
    budgets.report("ann", (use(rolling(), window, 20, 50),), at(500.0))
    assert budgets.fits(need(80, rolling()), at(500.0)) is None
    assert budgets.figures("rolling", window) == (100, 0, 20)
    budgets.report("ann", (use(rolling(), window, 0, 20),), at(500.0))
    assert budgets.figures("rolling", window) == (100, 0, 0)


def test_a_call_that_holds_nothing_keeps_its_bucket(budgets: SharedBudgets) -> None:
    """What it turns out to cost is given back when its admission is as old as the window."""
    (window,) = budgets.take("ann", need(0, rolling()), at(0.0))
    budgets.report("ann", (use(rolling(), window, 0, 100),), at(50.0))
    assert budgets.fits(need(1, rolling()), at(60.0)) == "rolling"
    assert budgets.fits(need(100, rolling()), at(61.0)) is None


@pytest.mark.parametrize("seconds", [TICK, 0.1, 1.0, 3600.0, 366 * DAY])
def test_buckets_begin_at_the_same_times_for_all(seconds: float) -> None:
    """Whoever asks first: so a bucket has the same stamp in the next epoch."""
    width = bucket_end(0.0, seconds)
    assert seconds / BUCKETS <= width <= seconds / BUCKETS + TICK
    for now in (0.0, 7.25, 1e6, 1e9 + TICK):
        end = bucket_end(now, seconds)
        assert now < end <= now + width
        assert bucket_end(end - TICK, seconds) == end
        assert bucket_end(end, seconds) == end + width


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.001, 1e5))
def test_a_bucket_moves_to_another_clock_late_and_never_early(
    now: float, other: float, seconds: float
) -> None:
    """By less than its own length."""
    now, other = now // TICK * TICK, other // TICK * TICK
    before = bucket_end(now, seconds)
    after = rebased(before, seconds, other - now)
    assert 0 <= (after - other) - (before - now) < bucket_end(0.0, seconds)
    assert after == bucket_end(after - TICK, seconds)
    assert rebased(before, seconds, 0.0) == before


# Memory and state.


def test_whole_budgets_are_forgotten(budgets: SharedBudgets) -> None:
    """A budget in which nothing was spent goes after a few messages."""
    for n in range(1000):
        budgets.fits(need(1, day(NOON, f"d{n}"), rolling(budget=f"r{n}")), at(0.0))
        budgets.take("ann", need(1, day(NOON, "held")), at(0.0))
        budgets.forget(0.0)
    assert len(budgets) <= 8
    assert budgets.figures("held", NOON - 12 * HOUR) == (100, 0, 1000)


@pytest.mark.parametrize("length", [HOUR, DAY, 30 * DAY])
def test_a_window_is_forgotten_when_no_clock_can_reopen_it(
    budgets: SharedBudgets, length: float
) -> None:
    """Its length after it was begun, and as long after that as clocks may be behind."""
    of = day(NOON, length=length)
    spend(budgets, "ann", 100, of)
    late = length + min(length, MOST_BEHIND)
    budgets.forget(late - TICK)
    assert budgets.fits(need(1, of), at(late - TICK)) == "daily"
    budgets.forget(late)
    assert len(budgets) == 0


def test_a_day_without_calls_does_not_reopen_the_last_one(budgets: SharedBudgets) -> None:
    """It is remembered although nothing was spent in it, as a clock may be behind."""
    spend(budgets, "ann", 100, day(NOON))
    budgets.fits(need(1, day(NOON + DAY)), at(12 * HOUR))
    budgets.forget(12 * HOUR)
    assert budgets.take("bob", need(1, day(NOON)), at(13 * HOUR)) == (NOON + 12 * HOUR,)


def test_what_is_held_is_never_forgotten(budgets: SharedBudgets) -> None:
    """A call may be open for longer than any window."""
    (window,) = budgets.take("ann", need(10, day(NOON)), at(0.0))
    budgets.take("ann", need(10, rolling()), at(0.0))
    for _ in range(5):
        budgets.forget(400 * DAY)
    assert (len(budgets), budgets.figures("daily", window)) == (2, (100, 0, 10))


def test_the_state_is_json(budgets: SharedBudgets) -> None:
    """Budgets that are loaded from it have the same state, and go on in the same way."""
    assert SharedBudgets.load({}).dump() == budgets.dump() == {}
    budgets.fits(need(1, rolling(limit=7)), at(0.0))
    spend(budgets, "ann", 5, day(NOON + 400 * DAY))
    spend(budgets, "ann", 5, day(NOON + DAY), DAY)
    budgets.take("bob", need(3, day(NOON + DAY), rolling(1 / 3, "short")), at(DAY))
    spend(budgets, "bob", 3, rolling(0.1, "shorter"), DAY + TICK)
    budgets.died("bob", DAY + TICK)
    budgets.reassert("cid", (use(day(NOON, "new"), NOON, 1, 2),), at(DAY + TICK))
    state = json.loads(json.dumps(budgets.dump(), allow_nan=False))
    loaded = SharedBudgets.load(state)
    assert loaded.dump() == state == budgets.dump()
    loaded.take("ann", need(1, day(NOON, "new")), at(0.0))
    assert state == budgets.dump() != loaded.dump()


def test_members_are_shown_the_current_window(budgets: SharedBudgets) -> None:
    """Of a rolling budget, all of its buckets."""
    spend(budgets, "ann", 30, day(NOON - DAY))
    window = spend(budgets, "ann", 20, day(NOON))
    budgets.take("bob", need(5, day(NOON), rolling()), at(7.0))
    assert budgets.view("daily", 7.0) == BudgetView("daily", 20, 5, window, window + DAY, DAY - 7.0)
    assert budgets.view("rolling", 7.0) == BudgetView("rolling", 0, 5)
    assert budgets.view("other", 7.0) is None


def test_figures_of_what_is_not_known(budgets: SharedBudgets) -> None:
    """There are none."""
    assert budgets.figures("daily", 0.0) == (0, 0, 0)
    assert budgets.window("daily") is None
    assert budgets.gives_back_in("daily", 0.0) is None


def test_the_end_of_a_day_is_certain_by_the_accounts_clock(budgets: SharedBudgets) -> None:
    """Its wall time may be far away, by the clock of a member that was ahead."""
    budgets.fits(need(1, day(NOON)), at(5.0))
    assert budgets.gives_back_in("daily", 6.0) == DAY - 1.0
    assert budgets.gives_back_in("daily", 2 * DAY) == 0.0


# Everything at once.


@dataclass
class Call:
    """A call, and what the budgets were told that it holds and cost; `windows` by budget."""

    member: str
    windows: dict[str, float]
    admitted: float
    held: int
    cost: int = 0
    told_held: int = 0
    told_cost: int = 0
    forgotten: set[str] = field(default_factory=set)


DAYS = ("day one", "day two")
ROLLING = {"minute": 60.0, "some days": 3 * DAY}
LIMIT = 40
AHEAD = [0.0, -600.0, -DAY, 2 * HOUR, DAY, 500 * DAY]


class EveryCall(RuleBasedStateMachine):
    """Members with clocks of their own, and a list of every call there ever was."""

    def __init__(self) -> None:
        super().__init__()
        self.budgets = SharedBudgets()
        self.now = 1000.0
        self.wall = NOON
        self.ahead: dict[str, float] = {}
        self.dead: set[str] = set()
        self.reached: dict[str, tuple[tuple[float, float], float]] = {}
        self.calls: list[Call] = []
        self.rebased = 0
        self.saved: tuple[str, list[Call], set[str], int] | None = None
        self.born = 0

    @initialize()
    def begin(self) -> None:
        """Two members with clocks that are right."""
        self.join(0.0)
        self.join(0.0)

    @rule(ahead=st.sampled_from(AHEAD))
    def join(self, ahead: float) -> None:
        """A new member."""
        if len(self.ahead) < 5:
            self.born += 1
            self.ahead[f"m{self.born}"] = ahead
            self.budgets.reassert(f"m{self.born}", (), at(self.now))

    @rule(
        seconds=st.sampled_from([0.5, 1.0, 30.0, 61.0, HOUR, 11 * HOUR, DAY, 3 * DAY]),
        spread=st.sampled_from([0.0, 0.75]),
    )
    def wait(self, seconds: float, spread: float) -> None:
        """Time passes."""
        self.now += seconds + spread
        self.wall += seconds + spread

    @rule(data=st.data(), ahead=st.sampled_from(AHEAD))
    def set_clock(self, data: st.DataObject, ahead: float) -> None:
        """A member's wall clock is set."""
        self.ahead[self.pick(data)] = ahead

    def pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.ahead)), "member")

    def of(self, budget: str, member: str) -> BudgetNeed:
        """What a call of that member takes from a budget now."""
        if budget in ROLLING:
            return rolling(ROLLING[budget], budget, LIMIT)
        return day(self.wall + self.ahead[member], budget, LIMIT)

    def told(self, budget: str, window: float) -> tuple[int, int]:
        """What was spent and is held in a window, call by call."""
        calls = [call for call in self.calls if budget in call.windows]
        spent = [call for call in calls if budget not in call.forgotten]
        if budget in ROLLING:
            spent = [each for each in spent if self.now < each.windows[budget] + ROLLING[budget]]
        else:
            calls = [call for call in calls if call.windows[budget] == window]
            spent = [call for call in spent if call.windows[budget] == window]
        return sum(call.told_cost for call in spent), sum(call.told_held for call in calls)

    @rule(
        data=st.data(),
        cost=st.integers(0, 12),
        more=st.integers(0, 4),
        names=st.lists(st.sampled_from([*DAYS, *ROLLING]), min_size=1, unique=True),
        forced=st.sampled_from([False, False, False, True]),
    )
    def call(
        self, data: st.DataObject, cost: int, more: int, names: list[str], *, forced: bool
    ) -> None:
        """A member reports, and a caller of its is granted or not."""
        member = self.pick(data)
        self.tell(member)
        asked = need(
            cost, *(self.of(budget, member) for budget in names), amount=max(cost + more, 1)
        )
        over = self.budgets.fits(asked, at(self.now))
        for budget in names[: names.index(over) + 1 if over else None]:
            window = self.settle_windows(budget, self.of(budget, member))
            spent, held = self.told(budget, window)
            assert (spent + held + asked.amount > LIMIT) == (budget == over)
            if spent + asked.amount > LIMIT:
                assert not self.budgets.may_free(asked, at(self.now))
        if over is None:
            assert self.budgets.may_free(asked, at(self.now))
        if over is None or forced:
            windows = self.budgets.take(member, asked, at(self.now))
            call = Call(member, dict(zip(names, windows, strict=True)), self.now, cost)
            call.told_held = cost
            self.calls.append(call)
            for budget in DAYS:
                if budget in names:
                    window = self.settle_windows(budget, self.of(budget, member))
                    assert call.windows[budget] == window

    def settle_windows(self, budget: str, asked: BudgetNeed) -> float:
        """Which window a budget is in; it never went back too early."""
        if budget in ROLLING:
            return 0.0
        current = self.budgets.window(budget)
        assert current is not None
        before = self.reached.get(budget)
        if before is None or before[0] != current:
            assert before is None or current > before[0] or self.now >= before[1] + DAY
            # Somebody asked for it, or told of it.
            assert current == (asked.window, asked.until) or any(
                call.windows.get(budget) == current[0] for call in self.calls
            )
            self.reached[budget] = current, self.now
        elif asked.window < current[0]:
            assert self.now < before[1] + DAY
        return current[0]

    @rule(data=st.data(), cost=st.integers(0, 20), told=st.booleans())
    @precondition(lambda self: any(call.held for call in self.calls))
    def end(self, data: st.DataObject, cost: int, *, told: bool) -> None:
        """A call ends at some cost."""
        call = data.draw(st.sampled_from([call for call in self.calls if call.held]), "call")
        call.held, call.cost = 0, cost
        if told and call.member in self.ahead:
            self.tell(call.member)

    @rule(data=st.data(), more=st.integers(1, 5))
    @precondition(lambda self: any(c.held and c.member in self.ahead for c in self.calls))
    def extend(self, data: st.DataObject, more: int) -> None:
        """A call turns out to need more, in the windows that admitted it."""
        calls = [call for call in self.calls if call.held and call.member in self.ahead]
        call = data.draw(st.sampled_from(calls), "call")
        self.tell(call.member)
        asked = need(
            more,
            *(
                BudgetNeed(budget, LIMIT, window, window + DAY, ROLLING.get(budget), window)
                for budget, window in call.windows.items()
            ),
        )
        for budget, window in call.windows.items():
            spent, held = self.told(budget, window)
            if spent + held + more > LIMIT:
                assert self.budgets.fits(asked, at(self.now)) == budget
                return
        assert self.budgets.fits(asked, at(self.now)) is None
        windows = self.budgets.take(call.member, asked, at(self.now))
        assert windows == tuple(call.windows.values())
        call.held += more
        call.told_held += more

    def uses(self, member: str, *, again: bool) -> tuple[BudgetUse, ...]:
        """What a member tells: all, or what has changed."""
        found: dict[tuple[str, float], list[int]] = {}
        for call in self.calls:
            if call.member == member:
                for budget, window in call.windows.items():
                    figures = found.setdefault((budget, window), [0, 0])
                    figures[0] += call.held
                    figures[1] += call.cost - (0 if again else call.told_cost)
        return tuple(
            BudgetUse(budget, window, held, spent, window + DAY, ROLLING.get(budget))
            for (budget, window), (held, spent) in found.items()
        )

    def tell(self, member: str, *, again: bool = False) -> None:
        """A member reports or reasserts."""
        uses = self.uses(member, again=again)
        if again:
            self.budgets.reassert(member, uses, at(self.now))
        else:
            self.budgets.report(member, uses, at(self.now))
        for call in self.calls:
            if call.member == member:
                call.told_held, call.told_cost = call.held, call.cost
                if again:
                    call.forgotten.clear()
        self.look()

    @rule(data=st.data(), again=st.booleans())
    def beat(self, data: st.DataObject, *, again: bool) -> None:
        """A member has nothing to do."""
        self.tell(self.pick(data), again=again)

    @rule(data=st.data())
    @precondition(lambda self: len(self.ahead) > 1)
    def die(self, data: st.DataObject) -> None:
        """A member is not heard any more."""
        member = self.pick(data)
        del self.ahead[member]
        self.dead.add(member)
        self.believe_dead(member)

    def believe_dead(self, member: str) -> None:
        self.budgets.died(member, self.now)
        for call in self.calls:
            if call.member == member:
                call.told_cost += call.told_held
                call.told_held = 0

    @rule(data=st.data(), ahead=st.sampled_from(AHEAD))
    @precondition(lambda self: self.dead)
    def come_back(self, data: st.DataObject, ahead: float) -> None:
        """A member was only silent."""
        member = data.draw(st.sampled_from(sorted(self.dead)), "member")
        self.dead.discard(member)
        self.ahead[member] = ahead
        self.tell(member, again=True)

    @rule(data=st.data())
    @precondition(lambda self: len(self.ahead) > 1)
    def leave(self, data: st.DataObject) -> None:
        """A member ends all its calls, and goes."""
        member = self.pick(data)
        for call in self.calls:
            if call.member == member and call.held:
                call.cost, call.held = call.held, 0
        self.tell(member)
        del self.ahead[member]
        self.budgets.left(member, self.now)

    @rule()
    def save(self) -> None:
        """The state is copied to another server."""
        state = json.dumps(self.budgets.dump())
        assert SharedBudgets.load(json.loads(state)).dump() == self.budgets.dump()
        self.saved = state, deepcopy(self.calls), set(self.ahead), self.rebased

    @rule()
    @precondition(lambda self: self.saved)
    def fail_over(self) -> None:
        """That server takes over: what happened since is lost, but members say what they know."""
        assert self.saved is not None
        state, calls, lived, times = self.saved
        self.saved = None
        if times != self.rebased:
            return
        self.budgets = SharedBudgets.load(json.loads(state))
        for call in self.calls:
            call.told_held = call.told_cost = 0
        for call, then in zip(self.calls, calls, strict=False):
            call.told_held, call.told_cost = then.told_held, then.told_cost
            call.forgotten = then.forgotten
        self.reached.clear()
        for member in sorted(lived - self.ahead.keys()):
            self.believe_dead(member)
        for member in sorted(self.ahead):
            self.tell(member, again=True)

    @rule(now=st.sampled_from([0.0, 17.5, 1e7]))
    def restart(self, now: float) -> None:
        """The state is lost, and its clock begins anew; members move their stamps."""
        self.rebased += 1
        self.budgets = SharedBudgets()
        for call in self.calls:
            call.told_held = call.told_cost = 0
            call.admitted += now - self.now
            for budget, seconds in ROLLING.items():
                if budget in call.windows:
                    stamp = call.windows[budget]
                    call.windows[budget] = rebased(stamp, seconds, now - self.now)
        # Dead members never come back to tell; those who do know their own stamps.
        self.calls = [call for call in self.calls if call.member in self.ahead]
        self.dead.clear()
        self.now = now
        self.reached.clear()
        for member in sorted(self.ahead):
            self.tell(member, again=True)

    @rule()
    def forget(self) -> None:
        """What is over is forgotten, as after each message."""
        self.budgets.forget(self.now)

    @invariant()
    def look(self) -> None:
        """The figures are those of the list."""
        known = self.budgets.dump()
        for budget in (*DAYS, *ROLLING):
            calls = [call for call in self.calls if budget in call.windows]
            if budget not in known:
                self.may_be_forgotten(budget)
                for call in calls:
                    assert not call.told_held
                    call.forgotten.add(budget)
                continue
            current = self.budgets.window(budget)
            for window in {call.windows[budget] for call in calls}:
                spent, held = self.told(budget, window)
                if budget in DAYS and not held and (current is None or window != current[0]):
                    # Nothing will be decided there, unless a clock is set back by far.
                    for call in calls:
                        if call.windows[budget] == window:
                            call.forgotten.add(budget)
                    spent = 0
                if budget in ROLLING:
                    self.within_bounds(budget, calls, spent)
                    found = self.at_now(budget)
                else:
                    found = self.budgets.figures(budget, window)[1:]
                assert found == (spent, held)

    def at_now(self, budget: str) -> tuple[int, int]:
        """The figures of a rolling budget, once a need has been looked at."""
        self.budgets.fits(need(0, rolling(ROLLING[budget], budget, LIMIT)), at(self.now))
        return self.budgets.figures(budget, 0.0)[1:]

    def may_be_forgotten(self, budget: str) -> None:
        """A day that is not remembered is over, or nothing was spent in it."""
        if budget in self.reached:
            (window, _), reached = self.reached.pop(budget)
            spent, held = self.told(budget, window)
            assert not held
            assert not spent or self.now >= reached + DAY + min(DAY, MOST_BEHIND)

    def within_bounds(self, budget: str, calls: list[Call], spent: int) -> None:
        """What was spent within the window counts, and nothing that is older by more than buckets."""
        seconds = ROLLING[budget]
        width = bucket_end(0.0, seconds)
        known = [call for call in calls if budget not in call.forgotten]
        least = [call.told_cost for call in known if self.now < call.admitted + seconds]
        late = seconds + width * (1 + self.rebased)
        most = [call.told_cost for call in known if self.now < call.admitted + late]
        assert sum(least) <= spent <= sum(most)


TestEveryCall = EveryCall.TestCase
TestEveryCall.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
