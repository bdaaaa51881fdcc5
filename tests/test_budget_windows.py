"""The windows of keyed budgets, against clocks that are read minute by minute."""

import sys
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetguard._core.budget_windows import CalendarPeriod, RollingPeriod, period

HOUR = 3600
ZONES = {
    # With a change of the clocks, or of the zone, that is unlike the others'.
    "America/New_York": "2024-11-03T06:00Z",
    "Europe/Berlin": "2024-03-31T01:00Z",
    "Asia/Kolkata": "2024-06-01T00:00Z",
    "Asia/Kathmandu": "1985-12-31T18:30Z",  # from +5:30 to +5:45
    "Australia/Lord_Howe": "2024-04-06T15:00Z",  # by half an hour
    "America/Sao_Paulo": "2018-11-04T03:00Z",  # no midnight
    "Africa/Cairo": "2024-04-25T22:00Z",  # no midnight
    "Africa/Casablanca": "2024-03-10T02:00Z",  # winter time in spring
    "America/Havana": "2024-11-03T05:00Z",  # midnight twice
    "America/St_Johns": "2010-11-07T02:31Z",  # a minute of tomorrow, then an hour of today
    "America/Toronto": "1919-03-31T04:30Z",  # from 23:30 to 0:30
    "Pacific/Apia": "2011-12-30T10:00Z",  # no December 30th
}


def at(moment: str) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(moment).timestamp()


def calendar(unit: str, zone: str) -> CalendarPeriod:
    """The period of a unit in a zone."""
    found = period(unit, zone)
    assert isinstance(found, CalendarPeriod)
    return found


def shown(unit: str, zone: str, moment: str) -> tuple[str, str]:
    """The window that a moment is in, as clocks in the zone show its beginning and end."""
    start, end = calendar(unit, zone).window(at(moment))
    assert start <= at(moment) < end
    first, last = (datetime.fromtimestamp(each, ZoneInfo(zone)) for each in (start, end))
    return first.isoformat(" ", "minutes"), last.isoformat(" ", "minutes")


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end", "hours"),
    [
        ("UTC", "2024-02-29T12:00Z", "2024-02-29 00:00+00:00", "2024-03-01 00:00+00:00", 24),
        (
            "America/New_York",
            "2024-03-10T12:00Z",
            "2024-03-10 00:00-05:00",
            "2024-03-11 00:00-04:00",
            23,
        ),
        (
            "America/New_York",
            "2024-11-03T12:00Z",
            "2024-11-03 00:00-04:00",
            "2024-11-04 00:00-05:00",
            25,
        ),
        (
            "Asia/Kolkata",
            "2024-06-01T18:29:59Z",
            "2024-06-01 00:00+05:30",
            "2024-06-02 00:00+05:30",
            24,
        ),
        (
            "Africa/Cairo",
            "2024-04-26T12:00Z",
            "2024-04-26 01:00+03:00",
            "2024-04-27 00:00+03:00",
            23,
        ),
        (
            "America/Sao_Paulo",
            "2018-02-18T02:30Z",
            "2018-02-17 00:00-02:00",
            "2018-02-18 00:00-03:00",
            25,
        ),
        (
            "America/Havana",
            "2024-11-03T12:00Z",
            "2024-11-03 00:00-04:00",
            "2024-11-04 00:00-05:00",
            25,
        ),
        (
            "America/Toronto",
            "1919-03-31T12:00Z",
            "1919-03-31 00:30-04:00",
            "1919-04-01 00:00-04:00",
            23.5,
        ),
        (
            "Pacific/Apia",
            "2011-12-30T09:59Z",
            "2011-12-29 00:00-10:00",
            "2011-12-31 00:00+14:00",
            24,
        ),
    ],
)
def test_days(zone: str, moment: str, start: str, end: str, hours: float) -> None:
    """A day lasts from the first moment of its date to that of the next date which clocks show."""
    assert shown("day", zone, moment) == (start, end)
    begin, over = calendar("day", zone).window(at(moment))
    assert over - begin == hours * HOUR


