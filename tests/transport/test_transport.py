"""Requests that are guarded where they leave: both libraries, plain and awaiting, over sockets."""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from web import AWAITING, Web

from budgetguard import (
    AnchorBrowser,
    BudgetGuardError,
    ConfigurationError,
    Event,
    Guard,
    InsufficientCredits,
    PreDev,
    learned,
    set_active,
)
from budgetguard._engine.binding import binding_of
from budgetguard.providers.billing import Unpriced
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import AsyncGuardTransport, GuardTransport
from budgetguard.transport._body import BodyEnd, watched

pytestmark = [
    pytest.mark.anyio,
    # The libraries leave generators of their own to trio where a reply is not read to its end.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]

KEY = Sandbox.predev_key
SPEC = {"input": "A web shop for a bakery"}
CHAT = {"model": "m", "messages": []}
OTHER_KIND = "Client takes a GuardTransport, AsyncClient an AsyncGuardTransport"
RETRY = "x-stainless-retry-count"


@pytest.fixture
def anyio_backend(way: tuple[str, str]) -> str:
    """Give the loop that the test runs on."""
    return way[1] or "asyncio"


def held(guard: Guard) -> int:
    """Micro-credits held by open calls."""
    binding_of(guard).account.flush()
    return binding_of(guard).account.ledger.held


async def test_a_call_is_settled_at_what_its_reply_says(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """The credits are held while the spec is written, and what it did not use comes back."""
    await web.open(predev, key=KEY)
    reply = await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    used = Decimal(str(reply.json()["creditsUsed"]))
    assert 0 < used == sandbox.predev.charged
    assert (predev.available, held(predev)) == (100 - used, 0)
    assert sandbox.balance_requests == 1


@pytest.mark.parametrize("written", ["as a price", "by the request", "by its content"])
async def test_a_learned_price(web: Web, predev: Guard, sandbox: Sandbox, written: str) -> None:
    """What the replies say is learned, by method and path, and by the content where that is asked for."""
    by = {"by its content": lambda request: json.loads(request.content)["input"]}.get(written)
    price: Any = learned(30, by=by)
    if written == "by the request":
        prices: Any = {("POST", "/fast-spec"): lambda _: learned(30)}
    else:
        prices = {("POST", "/fast-spec"): price, ("GET", "/list-specs"): 1}
    await web.open(predev, key=KEY, prices=prices)
    key = SPEC["input"] if by else None
    used = []
    for _ in range(3):
        reply = await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
        used.append(Decimal(str(reply.json()["creditsUsed"])))
    found = predev.estimate("POST /fast-spec", key=key)
    assert (found.settlements, found.largest, found.cost) == (3, max(used), 30)
    if by is None:
        return
    await web.send("GET", f"{sandbox.url}/list-specs")
    assert predev.estimate("GET /list-specs").cost == 1


async def test_a_refusal_never_leaves(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """It is a 402 in the provider's own words' shape, which no SDK tries again."""
    await web.open(predev, key=KEY)
    with predev.acquire(60):
        reply = await web.send("POST", f"{sandbox.url}/deep-spec", json=SPEC)
    assert reply.status_code == 402
    assert reply.headers["x-should-retry"] == "false"
    body = reply.json()
    assert (body["error"], body["generationsAvailable"]) == ("Insufficient credits", 0)
    assert body["message"].startswith("POST /deep-spec needs 50 credits, and 40 are available")
    assert sandbox.requests["POST", "/deep-spec"] == 0
    assert binding_of(predev).account.ledger.snapshot is not None
    assert binding_of(predev).account.ledger.snapshot.refused_until is None


async def test_a_refusal_is_raised_where_it_is_asked_for(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """The guard's own error reaches the caller as it is."""
    await web.open(predev, key=KEY, on_refusal="raise")
    with predev.acquire(60), pytest.raises(InsufficientCredits) as refused:
        await web.send("POST", f"{sandbox.url}/deep-spec", json=SPEC)
    assert (refused.value.needed, refused.value.operation) == (50, "POST /deep-spec")
    assert sandbox.requests["POST", "/deep-spec"] == 0


async def test_a_crowd_spends_no_more_than_there_is(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """Of 25 specs at 10 credits on a balance of 100, those that run never overdraw it."""
    await web.open(predev, key=KEY, timeout=30)
    statuses = []

    async def submit() -> None:
        reply = await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
        statuses.append(reply.status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(25):
            tasks.start_soon(submit)
    assert set(statuses) == {200, 402}
    assert statuses.count(200) == sandbox.predev.finished >= 10
    assert (sandbox.predev.died, sandbox.predev.refused) == (0, 0)
    assert sandbox.predev.lowest_balance >= 0
    assert (predev.available, held(predev)) == (sandbox.predev.balance, 0)


async def test_requests_elsewhere_pass_untouched(
    web: Web,
    predev: Guard,
    open_sandbox: Callable[..., Sandbox],
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another port is another origin, told once; and at the provider's own, what is free is free."""
    caplog.set_level("INFO", logger="budgetguard")
    elsewhere = open_sandbox(100)
    await web.open(predev, key=KEY)
    with predev.acquire(100):
        for _ in range(2):
            reply = await web.send("POST", f"{elsewhere.url}/fast-spec", json=SPEC)
            assert reply.status_code == 200
        assert (await web.send("GET", f"{sandbox.url}/credits-balance")).status_code == 200
    assert elsewhere.requests["POST", "/fast-spec"] == 2
    [said] = [record.getMessage() for record in caplog.records if record.name == "budgetguard"]
    assert elsewhere.url in said
    assert sandbox.url in said


async def test_a_submission_is_kept_until_a_look_can_show_it(
    web: Web, predev: Guard, sandbox: Sandbox, clock: HandClock
) -> None:
    """The reply to an asynchronous spec says nothing of what it will use."""
    await web.open(predev, key=KEY, follow=False)
    reply = await web.send("POST", f"{sandbox.url}/deep-spec", json=SPEC | {"async": True})
    assert reply.json()["status"] == "pending"
    assert sandbox.wait_until(lambda: sandbox.predev.finished == 1)
    assert (predev.available, held(predev)) == (50, 0)
    clock.advance(PreDev.linger + PreDev.lag)
    predev.balance(max_age=0)
    assert predev.available == sandbox.predev.balance


async def test_a_batch_is_settled_at_its_total(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """And the stub of an asynchronous one, whose total of 0 is no final figure, is not."""
    await web.open(predev, key=KEY)
    batch = {"tasks": [{"url": "https://example.com"}] * 4}
    reply = await web.send("POST", f"{sandbox.url}/browser-agent", json=batch)
    used = Decimal(str(reply.json()["totalCreditsUsed"]))
    assert predev.available == 100 - used == sandbox.predev.balance
    stub = await web.send("POST", f"{sandbox.url}/browser-agent", json=batch | {"async": True})
    assert stub.json()["totalCreditsUsed"] == 0
    assert predev.available == 100 - used - 4 * PreDev.BROWSER_TASK


async def test_a_stream_is_settled_when_it_has_ended(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """Until then its credits are held; the frame `done` says what it used."""
    await web.open(predev, key=KEY)
    batch = {"tasks": [{"url": "https://example.com"}] * 3, "stream": True}
    done = ""
    async with web.stream("POST", f"{sandbox.url}/browser-agent", json=batch) as lines:
        assert held(predev) == 3 * 500_000
        async for line in lines:
            if "totalCreditsUsed" in line:
                done = line.removeprefix("data: ")
    used = Decimal(str(json.loads(done)["totalCreditsUsed"]))
    assert predev.available == 100 - used == sandbox.predev.balance


async def test_a_stream_that_nobody_reads_on_is_kept(
    web: Web, predev: Guard, open_sandbox: Callable[..., Sandbox], clock: HandClock
) -> None:
    """The provider works on."""
    slow = open_sandbox(100, clock="manual")
    guard = Guard(PreDev(KEY, base_url=slow.url))
    guard.balance()
    await web.open(guard, key=KEY)
    batch = {"tasks": [{"url": "https://example.com"}] * 3, "stream": True}
    async with web.stream("POST", f"{slow.url}/browser-agent", json=batch) as lines:
        assert await anext(lines) == ":ok"
    assert (guard.available, held(guard)) == (100 - Decimal("1.5"), 0)
    clock.advance(PreDev.lag)
    # The minimum of 0.1 for each is charged at the submission.
    assert guard.balance(max_age=0).credits == 100 - Decimal("0.3")
    assert guard.available == 100 - Decimal("1.5")


async def test_the_gateway_says_what_a_call_cost_and_what_is_left(
    web: Web, predev: Guard, sandbox: Sandbox, clock: HandClock
) -> None:
    """Its headers settle the call, and refresh the balance as of the call's sending, for free."""
    headers = {"x-predev-credits-charged": "0.25", "x-predev-credits-remaining": "80.5"}
    sandbox.fault("/v1/chat/completions", status=200, body={"id": "c"}, headers=headers)
    await web.open(predev, key=KEY)
    clock.advance(60)
    await web.send("POST", f"{sandbox.url}/v1/chat/completions", json=CHAT)
    balance = predev.balance()
    assert (balance.credits, balance.age) == (Decimal("80.5"), 0)
    assert predev.available == Decimal("80.25")
    assert sandbox.balance_requests == 1


async def test_a_late_reply_to_an_older_call_changes_no_balance(
    web: Web, predev: Guard, sandbox: Sandbox, clock: HandClock
) -> None:
    """A header's balance is as old as its own request's sending."""
    sandbox.fault("/v1/models", status=200, body={}, headers={"x-predev-credits-remaining": "7"})
    await web.open(predev, key=KEY)
    send = web.transport._traffic.call

    def overtaken(request: Any) -> Any:
        call = send(request)
        received = call.received

        def late(response: Any) -> Any:
            clock.advance(1)
            predev.balance(max_age=0)
            clock.advance(1)
            return received(response)

        call.received = late
        return call

    web.transport._traffic.call = overtaken
    await web.send("GET", f"{sandbox.url}/v1/models")
    assert predev.balance().credits == 100


async def test_a_balance_below_zero_may_come_along(
    web: Web, predev: Guard, sandbox: Sandbox, clock: HandClock
) -> None:
    """A metered call is charged when it is over: the credits may not have been enough."""
    headers = {"x-predev-credits-remaining": "-0.9"}
    sandbox.fault("/v1/models", status=200, body={}, headers=headers)
    await web.open(predev, key=KEY)
    clock.advance(1)
    await web.send("GET", f"{sandbox.url}/v1/models")
    assert predev.available == Decimal("-0.9")


@pytest.mark.parametrize(
    ("path", "body", "exhausted"),
    [
        ("/fast-spec", {"error": "Insufficient credits", "message": "No more."}, True),
        ("/browser-agent", {"error": "Need ~0.5", "code": "INSUFFICIENT_CREDITS"}, True),
        ("/browser-agent", {"error": "No plan", "code": "SUBSCRIPTION_REQUIRED"}, False),
        ("/v1/responses", {"error": {"code": "insufficient_credits", "message": "x"}}, True),
        ("/v1/responses", {"error": {"code": "subscription_required", "message": "x"}}, False),
        ("/v1/messages", {"type": "error", "error": {"type": "subscription_required"}}, False),
    ],
    ids=["spec", "browser", "browser plan", "gateway", "gateway plan", "gateway plan by type"],
)
async def test_a_402_from_the_provider(
    web: Web, predev: Guard, sandbox: Sandbox, path: str, body: dict[str, Any], exhausted: bool
) -> None:
    """It marks the guard exhausted, unless it is a plan that is lacking; the reply is the caller's."""
    sandbox.fault(path, status=402, body=body)
    await web.open(predev, key=KEY)
    reply = await web.send("POST", f"{sandbox.url}{path}", json={"tasks": [{}]})
    assert (reply.status_code, reply.json()) == (402, body)
    snapshot = binding_of(predev).account.ledger.snapshot
    assert snapshot is not None
    assert (snapshot.refused_until is not None) is exhausted
    assert held(predev) == 0


async def test_a_402_to_what_is_free(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """The provider's word on the account counts, whatever the request costs."""
    sandbox.fault("/v1/models", status=402, body={"error": {"code": "insufficient_credits"}})
    await web.open(predev, key=KEY)
    await web.send("GET", f"{sandbox.url}/v1/models")
    snapshot = binding_of(predev).account.ledger.snapshot
    assert snapshot is not None
    assert snapshot.refused_until is not None
    assert held(predev) == 0


async def test_a_spec_that_died_half_way_counts_until_a_look_shows_it(
    web: Web, predev: Guard, sandbox: Sandbox, clock: HandClock
) -> None:
    """Its 402 says nothing about what it burned before."""
    sandbox.fault("/fast-spec", status=402)
    await web.open(predev, key=KEY, follow=False)
    await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    assert binding_of(predev).account.ledger.kept.total == 10_000_000


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429])
async def test_a_refused_request_costs_nothing(
    web: Web, predev: Guard, sandbox: Sandbox, status: int
) -> None:
    """The provider turned it away before it did anything."""
    sandbox.fault("/fast-spec", status=status, body={"error": "no"})
    await web.open(predev, key=KEY)
    await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    assert predev.available == 100


async def test_a_failure_at_the_provider_is_kept(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """Nobody knows what a call cost that ended in a 500."""
    sandbox.fault("/fast-spec", status=500, body={"error": "oops"})
    await web.open(predev, key=KEY, follow=False)
    await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    assert (predev.available, held(predev)) == (90, 0)


async def test_a_connection_that_was_never_made_costs_nothing(web: Web, clock: HandClock) -> None:
    """What did not leave was not worked on."""
    guard = Guard(FakeProvider(100))
    await web.open(guard, prices={("POST", "/work"): 10}, base_url="http://127.0.0.1:9")
    with pytest.raises(web.library.ConnectError):
        await web.send("POST", "http://127.0.0.1:9/work")
    assert guard.available == 100


async def test_a_connection_that_none_was_free_for_costs_nothing(
    web: Web, clock: HandClock
) -> None:
    """The pool gave up before anything was sent."""

    def full(_: Any) -> Any:
        msg = "no connection came free"
        raise web.library.PoolTimeout(msg)

    guard = Guard(FakeProvider(100))
    behind = web.library.MockTransport(full)
    await web.open(
        guard, transport=behind, prices={("POST", "/work"): 10}, base_url="https://a.example"
    )
    with pytest.raises(web.library.PoolTimeout):
        await web.send("POST", "https://a.example/work")
    assert (guard.available, held(guard)) == (100, 0)


async def test_a_proxy_that_lets_nobody_through_costs_nothing(
    web: Web, clock: HandClock, sandbox: Sandbox
) -> None:
    """Behind it, no connection was made."""
    guard = Guard(FakeProvider(100))
    kind = web.library.AsyncHTTPTransport if web.awaiting else web.library.HTTPTransport
    behind = kind(proxy=sandbox.url)
    url = "https://a.example"
    await web.open(guard, transport=behind, prices={("POST", "/work"): 10}, base_url=url)
    with pytest.raises(web.library.ProxyError):
        await web.send("POST", f"{url}/work")
    assert guard.available == 100


@pytest.mark.parametrize("fault", ["hang", "reset"])
async def test_a_time_out_is_kept(web: Web, predev: Guard, sandbox: Sandbox, fault: str) -> None:
    """The provider may be at it still."""
    sandbox.fault("/fast-spec", **{fault: True})
    await web.open(predev, key=KEY, follow=False, timeout=0.05 if fault == "hang" else 10)
    with pytest.raises(web.library.TransportError):
        await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    assert (predev.available, held(predev)) == (90, 0)


@pytest.mark.parametrize("way", AWAITING, indirect=True)
async def test_a_cancelled_call_is_kept(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """And nothing of it is left behind."""
    sandbox.fault("/fast-spec", hang=True)
    await web.open(predev, key=KEY, follow=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(web.send, "POST", f"{sandbox.url}/fast-spec")
        with anyio.fail_after(10):
            while not held(predev):
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert (predev.available, held(predev)) == (90, 0)


async def test_a_body_that_is_compressed_is_read_all_the_same(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """What the caller gets is what the transport behind would have given."""
    packed = gzip.compress(json.dumps({"creditsUsed": 7}).encode())
    headers = {"content-encoding": "gzip"}
    sandbox.fault(
        "/fast-spec", status=200, body=packed, headers=headers, content_type="application/json"
    )
    await web.open(predev, key=KEY)
    reply = await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    assert reply.json() == {"creditsUsed": 7}
    assert predev.available == 93


@pytest.mark.parametrize(
    "body", ['{"creditsUsed": -5}', '{"creditsUsed": true}', '{"creditsUsed": NaN}', "no JSON", ""]
)
async def test_a_reply_that_makes_no_sense_is_settled_at_cost(
    web: Web, predev: Guard, sandbox: Sandbox, body: str
) -> None:
    """And the caller gets it as it came."""
    sandbox.fault("/fast-spec", status=200, body=body, content_type="application/json")
    await web.open(predev, key=KEY)
    reply = await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    assert reply.text == body
    assert (predev.available, held(predev)) == (90, 0)


async def test_a_reply_that_breaks_off_is_kept(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """A figure in the half that came is not believed."""
    body = '{"creditsUsed": 1, "status": "completed"}\n\n'
    sandbox.fault("/fast-spec", status=200, body=body, size=1_000_000, drip=0.0001)
    await web.open(predev, key=KEY, follow=False, timeout=10)
    async with web.stream("POST", f"{sandbox.url}/fast-spec", json=SPEC) as lines:
        assert "creditsUsed" in await anext(lines)
    assert (predev.available, held(predev)) == (90, 0)


async def test_an_unknown_balance_is_a_424(web: Web, clock: HandClock, sandbox: Sandbox) -> None:
    """Which SDKs do not send again; with the time of the next refresh, in the provider's shape."""
    sandbox.fault("/credits-balance", status=200, body={})
    guard = Guard(PreDev(KEY, base_url=sandbox.url))
    await web.open(guard, key=KEY)
    reply = await web.send("POST", f"{sandbox.url}/v1/messages", json=CHAT)
    assert reply.status_code == 424
    assert reply.headers["x-should-retry"] == "false"
    assert reply.json()["error"]["code"] == "balance_unavailable"
    assert int(reply.headers["retry-after"]) >= 1
    assert sandbox.requests["POST", "/v1/messages"] == 0


async def test_a_paused_account_is_a_424(web: Web, clock: HandClock, sandbox: Sandbox) -> None:
    """Which SDKs do not send again either; with the reason, in the provider's shape."""
    guard = Guard(PreDev(KEY, base_url=sandbox.url))
    guard.pause("the key may have leaked")
    await web.open(guard, key=KEY)
    reply = await web.send("POST", f"{sandbox.url}/v1/messages", json=CHAT)
    assert reply.status_code == 424
    assert reply.headers["x-should-retry"] == "false"
    assert reply.json()["error"]["code"] == "paused"
    assert "the key may have leaked" in reply.json()["message"]
    assert "retry-after" not in reply.headers
    assert not sandbox.requests


@pytest.mark.parametrize("own", [{}, {"error": "none left", "detail": {"status": "empty"}}])
async def test_a_refusal_has_its_words_where_sdks_look_for_them(
    web: Web, clock: HandClock, own: dict[str, Any]
) -> None:
    """Also where the provider has a shape of its own, whose fields are not replaced."""

    class Shop(FakeProvider):
        def refusal_body(self, error: BudgetGuardError) -> dict[str, Any] | None:
            return own or None

    guard = Guard(Shop(1))
    guard.balance()
    prices = {("POST", "/work"): 10, ("POST", "/else"): unpriced}
    await web.open(guard, prices=prices, base_url="https://a.example")
    for path, status, words in (("work", 402, "POST /work needs 10"), ("else", 400, "not known")):
        reply = await web.send("POST", f"https://a.example/{path}")
        body = reply.json()
        assert reply.status_code == status
        assert {name: body[name] for name in own} == own
        others = {"message", "detail", "title"} - own.keys()
        assert all(words in body[name] for name in others)
        if not own:
            assert (body["error"]["code"], body["error"]["message"]) == (status, body["message"])


def unpriced(_: Any) -> int:
    """The price of what nobody can price."""
    msg = "its price is not known"
    raise Unpriced(msg)


async def test_a_price_that_raises_lets_nothing_leave(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """A failure of ours is no reason to spend."""

    def price(request: Any) -> int:
        raise KeyError(request.method)

    await web.open(predev, key=KEY, prices={("POST", "/fast-spec"): price})
    with pytest.raises(KeyError):
        await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    assert sandbox.requests["POST", "/fast-spec"] == 0


@pytest.mark.parametrize("price", [lambda _: -1, lambda _: "lots", lambda _: {"mni": 1}])
async def test_a_price_that_is_none_lets_nothing_leave(
    web: Web, predev: Guard, sandbox: Sandbox, price: Any
) -> None:
    """Nor is a price that cannot be."""
    await web.open(predev, key=KEY, prices={("POST", "/fast-spec"): price})
    with pytest.raises((TypeError, ValueError)):
        await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    assert sandbox.requests["POST", "/fast-spec"] == 0


async def test_a_price_may_go_by_the_request(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """Its content is there, also where the client streams it; None is for nothing."""

    def price(request: Any) -> Any:
        body = json.loads(request.content)
        return {"min": body["worth"], "lag": 0} if body["worth"] else None

    sandbox.fault("/work", status=200, body={})
    await web.open(predev, key=KEY, prices={("POST", "/work"): price})

    async def parts() -> Any:
        yield b'{"worth": 30}'

    content: Any = parts() if web.awaiting else iter([b'{"worth": 30}'])
    await web.send("POST", f"{sandbox.url}/work", content=content)
    assert predev.available == 70
    await web.send("POST", f"{sandbox.url}/work", json={"worth": 0})
    assert predev.available == 70


# Retries by an SDK.


async def test_a_retry_goes_by_the_hold_of_the_attempt_before(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """One logical call is one hold; what the attempt before may have cost is counted on top."""
    await web.open(predev, key=KEY)
    rest = predev.acquire(45)
    sandbox.fault("/deep-spec", status=500, times=1)
    url = f"{sandbox.url}/deep-spec"
    await web.send("POST", url, json=SPEC, headers={RETRY: "0"})
    assert held(predev) == 95_000_000
    reply = await web.send("POST", url, json=SPEC, headers={RETRY: "1"})
    assert reply.status_code == 200
    used = Decimal(str(reply.json()["creditsUsed"]))
    rest.release()
    assert (predev.available, held(predev)) == (50 - used, 0)


@pytest.mark.parametrize("status", [408, 409, 500])
async def test_what_is_tried_again_after(
    web: Web, predev: Guard, sandbox: Sandbox, status: int
) -> None:
    """After each of these an SDK sends the request again: its hold waits for that."""
    await web.open(predev, key=KEY)
    sandbox.fault("/fast-spec", status=status, times=1, body={})
    await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC, headers={RETRY: "0"})
    assert (predev.available, held(predev)) == (90, 10_000_000)
    await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC, headers={RETRY: "1"})
    binding_of(predev).account.flush()
    assert (held(predev), binding_of(predev).account.ledger.kept.total) == (0, 10_000_000)


async def test_a_transport_that_is_closed_by_itself_waits_for_no_retry(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """`close` and `aclose` count as the end of a client does."""
    sandbox.fault("/fast-spec", status=503, times=1)
    await web.open(predev, key=KEY)
    await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC, headers={RETRY: "0"})
    assert held(predev) == 10_000_000
    if web.awaiting:
        await web.transport.aclose()
    else:
        web.transport.close()
    assert (predev.available, held(predev)) == (90, 0)


async def test_each_attempt_before_counts_for_as_long_as_it_may_go_on(
    web: Web, predev: Guard, sandbox: Sandbox, clock: HandClock
) -> None:
    """The provider may be at an attempt that timed out long after the retry has succeeded."""
    await web.open(predev, key=KEY)
    url = f"{sandbox.url}/fast-spec"
    sandbox.fault("/fast-spec", status=500, times=2)
    for attempt in ("0", "1"):
        await web.send("POST", url, json=SPEC, headers={RETRY: attempt})
    reply = await web.send("POST", url, json=SPEC, headers={RETRY: "2"})
    left = 100 - Decimal(str(reply.json()["creditsUsed"]))
    assert (predev.available, held(predev)) == (left - 20, 0)
    clock.advance(PreDev.lag)
    predev.balance(max_age=0)
    assert predev.available == left - 20
    clock.advance(PreDev.linger)
    predev.balance(max_age=0)
    assert predev.available == left


async def test_attempts_that_all_fail_all_count(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """Nobody knows what any of them cost."""
    await web.open(predev, key=KEY)
    sandbox.fault("/fast-spec", status=500)
    for attempt in ("0", "1", "2"):
        await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC, headers={RETRY: attempt})
    assert (predev.available, held(predev)) == (70, 10_000_000)
    await web.close()
    assert (predev.available, held(predev)) == (70, 0)


async def test_a_retry_that_is_turned_away_adds_nothing(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """What the attempt before may have cost is all there is to count."""
    await web.open(predev, key=KEY)
    for status in (500, 429):
        sandbox.fault("/fast-spec", status=status, times=1)
    for attempt in ("0", "1"):
        await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC, headers={RETRY: attempt})
    assert (predev.available, held(predev)) == (90, 0)


async def test_a_retry_of_another_call_takes_no_ones_hold(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """It is the same call where method, address and content are the same."""
    sandbox.fault("/deep-spec", status=500, times=1)
    await web.open(predev, key=KEY)
    url = f"{sandbox.url}/deep-spec"
    await web.send("POST", url, json=SPEC, headers={RETRY: "0"})
    with predev.acquire(10):
        other = await web.send("POST", url, json={"input": "Another"}, headers={RETRY: "1"})
    assert other.status_code == 402


async def test_a_retry_that_does_not_come_is_not_waited_for(
    web: Web, predev: Guard, sandbox: Sandbox, clock: HandClock
) -> None:
    """After 65 s the hold is kept as that of any call whose outcome nobody knows."""
    sandbox.fault("/fast-spec", hang=True, times=1)
    await web.open(predev, key=KEY, timeout=0.05)
    with pytest.raises(web.library.TransportError):
        await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC, headers={RETRY: "0"})
    clock.advance(64)
    assert (predev.available, held(predev)) == (90, 10_000_000)
    clock.advance(1)
    assert (predev.available, held(predev)) == (90, 0)
    clock.advance(PreDev.linger + PreDev.lag)
    predev.balance(max_age=0)
    assert predev.available == 100


async def test_a_closed_client_tries_nothing_again(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """What it was uncertain of is kept."""
    sandbox.fault("/fast-spec", status=503, times=1)
    await web.open(predev, key=KEY)
    await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC, headers={RETRY: "0"})
    assert held(predev) == 10_000_000
    await web.close()
    assert (predev.available, held(predev)) == (90, 0)


# Anchor Browser.


@pytest.mark.parametrize(
    ("path", "body", "credits"),
    [
        ("/v1/sessions", {}, Decimal("0.0275")),
        ("/v1/sessions", {"session": {"timeout": {"max_duration": 59}}}, Decimal("0.06")),
        ("/v1/sessions", {"session": {"timeout": {"max_duration": 2879}}}, Decimal("2.41")),
        ("/v1/batch-sessions", {"count": 3, "configuration": {}}, Decimal("0.0825")),
        ("/v1/batch-sessions", {"count": 3000, "configuration": {}}, Decimal("82.5")),
        ("/v1/tools/perform-web-task", {"prompt": "x", "max_steps": 30}, Decimal("0.3275")),
        ("/v1/tools/perform-web-task", {"prompt": "x"}, Decimal("2.0275")),
        ("/v1/tools/perform-web-task?sessionId=s", {"prompt": "x"}, Decimal(2)),
        ("/v1/tools/screenshot", {}, Decimal("0.010834")),
        ("/v1/tools/page-pdf", {}, Decimal("0.010834")),
        ("/v2/tasks/t/run", {}, Decimal("2.0275")),
        ("/v2/tasks/generate", {}, Decimal("2.0275")),
        ("/v1/tools/execute-code", {}, Decimal(0)),
    ],
)
async def test_what_browsers_may_cost(
    web: Web, anchor: Guard, sandbox: Sandbox, path: str, body: Any, credits: Decimal
) -> None:
    """A session for its longest life, a batch for as many, a task for its steps."""
    sandbox.fault(path.partition("?")[0], status=200, body={"data": {}})
    await web.open(anchor, key=Sandbox.anchor_key)
    await web.send("POST", f"{sandbox.url}{path}", json=body)
    left = 100 - credits
    assert anchor.available is not None
    assert abs(anchor.available - left) <= Decimal("0.000001")
    assert anchor.available <= left


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (
            "/v1/sessions",
            {"session": {"timeout": {"max_duration": -1}}},
            "max_duration=-1 is not known",
        ),
        ("/v1/sessions", {"session": {"timeout": {"max_duration": "sk-1"}}}, "max_duration=<str>"),
        ("/v1/batch-sessions", {"configuration": {}}, "count=None is not known"),
        ("/v1/batch-sessions/b/retry", {}, "a batch that was not started here"),
    ],
)
async def test_browsers_that_may_cost_anything(
    web: Web, anchor: Guard, sandbox: Sandbox, path: str, body: Any, words: str
) -> None:
    """They are refused until their price is named, in words that say so."""
    await web.open(anchor, key=Sandbox.anchor_key)
    reply = await web.send("POST", f"{sandbox.url}{path}", json=body)
    assert (reply.status_code, anchor.available) == (400, 100)
    assert words in reply.json()["error"]["message"]
    assert reply.json()["error"]["message"].endswith("or with prices= of a transport")
    assert not any(method == "POST" for method, _ in sandbox.requests)
    await web.close()
    await web.open(anchor, key=Sandbox.anchor_key, prices={("POST", path): 3})
    sandbox.fault(path, status=200, body={"data": {}})
    await web.send("POST", f"{sandbox.url}{path}", json=body)
    assert anchor.available == 97


async def test_what_nobody_can_price_is_raised_where_refusals_are(
    web: Web, anchor: Guard, sandbox: Sandbox
) -> None:
    """It is an error of configuration then."""
    await web.open(anchor, key=Sandbox.anchor_key, on_refusal="raise")
    with pytest.raises(ConfigurationError, match="count=None"):
        await web.send("POST", f"{sandbox.url}/v1/batch-sessions", json={})


async def test_a_session_counts_for_its_longest_life(
    web: Web, anchor: Guard, sandbox: Sandbox, clock: HandClock
) -> None:
    """The reply that opens it does not end the hold."""
    await web.open(anchor, key=Sandbox.anchor_key)
    body = {"session": {"timeout": {"max_duration": 60}}}
    reply = await web.send("POST", f"{sandbox.url}/v1/sessions", json=body)
    assert reply.status_code == 200
    clock.advance(3600 + AnchorBrowser.lag - 1)
    anchor.balance(max_age=0)
    assert binding_of(anchor).account.ledger.kept.total == 60_834
    clock.advance(1)
    anchor.balance(max_age=0)
    assert binding_of(anchor).account.ledger.kept.total == 0


async def test_what_broke_a_request_is_named_by_what_it_keeps_away(
    web: Web, sandbox: Sandbox, clock: HandClock
) -> None:
    """The library's own type, whichever library; the request may have arrived."""
    events: list[Event] = []
    guard = Guard(PreDev(KEY, base_url=sandbox.url), on_event=events.append)
    sandbox.fault("/fast-spec", reset=True)
    await web.open(guard, key=KEY, follow=False)
    with pytest.raises(web.library.TransportError) as broken:
        await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    cause = type(broken.value).__name__
    assert [event.reason for event in events if event.kind == "kept"] == [cause]
    clock.advance(6)
    with pytest.raises(InsufficientCredits) as refused:
        await guard.aacquire(95)
    assert refused.value.causes == {cause: 1}
    assert f"because a call raised {cause}" in str(refused.value)


async def test_a_session_of_many_years_counts_for_one(
    web: Web, anchor: Guard, sandbox: Sandbox, clock: HandClock
) -> None:
    """Its price is that of all its minutes, and nothing is kept for longer than 366 days."""
    sandbox.anchor.top_up(9000)
    clock.advance(6)
    anchor.balance(max_age=0)
    sandbox.fault("/v1/sessions", status=200, body={"data": {}})
    await web.open(anchor, key=Sandbox.anchor_key)
    body = {"session": {"timeout": {"max_duration": 10**7}}}
    await web.send("POST", f"{sandbox.url}/v1/sessions", json=body)
    assert 9100 - 8335 < anchor.available < 9100 - 8333  # type: ignore[operator]
    clock.advance(366 * 86_400 + AnchorBrowser.lag - 1)
    anchor.balance(max_age=0)
    assert binding_of(anchor).account.ledger.kept.total > 0
    clock.advance(1)
    anchor.balance(max_age=0)
    assert binding_of(anchor).account.ledger.kept.total == 0


async def test_a_refused_browser(web: Web, anchor: Guard, sandbox: Sandbox) -> None:
    """The refusal has Anchor Browser's shape."""
    await web.open(anchor, key=Sandbox.anchor_key)
    with anchor.acquire(100):
        reply = await web.send("POST", f"{sandbox.url}/v1/sessions", json={})
    assert reply.status_code == 402
    assert reply.json()["error"]["code"] == 402
    assert sandbox.requests["POST", "/v1/sessions"] == 0


# Other cases.


async def test_switched_off_nothing_is_held(web: Web, predev: Guard, sandbox: Sandbox) -> None:
    """As if the transport behind were used alone."""
    set_active(False)
    await web.open(predev, key=KEY)
    await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    set_active(True)
    assert predev.available == 100


async def test_observing_lets_all_through_and_books_it(
    web: Web, sandbox: Sandbox, clock: HandClock
) -> None:
    """A refusal that would have been does not stop the call."""
    guard = Guard(PreDev(KEY, base_url=sandbox.url), mode="observe")
    guard.balance()
    await web.open(guard, key=KEY)
    hold = guard.acquire(100)
    reply = await web.send("POST", f"{sandbox.url}/fast-spec", json=SPEC)
    hold.release()
    assert reply.status_code == 200
    assert guard.available == sandbox.predev.balance


async def test_it_is_of_both_libraries_kinds(web: Web, predev: Guard) -> None:
    """Code that composes transports checks their type; its other types do not change."""
    await web.open(predev)
    kinds = [[each.BaseTransport, each.AsyncBaseTransport] for each in (httpx, httpx2)]
    for kind, awaiting_kind in kinds:
        assert isinstance(web.transport, awaiting_kind if web.awaiting else kind)
        assert not isinstance(web.transport, kind if web.awaiting else awaiting_kind)
    own = AsyncGuardTransport if web.awaiting else GuardTransport
    assert type(web.transport) is own
    assert web.transport.__class__.__name__ == own.__name__
    mine = type("Mine", (own,), {})(predev)
    assert isinstance(mine, type(mine))
    assert all(isinstance(mine, pair[web.awaiting]) for pair in kinds)


def test_it_is_of_a_library_that_is_imported_later() -> None:
    """Neither is imported for the sake of its types, nor asked for where it is not there."""
    code = (
        "import sys\n"
        "from budgetguard import Guard\n"
        "from budgetguard.testing import FakeProvider\n"
        "from budgetguard.transport import GuardTransport\n"
        "transport = GuardTransport(Guard(FakeProvider()), prices={('GET', '/'): 1},"
        " base_url='https://a.example')\n"
        "assert isinstance(transport, GuardTransport)\n"
        "assert 'httpx2' not in sys.modules\n"
        "import httpx2\n"
        "assert isinstance(transport, httpx2.BaseTransport)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "to be read either way"])
async def test_the_transport_behind_may_be_any(
    web: Web, predev: Guard, sandbox: Sandbox, whole: bool
) -> None:
    """One whose reply is there already, or can be read by both kinds of clients."""

    def answer(_: Any) -> Any:
        stream = web.library.ByteStream(b'{"creditsUsed": 4}')
        return web.library.Response(
            200, **({"content": b"".join(stream)} if whole else {"stream": stream})
        )

    await web.open(predev, transport=web.library.MockTransport(answer))
    reply = await web.send("POST", f"{sandbox.url}/fast-spec")
    assert reply.json() == {"creditsUsed": 4}
    assert predev.available == 96


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "awaiting"])
async def test_closing_closes_the_transport_behind(predev: Guard, plain: bool) -> None:
    """As a client does, by hand or as a context manager, which is the guarded transport itself."""
    told: list[str] = []

    class Behind(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def close(self) -> None:
            told.append("closed")

        async def aclose(self) -> None:
            told.append("closed")

    if plain:
        transport = GuardTransport(predev, transport=Behind())
        with transport as entered:
            assert entered is transport
        transport.close()
    else:
        awaiting = AsyncGuardTransport(predev, transport=Behind())
        async with awaiting as entered:
            assert entered is awaiting
        await awaiting.aclose()
    assert told == ["closed", "closed"]


async def test_a_request_may_be_of_a_class_of_ones_own(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """It is of its library all the same."""
    await web.open(predev, key=KEY)
    own = type("Own", (web.library.Request,), {"__module__": __name__})
    request = own("POST", f"{sandbox.url}/fast-spec", json=SPEC, headers=web.client.headers)
    reply = web.client.send(request)
    reply = await reply if web.awaiting else reply
    assert predev.available == 100 - Decimal(str(reply.json()["creditsUsed"]))


def test_a_small_body_may_be_large_once_it_is_unpacked() -> None:
    """No more of it is unpacked than is kept of any body."""
    packed = gzip.compress(b" " * 5_000_000)
    told: list[tuple[BodyEnd, bytes | None]] = []
    response = httpx.Response(
        200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(packed)
    )
    with closing(watched(response, httpx, lambda *end: told.append(end), 4_000_000)) as reply:
        assert b"".join(reply.iter_raw()) == packed
    assert told == [(BodyEnd.COMPLETE, None)]


def test_two_first_requests_at_once_wait_for_nothing_of_each_other(
    predev: Guard, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork in the middle of the first one would leave a lock locked for ever."""
    begun, go_on = threading.Event(), threading.Event()
    plain = httpx.HTTPTransport

    def slow() -> httpx.HTTPTransport:
        if not begun.is_set():
            begun.set()
            go_on.wait(20)
        return plain()

    monkeypatch.setattr(httpx, "HTTPTransport", slow)
    with (
        httpx.Client(transport=GuardTransport(predev)) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        url = f"{sandbox.url}/credits-balance"
        first = threads.submit(client.get, url)
        assert begun.wait(20)
        try:
            assert threads.submit(client.get, url).result(10).status_code == 401
        finally:
            go_on.set()
        assert first.result(20).status_code == 401


def test_a_base_url_with_a_path(clock: HandClock) -> None:
    """Prices are for what is below it; the same path above it is none of the provider's."""
    guard = Guard(FakeProvider(100))
    guard.balance()
    behind = httpx.MockTransport(lambda _: httpx.Response(200, json={}))
    transport = GuardTransport(
        guard, transport=behind, prices={("POST", "/**"): 10}, base_url="https://a.example/api"
    )
    with httpx.Client(transport=transport) as client:
        client.post("https://a.example/work")
        client.post("https://a.example/apiary/work")
        assert guard.available == 100
        client.post("https://A.example:443/api/work")
    assert guard.available == 90


@pytest.mark.parametrize(
    ("options", "problem", "words"),
    [
        ({}, TypeError, "pass prices="),
        ({"prices": {("POST", "/work"): 10}}, TypeError, "pass base_url="),
        (
            {
                "prices": {("POST", "/work"): {"min": 1, "slots": 1}},
                "base_url": "https://a.example",
            },
            TypeError,
            "does not follow work takes no slots",
        ),
        (
            {
                "prices": {("POST", "/work"): {"min": 1, "actual": 5}},
                "base_url": "https://a.example",
            },
            TypeError,
            "actual takes a callable",
        ),
        (
            {
                "prices": {("POST", "/work"): {"min": 1, "until": "close"}},
                "base_url": "https://a.example",
            },
            TypeError,
            "until",
        ),
        (
            {
                "prices": {("POST", "/work"): {"min": 1, "release_on": OSError}},
                "base_url": "https://a.example",
            },
            TypeError,
            "release_on",
        ),
        ({"prices": {}, "base_url": "https://a.example"}, ValueError, "prices is empty"),
        ({"on_refusal": "stop"}, ValueError, "'answer', 'raise' or a callable"),
        ({"transport": httpx.AsyncHTTPTransport()}, TypeError, "handle_request"),
        ({"transport": httpx.HTTPTransport}, TypeError, "takes an object"),
    ],
)
def test_what_a_transport_cannot_be_made_of(
    clock: HandClock, options: Any, problem: type[Exception], words: str
) -> None:
    """It says so when it is made."""
    with pytest.raises(problem, match=words):
        GuardTransport(Guard(FakeProvider(100)), **options)


async def test_a_price_in_a_mapping_may_go_by_the_request(
    web: Web, predev: Guard, sandbox: Sandbox
) -> None:
    """Its callables are given the request, content and all."""
    sandbox.fault("/work", status=200, body={})
    worth = {"min": lambda request: json.loads(request.content)["worth"], "lag": 0}
    await web.open(predev, key=KEY, prices={("POST", "/work"): worth})
    await web.send("POST", f"{sandbox.url}/work", json={"worth": 30})
    assert predev.available == 70


@pytest.mark.parametrize("price", [{"mni": 1}, {1: 1}])
def test_a_price_that_names_no_argument(clock: HandClock, price: Any) -> None:
    """It is a slip, and no price."""
    with pytest.raises(TypeError, match="argument"):
        GuardTransport(
            Guard(FakeProvider(100)), prices={("POST", "/a"): price}, base_url="https://a.example"
        )


def test_an_async_price(clock: HandClock) -> None:
    """Nobody would await it."""

    async def price(_: Any) -> int:
        return 1

    prices: Any = {("POST", "/a"): price}
    with pytest.raises(TypeError, match="the price of POST /a takes a plain function"):
        GuardTransport(Guard(FakeProvider(100)), prices=prices, base_url="https://a.example")


def test_a_price_that_cannot_be_is_named(clock: HandClock) -> None:
    """Among many, it says which."""
    prices: Any = {("POST", "/a"): 1, ("POST", "/b"): "much"}
    with pytest.raises(ValueError, match="not a number") as said:
        GuardTransport(Guard(FakeProvider(100)), prices=prices, base_url="https://a.example")
    assert said.value.__notes__ == ["in the price of POST /b"]


def test_a_price_whose_path_may_be_a_key_is_told_by_its_place(clock: HandClock) -> None:
    """Nothing that could be a secret is shown."""
    prices: Any = {("POST", "/a"): 1, ("POST", "/sk-0123456789abcdef"): "much"}
    with pytest.raises(ValueError, match="not a number") as said:
        GuardTransport(Guard(FakeProvider(100)), prices=prices, base_url="https://a.example")
    assert said.value.__notes__ == ["in the 2nd price"]


def test_a_plain_client_over_the_awaiting_transport(predev: Guard, sandbox: Sandbox) -> None:
    """It says which transport goes with which, in a block or without."""
    transport: Any = AsyncGuardTransport(predev)
    with pytest.raises(AttributeError, match=OTHER_KIND):
        httpx.Client(transport=transport).post(f"{sandbox.url}/fast-spec", json=SPEC)
    with pytest.raises(AttributeError, match=OTHER_KIND), httpx.Client(transport=transport):
        raise AssertionError


async def test_an_awaiting_client_over_the_plain_transport(predev: Guard, sandbox: Sandbox) -> None:
    """The same the other way round."""
    transport: Any = GuardTransport(predev)
    with pytest.raises(AttributeError, match=OTHER_KIND):
        await httpx.AsyncClient(transport=transport).post(f"{sandbox.url}/fast-spec", json=SPEC)
    with pytest.raises(AttributeError, match=OTHER_KIND):
        async with httpx.AsyncClient(transport=transport):
            raise AssertionError


def test_a_guard_is_wanted(clock: HandClock) -> None:
    """A provider alone guards nothing."""
    with pytest.raises(TypeError, match="takes a Guard"):
        GuardTransport(FakeProvider(100))  # type: ignore[arg-type]
