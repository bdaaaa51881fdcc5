"""`budgetguard pause` and `budgetguard resume`: what they print, and what the other commands then say."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from budgetguard import Guard, Paused, PreDev
from budgetguard._cli.main import main
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox

WHY = "the key may have leaked"


@pytest.fixture(autouse=True)
def here(clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run on a private loop that ends with the test, with a directory for pauses that is not there yet."""
    del clock
    monkeypatch.setenv("BUDGETGUARD_PAUSE_DIR", str(tmp_path / "pauses"))
    return tmp_path / "pauses"


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give 42.5 credits, and pre.dev's key in the environment."""
    monkeypatch.setenv("PREDEV_API_KEY", Sandbox.predev_key)
    with Sandbox(credits="42.5", clock="manual") as sandbox:
        monkeypatch.setenv("PREDEV_BASE_URL", sandbox.url)
        yield sandbox


def test_pause_and_resume(
    sandbox: Sandbox, clock: HandClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A running program hears of both within a second; neither sends anything to the provider."""
    guard = Guard(PreDev())
    guard.acquire(1).release()
    asked = sandbox.balance_requests
    assert main(["pause", "--reason", WHY]) == 0
    clock.advance(0.5)
    with pytest.raises(
        Paused, match="by `budgetguard pause` on this machine: the key may have leaked"
    ):
        guard.acquire(1)
    assert main(["resume"]) == 0
    clock.advance(0.5)
    guard.acquire(1).release()
    assert sandbox.balance_requests == asked
    paused, resumed = capsys.readouterr().out.splitlines()
    where = f"The account at pre.dev ({sandbox.url})"
    assert paused.startswith(f"{where} is paused: the key may have leaked. Within a second, ")
    assert resumed == f"{where} is resumed: within a second, programs admit its calls again."


def test_as_json(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """One object each, with the reason while it is paused; whoever gives none is told so."""
    for command in ("pause", "pause --reason why", "resume", "resume"):
        assert main([*command.split(), "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["paused"] for each in said] == ["no reason was given", "why", None, None]
    assert {(each["provider"], each["base_url"], each["account"]) for each in said} == {
        ("pre.dev", sandbox.url, None)
    }


def test_resuming_what_was_not_paused(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no failure, and it is said; the address and the name tell which account was meant."""
    assert main(["resume", "--account", "team"]) == 0
    where = f"The account team at pre.dev ({sandbox.url})"
    assert capsys.readouterr().out == f"{where} was not paused by `budgetguard pause`.\n"


def test_the_balance_of_a_paused_account(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is shown, and that the account is paused."""
    del sandbox
    main(["pause", "--reason", WHY])
    capsys.readouterr()
    assert main(["balance"]) == 0
    assert capsys.readouterr().out == f"pre.dev: 42.5 credits; paused: {WHY}\n"
    assert main(["balance", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paused"] == WHY


def test_a_check_of_a_paused_account(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """A script must not go on, however much there is."""
    del sandbox
    main(["pause", "--reason", WHY])
    capsys.readouterr()
    assert main(["check", "--min", "1"]) == 1
    assert capsys.readouterr().out.startswith(
        "The account at pre.dev is paused by `budgetguard pause`"
    )
    assert main(["check", "--min", "1", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["enough"], answer["available"], answer["paused"]) == (False, 42.5, WHY)


def test_an_account_with_a_name(
    sandbox: Sandbox, clock: HandClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs that give account= to the provider are reached by that name, and not by the key."""
    del sandbox
    named, other = Guard(PreDev(account="team")), Guard(PreDev())
    for guard in (named, other):
        guard.balance()
    assert main(["pause", "--account", "team"]) == 0
    clock.advance(0.5)
    other.acquire(1).release()
    with pytest.raises(Paused):
        named.acquire(1)
    assert "The account team at pre.dev (" in capsys.readouterr().out


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201])
def test_a_reason_that_is_none(
    sandbox: Sandbox, reason: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage, and nothing is paused."""
    del sandbox
    with pytest.raises(SystemExit) as ended:
        main(["pause", "--reason", reason])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "budgetguard: --reason needs a text of 1 to 200 characters. See budgetguard pause --help.\n"
    )
    assert not here.exists()


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_an_account_without_a_name(
    sandbox: Sandbox, command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from a variable that is not set: wrong usage, and nothing is paused."""
    del sandbox
    with pytest.raises(SystemExit) as ended:
        main([command, "--account", " ", "--json"])
    assert ended.value.code == 2
    assert json.loads(capsys.readouterr().out)["reason"] == "--account needs a name."
    assert not here.exists()


def test_which_of_two_accounts(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two keys set, --provider names the one that is paused."""
    del sandbox
    monkeypatch.setenv("ANCHORBROWSER_API_KEY", Sandbox.anchor_key)
    assert main(["pause"]) == 2
    assert "--provider predev or --provider anchorbrowser" in capsys.readouterr().err
    assert main(["pause", "--provider", "anchorbrowser"]) == 0
    where = "The account at Anchor Browser (https://api.anchorbrowser.io)"
    assert capsys.readouterr().out.startswith(f"{where} is paused: no reason was given.")


@pytest.mark.parametrize("command", ["pause", "resume"])
@pytest.mark.parametrize("place", ["relative", "below a file"])
def test_where_no_file_can_be(
    sandbox: Sandbox,
    command: str,
    place: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says that nothing has changed, and what to set."""
    del sandbox
    here.write_text("a file")
    monkeypatch.setenv("BUDGETGUARD_PAUSE_DIR", {"relative": "pauses"}.get(place, str(here)))
    assert main([command]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("budgetguard: ")
    assert "BUDGETGUARD_PAUSE_DIR" in said.err
    assert main([command, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "ConfigurationError"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="homes are elsewhere there")
def test_the_users_own_directory(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It depends on the user alone, and not on variables that a service is not given."""
    import pwd

    del sandbox
    monkeypatch.delenv("BUDGETGUARD_PAUSE_DIR")
    from budgetguard._io import pause_file

    for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    assert pause_file.directory() == home / ".local" / "state" / "budgetguard" / "pause"
