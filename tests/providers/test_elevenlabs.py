"""ElevenLabs' API reference, errors page and help pages (elevenlabs.io, read 2026-11), to the letter."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hostile import KEY, Server, http

from budgetguard import BalanceUnavailable, Guard
from budgetguard._core.errors import InvalidCredentials
from budgetguard.providers import (
    EXHAUSTED,
    KEY_LIMIT,
    NOT_CREDITS,
    ElevenLabs,
    ProviderRefusal,
    busy,
)
from budgetguard.providers.billing import BillingReply, Unpriced
from budgetguard.providers.elevenlabs.billing import CHARACTER_BY_MODEL, speech_cost
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox, Vendor
from budgetguard.transport import GuardTransport

Serve = Callable[..., Server]

SUBSCRIPTION: dict[str, Any] = {
    "tier": "creator",
    "character_count": 17231,
    "character_limit": 100000,
    "max_character_limit_extension": None,
    "max_credit_limit_extension": 0,
    "can_extend_character_limit": True,
    "allowed_to_extend_character_limit": False,
    "next_character_count_reset_unix": 1738356858,
    "voice_slots_used": 1,
    "current_overage": {"amount": "0", "currency": "usd"},
    "status": "active",
    "open_invoices": [],
}


def said(**fields: Any) -> str:
    """The reply, with other fields."""
    return json.dumps(SUBSCRIPTION | fields)


@pytest.mark.anyio
async def test_a_reply_of_the_reference(serve: Serve, client: httpx.AsyncClient) -> None:
    """One GET with the key in a header of its own; what is used is taken off the limit."""
    server = serve(http(200, said()))
    balance = await ElevenLabs(KEY, base_url=server.url).fetch(client)
    assert (balance.credits, balance.unit, balance.tier) == (82769, "credits", "creator")
    assert balance.renews_at == datetime(2025, 1, 31, 20, 54, 18, tzinfo=UTC)
    assert server.requests[0].startswith(b"GET /v1/user/subscription HTTP/1.1\r\n")
    assert f"xi-api-key: {KEY}\r\n".encode() in server.requests[0]
    assert b"authorization" not in server.requests[0].lower()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "own", "with_overage"),
    [
        ({}, 82769, 82769),
        ({"max_credit_limit_extension": 5000}, 82769, 87769),
        ({"max_credit_limit_extension": "unlimited"}, 82769, None),
        (
            {"max_credit_limit_extension": "unlimited", "can_extend_character_limit": False},
            82769,
            82769,
        ),
        ({"max_credit_limit_extension": 5000, "can_extend_character_limit": False}, 82769, 82769),
        ({"character_count": 100001}, -1, -1),
        ({"character_count": 100001, "max_credit_limit_extension": 5000}, -1, 4999),
        ({"next_character_count_reset_unix": None}, 82769, 82769),
        ({"allowed_to_extend_character_limit": True}, 82769, 82769),
    ],
)
async def test_what_is_left(
    fields: dict[str, Any],
    own: int,
    with_overage: int | None,
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """Overage counts if the plan entitles to it, up to the allowance; "unlimited" is documented as no cap."""
    server = serve(http(200, said(**fields)))
    assert (await ElevenLabs(KEY, base_url=server.url).fetch(client)).credits == with_overage
    provider = ElevenLabs(KEY, base_url=server.url, overage=False)
    assert (await provider.fetch(client)).credits == own


@pytest.mark.anyio
async def test_without_overage_its_fields_are_not_needed(
    serve: Serve, client: httpx.AsyncClient
) -> None:
    """Nor is the time of the renewal, on which no decision depends."""
    server = serve(http(200, '{"character_count": 1, "character_limit": 10}'))
    balance = await ElevenLabs(KEY, base_url=server.url, overage=False).fetch(client)
    assert (balance.credits, balance.renews_at) == (9, None)


def lacking(name: str) -> str:
    """The reply without one field."""
    return json.dumps({key: value for key, value in SUBSCRIPTION.items() if key != name})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{}", "character_limit is missing"),
        (lacking("character_count"), "character_count is missing"),
        (lacking("character_limit"), "character_limit is missing"),
        (lacking("can_extend_character_limit"), "can_extend_character_limit is missing"),
        (lacking("max_credit_limit_extension"), "max_credit_limit_extension is missing"),
        (said(character_count=None), "character_count in the provider's reply is null"),
        (said(character_limit=None), "character_limit in the provider's reply is null"),
        (said(character_count=-5), "character_count in the provider's reply is negative"),
        (said(character_limit=-5), "character_limit in the provider's reply is negative"),
        (said(character_limit="100000"), "character_limit in the provider's reply is text"),
        (said(character_count=True), "character_count in the provider's reply is true"),
        (said(character_count=[1]), "character_count in the provider's reply is a list"),
        (said(character_limit=float("inf")), "Infinity"),
        (said(max_credit_limit_extension=None), "max_credit_limit_extension in the provider's"),
        (said(max_credit_limit_extension="infinite"), "is text, not a number"),
        (said(max_credit_limit_extension="5000"), "is text, not a number"),
        (said(max_credit_limit_extension=-1), "is negative"),
        (said(max_credit_limit_extension=True), "is true, not a number"),
        (said(can_extend_character_limit=None), "can_extend_character_limit in the provider's"),
        (said(can_extend_character_limit=1), "is a number, not true or false"),
        (said(can_extend_character_limit="true"), "is text, not true or false"),
        (said(next_character_count_reset_unix="2025"), "is text, not a number"),
        (said(next_character_count_reset_unix=-1), "is negative"),
        (said(next_character_count_reset_unix=10**12), "beyond the year 9999"),
        (said(tier=1), "tier in the provider's reply is a number"),
    ],
)
async def test_nonsense_is_no_balance(
    body: str, words: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """The SDK's model would hand out None or text for it."""
    with pytest.raises(BalanceUnavailable) as caught:
        await ElevenLabs(KEY, base_url=serve(http(200, body)).url).fetch(client)
    assert words in caught.value.reason


