#!/usr/bin/env bash
# browser-use-sdk 3.12.1 with pydantic 2.14.4: `billing.account()`, which tells a project's balance, raises a
# ValidationError for every project that pays as it goes. Its `planInfo` is null, which Browser Use's guide on
# billing calls normal (docs.browser-use.com/cloud/guides/billing, November 2026), while the SDK's model
# requires an object. The balance itself is in the reply, and can be read with the client's own `request`.
#
# Seen: "with a plan: 12.43", "pays as it goes: ValidationError", "its reply: 12.43". Exits with 1 otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet browser-use-sdk==3.12.1 httpx==0.28.1 pydantic==2.14.4
cat > "$folder/account.py" <<'PY'
import sys

import httpx
from browser_use_sdk.v3 import BrowserUse

PLAN = {
    "planName": "business",
    "subscriptionStatus": "active",
    "subscriptionId": None,
    "subscriptionCurrentPeriodEnd": None,
    "subscriptionCanceledAt": None,
}
ACCOUNT = {
    "totalCreditsBalanceUsd": 12.43,
    "monthlyCreditsBalanceUsd": 0,
    "additionalCreditsBalanceUsd": 12.43,
    "rateLimit": 10,
    "concurrentSessionLimit": 10,
    "activeSessionCount": 0,
    "projectId": "11111111-1111-4111-8111-111111111111",
}


def client(plan):
    made = BrowserUse("k")
    reply = httpx.Response(200, json=ACCOUNT | {"planInfo": plan})
    made._http._client = httpx.Client(
        base_url="https://x.example", transport=httpx.MockTransport(lambda request: reply)
    )
    return made


def said(what, read):
    try:
        words = str(read())
    except Exception as error:
        words = type(error).__name__
    print(f"{what}: {words}")
    return words


found = [
    said("with a plan", lambda: client(PLAN).billing.account().total_credits_balance_usd),
    said("pays as it goes", lambda: client(None).billing.account().total_credits_balance_usd),
    said("its reply", lambda: client(None)._http.request("GET", "/")["totalCreditsBalanceUsd"]),
]
sys.exit(found != ["12.43", "ValidationError", "12.43"])
PY
"$folder/venv/bin/python" "$folder/account.py"
