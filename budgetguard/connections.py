"""HTTP clients that keep their connections: one for each account, and no reply for another request.

What a server sends beyond its reply would be read as the answer to the next request on that
connection, and so as another account's balance, were it shared. So an account's credential decides
which client serves it, and a connection is used again only where its last reply ended exactly with
the last byte that came.
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
"""Of as many accounts, those asked last, a connection is kept; the others' are closed."""

_KEPT_EACH = 2
_MOST_READ = 64 * 1024
_TURNS = 8


def make_client(*, trust_env: bool, verify: ssl.SSLContext | bool = True) -> httpx.AsyncClient:
    """A client that keeps connections, and nothing else.

    It has no timeouts: whoever calls it sets one deadline around the whole. Proxies and
    certificates from the environment are used only if `trust_env`.
    """
    client = _client(_KEPT_EACH, verify=verify, trust_env=trust_env)
    # Where httpx has changed so that nobody can watch, no connection is used twice.
    return client if _watch(client) else _client(0, verify=verify, trust_env=trust_env)


def _client(kept: int, *, verify: ssl.SSLContext | bool, trust_env: bool) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers={
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"budgetguard/{__version__}",
        },
        cookies=_NoCookies(),
        follow_redirects=False,
        timeout=None,  # noqa: S113 - a limit per read does not end a reply that drips
        limits=httpx.Limits(
            max_connections=100, max_keepalive_connections=kept, keepalive_expiry=60.0
        ),
        verify=verify,
        trust_env=trust_env,
    )


class _NoCookies(CookieJar):
    """Keeps none and sends none: what a reply sets is no part of the next question."""

    def extract_cookies(self, response: object, request: object) -> None:
        pass

    def add_cookie_header(self, request: object) -> None:
        pass


class Clients:
    """The clients of one event loop."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, bool], httpx.AsyncClient] = {}
        self._verify: dict[bool, ssl.SSLContext] = {}

    @contextlib.asynccontextmanager
    async def lend(self, owner: object, *, trust_env: bool) -> AsyncIterator[httpx.AsyncClient]:
        """The client of `owner`, an account; nobody else has it meanwhile, and nobody closes it."""
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
        """Close all that nobody has."""
        while self._kept:
            await self._kept.popitem()[1].aclose()

    def _certificates(self, trust_env: bool) -> ssl.SSLContext:  # noqa: FBT001  a key
        # Reading them takes 17 ms, so it is done once.
        if trust_env not in self._verify:
            self._verify[trust_env] = httpx.create_ssl_context(trust_env=trust_env)
        return self._verify[trust_env]


def _watch(client: httpx.AsyncClient) -> bool:
    """Watch all connections that `client` will make; False where that cannot be done."""
    # httpx passes no network backend on to httpcore, whose pools take one.
    transports = [client._transport, *client._mounts.values()]  # noqa: SLF001
    pools = [getattr(each, "_pool", None) for each in transports if each is not None]
    if not all(hasattr(pool, "_network_backend") for pool in pools):
        return False
    for pool in pools:
        pool._network_backend = _Backend(pool._network_backend)  # type: ignore[union-attr]  # noqa: SLF001
    return True


class _Backend:
    """httpcore's network backend, whose streams are watched."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> "_Stream":
        return _Stream(await self._backend.connect_tcp(*args, **kwargs))

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> "_Stream":
        return _Stream(await self._backend.connect_unix_socket(*args, **kwargs))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class _Stream:
    """httpcore's network stream, which says that it is readable while anything is left over.

    An idle connection that is readable is closed by httpcore, whose own answer knows of the socket
    alone: not of what was read from it along with a reply.
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
            # httpcore closes this connection, and takes another.
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
        """Whether something waits between the socket and us: in TLS, or where asyncio reads ahead.

        Takes it, if so. Nothing else shows it, and nothing but the turns of the loop is waited for.
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
    """Whether these bytes are one whole reply to a GET, and not one more.

    By the very parser that httpcore uses, so that both mean the same.
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
