#!/usr/bin/env bash
# openrouter 1.3.84 with pydantic 2.14.4: `api_keys.get_current_key_metadata()`, which tells what a key may
# still spend, fails in two ways where reading the JSON does not. The model of its `rate_limit` is marked as
# deprecated, so in a program that makes errors of warnings a valid reply is a ResponseValidationError. And
# a reply without one of its fields is one, too, also without those that OpenRouter's page on limits tells
# its readers to ignore (`rate_limit`) or does not have (`budgets`, 2026-08).
#
# Seen: "whole reply: 74.5", "warnings as errors: ResponseValidationError", "without rate_limit:
# ResponseValidationError", "without budgets: ResponseValidationError". Exits with 1 otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openrouter==1.3.84 httpx==0.28.1 pydantic==2.14.4
cat > "$folder/key.py" <<'PY'
import sys
import warnings

import httpx
from openrouter import OpenRouter

ZEROS = [
    f"{kind}usage{window}"
    for kind in ("", "byok_")
    for window in ("", "_daily", "_weekly", "_monthly")
]
NULLS = ("creator_user_id", "organization_id", "workspace_id", "limit_reset", "effective_budget")
FLAGS = ("include_byok_in_limit", "is_free_tier", "is_management_key", "is_provisioning_key")
WHOLE = {
    **dict.fromkeys(ZEROS, 0),
    **dict.fromkeys(NULLS),
    **dict.fromkeys(FLAGS, False),
    "label": "a key",
    "limit": 100,
    "limit_remaining": 74.5,
    "allowed_data_regions": [],
    "budgets": [],
    "free_model_daily_requests": {"used": 0, "limit": 50, "remaining": 50},
    "rate_limit": {"requests": -1, "interval": "10s", "note": "ignore"},
}


def said(what, data, action="ignore"):
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"data": data}))
    with warnings.catch_warnings(), httpx.Client(transport=transport) as http:
        warnings.simplefilter(action, DeprecationWarning)
        client = OpenRouter(api_key="k", client=http)
        try:
            words = str(client.api_keys.get_current_key_metadata().data.limit_remaining)
        except Exception as error:
            words = type(error).__name__
    print(f"{what}: {words}")
    return words


def without(name):
    return {field: value for field, value in WHOLE.items() if field != name}


found = [
    said("whole reply", WHOLE),
    said("warnings as errors", WHOLE, "error"),
    said("without rate_limit", without("rate_limit")),
    said("without budgets", without("budgets")),
]
sys.exit(found != ["74.5", *["ResponseValidationError"] * 3])
PY
"$folder/venv/bin/python" "$folder/key.py"
