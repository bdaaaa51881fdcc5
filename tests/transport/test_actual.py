"""Prices with `actual`, which reads in a reply what the call cost."""

import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest
from web import Web

from budgetguard import Guard, learned
from budgetguard._engine.binding import binding_of
from budgetguard.providers import Billing, BillingReply
from budgetguard.testing import FakeProvider, HandClock

pytestmark = pytest.mark.anyio

HERE = "https://a.example"
FRAMES = """\
data: {"choices": [{"delta": {"content": "Hello"}}], "usage": null}

data: {"choices": [], "usage": {"cost": 0.25}}

data: [DONE]

"""


@pytest.fixture
def anyio_backend(way: tuple[str, str]) -> str:
    """Give the loop that the test runs on."""
    return way[1] or "asyncio"


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """Give a guard of 100 credits."""
    del clock
    guard = Guard(FakeProvider(100))
    guard.balance()
    return guard


class Body:
    """A body in parts, for clients of both kinds."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        """Begin."""
        return iter(self._parts)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Begin."""
        for part in self._parts:
            yield part


def cost_of(reply: BillingReply) -> Decimal:
    """What this vendor's replies say."""
    return Decimal(reply.last("usage")["cost"])


async def begin(
    web: Web,
    guard: Guard,
    price: Any,
    body: str = '{"usage": {"cost": 0.25}}',
    status: int = 200,
    kind: str = "application/json",
) -> None:
    """Open the client over a service with that reply."""
    streams = web.library.SyncByteStream, web.library.AsyncByteStream
    both = type("BothBody", (Body, *streams), {})

    def answer(request: Any) -> Any:
        if request.url.path == "/first":
            return web.library.Response(303, headers={"location": "/work"}, json={})
        parts = [body[:9].encode(), body[9:].encode()]
        return web.library.Response(status, headers={"content-type": kind}, stream=both(parts))

    behind = web.library.MockTransport(answer)
    prices = {("POST", "/work"): price, ("POST", "/first"): price}
    await web.open(guard, transport=behind, base_url=HERE, prices=prices)


def figures(guard: Guard) -> tuple[Any, int, int]:
    """What is available, and how many credits are held and kept."""
    binding_of(guard).account.flush()
    ledger = binding_of(guard).account.ledger
    return guard.available, ledger.held // 1_000_000, ledger.kept.total // 1_000_000


@pytest.mark.parametrize("written", ["as a price", "by the request"])
async def test_a_call_is_settled_at_what_actual_says(web: Web, guard: Guard, written: str) -> None:
    """It is given the whole reply, once."""
    given: list[BillingReply] = []

    def actual(reply: BillingReply) -> Decimal:
        given.append(reply)
        return cost_of(reply)

    terms = {"cost": 5, "actual": actual}
    await begin(web, guard, terms if written == "as a price" else lambda _: terms)
    await web.send("POST", f"{HERE}/work?a=1", json={"x": 1})
    assert figures(guard) == (Decimal("99.75"), 0, 0)
    [reply] = given
    assert (reply.path, reply.status, reply.complete) == ("/work", 200, True)
    assert reply.body == {"usage": {"cost": Decimal("0.25")}}
    assert reply.headers["content-type"] == "application/json"
    assert reply.frames == ()


async def test_the_last_frame_of_a_stream(web: Web, guard: Guard) -> None:
    """Streams say at their end what they cost; until then, the price is held."""
    price = {"cost": 5, "actual": cost_of}
    await begin(web, guard, price, FRAMES, kind="text/event-stream")
    async with web.stream("POST", f"{HERE}/work", json={}) as lines:
        assert figures(guard) == (95, 5, 0)
        async for _ in lines:
            pass
    assert figures(guard) == (Decimal("99.75"), 0, 0)


async def test_a_stream_that_nobody_reads_on(web: Web, guard: Guard) -> None:
    """It is not asked: what the rest would have said is not known."""
    price = {"cost": 5, "actual": lambda _: 0}
    await begin(web, guard, price, FRAMES, kind="text/event-stream")
    async with web.stream("POST", f"{HERE}/work", json={}) as lines:
        del lines
    assert figures(guard) == (95, 0, 5)


async def test_half_a_reply_is_not_asked(web: Web, clock: HandClock) -> None:
    """Also where the billing knows the cost before its end, as from a header."""

    class Early(Billing):
        def cost_of(self, reply: BillingReply) -> Any:
            return Decimal(2)

    guard = Guard(type("Own", (FakeProvider,), {"billing": Early()})(100))
    guard.balance()
    await begin(web, guard, {"cost": 5, "actual": lambda _: 0}, FRAMES, kind="text/event-stream")
    async with web.stream("POST", f"{HERE}/work", json={}) as lines:
        del lines
    assert figures(guard) == (98, 0, 0)


