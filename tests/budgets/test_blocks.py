"""How a budget's block is entered and left, however that is done: what then bounds which calls."""

import contextlib
import contextvars
import copy
import gc
import pickle
import threading
from typing import Any, Literal

import anyio
import pytest
from looking import NOTHING, figures, open_in
from staging import Caller, let_run

from budgetguard import BudgetExceeded, Guard, InsufficientCredits
from budgetguard.budget import Budget
from budgetguard.testing import FakeProvider, HandClock

SHARES: list[Literal["shared", "carve"]] = ["shared", "carve"]


def spend(guard: Guard, credits: int) -> None:
    """One call at that cost."""
    guard.acquire(credits).settle()


def refused_by(guard: Guard, credits: int) -> str | None:
    """Which budget refuses a call at that cost."""
    with pytest.raises(BudgetExceeded) as refused:
        guard.acquire(credits)
    return refused.value.budget


def test_nothing_is_bound_outside_the_block(guard: Guard) -> None:
    """Before it, and after it."""
    spend(guard, 60)
    with guard.budget(50) as run:
        spend(guard, 50)
        assert refused_by(guard, 1) is None
    spend(guard, 60)
    assert figures(run) == (50, 0, 0)


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, GeneratorExit, None])
def test_it_is_left_on_every_way_out(guard: Guard, error: type[BaseException] | None) -> None:
    """By an error, Ctrl-C or none: what was set aside goes back."""
    expected = contextlib.nullcontext() if error is None else pytest.raises(error)
    with expected, guard.budget(50, share="carve") as run:
        spend(guard, 10)
        if error is not None:
            raise error
    spend(guard, 60)
    assert figures(run)[:2] == (10, 0)
    assert guard.available == 930


def test_blocks_left_in_another_order(guard: Guard) -> None:
    """Each bounds until it is left; then the calls are in the innermost block that lasts."""
    first, second, third = (guard.budget(10 * each, name=str(each)) for each in (1, 2, 3))
    for budget in (third, second, first):
        budget.__enter__()
    second.__exit__(None, None, None)
    # Still within the innermost, which is bound by all that were around it when it began.
    assert refused_by(guard, 15) == "1"
    spend(guard, 4)
    assert [each.spent for each in (first, second, third)] == [4, 4, 4]
    first.__exit__(None, None, None)
    assert refused_by(guard, 29) == "3"
    spend(guard, 20)
    assert [each.spent for each in (first, second, third)] == [4, 4, 24]
    third.__exit__(None, None, None)
    spend(guard, 100)
    assert third.spent == 24


def test_carved_blocks_left_in_another_order(guard: Guard) -> None:
    """What each set aside is given back once, whichever ends first."""
    outer, inner = guard.budget(100, share="carve"), guard.budget(40, share="carve")
    outer.__enter__()
    inner.__enter__()
    assert figures(outer) == (0, 40, 60)
    hold = guard.acquire(30)
    outer.__exit__(None, None, None)
    # The account gets back all that no call holds: nothing is set aside any more, 30 are held.
    assert guard.available == 970
    hold.settle(25)
    inner.__exit__(None, None, None)
    assert (inner.spent, inner.held) == (25, 0)
    assert (outer.spent, outer.held) == (25, 0)
    assert guard.available == 975
    assert open_in(guard) == NOTHING


def test_left_in_another_thread(guard: Guard) -> None:
    """The thread that entered it remains bound by it, as it did not leave it."""
    run = guard.budget(10, name="run")
    run.__enter__()
    Caller(lambda: run.__exit__(None, None, None)).outcome()
    assert refused_by(guard, 11) == "run"
    with guard.budget(100):
        spend(guard, 5)
    assert figures(run) == (5, 0, 5)
    assert refused_by(guard, 60) == "run"


def test_entered_in_another_thread(guard: Guard) -> None:
    """A thread that enters it is bound by it, and no other."""
    run = guard.budget(10, name="run")

    def enter() -> str | None:
        run.__enter__()
        return refused_by(guard, 11)

    assert Caller(enter).outcome() == "run"
    spend(guard, 60)
    with run.use():
        assert refused_by(guard, 11) == "run"
    run.__exit__(None, None, None)
    assert figures(run) == (0, 0, 10)


@pytest.mark.anyio
async def test_left_in_another_task(guard: Guard) -> None:
    """It ends for good, and the task that left it is where it was before."""
    run = guard.budget(10, name="run", share="carve")

    async def leave() -> None:
        await run.__aexit__(None, None, None)
        spend(guard, 60)

    async with anyio.create_task_group() as tasks, guard.budget(500):
        await run.__aenter__()
        with contextlib.suppress(LookupError):
            tasks.start_soon(leave)
            await let_run()
    assert run.held == 0
    assert open_in(guard) == NOTHING


