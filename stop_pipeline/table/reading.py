"""What a notebook reads: tables as of the last commit, as pandas DataFrames. A sync that is writing is not seen.

A campaign is checked against `current_list`, which refuses a list that is not recent enough to go by.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import pandas as pd
import pyarrow as pa

from stop_pipeline import schema
from stop_pipeline.errors import InputError, OutdatedListError, StoreError
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.schema import TableSchema, to_pandas
from stop_pipeline.settings import DEFAULT_ACCOUNT, age_as_text, parse_age
from stop_pipeline.table.accounts import account_record, known_accounts, refuse_lost_list
from stop_pipeline.table.derive import SuppressionList, stops_per_day, suppression_list
from stop_pipeline.table.filtering import READ_SCHEMA, Filters, condition_of, scan
from stop_pipeline.table.periods import as_committed, known_at, open_rows, with_numbers_reread
from stop_pipeline.table.state import DerivedInfo, State
from stop_pipeline.table.store import Store
from stop_pipeline.times import parse_moment

Moment: TypeAlias = datetime | date | str  # as `times.parse_moment` reads it
Age: TypeAlias = timedelta | str  # a text as `settings.parse_age` reads it

Result = TypeVar("Result")

DEFAULT_MAX_AGE = timedelta(hours=24)
CLOCK_TOLERANCE = timedelta(minutes=10)


@dataclass(frozen=True)
class CurrentList:
    """The numbers that must not be texted, over some accounts."""

    numbers: pd.DataFrame  # `account` and the columns of `schema.SUPPRESSION_LIST`, read by today's rules
    verified_at: datetime  # when the list was last complete, UTC; of several accounts in use, the earliest time
    unreadable_rows: int  # listed rows that contain no phone number and so block nobody


def read_stops(
    root: str | Path | None = None,
    as_of: Moment | None = None,
    history: bool = False,  # noqa: FBT001, FBT002 – part of the published signature
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
) -> pd.DataFrame:
    """Read the opt-outs, as of the last commit.

    Args:
        root: The data root; by default `STOP_PIPELINE_DATA`, otherwise `data`.
        as_of: Return what was known at this time: the rows that were listed then. A date means the end of that day in
            Paris; a time without an offset is UTC. A time to come means what is known now.
        history: Return every period, ended ones included, rather than only the rows that are listed.
        columns: Columns to return, in this order; by default all.
        filters: Rows to return, as `pandas.read_parquet` takes them. Months that cannot match are not read.

    Returns:
        A DataFrame with the columns `account` and `created_month` (str), `id` (int64), `phone_number` and `country`
        (str), `created_at`, `first_seen_at` and `removed_at` (datetime64[us, UTC]) and `created_at_local`
        (datetime64[us], local time without a zone), sorted by account, `created_at_local` and `id`. One row per account
        and `id` (two while the end of an altered row is withheld); with `history`, one per period. Before the first
        sync it is empty, with the same types.

    Raises:
        StoreError: the data root does not exist or cannot be read.
        ValueError: `as_of` and `history` are both given, `as_of` is not a date or time, a column is unknown, or the
            filters do not fit the columns.
    """
    if history and as_of is not None:
        raise InputError("Give either as_of or history: as_of is one state, history is all of them.")
    wanted = list(READ_SCHEMA.names if columns is None else columns)
    if unknown := [column for column in wanted if column not in READ_SCHEMA.names]:
        raise InputError(f"There is no column {unknown[0]!r} in stops: it has {', '.join(READ_SCHEMA.names)}.")
    moment = None if as_of is None else parse_moment(as_of)
    condition = condition_of(filters)
    # The commit may undo an end, so a condition on it has to wait until that is done.
    waits = condition is not None and "removed_at" in str(condition)
    needed = READ_SCHEMA.names if waits else [*dict.fromkeys([*wanted, "first_seen_at", "removed_at"])]
    store = Store.existing(root)

    def read(account: str, state: State) -> pd.DataFrame:
        periods = to_pandas(scan(store, account, state, needed, None if waits else condition))
        known_until = state.applied_at if moment is None or state.applied_at is None else min(state.applied_at, moment)
        periods = as_committed(periods, known_until)
        if waits:
            arrow = pa.Table.from_pandas(periods, READ_SCHEMA, preserve_index=False)
            periods = to_pandas(arrow.filter(condition).replace_schema_metadata())
        return (periods if history else open_rows(periods))[wanted]

    accounts = store.committed_accounts()
    if moment is not None:
        warn_before_history(store, accounts, moment)
    parts = [of_one_commit(store, account, read) for account in accounts]
    filled = [part for part in parts if len(part)] or [to_pandas(READ_SCHEMA.empty_table())[wanted]]
    return pd.concat(filled, ignore_index=True)


def read_rejected(root: str | Path | None = None, history: bool = False) -> pd.DataFrame:  # noqa: FBT001, FBT002
    """Read the malformed rows, as of the last commit.

    Args:
        root: As in `read_stops`.
        history: Return every period, ended ones included, rather than only the rows that are listed.

    Returns:
        A DataFrame of `account`, `raw`, `reason` and `phone_number` (str), `first_seen_at` and `removed_at`
        (datetime64[us, UTC]) and `snapshot_sha256` (str), sorted by account, `raw` and `first_seen_at`; empty, with the
        same types, if there are none.

    Raises:
        StoreError: as in `read_stops`.
    """
    store = Store.existing(root)

    def read(account: str, state: State) -> pd.DataFrame:
        periods = as_committed(store.read_rejected(account, state), state.applied_at)
        return periods if history else open_rows(periods)

    return _per_account(store, schema.REJECTED, read)


def read_suppression_list(root: str | Path | None = None, as_of: Moment | None = None) -> pd.DataFrame:
    """Read the phone numbers that must not be texted, however old the list is.

    To check a campaign, use `suppress`, which refuses a list that is too old.

    Args:
        root: As in `read_stops`.
        as_of: Return the list as it was known at this time, as in `read_stops`.

    Returns:
        A DataFrame of `account` and `phone_number` (str), `first_stop_at` and `last_stop_at` (datetime64[us, UTC]),
        `stop_count` (int64) and `origin` (str), one row per account and number, sorted by both; empty, with the same
        types, before the first sync.

    Raises:
        StoreError: as in `read_stops`.
        ValueError: `as_of` is not a date or time.
    """
    moment = None if as_of is None else parse_moment(as_of)
    store = Store.existing(root)

    def read(account: str, state: State) -> pd.DataFrame:
        if moment is None:
            return _list_of_commit(store, account, state).numbers
        stops, rejected = (known_at(rows, moment) for rows in committed_rows(store, account, state))
        return suppression_list(stops, rejected).numbers

    if moment is not None:
        warn_before_history(store, store.committed_accounts(), moment)
    return _per_account(store, schema.SUPPRESSION_LIST, read)


def read_stops_per_day(root: str | Path | None = None) -> pd.DataFrame:
    """Read how many opt-outs were made per day and country.

    Args:
        root: As in `read_stops`.

    Returns:
        A DataFrame of `account` (str), `day` (datetime64[us], midnight of the local day, without a zone), `country`
        (str) and `stops` (int64), sorted by account, day and country; empty, with the same types, before the first
        sync.

    Raises:
        StoreError: as in `read_stops`.
    """
    store = Store.existing(root)

    def read(account: str, state: State) -> pd.DataFrame:
        if (made := _made_of(store, account, state, schema.STOPS_PER_DAY)) is not None:
            return made[0]
        columns = ["id", "country", "created_at_local", "first_seen_at", "removed_at"]
        return stops_per_day(as_committed(store.read_stops(account, state, columns), state.applied_at))

    return _per_account(store, schema.STOPS_PER_DAY, read)


@contextmanager
def unreadable_is_outdated() -> Iterator[None]:
    """A list that cannot be read is as bad as one that is too old: neither tells who must not be texted."""
    try:
        yield
    except StoreError as error:
        raise OutdatedListError(str(error)) from None


@unreadable_is_outdated()
def current_list(
    root: str | Path | None, account: str | None, *, max_age: Age, now: datetime | None = None
) -> CurrentList:
    """The suppression list of one account, or of all that belong to the data root.

    Raises:
        OutdatedListError: an account has no list, it is older than `max_age` (unless the account is retired), or it
            cannot be read.
    """
    now = now or datetime.now(UTC)
    store, accounts = asked_accounts(root, account)
    verified_at = [check_current(store, name, now=now, max_age=max_age) for name in accounts]
    read = partial(_list_of_commit, store, reading_rules=READING_RULES)
    lists = [of_one_commit(store, name, read) for name in accounts]
    numbers = [_with_account(made.numbers, name) for name, made in zip(accounts, lists, strict=True)]
    if not any(verified_at):  # all are retired
        verified_at = [store.state(name).verified_at for name in accounts]
    if not (complete := [time for time in verified_at if time]):
        raise OutdatedListError(f"No list below {store.root} was ever complete: run “stop-pipeline run” first.")
    return CurrentList(
        pd.concat(numbers, ignore_index=True), min(complete), sum(made.unreadable_rows for made in lists)
    )


@unreadable_is_outdated()
def asked_accounts(root: str | Path | None, account: str | None) -> tuple[Store, list[str]]:
    """The data root, and the accounts that a question is about: the one that is named, or all that are known.

    Raises:
        OutdatedListError: there is no data root, or it cannot be read, or no account is known.
    """
    store = Store.existing(root)
    accounts = known_accounts(store) if account is None else [account]
    if not accounts:
        raise OutdatedListError(f"There is no list below {store.root} yet: run “stop-pipeline run” first.")
    return store, accounts


@unreadable_is_outdated()
def check_current(store: Store, account: str, *, now: datetime, max_age: Age) -> datetime | None:
    """When an account's list was last complete, UTC; None for a retired account, whose list may be of any age.

    Raises:
        OutdatedListError: there is no list, or that was longer ago than `max_age`, unless the account is retired.
        ValueError: `max_age` is not an age.
    """
    allowed = parse_age(max_age) if isinstance(max_age, str) else max_age
    if not isinstance(allowed, timedelta):  # such as NaT, than which no age is greater
        raise InputError(f"max_age is {allowed!r}: give a timedelta, or a text such as 24h, 90m or 2d.")
    record, state = account_record(store, account), store.state(account)
    if record is not None and record.retired_at is not None:
        refuse_lost_list(store, account, state)
        return None
    verified_at = state.verified_at
    why = "first" if state.complete or state.commit is None else "to see why its last response was not complete"
    the_list, run = f"The list of the account “{account}”", f"run “stop-pipeline run --account {account}” {why}"
    if state.commit is None:
        if account not in (accounts := known_accounts(store) or [DEFAULT_ACCOUNT]):
            raise OutdatedListError(f"“{account}” is not one of the accounts ({', '.join(accounts)}).")
        known = ", ".join(store.committed_accounts()) or "none"
        leave = f"“stop-pipeline retire {account}”" if record else "take its name out of the settings"
        raise OutdatedListError(
            f"There is no list of the account “{account}” below {store.root} (there is: {known}): {run}, or, if the "
            f"account is no longer in use, {leave}."
        )
    if verified_at is None:
        raise OutdatedListError(f"{the_list} was never complete: {run}.")
    last = state.last_response_at
    if last is not None and last > now + CLOCK_TOLERANCE:
        raise OutdatedListError(
            f"{the_list} was synced at {last:%Y-%m-%d %H:%M} UTC, which is in the future, and until then newer "
            "responses are left out: set this machine's clock. If it was ahead at that sync, restore the data root "
            "from a backup made before."
        )
    if now - verified_at > allowed:
        raise OutdatedListError(
            f"{the_list} was last verified at {verified_at:%Y-%m-%d %H:%M} UTC, more than {age_as_text(allowed)} ago: "
            f"{run}, or allow more with --max-age (in Python, max_age). If the account is no longer in use: "
            f"“stop-pipeline retire {account}”."
        )
    return verified_at


def of_one_commit(store: Store, account: str, read: Callable[[str, State], Result]) -> Result:
    """What `read` makes of an account and the commit that stands.

    The state is read first: whatever a sync writes meanwhile is later than this commit, and is left out. But where
    stored rows are brought up to date, rows are replaced and files removed: then everything is read again.
    """
    while True:
        state = store.state(account)
        try:
            result = read(account, state)
        except StoreError:
            if store.state(account) == state:
                raise
            continue
        if _read_by(store.state(account)) == _read_by(state):
            return result


def committed_rows(store: Store, account: str, state: State) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The periods of `stops` and `rejected` as of a commit, as far as `derive.blocked_numbers` needs them.

    Phone numbers are read by today's rules, also if the stored rows were read by earlier ones.
    """
    columns = ["phone_number", "country", "created_at", "first_seen_at", "removed_at"]
    tables = (store.read_stops(account, state, columns), store.read_rejected(account, state))
    stops, rejected = (as_committed(rows, state.applied_at) for rows in tables)
    if state.reading_rules == READING_RULES:
        return stops, rejected
    return with_numbers_reread(stops), with_numbers_reread(rejected)


