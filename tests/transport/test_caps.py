"""Requests that say to the provider how much they may cost: what is held for them."""

import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
from web import Web

from budgetguard import Guard, learned
from budgetguard._engine.binding import binding_of
from budgetguard.providers import BrowserUse, DeepSeek, Firecrawl, OpenRouter, TokenPrice
from budgetguard.providers.billing import Billing, Unpriced, parse
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import GuardTransport

pytestmark = pytest.mark.anyio

HERE = "https://a.example"


@pytest.fixture
def anyio_backend(way: tuple[str, str]) -> str:
    """Give the loop that the test runs on."""
    return way[1] or "asyncio"


class CapBilling(Billing):
    """A vendor whose runs take `maxCost`."""

    def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
        """The lower of both caps."""
        body = parse(content)
        if path != "/run" or not isinstance(body, dict):
            return None
        own = body.get("maxCost")
        least = most if own is None else min(own, most)
        return json.dumps(body | {"maxCost": float(least)}).encode()


class Vendor(FakeProvider):
    """An account there."""

    billing = CapBilling()


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """Give a guard of 100 credits."""
    del clock
    guard = Guard(Vendor(100))
    guard.balance()
    return guard


class Service:
    """Remembers the requests that it received, with their headers, and replies as it is told."""

    def __init__(self, web: Web) -> None:
        self.contents: list[bytes] = []
        self.headers: list[Any] = []
        self.statuses: list[int] = []
        self._web = web

    def _reply(self, request: Any) -> Any:
        self.contents.append(request.content)
        self.headers.append(request.headers)
        status = self.statuses.pop(0) if self.statuses else 200
        headers = {"location": "/run"} if 300 < status < 400 else {}
        return self._web.library.Response(status, headers=headers, json={})

    def plain(self, request: Any) -> Any:
        """Reply to a plain client."""
        request.read()
        return self._reply(request)

    async def awaiting(self, request: Any) -> Any:
        """Reply to an awaiting one."""
        await request.aread()
        return self._reply(request)

    @property
    def caps(self) -> list[Any]:
        """The cap in each request."""
        return [json.loads(each).get("maxCost") for each in self.contents]


async def begin(web: Web, guard: Guard, price: Any = 5, **options: Any) -> Service:
    """Open the client over such a service."""
    service = Service(web)
    behind = web.library.MockTransport(service.awaiting if web.awaiting else service.plain)
    prices = {("POST", "/run"): price, ("POST", "/run/"): price, ("POST", "/other"): 1}
    given = {"transport": behind, "base_url": HERE, "prices": prices, "send_cap": True} | options
    await web.open(guard, **given)
    return service


async def test_the_hold_is_sent_as_the_cap(web: Web, guard: Guard) -> None:
    """In a whole request: its length, its headers and its address are those of what is sent."""
    service = await begin(web, guard, Decimal("2.5"))
    request = web.client.build_request(
        "POST", f"{HERE}/run", json={"task": "é"}, headers={"x-a": "1"}
    )
    before = request.content
    reply = web.client.send(request)
    reply = await reply if web.awaiting else reply
    [content], [headers] = service.contents, service.headers
    assert json.loads(content) == {"task": "é", "maxCost": 2.5}
    assert headers["content-length"] == str(len(content)) != request.headers["content-length"]
    assert headers["x-a"] == "1"
    assert headers["content-type"] == "application/json"
    assert len(headers.get_list("content-length")) == 1
    # What the caller made is left as it is.
    assert reply.request is request
    assert request.content == before
    assert guard.available == Decimal("97.5")


@pytest.mark.parametrize(("own", "sent"), [(3, 3), (5, 5), (8, 5)])
async def test_a_lower_cap_remains(web: Web, guard: Guard, own: int, sent: int) -> None:
    """What the caller allows counts where it is less."""
    service = await begin(web, guard)
    await web.send("POST", f"{HERE}/run", json={"maxCost": own})
    assert service.caps == [sent]


async def test_a_stream_is_read_first(web: Web, guard: Guard) -> None:
    """It is sent as a whole then, with its length."""
    service = await begin(web, guard)

    async def parts() -> Any:
        yield b'{"task":'
        yield b'"x"}'

    content: Any = parts() if web.awaiting else iter([b'{"task":', b'"x"}'])
    await web.send("POST", f"{HERE}/run", content=content)
    assert service.caps == [5]
    [headers] = service.headers
    assert "transfer-encoding" not in headers
    assert headers["content-length"] == str(len(service.contents[0]))


