#!/usr/bin/env bash
# agentbudget 0.4.0 (PyPI); read and run November 2026.
#
# A cost that would go over the limit raises BudgetExhausted and is not counted, although the call that it
# is the cost of has been made: `track()` and `wrap()` are told afterwards. So a session that spent 56 of
# 10 says that 6 are spent and 4 remain, lets 4 more be spent, and reports 10. A child session's total is
# charged to its parent in the same way when the child ends: if it does not fit, none of it is counted.
# Two children that are open at once may each spend what the parent has left; the second one's whole
# spend is forgotten, and the parent goes on.
#
# Output seen:
#   10, calls of 6 and 50: BudgetExhausted, spent 6, remaining 4; 4 more: total_spent 10 of 60
#   100, two children of 80: BudgetExhausted, spent 80, remaining 20; 20 more: total_spent 100 of 180
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet agentbudget==0.4.0

"$folder/venv/bin/python" - <<'PYTHON'
import sys

from agentbudget import AgentBudget, BudgetExhausted

charged = []


def paid(cost):
    """The call itself: the vendor charges for it."""
    charged.append(cost)
    return "found"


def ended(session, refused):
    """Spend what the session says is left."""
    spent, left = session.spent, session.remaining
    session.track(paid(left), cost=left)
    return refused, spent, left, session.report()["total_spent"], sum(charged)


refused = "nothing raised"
with AgentBudget(10).session() as session:
    session.track(paid(6), cost=6)
    try:
        session.track(paid(50), cost=50)
    except BudgetExhausted as error:
        refused = type(error).__name__
    alone = ended(session, refused)
print(
    "10, calls of 6 and 50: {}, spent {:g}, remaining {:g}; "
    "4 more: total_spent {:g} of {:g}".format(*alone)
)

charged.clear()
refused = "nothing raised"
with AgentBudget(100).session() as parent:
    try:
        with parent.child_session(80) as first, parent.child_session(80) as second:
            first.track(paid(80), cost=80)
            second.track(paid(80), cost=80)
    except BudgetExhausted as error:
        refused = type(error).__name__
    nested = ended(parent, refused)
print(
    "100, two children of 80: {}, spent {:g}, remaining {:g}; "
    "20 more: total_spent {:g} of {:g}".format(*nested)
)
expected = ("BudgetExhausted", 6, 4, 10, 60), ("BudgetExhausted", 80, 20, 100, 180)
sys.exit((alone, nested) != expected)
PYTHON
