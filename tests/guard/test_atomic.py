"""The steps of the fast path that take no lock: nobody comes in between, and the ledger remains right.

A thread changes, and a signal's handler runs, where CPython checks for it: when a function is
called or begins, and when a loop begins anew. The bytecode shows that none of these is among the steps.
"""

import contextlib
import dis
import threading
from collections.abc import Callable
from itertools import pairwise
from types import CodeType
from typing import Any

import pytest

from budgetguard import Guard, HoldClosed, InsufficientCredits
from budgetguard._core.ledger import Ledger
from budgetguard._core.reentrancy import ATOMIC
from budgetguard._engine import fast_path
from budgetguard._engine import hold as hold_module
from budgetguard._engine.binding import binding_of
from budgetguard._engine.call_spec import CallSpec
from budgetguard._engine.hold import Hold
from budgetguard.budget import Budget
from budgetguard.testing import FakeProvider

pytestmark = pytest.mark.skipif(not ATOMIC, reason="without a GIL there is a lock")

THREADS, ROUNDS, FEWER = 4, 150, 30


async def work() -> None:
    """Do what costs a credit."""


def decorated(function: Callable[[], Any]) -> CodeType:
    """The code of what stands for a guarded function."""
    code: CodeType = Guard(FakeProvider(100)).require_credits(min=1)(function).__code__
    return code


def interruptible(code: CodeType, first: str, last: str) -> list[str]:
    """Where others may run on a way from the first use of one name to the last store of another.

    What leads nowhere but out of the function, as of a call that is not admitted, is on no such way.
    """
    steps = {step.offset: step for step in dis.get_instructions(code)}
    offsets = list(steps)
    follows = dict(pairwise(offsets))
    ahead: dict[int, set[int]] = {}
    for offset, step in steps.items():
        leaves = step.opname.startswith(("RETURN", "RAISE", "RERAISE", "JUMP"))
        ahead[offset] = set() if leaves else {follows[offset]} & steps.keys()
        if step.opcode in {*dis.hasjrel, *dis.hasjabs}:
            ahead[offset].add(step.argval)
    begin = next(at for at, step in steps.items() if step.argval == first)
    ends = [at for at, step in steps.items() if step.argval == last and at > begin]
    behind: dict[int, set[int]] = {offset: set() for offset in offsets}
    for offset, nexts in ahead.items():
        for each in nexts:
            behind[each].add(offset)
    between = reached(begin, ahead) & reached(ends[-1], behind) - {ends[-1]}
    assert begin in between
    switches = ("CALL", "RESUME", "JUMP_BACKWARD", "SEND", "YIELD", "FOR_ITER")
    return [steps[at].opname for at in sorted(between) if steps[at].opname.startswith(switches)]


def reached(start: int, ways: dict[int, set[int]]) -> set[int]:
    """All that can be reached from there."""
    seen, rest = {start}, [start]
    while rest:
        new = ways[rest.pop()] - seen
        seen |= new
        rest += new
    return seen


@pytest.mark.parametrize(
    "code",
    [CallSpec.begin.__code__, decorated(lambda: None), decorated(work)],
    ids=["a block", "a function", "a coroutine function"],
)
def test_nobody_comes_between_the_check_and_the_taking(code: CodeType) -> None:
    """From the first of the three figures to the last change of the ledger."""
    assert interruptible(code, "fresh_until_mono", "running") == []


@pytest.mark.parametrize(
    "code",
    [CallSpec.begin.__code__, decorated(lambda: None), decorated(work)],
    ids=["a block", "a function", "a coroutine function"],
)
def test_the_budgets_are_among_these_steps(code: CodeType) -> None:
    """From when their figures are valid to the last of them, and before the account's last change."""
    steps = list(dis.get_instructions(code))
    valid = next(at for at, step in enumerate(steps) if step.argval in {"until", "plain_until"})
    fresh = next(at for at, step in enumerate(steps) if step.argval == "fresh_until_mono")
    taken = [at for at, step in enumerate(steps) if changes(step, "room")]
    done = max(at for at, step in enumerate(steps) if changes(step, "running"))
    assert fresh < valid
    # Three budgets and the account, where the call is admitted.
    assert len([at for at in taken if valid < at < done]) >= 4
    assert interruptible(code, steps[valid].argval, "running") == []


