"""A campaign in Parquet; its parts have the same columns, types and metadata."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline.campaign.campaign_file import BATCH_ROWS, NO_NUMBER, WriteRows, as_text, find_column, readable

_PAGE_BYTES = 1 << 20
_SELECTABLE = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
"""Types that Arrow cannot select rows from, and types of the same values that it can."""


class ParquetFile:
    """A Parquet file, with the attributes of a `CsvFile`."""

    form = "Parquet"
    suffix = ".parquet"
    null_reason = NO_NUMBER

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        with readable(path), pq.ParquetFile(path) as file:
            self._schema = file.schema_arrow
            self._selectable = pa.schema(
                [field.with_type(_SELECTABLE.get(field.type, field.type)) for field in self._schema],
                self._schema.metadata,
            )
            for field in self._selectable:
                pa.nulls(1, field.type).filter(pa.array([True]))  # an ArrowException if that will not be possible
        self._position = find_column(column, self._schema.names, str(path))
        as_text(pa.nulls(0, self._schema.field(self._position).type))

    def batches(self) -> Iterator[tuple[pa.RecordBatch, pd.Series]]:
        """All rows, in order."""
        # Page by page: a row group, which may be the whole file, is not read ahead.
        with readable(self._path), pq.ParquetFile(self._path, pre_buffer=False, buffer_size=_PAGE_BYTES) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                numbers = batch.column(self._position)
                numbers.validate(full=True)  # text that is not UTF-8 is damage
                yield batch.cast(self._selectable), as_text(numbers)

    @contextmanager
    def part(self, path: Path, own_column: pa.Field | None = None) -> Iterator[WriteRows]:
        """A Parquet file with this one's schema."""
        schema = self._schema if own_column is None else self._schema.append(own_column)
        with pq.ParquetWriter(path, schema) as writer:

            def write(rows: pa.RecordBatch, values: pd.Series | None) -> None:
                columns = rows.cast(self._schema).columns
                if own_column is not None:
                    columns.append(pa.array(values, own_column.type, from_pandas=True))
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))

            yield write
