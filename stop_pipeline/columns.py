"""Values of Python and NumPy as Arrow columns, and back, by way of the memory that both can read.

What belongs here: such conversions, Arrow's types of the columns that `schema` declares, and where equal rows begin in
a sorted table. What does not: what a value means.

What Arrow itself converts (`pa.array`, `pa.scalar`, `to_numpy`, a Python value given to a compute function) imports
pandas first, to know its values among others; so does `group_by`. That took a fifth of a small tick, where no value is
pandas'. So the rooms that a tick enters convert by these functions, and `test_house` holds them to it.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

UTC_TIME = pa.timestamp("us", tz="UTC")
WALL_CLOCK = pa.timestamp("us")

Value = str | int | datetime | None

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BITS = 8
_MOST_TEXT_BYTES = 2**31 - 1
_NUMPY_TYPES: dict[pa.DataType, str] = {
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.date32(): "int32",
    WALL_CLOCK: "datetime64[us]",
    UTC_TIME: "datetime64[us]",
}
_TYPES = {str(of_type): of_type for of_type in (pa.int64(), pa.string(), pa.date32(), WALL_CLOCK, UTC_TIME)}


def field(name: str, type_name: str, *, nullable: bool) -> pa.Field:
    """A column of a schema, its type called as `schema` does.

    Raises:
        KeyError: no table has a column of this type.
    """
    return pa.field(name, _TYPES[type_name], nullable=nullable)


def no_rows(schema: pa.Schema) -> pa.Table:
    """A table of these columns, without a row; Arrow's own `empty_table` loads pandas."""
    return pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def as_arrow(values: NDArray[Any]) -> pa.Array:
    """An array of NumPy, of bool, int64 or datetime64[us], as one of Arrow over the same memory; bool is copied."""
    if values.dtype == bool:
        return _array(pa.bool_(), len(values), np.packbits(values, bitorder="little"))
    of_type = {"int64": pa.int64(), "datetime64[us]": WALL_CLOCK}[values.dtype.name]
    return _array(of_type, len(values), np.ascontiguousarray(values))


def as_numpy(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """A column without nulls, of whole numbers, times, days or bool, as an array of NumPy; not to be written to.

    Days are counted from 1970.

    Raises:
        ValueError: the column holds a null.
        KeyError: it is of another type.
    """
    array = in_one(column) if isinstance(column, pa.ChunkedArray) else column
    if array.null_count:
        raise ValueError("a column with nulls cannot be an array of NumPy")
    end = array.offset + len(array)
    buffer = array.buffers()[1] or b""
    if array.type == pa.bool_():
        bits = np.frombuffer(buffer, np.uint8, -(-end // _BITS))
        return np.unpackbits(bits, count=end, bitorder="little")[array.offset :].view(bool)
    return np.frombuffer(buffer, _NUMPY_TYPES[array.type], end)[array.offset :]


def in_one(column: pa.ChunkedArray) -> pa.Array:
    """A column in one chunk."""
    chunks = column.chunks
    if not chunks:
        return pa.nulls(0, column.type)
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)


def strings(values: Iterable[str | None]) -> pa.StringArray:
    """Texts as a column of Arrow; None is null.

    Raises:
        OverflowError: they are longer than 2 GiB together.
    """
    texts = [None if value is None else value.encode() for value in values]
    ends = np.cumsum([0, *(len(text or b"") for text in texts)])
    if ends[-1] > _MOST_TEXT_BYTES:
        raise OverflowError("a column of Arrow holds 2 GiB of text")
    validity = None
    if None in texts:
        validity = pa.py_buffer(np.packbits([text is not None for text in texts], bitorder="little"))
    offsets, text = pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(filter(None, texts)))
    return pa.StringArray.from_buffers(len(texts), offsets, text, validity)


def scalar(value: Value, of_type: pa.DataType | None = None) -> pa.Scalar:
    """A value as Arrow's.

    Args:
        value: Which.
        of_type: A time must have its type, in microseconds, and so must None; others have their own.
    """
    if value is None:
        return pa.nulls(1, of_type)[0]
    if isinstance(value, str):
        return strings([value])[0]
    if isinstance(value, datetime):
        since_epoch = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
        return _array(of_type, 1, np.array([since_epoch // _MICROSECOND]))[0]
    return as_arrow(np.array([value]))[0]


def as_time(microseconds: int) -> datetime:
    """The time so long after 1970, as Arrow counts it."""
    return _EPOCH + microseconds * _MICROSECOND


def constant(value: Value, length: int, of_type: pa.DataType | None = None) -> pa.Array:
    """A column that holds one value again and again; see `scalar`."""
    return pa.repeat(scalar(value, of_type), length)


def repeats(rows: pa.Table, *names: str) -> NDArray[np.bool_]:
    """Whether each row has the values of the one before it in these columns; a null is like a null."""
    repeats = np.arange(rows.num_rows) > 0
    for name in names:
        column = in_one(rows[name])
        values, before = column.slice(1), column.slice(0, max(0, len(column) - 1))
        same = pc.equal(values, before)
        if column.null_count:
            same = pc.fill_null(same, pc.and_(pc.is_null(values), pc.is_null(before)))
        repeats[1:] &= as_numpy(same)
    return repeats


def _array(of_type: pa.DataType | None, length: int, values: NDArray[Any]) -> pa.Array:
    return pa.Array.from_buffers(of_type, length, [None, pa.py_buffer(values)])
