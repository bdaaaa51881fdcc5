"""Debits: bounded in memory whatever happens, never gone early, and kept ones with their causes."""

import json
import random
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard._core.debits import MOST_BUCKETS, MOST_CAUSES, Debits, Kept

NAMES = ["NameError", "TimeoutError", None]


def stamps(debits: Debits) -> list[float]:
    """When what is left leaves."""
    return [clears_at for clears_at, _, _ in debits.in_order()]


def test_debits_that_no_balance_clears_take_little_memory() -> None:
    """Two hours of an outage at 16 calls a second: as many buckets, and bytes, as after minutes."""
    debits, kept = Debits(), Kept()
    tracemalloc.start()
    try:
        for n in range(16 * 7_200):
            debits.add(1, n / 16 + 5)
            if n % 16 == 0:
                kept.add(1, n / 16 + 305, 1, NAMES[n // 16 % 3])
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 2_000_000
    assert len(stamps(debits)) <= MOST_BUCKETS
    assert (debits.total, kept.total, kept.slots) == (16 * 7_200, 7_200, 7_200)
    debits.clear(7_205.0)
    kept.clear(7_505.0)
    assert (debits.total, kept.total, kept.slots, kept.calls) == (0, 0, 0, Counter())


@pytest.mark.parametrize("seed", range(2))
def test_joined_debits_never_leave_early_and_hardly_late(seed: int) -> None:
    """Beyond so many buckets they are joined: late by what two of them span at most, exact in sum."""
    draw = random.Random(seed)
    debits, left, now = Debits(), list[float](), 0.0
    for _ in range(20_000):
        now += draw.expovariate(16)
        clears_at = now + draw.choice([5, 5, 305, 1260])
        debits.add(1, clears_at)
        left.append(clears_at)
        assert debits.total == len(left)
    span = (max(left) - min(left)) / (MOST_BUCKETS // 2)
    for moment in (10.0, 500.0, 1000.0, 1300.0, 2000.0):
        debits.clear(moment)
        late = sum(stamp > moment - 4 * span for stamp in left)
        assert sum(stamp > moment for stamp in left) <= debits.total <= late
    debits.clear(now + 1260)
    assert (debits.total, stamps(debits)) == (0, [])


def test_one_far_debit_does_not_hold_up_the_others() -> None:
    """A call whose debit remains for a year leaves the rest in buckets as narrow as they can be."""
    debits = Debits()
    debits.add(1000, 3e7)
    for n in range(2 * MOST_BUCKETS):
        debits.add(1, n / 16)
    debits.clear(MOST_BUCKETS / 16)
    assert MOST_BUCKETS - 1 <= debits.total - 1000 <= MOST_BUCKETS + 16


def test_debits_come_in_the_order_in_which_they_leave() -> None:
    """With what leaves at each stamp, whatever the order they were recorded in."""
    debits = Debits()
    debits.add(30, 315.0, slots=1)
    debits.add(7, 20.0)
    debits.add(5, 100.0)
    debits.add(2, 100.0, slots=3)
    assert list(debits.in_order()) == [(20.0, 7, 0), (100.0, 7, 3), (315.0, 30, 1)]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 200), st.integers(0, 2), st.sampled_from(NAMES))
    ),
    st.lists(st.integers(0, 200)),
)
def test_kept_calls_are_counted_by_what_they_raised(
    ended: list[tuple[int, int, int, str | None]], sent: list[int]
) -> None:
    """Calls that hold credits, and slots, by name, as long as their debits are there."""
    kept, left = Kept(), ended
    for amount, clears_at, slots, cause in ended:
        kept.add(amount, clears_at, slots, cause)
    for moment in [-1, *sorted(sent)]:
        kept.clear(moment)
        left = [call for call in left if call[1] > moment]
        calls, sessions = Counter[str | None](), Counter[str | None]()
        for amount, _, slots, cause in left:
            calls[cause] += amount > 0
            sessions[cause] += slots
        assert (kept.calls, kept.sessions) == (calls, sessions)
        assert (kept.total, kept.slots) == (sum(call[0] for call in left), sessions.total())
        last = [clears_at for _, clears_at, slots, _ in left if slots]
        assert kept.last_slot_clears_at == max(last, default=None)


def test_causes_are_told_apart_up_to_a_number() -> None:
    """Names may be made up at each call: those beyond are counted with the unknown."""
    kept = Kept()
    for n in range(3 * MOST_CAUSES):
        kept.add(1, n, 1, f"Error{n}")
    assert len(kept.calls) == len(kept.sessions) == MOST_CAUSES + 1
    assert kept.calls.total() == kept.sessions.total() == 3 * MOST_CAUSES
    kept.clear(3 * MOST_CAUSES)
    assert (kept.calls, kept.sessions) == (Counter(), Counter())


def test_debits_that_were_written_and_read_go_on_as_before() -> None:
    """Also where buckets were joined, and with stamps in any order."""
    draw = random.Random(1)
    kept, debits = Kept(), Debits()
    for n in range(3_000):
        kept.add(n, draw.uniform(0, 500), n % 2, draw.choice(NAMES))
        debits.add(n, draw.uniform(0, 500))
    kept_again, again = Kept(), Debits()
    kept_again.load(json.loads(json.dumps(kept.dump())))
    again.load(json.loads(json.dumps(debits.dump())))
    for moment in range(0, 500, 50):
        assert (list(again.in_order()), again.total) == (list(debits.in_order()), debits.total)
        assert kept_again.dump() == kept.dump()
        for each in (debits, again, kept, kept_again):
            each.clear(moment)
            each.add(1, moment + 700.3, 1)
    assert (again.total, kept_again.calls, kept_again.sessions) == (
        debits.total,
        kept.calls,
        kept.sessions,
    )
