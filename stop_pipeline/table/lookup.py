"""What is known about one phone number: is it on the list, since when, and which responses show that."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from stop_pipeline.errors import OutdatedListError
from stop_pipeline.phone_numbers import mask, match_keys, read_phone_number
from stop_pipeline.table.current_list import DEFAULT_MAX_AGE, check_current, known_accounts
from stop_pipeline.table.derive import ORIGINS, blocked_numbers
from stop_pipeline.table.reading import Moment, committed_rows, existing_store, history_begins
from stop_pipeline.table.state import State
from stop_pipeline.table.store import Store
from stop_pipeline.times import parse_past_moment


@dataclass(frozen=True)
class Evidence:
    """A response that shows something.

    Attributes:
        fetched_at: When it was fetched, UTC.
        sha256: Its SHA-256; None if it was merged by a version of this package that did not record it.
    """

    fetched_at: datetime
    sha256: str | None


@dataclass(frozen=True)
class OptOut:
    """One period in which a row with the number was listed.

    Attributes:
        created_at: When the opt-out was made, UTC; None if the row is malformed.
        first_seen: The first response that listed it.
        last_listed: The last response that listed it; None while the last response is incomplete, or ends are
            withheld, so that an open row need not be in it.
        removed_at: Fetch time of the first complete response that no longer listed it; None while it is listed.
        origin: “listed”, “rejected row” or “found in text”, as in `schema.SUPPRESSION_LIST`.
        known: Whether it was known, and had not ended, at the time that was asked for.
    """

    created_at: datetime | None
    first_seen: Evidence
    last_listed: Evidence | None
    removed_at: datetime | None
    origin: str
    known: bool


@dataclass(frozen=True)
class AccountLookup:
    """What one account's list says about the number.

    Attributes:
        account: Account name.
        may_be_texted: Whether the number was not on the list at the time that was asked for.
        verified_at: When the account's list was last complete, UTC; None if it never was.
        opt_outs: Every period ever listed, by `first_seen`.
    """

    account: str
    may_be_texted: bool
    verified_at: datetime | None
    opt_outs: tuple[OptOut, ...]


@dataclass(frozen=True)
class Lookup:
    """What is known about a number.

    Attributes:
        number: The number, masked.
        on: The time that was asked for, UTC; None for now.
        may_be_texted: Whether no list asked for had it then.
        accounts: What each account's list says.
        other_accounts: Accounts that were not asked for and have the number on their list.
    """

    number: str
    on: datetime | None
    may_be_texted: bool
    accounts: tuple[AccountLookup, ...]
    other_accounts: tuple[str, ...]


def lookup(
    number: str,
    on: Moment | None = None,
    root: str | Path | None = None,
    account: str | None = None,
    max_age: timedelta = DEFAULT_MAX_AGE,
) -> Lookup:
    """Find out whether a number may be texted, or what was known about it at a time.

    Args:
        number: The number, in any spelling.
        on: Tell what was known at this time instead of now. A date means the end of that day in Paris; a time without
            an offset is UTC.
        root: As in `read_stops`.
        account: Account name; by default, all accounts of the data root.
        max_age: How long ago each list may have been complete, if no time is given.

    Raises:
        ValueError: the number cannot be read, or the time is in the future or not a time.
        OutdatedListError: an account has no list, it is too old, or its history begins after the time.
        StoreError: the data root does not exist or cannot be read.
    """
    wanted = read_phone_number(number)
    if not wanted.readable:
        raise ValueError(
            f"“{mask(number)}” cannot be read as one phone number: write it as +33…, 0033… or with its leading 0."
        )
    now = datetime.now(UTC)
    moment = None if on is None else parse_past_moment(on, now=now)
    store = existing_store(root)
    known = known_accounts(store)
    asked = known if account is None else [account]
    for name in asked:
        if moment is None:
            check_current(store, name, now=now, max_age=max_age)
        else:
            _check_history(store, name, moment)
    found = {name: _look_up(store, name, wanted.number, moment) for name in {*known, *asked}}
    accounts = tuple(found[name] for name in asked)
    return Lookup(
        number=mask(wanted.number),
        on=moment,
        may_be_texted=all(answer.may_be_texted for answer in accounts),
        accounts=accounts,
        other_accounts=tuple(name for name in known if name not in asked and not found[name].may_be_texted),
    )


def _look_up(store: Store, account: str, number: str, moment: datetime | None) -> AccountLookup:
    state = store.state(account)
    rows = blocked_numbers(*committed_rows(store, account)).rows
    wanted = match_keys(pd.Series([number], dtype="str"))
    rows = rows[match_keys(rows["phone_number"]).isin(wanted)].sort_values("first_seen_at", kind="stable")
    commits = store.read_commits(account, state)
    opt_outs = tuple(_opt_out(row, state, commits, moment) for row in rows.to_dict("records"))
    return AccountLookup(account, not any(row.known for row in opt_outs), state.verified_at, opt_outs)


def _opt_out(row: dict[Any, Any], state: State, commits: pd.DataFrame, moment: datetime | None) -> OptOut:
    first_seen_at, removed_at = row["first_seen_at"], row["removed_at"]
    ended = not pd.isna(removed_at)
    at = moment or datetime.now(UTC)
    last_listed: Evidence | None = None
    if ended:
        before_end = commits[commits["merged_at"] < removed_at]["merged_at"].max()
        last_listed = _evidence(first_seen_at if pd.isna(before_end) else max(before_end, first_seen_at), commits)
    elif state.complete and state.withheld_because is None:
        last_listed = Evidence(max(filter(None, (state.applied_at, state.verified_at))), state.sha256)
    return OptOut(
        created_at=None if pd.isna(row["created_at"]) else _utc(row["created_at"]),
        first_seen=_evidence(first_seen_at, commits),
        last_listed=last_listed,
        removed_at=_utc(removed_at) if ended else None,
        origin=ORIGINS[int(row["origin"])],
        known=first_seen_at <= at and not (ended and removed_at <= at),
    )


def _evidence(at: pd.Timestamp, commits: pd.DataFrame) -> Evidence:
    sha256 = commits.loc[commits["merged_at"] == at, "sha256"]
    return Evidence(_utc(at), None if sha256.empty else str(sha256.iloc[0]))


def _check_history(store: Store, account: str, moment: datetime) -> None:
    begins = history_begins(store, account)
    if begins is None or moment < begins:
        when = "has never been synced" if begins is None else f"has a history from {begins:%Y-%m-%d %H:%M} UTC on"
        raise OutdatedListError(
            f"There is no data about {moment:%Y-%m-%d %H:%M} UTC: the account “{account}” below {store.root} {when}."
        )


def _utc(time: pd.Timestamp) -> datetime:
    return time.to_pydatetime().astimezone(UTC)
