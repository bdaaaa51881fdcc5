"""The store in a server: how it is reached, what it says when it is not, and what it survives."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis_servers
from redis_talk import Talk, talking

from budgetguard import ConfigurationError
from budgetguard._core.store_messages import Join, Need, Pausing, Report
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore

SERVERS: dict[str, Callable[[], int]] = {
    "redis": redis_servers.redis_server,
    "valkey": redis_servers.valkey_server,
}


@pytest.fixture(params=SERVERS)
def port(request: pytest.FixtureRequest) -> int:
    """A server of each engine."""
    redis_servers.driver()
    return SERVERS[request.param]()


@pytest.fixture
def admin(port: int) -> Iterator[Any]:
    """A client of the test's own."""
    import redis

    with redis.Redis(port=port) as client:
        yield client


def client(driver: str, port: int, **settings: Any) -> Any:
    """A user's client."""
    redis_servers.driver(driver)
    if driver == "valkey":
        import valkey

        return valkey.Valkey(port=port, **settings)
    import redis

    return redis.Redis(port=port, **settings)


@pytest.mark.parametrize("driver", ["redis", "valkey"])
@pytest.mark.parametrize("settings", [{}, {"protocol": 3}, {"decode_responses": True}], ids=str)
def test_every_client_gets_the_same_replies(
    port: int, driver: str, settings: dict[str, Any]
) -> None:
    """Whatever a user's client is set to, the store takes its address and credentials alone."""

    async def work(talk: Talk) -> None:
        reply = await talk.say(join=Join(60.0, words=(("host", 'a "host" \u00fc'),)))
        assert (reply.status, reply.number, reply.view.members) == ("done", 1, 1)
        reply = await talk.say(report=Report(needs=(Need(1, 10**18, 10**18, counts=True),)))
        assert (reply.granted, reply.refused) == ((), ())

    given = client(driver, port, **settings)
    asyncio.run(talking(RedisStore(given), work))
    given.close()


def test_a_server_that_forgot_the_script(port: int, admin: Any) -> None:
    """It is given the script anew, and the message takes effect once."""

    async def work(talk: Talk) -> None:
        await talk.say(join=Join(60.0))
        admin.script_flush()
        reply = await talk.say(report=Report(want=5))
        assert (reply.status, reply.number) == ("done", 2)
        assert await talk.again(report=Report(want=5)) == reply

    asyncio.run(talking(RedisStore(f"redis://127.0.0.1:{port}"), work))


def test_a_server_that_forgot_the_account(port: int, admin: Any) -> None:
    """Its members say what they hold, and nothing is granted before the others had time to."""

    async def work(talk: Talk) -> None:
        await talk.say(join=Join(60.0))
        admin.delete(*admin.keys("forgets:*"))
        reply = await talk.say()
        assert reply.status == "reassert"
        assert (reply.view.granting, reply.view.granting_at) == (False, 60.0)
        reply = await talk.say(join=Join(60.0), report=Report(used=7, slots=1, running=1))
        assert (reply.status, reply.lease, reply.view.leased) == ("done", 7, 7)
        assert not reply.view.granting

    asyncio.run(talking(RedisStore(f"redis://127.0.0.1:{port}", prefix="forgets"), work))


def test_who_should_send_a_message_is_woken(port: int) -> None:
    """By a hint on the channel of its process."""

    async def work(one: Talk, other: Talk) -> None:
        heard = asyncio.Event()

        class Listener:
            listens = True

            def notify(self) -> None:
                heard.set()

        one.hub.register(one.name, Listener())
        one.hub.attend()
        await heard.wait()  # it listens now, and may have missed something before
        await one.say(join=Join(60.0))
        await other.say(join=Join(60.0))
        heard.clear()
        await other.say(news=(Pausing("guard", "tea"),))
        await heard.wait()

    asyncio.run(talking(RedisStore(f"redis://127.0.0.1:{port}"), work, members=2))


def test_a_server_that_is_not_there() -> None:
    """Says so at once, without the password."""
    redis_servers.driver()

    async def work(talk: Talk) -> None:
        with pytest.raises(StoreUnavailable) as error:
            await talk.say(join=Join(60.0))
        assert error.value.reason == (
            "the store at 127.0.0.1:1 cannot be reached; check the server and the network"
        )

    asyncio.run(talking(RedisStore("redis://user:secret@127.0.0.1:1"), work))


def test_a_server_that_does_not_answer() -> None:
    """Within the store's timeout, a connection that is made and then silent is given up."""
    redis_servers.driver()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass
        writer.close()
        closed.put_nowait(writer)

    closed: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def main() -> None:
        silent = await asyncio.start_server(listen, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]

        async def work(talk: Talk) -> None:
            with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.05 s"):
                await talk.say(join=Join(60.0))

        await talking(RedisStore(f"redis://127.0.0.1:{port}", timeout=0.05), work)
        silent.close()
        await (await closed.get()).wait_closed()

    asyncio.run(main())


@pytest.mark.parametrize(
    "url",
    ["localhost:6379", "http://localhost", "redis://", "redis://:secret@localhost:port", ""],
)
def test_urls_that_name_no_server(url: str) -> None:
    """Are refused with a sentence that does not quote them."""
    redis_servers.driver()
    with pytest.raises(ConfigurationError) as error:
        RedisStore(url)
    assert "secret" not in str(error.value)


def test_what_is_no_client() -> None:
    """A dict of settings, say."""
    with pytest.raises(TypeError, match="takes a URL such as"):
        RedisStore({"host": "localhost"})


def test_a_client_of_another_kind_is_refused() -> None:
    """One whose connections are made by the program's own class cannot be copied."""
    redis_servers.driver()
    import redis

    class Tunnel(redis.Connection):
        """Goes its own way."""

    pool = redis.ConnectionPool(connection_class=Tunnel)
    with pytest.raises(ConfigurationError, match="give it the URL"):
        RedisStore(redis.Redis(connection_pool=pool))


def test_stores_of_one_server_are_one_store() -> None:
    """By its address, database and prefix."""
    redis_servers.driver()
    one, same = RedisStore("redis://a:1"), RedisStore("redis://:secret@a:1/0")
    assert one.identity == same.identity
    others = [RedisStore("redis://a:2"), RedisStore("redis://a:1/1")]
    assert one.identity not in {each.identity for each in others}
    assert one.identity != RedisStore("redis://a:1", prefix="other").identity
    assert "secret" not in f"{same!r} {same.name}"
