"""The simulation in short; `python tests/simulation/run.py --seeds 200` is the long form."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from invariants import Broken
from scenario import Simulation

from budgetguard._core import policy
from budgetguard._core.debits import Debits
from budgetguard._core.ledger import Ledger
from budgetguard._core.other_spenders import OtherSpenders
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._engine import wait_queue as line

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


def broken(words: str, first: int = 0, **terms: Any) -> None:
    """Run seeds, from the `first` on, until one breaks; check that it says so in these words."""
    with pytest.raises(Broken, match=words):
        for seed in (*range(first, SEEDS), *range(first)):
            Simulation(seed, steps=300, **terms).run()


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
