"""Browser Use: its account page to the letter, and what its replies say of dollars, by table."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hostile import KEY, Server, http

from budgetguard import Balance, BalanceUnavailable, InvalidCredentials
from budgetguard._core.refresh_failure import Transient
from budgetguard.providers import BrowserUse, ProviderRefusal
from budgetguard.providers.billing import BillingReply, LostCall, WorkStatus, read
from budgetguard.providers.browseruse.billing import BrowserUseBilling

Serve = Callable[..., Server]

ACCOUNT = {
    "name": "Ava",
    "totalCreditsBalanceUsd": 12.43,
    "monthlyCreditsBalanceUsd": 2,
    "additionalCreditsBalanceUsd": 10.43,
    "rateLimit": 10,
    "concurrentSessionLimit": 10,
    "activeSessionCount": 3,
    "planInfo": {"planName": "business", "subscriptionStatus": "active"},
    "isFreeTier": False,
    "projectId": "11111111-1111-4111-8111-111111111111",
}
ID = "22222222-2222-4222-8222-222222222222"
RUNS, SESSIONS, TASKS = "/api/v4/runs", "/api/v3/sessions", "/api/v2/tasks"
LIMITED = {"code": "api_key_monthly_spend_limit_reached", "message": "m", "cap": 5, "spent": 5.1}


def reply(path: str, body: Any = None, status: int = 200, **headers: str) -> BillingReply:
    """A reply that was read completely."""
    content = b"" if body is None else json.dumps(body).encode()
    return read(path, status, {"content-type": "application/json", **headers}, content)


def price(path: str, body: Any) -> Any:
    """What a request is priced at."""
    found = BrowserUseBilling.prices["POST", path]
    request = httpx.Request("POST", f"https://api.browser-use.com{path}", json=body)
    return found(request) if callable(found) else found


@pytest.mark.anyio
async def test_every_field_of_the_account(serve: Serve, client: httpx.AsyncClient) -> None:
    """The total, in dollars, with the key in a header of its own; sessions of others are no limit."""
    server = serve(http(200, json.dumps(ACCOUNT)))
    balance = await BrowserUse(KEY, base_url=server.url).fetch(client)
    assert balance == Balance(
        credits=Decimal("12.43"),
        tier="business",
        max_concurrency=10,
        unit="USD",
        as_of=balance.as_of,
    )
    assert server.requests[0].startswith(b"GET /api/v2/billing/account HTTP/1.1\r\n")
    assert f"\r\nx-browser-use-api-key: {KEY}\r\n".encode() in server.requests[0]
    assert b"authorization" not in server.requests[0].lower()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ({"planInfo": None}, "12.43"),
        ({"totalCreditsBalanceUsd": -0.5, "planInfo": {}}, "-0.5"),
        ({"totalCreditsBalanceUsd": 0, "planInfo": {"planName": None}}, "0"),
    ],
)
async def test_an_account_without_a_plan(
    changed: dict[str, object], left: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Null is how an account is shown that pays as it goes; one may be overdrawn."""
    server = serve(http(200, json.dumps(ACCOUNT | changed)))
    balance = await BrowserUse(KEY, base_url=server.url).fetch(client)
    assert (balance.credits, balance.tier) == (Decimal(left), None)


