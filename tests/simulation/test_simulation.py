"""The simulation in short; `python tests/simulation/run.py --seeds 200` is the long form."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from invariants import Broken
from scenario import Simulation

from budgetguard._core import policy
from budgetguard._core.allowance import CallBudget, CarvedAllowance
from budgetguard._core.branch import Branch, LedgerEntry, Reserve
from budgetguard._core.calendar_budget import CalendarWindow
from budgetguard._core.call_context import CallContext
from budgetguard._core.clock import Instant
from budgetguard._core.debits import Debits
from budgetguard._core.ledger import Ledger
from budgetguard._core.other_spenders import OtherSpenders
from budgetguard._core.rolling_budget import RollingBudget
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._engine import wait_queue as line
from budgetguard._engine.budget_blocks import Carving
from budgetguard._engine.waiters import AdmissionWaiter

SEEDS = 300

pytestmark = pytest.mark.usefixtures("few_to_collect")


@pytest.mark.parametrize("first", range(0, 40, 4))
def test_nothing_breaks(first: int) -> None:
    """No seed overspends, leaks a hold, or ends with other books than the provider's."""
    for seed in range(first, first + 4):
        Simulation(seed, steps=300).run()


def test_the_same_seed_is_the_same_trace() -> None:
    """A failing seed can be run again: the trace is the same, line by line."""
    first, second = Simulation(4, steps=300), Simulation(4, steps=300)
    first.run()
    second.run()
    assert first.trace == second.trace
    assert len(first.trace) > 300


def broken(words: str, first: int = 0, *, budgets: bool = False, **terms: Any) -> None:
    """Run seeds, from the `first` on, until one breaks; check that it says so in these words."""
    with pytest.raises(Broken, match=words):
        for seed in (*range(first, SEEDS), *range(first)):
            Simulation(seed, steps=300, budgets=budgets, **terms).run()


@pytest.mark.parametrize(
    ("terms", "first"),
    # The seeds that found it last; all others follow.
    # What is charged too late for it, a trusting guard would take for what others spent.
    [
        ({"lag": 0, "sole_spender": False}, 0),
        ({"linger": 0, "sole_spender": False}, 5),
        ({"sole_spender": True}, 222),
    ],
    ids=["lag", "linger", "sole"],
)
def test_it_finds_a_guard_that_is_too_trusting(terms: dict[str, Any], first: int) -> None:
    """Without lag, without linger, or taking itself for alone where others spend: S1 breaks."""
    broken("S1: ", first, **terms)


def with_recheck_after(seconds: float) -> Callable[..., policy.Decision]:
    """A policy that is told another distance between looks than the guard's."""

    def decide(
        ledger: Any, refreshing: Any, terms: policy.GuardTerms, *rest: Any
    ) -> policy.Decision:
        return policy.decide(ledger, refreshing, replace(terms, recheck_after=seconds), *rest)

    return decide


def forget_the_debits(debits: Debits, sent: float) -> None:
    """Debits that stay for ever."""


def no_look_for_the_queue(
    ledger: Ledger,
    refreshing: policy.RefreshState,
    terms: policy.GuardTerms,
    need: policy.CallNeed,
    *rest: Any,
) -> policy.Decision:
    """A policy that never looks for those who came to wait."""
    decision = policy.decide(ledger, refreshing, terms, need, *rest)
    waits = need.until > need.arrived and ledger.snapshot is not None
    return policy.Wait(None) if isinstance(decision, policy.Wait) and waits else decision


def half_a_release(ledger: Ledger, held: int) -> None:
    """A release that frees what is available, and forgets what is held."""
    ledger.room += held
    ledger.running -= 1


