"""What was found by attacking budgets: races, recursion, overruns, forks, and limits that change."""

import contextlib
import gc
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from looking import NOTHING, figures, open_in
from staging import Caller, Slow, let_run, queue_up, under_way

from budgetguard import Balance, Guard
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock


def at_call(name: str, file: str, act: Callable[[], object]) -> Callable[..., None]:
    """A trace function that acts once, right before the function of that name in that file runs."""
    todo = [act]

    def trace(frame: Any, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == name and code.co_filename.endswith(file) and todo:
            todo.pop()()

    return trace


def in_turn(act: Callable[[], object]) -> None:
    """Act in another thread, and wait for it."""
    assert Caller(act).outcome() is None


# A budget that is entered while the code is in it.


def test_a_keyed_budget_within_itself_counts_once(guard: Guard) -> None:
    """As where a service's middleware and one of its functions enter the same user's budget."""
    with guard.budget(50, name="user", key="ada", per="day") as outer:
        with guard.budget(50, name="user", key="ada", per="day"):
            guard.acquire(10).settle()
        with guard.budget(30), guard.budget(50, name="user", key="ada", per="day"):
            guard.acquire(10).settle()
    assert figures(outer) == (20, 0, 30)


def test_a_function_with_a_keyed_budget_may_call_itself(guard: Guard) -> None:
    """Each level enters the same budget, and a call takes from it once."""

    @guard.budget(50, name="user", key=lambda user, _: user, per=3600)
    def research(user: str, depth: int) -> None:
        guard.acquire(10).settle()
        if depth:
            research(user, depth - 1)

    research("ada", 3)
    assert guard.budget(50, name="user", key="ada", per=3600).left == 10


def test_a_keyed_budget_within_a_part_of_it_counts_once(guard: Guard) -> None:
    """The part was set aside there, so its calls are paid for."""
    with guard.budget(50, name="user", per="day") as outer, guard.budget(20, share="carve"):
        with guard.budget(50, name="user", per="day"):
            guard.acquire(10).settle()
        assert figures(outer) == (0, 20, 30)
    assert figures(outer) == (10, 0, 40)


# A part of the account, after a call that cost more than it held.


@pytest.mark.parametrize("way", ["settle", "charged"])
def test_a_part_keeps_no_more_than_its_calls_may_use(guard: Guard, way: str) -> None:
    """What an overrun took from the account goes back there first, not into the part."""
    with guard.budget(100, share="carve") as part:
        first, second = guard.acquire(50), guard.acquire(50)
        getattr(first, way)(80)
        assert (part.left, guard.available) == (-30, 870)
        second.release()
        assert (part.left, guard.available) == (20, 900)
        guard.acquire(20).release()
        assert (part.left, guard.available) == (20, 900)
        if way == "charged":
            first.settle(80)
        assert (part.left, guard.available) == (20, 900)
    assert guard.available == 920
    assert open_in(guard) == NOTHING


def test_a_part_that_is_only_observed_keeps_no_more_than_its_limit(provider: FakeProvider) -> None:
    """Calls beyond it take from the account, and give back to it."""
    guard = Guard(provider, mode="observe")
    guard.balance()
    with guard.budget(100, share="carve") as part:
        holds = [guard.acquire(60) for _ in range(4)]
        assert (part.left, guard.available) == (-140, 760)
        for hold in holds:
            hold.release()
        assert (part.left, guard.available) == (100, 900)
    assert open_in(guard) == NOTHING


# Waiters.


def test_a_raised_limit_wakes_who_waits_for_it(guard: Guard) -> None:
    """At once, although nobody enters the budget."""
    with guard.budget(10, name="user", per="day") as users:
        open_one = guard.acquire(10)

        def wait() -> None:
            with users.use():
                guard.acquire(5, wait=1000).settle()

        caller = queue_up(guard, [wait])[0]
        guard.budget(50, name="user", per="day")
        assert caller.outcome() is None
        open_one.settle()
    assert users.spent == 15


@pytest.mark.parametrize("name", ["_queues", "add"])
def test_a_call_that_ends_just_before_somebody_waits_wakes_them(guard: Guard, name: str) -> None:
    """After the decision that there is no room, and before anybody is in the queue."""
    with guard.budget(10) as run:
        hold = guard.acquire(10)
        # As after somebody who waited here has left: nothing else is due with the next change.
        binding_of(guard).account.ledger.tightened = False
        files = {"_queues": "wait_queue.py", "add": "queue_order.py"}

        def wait() -> None:
            with run.use():
                sys.settrace(at_call(name, files[name], lambda: in_turn(lambda: hold.settle(2))))
                try:
                    guard.acquire(5, wait=1000).settle()
                finally:
                    sys.settrace(None)

        assert Caller(wait).outcome() is None
    assert figures(run) == (7, 0, 3)


def test_who_waits_with_credits_set_aside_needs_none_of_the_account(clock: HandClock) -> None:
    """It waits for a session, and those behind it may have the account's credits."""
    credits = 1000
    guard = Guard(lambda: Balance(credits=credits, max_concurrency=1))
    session = guard.acquire(slots=1)
    with guard.budget(100, share="carve") as part:
        part.step_out()

        def wait() -> None:
            with part.use():
                guard.acquire(50, slots=1, wait=1000).settle()

        caller = queue_up(guard, [wait])[0]
        guard.acquire(900).release()
        with guard.acquire(100):
            behind = queue_up(guard, [lambda: guard.acquire(900, wait=1000).release()])[0]
            credits = 1100
            clock.advance(1)
            guard.balance(max_age=0)
            assert behind.outcome() is None
        session.settle()
        assert caller.outcome() is None
    assert guard.available == 950


# Blocks.


@pytest.mark.anyio
async def test_entered_by_two_tasks_at_once(clock: HandClock) -> None:
    """While the first one waits for the account, the second one is told so, and nothing is lost."""
    provider = Slow(1000)
    provider.takes = 3
    guard, errors = Guard(provider), list[BaseException]()
    run = guard.budget(100, name="run", share="carve")

    async def enter() -> None:
        try:
            await run.__aenter__()
        except RuntimeError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        tasks.start_soon(enter)
        await let_run()
        under_way(clock, provider, 1)
        assert ["is entered already" in str(error) for error in errors] == [True]
        clock.advance(3)
    assert guard.available == 900
    await run.__aexit__(None, None, None)
    gc.collect()
    assert guard.available == 1000
    assert open_in(guard) == NOTHING


def test_a_call_in_a_thousand_parts_of_parts_ends_after_them(guard: Guard) -> None:
    """Each of them hears of it, and gives it to the one around it."""
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(guard.budget(900, share="carve")) for _ in range(1500)]
        hold = guard.acquire(10)
    hold.settle(4)
    assert {part.spent for part in parts} == {4}
    assert {part.held for part in parts} == {0}
    assert guard.available == 996
    assert open_in(guard) == NOTHING


