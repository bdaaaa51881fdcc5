"""Durations: float seconds, and nothing that is none."""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anyio
import pytest

from budgetguard import Guard, require_credits
from budgetguard._core.durations import LONGEST, seconds
from budgetguard.asgi import require
from budgetguard.browser import Patience
from budgetguard.testing import FakeProvider, HandClock

A_YEAR = 366 * 86_400


@pytest.mark.parametrize("given", [0, 5, 0.25, Decimal("2.5"), A_YEAR], ids=repr)
def test_a_duration_becomes_a_float(given: Any) -> None:
    """Every number of seconds up to 366 days is taken, zero too."""
    taken = seconds(given, "lag")
    assert taken == float(given)
    assert type(taken) is float


@pytest.mark.parametrize(
    "given",
    [
        -1,
        -0.1,
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("1E+999"),
        10**400,
    ],
    ids=lambda given: str(given)[:9],
)
def test_what_is_endless_or_negative_is_refused(given: Any) -> None:
    """No duration is below zero, without end, or no number."""
    with pytest.raises(ValueError, match="lag must be at least 0 and finite, not "):
        seconds(given, "lag")


@pytest.mark.parametrize("given", [True, "5", None], ids=repr)
def test_what_is_no_number_is_a_type_error(given: Any) -> None:
    """A bool or a text is no duration."""
    with pytest.raises(TypeError, match=f"lag takes .*, not {type(given).__name__}"):
        seconds(given, "lag")


@pytest.mark.parametrize("given", [0, 0.0, Decimal("1E-999")], ids=repr)
def test_some_durations_have_to_be_positive(given: Any) -> None:
    """Zero is refused where nothing could be done in it."""
    with pytest.raises(ValueError, match="timeout must be above 0 and finite"):
        seconds(given, "timeout", positive=True)


@pytest.mark.parametrize(
    "given",
    [math.nextafter(A_YEAR, math.inf), A_YEAR + 1, Decimal("1E+9"), 1e300, 10**300],
    ids=str,
)
def test_what_is_longer_than_a_year_is_refused(given: Any) -> None:
    """Added to a clock, it would lose the clock's reading, or never end."""
    assert LONGEST == A_YEAR
    with pytest.raises(
        ValueError, match="lag must be at most 366 days, which are 31622400 s, not "
    ):
        seconds(given, "lag")


GUARD = ["fresh_for", "stale_for", "hold_for", "lag", "linger", "recheck_after", "timeout"]
CALL = ["wait", "lag", "linger"]
TAKEN: dict[str, Callable[[float], object]] = {
    **{f"Guard {name}": lambda s, name=name: Guard(FakeProvider(), **{name: s}) for name in GUARD},
    "a provider's lag": lambda s: Guard(FakeProvider(lag=s)),
    "a provider's linger": lambda s: Guard(FakeProvider(linger=s)),
    **{f"block {name}": lambda s, name=name: require_credits(1, **{name: s}) for name in CALL},
    **{
        f"guard's block {name}": lambda s, name=name: Guard(FakeProvider()).require_credits(
            1, **{name: s}
        )
        for name in CALL
    },
    **{
        f"acquire {name}": lambda s, name=name: (
            Guard(FakeProvider()).acquire(1, **{name: s}).release()
        )
        for name in CALL
    },
    **{
        f"aacquire {name}": lambda s, name=name: anyio.run(
            lambda: Guard(FakeProvider()).aacquire(1, **{name: s})
        ).release()
        for name in CALL
    },
    "balance max_age": lambda s: Guard(FakeProvider()).balance(max_age=s),
    "abalance max_age": lambda s: anyio.run(lambda: Guard(FakeProvider()).abalance(max_age=s)),
    **{f"FastAPI {name}": lambda s, name=name: require(min=1, **{name: s}) for name in CALL},
    **{
        f"Patience {name}": lambda s, name=name: Patience(**{name: s})
        for name in ("within", "each", "first_pause")
    },
}


@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
def test_durations_are_bounded_wherever_they_come_in(take: Callable[[float], object]) -> None:
    """366 days are taken, and not a second more."""
    take(A_YEAR)
    for longer in (A_YEAR + 1, 1e300):
        with pytest.raises(
            ValueError, match="must be at most 366 days, which are 31622400 s, not "
        ):
            take(longer)


def test_a_debit_of_the_longest_lag_is_counted(clock: HandClock) -> None:
    """To the second, and until then whatever balances say."""
    provider = FakeProvider(100)
    guard = Guard(provider, lag=A_YEAR)
    guard.acquire(30).settle()
    clock.advance(A_YEAR - 1)
    guard.balance(max_age=0)
    assert guard.available == 70
    clock.advance(1)
    guard.balance(max_age=0)
    assert guard.available == 100
