"""redis-py or valkey-py: what of a user's settings is taken, and connections with time-outs of our own.

A driver that sends a message again by itself would do so behind the store's `timeout`, ten times with
redis-py 8; valkey-py 6 waits for ever. So neither retries here, and both have a time-out. Their pools are not
used: redis-py 5 connects while it holds its pool's lock, and one dead connection then stops them all.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from budgetguard._core.errors import ConfigurationError
from budgetguard.stores import _redis_words as words

# Of a user's client, what says where the server is and who asks.
_KEPT = (
    *("host", "port", "path", "db", "username", "password", "credential_provider"),
    *("client_name", "socket_keepalive", "socket_keepalive_options"),
)
# Says nothing about the server: replies are the same text in both protocols.
_IGNORED = ("protocol",)


class Driver:
    """One of the two packages; `name` is that of its top-level module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def module(self, path: str) -> Any:
        """A module of it, which is imported now."""
        return importlib.import_module(f"{self.name}.{path}")

    @property
    def errors(self) -> Any:
        """Its module of exceptions."""
        return self.module("exceptions")

    @property
    def failures(self) -> type[Exception]:
        """The base class of its exceptions, whatever it is called."""
        base: type[Exception] = self.errors.ConnectionError.__mro__[1]
        return base

    def connection(self, kind: str, settings: Mapping[str, Any], timeout: float) -> Any:
        """A connection of that class, which is not made yet."""
        backoff, retry = self.module("backoff"), self.module("asyncio.retry")
        return getattr(self.module("asyncio.connection"), kind)(
            **settings,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=retry.Retry(backoff.NoBackoff(), 0),
            retry_on_timeout=False,
            retry_on_error=[],
            health_check_interval=0,
        )

    def kept(self, settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
        """What a user's client says of its server and of who asks; raises ConfigurationError."""
        given = {name: value for name, value in settings.items() if value is not None}
        kept = {name: value for name, value in given.items() if name in _KEPT}
        if kind != "SSLConnection":
            return kept
        secure = {name: value for name, value in given.items() if name.startswith("ssl_")}
        known = inspect.signature(
            self.module("asyncio.connection").SSLConnection.__init__
        ).parameters
        # One of a client without asyncio may be set to False where an asyncio client knows no such setting.
        lost = sorted(name for name in secure if secure[name] and name not in known)
        if lost:
            msg = (
                f"RedisStore cannot copy {', '.join(lost)}: its connections are those of "
                f"{self.name}.asyncio, which have no such setting."
            )
            raise ConfigurationError(msg)
        return {**kept, **{name: value for name, value in secure.items() if name in known}}

    def settings_of_url(self, url: str) -> tuple[str, dict[str, Any]]:
        """The class of connections and its settings; `url` is of one server. Raises ConfigurationError."""
        connection = self.module("asyncio.connection")
        scheme, _, rest = url.partition("://")
        if self.name == "valkey":
            scheme = scheme.replace("redis", "valkey")
        try:
            settings = dict(connection.parse_url(f"{scheme}://{rest}"))
        except ValueError:
            # The driver's own sentence may quote the URL, with a password in it.
            msg = "RedisStore cannot read the URL that it was given: check its port, path and options."
            raise ConfigurationError(msg) from None
        kind = settings.pop("connection_class", connection.Connection).__name__
        kept = self.kept(settings, kind)
        unknown = settings.keys() - kept.keys() - {*_IGNORED}
        if unknown:
            msg = f"RedisStore does not take {', '.join(sorted(unknown))} in its URL."
            raise ConfigurationError(msg)
        if kind == "SSLConnection":
            # redis-py 5 and valkey-py would take any certificate of an authority that they know.
            kept.setdefault("ssl_check_hostname", kept.get("ssl_cert_reqs") != "none")
        return kind, kept


def installed(wanted: str) -> Driver:
    """The driver that is installed, preferably that one; raises ConfigurationError."""
    for name in (wanted, "redis", "valkey"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return Driver(name)
    msg = f"{words.no_driver()}."
    raise ConfigurationError(msg)
