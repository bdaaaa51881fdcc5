"""The GET on the wire, against servers that answer as they like."""

import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
import trustme
from hostile import CASES, KEY, Case, Hangup, Server, half_read, http, predev

from budgetguard import _version
from budgetguard._core.errors import BalanceUnavailable, InvalidCredentials
from budgetguard._core.refresh_failure import Transient
from budgetguard._io.connections import make_client
from budgetguard.providers import AnchorBrowser, PreDev

pytestmark = pytest.mark.anyio
Serve = Callable[..., Server]


async def refusal(
    provider: PreDev | AnchorBrowser, client: httpx.AsyncClient
) -> BalanceUnavailable:
    """What the fetch raises."""
    with pytest.raises(BalanceUnavailable) as caught:
        await provider.fetch(client)
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@half_read
async def test_a_reply_that_is_no_balance(
    case: Case, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Each is refused in its own words, of its own kind, and without the key."""
    server = serve(case.wire)
    error = await refusal(PreDev(KEY, base_url=server.url), client)
    assert type(error) is case.kind
    assert case.words in error.reason
    assert KEY not in str(error)
    assert error.provider == "pre.dev"
    assert error.retry_after is None
    assert str(error) == f"The balance at pre.dev is not known: {error.reason}."
    assert not error.reason.endswith(".")
    assert len(server.requests) == 1


async def test_the_request_to_the_letter(serve: Serve, client: httpx.AsyncClient) -> None:
    """No encoding is offered, no cookie sent, and the key goes in one header."""
    server = serve(predev("450"))
    await PreDev(KEY, base_url=f"{server.url}/").fetch(client)
    lines = server.requests[0].decode().lower().split("\r\n")
    assert lines[0] == "get /credits-balance http/1.1"
    assert sorted(lines[1:-2]) == [
        "accept-encoding: identity",
        "accept: application/json",
        f"authorization: bearer {KEY}",
        "connection: keep-alive",
        f"host: 127.0.0.1:{server.port}",
        f"user-agent: budgetguard/{_version.__version__}",
    ]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("provider", [PreDev, AnchorBrowser])
async def test_no_redirect_is_followed(
    status: int, provider: type[PreDev], serve: Serve, client: httpx.AsyncClient
) -> None:
    """Another host would get the key, and could invent the balance."""
    elsewhere = serve(predev("999999"))
    server = serve(http(status, "", f"location: {elsewhere.url}/credits-balance"))
    client.follow_redirects = True
    error = await refusal(provider(KEY, base_url=server.url), client)
    assert f"{status}, a redirect" in error.reason
    assert elsewhere.requests == []
    assert not make_client(trust_env=False).follow_redirects


async def test_cookies_are_neither_kept_nor_sent(serve: Serve, client: httpx.AsyncClient) -> None:
    """The client is shared by accounts that must not know of each other."""
    reply = (
        b"HTTP/1.1 200 OK\r\nset-cookie: session=1; path=/\r\n" + predev("1").split(b"\r\n", 1)[1]
    )
    server = serve(reply)
    for _ in range(2):
        await PreDev(KEY, base_url=server.url).fetch(client)
    assert len(server.requests) == 2
    assert not any(b"cookie" in request.lower() for request in server.requests)
    assert len(client.cookies.jar) == 0


async def test_connections_are_kept(serve: Serve, client: httpx.AsyncClient) -> None:
    """A connection each costs 17 ms of TLS."""
    server = serve(predev("3"), predev("2"), predev("1"))
    provider = PreDev(KEY, base_url=server.url)
    assert [(await provider.fetch(client)).credits for _ in range(3)] == [3, 2, 1]
    assert server.connections == 1


@pytest.mark.parametrize("trust_env", [False, True])
async def test_proxies_of_the_environment_are_used_only_when_trusted(
    trust_env: bool,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy gets the key, and is believed."""
    server, proxy = serve(predev("1")), serve(predev("999999"))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    async with make_client(trust_env=trust_env) as client:
        balance = await PreDev(KEY, base_url=server.url).fetch(client)
    assert balance.credits == (999999 if trust_env else 1)
    assert len(proxy.requests) == trust_env


@half_read
async def test_no_more_is_read_than_the_cap(serve: Serve, client: httpx.AsyncClient) -> None:
    """The reply says nothing of its length, and goes on for 256 MB."""
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"

    def endless() -> Iterator[bytes]:
        yield head
        for _ in range(1024):
            yield b" " * 262_144

    server = serve(endless())
    error = await refusal(PreDev(KEY, base_url=server.url), client)
    assert "longer than 16 KiB" in error.reason
    server.close()
    # What the two sockets' buffers took in is sent as well.
    assert server.sent < 32_000_000


async def test_a_chunked_reply_of_odd_pieces_is_read(
    serve: Serve, client: httpx.AsyncClient
) -> None:
    """Pieces of one byte, with a chunk extension and a trailer."""
    body = b'{"success":true,"creditsRemaining":4.5}'
    pieces = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in body) + b"0\r\nx: y\r\n\r\n"
    server = serve(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + pieces)
    balance = await PreDev(KEY, base_url=server.url).fetch(client)
    assert balance.credits == Decimal("4.5")


async def test_identity_may_be_said(serve: Serve, client: httpx.AsyncClient) -> None:
    """It means that nothing was done to the body."""
    body = '{"success": true, "creditsRemaining": 450}'
    server = serve(http(200, body, "Content-Encoding: Identity"))
    assert (await PreDev(KEY, base_url=server.url).fetch(client)).credits == 450


