"""The command line: what it prints, and with which code it exits."""

import html
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from budgetguard import Balance
from budgetguard._cli import demo
from budgetguard._cli.accounts import enough
from budgetguard._cli.demo_screen import Figures, Screen, final, seen
from budgetguard._cli.main import main
from budgetguard._cli.output import figures as figures_of
from budgetguard._cli.output import number, sentence
from budgetguard._core.activation import ACTIVATION
from budgetguard._core.clock import Instant
from budgetguard._core.other_spenders import Belief
from budgetguard.providers.registry import VENDORS, one_of
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox

COMMANDS = ["balance", "check", "members", "pause", "resume", "sandbox", "demo"]
RUN = [sys.executable, "-W", "error", "-m", "budgetguard"]
IMAGES = Path(__file__).parent.parent / "docs" / "images"
FAILURE = {"error", "reason", "retry_after"}
FIGURES = {
    "provider",
    "credits",
    "tier",
    "max_concurrency",
    "cost_limit",
    "credits_used",
    "as_of",
    "others_spend",
    "others_since",
    "unit",
    "renews_at",
    "paused",
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


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give 3 credits at each provider, with everything in the environment that a sandbox prints."""
    with Sandbox(credits=3, clock="manual") as sandbox:
        monkeypatch.setenv("PREDEV_API_KEY", sandbox.predev_key)
        monkeypatch.setenv("PREDEV_BASE_URL", sandbox.url)
        monkeypatch.setenv("ANCHORBROWSER_API_KEY", sandbox.anchor_key)
        monkeypatch.setenv("ANCHORBROWSER_BASE_URL", sandbox.url)
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
    assert figures.pop("as_of") == figures.pop("others_since")
    assert figures == {
        "provider": "Anchor Browser",
        "credits": 7,
        "unit": "credits",
        "renews_at": None,
        "tier": "free",
        "max_concurrency": 5,
        "cost_limit": 100,
        "credits_used": 0 if project is None else None,
        "others_spend": False,
        "paused": None,
    }
    assert sentence.startswith(
        "Anchor Browser: 7 credits (tier free, concurrent sessions 5, cost limit 100"
    )


def test_a_balance_says_since_when_others_are_believed_to_spend() -> None:
    """In words only if they are; a command that makes one request never sees that."""
    balance = Balance(credits=42)
    since = Instant(0.0, datetime(2026, 11, 29, 14, 5, tzinfo=UTC).timestamp())
    nobody, somebody = (Belief(others=others, since=since) for others in (False, True))
    assert sentence("pre.dev", balance, None) == sentence("pre.dev", balance, nobody)
    assert sentence("pre.dev", balance, somebody) == (
        "pre.dev: 42 credits (others spend from it, by a proof of 2026-11-29T14:05:00+00:00)"
    )
    assert figures_of("pre.dev", balance, somebody)["others_spend"] is True


@pytest.mark.parametrize(
    ("provider", "name"), [("predev", "pre.dev"), ("anchorbrowser", "Anchor Browser")]
)
@pytest.mark.parametrize("by", ["option", "variable"])
def test_one_of_two_accounts(
    both: Sandbox,
    provider: str,
    name: str,
    by: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With both keys set, --provider or BUDGETGUARD_PROVIDER names the account."""
    option = ["--provider", provider] if by == "option" else []
    if by == "variable":
        monkeypatch.setenv("BUDGETGUARD_PROVIDER", provider)
    assert main(["check", "--min", "3", *option]) == 0
    assert main(["balance", "--base-url", both.url, *option]) == 0
    enough, balance = capsys.readouterr().out.splitlines()
    assert enough == f"Enough for 3 credits: 3 available at {name}."
    assert balance.startswith(f"{name}: 3 credits")


def test_balances_of_two_accounts(both: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """With both keys set, `balance` shows both accounts, from one request each."""
    assert main(["balance"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "pre.dev: 3 credits"
    assert second.startswith("Anchor Browser: 3 credits (tier free")
    assert both.balance_requests == 2


def test_balances_of_two_accounts_as_json(
    both: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two accounts are a list under one name; the failure of one leaves the other to be read."""
    both.fault("/credits-balance", status=401)
    assert main(["balance", "--json"]) == 3
    said = capsys.readouterr()
    assert said.err == ""
    failed, known = json.loads(said.out)["accounts"]
    assert set(failed) == {"provider", *FAILURE}
    assert (failed["provider"], failed["error"]) == ("pre.dev", "InvalidCredentials")
    assert set(known) == FIGURES
    assert (known["provider"], known["credits"]) == ("Anchor Browser", 3)


def test_one_balance_of_two_is_not_known(both: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that is known is printed, the other is explained, and the exit code is 3."""
    both.fault("/credits-balance", status=401)
    assert main(["balance"]) == 3
    said = capsys.readouterr()
    assert said.out.startswith("Anchor Browser: 3 credits")
    assert said.err.startswith("budgetguard: The balance at pre.dev is not known:")
    assert said.err.count("\n") == 1


def test_one_account_of_two_is_set_up_wrongly(
    both: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other is shown all the same, and the exit code is 2."""
    monkeypatch.setenv("PREDEV_BASE_URL", "pdk_live_not_real")
    assert main(["balance"]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("Anchor Browser: 3 credits")
    assert said.err.startswith("budgetguard: PREDEV_BASE_URL must be written https://")
    assert said.err.count("\n") == 1


def test_two_accounts_fail_in_two_ways(
    both: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One object with both failures; a balance that is not known decides the exit code."""
    monkeypatch.setenv("PREDEV_BASE_URL", "pdk_live_not_real")
    both.fault("/v1/billing", status=401)
    assert main(["balance", "--json"]) == 3
    said = capsys.readouterr()
    assert said.err == ""
    assert "pdk" not in said.out
    failed = json.loads(said.out)["accounts"]
    assert [each.pop("provider") for each in failed] == ["pre.dev", "Anchor Browser"]
    assert [each["error"] for each in failed] == ["ConfigurationError", "InvalidCredentials"]
    assert all(set(each) == FAILURE for each in failed)


@pytest.mark.parametrize("command", ["check --min 1", "balance --base-url http://127.0.0.1:1"])
def test_which_of_two_accounts(
    both: Sandbox, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A check has one account, and so has a base URL: the other's key is never sent there."""
    assert main(command.split()) == 2
    assert "--provider predev or --provider anchorbrowser" in capsys.readouterr().err
    assert not both.requests


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
    assert set(answer) == {"enough", "min", "available", "reason"} | FIGURES
    assert (answer["enough"], answer["min"], answer["credits"]) == (enough, int(least), 42.5)
    assert answer["available"] == 42.5
    reason = answer["reason"]
    assert reason is None if enough else "needs 43 credits, and 42.5 are available" in reason


def test_check_of_an_account_without_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    """No limit is null in JSON, and words for people."""
    assert number(None) is None
    assert number(Decimal("Infinity")) is None
    assert enough(Decimal(1), Decimal("Infinity"), "pre.dev") == (
        "Enough for 1 credit: pre.dev sets no limit."
    )


@pytest.mark.parametrize("switch", ["off", "observe"])
def test_check_while_guards_are_switched_off(
    sandbox: Sandbox, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BUDGETGUARD lets guarded code pass; it does not make credits, and a check still tells."""
    monkeypatch.setattr(ACTIVATION, "read", False)
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
    assert "Next attempt" not in said.err
    assert "pdk_wrong" not in said.err
    assert main([*command.split(), "--json", "--base-url", sandbox.url]) == 3
    failed = json.loads(capsys.readouterr().out)
    # The key remains wrong: a script that waits and tries again would do so for ever.
    assert (failed["error"], failed["retry_after"]) == ("InvalidCredentials", None)


@pytest.mark.parametrize(
    ("command", "key", "code", "out", "err"),
    [
        ("balance", "", 0, "pre.dev: 42.5 credits\n", ""),
        ("check --min 42", "", 0, "Enough for 42 credits: 42.5 available at pre.dev.\n", ""),
        ("balance", "pdk_wrong", 3, "", "budgetguard: The balance at pre.dev is not known: "),
        ("check --min 1", "pdk_wrong", 3, "", "budgetguard: The balance at pre.dev is not known: "),
    ],
)
def test_one_line_is_printed(
    sandbox: Sandbox, command: str, key: str, code: int, out: str, err: str
) -> None:
    """What the guard logs meanwhile is not said once more on standard error."""
    done = subprocess.run(
        [*RUN, *command.split(), "--base-url", sandbox.url],
        env={**os.environ, "PREDEV_API_KEY": key or Sandbox.predev_key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, out)
    assert done.stderr.startswith(err)
    assert done.stderr.count("\n") == bool(err)


@pytest.mark.parametrize("command", ["balance", "check --min 1"])
def test_balance_that_makes_no_sense(
    sandbox: Sandbox, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reply without a balance in it is 3, never 0; programs get the reason as JSON."""
    sandbox.fault("/credits-balance", body={"success": True})
    assert main([*command.split(), "--json", "--base-url", sandbox.url]) == 3
    said = capsys.readouterr()
    assert said.err == ""
    failure = json.loads(said.out)
    assert set(failure) == FAILURE
    assert failure["error"] == "BalanceUnavailable"
    assert failure["reason"].startswith("The balance at pre.dev is not known:")
    assert "Next attempt" not in failure["reason"]
    assert failure["retry_after"] > 0


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a POSIX shell's redirections")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("check --min 43", 1),
        ("check", 2),
        ("balance --provider anchorbrowser", 2),
        ("balance --base-url http://127.0.0.1:1", 3),
        ("demo", 0),
    ],
)
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_message_that_nobody_reads(
    sandbox: Sandbox, command: str, code: int, redirection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is what it would be."""
    monkeypatch.setenv("PREDEV_BASE_URL", sandbox.url)
    script = f"{shlex.join(RUN)} {command} {redirection}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert bool(done.stdout) == (code < 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a POSIX shell's redirections")
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("| head -c 0", 0, ""),
        (">&-", 0, ""),
        (">/dev/full", 3, "budgetguard: the answer cannot be written: No space left on device\n"),
    ],
)
@pytest.mark.parametrize("command", ["demo", "demo --json"])
def test_a_demo_that_nobody_reads(command: str, redirection: str, code: int, said: str) -> None:
    """It is no other answer than a balance."""
    script = f"set -o pipefail; {shlex.join(RUN)} {command} {redirection}"
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        # Otherwise Rich writes nothing, at once, and even that is refused by a full disk.
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"unguarded: 60 calls ...\nguarded: 60 calls ...\n{said}"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_words_that_the_terminal_has_not(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's name of a tier is escaped where it cannot be printed."""
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    with Sandbox(credits=7, tier="日本", clock="manual") as sandbox:
        done = subprocess.run(
            [*RUN, "balance", "--base-url", sandbox.url],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            encoding=encoding,
            check=False,
        )
    tier = "日本" if encoding == "utf-8" else r"\u65e5\u672c"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Anchor Browser: 7 credits (tier {tier}, ")


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
    """Without a key it is 2; the message names the variables to set, and the sandbox."""
    assert main(f"{command} {provider}".split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(name in said.err for name in names)
    assert "Run `budgetguard sandbox`" in said.err
    assert "guard=" not in said.err
    assert "--provider" not in said.err


def test_no_key_for_the_provider_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """BUDGETGUARD_PROVIDER without that provider's key is answered like --provider without it."""
    monkeypatch.setenv("BUDGETGUARD_PROVIDER", "predev")
    assert main(["balance"]) == 2
    assert capsys.readouterr().err.startswith("budgetguard: PREDEV_API_KEY is not set. No account")


def test_unknown_switch(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt BUDGETGUARD is wrong usage."""
    monkeypatch.setattr(ACTIVATION, "read", False)
    monkeypatch.setenv("BUDGETGUARD", "of")
    assert main(["check", "--min", "1", "--base-url", sandbox.url]) == 2
    assert "BUDGETGUARD has an unknown value" in capsys.readouterr().err


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
        "sandbox --max-browsers -2",
        "sandbox --lag nan",
        "sandbox --cost-limit -1",
        "sandbox --latency inf",
        "sandbox --fail 1.01",
        "sandbox --json",
    ],
)
def test_wrong_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is 2, with one line on standard error that says what is wrong."""
    assert usage(*command.split()) == 2
    said = capsys.readouterr()
    # For programs that asked for JSON there is nothing else to read.
    text = json.loads(said.out)["reason"] if "--json" in command else said.err
    assert text.count("\n") == ("--json" not in command)
    assert "usage:" not in text
    assert "invalid" not in text


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            "",
            "A command is missing. The commands are balance, check, members, pause, resume, sandbox, demo.",
        ),
        ("chekc --min 1", "There is no such command. Did you mean check?"),
        ("--versoin", "A command is missing. Did you mean --version?"),
        ("check", "--min is missing."),
        ("check --mim 5", "--min is missing. Did you mean --min?"),
        ("check --min", "--min needs a value after it."),
        ("check --min nan", "--min needs a number of credits from 0 to 10^12."),
        ("check --min -1", "--min needs a number of credits from 0 to 10^12."),
        ("balance --jsno", "These arguments are not understood: --jsno. Did you mean --json?"),
        ("balance --latency 1", "These arguments are not understood: --latency 1."),
        ("balance now", "There is one argument too many."),
        ("balance now and then", "There are 3 arguments too many."),
        ("balance predev", "These arguments are not understood: predev."),
        ("--provider predev balance", "The options of balance are written after it."),
        ("--min=5 check", "The options of check are written after it."),
        (
            "balance --provider prdev",
            f"--provider must be {one_of(list(VENDORS))}. Did you mean predev?",
        ),
        ("balance --provider=other", f"--provider must be {one_of(list(VENDORS))}."),
        ("demo --seed 1.5", "--seed needs a whole number."),
        ("sandbox --port 65536", "--port needs a whole number from 0 to 65,535."),
    ],
)
def test_what_is_wrong(command: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain words, and a guess at what was meant where one is close."""
    assert usage(*command.split()) == 2
    assert capsys.readouterr().err.startswith(f"budgetguard: {sentence} See budgetguard")
    if not command.startswith("sandbox"):
        assert usage(*command.split(), "--json") == 2
        expected = {"error": "usage", "reason": sentence, "retry_after": None}
        assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("--json balance", "The options of balance are written after it."),
        ("balance --json=1", "--json takes no value."),
        ("demo --json=", "--json takes no value."),
        (
            "--json=1",
            "A command is missing. The commands are balance, check, members, pause, resume, sandbox, demo.",
        ),
        (
            "--json",
            "A command is missing. The commands are balance, check, members, pause, resume, sandbox, demo.",
        ),
    ],
)
def test_json_in_the_wrong_place(
    command: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who asks for JSON gets JSON, also about how to ask for it."""
    assert usage(*command.split()) == 2
    said = capsys.readouterr()
    assert (json.loads(said.out)["reason"], said.err) == (sentence, "")


KEY = "pdk_live_5f3a_not_real"


@pytest.mark.parametrize("as_json", ["", " --json"])
@pytest.mark.parametrize(
    "command",
    [
        KEY,
        f"--{KEY}",
        f"balance {KEY}",
        f"balance --{KEY}",
        f"balance --api-key {KEY}",
        f"balance --api-key={KEY}",
        f"balance --provider {KEY}",
        f"balance --json={KEY}",
        f"check --min {KEY}",
        f"check --min={KEY}",
        f"sandbox --port {KEY}",
        f"demo --seed {KEY}",
        f"balance pdk_live {KEY}",
        f"balance --check={KEY}",
        f"--json={KEY} balance",
        "balance --PdkLiveNotReal",
        "balance --pdk-live-notreal",
    ],
)
def test_no_wrong_value_is_shown(
    command: str, as_json: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The value of a wrong argument may be a key."""
    assert usage(*f"{command}{as_json}".split()) == 2
    said = "".join(capsys.readouterr()).lower()
    assert not any(part in said for part in ("pdk", "5f3a", "real"))


def test_a_value_after_the_help_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Before 3.12 it is one value too many, later argparse prints the help; it is never shown."""
    assert usage("balance", f"-h{KEY}") in {0, 2}
    assert "5f3a" not in "".join(capsys.readouterr())


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
    assert f"{url}/_sandbox/state has their keys" in serving.stdout.readline()
    pasted = {
        "PREDEV_API_KEY": Sandbox.predev_key,
        "PREDEV_BASE_URL": url,
        "ANCHORBROWSER_API_KEY": Sandbox.anchor_key,
        "ANCHORBROWSER_BASE_URL": url,
    }
    for name, value in pasted.items():
        monkeypatch.setenv(name, value)
    for provider in ("predev", "anchorbrowser"):
        assert main(["check", "--min=12", "--provider", provider, "--base-url", url]) == 0
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/_sandbox/state").json()["balance_requests"] == 2
    serving.send_signal(signal.SIGINT)
    out, err = serving.stdout.read(), serving.stderr.read()
    assert (serving.wait(), err) == (0, "")
    exports = "".join(f"export {name}={value}\n" for name, value in pasted.items())
    assert out == (
        f"Paste this in the terminal where you try things:\n{exports}\nThe sandbox has ended.\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_sandbox_whose_words_cannot_be_written() -> None:
    """It serves all the same, and does not blame the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"exec {shlex.join(RUN)} sandbox --port {port} >/dev/full"
    with subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
            while process.poll() is None:
                try:
                    assert http.get("/_sandbox/state").status_code == 200
                    break
                except httpx.ConnectError:
                    time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_sandbox_with_more_than_it_can_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Credits that are an amount, but none for a sandbox, are wrong usage too."""
    assert usage("sandbox", "--port", "0", "--credits", "1e10") == 2
    assert "from 0 to 1,000,000,000" in capsys.readouterr().err
    assert main(["sandbox", "--port", "0", "--credits", "0.0000001"]) == 2
    assert "at most 6 decimals" in capsys.readouterr().err


def test_sandbox_on_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """It says which port and what to do, with code 2 and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["sandbox", "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert f"port {port}" in err
    assert "--port 0" in err


def test_sandbox_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option reaches the sandbox that is served."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        "budgetguard.testing.sandbox.serve", lambda **options: given.update(options)
    )
    options = "--max-browsers -1 --lag 30 --cost-limit 2.5 --latency 0.1 --fail 0.25 --seed 7"
    assert main(["sandbox", *options.split()]) == 0
    assert given == {
        "port": 8402,
        "credits": 1000,
        "max_concurrent_browsers": -1,
        "cost_limit": Decimal("2.5"),
        "speed": 60,
        "lag": 30,
        "latency": 0.1,
        "fail": 0.25,
        "seed": 7,
    }


MISSING = """
import sys
sys.modules[sys.argv.pop(1)] = None
from budgetguard._cli.main import main
from budgetguard._cli.output import number
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
    assert done.stderr == (
        f"budgetguard: budgetguard {command} needs {module}, which is not installed: run "
        f'`python -m pip install ".[{extra}]"` in the top folder of the checkout.\n'
    )


def following(told: list[str]) -> Callable[[str], Callable[[Figures], None]]:
    """Take down what the screen is shown while the demo runs."""
    return lambda run: lambda figures: told.append(f"{run} {figures}")


@pytest.mark.parametrize("seed", [0, 7])
def test_demo_compares_like_with_like(seed: int) -> None:
    """The same figures at each run, and the guarded side loses nothing and finishes more."""
    told: list[list[str]] = [[], []]
    first, second = (demo.compare(seed, following(each)) for each in told)
    assert first == second
    assert told[0] == told[1]
    guarded, unguarded = first["guarded"], first["unguarded"]
    for run in (guarded, unguarded):
        ways = ("finished", "died", "refused", "refused_by_provider")
        assert sum(run[way] for way in ways) == 60
        assert 0 <= run["lowest_balance"] < demo.CREDITS
        assert run["credits_spent"] <= 2 * demo.CREDITS
    assert (guarded["died"], guarded["credits_wasted"]) == (0, 0)
    assert guarded["finished"] >= unguarded["finished"] > 0
    assert guarded["balance_requests"] > 0
    assert min(unguarded["died"], unguarded["credits_wasted"]) > 0
    assert (unguarded["refused"], unguarded["balance_requests"]) == (0, 0)


def test_demo_as_a_program() -> None:
    """One object on standard output, also where the programs of this machine run unguarded."""
    done = subprocess.run(
        [*RUN, "demo", "--seed", "7", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "BUDGETGUARD": "observe"},
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stderr == "unguarded: 60 calls ...\nguarded: 60 calls ...\n"
    printed = json.loads(done.stdout)
    assert list(printed) == ["unguarded", "guarded", "seed", "credits", "patience"]
    assert [printed[name] for name in ("seed", "credits", "patience")] == [7, 240, 20]
    for run in ("unguarded", "guarded"):
        assert list(printed[run]) == [
            "finished",
            "died",
            "refused",
            "refused_by_provider",
            "credits_spent",
            "credits_wasted",
            "lowest_balance",
            "balance_requests",
            "seconds",
        ]
    assert printed["guarded"] == demo.compare(7, following([]))["guarded"]


def test_demo_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """People get a table of both runs, what each side may do, what was seen, and what to try."""
    assert main(["demo", "--seed", "9"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("there.\n")
    said = " ".join(out.split())
    assert "60 calls in 10 minutes, seed 9" in said
    assert "Refused by the provider (402 or 429) at the start" in said
    assert "both sides have 20 s of patience" in said
    assert "time is simulated" in said
    assert "Next: run `budgetguard sandbox --credits 120`" in said


@pytest.mark.parametrize(
    ("unguarded", "guarded", "sentences"),
    [
        (
            {"finished": 26, "died": 8, "credits_wasted": 119, "credits_spent": 442},
            {"finished": 33, "died": 0, "refused": 27},
            (
                "Without the guard 8 calls died half-way and wasted 119 of the 442 credits spent, and "
                "with it no call died half-way. With the guard 33 calls finished, 7 more than without "
                "it, and the guard refused 27 calls at no cost."
            ),
        ),
        (
            {"finished": 2, "died": 0},
            {"finished": 1, "died": 1, "refused": 1, "credits_wasted": 3, "credits_spent": 4},
            (
                "Without the guard no call died half-way, and with it 1 call died half-way and wasted "
                "3 of the 4 credits spent. With the guard 1 call finished, 1 fewer than without it, "
                "and the guard refused 1 call at no cost."
            ),
        ),
        (
            {"finished": 60, "died": 0},
            {"finished": 60, "died": 0, "refused": 0},
            (
                "Without the guard no call died half-way, and with it no call died half-way. With the "
                "guard 60 calls finished, as many as without it, and the guard refused no calls."
            ),
        ),
    ],
)
def test_demo_says_what_was_seen(unguarded: Figures, guarded: Figures, sentences: str) -> None:
    """Two sentences that hold whichever way the figures fall."""
    assert seen(unguarded, guarded) == sentences


@pytest.mark.parametrize("as_json", [False, True])
def test_demo_stopped_by_ctrl_c(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says goodbye in one line, and the exit code is a shell's for Ctrl-C."""
    monkeypatch.setattr(Screen, "follow", lambda *_: lambda _: signal.raise_signal(signal.SIGINT))
    assert main(["demo", "--json"] if as_json else ["demo"]) == 130
    said = capsys.readouterr()
    goodbye = "demo was stopped by Ctrl-C. Goodbye."
    if as_json:
        failure = {"error": "KeyboardInterrupt", "reason": goodbye, "retry_after": None}
        assert (json.loads(said.out), said.err) == (failure, "")
    else:
        assert (said.out, said.err) == ("", f"budgetguard: {goodbye}\n")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_show_this_demo(theme: str) -> None:
    """tests/bench/demo_picture.py has been run since the demo was changed last."""
    svg = (IMAGES / f"demo-{theme}.svg").read_text(encoding="utf-8")
    shown = "".join(html.unescape("".join(re.findall(r"<text[^>]*>(.*?)</text>", svg))).split())
    console = Console(width=52, file=io.StringIO())  # as in demo_picture.py
    with console.capture() as printed:
        console.print(final(demo.conditions(0), demo.compare(0, following([]))))
    assert "".join(printed.get().split()) in shown
    assert "url(" not in svg.replace("url(#", "")
