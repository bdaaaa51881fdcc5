"""Another server takes over: what was lost with the old one is what the documentation says, and no more.

Members reach their server over a proxy, as over an address that moves; so does the replica. What may be lost is
counted from the provider's own books, which know who spent. With BUDGETGUARD_LONG=1 there is more of everything.
"""

import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from interpreter import LONG
from redis_pairs import Sides, all_spend, near_the_edge, pair, two_sides
from redis_spenders import (
    all_is_well,
    back,
    heard_of,
    let_run,
    nearly_exhausted,
    redis_spenders,
)
from server_process import ENGINES
from spending_processes import pause
from store_place import ServerPlace

from budgetguard.stores import _redis_words as words

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

SEED = os.environ.get("BUDGETGUARD_SEED", "1")
ROUNDS = 20 if LONG else 1
PLACE = ServerPlace(0)


@pytest.fixture(params=ENGINES if LONG else ENGINES[:1])
def engine(request: pytest.FixtureRequest) -> str:
    """Both in the long form."""
    name: str = request.param
    return name


def test_a_replica_that_fell_behind_takes_over(tmp_path: Path, engine: str) -> None:
    """All members live: they say what they hold and what finished, so nothing is lost."""
    random = Random(f"failover {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    with (
        pair(engine, tmp_path) as both,
        redis_spenders(tmp_path, both.place.port, SEED) as (account, nursery),
    ):
        for number in range(ROUNDS):
            near_the_edge(account, random)
            both.fall_behind()
            pause(random, 0.3)
            both.fail_over()
            nearly_exhausted(account)
            if number + 1 < ROUNDS:
                both.make_whole()
        told = all_is_well(account, nursery, both.place.port)
        assert told["regrouped"] >= 3 * ROUNDS


def test_members_die_with_the_primary(tmp_path: Path, engine: str) -> None:
    """Lost is at most what they spent since the replica fell behind, and what is left comes back."""
    random = Random(f"both die {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    lost = 0
    with (
        pair(engine, tmp_path) as both,
        redis_spenders(tmp_path, both.place.port, SEED) as (account, nursery),
    ):
        for number in range(ROUNDS):
            near_the_edge(account, random)
            # What the replica hears of them last; one of them joins when it hears nothing more.
            victims = [random.choice(nursery.living)]
            known = account.spent_by(victims)
            both.fall_behind()
            account.top_up(20)
            victims.append(nursery.start("spend", f"{SEED} victim {number}"))
            pause(random, 0.5)
            both.primary.stop()
            for pid in victims:
                nursery.kill(pid)
            both.fail_over()
            lost += account.spent_by(victims) - known
            nursery.start("spend", f"{SEED} {number}")
            nearly_exhausted(account)
            if number + 1 < ROUNDS:
                both.make_whole()
        told = nursery.end_all()
        back(account, nursery)
        print(f"lowest balance {account.lowest}, at most {lost} may have been lost")
        assert account.lowest >= -lost
        heard_of(told, nursery, both.place.port)


@pytest.mark.skipif(not LONG, reason="takes 10 s: with BUDGETGUARD_LONG=1")
@pytest.mark.parametrize("least", [0, 1], ids=["alone", "min-replicas-to-write"])
def test_an_old_primary_goes_on(tmp_path: Path, engine: str, least: int) -> None:
    """Both grant. Spent twice is at most what the old side spends meanwhile, until its server refuses to write."""
    random = Random(f"partition {least} {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    twice = 0
    with two_sides(engine, tmp_path) as sides:
        account, old = sides.account, sides.old
        sides.start(SEED)
        for _ in range(ROUNDS):
            near_the_edge(account, random)
            sides.both.primary.do("CONFIG", "SET", "min-replicas-max-lag", 1)
            sides.both.primary.do("CONFIG", "SET", "min-replicas-to-write", least)
            pids = list(old.living)
            before = account.spent_by(pids)
            sides.part()
            account.top_up(20)
            # Both sides know that the other is silent, and its leases have ended.
            let_run(3 * PLACE.hold_for)
            if least:
                # Whatever there is to spend, the old side spends none of it.
                stopped = account.spent_by(pids)
                account.top_up(20)
                nearly_exhausted(account)
                assert account.spent_by(pids) == stopped
            twice += account.spent_by(pids) - before
            sides.heal()
            all_spend(account, pids)
        told = old.end_all() + sides.new.end_all()
        back(account, sides.new)
        print(f"lowest balance {account.lowest}, at most {twice} may have been spent twice")
        assert account.lowest >= -twice
        assert told["store_lost"] == told["store_back"]
        heard_on_sides(told, sides)


def heard_on_sides(told: Counter[str], sides: Sides) -> None:
    """What callers were told and what was logged is true of their side."""
    new, old = (f"127.0.0.1:{way.port}" for way in (sides.both.place, sides.old_way))
    away = {
        *(words.silent(old, PLACE.timeout), words.unreachable(old), words.read_only(old)),
        *(words.silent(new, PLACE.timeout), words.unreachable(new)),
        words.failed(old, "NOREPLICAS"),
    }
    counts = {"spent", "refused", "store_lost", "store_back", "regrouped", "lease_lost"}
    assert set(told) <= away | counts, told
    for side in (sides.old, sides.new):
        lines = side.words().splitlines()
        # What was spent twice looks like others who spend.
        assert {line for line in lines if "somebody else spends" not in line} <= away
