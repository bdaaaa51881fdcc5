"""The switch: `BUDGETGUARD` in the environment, and `set_active`."""

import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from budgetguard import (
    BalanceUnavailable,
    ConfigurationError,
    Event,
    Guard,
    HoldClosed,
    InsufficientCredits,
    require_credits,
    set_active,
    set_default_guard,
)
from budgetguard.switch import SWITCH, Switch
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def unread() -> Iterator[None]:
    """Within the test, the environment has not been read, and nobody chose."""
    before = SWITCH.save()
    SWITCH.restore((False, False, False, False))
    yield
    SWITCH.restore(before)


@pytest.mark.parametrize(
    ("value", "passive", "observe"),
    [
        (None, False, False),
        ("", False, False),
        ("  ", False, False),
        ("off", True, False),
        (" OFF\n", True, False),
        ("observe", False, True),
        ("Observe", False, True),
    ],
)
def test_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, value: str | None, *, passive: bool, observe: bool
) -> None:
    """Two words mean something, in whatever case, and none means nothing."""
    if value is not None:
        monkeypatch.setenv("BUDGETGUARD", value)
    switch = Switch()
    switch.read_environment()
    assert (switch.passive, switch.observe) == (passive, observe)


@pytest.mark.parametrize("value", ["on", "0", "false", "enforce", "off,observe"])
def test_any_other_value_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A value that means nothing is an error at every reading, which says what to write."""
    monkeypatch.setenv("BUDGETGUARD", value)
    switch = Switch()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=f"BUDGETGUARD is '{value}': set it to off or"):
            switch.read_environment()


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes later, a valid value or not, changes nothing."""
    switch = Switch()
    switch.read_environment()
    monkeypatch.setenv("BUDGETGUARD", "off")
    switch.read_environment()
    monkeypatch.setenv("BUDGETGUARD", "nonsense")
    switch.read_environment()
    assert not switch.passive


@pytest.mark.parametrize("value", ["off", "observe"])
@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("first", [True, False], ids=["chosen first", "read first"])
def test_a_choice_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, *, active: bool, first: bool
) -> None:
    """`set_active` decides, whether it came before the environment was read or after."""
    monkeypatch.setenv("BUDGETGUARD", value)
    switch = Switch()
    if not first:
        switch.read_environment()
    switch.set_active(active)
    switch.read_environment()
    assert (switch.passive, switch.observe) == (not active, False)


@pytest.mark.usefixtures("unread")
def test_a_wrong_value_shows_when_a_guard_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody runs unguarded by a typing error without being told."""
    monkeypatch.setenv("BUDGETGUARD", "of")
    with pytest.raises(ConfigurationError, match="BUDGETGUARD is 'of'"):
        Guard(FakeProvider())


@pytest.mark.usefixtures("unread")
def test_a_wrong_value_shows_at_a_call_without_a_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no guard was made yet, the first guarded call tells."""
    monkeypatch.setenv("BUDGETGUARD", "of")

    @require_credits(min=5)
    def spend() -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="BUDGETGUARD is 'of'"):
        spend()


def test_off_runs_code_as_if_undecorated(clock: HandClock) -> None:
    """Nothing is looked up, held or refused, and neither `min` nor `actual` is called."""
    provider = FakeProvider(0)
    guard = Guard(provider)

    def fail(*_: Any) -> int:
        raise AssertionError

    @guard.require_credits(min=fail, actual=fail)
    def spend() -> str:
        return "spent"

    set_active(False)
    assert spend() == "spent"
    clock.advance(1)
    assert provider.requests == 0


@pytest.mark.usefixtures("clock")
def test_off_needs_no_default_guard() -> None:
    """Switched off, code that names no guard needs none."""

    @require_credits(min=5)
    def spend() -> str:
        return "spent"

    with pytest.raises(ConfigurationError):
        spend()
    set_active(False)
    assert spend() == "spent"


