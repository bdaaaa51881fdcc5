"""Keys in headers and queries, with every logger at DEBUG and replies that repeat them in all places."""

import base64
import logging
import pickle
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
from hostile import Server, half_read, http

from budgetguard import BudgetGuardError, Guard, InsufficientCredits
from budgetguard._core.errors import BalanceUnavailable
from budgetguard._io.connections import make_client
from budgetguard._io.unlogged import UnloggedURL
from budgetguard.providers import HTTPBalance

# With what is encoded in a URL, and so repeated in more than one form.
KEY = "canary+51f0a9c7/e2d8=not_a_real_key"
FORMS = {KEY, quote(KEY, safe=""), quote_plus(KEY), quote(KEY)}
LOGIN = base64.b64encode(f"user@example.com:{KEY}".encode()).decode()
WHERE: dict[str, dict[str, Any]] = {
    "a header": {"headers": {"x-api-key": KEY}},
    "a bearer": {"headers": {"Authorization": f"Bearer {KEY}"}},
    "another word": {"headers": {"authorization": f"Key {KEY}"}},
    "a login": {"headers": {"authorization": f"Basic {LOGIN}"}},
    "a parameter": {"params": {"api_key": KEY}},
    "one of several": {"headers": {"x-project": "p"}, "params": {"a": "b", "api_key": KEY}},
    "the URL's query": {"url": f"?api_key={quote(KEY, safe='')}&a=b"},
    "the URL's query, as it is": {"url": f"?a=b&api_key={KEY}"},
    "a parameter without a name": {"url": f"?{KEY}"},
}
WORDS = f"Bad {KEY}, {KEY.upper()}, {quote(KEY, safe='')}"
MOVED = f"location: http://127.0.0.1:1/?api_key={quote(KEY, safe='')}&raw={KEY}"
REPLIES = {
    "a balance": http(200, '{"left": 5}'),
    "a field": http(200, f'{{"{KEY}": 5, "x {KEY}": {{"{KEY}": 5}}}}'),
    "a value": http(200, f'{{"left": "{KEY}"}}'),
    "a currency": http(200, f'{{"left": [{{"currency": "{KEY}"}}]}}'),
    "an error": http(401, f'{{"error": {{"message": "{WORDS}"}}}}'),
    "a list of errors": http(422, f'{{"detail": [{{"loc": ["query", "{KEY}"], "msg": "{WORDS}"}}]}}'),
    "a failure": http(500, f'{{"message": "{WORDS}"}}', f"x-echo: {KEY}"),
    "a redirect": http(302, "", MOVED),
    "a moved page": http(308, f"<a href='{KEY}'>here</a>", MOVED),
    "a login": http(401, f'{{"message": "{LOGIN} is user@example.com:{KEY}"}}'),
    "a header": http(200, '{"left": 5}', f"x-echo: {WORDS}", f"set-cookie: key={KEY}"),
    "a wait": http(429, f'{{"error": "{WORDS}"}}', f"retry-after: {KEY}"),
    "a page": http(403, f"<html>{WORDS}</html>", f"content-type: text/html; {KEY}"),
    "a coding": http(200, '{"left": 5}', f"content-encoding: {KEY}, gzip"),
    "a reason": http(401).replace(b"Status", WORDS.encode()),
    "no header": f"HTTP/1.1 200 OK\r\n{KEY} is no header\r\nconnection: close\r\n\r\n".encode(),
    "no status": f"HTTP/1.1 {KEY} OK\r\nconnection: close\r\n\r\n".encode(),
    "no HTTP": f"{KEY}\r\nconnection: close\r\n\r\n".encode(),
    "no chunk": f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{KEY}\r\n".encode(),
    "a short body": f"HTTP/1.1 200 OK\r\ncontent-length: 900\r\nconnection: close\r\n\r\n{KEY}".encode(),
}  # fmt: skip


def shows(text: str, where: str) -> bool:
    """Whether what was sent there can be read in a text, in any form and case."""
    forms = {*FORMS, LOGIN} if where == "a login" else FORMS
    return any(form.lower() in text.lower() for form in forms)