TOTAL, LIMIT = "totalCreditsBalanceUsd", "concurrentSessionLimit"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (TOTAL, ..., "is missing"),
        (TOTAL, None, "is null"),
        (TOTAL, "12.43", "is text, not a number"),
        (TOTAL, True, "is true, not a number"),
        (TOTAL, 1e13, "is beyond"),
        (LIMIT, ..., "is missing"),
        (LIMIT, None, "is null"),
        (LIMIT, -1, "is not a whole number of sessions"),
        (LIMIT, 2.5, "is not a whole number of sessions"),
        (LIMIT, "10", "is text, not a number"),
        ("planInfo", "business", "is text, not an object"),
    ],
)
async def test_mistyped_fields_are_refused(
    name: str, value: object, words: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """No null and no -1 is taken for no limit, because none is documented as that."""
    fields = {key: each for key, each in (ACCOUNT | {name: value}).items() if each is not ...}
    server = serve(http(200, json.dumps(fields)))
    with pytest.raises(BalanceUnavailable) as caught:
        await BrowserUse(KEY, base_url=server.url).fetch(client)
    assert f"{name} " in caught.value.reason
    assert words in caught.value.reason


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (401, {"detail": "Invalid API key"}, InvalidCredentials, "answered 401: Invalid API key"),
        (404, {"detail": "Account not found"}, BalanceUnavailable, "answered 404: Account not"),
        (500, {"detail": "Oh"}, Transient, "answered 500: Oh"),
    ],
)
async def test_errors_of_the_account(
    status: int,
    body: object,
    kind: type[BalanceUnavailable],
    reason: str,
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """In the shape of all its errors."""
    server = serve(http(status, json.dumps(body)))
    with pytest.raises(BalanceUnavailable) as caught:
        await BrowserUse(KEY, base_url=server.url).fetch(client)
    assert type(caught.value) is kind
    assert reason in caught.value.reason


def test_what_a_guard_reads_off_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented defaults; the SDK's base URLs serve as well."""
    monkeypatch.delenv("BROWSER_USE_BASE_URL", raising=False)
    provider = BrowserUse(KEY)
    assert (provider.name, provider.unit) == ("Browser Use", "USD")
    assert (provider.lag, provider.linger) == (60.0, 14_400.0)
    assert repr(provider) == "BrowserUse(base_url='https://api.browser-use.com')"
    for version in ("v2", "v3", "v4"):
        same = BrowserUse(KEY, base_url=f"https://api.browser-use.com/api/{version}/")
        assert same.base_url == provider.base_url
        assert same.fingerprint == provider.fingerprint
    monkeypatch.setenv("BROWSER_USE_API_KEY", KEY)
    monkeypatch.setenv("BROWSER_USE_BASE_URL", "http://127.0.0.1:1/browseruse/api/v4")
    assert BrowserUse().base_url == "http://127.0.0.1:1/browseruse"
    assert (
        BrowserUse(account="shop").fingerprint == BrowserUse("bu_other", account="shop").fingerprint
    )


@pytest.mark.parametrize(
    ("path", "body", "cost"),
    [
        (RUNS, {"task": "t", "maxCostUsd": 3.5}, Decimal("3.5")),
        (RUNS, {"task": "t", "maxCostUsd": "0.75", "sessionId": ID}, Decimal("0.75")),
        (RUNS, {"task": "t"}, BrowserUse.RUN),
        (RUNS, {"task": "t", "maxCostUsd": None}, BrowserUse.RUN),
        (RUNS, {"task": "t", "maxCostUsd": "lots"}, BrowserUse.RUN),
        (RUNS, {"task": "t", "maxCostUsd": -1}, BrowserUse.RUN),
        (RUNS, [], BrowserUse.RUN),
        ("/api/v4/sessions/*/queue", {"text": "t"}, BrowserUse.RUN),
        (SESSIONS, {"task": "t", "maxCostUsd": 0.2}, Decimal("0.2")),
        (SESSIONS, {"task": "t", "sessionId": ID}, BrowserUse.SESSION),
        (SESSIONS, {"keepAlive": True}, None),
        (TASKS, {"task": "t"}, Decimal("0.61")),
        (TASKS, {"task": "t", "maxSteps": 10, "llm": "o3"}, Decimal("0.31")),
        (TASKS, {"task": "t", "maxSteps": 10, "llm": "gpt-9"}, Decimal("0.51")),
        (TASKS, {"task": "t", "maxSteps": "10"}, Decimal("0.07")),
        (TASKS, {"task": "t", "maxSteps": -1}, Decimal("60.01")),
        (TASKS, {"task": "t", "maxSteps": [1]}, Decimal("60.01")),
        ("/api/v2/sessions", {}, Decimal("0.08")),
        ("/api/v2/skills/*/execute", {}, BrowserUse.SKILL),
        ("/api/v4/browsers", {}, {"min": Decimal("0.02"), "linger": 3600.0}),
        ("/api/v2/browsers", {"timeout": 240}, {"min": Decimal("0.08"), "linger": 14400.0}),
        ("/api/v3/browsers", {"timeout": 10**9}, {"min": Decimal("0.08"), "linger": 14400.0}),
    ],
)
def test_prices(path: str, body: Any, cost: Any) -> None:
    """The request's own cap is what is held; what cannot be read is held at the most."""
    assert price(path, body) == cost


def test_the_prices_of_steps_and_browsers() -> None:
    """As the pages say them; a model that they do not name costs as much as the dearest one."""
    assert BrowserUse.task_cost(10) == Decimal("0.07")
    assert BrowserUse.task_cost(1, "gemini-flash-latest") == Decimal("0.0175")
    assert BrowserUse.task_cost(1, "claude-opus-5") == BrowserUse.TASK + BrowserUse.STEP
    assert BrowserUse.browser_cost(30) == Decimal("0.01")


@pytest.mark.parametrize(
    ("path", "body", "refusal"),
    [
        (RUNS, {"detail": "Insufficient credits"}, "exhausted"),
        (RUNS, None, "exhausted"),
        (RUNS, ["Insufficient credits"], "exhausted"),
        (RUNS, {"detail": LIMITED}, "key_limit"),
        (TASKS, {"message": LIMITED}, "key_limit"),
        ("/api/v4/profiles", {"detail": "Subscription required"}, "not_credits"),
        ("/api/v3/boxes/me/resize", {"detail": "Free tier"}, "not_credits"),
        ("/api/v4/profiles", {"detail": LIMITED}, "key_limit"),
    ],
)
def test_a_402_has_three_meanings(path: str, body: Any, refusal: str) -> None:
    """Of which only one is about the account's credits."""
    found = BrowserUseBilling().classify(reply(path, body, 402))
    assert found == ProviderRefusal(refusal)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "body", "refusal"),
    [
        (200, {"id": ID}, None),
        (400, {"detail": "Session is stopped"}, "not_credits"),
        (401, {"detail": "Invalid API key"}, "not_credits"),
        (403, {"detail": "Zero Data Retention is enabled"}, "not_credits"),
        (409, {"detail": "The session already has an active run."}, "not_credits"),
        (422, {"detail": [{"loc": ["body"], "msg": "m", "type": "t"}]}, "not_credits"),
        (429, {"detail": "Too many concurrent active sessions."}, "not_credits"),
        (429, {"detail": "Rate limit exceeded", "retry_after_seconds": 3}, "not_credits"),
        (500, None, None),
    ],
)
def test_refusals_that_are_not_about_credits(status: int, body: Any, refusal: str | None) -> None:
    """Neither a rate limit nor a limit on sessions closes the account."""
    found = BrowserUseBilling().classify(reply(RUNS, body, status))
    assert (None if found is None else found.kind) == refusal


