"""How tables become files and tables again.

What belongs here: the Parquet settings, what is noted in a file's footer, and which files are read for a question. What
does not: what a tick changes (`merge`), what was committed (`store`), and where a file lies (`layout`).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stop_pipeline.columns import as_numpy, as_time, constant, no_rows, strings
from stop_pipeline.errors import StoreError
from stop_pipeline.files import Content, Files
from stop_pipeline.footers import METADATA_KEY, as_json, note_in
from stop_pipeline.layout import NO_MONTH, month_file, month_of, single_file, snapshot_file
from stop_pipeline.model import Figures, SnapshotChange, SnapshotInfo
from stop_pipeline.periods import as_committed, fingerprint, open_rows
from stop_pipeline.schema import (
    ACCOUNT,
    CREATED_MONTH,
    LISTED,
    REJECTED,
    REJECTED_ROWS,
    STOP_SNAPSHOT,
    STOPS,
    TableSchema,
)
from stop_pipeline.threads import in_threads

_ROW_GROUP_ROWS = 131_072
_READ_ATTEMPTS = 10
_DICTIONARY_COLUMNS = ("country", "first_seen_at", "removed_at", "reason", "origin", "snapshot_sha256")
_DELTA_COLUMNS = ("id", "created_at", "created_at_local", "first_stop_at", "last_stop_at", "stop_count")


@dataclasses.dataclass(frozen=True)
class MonthInfo:
    """What the footer of a month's file says.

    Attributes:
        fingerprint: Of its open rows (`periods.fingerprint`).
        open_rows: Periods that have not ended.
        rows: All periods.
        nulls: Nulls in `id`, `phone_number` and `created_at`.
        first_seen_at: When a row was first first seen.
        changed_at: When a row was last first seen or ended.
        id_range: The smallest and the largest `id`.
    """

    fingerprint: str
    open_rows: int
    rows: int
    nulls: int
    first_seen_at: datetime
    changed_at: datetime
    id_range: tuple[int, int]


class Tables:
    """The tables below one data root.

    Every method that writes is to be called under the account's lock. Times are timezone-aware UTC.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    # The newest answer, parsed

    def read_listed(self, account: str, info: SnapshotInfo, month: str) -> pa.Table:
        """The snapshot's good rows of one month (`schema.LISTED`), sorted; none if it has none of that month.

        Raises:
            StoreError: the file is not that of this snapshot, as where a backup brought back a part of one.
        """
        if month not in info.months:
            return LISTED.empty
        name = snapshot_file(account, month)
        with self.files.reading(name), self.files.open(name) as source, pq.ParquetFile(source) as file:
            rows = _columns(file, LISTED.arrow)
            written = note_in(file.metadata.metadata)
        if written.get("fingerprint") != info.months[month]:
            raise self._of_another_answer(account, month)
        return rows

    def read_malformed(self, account: str) -> pa.Table:
        """The snapshot's malformed rows (`schema.REJECTED_ROWS`), sorted."""
        return self._read_table(snapshot_file(account, NO_MONTH), REJECTED_ROWS.arrow)

    def lists_any(self, account: str, info: SnapshotInfo, ids: pa.Array) -> bool:
        """Whether any of these ids is among the snapshot's good rows; only a month that may hold one is read.

        Raises:
            StoreError: the files are not those of this snapshot.
        """
        footers = self.files.footers(snapshot_file(account, "*"))
        months = {month_of(name): footer for name, footer in footers.items() if month_of(name) != NO_MONTH}
        for month, footer in months.items():
            with self.files.reading(snapshot_file(account, month)):
                if note_in(footer.metadata) != {"fingerprint": info.months.get(month), "timezone": info.timezone}:
                    raise self._of_another_answer(account, month)
        if months.keys() != info.months.keys():
            raise self._of_another_answer(account, NO_MONTH)
        id_ranges = {month: _id_range(footer) for month, footer in months.items()}
        return any_held(ids, id_ranges, lambda month: self.read_listed(account, info, month))

    def _of_another_answer(self, account: str, month: str) -> StoreError:
        return StoreError(
            f"{self.files.shown(snapshot_file(account, month))} is of another answer than the rest of the snapshot: "
            f"remove the folder snapshot/account={account}, and the next tick parses anew."
        )

    def write_snapshot(self, account: str, change: SnapshotChange) -> SnapshotInfo:
        """Replace the snapshot; a month in which nothing changed keeps its file. Gives its info with all its months.

        The malformed rows go first and come last, for their file says what the whole snapshot is: where a run is killed
        in between, there is none, and the next one parses anew.
        """
        info = change.info
        before = {month_of(name) for name in self.files.matching(snapshot_file(account, "*"))}
        self.files.remove(snapshot_file(account, NO_MONTH))

        listed = {month: rows for month, rows in change.months.items() if len(rows)}
        written = dict(zip(listed, in_threads(fingerprint, listed.values()), strict=True))

        def content(month: str) -> Content | None:
            metadata = {"fingerprint": written[month], "timezone": info.timezone}
            name = snapshot_file(account, month)
            stood = (self._read_footer(name).metadata or {}).get(METADATA_KEY) if month in before else None
            if stood == as_json(metadata).encode():
                return None
            return name, _encoded(_conformed(listed[month], STOP_SNAPSHOT), STOP_SNAPSHOT, metadata)

        self.files.write_each(account, content, listed)
        fingerprints = dict(info.months) | written
        for month in before - fingerprints.keys() - {NO_MONTH}:
            self.files.remove(snapshot_file(account, month))
        info = dataclasses.replace(info, months=dict(sorted(fingerprints.items())))
        malformed = _conformed(change.rejected, STOP_SNAPSHOT)
        self._write_table(account, snapshot_file(account, NO_MONTH), malformed, STOP_SNAPSHOT, dataclasses.asdict(info))
        return info

    # Opt-outs and malformed rows

    def months(self, account: str) -> dict[str, MonthInfo]:
        """Every month that has a file, with what its footer says."""
        footers = self.files.footers(month_file(account, "*"))
        return {month_of(name): self._month_info(name, footer) for name, footer in footers.items()}

    def figures(self, account: str) -> Figures:
        """The figures of `stops`, as its files tell, of which no id is open twice."""
        return figures_of(self.months(account))

    def month_names(self, account: str) -> list[str]:
        """Every month that has a file, in order."""
        return [month_of(name) for name in self.files.matching(month_file(account, "*"))]

    def read_month(self, account: str, month: str) -> pa.Table:
        """All periods (`schema.STOPS`) of a month, sorted; a month without a file has no rows."""
        return self._read_if_any(month_file(account, month), STOPS.arrow)

    def scan_stops(self, account: str, *, columns: list[str], condition: pc.Expression | None) -> pa.Table:
        """Some columns of the periods that meet a condition, hive keys included; months that cannot are not read."""
        folder = f"stops/account={account}"
        keys = pa.schema([ACCOUNT.field, CREATED_MONTH.field])
        months = None if condition is None else self._months_meeting(account, condition)
        if months is not None and not {*keys.names} & {*columns}:
            schema = pa.schema([STOPS.arrow.field(name) for name in columns])
            tables = self.files.each(lambda month: self._read_if_any(month_file(account, month), schema), months)
            return pa.concat_tables([no_rows(schema), *tables])
        schema = pa.schema([*STOPS.arrow, *keys])
        # A month that a killed tick began can vanish between the listing and the read, when the next takes it back.
        with self.files.reading(folder):
            for _ in range(_READ_ATTEMPTS - 1):
                with suppress(FileNotFoundError):
                    return self.files.scan(folder, schema, keys, columns, condition)
            return self.files.scan(folder, schema, keys, columns, condition)

    def _months_meeting(self, account: str, condition: pc.Expression) -> list[str] | None:
        """The months whose rows all meet a condition, where no other row does; None if it is not on the keys alone."""
        folders = self.files.matching(f"stops/account={account}/created_month=*")
        months = [folder.rpartition("=")[2] for folder in folders]
        keys = {ACCOUNT.name: constant(account, len(months)), CREATED_MONTH.name: strings(months)}
        with suppress(pa.ArrowInvalid):
            return list(pa.table(keys).filter(condition)[CREATED_MONTH.name].to_pylist())
        return None

    def stops_columns(
        self,
        account: str,
        columns: Iterable[str],
        *,
        months: Iterable[str] = ("*",),
        each: Callable[[pa.Table], pa.Table] | None = None,
    ) -> pa.Table:
        """Some columns of the periods of some months, or of all; of each month what `each` makes of it.

        The columns are in the order of `schema.STOPS`.
        """
        names = [name for name in STOPS.names if name in set(columns)]
        schema = pa.schema([STOPS.arrow.field(name) for name in names])

        def read(file: str) -> pa.Table:
            rows = self._read_table(file, schema)
            return each(rows) if each else rows

        files = [file for month in months for file in self.files.matching(month_file(account, month))]
        return pa.concat_tables([no_rows(schema), *self.files.each(read, files)])

    def write_months(
        self, account: str, months: Iterable[str], periods: Callable[[str], pa.Table]
    ) -> dict[str, MonthInfo]:
        """Replace the file of each month by what `periods` gives for it, sorted; without any, remove it.

        Gives what the footers of the new files say.
        """
        written: dict[str, MonthInfo] = {}

        def content(month: str) -> Content | None:
            name, rows = month_file(account, month), periods(month)
            if not rows.num_rows:
                self.files.remove(name)
                return None
            standing = open_rows(rows)
            metadata = {"fingerprint": fingerprint(standing), "open_rows": standing.num_rows}
            data = _encoded(rows, STOPS, metadata)
            written[month] = self._month_info(name, pq.read_metadata(pa.BufferReader(data)))
            return name, data

        self.files.write_each(account, content, months)
        return written

    def read_rejected(self, account: str) -> pa.Table:
        """All periods of malformed rows (`schema.REJECTED`), sorted; empty before the first."""
        return self._read_if_any(single_file(REJECTED.name, account), REJECTED.arrow)

    def write_rejected(self, account: str, periods: pa.Table) -> None:
        """Replace the malformed rows; without any, remove their file."""
        name = single_file(REJECTED.name, account)
        if periods.num_rows:
            self._write_table(account, name, periods, REJECTED, {})
        else:
            self.files.remove(name)

    def take_back(self, account: str, months: Iterable[str], applied_at: datetime | None) -> None:
        """Leave of these months, and of the malformed rows, what was committed by then."""
        self.write_months(account, months, lambda month: as_committed(self.read_month(account, month), applied_at))
        self.write_rejected(account, as_committed(self.read_rejected(account), applied_at))

    # What is made from a commit

    def read_derived(self, schema: TableSchema, account: str) -> pa.Table:
        """A derived table; empty before the first tick."""
        return self._read_if_any(single_file(schema.name, account), schema.arrow)

    def write_derived(self, schema: TableSchema, account: str, table: pa.Table, commit: str) -> None:
        """Replace a derived table, marked with the commit that it was made from."""
        self._write_table(account, single_file(schema.name, account), table, schema, {"commit": commit})

    def _write_table(
        self, account: str, name: str, table: pa.Table, schema: TableSchema, metadata: Mapping[str, Any]
    ) -> None:
        self.files.write(account, name, _encoded(table, schema, metadata))

    def _read_table(self, name: str, schema: pa.Schema) -> pa.Table:
        with self.files.reading(name), self.files.open(name) as source, pq.ParquetFile(source) as file:
            return _columns(file, schema)

    def _read_if_any(self, name: str, schema: pa.Schema) -> pa.Table:
        """The columns of `schema`, without rows if there is no such file."""
        with self.files.reading(name):
            try:
                with self.files.open(name) as source, pq.ParquetFile(source) as file:
                    return _columns(file, schema)
            except FileNotFoundError:
                return no_rows(schema)

    def _month_info(self, name: str, footer: pq.FileMetaData) -> MonthInfo:
        with self.files.reading(name):
            written = note_in(footer.metadata)
            statistics = {
                name: [footer.row_group(group).column(position).statistics for group in range(footer.num_row_groups)]
                for position, name in enumerate(STOPS.names)
            }
        return MonthInfo(
            fingerprint=written["fingerprint"],
            open_rows=written["open_rows"],
            rows=footer.num_rows,
            nulls=sum(group.null_count for name in ("id", "phone_number", "created_at") for group in statistics[name]),
            first_seen_at=as_time(min(group.min_raw for group in statistics["first_seen_at"])),
            changed_at=as_time(
                max(
                    group.max_raw
                    for name in ("first_seen_at", "removed_at")
                    for group in statistics[name]
                    if group.has_min_max
                )
            ),
            id_range=_id_range(footer),
        )

    def _read_footer(self, name: str) -> pq.FileMetaData:
        with self.files.reading(name):
            return pq.read_metadata(pa.BufferReader(self.files.footer(name)))


