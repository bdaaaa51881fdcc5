"""What events and errors say about the budgets and labels around a call."""

import contextlib
import contextvars
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from budgetguard import BalanceUnavailable, BudgetExceeded, Event, Guard, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def told() -> list[Event]:
    """Give what the listener was told."""
    return []


@pytest.fixture
def guard(clock: HandClock, told: list[Event]) -> Guard:
    """Give a guard that is listened to, with a balance."""
    del clock
    guard = Guard(FakeProvider(1000), on_event=told.append)
    guard.balance()
    told.clear()
    return guard


def seen(told: list[Event]) -> list[tuple[Any, ...]]:
    """The kinds of the events about calls, with their budget, cause and labels; then forget them."""
    found = [
        (event.kind, event.budget, event.cause, dict(event.labels))
        for event in told
        if event.operation is not None
    ]
    told.clear()
    return found


@pytest.mark.parametrize("slots", [0, 1], ids=["fast path", "decided"])
def test_every_event_of_a_call_names_its_budget(
    clock: HandClock, told: list[Event], slots: int
) -> None:
    """The innermost; and what became of the call."""
    del clock
    guard = Guard(FakeProvider(1000, max_concurrency=5), on_event=told.append)
    guard.balance()
    told.clear()
    with guard.budget(500, name="all"), guard.budget(100, name="run"):
        guard.acquire(5, slots=slots).settle()
        assert seen(told) == [("admitted", "run", None, {}), ("settled", "run", None, {})]
        guard.acquire(5, slots=slots).settle(9)
        assert [each[:2] for each in seen(told)] == [
            ("admitted", "run"),
            ("settled", "run"),
            ("overrun", "run"),
        ]
        guard.acquire(5, slots=slots).release()
        assert [each[:2] for each in seen(told)] == [("admitted", "run"), ("released", "run")]
        with pytest.raises(LookupError), guard.require_credits(min=5, slots=slots):
            raise LookupError
        assert seen(told) == [("admitted", "run", None, {}), ("kept", "run", "LookupError", {})]


def test_a_decorated_calls_events_name_it_too(guard: Guard, told: list[Event]) -> None:
    """On the way out as well, wherever the call ends."""
    call = guard.require_credits(min=5)(lambda: None)
    with guard.budget(100, name="run"):
        call()
        hold = guard.acquire(5)
    hold.settle()
    call()
    assert [each[:2] for each in seen(told)] == [
        ("admitted", "run"),
        ("settled", "run"),
        ("admitted", "run"),
        ("settled", "run"),
        ("admitted", None),
        ("settled", None),
    ]


def test_a_refusal_names_the_budget_that_refuses(guard: Guard, told: list[Event]) -> None:
    """Which need not be the innermost; a refusal by the account names the innermost, and its cause."""
    with guard.budget(2000, name="all"), guard.budget(10, name="outer"):
        with guard.budget(50, name="inner"), pytest.raises(BudgetExceeded):
            guard.acquire(20)
        assert seen(told) == [("refused", "outer", "budget", {})]
    with guard.budget(2000, name="all"):
        with pytest.raises(InsufficientCredits):
            guard.acquire(1500)
        assert seen(told) == [("refused", "all", "credits", {})]
        with pytest.raises(BudgetExceeded), guard.budget(3000, name="part", share="carve"):
            pass
        assert seen(told) == [("refused", "all", "budget", {})]


def test_a_part_of_the_account_is_a_hold_of_its_own(guard: Guard, told: list[Event]) -> None:
    """It is admitted as the block is entered, and what is left of it is released at the end."""
    with guard.budget(100, name="run", share="carve"):
        assert [each[:2] for each in seen(told)] == [("admitted", None)]
        guard.acquire(30).settle()
        seen(told)
    [released] = [event for event in told if event.kind == "released"]
    assert (released.operation, released.credits) == ("the budget run", 70)


def test_labels_of_inner_blocks_are_added_and_win(guard: Guard, told: list[Event]) -> None:
    """And are gone where the block ends."""
    with guard.labels(user="ada", run=42):
        guard.acquire(1).settle()
        with guard.budget(10, name="b"), guard.labels(run="43", step=1):
            guard.acquire(1).settle()
            with pytest.raises(BudgetExceeded) as refused:
                guard.acquire(11)
        guard.acquire(1).settle()
    guard.acquire(1).settle()
    outer, inner = {"user": "ada", "run": "42"}, {"user": "ada", "run": "43", "step": "1"}
    assert refused.value.labels == inner
    assert [each[3] for each in seen(told)] == [
        *[outer] * 2,
        *[inner] * 3,
        *[outer] * 2,
        *[{}] * 2,
    ]


