"""The columns of every table: names, types and meanings, declared once.

What belongs here: what a table promises to its readers. The writer enforces it, the Dagster UI shows it, and the README
is tested against it. What does not: how rows come about (`snapshot`, `merge`, `derive`) and where they lie (`layout`).

Types are declared by Arrow's names for them: what only shows a table loads no Arrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
"""Version of everything below the data root; a change that older code could not read raises it."""

_UTC_TIME: Literal["timestamp[us, tz=UTC]"] = "timestamp[us, tz=UTC]"


@dataclass(frozen=True)
class Column:
    """One column: its name, its type as Arrow calls it, what it means, and whether it can be null."""

    name: str
    type: Literal["int64", "string", "date32[day]", "timestamp[us]", "timestamp[us, tz=UTC]"]
    meaning: str
    nullable: bool = False

    @property
    def field(self) -> pa.Field:
        """The Arrow field."""
        from stop_pipeline.columns import field  # noqa: PLC0415 – it loads Arrow

        return field(self.name, self.type, nullable=self.nullable)


@dataclass(frozen=True)
class TableSchema:
    """The columns of one table, in order."""

    name: str
    columns: tuple[Column, ...]

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema; a file written with it cannot hold a null where none is allowed."""
        import pyarrow as pa  # noqa: PLC0415 – as above

        return pa.schema([column.field for column in self.columns])

    @property
    def empty(self) -> pa.Table:
        """The table without a row."""
        from stop_pipeline.columns import no_rows  # noqa: PLC0415 – as above

        return no_rows(self.arrow)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(column.name for column in self.columns)


ACCOUNT = Column("account", "string", "Name of the SMS Partner account, from the folder `account=…`.")
CREATED_MONTH = Column(
    "created_month", "string", "Month of `created_at_local`, “YYYY-MM”, from the folder `created_month=…`."
)

_LISTED_COLUMNS = (
    Column("id", "int64", "Identifier that SMS Partner gave the opt-out."),
    Column("phone_number", "string", "E.164 where it can be read as a number, else as received."),
    Column("country", "string", "ISO 3166 alpha-2 country of the number; null if none.", nullable=True),
    Column("created_at", _UTC_TIME, "When the opt-out was made, UTC."),
    Column("created_at_local", "timestamp[us]", "The same as the wall clock that the API wrote (no zone)."),
)

RAW_STOP_LIST = TableSchema(
    "raw_stop_list",
    (
        Column("id", "int64", "Identifier that SMS Partner gave the opt-out."),
        Column("phoneNumber", "string", "The number that must not be texted, in the spelling that it was kept in."),
        Column("createdAt", "string", "When the opt-out was made, “YYYY-MM-DD HH:MM:SS” without a zone."),
    ),
)
"""A row of the answer as documented. What comes may differ; `snapshot` tells what becomes of it."""

LISTED = TableSchema("listed", _LISTED_COLUMNS)
"""The good rows of one answer, each `id` once."""

REJECTED_ROWS = TableSchema(
    "rejected_rows",
    (
        Column("raw", "string", "The row as JSON text."),
        Column("reason", "string", "Why it was set aside; one of `model.REASONS`."),
        Column("phone_number", "string", "Its number, read as in `stops`; null if it bears none.", nullable=True),
    ),
)
"""The malformed rows of one answer, each distinct `raw` once."""

STOP_SNAPSHOT = TableSchema(
    "stop_snapshot",
    (
        *(replace(column, nullable=True) for column in _LISTED_COLUMNS),
        Column("raw", "string", "A malformed row as JSON text; null for a good row.", nullable=True),
        Column("reason", "string", "Why the row is malformed; null for a good row.", nullable=True),
    ),
)
"""One answer: its good rows month by month, and its malformed rows, which are of no month."""

_PERIOD_COLUMNS = (
    Column("first_seen_at", _UTC_TIME, "Fetch time of the first answer that listed the row so, UTC."),
    Column(
        "removed_at",
        _UTC_TIME,
        "Fetch time of the first trusted answer that no longer did, UTC; null while listed.",
        nullable=True,
    ),
)

STOPS = TableSchema("stops", _LISTED_COLUMNS + _PERIOD_COLUMNS)
"""Every opt-out ever listed: one row per period in which the list showed it unchanged."""

REJECTED = TableSchema(
    "rejected",
    REJECTED_ROWS.columns
    + _PERIOD_COLUMNS
    + (Column("snapshot_sha256", "string", "SHA-256 of the answer that first brought it."),),
)
"""Every malformed row ever listed, with the same periods."""

SUPPRESSION_LIST = TableSchema(
    "suppression_list",
    (
        Column("phone_number", "string", "The number not to text, E.164 where it can be read as one."),
        Column(
            "first_stop_at",
            _UTC_TIME,
            "Its earliest opt-out that stands, UTC; null where a rejected row has no date.",
            nullable=True,
        ),
        Column(
            "last_stop_at",
            _UTC_TIME,
            "Its latest opt-out that stands, UTC; null where a rejected row has no date.",
            nullable=True,
        ),
        Column("stop_count", "int64", "How many rows of the list ask for it."),
        Column("origin", "string", "“listed”, or “rejected row” where only malformed rows bear the number."),
    ),
)
"""Whom not to text now, one row per phone number."""

STOPS_PER_DAY = TableSchema(
    "stops_per_day",
    (
        Column("day", "date32[day]", "Local day of the opt-outs."),
        Column("country", "string", "ISO 3166 alpha-2 country of the numbers; null if none.", nullable=True),
        Column("stops", "int64", "Opt-outs made that day, each `id` once, whether or not they still stand."),
    ),
)
"""Counts without personal data."""

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
        "phone_number": (("stops", "phone_number"), ("stop_snapshot", "phone_number")),
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
"""From which columns of which tables upstream each column is made. One that is not named comes from no column: from the
time of a fetch, from the comparison with what was listed before, or from the name of the account."""