def test_a_day_that_has_begun_does_not_end_when_clocks_are_put_back() -> None:
    """Where that is a minute after midnight, the hour that follows is not yesterday's."""
    tomorrow = ("2010-11-07 00:00-02:30", "2010-11-08 00:00-03:30")
    assert shown("day", "America/St_Johns", "2010-11-07T02:29:59Z")[1] == tomorrow[0]
    for moment in ("02:30:00", "02:31:00", "03:29:59"):
        assert shown("day", "America/St_Johns", f"2010-11-07T{moment}Z") == tomorrow


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end"),
    [
        ("UTC", "2024-12-31T23:59:59.9Z", "2024-12-01 00:00+00:00", "2025-01-01 00:00+00:00"),
        ("Europe/Berlin", "2024-12-31T23:00Z", "2025-01-01 00:00+01:00", "2025-02-01 00:00+01:00"),
        ("Europe/Berlin", "2024-03-15T00:00Z", "2024-03-01 00:00+01:00", "2024-04-01 00:00+02:00"),
        ("Asia/Kolkata", "2023-02-28T18:29Z", "2023-02-01 00:00+05:30", "2023-03-01 00:00+05:30"),
        # 23:30 for the second time: still October.
        ("Africa/Cairo", "2024-10-31T21:30Z", "2024-10-01 00:00+03:00", "2024-11-01 00:00+02:00"),
    ],
)
def test_months(zone: str, moment: str, start: str, end: str) -> None:
    """A month lasts from its first day to that of the next."""
    assert shown("month", zone, moment) == (start, end)


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end"),
    [
        ("UTC", "2024-06-01T11:59:59Z", "2024-06-01 11:00+00:00", "2024-06-01 12:00+00:00"),
        ("Asia/Kolkata", "2024-06-01T11:45Z", "2024-06-01 17:00+05:30", "2024-06-01 18:00+05:30"),
        # 2 o'clock, and then again.
        ("Europe/Berlin", "2024-10-27T00:30Z", "2024-10-27 02:00+02:00", "2024-10-27 02:00+01:00"),
        ("Europe/Berlin", "2024-10-27T01:30Z", "2024-10-27 02:00+01:00", "2024-10-27 03:00+01:00"),
        ("Europe/Berlin", "2024-03-31T00:30Z", "2024-03-31 01:00+01:00", "2024-03-31 03:00+02:00"),
        # Half an hour for the second time.
        (
            "Australia/Lord_Howe",
            "2024-04-06T14:45Z",
            "2024-04-07 01:00+11:00",
            "2024-04-07 01:30+10:30",
        ),
        (
            "Australia/Lord_Howe",
            "2024-04-06T15:15Z",
            "2024-04-07 01:30+10:30",
            "2024-04-07 02:00+10:30",
        ),
    ],
)
def test_hours(zone: str, moment: str, start: str, end: str) -> None:
    """An hour lasts until clocks show the next, or are changed; shown twice, it is two."""
    assert shown("hour", zone, moment) == (start, end)


