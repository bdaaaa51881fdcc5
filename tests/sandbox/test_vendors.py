"""Vendors below a prefix: an account, keys, refusals and counts for each, and what all share."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import httpx
import pytest

from budgetguard.testing.sandbox import Operation, Sandbox, Vendor
from budgetguard.testing.sandbox.clock import Clock
from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.vendors import VENDORS

Client = Callable[..., httpx.Client]
ASK = {"question": "What is it?", "cost": 2}


@pytest.fixture
def acme(client: Client, manual: Sandbox) -> httpx.Client:
    """A client of Acme with its key, below its prefix."""
    http = client(manual)
    vendor = manual.vendor("acme")
    http.base_url = httpx.URL(vendor.url)
    http.headers["authorization"] = f"Bearer {vendor.key}"
    return http


def left(acme: httpx.Client) -> object:
    return acme.get("/v1/balance").json()["wallet"]["left"]


@pytest.fixture(params=VENDORS, ids=lambda each: each.name)
def vendor(request: pytest.FixtureRequest, manual: Sandbox) -> Vendor:
    """Each vendor of the sandbox."""
    return manual.vendor(request.param.name)


def test_every_vendor_has_its_own_names(vendor: Vendor, manual: Sandbox) -> None:
    """Its prefix, its two keys and its base URL are no other vendor's."""
    others = [manual.vendor(each.name) for each in VENDORS if each.name != vendor.name]
    taken = {key for other in others for key in (other.key, other.other_key)}
    assert {vendor.key, vendor.other_key}.isdisjoint(taken)
    assert vendor.key != vendor.other_key
    assert all(key.endswith("_not_a_real_key") for key in (vendor.key, vendor.other_key))
    assert vendor.url == f"{manual.url}/{vendor.name}"
    assert vendor.account.balance == 100


def test_every_vendor_wants_its_key(vendor: Vendor) -> None:
    """Without a key, or with another one, each of its routes answers 401 in the vendor's shape."""
    with httpx.Client(base_url=vendor.url, trust_env=False) as http:
        for method, path in [*vendor.free(), *vendor.paid()]:
            for key in ({}, {vendor.key_header: f"{vendor.key_prefix}wrong"}):
                reply = http.request(method, path, headers=key)
                assert reply.status_code == vendor.unauthorized().status
                assert reply.json() == vendor.unauthorized().body
    assert vendor.requests == (2 * len(vendor.paid()), 0, 0)


def test_every_vendor_has_errors_of_its_own_shape(vendor: Vendor, manual: Sandbox) -> None:
    """A route that it does not have is a 404 in its shape, and so is a fault without a body."""
    manual.fault(f"/{vendor.name}/fault", status=503)
    with httpx.Client(base_url=vendor.url, trust_env=False) as http:
        for path, status in (("/nowhere", 404), ("", 404), ("/fault", 503)):
            reply = http.get(path)
            assert reply.status_code == status
            assert reply.json().keys() == vendor.error(status, "").body.keys()


def test_every_vendor_refuses_on_request(vendor: Vendor) -> None:
    """Each of its refusals is sent to every route that spends, and charges nothing."""
    key = {vendor.key_header: f"{vendor.key_prefix}{vendor.key}"}
    assert "exhausted" in vendor.refusals()
    with httpx.Client(base_url=vendor.url, headers=key, trust_env=False) as http:
        for kind, refusal in vendor.refusals().items():
            vendor.refuse_with = kind
            for method, path in vendor.paid():
                reply = http.request(method, path)
                assert (reply.status_code, reply.json()) == (refusal.status, refusal.body)
    assert vendor.account.balance == 100
    count = len(vendor.refusals()) * len(vendor.paid())
    assert vendor.requests == (count, 0, count)


