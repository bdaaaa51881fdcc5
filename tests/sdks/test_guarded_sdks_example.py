"""The example of both guarded SDKs, run as a user would run it, and held against the books."""

import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from budgetguard.testing.sandbox import Sandbox

EXAMPLE = Path(__file__).parents[2] / "examples" / "guarded_sdks.py"


def run(*arguments: str) -> str:
    """Run the example, which must not fail nor complain; give what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def costs(output: str) -> Decimal:
    """Add up what the example says that its specs cost."""
    return sum((Decimal(each) for each in re.findall(r"for ([\d.]+) credits", output)), Decimal(0))


def test_in_the_sandbox() -> None:
    """As pasted: the third spec and the third browser are refused, and nothing is cut off."""
    output = run()
    assert "Not a seed library, which cost nothing: PredevAPI.deep_spec_async needs 50" in output
    assert "credits are available while 2 specs are written." in output
    assert output.count("A spec completed for") == 2
    assert f"\n{120 - costs(output)} credits are available." in output
    assert "Not one browser more: Anchorbrowser.sessions.create_session needs 1 slot" in output
    assert "2 browsers were open." in output
    assert f"The sandbox charged {costs(output)} and " in output
    assert output.endswith("; 0 of what it began was cut off.\n")


def test_by_the_books(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --live it uses the environment's keys, and ends what it began."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    with Sandbox(credits=120, speed=300, max_concurrent_browsers=2) as sandbox:
        output = run("--live", "--base-url", sandbox.url)
        assert sandbox.predev.charged == costs(output)
        assert sandbox.requests["POST", "/deep-spec"] == 2
        assert sandbox.requests["POST", "/v1/sessions"] == 2
        assert f"{sandbox.anchor.balance} credits are available.\n" in output
        for account in (sandbox.predev, sandbox.anchor):
            assert (account.finished, account.running, account.died, account.refused) == (
                2,
                0,
                0,
                0,
            )
