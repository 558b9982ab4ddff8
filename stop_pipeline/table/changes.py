"""What changed on the suppression list between two times, for tools that keep a copy of it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from stop_pipeline.errors import OutdatedListError
from stop_pipeline.table.accounts import account_record
from stop_pipeline.table.current_list import DEFAULT_MAX_AGE, check_current, known_accounts
from stop_pipeline.table.derive import blocked_numbers
from stop_pipeline.table.periods import known_at
from stop_pipeline.table.reading import Moment, committed_rows, existing_store
from stop_pipeline.table.store import Store
from stop_pipeline.times import parse_past_moment

ADDED, REMOVED = "added", "removed"
_NEVER = pd.Timestamp("9999-01-01", tz=UTC).as_unit("us")
COLUMNS = {
    "phone_number": "str",
    "change": "str",
    "at": "datetime64[us, UTC]",
    "first_stop_at": "datetime64[us, UTC]",
}


@dataclass(frozen=True)
class Changes:
    """The changes between two times.

    Attributes:
        rows: As `read_changes` returns them.
        since: The earlier time, UTC.
        until: The later time, UTC: where the next changes begin.
    """

    rows: pd.DataFrame
    since: datetime
    until: datetime


def read_changes(
    since: Moment, until: Moment | None = None, root: str | Path | None = None, account: str | None = None
) -> pd.DataFrame:
    """Read which numbers came onto the suppression list, or left it, between two times.

    The list as of `since`, with these changes applied, is the list as of `until`. A number that left and came back in
    between has no change.

    Args:
        since: The earlier time. A date means the end of that day in Paris; a time without an offset is UTC.
        until: The later time; by default, the time up to which all lists are known.
        root: As in `read_stops`.
        account: Account name; by default all accounts, so that a number is only removed once no account lists it.

    Returns:
        A DataFrame with one row per number, sorted by number: `phone_number` (str), `change` (str, “added” or
        “removed”), `at` (datetime64[us, UTC], when that was first seen) and `first_stop_at` (datetime64[us, UTC], the
        number's earliest opt-out then; null if no date is known).

    Raises:
        ValueError: a time is not a time or is in the future, or `since` is after `until`.
        OutdatedListError: an account has no list, or its list is not known up to `until`.
        StoreError: the data root does not exist or cannot be read.
    """
    return find_changes(since, until, root, account).rows


def find_changes(
    since: Moment,
    until: Moment | None = None,
    root: str | Path | None = None,
    account: str | None = None,
    max_age: timedelta = DEFAULT_MAX_AGE,
) -> Changes:
    """As `read_changes`, with the two times.

    Args:
        since: As in `read_changes`.
        until: As in `read_changes`.
        root: As in `read_changes`.
        account: As in `read_changes`.
        max_age: How long ago each list may have been complete, if `until` is not given.
    """
    now = datetime.now(UTC)
    begin = parse_past_moment(since, now=now)
    store = existing_store(root)
    accounts = known_accounts(store) if account is None else [account]
    if not accounts:
        raise OutdatedListError(f"There is no list below {store.root} yet: run “stop-pipeline run” first.")
    known_until = min(_known_until(store, name, now=now) for name in accounts)
    if until is None:
        for name in accounts:
            check_current(store, name, now=now, max_age=max_age)
        end = known_until
    else:
        end = parse_past_moment(until, now=now)
        if end > known_until:
            raise OutdatedListError(
                f"The list is known up to {known_until:%Y-%m-%d %H:%M:%S} UTC, and the changes until "
                f"{end:%Y-%m-%d %H:%M:%S} UTC are asked for: sync first, or ask for an earlier time."
            )
    if begin > end:
        raise ValueError(f"{begin:%Y-%m-%d %H:%M:%S} UTC is after {end:%Y-%m-%d %H:%M:%S} UTC: swap the two times.")
    periods = pd.concat([blocked_numbers(*committed_rows(store, name)).rows for name in accounts], ignore_index=True)
    return Changes(changes_between(periods, begin, end), begin, end)


def changes_between(periods: pd.DataFrame, since: datetime, until: datetime) -> pd.DataFrame:
    """The changes between two times.

    Args:
        periods: Every period of every number: `phone_number`, `created_at`, `first_seen_at` and `removed_at`.
        since: The earlier time.
        until: The later time.

    Returns:
        As `read_changes`.
    """
    before, after = (_listed(periods, moment) for moment in (since, until))
    sides = before.merge(after, how="outer", on="phone_number", suffixes=("_before", ""), indicator=True)
    changed = sides[sides["_merge"] != "both"]
    is_added = changed["_merge"] == "right_only"
    rows = changed.assign(
        change=is_added.map({True: ADDED, False: REMOVED}),
        at=changed["phone_number"].map(_last_changes(periods, changed["phone_number"], until)),
        first_stop_at=changed["first_stop_at"].where(is_added, changed["first_stop_at_before"]),
    )
    return rows[list(COLUMNS)].astype(COLUMNS).sort_values("phone_number", ignore_index=True)


def _listed(periods: pd.DataFrame, moment: datetime) -> pd.DataFrame:
    """The numbers on the list at a time, and the earliest opt-out of each."""
    listed = known_at(periods, moment).groupby("phone_number", sort=False)["created_at"].min()
    return listed.rename("first_stop_at").reset_index()


def _last_changes(periods: pd.DataFrame, numbers: pd.Series, until: datetime) -> pd.Series:
    """When each of these numbers last came onto the list or left it, up to a time; by number."""
    rows = periods[periods["phone_number"].isin(numbers) & (periods["first_seen_at"] <= until)]
    rows = rows.sort_values(["phone_number", "first_seen_at"])
    number, begin = rows["phone_number"], rows["first_seen_at"]
    end = rows["removed_at"].fillna(_NEVER)
    covered_until = end.groupby(number).cummax().groupby(number).shift()
    last_begin = begin[covered_until.isna() | (begin > covered_until)].groupby(number).max()
    last_end = end.groupby(number).max()
    return last_end.where(last_end <= until, last_begin)


def _known_until(store: Store, account: str, *, now: datetime) -> datetime:
    """Up to when an account's list is known: whatever a later sync finds is later."""
    record, state = account_record(store, account), store.state(account)
    if record is not None and record.retired_at is not None:
        return now
    if state.applied_at is None:
        raise OutdatedListError(
            f"There is no list of the account “{account}” below {store.root}: run “stop-pipeline run --account "
            f"{account}” first, or, if the account is no longer in use, “stop-pipeline retire {account}”."
        )
    return max(time for time in (state.applied_at, state.verified_at) if time is not None)