@pytest.mark.parametrize("share", SHARES)
def test_entered_twice(guard: Guard, share: Any) -> None:
    """A RuntimeError that says what to do; the block that lasts is not touched."""
    run = guard.budget(10, name="run", share=share)
    with run:
        with pytest.raises(RuntimeError, match=r"The budget run is entered already\. Make a new"):
            run.__enter__()
        assert refused_by(guard, 11) == "run"
        spend(guard, 3)
    with pytest.raises(RuntimeError, match=r"The budget run has ended\. Make a new one"):
        run.__enter__()
    assert run.spent == 3
    assert guard.available == 997


@pytest.mark.anyio
async def test_entered_twice_by_tasks(guard: Guard) -> None:
    """The same where it is awaited."""
    run = guard.budget(10)
    async with run:
        with pytest.raises(RuntimeError, match="This budget is entered already"):
            await run.__aenter__()
    with pytest.raises(RuntimeError, match="This budget has ended"):
        await run.__aenter__()


@pytest.mark.anyio
async def test_entered_twice_while_the_first_one_waits(provider: FakeProvider) -> None:
    """For the balance: nothing is set aside twice, and the block of the first goes on."""
    gate, guard = anyio.Event(), Guard(provider)
    run = guard.budget(100, name="run", share="carve")
    refused = list[RuntimeError]()

    async def enter() -> None:
        try:
            async with run:
                await gate.wait()
        except RuntimeError as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(enter)
        await guard.abalance()
        await let_run()
        gate.set()
    assert len(refused) == 2
    assert (run.spent, run.held) == (0, 0)
    assert guard.available == 1000
    assert open_in(guard) == NOTHING


def test_a_block_that_was_refused_may_be_entered_later(guard: Guard) -> None:
    """Nothing was set aside, and nothing has begun."""
    run = guard.budget(600, name="run", share="carve")
    with guard.budget(500, name="all") as everything:
        with pytest.raises(BudgetExceeded, match="the budget run needs 600 credits"):
            run.__enter__()
        assert figures(everything) == (0, 0, 500)
        spend(guard, 400)
    with run:
        assert guard.available == 0
        spend(guard, 600)
    assert figures(run) == (600, 0, 0)


def test_more_than_the_account_has_cannot_be_set_aside(guard: Guard) -> None:
    """The account's own refusal, with its figures."""
    with pytest.raises(InsufficientCredits, match="the budget run needs 1001 credits") as refused:
        guard.budget(1001, name="run", share="carve").__enter__()
    assert not isinstance(refused.value, BudgetExceeded)
    assert open_in(guard) == NOTHING
    with guard.budget(1001, name="run"):
        pass


def test_use_needs_a_block_that_lasts(guard: Guard) -> None:
    """Neither before it is entered, nor after its end."""
    run = guard.budget(10, name="run")
    with pytest.raises(RuntimeError, match="The budget run was not entered"), run.use():
        pass
    with run:
        pass
    with pytest.raises(RuntimeError, match="The budget run has ended"), run.use():
        pass
    with pytest.raises(RuntimeError, match="This budget was not entered"), guard.budget(1).use():
        pass


def test_use_in_several_threads_at_once(guard: Guard) -> None:
    """All draw from one budget, and each is out of it again where it leaves."""
    together, outside = threading.Barrier(5), list[int]()

    def work(run: Budget) -> None:
        with run.use() as same:
            assert same is run
            together.wait(20)
            spend(guard, 10)
            together.wait(20)
            assert refused_by(guard, 1) == "run"
        spend(guard, 1)
        outside.append(1)

    with guard.budget(50, name="run") as run:
        callers = [Caller(lambda: work(run)) for _ in range(5)]
        assert [caller.outcome() for caller in callers] == [None] * 5
    assert (figures(run), sum(outside)) == ((50, 0, 0), 5)
    assert guard.available == 945


def test_use_within_another_budget(guard: Guard) -> None:
    """Both bind the calls, whichever has less left."""
    with guard.budget(50, name="run") as run:
        run.step_out()
        with guard.budget(30, name="other") as other:
            with run.use():
                assert refused_by(guard, 31) == "other"
                spend(guard, 10)
            spend(guard, 20)
        with guard.budget(60, name="wide"), run.use():
            assert refused_by(guard, 41) == "run"
            spend(guard, 40)
    assert figures(other) == (30, 0, 0)
    assert figures(run) == (50, 0, 0)


