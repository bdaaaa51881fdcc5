"""A process is killed at every possible point: no id is lost, and one reap closes what it left."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from budgetguard.browser import Reaped, reap

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
MOMENTS = 300 if os.environ.get("BUDGETGUARD_LONG") else 15
PROGRAM = Path(__file__).parent / "killed.py"


class Victim:
    """The program whose children are killed."""

    def __init__(self, way: str, scene: Any) -> None:
        where = (scene.sandbox.anchor_key, scene.sandbox.url, str(scene.journal.folder))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(PROGRAM), way, *where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def die_at(self, point: int | str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{point}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def victim() -> Iterator[Callable[..., Victim]]:
    """Start programs, and see them end."""
    started: list[Victim] = []

    def start(*arguments: Any) -> Victim:
        started.append(Victim(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.end()


def quiesce(scene: Any) -> None:
    """Let the provider take in what the dead had sent: its one loop serves in order."""
    for _ in range(5):
        scene.client.billing.get_billing()


class Aftermath:
    """What is checked after each death."""

    def __init__(self, scene: Any) -> None:
        self.orphans = 0
        self._scene = scene
        self._reaped: list[str] = []
        self._patience = scene.waits.patience(tries=2)
        later = replace(scene.waits, began=scene.waits.began + 24 * 3600)
        self._tomorrow = replace(self._patience, clock=later)

    def snapshot(self, where: object) -> None:
        """One reap closes what was left, and nothing else."""
        scene = self._scene
        quiesce(scene)
        before = scene.own
        running = {id for id, state in before.items() if state == "running"}
        self.orphans += bool(running)
        reaped = self._reap()
        assert set(scene.own.values()) <= {"finished"}, where
        assert (reaped.left, reaped.living, reaped.elsewhere, reaped.unreadable) == ((), 0, 0, 0)
        assert running <= set(reaped.gone) <= set(before), where
        self._reaped += reaped.gone
        if reaped.unseen:
            # Its creation was not taken in; nobody can know that, until it would have ended.
            assert scene.files
            assert set(before.values()) <= {"finished"}
            later = reap(scene.client, scene.journal, patience=self._tomorrow)
            assert later.unseen == reaped.unseen
        assert scene.files == [], where

    def close(self) -> None:
        """Nothing is left open, nothing was ended twice, and the records agree."""
        scene = self._scene
        assert scene.files == []
        assert self._reap() == Reaped()
        assert len(set(self._reaped)) == len(self._reaped) >= self.orphans
        scene.client.sessions.delete_session(scene.foreign)
        scene.elapse(60)
        assert scene.guard.balance(max_age=0).credits == scene.sandbox.anchor.balance
        assert scene.guard.available == scene.sandbox.anchor.balance

    def _reap(self) -> Reaped:
        return reap(self._scene.client, self._scene.journal, patience=self._patience)


@pytest.mark.parametrize("way", ["plain", "asyncio", "trio"])
def test_killed_at_every_point(
    open_scene: Callable[..., Any], victim: Callable[..., Victim], way: str
) -> None:
    """One reap closes what was opened, touches nothing else, and the records agree."""
    scene = open_scene(1000, max_concurrent_browsers=-1, lag=60)
    doomed, aftermath, point = victim(way, scene), Aftermath(scene), 0
    while (said := doomed.die_at(point := point + 1)) == "killed":
        aftermath.snapshot(point)
    assert said == "finished"
    # The way is long enough, and was cut where it hurts: a session was open at many of its points.
    assert point > 20
    assert aftermath.orphans > 2
    aftermath.close()


@pytest.mark.parametrize("way", ["plain", "asyncio", "trio"])
def test_killed_at_any_moment(
    open_scene: Callable[..., Any], victim: Callable[..., Victim], way: str
) -> None:
    """The same if the kernel kills it at any moment, drawn from a seed."""
    scene = open_scene(1000, max_concurrent_browsers=-1, lag=60)
    doomed, aftermath = victim(way, scene), Aftermath(scene)
    draw = Random(way)
    longest = 0.2
    for _ in range(MOMENTS):
        moment = max(draw.uniform(0, longest), 0.0001)
        said = doomed.die_at(f"{moment:.6f}")
        if said == "finished":
            longest = max(moment, 0.01)
        else:
            assert said == "killed"
            aftermath.snapshot(moment)
    aftermath.close()
