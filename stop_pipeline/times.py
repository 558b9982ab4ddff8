"""Points in time that a person names: ISO 8601 only, and a date means that whole day in Paris."""

from contextlib import suppress
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

from stop_pipeline.errors import InputError, excerpt
from stop_pipeline.settings import PROVIDER_TIMEZONE

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
    """As `parse_moment`, for a time that something is known about; today's date means now.

    Raises:
        InputError: it is not a date or time, or it is in the future.
    """
    moment = parse_moment(value)
    if moment <= now:
        return moment
    if moment == parse_moment(now.astimezone(_PARIS).date()):
        return now
    raise InputError(f"{moment:%Y-%m-%d %H:%M} UTC is in the future: nothing is known about it yet.")


def _read_iso(text: str) -> date | datetime | None:
    for read in (date.fromisoformat, datetime.fromisoformat):
        with suppress(ValueError):
            return read(text)
    return None
