"""With `confirm=1` what a server grants counts once a replica has it: nothing is lost with the server.

As in `test_redis_failover.py`, the provider's own books say what was spent. The replica that takes over is the
one that confirms: the other one is its own. With BUDGETGUARD_LONG=1 there is more of everything.
"""

import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from interpreter import LONG
from redis_pairs import all_spend, near_the_edge, pair, two_sides
from redis_spenders import back, let_run, nearly_exhausted, redis_spenders
from server_process import ENGINES
from spending_processes import Nursery, pause
from store_place import ServerPlace

from budgetguard.stores import _redis_words as words

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

SEED = os.environ.get("BUDGETGUARD_SEED", "1")
ROUNDS = range(20 if LONG else 1)
CONFIRMED = {"options": (("confirm", 1),)}
PLACE = ServerPlace(0)


@pytest.mark.skipif(not LONG, reason="takes 10 s: with BUDGETGUARD_LONG=1")
@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[:1])
@pytest.mark.parametrize("number", ROUNDS)
def test_an_old_primary_confirms_nothing(tmp_path: Path, engine: str, number: int) -> None:
    """Its side goes on with what it had, and then hears why it gets no more; nothing is spent twice."""
    random = Random(f"confirmed partition {SEED} {number}")
    print(f"BUDGETGUARD_SEED={SEED}")
    with two_sides(engine, tmp_path, **CONFIRMED) as sides:
        account = sides.account
        sides.start(f"{SEED} {number}")
        near_the_edge(account, random)
        sides.part()
        account.top_up(20)
        let_run(3 * PLACE.hold_for)
        pids = list(sides.old.living)
        stopped = account.spent_by(pids)
        account.top_up(20)
        nearly_exhausted(account)
        assert account.spent_by(pids) == stopped
        sides.heal()
        all_spend(account, pids)
        told = sides.old.end_all() + sides.new.end_all()
        back(account, sides.new)
        assert account.lowest >= 0
        ways = [sides.both.place.port, sides.old_way.port]
        heard_at(ways, told, sides.old, sides.new)
        assert told["store_lost"] == told["store_back"]
        assert told[words.unconfirmed(f"127.0.0.1:{ways[1]}", 0, 1, PLACE.timeout)]


@pytest.mark.skipif(not LONG, reason="takes 10 s: with BUDGETGUARD_LONG=1")
@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[:1])
@pytest.mark.parametrize("number", ROUNDS)
def test_members_die_with_a_primary_that_was_confirmed(
    tmp_path: Path, engine: str, number: int
) -> None:
    """Also one that joined when the replica heard nothing more: it has spent nothing."""
    random = Random(f"confirmed failover {SEED} {number}")
    print(f"BUDGETGUARD_SEED={SEED}")
    with (
        pair(engine, tmp_path) as both,
        redis_spenders(tmp_path, both.place.port, SEED, **CONFIRMED) as (account, nursery),
    ):
        near_the_edge(account, random)
        both.fall_behind()
        account.top_up(20)
        late = nursery.start("spend", f"{SEED} late {number}")
        pause(random, 1.0)
        both.primary.stop()
        for pid in (random.choice(nursery.living[:-1]), late):
            nursery.kill(pid)
        both.fail_over()
        assert account.spent_by([late]) == 0
        nursery.start("spend", f"{SEED} {number}")
        nearly_exhausted(account)
        told = nursery.end_all()
        back(account, nursery)
        assert account.lowest >= 0
        heard_at([both.place.port], told, nursery)


def heard_at(ports: list[int], told: Counter[str], *nurseries: Nursery) -> None:
    """What callers were told and what was logged is why nothing is granted there."""
    away = set()
    for port in ports:
        where, timeout = f"127.0.0.1:{port}", PLACE.timeout
        away |= {
            *(words.silent(where, timeout), words.unreachable(where), words.read_only(where)),
            words.unconfirmed(where, 0, 1, timeout),
        }
    counts = {"spent", "refused", "store_lost", "store_back", "regrouped", "lease_lost"}
    assert set(told) <= away | counts, told
    for each in nurseries:
        assert set(each.words().splitlines()) <= away, each.words()
