"""Stored rows brought up to date before a merge: files compared with the commit, and old readings read again.

What changes is one commit of its own, so that a new reading rule never looks like a change made by the provider.
"""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from zoneinfo import ZoneInfo

import pandas as pd

from stop_pipeline.errors import StoreError
from stop_pipeline.local_times import local_to_utc
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.schema import REJECTED
from stop_pipeline.table.periods import (
    REJECTED_ORDER,
    STOPS_ORDER,
    as_committed,
    joined_periods,
    month_info,
    with_numbers_reread,
)
from stop_pipeline.table.state import MonthInfo, State
from stop_pipeline.table.store import Store, month_file, table_file

log = logging.getLogger(__name__)


def bring_up_to_date(store: Store, account: str, state: State, *, timezone: str) -> State:
    """Make the stored rows those of the commit, read by the rules and in the zone of today.

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
        state.commit is not None and (state.reading_rules != READING_RULES or state.settings["timezone"] != timezone)
    )
    if not outdated and (on_disk.months, on_disk.rejected_file) == (state.months, state.rejected_file):
        return state

    months, largest_id = {}, state.largest_id
    for month in on_disk.months:
        stored = store.read_month(account, month, on_disk)
        rows = as_committed(stored, state.applied_at)
        if outdated:
            rows = with_numbers_reread(rows)
            rows = rows.assign(created_at=local_to_utc(rows["created_at_local"], ZoneInfo(timezone)))
            rows = joined_periods(rows).sort_values(STOPS_ORDER, ignore_index=True)
        if not rows.equals(stored):
            months[month] = rows
        largest_id = int(stored["id"].to_numpy().max(initial=largest_id))
    stored_rejected = store.read_rejected(account, on_disk)
    rejected = as_committed(stored_rejected, state.applied_at)
    if outdated:
        rejected = with_numbers_reread(rejected).sort_values(REJECTED_ORDER, ignore_index=True)
    log.info("Account %s: stored rows are read again; %d months changed", account, len(months))
    return store.commit(
        account,
        dataclasses.replace(
            on_disk,
            settings={**state.settings, "timezone": timezone} if outdated else state.settings,
            reading_rules=READING_RULES if outdated else state.reading_rules,
            text=None,  # its rows were read by other rules
            largest_id=largest_id,
        ),
        months,
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
    files: dict[str, tuple[MonthInfo | None, MonthInfo | None, Callable[[], pd.DataFrame]]] = {
        month_file(account, month): (
            state.months.get(month),
            on_disk.months.get(month),
            partial(store.read_month, account, month, on_disk),
        )
        for month in sorted({*state.months, *on_disk.months})
    }
    read_rejected = partial(store.read_rejected, account, on_disk)
    files[table_file(REJECTED.name, account)] = (state.rejected_file, on_disk.rejected_file, read_rejected)
    for file, (recorded, found, read) in files.items():
        if found == recorded:
            continue
        rows = as_committed(read(), state.applied_at)
        committed, expected = month_info(rows), recorded or month_info(rows.iloc[:0])
        if found is None:
            problem = "is missing"
        elif committed == expected:
            continue
        elif committed.rows == expected.rows:
            problem = "holds other rows than the commit records"
        else:
            problem = f"holds {committed.rows:,} rows, but the commit records {expected.rows:,}"
        raise StoreError(
            f"{store.files.shown(file)} {problem}. Nothing was changed: restore the file from a backup, or look at "
            "what “stop-pipeline rebuild” makes of the kept responses."
        )
