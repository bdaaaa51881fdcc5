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
    Moonshot,
    OpenRouter,
    PreDev,
    Tavily,
)
from budgetguard.testing import check_provider

Make = Callable[[str], Any]

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

DEEPSEEK_REPLIES = [
    BillingReply(
        "/chat/completions",
        200,
        {},
        b'{"model": "deepseek-flash", "created": 1795000000, "usage": {"prompt_tokens": 9, '
        b'"completion_tokens": 4}}',
    ),
    BillingReply("/chat/completions", 402, {}, b'{"error": {"message": "Insufficient Balance"}}'),
]
MOONSHOT_REPLIES = [
    BillingReply(
        "/v1/chat/completions",
        200,
        {},
        b'{"usage": {"prompt_tokens": 9, "completion_tokens": 4}}',
        request_body=b'{"model": "kimi-k3", "messages": []}',
    ),
    BillingReply(
        "/v1/chat/completions",
        429,
        {},
        b'{"error": {"type": "exceeded_current_quota_error", "message": "No."}}',
    ),
]
# None without its usage: those cost less if they have fewer results, as the vendor documents.
TAVILY_REPLIES = [
    BillingReply("/search", 200, {}, b'{"results": [{}], "usage": {"credits": 2}}'),
    BillingReply("/research", 201, {}, b'{"request_id": "r1", "status": "pending"}'),
    BillingReply(
        "/search", 432, {}, b'{"detail": {"error": "exceeds this API key\'s set usage limit."}}'
    ),
    BillingReply("/search", 433, {}, b'{"detail": {"error": "exceeds the pay-as-you-go limit."}}'),
]

ELEVENLABS_SUBSCRIPTION = {
    "tier": "creator",
    "character_count": 17231,
    "character_limit": 100000,
    "max_credit_limit_extension": 5000,
    "can_extend_character_limit": True,
    "next_character_count_reset_unix": 1798761600,
}
ELEVENLABS_REPLIES = [
    BillingReply("/v1/text-to-speech/v", 200, {"character-cost": "27"}, b"sound"),
    BillingReply(
        "/v1/text-to-speech/v",
        401,
        {},
        b'{"detail": {"status": "quota_exceeded", "message": "This request exceeds your quota of 10."}}',
    ),
    BillingReply(
        "/v1/text-to-speech/v",
        402,
        {},
        b'{"detail": {"type": "payment_required", "code": "insufficient_credits", "message": "none"}}',
    ),
    BillingReply(
        "/v1/text-to-speech/v",
        429,
        {"retry-after": "3"},
        b'{"detail": {"code": "concurrent_limit_exceeded", "message": "Too many requests."}}',
    ),
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
        DeepSeek,
        {
            "reply": {
                "is_available": True,
                "balance_infos": [{"currency": "USD", "total_balance": "110.00"}],
            },
            "credits": 110,
            "replies": DEEPSEEK_REPLIES,
        },
        id="deepseek",
    ),
    pytest.param(
        lambda key: Moonshot(key, currency="USD"),
        {
            "reply": {"code": 0, "status": True, "data": {"available_balance": 49.5}},
            "credits": 49.5,
            "replies": MOONSHOT_REPLIES,
        },
        id="moonshot",
    ),
    pytest.param(
        Tavily,
        {
            "reply": {
                "key": {"usage": 150, "limit": 1000},
                "account": {
                    "current_plan": "Bootstrap",
                    "plan_usage": 500,
                    "plan_limit": 15000,
                    "paygo_usage": 25,
                    "paygo_limit": 100,
                },
            },
            "credits": 850,
            "unlimited": ["key.limit"],
            "optional": ["account.paygo_limit"],
            "replies": TAVILY_REPLIES,
        },
        id="tavily",
    ),
    pytest.param(
        ElevenLabs,
        {
            "reply": ELEVENLABS_SUBSCRIPTION,
            "credits": 87769,
            "unlimited": ["max_credit_limit_extension"],
            "replies": ELEVENLABS_REPLIES,
        },
        id="elevenlabs",
    ),
    pytest.param(
        lambda key: ElevenLabs(key, overage=False),
        {
            "reply": {
                name: ELEVENLABS_SUBSCRIPTION[name]
                for name in ("character_count", "character_limit")
            },
            "credits": 82769,
        },
        id="elevenlabs-without-overage",
    ),
]


@pytest.mark.parametrize(("make", "given"), OWN)
def test_built_in_providers_pass(make: Make, given: dict[str, Any]) -> None:
    """Each of them refuses whatever is no balance, and shows its key nowhere."""
    check_provider(make, **given)