def test_use_within_itself_counts_once(guard: Guard) -> None:
    """Where the code is in the budget already."""
    with guard.budget(50) as run, run.use(), run.use():
        spend(guard, 10)
    assert figures(run) == (10, 0, 40)


@pytest.mark.parametrize("depth", [1, 2])
def test_use_of_a_part_within_the_whole_counts_once(guard: Guard, depth: int) -> None:
    """What a part set aside in the whole is not taken from there again, nor the other way round."""
    with guard.budget(100, name="all") as everything, contextlib.ExitStack() as stack:
        for _ in range(depth):
            part = stack.enter_context(guard.budget(40, name="part", share="carve"))
        inside = contextvars.copy_context()
        part.step_out()
        for _ in range(depth):
            everything.step_out()
        with everything.use():
            assert figures(everything) == (0, 40, 60)
            with part.use():
                spend(guard, 10)
                assert refused_by(guard, 31) == "part"

        def use_the_whole() -> None:
            with everything.use():
                spend(guard, 10)
                assert refused_by(guard, 21) == "part"

        inside.run(use_the_whole)
        assert figures(part) == (20, 0, 20)
        assert figures(everything) == (0, 40, 60)
    assert figures(everything) == (20, 0, 80)
    assert guard.available == 980


def test_use_within_a_part_of_the_account_takes_from_it(guard: Guard) -> None:
    """Credits that were set aside for the code around are used, and not taken from the account again."""
    with guard.budget(50) as run:
        run.step_out()
        with guard.budget(100, share="carve") as part:
            assert guard.available == 900
            with run.use(), guard.require_credits(min=30):
                assert guard.available == 900
            assert figures(part) == (30, 0, 70)
    assert figures(run) == (30, 0, 20)
    assert guard.available == 970


@pytest.mark.anyio
@pytest.mark.parametrize("share", SHARES)
async def test_tasks_that_outlive_the_block_stay_bounded(guard: Guard, share: Any) -> None:
    """By what is left of it; a part that was set aside has nothing left once it was given back."""
    gate, refused = anyio.Event(), list[str | None]()

    async def later() -> None:
        await gate.wait()
        if share == "shared":
            spend(guard, 10)
        refused.append(refused_by(guard, 31))

    async with anyio.create_task_group() as tasks:
        async with guard.budget(100, name="all") as everything:  # noqa: SIM117  it is left before
            async with guard.budget(40, name="run", share=share) as run:
                tasks.start_soon(later)
                await let_run()
        gate.set()
    assert refused == ["run"]
    assert figures(run) == ((10, 0, 30) if share == "shared" else (0, 0, 0))
    assert everything.held == 0


@pytest.mark.parametrize("way", ["settle", "release", "keep", "overrun", "drop"])
@pytest.mark.parametrize("share", SHARES)
def test_a_hold_that_outlives_the_block_counts_until_it_ends(
    guard: Guard, share: Any, way: str
) -> None:
    """In the budget and in those around it, which get back exactly what is not used."""
    spent = {"settle": 12, "release": 0, "keep": 30, "overrun": 50, "drop": 30}[way]
    with guard.budget(100, name="all") as everything:
        with guard.budget(40, name="run", share=share) as run:
            spend(guard, 5)
            hold = guard.acquire(30)
        assert (run.spent, run.held) == (5, 30)
        assert figures(everything) == (5, 30, 65)
        if way in {"settle", "overrun"}:
            hold.settle(spent)
        elif way != "drop":
            getattr(hold, way)()
        del hold
        gc.collect()
        assert (run.spent, run.held) == (5 + spent, 0)
        assert figures(everything) == (5 + spent, 0, 95 - spent)
    assert guard.available == 995 - spent
    assert open_in(guard) == NOTHING


@pytest.mark.parametrize("way", ["settle", "release", "keep", "overrun"])
def test_a_hold_that_outlives_a_part_of_the_account(guard: Guard, way: str) -> None:
    """The account gets back at once what the block did not use, and the rest as the call ends."""
    spent = {"settle": 12, "release": 0, "keep": 30, "overrun": 50}[way]
    with guard.budget(100, name="run", share="carve") as run:
        assert guard.available == 900
        spend(guard, 5)
        assert guard.available == 900
        hold = guard.acquire(30)
        assert guard.available == 900
    assert guard.available == 965
    if way in {"settle", "overrun"}:
        hold.settle(spent)
    else:
        getattr(hold, way)()
    assert (run.spent, run.held) == (5 + spent, 0)
    assert guard.available == 995 - spent
    assert open_in(guard) == NOTHING