def test_how_long_a_key_is_limited() -> None:
    """As its reply says; it does not have to say so."""
    limited = reply(RUNS, {"detail": LIMITED}, 402, **{"retry-after": "60"})
    assert BrowserUseBilling().classify(limited) == ProviderRefusal("key_limit", 60)


@pytest.mark.parametrize(
    ("path", "status", "body", "outcome"),
    [
        (RUNS, 200, {"id": ID, "status": "queued"}, "keep"),
        (SESSIONS, 200, {"id": ID, "status": "created"}, "keep"),
        (TASKS, 202, {"id": ID, "sessionId": ID}, "keep"),
        ("/api/v4/browsers", 201, {"id": ID}, "keep"),
        (f"/api/v4/sessions/{ID}/queue", 200, {"id": 1}, "keep"),
        (RUNS, 200, None, "keep"),
        (f"/api/v2/skills/{ID}/execute", 200, {"success": True}, "cost"),
        (RUNS, 402, {"detail": "Insufficient credits"}, "release"),
        (RUNS, 409, {"detail": "busy"}, "release"),
        (SESSIONS, 409, {"detail": "busy"}, "keep"),
        (SESSIONS, 429, {"detail": "many"}, "release"),
        (SESSIONS, 500, None, "keep"),
    ],
)
def test_what_becomes_of_a_hold(path: str, status: int, body: Any, outcome: str) -> None:
    """Work goes on after its reply; a refusal costs nothing, and a failure is unknown."""
    assert BrowserUseBilling().cost_of(reply(path, body, status)) == outcome


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        (RUNS, {"id": ID}, f"{RUNS}/{ID}"),
        (SESSIONS, {"id": ID}, f"{SESSIONS}/{ID}"),
        (TASKS, {"id": ID, "sessionId": "s"}, f"{TASKS}/{ID}/status"),
        ("/api/v2/sessions", {"id": ID}, f"/api/v2/sessions/{ID}"),
        ("/api/v3/browsers", {"id": ID}, f"/api/v3/browsers/{ID}"),
        ("/api/v4/sessions/s/queue", {"id": 7, "runId": ID}, f"{RUNS}/{ID}"),
        ("/api/v4/sessions/s/queue", {"id": 7, "runId": None}, "/api/v4/sessions/s/queue/7"),
        ("/api/v4/sessions/s/queue", {"id": "7"}, None),
        (RUNS, {"id": "../x"}, f"{RUNS}/..%2Fx"),
        (RUNS, {"id": ".."}, None),
        (RUNS, {"id": 7}, None),
        (RUNS, None, None),
        ("/api/v4/workspaces", {"id": ID}, None),
    ],
)
def test_where_work_is_found(path: str, body: Any, found: str | None) -> None:
    """By its id, which cannot lead to another path."""
    assert BrowserUseBilling().work(reply(path, body)) == found
    assert BrowserUseBilling().work(reply(path, body, 402)) is None


