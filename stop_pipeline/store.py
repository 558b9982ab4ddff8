"""Where files are, and how tables become files and tables again.

What belongs here: the layout below the data root, the Parquet settings, the commit and its pending mark. What does not:
what a tick changes (`merge`), and how bytes reach the disk (`files`) or a bucket (`objects`).

    raw/account=A/…                                    answers as received, in pieces (`frames`), and latest.json
    snapshot/account=A/created_month=YYYY-MM/stop_snapshot.parquet
                                                       the newest answer, parsed; its malformed rows are of no month
    stops/account=A/created_month=YYYY-MM/stops.parquet
    rejected/account=A/rejected.parquet
    suppression_list/account=A/suppression_list.parquet
    stops_per_day/account=A/stops_per_day.parquet
    state/account=A.json                               the commit; written last
    .work/                                             locks and temporaries
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stop_pipeline.columns import as_numpy, as_time, constant, no_rows, strings
from stop_pipeline.errors import SchemaVersionError, StoreError
from stop_pipeline.files import Content, Files, LocalFiles, readable, writable
from stop_pipeline.frames import Kept, compress, opened, unpack
from stop_pipeline.model import (
    Answer,
    Counts,
    Figures,
    Format,
    Landed,
    Pending,
    RawFile,
    SnapshotChange,
    SnapshotInfo,
    State,
)
from stop_pipeline.periods import as_committed, fingerprint, open_rows
from stop_pipeline.pieces import Piece, Span, named
from stop_pipeline.roots import is_remote
from stop_pipeline.schema import (
    ACCOUNT,
    CREATED_MONTH,
    LISTED,
    REJECTED,
    REJECTED_ROWS,
    SCHEMA_VERSION,
    STOP_SNAPSHOT,
    STOPS,
    TableSchema,
)
from stop_pipeline.threads import in_threads

METADATA_KEY = b"stop_pipeline"
NO_MONTH = "none"
"""The month of malformed rows in the snapshot; a null key, as hive would have it, is one that pandas cannot read."""

_FETCH_TIME = "%Y%m%dT%H%M%S.%fZ"
_ACCOUNT_NAME = re.compile(r"account=([a-z][a-z0-9_]*)(?:\.json)?")
_RAW_FILE = re.compile(r"([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)-([0-9a-f]{12})\.(json|xml)\.zst")
_ROW_GROUP_ROWS = 131_072
_COPY_BYTES = 1 << 20
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
        changed_at: When a row was last first seen or ended.
        id_range: The smallest and the largest `id`.
    """

    fingerprint: str
    open_rows: int
    rows: int
    nulls: int
    changed_at: datetime
    id_range: tuple[int, int]


