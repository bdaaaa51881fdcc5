"""One hardened GET: what a provider's reply says, in exact numbers, or why it cannot be had.

A request's headers hold the key, and so does every exception and every frame of an HTTP client. So
nothing is raised from where they are in reach: `_ask` returns a failure like a result, and
`get_json` raises it when those frames are gone, without a cause.
"""

import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar
from typing import Any, NoReturn

import httpx

from budgetguard._version import __version__
from budgetguard.errors import BalanceUnavailable, InvalidCredentials
from budgetguard.secret import Credential, Secret

MAX_BODY = 16 * 1024
MAX_RETRY_AFTER = 60.0

_OK = 200
_REDIRECTS = range(300, 400)
_REFUSALS = (401, 403)
_TOO_MANY = 429
_SERVER_ERRORS = range(500, 600)

# CPython's own limit on nesting differs from version to version, up to 10,000 deep.
_MAX_BRACKETS = 200
_MAX_NUMBER = 64
_MAX_TEXT = 200
_MAX_DATE = 64
_MASKABLE = 4

Clean = Callable[[str], str]


class Transient(BalanceUnavailable):
    """A failure that may be gone in a moment: no connection, 5xx, or 429."""


def make_client(*, trust_env: bool) -> httpx.AsyncClient:
    """A client that many accounts may share: it keeps connections, and nothing else.

    It has no timeouts: whoever calls it sets one deadline around the whole. Proxies and
    certificates from the environment are used only if `trust_env`.
    """
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
            max_connections=100, max_keepalive_connections=20, keepalive_expiry=60.0
        ),
        trust_env=trust_env,
    )


class _NoCookies(CookieJar):
    """Keeps none and sends none: the next request on this client may be another account's."""

    def extract_cookies(self, response: object, request: object) -> None:
        pass

    def add_cookie_header(self, request: object) -> None:
        pass


async def get_json(
    client: httpx.AsyncClient,
    url: str,
    credential: Credential,
    *,
    provider: str,
) -> dict[str, object]:
    """The JSON object at `url`, with its numbers as Decimal.

    Its texts, names included, are printable, at most 200 characters long and free of the key; its
    lists are empty. Raises Transient where another attempt may succeed, InvalidCredentials for 401
    and 403, BalanceUnavailable for everything else that is not status 200 and one sound object of
    at most 16 KiB; none of these holds the key. Has no deadline of its own.
    """
    outcome = await _ask(client, url, credential, provider)
    if isinstance(outcome, BalanceUnavailable):
        raise outcome
    return outcome


def said(fields: dict[str, Any]) -> str:
    """The provider's own words in an error body of either shape, without a full stop; or ''.

    The shapes: `{"error": text, "message": text}` and `{"error": {"code", "message"}}`, and the
    first with a `code` in place of the message (both providers' OpenAPI pages, 2026-11).
    """
    error = fields.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    texts = [text for text in (error, fields.get("message")) if isinstance(text, str) and text]
    return ": ".join(dict.fromkeys(texts))[:_MAX_TEXT].rstrip(". ")


def retry_after(value: str | None, now_wall: float) -> float | None:
    """Seconds to wait, from a Retry-After header (seconds or an HTTP date), at most 60.

    None where there is none to be had; never raises.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text, re.ASCII):
        return min(float(text), MAX_RETRY_AFTER)
    if not text or len(text) > _MAX_DATE:
        return None
    try:
        date = parsedate_to_datetime(text)
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(moment - now_wall, 0.0), MAX_RETRY_AFTER)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: at most one chunk more than 16 KiB of the body."""

    status: int
    body: bytes = field(repr=False)
    encoding: str = ""
    retry_after: float | None = None


def judge(reply: Reply, provider: str, clean: Clean) -> dict[str, object] | BalanceUnavailable:
    """The reply's object, or the failure to raise; `clean` is applied to all its texts."""
    if reply.status != _OK:
        return _refusal(reply, provider, clean)
    try:
        return _read_object(reply, clean)
    except _Nonsense as nonsense:
        reason = f"the provider's reply {nonsense}"
    return BalanceUnavailable(provider=provider, reason=reason)


def cleaner(key: Secret) -> Clean:
    """A function that makes a text printable, masks the key in it and cuts it to 200 characters."""
    value = key.reveal()
    # Masking a key of one letter would only garble what the provider says.
    shown = re.compile(re.escape(value), re.IGNORECASE) if len(value) >= _MASKABLE else None

    def clean(text: str) -> str:
        printable = "".join(filter(str.isprintable, " ".join(text.split())))
        return (shown.sub("***", printable) if shown else printable)[:_MAX_TEXT]

    return clean


async def _ask(
    client: httpx.AsyncClient, url: str, credential: Credential, provider: str
) -> dict[str, object] | BalanceUnavailable:
    try:
        async with client.stream(
            "GET", url, headers=credential.headers(), follow_redirects=False
        ) as response:
            reply = await _receive(response)
    except Exception as error:  # noqa: BLE001 - whatever it is, its frames hold the headers
        return _no_reply(error, provider)
    return judge(reply, provider, cleaner(credential.key))


