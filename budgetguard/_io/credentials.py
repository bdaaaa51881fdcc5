"""Credentials whose values are shown only where code explicitly calls for them."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Never, NoReturn, TypeAlias
from urllib.parse import quote, quote_plus

from budgetguard._core.errors import ConfigurationError

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_WORDS = re.compile(r"[!-~]+(?: +[!-~]+)*")


class Secret:
    """A key, stripped of surrounding white space; `what` names it in reprs and errors.

    With `words` it may have spaces inside, as in `Bearer KEY`. Raises TypeError for a value that is not a
    str, and ConfigurationError for an empty key or one with anything but visible ASCII, which an HTTP header
    cannot carry. Secrets compare by identity, and cannot be pickled or copied.
    """

    __slots__ = ("_value", "_what")

    def __init__(self, value: str, what: str, *, words: bool = False) -> None:
        self._what = what
        problem = _problem(value, what, words=words)
        if problem is not None:
            # A traceback may be printed together with its locals.
            del value
            raise problem
        self._value = value.strip()

    def reveal(self) -> str:
        """The key itself: for the request's header, never for anything that is stored."""
        return self._value

    def forms(self) -> set[str]:
        """All in which a reply may repeat the key: without the word before it, decoded, percent-encoded."""
        word, _, key = self._value.rpartition(" ")
        parts = {self._value, key, *(_login(key) if word.lower() == "basic" else ())}
        return {form for part in parts for form in (part, quote(part, safe=""), quote_plus(part))}

    def fingerprint(self) -> str:
        """A SHA-256 digest in hex: equal for equal keys, and not reversible."""
        return hashlib.sha256(b"budgetguard:" + self._value.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"<{self._what}: ***>"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        msg = f"{self._what} is a secret and cannot be pickled or copied: construct its owner again"
        raise TypeError(msg)

    def __getstate__(self) -> Never:
        self.__reduce_ex__(2)


@dataclass(frozen=True, slots=True)
class Credential:
    """A key, and how a request carries it: in the header `header`, after `prefix`.

    `beside` are further keys of the account, which no reply may show either.
    """

    key: Secret
    header: str
    prefix: str = ""
    beside: tuple[Secret, ...] = ()

    def headers(self) -> dict[str, str]:
        """The header that contains the key."""
        return {self.header: self.prefix + self.key.reveal()}

    def query(self) -> str:
        """Nothing: the query is no place for a key if there is another."""
        return ""

    def secrets(self) -> tuple[Secret, ...]:
        """What must not be shown."""
        return (self.key, *self.beside)


@dataclass(frozen=True, slots=True)
class RequestSecrets:
    """Headers and an encoded query, for vendors whose key is in either of them, or in several parts.

    `values` are those in the query: each may be the key.
    """

    named: tuple[tuple[str, Secret], ...] = ()
    encoded: Secret | None = None
    values: tuple[Secret, ...] = ()

    def headers(self) -> dict[str, str]:
        """The headers."""
        return {name: value.reveal() for name, value in self.named}

    def query(self) -> str:
        """The query, without a question mark; empty if there is none."""
        return "" if self.encoded is None else self.encoded.reveal()

    def secrets(self) -> tuple[Secret, ...]:
        """What must not be shown."""
        whole = () if self.encoded is None else (self.encoded,)
        return (*(value for _, value in self.named), *self.values, *whole)

    def fingerprint(self) -> str:
        """A SHA-256 digest in hex of all of it, in which neither order nor case of header names counts."""
        headers = sorted((name.lower(), value.fingerprint()) for name, value in self.named)
        query = "" if self.encoded is None else self.encoded.fingerprint()
        return hashlib.sha256(repr((headers, query)).encode()).hexdigest()


AnyCredential: TypeAlias = Credential | RequestSecrets


def _login(encoded: str) -> Iterator[str]:
    """The user name and password of HTTP's basic authentication, and the password alone."""
    # Deferred, so that importing budgetguard does not import it.
    import base64
    import binascii

    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return
    yield decoded
    yield decoded.partition(":")[2]


def _problem(value: object, what: str, *, words: bool) -> Exception | None:
    if not isinstance(value, str):
        return TypeError(f"{what} takes a str, not {type(value).__name__}")
    key = value.strip()
    if not key:
        return ConfigurationError(f"{what} is empty: give the key as the provider shows it.")
    if not words and len(key.split()) > 1:
        return ConfigurationError(
            f"{what} contains white space: give the key alone, without a word before it."
        )
    if not (_WORDS if words else _VISIBLE_ASCII).fullmatch(key):
        return ConfigurationError(
            f"{what} contains characters that no key has (control or non-ASCII): copy it again."
        )
    return None
