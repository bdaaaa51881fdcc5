"""Durations: float seconds, and nothing that is none."""

from decimal import Decimal
from typing import Any

import pytest

from budgetguard.durations import seconds


@pytest.mark.parametrize("given", [0, 5, 0.25, Decimal("2.5"), 10**300], ids=repr)
def test_a_duration_becomes_a_float(given: Any) -> None:
    """Every finite number of seconds is taken, zero too."""
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
