"""Reads everything that a data root holds of an account, and names whatever does not fit. It changes nothing.

A sentence names files, counts, months and times, but never a phone number or a key. What cannot be read is not compared
with anything: one damaged file gives one sentence.
"""

import hashlib
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline import schema
from stop_pipeline.errors import ApiError, StoreError
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.smspartner.document import open_list
from stop_pipeline.smspartner.response import Snapshot, parse
from stop_pipeline.table import derive, periods
from stop_pipeline.table.accounts import account_record
from stop_pipeline.table.current_list import CLOCK_TOLERANCE
from stop_pipeline.table.parquet import as_declared, note_of
from stop_pipeline.table.refusals import reading
from stop_pipeline.table.state import DerivedInfo, KeptResponse, MonthInfo, SnapshotInfo, State
from stop_pipeline.table.store import SNAPSHOT_FILE, Store, month_file, table_file

Value = TypeVar("Value")

RESTORE = "restore it from a backup"
REMADE = "the next sync makes it again"

_A = r"account=[a-z][a-z0-9_]*"
_LAYOUT = {
    "raw": rf"{_A}/(latest\.json|[0-9]{{8}}T[0-9]{{6}}\.[0-9]{{6}}Z-[0-9a-f]{{12}}\.(json|xml)\.zst)",
    "snapshot": rf"{_A}/stop_snapshot\.parquet",
    "stops": rf"{_A}/created_month=[0-9]{{4}}-[0-9]{{2}}/stops\.parquet",
    "rejected": rf"{_A}/rejected\.parquet",
    "commits": rf"{_A}/commits\.parquet",
    "suppression_list": rf"{_A}/suppression_list\.parquet",
    "stops_per_day": rf"{_A}/stops_per_day\.parquet",
    "state": rf"{_A}\.json",
    "accounts": rf"{_A}\.json",
}
"""The names of the files in each folder of the data root; any other file is a stray."""
_SNAPSHOT_OF_VERSION_1 = rf"{_A}/created_month=([0-9]{{4}}-[0-9]{{2}}|none)/stop_snapshot\.parquet"


@dataclass(frozen=True)
class Verified:
    """What was found of one account.

    Attributes:
        account: Its name.
        months: Months of `stops` that can be read.
        rows: Periods in them, as of the commit.
        remarks: What the next sync will do first, as parts of a sentence; these are not problems.
        problems: Whatever does not fit, each as a sentence that names the file and says what to do.
    """

    account: str
    months: int
    rows: int
    remarks: tuple[str, ...]
    problems: tuple[str, ...]


def verify(store: Store, account: str) -> Verified:
    """Read everything of an account, under its lock, so that no sync writes meanwhile.

    A data root that this process cannot write, such as a backup, is read without the lock.

    Raises:
        StoreError: another process held the lock for too long.
    """
    with store.files.locked(account) if store.files.is_writable() else nullcontext():
        return _Inspection(store, account).run()


