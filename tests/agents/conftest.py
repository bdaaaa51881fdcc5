"""What tests of agents share: an account that books late, and costs that cannot be told."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from budgetguard import Guard
from budgetguard.testing import FakeProvider, HandClock

EXAMPLES = Path(__file__).parents[2] / "examples" / "agents"
LAG, LINGER = 5, 60


@pytest.fixture
def provider(clock: HandClock) -> FakeProvider:
    """An account of 100 credits, in which what was settled and what was kept can be told apart."""
    return FakeProvider(100, lag=LAG, linger=LINGER)


@pytest.fixture
def guard(provider: FakeProvider) -> Guard:
    """A guard that has looked: 100 credits are available."""
    guard = Guard(provider)
    guard.balance()
    return guard


@pytest.fixture
def kept(clock: HandClock) -> Callable[[Guard, int], None]:
    """Check that an amount is counted until `linger` and `lag` have passed, and then no more."""

    def check(guard: Guard, amount: int) -> None:
        assert guard.available == 100 - amount
        clock.advance(LINGER + LAG - 1)
        guard.balance(max_age=0)
        assert guard.available == 100 - amount
        clock.advance(1)
        guard.balance(max_age=0)
        assert guard.available == 100

    return check


def _raises(prompt: str) -> int:
    msg = f"no price for {prompt}"
    raise LookupError(msg)


async def _awaits(prompt: str) -> int:
    return len(prompt)


@pytest.fixture(
    params=[
        (_raises, "LookupError: no price for shop"),
        (_awaits, "TypeError: "),
        (lambda prompt: prompt, "ValueError: "),
        (lambda prompt: None, "TypeError: "),
        (lambda prompt: -1, "ValueError: "),
        (lambda prompt: float("nan"), "ValueError: "),
        (lambda prompt: True, "TypeError: "),
        (lambda text: 1, "TypeError: "),
    ],
    ids=["raises", "async", "text", "none", "negative", "nan", "bool", "other arguments"],
)
def no_price(request: pytest.FixtureRequest) -> tuple[Callable[..., Any], str]:
    """A callable for the cost of "shop" that gives none, and what is said of that.

    Tests of it ignore that Python warns of the async one: "coroutine '_awaits' was never awaited".
    """
    cost, kind = request.param
    return cost, kind


@pytest.fixture
def run_example() -> Callable[[str], str]:
    """Run an example as a user would; it must not fail nor complain. Gives what it printed."""

    def run(name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLES / name)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run
