"""One hardened GET: what a provider's reply says, in exact numbers, or why it cannot be had.

A request's headers hold the key, and so does every exception and every frame of an HTTP client. So
nothing is raised from where they are in reach: `_ask` returns a failure like a result, and
`get_json` raises it when those frames are gone, without a cause.
"""

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpx

from budgetguard.clock import SYSTEM
from budgetguard.errors import BalanceUnavailable, InvalidCredentials
from budgetguard.failures import Transient, UsedUp, causes, used_up
from budgetguard.secret import Credential, Secret

MAX_BODY = 16 * 1024
MAX_RETRY_AFTER = 60.0

_OK = 200
_REDIRECTS = range(300, 400)
DENIED = (401, 403)
_TOO_MANY = 429
_SERVER_ERRORS = range(500, 600)

# CPython's own limit on nesting differs from version to version, up to 10,000 deep.
_MAX_BRACKETS = 200
_MAX_NUMBER = 64
_MAX_TEXT = 200
_MAX_DATE = 64
_MASKABLE = 4

# Where an error body has its words, and how many of a list are told.
_SAYING = ("error", "error_description", "title", "message", "msg", "detail", "errors")
_MOST_SAID = 3

# Between two values of Retry-After in one: seconds, or a date, which has a comma of its own.
_NEXT_WAIT = re.compile(r"\s*,\s*(?=[0-9]+(?:\.[0-9]*)?\s*(?:,|$)|[A-Za-z]{3,9},)", re.ASCII)
_MAX_DATES = 256

# Content codings (IANA's registry, 2026-11) that are one.
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
# Cloudflare's mark on a challenge page (its docs on challenges, 2026-11).
_CHALLENGE = "cf-mitigated"

# How Cloudflare turns down who is not to be shown a page (its page on 1xxx errors, 2026-11).
_BLOCKED = re.compile(rb"\s*error code: 1\d{3}\s*\Z")

Clean = Callable[[str], str]


async def get_json(
    client: httpx.AsyncClient,
    url: str,
    credential: Credential,
    *,
    provider: str,
) -> dict[str, object]:
    """The JSON object at `url`, with its numbers as Decimal.

    Its texts, names included, are printable, at most 200 characters long and free of the key.
    Raises Transient where another attempt may succeed, InvalidCredentials for 401
    and 403, BalanceUnavailable for everything else that is not status 200 and one sound object of
    at most 16 KiB; none of these holds the key. Has no deadline of its own.
    """
    outcome = await _ask(client, url, credential, provider)
    if isinstance(outcome, BalanceUnavailable):
        raise outcome
    return outcome


def said(fields: dict[str, Any]) -> str:
    """The provider's own words in an error body, without a full stop; or ''.

    The shapes: `{"error": text, "message": text}` and `{"error": {"code", "message"}}` (both
    providers' OpenAPI pages, 2026-11), a problem document's `title` and `detail` (RFC 9457), and
    FastAPI's `detail`, a text or a list of `{"loc", "msg"}`.
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


def longest_wait(values: list[str], now_wall: float) -> float | None:
    """`retry_after` of a header that may be sent more than once: the longest that it asks for."""
    waits = [wait for value in values if (wait := retry_after(value, now_wall)) is not None]
    return max(waits, default=None)


def retry_after(value: str | None, now_wall: float) -> float | None:
    """Seconds to wait, from a Retry-After header (seconds or an HTTP date), at most 60.

    None where there is none to be had; never raises. Where proxies have made one of several, the
    longest counts.
    """
    text = (value or "").strip()
    several = _NEXT_WAIT.split(text) if len(text) <= _MAX_DATES else []
    if len(several) > 1:
        return longest_wait(several, now_wall)
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


def is_page(headers: Mapping[str, str]) -> bool:
    """Whether a reply is a web page, by its headers: no API's answer, but that of something before it."""
    return "html" in headers.get("content-type", "").lower() or _CHALLENGE in headers


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: at most one chunk more than 16 KiB of the body.

    `page` where the headers say that it is a web page.
    """

    status: int
    body: bytes = field(repr=False)
    encoding: str = ""
    retry_after: float | None = None
    page: bool = False


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
        retry_after=longest_wait(response.headers.get_list("retry-after"), SYSTEM.wall()),
        page=is_page(response.headers),
    )


def _no_reply(error: Exception, provider: str) -> BalanceUnavailable:
    lack = used_up(error)
    if lack is not None:
        return UsedUp(provider=provider, reason=f"it could not be asked for: {lack}")
    behind = list(causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in behind):
        reason = (
            "the provider's TLS certificate was not accepted: check base_url and this machine's "
            "clock (SSL_CERT_FILE is read only with trust_env=True)"
        )
        return BalanceUnavailable(provider=provider, reason=reason)
    if any(isinstance(cause, socket.gaierror) for cause in behind):
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


def _refusal(reply: Reply, provider: str, clean: Clean) -> BalanceUnavailable:
    try:
        words = said(_read_object(reply, clean))
    except _Nonsense:
        words = ""
    status = reply.status
    answer = f"the provider answered {status}"
    told = f"{answer}: {words}" if words else answer
    if status in DENIED and (reply.page or _is_markup(reply.body) or _BLOCKED.match(reply.body)):
        reason = (
            f"{answer} with a web page, which is not its API's answer: a firewall or a proxy may "
            "have turned the request down; check base_url and the network"
        )
        return BalanceUnavailable(provider=provider, reason=reason, retry_after=reply.retry_after)
    if status in DENIED:
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
    # Some servers name here what is none, as `none` or `utf-8`: nothing was done to the body then.
    if not _CODINGS.isdisjoint(re.split(r"[\s,]+", reply.encoding)):
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
    if _is_markup(body):
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
    def cleaned(value: object) -> object:
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        return clean(value) if isinstance(value, str) else value

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        fields: dict[str, object] = {}
        for name, value in items:
            fields[clean(name)] = cleaned(value)
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


def _is_markup(body: bytes) -> bool:
    return body.lstrip().startswith(b"<")


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
