"""Real processes that share an account in a server: killed, stopped and forked in the middle of everything.

They are near the account's last credits all the time. As in `test_processes.py`, the provider keeps the true
balance and must never go below zero, and what dead processes held must come back. With BUDGETGUARD_LONG=1 there
is much more of everything.
"""

import os
import signal
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from cut_proxy import CutProxy, Fault
from interpreter import LONG
from redis_spenders import (
    MOST,
    all_is_well,
    back,
    heard_of,
    let_run,
    nearly_exhausted,
    redis_spenders,
)
from server_process import ENGINES, servers
from spending_processes import go_on, pause
from store_place import ServerPlace

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

SEED = os.environ.get("BUDGETGUARD_SEED", "1")
ROUNDS = 60 if LONG else 1
PLACE = ServerPlace(0)


@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[:1])
def test_members_are_killed_at_random_moments(tmp_path: Path, engine: str) -> None:
    """Nothing is overspent, and every credit comes back."""
    random = Random(f"kills {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    with (
        servers(engine, tmp_path) as [server],
        redis_spenders(tmp_path, server.port, SEED) as (account, nursery),
    ):
        for number in range(ROUNDS):
            account.top_up(random.randint(30, 60))
            nearly_exhausted(account)
            account.top_up(random.randint(10, 30))
            go_on(account, 1)
            pause(random, 0.1)
            for one in range(2):
                nursery.kill(random.choice(nursery.living))
                nursery.start("spend", f"{SEED} {number} {one}")
        account.top_up(30)
        nearly_exhausted(account)
        all_is_well(account, nursery, server.port)


@pytest.mark.skipif(not LONG, reason="takes 6 s: with BUDGETGUARD_LONG=1")
@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[:1])
def test_members_are_stopped_until_their_lease_has_ended(tmp_path: Path, engine: str) -> None:
    """Whoever goes on finds that it was given up; what its calls cost was kept for them."""
    random = Random(f"stops {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    with (
        servers(engine, tmp_path) as [server],
        redis_spenders(tmp_path, server.port, SEED) as (account, nursery),
    ):
        for _ in range(ROUNDS):
            account.top_up(random.randint(30, 60))
            go_on(account, random.randint(1, 5))
            stopped = random.sample(nursery.living, random.randint(1, 2))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            # Longer, and a call that was let in right before would spend what was promised anew.
            let_run(PLACE.hold_for + random.uniform(0, 0.8))
            account.top_up(random.randint(0, 30))
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            nearly_exhausted(account)
        all_is_well(account, nursery, server.port)


@pytest.mark.skipif(not LONG, reason="takes 6 s: with BUDGETGUARD_LONG=1")
def test_members_are_stopped_for_longer(tmp_path: Path) -> None:
    """Only calls that were let in right before, and start late, may spend what is not there any more."""
    random = Random(f"long stops {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    stops = 0
    with (
        servers("redis", tmp_path) as [server],
        redis_spenders(tmp_path, server.port, SEED) as (account, nursery),
    ):
        for _ in range(ROUNDS // 2):
            account.top_up(random.randint(30, 60))
            go_on(account, random.randint(1, 5))
            stopped = random.choice(nursery.living)
            os.kill(stopped, signal.SIGSTOP)
            stops += 1
            nearly_exhausted(account)
            let_run(1.0)
            os.kill(stopped, signal.SIGCONT)
            account.top_up(random.randint(0, 30))
            nearly_exhausted(account)
        told = nursery.end_all()
        back(account, nursery)
        assert account.lowest >= -MOST * 3 * stops
        heard_of(told, nursery, server.port)


def test_who_was_given_up_tells_so(tmp_path: Path) -> None:
    """A process that had slack has lost it, at each stop, and all that was spent is booked."""
    with (
        servers("redis", tmp_path) as [server],
        redis_spenders(tmp_path, server.port, SEED, 2) as (account, nursery),
    ):
        account.top_up(10_000)
        stops = 5 if LONG else 1
        for _ in range(stops):
            go_on(account, 60)
            os.kill(nursery.living[0], signal.SIGSTOP)
            let_run(2 * PLACE.hold_for)
            os.kill(nursery.living[0], signal.SIGCONT)
        go_on(account, 60)
        told = all_is_well(account, nursery, server.port)
        # On a busy machine a process may stand still by itself, too.
        assert told["lease_lost"] >= stops
        assert told["spent"] == 10_000 - account.last


@pytest.mark.skipif(not LONG, reason="takes 6 s: with BUDGETGUARD_LONG=1")
def test_forks_in_the_middle_of_calls_with_a_server(tmp_path: Path) -> None:
    """Each child is a member of its own, and its parent goes on; both ways to end are safe."""
    forks = 60 if LONG else 4
    with (
        servers("redis", tmp_path) as [server],
        redis_spenders(tmp_path, server.port, SEED, 0, hold_for=6.0) as (account, nursery),
    ):
        account.top_up(100)
        forking = [nursery.start("fork", f"{SEED} {number}", forks) for number in range(2)]
        told: Counter[str] = Counter()
        for pid in forking:
            told += nursery.end(pid)
        back(account, nursery)
        assert 0 <= account.lowest < 100
        heard_of(told, nursery, server.port)


def test_processes_whose_replies_get_lost(tmp_path: Path) -> None:
    """Each process goes on with what its messages did: all that was admitted is booked, and no more."""
    random = Random(f"lost {SEED}")
    print(f"BUDGETGUARD_SEED={SEED}")
    lost, losses = [0], 1000 if LONG else 60

    def lose(_: bytes) -> Fault | None:
        if random.random() < 0.5:
            return None
        lost[0] += 1
        if random.random() < 0.1:
            return Fault(delay=1.2 * PLACE.timeout)
        return Fault(reply=random.choice((0, random.randint(1, 400))))

    with (
        servers("redis", tmp_path) as [server],
        CutProxy(server.port) as proxy,
        redis_spenders(tmp_path, proxy.port, SEED) as (account, nursery),
    ):
        account.top_up(100)
        proxy.plan = lose
        while lost[0] < losses:
            account.top_up(20)
            go_on(account, 3)
        proxy.plan = lambda _: None
        nearly_exhausted(account)
        told = all_is_well(account, nursery, proxy.port)
        assert told["spent"] >= 100
