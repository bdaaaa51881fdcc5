#!/usr/bin/env bash
# anchorbrowser 1.0.1 (PyPI), with httpx 0.28.1; read and run November 2026.
#
# The SDK's `_constants.py` says "default timeout is 1 hour" above `httpx.Timeout(timeout=3600000, ...)`.
# httpx counts seconds: a client without a timeout of its own reads, writes and waits for a free
# connection for 41 days. A call to a provider that stopped answering does not come back.
#
# Output seen:
#   read 3600000 s = 1000 hours
#
# Exits 0 while that is so, 1 when the default is an hour or anything else.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet anchorbrowser==1.0.1 httpx==0.28.1

"$folder/venv/bin/python" - <<'PYTHON'
import sys

from anchorbrowser import Anchorbrowser

timeout = Anchorbrowser(api_key="key").timeout
print(f"read {timeout.read} s = {timeout.read / 3600:.0f} hours")
sys.exit(0 if timeout.read == 3_600_000 else 1)
PYTHON
