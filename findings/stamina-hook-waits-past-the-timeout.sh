#!/usr/bin/env bash
# stamina 26.1.0 (PyPI); read and run November 2026.
#
# `timeout` is described as the maximum total time for all retries, and its default is 45 seconds. It is
# compared with the time that has passed when an attempt ends, never with the wait that comes next; and
# the seconds that an `on=` hook returns are bounded by neither `timeout` nor `wait_max`. So a hook that
# passes on a server's Retry-After of a day has a caller with the default 45 seconds sleep for the day,
# and then makes one more attempt. Only the exponential waits keep near the timeout, by `wait_max`.
#
# Output seen (sleeping replaced by a clock that jumps):
#   timeout=45.0, hook returns 86400: attempts at [0, 86400], raised after 86400 s
#   timeout=1, wait_max=1, hook returns 600: attempts at [0, 600], raised after 600 s
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet stamina==26.1.0 tenacity==9.2.1

"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import stamina

now = 0.0
time.monotonic = lambda: now


def sleep(seconds):
    global now
    now += seconds


time.sleep = sleep


def attempts(asked, **limits):
    global now
    now, at = 0.0, []

    @stamina.retry(on=lambda error: asked, **limits)
    def call():
        at.append(round(now))
        raise OSError("not available yet")

    try:
        call()
    except OSError:
        return at, round(now)


default = attempts(86_400.0)
bounded = attempts(600.0, timeout=1, wait_max=1)
print("timeout=45.0, hook returns 86400: attempts at {}, raised after {} s".format(*default))
print("timeout=1, wait_max=1, hook returns 600: attempts at {}, raised after {} s".format(*bounded))
sys.exit((default, bounded) != (([0, 86_400], 86_400), ([0, 600], 600)))
PYTHON