def test_a_part_of_the_account_is_there_when_others_took_the_rest(guard: Guard) -> None:
    """Nobody else gets at what was set aside, and its own calls need nothing else."""
    with guard.budget(400, name="run", share="carve") as run:
        run.step_out()
        with pytest.raises(InsufficientCredits):
            guard.acquire(601)
        spend(guard, 600)
        with run.use():
            spend(guard, 250)
            spend(guard, 150)
            assert refused_by(guard, 1) == "run"
    assert guard.available == 0
    assert open_in(guard) == NOTHING


def test_an_overrun_of_a_part_of_the_account_takes_from_the_account(guard: Guard) -> None:
    """What a call cost beyond what was set aside is gone from the account as well."""
    with guard.budget(100, share="carve") as run:
        guard.acquire(90).settle(130)
        assert guard.available == 870
        assert figures(run) == (130, 0, -30)
    assert guard.available == 870
    assert open_in(guard) == NOTHING


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.usefixtures("few_to_collect")
def test_a_block_that_is_never_left_gives_back_what_it_set_aside(guard: Guard, share: Any) -> None:
    """As soon as nobody has the budget any more, as in a generator that was dropped."""

    def steps() -> Any:
        with guard.budget(100, share=share):
            yield

    dropped = steps()
    next(dropped)
    assert guard.available == (1000 if share == "shared" else 900)
    del dropped
    gc.collect()
    guard.budget(40, share=share).__enter__()
    gc.collect()
    assert guard.available == 1000
    assert open_in(guard) == NOTHING


def test_a_keyed_budget_is_found_again(guard: Guard) -> None:
    """By its name and its key, in any block; the block's end does not end it."""
    for _ in range(3):
        with guard.budget(50, name="user", key="ada", per="day"):
            spend(guard, 10)
    with guard.budget(50, name="user", key="ada", per="day") as hers:
        assert refused_by(guard, 21) == "user"
        assert figures(hers) == (30, 0, 20)
    with guard.budget(50, name="user", key="bob", per="day") as his:
        spend(guard, 50)
    assert (hers.left, his.left) == (20, 0)


def test_a_call_belongs_to_the_period_in_which_it_was_admitted(
    guard: Guard, clock: HandClock
) -> None:
    """It ends in the next one, and costs that one nothing."""
    with guard.budget(50, name="hourly", per="hour") as run:
        call = guard.require_credits(min=10)(lambda: None)
        call()
        hold = guard.acquire(20)
        assert figures(run) == (10, 20, 20)
        clock.advance(3600)
        guard.balance()
        assert figures(run) == (0, 0, 50)
        hold.settle()
        assert figures(run) == (0, 0, 50)
        call()
        call()
        assert figures(run) == (20, 0, 30)


def test_nothing_can_be_copied_or_pickled(guard: Guard) -> None:
    """A copy would give twice what there is."""
    run = guard.budget(10, name="run")
    for copies in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="The budget run cannot be copied or pickled"):
            copies(run)
    with run, pytest.raises(TypeError, match="cannot be copied"):
        copy.copy(run)


def test_what_is_shown_of_it_has_no_key(guard: Guard) -> None:
    """The key may be a user's address."""
    run = guard.budget(30, name="user", key="ada@example.com", per="day")
    with run:
        spend(guard, 4)
        assert repr(run) == "<Budget user: 26 of 30 left>"
    assert repr(guard.budget(5)) == "<Budget: 5 of 5 left>"
    assert (run.name, run.limit, guard.budget(5).name) == ("user", 30, None)


def test_a_closed_guard_enters_none(guard: Guard) -> None:
    """As it admits no calls."""
    run = guard.budget(10, name="run")
    guard.close()
    with pytest.raises(RuntimeError, match="closed"):
        run.__enter__()