@pytest.mark.parametrize(
    ("path", "content"), [("/other", b'{"a": 1}'), ("/run", b"no JSON"), ("/run", b""), ("/x", b"")]
)
async def test_what_takes_no_cap_is_sent_as_it_is(
    web: Web, guard: Guard, path: str, content: bytes
) -> None:
    """Neither does a request that is free."""
    service = await begin(web, guard)
    await web.send("POST", f"{HERE}{path}", content=content)
    assert service.contents == [content]


async def test_a_cap_is_sent_on_request_only(web: Web, guard: Guard) -> None:
    """By default, no request is changed."""
    service = await begin(web, guard, send_cap=False)
    await web.send("POST", f"{HERE}/run", json={"task": "x"})
    assert service.caps == [None]


@pytest.mark.parametrize(
    ("price", "sent"),
    [
        ({"min": 50, "cost": 7}, 7),
        ({"min": 50, "cost": 0}, None),
        (lambda _: 4, 4),
        (lambda _: None, None),
        (learned(6), 6),
    ],
    ids=["what is held", "a check", "by the request", "free", "learned"],
)
async def test_the_cap_is_what_is_held(web: Web, guard: Guard, price: Any, sent: Any) -> None:
    """Where nothing is held, nothing is sent of it."""
    service = await begin(web, guard, price)
    await web.send("POST", f"{HERE}/run", json={"task": "x"})
    assert service.caps == [sent]


async def test_a_refused_request_is_not_changed(web: Web, guard: Guard) -> None:
    """It is not sent either."""
    service = await begin(web, guard, 500)
    reply = await web.send("POST", f"{HERE}/run", json={"task": "x"})
    assert (reply.status_code, service.contents) == (402, [])


@pytest.mark.parametrize("retry", [{"x-stainless-retry-count": "1"}, {}])
async def test_a_retry_has_the_same_cap(web: Web, guard: Guard, retry: dict[str, str]) -> None:
    """It is recognized by what the caller sends, not by what was sent for it."""
    service = await begin(web, guard, 60)
    service.statuses = [503]
    first = dict.fromkeys(retry, "0")
    for headers, status in ((first, 503), (retry, 200)):
        reply = await web.send("POST", f"{HERE}/run", json={"task": "x"}, headers=headers)
        assert reply.status_code == status
    assert service.caps == [60, 60]
    assert guard.available == -20


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirected_request_has_it_too(web: Web, guard: Guard, status: int) -> None:
    """Each request of a call, as far as it has content."""
    service = await begin(web, guard)
    service.statuses = [status]
    await web.send("POST", f"{HERE}/run/", json={"task": "x"}, follow_redirects=True)
    assert [json.loads(each) if each else None for each in service.contents] == [
        {"task": "x"},
        {"task": "x", "maxCost": 5} if status == 307 else None,
    ]


@pytest.mark.parametrize("answer", [RuntimeError("a bug"), "text"], ids=["raises", "no bytes"])
async def test_a_cap_that_cannot_be_set_lets_nothing_leave(
    web: Web, clock: HandClock, answer: Any
) -> None:
    """A failure of ours is no reason to spend without it, and nothing remains held."""

    class Broken(Billing):
        def capped(self, path: str, content: bytes, most: Decimal) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    guard = Guard(type("Own", (FakeProvider,), {"billing": Broken()})(100))
    guard.balance()
    service = await begin(web, guard)
    with pytest.raises((RuntimeError, TypeError)):
        await web.send("POST", f"{HERE}/run", json={})
    binding_of(guard).account.flush()
    assert (service.contents, guard.available) == ([], 100)


async def test_a_redirected_request_may_have_been_carried_out(web: Web, clock: HandClock) -> None:
    """If the cap of the one that follows cannot be set, the hold is kept."""

    class Once(CapBilling):
        def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
            if service.contents:
                msg = "a bug"
                raise RuntimeError(msg)
            return super().capped(path, content, most)

    guard = Guard(type("Own", (FakeProvider,), {"billing": Once()})(100, linger=60))
    guard.balance()
    service = await begin(web, guard, prices={("PUT", "/run/"): 5})
    service.statuses = [301]
    with pytest.raises(RuntimeError):
        await web.send("PUT", f"{HERE}/run/", json={}, follow_redirects=True)
    binding_of(guard).account.flush()
    ledger = binding_of(guard).account.ledger
    assert (guard.available, ledger.held, ledger.kept.total) == (95, 0, 5_000_000)


