"""A credential that shows itself to nobody who does not ask for it by name."""

import hashlib
import re
from dataclasses import dataclass
from typing import Never, NoReturn

from budgetguard.errors import ConfigurationError

_VISIBLE_ASCII = re.compile(r"[!-~]+")


class Secret:
    """A key, stripped of white space around it; `what` names it in reprs and errors.

    Raises TypeError for what is no str, ConfigurationError for an empty key or one with anything
    but visible ASCII in it, which no HTTP header carries. Secrets compare by identity, and cannot
    be pickled or copied.
    """

    __slots__ = ("_value", "_what")

    def __init__(self, value: str, what: str) -> None:
        self._what = what
        problem = _problem(value, what)
        if problem is not None:
            # A traceback may be printed together with its locals.
            del value
            raise problem
        self._value = value.strip()

    def reveal(self) -> str:
        """The key itself: for the request's header, and for nothing that stays."""
        return self._value

    def fingerprint(self) -> str:
        """A SHA-256 digest in hex: equal for equal keys, and no way back to them."""
        return hashlib.sha256(b"budgetguard:" + self._value.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"<{self._what}: ***>"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        msg = f"{self._what} is a secret, and is not pickled or copied: make its owner anew"
        raise TypeError(msg)

    def __getstate__(self) -> Never:
        self.__reduce_ex__(2)


@dataclass(frozen=True, slots=True)
class Credential:
    """A key, and how a request carries it: in `header`, after `prefix`."""

    key: Secret
    header: str
    prefix: str = ""

    def headers(self) -> dict[str, str]:
        """The header with the key itself in it."""
        return {self.header: self.prefix + self.key.reveal()}


def _problem(value: object, what: str) -> Exception | None:
    if not isinstance(value, str):
        return TypeError(f"{what} takes a str, not {type(value).__name__}")
    key = value.strip()
    if not key:
        return ConfigurationError(f"{what} is empty: give the key as the provider shows it.")
    if len(key.split()) > 1:
        return ConfigurationError(
            f"{what} has white space inside: give one key alone, without a word before it."
        )
    if not _VISIBLE_ASCII.fullmatch(key):
        return ConfigurationError(
            f"{what} has characters in it that no key has (control or non-ASCII): copy it again."
        )
    return None
