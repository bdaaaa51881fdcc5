"""Every provider that is built in passes the check that users have for theirs."""

from collections.abc import Callable
from typing import Any

import pytest

from budgetguard.providers import (
    AnchorBrowser,
    BillingReply,
    BrowserUse,
    DeepSeek,
    ElevenLabs,
    Firecrawl,
    HTTPBalance,
    Moonshot,
    OpenRouter,
    PreDev,
    Tavily,
)
from budgetguard.providers.registry import VENDORS
from budgetguard.testing import check_provider

Make = Callable[[str], Any]
KEY = "own_not_a_real_key"

OPENROUTER_BUDGET = {"scope": "key", "remaining_usd": 96.5, "resets_at": "2026-12-01T00:00:00Z"}
OPENROUTER_KEY = {
    "data": {
        "limit": 100,
        "limit_remaining": 96.5,
        "limit_reset": "monthly",
        "budgets": [OPENROUTER_BUDGET],
        "effective_budget": OPENROUTER_BUDGET,
    }
}
OPENROUTER_REPLIES = [
    BillingReply("/chat/completions", 200, {}, b'{"id": "g", "usage": {"cost": 0.5}}'),
    BillingReply(
        "/chat/completions",
        402,
        {"retry-after": "7"},
        b'{"error": {"metadata": {"limit_source": "openrouter_in_flight_budget"}}}',
    ),
    BillingReply(
        "/chat/completions",
        403,
        {},
        b'{"error": {"message": "Key limit exceeded (monthly limit)",'
        b' "metadata": {"resets_at": "2026-12-01T00:00:00Z"}}}',
    ),
    BillingReply("/videos", 202, {}, b'{"id": "v1", "status": "pending"}'),
]

FIRECRAWL_USAGE = {
    "success": True,
    "data": {
        "remainingCredits": 1000,
        "planCredits": 500,
        "billingPeriodStart": "2026-11-01T00:00:00Z",
        "billingPeriodEnd": "2026-12-01T00:00:00Z",
    },
}
FIRECRAWL_REPLIES = [
    BillingReply("/v2/scrape", 200, {}, b'{"data": {"metadata": {"creditsUsed": 5}}}'),
    BillingReply("/v2/search", 200, {}, b'{"data": {}, "creditsUsed": 2}'),
    BillingReply("/v2/crawl", 200, {}, b'{"success": true, "id": "019a-c"}'),
    BillingReply("/v2/crawl/019a-c", 200, {}, b'{"status": "completed", "creditsUsed": 12}'),
    BillingReply("/v2/map", 402, {}, b'{"success": false, "error": "Insufficient credits"}'),
    BillingReply("/v2/map", 402, {}, b'{"error": "unverified_credit_limit_reached"}'),
    BillingReply("/v2/map", 429, {"retry-after": "7"}, b'{"error": "Rate limit exceeded"}'),
]

