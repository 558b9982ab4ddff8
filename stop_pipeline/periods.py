"""Tables of periods: what they say as of a commit, and month by month.

What belongs here: pure views of rows that carry `first_seen_at` and `removed_at`, which the merge, the store and the
readers share, and what of two tables is equal. What does not: what changes from one commit to the next (`merge`).
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stop_pipeline.columns import UTC_TIME, as_arrow, as_numpy, in_one, scalar

STOPS_ORDER = ("created_at_local", "id", "first_seen_at", "phone_number")
REJECTED_ORDER = ("raw", "first_seen_at")

_MICROSECONDS_OF_A_DAY = 86_400_000_000
_MONTH_OF_DAY = np.arange("1970-01-01", "2101-01-01", dtype="datetime64[D]").astype("datetime64[M]")
"""By days since 1970: NumPy's own reckoning takes ten times as long for each row."""


def as_committed(periods: pa.Table, applied_at: datetime | None) -> pa.Table:
    """`periods` as of a commit: rows first seen after it are left out, ends after it are undone.

    Args:
        periods: Rows with `first_seen_at` and `removed_at`.
        applied_at: Fetch time of the last answer applied; None if there is no commit, which leaves no row.
    """
    if applied_at is None:
        return periods.slice(0, 0)
    if is_after(pc.max(periods["first_seen_at"]), applied_at).as_py():
        periods = periods.filter(pc.invert(is_after(periods["first_seen_at"], applied_at)))
    if not _any_ended(periods):
        return periods
    later = is_after(periods["removed_at"], applied_at)
    if not pc.any(later).as_py():
        return periods
    return set_column(periods, "removed_at", pc.if_else(later, scalar(None, UTC_TIME), periods["removed_at"]))


def known_at(periods: pa.Table, moment: datetime) -> pa.Table:
    """The periods that were known, and had not ended, at a time."""
    known = pc.invert(is_after(periods["first_seen_at"], moment))
    stands = pc.or_(pc.is_null(periods["removed_at"]), is_after(periods["removed_at"], moment))
    return periods.filter(pc.and_(known, stands))


def is_after(times: pa.ChunkedArray | pa.Scalar, moment: datetime) -> pa.ChunkedArray | pa.Scalar:
    """Which times are after a moment; a null is not."""
    return pc.fill_null(pc.greater(times, scalar(moment, UTC_TIME)), scalar(value=False))


def set_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """`table` with other values in one column, its field unchanged."""
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), values)


def open_rows(periods: pa.Table) -> pa.Table:
    """The periods that have not ended."""
    return periods.filter(pc.is_null(periods["removed_at"])) if _any_ended(periods) else periods


def _any_ended(periods: pa.Table) -> bool:
    """Mostly none has, and the rows need not be copied."""
    return bool(periods["removed_at"].null_count < len(periods))


def month_numbers(rows: pa.Table | pa.RecordBatch) -> NDArray[np.datetime64]:
    """The month of each row's `created_at_local` (datetime64[M]), a time from 1970 on."""
    days = as_numpy(rows["created_at_local"]).view(np.int64) // _MICROSECONDS_OF_A_DAY
    known = not len(days) or days.max() < len(_MONTH_OF_DAY)
    months: NDArray[np.datetime64] = (
        _MONTH_OF_DAY[days] if known else days.astype("datetime64[D]").astype("datetime64[M]")
    )
    return months


def split_by_month(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Each month of rows that are ordered by their months, as (“YYYY-MM”, its rows), without copying them."""
    month, slices = None, list[pa.RecordBatch]()
    for batch in filter(len, rows.to_batches()):
        numbers = month_numbers(batch)
        starts = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1)]
        for start, end in pairwise([*starts, len(numbers)]):
            if slices and numbers[start] != month:
                yield str(month), pa.Table.from_batches(slices, rows.schema)
                slices = []
            month = numbers[start]
            slices.append(batch.slice(start, end - start))
    if slices:
        yield str(month), pa.Table.from_batches(slices, rows.schema)


def months_of(rows: pa.Table) -> list[str]:
    """The months of `created_at_local`, each once, in order."""
    return [str(month) for month in np.unique(month_numbers(rows))]


def equal_rows(left: pa.Table, right: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_], bool]:
    """Which rows (`id`, `phone_number`, `created_at_local`) of either table the other holds as well.

    Args:
        left: Rows.
        right: Rows, each `id` once.

    Returns:
        One mask for each table, and whether any `id` is in both.
    """
    left_ids, right_ids = as_numpy(left["id"]), as_numpy(right["id"])
    by_id = np.argsort(right_ids, kind="stable")
    at = np.searchsorted(right_ids, left_ids, sorter=by_id)
    same_id = at < len(right_ids)
    same_id[same_id] = right_ids[by_id[at[same_id]]] == left_ids[same_id]
    counterparts = by_id[at[same_id]]
    ours, theirs = left.filter(as_arrow(same_id)), right.take(as_arrow(counterparts))
    same = pc.and_(
        pc.equal(ours["phone_number"], theirs["phone_number"]),
        pc.equal(ours["created_at_local"], theirs["created_at_local"]),
    )
    in_right, in_left = same_id.copy(), np.zeros(len(right_ids), dtype=bool)
    in_right[same_id] = as_numpy(same)
    in_left[counterparts[in_right[same_id]]] = True
    return in_right, in_left, bool(same_id.any())


def fingerprint(rows: pa.Table) -> str:
    """SHA-256 of the rows (`id`, `phone_number`, `created_at_local`), which must be sorted by `STOPS_ORDER`.

    Equal for equal rows only, so a month whose open rows have the fingerprint of its listed rows needs no reading.
    """
    digest = hashlib.sha256()
    digest.update(as_numpy(rows["id"]).astype("<i8").tobytes())
    digest.update(as_numpy(rows["created_at_local"]).astype("<i8").tobytes())
    phone_numbers = in_one(rows["phone_number"])
    digest.update(as_numpy(pc.binary_length(phone_numbers)).astype("<i4").tobytes())
    digest.update(_text(phone_numbers))
    return digest.hexdigest()


def _text(strings: pa.StringArray) -> bytes:
    """All the strings' bytes, one after the other."""
    _, offsets, text = strings.buffers()
    if not len(strings) or text is None:
        return b""
    start, end = np.frombuffer(offsets, dtype=np.int32)[[strings.offset, strings.offset + len(strings)]]
    return bytes(text.slice(start, end - start))
