"""Calls with `wait` in a budget: who waits, who goes on, who is refused, and who stands in nobody's way."""

import contextvars
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from looking import NOTHING, figures, open_in
from staging import Caller, let_run, queue_up, until, waiting

from budgetguard import BudgetExceeded, Guard, Hold, InsufficientCredits
from budgetguard.budget import Budget
from budgetguard.testing import FakeProvider, HandClock


def in_budget(budget: Budget, guard: Guard, credits: int, wait: float = 30) -> Callable[[], Hold]:
    """A call in that budget which queues."""

    def call() -> Hold:
        with budget.use():
            return guard.acquire(credits, wait=wait)

    return call


@pytest.mark.parametrize("share", ["shared", "carve"])
def test_a_caller_waits_for_an_open_call_of_its_budget(guard: Guard, share: Any) -> None:
    """And goes on as soon as that ends for less."""
    with guard.budget(10, share=share) as run:
        running = guard.acquire(8)
        (caller,) = queue_up(guard, [in_budget(run, guard, 5)])
        running.settle(5)
        caller.outcome().settle()
    assert (run.spent, run.held) == (10, 0)
    assert open_in(guard) == NOTHING


@pytest.mark.parametrize("way", ["settle", "keep", "overrun", "decorated"])
def test_a_caller_is_refused_once_it_cannot_fit_any_more(guard: Guard, way: str) -> None:
    """At once: what the open call held is spent, and nothing gives it back."""
    with guard.budget(10, name="run") as run:
        if way == "decorated":
            callers = list[Any]()
            work = guard.require_credits(min=8)(
                lambda: callers.extend(queue_up(guard, [in_budget(run, guard, 5)]))
            )
            work()
            (caller,) = callers
        else:
            running = guard.acquire(8)
            (caller,) = queue_up(guard, [in_budget(run, guard, 5)])
            running.settle(20) if way == "overrun" else getattr(running, way)()
        error = caller.outcome()
        assert isinstance(error, BudgetExceeded)
        assert (error.budget, error.retryable) == ("run", False)
    assert open_in(guard) == NOTHING


def test_a_caller_that_can_never_fit_does_not_wait(guard: Guard) -> None:
    """Above the limit, or where too much is spent for good."""
    with guard.budget(10):
        with pytest.raises(BudgetExceeded):
            guard.acquire(11, wait=30)
        guard.acquire(6).settle()
        with pytest.raises(BudgetExceeded) as refused:
            guard.acquire(5, wait=30)
        assert not refused.value.retryable


def test_a_callers_time_is_limited(guard: Guard, clock: HandClock) -> None:
    """Then it is refused, and told that a retry may help."""
    with guard.budget(10, name="run") as run:
        running = guard.acquire(8)
        (caller,) = queue_up(guard, [in_budget(run, guard, 5, wait=7)])
        clock.advance(7)
        error = caller.outcome()
        assert isinstance(error, BudgetExceeded)
        assert (error.held, error.retryable) == (8, True)
        running.release()


def test_nobody_waits_for_the_open_calls_of_a_part_that_ended(guard: Guard) -> None:
    """What they free goes back to where it was set aside."""
    with guard.budget(100) as everything:
        with guard.budget(10, name="part", share="carve") as part:
            running = guard.acquire(8)
            here = contextvars.copy_context()
        error = Caller(lambda: here.run(guard.acquire, 5, wait=30)).outcome()
        assert isinstance(error, BudgetExceeded)
        assert not error.retryable
        running.settle(2)
        assert figures(part) == (2, 0, 0)
    assert figures(everything) == (2, 0, 98)


@pytest.mark.parametrize("first", ["in the budget", "outside"])
def test_who_lacks_its_own_budget_stands_in_nobodys_way(guard: Guard, first: str) -> None:
    """Neither before those who need the account's credits, nor behind them."""
    outside = guard.acquire(930)
    with guard.budget(60, name="run") as run:
        inside = guard.acquire(60)
        run.step_out()
        bound, free = in_budget(run, guard, 50), lambda: guard.acquire(40, wait=30)
        works = [bound, free] if first == "in the budget" else [free, bound]
        callers = dict(zip(works, queue_up(guard, works), strict=True))
        # 30 more are free in the account: enough for who needs 40, and only if nobody counts before.
        outside.settle(900)
        callers[free].outcome().settle()
        assert waiting(guard) == 1
        inside.release()
        assert isinstance(callers[bound].outcome(), Hold)
    assert guard.available == 1000 - 900 - 40 - 50


def test_who_comes_to_lack_its_budget_makes_way(guard: Guard) -> None:
    """It waited for the account's credits; its budget is used up meanwhile, and it is refused."""
    outside = guard.acquire(920)
    with guard.budget(100, name="run") as run:
        inside = guard.acquire(30)
        run.step_out()
        bound, free = queue_up(
            guard, [in_budget(run, guard, 70), lambda: guard.acquire(51, wait=30)]
        )
        inside.settle(31)
        error = bound.outcome()
        assert isinstance(error, BudgetExceeded)
        assert (error.available, error.needed) == (69, 70)
        assert waiting(guard) == 1
        outside.release()
        free.outcome().release()
    assert open_in(guard) == NOTHING


