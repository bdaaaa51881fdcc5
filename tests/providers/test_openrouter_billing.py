"""What OpenRouter's replies say about credits: tables over documented and reported bodies."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import BalanceUnavailable, InsufficientCredits
from budgetguard._core.provider_refusal import ProviderRefusal
from budgetguard.providers import EXHAUSTED, KEY_LIMIT, NOT_CREDITS, busy, key_limit
from budgetguard.providers.billing import BillingReply, WorkStatus, read
from budgetguard.providers.openrouter.billing import OpenRouterBilling

BILLING = OpenRouterBilling()
CHAT = "/chat/completions"
USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6, "cost": 0.00014}
COST = Decimal("0.00014")
IN_FLIGHT = {
    "reason": "in_flight_budget_exhausted",
    "limit_source": "openrouter_in_flight_budget",
    "remedy_hint": "Retry after your in-flight requests settle (see the Retry-After header).",
}
PATHS = (CHAT, "/messages", "/videos", "/batches")
NAMES = (
    "error",
    "code",
    "type",
    "error_type",
    "message",
    "metadata",
    "limit_source",
    "reason",
    "resets_at",
    "headers",
    "Retry-After",
    "choices",
    "response",
    "usage",
    "cost",
    "status",
    "id",
)
DATE = "Mon, 30 Nov 2026 23:50:00 GMT"


def error(code: int, message: str = "No.", **metadata: Any) -> dict[str, Any]:
    """An error in OpenRouter's shape."""
    inner: dict[str, Any] = {"code": code, "message": message}
    return {"error": inner | ({"metadata": metadata} if metadata else {})}


def reply(body: Any, status: int = 200, path: str = CHAT, **headers: str) -> BillingReply:
    """A complete reply with that JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read(path, status, named, json.dumps(body).encode())


def stream(
    *chunks: Any, path: str = CHAT, complete: bool = True, done: bool = False
) -> BillingReply:
    """A stream of those chunks, with a comment in between."""
    frames = ["data: " + json.dumps(each) for each in chunks] + ["data: [DONE]"] * done
    content = ": OPENROUTER PROCESSING\n\n" + "".join(f"{each}\n\n" for each in frames)
    kind = {"content-type": "text/event-stream; charset=utf-8"}
    return read(path, 200, kind, content.encode(), complete=complete)


def chunk(**more: Any) -> dict[str, Any]:
    """A chunk of a chat's stream."""
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}
    return {"id": "gen-1", "object": "chat.completion.chunk", "choices": [choice], **more}


AFFORD = "This request requires more credits, or fewer max_tokens. You requested up to {} tokens, but can only afford {}."


