#!/usr/bin/env bash
# limits 5.8.0 (PyPI), the strategies behind flask-limiter and slowapi; read and run November 2026.
#
# `hit(item, key, cost=...)` of the FixedWindowRateLimiter adds the cost to the window's counter first and
# compares afterwards, and does not take it off again when it answers False. So a refused call spends: one
# call of 50 within "100/day", of which 60 are used, leaves nothing for the calls of 1 until the window
# ends, and one call above the limit closes the whole day to its tenant although nothing has run.
# `get_window_stats().remaining` says 0. The other two strategies charge only for what they admit.
#
# Output seen ("100/day"; costs 60, 50, 1; then a tenant whose first call is one of 101):
#   FixedWindow: admitted [60], remaining 0; after 101: remaining 0, 1 is admitted: False
#   MovingWindow: admitted [60, 1], remaining 39; after 101: remaining 100, 1 is admitted: True
#   SlidingWindowCounter: admitted [60, 1], remaining 39; after 101: remaining 100, 1 is admitted: True
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet limits==5.8.0

"$folder/venv/bin/python" - <<'PYTHON'
import sys

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    SlidingWindowCounterRateLimiter,
)

day = parse("100/day")
seen = []
for strategy in FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter:
    limiter = strategy(MemoryStorage())
    admitted = [cost for cost in (60, 50, 1) if limiter.hit(day, "a tenant", cost=cost)]
    left = limiter.get_window_stats(day, "a tenant").remaining
    limiter.hit(day, "another", cost=101)
    untouched = limiter.get_window_stats(day, "another").remaining
    small = limiter.hit(day, "another")
    print(
        f"{strategy.__name__.removesuffix('RateLimiter')}: admitted {admitted}, remaining {left}; "
        f"after 101: remaining {untouched}, 1 is admitted: {small}"
    )
    seen.append((admitted, left, untouched, small))
honest = ([60, 1], 39, 100, True)
sys.exit(seen != [([60], 0, 0, False), honest, honest])
PYTHON
