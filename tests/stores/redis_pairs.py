"""Two servers of which one takes over from the other, and the ways on which processes find them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from cut_proxy import CutProxy
from paid_provider import PaidAccount
from redis_spenders import let_run, nearly_exhausted
from server_process import ServerProcess, servers
from spending_processes import Nursery, go_on, paid
from store_place import ServerPlace


class Pair:
    """A primary, its replica with one of its own, and the ways to them. `place` is where members find the store."""

    def __init__(self, first: ServerProcess, second: ServerProcess, third: ServerProcess) -> None:
        third.follow(second.port)
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
    """Three servers."""
    with servers(engine, folder, 3, *options) as [first, second, third]:
        made = Pair(first, second, third)
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


class Sides:
    """Processes on two sides of a partition that is to come: each finds the store by a way of its own."""

    def __init__(self, folder: Path, both: Pair, old_way: CutProxy, **settings: Any) -> None:
        self.both = both
        self.old_way = old_way
        self.account = paid(folder, 0)
        self.old, self.new = [
            Nursery(_made(folder / name), self.account, place=ServerPlace(port, **settings).text)
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
def two_sides(engine: str, folder: Path, **settings: Any) -> Iterator[Sides]:
    """Servers, and processes of each side."""
    with pair(engine, folder) as both, CutProxy(both.primary.port) as old_way:
        sides = Sides(folder, both, old_way, **settings)
        try:
            yield sides
        finally:
            sides.close()


def all_spend(account: PaidAccount, pids: list[int]) -> None:
    """Each of these processes spends something from now on; they compete with others."""
    before = {pid: account.spent_by([pid]) for pid in pids}
    while any(account.spent_by([pid]) == spent for pid, spent in before.items()):
        account.top_up(4)
        nearly_exhausted(account)
