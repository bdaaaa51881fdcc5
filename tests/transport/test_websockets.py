"""Websockets over a guarded transport: at the provider's own origin they cost what they are priced at."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from httpx2.websockets import WebSocketUpgradeError

from budgetguard import Guard
from budgetguard._engine.binding import binding_of
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.transport import AsyncGuardTransport, GuardTransport

pytestmark = pytest.mark.anyio

PATIENCE = 20
GUARDED = [("WEBSOCKET", "/talk"), ("GET", "/talk"), ("*", "/**")]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send back what comes; `/no` is no place to talk."""
    await receive()
    if scope["path"] == "/no":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


class _Server(uvicorn.Server):
    def __init__(self, ready: threading.Event) -> None:
        super().__init__(uvicorn.Config(echo, log_config=None, lifespan="off", ws="wsproto"))
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    """Serve it on loopback; gives host and port."""
    listener, ready = socket.create_server(("127.0.0.1", 0)), threading.Event()
    server = _Server(ready)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    assert ready.wait(PATIENCE)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(PATIENCE)
    listener.close()


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """Give a guard of 100 credits, which knows of them."""
    del clock
    guard = Guard(FakeProvider(100, linger=300))
    guard.balance()
    return guard


class Talks:
    """Websockets by a plain or an awaiting client."""

    def __init__(
        self, guard: Guard, base_url: str, key: tuple[str, str], *, awaiting: bool
    ) -> None:
        options: Any = {"base_url": base_url, "prices": {key: 30}}
        self._plain = (
            None if awaiting else httpx2.Client(transport=GuardTransport(guard, **options))
        )
        self._client = httpx2.AsyncClient(transport=AsyncGuardTransport(guard, **options))

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[str]:
        """Open one, and say hello; gives what came back."""
        if self._plain is None:
            async with self._client.websocket(url) as talk:
                await talk.send_text("hello")
                yield await talk.receive_text()
        else:
            with self._plain.websocket(url) as talk:
                talk.send_text("hello")
                yield talk.receive_text()

    async def close(self) -> None:
        """Close both."""
        if self._plain is not None:
            self._plain.close()
        await self._client.aclose()


@pytest.fixture(params=[False, True], ids=["plain", "awaiting"])
def awaiting(request: pytest.FixtureRequest) -> bool:
    """Each kind of client."""
    return bool(request.param)


def figures(guard: Guard) -> tuple[Any, int, int]:
    """What is available, and what is held and kept, in micro-credits."""
    binding_of(guard).account.flush()
    ledger = binding_of(guard).account.ledger
    return guard.available, ledger.held, ledger.kept.total


@pytest.mark.parametrize("key", GUARDED, ids=lambda key: key[0])
@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_websocket_is_held_while_it_is_open(
    guard: Guard, place: str, awaiting: bool, key: tuple[str, str], scheme: str
) -> None:
    """What was said over it nobody read, so it counts at its price until a balance shows it."""
    talks = Talks(guard, f"http://{place}", key, awaiting=awaiting)
    async with talks.open(f"{scheme}://{place}/talk") as said:
        assert (said, figures(guard)) == ("hello", (70, 30_000_000, 0))
    assert figures(guard) == (70, 0, 30_000_000)
    with await guard.aacquire(60), pytest.raises(WebSocketUpgradeError) as refused:
        async with talks.open(f"{scheme}://{place}/talk"):
            raise AssertionError
    assert refused.value.response.status_code == 402
    await talks.close()


async def test_a_websocket_that_is_turned_away_costs_nothing(
    guard: Guard, place: str, awaiting: bool
) -> None:
    """As any request that the provider refused."""
    talks = Talks(guard, f"http://{place}", ("WEBSOCKET", "/**"), awaiting=awaiting)
    with pytest.raises(WebSocketUpgradeError):
        async with talks.open(f"ws://{place}/no"):
            raise AssertionError
    assert figures(guard) == (100, 0, 0)
    await talks.close()


@pytest.mark.parametrize("key", [("WEBSOCKET", "/work"), ("GET", "/work")], ids=lambda key: key[0])
def test_what_is_no_websocket_pays_no_websockets_price(guard: Guard, key: tuple[str, str]) -> None:
    """A rule for WEBSOCKET is for these alone; wss is to https what ws is to http."""
    behind = httpx2.MockTransport(lambda _: httpx2.Response(200, json={}))
    transport = GuardTransport(
        guard, transport=behind, prices={key: 10}, base_url="https://a.example"
    )
    with httpx2.Client(transport=transport) as client:
        client.get("https://a.example/work")
        assert guard.available == (100 if key[0] == "WEBSOCKET" else 90)
        client.get("ws://a.example/work")
        client.get("wss://b.example/work")
        client.get("wss://a.example:444/work")
        before = guard.available
        client.get("wss://a.example/work")
        assert before is not None
        assert guard.available == before - 10


@pytest.mark.parametrize("offer", ["websocket", "WebSocket", "h2c, websocket", "websocket,foo/2"])
def test_an_upgrade_may_be_one_of_several(guard: Guard, offer: str) -> None:
    """A server takes the websocket out of a list as well, so it is paid for."""
    behind = httpx2.MockTransport(lambda _: httpx2.Response(101))
    transport = GuardTransport(
        guard, transport=behind, prices={("WEBSOCKET", "/talk"): 30}, base_url="https://a.example"
    )
    with httpx2.Client(transport=transport) as client:
        client.get("https://a.example/talk", headers={"upgrade": offer})
        assert guard.available == 70
        client.get("https://a.example/talk", headers={"upgrade": "h2c"})
        assert guard.available == 70
