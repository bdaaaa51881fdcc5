"""What the tests of the SDKs share: the sandbox's accounts, guards of them, and how holds end."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import predev_api.client
import pytest
import requests

from budgetguard import AnchorBrowser, Guard, PreDev
from budgetguard._core.events import Event
from budgetguard.testing.sandbox import Sandbox

if TYPE_CHECKING:
    from decimal import Decimal

OpenSandbox = Callable[..., Sandbox]
Elapse = Callable[[Sandbox, float], None]

# Work for pre.dev's browser agents.
TASKS = [{"url": "https://example.com"}] * 4
# The longest that a deep spec takes.
DONE = 300
# Everything is done within a millisecond.
AT_ONCE: dict[str, Any] = {"clock": "real", "speed": 1e6}


class Outcomes:
    """Collects what becomes of holds, and whether the guard was marked exhausted."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.settled_at: list[Decimal | None] = []

    def __call__(self, event: Event) -> None:
        """Note the event, if it is one of those."""
        if event.kind == "settled":
            self.settled_at.append(event.credits)
        if event.kind in {"settled", "released", "kept", "exhausted"}:
            self.kinds.append(event.kind)


def predev_guard(sandbox: Sandbox, **options: Any) -> Guard:
    """Make a guard of the sandbox's account, with pre.dev's own lag and linger."""
    return Guard(PreDev(sandbox.predev_key, base_url=sandbox.url), **options)


def anchor_guard(sandbox: Sandbox, **options: Any) -> Guard:
    """Make a guard of the sandbox's project, with Anchor Browser's own lag and linger."""
    return Guard(AnchorBrowser(sandbox.anchor_key, base_url=sandbox.url), **options)


def impatient(monkeypatch: pytest.MonkeyPatch, connect: float, read: float) -> None:
    """Replace the 300 s that pre.dev's SDK waits for both, which its users cannot set."""

    class Impatient:
        def __getattr__(self, name: str) -> Any:
            return getattr(requests, name)

        def post(self, url: str, **options: Any) -> requests.Response:
            return requests.post(url, **options | {"timeout": (connect, read)})

    monkeypatch.setattr(predev_api.client, "requests", Impatient())