@pytest.mark.usefixtures("clock")
def test_off_gives_blocks_a_hold_that_does_nothing() -> None:
    """The block's hold has the same methods, checks the same, and counts nowhere."""
    guard = Guard(FakeProvider(10))
    set_active(False)
    with guard.require_credits(min=50, slots=2, name="spec") as hold:
        assert (hold.operation, hold.slots, hold.state) == ("spec", 2, "open")
        assert hold.amount == Decimal(0)
        hold.charged(3)
        hold.extend(1000)
        with pytest.raises(ValueError, match="actual"):
            hold.settle(-1)
        hold.settle(30)
        with pytest.raises(HoldClosed):
            hold.release()
    assert str(hold.state) == "settled"
    set_active(True)
    guard.balance()
    assert guard.available == 10


@pytest.mark.usefixtures("clock")
def test_on_again_guards_again() -> None:
    """The switch is read at every call."""
    guard = Guard(FakeProvider(10))

    @guard.require_credits(min=50)
    def spend() -> str:
        return "spent"

    for _ in range(2):
        set_active(False)
        assert spend() == "spent"
        set_active(True)
        with pytest.raises(InsufficientCredits):
            spend()


@pytest.mark.usefixtures("clock")
def test_a_quick_call_is_switched_off_too() -> None:
    """A function that needs no decision any more is not held for while guards are off."""
    guard = Guard(FakeProvider(100))
    inside: list[Decimal | None] = []

    @guard.require_credits(min=10)
    def spend() -> None:
        inside.append(guard.available)

    spend()
    spend()
    set_active(False)
    spend()
    assert inside == [90, 80, 80]


@pytest.mark.usefixtures("clock")
def test_a_call_that_runs_when_guards_are_switched_off_ends_as_it_would_have() -> None:
    """A hold from before the switch is settled and counted."""
    guard = Guard(FakeProvider(100), lag=5)
    with guard.require_credits(min=30) as hold:
        set_active(False)
        hold.settle(20)
    set_active(True)
    assert guard.available == 80


@pytest.mark.usefixtures("unread", "clock")
def test_observe_by_environment_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions are made, booked and told, and nobody is kept out."""
    monkeypatch.setenv("BUDGETGUARD", "observe")
    told: list[Event] = []
    guard = Guard(FakeProvider(10), on_event=told.append)
    guard.balance()
    with guard.require_credits(min=50):
        assert guard.available == -40
    refused = [event for event in told if event.kind == "refused"]
    assert [event.enforced for event in refused] == [False]


@pytest.mark.usefixtures("unread", "clock")
def test_set_active_ends_observing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice of the program is to enforce, whatever the environment says."""
    monkeypatch.setenv("BUDGETGUARD", "observe")
    guard = Guard(FakeProvider(10))
    set_default_guard(guard)
    set_active(True)
    with pytest.raises(InsufficientCredits):
        guard.acquire(50)


@pytest.mark.usefixtures("clock")
def test_a_guard_in_observe_mode_goes_on_observing() -> None:
    """Switching guards on does not change what one of them was made for."""
    provider = FakeProvider(10)
    provider.failure = RuntimeError("down")
    guard = Guard(provider, mode="observe")
    set_active(True)
    guard.acquire(50).release()
    with pytest.raises(BalanceUnavailable):
        guard.balance()


@pytest.mark.parametrize(
    ("value", "printed"), [("off", "spent"), ("wrong", "BUDGETGUARD is 'wrong'")]
)
def test_in_a_process_of_its_own(value: str, printed: str) -> None:
    """The variable works from outside, without a key, and importing the package reads nothing."""
    code = (
        "import budgetguard, os\n"
        f"os.environ['BUDGETGUARD'] = {value!r}\n"
        "spend = budgetguard.require_credits(min=5)(lambda: 'spent')\n"
        "try:\n"
        "    print(spend())\n"
        "except budgetguard.ConfigurationError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(printed)
