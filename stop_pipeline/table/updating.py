"""What changes the tables of an account: stored rows are brought up to date, then a snapshot is merged.

Each is one commit: what a new reading rule makes of stored numbers is no change made by the provider.
"""

import dataclasses
import logging
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import pandas as pd

from stop_pipeline.errors import StoreError, counted
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.schema import LISTED, STOP_SNAPSHOT, STOPS
from stop_pipeline.table import periods
from stop_pipeline.table.derive import blocked_numbers
from stop_pipeline.table.merge import Diff, MergePlan, RemovalPolicy, apply, compare, merge_rejected, plan_merge
from stop_pipeline.table.state import SnapshotInfo, State
from stop_pipeline.table.store import Store, recorded_files
from stop_pipeline.times import local_to_utc

log = logging.getLogger(__name__)

_NOT_RECORDED = ("is not part of the commit", "move it elsewhere.")
_HOW_TO_RESTORE = (
    "restore the file as it was at the last commit. If your backup is older, remove the account's files of stops and "
    "rejected, restore all its files from the backup, its state last, and sync: what came since is read again. Without "
    "a backup, “stop-pipeline rebuild --into DIR” makes a new data root of the kept responses. “stop-pipeline verify” "
    "names every file that does not fit."
)


def bring_up_to_date(store: Store, account: str, state: State, *, timezone: str) -> State:
    """Make the stored rows those of the commit, read by the rules and in the zone of today.

    Returns the state that stands now: `state` itself if nothing had to change.

    Raises:
        StoreError: a file holds other rows than the commit records. Nothing was changed.
    """
    on_disk = dataclasses.replace(
        state, months=store.recorded_months(account), rejected_file=store.recorded_rejected(account)
    )
    if state.schema_version != 1:  # that recorded nothing about its files
        _refuse_other_rows(store, account, state, on_disk)
    if state.schema_version == 1 or state.commit is None:
        for folder in store.files.matching(f"snapshot/account={account}/created_month=*"):
            store.files.remove(f"{folder}/stop_snapshot.parquet")  # version 1 had one for each month
    outdated = state.schema_version == 1 or (
        state.commit is not None and (state.reading_rules != READING_RULES or state.settings["timezone"] != timezone)
    )
    if not outdated and on_disk == state:
        return state

    months, largest_id, open_ids = {}, state.largest_id, [STOPS.empty["id"]]
    for month in on_disk.months:
        stored = store.read_stops(account, on_disk, STOPS.names, [month])
        rows = periods.as_committed(stored, state.applied_at)
        if outdated:
            rows = periods.with_numbers_reread(rows)
            rows = rows.assign(created_at=local_to_utc(rows["created_at_local"], ZoneInfo(timezone)))
            rows = periods.joined_periods(rows).sort_values(periods.STOPS_ORDER, ignore_index=True)
        if not rows.equals(stored):
            months[month] = rows
        largest_id = int(stored["id"].to_numpy().max(initial=largest_id))
        open_ids.append(periods.open_rows(rows)["id"])
    stored_rejected = store.read_rejected(account, on_disk)
    rejected = periods.as_committed(stored_rejected, state.applied_at)
    if outdated:
        rejected = periods.with_numbers_reread(rejected).sort_values(periods.REJECTED_ORDER, ignore_index=True)
    log.info("Account %s: stored rows are read again; %s changed", account, counted(len(months), "month"))
    return store.commit(
        account,
        dataclasses.replace(
            on_disk,
            settings={**state.settings, "timezone": timezone} if outdated else state.settings,
            reading_rules=READING_RULES if outdated else state.reading_rules,
            text=None,  # its rows were read by other rules
            largest_id=largest_id,
            doubled_open_ids=int(pd.concat(open_ids).duplicated().sum()),
        ),
        months,
        None if rejected.equals(stored_rejected) else rejected,
    )