def test_a_charge(acme: httpx.Client, manual: Sandbox) -> None:
    """A request that spends is charged, counted and shown in the balance."""
    reply = acme.post("/v1/answers", json=ASK)
    assert reply.json()["usage"] == {"cost": 2}
    assert acme.post("/v1/answers", json=ASK | {"max_cost": 0.5}).json()["usage"] == {"cost": 0.5}
    assert left(acme) == 97.5
    vendor = manual.vendor("acme")
    assert (vendor.account.balance, vendor.account.charged) == (Decimal("97.5"), Decimal("2.5"))
    assert vendor.requests == (2, 2, 0)
    assert (vendor.left, vendor.used) == (97.5, 2.5)
    assert manual.requests == {("POST", "/acme/v1/answers"): 2, ("GET", "/acme/v1/balance"): 1}
    assert manual.predev.balance == manual.anchor.balance == 100


def test_an_empty_account(acme: httpx.Client, manual: Sandbox) -> None:
    """What the account cannot pay is refused as exhausted, and charges nothing."""
    reply = acme.post("/v1/answers", json={"cost": 100.000001})
    assert (reply.status_code, reply.json()["fault"]["code"]) == (403, "WALLET_EMPTY")
    assert acme.post("/v1/answers", json={"cost": 100}).status_code == 200
    assert acme.post("/v1/answers", json={"cost": 0}).status_code == 403
    assert manual.vendor("acme").requests == (3, 1, 2)


@pytest.mark.parametrize(
    ("kind", "status", "code", "wait"),
    [
        ("exhausted", 403, "WALLET_EMPTY", None),
        ("busy", 429, "SLOW_DOWN", "7"),
        ("key_limit", 401, "KEY_SPENT", None),
    ],
)
def test_acme_refuses(
    acme: httpx.Client, manual: Sandbox, kind: str, status: int, code: str, wait: str | None
) -> None:
    """Each refusal has a dialect of its own, and the balance goes on saying 100."""
    vendor = manual.vendor("acme")
    vendor.retry_after = 7
    vendor.refuse_with = kind
    reply = acme.post("/v1/answers", json=ASK)
    assert (reply.status_code, reply.json()["fault"]["code"]) == (status, code)
    assert reply.headers.get("retry-after") == wait
    assert left(acme) == 100
    vendor.refuse_with = None
    assert acme.post("/v1/answers", json=ASK).status_code == 200


def test_a_key_limit_is_one_keys(acme: httpx.Client, manual: Sandbox) -> None:
    """The account's other key goes on; a lack of credits is both keys'."""
    vendor = manual.vendor("acme")
    other = {"authorization": f"Bearer {vendor.other_key}"}
    vendor.refuse_with = "key_limit"
    assert acme.post("/v1/answers", json=ASK).status_code == 401
    assert acme.post("/v1/answers", json=ASK, headers=other).status_code == 200
    vendor.refuse_with = "exhausted"
    assert acme.post("/v1/answers", json=ASK, headers=other).status_code == 403


def test_refusals_over_http(client: Client, manual: Sandbox) -> None:
    """A vendor is told over HTTP how to refuse, and to stop it."""
    http = client(manual)
    state = http.post("/_sandbox/refuse", json={"provider": "acme", "with": "busy"}).json()
    assert state["vendors"]["acme"]["refuse_with"] == "busy"
    assert manual.vendor("acme").refuse_with == "busy"
    assert http.post("/_sandbox/refuse", json={"provider": "acme"}).status_code == 200
    assert manual.vendor("acme").refuse_with is None
    for wrong in ({}, {"provider": []}, {"provider": "predev"}, {"provider": "acme", "with": 3}):
        assert http.post("/_sandbox/refuse", json=wrong).status_code == 400


def test_what_does_not_exist(manual: Sandbox) -> None:
    """An unknown vendor or refusal is an error that names those there are, and not the argument."""
    with pytest.raises(KeyError, match="acme"):
        manual.vendor("acme2")
    with pytest.raises(ValueError, match="acme refuses with exhausted, busy, key_limit or None"):
        manual.vendor("acme").refuse_with = "402"


