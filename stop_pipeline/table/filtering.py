"""The filters of `read_stops`: which rows meet them, and which months can hold such rows."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from stop_pipeline import schema
from stop_pipeline.errors import InputError, excerpt
from stop_pipeline.table.state import State
from stop_pipeline.table.store import Store, month_file

Filters: TypeAlias = pc.Expression | Sequence[tuple[str, str, Any]] | Sequence[Sequence[tuple[str, str, Any]]]
"""As `pandas.read_parquet` takes them: tuples (column, operator, value), all to hold; or lists of such, one to hold."""

READ_SCHEMA = pa.schema([schema.ACCOUNT.field, schema.CREATED_MONTH.field, *schema.STOPS.arrow])
_PARQUET = ds.ParquetFileFormat()
_FOLDERS = ds.partitioning(pa.schema([schema.ACCOUNT.field, schema.CREATED_MONTH.field]), flavor="hive")


def condition_of(filters: Filters | None) -> pc.Expression | None:
    """The condition that filters stand for; an InputError says that they do not fit the columns."""
    if filters is None:
        return None
    try:  # on a row of nulls: a filter that does not fit the columns is the caller's mistake, not a file's
        condition = pq.filters_to_expression(filters)
        pa.table([pa.nulls(1, field.type) for field in READ_SCHEMA], names=READ_SCHEMA.names).filter(condition)
    except (pa.ArrowException, TypeError, ValueError, LookupError, OverflowError) as error:
        raise InputError(
            f"The filters do not fit the columns of stops ({excerpt(str(error))}): compare created_at, first_seen_at "
            "and removed_at with times that have a time zone, created_at_local with times that have none, id with an "
            "int, and the others with text."
        ) from None
    return condition


def scan(store: Store, account: str, state: State, columns: Sequence[str], condition: pc.Expression | None) -> pa.Table:
    """Some columns of the periods that meet a condition; files of months that cannot meet it are not opened."""
    recorded = {month_file(account, month): info for month, info in state.months.items()}
    names = list(recorded)
    # It opens nothing, and only tells which months can meet the condition.
    listed = ds.FileSystemDataset.from_paths(
        names,
        schema=READ_SCHEMA,
        format=_PARQUET,
        filesystem=LocalFileSystem(),
        partitions=[*map(_FOLDERS.parse, names)],
    )

    def opened(fragment: ds.ParquetFileFragment) -> ds.ParquetFileFragment:
        with store.files.reading(fragment.path):
            file = store.open_committed(fragment.path, state)
            made = _PARQUET.make_fragment(file, partition_expression=fragment.partition_expression)
            store.refuse_older(account, state, fragment.path, made.metadata.num_rows, recorded[fragment.path])
        return made

    with store.files.reading(f"stops/account={account}"):
        fragments = store.in_threads(opened, listed.get_fragments(condition))
        return ds.FileSystemDataset(fragments, READ_SCHEMA, _PARQUET).to_table(list(columns), filter=condition)
