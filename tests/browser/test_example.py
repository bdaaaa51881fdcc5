"""The example, run as a user would run it, and compared with the sandbox's records."""

import pytest
from example import run

from budgetguard.testing.sandbox import Sandbox

EXAMPLE = "browser_sessions_that_end.py"


def test_in_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pasted: three sessions, three ways out, none open, and a key in the environment unused."""
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    with Sandbox() as idle:
        output = run(EXAMPLE, "--base-url", idle.url)
        assert not idle.requests
    assert "Opened one for at most 0.015 credits." in output
    assert "The page does not load. The session is over, its hold settled." in output
    assert "A task was cancelled; its session is over too." in output
    assert (
        "The next one closed 1 and left 0 of other processes alone.\nNot confirmed: 0.\n" in output
    )
    assert output.endswith("0 of 3 are still open.\n")


def test_by_the_books(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --live it uses the key of the environment, and leaves the provider with nothing open."""
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    with Sandbox(credits=1) as sandbox:
        foreign = sandbox.requests
        run(EXAMPLE, "--live", "--base-url", sandbox.url)
        assert not foreign
        assert (sandbox.anchor.finished, sandbox.anchor.running, sandbox.anchor.died) == (3, 0, 0)
        assert sandbox.requests["DELETE", "/v1/sessions/{session_id}"] == 3
        assert sandbox.requests["DELETE", "/v1/sessions/all"] == 0


def test_without_credits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal opens nothing."""
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    with Sandbox(credits=0) as sandbox:
        assert "Refused: browser_session needs 0.015 credits, and none is available" in run(
            EXAMPLE, "--live", "--base-url", sandbox.url
        )
        assert sandbox.requests["POST", "/v1/sessions"] == 0
