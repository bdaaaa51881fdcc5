"""`DrawnBudgets`: what a process tells the head of its keyed budgets, and what it remembers of them.

The head is a real one. Amounts are micro-credits, times are seconds.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from budgetguard._core.balance import Balance
from budgetguard._core.budget_windows import CalendarPeriod, RollingPeriod
from budgetguard._core.clock import Instant
from budgetguard._core.drawn_budgets import DrawnBudget, DrawnBudgets, DrawnWindow
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import BudgetUse, Join, Landing, Message, Need, Reply, Report

DAY = 86_400.0
NOON = datetime.fromisoformat("2024-06-03T12:00Z").timestamp()
DAILY = CalendarPeriod("day", UTC)
ROLLING = RollingPeriod(600.0)


class Process:
    """One member's budgets, and its session with the head."""

    def __init__(self, head: SharedHead) -> None:
        self.head = head
        self.budgets = DrawnBudgets("account")
        self.mono = 1000.0
        self.number = 0
        self.joins = True

    @property
    def now(self) -> Instant:
        """The time by its clocks."""
        return Instant(self.mono, NOON - 1000.0 + self.mono)

    def find(self, period: Any) -> DrawnBudget:
        """One user's budget of 100."""
        return self.budgets.find("user", "ada", period, 100, self.now)

    def report(self) -> tuple[BudgetUse, ...]:
        """What the next message tells."""
        return self.budgets.report(self.now, again=self.joins)

    def send(self, *needs: Need, **more: Any) -> Reply:
        """The next message takes effect, and is answered."""
        self.number += 1
        report = Report(budgets=self.report(), needs=needs)
        join = Join(None) if self.joins else None
        message = Message("me", self.number, self.head.epoch, report=report, join=join, **more)
        self.joins = False
        reply, _ = self.head.handle(message, self.mono)
        assert reply.status == "done"
        self.budgets.accept(needs, reply)
        self.budgets.see(reply.view, self.mono)
        return reply

    def know(self, credits: int) -> None:
        """Tell the balance."""
        right = self.send(refresh_after=self.head.now)
        balance = Balance(credits=Decimal(credits).scaleb(-6))
        self.send(landing=Landing(self.head.epoch, right.refresh_number, balance))

    def draw(self, period: Any, cost: int) -> DrawnWindow:
        """A call of that budget is granted; returns the window that it counts in."""
        budget = self.find(period)
        need = Need(7, cost, cost, budgets=(budget.needed(self.now, None),))
        assert self.send(need).granted == (7,)
        [window] = self.budgets.granted[7]
        return window

    def spend(self, period: Any, cost: int) -> DrawnWindow:
        """Such a call begins and ends, and the head is told."""
        window = self.draw(period, cost)
        window.move(cost, 0)
        window.move(-cost, cost)
        self.send()
        return window

    def figures(self, window: DrawnWindow) -> tuple[int, int, int]:
        """What the head knows of it."""
        assert window.window is not None
        return self.head.budgets.figures(window.budget.ident, window.window)


@pytest.fixture
def me() -> Process:
    """Give a process that has joined an account of 1,000."""
    process = Process(SharedHead("e1"))
    process.know(1000)
    return process


@pytest.mark.parametrize("period", [DAILY, ROLLING], ids=["daily", "rolling"])
def test_what_a_call_holds_and_costs_is_told_once(me: Process, period: Any) -> None:
    """The head knows what it granted; the figures here are the same as there at any time."""
    window = me.draw(period, 20)
    window.move(20, 0)
    assert window.budget.figures(window.window) == (0, 20)
    window.move(-20, 12)
    assert window.budget.figures(window.window) == (12, 0)
    for _ in range(3):
        me.send()
        assert window.budget.figures(window.window) == (12, 0)
        assert me.figures(window) == (100, 12, 0)
    assert not me.budgets.changed
    assert me.report() == ()


def test_a_call_that_was_granted_and_did_not_begin_holds_nothing(me: Process) -> None:
    """The head hears of that with the next message."""
    window = me.draw(DAILY, 20)
    assert me.figures(window) == (100, 0, 20)
    assert me.budgets.changed
    me.send()
    assert me.figures(window)[1:] == (0, 0)


@pytest.mark.parametrize("period", [DAILY, ROLLING], ids=["daily", "rolling"])
def test_another_head_is_told_all_that_was_spent(me: Process, period: Any) -> None:
    """And what is held, in as many messages that join as it takes."""
    window = me.spend(period, 30)
    me.draw(period, 5).move(5, 0)
    me.head = SharedHead("e2", regroup=60.0)
    for _ in range(2):
        me.joins = True
        me.send()
        assert me.figures(window)[1:] == (30, 5)


def test_stamps_move_with_the_clock_of_another_head(me: Process) -> None:
    """What was spent then is given back no earlier than it would have been, and a little later at most."""
    window = me.spend(ROLLING, 30)
    before = window.window
    assert before is not None
    me.budgets.rebase(500.0)
    assert window.window is not None
    assert before + 500.0 <= window.window < before + 500.0 + ROLLING.seconds / 60


def test_a_member_that_left_does_not_tell_again_what_it_had_spent(me: Process) -> None:
    """The head keeps that, and counts what was held then as spent."""
    window = me.spend(DAILY, 30)
    me.send(leave=True)
    me.budgets.leave()
    me.joins = True
    me.send()
    assert me.figures(window) == (100, 30, 0)


@pytest.mark.parametrize(
    ("period", "lasts"),
    [(DAILY, DAY / 2 + DAY), (ROLLING, ROLLING.seconds)],
    ids=["daily", "rolling"],
)
def test_what_was_spent_is_remembered_as_long_as_a_head_may_have_to_hear_it(
    me: Process, period: Any, lasts: float
) -> None:
    """A day, until no clock can reopen it; the last minutes, until all of it is given back."""
    me.spend(period, 30)
    me.mono += lasts - 5.0
    me.send()
    assert len(me.budgets) == 1
    me.mono += ROLLING.seconds / 60 + 10.0
    me.send()
    assert len(me.budgets) == 0


def test_what_is_held_before_the_first_reply_is_told_after_it() -> None:
    """A bucket of a rolling budget has no stamp until the head's clock is known."""
    me = Process(SharedHead("e1"))
    window = me.find(ROLLING).current(me.now)
    window.move(5, 0)
    me.send()
    me.send()
    assert me.figures(window)[1:] == (0, 5)


def test_a_forked_child_has_nothing_to_tell(me: Process) -> None:
    """It is another member; its parent's calls are its parent's."""
    window = me.draw(DAILY, 20)
    window.move(20, 0)
    me.budgets.begin()
    assert not me.budgets.changed
    assert me.budgets.report(me.now, again=True) == ()
    assert window.budget.windows == {}