async def test_a_request_without_a_possible_cap_may_be_refused(web: Web, clock: HandClock) -> None:
    """Its refusal is answered as that of a price that is not known."""

    class Strict(Billing):
        def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
            msg = "a run without a task takes no cap"
            raise Unpriced(msg)

    guard = Guard(type("Own", (FakeProvider,), {"billing": Strict()})(100))
    guard.balance()
    service = await begin(web, guard)
    reply = await web.send("POST", f"{HERE}/run", json={})
    assert (reply.status_code, service.contents, guard.available) == (400, [], 100)


async def test_a_provider_may_set_caps_itself(web: Web, clock: HandClock) -> None:
    """As a method of its own, like the other readings of a billing."""

    class Own(FakeProvider):
        def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
            return CapBilling().capped(path, content, most)

    guard = Guard(Own(100))
    service = await begin(web, guard)
    await web.send("POST", f"{HERE}/run", json={})
    assert service.caps == [5]


def test_send_cap_takes_a_flag(guard: Guard) -> None:
    """A number would look like the cap itself."""
    with pytest.raises(TypeError, match="send_cap"):
        GuardTransport(guard, prices={("POST", "/run"): 5}, base_url=HERE, send_cap=5)  # type: ignore[arg-type]


# The vendors whose requests take a cap.

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
TOKEN = {"prompt": "0.000001", "completion": "0.00001"}


@pytest.mark.parametrize(
    ("vendor", "provider", "path", "body", "price", "cap"),
    [
        (
            "openrouter",
            lambda key, url: OpenRouter(key, base_url=url, prices_per_model={"m": TOKEN}),
            "/chat/completions",
            {"model": "m", "max_tokens": 100_000, **CHAT},
            Decimal("0.01"),
            "max_tokens",
        ),
        (
            "deepseek",
            lambda key, url: DeepSeek(
                key,
                base_url=url,
                prices_per_model={"deepseek-flash": TokenPrice(1, 10)},
            ),
            "/chat/completions",
            {"model": "deepseek-flash", **CHAT},
            Decimal("0.01"),
            "max_tokens",
        ),
        (
            "firecrawl",
            lambda key, url: Firecrawl(key, base_url=url),
            "/v2/crawl",
            {"url": "https://example.com"},
            7,
            "limit",
        ),
        (
            "browseruse",
            lambda key, url: BrowserUse(key, base_url=url),
            "/api/v3/sessions",
            {"task": "Look"},
            Decimal("0.75"),
            "maxCostUsd",
        ),
    ],
    ids=["OpenRouter", "DeepSeek", "Firecrawl", "Browser Use"],
)
def test_a_vendor_gets_what_is_held(
    sandbox: Sandbox,
    clock: HandClock,
    vendor: str,
    provider: Any,
    path: str,
    body: dict[str, Any],
    price: Any,
    cap: str,
) -> None:
    """As a field of its own, which costs no more than that and which the vendor takes."""
    at = sandbox.vendor(vendor)
    sent: list[dict[str, Any]] = []

    class Behind(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(json.loads(request.content))
            return super().handle_request(request)

    guard = Guard(provider(at.key, at.url))
    prices = {("POST", path): price}
    transport = GuardTransport(guard, transport=Behind(), prices=prices, send_cap=True)
    secret = {"authorization": f"Bearer {at.key}", "x-browser-use-api-key": at.key}
    with httpx.Client(transport=transport, headers=secret) as client:
        reply = client.post(f"{at.url}{path}", json=body)
    assert reply.is_success, reply.text
    [content] = sent
    most = Decimal(str(price))
    assert content.keys() >= body.keys() | {cap}
    if cap == "max_tokens":
        # Less than that many tokens: the prompt has to be paid for, too.
        assert most / 2 < content[cap] * Decimal("0.00001") < most
    else:
        assert Decimal(str(content[cap])) == most
