"""Durations: float seconds, checked where they are passed in."""

import math
from decimal import Decimal

LONGEST_DAYS = 366
LONGEST = LONGEST_DAYS * 24 * 3600.0
"""Seconds. Adding much longer durations to a clock's reading would lose precision."""


def seconds(value: float, what: str, *, positive: bool = False) -> float:
    """`value` as a duration of at most 366 days.

    Raises TypeError if it is not a number, ValueError if it is negative, not finite or longer.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        msg = f"{what} takes a number of seconds, not {type(value).__name__}"
        raise TypeError(msg)
    try:
        number = float(value)
    except (OverflowError, ValueError):  # an int beyond every float, a signalling NaN
        number = math.inf
    if not 0 <= number < math.inf or (positive and not number):
        msg = f"{what} must be {'above' if positive else 'at least'} 0 and finite, not {value}"
        raise ValueError(msg)
    if number > LONGEST:
        msg = f"{what} must be at most {LONGEST_DAYS} days, which are {LONGEST:.0f} s, not {value}"
        raise ValueError(msg)
    return number
