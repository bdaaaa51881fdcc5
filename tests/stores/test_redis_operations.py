"""What a server has to be set to and allow for a store, and what an account leaves in it."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis_servers
from redis_talk import Talk, talking

from budgetguard._core.store_messages import Debit, Join, Need, Pausing, Report
from budgetguard.stores._script import COMMANDS
from budgetguard.stores.base import StoreUnavailable
from budgetguard.stores.redis import RedisStore

ENGINES: dict[str, Callable[[], int]] = {
    "redis": redis_servers.redis_server,
    "valkey": redis_servers.valkey_server,
}
DAY = 86400
USER, PASSWORD = "ops", "canary-of-the-server"


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of the test's own, for each engine; the server is as before at the end."""
    redis_servers.driver()
    import redis

    with redis.Redis(port=ENGINES[request.param](), decode_responses=True) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        client.acl_deluser(USER)


def url(server: Any, user: str = "", options: str = "") -> str:
    """The URL of that server."""
    return f"redis://{user}127.0.0.1:{server.connection_pool.connection_kwargs['port']}{options}"


def talk(server: Any, prefix: str, work: Callable[[Talk], Any], user: str = "") -> None:
    """Let a member talk to a store with its own prefix."""
    store = RedisStore(url(server, user, "?protocol=3" if user else ""), prefix=prefix)
    asyncio.run(talking(store, work))


def refusal(server: Any, prefix: str, user: str = "") -> str:
    """Why a member cannot join."""
    reasons: list[str] = []

    async def work(member: Talk) -> None:
        with pytest.raises(StoreUnavailable) as error:
            await member.say(join=Join(60.0))
        reasons.append(error.value.reason)

    talk(server, prefix, work, user)
    return reasons[0]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
@pytest.mark.parametrize("limit", [0, 10**9])
def test_a_server_that_evicts_is_refused(server: Any, policy: str, limit: int) -> None:
    """Also without a limit, as one that is set later would evict at once; nothing is written."""
    server.config_set("maxmemory-policy", policy)
    server.config_set("maxmemory", limit)
    reason = refusal(server, "evicts")
    assert reason.endswith(f"its maxmemory-policy is {policy}; set it to noeviction")
    assert not server.keys("evicts:*")


def test_a_full_server_takes_nothing_and_goes_on_later(server: Any) -> None:
    """A message is refused whole, and takes effect once there is memory."""

    async def work(member: Talk) -> None:
        await member.say(join=Join(60.0), report=Report(used=3, running=1))
        before = _state(server, "full")
        server.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="no memory left; raise its maxmemory"):
            await member.say(report=Report(used=5, running=1))
        assert _state(server, "full") == before
        server.config_set("maxmemory", 0)
        reply = await member.again(report=Report(used=5, running=1))
        assert (reply.status, reply.lease) == ("done", 5)

    talk(server, "full", work)


def _state(server: Any, prefix: str) -> dict[str, Any]:
    return {key: server.dump(key) for key in server.keys(f"{prefix}:*")}


def test_a_key_of_another_program_is_refused(server: Any) -> None:
    """One sentence instead of WRONGTYPE, before anything is written."""

    async def work(member: Talk) -> None:
        key = f"taken:{{{member.account}}}:woken"
        server.set(key, "mine")
        with pytest.raises(StoreUnavailable) as error:
            await member.say(join=Join(60.0))
        assert "is another program's; give the store another prefix" in error.value.reason
        assert server.keys("taken:*") == [key]
        server.delete(key)
        assert (await member.again(join=Join(60.0))).status == "done"

    talk(server, "taken", work)


def test_what_is_left_of_a_deleted_account_is_forgotten(server: Any) -> None:
    """It was deleted in part: the rest is of another life."""

    async def work(member: Talk) -> None:
        await member.say(join=Join(60.0), report=Report(settled=(Debit(4, 9.0),)))
        (key,) = server.keys("part:*:account")
        server.delete(key)
        member.epoch = ""
        member.name = "b" * 16 + ".1"
        reply = await member.say(join=Join(60.0))
        assert (reply.view.members, reply.view.settled) == (1, 0)

    talk(server, "part", work)


