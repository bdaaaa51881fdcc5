"""A provider that misbehaves on the wire, and the replies that a fetch has to refuse."""

import gzip
import socket
import ssl
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import pytest

from budgetguard._core.errors import BalanceUnavailable, InvalidCredentials
from budgetguard._core.refresh_failure import Transient

# httpx leaves the generators of a body that is not read to its end to the collector, of which trio
# warns. The library's own loop is asyncio's.
half_read = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

KEY = "pdk_canary_51f0a9c7e2d84b6f"


class Hangup(bytes):
    """What to send before the connection is reset."""


class Pieces(list[bytes]):
    """What to send piece by piece, after which the connection remains open."""


class Server:
    """Raw HTTP on loopback: the nth request gets the nth reply, later ones the last."""

    def __init__(
        self, *replies: bytes | Iterable[bytes], tls: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.sent = 0
        self.hung_up_on = False
        self._replies = replies
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The base URL, without TLS."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop, and wait for every thread."""
        if self._listener.fileno() == -1:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join()
        for connection in self._open:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            while request := self._read(connection):
                self.requests.append(request)
                reply = self._replies[min(len(self.requests), len(self._replies)) - 1]
                if not self._send(connection, reply):
                    break
        except OSError:
            self.hung_up_on = True
        connection.close()

    def _read(self, connection: socket.socket) -> bytes:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            chunk = connection.recv(65536)
            if not chunk:
                return b""
            request += chunk
        return request

    def _send(self, connection: socket.socket, reply: bytes | Iterable[bytes]) -> bool:
        for piece in [reply] if isinstance(reply, bytes) else reply:
            connection.sendall(piece)
            self.sent += len(piece)
        if isinstance(reply, Hangup):
            reset = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            return False
        if isinstance(reply, Pieces):
            return True
        return isinstance(reply, bytes) and b"connection: close" not in reply


def http(status: int, body: bytes | str = b"", *headers: str, keep: bool = True) -> bytes:
    """A whole and well-formed reply."""
    raw = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Status", f"content-length: {len(raw)}", *headers]
    if not keep:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + raw


def predev(number: str) -> bytes:
    """A reply of pre.dev with `number` for its balance."""
    return http(200, f'{{"success": true, "creditsRemaining": {number}}}')


@dataclass(frozen=True)
class Case:
    """One reply that is no balance, and what is said of it."""

    name: str
    wire: bytes
    words: str
    kind: type[BalanceUnavailable] = BalanceUnavailable


def _body(name: str, body: bytes | str, words: str) -> Case:
    return Case(name, http(200, body), words)


def _number(name: str, number: str, words: str) -> Case:
    return Case(name, predev(number), words)


def _status(
    status: int, words: str, kind: type[BalanceUnavailable] = BalanceUnavailable, body: str = ""
) -> Case:
    return Case(f"status-{status}{'-with-words' * bool(body)}", http(status, body), words, kind)


def _raw(
    name: str, wire: bytes, words: str, kind: type[BalanceUnavailable] = BalanceUnavailable
) -> Case:
    return Case(name, wire, words, kind)


def _mangled(name: str, wire: bytes) -> Case:
    return Case(name, wire, "complete HTTP response", Transient)


_GOOD = '{"success": true, "creditsRemaining": 450}'
_FLAT = f'{{"error": "Key {KEY} is bad.", "message": "Use another than {KEY}."}}'
_NESTED = f'{{"error": {{"code": 400, "message": "No\\u0000thing\\nknown of {KEY}."}}}}'
_BOMB = gzip.compress(bytes(100_000_000))

CASES = [
    _body("empty", b"", "is empty"),
    _body("only-white-space", b" \r\n\t ", "is empty"),
    _body("byte-order-mark", b"\xef\xbb\xbf" + _GOOD.encode(), "byte order mark"),
    _body("utf-16", _GOOD.encode("utf-16"), "byte order mark"),
    _body("utf-16-without-mark", _GOOD.encode("utf-16-le"), "is not JSON"),
    _body("latin-1", '{"success": true, "tier": "é"}'.encode("latin-1"), "is not UTF-8"),
    _body("overlong-utf-8", b'{"tier": "\xc0\xaf"}', "is not UTF-8"),
    _body("html", "<!doctype html><title>Sign in</title>", "is an HTML page"),
    _body("html-after-space", "\n\n  <html></html>", "is an HTML page"),
    _body("text", "OK", "is not JSON"),
    _body("truncated", _GOOD[:-4], "is not JSON"),
    _body("trailing", _GOOD + "}", "is not JSON"),
    _body("two-objects", _GOOD + _GOOD, "is not JSON"),
    _body("trailing-comma", '{"success": true,}', "is not JSON"),
    _body("single-quotes", "{'success': true}", "is not JSON"),
    _body("comment", '{"success": true /* yes */}', "is not JSON"),
    _body("control-character", '{"success": "a\x01"}', "is not JSON"),
    _body("nul-bytes", bytes(100), "is not JSON"),
    _body("leading-zero", '{"success": true, "creditsRemaining": 0450}', "is not JSON"),
    _body("hexadecimal", '{"success": true, "creditsRemaining": 0x1F}', "is not JSON"),
    _body("plus-sign", '{"success": true, "creditsRemaining": +5}', "is not JSON"),
    _body("underscore", '{"success": true, "creditsRemaining": 1_000}', "is not JSON"),
    _body("list", f"[{_GOOD}]", "not an object"),
    _body("null", "null", "not an object"),
    _body("bare-number", "450", "not an object"),
    _body("bare-text", '"450"', "not an object"),
    _body("bare-true", "true", "not an object"),
    _body("nan", "NaN", "NaN"),
    _body("deep-list", b"[" * 16_000, "too deeply"),
    _body("deep-object", b'{"a":' * 3_000, "too deeply"),
    _body(
        "deep-but-closed",
        '{"success": true, "creditsRemaining": 5, "x": ' + "[" * 4_000 + "]" * 4_000 + "}",
        "too deeply",
    ),
    _body(
        "deep-within-limits-of-cpython",
        '{"success": true, "creditsRemaining": 5, "x": ' + "[" * 250 + "]" * 250 + "}",
        "too deeply",
    ),
    _body("too-long", _GOOD + " " * 16_384, "longer than 16 KiB"),
    _body("long-list-of-integers", "[" + "1," * 40_000 + "1]", "longer than 16 KiB"),
    _body("empty-object", "{}", "success is missing"),
    _body("only-success", '{"success": true}', "creditsRemaining is missing"),
    _body("other-case", '{"success": true, "creditsremaining": 5}', "creditsRemaining is missing"),
    _body("only-credits", '{"creditsRemaining": 450}', "success is missing"),
    _body("no-success", '{"success": false, "creditsRemaining": 450}', "reported a failure"),
    _body(
        "no-success-with-words",
        f'{{"success": false, "creditsRemaining": 450, "error": "Bad {KEY}"}}',
        "reported a failure: Bad ***",
    ),
    _body("success-null", '{"success": null, "creditsRemaining": 450}', "success in"),
    _body("success-text", '{"success": "true", "creditsRemaining": 450}', "is text, not true"),
    _body("success-one", '{"success": 1, "creditsRemaining": 450}', "is a number, not true"),
    _body(
        "duplicate-credits",
        '{"success": true, "creditsRemaining": 0, "creditsRemaining": 450}',
        "a field twice",
    ),
    _body(
        "duplicate-by-escape",
        '{"success": true, "creditsRemaining": 0, "credits\\u0052emaining": 450}',
        "a field twice",
    ),
    _body(
        "duplicate-when-cleaned",
        '{"success": true, "creditsRemaining": 0, "credits\\u0000Remaining": 450}',
        "a field twice",
    ),
    _body(
        "duplicate-elsewhere",
        '{"success": true, "creditsRemaining": 4, "x": {"a": 1, "a": 2}}',
        "a field twice",
    ),
    _body(
        "nan-elsewhere",
        '{"success": true, "creditsRemaining": 4, "x": NaN}',
        "which is not a number",
    ),
    _number("credits-nan", "NaN", "contains NaN, which is not a number"),
    _number("credits-infinity", "Infinity", "contains Infinity"),
    _number("credits-minus-infinity", "-Infinity", "contains -Infinity"),
    _number("credits-1e400", "1e400", "beyond 10^12"),
    _number("credits-1e13", "1e13", "beyond 10^12"),
    _number("credits-minus-1e13", "-1e13", "beyond 10^12"),
    _number("credits-just-beyond", "1000000000000.000001", "beyond 10^12"),
    _number("credits-minus-huge", "-1" + "0" * 40, "beyond 10^12"),
    _number("exponent-beyond-decimal", "1e99999999999999999999", "out of range"),
    _number("exponent-below-decimal", "1e-99999999999999999999", "out of range"),
    _number("integer-of-5000-digits", "9" * 5_000, "more than 64 characters"),
    _number("fraction-of-5000-digits", "0." + "9" * 5_000, "more than 64 characters"),
    _number("credits-true", "true", "is true, not a number"),
    _number("credits-false", "false", "is false, not a number"),
    _number("credits-null", "null", "is null"),
    _number("credits-text", '"450"', "is text, not a number"),
    _number("credits-unlimited", '"unlimited"', "is text, not a number"),
    _number("credits-list", "[450]", "is a list, not a number"),
    _number("credits-object", '{"amount": 450}', "is an object, not a number"),
    _raw("gzip", http(200, gzip.compress(_GOOD.encode()), "content-encoding: gzip"), "compressed"),
    _raw("gzip-bomb", http(200, _BOMB, "content-encoding: gzip"), "compressed"),
    _raw("deflate-said-only", http(200, _GOOD, "Content-Encoding: deflate"), "compressed"),
    _raw("encoded-twice", http(200, _GOOD, "content-encoding: identity, br"), "compressed"),
    _status(204, "204, and only 200 is accepted"),
    _status(201, "201, and only 200 is accepted", body=_GOOD),
    _status(206, "206, and only 200 is accepted", body=_GOOD),
    _status(302, "302, a redirect"),
    _status(304, "304, a redirect"),
    _status(400, "400, and only 200 is accepted"),
    _status(400, "400: Key *** is bad.: Use another than ***", body=_FLAT),
    _status(404, "404: Nothing known of ***", body=_NESTED.replace("\\n", " ")),
    _status(402, "402: no more", body='{"error": "no more", "code": 402}'),
    _status(401, "401: Key *** is bad", InvalidCredentials, _FLAT),
    _status(401, "401, so the key", InvalidCredentials),
    _status(403, "403, so the key", InvalidCredentials),
    _status(
        403, "403: plain words; check the key", InvalidCredentials, '{"detail": "plain words"}'
    ),
    _status(403, "403 with a web page", body="<!doctype html><title>Just a moment...</title>"),
    _status(401, "401 with a web page", body="\n <html><h1>401 Authorization Required</h1></html>"),
    _raw(
        "status-403-named-a-page",
        http(403, "Blocked", "content-type: text/html; charset=utf-8"),
        "its API does not send",
    ),
    _status(403, "its API does not send", body="error code: 1020\n"),
    _raw("status-403-challenge", http(403, "", "cf-mitigated: challenge"), "its API does not send"),
    _status(402, "402: Top up first", body='{"detail": "Top up first."}'),
    _status(
        402,
        "402: Out of credit: Your balance is 30, and ***",
        body=f'{{"type": "https://example.com/probs/out-of-credit", "title": "Out of credit", '
        f'"status": 402, "detail": "Your balance is 30, and {KEY}.", "balance": 30}}',
    ),
    _status(
        422,
        "422: header.anchor-api-key: Field required: Second ***",
        body='{"detail": [{"type": "missing", "loc": ["header", "anchor-api-key"], '
        f'"msg": "Field required", "input": null}}, {{"msg": "Second {KEY}"}}]}}',
    ),
    _status(400, "400: Three: Four", body='{"errors": [{"title": "Three"}, {"detail": "Four"}]}'),
    _status(429, "answered 429", Transient),
    _status(500, "500: Nothing known of ***", Transient, _NESTED),
    _status(502, "answered 502", Transient, "<html>Bad gateway</html>"),
    _status(503, "answered 503", Transient, "[" * 5_000),
    _status(599, "answered 599", Transient, '{"error": ["' + KEY + '"]}'),
    _raw("nothing", Hangup(b""), "connection was lost", Transient),
    _mangled("closed-at-once", b"connection: close"),
    _mangled("no-http", b"SSH-2.0-OpenSSH_9.6\r\nconnection: close\r\n\r\n"),
    _raw(
        "half-headers", Hangup(b"HTTP/1.1 200 OK\r\ncontent-le"), "connection was lost", Transient
    ),
    _mangled(
        "endless-headers",
        b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 30_000 + b"connection: close\r\n\r\n",
    ),
    _mangled(
        "body-cut-short",
        b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\nconnection: close\r\n\r\n" + _GOOD.encode(),
    ),
    _raw(
        "body-reset",
        Hangup(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n" + _GOOD.encode()),
        "connection was lost",
        Transient,
    ),
    _mangled(
        "two-lengths",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\nconnection: close\r\n\r\n{}",
    ),
    _mangled(
        "bad-chunk-size",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\nzz\r\n{}",
    ),
    _raw(
        "length-shorter-than-body",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n" + _GOOD.encode(),
        "is not JSON",
    ),
    _mangled(
        "switching-protocols", b"HTTP/1.1 101 Hm\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
    ),
]