@pytest.mark.parametrize(
    ("status", "body", "headers", "refusal"),
    [
        # The account is empty: documented with metadata (2026-07), and without until then.
        (402, error(402, limit_source="openrouter_credits"), {}, EXHAUSTED),
        (402, error(402, "Insufficient credits. Add more using ..."), {}, EXHAUSTED),
        (402, error(402, AFFORD.format(32000, 0)), {}, EXHAUSTED),
        (402, error(402, limit_source="openrouter_credits"), {"retry-after": "9"}, EXHAUSTED),
        (402, {}, {}, EXHAUSTED),
        (402, {"error": "No."}, {}, EXHAUSTED),
        (402, [], {}, EXHAUSTED),
        (402, error(402, limit_source=["?"]), {}, EXHAUSTED),
        # Requests in flight hold the credits (limits page, 2026-08).
        (402, error(402, **IN_FLIGHT), {"retry-after": "120"}, busy(120)),
        (402, error(402, **IN_FLIGHT), {"retry-after": "99999"}, busy(3600)),
        (402, error(402, **IN_FLIGHT, headers={"Retry-After": "120"}), {}, busy(120)),
        (402, error(402, **IN_FLIGHT, headers={"Retry-After": 120}), {}, busy()),
        (402, error(402, **IN_FLIGHT, headers=["?"]), {}, busy()),
        (402, error(402, **IN_FLIGHT), {}, busy()),
        (402, error(402), {"retry-after": "7"}, busy(7)),
        (402, error(402, limit_source="new"), {"retry-after": "7"}, busy(7)),
        # The key's own limit, with 402 (limits page, 2026-08) and with 403 (gptme#1449, ClawQL#876).
        (402, error(402, limit_source="openrouter_key_limit"), {}, KEY_LIMIT),
        (403, error(403, "Key limit exceeded (monthly limit). Manage it using ..."), {}, KEY_LIMIT),
        (403, error(403, limit_source="openrouter_key_limit"), {}, KEY_LIMIT),
        # Budgets of an organisation (hermes-agent#107166; workspace budgets page; errors page, 2026-10).
        (403, error(403, "Budget limit exceeded (monthly limit)"), {}, KEY_LIMIT),
        (403, error(403, "Workspace monthly budget of $500.00 exceeded. Contact"), {}, KEY_LIMIT),
        (403, error(403, limit_source="openrouter_guardrail_budget"), {}, KEY_LIMIT),
        (
            403,
            error(
                403,
                limit_source="openrouter_workspace_budget",
                resets_at="2026-12-01T00:00:00.000Z",
            ),
            {"date": DATE},
            key_limit(600),
        ),
        (
            403,
            error(403, limit_source="openrouter_workspace_budget", resets_at=None),
            {"date": DATE},
            KEY_LIMIT,
        ),
        (
            403,
            error(403, limit_source="openrouter_workspace_budget", resets_at="2026-11-01T00:00Z"),
            {"date": DATE},
            key_limit(0),
        ),
        (
            403,
            error(403, limit_source="openrouter_key_limit", resets_at="2026-12-01T00:00:00Z"),
            {},
            KEY_LIMIT,
        ),
        # A smaller request would be carried out (oh-my-pi#9569, forgecode#571, opencode#12219).
        (
            402,
            error(402, reason="weight_exceeds_budget", limit_source="openrouter_credits"),
            {},
            NOT_CREDITS,
        ),
        (402, error(402, AFFORD.format(65536, 30104)), {}, NOT_CREDITS),
        (
            402,
            error(402, AFFORD.format(65536, 30104), limit_source="openrouter_key_limit"),
            {},
            NOT_CREDITS,
        ),
        (402, error(402, "128000 token capacity required, 19484 available."), {}, NOT_CREDITS),
        (402, error(402, "Prompt tokens limit exceeded: 230799 > 91442."), {}, NOT_CREDITS),
        (402, error(402, "Prompt tokens limit exceeded: 230799 > 0."), {}, EXHAUSTED),
        # A provider refuses the account's own key there.
        (402, error(402, "Provider returned error", provider_name="DeepSeek"), {}, NOT_CREDITS),
        (402, error(402, limit_source="openrouter_credits", provider_name=None), {}, EXHAUSTED),
        # Nothing about credits.
        (403, error(403, "Request blocked", patterns=["ignore all"]), {}, NOT_CREDITS),
        (403, error(403, "Forbidden"), {}, NOT_CREDITS),
        (429, error(429, "Rate limit exceeded"), {"retry-after": "60"}, NOT_CREDITS),
        (429, error(429, "Key limit exceeded"), {}, NOT_CREDITS),
        (401, error(401), {}, NOT_CREDITS),
        (400, error(402), {}, NOT_CREDITS),
        (503, error(503), {}, None),
        (200, {"choices": [], "usage": USAGE}, {}, None),
        # Errors within a 200 (errors page, 2026-08).
        (200, error(402, limit_source="openrouter_credits"), {}, EXHAUSTED),
        (200, error(402, **IN_FLIGHT), {}, busy()),
        (200, error(403, "Key limit exceeded (total limit)"), {}, KEY_LIMIT),
        (200, error(429), {}, None),
        (200, error(502), {}, None),
        (200, {"choices": [{"error": {"code": 402, "message": "No."}}]}, {}, EXHAUSTED),
        (200, {"error": {"message": "No."}, "error_type": "payment_required"}, {}, EXHAUSTED),
        (200, {"error": None, "choices": [7]}, {}, None),
    ],
)
def test_refusals(
    status: int, body: Any, headers: dict[str, str], refusal: ProviderRefusal | None
) -> None:
    """A 402 means one of five things, and a 403 or an error within a 200 may mean one of them, too."""
    found = BILLING.classify(read(CHAT, status, headers, json.dumps(body).encode()))
    assert found == refusal


