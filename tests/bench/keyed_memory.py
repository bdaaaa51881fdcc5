"""What a million keyed budgets take: bytes a key, and the time to find one.

    python tests/bench/keyed_memory.py [KEYS]

A key's own text is not counted. Takes some minutes, as all memory is traced.
"""

import gc
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from budgetguard._core.budget_windows import Period, period
from budgetguard._core.clock import Instant
from budgetguard._core.keyed_budgets import KeyedBudget, KeyedBudgets

LIMIT, COST = 30_000_000, 1_234_567
NOW = Instant(1e6, 1.7e9)
DAY = 86400.0


def fill(keys: list[str], per: Period, *, spend: bool) -> tuple[KeyedBudgets, list[KeyedBudget]]:
    """Budgets of all keys: each with a call that has ended, or referred to and whole."""
    budgets, entered = KeyedBudgets(), list[KeyedBudget]()
    for key in keys:
        budget = budgets.find("daily", key, per, LIMIT, NOW)
        allowance = budget.current(NOW)
        if spend:
            allowance.move(COST, 0)
            allowance.move(-COST, COST)
        else:
            entered.append(budget)
    return budgets, entered


def memory(keys: list[str], per: Period, *, spend: bool) -> float:
    """Bytes a key."""
    gc.collect()
    tracemalloc.start()
    budgets, entered = fill(keys, per, spend=spend)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(budgets) == len(keys)
    return (taken - sys.getsizeof(entered)) / len(keys)


def find_time(budgets: KeyedBudgets, keys: list[str], per: Period, now: Instant) -> float:
    """Microseconds for finding a budget and its allowance, in a row of different keys."""
    some = keys[:: max(len(keys) // 100_000, 1)]
    began = time.perf_counter()
    for key in some:
        budgets.find("daily", key, per, LIMIT, now).current(now)
    return (time.perf_counter() - began) / len(some) * 1e6


def main() -> None:
    """Print the figures."""
    keys = [f"user-{number:07d}" for number in range(int(sys.argv[1]) if sys.argv[1:] else 10**6)]
    later = Instant(NOW.mono + 2 * DAY, NOW.wall + 2 * DAY)
    for text, per in (("per day", period("day")), ("a rolling day", period(DAY))):
        for spend in (False, True):
            state = "spent" if spend else "whole"
            print(f"{text}, {state}: {memory(keys, per, spend=spend):.0f} bytes a key")
        budgets, _ = fill(keys, per, spend=True)
        print(f"{text}: {find_time(budgets, keys, per, NOW):.2f} µs to find one of {len(keys):,}")
        print(f"{text}: {find_time(budgets, keys, per, later):.2f} µs while they are forgotten")


if __name__ == "__main__":
    main()
