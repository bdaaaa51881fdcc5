#!/usr/bin/env bash
# budgetguard 0.16.0 and budget-guard-agents 0.2.0 (PyPI); installed and run November 2026.
#
# Both install a top-level package called `budgetguard`, and share no code. Whichever is installed last
# replaces the other's `__init__.py`. pip installs both without a word. To
# uninstall one of them deletes the file that both claim: the other is still listed as
# installed, and imports as an empty namespace package.
#
# Output seen:
#   both installed: 2 of 2
#   budgetguard is BudgetGuard's: True
#   one uninstalled, still listed: 1; budgetguard has a file: False
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip"
python="$folder/venv/bin/python"
# Without what they require: the packages themselves are what meets here.
"$pip" install --quiet --no-deps budgetguard==0.16.0
"$pip" install --quiet --no-deps budget-guard-agents==0.2.0
overwritten=$("$python" -c 'import budgetguard; print(hasattr(budgetguard, "BudgetGuard"))')
both=$("$pip" list 2>/dev/null | grep -ciE '^(budgetguard|budget-guard-agents) ')
echo "both installed: $both of 2"
echo "budgetguard is BudgetGuard's: $overwritten"
"$pip" uninstall --quiet --yes budget-guard-agents
file=$("$python" -c 'import budgetguard; print(budgetguard.__file__ is not None)')
left=$("$pip" list 2>/dev/null | grep -ciE '^budgetguard ')
echo "one uninstalled, still listed: $left; budgetguard has a file: $file"
test "$both $overwritten $left $file" = "2 True 1 False"