def read_by_the_minute(unit: str, zone: ZoneInfo, moment: int) -> tuple[int, int]:
    """The window of `moment`, by reading the zone's clocks each minute for some days around it."""
    begun: list[int] = []
    latest: Any = None
    for minute in range(moment // 60 - 60 * 60, moment // 60 + 60 * 60):
        local = datetime.fromtimestamp(minute * 60, zone)
        label: Any = (local.date(), local.hour, local.utcoffset())
        if unit == "day":
            label = max(latest or local.date(), local.date())
        if latest is not None and label != latest:
            begun.append(minute * 60)
        latest = label
    return max(each for each in begun if each <= moment), min(
        each for each in begun if each > moment
    )


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", ["hour", "day"])
@settings(max_examples=15, deadline=None)
@given(away=st.integers(-30 * HOUR, 30 * HOUR), days=st.sampled_from([0, 0, 0, 181, 3650]))
def test_windows_are_what_clocks_show(unit: str, zone: str, away: int, days: int) -> None:
    """Around changes of the clocks and elsewhere."""
    moment = int(at(ZONES[zone])) + away + days * 24 * HOUR
    found = calendar(unit, zone).window(moment)
    assert found == read_by_the_minute(unit, ZoneInfo(zone), moment)


@pytest.mark.parametrize("zone", ZONES)
@settings(max_examples=15, deadline=None)
@given(month=st.integers(0, 200))
def test_months_follow_each_other(zone: str, month: int) -> None:
    """Each begins with the day that it begins with, at the moment when the one before ends."""
    moment = at(ZONES[zone]) + month * 30.4 * 24 * HOUR
    start, end = calendar("month", zone).window(moment)
    assert start <= moment < end
    assert calendar("month", zone).window(end)[0] == end
    assert calendar("month", zone).window(end - 1) == (start, end)
    assert calendar("day", zone).window(start)[0] == start
    first = datetime.fromtimestamp(start, ZoneInfo(zone))
    before = datetime.fromtimestamp(start - 1, ZoneInfo(zone))
    assert (first.year, first.month) != (before.year, before.month)


def test_periods_that_are_equal() -> None:
    """A zone counts by its name however it is given, and a number by its value."""
    assert period("day") == period("day", "UTC") == period("day", ZoneInfo("UTC"))
    assert period("day") == period("day", UTC) == period("day", timezone(timedelta(0)))
    assert period("day", "Asia/Kolkata") == period("day", ZoneInfo.no_cache("Asia/Kolkata"))
    assert len({period("day"), period("hour"), period("day", "Asia/Kolkata")}) == 3
    assert period(3600) == period(3600.0) == RollingPeriod(3600.0) != period("hour")


def test_a_zone_that_is_a_subclass_runs_no_code_of_its_own() -> None:
    """It counts as the zone of its name."""

    class Zone(ZoneInfo):
        def utcoffset(self, dt: datetime | None) -> timedelta:
            raise AssertionError

    assert period("day", Zone("Asia/Kolkata")) == period("day", "Asia/Kolkata")


def test_a_zone_that_is_made_from_a_file() -> None:
    """It is taken as it is, with a name that nobody knows or without any."""
    path = next(folder for folder in zoneinfo.TZPATH if (Path(folder) / "Asia/Kolkata").exists())
    for key in (None, "Office"):
        with (Path(path) / "Asia/Kolkata").open("rb") as file:
            zone = ZoneInfo.from_file(file, key=key)
        found = period("day", zone)
        assert isinstance(found, CalendarPeriod)
        assert found.window(at("2024-06-01T12:00Z")) == (
            at("2024-05-31T18:30Z"),
            at("2024-06-01T18:30Z"),
        )


@pytest.mark.parametrize("per", [0, -1, float("nan"), float("inf"), 367 * 24 * HOUR, "days", ""])
def test_lengths_that_are_refused(per: Any) -> None:
    """What is no length is a ValueError that names the argument and says what there is."""
    with pytest.raises(
        ValueError, match=r"per must be (above 0|at most 366 days|\"hour\", \"day\")"
    ):
        period(per)


@pytest.mark.parametrize("per", [True, None, [], timedelta(days=1), b"day"])
def test_types_that_are_refused(per: Any) -> None:
    """What is neither text nor a number is a TypeError that names the type alone."""
    name = type(per).__name__
    with pytest.raises(TypeError, match=rf'per takes "hour".* number of seconds, not {name}$'):
        period(per)


@pytest.mark.parametrize("tz", [5, b"UTC", object()])
def test_zones_of_the_wrong_type(tz: Any) -> None:
    """Other types are a TypeError that names them."""
    with pytest.raises(TypeError, match=rf"tz takes the name of .*, not {type(tz).__name__}$"):
        period("day", tz)


def test_a_kind_of_tzinfo_that_is_other_peoples_code() -> None:
    """It is refused: it would run while the account's lock is held."""

    class Zone(tzinfo):
        pass

    with pytest.raises(TypeError, match=r"zoneinfo\.ZoneInfo or a datetime\.timezone, not Zone$"):
        period("day", Zone())


@pytest.mark.parametrize("tz", ["sk-live-0123456789", "", "../../etc/passwd", "\0", "\udc80"])
def test_zones_that_nobody_knows(tz: str) -> None:
    """The message does not repeat what was given: it may be a key."""
    with pytest.raises(ValueError, match="tz is not the name of a known time zone") as caught:
        period("day", tz)
    assert not tz or tz not in str(caught.value)
    assert caught.value.__context__ is None


def test_zones_that_are_misspelled() -> None:
    """A name that is close to a known one is repeated, with that one; so is a folder of zones."""
    with pytest.raises(ValueError, match=r"'Europe/Berln', .* Did you mean Europe/Berlin"):
        period("day", "Europe/Berln")
    with pytest.raises(ValueError, match="tz is 'Europe', which is no known time zone"):
        period("day", "Europe")


def test_a_rolling_time_has_no_zone() -> None:
    """A zone with a number of seconds is a mistake that would go unnoticed."""
    with pytest.raises(ValueError, match="a number of seconds has no time zone"):
        period(3600, "Europe/Berlin")


@pytest.fixture
def _no_zone_data(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without zone data, as many containers and all of Windows are."""
    for name in ["tzdata", *(each for each in sys.modules if each.startswith("tzdata"))]:
        monkeypatch.setitem(sys.modules, name, None)
    zoneinfo.reset_tzpath([])
    ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath()
    ZoneInfo.clear_cache()


@pytest.mark.usefixtures("_no_zone_data")
def test_without_zone_data() -> None:
    """UTC is known, and for the others the message names the package that has them."""
    assert period("day", "UTC") == period("day")
    with pytest.raises(ValueError, match=r"no time zone data is installed .* package tzdata"):
        period("day", "Europe/Berlin")