def _encoded(table: pa.Table, schema: TableSchema, metadata: Mapping[str, Any]) -> pa.Buffer:
    """A table as the bytes of a Parquet file, with something written into its footer."""
    table = table.select(schema.names).cast(schema.arrow).replace_schema_metadata({METADATA_KEY: as_json(metadata)})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        use_dictionary=[column for column in _DICTIONARY_COLUMNS if column in schema.names],
        column_encoding={column: "DELTA_BINARY_PACKED" for column in _DELTA_COLUMNS if column in schema.names},
    ) as writer:
        for start in range(0, max(1, len(table)), _ROW_GROUP_ROWS):
            # Each in one chunk: how a table came about must not show in its file's pages.
            writer.write_table(table.slice(start, _ROW_GROUP_ROWS).combine_chunks())
    return sink.getvalue()


def _columns(file: pq.ParquetFile, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`.

    Raises:
        ArrowException, ValueError: the file lacks one, or has another type.
    """
    return file.read(schema.names).replace_schema_metadata().cast(schema)


def _id_range(footer: pq.FileMetaData) -> tuple[int, int]:
    """The smallest and the largest `id` of a month's file, of which it is the first column."""
    ids = [footer.row_group(group).column(0).statistics for group in range(footer.num_row_groups)]
    return min(group.min for group in ids), max(group.max for group in ids)


def figures_of(months: Mapping[str, MonthInfo], *, doubled_open_ids: int = 0) -> Figures:
    """The figures of the table, from the footers of its months."""
    return Figures(
        rows=sum(month.rows for month in months.values()),
        open_rows=sum(month.open_rows for month in months.values()),
        doubled_open_ids=doubled_open_ids,
        nulls=sum(month.nulls for month in months.values()),
    )


def any_held(ids: pa.Array, id_ranges: Mapping[str, tuple[int, int]], read_month: Callable[[str], pa.Table]) -> bool:
    """Whether any of these ids is in one of some months; only a month that may hold one is read.

    Args:
        ids: Which.
        id_ranges: The smallest and the largest id of each month.
        read_month: Gives the rows of a month.
    """
    return any(
        may_hold(id_range, ids) and pc.any(pc.is_in(read_month(month)["id"], value_set=ids)).as_py()
        for month, id_range in id_ranges.items()
    )


def may_hold(id_range: tuple[int, int], ids: pa.Array) -> bool:
    """Whether any of these ids lies in a range."""
    smallest, largest = id_range
    sought = as_numpy(ids)
    return bool(((smallest <= sought) & (sought <= largest)).any())


def _conformed(table: pa.Table, schema: TableSchema) -> pa.Table:
    """`table` with the columns of `schema`; those that it lacks are null."""
    columns = [
        table[column.name] if column.name in table.column_names else pa.nulls(table.num_rows, column.field.type)
        for column in schema.columns
    ]
    return pa.Table.from_arrays(columns, names=schema.names).cast(schema.arrow)
