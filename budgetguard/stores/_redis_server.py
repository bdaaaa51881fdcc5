"""Where a store is: from a URL, or from a user's client of redis-py or valkey-py."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from budgetguard._core.errors import ConfigurationError
from budgetguard.stores._redis_cluster import ClusterPlace
from budgetguard.stores._redis_driver import Driver, installed
from budgetguard.stores._redis_node import ServerAddress
from budgetguard.stores._redis_place import OneServer, StorePlace
from budgetguard.stores._redis_sentinel import SentinelPlace

# Of each scheme the driver that is preferred, and the one that redis-py knows.
_SCHEMES = {
    "redis": ("redis", "redis"),
    "rediss": ("redis", "rediss"),
    "unix": ("redis", "unix"),
    "valkey": ("valkey", "redis"),
    "valkeys": ("valkey", "rediss"),
}
_LAST_PORT = 65535
_KINDS = ("", "sentinel", "cluster")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/?#\s]+)(?::([0-9]{1,5}))?")

_POOLS = ("ConnectionPool", "BlockingConnectionPool")
_PLAIN = ("Connection", "SSLConnection", "UnixDomainSocketConnection")
_BY_SENTINEL = {
    "SentinelManagedConnection": "Connection",
    "SentinelManagedSSLConnection": "SSLConnection",
}

_FORMS = (
    'RedisStore takes a URL such as "redis://localhost:6379", "rediss://..." with TLS, "valkey://...", '
    '"unix:///path/to/socket", "redis+sentinel://host1:26379,host2:26379/mymaster" or '
    '"redis+cluster://host1:7000,host2:7001".'
)


def server_of(url_or_client: object) -> StorePlace:
    """The place that a user named by a URL or a client; raises ConfigurationError or TypeError."""
    if isinstance(url_or_client, str):
        return _from_url(url_or_client)
    driver = type(url_or_client).__module__.partition(".")[0]
    pool: Any = getattr(url_or_client, "connection_pool", None)
    nodes: Any = getattr(url_or_client, "nodes_manager", None)
    if driver not in {"redis", "valkey"} or (pool is None and nodes is None):
        msg = (
            'RedisStore takes a URL such as "redis://localhost:6379", or a client of redis-py or valkey-py, '
            f"not {type(url_or_client).__name__}"
        )
        raise TypeError(msg)
    if pool is None:
        return _of_cluster(Driver(driver), url_or_client, nodes)
    kind = pool.connection_class.__name__
    if type(pool).__name__ == "SentinelConnectionPool" and kind in _BY_SENTINEL:
        return _of_sentinels(Driver(driver), pool)
    if kind not in _PLAIN or type(pool).__name__ not in _POOLS:
        msg = (
            f"RedisStore cannot copy a {type(url_or_client).__name__} with connections of its own kind: "
            "give it the URL of the server."
        )
        raise ConfigurationError(msg)
    return OneServer(Driver(driver), _address(Driver(driver), kind, pool.connection_kwargs))


# Clients.


def _address(driver: Driver, kind: str, settings: Mapping[str, Any]) -> ServerAddress:
    return ServerAddress(kind, driver.kept(settings, kind))


def _of_sentinels(driver: Driver, pool: Any) -> SentinelPlace:
    if not pool.is_master:
        msg = "RedisStore needs the primary: give it the client of master_for()."
        raise ConfigurationError(msg)
    manager = pool.sentinel_manager
    pools = [each.connection_pool for each in manager.sentinels]
    sentinels = [
        _address(driver, each.connection_class.__name__, each.connection_kwargs) for each in pools
    ]
    return SentinelPlace(
        driver,
        pool.service_name,
        sentinels,
        _address(driver, _BY_SENTINEL[pool.connection_class.__name__], pool.connection_kwargs),
        others=manager.min_other_sentinels,
        host=getattr(manager, "_force_master_ip", None),
    )


def _of_cluster(driver: Driver, client: Any, nodes: Any) -> ClusterPlace:
    # Without asyncio, only the manager of its nodes has them.
    settings: Any = getattr(client, "connection_kwargs", None) or nodes.connection_kwargs
    given = settings.get("connection_class")
    secure = settings.get("ssl") or (given is not None and given.__name__ == "SSLConnection")
    kind = "SSLConnection" if secure else "Connection"
    known = [(str(each.host), int(each.port)) for each in nodes.startup_nodes.values()]
    kept = _address(driver, kind, {**settings, "host": None, "port": None, "db": None})
    return ClusterPlace(driver, known, kept, getattr(nodes, "address_remap", None))


# URLs.


def _from_url(url: str) -> StorePlace:
    scheme, _, rest = url.partition("://")
    scheme, _, kind = scheme.partition("+")
    if scheme not in _SCHEMES or kind not in _KINDS or not rest or (kind and scheme == "unix"):
        raise ConfigurationError(_FORMS)
    wanted, scheme = _SCHEMES[scheme]
    driver = installed(wanted)
    if not kind:
        return OneServer(driver, ServerAddress(*driver.settings_of_url(f"{scheme}://{rest}")))
    before, _, query = rest.partition("?")
    who, _, where = before.rpartition("@")
    hosts, _, path = where.partition("/")
    options = dict(parse_qsl(query, keep_blank_values=True))
    at = f"{who}@" if who else ""
    if kind == "cluster":
        if path or "db" in options:
            msg = "RedisStore takes no database in the URL of a cluster, which has only one."
            raise ConfigurationError(msg)
        known = _hosts(hosts, 6379)
        settings = driver.settings_of_url(f"{scheme}://{at}localhost?{urlencode(options)}")
        return ClusterPlace(driver, known, ServerAddress(*settings))
    service = unquote(path)
    if not service or "/" in service:
        msg = (
            "RedisStore needs the name of the primary in the URL of sentinels: "
            '"redis+sentinel://host1:26379,host2:26379/mymaster".'
        )
        raise ConfigurationError(msg)
    theirs = {
        name: options.pop(f"sentinel_{name}", None) or None for name in ("username", "password")
    }
    server = ServerAddress(
        *driver.settings_of_url(f"{scheme}://{at}localhost?{urlencode(options)}")
    )
    # What is about TLS holds for both.
    secure = {name: each for name, each in server.settings.items() if name.startswith("ssl_")}
    own = {name: each for name, each in theirs.items() if each is not None}
    reached = ServerAddress(server.kind, {**secure, **own})
    sentinels = [reached.at(*each) for each in _hosts(hosts, 26379)]
    return SentinelPlace(driver, service, sentinels, server)


def _hosts(text: str, port: int) -> list[tuple[str, int]]:
    found = []
    for each in text.split(","):
        match = _HOST.fullmatch(each)
        if match is None or not 0 < int(match[2] or port) <= _LAST_PORT:
            msg = (
                "RedisStore cannot read the hosts in the URL that it was given: they are written as "
                "host1:port,host2:port."
            )
            raise ConfigurationError(msg)
        found.append((unquote(match[1]).strip("[]"), int(match[2] or port)))
    return found
