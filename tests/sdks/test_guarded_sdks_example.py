"""The example of both guarded SDKs, run as a user would run it, and compared with the provider's records."""

import pytest
from example import costs, run

from budgetguard.testing.sandbox import Sandbox


def test_in_the_sandbox() -> None:
    """As pasted: the third spec and the third browser are refused, and nothing dies half-way."""
    output = run("guarded_sdks.py")
    assert (
        "Refused a seed library, which cost nothing: PredevAPI.deep_spec_async needs 50" in output
    )
    assert "credits are available while 2 specs are written." in output
    assert output.count("A spec completed for") == 2
    assert f"\n{120 - costs(output)} credits are available." in output
    assert "Refused one more browser: Anchorbrowser.sessions.create_session needs 1 slot" in output
    assert "2 browsers were open." in output
    assert f"The sandbox charged {costs(output)} and " in output
    assert output.endswith("; 0 specs or sessions died half-way.\n")


def test_by_the_books(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --live it uses the environment's keys, and closes what it opened."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    with Sandbox(credits=120, speed=300, max_concurrent_browsers=2) as sandbox:
        output = run("guarded_sdks.py", "--live", "--base-url", sandbox.url)
        assert sandbox.predev.charged == costs(output)
        assert sandbox.requests["POST", "/deep-spec"] == 2
        assert sandbox.requests["POST", "/v1/sessions"] == 2
        assert f"{sandbox.anchor.balance} credits are available.\n" in output
        for each in (sandbox.predev, sandbox.anchor):
            assert (each.finished, each.running, each.died, each.refused) == (2, 0, 0, 0)
