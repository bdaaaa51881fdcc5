"""What a server sends beyond its reply is nobody's balance; and a credential has a connection of its own."""

import ssl
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trustme
from hostile import KEY, Pieces, Server, http, predev

from budgetguard import AnchorBrowser, Balance, Guard, PreDev
from budgetguard._io import connections
from budgetguard._io.connections import MOST_CLIENTS, Clients, make_client

Serve = Callable[..., Server]
TRUE, INVENTED = predev("5"), predev("900")
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b'5;x=y\r\n{"suc\r\n23\r\ncess": true, "creditsRemaining": 5}\r\n0\r\nx: y\r\n\r\n'
)


class Own:
    """A provider as users write them, over the client that it is given."""

    name = "own"

    def __init__(self, url: str, key: str = KEY) -> None:
        self._url, self._key = url, key

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        """The balance."""
        reply = await client.get(
            self._url + "/credits-balance", headers={"authorization": f"Bearer {self._key}"}
        )
        return Balance(credits=reply.json()["creditsRemaining"])


def anchor(number: str) -> bytes:
    """A reply of Anchor Browser's project endpoint."""
    return http(200, f'{{"credits": {number}}}')


PROVIDERS: dict[str, tuple[Callable[..., Any], Callable[[str], bytes]]] = {
    "pre.dev": (lambda url, key=KEY: PreDev(key, base_url=url), predev),
    "Anchor Browser": (lambda url, key=KEY: AnchorBrowser(key, "p1", base_url=url), anchor),
    "own": (Own, predev),
}
every_provider = pytest.mark.parametrize("name", PROVIDERS)


@every_provider
@pytest.mark.parametrize("whose", ["the same key", "another key"])
def test_a_reply_that_trails_a_reply_is_nobodys(serve: Serve, name: str, whose: str) -> None:
    """Neither the same account's nor another's: the next refresh asks, and gets its own answer."""
    make, reply = PROVIDERS[name]
    server = serve(reply("5") + reply("900"), reply("7"))
    first = Guard(make(server.url))
    assert first.balance().credits == 5
    second = first if whose == "the same key" else Guard(make(server.url, "another-key-of-length"))
    assert second.balance(max_age=0).credits == 7
    assert len(server.requests) == server.connections == 2


@every_provider
def test_a_credential_has_a_connection_of_its_own(serve: Serve, name: str) -> None:
    """Which is kept: no other account's refresh goes over it."""
    make, reply = PROVIDERS[name]
    server = serve(reply("5"))
    guards = [Guard(make(server.url, f"a-key-of-some-length-{number}")) for number in range(3)]
    for _ in range(3):
        assert [guard.balance(max_age=0).credits for guard in guards] == [5, 5, 5]
    assert (len(server.requests), server.connections) == (9, 3)


TRAILS = {
    "a whole reply": TRUE + INVENTED,
    "half a head": TRUE + b"HTTP/1.1 200 OK\r\ncontent-",
    "one byte": TRUE + b"\n",
    "more body than it said": http(200, '{"success": true, "creditsRemaining": 5}   ').replace(
        b"43", b"40"
    ),
    "a reply after a chunked one": CHUNKED + INVENTED,
    "many": TRUE + INVENTED * 1_000,
    "a reply after an interim one": b"HTTP/1.1 103 Early Hints\r\n\r\n" + TRUE + INVENTED,
}
CLEAN = {
    "with a length": TRUE,
    "chunked, with a trailer": CHUNKED,
    "an interim one first": b"HTTP/1.1 103 Early Hints\r\n\r\n" + TRUE,
}