class _Inspection:
    """Reads one account. Each method looks at one kind of file, or compares two, and notes the problems."""

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self._account = account
        self._state_file = f"state/account={account}.json"
        self._raw_folder = f"raw/account={account}"
        self._stops_folder = f"stops/account={account}"
        self._problems: list[str] = []

    def run(self) -> Verified:
        """Look at everything."""
        store, account = self._store, self._account
        self._attempt(f"accounts/account={account}.json", lambda: account_record(store, account))
        newest = self._attempt(f"{self._raw_folder}/latest.json", lambda: store.responses.newest(account))
        kept = self._check_responses(newest)
        state = self._attempt(self._state_file, lambda: store.state(account))
        self._look_for_strays(state or State())
        if state is None:
            return Verified(account, 0, 0, (), tuple(self._problems))
        self._check_state(state, newest)
        self._check_snapshot(state)
        self._check_commits(state)
        before = len(self._problems)
        months, malformed = self._check_periods(state)
        stops = periods.as_committed(pd.concat([schema.STOPS.empty, *months], ignore_index=True), state.applied_at)
        rejected = periods.as_committed(malformed, state.applied_at)
        if state.commit and state.reading_rules == READING_RULES and len(self._problems) == before:
            self._check_commit(state, stops, rejected, kept)
            if len(self._problems) == before:
                made = derive.suppression_list(periods.open_rows(stops), periods.open_rows(rejected))
                self._check_derived(schema.SUPPRESSION_LIST, state, made.numbers, made.unreadable_rows)
                self._check_derived(schema.STOPS_PER_DAY, state, derive.stops_per_day(stops))
        return Verified(account, len(months), len(stops), _remarks(state), tuple(self._problems))

    def _note(self, file: str, problem: str) -> None:
        self._problems.append(f"{file} {problem}.")

    def _attempt(self, file: str, read: Callable[[], Value]) -> Value | None:
        """The result of `read`; None if the file cannot be read, which is noted."""
        try:
            with reading(self._store.files.shown(file)):
                return read()
        except StoreError as error:
            self._problems.append(str(error))
            return None

    def _read(
        self, file: str, table: schema.TableSchema, state: State | None = None
    ) -> tuple[pd.DataFrame, dict[str, Any]] | None:
        """The rows of a file and the note in its footer; None if there is a problem with it, which is noted."""

        def read() -> tuple[pa.Table, dict[str, Any]]:
            with self._store.open_committed(file, state or State()) as source, pq.ParquetFile(source) as parquet:
                return parquet.read(), note_of(parquet.metadata)

        if state is None and not self._store.files.exists(file):
            self._note(file, f"is missing: {REMADE}")
            return None
        found = self._attempt(file, read)
        if found and not found[0].schema.remove_metadata().equals(table.arrow):
            self._note(file, f"does not have the columns that {table.name} declares: {RESTORE}")
            return None
        return found and (schema.to_pandas(as_declared(found[0], table)), found[1])

    def _look_for_strays(self, state: State) -> None:
        """Files that this package did not write; those that belong to no account are named with every account."""
        layout = _LAYOUT | ({"snapshot": _SNAPSHOT_OF_VERSION_1} if state.schema_version == 1 else {})
        for folder, names in layout.items():
            for file in self._store.files.below(folder):
                name = file.removeprefix(f"{folder}/")
                owner = re.match(rf"{_A}(?![^/.])", name)
                if file == folder:
                    self._note(file, "is a file where a folder must be: move it elsewhere, and restore the folder")
                elif (owner is None or owner[0] == f"account={self._account}") and not re.fullmatch(names, name):
                    self._note(file, "is not a file of this package: move it elsewhere")

    def _check_responses(self, newest: KeptResponse | None) -> list[KeptResponse]:
        """The kept responses whose bytes are those that were received, by fetch time."""
        folder, responses, intact = self._raw_folder, self._store.responses, []
        for raw in responses.all(self._account):
            body = self._attempt(f"{folder}/{raw.file}", partial(responses.read, self._account, raw.file))
            kept = body and KeptResponse(raw.fetched_at, hashlib.sha256(body).hexdigest(), len(body), raw.file)
            if kept and kept.sha256.startswith(raw.sha256_start):
                intact.append(kept)
            elif body is not None:
                self._note(f"{folder}/{raw.file}", f"holds other bytes than its name says: {RESTORE}")
        if newest and not self._store.files.exists(f"{folder}/{newest.file}"):
            self._note(f"{folder}/latest.json", f"names {newest.file}, which is missing: {RESTORE}")
        if newest and any(kept.file == newest.file and astuple(kept)[1:] != astuple(newest)[1:] for kept in intact):
            self._note(f"{folder}/latest.json", f"records another SHA-256 or size than its file has: {RESTORE}")
        return intact

    def _check_state(self, state: State, newest: KeptResponse | None) -> None:
        """Whether the figures of the commit agree with each other, and its times with the clock and the responses."""
        counts, withheld = state.counts, state.withheld_because is not None
        last = max((time for time in (state.applied_at, state.verified_at) if time), default=None)
        if last is None:
            if state.schema_version != 1 and self._store.files.matching(month_file(self._account, "*")):
                self._note(self._state_file, f"has no commit, but there are months of stops: {RESTORE}")
        elif last > datetime.now(UTC) + CLOCK_TOLERANCE:
            self._note(self._state_file, f"records a sync at {last}, in the future: set this machine's clock")
        elif newest is None or last > newest.fetched_at:
            self._note(self._state_file, f"records a response fetched at {last}, later than any kept: {RESTORE}")
        elif state.complete != (last == state.verified_at):
            self._note(self._state_file, f"has a verified_at that does not fit its applied_at: {RESTORE}")
        elif (
            state.rows != counts.listed + state.duplicates + state.rejected
            or counts.listed != counts.unchanged + counts.new + counts.changed + counts.restored
            or (counts.withheld > 0, state.withheld_from is not None) != (withheld, withheld)
        ):
            self._note(self._state_file, f"has counts that contradict each other: {RESTORE}")

    def _check_snapshot(self, state: State) -> None:
        """Whether the snapshot holds the rows that it records."""
        file = SNAPSHOT_FILE.format(self._account)
        if state.schema_version == 1 or state.commit is None:
            return
        found = self._read(file, schema.STOP_SNAPSHOT)
        info = found and self._attempt(file, partial(SnapshotInfo.from_json, found[1]))
        if found and info:
            listed = found[0][found[0]["raw"].isna()]
            months = {month: periods.fingerprint(rows) for month, rows in periods.split_by_month(listed).items()}
            recorded = info.listed + info.rejected if info.builds_on is None else len(listed)
            if months != info.months or len(found[0]) != recorded:
                self._note(file, f"holds other rows than it records: remove it, and {REMADE}")

    def _check_commits(self, state: State) -> None:
        """Whether the record of merged responses ends with the one of the commit."""
        file = table_file(schema.COMMITS.name, self._account)
        merged = self._attempt(file, lambda: self._store.read_commits(self._account, state))
        if merged is not None and len(merged):
            last = (state.applied_at, state.sha256, state.rows, state.complete, state.withheld_because is not None)
            if tuple(merged.iloc[-1]) != last or not merged["merged_at"].is_monotonic_increasing:
                self._note(file, f"holds other responses than the commit records: {RESTORE}")

    def _check_periods(self, state: State) -> tuple[list[pd.DataFrame], pd.DataFrame]:
        """The months of `stops` that can be read, each as its file has it, and the malformed rows."""
        rejected = table_file(schema.REJECTED.name, self._account)
        recorded = {month_file(self._account, month): info for month, info in state.months.items()}
        recorded |= {rejected: state.rejected_file} if state.rejected_file else {}
        published = [*self._store.files.matching(month_file(self._account, "*")), *self._store.files.matching(rejected)]
        tables = {}
        # A staged file that is not recorded is none: the commit removes the published one.
        for file in sorted({*recorded, *(file for file in published if file not in state.staged)}):
            found = self._read(file, schema.REJECTED if file == rejected else schema.STOPS, state)
            if found is not None:
                tables[file] = found[0]
                problem = _misfit(file, *found, state, recorded.get(file))
                if problem is not None:
                    self._note(file, problem)
        malformed = tables.pop(rejected, schema.REJECTED.empty)
        return [*tables.values()], malformed

    def _check_commit(
        self, state: State, stops: pd.DataFrame, rejected: pd.DataFrame, kept: list[KeptResponse]
    ) -> None:
        """Whether the tables hold what the commit counts and its response lists."""
        standing, malformed = periods.open_rows(stops), periods.open_rows(rejected)
        doubled, counts = int(standing["id"].duplicated().sum()), state.counts
        if doubled > counts.withheld or doubled != state.doubled_open_ids:
            what = _count(doubled, "open row")
            self._note(self._stops_folder, f"holds {what} beyond the first of their id: {RESTORE}")
        elif len(standing) != counts.listed + counts.withheld:
            recorded = f"{counts.listed:,} listed and {counts.withheld:,} withheld"
            self._note(self._stops_folder, f"holds {len(standing):,} open rows, not the {recorded}: {RESTORE}")
        if len(malformed) != state.rejected and (len(malformed) < state.rejected or not counts.withheld):
            file = table_file(schema.REJECTED.name, self._account)
            self._note(file, f"holds {len(malformed):,} open rows, not the {state.rejected:,} of the commit: {RESTORE}")
        snapshot = self._parse_committed(state, kept)
        if snapshot is not None:  # the columns that no fingerprint covers are compared as well
            side = snapshot.listed.merge(standing[list(schema.LISTED.names)], how="left", indicator=True)
            if len(missing := side[side["_merge"] == "left_only"]):
                what = f"lacks {_count(len(missing), 'row')} of {', '.join(periods.split_by_month(missing))}"
                self._note(self._stops_folder, f"{what} as the last response lists them: {RESTORE}")

    def _parse_committed(self, state: State, kept: list[KeptResponse]) -> Snapshot | None:
        """The response that the commit was made from; None if it cannot be read, or has other rows than it records."""
        files = [response for response in kept if response.sha256 == state.sha256]
        if not files:
            self._note(self._raw_folder, f"lacks the commit's response, SHA-256 {state.sha256}: {RESTORE}")
        if not files or state.applied_at is None or not self._store.files.is_writable():
            return None  # it is unpacked inside the data root, and nowhere else
        file = f"{self._raw_folder}/{files[-1].file}"
        try:
            document = open_list(self._store.responses.unpack(self._account, files[-1]), files[-1].format)
            snapshot = parse(document, fetched_at=state.applied_at, timezone=state.settings["timezone"])
        except ApiError as error:
            self._note(file, f"cannot be parsed, though it was merged: {str(error).removesuffix('.')}")
            return None
        if (snapshot.rows, len(snapshot.rejected)) == (state.rows, state.rejected):
            return snapshot
        self._note(file, f"holds {_count(snapshot.rows, 'row')}, but the commit records {state.rows:,}: {RESTORE}")
        return None

    def _check_derived(
        self, table: schema.TableSchema, state: State, expected: pd.DataFrame, unreadable_rows: int = 0
    ) -> None:
        """Whether a derived table is that of the commit, row by row."""
        file = table_file(table.name, self._account)
        found = self._read(file, table)
        info = found and self._attempt(file, lambda: DerivedInfo(rows=len(found[0]), **found[1]))
        if found and info and (info.commit, info.reading_rules) != (state.commit, state.reading_rules):
            self._note(file, f"is of the commit {info.commit}, not of {state.commit}: {REMADE}")
        elif found and info and not (found[0].equals(expected) and info.unreadable_rows == unreadable_rows):
            self._note(file, f"holds other rows than stops and rejected give; one of them was altered: {RESTORE}")