@pytest.mark.parametrize(
    ("status", "body", "refusal"),
    [
        (402, {"type": "billing_error", "message": "No."}, EXHAUSTED),
        (
            403,
            {"type": "permission_error", "message": "Key limit exceeded (daily limit)"},
            KEY_LIMIT,
        ),
        (403, {"type": "permission_error", "message": "Request blocked"}, NOT_CREDITS),
        (
            200,
            {"type": "billing_error", "message": "No.", "error_type": "payment_required"},
            EXHAUSTED,
        ),
        (200, {"type": "overloaded_error", "message": "No."}, None),
    ],
)
def test_refusals_in_the_shape_of_anthropic(status: int, body: Any, refusal: Any) -> None:
    """The messages endpoint has a type in place of a code."""
    whole = {"type": "error", "error": body}
    assert BILLING.classify(reply(whole, status, "/messages")) == refusal
    if status == 200:
        assert BILLING.classify(stream(whole, path="/messages")) == refusal


@pytest.mark.parametrize(
    ("found", "refusal", "end"),
    [
        (stream(chunk(), chunk(**error(402)), complete=False), EXHAUSTED, "keep"),
        (stream(chunk(), chunk(**error(402, **IN_FLIGHT))), busy(), "keep"),
        (stream(chunk(), chunk(**error(429))), None, "keep"),
        (stream(chunk(usage=USAGE), chunk(**error(502))), None, COST),
        (
            stream(
                {"type": "response.created", "response": {"error": None}},
                {
                    "type": "response.failed",
                    "response": {
                        "error": {"code": "server_error", "message": "No."},
                        "error_type": "payment_required",
                    },
                },
                path="/responses",
            ),
            EXHAUSTED,
            "keep",
        ),
        (stream({"type": "error", "error": {"code": "x", "message": "No."}}), None, "keep"),
    ],
)
def test_an_error_in_a_stream(found: BillingReply, refusal: Any, end: Any) -> None:
    """What was written until then may be charged, so without a figure the credits are kept."""
    assert BILLING.classify(found) == refusal
    assert BILLING.cost_of(found) == end


@pytest.mark.parametrize(
    ("found", "end"),
    [
        (reply({"choices": [], "usage": USAGE}), COST),
        (reply({"choices": [], "usage": USAGE | {"cost": 0, "is_byok": True}}), Decimal(0)),
        (reply({"choices": [], "usage": USAGE | {"cost": None}}), "cost"),
        (reply({"choices": [], "usage": USAGE | {"cost": -1}}), "cost"),
        (reply({"choices": [], "usage": USAGE | {"cost": "x"}}), "cost"),
        (reply({"choices": [], "usage": None}), "cost"),
        (reply({"choices": []}), "cost"),
        (reply([]), "cost"),
        (read("/audio/speech", 200, {}, b"\xff\xfb"), "cost"),
        (read(CHAT, 200, {}, None), "cost"),
        (read(CHAT, 200, {}, b'{"usage": {"cost": 1', complete=False), "keep"),
        (reply(error(502)), "keep"),
        (reply(error(402), 402), "release"),
        (reply(error(403), 403), "release"),
        (reply(error(429), 429), "release"),
        (reply(error(408), 408), "keep"),
        (reply(error(502), 502), "keep"),
        (reply({"error": error(500)["error"], "usage": USAGE}, 500), "keep"),
        (stream(chunk(), chunk(usage=USAGE), done=True), COST),
        (stream(chunk(usage=None), chunk(usage=USAGE), complete=False), COST),
        (stream(chunk(), complete=False), "keep"),
        (stream(chunk(), chunk(), done=True), "cost"),
        (
            stream(
                {"type": "message_start", "message": {"usage": {"input_tokens": 4}}},
                {"type": "message_delta", "usage": {"output_tokens": 2, "cost": 0.00014}},
                {"type": "message_stop"},
                path="/messages",
            ),
            COST,
        ),
        (
            stream(
                {"type": "response.created", "response": {"usage": None}},
                {"type": "response.completed", "response": {"usage": USAGE}},
                path="/responses",
            ),
            COST,
        ),
        (reply({"id": "x", "status": "pending"}, 202, "/videos"), "keep"),
        (
            reply({"id": "x", "status": "completed", "usage": {"cost": 0.5}}, 200, "/videos"),
            Decimal("0.5"),
        ),
        (reply({"id": "x", "status": "validating", "usage": None}, 202, "/batches"), "keep"),
        (reply({"id": "x", "status": "in_progress"}, path="/responses"), "keep"),
    ],
)
def test_costs(found: BillingReply, end: Any) -> None:
    """The figure is `usage.cost`, in the body, in a stream's last frames, or in its response."""
    assert BILLING.cost_of(found) == end


