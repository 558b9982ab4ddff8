"""What a notebook reads: tables as of the last commit, as pandas DataFrames.

What belongs here: `read_stops` and its siblings. What does not: anything that writes, and Dagster, which is never
imported from here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stop_pipeline.periods import as_committed, known_at, open_rows
from stop_pipeline.schema import ACCOUNT, CREATED_MONTH, REJECTED, STOPS, STOPS_PER_DAY, SUPPRESSION_LIST, TableSchema
from stop_pipeline.settings import DEFAULT_DATA_ROOT
from stop_pipeline.store import Store

Filters: TypeAlias = "pc.Expression | Sequence[tuple[str, str, Any]] | Sequence[Sequence[tuple[str, str, Any]]]"
"""As `pandas.read_parquet` takes them: tuples (column, operator, value), all to hold; or lists of such, one to hold."""

_CATEGORY = pa.dictionary(pa.int32(), pa.string())
"""Of hive keys, which repeat from row to row."""
_READ_COLUMNS = (ACCOUNT.name, CREATED_MONTH.name, *STOPS.names)


def read_stops(
    root: str | Path | None = None,
    as_of: datetime | str | None = None,
    history: bool = False,  # noqa: FBT001, FBT002 – part of the published signature
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
) -> pd.DataFrame:
    """The opt-outs, as of the last commit: a tick that is writing, or was killed, is not seen.

    Args:
        root: The data root; by default `STOP_PIPELINE_DATA`, else `data`.
        as_of: Give what was known at this time instead of now: the rows that were listed then. Without a time zone it
            is read as UTC.
        history: Give every period, ended ones too, instead of what is listed.
        columns: Which columns to give, in this order; by default all.
        filters: Which rows to give, as `pandas.read_parquet` takes them. Months that cannot match are not read.

    Returns:
        A DataFrame of the columns `account` and `created_month` (category), `id` (int64), `phone_number` and `country`
        (str), `created_at`, `first_seen_at` and `removed_at` (datetime64[us, UTC]) and `created_at_local`
        (datetime64[us], the provider's wall clock), sorted by account, `created_at_local` and `id`. One row per
        account and `id` (two while the end of an altered row is withheld), with `history` one per period. Before the
        first tick it is empty, with the same types.

    Raises:
        StoreError: the data root does not exist or cannot be read.
        ValueError: `as_of` and `history` are both given, a column is unknown, or the filters do not fit the columns.
    """
    if history and as_of is not None:
        raise ValueError("Give either as_of or history: as_of is one state, history is all of them.")
    wanted = list(_READ_COLUMNS if columns is None else columns)
    if unknown := [column for column in wanted if column not in _READ_COLUMNS]:
        raise ValueError(f"No column {unknown[0]!r} in stops: it has {', '.join(_READ_COLUMNS)}.")
    moment = None if as_of is None else _utc(as_of)
    store = existing_store(root)
    empty = pa.schema([ACCOUNT.field, CREATED_MONTH.field, *STOPS.arrow]).empty_table()
    condition = None if filters is None else pq.filters_to_expression(filters)
    if condition is not None:
        try:  # on no rows: a filter that fits no column is the caller's mistake, and no file's
            empty.filter(condition)
        except pa.ArrowException as error:
            raise ValueError(f"The filters do not fit the columns of stops: {error}") from error
    tables = [
        _read_account(store, account, wanted, moment, history=history, condition=condition)
        for account in store.accounts()
    ]
    nothing = pa.schema([(ACCOUNT.name, _CATEGORY), (CREATED_MONTH.name, _CATEGORY), *STOPS.arrow]).empty_table()
    return _to_pandas(pa.concat_tables(tables or [nothing.select(wanted)]))


def read_rejected(root: str | Path | None = None, history: bool = False) -> pd.DataFrame:  # noqa: FBT001, FBT002
    """The malformed rows, as of the last commit.

    Args:
        root: As in `read_stops`.
        history: Give every period, ended ones too, instead of what is listed.

    Returns:
        A DataFrame of `account` (category), `raw`, `reason` and `phone_number` (str), `first_seen_at` and `removed_at`
        (datetime64[us, UTC]) and `snapshot_sha256` (str); empty, with the same types, if there are none.

    Raises:
        StoreError: as in `read_stops`.
    """
    store = existing_store(root)

    def committed(account: str) -> pa.Table:
        applied_at = store.state(account).applied_at
        periods = as_committed(store.tables.read_rejected(account), applied_at)
        return periods if history else open_rows(periods)

    return _per_account(store, REJECTED, committed)


def read_suppression_list(root: str | Path | None = None) -> pd.DataFrame:
    """Whom not to text now: `account` and the columns of `schema.SUPPRESSION_LIST`, one row per account and number.

    Args:
        root: As in `read_stops`.

    Returns:
        A DataFrame of `account` (category), `phone_number` (str), `first_stop_at` and `last_stop_at` (datetime64[us,
        UTC]), `stop_count` (int64) and `origin` (str), sorted by account and number; empty, with the same types, before
        the first tick.

    Raises:
        StoreError: as in `read_stops`.
    """
    store = existing_store(root)
    return _per_account(store, SUPPRESSION_LIST, lambda account: store.tables.read_derived(SUPPRESSION_LIST, account))


def read_stops_per_day(root: str | Path | None = None) -> pd.DataFrame:
    """Opt-outs per day: `account` and the columns of `schema.STOPS_PER_DAY`.

    Args:
        root: As in `read_stops`.

    Returns:
        A DataFrame of `account` (category), `day` (datetime64[ms], midnight of the local day, without a zone),
        `country` (str) and `stops` (int64), sorted by account, day and country; empty, with the same types, before the
        first tick.

    Raises:
        StoreError: as in `read_stops`.
    """
    store = existing_store(root)
    return _per_account(store, STOPS_PER_DAY, lambda account: store.tables.read_derived(STOPS_PER_DAY, account))


def existing_store(root: str | Path | None) -> Store:
    """The store at `root`; by default at `STOP_PIPELINE_DATA`, else at `data`."""
    return Store.existing(root or os.environ.get("STOP_PIPELINE_DATA") or DEFAULT_DATA_ROOT)


def _read_account(
    store: Store,
    account: str,
    columns: list[str],
    moment: datetime | None,
    *,
    history: bool,
    condition: pc.Expression | None,
) -> pa.Table:
    # The state is read first: whatever a tick writes meanwhile is later than this commit, and is left out.
    applied_at = store.state(account).applied_at
    # An end may be undone by the view, so a condition on it must wait for the view.
    waits = condition is not None and "removed_at" in str(condition)
    # The keys of a row follow from its account and its time, so that each row's text of them need not be made.
    needed = {"created_at_local" if column == CREATED_MONTH.name else column for column in columns} - {ACCOUNT.name}
    needed = set(_READ_COLUMNS) if waits else needed | {"first_seen_at", "removed_at"}
    periods = as_committed(
        store.tables.scan_stops(
            account,
            columns=[column for column in _READ_COLUMNS if column in needed],
            condition=None if waits else condition,
        ),
        applied_at,
    )
    if waits:
        periods = periods.filter(condition).drop_columns([ACCOUNT.name, CREATED_MONTH.name])
    if moment is not None:
        periods = known_at(periods, moment)
    elif not history:
        periods = open_rows(periods)
    if ACCOUNT.name in columns:
        periods = periods.append_column(ACCOUNT.name, _accounts(account, len(periods)))
    if CREATED_MONTH.name in columns:
        periods = periods.append_column(CREATED_MONTH.name, _months(periods))
    return periods.select(columns)


def _accounts(account: str, rows: int) -> pa.DictionaryArray:
    """`account` of that many rows."""
    return _category([account], np.zeros(rows, np.int32))


def _months(periods: pa.Table) -> pa.DictionaryArray:
    """`created_month` of rows that are ordered by `created_at_local`."""
    times = periods["created_at_local"].to_numpy()
    if not len(times):
        return _category([], np.empty(0, np.int32))
    months = np.arange(times[0].astype("datetime64[M]"), times[-1].astype("datetime64[M]") + 1)
    begins = np.searchsorted(times, months.astype(times.dtype))
    rows = np.diff(begins, append=len(times))
    present = np.flatnonzero(rows)
    codes = np.repeat(np.arange(len(present), dtype=np.int32), rows[present])
    return _category([str(month) for month in months[present]], codes)


def _category(texts: list[str], codes: NDArray[np.int32]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(texts, pa.string()))


def _per_account(store: Store, schema: TableSchema, read: Callable[[str], pa.Table]) -> pd.DataFrame:
    """One table of all accounts, with the account as its first column."""
    tables = [pa.schema([(ACCOUNT.name, _CATEGORY), *schema.arrow]).empty_table()]
    for account in store.accounts():
        table = read(account)
        tables.append(table.add_column(0, ACCOUNT.name, _accounts(account, table.num_rows)))
    return _to_pandas(pa.concat_tables(tables))


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """The table as pandas, a day as a time that pandas can reckon with."""
    frame: pd.DataFrame = table.to_pandas(date_as_object=False)
    return frame


def _utc(moment: datetime | str) -> datetime:
    time = pd.Timestamp(moment)
    return (time.tz_localize(UTC) if time.tzinfo is None else time.tz_convert(UTC)).to_pydatetime()