@pytest.mark.anyio
async def test_a_wrong_key(serve: Serve, client: httpx.AsyncClient) -> None:
    """The provider's own words come along, from a detail that is an object."""
    detail = {"status": "missing_permissions", "message": "The key misses the permission user_read"}
    server = serve(http(401, json.dumps({"detail": detail})))
    with pytest.raises(InvalidCredentials, match="misses the permission user_read"):
        await ElevenLabs(KEY, base_url=server.url).fetch(client)


def test_what_a_guard_reads_off_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults, and the environment."""
    provider = ElevenLabs(KEY)
    assert (provider.name, provider.base_url) == ("ElevenLabs", "https://api.elevenlabs.io")
    assert provider.top_up_url == "https://elevenlabs.io/app/subscription"
    assert (provider.lag, provider.linger, provider.overage) == (5, 240, True)
    assert repr(provider) == "ElevenLabs(base_url='https://api.elevenlabs.io')"
    monkeypatch.setenv("ELEVENLABS_API_KEY", KEY)
    monkeypatch.setenv("ELEVENLABS_BASE_URL", "https://api.eu.residency.elevenlabs.io")
    assert ElevenLabs().base_url == "https://api.eu.residency.elevenlabs.io"
    assert ElevenLabs(base_url=provider.base_url).fingerprint == provider.fingerprint
    with pytest.raises(TypeError, match="overage takes True or False, not str"):
        ElevenLabs(KEY, overage="unlimited")  # type: ignore[arg-type]


def price(path: str, body: Any) -> Any:
    """The most that a request costs, found as a transport does."""
    from budgetguard.routes import Routes

    found: Any = Routes(ElevenLabs.billing.prices).find("POST", path)
    content = body if isinstance(body, str) else json.dumps(body)
    request = httpx.Request("POST", f"https://api.elevenlabs.io{path}", content=content)
    return "unpriced" if found is None else found(request)


TEXT = "The first move is what sets everything in motion."
SPEECH = "/v1/text-to-speech/JBFqnCBsd6RMkjVDRZzb"


@pytest.mark.parametrize("how", ["", "/stream", "/with-timestamps", "/stream/with-timestamps"])
@pytest.mark.parametrize(
    ("fields", "credits"),
    [
        ({}, 49),
        ({"model_id": "eleven_v3"}, 49),
        ({"model_id": "eleven_multilingual_v2"}, 49),
        ({"model_id": "eleven_flash_v2_5"}, 25),
        ({"model_id": "eleven_turbo_v2"}, 25),
        ({"model_id": "eleven_v9"}, 49),
        ({"model_id": None}, 49),
        ({"model_id": ["eleven_flash_v2_5"]}, 49),
        ({"text": ""}, 0),
        ({"text": "é😀"}, 2),
    ],
)
def test_speech_costs_by_the_character(how: str, fields: dict[str, Any], credits: int) -> None:
    """Half with Flash and Turbo, rounded up; an unknown model is as dear as the dearest."""
    assert price(SPEECH + how, {"text": TEXT, **fields}) == credits
    dialogue = [{"text": fields.get("text", TEXT), "voice_id": "v"}]
    model = {key: value for key, value in fields.items() if key == "model_id"}
    assert price(f"/v1/text-to-dialogue{how}", {"inputs": dialogue, **model}) == credits


def test_no_known_model_is_dearer_than_an_unknown_one() -> None:
    """Or an unknown one could cost more than is held for it."""
    assert max(CHARACTER_BY_MODEL.values()) == ElevenLabs.CHARACTER
    assert all(speech_cost(10, model) <= speech_cost(10) for model in CHARACTER_BY_MODEL)


@pytest.mark.parametrize(
    ("body", "credits"),
    [
        ({"text": "x", "duration_seconds": 2.5}, 100),
        ({"text": "x", "duration_seconds": 0.51}, 21),
        ({"text": "x"}, 1200),
        ({"text": "x", "duration_seconds": None}, 1200),
    ],
)
def test_a_sound_costs_by_the_second(body: dict[str, Any], credits: int) -> None:
    """Without a duration, the longest counts."""
    assert price("/v1/sound-generation", body) == credits


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SPEECH, {}),
        (SPEECH, {"text": None}),
        (SPEECH, {"text": ["x"]}),
        (SPEECH, "not JSON"),
        ("/v1/text-to-dialogue", {}),
        ("/v1/text-to-dialogue", {"inputs": "x"}),
        ("/v1/text-to-dialogue", {"inputs": ["x"]}),
        ("/v1/sound-generation", {"duration_seconds": "two"}),
        ("/v1/sound-generation", {"duration_seconds": -2}),
        ("/v1/sound-generation", {"duration_seconds": True}),
        ("/v1/speech-to-text", {}),
        ("/v1/speech-to-speech/v/stream", {}),
        ("/v1/voice-changer/v", {}),
        ("/v1/audio-isolation", {}),
        ("/v1/audio-isolation/stream", {}),
        ("/v1/dubbing", {}),
        ("/v1/dubbing/resource/d/render/es", {}),
        ("/v1/music", {"music_length_ms": 10000}),
        ("/v1/music/detailed/stream", {}),
        ("/v1/text-to-voice/design", {}),
        ("/v1/text-to-voice/v/remix", {}),
        ("/v1/forced-alignment", {}),
        ("/v1/studio/projects/p/convert", {}),
        ("/v1/convai/twilio/outbound-call", {}),
        ("/v1/convai/agents/a/simulate-conversation", {}),
    ],
)
def test_what_could_cost_anything_is_not_sent(path: str, body: Any) -> None:
    """The refusal tells how to set a price."""
    with pytest.raises(Unpriced, match="Set it with prices= of a transport"):
        price(path, body)


def test_what_costs_nothing_passes() -> None:
    """A plan of music is free by its documentation; other requests have no price."""
    assert price("/v1/music/plan", {}) is None
    for path in ("/v1/text-to-voice", "/v1/voices/add", "/v1/convai/agents/create"):
        assert price(path, {}) == "unpriced"


def reply(status: int = 200, body: Any = None, **rest: Any) -> BillingReply:
    """A reply to a request for speech."""
    content = None if body is None else json.dumps(body).encode()
    return BillingReply(SPEECH, status, rest.pop("headers", {}), content, **rest)


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (reply(headers={"character-cost": "27"}), 27),
        (reply(headers={"character-cost": "0"}), 0),
        (reply(headers={"character-cost": "27"}, complete=False), 27),
        (reply(headers={"character-cost": "27"}, status=500), "keep"),
        (reply(headers={"character-cost": "27"}, status=401), "release"),
        (reply(headers={"character-cost": "lots"}), "cost"),
        (reply(headers={"character-cost": "-3"}), "cost"),
        (reply(headers={"character-cost": ""}), "cost"),
        (reply(), "cost"),
        (reply(complete=False), "keep"),
        (reply(429), "release"),
        (reply(422), "release"),
        (reply(503), "keep"),
    ],
)
def test_what_a_call_cost(answer: BillingReply, end: Any) -> None:
    """The header is there before the sound, so it counts although nobody listened to the end."""
    assert ElevenLabs.billing.cost_of(answer) == end


def detail(code: str | None = None, message: str = "", status: str | None = None) -> Any:
    """An error body, in the newer or in the older shape."""
    fields = {"code": code, "status": status, "message": message}
    return {"detail": {name: value for name, value in fields.items() if value is not None}}


OURS = "This request exceeds your quota of 10000. You have 70 credits remaining, while 112 are"
ITS_OWN = "This request exceeds your API key (jarvis) quota of 10000. You have 68 credits remaining"
AT_ONCE = "This request exceeds your quota limit of 200000 characters within a 5-minute interval."
LIBRARY = "Free users cannot use library voices via the API. Please upgrade your subscription"


@pytest.mark.parametrize(
    ("status", "body", "refusal"),
    [
        (200, detail("quota_exceeded", OURS), None),
        (401, detail("quota_exceeded", OURS), EXHAUSTED),
        (401, detail(None, OURS, "quota_exceeded"), EXHAUSTED),
        (401, detail("quota_exceeded", ""), EXHAUSTED),
        (401, detail(None, OURS), EXHAUSTED),
        (401, {"detail": OURS}, EXHAUSTED),
        (401, detail("quota_exceeded", ITS_OWN), KEY_LIMIT),
        (401, detail("quota_exceeded", "This request exceeds your API key quota."), KEY_LIMIT),
        (401, {"detail": ITS_OWN}, KEY_LIMIT),
        (400, detail("quota_exceeded", OURS), EXHAUSTED),
        (401, detail("quota_exceeded", AT_ONCE), busy(300)),
        (401, {"detail": AT_ONCE}, busy(300)),
        (402, detail("insufficient_credits", "not enough credits"), EXHAUSTED),
        (402, detail("payment_required", "Payment is required."), EXHAUSTED),
        (402, {}, EXHAUSTED),
        (402, None, EXHAUSTED),
        (402, detail("paid_plan_required", LIBRARY), NOT_CREDITS),
        (402, detail(None, LIBRARY, "payment_required"), NOT_CREDITS),
        (401, detail("payment_issue", "failed or incomplete payment"), EXHAUSTED),
        (401, detail("invalid_api_key", "Invalid API key"), NOT_CREDITS),
        (401, detail("detected_unusual_activity", "Free Tier usage disabled."), NOT_CREDITS),
        (403, detail("subscription_required", "A paid subscription is required"), NOT_CREDITS),
        (429, detail("concurrent_limit_exceeded"), NOT_CREDITS),
        (429, detail(None, "", "too_many_concurrent_requests"), NOT_CREDITS),
        (429, detail("system_busy"), NOT_CREDITS),
        (422, {"detail": [{"loc": ["text"], "msg": "missing"}]}, NOT_CREDITS),
        (400, {"detail": {"code": ["quota_exceeded"], "message": {}}}, NOT_CREDITS),
        (400, [], NOT_CREDITS),
        (500, detail("internal_error"), None),
    ],
)
def test_how_a_refusal_is_read(status: int, body: Any, refusal: ProviderRefusal | None) -> None:
    """By its code; the status is another in the field than in the documentation."""
    assert ElevenLabs.billing.classify(reply(status, body)) == refusal


def test_a_cap_on_what_is_used_at_once_passes() -> None:
    """After what the header says, if it is there."""
    refused = reply(401, detail("quota_exceeded", AT_ONCE), headers={"retry-after": "7"})
    assert ElevenLabs.billing.classify(refused) == busy(7)


@pytest.fixture
def sandbox(clock: HandClock) -> Iterator[Sandbox]:
    """One with 100 credits, whose time is moved by hand as the guards' is."""
    del clock
    with Sandbox(100, clock="manual") as sandbox:
        yield sandbox


