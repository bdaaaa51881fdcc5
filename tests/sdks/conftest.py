"""Providers and guards whose clocks are turned together, and an address where nobody answers."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def open_sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes, whose time moves by hand unless they are told otherwise."""
    with ExitStack() as stack:

        def start(credits: float, **options: Any) -> Sandbox:
            return stack.enter_context(Sandbox(credits, **{"clock": "manual"} | options))

        yield start


@pytest.fixture
def elapse(clock: HandClock) -> Callable[[Sandbox, float], None]:
    """Let seconds pass, at the provider first: a refresh then shows what was charged by then."""

    def elapse(sandbox: Sandbox, seconds: float) -> None:
        sandbox.advance(seconds)
        clock.advance(seconds)

    return elapse


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Give threads for calls that block until the provider's time has moved."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def nobody() -> Iterator[str]:
    """Give a base URL at which connections are refused: the port is bound, nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
