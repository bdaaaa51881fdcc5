"""The command line: what it prints, and with which code it exits."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from budgetguard.cli import main
from budgetguard.demo_screen import Screen
from budgetguard.switch import SWITCH
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox

COMMANDS = ["balance", "check", "sandbox", "demo"]
RUN = [sys.executable, "-W", "error", "-m", "budgetguard"]
FIGURES = {
    "provider",
    "credits",
    "tier",
    "max_concurrency",
    "cost_limit",
    "credits_used",
    "as_of",
}


@pytest.fixture(autouse=True)
def _by_hand(clock: HandClock) -> None:
    """Run on a private loop that ends with the test."""


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give 42.5 credits at each provider, and pre.dev's key in the environment."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    with Sandbox(credits="42.5", clock="manual") as sandbox:
        yield sandbox


def usage(*arguments: str) -> int:
    """Run a command that argparse ends; give its code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_balance(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence for people, from one request."""
    assert main(["balance", "--base-url", sandbox.url]) == 0
    assert capsys.readouterr() == ("pre.dev: 42.5 credits\n", "")
    assert sandbox.balance_requests == 1


def test_balance_as_json(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """One object for programs, with null for what the provider does not tell."""
    assert main(["balance", "--json", "--base-url", sandbox.url]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == FIGURES
    assert (figures["provider"], figures["credits"], figures["tier"]) == ("pre.dev", 42.5, None)


@pytest.mark.parametrize("project", [None, Sandbox.project_id])
def test_balance_at_anchor_browser(
    project: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The provider is the one whose key is in the environment, with or without a project."""
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    if project is not None:
        monkeypatch.setenv("ANCHORBROWSER_PROJECT_ID", project)
    with Sandbox(credits=7, cost_limit=100, clock="manual") as sandbox:
        assert main(["balance", "--json", "--base-url", sandbox.url]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert main(["balance", "--base-url", sandbox.url]) == 0
        sentence = capsys.readouterr().out
    assert figures.pop("as_of").endswith("+00:00")
    assert figures == {
        "provider": "Anchor Browser",
        "credits": 7,
        "tier": "free",
        "max_concurrency": 5,
        "cost_limit": 100,
        "credits_used": 0 if project is None else None,
    }
    assert sentence.startswith(
        "Anchor Browser: 7 credits (tier free, concurrent sessions 5, cost limit 100"
    )


@pytest.mark.parametrize("provider", ["predev", "anchorbrowser"])
def test_provider_by_name(
    provider: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With both keys in the environment, --provider chooses."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    with Sandbox(credits=3, clock="manual") as sandbox:
        assert main(["balance", "--base-url", sandbox.url]) == 2
        said = capsys.readouterr().err
        assert "Both PREDEV_API_KEY and ANCHORBROWSER_API_KEY" in said
        assert "--provider" in said
        assert main(["balance", "--provider", provider, "--base-url", sandbox.url]) == 0
    assert "3 credits" in capsys.readouterr().out


@pytest.mark.parametrize(("least", "code"), [("42.5", 0), ("42.500001", 1), ("0", 0), ("50", 1)])
def test_check(sandbox: Sandbox, least: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Exits 0 if there are enough credits to the micro-credit, 1 if not, and says the figures."""
    assert main(["check", "--min", least, "--base-url", sandbox.url]) == code
    said = capsys.readouterr()
    assert said.err == ""
    assert "42.5" in said.out
    if code:
        assert f"needs {least} credits, and 42.5 are available" in said.out
        assert "Top up: https://pre.dev" in said.out
    assert sandbox.balance_requests == 1


@pytest.mark.parametrize(("least", "enough"), [("42", True), ("43", False)])
def test_check_as_json(
    sandbox: Sandbox, least: str, enough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """One object with the answer and the figures it rests on."""
    code = main(["check", "--min", least, "--json", "--base-url", sandbox.url])
    assert code == (0 if enough else 1)
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"enough", "min"} | FIGURES
    assert (answer["enough"], answer["min"], answer["credits"]) == (enough, int(least), 42.5)


@pytest.mark.parametrize("switch", ["off", "observe"])
def test_check_while_guards_are_switched_off(
    sandbox: Sandbox, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BUDGETGUARD lets guarded code pass; it does not make credits, and a check still tells."""
    monkeypatch.setattr(SWITCH, "read", False)
    monkeypatch.setenv("BUDGETGUARD", switch)
    assert main(["check", "--min", "43", "--base-url", sandbox.url]) == 1
    assert main(["check", "--min", "42", "--base-url", sandbox.url]) == 0


@pytest.mark.parametrize("command", ["balance", "check --min 1"])
def test_wrong_key(
    sandbox: Sandbox,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A key that the provider does not accept leaves the balance unknown: 3, and no key shown."""
    monkeypatch.setenv("PREDEV_API_KEY", "pdk_wrong_and_not_real")
    assert main([*command.split(), "--base-url", sandbox.url]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("budgetguard: The balance at pre.dev is not known:")
    assert "401" in said.err
    assert "check the key" in said.err
    assert "Next look" not in said.err
    assert "pdk_wrong" not in said.err


@pytest.mark.parametrize("command", ["balance", "check --min 1"])
def test_balance_that_makes_no_sense(
    sandbox: Sandbox, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reply without a balance in it is 3, never 0."""
    sandbox.fault("/credits-balance", body={"success": True})
    assert main([*command.split(), "--json", "--base-url", sandbox.url]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "Next look" not in said.err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a POSIX shell's redirections")
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("| head -c 0", 1, ""),
        (">&-", 1, ""),
        (">/dev/full", 3, "budgetguard: the answer cannot be written: No space left on device\n"),
    ],
)
def test_an_answer_that_nobody_reads(
    sandbox: Sandbox, redirection: str, code: int, said: str
) -> None:
    """The exit code tells all the same; what cannot be written is no answer."""
    check = f"{shlex.join(RUN)} check --min 43 --base-url {sandbox.url}"
    script = f"set -o pipefail; {check} {redirection}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


@pytest.mark.parametrize("command", ["balance", "check --min 1"])
@pytest.mark.parametrize(
    ("provider", "names"),
    [
        ("", {"PREDEV_API_KEY", "ANCHORBROWSER_API_KEY"}),
        ("--provider predev", {"PREDEV_API_KEY"}),
        ("--provider anchorbrowser", {"ANCHORBROWSER_API_KEY"}),
    ],
)
def test_no_key(
    command: str, provider: str, names: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a key it is 2, and the message names the variables to set."""
    assert main(f"{command} {provider}".split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(name in said.err for name in names)
    assert "guard" not in said.err.removeprefix("budgetguard")
    assert "--provider" not in said.err


def test_unknown_switch(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt BUDGETGUARD is wrong usage."""
    monkeypatch.setattr(SWITCH, "read", False)
    monkeypatch.setenv("BUDGETGUARD", "of")
    assert main(["check", "--min", "1", "--base-url", sandbox.url]) == 2
    assert "BUDGETGUARD is something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "",
        "spend",
        "balance --port 1",
        "balance --provider other",
        "check",
        "check --min many",
        "check --min nan",
        "check --min -1",
        "check --min 1e13",
        "demo --seed x",
        "sandbox --port 65536",
        "sandbox --port http",
        "sandbox --speed 0",
        "sandbox --credits lots",
        "sandbox --json",
    ],
)
def test_wrong_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be is 2, with the usage and the reason on standard error."""
    assert usage(*command.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "usage: budgetguard" in said.err
    assert "error:" in said.err


def test_wrong_base_url(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """An address that a key must not be sent to is wrong usage."""
    assert main(["balance", "--base-url", "http://example.com"]) == 2
    assert "https" in capsys.readouterr().err
    assert not sandbox.requests


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The overview names every command."""
    assert usage("--help") == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's help ends in an example of itself."""
    assert usage(command, "--help") == 0
    help_, _, example = capsys.readouterr().out.partition("example:\n")
    assert f"usage: budgetguard {command}" in help_
    assert f"budgetguard {command}" in example


def test_as_a_program() -> None:
    """The installed script and the module are the same program."""
    script = shutil.which("budgetguard", path=str(Path(sys.executable).parent))
    assert script is not None
    said = [
        subprocess.run([*start, "--version"], capture_output=True, text=True, check=True).stdout
        for start in (RUN, [script])
    ]
    assert said[0] == said[1]
    assert said[0].startswith("budgetguard ")


@pytest.fixture
def serving() -> Iterator[subprocess.Popen[str]]:
    """Run `budgetguard sandbox` on a free port until Ctrl-C."""
    process = subprocess.Popen(
        [*RUN, "sandbox", "--port", "0", "--credits", "12.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_sandbox(serving: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints what to paste, serves both providers, and ends cleanly on Ctrl-C."""
    assert serving.stdout is not None
    assert serving.stderr is not None
    first = serving.stdout.readline()
    url = first.split()[2].rstrip(",")
    assert "12.5 credits in each account" in first
    pasted = {"PREDEV_API_KEY": Sandbox.predev_key, "ANCHORBROWSER_API_KEY": Sandbox.anchor_key}
    for name, key in pasted.items():
        monkeypatch.setenv(name, key)
    for provider in ("predev", "anchorbrowser"):
        assert main(["check", "--min=12", "--provider", provider, "--base-url", url]) == 0
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/_sandbox/state").json()["balance_requests"] == 2
    serving.send_signal(signal.SIGINT)
    out, err = serving.stdout.read(), serving.stderr.read()
    assert (serving.wait(), err) == (0, "")
    assert all(f"export {name}={key}\n" in out for name, key in pasted.items())
    assert f"export ANCHORBROWSER_PROJECT_ID={Sandbox.project_id}\n" in out
    assert f"base URL {url}" in out


def test_sandbox_with_more_than_it_can_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Credits that are an amount, but none for a sandbox, are wrong usage too."""
    assert main(["sandbox", "--port", "0", "--credits", "1e10"]) == 2
    assert "from 0 to 10^9" in capsys.readouterr().err


def test_sandbox_on_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """It says which port, with code 2 and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["sandbox", "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err


MISSING = """
import sys
sys.modules[sys.argv.pop(1)] = None
from budgetguard.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [("starlette", "sandbox", "sandbox"), ("rich", "demo", "demo")],
)
def test_without_the_extra(module: str, command: str, extra: str) -> None:
    """Where a dependency is missing it says what to install."""
    done = subprocess.run(
        [sys.executable, "-c", MISSING, module, command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f'pip install "budgetguard-preflight[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_demo() -> None:
    """One object on standard output; guarded no call dies, unguarded some do.

    The only test that runs it: it takes a quarter of a minute.
    """
    done = subprocess.run(
        [*RUN, "demo", "--seed", "3", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        # Also where the programs of this machine run unguarded, the demo's guard guards.
        env={**os.environ, "BUDGETGUARD": "observe"},
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1
    printed = json.loads(done.stdout)
    assert list(printed) == ["unguarded", "guarded", "seed"]
    assert printed["seed"] == 3
    guarded, unguarded = printed["guarded"], printed["unguarded"]
    for run in (guarded, unguarded):
        assert list(run) == [
            "finished",
            "died",
            "refused",
            "credits_spent",
            "credits_wasted",
            "lowest_balance",
            "balance_requests",
        ]
        assert run["finished"] + run["died"] + run["refused"] == 60
    assert (guarded["died"], guarded["credits_wasted"]) == (0, 0)
    assert guarded["lowest_balance"] >= 0
    assert guarded["finished"] > 0
    assert unguarded["died"] > 0
    assert unguarded["credits_wasted"] > 0
    assert unguarded["balance_requests"] == 0


def test_demo_table(capsys: pytest.CaptureFixture[str]) -> None:
    """People get a table of both runs."""
    figures: dict[str, Any] = dict.fromkeys(
        ("finished", "died", "refused", "credits_spent", "credits_wasted", "balance_requests"), 4
    )
    run = figures | {"lowest_balance": 0.5}
    with Screen(60) as screen:
        screen.follow("guarded")({"finished": 1, "cut off": 0, "refused": 0})
    screen.show({"unguarded": run, "guarded": run, "seed": 9})
    said = capsys.readouterr()
    assert "60 calls" in said.err
    assert "seed 9" in said.out
    assert "Calls that died half-way" in said.out
    assert "0.5" in said.out
