"""Anchor Browser's side of the sandbox, over a real socket."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest

from budgetguard.testing.sandbox import BROWSER_CREATED, BROWSER_MINUTE, Sandbox

Client = Callable[..., httpx.Client]
HOUR = 3600.0
CREDITS = "/v1/projects/sandbox-project/credits"


def create(http: httpx.Client, **timeout: int) -> str:
    """Create a session and return its id."""
    body = {"session": {"timeout": timeout}} if timeout else {}
    return str(http.post("/v1/sessions", json=body).raise_for_status().json()["data"]["id"])


def session(http: httpx.Client, id: str) -> dict[str, Any]:
    """Return what the provider says about a session."""
    data: dict[str, Any] = http.get(f"/v1/sessions/{id}").raise_for_status().json()["data"]
    return data


def test_balances(client: Client) -> None:
    """Both balance endpoints report the same account, the limits included."""
    with Sandbox(credits="42.5", cost_limit=100, tier="growth") as sandbox:
        http = client(sandbox)
        assert http.get(CREDITS).json() == {
            "credits": 42.5,
            "tier": "growth",
            "maxConcurrentBrowsers": 5,
            "cost_limit": 100,
        }
        assert http.get("/v1/billing").json()["data"] == {
            "credits": 42.5,
            "credits_used": 0,
            "included_credits": 42.5,
            "billing_period": "2026-11",
            "tier": "growth",
            "gifts_balance": 42.5,
            "max_concurrent_browsers": 5,
            "cost_limit": 100,
        }
    with Sandbox() as sandbox:
        assert client(sandbox).get(CREDITS).json()["cost_limit"] is None


def test_unauthorized(client: Client, manual: Sandbox) -> None:
    """Without the key every endpoint answers 401; for the project's credits in the flat shape."""
    http = client(manual, checked=False, **{"anchor-api-key": "wrong"})
    nested = {"error": {"code": 401, "message": "Invalid or missing API key."}}
    for method, path in [
        ("GET", "/v1/billing"),
        ("GET", "/v1/sessions"),
        ("POST", "/v1/sessions"),
        ("GET", "/v1/sessions/x"),
        ("DELETE", "/v1/sessions/x"),
        ("DELETE", "/v1/sessions/all"),
    ]:
        reply = http.request(method, path)
        assert (reply.status_code, reply.json()) == (401, nested)
    flat = http.get(CREDITS)
    assert (flat.status_code, flat.json()) == (
        401,
        {"error": "Invalid or missing API key.", "code": 401},
    )


def test_not_found(client: Client, manual: Sandbox) -> None:
    """Another project is a 404 in the flat shape, another session one in the nested shape."""
    http = client(manual)
    project = http.get("/v1/projects/another/credits")
    assert (project.status_code, project.json()) == (
        404,
        {"error": "Project not found.", "code": 404},
    )
    for method in ("GET", "DELETE"):
        reply = http.request(method, "/v1/sessions/none")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, 404)


def test_billing_by_the_minute(client: Client, manual: Sandbox) -> None:
    """A session is charged its creation and every minute that it begins, until it is deleted."""
    http = client(manual)
    id = create(http)
    assert manual.anchor.charged == BROWSER_CREATED + BROWSER_MINUTE
    manual.advance(59)
    assert manual.anchor.charged == BROWSER_CREATED + BROWSER_MINUTE
    manual.advance(61)
    assert session(http, id)["status"] == "running"
    http.delete(f"/v1/sessions/{id}").raise_for_status()
    http.delete(f"/v1/sessions/{id}").raise_for_status()
    manual.advance(HOUR)
    cost = BROWSER_CREATED + 3 * BROWSER_MINUTE
    assert manual.anchor.charged == cost == 100 - manual.anchor.balance
    body = session(http, id)
    assert (body["status"], body["duration"]) == ("completed", 120)
    assert Decimal(str(body["credits_used"])) == cost
    assert manual.anchor.finished == 1