def test_who_comes_to_wait_for_its_budget_makes_way(guard: Guard) -> None:
    """While a repeat, which nothing refuses, holds the rest of it, those behind go past."""
    outside = guard.acquire(950)
    with guard.budget(100, name="run") as run:
        bound, free = queue_up(
            guard, [in_budget(run, guard, 70), lambda: guard.acquire(51, wait=30)]
        )
        repeat = guard.require_credits(min=40).spec.open("its repeat", forced=True)
        outside.settle(890)
        taken = free.outcome()
        assert isinstance(taken, Hold)
        assert waiting(guard) == 1
        repeat.release()
        taken.release()
        assert isinstance(bound.outcome(), Hold)
    assert guard.available == 40


def test_who_comes_to_wait_for_its_budget_makes_way_behind_others(clock: HandClock) -> None:
    """Also where somebody before it needs the same, and is not let in either."""
    del clock
    guard = Guard(FakeProvider(1000, max_concurrency=3))
    guard.balance()
    running = [guard.acquire(slots=1), guard.acquire(950)]
    with guard.budget(100, name="run") as run:

        def bound() -> Hold:
            with run.use():
                return guard.acquire(70, slots=1, wait=30)

        run.step_out()
        big, small, free = queue_up(
            guard,
            [
                lambda: guard.acquire(60, slots=1, wait=30),
                bound,
                lambda: guard.acquire(slots=1, wait=30),
            ],
        )
        with run.use():
            repeat = guard.require_credits(min=40).spec.open("its repeat", forced=True)
        assert guard.available == 10
        assert isinstance(free.outcome(), Hold)
        assert waiting(guard) == 2
        for each in (*running, repeat):
            each.release()
        for caller in (big, small):
            assert isinstance(caller.outcome(), Hold)


def test_a_waiter_goes_on_when_its_budget_renews(guard: Guard, clock: HandClock) -> None:
    """At the renewal: not before, and not only at the end of its wait."""
    with guard.budget(10, name="hourly", per="hour") as run:
        guard.acquire(10).settle()
        assert run.renews_at is not None
        left = run.renews_at.timestamp() - clock.wall()
        with pytest.raises(BudgetExceeded) as refused:
            guard.acquire(5, wait=left - 1)
        assert refused.value.renews_at == run.renews_at
        (caller,) = queue_up(guard, [in_budget(run, guard, 5, wait=left + 100)])
        clock.advance(left - 1)
        assert waiting(guard) == 1
        clock.advance(1)
        hold = caller.outcome()
        assert isinstance(hold, Hold)
        assert figures(run) == (0, 5, 5)
        hold.settle()
    assert figures(run) == (5, 0, 5)


def test_a_waiter_goes_on_when_a_rolling_budget_gives_back(guard: Guard, clock: HandClock) -> None:
    """What was spent longest ago comes first."""
    with guard.budget(10, name="rolling", per=60) as run:
        guard.acquire(6).settle()
        clock.advance(30)
        guard.acquire(4).settle()
        (caller,) = queue_up(guard, [in_budget(run, guard, 5, wait=50)])
        clock.advance(29)
        assert waiting(guard) == 1
        clock.advance(3)
        assert isinstance(caller.outcome(), Hold)
        assert figures(run) == (4, 5, 1)


@pytest.mark.anyio
async def test_tasks_wait_as_threads_do(guard: Guard) -> None:
    """Also those that leave, whose place goes to the next."""
    went = list[str]()

    async def work(name: str, credits: int) -> None:
        async with guard.require_credits(credits, wait=30):
            went.append(name)

    async with guard.budget(10, name="run") as run, anyio.create_task_group() as tasks:
        running = guard.acquire(10)
        with anyio.CancelScope() as gone:
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(work, "gone", 9)
                await let_run()
                for name in ("first", "second"):
                    tasks.start_soon(work, name, 5)
                await let_run()
                assert waiting(guard) == 3
                gone.cancel()
        running.release()
    assert sorted(went) == ["first", "second"]
    assert figures(run) == (10, 0, 0)
    assert open_in(guard) == NOTHING


def test_a_part_that_ends_lets_those_in_who_wait_for_the_rest(guard: Guard) -> None:
    """Of the budget around it, and of the account."""
    with guard.budget(100) as everything:
        part = guard.budget(80, share="carve")
        with part:
            part.step_out()
            (caller,) = queue_up(guard, [in_budget(everything, guard, 50)])
        hold = caller.outcome()
        assert isinstance(hold, Hold)
        hold.release()
    with guard.budget(990, share="carve") as whole:
        whole.step_out()
        (caller,) = queue_up(guard, [lambda: guard.acquire(500, wait=30)])
    assert isinstance(caller.outcome(), Hold)


def test_a_limit_that_is_raised_lets_those_in_who_wait(guard: Guard) -> None:
    """The latest limit of a keyed budget counts, also for those who wait in it."""
    with guard.budget(10, name="daily", per="day") as run:
        running = guard.acquire(10)
        (caller,) = queue_up(guard, [in_budget(run, guard, 5)])
        guard.budget(15, name="daily", per="day")
        guard.acquire(0).release()
        assert isinstance(caller.outcome(), Hold)
        running.release()


def test_waiting_for_the_account_in_a_budget(guard: Guard, provider: FakeProvider) -> None:
    """A caller whose budget has room waits for the account's credits as any other."""
    outside = guard.acquire(1000)
    with guard.budget(100) as run:
        (caller,) = queue_up(guard, [in_budget(run, guard, 60)])
        assert figures(run) == (0, 0, 100)
        outside.settle(940)
        assert isinstance(caller.outcome(), Hold)
        assert figures(run) == (0, 60, 40)
        with pytest.raises(InsufficientCredits):
            guard.acquire(30)
    until(lambda: provider.requests > 0)
