"""Points in time that a person names: ISO 8601 only, and a date means that whole day in Paris."""

from contextlib import suppress
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

from stop_pipeline.errors import InputError, excerpt
from stop_pipeline.settings import PROVIDER_TIMEZONE

_HOW_TO = "write a date such as 2026-11-05, or a time such as 2026-11-05T09:30+01:00 (without an offset it is UTC)"


def parse_moment(value: datetime | date | str) -> datetime:
    """The instant that a date or time means.

    A date means the whole day in Paris, so the instant is its last microsecond. A time without an offset is UTC.

    Args:
        value: A date or time, or an ISO 8601 text of one.

    Returns:
        An aware UTC datetime.

    Raises:
        InputError: it is not a date or time.
    """
    moment: datetime | date | None = None
    if isinstance(value, str):
        for read in (date.fromisoformat, datetime.fromisoformat):
            try:
                moment = read(value.strip())
                break
            except ValueError:
                continue
    elif isinstance(value, date) and value == value:  # noqa: PLR0124 – NaT is a date that does not equal itself
        moment = value
    if moment is not None and not isinstance(moment, datetime):
        moment = datetime.combine(moment, time.max, ZoneInfo(PROVIDER_TIMEZONE))
    if moment is not None:
        with suppress(OverflowError):  # an offset can lead out of the calendar
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    raise InputError(f"“{excerpt(str(value))}” is not a date or time in ISO 8601: {_HOW_TO}.")


def parse_past_moment(value: datetime | date | str, *, now: datetime) -> datetime:
    """As `parse_moment`, for a time that something is known about; today's date means now.

    Raises:
        InputError: it is not a date or time, or it is in the future.
    """
    moment = parse_moment(value)
    if moment <= now:
        return moment
    if moment == parse_moment(now.astimezone(ZoneInfo(PROVIDER_TIMEZONE)).date()):
        return now
    raise InputError(f"{moment:%Y-%m-%d %H:%M} UTC is in the future: nothing is known about it yet.")
