"""Reads everything that a data root holds of an account, and names whatever does not fit. It changes nothing.

A sentence names files, counts, months and times, but never a phone number or a key. What cannot be read is not compared
with anything: one damaged file gives one sentence.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import pyarrow.parquet as pq

from stop_pipeline import schema
from stop_pipeline.errors import ApiError, StoreError, counted
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.smspartner.document import open_list
from stop_pipeline.smspartner.response import parse
from stop_pipeline.table import derive, periods
from stop_pipeline.table.accounts import account_record, refuse_lost_list
from stop_pipeline.table.files import MADE_AGAIN, RESTORE
from stop_pipeline.table.parquet import note_of
from stop_pipeline.table.reading import CLOCK_TOLERANCE
from stop_pipeline.table.responses import WRITTEN_AGAIN
from stop_pipeline.table.state import DerivedInfo, KeptResponse, MonthInfo, SnapshotInfo, State, from_document
from stop_pipeline.table.store import Store, month_file, recorded_files, snapshot_file, table_file

Value = TypeVar("Value")

_CLOCK = "Set this machine's clock; if it was ahead at that sync, restore the data root from a backup made before."
_ONE_FILE_EACH = (schema.REJECTED, schema.COMMITS, schema.SUPPRESSION_LIST, schema.STOPS_PER_DAY)


@dataclass(frozen=True)
class Verified:
    """What was found of one account."""

    months: int  # of `stops` that can be read
    rows: int  # periods in them, as of the commit
    # What the next sync will do first, and what could not be compared, as parts of a sentence; these are not problems.
    remarks: tuple[str, ...]
    problems: tuple[str, ...]  # whatever does not fit: each a sentence that names the file and says what to do


def verify(store: Store, account: str) -> Verified:
    """Read everything of an account, under its lock, so that no sync writes meanwhile.

    A data root that this process cannot write, such as a backup, is read without the lock. A StoreError says that
    another process held it for too long.
    """
    with store.files.locked(account) if store.files.is_writable() else nullcontext():
        return _Inspection(store, account).run()


class _Inspection:
    """Reads one account. A check raises a StoreError about the first thing that does not fit."""

    def __init__(self, store: Store, account: str) -> None:
        self._store, self._account, self._state = store, account, State()
        self._state_file = f"state/account={account}.json"
        self._raw_folder = f"raw/account={account}"
        self._rejected_file = table_file(schema.REJECTED.name, account)
        self._problems: list[str] = []
        self._remarks: list[str] = []

    def run(self) -> Verified:
        """Look at everything."""
        store, account = self._store, self._account
        record = self._attempt(account_record, store, account)
        newest = self._attempt(store.responses.newest, account)
        kept = self._check_responses(newest)
        state = self._attempt(store.state, account)
        self._state = state or State()
        if state and record and record.retired_at:  # a damaged one is reported already
            self._attempt(refuse_lost_list, store, account, self._state)
        self._look_for_strays()
        months, rows = self._check_tables(newest, kept) if state else (0, 0)
        return Verified(months, rows, tuple(self._remarks), tuple(self._problems))

    def _check_tables(self, newest: KeptResponse | None, kept: list[KeptResponse]) -> tuple[int, int]:
        """Look at the commit and the tables; gives the months and the rows of `stops`."""
        state = self._state
        if state.staged:
            self._remarks.append("a sync has not finished, and the next one moves its files into place")
        if state.schema_version == 1:
            self._remarks.append("an earlier version of stop_pipeline wrote this, and the next sync upgrades it")
        elif state.commit and state.reading_rules != READING_RULES:
            self._remarks.append("the next sync reads the rows again by this version's rules")
        self._attempt(self._check_state, newest)
        self._attempt(self._check_snapshot)
        self._attempt(self._check_commits)
        before = len(self._problems)
        months, malformed = self._read_periods()
        stops = periods.as_committed(pd.concat([schema.STOPS.empty, *months], ignore_index=True), state.applied_at)
        standing = periods.open_rows(stops)
        rejected = periods.open_rows(periods.as_committed(malformed, state.applied_at))
        if state.applied_at and state.reading_rules == READING_RULES and len(self._problems) == before:
            self._attempt(self._check_response, standing, kept, state.applied_at)
            if len(self._problems) == before:
                made = derive.suppression_list(standing, rejected)
                self._attempt(self._check_derived, schema.SUPPRESSION_LIST, made.numbers, made.unreadable_rows)
                self._attempt(self._check_derived, schema.STOPS_PER_DAY, derive.stops_per_day(stops))
        return len(months), len(stops)

    def _attempt(self, look: Callable[..., Value], *args: Any) -> Value | None:
        """What `look` gives; None if it raises a StoreError, which is noted."""
        try:
            return look(*args)
        except StoreError as error:
            self._problems.append(str(error))
            return None

    def _read(self, file: str, table: schema.TableSchema, advice: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The rows of a file, and the note in its footer."""
        with self._store.files.reading(file, advice), self._store.open_committed(file, self._state) as source:
            parquet = pq.ParquetFile(source, page_checksum_verification=True)
            rows, note = parquet.read().replace_schema_metadata(), note_of(parquet.metadata)
        fits = rows.schema.equals(table.arrow)
        _ensure(file, fits, f"does not have the columns that {table.name} declares", advice)
        return schema.to_pandas(rows), note

    def _look_for_strays(self) -> None:
        """Files that this package did not write; those that belong to no account are named with every account."""
        account, store = self._account, self._store
        own = {f"accounts/account={account}.json", self._state_file, f"{self._raw_folder}/latest.json"}
        own |= {snapshot_file(account), *(table_file(table.name, account) for table in _ONE_FILE_EACH)}
        own |= {f"{self._raw_folder}/{raw.file}" for raw in store.responses.all(account)}
        own |= {*store.files.matching(month_file(account, "*"))}
        if self._state.schema_version == 1:  # it had a file of the snapshot for each month, and one for malformed rows
            own |= {*store.files.matching(f"snapshot/account={account}/created_month=*/stop_snapshot.parquet")}
        entries: list[str] = []
        for folder in sorted({"stops", *(name.split("/")[0] for name in own)}):
            if (found := self._attempt(store.files.matching, f"{folder}/*")) is not None:
                entries += found or [folder]  # which may be a file itself
        # Other accounts are left out, for to list the files of many takes minutes. They are asked for only now, or one
        # that was registered meanwhile would be a stray.
        others = {f"account={name}" for name in store.accounts_seen() if name != account}
        for entry in entries:
            if entry.rpartition("/")[2].partition(".")[0] not in others:
                for file in self._attempt(store.files.below, entry) or ():
                    self._attempt(_ensure, file, file in own, "is not a file of this package", "Move it elsewhere.")

    def _check_responses(self, newest: KeptResponse | None) -> list[KeptResponse]:
        """The kept responses whose bytes are those that were received, by fetch time."""
        account, responses = self._account, self._store.responses
        read = partial(self._attempt, lambda raw: responses.read(account, raw)[1])
        found = {raw.file: read(raw) for raw in responses.all(account)}
        intact = [kept for kept in found.values() if kept]
        if newest and found.get(newest.file, newest):  # not if it is damaged, which is reported already
            fits = newest in [replace(kept, fetched_at=newest.fetched_at) for kept in intact]
            problem = "names a response that is missing, or that has another SHA-256 or size"
            self._attempt(_ensure, f"{self._raw_folder}/latest.json", fits, problem, WRITTEN_AGAIN)
        return intact

    def _check_state(self, newest: KeptResponse | None) -> None:
        """Whether the figures of the commit agree with each other, and its times with the clock and the responses."""
        state, counts, last = self._state, self._state.counts, self._state.last_response_at
        ensure = partial(_ensure, self._state_file)
        if last is None:
            return
        is_past = last <= datetime.now(UTC) + CLOCK_TOLERANCE
        ensure(is_past, f"records a sync at {last}, in the future", _CLOCK)
        latest = f"{self._raw_folder}/latest.json"  # one that is damaged is reported already
        is_known = last <= newest.fetched_at if newest else self._store.files.exists(latest)
        _ensure(latest, is_known, "is missing, or older than the commit", "The next sync writes it again.")
        ensure(state.complete == (last == state.verified_at), "has a verified_at that does not fit its applied_at")
        withheld = state.withheld_because is not None
        open_rejected = state.rejected_file.open_rows if state.rejected_file else 0
        reread = state.reading_rules != READING_RULES  # then rows that differed may have become equal
        agree = (
            state.rows == counts.listed + state.duplicates + state.rejected,
            counts.listed == counts.unchanged + counts.new + counts.changed + counts.restored,
            withheld == (counts.withheld > 0) == (state.withheld_from is not None),
            state.doubled_open_ids <= counts.withheld,
            reread or counts.listed <= state.open_rows <= counts.listed + counts.withheld,
            reread or open_rejected >= state.rejected,
            reread or open_rejected == state.rejected or withheld or not state.complete,
        )
        ensure(all(agree), "has counts that contradict each other")

    def _check_snapshot(self) -> None:
        """Whether the snapshot holds the rows that it records."""
        if self._state.schema_version == 1 or self._state.commit is None:
            return
        file = snapshot_file(self._account)
        rows, note = self._read(file, schema.STOP_SNAPSHOT, MADE_AGAIN)
        with self._store.files.reading(file, MADE_AGAIN):
            info = from_document(SnapshotInfo, note)
        listed = rows[rows["raw"].isna()]
        months = {month: periods.fingerprint(part) for month, part in periods.split_by_month(listed).items()}
        recorded = info.listed + info.rejected if info.builds_on is None else len(listed)
        fits = months == info.months and len(rows) == recorded
        _ensure(file, fits, "holds other rows than it records", "Remove it, and the next sync makes it again.")

    def _check_commits(self) -> None:
        """Whether the record of merged responses ends with the one of the commit."""
        merged = self._store.read_commits(self._account, self._state)
        fits = merged.equals(periods.with_commit(merged.iloc[:-1], self._state)) or merged.empty
        if 0 < self._state.commits < len(merged):  # as after one that was lost; an earlier version kept none
            self._remarks.append("the record of merged responses lacks the last one, and may be another account's")
        file = table_file(schema.COMMITS.name, self._account)
        fits &= merged["merged_at"].is_monotonic_increasing
        _ensure(file, fits, "holds other responses than the commit records")

    def _read_periods(self) -> tuple[list[pd.DataFrame], pd.DataFrame]:
        """The months of `stops` that can be read, each as its file has it, and the malformed rows; checks each file."""
        state = self._state
        recorded = recorded_files(self._account, state)
        patterns = (month_file(self._account, "*"), self._rejected_file)
        published = {file for pattern in patterns for file in self._store.files.matching(pattern)}
        tables = {}
        # A staged file that is not recorded is none: the commit removes the published one.
        for file in sorted({*recorded, *(published - state.staged.keys())}):
            table = schema.REJECTED if file == self._rejected_file else schema.STOPS
            if found := self._attempt(self._read, file, table, RESTORE):
                tables[file] = found[0]
                self._attempt(self._check_rows, file, *found, recorded.get(file))
        malformed = tables.pop(self._rejected_file, schema.REJECTED.empty)
        return [*tables.values()], malformed

    def _check_rows(self, file: str, rows: pd.DataFrame, note: dict[str, Any], recorded: MonthInfo | None) -> None:
        """Whether a file of `stops` or `rejected` holds what the commit records, and nothing else."""
        state, ensure, is_month = self._state, partial(_ensure, file), file != self._rejected_file
        astray = [month for month in (periods.split_by_month(rows) if is_month else ()) if f"={month}/" not in file]
        ensure(not astray, f"holds rows of {', '.join(astray)}")
        order = periods.STOPS_ORDER if is_month else periods.REJECTED_ORDER
        in_order = rows.sort_values(order, ignore_index=True).equals(rows)
        any_ends_early = (rows["removed_at"] <= rows["first_seen_at"]).any()
        known = is_month or rows["reason"].isin(schema.REASONS).all()
        fits = bool(in_order and known and not any_ends_early)
        ensure(fits, "holds rows that are not in order, end before they begin, or have an unknown reason")
        if state.schema_version == 1 or state.commit is None:
            return  # nothing is recorded to compare it with
        committed = periods.as_committed(rows, state.applied_at)
        difference = periods.difference(committed, recorded)
        ensure(difference is None or recorded is not None, "is not part of the commit", "Move it elsewhere.")
        ensure(difference is None, str(difference))
        # By its footer, the next sync sees whether a file is that of the commit.
        fits = note.get("fingerprint") in (None, periods.month_info(rows).fingerprint)  # None: version 1 wrote rejected
        ensure(fits, "has a footer that does not fit its rows")
        if not committed.equals(rows):  # as in a backup that was made during a sync
            self._remarks.append(f"{file} holds rows from after the commit, which the next sync removes")

    def _check_response(self, standing: pd.DataFrame, kept: list[KeptResponse], applied_at: datetime) -> None:
        """Whether the response that the commit was made from has the rows that it records, and all of them are open."""
        state = self._state
        doubled = int(standing["id"].duplicated().sum())
        problem = f"holds {counted(doubled, 'open row')} beyond the first of their id"
        _ensure(f"stops/account={self._account}", doubled == state.doubled_open_ids, problem)
        responses = [response for response in kept if response.sha256 == state.sha256]
        intact = {response.file for response in kept}
        damaged = [raw for raw in self._store.responses.all(self._account) if raw.file not in intact]
        if not responses and any(str(state.sha256).startswith(raw.sha256_start) for raw in damaged):
            return  # which is reported already
        _ensure(
            self._raw_folder,
            bool(responses),
            f"is missing the response that the commit was made from, SHA-256 {state.sha256}",
            "Restore it from a backup, or leave it to the next sync, which keeps the list again.",
        )
        if not self._store.files.is_writable():  # it is unpacked inside the data root, and nowhere else
            self._remarks.append("the last response was not compared, because this data root cannot be written")
            return
        file = f"{self._raw_folder}/{responses[-1].file}"
        try:
            document = open_list(self._store.responses.unpack(self._account, responses[-1]), responses[-1].format)
            snapshot = parse(document, fetched_at=applied_at, timezone=state.settings["timezone"])
        except ApiError as error:
            raise StoreError(f"{file} cannot be parsed, though it was merged: {error}") from None
        fits = (snapshot.rows, len(snapshot.rejected)) == (state.rows, state.rejected)
        found = f"{counted(snapshot.rows, 'row')}, {len(snapshot.rejected):,} of them malformed"
        _ensure(file, fits, f"holds {found}, but the commit records {state.rows:,} and {state.rejected:,}")
        # The columns that no fingerprint covers are compared as well.
        side = snapshot.listed.merge(standing[list(schema.LISTED.names)], how="left", indicator=True)
        missing = side[side["_merge"] == "left_only"]
        what = f"{counted(len(missing), 'row')} of {', '.join(periods.split_by_month(missing))}"
        _ensure(f"stops/account={self._account}", missing.empty, f"lacks {what} as the last response lists them")

    def _check_derived(self, table: schema.TableSchema, expected: pd.DataFrame, unreadable_rows: int = 0) -> None:
        """Whether a derived table is that of the commit, row by row."""
        state, file = self._state, table_file(table.name, self._account)
        rows, note = self._read(file, table, MADE_AGAIN)
        with self._store.files.reading(file, MADE_AGAIN):
            info = from_document(DerivedInfo, {**note, "rows": len(rows)})
        if not info.is_of(state):
            # So it is between two steps of a sync, and after one that ended there. Names of commits begin with a time.
            fits = info.commit <= str(state.commit)
            _ensure(file, fits, f"is of the commit {info.commit}, not of {state.commit}", MADE_AGAIN)
            self._remarks.append(f"{table.name} is not of this commit yet, and the next sync makes it again")
            return
        fits = rows.equals(expected) and info.unreadable_rows == unreadable_rows
        _ensure(file, fits, "holds other rows than stops and rejected give; one of them was altered")


def _ensure(file: str, fits: bool, problem: str, advice: str = RESTORE) -> None:  # noqa: FBT001 – as `assert` has it
    """Raise a StoreError about a file that does not fit."""
    if not fits:
        raise StoreError(f"{file} {problem}: {advice[0].lower()}{advice[1:]}")
