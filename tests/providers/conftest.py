"""Servers on loopback, and a clean environment."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack

import httpx
import pytest
from hostile import Server

from budgetguard._io.connections import make_client


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test."""
    with ExitStack() as stack:

        def start(*replies: bytes | Iterable[bytes], **more: object) -> Server:
            return stack.enter_context(Server(*replies, **more))  # type: ignore[arg-type]

        yield start


@pytest.fixture
async def client(anyio_backend: object) -> AsyncIterator[httpx.AsyncClient]:
    """The client that the loop would keep."""
    del anyio_backend
    async with make_client(trust_env=False) as client:
        yield client


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREDEV_API_KEY", "ANCHORBROWSER_API_KEY", "ANCHORBROWSER_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
