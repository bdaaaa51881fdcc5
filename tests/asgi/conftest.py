"""Apps on a real server, apps called by hand, and a guard that tells how its holds end."""

import asyncio
import importlib
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
import uvicorn
from needed import need

from budgetguard import Event, Guard
from budgetguard.testing import FakeProvider, HandClock

PATIENCE = 20


class Told:
    """What a guard told, for threads that wait for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def kinds(self) -> list[str]:
        """What befell the calls, in order."""
        kinds = {"admitted", "refused", "settled", "kept", "released", "overrun"}
        return [event.kind for event in self.events if event.kind in kinds]

    def wait(self, kind: str, times: int = 1) -> None:
        """Return once that many events of a kind were told."""
        with self._news:
            told = self._news.wait_for(lambda: self.kinds().count(kind) >= times, PATIENCE)
        assert told, self.kinds()


class FastPath:
    """Closed, for coroutines of any loop, until somebody opens it."""

    def __init__(self) -> None:
        self._open: Future[None] = Future()

    def open(self) -> None:
        self._open.set_result(None)

    async def passed(self) -> None:
        await anyio.to_thread.run_sync(self.wait, abandon_on_cancel=True)

    def wait(self) -> None:
        self._open.result(PATIENCE)


class Server(uvicorn.Server):
    """uvicorn on a thread of its own."""

    def __init__(self, app: Any, **options: Any) -> None:
        self._ready = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        config = {"log_config": None, "access_log": False, "lifespan": "off", "ws": "none"}
        super().__init__(uvicorn.Config(app, **(config | options)))
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            asyncio.run(self.serve(sockets=[self._listener]))
        finally:
            self._ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        assert self.started

    def stop(self) -> None:
        self.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._listener.close()


class Call:
    """One connection, made by hand: what an app is given, and what it sent."""

    def __init__(self, app: Any, scope: dict[str, Any], *incoming: dict[str, Any]) -> None:
        self.app = app
        self.scope = scope
        self.incoming = deque(incoming)
        self.sent: list[dict[str, Any]] = []
        self.fail_at: int | None = None

    async def receive(self) -> dict[str, Any]:
        if self.incoming:
            return self.incoming.popleft()
        import anyio

        await anyio.sleep_forever()
        raise AssertionError

    async def send(self, message: dict[str, Any]) -> None:
        if self.fail_at == len(self.sent):
            msg = "the client has gone"
            raise OSError(msg)
        self.sent.append(message)

    async def run(self) -> "Call":
        await self.app(self.scope, self.receive, self.send)
        return self

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def http(path: str = "/paid", method: str = "GET", **more: Any) -> dict[str, Any]:
    """The scope of a request."""
    raw = {"raw_path": path.encode(), "query_string": b"", "headers": []}
    return {"type": "http", "method": method, "path": path} | raw | more


@pytest.fixture
def told() -> Told:
    """What the guard told."""
    return Told()


@pytest.fixture
def guard(clock: HandClock, told: Told) -> Guard:
    """A guard of 100 credits that nothing is taken from."""
    provider = FakeProvider(100, lag=5, linger=60, max_concurrency=2)
    return Guard(provider, on_event=told)


@pytest.fixture
def gate() -> FastPath:
    """A gate that is closed."""
    return FastPath()


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """Serve apps; gives the port on loopback."""
    with ExitStack() as stack:

        def start(app: Any, **options: Any) -> int:
            server = Server(app, **options)
            stack.callback(server.stop)
            server.start()
            return server.port

        yield start


@pytest.fixture
def call() -> Callable[..., Awaitable[Call]]:
    """Call an app by hand, for one GET of `/paid` unless told otherwise."""

    async def call(app: Any, scope: dict[str, Any] | None = None, *incoming: Any) -> Call:
        return await Call(app, scope or http(), *incoming).run()

    return call


@pytest.fixture
def make_call() -> type[Call]:
    """Make a call that is run later, or not to its end."""
    return Call


@pytest.fixture
def scope() -> Callable[..., dict[str, Any]]:
    """Make the scope of a request."""
    return http


@pytest.fixture
def gone() -> Callable[..., Any]:
    """Put an app inside one that opens a gate when the client has gone."""

    def around(app: Any, gate: FastPath) -> Any:
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                gate.open()

            watching = asyncio.ensure_future(watch())
            try:
                await app(scope, receive, send)
            finally:
                watching.cancel()

        return watched

    return around


@pytest.fixture
def hang_up() -> Callable[..., None]:
    """Make a request, and hang up when `until` was received."""

    def hang_up(port: int, path: str, until: bytes = b"", ready: Callable[[], Any] = int) -> None:
        with client(port) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: app\r\n\r\n".encode())
            received = b""
            while until not in received:
                received += connection.recv(4096)
            ready()

    return hang_up


@contextmanager
def client(port: int) -> Iterator[socket.socket]:
    """A connection to a server."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        yield connection


@pytest.fixture
def hypercorn() -> Iterator[Callable[..., int]]:
    """Serve an app by hypercorn, on asyncio or on trio; gives the port on loopback."""
    need("hypercorn")
    config = importlib.import_module("hypercorn").Config()
    config.errorlog = None
    ended = FastPath()
    with ExitStack() as stack:

        def start(app: Any, loop: str) -> int:
            listener = socket.create_server(("127.0.0.1", 0))
            port: int = listener.getsockname()[1]
            config.bind = [f"fd://{listener.detach()}"]
            serve = importlib.import_module(f"hypercorn.{loop}").serve

            async def main() -> None:
                await serve(app, config, shutdown_trigger=ended.passed)

            thread = threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": loop})
            thread.start()
            stack.callback(thread.join, PATIENCE)
            stack.callback(ended.open)
            return port

        yield start
