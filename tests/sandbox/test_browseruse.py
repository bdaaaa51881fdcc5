"""The sandbox's Browser Use: what its SDK's tests do not show."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from budgetguard.testing.sandbox import Sandbox
from budgetguard.testing.sandbox.vendors.browseruse import BrowserUse

TASK = {"task": "Find it"}


@pytest.fixture
def vendor(manual: Sandbox) -> BrowserUse:
    """Give the vendor."""
    vendor = manual.vendor("browseruse")
    assert isinstance(vendor, BrowserUse)
    return vendor


@pytest.fixture
def http(vendor: BrowserUse) -> Iterator[httpx.Client]:
    """Give a client with its key."""
    headers = {vendor.key_header: vendor.key}
    with httpx.Client(base_url=f"{vendor.url}/api", headers=headers, trust_env=False) as client:
        yield client


def account(http: httpx.Client) -> dict[str, Any]:
    """The account, which is the same in both APIs that show it."""
    first, second = (http.get(f"/v{version}/billing/account").json() for version in (2, 3))
    assert first == second
    return dict(first)


def test_the_account(http: httpx.Client, vendor: BrowserUse) -> None:
    """It says how many sessions may run and do run, and has no plan."""
    vendor.slots = 3
    http.post("/v4/runs", json=TASK)
    shown = account(http)
    assert (shown["concurrentSessionLimit"], shown["activeSessionCount"]) == (3, 1)
    assert (shown["totalCreditsBalanceUsd"], shown["planInfo"]) == (100, None)


def test_an_agent_is_charged_step_by_step(
    http: httpx.Client, manual: Sandbox, vendor: BrowserUse
) -> None:
    """And its replies say so as text."""
    id = http.post("/v4/runs", json=TASK).json()["id"]
    for charged in ("0", "0.1", "0.2"):
        run = http.get(f"/v4/runs/{id}").json()
        assert (run["status"], run["totalCostUsd"]) == ("running", charged)
        assert vendor.account.charged == Decimal(charged)
        manual.advance(10)
    manual.advance(20)
    assert http.get(f"/v4/runs/{id}/status").json() == {"status": "completed"}


@pytest.mark.parametrize(
    ("path", "end"), [("/v3/sessions", "stopped"), ("/v4/runs", "failed")], ids=["v3", "v4"]
)
def test_a_budget_stops_an_agent(
    path: str, end: str, http: httpx.Client, manual: Sandbox, vendor: BrowserUse
) -> None:
    """At the micro-dollar, and it is no success."""
    id = http.post(path, json=TASK | {"maxCostUsd": "0.25"}).json()["id"]
    manual.advance(60)
    work = http.get(f"{path}/{id}").json()
    assert (work["status"], work["totalCostUsd"]) == (end, "0.25")
    assert vendor.account.running == 0


def test_an_empty_account_stops_an_agent(
    http: httpx.Client, manual: Sandbox, vendor: BrowserUse
) -> None:
    """What it was charged is wasted, and the next one is refused."""
    vendor.account.spend(Decimal("99.75"))
    id = http.post("/v2/tasks", json=TASK).json()["id"]
    manual.advance(60)
    assert http.get(f"/v2/tasks/{id}/status").json()["status"] == "failed"
    assert vendor.account.wasted == Decimal("0.2")
    vendor.account.spend(1)
    reply = http.post("/v2/tasks", json=TASK)
    assert (reply.status_code, reply.json()) == (402, {"detail": "Insufficient credits"})


def test_a_budget_is_a_sessions(http: httpx.Client, manual: Sandbox) -> None:
    """A run that continues a session has what earlier ones left; a busy session takes none."""
    first = http.post("/v4/runs", json=TASK).json()
    more = TASK | {"sessionId": first["sessionId"], "maxCostUsd": 0.6}
    assert http.post("/v4/runs", json=more).status_code == 409
    manual.advance(60)
    second = http.post("/v4/runs", json=more).json()
    manual.advance(60)
    assert http.get(f"/v4/runs/{second['id']}").json()["totalCostUsd"] == "0.1"


def test_a_browser_gives_back_what_was_not_used(
    http: httpx.Client, manual: Sandbox, vendor: BrowserUse
) -> None:
    """Begun minutes count, also where the account is empty by then."""
    vendor.account.spend(Decimal("99.92"))
    id = http.post("/v3/browsers", json={"timeout": 240}).json()["id"]
    assert vendor.account.balance == 0
    manual.advance(3601)
    assert (
        http.patch(f"/v3/browsers/{id}", json={"action": "stop"}).json()["browserCost"]
        == "0.020334"
    )
    assert vendor.account.balance == Decimal("0.059666")
    manual.advance(14_400)
    assert vendor.account.balance == Decimal("0.059666")


def test_slots(http: httpx.Client, manual: Sandbox, vendor: BrowserUse) -> None:
    """One more than allowed is refused, until one has ended."""
    vendor.slots = 1
    assert http.post("/v2/sessions").status_code == 201
    assert http.post("/v4/browsers").status_code == 429
    manual.advance(14_400)
    assert http.post("/v4/browsers").status_code == 201
    assert vendor.account.charged == Decimal("0.1")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/tasks", {}, 422),
        ("/v2/tasks", TASK | {"maxSteps": 0}, 422),
        ("/v3/sessions", {"sessionId": "unknown", "task": "t"}, 404),
        ("/v3/sessions", TASK | {"maxCostUsd": "lots"}, 422),
        ("/v4/runs", {"task": ""}, 422),
        ("/v4/runs", TASK | {"maxCostUsd": 0}, 422),
        ("/v4/runs", TASK | {"maxCostUsd": True}, 422),
        ("/v4/browsers", {"timeout": "60"}, 422),
        ("/v4/browsers", {"timeout": 241}, 403),
        ("/v4/sessions/s/queue", {}, 422),
    ],
)
def test_invalid_requests(path: str, body: Any, status: int, http: httpx.Client) -> None:
    """They begin nothing."""
    assert http.post(path, json=body).status_code == status
    assert account(http)["activeSessionCount"] == 0


def test_what_is_not_there(http: httpx.Client) -> None:
    """It is a 404 in the vendor's shape."""
    for path in ("/v2/tasks/x", "/v3/sessions/x", "/v4/runs/x", "/v4/browsers/x"):
        reply = http.get(path)
        assert (reply.status_code, reply.json()) == (404, {"detail": "Not found"})


def test_lists(http: httpx.Client, manual: Sandbox) -> None:
    """The newest first, and whether there are more."""
    for text in ("a", "b", "c"):
        http.post("/v4/runs", json={"task": text})
        http.post("/v2/tasks", json={"task": text})
        manual.advance(1)
    runs = http.get("/v4/runs", params={"limit": 2}).json()
    assert [run["task"] for run in runs["runs"]] == ["c", "b"]
    assert runs["hasMore"] is True
    tasks = http.get("/v2/tasks", params={"pageSize": 100}).json()
    assert [task["task"] for task in tasks["items"]] == ["c", "b", "a"]
    assert tasks["totalItems"] == 3