GOES_ON, DONE = WorkStatus(), "cost"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{TASKS}/{ID}/status", {"status": "started", "cost": None}, GOES_ON),
        (f"{TASKS}/{ID}/status", {"status": "started", "cost": "0.1"}, WorkStatus(Decimal("0.1"))),
        (f"{TASKS}/{ID}/status", {"status": "finished", "cost": "0.2"}, Decimal("0.2")),
        (f"{TASKS}/{ID}/status", {"status": "failed", "cost": None}, DONE),
        (f"{TASKS}/{ID}/status", {"status": "stopped", "cost": "-1"}, DONE),
        (f"{SESSIONS}/{ID}", {"status": "created", "totalCostUsd": "0"}, WorkStatus(Decimal(0))),
        (
            f"{SESSIONS}/{ID}",
            {"status": "running", "totalCostUsd": "0.3"},
            WorkStatus(Decimal("0.3")),
        ),
        (f"{SESSIONS}/{ID}", {"status": "idle", "totalCostUsd": "0"}, WorkStatus(Decimal(0))),
        (f"{SESSIONS}/{ID}", {"status": "idle", "totalCostUsd": "0.4"}, Decimal("0.4")),
        (f"{SESSIONS}/{ID}", {"status": "idle", "stepCount": 2}, DONE),
        (f"{SESSIONS}/{ID}", {"status": "idle", "isTaskSuccessful": False}, DONE),
        (f"{SESSIONS}/{ID}", {"status": "timed_out", "totalCostUsd": "0.5"}, Decimal("0.5")),
        (f"{SESSIONS}/{ID}", {"status": "error", "totalCostUsd": None}, DONE),
        (f"{RUNS}/{ID}", {"status": "dispatching", "totalCostUsd": "0"}, WorkStatus(Decimal(0))),
        (f"{RUNS}/{ID}", {"status": "completed", "totalCostUsd": "1.64"}, Decimal("1.64")),
        (f"{RUNS}/{ID}", {"status": "cancelled", "totalCostUsd": 0.5}, Decimal("0.5")),
        (f"{RUNS}/{ID}", {"status": "dreaming", "totalCostUsd": "1"}, None),
        (f"{RUNS}/{ID}", {"totalCostUsd": "1"}, None),
        (f"{RUNS}/{ID}", ["completed"], None),
        (f"{RUNS}/{ID}", {"status": ["completed"]}, None),
        (f"{RUNS}/{ID}", None, None),
        (f"/api/v2/sessions/{ID}", {"status": "active"}, GOES_ON),
        (f"/api/v2/sessions/{ID}", {"status": "stopped"}, DONE),
        (f"/api/v4/browsers/{ID}", {"status": "active", "browserCost": "0.02"}, GOES_ON),
        (f"/api/v4/browsers/{ID}", {"status": "stopped", "browserCost": "0.01"}, Decimal("0.01")),
        (
            f"/api/v4/browsers/{ID}",
            {"status": "stopped", "browserCost": "0.01", "proxyCost": "0.5"},
            Decimal("0.51"),
        ),
        (f"/api/v4/browsers/{ID}", {"status": "stopped", "browserCost": None}, DONE),
        ("/api/v4/sessions/s/queue/7", {"status": "pending"}, None),
        ("/api/v4/sessions/s/queue/7", {"status": "cancelled"}, "release"),
        ("/api/v4/sessions/s/queue/7", {"status": "consumed"}, "keep"),
    ],
)
def test_the_status_of_work(path: str, body: Any, status: Any) -> None:
    """Strings, numbers and null; only what its API calls an end is one."""
    expected = status if isinstance(status, WorkStatus | None) else WorkStatus(end=status)
    assert BrowserUseBilling().status(reply(path, body)) == expected


