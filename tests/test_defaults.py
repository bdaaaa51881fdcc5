"""The default guard: the one that was set, else the one that the environment pays for."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from budgetguard import (
    AnchorBrowser,
    ConfigurationError,
    Guard,
    PreDev,
    require_credits,
    set_default_guard,
)
from budgetguard.defaults import DEFAULT
from budgetguard.providers.registry import VENDORS, from_environment, one_of
from budgetguard.testing import FakeProvider

pytestmark = pytest.mark.usefixtures("clock", "no_default")

PREDEV, ANCHOR, PROJECT = "PREDEV_API_KEY", "ANCHORBROWSER_API_KEY", "ANCHORBROWSER_PROJECT_ID"


@pytest.fixture
def no_default() -> None:
    """Nobody has set a default guard yet; the shared fixture restores what was."""
    set_default_guard(None)


def default_guard() -> Guard:
    """What a call without a guard gets."""
    return DEFAULT()


@require_credits(min=10)
def spend() -> str:
    """A guarded function with no guard in sight."""
    return "spent"


def test_the_guard_that_was_set_serves_from_the_next_call() -> None:
    """The default guard is found at each call, not at decoration."""
    first, second = FakeProvider(100), FakeProvider(100)
    set_default_guard(Guard(first))
    assert spend() == "spent"
    set_default_guard(Guard(second))
    assert spend() == "spent"
    assert spend() == "spent"
    assert (first.requests, second.requests) == (1, 1)
    assert default_guard().available == 80


def test_the_guard_that_was_set_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment are not even read if a guard was set."""
    monkeypatch.setenv(PREDEV, "key")
    monkeypatch.setenv(ANCHOR, "key")
    guard = Guard(FakeProvider(100))
    set_default_guard(guard)
    assert default_guard() is guard
    assert spend() == "spent"


def test_a_key_of_pre_dev_makes_its_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key is enough to identify the account."""
    monkeypatch.setenv(PREDEV, "key")
    assert isinstance(default_guard().provider, PreDev)


@pytest.mark.parametrize("project", [None, "project-1"])
def test_a_key_of_anchor_makes_its_guard(
    monkeypatch: pytest.MonkeyPatch, project: str | None
) -> None:
    """Another key means another account, of a project where one is named."""
    monkeypatch.setenv(ANCHOR, "key")
    if project is not None:
        monkeypatch.setenv(PROJECT, project)
    provider = default_guard().provider
    assert isinstance(provider, AnchorBrowser)
    assert provider.fingerprint == AnchorBrowser("key", project).fingerprint


def test_a_guard_from_the_environment_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later calls, and other threads, get the same guard."""
    monkeypatch.setenv(PREDEV, "key")
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: default_guard(), range(64)))
    assert len(found) == 1
    monkeypatch.delenv(PREDEV)
    assert default_guard() in found


def test_taking_the_default_back_asks_the_environment_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None undoes what was set, and what was made."""
    monkeypatch.setenv(PREDEV, "key")
    first = default_guard()
    set_default_guard(None)
    assert default_guard() is not first
    set_default_guard(None)
    monkeypatch.delenv(PREDEV)
    with pytest.raises(ConfigurationError):
        default_guard()


@pytest.mark.parametrize(
    "empty", [{}, {PREDEV: ""}, {ANCHOR: "", PREDEV: ""}, {PROJECT: "p"}], ids=str
)
def test_no_key_says_what_was_looked_at(
    monkeypatch: pytest.MonkeyPatch, empty: dict[str, str]
) -> None:
    """Without a key the error names both variables, and what to call instead."""
    for name, value in empty.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        spend()
    assert str(caught.value) == (
        "Neither PREDEV_API_KEY nor ANCHORBROWSER_API_KEY is set. "
        "Set one of them, or call budgetguard.set_default_guard(Guard(...)), or pass guard=."
    )


def test_two_keys_say_what_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two keys the error names both variables, shows neither key, and says what to do."""
    monkeypatch.setenv(PREDEV, "one-key")
    monkeypatch.setenv(ANCHOR, "two-key")
    with pytest.raises(ConfigurationError) as caught:
        spend()
    assert str(caught.value) == (
        "PREDEV_API_KEY and ANCHORBROWSER_API_KEY are both set, so it is not clear which account is "
        "meant. Name it with BUDGETGUARD_PROVIDER, or call budgetguard.set_default_guard(Guard(...)), or pass guard=."
    )


@pytest.mark.parametrize(("named", "kind"), [("predev", PreDev), ("anchorbrowser", AnchorBrowser)])
def test_the_environment_may_name_the_account(
    monkeypatch: pytest.MonkeyPatch, named: str, kind: type
) -> None:
    """Where both keys are set, BUDGETGUARD_PROVIDER decides."""
    monkeypatch.setenv(PREDEV, "one-key")
    monkeypatch.setenv(ANCHOR, "two-key")
    monkeypatch.setenv("BUDGETGUARD_PROVIDER", named)
    assert type(default_guard().provider) is kind


def test_an_account_that_is_named_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another account's key does not stand in for it."""
    monkeypatch.setenv(ANCHOR, "two-key")
    monkeypatch.setenv("BUDGETGUARD_PROVIDER", "predev")
    with pytest.raises(
        ConfigurationError, match=r"^No key for pre\.dev was given: set PREDEV_API_KEY"
    ):
        default_guard()


def test_an_unknown_account_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable may hold a key by mistake, so its value is left out of the error."""
    monkeypatch.setenv("BUDGETGUARD_PROVIDER", "pdk_looks_like_a_key")
    with pytest.raises(ConfigurationError) as caught:
        default_guard()
    names = one_of(list(VENDORS))
    assert names.startswith("predev, anchorbrowser")
    assert str(caught.value) == f"BUDGETGUARD_PROVIDER must be {names}."


@pytest.mark.parametrize("variable", [PREDEV, ANCHOR])
@pytest.mark.parametrize("value", ["  ", "two words", "ké"], ids=["blank", "words", "non-ASCII"])
def test_a_key_that_cannot_be_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """A variable that holds no key is named, and what it holds is not shown."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        from_environment("Set one.", "Unset one.")
    assert variable in str(caught.value)
    assert value.strip() == "" or value not in str(caught.value)


def test_a_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the environment is right, the next call works."""
    with pytest.raises(ConfigurationError):
        default_guard()
    monkeypatch.setenv(PREDEV, "key")
    assert isinstance(default_guard(), Guard)


@pytest.mark.parametrize("given", [FakeProvider(), "key", Guard], ids=["provider", "str", "class"])
def test_only_a_guard_can_be_the_default(given: Any) -> None:
    """A provider is no guard, and what was set before remains."""
    guard = Guard(FakeProvider(100))
    set_default_guard(guard)
    with pytest.raises(TypeError, match="set_default_guard takes a Guard or None"):
        set_default_guard(given)
    assert default_guard() is guard
