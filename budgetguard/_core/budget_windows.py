"""The windows of keyed budgets: hours, days and months in a time zone, or a rolling time."""

import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import NamedTuple, TypeAlias

from budgetguard._core.argument_types import near, other
from budgetguard._core.durations import seconds
from budgetguard._core.sync_callables import leave_alone

UNITS = ("hour", "day", "month")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = 3600
# Clocks were never put forward by more than a day.
_LONGEST_GAP = 36 * _HOUR


class RollingPeriod(NamedTuple):
    """The last so many seconds, at any moment."""

    seconds: float


class CalendarPeriod(NamedTuple):
    """The hours, days or months of a time zone."""

    unit: str
    zone: tzinfo

    def window(self, wall: float) -> tuple[float, float]:
        """The beginning and the end of the window that `wall` is in, in seconds since the epoch.

        A day or a month begins when the zone's clocks first show its date, or a later one. So a day
        has 23 or 25 hours where clocks are changed, and one that they skip has no window. An hour
        begins when clocks show a full hour or are changed: an hour that they show twice is two
        windows, and a change by half an hour makes windows of half an hour.
        """
        moment = math.floor(wall)
        if self.unit == "hour":
            return self._hour(moment)
        local = self._local(moment)
        # Clocks that show midnight twice begin the day with the first, which is fold 0.
        first = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
        if self.unit == "month":
            first = first.replace(day=1)
        start, end = self._begin(first), self._begin(first := self._next(first))
        # Clocks that are put back just after midnight show the day before once more.
        while end <= moment:
            start, end = end, self._begin(first := self._next(first))
        return start, end

    def _next(self, first: datetime) -> datetime:
        if self.unit == "day":
            return first + timedelta(days=1)
        return (first + timedelta(days=32)).replace(day=1)

    def _local(self, moment: float) -> datetime:
        # `datetime.fromtimestamp` refuses moments before 1970 on Windows.
        return (_EPOCH + timedelta(seconds=moment)).astimezone(self.zone)

    def _shown(self, moment: float) -> datetime:
        return self._local(moment).replace(tzinfo=None)

    def _offset(self, moment: float) -> float:
        offset = self._local(moment).utcoffset()
        assert offset is not None
        return offset.total_seconds()

    def _begin(self, local: datetime) -> float:
        """The first moment at which clocks show `local`, or skip it."""
        begin = (local.replace(tzinfo=self.zone) - _EPOCH).total_seconds()
        if self._shown(begin) == local:
            return begin
        low, high = math.floor(begin) - _LONGEST_GAP, math.ceil(begin) + _LONGEST_GAP
        while high - low > 1:
            middle = (low + high) // 2
            if self._shown(middle) < local:
                low = middle
            else:
                high = middle
        return float(high)

    def _hour(self, moment: int) -> tuple[float, float]:
        offset = self._offset(moment)
        start = moment - (moment + offset) % _HOUR
        end = start + _HOUR
        if self._offset(start) != offset:
            start = self._change(math.floor(start), moment)
        # One second earlier, as clocks may be changed at the end itself.
        if self._offset(end - 1) != offset:
            end = self._change(moment, math.ceil(end))
        return start, end

    def _change(self, low: int, high: int) -> float:
        """When clocks are changed, once between the two moments."""
        before = self._offset(low)
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == before:
                low = middle
            else:
                high = middle
        return float(high)


Period: TypeAlias = CalendarPeriod | RollingPeriod
"""Equal ones are the same period."""


def spell_period(period: Period) -> str:
    """A period as text, the same in every process.

    Raises ValueError for a time zone that was made from a file, since other processes cannot name it.
    """
    if isinstance(period, RollingPeriod):
        return float(period.seconds).hex()
    zone = period.zone
    if isinstance(zone, timezone):
        return f"{period.unit} {zone.utcoffset(None).total_seconds()}"
    key = getattr(zone, "key", None)
    if key is None:
        msg = "tz was made from a file, and budgets in a store need a time zone with a name"
        raise ValueError(msg)
    return f"{period.unit} {key}"


def period(per: str | float, tz: str | tzinfo | None = None) -> Period:
    """The period that `per` and `tz` name.

    - `per`: `"hour"`, `"day"`, `"month"`, or a number of seconds, above 0 and at most 366 days.
    - `tz`: for hours, days and months: an IANA name, a `zoneinfo.ZoneInfo` or a `datetime.timezone`;
      UTC by default. Other kinds of `tzinfo` are refused: they are Python code that would run
      whenever an account decides, and many of them equal nothing but themselves.

    Raises TypeError or ValueError for anything else, for a zone that is not known, and for a zone
    with a number of seconds. A zone's data is read from a file when it is first named.
    """
    if isinstance(per, str):
        if per not in UNITS:
            msg = f'per must be "hour", "day", "month" or a number of seconds, not {other(per, UNITS)}'
            raise ValueError(msg)
        return CalendarPeriod(per, UTC if tz is None else _zone(tz))
    if isinstance(per, bool) or not isinstance(per, int | float):
        leave_alone(per)
        msg = f'per takes "hour", "day", "month" or a number of seconds, not {type(per).__name__}'
        raise TypeError(msg)
    length = seconds(per, "per", positive=True)
    if tz is not None:
        msg = 'tz is for per="hour", "day" or "month": a number of seconds has no time zone'
        raise ValueError(msg)
    return RollingPeriod(length)


def _zone(tz: str | tzinfo) -> tzinfo:
    """A zone that equals any other one of the same name, and runs no code of others."""
    # Imported here, so that `import budgetguard` does not pay for it.
    from zoneinfo import ZoneInfo

    if type(tz) is timezone:
        return tz
    name = tz.key if isinstance(tz, ZoneInfo) else tz
    if isinstance(name, str):
        if name == "UTC":  # known without zone data
            return UTC
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # OSError: the name of a folder of zones
            if type(tz) is ZoneInfo:  # made from a file
                return tz
            msg = _unknown(name)
        raise ValueError(msg)
    if type(tz) is ZoneInfo:
        return tz
    leave_alone(tz)
    msg = (
        'tz takes the name of a time zone such as "Europe/Berlin", a zoneinfo.ZoneInfo or a '
        f"datetime.timezone, not {type(tz).__name__}"
    )
    raise TypeError(msg)


def _unknown(name: str) -> str:
    from zoneinfo import available_timezones

    known = available_timezones()
    if not known:
        return (
            "tz is the name of a time zone, and no time zone data is installed here: install the "
            "package tzdata, or pass a datetime.timezone"
        )
    if meant := near(name, known):
        return f"tz is {name!r}, which is no known time zone. Did you mean {' or '.join(meant)}?"
    return (
        'tz is not the name of a known time zone: write it like "Europe/Berlin". If it is a recent '
        "one, update the package tzdata"
    )
