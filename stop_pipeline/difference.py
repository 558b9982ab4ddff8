"""One answer held against the one before it, of which all is known: only the pieces that differ are parsed.

What belongs here: what the rows of those pieces make of the snapshot before, and when that is not enough to go by. What
does not: which pieces there are (`pieces`), how rows are read (`snapshot`), and where the snapshot lies (`layout`).

Where each piece gives some rows, whatever the others are (`Snapshot.pieces_read_by`), those that two answers share give
the same rows in both. Without them, what is left of each is a shorter list; and the two lists differ as the answers do.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline.columns import as_arrow, in_one
from stop_pipeline.model import Snapshot, SnapshotChange, SnapshotInfo
from stop_pipeline.periods import equal_rows, split_by_month
from stop_pipeline.schema import LISTED
from stop_pipeline.snapshot import in_order, shown_fields


@dataclass(frozen=True)
class Before:
    """The snapshot of the answer before.

    Attributes:
        info: What is known of it.
        rejected: Its malformed rows (`schema.REJECTED_ROWS`).
        listed: Gives its good rows of a month (`schema.LISTED`), sorted.
        lists_any: Tells whether any of some ids is among its good rows.
    """

    info: SnapshotInfo
    rejected: pa.Table
    listed: Callable[[str], pa.Table]
    lists_any: Callable[[pa.Array], bool]


class CannotTellError(Exception):
    """The pieces that differ do not tell what the answer changes: all of it must be parsed."""


def shared_pieces(before: Sequence[bytes], now: Sequence[bytes]) -> frozenset[bytes]:
    """The names of the pieces that two answers share and that need not be parsed.

    Where a piece comes twice, so do its rows, and none is shared.

    Args:
        before: The names of the pieces that lie wholly within the list of the answer before.
        now: The names of all pieces of the new answer, in order; what stands around the list is in the first and the
            last.
    """
    if len(set(before)) < len(before) or len(set(now)) < len(now):
        return frozenset()
    return frozenset(before) & frozenset(now[1:-1])


def difference(before: Before, left: Snapshot, now: Snapshot, info: SnapshotInfo) -> SnapshotChange:
    """What becomes of the snapshot before.

    Args:
        before: The snapshot of the answer before.
        left: The pieces of that answer which the new one lacks, parsed as of then.
        now: The pieces of the new answer which that one lacks.
        info: Of the new answer: when it was fetched, and what its bytes are.

    Raises:
        CannotTellError: the whole answer must be parsed to tell.
    """
    reader = before.info.pieces_read_by
    if reader is None or {left.pieces_read_by, now.pieces_read_by} != {reader}:
        raise CannotTellError("a row bears on another, or is dated too late")
    if left.list_at is None or now.list_at is None:
        raise CannotTellError("a piece is no list by itself")
    still, known, _ = equal_rows(left.listed, now.listed)
    gone, added = left.listed.filter(as_arrow(~still)), now.listed.filter(as_arrow(~known))
    new_ids = added["id"].filter(pc.invert(pc.is_in(added["id"], value_set=left.listed["id"])))
    if before.lists_any(in_one(new_ids)):
        raise CannotTellError("two rows of the answer bear the same id")
    if left.extra_fields and not set(now.extra_fields) >= set(before.info.extra_fields):
        raise CannotTellError("fields that are not documented may stand in pieces that both have, but need not")

    kept = before.rejected.filter(pc.invert(pc.is_in(before.rejected["raw"], value_set=left.rejected["raw"])))
    if pc.any(pc.is_in(now.rejected["raw"], value_set=kept["raw"])).as_py():
        raise CannotTellError("two malformed rows are the same")
    rejected = pa.concat_tables([kept, now.rejected]).sort_by("raw")
    gone_by_month, added_by_month = dict(split_by_month(gone)), dict(split_by_month(added))
    months = {
        month: _month(before.listed(month), gone_by_month.get(month), added_by_month.get(month))
        for month in sorted(gone_by_month.keys() | added_by_month.keys())
    }
    listed = before.info.listed - gone.num_rows + added.num_rows
    rows = before.info.rows - left.rows + now.rows
    duplicates = before.info.duplicates - left.duplicates + now.duplicates
    if rows != listed + rejected.num_rows + duplicates:
        raise CannotTellError("the rows do not add up")
    info = dataclasses.replace(
        info,
        listed=listed,
        rejected=rejected.num_rows,
        months={month: name for month, name in before.info.months.items() if month not in months},
        rows=rows,
        duplicates=duplicates,
        code=now.code,
        nb_data=now.nb_data,
        extra_fields=shown_fields({*before.info.extra_fields, *now.extra_fields}),
        pieces_read_by=reader,
        list_at=now.list_at,
    )
    return SnapshotChange(before.info, info, months, rejected)


def _month(rows: pa.Table, gone: pa.Table | None, added: pa.Table | None) -> pa.Table:
    """A month's good rows (`schema.LISTED`), sorted, of which some go and to which some come."""
    if gone is not None:
        going, _, _ = equal_rows(rows, gone)
        if going.sum() != len(gone):
            raise CannotTellError("a row that goes was not there")
        rows = rows.filter(as_arrow(~going))
    if added is None:
        return rows
    return in_order(pa.concat_tables([rows, added.cast(LISTED.arrow)]))
