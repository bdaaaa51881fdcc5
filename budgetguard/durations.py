"""Durations: float seconds, checked where they come in."""

import math
from decimal import Decimal


def seconds(value: float, what: str, *, positive: bool = False) -> float:
    """A duration; raises TypeError for no number, ValueError for a negative or endless one."""
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
    return number