# One row for each provider that is built in: what makes it, its balance reply, and what its vendor
# documents about fields that may be null or left out.
OWN: list[Any] = [
    pytest.param(
        PreDev, {"reply": {"success": True, "creditsRemaining": 42.5}, "credits": 42.5}, id="predev"
    ),
    pytest.param(
        AnchorBrowser,
        {
            "reply": {
                "data": {
                    "credits": 7.5,
                    "credits_used": 3,
                    "tier": "free",
                    "max_concurrent_browsers": 5,
                    "cost_limit": 50,
                }
            },
            "credits": 7.5,
            "unlimited": ["data.cost_limit"],
            "optional": ["data.cost_limit", "data.credits_used", "data.max_concurrent_browsers"],
        },
        id="anchorbrowser",
    ),
    pytest.param(
        lambda key: AnchorBrowser(key, "p1"),
        {
            "reply": {"credits": 7.5, "tier": "free", "maxConcurrentBrowsers": 5, "cost_limit": 50},
            "credits": 7.5,
            "unlimited": ["cost_limit"],
            "optional": ["cost_limit", "maxConcurrentBrowsers"],
        },
        id="anchorbrowser-project",
    ),
    pytest.param(
        OpenRouter,
        {
            "reply": OPENROUTER_KEY,
            "credits": 96.5,
            "unlimited": ["data.limit_remaining"],
            "replies": OPENROUTER_REPLIES,
        },
        id="openrouter",
    ),
    pytest.param(
        lambda key: OpenRouter(key, f"{key}_of_management"),
        {
            "reply": {
                "/key": OPENROUTER_KEY,
                "/credits": {"data": {"total_credits": 150, "total_usage": 70.25}},
            },
            "credits": 79.75,
        },
        id="openrouter-management",
    ),
    pytest.param(
        BrowserUse,
        {
            "reply": {
                "totalCreditsBalanceUsd": 12.43,
                "monthlyCreditsBalanceUsd": 2,
                "additionalCreditsBalanceUsd": 10.43,
                "rateLimit": 11,
                "concurrentSessionLimit": 10,
                "activeSessionCount": 3,
                "planInfo": {"planName": "business", "subscriptionStatus": "active"},
            },
            "credits": "12.43",
            "replies": [
                BillingReply("/api/v4/runs", 200, {}, b'{"id": "r1", "status": "queued"}'),
                BillingReply("/api/v3/sessions", 200, {}, b'{"id": "s", "totalCostUsd": "1.5"}'),
                BillingReply("/api/v2/tasks", 402, {}, b'{"detail": "Insufficient credits"}'),
                BillingReply(
                    "/api/v4/browsers",
                    402,
                    {"retry-after": "9"},
                    b'{"detail": {"code": "api_key_monthly_spend_limit_reached"}}',
                ),
            ],
        },
        id="browseruse",
    ),
    pytest.param(
        Firecrawl,
        {
            "reply": FIRECRAWL_USAGE,
            "credits": 1000,
            "optional": ["data.billingPeriodEnd"],
            "replies": FIRECRAWL_REPLIES,
        },
        id="firecrawl",
    ),
    pytest.param(
        lambda key: Firecrawl(key, slots=True),
        {
            "reply": {
                "/v2/team/credit-usage": FIRECRAWL_USAGE,
                "/v2/concurrency-check": {"success": True, "concurrency": 2, "maxConcurrency": 5},
            },
            "credits": 1000,
            "optional": ["data.billingPeriodEnd"],
        },
        id="firecrawl-slots",
    ),
    pytest.param(
        Tavily,
        {
            "reply": {
                "key": {"usage": 150, "limit": 1000},
                "account": {
                    "current_plan": "Bootstrap",
                    "plan_usage": 500,
                    "plan_limit": 1500,
                    "paygo_usage": 25,
                    "paygo_limit": 100,
                },
            },
            "credits": 850,
            "unlimited": ["key.limit"],
            "replies": [
                BillingReply("/search", 200, {}, b'{"results": [], "usage": {"credits": 2}}'),
                BillingReply("/search", 432, {}, b'{"detail": {"error": "your plan\'s limit"}}'),
            ],
        },
        id="tavily",
    ),
    pytest.param(
        ElevenLabs,
        {
            "reply": {
                "tier": "creator",
                "character_count": 250,
                "character_limit": 10_000,
                "can_extend_character_limit": True,
                "max_credit_limit_extension": 500,
                "next_character_count_reset_unix": 1_796_083_200,
            },
            "credits": 10_250,
            "unlimited": ["max_credit_limit_extension"],
            "replies": [
                BillingReply("/v1/text-to-speech/x", 200, {"character-cost": "12"}, b"sound"),
                BillingReply(
                    "/v1/text-to-speech/x", 401, {}, b'{"detail": {"status": "quota_exceeded"}}'
                ),
            ],
        },
        id="elevenlabs",
    ),
    pytest.param(
        DeepSeek,
        {
            "reply": {
                "is_available": True,
                "balance_infos": [
                    {"currency": "CNY", "total_balance": "7.50", "granted_balance": "2.50"},
                    {"currency": "USD", "total_balance": "96.50", "granted_balance": "6.50"},
                ],
            },
            "credits": 96.5,
            "replies": [
                BillingReply(
                    "/chat/completions",
                    200,
                    {},
                    b'{"model": "m", "usage": {"prompt_tokens": 50, "completion_tokens": 9}}',
                ),
                BillingReply(
                    "/chat/completions", 402, {}, b'{"error": {"message": "Insufficient Balance"}}'
                ),
            ],
        },
        id="deepseek",
    ),
    pytest.param(
        Moonshot,
        {
            "reply": {
                "code": 0,
                "status": True,
                "scode": "0x0",
                "data": {"available_balance": 96.5, "voucher_balance": 6.5, "cash_balance": 90},
            },
            "credits": 96.5,
            "replies": [
                BillingReply(
                    "/v1/chat/completions",
                    429,
                    {},
                    b'{"error": {"type": "exceeded_current_quota_error"}}',
                ),
            ],
        },
        id="moonshot",
    ),
    pytest.param(
        lambda key: HTTPBalance(
            "https://api.any.example/usage",
            headers={"authorization": f"Bearer {key}"},
            left="data.limit - data.used",
            slots="slots",
            renews="ends",
            cost="usage.cost",
            exhausted={403: "error.code = EMPTY"},
        ),
        {
            "reply": {"data": {"limit": 100, "used": 3.5}, "slots": 4, "ends": "2026-12-01"},
            "credits": 96.5,
            "replies": [
                BillingReply("/answers", 200, {}, b'{"usage": {"cost": 0.5}}'),
                BillingReply("/answers", 403, {}, b'{"error": {"code": "EMPTY"}}'),
            ],
        },
        id="http-balance",
    ),
    pytest.param(
        lambda key: HTTPBalance(f"https://api.any.example/usage?api_key={key}", left="left"),
        {"reply": {"left": "96.5"}, "credits": 96.5},
        id="http-balance-key-in-query",
    ),
    pytest.param(
        lambda key: HTTPBalance(
            "https://api.any.example/usage", params={"key": key}, left="min(a, unlimited(b))"
        ),
        {"reply": {"a": 96.5, "b": 100}, "credits": 96.5, "unlimited": ["b"]},
        id="http-balance-key-in-params",
    ),
]


@pytest.mark.parametrize(("make", "given"), OWN)
def test_built_in_providers_pass(make: Make, given: dict[str, Any]) -> None:
    """Each of them refuses whatever is no balance, and shows its key nowhere."""
    check_provider(make, **given)


def test_no_provider_is_left_out() -> None:
    """Each vendor in the registry has a row."""
    checked = {make(KEY).name for make, _ in (row.values for row in OWN)}
    assert {vendor.name for vendor in VENDORS.values()} <= checked