@pytest.mark.parametrize(
    "code",
    [decorated(lambda: None), decorated(work)],
    ids=["a function", "a coroutine function"],
)
def test_nobody_comes_between_the_end_of_a_call_and_its_budgets(code: CodeType) -> None:
    """The frame gives up what it took, and its budgets have the cost: all of it, or nothing yet."""
    steps = list(dis.get_instructions(code))
    spent = [at for at, step in enumerate(steps) if changes(step, "spent")]
    frees = max(at for at, step in enumerate(steps) if at < spent[0] and changes(step, "frees"))
    assert len(spent) == 3
    last = max(at for at, step in enumerate(steps) if changes(step, "room"))
    switches = ("CALL", "RESUME", "JUMP_BACKWARD", "SEND", "YIELD", "FOR_ITER")
    assert [each.opname for each in steps[frees:last] if each.opname.startswith(switches)] == []


def changes(step: dis.Instruction, name: str) -> bool:
    """Whether a step stores that attribute."""
    return (step.opname, step.argval) == ("STORE_ATTR", name)


def test_who_may_come_in_is_found() -> None:
    """A call among the steps would be seen, and one on the way out is none of them."""

    def steps(account: Any, ledger: Any, least: Callable[[], int]) -> Any:
        if account.fresh_until_mono > 0:
            return least()
        ledger.room -= 1 + least()
        ledger.running += 1
        return ledger

    assert any(each.startswith("CALL") for each in interruptible(steps.__code__, "room", "running"))
    assert len(interruptible(steps.__code__, "fresh_until_mono", "running")) == len(
        interruptible(steps.__code__, "room", "running")
    )


@pytest.mark.usefixtures("atomic", "eager_switching")
def test_threads_that_want_the_last_credits_get_no_more() -> None:
    """However they come in: as many are admitted as there are credits for."""
    guard = Guard(FakeProvider(100), recheck_after=1000)
    guard.balance()
    call = guard.require_credits(min=1)(lambda: 1)
    taken: list[int] = []

    def spend() -> None:
        with contextlib.suppress(InsufficientCredits):
            for _ in range(THREADS * 20):
                taken.append(call())
                guard.acquire(1).settle()
                taken.append(1)
                with guard.require_credits(min=1):
                    taken.append(1)

    threads = [threading.Thread(target=spend) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), guard.available) == (100, 0)


def test_nobody_comes_between_the_end_of_a_hold_and_its_record() -> None:
    """Whoever extends the hold meanwhile finds it ended, or its end has the extension."""
    steps = list(dis.get_instructions(Hold.end_at))
    ended = next(
        at for at, step in enumerate(steps) if (step.opname, step.argval) == ("STORE_ATTR", "ended")
    )
    recorded = next(at for at, step in enumerate(steps) if at > ended and step.opname == "POP_TOP")
    between = steps[ended:recorded]
    assert "append" in {step.argval for step in between}
    # Those of three budgets are among them.
    assert [sum(changes(step, name) for step in between) for name in ("room", "spent")] == [3, 3]
    assert [step.opname for step in between].count("CALL") == 1


@pytest.mark.parametrize("change", [Ledger.extend, Ledger.charge])
def test_nobody_comes_between_the_check_of_an_entry_and_its_change(change: Any) -> None:
    """The other side of it."""
    name = "micro" if change is Ledger.extend else "charged_micro"
    code = change.__code__
    steps = list(dis.get_instructions(code))
    checked = next(at for at, step in enumerate(steps) if step.argval == "ended")
    changed = next(
        at for at, step in enumerate(steps) if (step.opname, step.argval) == ("STORE_ATTR", name)
    )
    assert [step.opname for step in steps[checked:changed] if "CALL" in step.opname] == []