def test_labels_alone_bound_nothing(guard: Guard, told: list[Event]) -> None:
    """Calls in them are admitted as any, by every way in."""
    call = guard.require_credits(min=400)(lambda: None)
    check = guard.require_credits(min=10, cost=0)(lambda: None)
    with guard.labels(user="ada"):
        call()
        check()
        guard.acquire(400).settle()
        check()
        with pytest.raises(InsufficientCredits) as refused:
            call()
    assert not isinstance(refused.value, BudgetExceeded)
    assert refused.value.labels == {"user": "ada"}
    assert {str(each[3]) for each in seen(told)} == {"{'user': 'ada'}"}


def test_labels_reach_every_kind_of_refusal(clock: HandClock) -> None:
    """Also where no balance is known."""
    del clock
    provider = FakeProvider(10)
    provider.failure = ConnectionError("no route")
    guard = Guard(provider)
    with guard.labels(user="ada"), pytest.raises(BalanceUnavailable) as refused:
        guard.acquire(1)
    assert refused.value.labels == {"user": "ada"}


def test_labels_are_of_one_account(guard: Guard, told: list[Event]) -> None:
    """Another account's calls inside have none of them."""
    others = list[Event]()
    other = Guard(FakeProvider(1000), on_event=others.append)
    other.balance()
    others.clear()
    with guard.labels(user="ada"):
        other.acquire(1).settle()
        with other.labels(user="bob"):
            guard.acquire(1).settle()
    assert {str(each[3]) for each in seen(others)} == {"{}"}
    assert {str(each[3]) for each in seen(told)} == {"{'user': 'ada'}"}


@pytest.mark.anyio
async def test_labels_follow_tasks(guard: Guard, told: list[Event]) -> None:
    """Each task's calls have its own, though they overlap."""

    async def work(name: str) -> None:
        with guard.labels(user=name):
            async with guard.require_credits(min=1):
                for _ in range(3):
                    await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for name in ("ada", "bob"):
            tasks.start_soon(work, name)
    by_hold: dict[str | None, set[str]] = {}
    for event in told:
        by_hold.setdefault(event.hold_id, set()).add(event.labels["user"])
    assert sorted(map(sorted, by_hold.values())) == [["ada"], ["bob"]]


def test_labels_of_a_budget_that_is_used_elsewhere(guard: Guard, told: list[Event]) -> None:
    """The budget's own are there, over those of the code around."""
    with guard.labels(run="42", user="ada"), guard.budget(10, name="run") as run:
        with guard.labels(inside="yes"):
            pass

        def elsewhere() -> None:
            with guard.labels(user="bob", thread="2"), run.use():
                guard.acquire(1).settle()

        contextvars.Context().run(elsewhere)
    assert seen(told)[0][1:] == ("run", None, {"user": "ada", "run": "42", "thread": "2"})


def test_a_block_of_labels_is_entered_once(guard: Guard) -> None:
    """As a budget is."""
    block = guard.labels(user="ada")
    with block, pytest.raises(RuntimeError, match="entered already"):
        block.__enter__()
    with pytest.raises(RuntimeError, match="entered already"):
        block.__enter__()


@pytest.mark.parametrize("wrong", [None, 1.5, True, b"sk-secret", ["sk-secret"]])
def test_labels_are_text_or_whole_numbers(guard: Guard, wrong: Any) -> None:
    """Nothing else, and what it was is not shown."""
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}") as raised:
        guard.labels(user=wrong)
    assert "sk-secret" not in str(raised.value)


def test_a_listeners_own_blocks_are_its_own(clock: HandClock) -> None:
    """What it enters and leaves changes nothing for the call that it was told of."""
    del clock
    told = list[Event]()
    other = Guard(FakeProvider(1000))
    other.balance()

    def listen(event: Event) -> None:
        told.append(event)
        with other.budget(5), contextlib.suppress(RuntimeError):
            other.acquire(1).settle()

    guard = Guard(FakeProvider(1000), on_event=listen)
    guard.balance()
    told.clear()
    with guard.labels(user="ada"), guard.budget(10, name="run") as run:
        guard.acquire(5).settle()
        guard.acquire(5).settle()
    assert run.spent == 10
    assert {(event.budget, event.labels["user"]) for event in told} == {("run", "ada")}


@pytest.mark.parametrize("block", ["budget", "labels", "a part"])
def test_a_listener_makes_no_calls_in_its_blocks_either(clock: HandClock, block: str) -> None:
    """They would wait for themselves, in a block as without one; a thread that it starts may."""
    del clock
    said = list[str]()

    def listen(event: Event) -> None:
        if event.operation != "outer":
            return
        blocks = {
            "budget": lambda: guard.budget(50),
            "labels": lambda: guard.labels(user="ada"),
            "a part": lambda: guard.budget(50, share="carve"),
        }
        try:
            with blocks[block]():
                guard.acquire(1, name="inner")
        except RuntimeError as error:
            said.append(str(error))

    guard = Guard(FakeProvider(1000), on_event=listen)
    guard.balance()
    for around in (guard.labels(), guard.budget(100)):
        with around:
            guard.acquire(1, name="outer").settle()
    assert len(said) == 4
    assert all("from inside budgetguard itself" in each for each in said)
    assert guard.available == 998
