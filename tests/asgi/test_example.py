"""The examples of web services, run as a user would run it, and compared with the provider's records."""

import re

import pytest
from example import costs, run

from budgetguard.testing.sandbox import Sandbox


@pytest.fixture(autouse=True)
def _with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)


def test_in_the_sandbox() -> None:
    """As pasted: two deep specs of three are paid for, one is a 402, and nobody else is asked."""
    with Sandbox() as idle:
        output = run("web_service.py", "--base-url", idle.url)
        assert not idle.requests
    assert output.startswith("The account has 130 credits.\n200: a bird feeder finished for")
    assert output.count("200: ") == 3
    [refused] = [line for line in output.splitlines() if line.startswith("402: ")]
    assert "100 are held by 2 running calls" in refused
    assert re.search(r"Retry-After: \d+\. deep_spec needs 50 credits", refused)
    assert output.endswith(f"The sandbox charged {costs(output)}, for specs that died: 0.\n")


def test_by_the_books() -> None:
    """With --live the provider charged what the service says, and no spec was refused there."""
    with Sandbox(credits=130, speed=150, seed=3) as sandbox:
        output = run("web_service.py", "--live", "--base-url", sandbox.url)
        account = sandbox.predev
        assert sandbox.requests["POST", "/deep-spec"] == 2
        assert sandbox.requests["POST", "/fast-spec"] == 1
        assert (account.finished, account.died, account.refused, account.running) == (3, 0, 0, 0)
        assert account.charged == costs(output)


def test_a_budget_for_each_user() -> None:
    """Two of four specs at once fit into a user's budget, another user gets one, and all is paid."""
    with Sandbox() as idle:
        output = run("per_user_service.py", "--base-url", idle.url)
        assert not idle.requests
    assert output.startswith("The account has 1000 credits.\n")
    assert output.count("refused: fast_spec of ada\n") == 2
    assert (output.count("200: ada got"), output.count("200: bob got")) == (2, 1)
    assert output.count("402: ada was refused") == 2
    assert (
        "the budget daily has 5 of 25 credits left: 20 are held by calls and blocks that still run"
        in output
    )
    for user in ("ada", "bob"):
        credits = costs(of(user, output))
        assert f"\n{user} spent {credits} of 25 today; {25 - credits} are left.\n" in output
    assert f"\n{1000 - costs(output)} credits are available.\n" in output
    assert output.endswith(f"The sandbox charged {costs(output)}, for specs that died: 0.\n")


def test_a_budget_for_each_user_by_the_books() -> None:
    """With --live nothing reaches the provider that a budget refused."""
    with Sandbox(credits=1000, speed=150, seed=3) as sandbox:
        output = run("per_user_service.py", "--live", "--base-url", sandbox.url)
        account = sandbox.predev
        assert sandbox.requests["POST", "/fast-spec"] == output.count("200: ") == 3
        assert (account.finished, account.died, account.refused, account.running) == (3, 0, 0, 0)
        assert account.charged == costs(output)


def of(user: str, output: str) -> str:
    """The lines about the specs that a user got."""
    return "\n".join(line for line in output.splitlines() if line.startswith(f"200: {user} "))