def test_work_that_is_gone() -> None:
    """What was deleted has ended. What is not found may go on; a run that is new is not found yet."""
    billing = BrowserUseBilling()
    assert billing.status(reply(f"{SESSIONS}/{ID}", None, 204)) == WorkStatus(end="cost")
    assert billing.status(reply(f"{SESSIONS}/{ID}", {"detail": "x"}, 404)) == WorkStatus(end="keep")
    assert billing.status(reply(f"{RUNS}/{ID}", {"detail": "x"}, 404)) is None
    assert billing.status(reply(f"{SESSIONS}/{ID}", {"detail": "x"}, 503)) is None


def test_a_task_that_continues_a_session_costs_what_it_adds() -> None:
    """Of the session's total, what was there before is not this task's."""
    billing, path = BrowserUseBilling(), f"{SESSIONS}/{ID}"
    begun = reply(SESSIONS, {"id": ID, "status": "running", "totalCostUsd": "0.9"})
    assert billing.cost_of(begun) == "keep"
    for total, so_far in (("0.9", "0"), ("1.4", "0.5"), ("0.8", "0")):
        running = reply(path, {"status": "running", "totalCostUsd": total})
        assert billing.status(running) == WorkStatus(Decimal(so_far))
    ended = reply(path, {"status": "idle", "totalCostUsd": "1.65"})
    assert billing.status(ended) == WorkStatus(end=Decimal("0.75"))
    assert BrowserUseBilling().status(ended) == WorkStatus(end=Decimal("1.65"))


NEW = {"task": "t", "model": "m", "keepAlive": 2.5}


@pytest.mark.parametrize("path", [RUNS, SESSIONS])
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, "1.25"),
        ({"maxCostUsd": None}, "1.25"),
        ({"maxCostUsd": 5}, "1.25"),
        ({"maxCostUsd": "1.26"}, "1.25"),
        ({"maxCostUsd": 1.25}, 1.25),
        ({"maxCostUsd": "0.5"}, "0.5"),
        ({"sessionId": None}, "1.25"),
    ],
)
def test_what_is_held_is_sent_as_the_cap(path: str, given: Any, sent: object) -> None:
    """A lower one remains, and so does all else in the request."""
    content = BrowserUseBilling().capped(path, json.dumps(NEW | given).encode(), Decimal("1.25"))
    assert content is not None
    assert json.loads(content) == NEW | given | {"maxCostUsd": sent}


