"""Rows with `first_seen_at` and `removed_at`: what they say at a time, and month by month. Pure functions."""

import hashlib
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline.errors import counted
from stop_pipeline.phone_numbers import read_phone_numbers
from stop_pipeline.schema import COMMITS
from stop_pipeline.table.state import MonthInfo, State

STOPS_ORDER = ["created_at_local", "id", "first_seen_at"]
"""No two rows of one `id` were first seen at the same time."""

REJECTED_ORDER = ["raw", "first_seen_at"]

ROW = ["id", "phone_number", "created_at_local"]
"""The columns by which rows are compared."""

_NEVER = pd.Timestamp("9999-12-31", tz="UTC")


def as_committed(periods: pd.DataFrame, applied_at: datetime | None) -> pd.DataFrame:
    """Periods as of a commit: rows first seen after it are left out, ends after it are undone.

    Args:
        periods: Rows with `first_seen_at` and `removed_at`.
        applied_at: Fetch time of the last response merged; None if there is no commit, which leaves no row.
    """
    if applied_at is None:
        return periods.iloc[:0]
    if periods["first_seen_at"].max() > applied_at:
        periods = periods[periods["first_seen_at"] <= applied_at]
    if periods["removed_at"].max() > applied_at:
        periods = periods.assign(removed_at=periods["removed_at"].mask(periods["removed_at"] > applied_at))
    return periods


def known_at(periods: pd.DataFrame, moment: datetime) -> pd.DataFrame:
    """The periods that were known, and had not ended, at a time; ends that came later are undone."""
    return open_rows(as_committed(periods, moment))


def open_rows(periods: pd.DataFrame) -> pd.DataFrame:
    """The periods that have not ended."""
    return periods[periods["removed_at"].isna()]


def joined_periods(periods: pd.DataFrame, key: list[str] = ROW) -> pd.DataFrame:
    """Periods in which those of one row that overlap or touch are one.

    Spellings that used to be read as two numbers, so that each was a row of its own, may be read as one number today.

    Args:
        periods: Rows with `first_seen_at` and `removed_at`.
        key: The columns that tell rows apart.

    Returns:
        The first of each of the periods joined, with their last end; in the order of `key` if any were joined.
    """
    if not periods.duplicated(key).any():
        return periods
    ordered = periods.sort_values([*key, "first_seen_at"], ignore_index=True)
    rows = ordered.groupby(key, sort=False).ngroup()
    ends = ordered["removed_at"].fillna(_NEVER)
    begins = ~(ordered["first_seen_at"] <= ends.groupby(rows).cummax().groupby(rows).shift())
    last_end = ends.groupby(begins.cumsum()).max().array
    return ordered[begins].assign(removed_at=pd.Series(last_end, ordered.index[begins]).replace({_NEVER: pd.NaT}))


def with_numbers_reread(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `phone_number`, and `country` where they have it, read by today's rules."""
    numbers = read_phone_numbers(rows["phone_number"])
    rows = rows.assign(phone_number=numbers["phone_number"])
    return rows.assign(country=numbers["country"]) if "country" in rows else rows


def split_by_month(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each month of `created_at_local`.

    Args:
        rows: Rows sorted by `created_at_local`.
    """
    months = rows["created_at_local"].to_numpy().astype("datetime64[M]")
    names, starts, counts = np.unique(months, return_index=True, return_counts=True)
    return {
        str(name): rows.iloc[start : start + count] for name, start, count in zip(names, starts, counts, strict=True)
    }


def fingerprint(rows: pd.DataFrame) -> str:
    """SHA-256 of the (`id`, `phone_number`, `created_at_local`) of rows sorted by `STOPS_ORDER`.

    A month whose open rows have the fingerprint of its listed rows has not changed. The lengths of the texts go in too,
    since joined texts alone could be equal for different rows.
    """
    digest = hashlib.sha256(rows["id"].to_numpy("<i8").tobytes())
    digest.update(rows["created_at_local"].to_numpy("datetime64[us]").astype("<i8").tobytes())
    phone_numbers = _in_one_array(rows["phone_number"])
    digest.update(pc.binary_length(phone_numbers).to_numpy().astype("<i4").tobytes())
    digest.update(_joined(phone_numbers))
    return digest.hexdigest()


def month_info(periods: pd.DataFrame) -> MonthInfo:
    """What a commit records about a file of `stops` or `rejected`."""
    standing = open_rows(periods)
    if "id" in standing:
        return MonthInfo(len(periods), len(standing), fingerprint(standing))
    raw = "\n".join(standing["raw"]).encode()
    return MonthInfo(len(periods), len(standing), hashlib.sha256(raw).hexdigest())


def difference(committed: pd.DataFrame, recorded: MonthInfo | None) -> str | None:
    """How the committed rows of a file differ from what the commit records, as a part of a sentence; None if not.

    Nothing is recorded about a file that the commit does not have.
    """
    found, expected = month_info(committed), recorded or month_info(committed.iloc[:0])
    if found == expected:
        return None
    if found.rows == expected.rows:
        return "holds other rows than the commit records"
    return f"holds {counted(found.rows, 'row')}, but the commit records {expected.rows:,}"


def with_commit(commits: pd.DataFrame, state: State) -> pd.DataFrame:
    """The responses merged so far (`schema.COMMITS`), the one of this commit included."""
    if state.applied_at is None or (len(commits) and commits["merged_at"].iloc[-1] >= state.applied_at):
        return commits
    row = (state.applied_at, state.sha256, state.rows, state.complete, state.withheld_because is not None)
    merged = pd.DataFrame([row], columns=list(COMMITS.names)).astype(COMMITS.dtypes)
    return merged if commits.empty else pd.concat([commits, merged], ignore_index=True)


def _in_one_array(texts: pd.Series) -> pa.Array:
    """A text column in one piece; joined DataFrames keep theirs in several."""
    array = pa.array(texts, pa.string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _joined(texts: pa.Array) -> bytes:
    """All texts in one, without anything between them."""
    one_list = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    joined: bytes = pc.binary_join(one_list, "")[0].as_buffer().to_pybytes()
    return joined
