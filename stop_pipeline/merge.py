"""What is committed + what is listed → what changes.

What belongs here: the set difference between the open rows and the listed ones. What does not: how much an answer may
take away (`guard`), and where rows come from or go to. Everything is pure: tables in, tables out.

A row is (`id`, `phone_number`, `created_at_local`). It is added once, ended at most once, and never altered. So a row
never leaves its month, and months are compared one by one (`compare_month`); only what differs is then looked at
together (`judge`), since an altered row may have changed its month; and brought in month by month (`bring_in`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stop_pipeline.columns import UTC_TIME, as_arrow, as_numpy, constant, in_one, scalar
from stop_pipeline.errors import ForeignListError
from stop_pipeline.guard import Guard
from stop_pipeline.model import Counts
from stop_pipeline.periods import REJECTED_ORDER, equal_rows, set_column
from stop_pipeline.schema import REJECTED, STOPS

FOREIGN_LIST_ROWS = 20
"""With this many open rows, a list that shares no id with them is another account's."""


@dataclass(frozen=True)
class MonthChange:
    """How one month's list differs from its open rows.

    Attributes:
        added: Listed rows that are not open (`schema.LISTED`).
        restored: For each of them, whether the same row had ended.
        unlisted: Which of the month's periods are open and no longer listed so, as positions.
        unlisted_ids: Their ids.
        open_rows: How many periods are open.
        shares_ids: Whether any open row's id is listed in this month.
    """

    added: pa.Table
    restored: NDArray[np.bool_]
    unlisted: NDArray[np.int64]
    unlisted_ids: NDArray[np.int64]
    open_rows: int
    shares_ids: bool


@dataclass(frozen=True)
class Verdict:
    """What one answer does to an account.

    Attributes:
        counts: What happens, over all months.
        withheld_because: Why removals are withheld; None if none are.
        withheld_from: How many rows stood open when withholding began; None if nothing is withheld.
    """

    counts: Counts
    withheld_because: str | None
    withheld_from: int | None

    def alters(self, change: MonthChange) -> bool:
        """Whether a month that differs so is to be written."""
        return bool(change.added.num_rows or (len(change.unlisted) and self.withheld_because is None))


def compare_month(known: pa.Table, listed: pa.Table) -> MonthChange:
    """Hold a month's list against its periods.

    Args:
        known: Every committed period of the month (`schema.STOPS`).
        listed: The listed rows of the month (`schema.LISTED`), each `id` once.
    """
    is_open = as_numpy(pc.is_null(known["removed_at"]))
    positions = np.flatnonzero(is_open)
    if not len(known):
        no_ids = np.empty(0, np.int64)
        return MonthChange(listed, np.zeros(listed.num_rows, bool), positions, no_ids, 0, shares_ids=False)
    open_rows = known.take(as_arrow(positions))
    kept, is_known, shares_ids = equal_rows(open_rows, listed)
    added = listed.filter(as_arrow(~is_known))
    return MonthChange(
        added=added,
        restored=_contains(known.filter(as_arrow(~is_open)), added),
        unlisted=positions[~kept],
        unlisted_ids=as_numpy(open_rows["id"])[~kept],
        open_rows=len(positions),
        shares_ids=shares_ids,
    )


def judge(
    changes: Sequence[MonthChange],
    *,
    unchanged_elsewhere: int,
    whole: bool,
    guard: Guard,
    withheld_from: int | None = None,
) -> Verdict:
    """Decide what an answer may do.

    Args:
        changes: Of every month whose list may differ from its open rows.
        unchanged_elsewhere: How many open rows the other months hold, all of them listed.
        whole: Whether the answer is proven whole.
        guard: What may be taken away.
        withheld_from: How many rows stood open when withholding began; None if nothing was withheld last time. What
            has been added since does not raise what may be taken away, or the next answer would let through what this
            one was denied.

    Raises:
        ForeignListError: the list shares no `id` with 20 or more open rows.
    """
    no_ids = np.empty(0, np.int64)
    added_ids = np.concatenate([no_ids, *(as_numpy(change.added["id"]) for change in changes)])
    unlisted_ids = np.concatenate([no_ids, *(change.unlisted_ids for change in changes)])
    restored = np.concatenate([np.empty(0, bool), *(change.restored for change in changes)])
    open_total = unchanged_elsewhere + sum(change.open_rows for change in changes)
    unchanged = open_total - len(unlisted_ids)
    listed_total = unchanged + len(added_ids)

    altered = np.isin(unlisted_ids, added_ids)
    shares_ids = unchanged_elsewhere or altered.any() or any(change.shares_ids for change in changes)
    if listed_total and open_total >= FOREIGN_LIST_ROWS and not shares_ids:
        raise ForeignListError(
            f"The list of {listed_total:,} rows shares no id with the {open_total:,} rows that stand: it is likely "
            "another account's. Nothing was changed; check which API key belongs to which account."
        )
    changed = np.isin(added_ids, unlisted_ids)
    removals = len(unlisted_ids)
    measured_against = open_total if withheld_from is None else min(open_total, withheld_from)
    objection = guard.objection(removals=removals, measured_against=measured_against, whole=whole)
    return Verdict(
        counts=Counts(
            listed=listed_total,
            new=int((~changed & ~restored).sum()),
            changed=int(changed.sum()),
            restored=int((restored & ~changed).sum()),
            unchanged=unchanged,
            removed=0 if objection else removals - int(altered.sum()),
            withheld=removals if objection else 0,
        ),
        withheld_because=objection,
        withheld_from=measured_against if objection else None,
    )


