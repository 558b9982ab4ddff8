"""What changed on the suppression list between two times, for tools that keep a copy of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from stop_pipeline.errors import InputError, OutdatedListError
from stop_pipeline.table.accounts import account_record
from stop_pipeline.table.current_list import DEFAULT_MAX_AGE, asked_accounts, check_current
from stop_pipeline.table.derive import blocked_numbers
from stop_pipeline.table.periods import joined_periods, known_at
from stop_pipeline.table.reading import Moment, committed_rows, warn_before_history
from stop_pipeline.table.state import State
from stop_pipeline.table.store import Store
from stop_pipeline.times import parse_past_moment

ADDED, REMOVED = "added", "removed"
LONGEST_SYNC = timedelta(hours=1)  # how long a sync that was running when its account was retired may go on

_UTC_TIME = "datetime64[us, UTC]"
_COLUMNS = {"phone_number": "str", "change": "str", "at": _UTC_TIME, "first_stop_at": _UTC_TIME}


def read_changes(
    since: Moment,
    until: Moment | None = None,
    root: str | Path | None = None,
    account: str | None = None,
    max_age: timedelta = DEFAULT_MAX_AGE,
) -> pd.DataFrame:
    """Read which numbers came onto the suppression list, or left it, between two times.

    The list as of `since`, with these changes applied, is the list as of `until`. A number that left and came back in
    between has no change. Before the first sync the list is empty, and a warning says when that was.

    Args:
        since: The earlier time. A date means the end of that day in Paris; a time without an offset is UTC.
        until: The later time; by default, and with today's date, the time up to which all lists are known.
        root: The data root; by default `STOP_PIPELINE_DATA`, otherwise `data`.
        account: Account name; by default all accounts, so that a number is only removed once no account lists it.
        max_age: How long ago each list may have been complete, if no earlier `until` is given.

    Returns:
        A DataFrame with one row per number, sorted by number: `phone_number` (str), `change` (str, “added” or
        “removed”), `at` (datetime64[us, UTC], when that was first seen) and `first_stop_at` (datetime64[us, UTC], the
        number's earliest opt-out, of a removed number as of `since`; null if no date is known). Its `attrs["until"]`
        is the later time in ISO 8601: where the next changes begin.

    Raises:
        ValueError: a time is not a date or time, or is in the future, or `since` is after `until`.
        OutdatedListError: a list is missing, too old, or not known up to these times.
        StoreError: the data root cannot be read.
    """
    now = datetime.now(UTC)  # before the accounts are listed: the first sync of an account that comes later is later
    begin, end = parse_past_moment(since, now=now), parse_past_moment(now if until is None else until, now=now)
    if begin > end:
        raise InputError(f"{begin:%Y-%m-%d %H:%M:%S} UTC is after {end:%Y-%m-%d %H:%M:%S} UTC: swap the two times.")
    store, accounts = asked_accounts(root, account)
    states = {name: store.state(name) for name in accounts}
    for name in accounts:
        check_current(store, name, now=now, max_age=max_age if end == now else timedelta.max)
    known_until = min(now, *(_known_until(store, name, state, now) for name, state in states.items()))
    end = known_until if end == now else end
    if max(begin, end) > known_until:
        raise OutdatedListError(
            f"Changes up to {max(begin, end):%Y-%m-%d %H:%M:%S} UTC are asked for, and the list is known up to "
            f"{known_until:%Y-%m-%d %H:%M:%S} UTC: sync first, or ask for an earlier time."
        )
    warn_before_history(store, accounts, begin)
    periods = [blocked_numbers(*committed_rows(store, name, state)).numbers for name, state in states.items()]
    changes = changes_between(pd.concat(periods, ignore_index=True), begin, end)
    changes.attrs["until"] = end.isoformat()
    return changes


def changes_between(periods: pd.DataFrame, since: datetime, until: datetime) -> pd.DataFrame:
    """The changes between two times, as `read_changes` returns them, of numbers with these periods.

    The periods have the columns `phone_number`, `created_at`, `first_seen_at` and `removed_at`.
    """
    events = periods[["first_seen_at", "removed_at"]]
    moved = periods.loc[((events > since) & (events <= until)).any(axis="columns"), "phone_number"]
    periods = periods.merge(moved.drop_duplicates(), on="phone_number")
    before, after = (
        known_at(periods, moment).groupby("phone_number")["created_at"].min().rename("first_stop_at").reset_index()
        for moment in (since, until)
    )
    sides = before.merge(after, how="outer", on="phone_number", suffixes=("_before", ""), indicator=True)
    changed = sides[sides["_merge"] != "both"]
    is_added = changed["_merge"] == "right_only"
    joined = joined_periods(periods[periods["first_seen_at"] <= until], ["phone_number"])
    last = joined.drop_duplicates("phone_number", keep="last")
    at = last["removed_at"].where(last["removed_at"] <= until, last["first_seen_at"]).set_axis(last["phone_number"])
    rows = changed.assign(
        change=is_added.map({True: ADDED, False: REMOVED}),
        at=at.reindex(changed["phone_number"]).array,
        first_stop_at=changed["first_stop_at"].where(is_added, changed["first_stop_at_before"]),
    )
    return rows[list(_COLUMNS)].astype(_COLUMNS).sort_values("phone_number", ignore_index=True)


def _known_until(store: Store, account: str, state: State, now: datetime) -> datetime:
    """Up to when the list of an account is known: whatever another sync merges was fetched later."""
    record = account_record(store, account)
    if record is not None and record.retired_at is not None and now - record.retired_at > LONGEST_SYNC:
        return now
    return state.last_response_at or now
