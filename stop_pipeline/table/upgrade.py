"""Stored rows brought up to date before a merge: files compared with the commit, and old readings read again.

What changes is one commit of its own, so that a new reading rule never looks like a change made by the provider.
"""

import dataclasses
import logging
from collections.abc import Callable

import pandas as pd

from stop_pipeline.errors import StoreError
from stop_pipeline.schema import REJECTED
from stop_pipeline.table.periods import REJECTED_ORDER, STOPS_ORDER, as_committed, joined_periods, month_info
from stop_pipeline.table.state import MonthInfo, State
from stop_pipeline.table.store import Store, month_file, table_file

log = logging.getLogger(__name__)

Reread = Callable[[pd.DataFrame], pd.DataFrame]
"""Reads `phone_number` again, and `country` and `created_at` where rows have them."""


def bring_up_to_date(
    store: Store, account: str, state: State, *, timezone: str, reading_rules: str, reread: Reread
) -> State:
    """Make the stored rows those of the commit, read by today's rules and settings.

    Args:
        store: The data root, locked.
        account: Account name.
        state: The commit that stands.
        timezone: Zone in which `createdAt` is read.
        reading_rules: Version of the rules by which phone numbers are read.
        reread: Reads stored rows again.

    Returns:
        The state that stands now; `state` itself if nothing had to change.

    Raises:
        StoreError: a file holds other rows than the commit records. Nothing was changed.
    """
    on_disk = dataclasses.replace(
        state, months=store.recorded_months(account), rejected_file=store.recorded_rejected(account)
    )
    _refuse_other_rows(store, account, state, on_disk)
    outdated = state.schema_version == 1 or (
        state.commit is not None and (state.reading_rules != reading_rules or state.settings["timezone"] != timezone)
    )
    if not outdated and (on_disk.months, on_disk.rejected_file) == (state.months, state.rejected_file):
        return state

    def month_now(month: str) -> pd.DataFrame:
        rows = as_committed(store.read_month(account, month, on_disk), state.applied_at)
        return joined_periods(reread(rows)).sort_values(STOPS_ORDER, ignore_index=True) if outdated else rows

    stored_rejected = store.read_rejected(account, on_disk)
    rejected = as_committed(stored_rejected, state.applied_at)
    if outdated:
        rejected = reread(rejected).sort_values(REJECTED_ORDER, ignore_index=True)
    changed = [
        month for month in on_disk.months if not month_now(month).equals(store.read_month(account, month, on_disk))
    ]
    log.info("Account %s: stored rows are read again; %d months changed", account, len(changed))
    ids = store.read_stops(account, on_disk, ["id"])["id"]
    settings = {**state.settings, "timezone": timezone} if outdated else state.settings
    return store.commit(
        account,
        dataclasses.replace(
            on_disk,
            settings=settings,
            reading_rules=reading_rules if outdated else state.reading_rules,
            text=None,  # its rows were read by other rules
            largest_id=max(state.largest_id, int(ids.max()) if len(ids) else 0),
        ),
        {month: month_now(month) for month in changed},
        None if rejected.equals(stored_rejected) else rejected,
    )


def _refuse_other_rows(store: Store, account: str, state: State, on_disk: State) -> None:
    """Refuse files that hold other rows than the commit records, rows of a later commit aside.

    A backup that copied the state before the rest can bring back later rows; they are no part of the commit.
    """
    if state.schema_version == 1:
        return  # it recorded nothing about its files
    if state.commit is None and on_disk.months:
        raise StoreError(
            f"{store.files.shown(f'stops/account={account}')} holds {len(on_disk.months)} months, but there is no "
            f"commit: restore state/account={account}.json from a backup."
        )
    store.read_commits(account, state)  # refuses what is missing
    for month in sorted({*state.months, *on_disk.months}):
        recorded = state.months.get(month)
        if on_disk.months.get(month) != recorded:
            rows = as_committed(store.read_month(account, month, on_disk), state.applied_at)
            _refuse_unless_recorded(store, month_file(account, month), rows, recorded, exists=month in on_disk.months)
    if on_disk.rejected_file != state.rejected_file:
        rows = as_committed(store.read_rejected(account, on_disk), state.applied_at)
        exists = on_disk.rejected_file is not None
        _refuse_unless_recorded(store, table_file(REJECTED.name, account), rows, state.rejected_file, exists=exists)


def _refuse_unless_recorded(
    store: Store, file: str, rows: pd.DataFrame, recorded: MonthInfo | None, *, exists: bool
) -> None:
    if not exists:
        problem = "is missing"
    elif month_info(rows) == (recorded or month_info(rows.iloc[:0])):
        return
    else:
        problem = f"holds {len(rows):,} rows, but the commit records {recorded.rows if recorded else 0:,}"
        if recorded and recorded.rows == len(rows):
            problem = "holds other rows than the commit records"
    raise StoreError(
        f"{store.files.shown(file)} {problem}. Nothing was changed: restore the file from a backup, or look at what "
        "“stop-pipeline rebuild” makes of the kept responses."
    )