@pytest.mark.anyio
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("pieces", ["at once", "one by one", "in records"])
@pytest.mark.parametrize("trail", TRAILS.values(), ids=TRAILS)
async def test_a_connection_with_bytes_left_over_is_not_used_again(
    serve: Serve, trail: bytes, pieces: str, tls: bool
) -> None:
    """Whatever they are, and wherever they wait: read, in a TLS record, or in the socket."""
    step = {"at once": len(trail), "one by one": 1, "in records": len(TRUE)}[pieces]
    if len(trail) > 1_000:
        # In small pieces it would not fit into the socket of a client that reads no more.
        step = len(trail)
    parts = Pieces(trail[at : at + step] for at in range(0, len(trail), step))
    context, verify = certificates() if tls else (None, True)
    server = serve(parts, TRUE, tls=context)
    provider = PreDev(KEY, base_url=server.url if not tls else f"https://localhost:{server.port}")
    async with make_client(trust_env=False, verify=verify) as client:
        assert (await provider.fetch(client)).credits == 5
        with anyio.fail_after(20):
            # What is on its way still arrives before the next refresh, in life seconds later.
            while server.sent < len(trail) and not server.hung_up_on:
                await anyio.lowlevel.checkpoint()
        assert (await provider.fetch(client)).credits == 5
    assert server.connections == 2


@pytest.mark.anyio
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("reply", CLEAN.values(), ids=CLEAN)
async def test_a_connection_without_is_kept(serve: Serve, reply: bytes, tls: bool) -> None:
    """Each would cost some round trips, and a handshake."""
    context, verify = certificates() if tls else (None, True)
    server = serve(reply, tls=context)
    provider = PreDev(KEY, base_url=server.url if not tls else f"https://localhost:{server.port}")
    async with make_client(trust_env=False, verify=verify) as client:
        for _ in range(3):
            assert (await provider.fetch(client)).credits == 5
    assert server.connections == 1


def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and a client's that knows its authority."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


@pytest.mark.anyio
async def test_where_nobody_can_watch_no_connection_is_kept(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should httpx keep its pools elsewhere one day."""
    monkeypatch.setattr(connections, "_watch", lambda _: False)
    server = serve(TRUE)
    async with make_client(trust_env=False) as client:
        for _ in range(2):
            await PreDev(KEY, base_url=server.url).fetch(client)
    assert server.connections == 2


@pytest.mark.anyio
async def test_a_bounded_number_of_clients_is_kept() -> None:
    """Those of the accounts that asked last; the others' are closed."""
    clients, owners, lent = Clients(), [object() for _ in range(MOST_CLIENTS + 3)], []
    for owner in owners:
        async with clients.lend(owner, trust_env=False) as client:
            lent.append(client)
    async with clients.lend(owners[-1], trust_env=False) as again:
        assert again is lent[-1]
    assert [client.is_closed for client in lent] == [True] * 3 + [False] * MOST_CLIENTS
    await clients.aclose()
    assert all(client.is_closed for client in lent)


@pytest.mark.anyio
async def test_a_client_that_is_lent_is_not_closed() -> None:
    """However many others come meanwhile; a second refresh of its account gets another one."""
    clients, owner = Clients(), object()
    async with clients.lend(owner, trust_env=False) as first:
        for _ in range(MOST_CLIENTS + 3):
            async with clients.lend(object(), trust_env=False):
                pass
        async with clients.lend(owner, trust_env=False) as second:
            assert second is not first
        assert not first.is_closed
    assert second.is_closed
    await clients.aclose()
    assert first.is_closed


def test_a_provider_that_closes_the_client_it_is_given(serve: Serve) -> None:
    """It gets another one the next time."""

    class Closing(Own):
        async def fetch(self, client: httpx.AsyncClient) -> Balance:
            async with client:
                return await super().fetch(client)

    server = serve(TRUE)
    guard = Guard(Closing(server.url))
    assert [guard.balance(max_age=0).credits for _ in range(3)] == [5, 5, 5]


def test_what_a_provider_does_to_its_client_is_its_own(serve: Serve) -> None:
    """A key that is set on the client goes along with no other account's request."""

    class Setting(Own):
        async def fetch(self, client: httpx.AsyncClient) -> Balance:
            client.headers["x-key"] = KEY
            return await super().fetch(client)

    server = serve(TRUE)
    Guard(Setting(server.url)).balance()
    Guard(Own(server.url)).balance()
    assert [b"x-key" in request for request in server.requests] == [True, False]
