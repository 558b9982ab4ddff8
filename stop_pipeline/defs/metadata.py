"""How results look in the Dagster UI.

What belongs here: turning schemas, counts and paths into Dagster's metadata. What does not: any figure of its own.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from stop_pipeline.schema import LINEAGE, Column, TableSchema

if TYPE_CHECKING:  # showing the definitions takes no tick
    import pyarrow as pa

    from stop_pipeline.model import SnapshotInfo, State
    from stop_pipeline.tick import Applied, Derived, Fetched, Parsed

Metadata = dict[str, Any]


def column_schema(schema: TableSchema, *keys: Column) -> dg.TableSchema:
    """The columns of a table, hive keys last, as the UI shows them.

    Each says what it is made from as well: the open-source UI keeps `dagster/column_lineage`, but does not draw it.
    """
    lineage = LINEAGE.get(schema.name, {})

    def described(column: Column) -> str:
        sources = " and ".join(f"`{table}.{name}`" for table, name in lineage.get(column.name, ()))
        return f"{column.meaning} From {sources}." if sources else column.meaning

    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.type,
                description=described(column),
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in (*schema.columns, *keys)
        ]
    )


def column_lineage(schema: TableSchema) -> dg.TableColumnLineage:
    """From which columns upstream each column of a table is made."""
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(asset_key=table, column_name=name) for table, name in sources]
            for column, sources in LINEAGE.get(schema.name, {}).items()
        }
    )


def preview(rows: pa.Table) -> dg.TableMetadataValue:
    """Some rows, already masked, as a table; times in UTC to the minute."""
    import pyarrow as pa  # noqa: PLC0415 – showing the definitions needs none
    import pyarrow.compute as pc  # noqa: PLC0415 – as above

    # Times become texts in Arrow, which would load pandas to give Python one with a zone.
    shown = [
        pc.strftime(column, format="%Y-%m-%d %H:%M") if pa.types.is_timestamp(column.type) else column
        for column in rows.columns
    ]
    records = map(dg.TableRecord, pa.Table.from_arrays(shown, names=rows.column_names).to_pylist())
    columns = [dg.TableColumn(field.name, str(field.type)) for field in rows.schema]
    return dg.MetadataValue.table([*records], dg.TableSchema(columns))


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


def of_applied(applied: Applied, uri: str, pictures: Metadata) -> Metadata:
    """What a tick did to `stops`, and how the table stands: first what a look is for."""
    state, info = applied.state, applied.info
    age = _age_hours(state, info.fetched_at)
    return {
        "health": health(state, info.fetched_at),
        **({"age_hours": round(age, 2)} if age is not None else {}),
        **pictures,
        "dagster/row_count": state.figures.rows,
        "dagster/uri": uri,
        "outcome": applied.outcome,
        **dataclasses.asdict(applied.counts),
        "rejected": info.rejected,
        "rows": conservation(info),
        "standing": state.figures.open_rows,
        "months_written": len(applied.months_written),
        "months": ", ".join(applied.months_written) or "none",
        "sha256": info.sha256,
        "commit": state.commit or "none",
        "fetched_at": dg.MetadataValue.timestamp(info.fetched_at),
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


def health(state: State, now: datetime) -> str:
    """One line: when the list was last proven whole, how old it is by that, and when it last changed."""
    age = _age_hours(state, now)
    verified = (
        "No answer has been proven whole yet"
        if state.verified_at is None
        else f"Last verified {_utc(state.verified_at)}, so the list is {age:.1f} h old"
    )
    changed = "it has not been applied yet" if state.applied_at is None else f"last change {_utc(state.applied_at)}"
    return f"{verified}; {changed}."


def _age_hours(state: State, now: datetime) -> float | None:
    return None if state.verified_at is None else (now - state.verified_at) / timedelta(hours=1)


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _time(name: str, time: datetime | None) -> Metadata:
    return {} if time is None else {name: dg.MetadataValue.timestamp(time)}


def conservation(info: SnapshotInfo) -> str:
    """The sum that shows that no row was dropped."""
    return (
        f"{info.rows:,} rows = {info.listed:,} kept + {info.duplicates:,} duplicates collapsed "
        f"+ {info.rejected:,} rejected"
    )
