"""Stored rows brought up to date before a merge: files compared with the commit, and old readings read again.

What changes is one commit of its own, so that a new reading rule never looks like a change made by the provider.
"""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from zoneinfo import ZoneInfo

import pandas as pd

from stop_pipeline.errors import StoreError, counted
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.schema import REJECTED, STOPS
from stop_pipeline.table.periods import (
    REJECTED_ORDER,
    STOPS_ORDER,
    as_committed,
    difference,
    joined_periods,
    open_rows,
    with_numbers_reread,
)
from stop_pipeline.table.state import MonthInfo, State
from stop_pipeline.table.store import Store, month_file, table_file
from stop_pipeline.times import local_to_utc

log = logging.getLogger(__name__)


def bring_up_to_date(store: Store, account: str, state: State, *, timezone: str) -> State:
    """Make the stored rows those of the commit, read by the rules and in the zone of today.

    Returns the state that stands now: `state` itself if nothing had to change.

    Raises:
        StoreError: a file holds other rows than the commit records. Nothing was changed.
    """
    on_disk = dataclasses.replace(
        state, months=store.recorded_months(account), rejected_file=store.recorded_rejected(account)
    )
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
        rows = as_committed(stored, state.applied_at)
        if outdated:
            rows = with_numbers_reread(rows)
            rows = rows.assign(created_at=local_to_utc(rows["created_at_local"], ZoneInfo(timezone)))
            rows = joined_periods(rows).sort_values(STOPS_ORDER, ignore_index=True)
        if not rows.equals(stored):
            months[month] = rows
        largest_id = int(stored["id"].to_numpy().max(initial=largest_id))
        open_ids.append(open_rows(rows)["id"])
    stored_rejected = store.read_rejected(account, on_disk)
    rejected = as_committed(stored_rejected, state.applied_at)
    if outdated:
        rejected = with_numbers_reread(rejected).sort_values(REJECTED_ORDER, ignore_index=True)
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


def _refuse_other_rows(store: Store, account: str, state: State, on_disk: State) -> None:
    """Refuse files that hold other rows than the commit records, rows of a later commit aside.

    A backup that copied the state before the rest can bring back later rows; they are no part of the commit.
    """
    if state.schema_version == 1:
        return  # it recorded nothing about its files
    store.read_commits(account, state)  # refuses what is missing

    def check(name: str, found: MonthInfo | None, recorded: MonthInfo | None, read: Callable[[], pd.DataFrame]) -> None:
        if found == recorded:
            return
        problem = "is missing" if found is None else difference(as_committed(read(), state.applied_at), recorded)
        if problem is not None:
            raise StoreError(
                f"{store.files.shown(name)} {problem}. Nothing was changed: restore the file from a backup, or look at "
                "what “stop-pipeline rebuild” makes of the kept responses."
            )

    for month in sorted({*state.months, *on_disk.months}):
        read_month = partial(store.read_stops, account, on_disk, STOPS.names, [month])
        check(month_file(account, month), on_disk.months.get(month), state.months.get(month), read_month)
    read_rejected = partial(store.read_rejected, account, on_disk)
    check(table_file(REJECTED.name, account), on_disk.rejected_file, state.rejected_file, read_rejected)
