"""The sandbox on the wire: uvicorn on a daemon thread, on loopback only."""

import asyncio
import ipaddress
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from budgetguard.discreet import discreet
from budgetguard.testing.sandbox.account import Account, Amount
from budgetguard.testing.sandbox.app import build
from budgetguard.testing.sandbox.browsers import BROWSER_CREATED, BROWSER_MINUTE
from budgetguard.testing.sandbox.clock import Clock
from budgetguard.testing.sandbox.faults import Fault
from budgetguard.testing.sandbox.world import ANCHOR_KEY, PREDEV_KEY, PROJECT_ID, World
from budgetguard.wrong import other


class Sandbox:
    """Both providers' APIs on a real HTTP server, with `credits` in each of the two accounts.

    All durations are provider seconds, of which `speed` pass in a real one. With
    `clock="manual"` they pass only by `advance`. A synchronous spec then answers when somebody
    has advanced far enough: submit it from a thread, or asynchronously.

    `seed` decides what each piece of work costs and how long it takes, by order of submission.
    `lag`, `overdraft` and `cost_limit` are those of `Account`; `cost_limit` is Anchor Browser's.
    `max_concurrent_browsers` may be -1 for any number, `sessions_per_minute` None likewise.

    A context manager: entering returns once connections are accepted, leaving ends open requests.
    It serves sync code, asyncio, trio and several threads alike, and several at once are fine.
    Raises `OSError` on entering if `port` is taken; 0 takes a free one.
    """

    predev_key = PREDEV_KEY
    anchor_key = ANCHOR_KEY
    project_id = PROJECT_ID

    @discreet
    def __init__(
        self,
        credits: Amount = 100,
        *,
        seed: int = 0,
        speed: float = 60.0,
        clock: Literal["real", "manual"] = "real",
        lag: float = 0.0,
        overdraft: bool = False,
        max_concurrent_browsers: int = 5,
        sessions_per_minute: int | None = None,
        browser_price: Amount = BROWSER_CREATED,
        minute_price: Amount = BROWSER_MINUTE,
        cost_limit: Amount | None = None,
        tier: str = "free",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if clock not in {"real", "manual"}:
            msg = f'clock is "real" or "manual", not {other(clock)}'
            raise ValueError(msg)
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            msg = "the sandbox listens on loopback only, not elsewhere"
            raise ValueError(msg)
        self._address = ("127.0.0.1" if host == "localhost" else host, port)
        self._world = World(
            credits,
            clock=Clock(speed if clock == "real" else None),
            seed=seed,
            lag=lag,
            overdraft=overdraft,
            max_concurrent_browsers=max_concurrent_browsers,
            sessions_per_minute=sessions_per_minute,
            browser_price=browser_price,
            minute_price=minute_price,
            cost_limit=cost_limit,
            tier=tier,
        )
        self._server: _Server | None = None
        self.url = ""

    def __enter__(self) -> Self:
        if self._server is not None:
            msg = "a sandbox is used once; make another one"
            raise RuntimeError(msg)
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        # Bound here rather than by uvicorn: a port that is taken raises in the caller's thread.
        # With its protocol named, which `socket.create_server` leaves out: only then does asyncio
        # switch Nagle's algorithm off, which costs 40 ms a request.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._server = _Server(self._world, listener)
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.stop()
        self._world.clock.stop()

    @property
    def predev(self) -> Account:
        """pre.dev's account."""
        return self._world.predev

    @property
    def anchor(self) -> Account:
        """Anchor Browser's account."""
        return self._world.anchor

    @property
    def requests(self) -> Counter[tuple[str, str]]:
        """How many requests came, by method and route; also those that met a fault."""
        return self._world.requests

    @property
    def balance_requests(self) -> int:
        """How many times one of the three balance endpoints was asked."""
        return self._world.balance_requests

    def fault(self, pattern: str, **fault: Any) -> None:
        """Answer requests for paths that match `pattern` as `Fault` says."""
        self._world.faults.add(Fault(pattern=pattern, **fault))

    def clear_faults(self) -> None:
        """Answer as documented again."""
        self._world.faults.clear()

    def advance(self, seconds: float) -> None:
        """Move the manual clock on; returns when all that fell due is booked.

        Raises `RuntimeError` if the clock is not manual.
        """
        self._world.clock.advance(seconds)

    def wait_until(self, true: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Block until `true()`, looked at after every change; False after `timeout` real seconds.

        For requests on their way: `sandbox.wait_until(lambda: sandbox.predev.running == 2)`.
        """
        return self._world.clock.wait_until(true, timeout)

    def state(self) -> dict[str, Any]:
        """All books as the JSON object of `GET /_sandbox/state`."""
        return self._world.state()


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    credits: Amount = 100,
    **options: Any,
) -> None:
    """Run a sandbox until Ctrl-C; `options` are those of `Sandbox`."""
    with (
        suppress(KeyboardInterrupt),
        Sandbox(credits, host=host, port=port, **options) as sandbox,
    ):
        sys.stdout.write(_greeting(sandbox, credits))
        sys.stdout.flush()
        while True:  # not a lock's wait: on Windows Ctrl-C does not interrupt that
            time.sleep(3600)


def _greeting(sandbox: Sandbox, credits: Amount) -> str:
    return f"""\
Sandbox at {sandbox.url}, with {credits} credits in each account. Ctrl-C ends it.

pre.dev (base URL {sandbox.url}):
export PREDEV_API_KEY={sandbox.predev_key}

Anchor Browser (base URL {sandbox.url}):
export ANCHORBROWSER_API_KEY={sandbox.anchor_key}
export ANCHORBROWSER_PROJECT_ID={sandbox.project_id}
export ANCHORBROWSER_BASE_URL={sandbox.url}

Books: curl {sandbox.url}/_sandbox/state
"""


class _Server(uvicorn.Server):
    """uvicorn on a thread of its own, which starts at once and ends without waiting for anybody."""

    def __init__(self, world: World, listener: socket.socket) -> None:
        self._world = world
        self._listener = listener
        self._ready = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="budgetguard-sandbox", daemon=True)
        super().__init__(
            uvicorn.Config(
                self._quietly(build(world, self._reset)),
                loop="asyncio",
                http=H11Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                date_header=False,
                timeout_keep_alive=60,
            )
        )

    def start(self) -> None:
        """Return once connections are accepted."""
        self._thread.start()
        self._ready.wait()
        if not self.started:
            msg = "the sandbox did not start; its thread's traceback says why"
            raise RuntimeError(msg)

    def stop(self) -> None:
        """Return once the thread has ended, with every connection closed."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self.serve(sockets=[self._listener]))
        finally:
            self._ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and tell `start`."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._world.clock.follow(self._loop)
        self._ready.set()

    async def main_loop(self) -> None:
        """Wait to be told, where uvicorn's looks ten times a second."""
        await self.on_tick(0)
        await self._end.wait()

    async def shutdown(
        self,
        sockets: list[socket.socket] | None = None,  # noqa: ARG002 - ours is the listener
    ) -> None:
        """End at once, where uvicorn's waits for clients that hang or do not read."""
        self._stopping = True
        self._world.clock.stop()
        with suppress(NotImplementedError):  # Windows; it takes connections a little longer
            self._loop.remove_reader(self._listener)
        # The tasks are requests, and accepting what connected before. That has to end before
        # the server is closed: asyncio leaves the socket of a connection half accepted open.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            self._abort_connections()
            for request in tasks & self.server_state.tasks:
                request.cancel()
            await asyncio.wait(tasks)
        for server in self.servers:
            server.close()
        self._abort_connections()

    def _abort_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _quietly(self, app: ASGIApp) -> ASGIApp:
        async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except ClientDisconnect:
                pass
            except asyncio.CancelledError:
                # uvicorn would log it, and answer on a connection that it thinks is still there.
                if not self._stopping:
                    raise
                while (await receive())["type"] != "http.disconnect":
                    pass

        return quiet

    def _reset(self, scope: Scope) -> None:
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == scope["client"]:
                # Lingering for 0 s makes the kernel send a reset instead of an orderly end.
                linger = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.transport.get_extra_info("socket").setsockopt(*linger)
                connection.transport.abort()