@pytest.mark.parametrize(
    ("timeout", "minutes"),
    [
        ({}, 20),
        ({"max_duration": 3}, 3),
        ({"max_duration": 30, "idle_timeout": 2}, 2),
        ({"max_duration": 3, "idle_timeout": -1}, 3),
        ({"max_duration": -1}, None),
    ],
)
def test_life(
    client: Client, manual: Sandbox, timeout: dict[str, int], minutes: int | None
) -> None:
    """A session ends by itself after its longest life, and never with that switched off."""
    http = client(manual)
    id = create(http, **timeout)
    manual.advance(10 * HOUR)
    body = session(http, id)
    if minutes is None:
        assert (body["status"], body["duration"]) == ("running", 10 * HOUR)
    else:
        assert (body["status"], body["duration"]) == ("completed", 60 * minutes)
        assert manual.anchor.charged == BROWSER_CREATED + minutes * BROWSER_MINUTE


@pytest.mark.parametrize("start", [1.096, 2.046, 65.561633, 95.820817, 260.958723])
def test_life_from_any_moment(client: Client, manual: Sandbox, start: float) -> None:
    """A session ends after its longest life, at any fraction of a second."""
    http = client(manual)
    manual.advance(start)
    ids = [create(http, max_duration=minutes) for minutes in (1, 5)]
    manual.advance(HOUR)
    assert [session(http, id)["duration"] for id in ids] == [60, 300]
    assert manual.anchor.charged == 2 * BROWSER_CREATED + 6 * BROWSER_MINUTE


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        b'{"session": []}',
        b'{"session": {"timeout": 3}}',
        b'{"session": {"timeout": {"max_duration": 0}}}',
        b'{"session": {"timeout": {"idle_timeout": "5"}}}',
    ],
)
def test_bad_requests(client: Client, manual: Sandbox, content: bytes) -> None:
    """An invalid request is a 400 in the nested shape, and starts nothing."""
    reply = client(manual).post("/v1/sessions", content=content)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, 400)
    assert not manual.anchor.operations


def test_concurrency(client: Client) -> None:
    """No more browsers than allowed are open at once, and a deleted one makes room."""
    with Sandbox(clock="manual", max_concurrent_browsers=2) as sandbox:
        http = client(sandbox)
        first = create(http)
        create(http)
        assert http.post("/v1/sessions").status_code == 429
        http.delete(f"/v1/sessions/{first}")
        create(http)
        assert http.post("/v1/sessions").status_code == 429
        http.delete("/v1/sessions/all")
        assert sandbox.anchor.running == 0
        create(http)
        assert sandbox.anchor.max_concurrency_seen == 2
    with Sandbox(clock="manual", max_concurrent_browsers=-1) as sandbox:
        for _ in range(20):
            create(client(sandbox))
        assert sandbox.anchor.max_concurrency_seen == 20


def test_creation_rate(client: Client) -> None:
    """More creations in a minute than allowed are a 429 with the documented headers."""
    with Sandbox(clock="manual", sessions_per_minute=5, max_concurrent_browsers=-1) as sandbox:
        http = client(sandbox)
        create(http)
        sandbox.advance(2)
        for _ in range(4):
            create(http)
        reply = http.post("/v1/sessions")
        assert reply.status_code == 429
        assert reply.json()["error"]["message"] == "Session creation rate limit exceeded."
        assert reply.headers["ratelimit"] == '"5-in-1min"; r=0; t=58'
        assert reply.headers["ratelimit-policy"] == '"5-in-1min"; q=5; w=60'
        assert reply.headers["retry-after"] == "58"
        sandbox.advance(58)
        create(http)


@pytest.mark.parametrize("start", [0.382669, 8.570054, 15.92678, 18.134063])
def test_a_minute_is_over_on_time_from_any_moment(client: Client, start: float) -> None:
    """The next creation is admitted 60 s later, at any fraction of a second."""
    with Sandbox(clock="manual", sessions_per_minute=1) as sandbox:
        http = client(sandbox)
        sandbox.advance(start)
        create(http)
        sandbox.advance(59.999999)
        assert http.post("/v1/sessions").status_code == 429
        sandbox.advance(0.000001)
        create(http)


