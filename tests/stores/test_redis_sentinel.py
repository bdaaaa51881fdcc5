"""A store in a primary that sentinels watch: how it is named, and what happens at a failover."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis_places
import redis_servers
from redis_places import SERVICE, Sentinels
from redis_talk import Hints, Talk, answered, talking, wakes

from budgetguard import ConfigurationError
from budgetguard._core.store_messages import Join, Report
from budgetguard.stores.redis import RedisStore

PROGRAMS = {
    "redis": redis_servers.redis_program,
    "valkey": redis_servers.valkey_program,
}


@pytest.fixture(params=PROGRAMS)
def place(request: pytest.FixtureRequest) -> Sentinels:
    """Sentinels of each engine."""
    redis_servers.driver()
    return redis_places.sentinels(PROGRAMS[request.param]())


def _client(driver: str, *, asynchronous: bool) -> Callable[[Sentinels], Any]:
    def make(place: Sentinels) -> Any:
        redis_servers.driver(driver)
        path = f"{driver}.asyncio.sentinel" if asynchronous else f"{driver}.sentinel"
        module: Any = __import__(path, fromlist=["Sentinel"])
        asked = [("127.0.0.1", port) for port in place.ports]
        return module.Sentinel(asked, decode_responses=True).master_for(SERVICE)

    return make


def _url(scheme: str) -> Callable[[Sentinels], str]:
    return lambda place: f"{scheme}+sentinel://{place.hosts}/{SERVICE}?db=2"


GIVEN: dict[str, Callable[[Sentinels], Any]] = {
    "redis url": _url("redis"),
    "valkey url": _url("valkey"),
    "redis": _client("redis", asynchronous=False),
    "redis asyncio": _client("redis", asynchronous=True),
    "valkey": _client("valkey", asynchronous=False),
    "valkey asyncio": _client("valkey", asynchronous=True),
}


@pytest.mark.parametrize("given", GIVEN)
def test_the_primary_is_found(given: str) -> None:
    """By a URL with the sentinels, or with a client of either package."""
    redis_servers.driver()
    place = redis_places.sentinels(redis_servers.redis_program())

    async def work(talk: Talk) -> None:
        assert (await talk.say(join=Join(60.0))).status == "done"

    store = RedisStore(GIVEN[given](place))
    assert store.name.startswith(f"the store at {SERVICE} of the sentinels 127.0.0.1:")
    asyncio.run(talking(store, work))


def test_a_failover_on_purpose(place: Sentinels) -> None:
    """The next messages go to the new primary, where members say anew what they hold, and wake-ups follow."""

    async def work(one: Talk, other: Talk) -> None:
        hints = Hints()
        one.hub.register(one.name, hints)
        one.hub.attend()
        await one.say(join=Join(60.0))
        await other.say(join=Join(60.0))
        await wakes(one, other, hints)
        epoch = one.epoch
        await asyncio.to_thread(place.fail_over)
        while one.epoch == epoch:
            await answered(one, report=Report(used=3))
        reply = await answered(one, join=Join(60.0), report=Report(used=3))
        assert (reply.status, reply.lease) == ("done", 3)
        await answered(other, join=Join(60.0))
        await wakes(one, other, hints)

    asyncio.run(talking(RedisStore(f"redis+sentinel://{place.hosts}/{SERVICE}"), work, members=2))


def test_a_primary_that_is_killed(place: Sentinels) -> None:
    """Messages fail until there is another one; what is under way is then answered there."""

    async def work(one: Talk, other: Talk) -> None:
        hints = Hints()
        one.hub.register(one.name, hints)
        one.hub.attend()
        await one.say(join=Join(60.0))
        await other.say(join=Join(60.0))
        epoch = one.epoch
        killed = place.kill_primary()
        while one.epoch == epoch:
            await answered(one, report=Report(used=3))
        await answered(one, join=Join(60.0), report=Report(used=3))
        await answered(other, join=Join(60.0))
        await wakes(one, other, hints)
        await asyncio.to_thread(killed.again)

    asyncio.run(talking(RedisStore(f"redis+sentinel://{place.hosts}/{SERVICE}"), work, members=2))


def test_a_name_that_no_sentinel_knows() -> None:
    """Is told with the name and the sentinels."""


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://localhost:26379",
        "redis+sentinel://localhost:26379/",
        "redis+sentinel:///mymaster",
        "redis+sentinel://:secret@host:port/mymaster",
        "redis+sentinel://:secret@host:99999/mymaster",
        "redis+sentinel://:secret@host,,other/mymaster",
        "unix+sentinel://host/mymaster",
        "redis+other://host/mymaster",
    ],
)
def test_urls_that_name_no_primary(url: str) -> None:
    """Are refused with a sentence that does not quote them."""
    redis_servers.driver()
    with pytest.raises(ConfigurationError) as error:
        RedisStore(url)
    assert "secret" not in str(error.value)


def test_a_client_of_replicas_is_refused() -> None:
    """The store writes."""
    redis_servers.driver()
    import redis

    sentinel = redis.Sentinel([("127.0.0.1", 1)])
    with pytest.raises(ConfigurationError, match="needs the primary"):
        RedisStore(sentinel.slave_for(SERVICE))
