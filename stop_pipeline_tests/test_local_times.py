"""Local times as the provider writes them, and the instants that they mean; the standard library is the oracle."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stop_pipeline.times import local_to_utc, read_local_times

ZONES = [
    "Europe/Paris",
    "Europe/Dublin",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Africa/Casablanca",
]


def local(text: str) -> datetime:
    return datetime.fromisoformat(text)


def instant_of(time: datetime, zone: ZoneInfo) -> datetime:
    """The rule in plain Python: of the instants at which clocks show the time, the first; or the end of the gap."""
    candidates = [time.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    shown = [instant for instant in candidates if instant.astimezone(zone).replace(tzinfo=None) == time]
    if shown:
        return min(shown)
    earliest, latest = sorted(candidates)
    while latest - earliest > timedelta(microseconds=1):
        middle = earliest + (latest - earliest) // 2
        if middle.astimezone(zone).replace(tzinfo=None) < time:
            earliest = middle
        else:
            latest = middle
    return latest


# Which texts are times


@pytest.mark.parametrize("text", ["2000-01-01 00:00:00", "2024-02-29 23:59:59", "9999-12-31 23:59:59"])
def test_a_real_date_from_2000_on_in_exactly_the_providers_form_is_a_time(text: str) -> None:
    times = read_local_times(pd.Series([text], dtype="str"))
    assert str(times.dtype) == "datetime64[us]"
    assert times.tolist() == [pd.Timestamp(text)]


@pytest.mark.parametrize(
    "text",
    [
        # too early, or not in the calendar
        *("1999-12-31 23:59:59", "0000-00-00 00:00:00", "0000-01-01 00:00:00", "0001-01-01 00:00:00"),
        *("2023-02-29 12:00:00", "2024-04-31 12:00:00", "2024-00-10 12:00:00", "2024-13-10 12:00:00"),
        # not on the clock
        *("2024-06-01 24:00:00", "2024-06-01 23:60:00", "2024-06-01 23:59:60", "2024-06-01 23:59:61"),
        # in another form
        *("2024-06-01T12:00:00", "2024-06-01 12:00", "2024-06-01", "2024-06-01 12:00:00.0", "2024-06-01 12:00:00Z"),
        *("2024-06-01 12:00:00+00:00", "2024-6-1 12:00:00", "01/06/2024 12:00:00", "now", "NaT", ""),
        *("+2024-06-01 12:00:00", "-001-01-01 00:00:00", "12024-06-01 12:00:00"),
        # with white space
        *(" 2024-06-01 12:00:00", "2024-06-01 12:00:00 ", "2024-06-01  12:00:00", "2024-06-01\n12:00:00"),
        *("2024-06-01 12:00:00\n", "2024-06-01 12:00:00\x00"),
        # in the digits of another script
        *("２０２４-06-01 12:00:00", "٢٠٢٥-06-01 10:00:00", "2024-06-01 12:00:0²"),
    ],
)
def test_any_other_text_is_not_a_time(text: str) -> None:
    assert read_local_times(pd.Series([text, "2024-06-01 12:00:00"], dtype="str")).isna().tolist() == [True, False]


def test_a_column_without_rows_is_a_column_of_times() -> None:
    empty = read_local_times(pd.Series([], dtype="str"))
    assert str(empty.dtype) == "datetime64[us]"
    assert str(local_to_utc(empty, ZoneInfo("Europe/Paris")).dtype) == "datetime64[us, UTC]"


# Which instants they mean


@pytest.mark.parametrize(
    ("zone", "time", "instant"),
    [
        ("Europe/Paris", "2024-01-15 12:00:00", "2024-01-15 11:00:00"),
        ("Europe/Paris", "2024-07-15 12:00:00", "2024-07-15 10:00:00"),
        ("Europe/Paris", "2060-07-15 12:00:00", "2060-07-15 10:00:00"),
        ("UTC", "2024-03-31 02:30:00", "2024-03-31 02:30:00"),
        # happens twice: the earlier instant
        ("Europe/Paris", "2024-10-27 01:59:59", "2024-10-26 23:59:59"),
        ("Europe/Paris", "2024-10-27 02:00:00", "2024-10-27 00:00:00"),
        ("Europe/Paris", "2024-10-27 02:30:00", "2024-10-27 00:30:00"),
        ("Europe/Paris", "2024-10-27 03:00:00", "2024-10-27 02:00:00"),
        ("Europe/Dublin", "2024-10-27 01:30:00", "2024-10-27 00:30:00"),  # where winter is the exception, not summer
        ("Australia/Lord_Howe", "2024-04-07 01:45:00", "2024-04-06 14:45:00"),  # half an hour twice
        # never happens: the next valid instant
        ("Europe/Paris", "2024-03-31 01:59:59", "2024-03-31 00:59:59"),
        ("Europe/Paris", "2024-03-31 02:00:00", "2024-03-31 01:00:00"),
        ("Europe/Paris", "2024-03-31 02:59:59", "2024-03-31 01:00:00"),
        ("Europe/Paris", "2024-03-31 03:00:00", "2024-03-31 01:00:00"),
        ("Europe/Dublin", "2024-03-31 01:30:00", "2024-03-31 01:00:00"),
        ("America/Sao_Paulo", "2018-11-04 00:30:00", "2018-11-04 03:00:00"),  # at midnight
        ("Australia/Lord_Howe", "2024-10-06 02:15:00", "2024-10-05 15:30:00"),  # half an hour
        ("Pacific/Apia", "2011-12-29 23:59:59", "2011-12-30 09:59:59"),
        ("Pacific/Apia", "2011-12-30 00:00:00", "2011-12-30 10:00:00"),  # a whole day
        ("Pacific/Apia", "2011-12-30 12:00:00", "2011-12-30 10:00:00"),
        ("Pacific/Apia", "2011-12-30 23:59:59", "2011-12-30 10:00:00"),
        ("Pacific/Apia", "2011-12-31 00:00:00", "2011-12-30 10:00:00"),
    ],
)
def test_a_time_that_happens_twice_means_the_earlier_and_one_that_never_happens_the_next(
    zone: str, time: str, instant: str
) -> None:
    column = local_to_utc(pd.Series(pd.to_datetime([time]).as_unit("us")), ZoneInfo(zone))
    assert str(column.dtype) == "datetime64[us, UTC]"
    assert column.tolist() == [pd.Timestamp(instant, tz="UTC")]


def test_a_missing_time_stays_missing_beside_gaps_and_overlaps() -> None:
    times = pd.Series(["2024-03-31 02:30:00", None, "2024-10-27 02:30:00"], dtype="datetime64[us]")
    assert local_to_utc(times, ZoneInfo("Europe/Paris")).isna().tolist() == [False, True, False]


@pytest.mark.parametrize("zone", ZONES)
def test_every_quarter_of_an_hour_around_every_change_of_the_clocks_is_as_the_standard_library_has_it(
    zone: str,
) -> None:
    info = ZoneInfo(zone)
    hours = pd.date_range("2008-01-01", "2026-01-01", freq="6h", tz="UTC").to_pydatetime()
    offsets = [hour.astimezone(info).utcoffset() for hour in hours]
    changes = [hours[at] for at in range(1, len(hours)) if offsets[at] != offsets[at - 1]]
    assert len(changes) >= 8
    times = sorted(
        {
            change.astimezone(info).replace(tzinfo=None) + timedelta(minutes=15 * step, seconds=step % 7)
            for change in changes
            for step in range(-140, 60)
        }
    )
    read = local_to_utc(pd.Series(pd.DatetimeIndex(times).as_unit("us")), info)
    expected = [instant_of(time, info) for time in times]
    assert [value.to_pydatetime() for value in read] == expected


CLOCK_CHANGES = [local("2024-03-31 02:30:00"), local("2024-10-27 02:30:00"), local("2011-12-30 12:00:00")]
TIMES = st.datetimes(local("2000-01-01"), local("2037-01-01")).map(
    lambda time: time.replace(microsecond=0)
) | st.builds(
    lambda change, seconds: change + timedelta(seconds=seconds),
    st.sampled_from(CLOCK_CHANGES),
    st.integers(-100_000, 100_000),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(TIMES, max_size=20), st.sampled_from(ZONES))
@example([CLOCK_CHANGES[2], CLOCK_CHANGES[2]], "Pacific/Apia")
def test_any_times_in_any_zone_are_as_the_standard_library_has_them(times: list[datetime], zone: str) -> None:
    read = local_to_utc(pd.Series(times, dtype="datetime64[us]"), ZoneInfo(zone))
    assert [value.to_pydatetime() for value in read] == [instant_of(time, ZoneInfo(zone)) for time in times]
