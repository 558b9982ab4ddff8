"""Merges a snapshot into the tables of an account: months that differ are read, merged, and written as one commit."""

import dataclasses
import logging
from collections.abc import Sequence

import pandas as pd

from stop_pipeline.errors import counted
from stop_pipeline.schema import LISTED, STOP_SNAPSHOT, STOPS
from stop_pipeline.table.derive import blocked_numbers
from stop_pipeline.table.merge import Diff, MergePlan, RemovalPolicy, apply, compare, merge_rejected, plan_merge
from stop_pipeline.table.periods import ROW, open_rows, split_by_month
from stop_pipeline.table.state import SnapshotInfo, State
from stop_pipeline.table.store import Store

log = logging.getLogger(__name__)


def merge_snapshot(
    store: Store, account: str, state: State, info: SnapshotInfo, policy: RemovalPolicy, settings: dict[str, str]
) -> tuple[State, tuple[str, ...]]:
    """Merge a snapshot into the commit that stands, and commit; gives the new state and the months written.

    The snapshot holds all rows of its response, or builds on that commit. `settings` bear on the result.

    Raises:
        ForeignListError: the list belongs to another account; nothing was changed.
    """
    months = _months_that_differ(state, info)
    stops = store.read_stops(account, state, STOPS.names, months)
    listed = store.read_snapshot(account, info, months)
    if info.builds_on is not None:  # the snapshot holds the appended rows alone
        listed = pd.concat([open_rows(stops)[list(LISTED.names)], listed], ignore_index=True)
    standing = None
    if state.withheld_because is not None:
        standing = open_rows(store.read_stops(account, state, [*ROW, "country", "removed_at"]))
    rejected = store.read_rejected(account, state)
    malformed = store.read_snapshot_rejected(account, info) if info.builds_on is None else open_rows(rejected)
    other_months = [month for month in state.months if month not in months]
    diff = compare(stops, listed)
    plan = plan_merge(
        diff,
        unchanged_elsewhere=sum(state.months[month].open_rows for month in other_months),
        complete=info.complete,
        policy=policy,
        state=state,
        fetched_at=info.fetched_at,
        standing=standing,
        malformed=malformed,
        malformed_vanished=_malformed_vanished(store, account, state, rejected, malformed, listed, other_months),
    )
    changed = split_by_month(apply(stops, diff, plan, fetched_at=info.fetched_at))
    new_state = dataclasses.replace(
        _state_after(state, info, plan),
        doubled_open_ids=_doubled_open_ids(store, account, state, diff, plan),
        accepted_removals=policy.accept_removals,
        settings=settings,
        largest_id=int(diff.added["id"].to_numpy().max(initial=state.largest_id)),
    )
    merged = merge_rejected(
        rejected,
        malformed,
        fetched_at=info.fetched_at,
        sha256=info.sha256,
        removals_withheld=not info.complete or plan.withheld_because is not None,
    )
    committed = store.commit(account, new_state, changed, None if merged.equals(rejected) else merged)
    log.info(
        "Account %s: %s listed, %s new, %s removed, %s written",
        account,
        f"{plan.counts.listed:,}",
        f"{plan.counts.new:,}",
        f"{plan.counts.removed:,}",
        counted(len(changed), "month"),
    )
    return committed, tuple(changed)


def _months_that_differ(state: State, info: SnapshotInfo) -> list[str]:
    """The months whose open rows are not, or may not be, those of the snapshot; the others are not read."""
    if info.builds_on is not None:
        return sorted(info.months)
    standing = {month: recorded.fingerprint for month, recorded in state.months.items() if recorded.open_rows}
    return sorted(month for month in {*info.months, *standing} if info.months.get(month) != standing.get(month))


def _malformed_vanished(
    store: Store,
    account: str,
    state: State,
    rejected: pd.DataFrame,
    malformed: pd.DataFrame,
    listed: pd.DataFrame,
    other_months: Sequence[str],
) -> pd.DataFrame:
    """The malformed rows that are no longer listed and block a number that no listed row, of any month, blocks.

    The removal policy counts them: their numbers would leave the suppression list as well.
    """
    standing = open_rows(rejected)
    ended = standing[~standing["raw"].isin(malformed["raw"])]
    if ended.empty:
        return ended
    columns = ["phone_number", "country"]
    elsewhere = open_rows(store.read_stops(account, state, [*columns, "removed_at"], other_months))
    still_blocked = blocked_numbers(pd.concat([elsewhere[columns], listed[columns]]), malformed).numbers
    blocked = blocked_numbers(STOP_SNAPSHOT.empty[[*columns, "raw"]], ended).numbers
    leaving = blocked.loc[~blocked["phone_number"].isin(still_blocked["phone_number"]), "raw"]
    return ended[ended["raw"].isin(leaving)]


def _doubled_open_ids(store: Store, account: str, state: State, diff: Diff, plan: MergePlan) -> int:
    """Open rows beyond the first of their id, after the merge; without withheld ends, each listed id is open once."""
    if plan.withheld_because is None:
        return 0
    open_ids = open_rows(store.read_stops(account, state, ["id", "removed_at"]))["id"]
    return int(pd.concat([open_ids, diff.added["id"]]).duplicated().sum())


def _state_after(state: State, info: SnapshotInfo, plan: MergePlan) -> State:
    """The state after the merge, as far as it follows neither from the rows nor from what a person set."""
    merged_entirely = info.complete and plan.withheld_because is None and not info.any_too_late
    return dataclasses.replace(
        state,
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
        withheld_because=plan.withheld_because,
        withheld_from=plan.withheld_from,
        removals=plan.removals,
        reading_rules=info.reading_rules,
        text=info.text if merged_entirely and info.rows else None,
    )