@pytest.mark.parametrize(
    ("status", "left"),
    [(200, (99, 0, 0)), (201, (99, 0, 0)), (400, (100, 0, 0)), (500, (95, 0, 5))],
)
async def test_only_success_has_an_actual_cost(
    web: Web, guard: Guard, status: int, left: tuple[int, int, int]
) -> None:
    """A refusal cost nothing, and of a failure nobody knows."""
    await begin(web, guard, {"cost": 5, "actual": lambda _: 1}, status=status)
    await web.send("POST", f"{HERE}/work", json={})
    assert figures(guard) == left


def missing(reply: BillingReply) -> Any:
    """A field that is not there."""
    return reply.body["no such field"]


@pytest.mark.parametrize("actual", [missing, lambda _: None, lambda _: -1, lambda _: "lots"])
@pytest.mark.parametrize("said", [None, 2])
async def test_an_actual_that_fails_is_logged(
    web: Web, clock: HandClock, caplog: pytest.LogCaptureFixture, actual: Any, said: int | None
) -> None:
    """The caller gets its reply, and the hold is settled as without it: at what the billing reads, or the price."""

    class Reads(Billing):
        def cost_of(self, reply: BillingReply) -> Any:
            return Decimal(said) if said is not None else super().cost_of(reply)

    guard = Guard(type("Own", (FakeProvider,), {"billing": Reads()})(100))
    guard.balance()
    await begin(web, guard, {"cost": 5, "actual": actual})
    reply = await web.send("POST", f"{HERE}/work", json={})
    assert reply.json() == {"usage": {"cost": 0.25}}
    assert figures(guard) == (100 - (said or 5), 0, 0)
    [record] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "actual of POST /work failed" in record.getMessage()


async def test_what_continues_has_no_actual_cost_yet(web: Web, clock: HandClock) -> None:
    """Work that the billing keeps is not over with its reply."""

    class Queued(Billing):
        def cost_of(self, reply: BillingReply) -> Any:
            return "keep"

    guard = Guard(type("Own", (FakeProvider,), {"billing": Queued()})(100))
    guard.balance()
    await begin(web, guard, {"cost": 5, "actual": lambda _: 0})
    await web.send("POST", f"{HERE}/work", json={})
    assert figures(guard) == (95, 0, 5)


async def test_a_learned_cost_learns_what_actual_says(web: Web, guard: Guard) -> None:
    """Where it fails, nothing is learned."""
    bodies = [{"usage": {"cost": 3}}, {}]

    def actual(_: BillingReply) -> Any:
        return bodies.pop(0)["usage"]["cost"]

    await begin(web, guard, {"cost": learned(5), "actual": actual})
    for left in (97, 92):
        await web.send("POST", f"{HERE}/work", json={})
        assert guard.available == left
    found = guard.estimate("POST /work")
    assert (found.settlements, found.largest) == (1, 3)


async def test_a_redirected_call_is_settled_by_its_last_reply(web: Web, guard: Guard) -> None:
    """The price of the first request says how to read it."""
    await begin(web, guard, {"cost": 5, "actual": cost_of})
    await web.send("POST", f"{HERE}/first", json={}, follow_redirects=True)
    assert figures(guard) == (Decimal("99.75"), 0, 0)


async def test_a_retry_is_settled_by_its_own_reply(web: Web, guard: Guard) -> None:
    """Both attempts count: the first at its price, as nobody knows what it cost."""
    await begin(web, guard, {"cost": 5, "actual": cost_of})
    behind = web.transport._made["behind"]
    plain, statuses = behind.handler, [503, 503]

    def failing(request: Any) -> Any:
        return web.library.Response(statuses.pop(), json={}) if statuses else plain(request)

    behind.handler = failing
    for attempt in ("0", "1", "2"):
        headers = {"x-stainless-retry-count": attempt}
        await web.send("POST", f"{HERE}/work", json={}, headers=headers)
    assert figures(guard) == (Decimal("89.75"), 0, 10)


async def test_actual_does_not_ask_for_the_requests_content(web: Web, guard: Guard) -> None:
    """A stream is sent as it comes where the price does not depend on it."""
    await begin(web, guard, {"cost": 5, "actual": cost_of})

    async def parts() -> Any:
        yield b"x"

    content: Any = parts() if web.awaiting else iter([b"x"])
    request = web.client.build_request("POST", f"{HERE}/work", content=content)
    call = web.transport._traffic.call(request)
    assert not call.needs_content
    assert json.loads(request.headers.get("content-length", "null")) is None