@pytest.fixture
def vendor(sandbox: Sandbox) -> Any:
    """ElevenLabs there."""
    return sandbox.vendor("elevenlabs")


def guard_of(vendor: Vendor, **options: Any) -> Guard:
    """A guard of its account."""
    return Guard(ElevenLabs(vendor.key, base_url=vendor.url), **options)


def client_of(vendor: Vendor, guard: Guard) -> httpx.Client:
    """A guarded client."""
    headers = {"xi-api-key": vendor.key}
    transport = GuardTransport(guard)
    return httpx.Client(base_url=vendor.url, headers=headers, transport=transport)


def test_the_subscription_of_the_sandbox(vendor: Any, clock: HandClock) -> None:
    """What is used, the overage, and when it renews."""
    guard = guard_of(vendor)
    vendor.account.spend(30)
    assert guard.balance().renews_at == datetime(2027, 1, 1, tzinfo=UTC)
    for overage, may, left in ((0, True, 70), (50, False, 70), (50, True, 120)):
        vendor.overage, vendor.may_exceed = overage, may
        clock.advance(1)
        assert guard.balance(max_age=0).credits == left
    vendor.overage = "unlimited"
    clock.advance(1)
    assert guard.balance(max_age=0).credits is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SPEECH, {"text": "x" * 11}),
        (SPEECH, {"text": "x" * 11, "model_id": "eleven_flash_v2_5"}),
        (f"{SPEECH}/stream", {"text": "x" * 11, "model_id": "eleven_turbo_v2_5"}),
        (f"{SPEECH}/with-timestamps", {"text": "x" * 11}),
        ("/v1/sound-generation", {"text": "x", "duration_seconds": 0.51}),
    ],
)
def test_each_call_is_settled_at_what_it_really_cost(
    vendor: Vendor, path: str, body: dict[str, Any]
) -> None:
    """By the header of its reply."""
    guard = guard_of(vendor)
    guard.balance()
    with client_of(vendor, guard) as http:
        for _ in range(3):
            assert http.post(path, json=body).status_code == 200
            assert guard.available == vendor.account.balance
    assert 0 < vendor.account.used < 100