def test_a_video_is_followed() -> None:
    """By its id, until a status says what it cost; work without a usable id is not."""
    submitted = reply({"id": "job-abc123", "status": "pending"}, 202, "/videos")
    assert BILLING.work(submitted) == "/videos/job-abc123"
    assert BILLING.work(reply({"id": "batch_1"}, 202, "/batches")) == "/batches/batch_1"
    for id in ("..", "a/b", "", "a?b", 7, None, "x" * 200):
        assert BILLING.work(reply({"id": id}, 202, "/videos")) is None
    assert BILLING.work(reply({"id": "gen-1"})) is None
    assert BILLING.work(reply(error(402), 402, "/videos")) is None


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, {"status": "pending"}, WorkStatus()),
        (200, {"status": "in_progress"}, WorkStatus()),
        (200, {"status": "finalizing"}, WorkStatus()),
        (200, {"status": "completed", "usage": {"cost": 0.5}}, WorkStatus(end=Decimal("0.5"))),
        (200, {"status": "completed"}, WorkStatus(end="cost")),
        (200, {"status": "failed"}, WorkStatus(end="keep")),
        (200, {"status": "cancelled", "usage": {"cost": 0}}, WorkStatus(end=Decimal(0))),
        (200, {"status": "expired", "usage": {"cost": None}}, WorkStatus(end="keep")),
        (200, {"status": "new"}, None),
        (200, {"status": []}, None),
        (200, [], None),
        (404, error(404), WorkStatus(end="keep")),
        (500, {"status": "completed"}, None),
    ],
)
def test_the_status_of_a_video(status: int, body: Any, found: WorkStatus | None) -> None:
    """It costs what its usage says, once it has ended (video guide, 2026-08)."""
    assert BILLING.status(reply(body, status, "/videos/x")) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
)


@given(body=JSON, status=st.sampled_from([200, 402, 403, 404, 429]), path=st.sampled_from(PATHS))
def test_nothing_raises(body: Any, status: int, path: str) -> None:
    """Whatever a reply or a stream contains, it is read."""
    for found in (reply(body, status, path), stream(chunk(), body, path=path)):
        BILLING.classify(found)
        BILLING.cost_of(found)
        BILLING.work(found)
        BILLING.status(found)


def short(**figures: Any) -> InsufficientCredits:
    """A refusal of the guard."""
    return InsufficientCredits("chat", "2", "1", "1", "0", "0", "0", 3, "OpenRouter", **figures)


@pytest.mark.parametrize(
    ("figures", "source"),
    [
        ({}, "openrouter_credits"),
        ({"basis": "key limit"}, "openrouter_key_limit"),
        ({"basis": "busy", "retry_after": 4.0}, "openrouter_in_flight_budget"),
    ],
)
def test_our_refusal_has_the_shape_of_theirs(figures: Any, source: str) -> None:
    """A program that branches on `limit_source` takes the right branch; `code` is a whole number."""
    refused = short(**figures)
    body = BILLING.refusal_body(refused, CHAT)
    assert body["error"]["code"] == 402
    assert body["error"]["metadata"]["limit_source"] == source
    assert {body[name] for name in ("message", "detail", "title")} == {str(refused)}
    assert body["error"]["message"] == str(refused)
    message = BILLING.refusal_body(refused, "/messages")
    assert (message["type"], message["error"]["type"]) == ("error", "billing_error")
    assert message["error"]["message"] == str(refused)


def test_our_refusal_of_an_unknown_balance() -> None:
    """It says nothing of a limit."""
    refused = BalanceUnavailable("OpenRouter", "nobody knows")
    body = BILLING.refusal_body(refused, CHAT)
    assert "metadata" not in body["error"]
    assert isinstance(body["error"]["code"], int)
    assert BILLING.refusal_body(refused, "/messages")["error"]["type"] == "api_error"
