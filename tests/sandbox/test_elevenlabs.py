"""ElevenLabs in the sandbox: its subscription, its prices in a header, and its refusals."""

from typing import Any

import httpx
import pytest

from budgetguard.testing.sandbox import Sandbox

SPEECH = "/v1/text-to-speech/a-voice"


@pytest.fixture
def vendor(manual: Sandbox) -> Any:
    """The vendor of a sandbox with 100 credits."""
    return manual.vendor("elevenlabs")


def client(vendor: Any) -> httpx.Client:
    """A client with its key."""
    return httpx.Client(
        base_url=vendor.url, headers={vendor.key_header: vendor.key}, trust_env=False
    )


def test_the_subscription(vendor: Any) -> None:
    """What was used, of what the period has; and what is allowed beyond it."""
    with client(vendor) as http:
        http.post(SPEECH, json={"text": "Hello"})
        body = http.get("/v1/user/subscription").json()
        assert (body["character_count"], body["character_limit"]) == (5, 100)
        assert (body["max_credit_limit_extension"], body["can_extend_character_limit"]) == (
            0,
            False,
        )
        vendor.overage, vendor.may_exceed = "unlimited", True
        body = http.get("/v1/user/subscription").json()
        assert (body["max_credit_limit_extension"], body["can_extend_character_limit"]) == (
            "unlimited",
            True,
        )


@pytest.mark.parametrize(
    ("path", "body", "cost"),
    [
        (SPEECH, {"text": "Hello"}, "5"),
        (f"{SPEECH}/stream", {"text": "Hello", "model_id": "eleven_flash_v2_5"}, "3"),
        (f"{SPEECH}/with-timestamps", {"text": "Hello", "model_id": "eleven_turbo_v2"}, "3"),
        ("/v1/sound-generation", {"text": "Rain", "duration_seconds": 0.5}, "20"),
    ],
)
def test_what_calls_cost(vendor: Any, path: str, body: dict[str, Any], cost: str) -> None:
    """A header says it; a character costs half a credit with a Flash or a Turbo model."""
    with client(vendor) as http:
        reply = http.post(path, json=body)
    assert (reply.status_code, reply.headers["character-cost"]) == (200, cost)
    assert reply.headers["maximum-concurrent-requests"] == "5"
    assert vendor.account.balance == 100 - int(cost)
    if path.endswith("timestamps"):
        assert reply.json()["audio_base64"] == "c291bmQ="
    else:
        assert reply.content == b"sound"


def test_a_sound_that_is_too_dear(vendor: Any) -> None:
    """Five seconds without a duration: 200 credits."""
    with client(vendor) as http:
        reply = http.post("/v1/sound-generation", json={"text": "Rain", "duration_seconds": None})
    assert (reply.status_code, reply.json()["detail"]["status"]) == (401, "quota_exceeded")
    assert vendor.account.balance == 100


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SPEECH, {}),
        (SPEECH, {"text": 1}),
        (SPEECH, {"text": "x", "model_id": 3}),
        ("/v1/sound-generation", {"duration_seconds": "5"}),
        ("/v1/sound-generation", {"duration_seconds": 31}),
    ],
)
def test_invalid_requests(vendor: Any, path: str, body: dict[str, Any]) -> None:
    """They are a 400, and cost nothing."""
    with client(vendor) as http:
        reply = http.post(path, json=body)
    assert (reply.status_code, reply.json()["detail"]["code"]) == (400, "bad_request")
    assert vendor.requests == (1, 0, 0)


@pytest.mark.parametrize(
    ("kind", "status", "code", "words"),
    [
        ("exhausted", 401, "quota_exceeded", "exceeds your quota of 100. You have 100 credits"),
        ("key_limit", 401, "quota_exceeded", "exceeds your API key (sandbox) quota of"),
        ("exhausted_402", 402, "insufficient_credits", "does not have enough credits"),
        ("exhausted_invoice", 401, "payment_issue", "failed or incomplete payment"),
        ("not_credits_plan", 402, "paid_plan_required", "Free users"),
        ("not_credits_concurrency", 429, "concurrent_limit_exceeded", "concurrent"),
        ("not_credits_load", 429, "system_busy", "busy"),
    ],
)
def test_refusals(vendor: Any, kind: str, status: int, code: str, words: str) -> None:
    """Each with its code, and with the older name of the code."""
    vendor.refuse_with = kind
    with client(vendor) as http:
        reply = http.post(SPEECH, json={"text": "Hello"})
    detail = reply.json()["detail"]
    assert (reply.status_code, detail["code"], detail["status"]) == (status, code, code)
    assert words in detail["message"]
