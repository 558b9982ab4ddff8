"""Merges a snapshot into the tables of an account: months that differ are read, merged, and written as one commit."""

import logging

import pandas as pd

from stop_pipeline.schema import LISTED, STOPS
from stop_pipeline.table.merge import MergePlan, apply, compare, merge_rejected, plan_merge
from stop_pipeline.table.periods import ROW, open_rows, split_by_month
from stop_pipeline.table.removals import RemovalPolicy
from stop_pipeline.table.state import SnapshotInfo, State
from stop_pipeline.table.store import Store

log = logging.getLogger(__name__)


def merge_snapshot(
    store: Store, account: str, state: State, info: SnapshotInfo, policy: RemovalPolicy, settings: dict[str, str]
) -> tuple[State, tuple[str, ...]]:
    """Merge a snapshot and commit.

    Args:
        store: The data root, locked.
        account: Account name.
        state: The commit that stands.
        info: The snapshot; it holds all rows of its response, or builds on that commit.
        policy: How many rows may end.
        settings: Settings that bear on the result, for the state.

    Returns:
        The new state, and the months written.

    Raises:
        ForeignListError: the list belongs to another account; nothing was changed.
        StoreError: the data root refuses.
    """
    months = _months_that_differ(state, info)
    stops = store.read_stops(account, state, STOPS.names, [month for month in months if month in state.months])
    listed = store.read_snapshot(account, info, months)
    if info.builds_on is not None:  # the snapshot holds the appended rows alone
        listed = pd.concat([open_rows(stops)[list(LISTED.names)], listed], ignore_index=True)
    diff = compare(stops, listed)
    plan = plan_merge(
        diff,
        unchanged_elsewhere=sum(recorded.open_rows for month, recorded in state.months.items() if month not in months),
        complete=info.complete,
        policy=policy,
        state=state,
        fetched_at=info.fetched_at,
        standing=_standing(store, account, state) if state.withheld_because is not None else None,
    )
    changed = split_by_month(apply(stops, diff, plan, fetched_at=info.fetched_at))
    committed = store.commit(
        account,
        _new_state(store, account, state, info, plan, diff.added["id"], policy, settings),
        changed,
        _merged_rejected(store, account, state, info, plan),
    )
    log.info(
        "Account %s: %s listed, %s new, %s removed, %d months written",
        account,
        f"{plan.counts.listed:,}",
        f"{plan.counts.new:,}",
        f"{plan.counts.removed:,}",
        len(changed),
    )
    return committed, tuple(changed)


def _months_that_differ(state: State, info: SnapshotInfo) -> list[str]:
    """The months whose open rows are not, or may not be, those of the snapshot; the others are not read."""
    if info.builds_on is not None:
        return sorted(info.months)
    standing = {month: recorded.fingerprint for month, recorded in state.months.items() if recorded.open_rows}
    return sorted(month for month in {*info.months, *standing} if info.months.get(month) != standing.get(month))


def _standing(store: Store, account: str, state: State) -> pd.DataFrame:
    """All open rows, as far as a merge compares them."""
    return open_rows(store.read_stops(account, state, [*ROW, "removed_at"]))


def _merged_rejected(
    store: Store, account: str, state: State, info: SnapshotInfo, plan: MergePlan
) -> pd.DataFrame | None:
    """All periods of malformed rows after the merge; None if nothing changes."""
    if info.builds_on is not None:
        return None
    rejected = store.read_rejected(account, state)
    merged = merge_rejected(
        rejected,
        store.read_snapshot_rejected(account, info),
        fetched_at=info.fetched_at,
        sha256=info.sha256,
        removals_withheld=not info.complete or plan.withheld_because is not None,
    )
    return None if merged.equals(rejected) else merged


def _new_state(
    store: Store,
    account: str,
    state: State,
    info: SnapshotInfo,
    plan: MergePlan,
    added_ids: "pd.Series[int]",
    policy: RemovalPolicy,
    settings: dict[str, str],
) -> State:
    """The state after the merge, as far as it does not follow from the files."""
    withheld = plan.withheld_because is not None
    doubled = 0
    if withheld:  # otherwise the open rows are the listed ones, each id once
        open_ids = open_rows(store.read_stops(account, state, ["id", "removed_at"]))["id"]
        doubled = int(pd.concat([open_ids, added_ids]).duplicated().sum())
    merged_entirely = info.complete and not withheld and not info.any_too_late
    return State(
        applied_at=info.fetched_at,
        parent=state.commit,
        sha256=info.sha256,
        complete=info.complete,
        verified_at=info.fetched_at if info.complete else state.verified_at,
        rows=info.rows,
        rejected=info.rejected,
        duplicates=info.duplicates,
        extra_fields=info.extra_fields,
        counts=plan.counts,
        doubled_open_ids=doubled,
        withheld_because=plan.withheld_because,
        withheld_from=plan.withheld_from,
        accepted_removals=policy.accept_removals,
        removals=plan.removals,
        settings=settings,
        reading_rules=info.reading_rules,
        text=info.text if merged_entirely and info.rows else None,
        largest_id=max([state.largest_id, *added_ids]),
        months=state.months,
        rejected_file=state.rejected_file,
        commits=state.commits,
    )
