"""DataFrames to Parquet and back, with the settings and the note that every file of this package has."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import to_json

from stop_pipeline.schema import TableSchema, to_arrow
from stop_pipeline.table.state import Value, from_document

NOTE_KEY = b"stop_pipeline"
ROW_GROUP_ROWS = 131_072
_DICTIONARY_COLUMNS = ("country", "first_seen_at", "removed_at", "reason", "origin", "snapshot_sha256")
_DELTA_COLUMNS = ("id", "created_at", "created_at_local", "first_stop_at", "last_stop_at", "stop_count")


def encode(rows: pd.DataFrame, schema: TableSchema, note: object, row_groups: Sequence[int] | None = None) -> pa.Buffer:
    """The bytes of a Parquet file, with a note in its footer, as JSON; raises as `to_arrow` does.

    `row_groups` gives the rows of each row group. Each page has its CRC, so that whoever reads it detects damage.
    """
    # In one chunk, so that how a table came about does not show in the bytes of its file.
    table = to_arrow(rows, schema).combine_chunks()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        schema.arrow.with_metadata({NOTE_KEY: to_json(note, indent=2)}),
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=[column for column in _DICTIONARY_COLUMNS if column in schema.names],
        column_encoding={column: "DELTA_BINARY_PACKED" for column in _DELTA_COLUMNS if column in schema.names},
    ) as writer:
        start = 0
        for count in row_groups or [len(table)]:
            writer.write_table(
                table.slice(start, count), row_group_size=max(count if row_groups else ROW_GROUP_ROWS, 1)
            )
            start += count
    return sink.getvalue()


def decode(
    file: pa.NativeFile,
    schema: TableSchema,
    columns: Sequence[str] | None = None,
    row_groups: Sequence[int] | None = None,
) -> pa.Table:
    """The columns of a Parquet file as its schema declares them, or some of them, of all row groups or of some.

    Raises:
        ArrowException, KeyError, ValueError: the file lacks a column, or has another type.
    """
    names = list(schema.names if columns is None else columns)
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        table = parquet.read(names) if row_groups is None else parquet.read_row_groups(row_groups, names)
    fields = [schema.arrow.field(name) for name in names]
    return table.select(names).replace_schema_metadata().cast(pa.schema(fields))


def note_of(footer: pq.FileMetaData) -> dict[str, Any]:
    """The note in a file's footer.

    Raises:
        KeyError, ValueError: the file was written by another program.
    """
    return dict(json.loads((footer.metadata or {})[NOTE_KEY]))


def info_of(footer: pq.FileMetaData, kind: type[Value]) -> Value:
    """What a file says about itself: its note, and how many rows it has; raises as `note_of`."""
    return from_document(kind, {**note_of(footer), "rows": footer.num_rows})
