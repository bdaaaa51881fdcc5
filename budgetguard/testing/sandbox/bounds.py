"""Checks the numbers that a sandbox is made with."""

from budgetguard._core.argument_types import shown


def within(value: float, least: float, most: float, what: str) -> float:
    """Return `value`. Outside the bounds, raise a ValueError whose message starts with `what`."""
    try:
        if least <= value <= most:
            return value
    except TypeError:
        pass
    msg = f"{what} from {least:,.10g} to {most:,.10g}, not {shown(value)}"
    raise ValueError(msg)
