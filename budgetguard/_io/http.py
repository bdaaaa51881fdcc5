"""One hardened GET: a provider's JSON object with exact numbers, or the reason for a failure.

The request's headers contain the key, and every exception and frame of the HTTP client can reach
them. So no error is raised while they are reachable: `_ask` returns a failure like a result, and
`get_json` raises it, without a cause, once those frames are gone.
"""

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import httpx

from budgetguard._core.clock import SYSTEM
from budgetguard._core.errors import BalanceUnavailable, InvalidCredentials
from budgetguard._core.refresh_failure import Transient, UsedUp, causes, used_up
from budgetguard._core.retry_after import longest_wait
from budgetguard._io.credentials import AnyCredential, Secret
from budgetguard._io.unlogged import UNLOGGED, with_query

MAX_BODY = 16 * 1024
MAX_LONG_BODY = 8 * 1024 * 1024

_OK = 200
# 202 is how some vendors say that work goes on.
_ABOUT_WORK = frozenset({_OK, 202, 404})
_REDIRECTS = range(300, 400)
DENIED = (401, 403)
_TOO_MANY = 429
_SERVER_ERRORS = range(500, 600)

# CPython's own limit on nesting differs from version to version, up to 10,000 deep.
_MAX_BRACKETS = 200
_MAX_NUMBER = 64
_MAX_TEXT = 200
_MASKABLE = 4

# The fields of an error body that contain its message, and how many items of a list are quoted.
_SAYING = ("error", "error_description", "title", "message", "msg", "detail", "errors")
_MOST_SAID = 3

# The content codings (IANA's registry, 2026-11) that change a body.
_CODINGS = frozenset(
    [
        "aes128gcm",
        "br",
        "compress",
        "dcb",
        "dcz",
        "deflate",
        "exi",
        "gzip",
        "pack200-gzip",
        "x-compress",
        "x-gzip",
        "zstd",
    ]
)
# The header that marks Cloudflare's challenge pages (its docs on challenges, 2026-11).
_CHALLENGE = "cf-mitigated"

# How Cloudflare refuses a client without showing a page (its page on 1xxx errors, 2026-11).
_BLOCKED = re.compile(rb"\s*error code: 1\d{3}\s*\Z")

Clean = Callable[[str], str]


async def get_json(
    client: httpx.AsyncClient,
    url: str,
    credential: AnyCredential,
    *,
    provider: str,
    as_sent: bool = False,
) -> dict[str, object]:
    """The JSON object at `url`, which has no query, with its numbers as Decimal.

    Its strings are printable, at most 200 characters long and never contain the key. A field whose
    name would have to be changed for that is left out. With `as_sent`, names and strings are those of the
    reply, and must be cleaned before they are shown. Raises Transient if another attempt may succeed,
    InvalidCredentials for 401 and 403, and BalanceUnavailable for anything else that is not status 200 with
    one valid object of at most 16 KiB. None of these errors contains the key. Has no deadline of its own.
    """
    outcome = await _ask(client, url, credential, provider, as_sent=as_sent)
    if isinstance(outcome, BalanceUnavailable):
        raise outcome
    return outcome


async def get_reply(
    client: httpx.AsyncClient,
    url: str,
    credential: AnyCredential,
    *,
    provider: str,
) -> tuple[int, bytes | None]:
    """The status of a GET, 200, 202 or 404, and its body as it was sent; None for one that is not usable.

    For replies about work, which contain its results: they may be 8 MiB long, and are not searched for
    the key, so no text in them may be shown. A body that is longer or compressed is not usable. Raises as
    `get_json` does for any other status, and for a connection that fails. Has no deadline of its own.
    """
    reply = await _ask_reply(client, url, credential, provider)
    if isinstance(reply, BalanceUnavailable):
        raise reply
    usable = len(reply.body) <= MAX_LONG_BODY and not _is_coded(reply.encoding)
    return reply.status, reply.body if usable else None


def said(fields: dict[str, Any]) -> str:
    """The provider's own message in an error body, without a final period; or ''.

    The known shapes: `{"error": text, "message": text}` and `{"error": {"code", "message"}}` (both
    providers' OpenAPI pages, 2026-11), a problem document's `title` and `detail` (RFC 9457), and
    FastAPI's `detail`, a string or a list of `{"loc", "msg"}`.
    """
    return ": ".join(dict.fromkeys(_words(fields)))[:_MAX_TEXT].rstrip(". ")


