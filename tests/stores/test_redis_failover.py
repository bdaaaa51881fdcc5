"""Another server takes over: what was lost with the old one is what the documentation says, and no more.

Members reach their server over a proxy, as over an address that moves; so does the replica. What may be lost is
counted from the provider's own books, which know who spent. With BUDGETGUARD_LONG=1 there is more of everything.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from cut_proxy import CutProxy
from interpreter import LONG
from paid_provider import PaidAccount
from redis_spenders import (
    all_is_well,
    back,
    heard_of,
    let_run,
    nearly_exhausted,
    redis_spenders,
)
from server_process import ENGINES, ServerProcess, servers
from spending_processes import Nursery, go_on, paid, pause
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


class Pair:
    """A primary, its replica, and the ways to them. `place` is where members find the store."""

    def __init__(self, first: ServerProcess, second: ServerProcess) -> None:
        self.primary, self.replica = first, second
        self.link = CutProxy(first.port, plain=True)
        self.place = CutProxy(first.port)
        self.replica.follow(self.link.port)

    def fall_behind(self) -> None:
        """From now on the replica hears of nothing."""
        self.link.hold()

    def move(self) -> None:
        """The replica is the primary from now on, and members find it where the old one was."""
        self.replica.promote()
        self.place.upstream = self.replica.port
        self.place.cut()

    def fail_over(self) -> None:
        """The primary dies, and the replica takes over, with what it has heard."""
        self.primary.kill()
        self.move()

    def make_whole(self) -> None:
        """The old primary comes back, as the replica of the new one."""
        self.link.cut()
        self.link.let_go()
        self.primary, self.replica = self.replica, self.primary
        self.link.upstream = self.primary.port
        self.replica.start()
        self.replica.follow(self.link.port)

    def demote(self) -> None:
        """The old primary, which went on, follows the new one, and loses what it knows."""
        self.link.cut()
        self.link.let_go()
        self.primary, self.replica = self.replica, self.primary
        self.link.upstream = self.primary.port
        self.replica.follow(self.link.port)

    def close(self) -> None:
        """End the proxies."""
        self.place.close()
        self.link.close()


@contextmanager
def pair(engine: str, folder: Path, *options: str) -> Iterator[Pair]:
    """Two servers."""
    with servers(engine, folder, 2, *options) as [first, second]:
        made = Pair(first, second)
        try:
            yield made
        finally:
            made.close()


def near_the_edge(account: PaidAccount, random: Random) -> None:
    """Spend nearly all, then have a little more, for which all compete."""
    account.top_up(random.randint(30, 60))
    nearly_exhausted(account)
    account.top_up(random.randint(20, 40))
    go_on(account, 1)


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


class Sides:
    """Processes on two sides of a partition that is to come: each finds the store by a way of its own."""

    def __init__(self, folder: Path, both: Pair, old_way: CutProxy) -> None:
        self.both = both
        self.old_way = old_way
        self.account = paid(folder, 0)
        self.old, self.new = [
            Nursery(_made(folder / name), self.account, place=ServerPlace(port).text)
            for name, port in (("old", old_way.port), ("new", both.place.port))
        ]

    def start(self, seed: str) -> None:
        """Two processes on each side."""
        for number, side in enumerate((self.old, self.new, self.old, self.new)):
            side.start("spend", f"{seed} {number}")

    def part(self) -> None:
        """The replica takes over on one side; the primary goes on with the other, and knows nothing of it."""
        self.both.fall_behind()
        self.both.move()

    def heal(self) -> None:
        """The old primary is a replica from now on, and all find the new one a while later."""
        self.both.demote()
        let_run(0.5)
        self.old_way.upstream = self.both.primary.port
        self.old_way.cut()

    def close(self) -> None:
        """End all processes."""
        for side in (self.old, self.new):
            side.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextmanager
def two_sides(engine: str, folder: Path) -> Iterator[Sides]:
    """Two servers, and processes of each side."""
    with pair(engine, folder) as both, CutProxy(both.primary.port) as old_way:
        sides = Sides(folder, both, old_way)
        try:
            yield sides
        finally:
            sides.close()


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
            came_back = account.spent_by(pids)
            while account.spent_by(pids) == came_back:
                account.top_up(4)
                nearly_exhausted(account)
        told = old.end_all() + sides.new.end_all()
        back(account, sides.new)
        print(f"lowest balance {account.lowest}, at most {twice} may have been spent twice")
        assert account.lowest >= -twice
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
