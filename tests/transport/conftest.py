"""Sandboxes, and a guard for each provider's account there."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import httpx2
import pytest
from web import WAYS, Web

from budgetguard import AnchorBrowser, Guard, PreDev
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Each library's plain client, and its awaiting one on both event loops."""
    library, _, backend = request.param.partition(" on ")
    return library, backend


@pytest.fixture
async def web(way: tuple[str, str]) -> AsyncIterator[Web]:
    """Give the client; a test module that uses it has to run on the loop in `way`."""
    web = Web({"httpx": httpx, "httpx2": httpx2}[way[0]], awaiting=bool(way[1]))
    yield web
    await web.close()


@pytest.fixture
def open_sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes, in whose time a minute passes within milliseconds."""
    with ExitStack() as stack:

        def start(credits: float, **options: Any) -> Sandbox:
            return stack.enter_context(Sandbox(credits, **{"speed": 20_000.0} | options))

        yield start


@pytest.fixture
def sandbox(open_sandbox: Callable[..., Sandbox]) -> Sandbox:
    """Give one with 100 credits."""
    return open_sandbox(100)


@pytest.fixture
def predev(sandbox: Sandbox, clock: HandClock) -> Guard:
    """Give a guard of pre.dev's account there, which knows of its credits."""
    del clock
    guard = Guard(PreDev(Sandbox.predev_key, base_url=sandbox.url))
    guard.balance()
    return guard


@pytest.fixture
def anchor(sandbox: Sandbox, clock: HandClock) -> Guard:
    """Give a guard of Anchor Browser's account there, which knows of its credits."""
    del clock
    guard = Guard(AnchorBrowser(Sandbox.anchor_key, base_url=sandbox.url))
    guard.balance()
    return guard
