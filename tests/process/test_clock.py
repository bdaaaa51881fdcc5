"""A guard goes by one clock, the machine's, whatever a test library puts in place of `time`."""

import sys
import time
from collections.abc import Callable

import pytest
from interpreter import Script

from budgetguard import Guard
from budgetguard._core.clock import SYSTEM, SystemClock
from budgetguard.testing import FakeProvider


def test_both_ways_to_read_it_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced or not, `now()` is what `monotonic()` and `wall()` say."""
    monkeypatch.setattr(time, "monotonic", lambda: 1.0)
    monkeypatch.setattr(time, "time", lambda: 2.0)
    for clock in (SYSTEM, SystemClock()):
        first, now, second = clock.monotonic(), clock.now(), clock.monotonic()
        assert first <= now.mono <= second
        assert abs(clock.wall() - now.wall) < 60
        assert now.wall > 1_000_000


@pytest.mark.parametrize("way", ["before the guard", "after the guard", "after the first refresh"])
@pytest.mark.parametrize("instead", [lambda: 1.0, lambda: 10.0**9], ids=["long ago", "far ahead"])
def test_a_clock_that_is_put_in_its_place_fails_no_refresh(
    monkeypatch: pytest.MonkeyPatch, instead: Callable[[], float], way: str
) -> None:
    """At whatever time it comes, and when it goes again."""
    provider = FakeProvider(100)
    with monkeypatch.context() as patch:

        def replace(when: str) -> None:
            if way == when:
                patch.setattr(time, "monotonic", instead)
                patch.setattr(time, "time", instead)

        replace("before the guard")
        guard = Guard(provider)
        replace("after the guard")
        assert guard.balance().credits == 100
        replace("after the first refresh")
        assert guard.balance(max_age=0).credits == 100
        with guard.require_credits(min=10):
            assert guard.available == 90
    assert guard.balance(max_age=0).age < 60
    assert provider.requests == 3


FROZEN = """
import threading
{module}
from budgetguard import Guard
from budgetguard.testing import FakeProvider

provider = FakeProvider(100)
early = Guard(provider)
with {frozen}:
    for guard in (early, Guard(FakeProvider(100))):
        assert guard.balance().credits == 100
        assert guard.balance(max_age=0).credits == 100
        with guard.require_credits(min=10):
            assert guard.available == 90, guard.available
for guard in (early, Guard(FakeProvider(100))):
    assert guard.balance(max_age=0).credits == 100
"""


@pytest.mark.parametrize(
    ("module", "frozen"),
    [
        ("freezegun", "freezegun.freeze_time('2020-01-01')"),
        ("freezegun", "freezegun.freeze_time('2020-01-01', tick=True)"),
        ("time_machine", "time_machine.travel('2020-01-01')"),
    ],
)
@pytest.mark.parametrize("imported", ["before", "within"])
def test_the_libraries_that_do_it(script: Script, module: str, frozen: str, imported: str) -> None:
    """The real ones, where they are installed."""
    pytest.importorskip(module)
    code = FROZEN.format(module=f"import {module}", frozen=frozen)
    if imported == "within":
        lines = code.split("\n")
        whole = "\n".join(f"    {line}" for line in lines[3:] if line)
        code = f"import threading, {module}\nwith {frozen}:\n{whole}\n"
    script(code, flags=("-W", "error::RuntimeWarning"))


def test_the_name_is_not_looked_up_in_the_module() -> None:
    """A library that replaces names where it finds them in modules finds none here."""
    module = sys.modules["budgetguard._core.clock"]
    assert time.monotonic not in vars(module).values()
    assert time.time not in vars(module).values()
