#!/usr/bin/env bash
# shekel 1.2.0 (PyPI); read and run November 2026.
#
# Its page on tool budgets calls `max_usd` a hard cap on everything, LLM and tools, and says that the price
# of a tool comes from its decorator. But what a tool costs is added to `tool_spent` alone: `spent` stays
# 0, `remaining` stays whole, and `max_usd` refuses no tool that is priced by `@tool(price=...)`. Where the
# price is given to the budget (`tool_prices`), a tool is compared with that budget's own tool spend and
# not with its parent's: two children of 8 spend 16 within a parent of 10, one after the other, although
# "children auto-cap to the parent's remaining balance". No threads are needed, and nothing is logged.
#
# Output seen:
#   @tool(price=1), cap 5: 100 of 100 calls ran, tool_spent 100, spent 0, remaining 5
#   tool_prices, two children of 8 in 10: 8 + 8 calls ran, the parent's tool_spent 16, remaining 10
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet shekel==1.2.0

"$folder/venv/bin/python" - <<'PYTHON'
import sys

from shekel import ToolBudgetExceededError, budget, tool


@tool(price=1)
def priced():
    return "found"


@tool
def search():
    return "found"


def calls(function, times=100):
    ran = 0
    try:
        for _ in range(times):
            function()
            ran += 1
    except ToolBudgetExceededError:
        pass
    return ran


with budget(max_usd=5) as one:
    ran = calls(priced)
    alone = ran, one.tool_spent, one.spent, one.remaining
print(
    "@tool(price=1), cap 5: {:g} of 100 calls ran, "
    "tool_spent {:g}, spent {:g}, remaining {:g}".format(*alone)
)

prices = {"search": 1}
with budget(max_usd=10, tool_prices=prices, name="parent") as parent:
    with budget(max_usd=8, tool_prices=prices, name="first"):
        first = calls(search)
    with budget(max_usd=8, tool_prices=prices, name="second"):
        second = calls(search)
    nested = first, second, parent.tool_spent, parent.remaining
print(
    "tool_prices, two children of 8 in 10: {:g} + {:g} calls ran, "
    "the parent's tool_spent {:g}, remaining {:g}".format(*nested)
)
sys.exit((alone, nested) != ((100, 100, 0, 5), (8, 8, 16, 10)))
PYTHON