@pytest.mark.parametrize("start", [7.404626, 17.298887, 71.306908, 92.724753])
def test_a_charge_shows_on_time_from_any_moment(start: float) -> None:
    """The reported balance shows a charge `lag` later, to the microsecond."""
    with Sandbox(credits=100, clock="manual", lag=90) as sandbox:
        sandbox.advance(start)
        sandbox.anchor.spend(10)
        sandbox.advance(89.999999)
        assert sandbox.anchor.reported == 100
        sandbox.advance(0.000001)
        assert sandbox.anchor.reported == 90


def test_retry_after_is_in_the_clients_seconds(client: Client) -> None:
    """With a fast clock, `Retry-After` is in the client's seconds."""
    with Sandbox(speed=2, sessions_per_minute=1) as sandbox:
        http = client(sandbox)
        create(http)
        assert 1 <= int(http.post("/v1/sessions").headers["retry-after"]) <= 30


def test_out_of_credits(client: Client) -> None:
    """A minute that cannot be paid ends the session, and no other starts."""
    with Sandbox(credits="0.013", clock="manual") as sandbox:
        http = client(sandbox)
        id = create(http)
        sandbox.advance(HOUR)
        assert session(http, id)["status"] == "failed"
        assert sandbox.anchor.wasted == sandbox.anchor.charged
        assert (sandbox.anchor.died, sandbox.anchor.lowest_balance) == (1, sandbox.anchor.balance)
        reply = http.post("/v1/sessions")
        assert reply.status_code == 402
        message = "Insufficient credits to allocate a new browser"
        assert reply.json() == {"error": {"code": 402, "message": message}}
        assert sandbox.anchor.refused == 1


def test_cost_limit(client: Client) -> None:
    """At the project's cost limit sessions end, and no other starts."""
    with Sandbox(credits=100, cost_limit="0.02", clock="manual") as sandbox:
        http = client(sandbox)
        create(http)
        sandbox.advance(HOUR)
        assert sandbox.anchor.died == 1
        assert sandbox.anchor.used <= Decimal("0.02")
        reply = http.post("/v1/sessions")
        assert reply.status_code == 403
        assert reply.json()["error"]["message"] == "Project cost limit reached."


def test_history(client: Client, manual: Sandbox) -> None:
    """The history gives the newest first, and no figure for one that still runs."""
    http = client(manual)
    first = create(http)
    http.delete(f"/v1/sessions/{first}")
    second = create(http)
    page = http.get("/v1/sessions").json()["data"]
    assert [each["id"] for each in page["sessions"]] == [second, first]
    assert [each["used_credits"] for each in page["sessions"]] == ["N/A", 0.010834]
    empty = http.get("/v1/sessions", params={"page": 2, "limit": 50}).json()["data"]
    assert (empty["sessions"], empty["total"], empty["total_pages"]) == ([], 2, 1)
    assert http.get("/v1/sessions", params={"limit": 7}).status_code == 400


def test_lag_on_both_figures(client: Client) -> None:
    """Credits and credits used have the same delay, so that they always add up."""
    with Sandbox(credits=100, clock="manual", lag=90) as sandbox:
        http = client(sandbox)
        create(http)
        for _ in range(10):
            sandbox.advance(45)
            data = http.get("/v1/billing").json()["data"]
            shown = Decimal(str(data["credits"])) + Decimal(str(data["credits_used"]))
            assert shown == 100
            assert Decimal(str(data["credits"])) > sandbox.anchor.balance


def test_tags(client: Client, manual: Sandbox) -> None:
    """Sessions are listed with their tags, and found by all of them at once."""
    http = client(manual, checked=False)
    ids = []
    for tags in (["a"], ["a", "b"], ["b"]):
        body = {"session": {"tags": tags}}
        ids.append(http.post("/v1/sessions", json=body).json()["data"]["id"])
    for asked, found in [("a", [1, 0]), ("a,b", [1]), ("c", []), ("", [2, 1, 0])]:
        data = http.get("/v1/sessions", params={"tags": asked}).json()["data"]
        assert [each["id"] for each in data["sessions"]] == [ids[index] for index in found]
        assert data["total"] == len(found)
    [first] = http.get("/v1/sessions", params={"tags": "a,b"}).json()["data"]["sessions"]
    assert first["tags"] == ["a", "b"]
    for nonsense in ("a", [1], {}):
        body = {"session": {"tags": nonsense}}
        assert http.post("/v1/sessions", json=body).status_code == 400
