"""The sandbox as a server: uvicorn on a daemon thread, on loopback only."""

import asyncio
import ipaddress
import os
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

from budgetguard._core.argument_types import other, shown
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard.testing.sandbox.account import Account, Amount
from budgetguard.testing.sandbox.app import build
from budgetguard.testing.sandbox.browsers import BROWSER_CREATED, BROWSER_MINUTE
from budgetguard.testing.sandbox.clock import Clock
from budgetguard.testing.sandbox.faults import Fault
from budgetguard.testing.sandbox.vendor import Vendor
from budgetguard.testing.sandbox.world import ANCHOR_KEY, PREDEV_KEY, PROJECT_ID, World


class Sandbox:
    """A real HTTP server on loopback that serves the providers' APIs, for tests and demos.

    It is a context manager. Entering it returns when connections are accepted; leaving it ends
    all open requests. Sync code, asyncio, trio and several threads can use it, and several
    sandboxes can run at once. A sandbox can be entered only once.

    - `credits`: the credits in each account.
    - `seed`: decides what each piece of work costs, how long it takes and which requests fail,
      in the order in which they are submitted.
    - `speed`: how many provider seconds pass per real second. All durations here are in provider
      seconds, except where they are called real.
    - `clock`: with `"manual"`, only `advance` moves the time. The reply to a synchronous request
      then arrives when the time has been advanced far enough, so send it from another thread, or
      submit the work asynchronously.
    - `lag`, `overdraft`: those of `Account`, for all accounts.
    - `cost_limit`: that of `Account`, for Anchor Browser alone.
    - `max_concurrent_browsers`: how many sessions may be open at once; -1 means any number.
    - `sessions_per_minute`: how many sessions may be created in a minute; None means any number.
    - `browser_price`, `minute_price`: credits for the creation of a browser, and for each minute.
    - `latency`: real seconds that pass before every reply, from 0 to 3,600.
    - `fail`: the share of requests, from 0 to 1, that are answered with 500 or 503 and not
      carried out.
    - `tier`: the plan that Anchor Browser's balance endpoints report.
    - `host`, `port`: the address; a port of 0 takes a free one. Entering raises `OSError` if the
      port is in use.

    The attributes `predev_key`, `anchor_key` and `project_id` are what its clients log in with;
    `url` is the base URL of both pre.dev's and Anchor Browser's APIs. Further vendors are below it, each
    under a prefix and with a key of its own: see `vendor`.
    """

    predev_key = PREDEV_KEY
    anchor_key = ANCHOR_KEY
    project_id = PROJECT_ID

    @clean_traceback
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
        latency: float = 0.0,
        fail: float = 0.0,
        tier: str = "free",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if clock not in {"real", "manual"}:
            msg = f'clock is "real" or "manual", not {other(clock)}'
            raise ValueError(msg)
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            msg = "the sandbox listens on loopback addresses only"
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
            latency=latency,
            fail=fail,
            tier=tier,
        )
        self._server: _Server | None = None
        self.url = ""

    def __enter__(self) -> Self:
        if self._server is not None:
            msg = "a sandbox can be used once; make another one"
            raise RuntimeError(msg)
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        # Bound here and not by uvicorn, so that a port in use raises in the caller's thread. The
        # protocol is named, which `socket.create_server` does not do: only then does asyncio
        # switch off Nagle's algorithm, which costs 40 ms a request.
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
        for vendor in self._world.vendors.values():
            vendor.url = f"{self.url}/{vendor.name}"
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
        """The account at pre.dev."""
        return self._world.predev

    @property
    def anchor(self) -> Account:
        """The account at Anchor Browser."""
        return self._world.anchor

    def vendor(self, name: str) -> Vendor:
        """The vendor below `/<name>`: its `url`, `key` and `account`, and how it refuses.

        Raises `KeyError` if the sandbox has no vendor of that name.
        """
        vendors = self._world.vendors
        if name not in vendors:
            msg = f"the sandbox has {', '.join(vendors)}, not {shown(name)}"
            raise KeyError(msg)
        return vendors[name]

    @property
    def requests(self) -> Counter[tuple[str, str]]:
        """How many requests arrived, by method and route, including those that met a fault."""
        return self._world.requests

    @property
    def balance_requests(self) -> int:
        """How many requests pre.dev's and Anchor Browser's three balance endpoints received."""
        return self._world.balance_requests

    def fault(self, pattern: str, **fault: Any) -> None:
        """Add a `Fault` for the paths that match `pattern`; `fault` are its other fields."""
        self._world.faults.add(Fault(pattern=pattern, **fault))

    def clear_faults(self) -> None:
        """Remove all faults, so that replies are as documented again."""
        self._world.faults.clear()

    def advance(self, seconds: float) -> None:
        """Advance the manual clock. When this returns, every charge that became due is made.

        Raises `RuntimeError` if the clock is not manual.
        """
        self._world.clock.advance(seconds)

    def wait_until(self, true: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Block until `true()` returns True; it is called after every change.

        Returns False if that takes longer than `timeout` real seconds. Use it to wait for requests
        that are on their way: `sandbox.wait_until(lambda: sandbox.predev.running == 2)`.
        """
        return self._world.clock.wait_until(true, timeout)

    def state(self) -> dict[str, Any]:
        """The state of all accounts: the JSON object that `GET /_sandbox/state` shows."""
        return self._world.state()


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    credits: Amount = 100,
    **options: Any,
) -> None:
    """Run a sandbox until Ctrl-C, and print the environment variables that its clients need.

    `options` are the other arguments of `Sandbox`. Raises `OSError` if the port is in use.
    """
    with (
        suppress(KeyboardInterrupt),
        Sandbox(credits, host=host, port=port, **options) as sandbox,
    ):
        _print(_greeting(sandbox, credits))
        while True:  # waiting for a lock is not interrupted by Ctrl-C on Windows
            time.sleep(3600)
    _print("\nThe sandbox has ended.")


def _greeting(sandbox: Sandbox, credits: Amount) -> str:
    return f"""\
Sandbox at {sandbox.url}, with {credits} credits in each account. Ctrl-C ends it.
Further vendors are below it, as in {sandbox.url}/acme; {sandbox.url}/_sandbox/state has their keys.
Paste this in the terminal where you try things:
export PREDEV_API_KEY={sandbox.predev_key}
export PREDEV_BASE_URL={sandbox.url}
export ANCHORBROWSER_API_KEY={sandbox.anchor_key}
export ANCHORBROWSER_BASE_URL={sandbox.url}"""


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201  unlike `write`, it allows a closed standard output
    except OSError:
        # Nobody reads it, as when Ctrl-C has ended `| tee` too, or it cannot be written: the sandbox
        # serves all the same. The text that remains in the buffer would cause another error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Server(uvicorn.Server):
    """uvicorn on its own thread. It starts at once and stops without waiting for clients."""

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
            msg = "the sandbox did not start; the traceback of its thread shows why"
            raise RuntimeError(msg)

    def stop(self) -> None:
        """Close every connection, and return when the thread has ended."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self.serve(sockets=[self._listener]))
        finally:
            self._ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, and notify `start`."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._world.clock.follow(self._loop)
        self._ready.set()

    async def main_loop(self) -> None:
        """Wait for an event, where uvicorn checks ten times a second."""
        await self.on_tick(0)
        await self._end.wait()

    async def shutdown(
        self,
        sockets: list[socket.socket] | None = None,  # noqa: ARG002 - we have our own listener
    ) -> None:
        """Stop at once, where uvicorn waits for clients that hang or do not read."""
        self._stopping = True
        self._world.clock.stop()
        with suppress(NotImplementedError):  # on Windows, which accepts connections a little longer
            self._loop.remove_reader(self._listener)
        # The tasks are requests, and connections that are being accepted. All must end before
        # the server is closed: asyncio would leave the socket of a half-accepted one open.
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
                # uvicorn would log it, and answer on a connection that has gone.
                if not self._stopping:
                    raise
                while (await receive())["type"] != "http.disconnect":
                    pass

        return quiet

    def _reset(self, scope: Scope) -> None:
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == scope["client"]:
                # Lingering for 0 s makes the kernel send a reset and not close in order.
                linger = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.transport.get_extra_info("socket").setsockopt(*linger)
                connection.transport.abort()
