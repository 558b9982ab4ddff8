"""`createdAt`: local times as the provider writes them, and the instants that they mean."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

FORM = "%Y-%m-%d %H:%M:%S"
EARLIEST = datetime(2000, 1, 1)  # noqa: DTZ001 – a local time

_TEXT = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-5][0-9]"
"""pandas takes second 60 and digits of other scripts as well."""


def read_local_times(texts: pd.Series) -> pd.Series:
    """The times in texts of exactly the provider's form.

    Args:
        texts: `createdAt` (str).

    Returns:
        datetime64[us] without a zone; NaT where the text is not a real time, or one before 2000.
    """
    times = pd.to_datetime(texts.where(texts.str.fullmatch(_TEXT)), format=FORM, errors="coerce").astype(
        "datetime64[us]"
    )
    return times.where(times >= EARLIEST)


def local_to_utc(times: pd.Series, zone: ZoneInfo) -> pd.Series:
    """The instants of local times in a zone.

    A time that happens twice means the earlier instant; one that never happens means the next valid instant, the one at
    which the clocks were put forward.

    Args:
        times: datetime64[us] without a zone.
        zone: Where they were read off a clock.

    Returns:
        datetime64[us, UTC].
    """
    earlier = np.ones(len(times), dtype=bool)
    instants = times.dt.tz_localize(zone, ambiguous=earlier, nonexistent="NaT").dt.tz_convert("UTC")
    in_gap = instants.isna() & times.notna()
    if in_gap.any():
        # Not `nonexistent="shift_forward"`: it is wrong where the gap is half an hour or a day (Lord Howe, Apia).
        instants = instants.mask(in_gap, times[in_gap].map(lambda time: _end_of_gap(time.to_pydatetime(), zone)))
    utc: pd.Series = instants.astype("datetime64[us, UTC]")
    return utc


def _end_of_gap(time: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which a gap ends that contains a local time: the first with the later offset."""
    before, after = (time.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta() for fold in (0, 1))
    earliest, latest = (time - max(before, after)).replace(tzinfo=UTC), (time - min(before, after)).replace(tzinfo=UTC)
    while latest - earliest > timedelta(microseconds=1):
        middle = earliest + (latest - earliest) / 2
        if middle.astimezone(zone).utcoffset() == before:
            earliest = middle
        else:
            latest = middle
    return latest