@pytest.mark.parametrize(
    "body",
    [
        {"cost": "2"},
        {"cost": True},
        {"cost": -1},
        {"cost": float("nan")},
        {"cost": 1, "max_cost": None},
        {"cost": 0.0000001},
        [],
    ],
)
def test_invalid_requests(acme: httpx.Client, manual: Sandbox, body: Any) -> None:
    """They are a 400 in the vendor's shape, neither carried out nor refused."""
    content = str(body).replace("nan", "NaN").replace("'", '"').replace("True", "true")
    reply = acme.post("/v1/answers", content=content.replace("None", "null"))
    assert (reply.status_code, reply.json()["fault"]["code"]) == (400, "HTTP_400")
    assert manual.vendor("acme").requests == (1, 0, 0)


def test_state_top_up_and_faults(client: Client, acme: httpx.Client, manual: Sandbox) -> None:
    """They work for a vendor as for the others, by its name and by its path with the prefix."""
    http = client(manual)
    http.base_url = httpx.URL(manual.url)
    assert http.post("/_sandbox/top-up", json={"credits": 5}).status_code == 200
    state = http.post("/_sandbox/top-up", json={"credits": 2, "provider": "acme"}).json()
    assert state["vendors"]["acme"]["balance"] == left(acme) == 107
    assert state["predev"]["balance"] == state["anchor"]["balance"] == 105
    manual.fault("/acme/v1/answers", status=500, times=1)
    assert acme.post("/v1/answers", json=ASK).json()["fault"]["code"] == "HTTP_500"
    acme.post("/v1/answers", json=ASK)
    state = http.get("/_sandbox/state").json()
    assert state == manual.state()
    shown = state["vendors"]["acme"]
    assert shown["paid_requests"] == {"arrived": 2, "carried_out": 1, "refused": 0}
    assert (shown["url"], shown["key"]) == (f"{manual.url}/acme", manual.vendor("acme").key)
    assert shown["operations"] == [
        {"id": "acme_000001", "kind": "answer", "state": "finished", "charged": 2}
    ]


def test_lag_and_overdraft(client: Client) -> None:
    """A sandbox's lag and overdraft are the vendors' too."""
    with Sandbox(credits=3, clock="manual", lag=5, overdraft=True) as sandbox:
        vendor = sandbox.vendor("acme")
        http = client(sandbox, authorization=f"Bearer {vendor.key}")
        http.base_url = httpx.URL(vendor.url)
        statuses = [http.post("/v1/answers", json=ASK).status_code for _ in range(3)]
        assert statuses == [200, 200, 403]
        assert (left(http), vendor.account.balance) == (3, -1)
        sandbox.advance(5)
        assert left(http) == -1


class Rooms(Vendor):
    """A vendor whose work goes on after the reply: a room costs 3, paid when it is left."""

    name = "rooms"
    key = "rooms_not_a_real_key"
    other_key = "rooms_other_not_a_real_key"
    slots = 2

    def paid(self) -> Any:
        return {}

    def refusals(self) -> Any:
        return {kind: self.error(429, kind) for kind in ("exhausted", "busy")}

    def error(self, status: int, message: str) -> Refusal:
        return Refusal(status, {"why": message})

    def enter(self) -> Operation:
        with self.clock.settled() as now:
            room = self.begin("room", 3)
            self.clock.at(now + 60, partial(self._leave, room))
            return room

    def _leave(self, room: Operation, when: float) -> None:
        paid = self.account.charge(room, 3_000_000, when)
        self.account.end(room, "finished" if paid else "died")


def test_slots_and_work_that_goes_on() -> None:
    """No more operations run than there are slots and credits for, and each frees its slot."""
    clock = Clock(None)
    rooms = Rooms(5, clock, Counter(), lag=0, overdraft=False)
    assert [rooms.enter().id for _ in range(2)] == ["rooms_000001", "rooms_000002"]
    with pytest.raises(Refusal, match="busy"):
        rooms.enter()
    clock.advance(60)
    assert (rooms.account.balance, rooms.account.finished, rooms.account.died) == (2, 1, 1)
    with pytest.raises(Refusal, match="exhausted"):
        rooms.enter()
    rooms.account.top_up(9)
    rooms.slots = None
    assert len({rooms.enter().id for _ in range(3)}) == 3
    assert rooms.requests == (0, 5, 2)