def _words(value: object) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list):
        for item in value[:_MOST_SAID]:
            yield from _words(item)
    elif isinstance(value, dict):
        where = value.get("loc")
        if isinstance(where, list) and where:
            yield ".".join(map(str, where))
        for name in _SAYING:
            yield from _words(value.get(name))


def is_page(headers: Mapping[str, str]) -> bool:
    """Whether the headers mark a web page, which comes not from the API but from something in front of it."""
    return "html" in headers.get("content-type", "").lower() or _CHALLENGE in headers


@dataclass(frozen=True, slots=True)
class BalanceReply:
    """A provider's response; its body is cut off one chunk after 16 KiB, or 8 MiB for a reply about work.

    `page` is True if the headers mark a web page.
    """

    status: int
    body: bytes = field(repr=False)
    encoding: str = ""
    retry_after: float | None = None
    page: bool = False


def judge(
    reply: BalanceReply, provider: str, clean: Clean, *, as_sent: bool = False
) -> dict[str, object] | BalanceUnavailable:
    """The reply's object, or the failure to raise; `clean` is applied to all its strings, unless `as_sent`."""
    if reply.status != _OK:
        return _refusal(reply, provider, clean)
    try:
        return _read_object(reply, str if as_sent else clean)
    except _Nonsense as nonsense:
        reason = f"the provider's reply {nonsense}"
    return BalanceUnavailable(provider=provider, reason=reason)


def cleaner(*keys: Secret) -> Clean:
    """A function that makes a string printable, masks the keys in it and cuts it to 200 characters."""
    # Masking a key of one letter would only garble the provider's message.
    forms = {form for key in keys for form in key.forms() if len(form) >= _MASKABLE}
    # The longest first: a key may contain another one.
    pattern = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    shown = re.compile(pattern, re.IGNORECASE) if forms else None

    def clean(text: str) -> str:
        printable = "".join(filter(str.isprintable, " ".join(text.split())))
        return (shown.sub("***", printable) if shown else printable)[:_MAX_TEXT]

    return clean


async def _ask(
    client: httpx.AsyncClient,
    url: str,
    credential: AnyCredential,
    provider: str,
    *,
    as_sent: bool,
) -> dict[str, object] | BalanceUnavailable:
    reply = await _send(client, url, credential, provider, MAX_BODY)
    if isinstance(reply, BalanceUnavailable):
        return reply
    return judge(reply, provider, cleaner(*credential.secrets()), as_sent=as_sent)


async def _ask_reply(
    client: httpx.AsyncClient, url: str, credential: AnyCredential, provider: str
) -> BalanceReply | BalanceUnavailable:
    reply = await _send(client, url, credential, provider, MAX_LONG_BODY)
    if isinstance(reply, BalanceUnavailable) or reply.status in _ABOUT_WORK:
        return reply
    return _refusal(reply, provider, cleaner(*credential.secrets()))


async def _send(
    client: httpx.AsyncClient, url: str, credential: AnyCredential, provider: str, most: int
) -> BalanceReply | BalanceUnavailable:
    try:
        request = client.build_request(
            "GET", url, headers=credential.headers(), extensions=UNLOGGED
        )
        with_query(request, credential.query())
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            return await _receive(response, most)
        finally:
            await response.aclose()
    except Exception as error:  # noqa: BLE001 - whatever it is, its frames contain the headers
        return _no_reply(error, provider, url)


async def _receive(response: httpx.Response, most: int) -> BalanceReply:
    body = bytearray()
    try:
        if response.is_stream_consumed:
            # A response of httpx.MockTransport has been read already, and cannot be streamed.
            body += response.content
        else:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > most:
                    break
    except httpx.TransportError:
        # With any other status, the body would only add the provider's message.
        if response.status_code == _OK:
            raise
    return BalanceReply(
        status=response.status_code,
        body=bytes(body),
        encoding=response.headers.get("content-encoding", "").strip().lower(),
        retry_after=longest_wait(response.headers.get_list("retry-after"), SYSTEM.wall()),
        page=is_page(response.headers),
    )


