"""Both providers' own SDKs against the sandbox."""

import threading
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from typing import Any

import pytest
from anchorbrowser import Anchorbrowser, APIStatusError, RateLimitError
from predev_api import InsufficientCreditsError, PredevAPI, PredevAPIError, QueueFullError
from predev_api.client import SpecResponse
from predev_api.exceptions import AuthenticationError, BatchTooLargeError

from budgetguard.testing.sandbox import Sandbox

TASK = {"url": "https://example.com"}


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the SDKs from a proxy that this machine may have."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Give a sandbox in which everything is done within a millisecond."""
    with Sandbox(credits=200, speed=1e6) as sandbox:
        yield sandbox


def predev(sandbox: Sandbox) -> PredevAPI:
    """Give pre.dev's client."""
    return PredevAPI(sandbox.predev_key, sandbox.url)


def anchor(sandbox: Sandbox) -> Anchorbrowser:
    """Give Anchor Browser's client, which checks each reply against its own models."""
    return Anchorbrowser(
        api_key=sandbox.anchor_key, base_url=sandbox.url, _strict_response_validation=True
    )


def test_predev_specs(sandbox: Sandbox) -> None:
    """Specs come back with the fields that the SDK knows, and their cost."""
    api = predev(sandbox)
    known = {field.name for field in fields(SpecResponse)}
    fast: Any = api.fast_spec("A shop")
    deep: Any = api.deep_spec("A shop", current_context="Django", doc_urls=["https://a.example"])
    submitted: Any = api.fast_spec_async("A shop")
    assert submitted["status"] == "pending"
    assert sandbox.wait_until(lambda: sandbox.predev.finished == 3)
    third: Any = api.get_spec_status(submitted["specId"])
    for spec in (fast, deep, third):
        assert set(spec) <= known
        assert (spec["status"], spec["success"], spec["progress"]) == ("completed", True, 100)
    used = sum(spec["creditsUsed"] for spec in (fast, deep, third))
    assert used == sandbox.predev.charged
    assert api.get_credits_balance().creditsRemaining == 200 - used


def test_predev_browser_agents(sandbox: Sandbox) -> None:
    """Batches work plainly, asynchronously and as a stream."""
    api = predev(sandbox)
    plain: Any = api.browser_agent([TASK, TASK], concurrency=1)
    stub: Any = api.browser_agent([TASK], run_async=True)
    *_, last = api.browser_agent([TASK], stream=True)
    assert sandbox.wait_until(lambda: sandbox.predev.finished == 3)
    polled = api.get_browser_agent(stub["id"])
    bodies: list[Any] = [plain, polled, last["data"]]
    assert last["event"] == "done"
    used = sum(Decimal(str(body["totalCreditsUsed"])) for body in bodies)
    assert used == sandbox.predev.charged


def test_predev_errors() -> None:
    """The documented errors surface as the SDK's own exceptions."""
    with Sandbox(credits=0) as sandbox:
        api = predev(sandbox)
        with pytest.raises(PredevAPIError, match="402: Insufficient credits"):
            api.deep_spec("A shop")
        with pytest.raises(InsufficientCreditsError) as caught:
            api.browser_agent([TASK])
        assert caught.value.action_url == "https://pre.dev/projects/key?upgrade=credits"
        with pytest.raises(BatchTooLargeError):
            api.browser_agent([TASK] * 1001)
        with pytest.raises(AuthenticationError):
            PredevAPI("wrong", sandbox.url).get_credits_balance()
        with pytest.raises(PredevAPIError, match="404"):
            api.get_spec_status("none")
    with Sandbox(credits=200, clock="manual") as sandbox:
        api = predev(sandbox)
        api.browser_agent([TASK] * 1000, run_async=True)
        with pytest.raises(QueueFullError):
            api.browser_agent([TASK])


def test_predev_stream_dies_half_way() -> None:
    """A stream that runs out of credits raises after the results that it still gave."""
    with Sandbox(credits=1, speed=1e6) as sandbox:
        seen = []
        with pytest.raises(InsufficientCreditsError):
            seen.extend(predev(sandbox).browser_agent([TASK] * 9, stream=True))
        assert sandbox.predev.died == 1


def test_predev_dies_half_way_behind_a_waiting_client() -> None:
    """A client that waits for its spec gets the 402 when the credits are used up."""
    with Sandbox(credits=8, clock="manual") as sandbox:
        errors = []

        def wait() -> None:
            try:
                predev(sandbox).deep_spec("A shop")
            except PredevAPIError as error:
                errors.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
        sandbox.advance(300)
        thread.join()
        assert "402" in errors[0]


def test_anchor_sessions() -> None:
    """Sessions are created, shown, listed and ended."""
    with Sandbox(clock="manual") as sandbox, anchor(sandbox) as api:
        data = api.sessions.create_session(
            session={"timeout": {"max_duration": -1, "idle_timeout": -1}}
        ).data
        assert data is not None
        assert data.id is not None
        shown = api.sessions.get_session(data.id).data
        assert shown is not None
        assert shown.status == "running"
        api.sessions.delete_session(data.id)
        page = api.sessions.list_sessions().data
        assert page is not None
        assert Decimal(str(page.sessions[0].used_credits)) == sandbox.anchor.charged
        api.sessions.create_session()
        api.sessions.delete_all_sessions()
        assert sandbox.anchor.running == 0
        billing = api.billing.get_billing().data
        assert billing is not None
        assert Decimal(str(billing.credits)) == sandbox.anchor.balance


def test_anchor_errors() -> None:
    """The documented errors surface as the SDK's own exceptions."""
    with (
        Sandbox(credits=1, sessions_per_minute=1, clock="manual") as sandbox,
        anchor(sandbox) as api,
    ):
        api.sessions.create_session()
        with pytest.raises(RateLimitError) as limited:
            api.sessions.create_session()
        assert limited.value.response.headers["retry-after"] == "60"
        sandbox.advance(60)
        sandbox.anchor.spend(1)
        with pytest.raises(APIStatusError) as broke:
            api.sessions.create_session()
        assert broke.value.status_code == 402
