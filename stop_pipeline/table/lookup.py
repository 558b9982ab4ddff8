"""What is known about one phone number, and what changed on the suppression list between two times."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from stop_pipeline.errors import InputError, OutdatedListError
from stop_pipeline.phone_numbers import compact, find_phone_numbers, mask, match_keys, read_phone_number
from stop_pipeline.table import reading
from stop_pipeline.table.accounts import account_record
from stop_pipeline.table.derive import ORIGINS, blocked_numbers
from stop_pipeline.table.periods import joined_periods, known_at
from stop_pipeline.table.state import State
from stop_pipeline.table.store import Store
from stop_pipeline.times import parse_past_moment

ADDED, REMOVED = "added", "removed"
LONGEST_SYNC = timedelta(hours=1)  # how long one may go on, during which its account may be, or have been, retired

_UTC_TIME = "datetime64[us, UTC]"
_CHANGES = {"phone_number": "str", "change": "str", "at": _UTC_TIME, "first_stop_at": _UTC_TIME}


@dataclass(frozen=True)
class OptOut:
    """A row with the number, in one period in which it was listed.

    Times are UTC, and SHA-256s those of responses. What an earlier version of this package did not record is None.

    Attributes:
        created_at: When the opt-out was made; None if the row is malformed.
        origin: “listed”, “rejected row” or “found in text”, as in `suppression_list`.
        first_seen_at: Fetch time of the first response that listed the row.
        first_seen_sha256: SHA-256 of that response.
        last_listed_at: Fetch time of the last response that is known to list the row. An incomplete one need not, nor
            one whose removals were withheld.
        last_listed_sha256: SHA-256 of that response.
        removed_at: Fetch time of the first complete response that no longer listed the row; None while it stands.
        in_force: Whether the row kept the number on the list at the time that was asked for.
    """

    created_at: datetime | None
    origin: str
    first_seen_at: datetime
    first_seen_sha256: str | None
    last_listed_at: datetime | None
    last_listed_sha256: str | None
    removed_at: datetime | None
    in_force: bool


@dataclass(frozen=True)
class AccountLookup:
    """What the list of one account says about the number. Times are UTC.

    Attributes:
        account: Account name.
        may_be_texted: Whether the list did not have the number at the time asked for; None if there was no list.
        known_since: Fetch time of the first response that the data root knows of; None if it knows of none.
        verified_at: Fetch time of the last complete response at the time asked for; None if none is recorded. One that
            equalled the response before it is only recorded while it is the last of all.
        removals_withheld: Whether the last response need not list every row that still stands; False for a past time.
        opt_outs: All rows with the number that were ever listed, in the order in which they were first seen.
    """

    account: str
    may_be_texted: bool | None
    known_since: datetime | None
    verified_at: datetime | None
    removals_withheld: bool
    opt_outs: tuple[OptOut, ...]


@dataclass(frozen=True)
class Lookup:
    """What is known about a number.

    Attributes:
        number: The number, masked.
        on: The time that was asked for, UTC; None for now.
        may_be_texted: Whether none of the lists had the number at that time; None if there was no list.
        accounts: What the list of each account says.
        other_accounts: Accounts that were not asked for and have the number on their list.
    """

    number: str
    on: datetime | None
    may_be_texted: bool | None
    accounts: tuple[AccountLookup, ...]
    other_accounts: tuple[str, ...]


def lookup(
    number: str,
    on: reading.Moment | None = None,
    root: str | Path | None = None,
    account: str | None = None,
    max_age: reading.Age = reading.DEFAULT_MAX_AGE,
) -> Lookup:
    """Find out whether a number may be texted, or what was known about it at a time.

    Args:
        number: The number, in any spelling.
        on: Answer as of this time instead of now (`as_of` of `read_stops`). A date means the end of that day in Paris;
            a time without an offset is UTC.
        root: The data root; by default `STOP_PIPELINE_DATA`, otherwise `data`.
        account: Account name; by default, all accounts that belong to the data root.
        max_age: How long ago each list may have been complete, unless `on` is given: a timedelta, or a text such as
            “24h”, “90m” or “2d”.

    Returns:
        A `Lookup`: whether the number may be texted, and for each account, with the responses that show it, every row
        that ever had the number.

    Raises:
        ValueError: the number cannot be read and no list has it as it is written, or it is several numbers, or `on` is
            not a date or time, or is in the future, or `max_age` is not an age.
        OutdatedListError: a list is missing, cannot be read or, unless `on` is given, is too old to tell.
    """
    spelled = read_phone_number(number)
    if not spelled.readable:
        _refuse_text(number)
    wanted = spelled.number
    now = datetime.now(UTC)
    moment = None if on is None else parse_past_moment(on, now=now)
    store, asked = reading.asked_accounts(root, account)
    for name in asked if moment is None else ():
        reading.check_current(store, name, now=now, max_age=max_age)
    # Of today, whatever is known by now, also if the clock was ahead when it was fetched.
    past = None if moment == now else moment
    accounts = tuple(_look_up(store, name, wanted, past) for name in asked)
    if not spelled.readable and not any(found.opt_outs for found in accounts):
        raise _unreadable(number)
    others = [name for name in store.accounts_seen() if name not in asked]
    known = {found.may_be_texted for found in accounts} - {None}
    return Lookup(
        number=mask(wanted),
        on=moment,
        may_be_texted=False not in known if known else None,
        accounts=accounts,
        other_accounts=tuple(name for name in others if _look_up(store, name, wanted, past).may_be_texted is False),
    )


def read_changes(
    since: reading.Moment,
    until: reading.Moment | None = None,
    root: str | Path | None = None,
    account: str | None = None,
    max_age: reading.Age = reading.DEFAULT_MAX_AGE,
) -> pd.DataFrame:
    """Read which numbers came onto the suppression list, or left it, between two times.

    The list as of `since`, with these changes applied, is the list as of `until`. A number that left and came back in
    between has no change. Before the first sync the list is empty, and a warning says when that was.

    Args:
        since: The earlier time. A date means the end of that day in Paris; a time without an offset is UTC.
        until: The later time; by default, and with today's date, the time up to which all lists are known.
        root: The data root; by default `STOP_PIPELINE_DATA`, otherwise `data`.
        account: Account name; by default all accounts, so that a number is only removed once no account lists it.
        max_age: How long ago each list may have been complete, if no earlier `until` is given; as in `lookup`.

    Returns:
        A DataFrame with one row per number, sorted by number: `phone_number` (str), `change` (str, “added” or
        “removed”), `at` (datetime64[us, UTC], when that was first seen) and `first_stop_at` (datetime64[us, UTC], the
        number's earliest opt-out, of a removed number as of `since`; null if no date is known). Its `attrs["until"]`
        is the later time in ISO 8601: where the next changes begin.

    Raises:
        ValueError: a time is not a date or time, or is in the future, or `since` is after `until`.
        OutdatedListError: a list is missing, too old, not known up to these times, or cannot be read.
    """
    now = datetime.now(UTC)  # before the accounts are listed: the first sync of an account that comes later is later
    begin, end = parse_past_moment(since, now=now), parse_past_moment(now if until is None else until, now=now)
    if begin > end:
        raise InputError(f"{begin:%Y-%m-%d %H:%M:%S} UTC is after {end:%Y-%m-%d %H:%M:%S} UTC: swap the two times.")
    store, accounts = reading.asked_accounts(root, account)
    with reading.unreadable_is_outdated():
        states = {name: store.state(name) for name in accounts}
    for name in accounts:
        reading.check_current(store, name, now=now, max_age=max_age if end == now else timedelta.max)
    known_until = min(now, *(_known_until(store, name, state, now) for name, state in states.items()))
    begin, end = (known_until if time == now else time for time in (begin, end))
    if max(begin, end) > known_until:
        raise OutdatedListError(
            f"Changes up to {max(begin, end):%Y-%m-%d %H:%M:%S} UTC are asked for, and the list is known up to "
            f"{known_until:%Y-%m-%d %H:%M:%S} UTC: sync first, or ask for an earlier time."
        )
    with reading.unreadable_is_outdated():
        reading.warn_before_history(store, accounts, begin)
        read = partial(reading.committed_rows, store)
        committed = [reading.of_one_commit(store, name, read) for name in states]
    periods = [blocked_numbers(*rows).numbers for rows in committed]
    changes = _changes_between(pd.concat(periods, ignore_index=True), begin, end)
    changes.attrs["until"] = end.isoformat()
    return changes


def _refuse_text(number: str) -> None:
    """Refuse a text that is more than a phone number, and one without a digit."""
    if not any(map(str.isdigit, number)):
        raise _unreadable(number)
    if found := find_phone_numbers(number):
        raise InputError(
            f"This text is more than one phone number (found: {', '.join(map(mask, found))}): look up one number at a "
            "time, and give it without other text."
        )


def _unreadable(number: str) -> InputError:
    digits = len(re.sub("[^0-9]", "", compact(number)))
    return InputError(
        f"This cannot be read as a phone number: it has {digits} digits, and no country has such a number. Write all "
        "digits, as +33…, as 0033… or with the leading 0."
    )


@reading.unreadable_is_outdated()
def _look_up(store: Store, account: str, number: str, moment: datetime | None) -> AccountLookup:
    return reading.of_one_commit(store, account, partial(_look_up_in_commit, store, number, moment))


def _look_up_in_commit(store: Store, number: str, moment: datetime | None, account: str, state: State) -> AccountLookup:
    stops, rejected = reading.committed_rows(store, account, state)
    commits = store.read_commits(account, state)
    known_since = reading.history_begins(stops, rejected, commits)
    verified_at = state.verified_at
    if moment is not None and verified_at is not None and verified_at > moment:
        verified_at = _utc(commits["merged_at"][commits["complete"] & (commits["merged_at"] <= moment)].max())
    rows = blocked_numbers(stops, rejected).numbers
    key = match_keys(pd.Series([number], dtype="str"))
    rows = rows[match_keys(rows["phone_number"]).isin(key)].sort_values(["first_seen_at", "created_at"])
    opt_outs = tuple(_opt_out(row, commits, state, moment) for row in rows.to_dict("records"))
    had_list = known_since is not None and (moment is None or known_since <= moment)
    may_be_texted = not any(opt_out.in_force for opt_out in opt_outs) if had_list else None
    withheld = moment is None and state.withheld_because is not None
    return AccountLookup(account, may_be_texted, known_since, verified_at, withheld, opt_outs)


def _opt_out(row: dict[Any, Any], commits: pd.DataFrame, state: State, moment: datetime | None) -> OptOut:
    begin, end, merged = row["first_seen_at"], row["removed_at"], commits["merged_at"]
    sha256 = commits.set_index("merged_at")["sha256"]
    lists_what_is_open = commits["complete"] & ~commits["withheld"]
    last = merged[lists_what_is_open & (merged >= begin) & ~(merged >= end)].max()
    if pd.isna(last) and begin in sha256.index:
        last = begin
    # The last response of all may have been found unchanged since it was merged.
    last_listed_at = state.last_response_at if last == state.applied_at else _utc(last)
    return OptOut(
        created_at=_utc(row["created_at"]),
        origin=ORIGINS[row["origin"]],
        first_seen_at=begin.to_pydatetime(),
        first_seen_sha256=sha256.get(begin),
        last_listed_at=last_listed_at,
        last_listed_sha256=sha256.get(last),
        removed_at=_utc(end),
        in_force=bool(pd.isna(end) if moment is None else begin <= moment and not end <= moment),
    )


def _utc(time: pd.Timestamp) -> datetime | None:
    return None if pd.isna(time) else time.to_pydatetime()


def _known_until(store: Store, account: str, state: State, now: datetime) -> datetime:
    """Up to when the list of an account is known: whatever another sync merges was fetched later."""
    record = account_record(store, account)
    known = state.last_response_at or now - LONGEST_SYNC
    # Not by the order of the two times: the clock may have been ahead when the account was retired.
    if record is not None and record.retired_at is not None and abs(now - record.retired_at) > LONGEST_SYNC:
        return max(known, now - LONGEST_SYNC)  # a sync that puts it back into use may be running
    return known


def _changes_between(periods: pd.DataFrame, since: datetime, until: datetime) -> pd.DataFrame:
    """The changes between two times, as `read_changes` returns them, of the periods that block numbers."""
    events = periods[["first_seen_at", "removed_at"]]
    moved = periods.loc[((events > since) & (events <= until)).any(axis="columns"), "phone_number"]
    periods = periods[periods["phone_number"].isin(moved)]
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
    return rows[list(_CHANGES)].astype(_CHANGES).sort_values("phone_number", ignore_index=True)