@pytest.fixture(params=[True, False], ids=["with a GIL", "without one"])
def atomic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether calls may take the steps, or all are decided under the lock, which has to do no less."""
    for module in (fast_path, hold_module):
        monkeypatch.setattr(module, "ATOMIC", request.param)
    return bool(request.param)


@pytest.mark.usefixtures("atomic", "eager_switching")
def test_threads_that_do_everything_leave_the_ledger_right() -> None:
    """Calls, blocks, holds that are extended, charged and settled at less, and released, all at once."""
    provider = FakeProvider(1_000_000)
    guard = Guard(provider)
    guard.balance()
    call = guard.require_credits(min=1)(lambda: None)
    priced = guard.require_credits(min=lambda: 2, actual=lambda _: 1)(lambda: None)

    def everything() -> None:
        for _ in range(ROUNDS):
            call()
            priced()
            with guard.require_credits(min=3):
                pass
            hold = guard.acquire(4)
            extending = threading.Thread(target=extended, args=(hold,))
            extending.start()
            hold.settle(2)
            extending.join()
            charged = guard.acquire(5)
            charged.charged(2)
            charged.settle(4)
            guard.acquire(6).release()

    def extended(hold: Hold) -> None:
        with contextlib.suppress(HoldClosed):
            hold.extend(10)

    threads = [threading.Thread(target=everything) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = 1 + 1 + 3 + 2 + 4
    assert guard.available == 1_000_000 - THREADS * ROUNDS * spent
    ledger = binding_of(guard).account.ledger
    assert (ledger.held, ledger.running) == (0, 0)


@pytest.mark.parametrize("kind", ["shared", "carved", "a part of the account", "keyed", "rolling"])
@pytest.mark.usefixtures("atomic", "eager_switching")
def test_threads_that_do_everything_leave_the_budgets_right(kind: str) -> None:
    """In two budgets around all of them and one of each thread: all books say the same."""
    guard = Guard(FakeProvider(1_000_000))
    guard.balance()
    call = guard.require_credits(min=1)(lambda: None)
    priced = guard.require_credits(min=lambda: 2, actual=lambda _: 1)(lambda: None)
    share: Any = "shared" if kind in {"shared", "keyed", "rolling"} else "carve"
    budgets = list[Budget]()

    def everything(around: Budget) -> None:
        with around.use(), guard.budget(10_000, share=share) as own:
            budgets.append(own)
            for _ in range(FEWER):
                call()
                priced()
                with guard.require_credits(min=3):
                    pass
                guard.acquire(4).settle(2)
                over = guard.acquire(1)
                over.settle(2)
                charged = guard.acquire(5)
                charged.charged(2)
                charged.extend(1)
                charged.settle(4)
                guard.acquire(6).release()
                guard.acquire(1).keep()

    with contextlib.ExitStack() as stack:
        outer = guard.budget(
            500_000, share="carve" if kind == "a part of the account" else "shared"
        )
        stack.enter_context(outer)
        if kind in {"keyed", "rolling"}:
            per: Any = "month" if kind == "keyed" else 86_400
            inner = guard.budget(400_000, name="all", per=per)
        else:
            inner = guard.budget(400_000, share=share)
        stack.enter_context(inner)
        threads = [threading.Thread(target=everything, args=(inner,)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    each = FEWER * (1 + 1 + 3 + 2 + 2 + 4 + 1)
    assert [(budget.spent, budget.held) for budget in budgets] == [(each, 0)] * THREADS
    assert [(budget.spent, budget.held) for budget in (outer, inner)] == [(THREADS * each, 0)] * 2
    assert guard.available == 1_000_000 - THREADS * each
    ledger = binding_of(guard).account.ledger
    assert (ledger.held, ledger.running) == (0, 0)