def bring_in(known: pa.Table, change: MonthChange, verdict: Verdict, *, fetched_at: datetime) -> pa.Table:
    """Every period of a month after the tick (`schema.STOPS`), sorted.

    Args:
        known: Every committed period of the month: what `change` was made from.
        change: How its list differs.
        verdict: What may be done about it.
        fetched_at: Fetch time of the answer, later than any in `known`.
    """
    removed_at = known["removed_at"]
    if verdict.withheld_because is None:
        ends = np.zeros(known.num_rows, dtype=bool)
        ends[change.unlisted] = True
        removed_at = pc.if_else(as_arrow(ends), scalar(fetched_at, UTC_TIME), removed_at)
    added = change.added
    additions = added.append_column("first_seen_at", constant(fetched_at, added.num_rows, UTC_TIME)).append_column(
        "removed_at", pa.nulls(added.num_rows, UTC_TIME)
    )
    if not known.num_rows:
        return additions.cast(STOPS.arrow)
    periods = pa.concat_tables([set_column(known, "removed_at", removed_at), additions.cast(STOPS.arrow)])
    # By `periods.STOPS_ORDER`: no two rows of one id were first seen at one time, so the number never decides.
    order = np.lexsort([as_numpy(periods[name]) for name in ("first_seen_at", "id", "created_at_local")])
    return periods.take(as_arrow(order)).combine_chunks()


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
    is_open = in_one(pc.is_null(known["removed_at"]))
    added = rejected.filter(pc.invert(pc.is_in(rejected["raw"], value_set=in_one(known.filter(is_open)["raw"]))))
    removed_at = in_one(known["removed_at"])
    if not removals_withheld:
        gone = pc.and_(is_open, pc.invert(pc.is_in(known["raw"], value_set=in_one(rejected["raw"]))))
        removed_at = pc.if_else(in_one(gone), scalar(fetched_at, UTC_TIME), removed_at)
    additions = (
        added.append_column("first_seen_at", constant(fetched_at, added.num_rows, UTC_TIME))
        .append_column("removed_at", pa.nulls(added.num_rows, UTC_TIME))
        .append_column("snapshot_sha256", constant(sha256, added.num_rows))
    )
    periods = pa.concat_tables([set_column(known, "removed_at", removed_at), additions.cast(REJECTED.arrow)])
    return _sorted(periods, REJECTED_ORDER)


def _contains(table: pa.Table, rows: pa.Table) -> NDArray[np.bool_]:
    """For each of `rows`, whether `table` holds it."""
    found = np.zeros(rows.num_rows, dtype=bool)
    candidates = table.filter(pc.is_in(table["id"], value_set=in_one(rows["id"])))
    if candidates.num_rows:
        of_same_id = np.flatnonzero(as_numpy(pc.is_in(rows["id"], value_set=in_one(candidates["id"]))))
        held = set(_keys(candidates))
        found[of_same_id] = [key in held for key in _keys(rows.take(as_arrow(of_same_id)))]
    return found


def _keys(rows: pa.Table) -> Iterator[tuple[int, str, datetime]]:
    return zip(*(rows[name].to_pylist() for name in ("id", "phone_number", "created_at_local")), strict=True)


def _sorted(table: pa.Table, order: tuple[str, ...]) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in order])