def test_an_interrupt_at_the_end_of_a_failed_call_leaves_nothing_held(guard: Guard) -> None:
    """The call counts in full, in the account and in its budget."""

    @guard.require_credits(min=10)
    def work(number: int) -> float:
        return 1 / number

    def interrupt() -> None:
        raise KeyboardInterrupt

    with guard.budget(50) as run:
        work(1)
        sys.settrace(at_call("adopt", "guarded_function.py", interrupt))
        try:
            with pytest.raises(KeyboardInterrupt):
                work(0)
        finally:
            sys.settrace(None)
        assert figures(run) == (20, 0, 30)
    assert open_in(guard) == NOTHING
    assert guard.available == 980


@pytest.mark.parametrize("outer", ["shared", "keyed", None])
def test_an_interrupted_end_of_a_block_gives_back_what_was_set_aside(
    guard: Guard, outer: str | None
) -> None:
    """After it has ended, and before its credits are back."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    terms: Any = {"per": "day", "name": "user"} if outer == "keyed" else {}
    around = contextlib.nullcontext() if outer is None else guard.budget(100, **terms)
    with around:
        sys.settrace(at_call("post", "account.py", interrupt))
        try:
            with pytest.raises(KeyboardInterrupt), guard.budget(40, share="carve"):
                pass
        finally:
            sys.settrace(None)
        gc.collect()
        if not isinstance(around, contextlib.nullcontext):
            assert figures(around) == (0, 0, 100)
    assert guard.available == 1000
    assert open_in(guard) == NOTHING


def test_an_interrupted_beginning_of_a_block_gives_back_what_was_set_aside(guard: Guard) -> None:
    """After its limit was set aside, and before the block is entered."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with guard.budget(100) as run:
        sys.settrace(at_call("open_context", "budget_blocks.py", interrupt))
        try:
            with pytest.raises(KeyboardInterrupt), guard.budget(40, share="carve"):
                pass
        finally:
            sys.settrace(None)
        gc.collect()
        assert figures(run) == (0, 0, 100)


def test_an_interrupted_end_of_a_call_frees_nothing_that_is_not_there(guard: Guard) -> None:
    """Wherever it is interrupted, the account holds no less than its part and its calls."""
    held = 0
    for at in range(100):
        before = held
        with guard.budget(40, share="carve"):
            hold = guard.acquire(10)
            left = at

            def interrupt(frame: Any, event: str, _: object) -> None:
                nonlocal left
                if event in {"call", "c_return"} and frame.f_code.co_filename.endswith("branch.py"):
                    left -= 1
                    if left == 0:
                        raise KeyboardInterrupt

            sys.setprofile(interrupt)
            try:
                with contextlib.suppress(KeyboardInterrupt):
                    hold.settle(8)
            finally:
                sys.setprofile(None)
        held, _, _ = open_in(guard)
        assert held >= before
