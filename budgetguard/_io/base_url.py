"""Which URLs a key may be sent to: https, or http that does not leave this machine."""

import ipaddress
import os
import re
from dataclasses import dataclass, field

from budgetguard._core.errors import ConfigurationError

# Not urlsplit: if it and the HTTP client parsed a URL differently, the key could go to another host.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[^\s?#\\]*)?)(?:\?(?P<query>[^\s#]*))?",
    re.IGNORECASE,
)
_DEFAULT_PORT = {"https": 443, "http": 80}
_LAST_PORT = 65535
_LOOPBACK4 = ipaddress.IPv4Network("127.0.0.0/8")
_LOOPBACK6 = ipaddress.IPv6Address("::1")


def find_base_url(given: str | None, variable: str, default: str) -> str:
    """`given`, or else what the environment's `variable` holds, or else `default`, checked."""
    if given is not None:
        return check_base_url(given)
    return check_base_url(os.environ.get(variable, "").strip() or default, variable)


def check_base_url(url: str, what: str = "base_url") -> str:
    """`url` in its normal form: lower case up to the path, no default port, no slash at the end.

    Raises ConfigurationError unless it is https, or http to localhost, 127.0.0.0/8 or ::1, and if it
    contains a user name, password, query or fragment. The error calls it `what`.
    """
    match = _URL.fullmatch(url) if isinstance(url, str) and url.isascii() else None
    if match is None or match["query"] is not None or not _exists(match["host"], match["port"]):
        msg = (
            f"{what} must be written https://host[:port][/path] (http:// for this machine alone), "
            "without a user name, a password, a query or a fragment."
        )
        raise ConfigurationError(msg)
    return _origin(match, what) + match["path"].rstrip("/")


@dataclass(frozen=True, slots=True)
class Address:
    """A checked URL, in parts: nothing to request below, but what to request. Only `query` may be secret."""

    origin: str
    path: str
    query: str = field(repr=False)

    def __str__(self) -> str:
        return self.origin + self.path


def check_address(url: str, what: str) -> Address:
    """The parts of `url`; raises ConfigurationError as `check_base_url` does, but a query is allowed."""
    match = _URL.fullmatch(url) if isinstance(url, str) and url.isascii() else None
    if match is None or not _exists(match["host"], match["port"]):
        msg = (
            f"{what} must be written https://host[:port][/path][?query] (http:// for this machine alone), "
            "without a user name, a password or a fragment."
        )
        raise ConfigurationError(msg)
    return Address(_origin(match, what), match["path"] or "/", match["query"] or "")


def _origin(match: re.Match[str], what: str) -> str:
    """Scheme, host and port in their normal form; raises ConfigurationError for http to another machine."""
    scheme, host = match["scheme"].lower(), match["host"].lower()
    if scheme == "http" and not _is_loopback(host):
        msg = (
            f"{what} would send the key unencrypted: write https://. Plain http is allowed only "
            "for localhost, 127.0.0.0/8 and [::1]."
        )
        raise ConfigurationError(msg)
    port = int(match["port"] or _DEFAULT_PORT[scheme])
    at = "" if port == _DEFAULT_PORT[scheme] else f":{port}"
    return f"{scheme}://{host}{at}"


def _exists(host: str, port: str | None) -> bool:
    if port is not None and not 0 < int(port) <= _LAST_PORT:
        return False
    return not host.startswith("[") or _address(host) is not None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if isinstance(address, ipaddress.IPv4Address):
        return address in _LOOPBACK4
    return host == "localhost" or address == _LOOPBACK6


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
