"""Processes that spend while sentinels make another server the primary; with BUDGETGUARD_LONG=1 only."""

import os
from pathlib import Path
from random import Random

import pytest
import redis_servers
from interpreter import LONG
from redis_pairs import all_spend, near_the_edge
from redis_places import SERVICE, Sentinels, until
from redis_spenders import back, redis_spenders
from server_process import ENGINES, program_of
from spending_processes import pause

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
    pytest.mark.skipif(not LONG, reason="takes 20 s: with BUDGETGUARD_LONG=1"),
]

SEED = os.environ.get("BUDGETGUARD_SEED", "1")
ROUNDS = 10


def roles(place: Sentinels) -> list[str]:
    """What its two servers are."""
    return sorted(each.admin.info("replication")["role"] for each in (place.primary, place.replica))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", ["on purpose", "by a death"])
def test_a_failover_under_load(tmp_path: Path, engine: str, way: str) -> None:
    """All processes live, find the new primary and say what they hold: nothing is overspent, all comes back."""
    random = Random(f"sentinels {way} {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    redis_servers.driver()
    place = Sentinels(program_of(engine))
    url = f"redis+sentinel://{place.hosts}/{SERVICE}"
    with redis_spenders(tmp_path, 0, SEED, url=url) as (account, nursery):
        for _ in range(ROUNDS):
            near_the_edge(account, random)
            pause(random, 0.2)
            before = place.named()
            if way == "on purpose":
                place.fail_over()
            else:
                killed = place.kill_primary()
            until(lambda: place.named().isdisjoint(before), "the sentinels name another one")  # noqa: B023  at once
            if way == "by a death":
                killed.again()
            until(lambda: roles(place) == ["master", "slave"], "the old one is a replica")
            all_spend(account, nursery.living)
        told = nursery.end_all()
        back(account, nursery)
        assert account.lowest >= 0
        assert told["regrouped"] >= ROUNDS
        assert told["store_lost"] == told["store_back"]
        assert all(SERVICE in line for line in nursery.words().splitlines())
