"""The switch: `BUDGETGUARD` in the environment, and `set_active`."""

import subprocess
import sys
from collections.abc import Callable
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
)
from budgetguard._core.activation import ACTIVATION, Activation
from budgetguard.testing import FakeProvider, HandClock


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set BUDGETGUARD as if the process had just begun, and nobody had chosen."""

    def begin(value: str) -> None:
        monkeypatch.setenv("BUDGETGUARD", value)
        ACTIVATION.restore((False, False, False, False))

    return begin


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
    switch = Activation()
    switch.read_environment()
    assert (switch.passive, switch.observe) == (passive, observe)


@pytest.mark.parametrize("value", ["on", "0", "false", "enforce", "off,observe"])
def test_any_other_value_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A value that means nothing is an error at every reading, which says what to write."""
    monkeypatch.setenv("BUDGETGUARD", value)
    switch = Activation()
    for _ in range(2):
        with pytest.raises(
            ConfigurationError, match="BUDGETGUARD has an unknown value: set it to off or"
        ):
            switch.read_environment()


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes later, a valid value or not, changes nothing."""
    switch = Activation()
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
    switch = Activation()
    if not first:
        switch.read_environment()
    switch.set_active(active)
    switch.read_environment()
    assert (switch.passive, switch.observe) == (not active, False)


@pytest.mark.parametrize("value", ["of", "on", "0", "disabled", "true"])
def test_a_wrong_value_shows_when_a_guard_is_made(
    environment: Callable[[str], None], value: str
) -> None:
    """A typing error leaves no program unguarded, or guarded, without an error."""
    environment(value)
    with pytest.raises(ConfigurationError, match="BUDGETGUARD has an unknown value"):
        Guard(FakeProvider())


def test_a_wrong_value_shows_at_a_call_without_a_guard(environment: Callable[[str], None]) -> None:
    """If no guard was made yet, the first guarded call raises the error."""
    environment("of")

    @require_credits(min=5)
    def spend() -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="BUDGETGUARD has an unknown value"):
        spend()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("value", "runs"), [("off", True), ("observe", True), ("", False)])
def test_the_environment_switches(
    environment: Callable[[str], None], value: str, *, runs: bool
) -> None:
    """Off and observe let everything run."""
    environment(value)
    provider = FakeProvider(10)
    call = Guard(provider).require_credits(min=50)(lambda: "ran")
    if runs:
        assert call() == "ran"
    else:
        with pytest.raises(InsufficientCredits):
            call()


@pytest.mark.usefixtures("clock")
def test_guards_read_the_environment_once(environment: Callable[[str], None]) -> None:
    """What it says later changes nothing."""
    environment("off")
    guard = Guard(FakeProvider(10))
    guard.acquire(50).release()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUDGETGUARD", "observe")
        guard.acquire(50).release()
        assert guard.available is None


def test_off_runs_code_as_if_undecorated(clock: HandClock) -> None:
    """No balance is requested, nothing is held or refused, and neither `min` nor `actual` is called."""
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
def test_off_neither_refreshes_nor_refuses() -> None:
    """No refresh, no refusal, no hold; what a call returns and raises is its own."""
    provider = FakeProvider(0)
    guard = Guard(provider)
    call = guard.require_credits(min=50, slots=3, actual=lambda _: 1 / 0)(lambda: "ran")
    set_active(False)
    assert call() == "ran"
    with pytest.raises(KeyError):
        guard.require_credits(min=50)(lambda: {}["no"])()
    with guard.require_credits(min=50) as hold:
        assert hold.state == "open"
        hold.charged(5)
        hold.extend(500)
        hold.settle(3)
    assert (hold.state, hold.amount) == ("settled", 0)
    with pytest.raises(HoldClosed):
        hold.release()
    guard.acquire(50).release()
    assert provider.requests == 0
    set_active(True)
    with pytest.raises(InsufficientCredits):
        call()


@pytest.mark.anyio
@pytest.mark.usefixtures("clock")
async def test_off_async_code_runs_as_if_undecorated() -> None:
    """Coroutines, async generators and async blocks."""
    provider = FakeProvider(0)
    guard = Guard(provider)

    @guard.require_credits(min=50)
    async def coroutine() -> str:
        return "ran"

    @guard.require_credits(min=50)
    async def generator() -> Any:
        yield "ran"

    set_active(False)
    assert await coroutine() == "ran"
    assert [item async for item in generator()] == ["ran"]
    async with guard.require_credits(min=50) as hold:
        pass
    assert hold.state == "settled"
    assert provider.requests == 0


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("way", ["decorated", "block"])
def test_off_needs_no_default_guard(way: str) -> None:
    """Switched off, code that names no guard needs none."""

    def block() -> str:
        with require_credits(min=5):
            return "spent"

    spend = block if way == "block" else require_credits(min=5)(lambda: "spent")
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
        with pytest.raises(TypeError, match="credits"):
            hold.extend(None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="total"):
            hold.charged(-1)
        hold.settle(30)
        for ended in (hold.settle, hold.release, hold.keep, lambda: hold.charged(1)):
            with pytest.raises(HoldClosed):
                ended()
        with pytest.raises(HoldClosed):
            hold.extend(1)
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
@pytest.mark.parametrize("need", [10, lambda: 10], ids=["fast path", "worked out per call"])
def test_a_call_is_switched_off_whichever_way_it_goes(need: Any) -> None:
    """Also a function that needs no decision any more is not held for while guards are off."""
    guard = Guard(FakeProvider(100, lag=5))
    call = guard.require_credits(min=need)(lambda: guard.available)
    assert [call(), call()] == [90, 80]
    set_active(False)
    assert [call(), call()] == [80, 80]
    set_active(True)
    assert call() == 70


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("on", [False, True], ids=["off", "on again"])
def test_a_call_that_runs_when_guards_are_switched_off_ends_as_it_would_have(*, on: bool) -> None:
    """A hold from before the switch is settled and counted."""
    guard = Guard(FakeProvider(100), lag=5)
    with guard.require_credits(min=30) as hold:
        set_active(False)
        hold.settle(20)
    set_active(on)
    assert guard.available == 80


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("way", [Guard.acquire, Guard.require_credits], ids=["acquire", "block"])
def test_observe_by_environment_refuses_nobody(
    environment: Callable[[str], None], way: Callable[..., Any]
) -> None:
    """Decisions are made, recorded and reported, and no call is refused."""
    environment("observe")
    told: list[Event] = []
    guard = Guard(FakeProvider(10), on_event=told.append)
    guard.balance()
    with way(guard, min=50):
        assert guard.available == -40
    assert [event.enforced for event in told if event.kind == "refused"] == [False]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("value", ["off", "observe"])
def test_set_active_wins_over_the_environment(
    environment: Callable[[str], None], value: str
) -> None:
    """Also when it is called before the environment is read."""
    environment(value)
    set_active(True)
    with pytest.raises(InsufficientCredits):
        Guard(FakeProvider(10)).acquire(50)


@pytest.mark.usefixtures("clock")
def test_set_active_ends_observing(environment: Callable[[str], None]) -> None:
    """The choice of the program is to enforce, whatever the environment says."""
    environment("observe")
    guard = Guard(FakeProvider(10))
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
    ("value", "printed"), [("off", "spent"), ("wrong", "BUDGETGUARD has an unknown value")]
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
