"""One answer held against the one before it, of which all is known: only the pieces that differ are parsed.

What belongs here: what the rows of those pieces make of the snapshot before, and when that is not enough to go by. What
does not: which pieces there are (`pieces`), how rows are read (`snapshot`), and where the snapshot lies (`store`).

Where each piece gives some rows, whatever the others are (`Snapshot.pieces_read_by`), those that two answers share give
the same rows in both. Without them, what is left of each is a shorter list; and the two lists differ as the answers do.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline.model import Snapshot, SnapshotChange, SnapshotInfo
from stop_pipeline.periods import equal_rows, split_by_month
from stop_pipeline.schema import LISTED
from stop_pipeline.snapshot import shown_fields


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


def shared_pieces(before: Sequence[bytes], now: Sequence[bytes]) -> frozenset[bytes]:
    """The names of the pieces that two answers share and that need not be parsed, from the names of all, in order.

    The first and the last piece of either do not count: what stands around the list is in them. Where a piece comes
    twice, so do its rows, and none is shared.
    """
    if len(set(before)) < len(before) or len(set(now)) < len(now):
        return frozenset()
    return frozenset(before[1:-1]) & frozenset(now[1:-1])


def difference(before: Before, left: Snapshot, now: Snapshot, info: SnapshotInfo) -> SnapshotChange | None:
    """What becomes of the snapshot before; None if the whole answer must be parsed to tell.

    Args:
        before: The snapshot of the answer before.
        left: The pieces of that answer which the new one lacks, parsed as of then.
        now: The pieces of the new answer which that one lacks.
        info: Of the new answer: when it was fetched, and what its bytes are.
    """
    reader = before.info.pieces_read_by
    if reader is None or {left.pieces_read_by, now.pieces_read_by} != {reader}:
        return None
    still, known, _ = equal_rows(left.listed, now.listed)
    gone, added = left.listed.filter(~still), now.listed.filter(~known)
    new_ids = added["id"].filter(pc.invert(pc.is_in(added["id"], value_set=left.listed["id"])))
    if before.lists_any(new_ids.combine_chunks()):
        return None  # two rows of the answer bear the same id
    # Fields that are not documented may stand in pieces that both have, but need not.
    if left.extra_fields and not set(now.extra_fields) >= set(before.info.extra_fields):
        return None

    kept = before.rejected.filter(pc.invert(pc.is_in(before.rejected["raw"], value_set=left.rejected["raw"])))
    again = pc.is_in(now.rejected["raw"], value_set=kept["raw"])
    rejected = pa.concat_tables([kept, now.rejected.filter(pc.invert(again))]).sort_by("raw")
    gone_by_month, added_by_month = dict(split_by_month(gone)), dict(split_by_month(added))
    months = {
        month: _month(before.listed(month), gone_by_month.get(month), added_by_month.get(month))
        for month in sorted(gone_by_month.keys() | added_by_month.keys())
    }
    listed = before.info.listed - gone.num_rows + added.num_rows
    rows = before.info.rows - left.rows + now.rows
    duplicates = rows - listed - rejected.num_rows
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
        pieces_read_by=reader if duplicates == 0 else None,
    )
    return SnapshotChange(before.info, info, months, rejected)


def _month(rows: pa.Table, gone: pa.Table | None, added: pa.Table | None) -> pa.Table:
    """A month's good rows (`schema.LISTED`), sorted, of which some are gone and to which some are added."""
    if gone is not None:
        rows = rows.filter(pc.invert(pc.is_in(rows["id"], value_set=gone["id"])))
    if added is None:
        return rows
    rows = pa.concat_tables([rows, added.cast(LISTED.arrow)])
    return rows.sort_by([("created_at_local", "ascending"), ("id", "ascending")])
