"""Which server a store is in, and how it is reached: by redis-py or valkey-py, with settings of our own.

A driver that sends a message again by itself would do so behind the store's `timeout`, ten times with
redis-py 8; valkey-py 6 waits for ever. So neither retries here, and both have a time-out.
"""

import importlib
from collections.abc import Hashable
from typing import Any

from budgetguard._core.errors import ConfigurationError
from budgetguard.stores import _redis_words as words

_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}
# Of a user's client, what says where the server is and who asks.
_KEPT = (
    *("host", "port", "path", "db", "username", "password", "credential_provider"),
    *("client_name", "protocol", "socket_keepalive", "socket_keepalive_options"),
)
_POOLS = ("ConnectionPool", "BlockingConnectionPool")
_PLAIN = ("Connection", "SSLConnection", "UnixDomainSocketConnection")


class RedisServer:
    """A server: `settings` are those of a connection of `kind`, from `driver`. `where` is for people."""

    def __init__(self, driver: str, kind: str, settings: dict[str, Any]) -> None:
        self.driver = driver
        self.kind = kind
        self.settings = settings
        host, port = settings.get("host") or "localhost", settings.get("port") or 6379
        self.where = str(settings["path"]) if "path" in settings else f"{host}:{port}"
        self.db = int(settings.get("db") or 0)

    @property
    def identity(self) -> Hashable:
        """Equal for the same database of the same server, if it is written alike."""
        return (self.where, self.db)

    def client(self, timeout: float) -> Any:
        """A client for one event loop."""
        asyncio_part = importlib.import_module(f"{self.driver}.asyncio")
        backoff = importlib.import_module(f"{self.driver}.backoff")
        retry = importlib.import_module(f"{self.driver}.asyncio.retry")
        connection = importlib.import_module(f"{self.driver}.asyncio.connection")
        pool = asyncio_part.ConnectionPool(
            connection_class=getattr(connection, self.kind),
            **{
                **self.settings,
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
                "retry": retry.Retry(backoff.NoBackoff(), 0),
                "retry_on_timeout": False,
                "retry_on_error": [],
                "health_check_interval": 0,
            },
        )
        maker = asyncio_part.Redis if self.driver == "redis" else asyncio_part.Valkey
        return maker(connection_pool=pool)

    def errors(self) -> Any:
        """The driver's module of exceptions."""
        return importlib.import_module(f"{self.driver}.exceptions")


def server_of(url_or_client: object) -> RedisServer:
    """The server that a user named by a URL or a client; raises ConfigurationError or TypeError."""
    if isinstance(url_or_client, str):
        return _from_url(url_or_client)
    driver = type(url_or_client).__module__.partition(".")[0]
    pool: Any = getattr(url_or_client, "connection_pool", None)
    if driver not in {"redis", "valkey"} or (pool is None and not _is_cluster(url_or_client)):
        msg = (
            'RedisStore takes a URL such as "redis://localhost:6379", or a client of redis-py or valkey-py, '
            f"not {type(url_or_client).__name__}"
        )
        raise TypeError(msg)
    kind = "" if pool is None else pool.connection_class.__name__
    if pool is None or kind not in _PLAIN or type(pool).__name__ not in _POOLS:
        msg = (
            f"RedisStore cannot copy a {type(url_or_client).__name__} with connections of its own kind: "
            "give it the URL of the server."
        )
        raise ConfigurationError(msg)
    given = pool.connection_kwargs
    names = [name for name in given if name in _KEPT or name.startswith("ssl_")]
    settings = {name: given[name] for name in names if given[name] is not None}
    return RedisServer(driver, kind, settings)


def _is_cluster(client: object) -> bool:
    return hasattr(client, "nodes_manager")


def _from_url(url: str) -> RedisServer:
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES or not rest:
        msg = (
            'RedisStore takes a URL such as "redis://localhost:6379", "rediss://..." with TLS, '
            '"valkey://..." or "unix:///path/to/socket".'
        )
        raise ConfigurationError(msg)
    driver = _installed("valkey" if scheme.startswith("valkey") else "redis")
    scheme = _SCHEMES[scheme]
    if driver == "valkey":
        scheme = scheme.replace("redis", "valkey")
    connection = importlib.import_module(f"{driver}.asyncio.connection")
    try:
        settings = connection.parse_url(f"{scheme}://{rest}")
    except ValueError:
        # The driver's own sentence may quote the URL, with a password in it.
        msg = "RedisStore cannot read the URL that it was given: check its port, path and options."
        raise ConfigurationError(msg) from None
    kind = settings.pop("connection_class", connection.Connection).__name__
    kept = {
        name: value for name, value in settings.items() if name in _KEPT or name.startswith("ssl_")
    }
    unknown = settings.keys() - kept.keys()
    if unknown:
        msg = f"RedisStore does not take {', '.join(sorted(unknown))} in its URL."
        raise ConfigurationError(msg)
    return RedisServer(driver, kind, kept)


def _installed(wanted: str) -> str:
    """The driver that is installed, preferably that one; raises ConfigurationError."""
    for name in (wanted, "redis", "valkey"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return name
    msg = f"{words.no_driver()}."
    raise ConfigurationError(msg)