SECRET = "sk-or-v1-0123456789"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"limit": True}, TypeError, "limit takes an int, float, Decimal or str, not bool"),
        ({"limit": None}, TypeError, "not NoneType"),
        ({"limit": float("nan")}, ValueError, "limit must be finite"),
        ({"limit": float("inf")}, ValueError, "limit must be finite"),
        ({"limit": -1}, ValueError, "limit must not be negative: -1"),
        ({"limit": "-0.0000001"}, ValueError, "limit must not be negative"),
        ({"limit": 10**13}, ValueError, "limit"),
        ({"limit": SECRET}, ValueError, "limit is not a number"),
        ({"name": 3}, TypeError, "name takes a str, not int"),
        ({"name": ""}, ValueError, "name is empty"),
        ({"key": "ada"}, TypeError, "key= needs per="),
        ({"key": lambda: "ada"}, TypeError, "key= needs per="),
        ({"per": "day"}, TypeError, "per= needs name="),
        ({"per": "day", "name": "x", "key": []}, TypeError, "or a tuple of these, not list"),
        (
            {"per": "day", "name": "x", "key": float("nan")},
            TypeError,
            "or a tuple of these, not float",
        ),
        ({"per": SECRET, "name": "x"}, ValueError, "not another string"),
        ({"per": True, "name": "x"}, TypeError, "not bool"),
        ({"per": 0, "name": "x"}, ValueError, "per must be above 0"),
        ({"per": -5, "name": "x"}, ValueError, "per must be above 0"),
        ({"per": "day", "name": "x", "tz": SECRET}, ValueError, "tz is not the name"),
        ({"per": "day", "name": "x", "tz": 5}, TypeError, "tz takes the name of a time zone"),
        ({"per": 60, "name": "x", "tz": "UTC"}, ValueError, "a number of seconds has no time"),
        ({"tz": "UTC"}, TypeError, "tz= needs per="),
        ({"share": SECRET}, ValueError, "share must be 'shared' or 'carve'"),
        ({"share": None}, ValueError, "share must be 'shared' or 'carve', not NoneType"),
        ({"per": "day", "name": "x", "share": "carve"}, ValueError, "leave it out"),
    ],
)
def test_wrong_arguments(
    guard: Guard, arguments: dict[str, Any], kind: type[Exception], words: str
) -> None:
    """They are named, and none of their values is shown that may be a key."""
    limit = arguments.pop("limit", 30)
    with pytest.raises(kind) as raised:
        guard.budget(limit, **arguments)
    assert words in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_callable_key_is_for_decorators(guard: Guard) -> None:
    """A block has no arguments that it could be given."""
    run = guard.budget(30, name="user", key=lambda user: user, per="day")
    with pytest.raises(TypeError, match="key= takes a callable only on a decorator"):
        run.__enter__()


def test_limits_are_rounded_down(guard: Guard) -> None:
    """To a micro-credit, so that no more is spent than was said."""
    assert guard.budget("0.0000019").limit == guard.budget("0.000001").limit
    with guard.budget(0) as none, pytest.raises(BudgetExceeded):
        guard.acquire("0.000001")
    assert figures(none) == (0, 0, 0)


def test_accounts_nested_in_each_other(clock: HandClock) -> None:
    """Each budget bounds the calls of its own guard's account."""
    del clock
    ours, theirs = Guard(FakeProvider(1000)), Guard(FakeProvider(1000))
    ours.balance()
    theirs.balance()
    with ours.budget(10, name="ours") as first, theirs.budget(20, name="theirs") as second:
        for _ in range(2):
            spend(ours, 5)
            spend(theirs, 10)
        assert refused_by(ours, 1) == "ours"
        assert refused_by(theirs, 1) == "theirs"
        with ours.budget(0, name="none"):
            assert refused_by(ours, 1) == "none"
            assert refused_by(theirs, 1) == "theirs"
    assert (first.spent, second.spent) == (10, 20)
    spend(ours, 100)
    spend(theirs, 100)


def test_guards_of_one_account_share_it(provider: FakeProvider) -> None:
    """A budget bounds the account's calls, by whichever guard they are made."""
    first, second = Guard(provider), Guard(provider)
    first.balance()
    with first.budget(10, name="run") as run:
        spend(first, 4)
        spend(second, 4)
        assert refused_by(second, 3) == "run"
        with second.budget(1, name="inner"):
            assert refused_by(first, 2) == "inner"
    assert run.spent == 8


def test_an_unlimited_account_is_bounded(clock: HandClock) -> None:
    """By the budget alone, shared or set aside."""
    del clock
    guard = Guard(FakeProvider(None))
    guard.balance()
    for share in SHARES:
        with guard.budget(10, name="run", share=share) as run:
            spend(guard, 6)
            assert refused_by(guard, 5) == "run"
            with guard.budget(4, name="part", share=share):
                spend(guard, 4)
                assert refused_by(guard, 1) in {"part", "run"}
        assert (run.spent, run.held) == (10, 0)
    assert open_in(guard) == NOTHING


def test_a_block_that_cannot_be_carved_has_labels(guard: Guard) -> None:
    """Its error says whose it is, in a budget as in the account."""
    for limit, around in ((2000, contextlib.nullcontext()), (50, guard.budget(10))):
        with guard.labels(user="ada"), around:
            with pytest.raises(InsufficientCredits) as refused:
                guard.budget(limit, share="carve").__enter__()
            assert refused.value.labels == {"user": "ada"}