async def _receive(response: httpx.Response) -> Reply:
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BODY:
                break
    except httpx.TransportError:
        # Any other status has said all that matters; the body only adds the provider's words.
        if response.status_code == _OK:
            raise
    return Reply(
        status=response.status_code,
        body=bytes(body),
        encoding=response.headers.get("content-encoding", "").strip().lower(),
        retry_after=retry_after(response.headers.get("retry-after"), time.time()),
    )


def _no_reply(error: Exception, provider: str) -> BalanceUnavailable:
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        reason = (
            "the provider's TLS certificate was not accepted: check base_url and this machine's "
            "clock (SSL_CERT_FILE is read only with trust_env=True)"
        )
        return BalanceUnavailable(provider=provider, reason=reason)
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        reason = "the provider's name could not be resolved: check base_url and the network"
    elif isinstance(error, httpx.ProxyError):
        reason = "the proxy did not make the connection: check HTTPS_PROXY, or leave trust_env off"
    elif isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        reason = "no connection could be made: check base_url and the network"
    elif isinstance(error, httpx.RemoteProtocolError):
        reason = "the connection ended without a whole HTTP reply"
    elif isinstance(error, httpx.NetworkError | httpx.TimeoutException):
        reason = "the connection broke off before the reply was whole"
    else:
        # The error's own text may quote a header.
        reason = f"the request could not be made ({type(error).__name__})"
        return BalanceUnavailable(provider=provider, reason=reason)
    return Transient(provider=provider, reason=reason)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(reply: Reply, provider: str, clean: Clean) -> BalanceUnavailable:
    try:
        words = said(_read_object(reply, clean))
    except _Nonsense:
        words = ""
    status = reply.status
    answer = f"the provider answered {status}"
    told = f"{answer}: {words}" if words else answer
    if status in _REFUSALS:
        reason = f"{told}; check the key" if words else f"{answer}, so the key is not good for this"
        return InvalidCredentials(provider=provider, reason=reason)
    if status == _TOO_MANY or status in _SERVER_ERRORS:
        return Transient(provider=provider, reason=told, retry_after=reply.retry_after)
    if status in _REDIRECTS:
        told = f"{answer}, a redirect, and a key is sent nowhere else: check base_url"
    elif not words:
        told = f"{answer}, where only 200 counts: check base_url"
    return BalanceUnavailable(provider=provider, reason=told)


class _Nonsense(ValueError):
    """A reply that makes no sense; its text goes on from "the provider's reply"."""


def _read_object(reply: Reply, clean: Clean) -> dict[str, object]:
    if reply.encoding not in ("", "identity"):
        msg = "is compressed, which was not asked for"
        raise _Nonsense(msg)
    value = _parse(_text(reply.body), clean)
    if not isinstance(value, dict):
        msg = "is JSON, but not an object"
        raise _Nonsense(msg)
    return value


def _text(body: bytes) -> str:
    if len(body) > MAX_BODY:
        msg = "is longer than 16 KiB"
        raise _Nonsense(msg)
    if not body.strip():
        msg = "is empty"
        raise _Nonsense(msg)
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        msg = "begins with a byte order mark, which JSON must not"
        raise _Nonsense(msg)
    if body.lstrip().startswith(b"<"):
        msg = "is an HTML page, not JSON: check base_url"
        raise _Nonsense(msg)
    if body.count(b"[") + body.count(b"{") > _MAX_BRACKETS:
        msg = f"has more than {_MAX_BRACKETS} objects and lists in it, or nests them too deeply"
        raise _Nonsense(msg)
    try:
        return body.decode()
    except UnicodeDecodeError:
        msg = "is not UTF-8"
    raise _Nonsense(msg)


def _parse(text: str, clean: Clean) -> object:
    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        fields: dict[str, object] = {}
        for name, value in items:
            fields[clean(name)] = clean(value) if isinstance(value, str) else _bare(value)
        if len(fields) < len(items):
            msg = "names one field twice"
            raise _Nonsense(msg)
        return fields

    try:
        return json.loads(
            text,
            object_pairs_hook=pairs,
            parse_float=_number,
            parse_int=_number,
            parse_constant=_no_number,
        )
    except _Nonsense:
        raise
    except RecursionError:
        msg = "is nested too deeply"
    except ValueError:
        msg = "is not JSON"
    raise _Nonsense(msg)


def _bare(value: object) -> object:
    # No field of a balance is a list, and the texts in one have not been cleaned.
    return [] if isinstance(value, list) else value


def _number(digits: str) -> Decimal:
    if len(digits) > _MAX_NUMBER:
        msg = f"has a number of more than {_MAX_NUMBER} characters in it"
        raise _Nonsense(msg)
    try:
        number = Decimal(digits)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        msg = "has a number in it that is beyond all bounds"
        raise _Nonsense(msg)
    return number


def _no_number(name: str) -> NoReturn:
    msg = f"has {name} in it, which is no number"
    raise _Nonsense(msg)