def _no_reply(error: Exception, provider: str, url: str) -> BalanceUnavailable:
    lack = used_up(error)
    if lack is not None:
        return UsedUp(provider=provider, reason=f"the request could not be made: {lack}")
    behind = list(causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in behind):
        reason = (
            "the provider's TLS certificate was not accepted: check the URL and this machine's "
            "clock (SSL_CERT_FILE is read only with trust_env=True)"
        )
        return BalanceUnavailable(provider=provider, reason=reason)
    if any(isinstance(cause, socket.gaierror) for cause in behind):
        reason = "the provider's name could not be resolved: check the URL and the network"
    elif isinstance(error, httpx.ProxyError):
        reason = "the proxy did not connect: check HTTPS_PROXY, or leave trust_env off"
    elif isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        address = httpx.URL(url).copy_with(raw_path=b"/")
        reason = f"nothing answers at {str(address).rstrip('/')}: check the URL and the network"
    elif isinstance(error, httpx.RemoteProtocolError):
        reason = "the connection ended without a complete HTTP response"
    elif isinstance(error, httpx.NetworkError | httpx.TimeoutException):
        reason = "the connection was lost before the response was complete"
    else:
        # The error's own text may quote a header.
        reason = f"the request could not be made ({type(error).__name__})"
        return BalanceUnavailable(provider=provider, reason=reason)
    return Transient(provider=provider, reason=reason)


def _refusal(reply: BalanceReply, provider: str, clean: Clean) -> BalanceUnavailable:
    try:
        words = said(_read_object(reply, clean))
    except _Nonsense:
        words = ""
    status = reply.status
    answer = f"the provider answered {status}"
    message = f"{answer}: {words}" if words else answer
    if status in DENIED and (reply.page or _is_markup(reply.body) or _BLOCKED.match(reply.body)):
        reason = (
            f"{answer} with a web page, which its API does not send: a firewall or a proxy may "
            "have blocked the request; check the URL and the network"
        )
        return BalanceUnavailable(provider=provider, reason=reason, retry_after=reply.retry_after)
    if status in DENIED:
        reason = f"{message}; check the key" if words else f"{answer}, so the key is not accepted"
        return InvalidCredentials(provider=provider, reason=reason)
    if status == _TOO_MANY or status in _SERVER_ERRORS:
        return Transient(provider=provider, reason=message, retry_after=reply.retry_after)
    if status in _REDIRECTS:
        message = f"{answer}, a redirect, which is not followed, so that the key goes nowhere else: check the URL"
    elif not words:
        message = f"{answer}, and only 200 is accepted: check the URL"
    return BalanceUnavailable(provider=provider, reason=message)


class _Nonsense(ValueError):
    """A reply that is not valid; its text continues the sentence "the provider's reply ..."."""


def _read_object(reply: BalanceReply, clean: Clean) -> dict[str, object]:
    if _is_coded(reply.encoding):
        msg = "is compressed, which was not requested"
        raise _Nonsense(msg)
    value = _parse(_text(reply.body), clean)
    if not isinstance(value, dict):
        msg = "is JSON, but not an object"
        raise _Nonsense(msg)
    return value


def _is_coded(encoding: str) -> bool:
    # Some servers send a value that is not a coding, such as `none` or `utf-8`: the body is as it is.
    return not _CODINGS.isdisjoint(re.split(r"[\s,]+", encoding))


def _text(body: bytes) -> str:
    if len(body) > MAX_BODY:
        msg = "is longer than 16 KiB"
        raise _Nonsense(msg)
    if not body.strip():
        msg = "is empty"
        raise _Nonsense(msg)
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        msg = "begins with a byte order mark, which JSON does not allow"
        raise _Nonsense(msg)
    if _is_markup(body):
        msg = "is an HTML page, not JSON: check the URL"
        raise _Nonsense(msg)
    if body.count(b"[") + body.count(b"{") > _MAX_BRACKETS:
        msg = f"contains more than {_MAX_BRACKETS} objects and lists, or nests them too deeply"
        raise _Nonsense(msg)
    try:
        return body.decode()
    except UnicodeDecodeError:
        msg = "is not UTF-8"
    raise _Nonsense(msg)


def _parse(text: str, clean: Clean) -> object:
    def cleaned(value: object) -> object:
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        return clean(value) if isinstance(value, str) else value

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        if len({clean(name) for name, _ in items}) < len(items):
            msg = "contains a field twice"
            raise _Nonsense(msg)
        # A name that is not clean is not that of a known field, and must not become one.
        return {name: cleaned(value) for name, value in items if clean(name) == name}

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


def _is_markup(body: bytes) -> bool:
    return body.lstrip().startswith(b"<")


def _number(digits: str) -> Decimal:
    if len(digits) > _MAX_NUMBER:
        msg = f"contains a number of more than {_MAX_NUMBER} characters"
        raise _Nonsense(msg)
    try:
        number = Decimal(digits)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        msg = "contains a number that is out of range"
        raise _Nonsense(msg)
    return number


def _no_number(name: str) -> NoReturn:
    msg = f"contains {name}, which is not a number"
    raise _Nonsense(msg)
