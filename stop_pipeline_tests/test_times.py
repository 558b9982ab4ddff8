"""Points in time that a person names: ISO 8601 dates and times, and nothing that only looks like one."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stop_pipeline.times import parse_moment

PARIS = ZoneInfo("Europe/Paris")


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-11-05T09:30:00+01:00", "2026-11-05 08:30:00"),
        ("2026-11-05T09:30:00Z", "2026-11-05 09:30:00"),
        ("2026-11-05T09:30", "2026-11-05 09:30:00"),
        ("2026-11-05 09:30", "2026-11-05 09:30:00"),
        (" 2026-11-05 09:30:15.25\n", "2026-11-05 09:30:15.250000"),
        ("20261105T093000", "2026-11-05 09:30:00"),
        (datetime(2026, 11, 5, 9, 30, tzinfo=UTC), "2026-11-05 09:30:00"),
        (datetime(2026, 11, 5, 9, 30), "2026-11-05 09:30:00"),  # noqa: DTZ001 – without a zone it is UTC
        (datetime(2026, 11, 5, 9, 30, tzinfo=timezone(timedelta(hours=-5))), "2026-11-05 14:30:00"),
        (pd.Timestamp("2026-11-05 09:30", tz="Europe/Paris"), "2026-11-05 08:30:00"),
        (pd.Timestamp("2026-11-05 09:30"), "2026-11-05 09:30:00"),
    ],
)
def test_a_time_is_an_instant_and_utc_without_an_offset(value: Any, moment: str) -> None:
    parsed = parse_moment(value)
    assert parsed == datetime.fromisoformat(moment).replace(tzinfo=UTC)
    assert parsed.utcoffset() == timedelta(0)


@pytest.mark.parametrize("value", ["2026-11-05", "20261105", "2026-W45-4", " 2026-11-05 ", date(2026, 11, 5)])
def test_a_date_is_that_whole_day_in_paris_so_what_was_known_at_its_end(value: Any) -> None:
    assert parse_moment(value) == datetime(2026, 11, 5, 23, 59, 59, 999_999, tzinfo=PARIS)


@pytest.mark.parametrize(
    ("day", "end"),
    [
        ("2026-03-28", "2026-03-28T22:59:59.999999"),
        ("2026-03-29", "2026-03-29T21:59:59.999999"),  # a day of 23 hours
        ("2026-10-25", "2026-10-25T22:59:59.999999"),  # a day of 25 hours
        ("2024-02-29", "2024-02-29T22:59:59.999999"),
    ],
)
def test_the_end_of_a_day_on_which_the_clocks_change_is_its_end(day: str, end: str) -> None:
    assert parse_moment(day) == datetime.fromisoformat(end).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        *("5/11/2026", "11/5/2026", "05.11.2026", "5 Nov 2026", "now", "today", "", " ", "nan", "NaT", "None"),
        *("2026", "2026-11", "1762333800", "1762333800000000000"),
        *("2026-13-01", "2026-02-30", "2026-11-05T25:00", "2026-11-05T09:30+99:00", "２０２６-11-05"),
        *(1_762_333_800, 1_762_333_800_000_000_000, 1.5, True, None, float("nan"), pd.NaT, pd.NA),
        *(b"2026-11-05", [2026, 11, 5], timedelta(days=1)),
    ],
)
def test_anything_else_is_refused_with_how_to_write_it(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"is not a date or time in ISO 8601: write a date such as 2026-11-05, or a time"
    ):
        parse_moment(value)


@pytest.mark.parametrize(
    "value", ["0001-01-01", "9999-12-31", date.max, datetime.max.replace(tzinfo=UTC), "0001-01-01T00:00+14:00"]
)
def test_the_ends_of_the_calendar_are_read_or_refused(value: Any) -> None:
    try:
        assert parse_moment(value).tzinfo is UTC
    except ValueError as error:
        assert "is not a date or time" in str(error)


DAYS = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001 – without a zone


@given(DAYS, st.one_of(st.none(), st.timezones()))
def test_the_text_of_a_time_means_that_time(clock: datetime, zone: ZoneInfo | None) -> None:
    moment = clock.replace(tzinfo=zone)
    expected = moment.replace(tzinfo=UTC) if zone is None else moment.astimezone(UTC)
    assert parse_moment(moment) == expected
    assert parse_moment(moment.isoformat()) == expected
