"""Points in time that a person names, and `createdAt`, the local times that the provider writes.

A person writes ISO 8601, and a date means that whole day in Paris.
"""

from bisect import bisect_left
from contextlib import suppress
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from stop_pipeline.errors import InputError, excerpt
from stop_pipeline.settings import PROVIDER_TIMEZONE

FORM = "%Y-%m-%d %H:%M:%S"  # of `createdAt`
EARLIEST = datetime(2000, 1, 1)  # noqa: DTZ001 – a local time

# pandas takes second 60 and digits of other scripts as well.
_TEXT = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-5][0-9]"
_PARIS = ZoneInfo(PROVIDER_TIMEZONE)


def parse_moment(value: datetime | date | str) -> datetime:
    """The instant, in UTC, that a date or time means, or an ISO 8601 text of one.

    A date means the whole day in Paris, so the instant is its last microsecond. A time without an offset is UTC.

    Raises:
        InputError: it is not a date or time.
    """
    moment = _read_iso(value.strip()) if isinstance(value, str) else value
    if isinstance(moment, date) and moment == moment:  # noqa: PLR0124 – NaT is a date that does not equal itself
        if not isinstance(moment, datetime):
            moment = datetime.combine(moment, time.max, _PARIS)
        with suppress(OverflowError):  # an offset can lead out of the calendar
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    raise InputError(
        f"“{excerpt(str(value))}” is not a date or time in ISO 8601: write a date such as 2026-11-05, or a time such "
        "as 2026-11-05T09:30+01:00 (without an offset it is UTC)."
    )


def parse_past_moment(value: datetime | date | str, *, now: datetime) -> datetime:
    """As `parse_moment`, for a time that something is known about: not in the future; today's date means now."""
    moment = parse_moment(value)
    if moment <= now:
        return moment
    if moment == parse_moment(now.astimezone(_PARIS).date()):
        return now
    raise InputError(f"{moment:%Y-%m-%d %H:%M} UTC is in the future: nothing is known about it yet.")


def read_local_times(texts: pd.Series) -> pd.Series:
    """The times in texts of exactly the provider's form, as datetime64[us] without a zone.

    NaT where the text is not a real time, or one before 2000.
    """
    times = pd.to_datetime(texts.where(texts.str.fullmatch(_TEXT)), format=FORM, errors="coerce")
    return times.where(times >= EARLIEST).astype("datetime64[us]")


def local_to_utc(times: pd.Series, zone: ZoneInfo) -> pd.Series:
    """The instants (datetime64[us, UTC]) of local times (datetime64[us] without a zone) in a zone.

    A time that happens twice means the earlier instant; one that never happens means the next valid instant, the one at
    which the clocks were put forward.
    """
    earlier = np.ones(len(times), dtype=bool)
    instants = times.dt.tz_localize(zone, ambiguous=earlier, nonexistent="NaT").dt.tz_convert("UTC")
    in_gap = instants.isna() & times.notna()
    if in_gap.any():
        # Not `nonexistent="shift_forward"`: it is wrong where the gap is half an hour or a day (Lord Howe, Apia).
        instants = instants.mask(in_gap, times[in_gap].map(lambda local: _end_of_gap(local.to_pydatetime(), zone)))
    utc: pd.Series = instants.astype("datetime64[us, UTC]")
    return utc


def _read_iso(text: str) -> date | datetime | None:
    for read in (date.fromisoformat, datetime.fromisoformat):
        with suppress(ValueError):
            return read(text)
    return None


def _end_of_gap(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which a gap ends that contains a local time: the first with the later offset."""

    def is_over(second: int) -> bool:
        return datetime.fromtimestamp(second, zone).utcoffset() == earlier.utcoffset()

    later, earlier = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))  # read by the offset before, and after
    seconds = range(int(earlier.timestamp()), int(later.timestamp()) + 1)
    return datetime.fromtimestamp(seconds[bisect_left(seconds, x=True, key=is_over)], UTC)