def _misfit(
    file: str, rows: pd.DataFrame, note: dict[str, Any], state: State, recorded: MonthInfo | None
) -> str | None:
    """What is wrong with a file of `stops` or `rejected`; None if it holds what the commit records and nothing else."""
    committed = periods.as_committed(rows, state.applied_at)
    recorded = recorded or periods.month_info(rows.iloc[:0])
    is_month = "created_month=" in file
    order = periods.STOPS_ORDER if is_month else periods.REJECTED_ORDER
    astray = [month for month in (periods.split_by_month(rows) if is_month else ()) if f"={month}/" not in file]
    problem = None
    if astray:
        problem = f"holds rows of {', '.join(astray)}: {RESTORE}"
    elif not rows.sort_values(order, ignore_index=True).equals(rows):
        problem = f"is not sorted by {', '.join(order)}: {RESTORE}"
    elif (rows["removed_at"] <= rows["first_seen_at"]).any():
        problem = f"holds rows that end before they begin: {RESTORE}"
    elif not is_month and not rows["reason"].isin(schema.REASONS).all():
        problem = f"holds reasons that this package does not give: {RESTORE}"
    elif state.schema_version == 1 or state.commit is None:
        pass  # nothing is recorded to compare it with
    elif periods.month_info(committed) != recorded:
        counts = f"{_count(len(committed), 'row')}, but not the {_count(recorded.rows, 'row')}"
        problem = f"holds {counts} that the commit records: {RESTORE}"
    elif not committed.equals(rows):
        problem = f"holds rows from after the commit, {state.applied_at}: the next sync removes them"
    elif note.get("fingerprint", recorded.fingerprint) != recorded.fingerprint:
        problem = f"has a footer that does not fit its rows: {RESTORE}"
    return problem


def _remarks(state: State) -> tuple[str, ...]:
    """What the next sync will do before it merges."""
    killed = ("a sync was killed after its commit, and the next one moves its files into place",)
    if state.schema_version == 1:
        return ("an earlier version of stop_pipeline wrote this, and the next sync upgrades it",)
    outdated = state.commit is not None and state.reading_rules != READING_RULES
    return killed * bool(state.staged) + ("the next sync reads the rows again by this version's rules",) * outdated


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)
