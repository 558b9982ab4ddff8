"""How results look in the Dagster UI.

What belongs here: turning schemas, counts and paths into Dagster's metadata. What does not: any figure of its own.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from stop_pipeline.model import SnapshotInfo
from stop_pipeline.schema import Column, TableSchema

if TYPE_CHECKING:  # showing the definitions takes no tick
    from stop_pipeline.tick import Applied, Derived, Fetched, Parsed

Metadata = dict[str, Any]


def column_schema(schema: TableSchema, *keys: Column) -> dg.TableSchema:
    """The columns of a table, hive keys last, as the UI shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=column.meaning,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in (*schema.columns, *keys)
        ]
    )


def of_fetched(fetched: Fetched) -> Metadata:
    """What a fetch brought."""
    return {
        "fetched_at": dg.MetadataValue.timestamp(fetched.answer.fetched_at),
        "bytes": fetched.answer.size_bytes,
        "http_seconds": round(fetched.answer.seconds, 3),
        "sha256": fetched.answer.sha256,
        "changed": fetched.changed,
        "file": fetched.landed.file,
    }


def of_parsed(parsed: Parsed, uri: str) -> Metadata:
    """What the snapshot holds; the sum of its rows says that none was dropped."""
    info = parsed.info
    return {
        "dagster/row_count": info.rows - info.duplicates,
        "dagster/uri": uri,
        "listed": info.listed,
        "rejected": info.rejected,
        "duplicates": info.duplicates,
        "rows": conservation(info),
        "sha256": info.sha256,
        "fetched_at": dg.MetadataValue.timestamp(info.fetched_at),
        "parsed": parsed.parsed,
        **({"extra_fields": ", ".join(info.extra_fields)} if info.extra_fields else {}),
    }


def of_applied(applied: Applied, uri: str) -> Metadata:
    """What a tick did to `stops`, and how the table stands."""
    state = applied.state
    return {
        "dagster/row_count": applied.state.figures.rows,
        "dagster/uri": uri,
        "outcome": applied.outcome,
        **dataclasses.asdict(applied.counts),
        "rejected": applied.info.rejected,
        "rows": conservation(applied.info),
        "standing": applied.state.figures.open_rows,
        "months_written": len(applied.months_written),
        "months": ", ".join(applied.months_written) or "none",
        "sha256": applied.info.sha256,
        "fetched_at": dg.MetadataValue.timestamp(applied.info.fetched_at),
        **_time("applied_at", state.applied_at),
        **_time("verified_at", state.verified_at),
        **({"withheld_because": state.withheld_because} if state.withheld_because else {}),
        **({"accepted_removals": state.accepted_removals} if state.accepted_removals is not None else {}),
    }


def of_derived(derived: Derived, uri: str) -> Metadata:
    """What a derived table holds, and the commit that it was made from."""
    return {
        "dagster/row_count": derived.rows,
        "dagster/uri": uri,
        "commit": derived.commit,
        "remade": derived.remade,
    }


def _time(name: str, time: datetime | None) -> Metadata:
    return {} if time is None else {name: dg.MetadataValue.timestamp(time)}


def conservation(info: SnapshotInfo) -> str:
    """The sum that shows that no row was dropped."""
    return (
        f"{info.rows:,} rows = {info.listed:,} kept + {info.duplicates:,} duplicates collapsed "
        f"+ {info.rejected:,} rejected"
    )
