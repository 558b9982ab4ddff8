"""Whether what lies below a data root holds together.

What belongs here: reading every file of an account anew, and a sentence for each thing that is off. What does not:
mending it (the next tick, or a backup), and what files should hold in the first place (`schema`, `merge`, `derive`).

A sentence names files, counts, months and times; never a phone number or a key. Where a file cannot be read, what it
would have been compared with is left alone: one damage, one sentence.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stop_pipeline import derive
from stop_pipeline.errors import ApiError, StoreError
from stop_pipeline.files import damage_if
from stop_pipeline.footers import note_in
from stop_pipeline.layout import NO_MONTH, month_file, snapshot_file
from stop_pipeline.model import REASONS, Landed, SnapshotInfo, State
from stop_pipeline.periods import REJECTED_ORDER, STOPS_ORDER, as_committed, fingerprint, is_after, months_of, open_rows
from stop_pipeline.schema import LISTED, REJECTED, STOP_SNAPSHOT, STOPS, STOPS_PER_DAY, SUPPRESSION_LIST, TableSchema
from stop_pipeline.snapshot import parse
from stop_pipeline.store import Store

Value = TypeVar("Value")

RESTORE = "restore it from a backup"

_ROW = ["id", "phone_number", "created_at_local"]
_A = r"account=[a-z][a-z0-9_]*"
_LAYOUT = {
    "raw": rf"{_A}/(latest\.json|[0-9]{{8}}T[0-9]{{6}}\.[0-9]{{6}}Z-[0-9a-f]{{12}}\.(json|xml)\.zst)",
    "snapshot": rf"{_A}/created_month=([0-9]{{4}}-[0-9]{{2}}|{NO_MONTH})/stop_snapshot\.parquet",
    "stops": rf"{_A}/created_month=[0-9]{{4}}-[0-9]{{2}}/stops\.parquet",
    "rejected": rf"{_A}/rejected\.parquet",
    "suppression_list": rf"{_A}/suppression_list\.parquet",
    "stops_per_day": rf"{_A}/stops_per_day\.parquet",
    "state": rf"{_A}\.json",
}
"""The names that files have in each folder of the data root; any other is a stray."""


@dataclass(frozen=True)
class Finding:
    """One thing that is off.

    Attributes:
        account: Whose data it was found with.
        file: The file or folder, relative to the data root.
        sentence: What is off, as a sentence that names the file.
    """

    account: str
    file: str
    sentence: str


@dataclass(frozen=True)
class Verified:
    """What was read of one account, and what is off.

    Attributes:
        account: Its name.
        months: Month files of `stops`.
        rows: Periods in them, as of the commit.
        pending: Whether a tick was killed while it wrote; the next one takes back what it left, which is not off.
        findings: What is off; empty if nothing is.
    """

    account: str
    months: int
    rows: int
    pending: bool
    findings: tuple[Finding, ...]


def verify(store: Store, account: str) -> Verified:
    """Read everything of `account` under its lock, so that no tick writes meanwhile.

    On a data root that this process may not write, such as a backup, it is read without the lock.

    Raises:
        StoreError: another process held the lock for too long.
    """
    with store.locked(account) if store.files.is_writable() else nullcontext():
        return _Inspection(store, account).run()


class _Inspection:
    """One account's reading: each method looks at one folder, or compares two, and notes what is off."""

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self._account = account
        self._findings: list[Finding] = []

    def run(self) -> Verified:
        """Look at everything."""
        store, account = self._store, self._account
        self._strays()
        state = self._attempt(f"state/account={account}.json", lambda: store.state(account))
        newest = self._attempt(f"raw/account={account}/latest.json", lambda: store.newest_answer(account))
        landed = self._raw(newest)
        snapshot = self._snapshot()
        before = len(self._findings)
        months, rejected = self._stops(), self._rejected()
        tables_hold = len(self._findings) == before
        stops = pa.concat_tables([STOPS.empty, *months.values()])
        if state is not None:
            self._state(state, newest)
            self._uncommitted(state, months, rejected)
            stops, rejected = as_committed(stops, state.applied_at), as_committed(rejected, state.applied_at)
            if state.commit is not None:
                if not store.files.exists(snapshot_file(account, NO_MONTH)):
                    self._note(snapshot_file(account, NO_MONTH), "is missing: the next tick makes it")
                self._last_answer(state, landed)
                if tables_hold and self._committed(state, stops, rejected, snapshot):
                    self._derived(SUPPRESSION_LIST, state.commit, derive.suppression_list(stops, rejected))
                    self._derived(STOPS_PER_DAY, state.commit, derive.stops_per_day(stops))
        pending = state is not None and state.pending is not None
        return Verified(account, len(months), stops.num_rows, pending, tuple(self._findings))

    def _note(self, file: str, problem: str) -> None:
        self._findings.append(Finding(self._account, file, f"{file} {problem}."))

    def _attempt(self, file: str, read: Callable[[], Value]) -> Value | None:
        """What `read` gives; None if the file cannot be read, which is noted."""
        try:
            with self._store.files.reading(file, (*damage_if(None), TypeError)):
                return read()
        except StoreError as error:
            self._findings.append(Finding(self._account, file, str(error)))
            return None

    def _file(self, table: TableSchema) -> str:
        return f"{table.name}/account={self._account}/{table.name}.parquet"

    def _read(self, file: str, schema: TableSchema) -> tuple[pa.Table, dict[str, Any]] | None:
        """A file's rows and what its footer says; None if that is noted as off."""

        def read() -> tuple[pa.Table, dict[str, Any]]:
            with self._store.files.open(file) as source, pq.ParquetFile(source) as parquet:
                return parquet.read(), note_in(parquet.metadata.metadata)

        found = self._attempt(file, read)
        if found is not None and not found[0].schema.remove_metadata().equals(schema.arrow):
            self._note(file, f"has not the columns that the schema of {schema.name} declares: {RESTORE}")
            return None
        return found and (found[0].replace_schema_metadata(), found[1])

    def _strays(self) -> None:
        """Files that are none of this package's; of those that belong to no account, all."""
        for folder, names in _LAYOUT.items():
            for file in self._store.files.below(folder):
                name = file.removeprefix(f"{folder}/")
                owner = re.match(rf"{_A}(?![^/.])", name)
                ours = owner is None or owner[0] == f"account={self._account}"
                if ours and not re.fullmatch(names, name):
                    self._note(file, "is no file of this package: move it elsewhere")

    def _raw(self, newest: Landed | None) -> list[Landed]:
        """The answers whose bytes are those that landed, in order of fetch time."""
        folder, whole = f"raw/account={self._account}", []
        for answer in self._store.answers(self._account):
            file = f"{folder}/{answer.file}"
            body = self._attempt(file, functools.partial(self._store.read_answer, self._account, answer.file))
            if body is None:
                continue
            landed = Landed(answer.fetched_at, hashlib.sha256(body).hexdigest(), len(body), answer.file)
            if landed.sha256.startswith(answer.sha256_start):
                whole.append(landed)
            else:
                self._note(file, f"holds other bytes than its name tells: {RESTORE}")
        if newest and not self._store.files.exists(f"{folder}/{newest.file}"):
            self._note(f"{folder}/latest.json", f"names {newest.file}, which is not there: {RESTORE}")
        for landed in whole:
            if (
                newest
                and landed.file == newest.file
                and dataclasses.replace(landed, fetched_at=newest.fetched_at) != newest
            ):
                self._note(f"{folder}/latest.json", f"tells another SHA-256 or size than its file has: {RESTORE}")
        return whole

    def _has_landed(self, sha256: str) -> bool:
        return any(sha256.startswith(answer.sha256_start) for answer in self._store.answers(self._account))

    def _snapshot(self) -> tuple[SnapshotInfo, pa.Table] | None:
        """What the snapshot is, and its good rows; None if there is none, or it is off."""
        file = snapshot_file(self._account, NO_MONTH)
        info = self._attempt(file, lambda: self._store.snapshot_info(self._account))
        found = self._read(file, STOP_SNAPSHOT) if info is not None else None
        if info is None or found is None:
            return None
        before = len(self._findings)
        months = {month: self._listed(info, month) for month in info.months}
        if len(self._findings) > before:
            return None
        listed = pa.concat_tables([LISTED.empty, *months.values()])
        files = self._store.files.matching(snapshot_file(self._account, "*"))
        if (
            (listed.num_rows, found[0].num_rows) != (info.listed, info.rejected)
            or info.rows != info.listed + info.rejected + info.duplicates
            or len(files) != len(months) + 1
        ):
            self._note(file, "tells other months or rows than there are: remove it, and the next tick parses anew")
            return None
        if not self._has_landed(info.sha256):
            self._note(file, f"is of an answer that is not below raw, {info.sha256}: {RESTORE}")
        return info, listed

    def _listed(self, info: SnapshotInfo, month: str) -> pa.Table:
        """One month of the snapshot's good rows; none if that is noted as off."""
        file = snapshot_file(self._account, month)
        found = self._read(file, STOP_SNAPSHOT)
        listed = None if found is None else found[0].select(LISTED.names).cast(LISTED.arrow)
        if listed is None or fingerprint(listed) == info.months[month]:
            return listed
        self._note(file, "holds other rows than the snapshot tells: remove the folder, and the next tick parses anew")
        return LISTED.empty

    def _stops(self) -> dict[str, pa.Table]:
        """Every month that can be read."""
        months = {}
        for file in self._store.files.matching(month_file(self._account, "*")):
            month = file.split("/")[-2].removeprefix("created_month=")
            found = self._read(file, STOPS)
            if found is None:
                continue
            months[month], footer = found
            standing = open_rows(months[month])
            astray = [other for other in months_of(months[month]) if other != month]
            if astray:
                self._note(file, f"holds rows of {', '.join(astray)}: {RESTORE}")
            elif self._periods_hold(file, months[month], STOPS_ORDER) and (
                footer.get("fingerprint"),
                footer.get("open_rows"),
            ) != (fingerprint(standing), standing.num_rows):
                self._note(file, f"holds other open rows than the fingerprint in its footer tells: {RESTORE}")
        return months

    def _rejected(self) -> pa.Table:
        file = self._file(REJECTED)
        found = self._read(file, REJECTED) if self._store.files.exists(file) else None
        if found is None:
            return REJECTED.empty
        if self._periods_hold(file, found[0], REJECTED_ORDER) and set(found[0]["reason"].to_pylist()) - set(REASONS):
            self._note(file, f"gives reasons that are none of the closed set: {RESTORE}")
        return found[0]

    def _periods_hold(self, file: str, periods: pa.Table, order: Sequence[str]) -> bool:
        if not periods.sort_by([(name, "ascending") for name in order]).equals(periods):
            self._note(file, f"is not sorted by {', '.join(order)}: {RESTORE}")
            return False
        if pc.any(pc.less_equal(periods["removed_at"], periods["first_seen_at"])).as_py():
            self._note(file, f"holds rows that end before they begin: {RESTORE}")
            return False
        return True

    def _state(self, state: State, newest: Landed | None) -> None:
        """Whether the commit's own figures agree, and with what landed."""
        file, counts = f"state/account={self._account}.json", state.counts
        if state.rows != counts.listed + state.duplicates + state.rejected:
            self._note(
                file,
                f"tells {state.rows:,} rows in the last answer, but {counts.listed:,} kept + {state.duplicates:,} "
                f"duplicates + {state.rejected:,} rejected: {RESTORE}",
            )
        if counts.listed != counts.unchanged + counts.new + counts.changed + counts.restored:
            self._note(file, f"tells counts that do not add up to {counts.listed:,} listed: {RESTORE}")
        if (counts.withheld == 0) != (state.withheld_because is None):
            self._note(file, f"tells {counts.withheld:,} removals withheld, and not why, or why without any: {RESTORE}")
        if state.withheld_because is None and state.withheld_from is not None:
            self._note(file, f"tells from how many rows removals were withheld, though none were: {RESTORE}")
        if state.applied_at is None:
            return
        if state.whole != (state.verified_at is not None and state.verified_at >= state.applied_at):
            self._note(file, f"tells a verified_at that does not fit its applied_at: {RESTORE}")
        last = max(time for time in (state.applied_at, state.verified_at) if time)
        if newest is None or last > newest.fetched_at:
            self._note(file, f"tells of an answer fetched at {last}, later than any that landed: {RESTORE}")

    def _uncommitted(self, state: State, months: Mapping[str, pa.Table], rejected: pa.Table) -> None:
        """Rows first seen or ended after the commit, but where a pending mark announces them."""
        announced = state.pending.months if state.pending else ()
        tables = {month_file(self._account, month): months[month] for month in months if month not in announced}
        if state.pending is None:
            tables[self._file(REJECTED)] = rejected
        for file, periods in tables.items():
            later = _later(periods, state.applied_at)
            if later:
                commit = "though nothing is committed" if state.applied_at is None else f"after {state.applied_at}"
                self._note(file, f"holds {later:,} rows first seen or ended {commit}, the commit: {RESTORE}")

    def _last_answer(self, state: State, landed: Sequence[Landed]) -> None:
        """Whether the answer that the commit was made from is there, with as many rows as the commit tells."""
        committed = [answer for answer in landed if answer.sha256 == state.sha256]
        if not self._has_landed(state.sha256 or ""):
            self._note(
                f"raw/account={self._account}", f"lacks the answer of the commit, SHA-256 {state.sha256}: {RESTORE}"
            )
        elif committed and self._store.files.is_writable():  # it is unpacked within the data root, and nowhere else
            file = f"raw/account={self._account}/{committed[-1].file}"
            try:
                rows = self._rows(committed[-1])
            except ApiError as error:
                self._note(file, f"cannot be parsed, though it is committed: {str(error).removesuffix('.')}")
            else:
                if rows != state.rows:
                    self._note(file, f"holds {rows:,} rows, and the commit tells {state.rows:,}: {RESTORE}")

    def _rows(self, landed: Landed) -> int:
        # How many rows there are depends on no zone.
        body = self._store.unpack(self._account, landed)
        return parse(body, landed.format, fetched_at=landed.fetched_at, timezone="UTC").rows

    def _committed(
        self, state: State, stops: pa.Table, rejected: pa.Table, snapshot: tuple[SnapshotInfo, pa.Table] | None
    ) -> bool:
        """Whether the tables, as of the commit, hold what the commit tells and its answer lists."""
        before = len(self._findings)
        folder, counts, standing = f"stops/account={self._account}", state.counts, open_rows(stops)
        missing = standing.slice(0, 0)
        if snapshot is not None and snapshot[0].sha256 == state.sha256:
            missing = snapshot[1].select(_ROW).join(standing.select(_ROW), _ROW, join_type="left anti")
        if missing.num_rows:
            months = ", ".join(months_of(missing))
            self._note(folder, f"lacks {missing.num_rows:,} rows of {months} that the last answer lists: {RESTORE}")
        elif standing.num_rows != counts.listed + counts.withheld:
            self._note(
                folder,
                f"holds {standing.num_rows:,} open rows, and the commit tells {counts.listed:,} listed and "
                f"{counts.withheld:,} withheld: {RESTORE}",
            )
        doubled = standing.num_rows - pc.count_distinct(standing["id"]).as_py()
        if len(self._findings) == before and stops.num_rows != state.figures.rows:
            self._note(folder, f"holds {stops.num_rows:,} rows, and the commit tells {state.figures.rows:,}: {RESTORE}")
        if doubled > counts.withheld:
            self._note(folder, f"holds {doubled:,} open rows beyond the first of their id: {RESTORE}")
        malformed = open_rows(rejected)
        ended = state.whole and state.withheld_because is None
        if malformed.num_rows < state.rejected or (ended and malformed.num_rows > state.rejected):
            self._note(
                self._file(REJECTED),
                f"holds {malformed.num_rows:,} open rows, and the commit tells {state.rejected:,}: {RESTORE}",
            )
        return len(self._findings) == before

    def _derived(self, schema: TableSchema, commit: str, expected: pa.Table) -> None:
        """Whether a derived table is that of the commit, row by row."""
        file = self._file(schema)
        if not self._store.files.exists(file):
            self._note(file, "is missing: the next tick makes it")
            return
        found = self._read(file, schema)
        if found is None:
            return
        rows, footer = found
        if footer.get("commit") != commit:
            self._note(file, f"is of the commit {footer.get('commit')}, and {commit} stands: the next tick remakes it")
        elif not rows.equals(expected):
            self._note(file, f"holds other rows than stops and rejected give, one of which is altered: {RESTORE}")


def _later(periods: pa.Table, applied_at: datetime | None) -> int:
    """How many of the periods began or ended after the commit."""
    if applied_at is None:
        return int(periods.num_rows)
    later = pc.or_(*(is_after(periods[name], applied_at) for name in ("first_seen_at", "removed_at")))
    return pc.sum(later).as_py() or 0
