"""A transport's `on_refusal` that is a callable: it supplies the reply to a refused request."""

import json
from typing import Any

import httpx
import pytest
from web import AWAITING, Web

from budgetguard import BalanceUnavailable, Guard, InsufficientCredits
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.transport import AsyncGuardTransport, GuardTransport

pytestmark = pytest.mark.anyio

URL = "https://api.example.com"
CHAT = f"{URL}/chat"
PRICES: Any = {("POST", "/chat"): lambda request: 10 * json.loads(request.content)["size"]}


class Server:
    """A transport that answers by itself, of either library, and notes what it is sent."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.seen: list[Any] = []

    def handle_request(self, request: Any) -> Any:
        body = json.loads(request.read())
        self.seen.append(body["size"])
        return self.library.Response(200, json={"size": body["size"]})

    async def handle_async_request(self, request: Any) -> Any:
        await request.aread()
        return self.handle_request(request)

    def close(self) -> None: ...

    async def aclose(self) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None: ...


@pytest.fixture
def anyio_backend(way: tuple[str, str]) -> str:
    """Give the loop that the test runs on."""
    return way[1] or "asyncio"


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """A guard of 100 credits."""
    return Guard(FakeProvider(100))


@pytest.fixture
def server(web: Web) -> Server:
    """A server of the client's library."""
    return Server(web.library)


async def opened(web: Web, guard: Guard, server: Server, on_refusal: Any) -> None:
    """Make the client, whose requests that server would answer."""
    options: Any = {"transport": server, "prices": PRICES, "base_url": URL}
    await web.open(guard, on_refusal=on_refusal, **options)


async def test_it_supplies_the_reply(web: Web, guard: Guard, server: Server) -> None:
    """It is given the error and the request, in which it may read what was asked for."""
    seen: list[Any] = []

    def cached(error: InsufficientCredits, request: Any) -> Any:
        seen.append((error.needed, json.loads(request.content)["size"], guard.available))
        return web.library.Response(203, json={"cached": True})

    await opened(web, guard, server, cached)
    reply = await web.send("POST", CHAT, json={"size": 11})
    assert (reply.status_code, reply.json()) == (203, {"cached": True})
    assert reply.request.url == CHAT
    assert seen == [(110, 11, 100)]
    assert server.seen == []
    assert (await web.send("POST", CHAT, json={"size": 10})).status_code == 200
    assert (server.seen, len(seen)) == ([10], 1)


async def test_it_may_send_a_cheaper_request(web: Web, guard: Guard, server: Server) -> None:
    """Through the same guarded client: nothing is held for the request that was refused."""

    def cheaper(error: InsufficientCredits, request: Any) -> Any:
        return web.client.post(CHAT, json={"size": 10})

    await opened(web, guard, server, cheaper)
    async with web.stream("POST", CHAT, json={"size": 11}) as lines:
        assert [json.loads(line) async for line in lines] == [{"size": 10}]
    assert server.seen == [10]


async def test_what_it_raises_is_the_callers(web: Web, guard: Guard, server: Server) -> None:
    """With the refusal as its context."""

    def failing(error: InsufficientCredits, request: Any) -> Any:
        raise LookupError

    await opened(web, guard, server, failing)
    with pytest.raises(LookupError) as raised:
        await web.send("POST", CHAT, json={"size": 11})
    assert isinstance(raised.value.__context__, InsufficientCredits)


@pytest.mark.parametrize("wrong", [None, {"cached": True}, (200, b""), "text"])
async def test_it_has_to_return_a_response(
    web: Web, guard: Guard, server: Server, wrong: Any
) -> None:
    """One of the client's own library; the message names what it was, and what it has to be."""
    await opened(web, guard, server, lambda *_: wrong)
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=rf"{web.library.__name__}\.Response\(200.*not {kind}"):
        await web.send("POST", CHAT, json={"size": 11})


async def test_another_error_is_no_refusal(web: Web, guard: Guard, server: Server) -> None:
    """A balance that is not known is one; a price that raises is not, and reaches the client."""
    provider = FakeProvider(100)
    provider.failure = OSError()
    kinds: list[Any] = []

    def note(error: BalanceUnavailable, request: Any) -> Any:
        kinds.append(type(error))
        return web.library.Response(503)

    await opened(web, Guard(provider), server, note)
    assert (await web.send("POST", CHAT, json={"size": 1})).status_code == 503
    with pytest.raises(KeyError):
        await web.send("POST", CHAT, json={})
    assert kinds == [BalanceUnavailable]


@pytest.mark.parametrize("way", AWAITING, indirect=True)
async def test_an_async_one_is_awaited(web: Web, guard: Guard, server: Server) -> None:
    """In an async client, on asyncio and trio."""

    async def cheaper(error: InsufficientCredits, request: Any) -> Any:
        return await web.client.post(CHAT, json={"size": 5})

    await opened(web, guard, server, cheaper)
    assert (await web.send("POST", CHAT, json={"size": 11})).json() == {"size": 5}


def test_a_plain_client_takes_no_async_one(guard: Guard) -> None:
    """Nobody would await it; what a lambda returns is found out at the first refusal."""

    async def later(*_: Any) -> Any:
        raise AssertionError

    options: Any = {"prices": PRICES, "base_url": URL}
    with pytest.raises(TypeError, match="GuardTransport must be a plain function, not an async"):
        GuardTransport(guard, on_refusal=later, **options)
    AsyncGuardTransport(guard, on_refusal=later, **options)
    transport = GuardTransport(guard, on_refusal=lambda *_: later(), **options)
    with httpx.Client(transport=transport) as client, pytest.raises(TypeError, match="awaitable"):
        client.post(CHAT, json={"size": 11})


def test_a_price_takes_none(guard: Guard) -> None:
    """It is the transport's."""
    prices: Any = {("POST", "/chat"): {"min": 1, "on_refusal": print}}
    with pytest.raises(TypeError, match="pass it to the transport"):
        GuardTransport(guard, prices=prices, base_url=URL)
