"""What is committed + what is listed → what changes.

What belongs here: the set difference between the open rows and the listed ones, and the guard that stands between an
answer and a removal. What does not: where rows come from or go to. Everything is pure: tables in, tables out.

A row is (`id`, `phone_number`, `created_at_local`). It is added once, ended at most once, and never altered.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline.errors import ForeignListError
from stop_pipeline.model import MAX_REMOVED_SHARE, Counts
from stop_pipeline.periods import REJECTED_ORDER, STOPS_ORDER, months_of, set_column
from stop_pipeline.schema import REJECTED, STOPS, UTC_TIME

ALWAYS_ALLOWED_REMOVALS = 20
FOREIGN_LIST_ROWS = 20
"""With this many open rows, a list that shares no id with them is another account's."""


@dataclass(frozen=True)
class Guard:
    """What stands between an answer and a removal.

    Attributes:
        max_removed_share: Of the open rows, how many one answer may take away.
        accept_removals: The most removals that a person accepts this once, whatever their share.
    """

    max_removed_share: float = MAX_REMOVED_SHARE
    accept_removals: int | None = None

    def objection(self, *, removals: int, open_rows: int, whole: bool) -> str | None:
        """Why the removals must be withheld, as a sentence; None if they can go in.

        Only an answer proven whole takes rows away, and only so many: `max_removed_share` of the open rows, or
        `ALWAYS_ALLOWED_REMOVALS`, but never more than half (an empty list would take all).
        """
        if removals == 0:
            return None
        if not whole:
            return "the answer is not proven whole"
        if self.accept_removals is not None:
            if removals <= self.accept_removals:
                return None
            return f"{removals:,} removals are more than the {self.accept_removals:,} accepted"
        allowed = min(max(int(self.max_removed_share * open_rows), ALWAYS_ALLOWED_REMOVALS), open_rows // 2)
        if removals <= allowed:
            return None
        return f"{removals:,} of {open_rows:,} rows would go at once, and {allowed:,} may"


@dataclass(frozen=True)
class Merged:
    """What one answer makes of the months compared.

    Attributes:
        periods: All periods of these months after the tick (`schema.STOPS`), sorted.
        changed_months: Those in which a row was added or ended.
        counts: What happened, over the whole account.
        withheld_because: Why removals were withheld; None if none were.
    """

    periods: pa.Table
    changed_months: frozenset[str]
    counts: Counts
    withheld_because: str | None


def merge_stops(
    known: pa.Table,
    listed: pa.Table,
    *,
    unchanged_elsewhere: int,
    fetched_at: datetime,
    whole: bool,
    guard: Guard,
) -> Merged:
    """Bring the list into the table.

    Args:
        known: Every committed period (`schema.STOPS`) of the months compared.
        listed: The listed rows (`schema.LISTED`, each `id` once) of the same months.
        unchanged_elsewhere: How many open rows the other months hold, all of them listed.
        fetched_at: Fetch time of the answer, later than any in `known`.
        whole: Whether the answer is proven whole.
        guard: What may be taken away.

    Raises:
        ForeignListError: the list shares no `id` with 20 or more open rows.
    """
    is_open = pc.is_null(known["removed_at"]).combine_chunks()
    open_rows = known.filter(is_open)
    open_total = open_rows.num_rows + unchanged_elsewhere
    listed_total = listed.num_rows + unchanged_elsewhere

    position = pd.Index(listed["id"].to_numpy()).get_indexer(open_rows["id"].to_numpy())
    listed_id = position >= 0
    if listed_total and open_total >= FOREIGN_LIST_ROWS and not unchanged_elsewhere and not listed_id.any():
        raise ForeignListError(
            f"The list of {listed_total:,} rows shares no id with the {open_total:,} rows that stand: it is likely "
            "another account's. Nothing was changed; check which API key belongs to which account."
        )
    kept = listed_id.copy()
    kept[listed_id] = _same_row(open_rows.filter(pa.array(listed_id)), listed.take(pa.array(position[listed_id])))

    is_added = np.ones(listed.num_rows, dtype=bool)
    is_added[position[kept]] = False
    added = listed.filter(pa.array(is_added))
    open_ids, added_ids = open_rows["id"].to_numpy(), added["id"].to_numpy()
    altered = ~kept & np.isin(open_ids, added_ids)
    changed = np.isin(added_ids, open_ids[altered])
    restored = _contains(known.filter(pc.invert(is_open)), added) & ~changed

    removals = int((~kept).sum())
    objection = guard.objection(removals=removals, open_rows=open_total, whole=whole)
    removed_at = known["removed_at"].combine_chunks()
    ended_months: set[str] = set()
    if removals and objection is None:
        ends = np.zeros(known.num_rows, dtype=bool)
        ends[np.flatnonzero(is_open.to_numpy(zero_copy_only=False))[~kept]] = True
        removed_at = pc.if_else(pa.array(ends), pa.scalar(fetched_at, UTC_TIME), removed_at)
        ended_months = set(months_of(known.filter(pa.array(ends))))
    periods = _with_periods(known, removed_at, added, fetched_at)

    return Merged(
        periods=periods,
        changed_months=frozenset(ended_months | set(months_of(added))),
        counts=Counts(
            listed=listed_total,
            new=int((~changed & ~restored).sum()),
            changed=int(changed.sum()),
            restored=int(restored.sum()),
            unchanged=listed_total - added.num_rows,
            removed=0 if objection else removals - int(altered.sum()),
            withheld=removals if objection else 0,
        ),
        withheld_because=objection,
    )


def merge_rejected(
    known: pa.Table, rejected: pa.Table, *, fetched_at: datetime, sha256: str, removals_withheld: bool
) -> pa.Table:
    """The same set difference for malformed rows, keyed by the raw row, under the verdict on `stops`.

    Args:
        known: Every committed period (`schema.REJECTED`).
        rejected: The malformed rows of the answer (`schema.REJECTED_ROWS`).
        fetched_at: Fetch time of the answer.
        sha256: Of the answer.
        removals_withheld: Whether the verdict keeps rows that are no longer listed open.

    Returns:
        All periods after the tick (`schema.REJECTED`), sorted; equal to `known` if nothing changed.
    """
    is_open = pc.is_null(known["removed_at"]).combine_chunks()
    added = rejected.filter(
        pc.invert(pc.is_in(rejected["raw"], value_set=known.filter(is_open)["raw"].combine_chunks()))
    )
    removed_at = known["removed_at"].combine_chunks()
    if not removals_withheld:
        gone = pc.and_(is_open, pc.invert(pc.is_in(known["raw"], value_set=rejected["raw"].combine_chunks())))
        removed_at = pc.if_else(gone.combine_chunks(), pa.scalar(fetched_at, UTC_TIME), removed_at)
    additions = (
        added.append_column("first_seen_at", _constant(fetched_at, UTC_TIME, added.num_rows))
        .append_column("removed_at", pa.nulls(added.num_rows, UTC_TIME))
        .append_column("snapshot_sha256", _constant(sha256, pa.string(), added.num_rows))
    )
    periods = pa.concat_tables([set_column(known, "removed_at", removed_at), additions.cast(REJECTED.arrow)])
    return _sorted(periods, REJECTED_ORDER)


def _same_row(left: pa.Table, right: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Row by row, whether two aligned tables of equal ids hold the same row."""
    same = pc.and_(
        pc.equal(left["phone_number"], right["phone_number"]),
        pc.equal(left["created_at_local"], right["created_at_local"]),
    )
    return np.asarray(same.to_numpy(), dtype=bool)


def _contains(table: pa.Table, rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """For each of `rows`, whether `table` holds it."""
    key = ["id", "phone_number", "created_at_local"]
    candidates = table.filter(pc.is_in(table["id"], value_set=rows["id"].combine_chunks())).select(key)
    if not candidates.num_rows:
        return np.zeros(rows.num_rows, dtype=bool)
    return pd.MultiIndex.from_frame(rows.select(key).to_pandas()).isin(pd.MultiIndex.from_frame(candidates.to_pandas()))


def _with_periods(known: pa.Table, removed_at: pa.Array, added: pa.Table, fetched_at: datetime) -> pa.Table:
    """The periods of `known` with new ends, and those that begin with `added`, sorted."""
    additions = added.append_column("first_seen_at", _constant(fetched_at, UTC_TIME, added.num_rows)).append_column(
        "removed_at", pa.nulls(added.num_rows, UTC_TIME)
    )
    periods = pa.concat_tables([set_column(known, "removed_at", removed_at), additions.cast(STOPS.arrow)])
    return _sorted(periods, STOPS_ORDER) if known.num_rows else periods


def _constant(value: object, of_type: pa.DataType, length: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, of_type), length)


def _sorted(table: pa.Table, order: tuple[str, ...]) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in order])