def provider_of(url: str, where: str, **more: Any) -> HTTPBalance:
    """Give a provider whose key is there."""
    options = {"left": "left", **WHERE[where], **more}
    return HTTPBalance(f"{url}/left{options.pop('url', '')}", **options)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Give all that was logged, with the arguments of each record."""
    caplog.set_level(logging.DEBUG)
    return lambda: caplog.text + "".join(repr(vars(record)) for record in caplog.records)


@half_read
@pytest.mark.anyio
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", REPLIES)
async def test_no_log_and_no_error_shows_the_key(
    where: str, name: str, serve: Callable[..., Server], logged: Callable[[], str]
) -> None:
    """Wherever it is sent, and wherever the reply repeats it."""
    server = serve(REPLIES[name])
    async with make_client(trust_env=False) as client:
        try:
            result: Any = await provider_of(server.url, where).fetch(client)
        except BalanceUnavailable as error:
            result = error
    assert shows(server.requests[0].decode(), where)
    assert not shows(f"{result} {result!r}", where)
    assert not shows(pickle.dumps(result).decode("latin-1"), where)
    if isinstance(result, BalanceUnavailable):
        assert result.__cause__ is None
        assert result.__context__ is None
    assert "httpcore" in logged()
    assert not shows(logged(), where)


@pytest.mark.parametrize("where", WHERE)
def test_no_guard_shows_the_key(
    where: str, serve: Callable[..., Server], logged: Callable[[], str]
) -> None:
    """Its errors, events and reprs, with refreshes that succeed and fail."""
    events: list[Any] = []
    server = serve(REPLIES["a header"], REPLIES["an error"], REPLIES["a redirect"])
    provider = provider_of(server.url, where, name="Acme")
    guard = Guard(provider, on_event=events.append)
    guard.acquire(cost=1).settle()
    errors: list[BudgetGuardError] = []
    for _ in range(3):
        with pytest.raises(BudgetGuardError) as caught:
            guard.balance(max_age=0)
        errors.append(caught.value)
    with pytest.raises(InsufficientCredits) as refused:
        guard.acquire(cost=50)
    shown = [repr(each) for each in (guard, provider, vars(provider), *events)]
    for error in (*errors, refused.value):
        shown += [str(error), repr(error), repr(error.args), pickle.dumps(error).decode("latin-1")]
    assert events
    assert not shows("".join(shown), where)
    assert not shows(logged(), where)


@pytest.mark.anyio
async def test_the_log_has_the_path_and_the_status(
    serve: Callable[..., Server], logged: Callable[[], str]
) -> None:
    """What remains is enough to see which request it was."""
    server = serve(REPLIES["a balance"])
    async with make_client(trust_env=False) as client:
        await provider_of(server.url, "a parameter").fetch(client)
    assert f'HTTP Request: GET {server.url}/left "HTTP/1.1 200 OK"' in logged()


@pytest.mark.anyio
async def test_a_plain_request_would_be_logged(
    serve: Callable[..., Server], logged: Callable[[], str]
) -> None:
    """Otherwise none of the above would mean a thing."""
    server = serve(REPLIES["a header"])
    async with httpx.AsyncClient() as client:
        await client.get(f"{server.url}/left", params={"api_key": KEY})
    text = logged()
    assert quote(KEY, safe="") in text
    assert "set-cookie" in text


def test_the_query_of_an_unlogged_url_is_sent_and_not_shown() -> None:
    """What HTTP clients ask for has it; its texts do not."""
    url = UnloggedURL("https://x.example:8443/a%20b?key=canary&x=y")
    assert url.raw_path == b"/a%20b?key=canary&x=y"
    assert url.query == b"key=canary&x=y"
    assert (url.scheme, url.host, url.port) == ("https", "x.example", 8443)
    assert f"{url} {url!r} {[url]}".count("canary") == 0
    assert str(url) == "https://x.example:8443/a%20b"
