"""Reads everything that a data root holds of an account, and names whatever does not fit. It changes nothing.

A sentence names files, counts, months and times, but never a phone number or a key. What cannot be read is not compared
with anything: one damaged file gives one sentence.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline import schema
from stop_pipeline.errors import ApiError, StoreError, counted
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.smspartner.document import open_list
from stop_pipeline.smspartner.response import parse
from stop_pipeline.table import derive, periods
from stop_pipeline.table.accounts import account_record
from stop_pipeline.table.files import MADE_AGAIN, RESTORE, reading
from stop_pipeline.table.parquet import info_of, note_of
from stop_pipeline.table.reading import CLOCK_TOLERANCE
from stop_pipeline.table.state import DerivedInfo, KeptResponse, MonthInfo, SnapshotInfo, State, from_document
from stop_pipeline.table.store import Store, month_file, snapshot_file, table_file

Value = TypeVar("Value")

_MONTH = "[0-9][0-9][0-9][0-9]-[0-9][0-9]"
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
    """Reads one account. Each method looks at one kind of file, or compares two, and notes the problems."""

    def __init__(self, store: Store, account: str) -> None:
        self._store, self._account = store, account
        self._state = State()
        self._state_file = f"state/account={account}.json"
        self._record_file = f"accounts/account={account}.json"
        self._snapshot_file = snapshot_file(account)
        self._rejected_file = table_file(schema.REJECTED.name, account)
        self._raw_folder = f"raw/account={account}"
        self._latest_file = f"{self._raw_folder}/latest.json"
        self._problems: list[str] = []
        self._remarks: list[str] = []

    def run(self) -> Verified:
        """Look at everything."""
        store, account = self._store, self._account
        self._attempt(self._record_file, lambda: account_record(store, account))
        newest = self._attempt(self._latest_file, lambda: store.responses.newest(account))
        kept = self._check_responses(newest)
        state = self._attempt(self._state_file, lambda: store.state(account))
        self._state = state or State()
        self._look_for_strays()
        months, rows = self._check_tables(newest, kept) if state else (0, 0)
        return Verified(months, rows, tuple(self._remarks), tuple(self._problems))

    def _check_tables(self, newest: KeptResponse | None, kept: list[KeptResponse]) -> tuple[int, int]:
        """Look at the commit and the tables; gives the months and the rows of `stops`."""
        state = self._state
        if state.staged:
            self._remarks.append("a sync was killed after its commit, and the next one moves its files into place")
        if state.schema_version == 1:
            self._remarks.append("an earlier version of stop_pipeline wrote this, and the next sync upgrades it")
        elif state.commit and state.reading_rules != READING_RULES:
            self._remarks.append("the next sync reads the rows again by this version's rules")
        self._check_state(newest)
        self._check_snapshot()
        self._check_commits()
        before = len(self._problems)
        months, malformed = self._check_periods()
        stops = periods.as_committed(pd.concat([schema.STOPS.empty, *months], ignore_index=True), state.applied_at)
        standing = periods.open_rows(stops)
        rejected = periods.open_rows(periods.as_committed(malformed, state.applied_at))
        if state.applied_at and state.reading_rules == READING_RULES and len(self._problems) == before:
            self._check_counts(standing, rejected)
            self._check_response(standing, kept, state.applied_at)
            if len(self._problems) == before:
                made = derive.suppression_list(standing, rejected)
                self._check_derived(schema.SUPPRESSION_LIST, made.numbers, made.unreadable_rows)
                self._check_derived(schema.STOPS_PER_DAY, derive.stops_per_day(stops))
        return len(months), len(stops)

    def _note(self, file: str, problem: str, advice: str = RESTORE) -> None:
        self._problems.append(f"{file} {problem}: {advice[0].lower()}{advice[1:]}")

    def _attempt(self, file: str, read: Callable[[], Value], advice: str = RESTORE) -> Value | None:
        """The result of `read`; None if the file cannot be read, which is noted."""
        try:
            with reading(self._store.files.shown(file), advice):
                return read()
        except StoreError as error:
            self._problems.append(str(error))
            return None

    def _read(
        self, file: str, table: schema.TableSchema, describe: Callable[[Any], Value], advice: str = MADE_AGAIN
    ) -> tuple[pd.DataFrame, Value] | None:
        """The rows of a file and what its footer says; None if there is a problem with it, which is noted."""

        def read() -> tuple[pa.Table, Value]:
            with self._store.open_committed(file, self._state) as source:
                parquet = pq.ParquetFile(source, page_checksum_verification=True)
                return parquet.read().replace_schema_metadata(), describe(parquet.metadata)

        if advice == MADE_AGAIN and not self._store.files.exists(file):
            self._note(file, "is missing", advice)
            return None
        found = self._attempt(file, read, advice)
        if found and not found[0].schema.equals(table.arrow):
            self._note(file, f"does not have the columns that {table.name} declares")
            return None
        return found and (schema.to_pandas(found[0]), found[1])

    def _look_for_strays(self) -> None:
        """Files that this package did not write; those that belong to no account are named with every account."""
        account, store = self._account, self._store
        own = {self._record_file, self._state_file, self._latest_file, self._snapshot_file}
        own |= {table_file(table.name, account) for table in _ONE_FILE_EACH}
        own |= {f"{self._raw_folder}/{raw.file}" for raw in store.responses.all(account)}
        patterns = [month_file(account, _MONTH)]
        if self._state.schema_version == 1:  # it had a file of the snapshot for each month, and one for malformed rows
            folder = f"snapshot/account={account}/created_month="
            patterns += [f"{folder}{month}/stop_snapshot.parquet" for month in (_MONTH, "none")]
        others = {f"account={name}" for name in store.accounts_seen() if name != account}
        for folder in sorted({name.split("/")[0] for name in (*own, *patterns)}):
            for file in store.files.below(folder):
                known = file in own or any(fnmatchcase(file, pattern) for pattern in patterns)
                if file == folder:
                    self._note(file, "is a file where a folder must be", "Move it elsewhere, and restore the folder.")
                elif not known and file.split("/")[1].split(".")[0] not in others:
                    self._note(file, "is not a file of this package", "Move it elsewhere.")

    def _check_responses(self, newest: KeptResponse | None) -> list[KeptResponse]:
        """The kept responses whose bytes are those that were received, by fetch time."""
        responses, intact = self._store.responses, []
        for raw in responses.all(self._account):
            read = self._attempt(f"{self._raw_folder}/{raw.file}", partial(responses.read, self._account, raw))
            if read is None:
                continue
            _, kept = read
            intact.append(kept)
            if newest and newest.file == raw.file and newest != replace(kept, fetched_at=newest.fetched_at):
                self._note(self._latest_file, "records another SHA-256 or size than its file has")
        if newest and not self._store.files.exists(f"{self._raw_folder}/{newest.file}"):
            self._note(self._latest_file, f"names {newest.file}, which is missing")
        return intact

    def _check_state(self, newest: KeptResponse | None) -> None:
        """Whether the figures of the commit agree with each other, and its times with the clock and the responses."""
        state, counts, withheld = self._state, self._state.counts, self._state.withheld_because is not None
        last = state.last_response_at
        if last is None:
            if state.schema_version != 1 and self._store.files.matching(month_file(self._account, "*")):
                self._note(self._state_file, "has no commit, but there are months of stops")
        elif last > datetime.now(UTC) + CLOCK_TOLERANCE:
            self._note(self._state_file, f"records a sync at {last}, in the future", "Set this machine's clock.")
        elif newest is None or last > newest.fetched_at:
            self._note(self._state_file, f"records a response fetched at {last}, later than any kept")
        elif state.complete != (last == state.verified_at):
            self._note(self._state_file, "has a verified_at that does not fit its applied_at")
        elif (
            state.rows != counts.listed + state.duplicates + state.rejected
            or counts.listed != counts.unchanged + counts.new + counts.changed + counts.restored
            or (counts.withheld > 0, state.withheld_from is not None) != (withheld, withheld)
        ):
            self._note(self._state_file, "has counts that contradict each other")

    def _check_snapshot(self) -> None:
        """Whether the snapshot holds the rows that it records."""
        if self._state.schema_version == 1 or self._state.commit is None:
            return
        file = self._snapshot_file
        found = self._read(file, schema.STOP_SNAPSHOT, lambda footer: from_document(SnapshotInfo, note_of(footer)))
        if found:
            rows, info = found
            listed = rows[rows["raw"].isna()]
            months = {month: periods.fingerprint(part) for month, part in periods.split_by_month(listed).items()}
            recorded = info.listed + info.rejected if info.builds_on is None else len(listed)
            if months != info.months or len(rows) != recorded:
                advice = "Remove it, and the next sync makes it again."
                self._note(file, "holds other rows than it records", advice)

    def _check_commits(self) -> None:
        """Whether the record of merged responses ends with the one of the commit."""
        file = table_file(schema.COMMITS.name, self._account)
        merged = self._attempt(file, lambda: self._store.read_commits(self._account, self._state))
        if merged is not None and len(merged):
            expected = periods.with_commit(merged.iloc[:-1], self._state)
            if not merged.equals(expected) or not merged["merged_at"].is_monotonic_increasing:
                self._note(file, "holds other responses than the commit records")

    def _check_periods(self) -> tuple[list[pd.DataFrame], pd.DataFrame]:
        """The months of `stops` that can be read, each as its file has it, and the malformed rows."""
        state = self._state
        recorded = {month_file(self._account, month): info for month, info in state.months.items()}
        recorded |= {self._rejected_file: state.rejected_file} if state.rejected_file else {}
        patterns = (month_file(self._account, "*"), self._rejected_file)
        published = {file for pattern in patterns for file in self._store.files.matching(pattern)}
        tables = {}
        # A staged file that is not recorded is none: the commit removes the published one.
        for file in sorted({*recorded, *(published - state.staged.keys())}):
            table = schema.REJECTED if file == self._rejected_file else schema.STOPS
            if found := self._read(file, table, note_of, RESTORE):
                tables[file] = found[0]
                self._check_rows(file, *found, recorded.get(file))
        malformed = tables.pop(self._rejected_file, schema.REJECTED.empty)
        return [*tables.values()], malformed

    def _check_rows(self, file: str, rows: pd.DataFrame, note: dict[str, Any], recorded: MonthInfo | None) -> None:
        """Whether a file of `stops` or `rejected` holds what the commit records, and nothing else."""
        state = self._state
        committed = periods.as_committed(rows, state.applied_at)
        is_month = file != self._rejected_file
        order = periods.STOPS_ORDER if is_month else periods.REJECTED_ORDER
        astray = [month for month in (periods.split_by_month(rows) if is_month else ()) if f"={month}/" not in file]
        if astray:
            self._note(file, f"holds rows of {', '.join(astray)}")
        elif not rows.sort_values(order, ignore_index=True).equals(rows):
            self._note(file, f"is not sorted by {', '.join(order)}")
        elif (rows["removed_at"] <= rows["first_seen_at"]).any():
            self._note(file, "holds rows that end before they begin")
        elif not is_month and not rows["reason"].isin(schema.REASONS).all():
            self._note(file, "holds reasons that this package does not give")
        elif state.schema_version == 1 or state.commit is None:
            pass  # nothing is recorded to compare it with
        elif problem := periods.difference(committed, recorded):
            self._note(file, problem)
        elif not committed.equals(rows):
            self._note(file, f"holds rows from after the commit, {state.applied_at}", "The next sync removes them.")
        elif recorded and note.get("fingerprint", recorded.fingerprint) != recorded.fingerprint:
            self._note(file, "has a footer that does not fit its rows")

    def _check_counts(self, standing: pd.DataFrame, malformed: pd.DataFrame) -> None:
        """Whether there are as many open rows as the commit counts."""
        state, counts, folder = self._state, self._state.counts, f"stops/account={self._account}"
        doubled = int(standing["id"].duplicated().sum())
        if doubled > counts.withheld or doubled != state.doubled_open_ids:
            self._note(folder, f"holds {counted(doubled, 'open row')} beyond the first of their id")
        elif len(standing) != counts.listed + counts.withheld:
            recorded = f"{counts.listed:,} listed and {counts.withheld:,} withheld"
            self._note(folder, f"holds {counted(len(standing), 'open row')}, not the {recorded}")
        all_may_end = state.complete and state.withheld_because is None
        if len(malformed) < state.rejected or (all_may_end and len(malformed) > state.rejected):
            found = counted(len(malformed), "open row")
            self._note(self._rejected_file, f"holds {found}, not the {state.rejected:,} of the commit")

    def _check_response(self, standing: pd.DataFrame, kept: list[KeptResponse], applied_at: datetime) -> None:
        """Whether the response that the commit was made from has the rows that it records, and all of them are open."""
        state = self._state
        responses = [response for response in kept if response.sha256 == state.sha256]
        if not responses:
            self._note(self._raw_folder, f"lacks the commit's response, SHA-256 {state.sha256}")
            return
        if not self._store.files.is_writable():  # it is unpacked inside the data root, and nowhere else
            self._remarks.append("the last response was not compared, because this data root cannot be written")
            return
        file = f"{self._raw_folder}/{responses[-1].file}"
        try:
            document = open_list(self._store.responses.unpack(self._account, responses[-1]), responses[-1].format)
            snapshot = parse(document, fetched_at=applied_at, timezone=state.settings["timezone"])
        except ApiError as error:
            self._problems.append(f"{file} cannot be parsed, though it was merged: {str(error).removesuffix('.')}.")
            return
        # The columns that no fingerprint covers are compared as well.
        side = snapshot.listed.merge(standing[list(schema.LISTED.names)], how="left", indicator=True)
        missing = side[side["_merge"] == "left_only"]
        if (snapshot.rows, len(snapshot.rejected)) != (state.rows, state.rejected):
            self._note(file, f"holds {counted(snapshot.rows, 'row')}, but the commit records {state.rows:,}")
        elif len(missing):
            what = f"{counted(len(missing), 'row')} of {', '.join(periods.split_by_month(missing))}"
            self._note(f"stops/account={self._account}", f"lacks {what} as the last response lists them")

    def _check_derived(self, table: schema.TableSchema, expected: pd.DataFrame, unreadable_rows: int = 0) -> None:
        """Whether a derived table is that of the commit, row by row."""
        state, file = self._state, table_file(table.name, self._account)
        found = self._read(file, table, lambda footer: info_of(footer, DerivedInfo))
        if found is None:
            return
        rows, info = found
        if (info.commit, info.reading_rules) != (state.commit, state.reading_rules):
            self._note(file, f"is of the commit {info.commit}, not of {state.commit}", MADE_AGAIN)
        elif not (rows.equals(expected) and info.unreadable_rows == unreadable_rows):
            self._note(file, "holds other rows than stops and rejected give; one of them was altered")
