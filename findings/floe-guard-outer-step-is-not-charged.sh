#!/usr/bin/env bash
# floe-guard 0.25.2 (PyPI); read and run November 2026.
#
# `BudgetGuard.step(max_usd=...)` caps a part of a run, and its docstring says that steps nest, the inner
# one being checked first. It is the only one: calls are compared with the innermost step and charged to
# it alone. An outer step of 100 lets inner steps spend any amount, also one that was given no cap, and
# still says afterwards that all of its 100 remain, which it then lets be spent as well. Only the ceiling
# of the whole guard ends it. One thread, one call after the other, each reserved before it is made.
#
# Output seen:
#   a step of 100, in it two of 80: 80 + 80 spent, the outer step says 100 are left, and 100 more are spent
#   a step of 10, in it one of 80: 80 spent
#   a step of 10, in it one without a cap: 200 spent
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet floe-guard==0.25.2

"$folder/venv/bin/python" - <<'PYTHON'
import sys

from floe_guard import BudgetExceeded, BudgetGuard


def made():
    return BudgetGuard(limit_usd=1000, on_block=lambda spent, limit: None)


def spend(guard, calls=200):
    """Make calls of 1 until one is refused."""
    before = guard.spent_usd
    try:
        for _ in range(calls):
            handle = guard.reserve_tool(1)
            guard.settle_tool("search", 1, reserved=handle)
    except BudgetExceeded:
        pass
    return guard.spent_usd - before


guard = made()
with guard.step(max_usd=100):
    with guard.step(max_usd=80):
        first = spend(guard)
    with guard.step(max_usd=80):
        second = spend(guard)
    left = guard.advisory().step_remaining_usd
    nested = first, second, left, spend(guard)
print(
    "a step of 100, in it two of 80: {:g} + {:g} spent, the outer step says {:g} are left, "
    "and {:g} more are spent".format(*nested)
)

guard = made()
with guard.step(max_usd=10), guard.step(max_usd=80):
    larger = spend(guard)
print(f"a step of 10, in it one of 80: {larger:g} spent")

guard = made()
with guard.step(max_usd=10), guard.step():
    uncapped = spend(guard)
print(f"a step of 10, in it one without a cap: {uncapped:g} spent")
sys.exit((nested, larger, uncapped) != ((80, 80, 100, 100), 80, 200))
PYTHON
