"""The fast path: what a call costs for which there is nothing to decide, and what sends it elsewhere."""

import contextlib
import gc
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from staging import calls

from budgetguard import (
    Event,
    Guard,
    InsufficientCredits,
    require_credits,
    set_active,
    set_default_guard,
)
from budgetguard._engine.account import Account
from budgetguard.integrations import guarded
from budgetguard.integrations.tools import Tools
from budgetguard.testing import FakeProvider, HandClock

# What is counted is CPython's calls of Python, finalizers among them.
WRAPPER = 1
A_CHECK = 2
A_COMPUTED_AMOUNT = 4
A_BLOCK = 10
A_HOLD = 8
# What a budget adds to it: nothing, as its steps are inline; the ones that set aside take the account's lock.
IN_BUDGETS = 0


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with each call that leaves the fast path."""
    seen: list[None] = []
    ask = Account.ask

    def noted(self: Account, *args: Any) -> Any:
        seen.append(None)
        return ask(self, *args)

    monkeypatch.setattr(Account, "ask", noted)
    return seen


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard with a young balance."""
    guard = Guard(FakeProvider(1_000_000))
    guard.balance()
    clock.advance(0)
    return guard


def refreshed() -> Guard:
    """A guard with a young balance, on the system's clocks, which are no functions of Python."""
    guard = Guard(FakeProvider(1_000_000))
    guard.balance()
    return guard


def work() -> None:
    """Do what costs a credit."""


def used(guard: Guard) -> Callable[[], None]:
    """A function of that guard that has found its fast path."""
    function = guard.require_credits(min=1)(work)
    function()
    function()
    return function


def test_a_call_costs_one_call_of_python() -> None:
    """The function that was put in place."""
    function = used(refreshed())
    assert calls(function) - calls(work) <= WRAPPER


def test_a_check_costs_few_calls_of_python() -> None:
    """Where nothing is held, one more that says so."""
    function = refreshed().require_credits(min=1, cost=0)(work)
    function()
    assert calls(function) - calls(work) <= A_CHECK


def test_a_computed_amount_costs_few_calls_of_python() -> None:
    """Besides the callable itself, what asks it and what checks it."""
    function = refreshed().require_credits(min=lambda: 1)(work)
    function()
    assert calls(function) - calls(work) - 1 <= A_COMPUTED_AMOUNT


def test_a_block_costs_few_calls_of_python() -> None:
    """Written where it is used, and so made anew each time."""
    guard = refreshed()

    def block() -> None:
        with guard.require_credits(min=1):
            pass

    block()
    assert calls(block) - calls(work) <= A_BLOCK


def test_a_hold_costs_few_calls_of_python() -> None:
    """From its acquisition to its end."""
    guard = refreshed()

    def hold() -> None:
        guard.acquire(1).settle()

    hold()
    assert calls(hold) - calls(work) <= A_HOLD


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_call_in_budgets_costs_no_more_calls_of_python(depth: int) -> None:
    """In up to three, and in labels, its steps are inline, for functions, blocks and holds alike."""
    guard = refreshed()
    function = used(guard)

    def block() -> None:
        with guard.require_credits(min=1):
            pass

    def hold() -> None:
        guard.acquire(1).settle()

    block()
    hold()
    outside = [calls(each) for each in (function, block, hold)]
    with contextlib.ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(guard.labels(user="ada"))
            stack.enter_context(guard.budget(1000))
        inside = [calls(each) for each in (function, block, hold)]
    assert [each - before for each, before in zip(inside, outside, strict=True)] == [IN_BUDGETS] * 3


def test_a_call_in_a_keyed_budget_costs_no_more_calls_of_python() -> None:
    """Whose window runs, with as many keys as there are."""
    guard = refreshed()
    function = used(guard)
    for key in range(100):
        with guard.budget(1000, name="user", key=key, per="day"):
            function()
    with guard.budget(1000, name="user", key=7, per="month"):
        assert calls(function) - calls(work) <= WRAPPER + IN_BUDGETS


def test_a_call_after_the_block_costs_what_it_did() -> None:
    """Nothing of the block is left."""
    guard = refreshed()
    function = used(guard)
    with guard.budget(1000, share="carve"), guard.budget(10):
        function()
    assert calls(function) - calls(work) <= WRAPPER


WAYS: dict[str, Callable[[Guard], Callable[[], Any]]] = {
    "a function": lambda guard: guard.require_credits(min=1)(work),
    "a check": lambda guard: guard.require_credits(min=1, cost=0)(work),
    "a computed amount": lambda guard: guard.require_credits(min=lambda: 1)(work),
    "a computed guard": lambda guard: require_credits(min=1, guard=lambda: guard)(work),
    "at actual": lambda guard: guard.require_credits(min=2, actual=lambda _: 1)(work),
    "a block": lambda guard: lambda: Block(guard).run(),
    "acquire": lambda guard: lambda: guard.acquire(1).settle(),
    "acquire, settled at less": lambda guard: lambda: guard.acquire(2).settle(1),
    "a tool": lambda guard: lambda: Tools(guard, {"it": 1}).open("it", {}).finish(None),
    "an object": lambda guard: guarded(Block(guard), guard, {"nothing": 1}).nothing,
}