def history_begins(stops: pd.DataFrame, rejected: pd.DataFrame, commits: pd.DataFrame) -> datetime | None:
    """Fetch time of the first response that an account's tables know of, UTC; None before the first."""
    begin = pd.concat([stops["first_seen_at"], rejected["first_seen_at"], commits["merged_at"]]).min()
    return None if pd.isna(begin) else begin.to_pydatetime()


def warn_before_history(store: Store, accounts: Sequence[str], moment: datetime) -> None:
    """Warn the caller's caller if a time is before the first response of all accounts."""

    def begin_of(account: str, state: State) -> datetime | None:
        commits = store.read_commits(account, state)
        if (commits["merged_at"] <= moment).any():
            return moment  # or before, which need not be known
        stops, rejected = store.read_stops(account, state, ["first_seen_at"]), store.read_rejected(account, state)
        return history_begins(stops, rejected, commits)

    begins: list[datetime] = []
    for account in accounts:
        if (begin := of_one_commit(store, account, begin_of)) is not None:
            if begin <= moment:
                return
            begins.append(begin)
    when = f"The history begins at {min(begins):%Y-%m-%d %H:%M} UTC" if begins else "There has been no sync yet"
    warnings.warn(f"{when}: nothing is known about {moment:%Y-%m-%d %H:%M} UTC.", UserWarning, stacklevel=3)