@pytest.mark.parametrize(
    "header",
    ["none", "None", "UTF-8", "utf-8, identity", "binary", "8bit", "identity, identity", ""],
)
async def test_what_is_no_coding_does_no_harm(
    header: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Some servers write there what means that nothing was done to the body."""
    body = '{"success": true, "creditsRemaining": 450}'
    server = serve(http(200, body, f"Content-Encoding: {header}"))
    assert (await PreDev(KEY, base_url=server.url).fetch(client)).credits == 450


@pytest.mark.parametrize(
    "coding", ["gzip", "X-GZIP", "deflate", "br", "zstd", "none, gzip", "utf-8,br"]
)
async def test_what_is_a_coding_is_refused(
    coding: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Whatever else is named beside it."""
    server = serve(http(200, "", f"Content-Encoding: {coding}"))
    assert "is compressed" in (await refusal(PreDev(KEY, base_url=server.url), client)).reason


async def test_the_content_type_is_not_asked_for(serve: Serve, client: httpx.AsyncClient) -> None:
    """What is one sound object is believed, whatever it is called."""
    body = '{"success": true, "creditsRemaining": 450}'
    server = serve(http(200, body, "content-type: text/html; charset=utf-16"))
    assert (await PreDev(KEY, base_url=server.url).fetch(client)).credits == 450


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("retry-after: 7", 7.0),
        ("Retry-After: 9999999999", 60.0),
        ("retry-after: Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
        ("retry-after: Mon, 01 Jan 1990 00:00:00 GMT", 0.0),
        ("retry-after: soon", None),
        ("retry-after: -1", None),
        ("x-other: 7", None),
    ],
)
async def test_retry_after_comes_along(
    status: int, header: str, seconds: float | None, serve: Serve, client: httpx.AsyncClient
) -> None:
    """With what may be gone in a moment, capped at a minute."""
    error = await refusal(PreDev(KEY, base_url=serve(http(status, "", header)).url), client)
    assert isinstance(error, Transient)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (("retry-after: 7", "retry-after: 7"), 7.0),
        (("retry-after: 7", "Retry-After: 9"), 9.0),
        (("retry-after: soon", "retry-after: 9"), 9.0),
        (("retry-after: 7, 9",), 9.0),
        (("retry-after: 5", "retry-after: Fri, 31 Dec 9999 23:59:59 GMT"), 60.0),
    ],
)
async def test_retry_after_may_be_sent_twice(
    headers: tuple[str, ...], seconds: float, serve: Serve, client: httpx.AsyncClient
) -> None:
    """As where a proxy adds its own to the provider's."""
    server = serve(http(429, "", *headers))
    error = await refusal(PreDev(KEY, base_url=server.url), client)
    assert error.retry_after == seconds


async def test_retry_after_means_nothing_elsewhere(serve: Serve, client: httpx.AsyncClient) -> None:
    """A key that is not accepted will not be in 7 seconds."""
    server = serve(http(401, "", "retry-after: 7"))
    assert (await refusal(PreDev(KEY, base_url=server.url), client)).retry_after is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, InvalidCredentials), (403, InvalidCredentials), (404, BalanceUnavailable)],
)
async def test_a_status_counts_even_if_its_body_breaks_off(
    status: int, kind: type[BalanceUnavailable], serve: Serve, client: httpx.AsyncClient
) -> None:
    """The body would only have added words."""
    wire = f'HTTP/1.1 {status} No\r\ncontent-length: 900\r\n\r\n{{"err'.encode()
    error = await refusal(PreDev(KEY, base_url=serve(Hangup(wire)).url), client)
    assert type(error) is kind
    assert str(status) in error.reason


async def test_nobody_listens(serve: Serve, client: httpx.AsyncClient) -> None:
    """Another attempt may find somebody."""
    server = serve(b"")
    url = server.url
    server.close()
    error = await refusal(PreDev(KEY, base_url=url), client)
    assert type(error) is Transient
    assert error.reason == f"nothing answers at {url}: check the URL and the network"


async def test_a_name_that_does_not_resolve(client: httpx.AsyncClient) -> None:
    """RFC 6761 keeps .invalid free of names."""
    error = await refusal(PreDev(KEY, base_url="https://api.invalid"), client)
    assert type(error) is Transient
    assert "could not be resolved" in error.reason


async def test_a_client_that_is_closed(serve: Serve) -> None:
    """An error that is nobody's fault on the wire is named, and not tried again."""
    client = make_client(trust_env=False)
    await client.aclose()
    error = await refusal(PreDev(KEY, base_url=serve(predev("1")).url), client)
    assert type(error) is BalanceUnavailable
    assert error.reason == "the request could not be made (RuntimeError)"


@pytest.mark.parametrize("trust_env", [False, True])
async def test_only_certificates_of_a_known_authority_are_accepted(
    trust_env: bool,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """An authority that the environment names is known where the environment is trusted."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = serve(predev("450"), tls=context)
    provider = PreDev(KEY, base_url=f"https://localhost:{server.port}", trust_env=trust_env)
    async with make_client(trust_env=trust_env) as client:
        if trust_env:
            assert (await provider.fetch(client)).credits == 450
            return
        error = await refusal(provider, client)
    assert type(error) is BalanceUnavailable
    assert "certificate" in error.reason
    assert server.requests == []


def test_providers_can_be_imported_without_an_http_client() -> None:
    """Whoever only imports budgetguard does not pay for httpx and anyio."""
    code = (
        "import sys, budgetguard.providers, budgetguard._io.credentials, budgetguard._io.base_url\n"
        "budgetguard.providers.PreDev('k'); budgetguard.providers.AnchorBrowser('k')\n"
        "sys.exit(', '.join({'httpx', 'anyio', 'ssl', 'asyncio'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ.copy())
