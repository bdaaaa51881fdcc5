"""The examples, run as a user would run them, and compared with the sandbox's records."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator

import pytest
import redis_servers
from example import EXAMPLES, costs, ended, run

from budgetguard.testing.sandbox import Sandbox

NAMES = sorted(file.name for file in EXAMPLES.glob("*.py"))


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def run_pasted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Run an example with keys in the environment, which without --live it must not use."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    with Sandbox() as idle:
        yield lambda name: run(name, "--base-url", idle.url)
        assert not idle.requests


def test_spec_generation_in_the_sandbox(run_pasted: Callable[[str], str]) -> None:
    """As pasted: one spec is refused, the others and the submitted one finish, none dies."""
    output = run_pasted("spec_generation.py")
    assert output.startswith("The account has 200 credits.\n")
    assert output.count("Finished ") == 4
    [refused] = [line for line in output.splitlines() if line.startswith("Refused")]
    assert "deep_spec needs 50 credits, and none is available" in refused
    assert "200 are held by 4 running calls" in refused
    assert "The submitted spec completed for" in output
    assert f"{200 - costs(output)} credits are available." in output
    assert output.endswith(f"The sandbox charged {costs(output)}, for specs that died: 0.\n")


def test_spec_generation_against_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --live it uses the key of the environment, and the provider charged what it says."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    with Sandbox(credits=200, speed=150, seed=5) as sandbox:
        output = run("spec_generation.py", "--live", "--base-url", sandbox.url)
        account = sandbox.predev
        assert sandbox.requests["POST", "/deep-spec"] == output.count("Finished ") == 4
        assert sandbox.requests["POST", "/fast-spec"] == 1
        assert (account.finished, account.died, account.refused, account.running) == (5, 0, 0, 0)
        assert account.charged == costs(output)
        assert account.lowest_balance >= 0


def test_browser_session_in_the_sandbox(run_pasted: Callable[[str], str]) -> None:
    """As pasted: all pages but the broken one are read, and no browser is left."""
    output = run_pasted("browser_session.py")
    assert output.startswith("The account has 1 credits and 3 browsers.\n")
    assert output.count("Read ") == 7
    assert "No broken: the page does not load." in output
    assert "At most 3 browsers were open at once." in output
    assert output.endswith("; 0 are still open.\n")


def test_browser_session_against_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more browsers than allowed, each deleted, and what is available is what is left."""
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    with Sandbox(credits=1, max_concurrent_browsers=2) as sandbox:
        output = run("browser_session.py", "--live", "--base-url", sandbox.url)
        account = sandbox.anchor
        assert output.count("Read ") == 7
        assert account.max_concurrency_seen == 2
        assert (account.finished, account.died, account.running) == (9, 0, 0)
        assert sandbox.requests["POST", "/v1/sessions"] == 9
        assert sandbox.requests["DELETE", "/v1/sessions/{session_id}"] == 9
        assert f"\n{account.balance} credits are available.\n" in output


def test_guarded_client_in_the_sandbox(run_pasted: Callable[[str], str]) -> None:
    """As pasted: three of six specs are refused without a request, and none dies."""
    output = run_pasted("guarded_client.py")
    assert "Refused a choir: POST /fast-spec needs 10 credits, and 5 are available" in output
    assert "3 written, 3 refused before they cost anything." in output
    assert f"The sandbox charged {costs(output)}; 0 specs died half-way." in output


def test_guarded_client_against_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --live it uses the key of the environment; nothing that was refused was sent."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    with Sandbox(credits=25, speed=150) as sandbox:
        output = run("guarded_client.py", "--live", "--base-url", sandbox.url)
        account = sandbox.predev
        assert sandbox.requests["POST", "/fast-spec"] == output.count("Wrote ") == 2
        assert (account.finished, account.died, account.charged) == (2, 0, costs(output))


def test_gunicorn_workers_in_the_sandbox(run_pasted: Callable[[str], str]) -> None:
    """As pasted: four workers spend what there is together, and no more; no spec dies."""
    if not (hasattr(os, "fork") and importlib.util.find_spec("gunicorn")):
        pytest.skip("gunicorn is not there")
    output = run_pasted("gunicorn_workers.py")
    spent = [
        int(each) for each in re.findall(r"The calls of worker \d+ cost (\d+) credits", output)
    ]
    written, cost, refused = map(
        int, re.findall(r"(\d+) specs written for (\d+) credits, (\d+)", output)[0]
    )
    assert len(spent) == 4
    assert sum(spent) == cost
    assert 80 < cost <= 100
    assert written + refused == 24
    assert f"The sandbox charged {cost}; 0 specs died half-way." in output


def test_redis_fleet_in_the_sandbox(
    run_pasted: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pasted: four processes spend what there is together, and no more; no spec dies."""
    redis_servers.driver()
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{redis_servers.redis_server()}")
    output = run_pasted("redis_fleet.py")
    spent = [
        int(each) for each in re.findall(r"The calls of process \d+ cost (\d+) credits", output)
    ]
    written, cost, refused = map(
        int, re.findall(r"(\d+) specs written for (\d+) credits, (\d+)", output)[0]
    )
    assert (len(spent), sum(spent), written + refused) == (4, cost, 24)
    assert 80 < cost <= 100
    assert f"The sandbox charged {cost}; 0 specs died half-way." in output


def test_agent_loop_in_the_sandbox(run_pasted: Callable[[str], str]) -> None:
    """As pasted: a refusal reaches the model as a tool's result, and the run goes on."""
    lines = run_pasted("agent_loop.py").splitlines()
    [refusal] = [line for line in lines if "BUDGET" in line]
    assert re.fullmatch(
        r"The tool returns: BUDGET: needs 50 credits, \d+ available \(as of (just now|\d+ s ago)\)\. "
        r"Do not retry; ask for a top-up: https://\S+",
        refusal,
    )
    assert "fast_spec" in lines[lines.index(refusal) + 1]
    assert "Done for" in lines[lines.index(refusal) + 2]
    assert lines[-1].endswith("The rest needs a top-up.")


def test_agent_loop_against_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refused tool never reached the provider, the others were charged what they say."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    with Sandbox(credits=45, speed=300) as sandbox:
        output = run("agent_loop.py", "--live", "--base-url", sandbox.url)
        assert sandbox.requests["POST", "/deep-spec"] == 0
        assert sandbox.predev.finished == 2
        assert sandbox.predev.charged == costs(output)


def test_agent_loop_with_enough_credits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the credits are there, nothing is refused and the model answers at once."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    with Sandbox(credits=100, speed=300) as sandbox:
        output = run("agent_loop.py", "--live", "--base-url", sandbox.url)
        assert sandbox.requests["POST", "/deep-spec"] == 1
        assert sandbox.predev.charged == costs(output)
        assert output.endswith("The model answers: Here is the whole shop.\n")


@pytest.mark.parametrize("name", NAMES)
def test_live_without_a_key(name: str) -> None:
    """With --live and without a key an example exits, naming the variable, and makes no request."""
    with Sandbox() as sandbox:
        done = ended(name, "--live", "--base-url", sandbox.url)
        assert done.returncode == 2
        assert re.search(r"error: --live needs [A-Z]+_API_KEY\n", done.stderr)
        assert not sandbox.requests


def test_every_example_is_described() -> None:
    """The page beside the examples names each of them."""
    page = (EXAMPLES / "README.md").read_text()
    assert NAMES
    assert all(f"python {name}" in page for name in NAMES)