def _read_by(state: State) -> tuple[object, ...]:
    """What the stored rows of a commit were read by."""
    return state.schema_version, state.reading_rules, state.settings.get("timezone")


def _per_account(store: Store, table: TableSchema, read: Callable[[str, State], pd.DataFrame]) -> pd.DataFrame:
    accounts = store.committed_accounts()
    parts = [_with_account(of_one_commit(store, account, read), account) for account in accounts]
    return pd.concat([part for part in parts if len(part)] or [_with_account(table.empty, "")], ignore_index=True)


def _with_account(rows: pd.DataFrame, account: str) -> pd.DataFrame:
    """The rows with the account as their first column."""
    rows = rows.reset_index(drop=True)
    rows.insert(0, schema.ACCOUNT.name, pd.Series(account, index=rows.index, dtype="str"))
    return rows


def _list_of_commit(store: Store, account: str, state: State, reading_rules: str | None = None) -> SuppressionList:
    """The suppression list of a commit; if a sync has not made it by these rules, made of the committed rows."""
    made = _made_of(store, account, state, schema.SUPPRESSION_LIST)
    if made is not None and reading_rules in (None, made[1].reading_rules):
        return SuppressionList(made[0], made[1].unreadable_rows)
    return suppression_list(*map(open_rows, committed_rows(store, account, state)))


def _made_of(store: Store, account: str, state: State, table: TableSchema) -> tuple[pd.DataFrame, DerivedInfo] | None:
    """A derived table and what its file says of it, if it was made from this commit and can be read; otherwise None."""
    with suppress(StoreError):
        rows, info = store.read_derived(table, account)
        if info.is_of(state):
            return rows, info
    return None
