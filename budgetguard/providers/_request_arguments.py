"""The URL, headers and query of one request as users give them: checked, and kept as secrets."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, quote, unquote_plus

from budgetguard._core.argument_types import place
from budgetguard._core.errors import ConfigurationError
from budgetguard._io.base_url import Address, check_address
from budgetguard._io.credentials import RequestSecrets, Secret

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NAME = re.compile(r"[!-~]+(?: +[!-~]+)*")
# What the HTTP client decides, and what the reply's checks rely on.
_RESERVED: Final = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_SCHEMES: Final = frozenset({"apikey", "basic", "bearer", "deepl-auth-key", "key", "token"})


def request_arguments(
    url: str, headers: Mapping[str, str] | None, params: Mapping[str, str] | None
) -> tuple[Address, RequestSecrets]:
    """Where a request goes, without its query, and all that it carries.

    Raises TypeError, or ConfigurationError for what cannot be sent or cannot be right. No error shows a value,
    nor a name, which may be a key in the wrong place.
    """
    address = check_address(url, "url")
    named = _headers(_mapping(headers, "headers"))
    pairs = [
        (name, _secret(value, params, name, "parameter"))
        for name, value in _mapping(params, "params").items()
    ]
    query = [address.query] if address.query else []
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            msg = (
                f"The name of the {place([each for each, _ in pairs], name)} parameter is not one."
            )
            raise ConfigurationError(msg)
        query.append(f"{quote(name, safe='')}={quote(value.reveal(), safe='')}")
    values = [Secret(each, "The query", words=True) for each in _values(address.query)]
    encoded = Secret("&".join(query), "The query") if query else None
    values += [value for _, value in pairs]
    return address, RequestSecrets(named, encoded, tuple(values))


def _mapping(given: object, what: str) -> Mapping[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        msg = f"{what} takes a mapping of str to str, not {type(given).__name__}"
        raise TypeError(msg)
    if not all(isinstance(name, str) for name in given):
        msg = f"{what} takes a mapping of str to str, and one of its names is no str"
        raise TypeError(msg)
    return given


def _headers(headers: Mapping[str, str]) -> tuple[tuple[str, Secret], ...]:
    named: dict[str, tuple[str, Secret]] = {}
    for name, value in headers.items():
        where = f"The name of the {place(headers, name)} header"
        if not _TOKEN.fullmatch(name):
            msg = f"{where} contains characters that no header's name has."
            raise ConfigurationError(msg)
        if name.lower() in _RESERVED:
            msg = f"{name.lower()} cannot be set in headers=: it is set for each request."
            raise ConfigurationError(msg)
        if name.lower() in named:
            msg = f"{where} is that of an earlier one in other letters: headers are given once."
            raise ConfigurationError(msg)
        named[name.lower()] = name, _secret(value, headers, name, "header")
    return tuple(named.values())


def _secret(value: object, among: Mapping[str, str] | None, name: str, what: str) -> Secret:
    described = f"The value of the {place(among or {}, name)} {what}"
    secret = Secret(value, described, words=True)  # type: ignore[arg-type]  # it checks that
    words = secret.reveal().split()
    if words[-1] == "None":
        msg = f'{described} ends in the text "None": the variable that should hold the key is not set.'
        raise ConfigurationError(msg)
    if name.lower() in {"authorization", "proxy-authorization"} and words[-1].lower() in _SCHEMES:
        msg = f"{described} has no key after the word that says its kind: the key may be empty."
        raise ConfigurationError(msg)
    return secret


def _values(query: str) -> list[str]:
    """All values in a query that was given in the URL, as they are written and decoded, without empty ones."""
    written = [part.partition("=")[2] for part in query.split("&")]
    decoded = [value for _, value in parse_qsl(query)]
    # A parameter without a value may be a key as well.
    alone = [unquote_plus(part) for part in query.split("&") if "=" not in part]
    return [each for each in {*written, *decoded, *alone} if _NAME.fullmatch(each.strip())]