def _lifetimes(server: Any, prefix: str) -> set[int]:
    return {server.pexpiretime(key) for key in server.keys(f"{prefix}:*")}


def test_all_keys_of_an_account_expire_at_one_moment(server: Any) -> None:
    """A day or more after its last message, also those that were made later, and never while it is paused."""

    async def work(member: Talk) -> None:
        await member.say(join=Join(60.0))
        (at,) = _lifetimes(server, "ends")
        assert DAY < at / 1000 - server.time()[0] <= 2 * DAY
        needs = Need(1, 10, 10, counts=True)
        await member.say(report=Report(settled=(Debit(4, 9.0),), needs=(needs,)))
        assert len(server.keys("ends:*")) > 4
        assert _lifetimes(server, "ends") == {at}
        await member.say(news=(Pausing("guard", "tea"),))
        assert _lifetimes(server, "ends") == {-1}
        await member.say(news=(Pausing("guard", None),))
        assert len(_lifetimes(server, "ends")) == 1
        await member.say(report=Report(settled=(Debit(4, 3.0 * DAY),)))
        (at,) = _lifetimes(server, "ends")
        assert at / 1000 - server.time()[0] > 6 * DAY

    talk(server, "ends", work)


def test_an_account_that_expired_is_not_a_lost_one(server: Any) -> None:
    """Who comes back after a day may be granted at once; after a minute others may hold what is gone."""

    async def work(member: Talk) -> None:
        for elapsed, granting in ((59.0, False), (2.0 * DAY, True)):
            member.epoch = ""
            await member.say(join=Join(60.0))
            server.delete(*server.keys("back:*"))
            reply = await member.say(elapsed=elapsed)
            assert reply.view.granting is granting
            server.delete(*server.keys("back:*"))

    talk(server, "back", work)


def _allow(server: Any, prefix: str, *, but: str = "") -> None:
    rights = [f"~{prefix}:*", f"&{prefix}:*", *(f"+{each}" for each in COMMANDS)]
    server.execute_command(
        *("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", "-@all"),
        *(each for each in rights if each != but),
    )


def test_a_user_needs_these_rights_and_no_more(server: Any) -> None:
    """With the listed commands, keys and channels all goes well; without one, a sentence names it."""
    user = f"{USER}:{PASSWORD}@"
    _allow(server, "rights")

    async def work(member: Talk) -> None:
        await member.say(join=Join(60.0))
        reply = await member.say(report=Report(needs=(Need(1, 10, 10, counts=True),)))
        assert reply.status == "done"
        assert (await member.say(leave=True)).status == "done"

    talk(server, "rights", work, user)
    server.script_flush()
    _allow(server, "rights", but="~rights:*")
    assert refusal(server, "rights", user).endswith("allow them with ~rights:*")
    for command in ("evalsha", "eval"):
        _allow(server, "rights", but=f"+{command}")
        assert refusal(server, "rights", user).endswith(f"allow it with +{command}")
    for command in ("info", "hset", "time", "hget", "pexpireat"):
        _allow(server, "rights", but=f"+{command}")
        assert f"+{command}" in refusal(server, "rights", user), command
    reason = refusal(server, "rights", f"{USER}:wrong@")
    assert reason.endswith("rejects the user name or the password; check both")


def test_no_password_is_shown_or_stored(server: Any) -> None:
    """Neither by MONITOR, nor in a key or value, nor in a reason."""
    user = f"{USER}:{PASSWORD}@"
    _allow(server, "canary")
    with server.monitor() as monitor:

        async def work(member: Talk) -> None:
            await member.say(join=Join(60.0))

        talk(server, "canary", work, user)
        server.echo("the last one")
        seen = []
        while not seen or "the last one" not in seen[-1]:
            seen.append(monitor.next_command()["command"])
    assert any("canary:" in each for each in seen)
    assert not any(PASSWORD in each for each in seen)
    assert PASSWORD not in refusal(server, "other", user)