def merge_snapshot(
    store: Store, account: str, state: State, info: SnapshotInfo, policy: RemovalPolicy, settings: dict[str, str]
) -> tuple[State, tuple[str, ...]]:
    """Merge a snapshot into the commit that stands, and commit; gives the new state and the months written.

    The snapshot holds all rows of its response, or builds on that commit. `settings` bear on the result. Months whose
    fingerprints agree are not read.

    Raises:
        ForeignListError: the list belongs to another account; nothing was changed.
    """
    months = _months_that_differ(state, info)
    stops = store.read_stops(account, state, STOPS.names, months)
    listed, malformed = store.read_snapshot(account, info, months)
    rejected = store.read_rejected(account, state)
    if info.builds_on is not None:  # the snapshot holds the appended rows alone
        listed = pd.concat([periods.open_rows(stops)[list(LISTED.names)], listed], ignore_index=True)
        malformed = periods.open_rows(rejected)
    standing = None
    if state.withheld_because is not None:
        standing = periods.open_rows(store.read_stops(account, state, [*periods.ROW, "country", "removed_at"]))
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
    withheld = plan.withheld_because is not None
    changed = periods.split_by_month(apply(stops, diff, plan, fetched_at=info.fetched_at))
    merged = merge_rejected(
        rejected,
        malformed,
        fetched_at=info.fetched_at,
        sha256=info.sha256,
        removals_withheld=withheld or not info.complete,
    )
    new_state = dataclasses.replace(
        _state_after(state, info, plan),
        doubled_open_ids=_doubled_open_ids(store, account, state, diff) if withheld else 0,
        accepted_removals=policy.accept_removals,
        settings=settings,
        largest_id=int(diff.added["id"].to_numpy().max(initial=state.largest_id)),
    )
    committed = store.commit(account, new_state, changed, None if merged.equals(rejected) else merged)
    counts = [f"{count:,}" for count in (plan.counts.listed, plan.counts.new, plan.counts.removed)]
    written = counted(len(changed), "month")
    log.info("Account %s: %s listed, %s new, %s removed, %s written", account, *counts, written)
    return committed, tuple(changed)


def reads_differently(state: State, info: SnapshotInfo) -> bool:
    """Whether the response that was merged last, read by today's rules, is not what its commit holds.

    Rows are stored as they were read, so rows read again need not be what today's rules make of the response.
    """
    if info.builds_on is not None:
        return False
    read, stored = (info.listed, info.rejected), (state.counts.listed, state.rejected)
    return read != stored or (state.complete and bool(_months_that_differ(state, info)))


def _refuse_other_rows(store: Store, account: str, state: State, on_disk: State) -> None:
    """Refuse files that hold other rows than the commit records, rows of a later commit aside.

    A backup that copied the state before the rest can bring back later rows; they are no part of the commit.
    """
    store.read_commits(account, state)  # refuses what is missing
    recorded, found = recorded_files(account, state), recorded_files(account, on_disk)
    for name in sorted({*recorded, *found}):
        problem: str | None = "is missing"
        if name in found:
            if found[name] == recorded.get(name):
                continue
            rows = store.read_periods(account, on_disk, name, found[name])
            problem = periods.difference(periods.as_committed(rows, state.applied_at), recorded.get(name))
        if problem is not None:
            problem, advice = (problem, _HOW_TO_RESTORE) if name in recorded else _NOT_RECORDED
            raise StoreError(f"{store.files.shown(name)} {problem}. Nothing was changed: {advice}")


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
    standing = periods.open_rows(rejected)
    ended = standing[~standing["raw"].isin(malformed["raw"])]
    if ended.empty:
        return ended
    columns = ["phone_number", "country"]
    elsewhere = periods.open_rows(store.read_stops(account, state, [*columns, "removed_at"], other_months))
    still_blocked = blocked_numbers(pd.concat([elsewhere[columns], listed[columns]]), malformed).numbers
    blocked = blocked_numbers(STOP_SNAPSHOT.empty[[*columns, "raw"]], ended).numbers
    leaving = blocked.loc[~blocked["phone_number"].isin(still_blocked["phone_number"]), "raw"]
    return ended[ended["raw"].isin(leaving)]


def _doubled_open_ids(store: Store, account: str, state: State, diff: Diff) -> int:
    """Open rows beyond the first of their id, after a merge whose removals are withheld; otherwise there are none."""
    open_ids = periods.open_rows(store.read_stops(account, state, ["id", "removed_at"]))["id"]
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
