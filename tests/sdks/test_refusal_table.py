"""The script that makes the table of SDKs: what it counts, by clients of a few lines."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import refusal_table
from refusal_table import SDK, Stub, cells, markdown, measure, no_pauses

from budgetguard.testing import HandClock


@pytest.fixture
def stub() -> Iterator[Stub]:
    """Give a server."""
    stub = Stub()
    yield stub
    stub.close()


def patient(url: str, transport: Any) -> Any:
    """A client that sends a request three times after a 503, half a minute apart."""

    def call() -> None:
        with httpx.Client(transport=transport) as client:
            for _ in range(3):
                reply = client.post(f"{url}/work", json={"a": 1})
                if reply.status_code != 503:
                    break
                time.sleep(30)
            if reply.is_error:
                raise RuntimeError(reply.text)

    return call


def marking(url: str, transport: Any) -> Any:
    """The same, in a task, with a header that says so."""

    async def call() -> None:
        async with httpx.AsyncClient(transport=transport) as client:
            for attempt in range(3):
                headers = {"x-stainless-retry-count": str(attempt)}
                reply = await client.post(f"{url}/work", headers=headers)
                if reply.status_code < 500:
                    break
                await asyncio.sleep(1)
            raise RuntimeError(reply.text)

    return call


def changing(url: str, transport: Any) -> Any:
    """A client that sends something else each time."""

    def call() -> None:
        with httpx.Client(transport=transport) as client:
            for attempt in range(3):
                client.post(f"{url}/work", json=attempt)

    return call


@pytest.mark.parametrize(
    ("sdk", "row"),
    [
        (
            SDK("httpx", patient, "an option"),
            "an option | 402, 424 | 1 | `RuntimeError` | yes | 3 | 1 | 1 | 1 | by its content",
        ),
        (
            SDK("httpx", patient),
            "no | 402, 424 | 1 | `RuntimeError` | yes | 3 | 1 | 1 | 1 | no transport",
        ),
        (
            SDK("httpx", marking, "an option", way="async"),
            "an option | 402, 424 | 1 | `RuntimeError` | yes | 3 | 3 | 1 | 1 | by its header",
        ),
        (
            SDK("httpx", changing, "an option", way="upload"),
            "an option | 402, 424 | 3 | `` | no | 3, guarded 1 | 3, guarded 1 | 3 | 1 | no",
        ),
    ],
    ids=["patient", "without a transport", "with a header", "something else"],
)
def test_what_one_client_does(stub: Stub, clock: HandClock, sdk: SDK, row: str) -> None:
    """Requests, its error, whether it shows our sentence, and how repeats are recognized."""
    with no_pauses(clock):
        found = measure(sdk, stub, clock)
    assert " | ".join(cells(found)).partition(" | ")[2] == row
    assert cells(found)[0] == f"{sdk.name} {httpx.__version__}"
    table = markdown([found])
    assert table.count("\n") == 3
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_an_sdk_that_repeats_for_ever_is_stopped(
    stub: Stub, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error that nobody repeats."""
    monkeypatch.setattr(refusal_table, "MOST", 5)
    stub.reply = refusal_table.Reply(503)

    def call() -> None:
        while httpx.post(stub.url).status_code == 503:
            time.sleep(1000)

    with no_pauses(clock):
        found = refusal_table.outcome(stub, SDK("httpx", lambda *_: call), None)
    assert (found.requests, found.marked, found.error) == (6, 0, "")


def test_all_sdks_are_named_once() -> None:
    """A row for each package and way."""
    names = [sdk.name for sdk in refusal_table.SDKS]
    assert len(set(names)) == len(names)
    assert {sdk.takes for sdk in refusal_table.SDKS} == {"an option", "an attribute", ""}
