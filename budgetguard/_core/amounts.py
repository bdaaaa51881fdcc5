"""Amounts: accepted exactly as written, stored as integer micro-credits, returned as Decimal."""

from decimal import Context, Decimal, InvalidOperation
from typing import Literal, TypeAlias

from budgetguard._core.argument_types import shown
from budgetguard._core.sync_callables import leave_alone

Amount: TypeAlias = int | float | Decimal | str

CREDITS = "credits"
"""The unit of an account that does not say another one."""

MICRO = 10**6
_LARGEST = 10**12
LIMIT = Decimal(_LARGEST)
UNLIMITED = float("inf")

# Ten to this power is far below a micro-credit, and as_integer_ratio of 1E-999999 would be huge.
_TINY = -40
_EXACT = Context(prec=60)


def exact(value: Amount, what: str) -> Decimal:
    """`value` as a Decimal, exactly as it is written; `what` names it in errors.

    Raises TypeError for anything but int, float, Decimal and str (bool is rejected too), and
    ValueError for NaN, infinities, text that is not a number, and values beyond 10^12.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        leave_alone(value)
        msg = f"{what} takes an int, float, Decimal or str, not {type(value).__name__}"
        raise TypeError(msg)
    try:
        number = Decimal(float.__repr__(value) if isinstance(value, float) else value)
    except InvalidOperation:
        msg = f'{what} is not a number: write it like 50 or "12.5"'
        raise ValueError(msg) from None
    if not number.is_finite():
        msg = f"{what} must be finite, not {shown(value)}"
        raise ValueError(msg)
    if number.copy_abs() > LIMIT:
        msg = f"{what} must not exceed 10^12 credits"
        raise ValueError(msg)
    return number


def to_micro(value: Amount, what: str, *, rounding: Literal["up", "down"]) -> int:
    """`value` in micro-credits; raises as `exact` does. Costs are rounded up, balances down."""
    number = exact(value, what)
    if number and number.adjusted() < _TINY:
        return int(rounding == "up") - int(number.is_signed())
    over, under = number.as_integer_ratio()
    return -(-over * MICRO // under) if rounding == "up" else over * MICRO // under


def cost(value: Amount, what: str) -> int:
    """A cost in micro-credits, rounded up; raises ValueError when it is negative."""
    if type(value) is int and 0 <= value <= _LARGEST:
        return value * MICRO
    number = exact(value, what)
    if number < 0:
        msg = f"{what} must not be negative: {number}"
        raise ValueError(msg)
    return to_micro(number, what, rounding="up")


def to_credits(micro: float) -> Decimal:
    """Micro-credits as a Decimal number of credits; `UNLIMITED` becomes Infinity."""
    if micro == UNLIMITED:
        return Decimal("Infinity")
    return _EXACT.divide(Decimal(micro), Decimal(MICRO))


def spell(amount: Decimal) -> str:
    """An amount as people write it: without exponent and trailing zeros."""
    return f"{amount.normalize(_EXACT):f}" if amount.is_finite() else "unlimited"


def as_number(amount: Decimal) -> int | float:
    """A finite amount as a JSON number: a double unless it is a whole number."""
    return int(amount) if amount == amount.to_integral_value() else float(amount)
