"""A sandbox with a browser that is nobody's to touch, clients of both kinds, and patience without waits."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from anchorbrowser import Anchorbrowser, AsyncAnchorbrowser

from budgetguard import AnchorBrowser, Guard
from budgetguard._core.clock import Instant
from budgetguard.browser import Journal, Patience
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox


@dataclass
class Waits:
    """A clock that starts with the machine's, and that only pauses move; and the pauses."""

    pauses: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.time)

    def monotonic(self) -> float:
        return self.began + sum(self.pauses)

    def wall(self) -> float:
        return self.monotonic()

    def now(self) -> Instant:
        return Instant(self.monotonic(), self.wall())

    def sleep(self, seconds: float) -> None:
        if seconds:
            self.pauses.append(seconds)

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def patience(self, **options: Any) -> Patience:
        return Patience(sleep=self.sleep, asleep=self.asleep, clock=self, **options)


class Scene:
    """One account, with a session of somebody else's running in it, and a journal."""

    def __init__(self, sandbox: Sandbox, clock: HandClock, folder: Path) -> None:
        self.sandbox = sandbox
        self.clock = clock
        self.waits = Waits()
        self.patience = self.waits.patience()
        self.guard = self.new_guard()
        self.client = self.new_client()
        self.journal = Journal(folder)
        self.foreign = self.client.sessions.create_session(
            session={"timeout": {"max_duration": -1}}
        ).data.id

    def new_guard(self, **options: Any) -> Guard:
        return Guard(AnchorBrowser(self.sandbox.anchor_key, base_url=self.sandbox.url), **options)

    def new_client(self, **options: Any) -> Anchorbrowser:
        key = self.sandbox.anchor_key
        return Anchorbrowser(api_key=key, base_url=self.sandbox.url, **options)

    def new_async_client(self) -> AsyncAnchorbrowser:
        return AsyncAnchorbrowser(api_key=self.sandbox.anchor_key, base_url=self.sandbox.url)

    def elapse(self, seconds: float) -> None:
        """Let seconds pass, at the provider first."""
        self.sandbox.advance(seconds)
        self.clock.advance(seconds)

    @property
    def own(self) -> dict[str, str]:
        """The states of all sessions but the foreign one, which is checked to run still."""
        states = {each.id: each.state for each in self.sandbox.anchor.operations.values()}
        assert states.pop(self.foreign) == "running"
        return states

    @property
    def files(self) -> list[Path]:
        """The journal's files."""
        return sorted(self.journal.folder.glob("*"))

    @property
    def deletions(self) -> int:
        return self.sandbox.requests["DELETE", "/v1/sessions/{session_id}"]

    @property
    def creations(self) -> int:
        """How many sessions were asked for, besides the foreign one."""
        return self.sandbox.requests["POST", "/v1/sessions"] - 1


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def open_scene(clock: HandClock, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Set scenes with that many credits left; options are the sandbox's."""
    with ExitStack() as stack:

        def set_up(credits: float = 1, **options: Any) -> Scene:
            sandbox = stack.enter_context(Sandbox(credits, **{"clock": "manual"} | options))
            scene = Scene(sandbox, clock, tmp_path / "journal")
            stack.callback(scene.client.close)
            return scene

        yield set_up


@pytest.fixture
def scene(open_scene: Callable[..., Scene]) -> Scene:
    """Give an account with 1 credit, less what the foreign session cost so far."""
    return open_scene()