class Store:
    """The tables below one data root.

    Every method that writes is to be called under `locked`. Times are timezone-aware UTC.
    """

    def __init__(self, root: str | Path) -> None:
        self.files: Files
        if is_remote(root):
            from stop_pipeline.objects import ObjectFiles  # noqa: PLC0415 – it loads what only a bucket needs

            self.files = ObjectFiles(str(root))
        else:
            self.files = LocalFiles(Path(root))

    @classmethod
    def existing(cls, root: str | Path) -> "Store":
        """The store of a data root that something has been written to.

        Raises:
            StoreError: there is no such folder.
        """
        store = cls(root)
        if not store.files.has_root():
            raise StoreError(
                f"There is no data root at {store.root}: run “stop-pipeline run” (or “demo”) first, or set "
                "STOP_PIPELINE_DATA (in Python, give root=…)."
            )
        return store

    @property
    def root(self) -> str:
        """The data root, absolute, as a person is told."""
        return self.files.shown()

    def locked(self, account: str) -> AbstractContextManager[None]:
        """Hold the account's lock; see `files.Files.locked`."""
        return self.files.locked(account)

    def temporary(self, account: str) -> Path:
        """A fresh path for a temporary file of the account, to be used under its lock."""
        return self.files.temporary(account)

    def uri(self, table: str, account: str) -> str:
        """The URI of the folder in which a table's files of the account lie."""
        return self.files.uri(f"{table}/account={account}")

    def accounts(self) -> list[str]:
        """The accounts that have a state."""
        return [Path(name).stem.removeprefix("account=") for name in self.files.matching("state/account=*.json")]

    def accounts_seen(self) -> list[str]:
        """The accounts that anything below the root is of, whether or not they have a state."""
        names = (name.split("/") for name in self.files.matching("*/account=*"))
        accounts = {_ACCOUNT_NAME.fullmatch(name) for folder, name in names if not folder.startswith(".")}
        return sorted({account[1] for account in accounts if account})

    # Answers as received

    def newest_answer(self, account: str) -> Landed | None:
        """The newest answer landed; None before the first."""
        name = f"raw/account={account}/latest.json"
        document = self._read_json(name)
        if document is None:
            return None
        with self.files.reading(name, (KeyError, TypeError, ValueError)):
            return Landed(**document | {"fetched_at": _time(document["fetched_at"])})

    def land(self, account: str, answer: Answer, compressed: Path | None = None) -> Landed:
        """Keep an answer's bytes, compressed; if they are those of the newest one, only its fetch time moves.

        Args:
            account: Whose.
            answer: The answer.
            compressed: A temporary file into which `compress` has put its bytes; if not given, it is done here.
        """
        newest = self.newest_answer(account)
        if newest is not None and newest.sha256 == answer.sha256:
            landed = dataclasses.replace(newest, fetched_at=answer.fetched_at)
        else:
            file = f"{answer.fetched_at:{_FETCH_TIME}}-{answer.sha256[:12]}.{answer.format}.zst"
            if compressed is None:
                compressed = self.compress(account, answer, named(answer.path, answer.format), known=None)
            with writable(compressed):
                compressed.chmod(0o600)
            self.files.adopt(compressed, f"raw/account={account}/{file}")
            landed = Landed(answer.fetched_at, answer.sha256, answer.size_bytes, file)
        self._write_json(account, f"raw/account={account}/latest.json", dataclasses.asdict(landed))
        return landed

    def compress(self, account: str, answer: Answer, pieces: Sequence[Piece], known: Kept | None) -> Path:
        """Compress an answer, which `land` then keeps; lets other threads work meanwhile.

        Args:
            account: Whose.
            answer: The answer.
            pieces: Its pieces.
            known: An answer kept before: pieces that it has as well are copied.
        """
        temporary = self.temporary(account)
        with writable(temporary):
            compress(answer.path, pieces, known, temporary)
        return temporary

    @contextmanager
    def kept(self, account: str, landed: Landed) -> Iterator[Kept | None]:
        """The pieces of a landed answer; None if they cannot be had."""
        name = f"raw/account={account}/{landed.file}"
        try:
            with self.files.reading(name):
                file = self.files.open(name)
                known = opened(file)
        except StoreError:
            yield None
            return
        with file:
            yield known

    def unpack_pieces(self, account: str, known: Kept, without: frozenset[bytes]) -> tuple[Path, list[Span]]:
        """A landed answer without some of its pieces in a temporary file, uncompressed, and where the others lie in it.

        Raises:
            StoreError: the answer is damaged.
        """
        temporary = self.temporary(account)
        with readable(temporary):
            return temporary, unpack(known, without, temporary)

    def unpack(self, account: str, landed: Landed) -> Path:
        """The landed answer's bytes in a temporary file, uncompressed."""
        temporary = self.temporary(account)
        with self._reading_answer(account, landed.file) as source, writable(temporary), temporary.open("xb") as file:
            while chunk := source.read(_COPY_BYTES):
                file.write(chunk)
        return temporary

    def read_answer(self, account: str, file: str) -> bytes:
        """The bytes of an answer kept as received, uncompressed."""
        with self._reading_answer(account, file) as source:
            return cast(bytes, source.read())

    @contextmanager
    def _reading_answer(self, account: str, file: str) -> Iterator[pa.NativeFile]:
        name = f"raw/account={account}/{file}"
        with (
            self.files.reading(name),
            self.files.open(name) as compressed,
            pa.input_stream(compressed, compression="zstd") as source,
        ):
            yield source

    def answers(self, account: str) -> list[RawFile]:
        """Every answer kept as received, in order of fetch time."""
        names = (Path(name).name for name in self.files.matching(f"raw/account={account}/*.zst"))
        return [
            RawFile(
                file=parts[0],
                fetched_at=datetime.strptime(parts[1], _FETCH_TIME).replace(tzinfo=UTC),
                sha256_start=parts[2],
                format=cast(Format, parts[3]),
            )
            for parts in map(_RAW_FILE.fullmatch, names)
            if parts
        ]

    def forget_answer(self, account: str, answer: RawFile) -> None:
        """Remove an answer kept as received."""
        self.files.remove(f"raw/account={account}/{answer.file}")

    # The newest answer, parsed

    def snapshot_info(self, account: str) -> SnapshotInfo | None:
        """What the snapshot on disk is; None before the first."""
        document = self._footer(snapshot_file(account, NO_MONTH))
        if document is None:
            return None
        with self.files.reading(snapshot_file(account, NO_MONTH), (KeyError, TypeError, ValueError)):
            return SnapshotInfo(
                **document
                | {
                    "fetched_at": _time(document["fetched_at"]),
                    "extra_fields": tuple(document["extra_fields"]),
                    "list_at": document.get("list_at") and tuple(document["list_at"]),
                }
            )

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
            written = _written(file.metadata)
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
        months = {_month_of(name): footer for name, footer in footers.items() if _month_of(name) != NO_MONTH}
        for month, footer in months.items():
            with self.files.reading(snapshot_file(account, month)):
                if _written(footer) != {"fingerprint": info.months.get(month), "timezone": info.timezone}:
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
        before = {_month_of(name) for name in self.files.matching(snapshot_file(account, "*"))}
        self.files.remove(snapshot_file(account, NO_MONTH))

        listed = {month: rows for month, rows in change.months.items() if len(rows)}
        written = dict(zip(listed, in_threads(fingerprint, listed.values()), strict=True))

        def content(month: str) -> Content | None:
            metadata = {"fingerprint": written[month], "timezone": info.timezone}
            name = snapshot_file(account, month)
            stood = (self._read_footer(name).metadata or {}).get(METADATA_KEY) if month in before else None
            if stood == _json(metadata).encode():
                return None
            return name, _encoded(_conformed(listed[month], STOP_SNAPSHOT), STOP_SNAPSHOT, metadata)

        self.files.write_each(account, content, listed)
        fingerprints = dict(info.months) | written
        for month in before - fingerprints.keys() - {NO_MONTH}:
            self.files.remove(snapshot_file(account, month))
        info = dataclasses.replace(info, months=dict(sorted(fingerprints.items())))
        malformed = _conformed(change.rejected, STOP_SNAPSHOT)
        self._write_table(account, snapshot_file(account, NO_MONTH), malformed, STOP_SNAPSHOT, _document(info))
        return info

    # Opt-outs and malformed rows

    def months(self, account: str, only: Iterable[str] | None = None) -> dict[str, MonthInfo]:
        """Every month that has a file, or only those named, which have one, with what its footer says."""
        if only is None:
            footers = self.files.footers(month_file(account, "*"))
        else:
            names = [month_file(account, month) for month in only]
            footers = dict(zip(names, self.files.each(self._read_footer, names), strict=True))
        return {_month_of(name): self._month_info(name, footer) for name, footer in footers.items()}

    def month_names(self, account: str) -> list[str]:
        """Every month that has a file, in order."""
        return [_month_of(name) for name in self.files.matching(month_file(account, "*"))]

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
        self, account: str, columns: Iterable[str], *, each: Callable[[pa.Table], pa.Table] | None = None
    ) -> pa.Table:
        """Some columns of all periods, in the order of `schema.STOPS`; of each month what `each` makes of it."""
        names = [name for name in STOPS.names if name in set(columns)]
        schema = pa.schema([STOPS.arrow.field(name) for name in names])

        def read(file: str) -> pa.Table:
            rows = self._read_table(file, schema)
            return each(rows) if each else rows

        files = self.files.matching(month_file(account, "*"))
        return pa.concat_tables([no_rows(schema), *self.files.each(read, files)])

    def write_months(self, account: str, months: Iterable[str], periods: Callable[[str], pa.Table]) -> None:
        """Replace the file of each month by what `periods` gives for it, sorted; without any, remove it."""

        def content(month: str) -> Content | None:
            name, rows = month_file(account, month), periods(month)
            if not rows.num_rows:
                self.files.remove(name)
                return None
            standing = open_rows(rows)
            metadata = {"fingerprint": fingerprint(standing), "open_rows": standing.num_rows}
            return name, _encoded(rows, STOPS, metadata)

        self.files.write_each(account, content, months)

    def read_rejected(self, account: str) -> pa.Table:
        """All periods of malformed rows (`schema.REJECTED`), sorted; empty before the first."""
        return self._read_if_any(_single_file("rejected", "rejected", account), REJECTED.arrow)

    def write_rejected(self, account: str, periods: pa.Table) -> None:
        """Replace the malformed rows; without any, remove their file."""
        name = _single_file("rejected", "rejected", account)
        if periods.num_rows:
            self._write_table(account, name, periods, REJECTED, {})
        else:
            self.files.remove(name)

    # The commit

    def state(self, account: str) -> State:
        """What was applied last; an empty state before the first tick.

        Raises:
            SchemaVersionError: the data root was written by another version of this package.
        """
        name = f"state/account={account}.json"
        document = self._read_json(name)
        if document is None:
            return State()
        version = document.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"The data below {self.root} has schema version {version}, and this version of stop_pipeline reads "
                f"{SCHEMA_VERSION}: install the version that wrote it, or start a new data root."
            )
        with self.files.reading(name, (KeyError, TypeError, ValueError)):
            pending = document["pending"]
            return State(
                **document
                | {
                    "applied_at": _time(document["applied_at"]),
                    "verified_at": _time(document["verified_at"]),
                    "counts": Counts(**document["counts"]),
                    # An older version of this package committed none.
                    "figures": Figures(**document["figures"])
                    if "figures" in document
                    else figures_of(self.months(account)),
                    "settings": tuple((name, document["settings"][name]) for name in document["settings"]),
                    "pending": pending and Pending(_time(pending["fetched_at"]), tuple(pending["months"])),
                }
            )

    def write_state(self, account: str, state: State) -> None:
        """Commit, or with `pending` set, mark what is about to be written."""
        document = {"schema_version": SCHEMA_VERSION} | _document(state) | {"settings": dict(state.settings)}
        self._write_json(account, f"state/account={account}.json", document)

    def take_back(self, account: str, state: State) -> State:
        """Undo what a tick that never committed may have written; the result is as if it had never run."""
        if state.pending is None:
            return state
        self.write_months(
            account,
            state.pending.months,
            lambda month: as_committed(self.read_month(account, month), state.applied_at),
        )
        self.write_rejected(account, as_committed(self.read_rejected(account), state.applied_at))
        state = dataclasses.replace(state, pending=None)
        self.write_state(account, state)
        return state

    # What is made from a commit

    def derived_commit(self, schema: TableSchema, account: str) -> str | None:
        """The commit that a derived table was made from; None if it was never made."""
        document = self._footer(_single_file(schema.name, schema.name, account))
        return None if document is None else document["commit"]

    def derived_rows(self, schema: TableSchema, account: str) -> int:
        """How many rows a derived table has, which exists."""
        name = _single_file(schema.name, schema.name, account)
        with self.files.reading(name), self.files.open(name) as source:
            return int(pq.read_metadata(source).num_rows)

    def read_derived(self, schema: TableSchema, account: str) -> pa.Table:
        """A derived table; empty before the first tick."""
        return self._read_if_any(_single_file(schema.name, schema.name, account), schema.arrow)

    def write_derived(self, schema: TableSchema, account: str, table: pa.Table, commit: str) -> None:
        """Replace a derived table, marked with the commit that it was made from."""
        self._write_table(account, _single_file(schema.name, schema.name, account), table, schema, {"commit": commit})

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
            written = _written(footer)
            statistics = {
                name: [footer.row_group(group).column(position).statistics for group in range(footer.num_row_groups)]
                for position, name in enumerate(STOPS.names)
            }
        return MonthInfo(
            fingerprint=written["fingerprint"],
            open_rows=written["open_rows"],
            rows=footer.num_rows,
            nulls=sum(group.null_count for name in ("id", "phone_number", "created_at") for group in statistics[name]),
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
            return self.files.footer(name)

    def _footer(self, name: str) -> dict[str, Any] | None:
        """What this package wrote into the file's metadata; None if there is no such file."""
        with self.files.reading(name):
            try:
                return _written(self.files.footer(name))
            except FileNotFoundError:
                return None

    def _read_json(self, name: str) -> dict[str, Any] | None:
        data = self.files.read(name)
        if data is None:
            return None
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise StoreError(
                f"{self.files.shown(name)} is not the JSON document it should be: restore it from a backup."
            )
        return document

    def _write_json(self, account: str, name: str, document: Mapping[str, Any]) -> None:
        self.files.write(account, name, _json(document).encode() + b"\n")


def _encoded(table: pa.Table, schema: TableSchema, metadata: Mapping[str, Any]) -> pa.Buffer:
    """A table as the bytes of a Parquet file, with something written into its footer."""
    table = table.select(schema.names).cast(schema.arrow).replace_schema_metadata({METADATA_KEY: _json(metadata)})
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


def _written(footer: pq.FileMetaData) -> dict[str, Any]:
    """What this package wrote into a file's footer.

    Raises:
        KeyError, ValueError: it is a file of another program.
    """
    return dict(json.loads((footer.metadata or {})[METADATA_KEY]))


def _document(value: Any) -> dict[str, Any]:
    """A dataclass as what goes into JSON."""
    return dataclasses.asdict(value)


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, default=datetime.isoformat)


