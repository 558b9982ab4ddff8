"""`createdAt`: the text of a wall clock → a time without a zone, and the instant that it means somewhere.

What belongs here: which texts are real times, and what becomes of hours that happen twice or never. What does not:
where the texts stand in a document (`document`, `plain_rows`), and which times are too late to be believed
(`snapshot`). Everything is pure.
"""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stop_pipeline.columns import UTC_TIME, WALL_CLOCK, scalar
from stop_pipeline.words import Words, byte, digits

FORM = "%Y-%m-%d %H:%M:%S"
LENGTH = 19
EARLIEST = datetime(2000, 1, 1)  # noqa: DTZ001 – a wall clock

_MONTHS_OF_A_YEAR = 12
_MONTHS = np.arange("2000-01", "2101-01", dtype="datetime64[M]")
_FIRST_DAYS = _MONTHS.astype("datetime64[D]")


def read_wall_clocks(texts: pa.Array) -> pa.Array:
    """The times (`schema.WALL_CLOCK`) that these strings write in exactly the provider's form, from 2000 on.

    Others are null. `strptime` takes 30 February for 1 March and skips what it cannot use, so a time must survive being
    formatted back.
    """
    moments = pc.strptime(texts, format=FORM, unit="s", error_is_null=True)
    survives = pc.equal(moments.cast(pa.string()), texts)
    moments = moments.cast(WALL_CLOCK)
    recent = pc.greater_equal(moments, scalar(EARLIEST, WALL_CLOCK))
    return pc.if_else(pc.and_(survives, recent), moments, scalar(None, WALL_CLOCK))


def read_wall_clock_words(
    year_month: Words, day_hour: Words, time: Words
) -> tuple[NDArray[np.datetime64], NDArray[np.bool_]]:
    """The same of texts given as words: the times (datetime64[us]), and where there is one.

    A time after 2100 is not found here.

    Args:
        year_month: The first eight characters of each text, “YYYY-MM-”.
        day_hour: The next eight, “DD HH:MM”.
        time: The last eight, “HH:MM:SS”.
    """
    (years, odd), (days, odd_days), (times, odd_times) = (
        digits(words, form) for words, form in ((year_month, b"0000-00-"), (day_hour, b"00 00:00"), (time, b"00:00:00"))
    )
    written = odd | odd_days | odd_times == 0
    # Each byte holds a digit now, or zero in place of a separator: a digit's ten times and the next one's once.
    years, days, times = (10 * words + (words >> 8) for words in (years, days, times))
    month = byte(years, 5)
    month_number = (100 * byte(years, 0) + byte(years, 2) - EARLIEST.year) * _MONTHS_OF_A_YEAR + month - 1
    written &= (month >= 1) & (month <= _MONTHS_OF_A_YEAR) & (month_number >= 0) & (month_number < len(_MONTHS) - 1)
    month_number[~written] = 0
    day = byte(days, 0)
    date = _FIRST_DAYS[month_number] + (day - 1)
    hour, minute, second = byte(times, 0), byte(times, 3), byte(times, 6)
    written &= (day >= 1) & (date < _FIRST_DAYS[month_number + 1]) & (hour < 24) & (minute < 60) & (second < 60)  # noqa: PLR2004 – the clock's
    return date.astype("datetime64[us]") + 1_000_000 * (3_600 * hour + 60 * minute + second), written


def instants(wall_clocks: pa.Array | pa.ChunkedArray, timezone: str) -> pa.Array | pa.ChunkedArray:
    """`created_at`: an hour that happens twice means the earlier instant, one that never happens the next valid one."""
    return pc.assume_timezone(wall_clocks, timezone, ambiguous="earliest", nonexistent="latest").cast(UTC_TIME)
