"""A credential whose value is shown only where code explicitly calls for it."""

import hashlib
import re
from dataclasses import dataclass
from typing import Never, NoReturn

from budgetguard._core.errors import ConfigurationError

_VISIBLE_ASCII = re.compile(r"[!-~]+")


class Secret:
    """A key, stripped of surrounding white space; `what` names it in reprs and errors.

    Raises TypeError for a value that is not a str, and ConfigurationError for an empty key or one
    with anything but visible ASCII, which an HTTP header cannot carry. Secrets compare by identity,
    and cannot be pickled or copied.
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
        """The key itself: for the request's header, never for anything that is stored."""
        return self._value

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
    """A key, and how a request carries it: in the header `header`, after `prefix`."""

    key: Secret
    header: str
    prefix: str = ""

    def headers(self) -> dict[str, str]:
        """The header that contains the key."""
        return {self.header: self.prefix + self.key.reveal()}


def _problem(value: object, what: str) -> Exception | None:
    if not isinstance(value, str):
        return TypeError(f"{what} takes a str, not {type(value).__name__}")
    key = value.strip()
    if not key:
        return ConfigurationError(f"{what} is empty: give the key as the provider shows it.")
    if len(key.split()) > 1:
        return ConfigurationError(
            f"{what} contains white space: give the key alone, without a word before it."
        )
    if not _VISIBLE_ASCII.fullmatch(key):
        return ConfigurationError(
            f"{what} contains characters that no key has (control or non-ASCII): copy it again."
        )
    return None