@pytest.mark.parametrize(
    ("path", "content", "most"),
    [
        (RUNS, NEW | {"sessionId": ID}, 1),
        (SESSIONS, NEW | {"sessionId": ID, "maxCostUsd": 9}, 1),
        (SESSIONS, {"keepAlive": True}, 1),
        (TASKS, NEW, 1),
        ("/api/v4/browsers", {"timeout": 5}, 1),
        (RUNS, NEW, 0),
        (RUNS, [], 1),
        (RUNS, b"", 1),
        (RUNS, b"task=t", 1),
        (RUNS, b'{"task": "t", "x": NaN}', 1),
        (RUNS, b'{"task": "t", "x": 1e999}', 1),
    ],
)
def test_requests_that_take_no_cap(path: str, content: Any, most: int) -> None:
    """The budget of a session that is continued includes what is not known here."""
    sent = content if isinstance(content, bytes) else json.dumps(content).encode()
    assert BrowserUseBilling().capped(path, sent, Decimal(most)) is None


AT = 1_793_491_200.0


def listed(path: str, *entries: tuple[float, str], more: bool = False) -> BillingReply:
    """A list of tasks or runs, each with its age in seconds at AT and its text."""
    shown = [
        {"id": f"{number}", "createdAt": moment(AT - age), "task": text}
        for number, (age, text) in enumerate(entries)
    ]
    if path == RUNS:
        return reply(path, {"runs": shown, "hasMore": more})
    return reply(path, {"items": shown, "totalItems": len(shown) + more})


def moment(when: float) -> str:
    """A time as its replies say it."""
    return datetime.fromtimestamp(when, UTC).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("path", "list_path", "suffix"),
    [(RUNS, f"{RUNS}?limit=50", ""), (TASKS, f"{TASKS}?pageSize=100", "/status")],
)
def test_a_call_whose_reply_was_lost(path: str, list_path: str, suffix: str) -> None:
    """It is found by its text and time, in a list that is all there is, or reaches back far enough."""
    billing = BrowserUseBilling()
    lost = LostCall(list_path, (path, "t"))
    assert billing.lost(path, b'{"task": "t", "model": "m"}') == lost

    def found(*entries: tuple[float, str], more: bool = False) -> list[str] | None:
        return billing.candidates(lost, listed(path, *entries, more=more), AT - 60, AT)

    assert found((1, "t"), (2, "u")) == [f"{path}/0{suffix}"]
    assert found((1, "t"), (90, "t"), more=True) == [f"{path}/0{suffix}"]
    assert found((1, "t"), (2, "t")) == [f"{path}/0{suffix}", f"{path}/1{suffix}"]
    assert found((90, "t")) == []
    assert found((1, "t"), more=True) is None
    assert found((90, "t"), (1, "t"), more=True) is None
    for wrong in ({}, {"runs": [{"id": "1", "task": "t"}], "items": [3], "hasMore": False}):
        assert billing.candidates(lost, reply(path, wrong), AT - 60, AT) is None
    assert billing.candidates(lost, reply(path, None, 404), AT - 60, AT) is None


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (SESSIONS, b'{"task": "t"}'),
        ("/api/v4/browsers", b'{"task": "t"}'),
        (RUNS, b'{"task": ""}'),
        (RUNS, b'{"task": 3}'),
        (RUNS, b"["),
        (RUNS, None),
    ],
)
def test_calls_that_cannot_be_found(path: str, content: bytes | None) -> None:
    """The list of v3 does not say a session's task."""
    assert BrowserUseBilling().lost(path, content) is None


def test_times_without_an_offset_are_utc() -> None:
    """As the times of v2 are described."""
    billing = BrowserUseBilling()
    lost = billing.lost(TASKS, b'{"task": "t"}')
    assert lost is not None
    entry = {"id": "1", "task": "t", "createdAt": moment(AT).removesuffix("Z")}
    answer = reply(TASKS, {"items": [entry], "totalItems": 1})
    assert billing.candidates(lost, answer, AT - 1, AT + 1) == [f"{TASKS}/1/status"]