class Block:
    """A block, and a method that does nothing."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def run(self) -> None:
        """Enter and leave it."""
        with self._guard.require_credits(min=1):
            pass

    def nothing(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("listens", [False, True], ids=["silent", "listened to"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_takes_it(
    clock: HandClock, slow: list[None], way: str, *, listens: bool
) -> None:
    """From the second call on nothing is decided, for any kind of call, with and without a listener."""
    guard = Guard(FakeProvider(1_000_000), on_event=(lambda _: None) if listens else None)
    guard.balance()
    clock.advance(0)
    call = WAYS[way](guard)
    call()
    before = len(slow)
    for _ in range(5):
        call()
    assert len(slow) == before


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_takes_it_in_budgets(clock: HandClock, slow: list[None], way: str) -> None:
    """A check alone is decided about, without a lock, as its own steps know of no budget."""
    guard = Guard(FakeProvider(1_000_000))
    guard.balance()
    clock.advance(0)
    call = WAYS[way](guard)
    call()
    with guard.budget(1000), guard.budget(500):
        call()
        before = len(slow)
        for _ in range(5):
            call()
        assert len(slow) == before


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_is_recorded(clock: HandClock, way: str) -> None:
    """On the fast path and beside it alike: a credit a call, unless it only checks."""
    guard = Guard(FakeProvider(100))
    clock.advance(0)
    call = WAYS[way](guard)
    for calls_made in range(1, 6):
        call()
        assert guard.available == 100 - (0 if way == "a check" else calls_made)


def test_an_amount_is_asked_for_once(clock: HandClock) -> None:
    """Also where the fast path finds too little room, and the call is decided about."""
    asked: list[int] = []

    def amount(credits: int) -> int:
        asked.append(credits)
        return credits

    guard = Guard(FakeProvider(100))
    guard.balance()
    clock.advance(0)
    call = guard.require_credits(min=amount)(lambda _: None)
    for credits in (10, 20, 50):
        call(credits)
    with pytest.raises(InsufficientCredits):
        call(30)
    assert asked == [10, 20, 50, 30]


def test_a_listener_sees_what_others_gave_back(clock: HandClock) -> None:
    """The figure of an event counts what another guard's calls settled at less, recorded or not."""
    provider, told = FakeProvider(1000), list[Event]()
    silent, listening = Guard(provider), Guard(provider, on_event=told.append)
    silent.balance()
    clock.advance(0)
    listening.acquire(1).settle()
    silent.acquire(1).settle()
    told.clear()
    silent.acquire(100).settle(10)
    listening.acquire(5).settle()
    assert [(event.kind, event.available) for event in told] == [
        ("admitted", 983),
        ("settled", 983),
    ]


def test_the_events_of_a_call_belong_together(clock: HandClock) -> None:
    """By the hold's id, with how long it was open and what it held, on the fast path and beside it."""
    told = list[Event]()
    guard = Guard(FakeProvider(1000), on_event=told.append)
    guard.balance()
    clock.advance(0)
    for ends in (True, True, False):
        told.clear()
        hold = guard.acquire(7)
        clock.advance(3)
        hold.settle() if ends else hold.keep()
        # Behind what is kept a refresh comes at once, on a thread of its own.
        its = [event for event in told if event.kind != "refreshed"]
        assert [event.kind for event in its] == ["admitted", "settled" if ends else "kept"]
        assert {event.hold_id for event in its} == {hold.id}
        assert [(event.duration, event.held) for event in its] == [(0, 7), (3, 7)]
        assert its[1].at - its[0].at == timedelta(seconds=3)


def test_true_is_no_credit(guard: Guard) -> None:
    """Though it equals one that was asked for before."""
    with guard.require_credits(min=1):
        pass
    with pytest.raises(TypeError, match="not bool"):
        guard.require_credits(min=True)
    with pytest.raises(TypeError, match="not bool"):
        guard.acquire(True)


def test_a_block_keeps_nobody_alive() -> None:
    """What is remembered of blocks does not keep their guard."""
    guard = refreshed()
    with guard.require_credits(min=1):
        pass
    guard.acquire(1).settle()
    gone = weakref.ref(guard)
    gc.disable()
    try:
        del guard
        assert gone() is None
    finally:
        gc.enable()


def test_amounts_without_end_are_not_all_remembered(guard: Guard) -> None:
    """Blocks with computed amounts leave nothing behind."""
    for amount in range(1000):
        guard.acquire(amount).settle(0)
    assert guard._plain_spec.cache_info().currsize <= 256  # type: ignore[attr-defined]
    assert guard.available == 1_000_000


def test_other_guards_come_and_go(guard: Guard, slow: list[None]) -> None:
    """Making, closing and configuring one guard does not slow down other guards' calls."""
    function = used(guard)
    before = len(slow)
    for _ in range(300):
        other = Guard(FakeProvider(100))
        function()
        other.close()
        function()
    set_default_guard(other)
    function()
    set_default_guard(None)
    function()
    assert len(slow) == before


def test_another_guard_of_the_account_comes_and_goes(clock: HandClock, slow: list[None]) -> None:
    """Nor does a second guard of the same account that asks for nothing of its own."""
    provider = FakeProvider(1_000_000)
    guard = Guard(provider)
    guard.balance()
    clock.advance(0)
    function = used(guard)
    before = len(slow)
    for _ in range(300):
        with Guard(provider):
            function()
        function()
    assert len(slow) == before


def test_a_closed_guards_own_calls_are_refused(guard: Guard) -> None:
    """Its functions check again, and find it closed."""
    function = used(guard)
    guard.close()
    with pytest.raises(RuntimeError, match="closed"):
        function()


def test_another_default_guard_is_heard_of(clock: HandClock) -> None:
    """A function that names no guard goes to the new one from its next call on."""
    first, second = Guard(FakeProvider(100)), Guard(FakeProvider(100))
    function = require_credits(min=1)(work)
    set_default_guard(first)
    function()
    function()
    set_default_guard(second)
    function()
    clock.advance(0)
    assert (first.available, second.available) == (98, 99)


def test_switching_off_is_heard_of(guard: Guard) -> None:
    """From the next call on nothing is held."""
    function = used(guard)
    set_active(False)
    function()
    assert guard.available == 1_000_000 - 2
