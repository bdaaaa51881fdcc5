"""HTTP clients that reuse connections: one client per account, and never a response to another request.

Extra bytes that a server sends after its response would be read as the response to the next request
on that connection, and on a shared connection as another account's balance. So each account has a
client of its own, and a connection is reused only if its last response ended exactly with the last
byte received.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar
from typing import Any

import anyio
import anyio.lowlevel
import httpcore
import httpx

from budgetguard._version import __version__

MOST_CLIENTS = 32
"""Connections are kept open for this many accounts, the most recently used ones."""

_KEPT_EACH = 2
_MOST_READ = 64 * 1024
_TURNS = 8


def make_client(*, trust_env: bool, verify: ssl.SSLContext | bool = True) -> httpx.AsyncClient:
    """A client that reuses connections and keeps no other state.

    It has no timeouts: the caller sets one deadline around the whole request. Proxies and
    certificates from the environment are used only with `trust_env`.
    """
    client = _client(_KEPT_EACH, verify=verify, trust_env=trust_env)
    if not _watch(client):
        # httpx has changed so that connections cannot be watched: none is used twice.
        return _client(0, verify=verify, trust_env=trust_env)
    client._transport = _NoReason(client._transport)  # noqa: SLF001
    for pattern, transport in client._mounts.items():  # noqa: SLF001
        client._mounts[pattern] = transport and _NoReason(transport)  # noqa: SLF001
    return client


def _client(kept: int, *, verify: ssl.SSLContext | bool, trust_env: bool) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers={
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"budgetguard/{__version__}",
        },
        cookies=_NoCookies(),
        follow_redirects=False,
        timeout=None,  # noqa: S113 - a limit per read does not stop a response that arrives byte by byte
        limits=httpx.Limits(
            max_connections=100, max_keepalive_connections=kept, keepalive_expiry=60.0
        ),
        verify=verify,
        trust_env=trust_env,
    )


class _NoCookies(CookieJar):
    """Stores no cookies and sends none, so that no response affects the next request."""

    def extract_cookies(self, response: object, request: object) -> None:
        pass

    def add_cookie_header(self, request: object) -> None:
        pass


class _NoReason(httpx.AsyncBaseTransport):
    """Leaves out what a reply says beside its status, which httpx logs at INFO.

    Some servers write the message of an error there, which may repeat a key.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        response.extensions.pop("reason_phrase", None)
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()


class Clients:
    """The clients of one event loop."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, bool], httpx.AsyncClient] = {}
        self._verify: dict[bool, ssl.SSLContext] = {}

    @contextlib.asynccontextmanager
    async def lend(self, owner: object, *, trust_env: bool) -> AsyncIterator[httpx.AsyncClient]:
        """The client of the account `owner`, for exclusive use; it is not closed meanwhile."""
        key = owner, trust_env
        client = self._kept.pop(key, None)
        if client is None or client.is_closed:
            client = make_client(trust_env=trust_env, verify=self._certificates(trust_env))
        try:
            yield client
        finally:
            surplus = [self._kept.pop(key)] if key in self._kept else []
            self._kept[key] = client
            while len(self._kept) > MOST_CLIENTS:
                surplus.append(self._kept.pop(next(iter(self._kept))))
            for other in surplus:
                with anyio.CancelScope(shield=True):
                    await other.aclose()

    async def aclose(self) -> None:
        """Close all clients that are not lent."""
        while self._kept:
            await self._kept.popitem()[1].aclose()

    def _certificates(self, trust_env: bool) -> ssl.SSLContext:  # noqa: FBT001  a key
        # Reading them takes 17 ms, so it is done once.
        if trust_env not in self._verify:
            self._verify[trust_env] = httpx.create_ssl_context(trust_env=trust_env)
        return self._verify[trust_env]


def _watch(client: httpx.AsyncClient) -> bool:
    """Watch all connections that `client` will make; False if that is not possible."""
    # httpx has no parameter for httpcore's network backend, so it is set on the pools.
    transports = [client._transport, *client._mounts.values()]  # noqa: SLF001
    pools = [getattr(each, "_pool", None) for each in transports if each is not None]
    if not all(hasattr(pool, "_network_backend") for pool in pools):
        return False
    for pool in pools:
        pool._network_backend = _Backend(pool._network_backend)  # type: ignore[union-attr]  # noqa: SLF001
    return True


class _Backend:
    """httpcore's network backend, with watched streams."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> "_Stream":
        return _Stream(await self._backend.connect_tcp(*args, **kwargs))

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> "_Stream":
        return _Stream(await self._backend.connect_unix_socket(*args, **kwargs))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class _Stream:
    """httpcore's network stream, which reports that it is readable while extra bytes are left over.

    httpcore closes an idle connection that is readable. Its own check covers only the socket, and
    misses bytes that were already read from it together with a response.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._read = bytearray()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        data: bytes = await self._stream.read(max_bytes, timeout)
        if len(self._read) <= _MOST_READ:
            self._read += data
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if self._read and await self._has_more():
            # Makes httpcore close this connection and use another.
            raise httpcore.ConnectionNotAvailable
        self._read.clear()
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(self, *args: Any, **kwargs: Any) -> "_Stream":
        return _Stream(await self._stream.start_tls(*args, **kwargs))

    def get_extra_info(self, info: str) -> Any:
        answer = self._stream.get_extra_info(info)
        if info != "is_readable" or answer:
            return answer
        return not _is_one_reply(bytes(self._read))

    async def _has_more(self) -> bool:
        """Whether bytes are buffered between the socket and us: by TLS, or by asyncio's reading ahead.

        It reads one byte to find out, because nothing else shows them, and waits only for a few turns
        of the event loop.
        """
        came = False

        async def take() -> None:
            nonlocal came
            await self._stream.read(1)
            came = True

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            for _ in range(_TURNS):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return came


def _is_one_reply(read: bytes) -> bool:
    """Whether these bytes are one complete response to a GET and nothing more.

    Uses h11, the parser that httpcore uses, so that both agree.
    """
    import h11

    if len(read) > _MOST_READ:
        return False
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "provider")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(read)
    try:
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event in (h11.NEED_DATA, h11.PAUSED):
                return False
    except h11.RemoteProtocolError:
        return False
    return parser.trailing_data == (b"", False)
