"""When an allocation renews, from the ways in which vendors write times."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

# From this number on, seconds since the epoch would be after the year 5000, so these are milliseconds.
_MILLISECONDS = 10**11
_LATEST = 10**14
_UNIX = re.compile(r"[0-9]{1,14}")
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ][0-9:.,]{5,18}(?:[Zz]|[+-][0-9:]{2,6})?)?")


def renewal(value: Any) -> datetime | None:
    """The time in UTC, from a unix time (s or ms) or an ISO 8601 date or time; None for anything else.

    A time without an offset, and a date, are taken as UTC.
    """
    # Whatever the parts of such a text are, not each of them is a date.
    with suppress(ValueError, OverflowError, OSError):
        if isinstance(value, str) and _UNIX.fullmatch(value):
            value = Decimal(value)
        if isinstance(value, Decimal) and 0 < value < _LATEST:
            seconds = float(value) / (1000 if value >= _MILLISECONDS else 1)
            return datetime.fromtimestamp(seconds, UTC)
        if isinstance(value, str) and _ISO.fullmatch(value):
            time = datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return None
