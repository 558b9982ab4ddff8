"""The columns of every table: names, types and meanings, declared once.

A DataFrame is checked against its schema where it becomes a file (`to_arrow`) and comes back with the declared types
(`to_pandas`). The Dagster UI shows the meanings, and a test compares the README with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import pyarrow as pa

SCHEMA_VERSION = 3
"""Version of everything under the data root; goes up with every change that older code cannot read."""

_INTEGER = (pa.int64(), "int64")
_TEXT = (pa.string(), "str")
_UTC_TIME = (pa.timestamp("us", tz="UTC"), "datetime64[us, UTC]")
_WALL_CLOCK = (pa.timestamp("us"), "datetime64[us]")
_DAY = (pa.date32(), "datetime64[us]")
_TRUTH = (pa.bool_(), "bool")


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    types: tuple[pa.DataType, str]  # its Arrow type in files, and its pandas dtype in memory
    meaning: str  # what it holds, as one sentence
    nullable: bool = False

    @property
    def type(self) -> str:
        """The Arrow type, as Arrow writes it."""
        return str(self.types[0])

    @property
    def field(self) -> pa.Field:
        """The Arrow field."""
        return pa.field(self.name, self.types[0], nullable=self.nullable)


@dataclass(frozen=True)
class TableSchema:
    """The columns of one table, in order."""

    name: str
    columns: tuple[Column, ...]

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema of its files."""
        return pa.schema([column.field for column in self.columns])

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """The pandas dtype of each column, in order."""
        return {column.name: column.types[1] for column in self.columns}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def empty(self) -> pd.DataFrame:
        """The table without rows; not to be changed in place."""
        return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in self.dtypes.items()})


