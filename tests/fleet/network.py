"""What lies between the members and their store: delays, losses, duplicates and cuts."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from processes import FleetLoop


@dataclass
class Links:
    """How bad a network is: seconds on average, and shares of its packets."""

    delay: float
    lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    latest: float = 8.0
    """Seconds by which those that are late are late, at most."""

    @property
    def clean(self) -> bool:
        """Whether every packet arrives once, and soon."""
        return not (self.lost or self.twice or self.late)


class Network:
    """Carries packets between processes and servers, each on its own way and in any order.

    `cut` has the names of processes from which nothing goes out, and to which nothing comes in.
    """

    def __init__(self, loop: FleetLoop, random: Random, links: Links, counts: Counter[str]) -> None:
        self.links = links
        self.cut: dict[str, set[str]] = {"out": set(), "in": set()}
        self._loop = loop
        self._random = random
        self._counts = counts

    def carry(self, kind: str, name: str, deliver: Callable[..., object], *args: Any) -> None:
        """Carry something from ("out") or to ("in") a process: once, twice, late, or never.

        It is also lost if the link is cut when it arrives.
        """
        links, draw = self.links, self._random
        copies = 1
        if draw.random() < links.lost:
            self._counts[f"lost {kind}"] += 1
            copies = 0
        elif draw.random() < links.twice:
            self._counts[f"twice {kind}"] += 1
            copies = 2
        for _ in range(copies):
            delay = min(draw.expovariate(1 / links.delay), 10 * links.delay)
            if draw.random() < links.late:
                self._counts[f"late {kind}"] += 1
                delay += draw.uniform(0, links.latest)
            self._loop.outside(delay, self._arrive, kind, name, deliver, args)

    def _arrive(self, kind: str, name: str, deliver: Callable[..., object], args: Any) -> None:
        if name in self.cut[kind]:
            self._counts[f"cut {kind}"] += 1
        else:
            deliver(*args)