def _time(text: str | None) -> Any:
    """A time as `_json` wrote it, read again; one without a zone is none of ours (ValueError)."""
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(text)
    return time


def _single_file(folder: str, table: str, account: str) -> str:
    return f"{folder}/account={account}/{table}.parquet"


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
    sought = as_numpy(ids)
    return any(
        ((smallest <= sought) & (sought <= largest)).any()
        and pc.any(pc.is_in(read_month(month)["id"], value_set=ids)).as_py()
        for month, (smallest, largest) in id_ranges.items()
    )


def month_file(account: str, month: str) -> str:
    """Name of a month's file of `stops`; with `*` as the month, the pattern of all."""
    return f"stops/account={account}/created_month={month}/stops.parquet"


def snapshot_file(account: str, month: str) -> str:
    """Name of a month's file of the snapshot, or with `NO_MONTH`, that of its malformed rows; `*` as above."""
    return f"snapshot/account={account}/created_month={month}/stop_snapshot.parquet"


def _month_of(name: str) -> str:
    return Path(name).parent.name.removeprefix("created_month=")


def _conformed(table: pa.Table, schema: TableSchema) -> pa.Table:
    """`table` with the columns of `schema`; those that it lacks are null."""
    columns = [
        table[column.name] if column.name in table.column_names else pa.nulls(table.num_rows, column.field.type)
        for column in schema.columns
    ]
    return pa.Table.from_arrays(columns, names=schema.names).cast(schema.arrow)
