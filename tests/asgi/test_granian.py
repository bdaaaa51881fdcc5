"""A server that reports a disconnect only to a pending `receive`, and how it is detected."""

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from budgetguard import Guard
from budgetguard._engine.binding import binding_of
from budgetguard.asgi import GuardMiddleware
from budgetguard.testing import FakeProvider, HandClock

PATIENCE = 30
START = {"type": "http.response.start", "status": 200, "headers": []}
KINDS = {"admitted", "kept", "settled"}
LAST = {"type": "http.response.body", "body": b"last"}
GONE = {"type": "http.disconnect"}


def request(body: bytes, *, more: bool = False) -> dict[str, Any]:
    """A part of a request's body."""
    return {"type": "http.request", "body": body, "more_body": more}


class Server:
    """One connection: it answers who waits some turns of the loop later, and never fails to send."""

    def __init__(self, *incoming: dict[str, Any] | Exception) -> None:
        self.incoming = list(incoming)
        self.sent: list[Any] = []
        self.asked = 0
        self.gone = asyncio.Event()

    async def receive(self) -> Any:
        """Nothing at once; then what came, and at last that the client has gone."""
        self.asked += 1
        for _ in range(5):
            await asyncio.sleep(0)
        if self.incoming:
            message = self.incoming.pop(0)
            if isinstance(message, Exception):
                raise message
            return message
        await self.gone.wait()
        return GONE

    async def send(self, message: Any) -> None:
        """Say nothing of a client that has gone."""
        self.sent.append(message)


@pytest.fixture
def guard(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> Guard:
    """Give a guard under such a server, that keeps for long and knows of its 100 credits."""
    del clock
    monkeypatch.setitem(sys.modules, "granian", ModuleType("granian"))
    guard = Guard(FakeProvider(100, linger=300))
    guard.balance()
    return guard


async def turns() -> None:
    """Let all tasks run until they wait for something."""
    for _ in range(50):
        await asyncio.sleep(0)


def serve(guard: Guard, app: Callable[..., Any], *incoming: dict[str, Any] | Exception) -> Server:
    """Have one request guarded and answered."""

    async def main() -> Server:
        server = Server(*incoming)
        scope = {"type": "http", "method": "POST", "path": "/paid", "headers": [], "server": server}
        await GuardMiddleware(app, guard, {("POST", "/paid"): 10})(
            scope, server.receive, server.send
        )
        assert len(asyncio.all_tasks()) == 1 or not await turns()
        assert len(asyncio.all_tasks()) == 1
        return server

    return asyncio.run(main())


def kept(guard: Guard) -> int:
    """Credits of calls whose outcome is unknown."""
    binding_of(guard).account.flush()
    assert binding_of(guard).account.ledger.held == 0
    return binding_of(guard).account.ledger.kept.total // 1_000_000


@pytest.mark.parametrize("goes", [True, False], ids=["gone", "there"])
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads not"])
@pytest.mark.parametrize("streams", [True, False], ids=["stream", "at once"])
def test_an_app_that_does_not_listen(
    guard: Guard, *, goes: bool, reads: bool, streams: bool
) -> None:
    """Whether it reads its request's body, and how it responds, makes no difference."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if reads:
            parts = [await receive(), await receive()]
            assert [part["body"] for part in parts] == [b"a", b"b"]
        if streams:
            await send(START)
            await send({**LAST, "body": b"part", "more_body": True})
        await turns()
        if goes:
            scope["server"].gone.set()
        await turns()
        if not streams:
            await send(START)
        await send(LAST)

    server = serve(guard, app, request(b"a", more=True), request(b"b"))
    assert server.sent[-1] == LAST
    assert kept(guard) == (10 if goes else 0)


def test_an_app_that_listens(guard: Guard) -> None:
    """It hears all there is, once; asked again, the server answers."""
    delivered: list[Any] = []

    async def app(scope: Any, receive: Any, _: Any) -> None:
        delivered.append(await receive())
        scope["server"].gone.set()
        delivered.extend([await receive(), await receive(), await receive()])

    serve(guard, app, request(b"a"))
    assert delivered == [request(b"a"), GONE, GONE, GONE]
    assert kept(guard) == 10


def test_what_the_server_raises_reaches_the_app(guard: Guard) -> None:
    """Once it asks; an app that does not is left alone."""

    async def deaf(_: Any, __: Any, send: Any) -> None:
        await turns()
        await send(START)
        await send(LAST)

    async def listening(_: Any, receive: Any, __: Any) -> None:
        await turns()
        await receive()

    serve(guard, deaf, OSError("broken"))
    assert kept(guard) == 0
    with pytest.raises(OSError, match="broken"):
        serve(guard, listening, OSError("broken"), OSError("broken"))
    assert kept(guard) == 10


def test_no_more_is_taken_in_than_is_bearable(guard: Guard) -> None:
    """Who does not read a large body has it wait at the server."""

    async def app(_: Any, __: Any, send: Any) -> None:
        await turns()
        await turns()
        await turns()
        await send(START)
        await send(LAST)

    server = serve(guard, app, *(request(b"x", more=True) for _ in range(100)))
    assert 0 < 100 - len(server.incoming) <= 17


def test_what_is_free_is_not_listened_to(guard: Guard) -> None:
    """Nobody asks how it went."""

    async def main() -> int:
        server = Server()

        async def app(_: Any, __: Any, send: Any) -> None:
            await send(START)
            await turns()
            await send(LAST)

        scope = {"type": "http", "method": "GET", "path": "/free", "headers": []}
        middleware = GuardMiddleware(app, guard, {("POST", "/paid"): 10})
        await middleware(scope, server.receive, server.send)
        return server.asked

    assert asyncio.run(main()) == 0


APP = """
import asyncio
from budgetguard import Guard
from budgetguard.asgi import GuardMiddleware
from budgetguard.testing import FakeProvider

def told(event):
    print(event.kind, flush=True)

async def app(scope, receive, send):
    streams = scope["path"] == "/stream"
    start = {"type": "http.response.start", "status": 200, "headers": []}
    if streams:
        await send(start)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await asyncio.sleep(1)
    if not streams:
        await send(start)
    await send({"type": "http.response.body", "body": b"last"})

guard = Guard(FakeProvider(100, linger=300), on_event=told)
app = GuardMiddleware(app, guard, {("*", "/**"): 10})
"""


@pytest.fixture
def granian(tmp_path: Path) -> Iterator[tuple[int, Callable[[], str]]]:
    """Serve an app that does not listen by the real one; gives its port, and what is told next."""
    if importlib.util.find_spec("granian") is None:
        pytest.skip("needs granian")
    (tmp_path / "app3.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), "--no-log"]
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-m", "granian", *options, "app3:app"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as server:
        assert server.stdout is not None
        lines = filter(None, map(str.strip, server.stdout))
        try:
            yield port, lambda: next(line for line in lines if line in KINDS)
        finally:
            server.terminate()


@pytest.mark.parametrize("goes", [True, False], ids=["gone", "there"])
@pytest.mark.parametrize("path", ["/stream", "/late"])
def test_the_real_server(granian: tuple[int, Callable[[], str]], path: str, goes: bool) -> None:
    """A client that hangs up is kept, one that hears the end is settled."""
    port, told = granian
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
            break
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)
    with connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi".encode()
        )
        delivered = b""
        while path == "/stream" and b"first" not in delivered:
            delivered += connection.recv(1000)
        assert told() == "admitted"
        while not goes and b"last" not in delivered:
            delivered += connection.recv(1000)
    assert told() == ("kept" if goes else "settled")