def to_arrow(frame: pd.DataFrame, schema: TableSchema) -> pa.Table:
    """Convert a DataFrame to Arrow, column by column as its schema declares; other columns and the index are left out.

    Raises:
        TypeError: a column is missing, has another type, or holds a null where none is allowed.
    """
    refused = [
        column.name
        for column in schema.columns
        if column.name not in frame
        or str(frame[column.name].dtype) != column.types[1]
        or (not column.nullable and frame[column.name].hasnans)
    ]
    if refused:
        raise TypeError(f"The table {schema.name} does not have the columns that it declares: {', '.join(refused)}.")
    return pa.Table.from_pandas(frame[list(schema.names)], schema.arrow, preserve_index=False).replace_schema_metadata()


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Convert an Arrow table to pandas: text as `str`, a day as midnight (datetime64[us], without a zone)."""
    # As floats, large ids would be rounded.
    frame: pd.DataFrame = table.to_pandas(integer_object_nulls=True, date_as_object=False)
    days = [field.name for field in table.schema if pa.types.is_date32(field.type)]
    return frame.astype(dict.fromkeys(days, "datetime64[us]")) if days else frame


ACCOUNT = Column("account", _TEXT, "Name of the SMS Partner account, from the folder `account=…`.")
CREATED_MONTH = Column(
    "created_month", _TEXT, "Month of `created_at_local`, “YYYY-MM”, from the folder `created_month=…`."
)

_LISTED_COLUMNS = (
    Column("id", _INTEGER, "Identifier that SMS Partner gave the opt-out."),
    Column("phone_number", _TEXT, "Phone number in E.164 where it can be read as one, otherwise as received."),
    Column("country", _TEXT, "ISO 3166 alpha-2 country of the number; null if it has none.", nullable=True),
    Column("created_at", _UTC_TIME, "When the opt-out was made, UTC."),
    Column("created_at_local", _WALL_CLOCK, "The same time as the provider wrote it: local, without a zone."),
)

RAW_STOP_LIST = TableSchema(
    "raw_stop_list",
    (
        Column("id", _INTEGER, "Identifier that SMS Partner gave the opt-out."),
        Column("phoneNumber", _TEXT, "The number that must not be texted, as the provider spells it."),
        Column("createdAt", _TEXT, "When the opt-out was made, “YYYY-MM-DD HH:MM:SS”, without a zone."),
    ),
)
"""A row of the response as documented."""

LISTED = TableSchema("listed", _LISTED_COLUMNS)
"""The good rows of one response, each `id` once."""

REJECTED_ROWS = TableSchema(
    "rejected_rows",
    (
        Column("raw", _TEXT, "The row as JSON text."),
        Column("reason", _TEXT, "Why the row was rejected, such as “no usable id”."),
        Column("phone_number", _TEXT, "Its phone number, read as in `stops`; null if it has none.", nullable=True),
    ),
)
"""The malformed rows of one response, each distinct `raw` once."""

STOP_SNAPSHOT = TableSchema(
    "stop_snapshot",
    (
        replace(_LISTED_COLUMNS[0], types=(pa.int64(), "Int64"), nullable=True),
        *(replace(column, nullable=True) for column in _LISTED_COLUMNS[1:]),
        Column("raw", _TEXT, "A malformed row as JSON text; null for a good row.", nullable=True),
        Column("reason", _TEXT, "Why the row is malformed; null for a good row.", nullable=True),
    ),
)
"""One response, or the rows that it appends to the last: good rows by month, then malformed rows."""

_PERIOD_COLUMNS = (
    Column("first_seen_at", _UTC_TIME, "Fetch time of the first response that listed the row in this form, UTC."),
    Column(
        "removed_at",
        _UTC_TIME,
        "Fetch time of the first complete response that no longer listed it, UTC; null while it is listed.",
        nullable=True,
    ),
)

STOPS = TableSchema("stops", _LISTED_COLUMNS + _PERIOD_COLUMNS)
"""Every opt-out ever listed: one row per period in which the list showed it unchanged."""

REJECTED = TableSchema(
    "rejected",
    (
        *REJECTED_ROWS.columns,
        *_PERIOD_COLUMNS,
        Column("snapshot_sha256", _TEXT, "SHA-256 of the response that first contained the row."),
    ),
)
"""Every malformed row ever listed, with the same periods."""

COMMITS = TableSchema(
    "commits",
    (
        Column("merged_at", _UTC_TIME, "Fetch time of the response that was merged, UTC."),
        Column("sha256", _TEXT, "SHA-256 of the response."),
        Column("rows", _INTEGER, "Rows in the response."),
        Column("complete", _TRUTH, "Whether the response was complete."),
        Column("withheld", _TRUTH, "Whether removals were withheld, so that it need not list every open row."),
    ),
)
"""Every response that was merged: which response first showed a row, or was the last to do so."""

LISTED_ORIGIN, REJECTED_ORIGIN, FOUND_ORIGIN = "listed", "rejected row", "found in text"

SUPPRESSION_LIST = TableSchema(
    "suppression_list",
    (
        Column("phone_number", _TEXT, "Phone number that must not be texted, in E.164 where it can be read as one."),
        Column(
            "first_stop_at",
            _UTC_TIME,
            "Its earliest opt-out that still stands, UTC; null if only malformed rows contain the number.",
            nullable=True,
        ),
        Column(
            "last_stop_at",
            _UTC_TIME,
            "Its latest opt-out that still stands, UTC; null if only malformed rows contain the number.",
            nullable=True,
        ),
        Column("stop_count", _INTEGER, "How many listed rows contain the number."),
        Column(
            "origin",
            _TEXT,
            "Where the number comes from: “listed” (a well-formed row), “rejected row” (only malformed rows) or “found "
            "in text” (only inside other text).",
        ),
    ),
)
"""Phone numbers that must not be texted, one row per number."""

STOPS_PER_DAY = TableSchema(
    "stops_per_day",
    (
        Column("day", _DAY, "Local day of the opt-outs."),
        Column("country", _TEXT, "ISO 3166 alpha-2 country of the numbers; null if they have none.", nullable=True),
        Column("stops", _INTEGER, "Opt-outs made that day, each `id` once, whether or not they still stand."),
    ),
)
"""Counts without personal data."""

ASSET_TABLES = (RAW_STOP_LIST, STOP_SNAPSHOT, STOPS, SUPPRESSION_LIST, STOPS_PER_DAY)
"""The tables that are Dagster assets, in the order in which a sync makes them."""

NOT_AN_OBJECT = "not an object"
BAD_ID = "no usable id"
BAD_PHONE_NUMBER = "no usable phone number"
BAD_CREATED_AT = "no usable createdAt"
CONFLICTING_ID = "conflicts with another row of the same id"
REASONS = (NOT_AN_OBJECT, BAD_ID, BAD_PHONE_NUMBER, BAD_CREATED_AT, CONFLICTING_ID)
"""Why a row is rejected: the first of these that applies."""

LINEAGE: Mapping[str, Mapping[str, tuple[tuple[str, str], ...]]] = {
    "stop_snapshot": {
        "id": (("raw_stop_list", "id"),),
        "phone_number": (("raw_stop_list", "phoneNumber"),),
        "country": (("raw_stop_list", "phoneNumber"),),
        "created_at": (("raw_stop_list", "createdAt"),),
        "created_at_local": (("raw_stop_list", "createdAt"),),
        "raw": tuple(("raw_stop_list", name) for name in RAW_STOP_LIST.names),
        "reason": tuple(("raw_stop_list", name) for name in RAW_STOP_LIST.names),
    },
    "stops": {
        **{name: (("stop_snapshot", name),) for name in LISTED.names},
        CREATED_MONTH.name: (("stop_snapshot", "created_at_local"),),
    },
    "suppression_list": {
        "phone_number": (("stops", "phone_number"), ("stop_snapshot", "raw")),
        "first_stop_at": (("stops", "created_at"),),
        "last_stop_at": (("stops", "created_at"),),
        "stop_count": (("stops", "phone_number"),),
    },
    "stops_per_day": {
        "day": (("stops", "created_at_local"),),
        "country": (("stops", "country"),),
        "stops": (("stops", "id"),),
    },
}
"""The upstream columns that each column is made from. A column that is not named here comes from no column: it is the
time of a fetch, the result of comparing two responses, the name of the account or that of a table."""