def test_a_sound_without_a_duration_is_held_at_the_longest(vendor: Any) -> None:
    """And costs what it costs."""
    vendor.account.top_up(1100)
    guard = guard_of(vendor)
    guard.balance()
    with (
        client_of(vendor, guard) as http,
        http.stream("POST", "/v1/sound-generation", json={"text": "x"}) as sound,
    ):
        assert guard.available == 0
        sound.read()
    assert guard.available == vendor.account.balance == 1000


def test_our_refusal_is_as_elevenlabs(vendor: Vendor) -> None:
    """With the codes of its own, and our sentence for a message."""
    guard = guard_of(vendor)
    with client_of(vendor, guard) as http:
        refused = http.post(SPEECH, json={"text": "x" * 101})
        unpriced = http.post("/v1/music", json={"prompt": "x"})
    assert refused.status_code == 402
    body = refused.json()["detail"]
    assert (body["type"], body["code"]) == ("payment_required", "insufficient_credits")
    assert body["status"] == "quota_exceeded"
    assert "needs 101 credits, and 100 are available" in body["message"]
    assert unpriced.status_code == 400
    assert "prices=" in unpriced.json()["detail"]["message"]
    assert vendor.requests.arrived == 0


def test_no_key_is_logged(vendor: Vendor, caplog: pytest.LogCaptureFixture) -> None:
    """With every logger at DEBUG, through a call, a refusal and a refresh."""
    caplog.set_level(logging.DEBUG)
    guard = guard_of(vendor)
    with client_of(vendor, guard) as http:
        http.post(SPEECH, json={"text": "x"})
        vendor.refuse_with = "exhausted"
        http.post(SPEECH, json={"text": "x"})
        http.post(SPEECH, json={"text": "x"})
    assert caplog.records
    assert vendor.key not in caplog.text
    assert vendor.key not in repr([vars(record) for record in caplog.records])


def test_prices_of_ones_own_stand_beside_ours(vendor: Vendor) -> None:
    """As the refusal of an unknown price advises."""
    guard = guard_of(vendor)
    prices: Any = {**ElevenLabs.billing.prices, ("POST", "/v1/music/**"): Decimal(90)}
    transport = GuardTransport(guard, prices=prices)
    with httpx.Client(base_url=vendor.url, transport=transport) as http:
        headers = {"xi-api-key": vendor.key}
        assert http.post("/v1/music", json={}, headers=headers).status_code == 404
    assert guard.available == 100
