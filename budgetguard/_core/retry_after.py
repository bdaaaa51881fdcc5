"""What a Retry-After header says (RFC 9110, 10.2.3)."""

import re
from datetime import UTC

MAX_RETRY_AFTER = 60.0

_MAX_DATE = 64
_MAX_DATES = 256
# Separates several values in one Retry-After: seconds, or dates, which contain a comma themselves.
_NEXT_WAIT = re.compile(r"\s*,\s*(?=[0-9]+(?:\.[0-9]*)?\s*(?:,|$)|[A-Za-z]{3,9},)", re.ASCII)


def longest_wait(
    values: list[str], now_wall: float | None, *, most: float = MAX_RETRY_AFTER
) -> float | None:
    """`retry_after` of a header that may be sent more than once: the longest wait that it requests."""
    waits = [retry_after(value, now_wall, most=most) for value in values]
    return max((wait for wait in waits if wait is not None), default=None)


def retry_after(
    value: str | None, now_wall: float | None, *, most: float = MAX_RETRY_AFTER
) -> float | None:
    """Seconds to wait, from a Retry-After header (seconds or an HTTP date), at most `most`.

    None if there is no valid value, or a date although it is not known what time it is; never raises.
    If proxies have joined several values into one, the longest counts.
    """
    text = (value or "").strip()
    several = _NEXT_WAIT.split(text) if len(text) <= _MAX_DATES else []
    if len(several) > 1:
        return longest_wait(several, now_wall, most=most)
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text, re.ASCII):
        return min(float(text), most)
    until = moment(text)
    if until is None or now_wall is None:
        return None
    return min(max(until - now_wall, 0.0), most)


def moment(text: str | None) -> float | None:
    """An HTTP date in seconds since the epoch; None if it is not one."""
    if not text or len(text) > _MAX_DATE:
        return None
    # Deferred, so that importing budgetguard does not import it.
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
