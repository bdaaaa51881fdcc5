"""A store in a cluster: how it is named, where messages go, and what happens when nodes go or slots move."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis_places
import redis_servers
from redis_places import Cluster
from redis_talk import Hints, Talk, regrouped, talking, wakes

from budgetguard import ConfigurationError
from budgetguard._core.store_messages import Join, Report
from budgetguard.stores._redis_cluster import slot_of
from budgetguard.stores._script import keys_of
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore

PROGRAMS = {
    "redis": redis_servers.redis_program,
    "valkey": redis_servers.valkey_program,
}


@pytest.fixture(params=PROGRAMS)
def place(request: pytest.FixtureRequest) -> Cluster:
    """A cluster of each engine."""
    redis_servers.driver()
    return redis_places.cluster(PROGRAMS[request.param]())


def _client(driver: str, *, asynchronous: bool) -> Callable[[Cluster], Any]:
    def make(place: Cluster) -> Any:
        redis_servers.driver(driver)
        path = f"{driver}.asyncio.cluster" if asynchronous else f"{driver}.cluster"
        name = "RedisCluster" if driver == "redis" else "ValkeyCluster"
        module: Any = __import__(path, fromlist=[name])
        return getattr(module, name)(host="127.0.0.1", port=place.nodes[1].port)

    return make


GIVEN: dict[str, Callable[[Cluster], Any]] = {
    "redis url": lambda place: f"redis+cluster://{place.hosts}",
    "valkey url": lambda place: f"valkey+cluster://{place.hosts}",
    "redis": _client("redis", asynchronous=False),
    "redis asyncio": _client("redis", asynchronous=True),
    "valkey": _client("valkey", asynchronous=False),
    "valkey asyncio": _client("valkey", asynchronous=True),
}


@pytest.mark.parametrize("given", GIVEN)
def test_messages_go_where_the_account_is(given: str) -> None:
    """By a URL with some nodes, or with a client of either package; accounts are on different nodes."""
    redis_servers.driver()
    place = redis_places.cluster(redis_servers.redis_program())

    async def work(*talks: Talk) -> None:
        for number, talk in enumerate(talks):
            talk.account = f"{given} {number}"
            assert (await talk.say(join=Join(60.0))).status == "done"
            assert (await talk.say()).view.members == 1

    asyncio.run(talking(RedisStore(GIVEN[given](place)), work, members=4))


@pytest.mark.parametrize(
    "key", ["account", "a{b}c", "{}", "a{}b", "{{x}}", "p:{f\u00fc}:a", "}{", "{a"]
)
def test_slots_are_the_servers(key: str) -> None:
    """As every node reckons them."""
    redis_servers.driver()
    node = redis_places.cluster(redis_servers.redis_program()).nodes[0]
    assert slot_of(key) == node.admin.execute_command("CLUSTER", "KEYSLOT", key)


def test_wake_ups_reach_every_node(place: Cluster) -> None:
    """A subscription to any of them does."""

    async def work(one: Talk, other: Talk) -> None:
        hints = Hints()
        one.hub.register(one.name, hints)
        one.hub.attend()
        await one.say(join=Join(60.0))
        await other.say(join=Join(60.0))
        await wakes(one, other, hints)

    asyncio.run(talking(RedisStore(f"redis+cluster://{place.hosts}"), work, members=2))


def test_a_primary_that_is_killed(place: Cluster) -> None:
    """Its replica takes its slots, and the subscription is made again, at whichever node it was."""

    async def work(one: Talk, other: Talk) -> None:
        one.account = other.account = _account_on(place, 0)
        hints = Hints()
        one.hub.register(one.name, hints)
        one.hub.attend()
        await one.say(join=Join(60.0))
        await other.say(join=Join(60.0))
        killed = place.nodes[0]
        await asyncio.to_thread(killed.kill)
        await regrouped(one)
        await regrouped(other)
        await wakes(one, other, hints)
        await asyncio.to_thread(place.take_back)

    asyncio.run(talking(RedisStore(f"redis+cluster://{place.hosts}"), work, members=2))


def test_a_slot_that_is_moved(place: Cluster) -> None:
    """While its keys are being moved, the account waits: not all keys exist, so no node has all of them."""

    async def work(talk: Talk) -> None:
        talk.account = _account_on(place, 1)
        await talk.say(join=Join(60.0))
        source, target = place.nodes[1], place.nodes[2]
        slot = slot_of(keys_of("budgetguard", talk.account)[0])
        keys = place.begin_to_move(slot, source, target)
        place.move(keys[:1], source, target)
        with pytest.raises(StoreUnavailable, match="is moving the account"):
            await talk.say(report=Report(used=3))
        place.move(keys[1:], source, target)
        with pytest.raises(StoreUnavailable, match="is moving the account"):
            await talk.again(report=Report(used=3))
        target.admin.execute_command("SCRIPT", "FLUSH")
        place.end_to_move(slot, target)
        # Another node has another run id, so the account regroups as after a failover.
        await regrouped(talk)

    asyncio.run(talking(RedisStore(f"redis+cluster://{place.hosts}"), work))


def test_a_server_that_is_in_no_cluster() -> None:
    """Is told from one that cannot be reached."""
    redis_servers.driver()
    port = redis_servers.redis_server()

    async def work(talk: Talk) -> None:
        with pytest.raises(StoreUnavailable, match="are no cluster"):
            await talk.say(join=Join(60.0))

    asyncio.run(talking(RedisStore(f"redis+cluster://127.0.0.1:{port}"), work))


def test_a_node_by_its_own_url(place: Cluster) -> None:
    """Names the URL of a cluster once a message belongs elsewhere."""

    async def work(talk: Talk) -> None:
        talk.account = _account_on(place, 0)
        with pytest.raises(StoreUnavailable, match=r"give RedisStore the URL redis\+cluster://127"):
            await talk.say(join=Join(60.0))

    asyncio.run(talking(RedisStore(f"redis://127.0.0.1:{place.nodes[2].port}"), work))


def test_a_cluster_that_is_not_there() -> None:
    """Says so at once, without the password."""
    redis_servers.driver()

    async def work(talk: Talk) -> None:
        with pytest.raises(StoreUnavailable) as error:
            await talk.say(join=Join(60.0))
        assert error.value.reason == (
            "the store at the cluster 127.0.0.1:1, 127.0.0.1:2 cannot be reached; check the server and the network"
        )

    asyncio.run(talking(RedisStore("redis+cluster://me:secret@127.0.0.1:1,127.0.0.1:2"), work))


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://:secret@host:7000/1",
        "redis+cluster://:secret@host:7000?db=1",
        "redis+cluster://:secret@host:port",
        "redis+cluster://:secret@",
        "redis+cluster://:secret@host?other=1",
    ],
)
def test_urls_that_name_no_cluster(url: str) -> None:
    """Are refused with a sentence that does not quote them."""
    redis_servers.driver()
    with pytest.raises(ConfigurationError) as error:
        RedisStore(url)
    assert "secret" not in str(error.value)


def _account_on(place: Cluster, node: int) -> str:
    ranges = ((0, 5460), (5461, 10922), (10923, 16383))
    first, last = ranges[node]
    names = (f"account {number}" for number in range(1000))
    return next(each for each in names if first <= slot_of(keys_of("budgetguard", each)[0]) <= last)
