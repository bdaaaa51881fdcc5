"""gunicorn: a guard that is used in the master and forked into four workers, and workers that share an account."""

import os
from pathlib import Path

import pytest
import redis_servers
from gunicorn_server import WORKERS, ask_all, gunicorn
from needed import need

from budgetguard import Guard, PreDev
from budgetguard.stores import RedisStore
from budgetguard.stores.members import read_members
from budgetguard.testing.sandbox import Sandbox

if not hasattr(os, "fork"):
    pytest.skip("no fork on this platform", allow_module_level=True)
need("gunicorn")


def test_preloaded_workers(tmp_path: Path) -> None:
    """Each worker looks for itself, once, and spends by books, ids and jitter of its own."""
    with Sandbox(credits=100) as sandbox:
        with gunicorn(tmp_path, sandbox, "preloaded", "--preload") as address:
            first, later = ask_all(address), ask_all(address)
        assert sandbox.balance_requests == 1 + WORKERS
    pids = {each["pid"] for each in first}
    assert len(pids) == len({each["pid"] for each in later} & pids) == WORKERS
    assert len({each["parent"] for each in first}) == 1
    # 100 credits, less 10, 1, 1 and 5: nothing of the master's 42 is here.
    assert [(each["before"], each["inside"]) for each in first] == [(None, "83")] * WORKERS
    assert [(each["before"], each["inside"]) for each in later] == [("93", "76")] * WORKERS
    assert len({id_ for each in first + later for id_ in each["ids"]}) == 2 * WORKERS + 1
    assert len({each["jitter"] for each in first + later}) == 2 * WORKERS
    assert {each["state"] for each in first + later} == {"open"}


WAYS = pytest.mark.parametrize(
    ("used", "flags"),
    [("yes", ()), ("yes", ("--preload",)), ("", ("--preload",))],
    ids=["each for itself", "preloaded", "preloaded and never used before"],
)


@WAYS
def test_workers_that_share_an_account(tmp_path: Path, used: str, flags: tuple[str, ...]) -> None:
    """Four workers want 30 credits each, of 100 less what was spent at the start: three get them, again and again."""
    store = tmp_path / "credits.db"
    with (
        Sandbox(credits=100) as sandbox,
        gunicorn(
            tmp_path, sandbox, "shared_workers", *flags, STORE=str(store), USED=used
        ) as address,
    ):
        rounds = [ask_all(address) for _ in range(3)]
    for answers in rounds:
        assert len({each["pid"] for each in answers}) == WORKERS
        assert sum(each["admitted"] for each in answers) == 3
    # They ended in order: nothing of theirs is left but the cost of what finished.
    (account,) = read_members(store)
    assert {member.state for member in account.members} <= {"gone"}
    assert not any(member.lease or member.unresolved for member in account.members)


@WAYS
def test_workers_that_share_an_account_in_a_server(
    tmp_path: Path, used: str, flags: tuple[str, ...]
) -> None:
    """The same; and what they did not spend is at hand as soon as they have ended in order."""
    redis_servers.driver()
    url = f"redis://127.0.0.1:{redis_servers.redis_server()}"
    with Sandbox(credits=100) as sandbox:
        with gunicorn(tmp_path, sandbox, "shared_workers", *flags, STORE=url, USED=used) as address:
            rounds = [ask_all(address) for _ in range(3)]
        for answers in rounds:
            assert len({each["pid"] for each in answers}) == WORKERS
            assert sum(each["admitted"] for each in answers) == 3
        provider = PreDev(sandbox.predev_key, base_url=sandbox.url)
        guard = Guard(provider, store=RedisStore(url), timeout=60)
        guard.balance(max_age=0)
        # Each use before the first request may have cost one, by the master or by each worker.
        guard.acquire(100 - 2 * WORKERS).release()
