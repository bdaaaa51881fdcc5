"""A process is killed at every point of its way: no id is lost, and one reap ends what it left."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from budgetguard.browser import Reaped, reap

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
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

    def die_at(self, point: int) -> str:
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


@pytest.mark.parametrize("way", ["plain", "asyncio", "trio"])
def test_killed_at_every_point(
    open_scene: Callable[..., Any], victim: Callable[..., Victim], way: str
) -> None:
    """What was opened is ended by one reap, what is not its own is not touched, the books agree."""
    scene = open_scene(1000, max_concurrent_browsers=-1, lag=60)
    doomed = victim(way, scene)
    patience = scene.waits.patience(tries=2)
    tomorrow = replace(patience, clock=replace(scene.waits, began=scene.waits.began + 24 * 3600))
    reaped_ids, orphans, point = [], 0, 0
    while (said := doomed.die_at(point := point + 1)) == "killed":
        quiesce(scene)
        before = scene.own
        orphans += "running" in before.values()
        reaped = reap(scene.client, scene.journal, patience=patience)
        assert set(scene.own.values()) <= {"finished"}, point
        assert (reaped.left, reaped.living, reaped.elsewhere, reaped.unreadable) == ((), 0, 0, 0)
        running = {id for id, state in before.items() if state == "running"}
        assert running <= set(reaped.gone) <= set(before), point
        reaped_ids += reaped.gone
        if reaped.unseen:
            # Its creation was not taken in; nobody can know that, until it would have ended.
            assert scene.files
            assert set(before.values()) <= {"finished"}
            assert reap(scene.client, scene.journal, patience=tomorrow).unseen == reaped.unseen
        assert scene.files == [], point
    assert said == "finished"
    assert scene.files == []
    assert reap(scene.client, scene.journal, patience=patience) == Reaped()
    # The way is long enough, and was cut where it hurts: a session was open at many of its points.
    assert point > 20
    assert orphans > 5
    assert len(set(reaped_ids)) == len(reaped_ids) >= orphans
    scene.client.sessions.delete_session(scene.foreign)
    scene.elapse(60)
    assert scene.guard.balance(max_age=0).credits == scene.sandbox.anchor.balance
    assert scene.guard.available == scene.sandbox.anchor.balance
