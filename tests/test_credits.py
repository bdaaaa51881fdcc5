"""Amounts: exact on the way in, micro-credits inside, Decimal on the way out."""

import decimal
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard._core.amounts import UNLIMITED, Amount, cost, exact, spell, to_credits, to_micro

BOUND = 10**12


class Price(Decimal):
    """A Decimal of somebody else's making."""


class Tier(IntEnum):
    """A number with a name."""

    DEEP = 50


class BalanceWaiter(float):
    """A float that shows itself in its own way, as numpy's do."""

    def __repr__(self) -> str:
        return f"Reading({float(self)})"


@pytest.mark.parametrize(
    ("given", "amount"),
    [
        (0, "0"),
        (7, "7"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (2.5, "2.5"),
        (1e12, "1000000000000"),
        ("0.30", "0.30"),
        (" 12 ", "12"),
        ("1e3", "1000"),
        ("-2", "-2"),
        (Decimal("1.10"), "1.10"),
        (Price("3.25"), "3.25"),
        (Tier.DEEP, "50"),
        (BalanceWaiter(0.1), "0.1"),
        (BOUND, str(BOUND)),
        (-BOUND, str(-BOUND)),
    ],
    ids=repr,
)
def test_an_amount_is_taken_as_written(given: Amount, amount: str) -> None:
    """An amount becomes the Decimal that its digits say, of the plain type."""
    number = exact(given, "min")
    assert number == Decimal(amount)
    assert type(number) is Decimal


@pytest.mark.parametrize(
    "given",
    [True, False, None, [], 1 + 0j, b"1", Fraction(1, 2), (0, (1,), 0), object],
    ids=repr,
)
def test_what_is_no_amount_is_a_type_error(given: Any) -> None:
    """A bool or any other type is refused by name, whatever its value."""
    with pytest.raises(TypeError, match=f"min takes .*, not {type(given).__name__}"):
        exact(given, "min")


@pytest.mark.parametrize(
    "given",
    [
        float("nan"),
        float("inf"),
        float("-inf"),
        1e308,
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("-Infinity"),
        Decimal("1E+999999"),
        "nan",
        "Infinity",
        "1e1000000",
        "1e99999999999999999999",
        "",
        "ten",
        "1,5",
        "0x10",
        BOUND + 1,
        -BOUND - 1,
        Decimal("1000000000000.0000001"),
        "9" * 5000,
        10**5000,
        -(10**5000),
    ],
    ids=lambda given: (
        (f"{given:.0e}" if isinstance(given, Decimal) else repr(given))[:20]
        if not isinstance(given, int)
        else f"int of {given.bit_length()} bits"
    ),
)
def test_what_is_no_finite_number_in_bounds_is_a_value_error(given: Amount) -> None:
    """NaN, infinities, text that is no number, and values beyond 10^12 are rejected."""
    with pytest.raises(ValueError, match=r"^min "):
        exact(given, "min")
    with pytest.raises(ValueError, match=r"^min "):
        cost(given, "min")


@pytest.mark.parametrize(
    ("given", "up", "down"),
    [
        ("1", 1_000_000, 1_000_000),
        ("0.000001", 1, 1),
        ("0.0000001", 1, 0),
        ("1.0000001", 1_000_001, 1_000_000),
        ("1.0000009", 1_000_001, 1_000_000),
        ("-0.0000001", 0, -1),
        ("-1.0000001", -1_000_000, -1_000_001),
        ("0", 0, 0),
        ("-0", 0, 0),
        ("1E-40", 1, 0),
        ("1E-41", 1, 0),
        ("-1E-41", 0, -1),
        ("1E-999999", 1, 0),
        ("-1E-999999", 0, -1),
        ("0E-999999", 0, 0),
        ("0E+999999", 0, 0),
        ("0." + "0" * 4998 + "1", 1, 0),
        ("3." + "0" * 4998 + "1", 3_000_001, 3_000_000),
        ("2." + "9" * 4999, 3_000_000, 2_999_999),
    ],
    ids=lambda given: str(given)[:14],
)
def test_costs_round_up_and_balances_down(given: str, up: int, down: int) -> None:
    """What does not fit in micro-credits is rounded to the side that promises less."""
    assert to_micro(given, "min", rounding="up") == up
    assert to_micro(given, "min", rounding="down") == down


AMOUNTS = st.decimals(-BOUND, BOUND, allow_nan=False, places=9)


@given(AMOUNTS)
def test_rounding_is_exact(amount: Decimal) -> None:
    """Rounding moves by less than a micro-credit, to its own side, at every size."""
    micro = Fraction(amount) * 10**6
    up = to_micro(amount, "min", rounding="up")
    down = to_micro(amount, "min", rounding="down")
    assert micro <= up < micro + 1
    assert micro - 1 < down <= micro


@given(st.floats(0, BOUND))
def test_a_float_is_what_it_prints(amount: float) -> None:
    """A float counts as its shortest text, not as its binary expansion."""
    assert exact(amount, "min") == Decimal(repr(amount))


@given(st.integers(-BOUND * 10**6, BOUND * 10**6))
def test_micro_credits_survive_the_way_out_and_in(micro: int) -> None:
    """Every figure given back reads as the micro-credits that it came from."""
    assert to_micro(to_credits(micro), "min", rounding="up") == micro
    assert to_micro(spell(to_credits(micro)), "min", rounding="down") == micro


@pytest.mark.parametrize("given", ["-0.000001", -1, -0.5, Decimal(-3), -1e-300, "-1E-999999"])
def test_a_cost_is_not_negative(given: Amount) -> None:
    """A negative cost is refused, however small."""
    with pytest.raises(ValueError, match="cost must not be negative"):
        cost(given, "cost")


@pytest.mark.parametrize(("given", "micro"), [(0, 0), (-0.0, 0), ("1e-300", 1), (30, 30_000_000)])
def test_a_cost_comes_in_micro_credits(given: Amount, micro: int) -> None:
    """A cost is a whole number of micro-credits, and never free unless it is zero."""
    assert cost(given, "cost") == micro


def test_the_callers_decimal_context_changes_nothing() -> None:
    """A context of two digits that traps everything makes no amount wrong."""
    with decimal.localcontext(decimal.Context(prec=2, Emax=9, Emin=-9)) as context:
        for signal in context.traps:
            context.traps[signal] = True
        assert cost("123456789.123456", "min") == 123_456_789_123_456
        assert cost(0.1, "min") == 100_000
        assert str(to_credits(123_456_789_123_456)) == "123456789.123456"
        assert spell(Decimal("123456789.1230")) == "123456789.123"
        with pytest.raises(ValueError, match="min is not a number"):
            exact("ten", "min")


def test_a_context_that_traps_nothing_lets_nothing_through() -> None:
    """Text that is no number is refused where the caller's context would make NaN of it."""
    with decimal.localcontext(decimal.Context(traps=[])), pytest.raises(ValueError, match="min"):
        exact("ten", "min")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Decimal(50), "50"),
        (Decimal("1E+3"), "1000"),
        (Decimal("12.50"), "12.5"),
        (Decimal("0.000001"), "0.000001"),
        (Decimal("0.00"), "0"),
        (Decimal("-8.0"), "-8"),
        (Decimal(BOUND), str(BOUND)),
        (Decimal("Infinity"), "unlimited"),
    ],
    ids=str,
)
def test_amounts_are_spelt_as_people_write_them(amount: Decimal, text: str) -> None:
    """No exponent and no trailing zeros reach a message."""
    assert spell(amount) == text


def test_no_bound_is_infinity() -> None:
    """Unlimited comes out as a Decimal too."""
    assert to_credits(UNLIMITED) == Decimal("Infinity")