def half_of_what_is_committed(
    others: OtherSpenders, new: BalanceSnapshot, landed: float, committed: int, cleared: int
) -> BalanceSnapshot:
    """Proofs that are none: calls may be charged twice as much as is taken for possible."""
    committed = max(committed // 2, cleared)
    return WITH_OVERLAP(others, new, landed, committed, cleared)


WITH_OVERLAP = OtherSpenders.with_overlap


def a_little_more(
    others: OtherSpenders, new: BalanceSnapshot, landed: float, committed: int, cleared: int
) -> BalanceSnapshot:
    """An overlap that nothing which is held or pending can explain."""
    new = WITH_OVERLAP(others, new, landed, committed, cleared)
    return replace(new, overlap=committed - cleared + 1)


@pytest.mark.parametrize(
    ("owner", "name", "instead", "words"),
    [
        (policy, "usable", lambda snapshot, *_: snapshot is not None, "S3: "),
        (Debits, "clear", forget_the_debits, "S2: a debit of"),
        (line, "decide", with_recheck_after(600), "S5: refused on a look"),
        (line, "decide", with_recheck_after(0), "S6: a look"),
        (line, "unavailable", cache(line.unavailable), "S7: two callers"),
        (line, "decide", no_look_for_the_queue, "L1: the first in line"),
        (Ledger, "give_back", half_a_release, "L2: held"),
        (OtherSpenders, "with_overlap", half_of_what_is_committed, "S9: "),
        (OtherSpenders, "with_overlap", a_little_more, "S1: .* available of a balance"),
    ],
    ids=["S3", "S2", "S5", "S6", "S7", "L1", "L2", "S9", "S1"],
)
def test_every_invariant_can_fail(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, instead: Any, words: str
) -> None:
    """With one safety taken out, the invariant that it is there for breaks."""
    monkeypatch.setattr(owner, name, instead)
    broken(words, fresh_for=20, stale_for=20)


def innermost(need: policy.CallNeed, now: Instant) -> CallBudget | None:
    """A policy that asks the innermost budget alone."""
    return EXCEEDED(replace(need, budgets=need.budgets[:1]), now)


def spent_for_nothing(branch: Branch, entry: LedgerEntry, held: int, spent: int) -> None:
    """Budgets that give back what calls cost."""
    COUNT(branch, entry, held, 0)


def nothing_kept(allowance: CarvedAllowance) -> None:
    """A carved budget that gives back what its open calls hold as well."""
    for each in allowance._around:
        each.move(-allowance.limit, allowance.spent)
    allowance.closed = True


def set_aside_for_ever(branch: Branch, reserve: Reserve) -> bool:
    """What was carved from the account is not given back."""
    return branch._close(reserve.entry)


def carve_and_refuse(carving: Carving, now: Instant, *rest: Any) -> Any:
    """A block that is refused sets aside what it asked for all the same."""
    carved = CARVE(carving, now, *rest)
    if not isinstance(carved, CarvedAllowance):
        carving.carved.open(carving.context.of_call(now))
    return carved


def in_the_way(queue: line.WaitQueue, waiter: AdmissionWaiter, now: Instant) -> bool:
    """Who lacks only the room of its own budget blocks all others."""
    return now.mono < waiter.call.need.until and queue._possible(waiter.call)


def reopened(window: CalendarWindow, now: Instant) -> float:
    """A clock that is set back opens the window before once more."""
    if not window.start <= now.wall < window.end:
        window.start, window.end = window._period.window(now.wall)
    return window.end


def given_back_early(budget: RollingBudget, now: Instant) -> None:
    """What was spent is given back after half the window."""
    GIVE_BACK(budget, Instant(now.mono + budget._seconds / 2, now.wall))


EXCEEDED, COUNT, CARVE, GIVE_BACK = (
    policy.exceeded,
    Branch._count,
    Carving.carve,
    RollingBudget._give_back,
)


@pytest.mark.parametrize(
    ("owner", "name", "instead", "words", "first"),
    # The seeds that found it last.
    [
        (policy, "exceeded", innermost, "B1: ", 0),
        (Branch, "_count", spent_for_nothing, "B2: ", 0),
        (CarvedAllowance, "close", nothing_kept, "B2: ", 0),
        (CallContext, "of_call", lambda context, _: context.allowances, "B7: ", 6),
        (Branch, "end_reserve", set_aside_for_ever, "B3: ", 0),
        (Carving, "carve", carve_and_refuse, "B4: ", 0),
        (line.WaitQueue, "_queues", in_the_way, "B5: ", 4),
        (CalendarWindow, "move_on", reopened, "B7: ", 7),
        (RollingBudget, "_give_back", given_back_early, "B7: ", 0),
    ],
    ids=["B1", "B2", "carved", "window", "B3", "B4", "B5", "set back", "rolling"],
)
def test_every_invariant_of_budgets_can_fail(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, instead: Any, words: str, first: int
) -> None:
    """With one safety of budgets taken out, the invariant that it is there for breaks."""
    monkeypatch.setattr(owner, name, instead)
    broken(words, first, budgets=True)
