"""Approvals of requests: one for each call, however often it is sent, and a 403 for a no."""

import json
from typing import Any

import httpx
import pytest
from web import Web

from budgetguard import ApprovalDenied, ApprovalRequest, Guard
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.transport import GuardTransport

pytestmark = pytest.mark.anyio

HERE = "https://a.example"
THERE = "https://b.example"


@pytest.fixture
def anyio_backend(way: tuple[str, str]) -> str:
    """Give the loop that the test runs on."""
    return way[1] or "asyncio"


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """Give a guard of 100 credits, which knows of them."""
    del clock
    guard = Guard(FakeProvider(100, linger=300, lag=5))
    guard.balance()
    return guard


class Service:
    """A service whose replies are given: a status, or a status and where it leads."""

    def __init__(self, web: Web, *answers: tuple[int, str]) -> None:
        self.asked: list[str] = []
        self.answers = list(answers)
        self._library = web.library

    def __call__(self, request: Any) -> Any:
        """Give the next one; after the last, all is well."""
        self.asked.append(request.url.path)
        status, leads = self.answers.pop(0) if self.answers else (200, "")
        headers = {"location": leads} if leads else {}
        return self._library.Response(status, headers=headers, json={})


class Approver:
    """Says what it is told to, at last yes, and notes what it was asked and what was available."""

    def __init__(self, guard: Guard, *answers: bool) -> None:
        self.guard = guard
        self.answers = list(answers)
        self.asked: list[ApprovalRequest] = []
        self.available: list[Any] = []

    def __call__(self, request: ApprovalRequest) -> bool:
        self.asked.append(request)
        self.available.append(self.guard.available)
        return self.answers.pop(0) if self.answers else True

    async def later(self, request: ApprovalRequest) -> bool:
        """The same, for async clients."""
        return self(request)


async def begin(web: Web, approver: Approver, *answers: tuple[int, str], **options: Any) -> Service:
    """Open the client over such a service, with an approver of its kind."""
    service = Service(web, *answers)
    approve = approver.later if web.awaiting else approver
    terms = {"approve": approve, "approve_above": 20}
    prices = {
        ("POST", "/spec"): {"min": 50, **terms},
        ("POST", "/old"): {"min": 50, **terms},
        ("POST", "/cheap"): {"min": 10, **terms},
    }
    behind = web.library.MockTransport(service)
    await web.open(approver.guard, transport=behind, base_url=HERE, prices=prices, **options)
    return service


async def test_a_request_is_asked_about_before_it_is_sent(web: Web, guard: Guard) -> None:
    """The approver is given the request; a cheap one is sent at once."""
    approver = Approver(guard)
    service = await begin(web, approver)
    assert (await web.send("POST", f"{HERE}/cheap", json={})).status_code == 200
    assert approver.asked == []
    assert (await web.send("POST", f"{HERE}/spec", json={})).status_code == 200
    [request] = approver.asked
    assert (request.operation, request.needed, approver.available) == ("POST /spec", 50, [90])
    assert request.args[0].url.path == "/spec"
    assert (service.asked, guard.available) == (["/cheap", "/spec"], 40)


async def test_a_no_is_a_403_that_no_sdk_sends_again(web: Web, guard: Guard) -> None:
    """In the shape of other refusals; nothing is sent, and nothing held."""
    service = await begin(web, Approver(guard, False))
    reply = await web.send("POST", f"{HERE}/spec", json={})
    words = "POST /spec needs 50 credits, and the approval was denied."
    assert (reply.status_code, reply.headers["x-should-retry"]) == (403, "false")
    assert json.loads(reply.text)["error"] == {"code": 403, "message": words}
    assert (service.asked, guard.available) == ([], 100)


async def test_a_no_may_be_an_error(web: Web, guard: Guard) -> None:
    """Where the code wants refusals raised."""
    await begin(web, Approver(guard, False), on_refusal="raise")
    with pytest.raises(ApprovalDenied):
        await web.send("POST", f"{HERE}/spec", json={})


async def test_a_repeat_of_a_failed_call_is_not_asked_about(web: Web, guard: Guard) -> None:
    """It is the same call, which was approved."""
    approver = Approver(guard, True, False)
    service = await begin(web, approver, (503, ""))
    assert (await web.send("POST", f"{HERE}/spec", json={})).status_code == 503
    assert (await web.send("POST", f"{HERE}/spec", json={})).status_code == 200
    assert (len(approver.asked), service.asked) == (1, ["/spec", "/spec"])


async def test_a_redirected_call_is_asked_about_once(web: Web, guard: Guard) -> None:
    """If it costs no more at the other place."""
    approver = Approver(guard, True, False)
    service = await begin(web, approver, (307, "/spec"))
    reply = await web.send("POST", f"{HERE}/old", json={}, follow_redirects=True)
    assert (reply.status_code, len(approver.asked)) == (200, 1)
    assert (service.asked, guard.available) == (["/old", "/spec"], 50)


async def test_a_redirect_to_what_costs_more_is_asked_about(web: Web, guard: Guard) -> None:
    """What was let through without an approval is none for a dearer one."""
    approver = Approver(guard, False)
    service = await begin(web, approver, (307, "/spec"))
    reply = await web.send("POST", f"{HERE}/cheap", json={}, follow_redirects=True)
    assert (reply.status_code, len(approver.asked)) == (403, 1)
    assert (service.asked, guard.available) == (["/cheap"], 100)


def test_an_approval_is_for_one_account(guard: Guard) -> None:
    """A redirect that leads to another account's service is asked about there."""
    here, there = Approver(guard), Approver(Guard(FakeProvider(100)), False)
    asked: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(307, headers={"location": f"{THERE}/spec"})

    def transport(approver: Approver, url: str) -> GuardTransport:
        prices: Any = {("POST", "/spec"): {"min": 50, "approve": approver}}
        behind = httpx.MockTransport(serve)
        return GuardTransport(approver.guard, transport=behind, base_url=url, prices=prices)

    mounts: Any = {HERE: transport(here, HERE), THERE: transport(there, THERE)}
    with httpx.Client(mounts=mounts, follow_redirects=True) as client:
        assert client.post(f"{HERE}/spec", json={}).status_code == 403
    assert (len(here.asked), len(there.asked), asked) == (1, 1, ["a.example"])
