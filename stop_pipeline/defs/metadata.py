"""What the Dagster UI shows of each asset: columns, counts, paths, charts and a few masked rows."""

import dataclasses
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pandas as pd

from stop_pipeline.defs import charts
from stop_pipeline.errors import counted
from stop_pipeline.phone_numbers import mask
from stop_pipeline.results import Derived, Fetched, Merged, Parsed
from stop_pipeline.schema import LINEAGE, STOPS, SUPPRESSION_LIST, Column, TableSchema
from stop_pipeline.table.state import SnapshotInfo, State
from stop_pipeline.table.store import Store

log = logging.getLogger(__name__)

Metadata = dict[str, Any]

PREVIEW_ROWS = 12
PREVIEW_MONTHS = 3
MONTHS_SHOWN = 12
_PREVIEW_COLUMNS = ["phone_number", "country", "created_at"]  # more would not fit the page

_PICTURES = ("delays", *charts.DELAY_FIGURES, "preview", "per_day", "per_month", "countries")
"""The metadata that stay the same for a commit, of whichever table."""

_REREAD = (
    "Stored rows were first brought up to date: by today's rules and settings, and without rows from after the commit."
)


def of_columns(table: TableSchema, *keys: Column) -> Metadata:
    """The columns of a table, hive keys last, and from which upstream columns each is made.

    The descriptions say the latter as well: the open-source UI keeps `dagster/column_lineage`, but does not draw it.
    """
    lineage = LINEAGE.get(table.name, {})
    columns = []
    for column in (*table.columns, *keys):
        sources = " and ".join(f"`{source}.{name}`" for source, name in lineage.get(column.name, ()))
        meaning = f"{column.meaning} From {sources}." if sources else column.meaning
        may_be_null = dg.TableColumnConstraints(nullable=column.nullable)
        columns.append(dg.TableColumn(column.name, column.type, meaning, may_be_null))
    deps = {
        column: [dg.TableColumnDep(asset_key=source, column_name=name) for source, name in sources]
        for column, sources in lineage.items()
    }
    return {
        "dagster/column_schema": dg.TableSchema(columns),
        "dagster/column_lineage": dg.TableColumnLineage(deps),
    }


def of_fetched(fetched: Fetched) -> Metadata:
    """What a fetch brought."""
    return {
        "fetched_at": dg.MetadataValue.timestamp(fetched.response.fetched_at),
        "bytes": fetched.response.size_bytes,
        "http_seconds": round(fetched.response.seconds, 3),
        "changed": fetched.changed,
        "file": fetched.kept.file,  # has a part of the SHA-256; all 64 digits would widen the page
    }


def of_parsed(parsed: Parsed, uri: str) -> Metadata:
    """What the snapshot holds; the sum of its rows shows that none was dropped."""
    info = parsed.info
    return {
        # A snapshot of appended rows has fewer rows than its response.
        **({} if info.builds_on else {"dagster/row_count": info.rows - info.duplicates}),
        "dagster/uri": uri,
        "listed": info.listed,
        "rejected": info.rejected,
        "duplicates": info.duplicates,
        "rows": _sum_of_rows(info),
        "fetched_at": dg.MetadataValue.timestamp(info.fetched_at),
        "parsed": parsed.parsed,
        **({"extra_fields": ", ".join(info.extra_fields)} if info.extra_fields else {}),
    }


def of_merged(context: dg.AssetExecutionContext, store: Store, account: str, merged: Merged) -> Metadata:
    """What a sync did to `stops`, and the state of the table, the most important first."""
    state, info, months, now = merged.state, merged.info, merged.months_written, datetime.now(UTC)

    def draw() -> Metadata:
        hours = charts.delays(store.read_stops(account, state, ["id", "created_at", "first_seen_at"]))
        newest = store.read_stops(account, state, _PREVIEW_COLUMNS, [*state.months][-PREVIEW_MONTHS:])
        chart = charts.markdown("Delay until an opt-out is listed", charts.delay_chart(hours))
        return {
            "delays": dg.MetadataValue.md(chart),
            **charts.delay_figures(hours),
            "preview": _preview(newest, "created_at"),
        }

    shown = {
        "health": health(state, now),
        "age_hours": state.verified_at and round((now - state.verified_at) / timedelta(hours=1), 2),
        **_pictures(context, state.commit, draw, made_again=merged.reread),
        "dagster/row_count": state.total_rows,
        "dagster/uri": store.uri(STOPS.name, account),
        "outcome": merged.outcome,
        **dataclasses.asdict(merged.counts),
        "withheld": state.counts.withheld,  # also if this response was merged before
        "rejected": info.rejected,
        "rows": _sum_of_rows(info),
        "standing": state.open_rows,
        "months_written": len(months),
        "months": ", ".join(months) or "none" if len(months) <= MONTHS_SHOWN else f"{months[0]} … {months[-1]}",
        "commit": state.commit,
        "fetched_at": dg.MetadataValue.timestamp(info.fetched_at),
        "applied_at": state.applied_at and dg.MetadataValue.timestamp(state.applied_at),
        "verified_at": state.verified_at and dg.MetadataValue.timestamp(state.verified_at),
        "withheld_because": state.withheld_because,
        "accepted_removals": state.accepted_removals if merged.outcome == "merged" else None,
        "reread": _REREAD if merged.reread else None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def of_derived(
    context: dg.AssetExecutionContext, store: Store, account: str, table: TableSchema, derived: Derived
) -> Metadata:
    """What a derived table holds, and the commit that it was made from."""

    def draw() -> Metadata:
        rows, _ = store.read_derived(table, account)
        if table is SUPPRESSION_LIST:
            return {"preview": _preview(rows, "last_stop_at")}
        return {
            "per_day": dg.MetadataValue.md(charts.markdown("Opt-outs per day", charts.day_chart(rows))),
            "per_month": dg.MetadataValue.md(charts.markdown("Opt-outs per month", charts.month_chart(rows))),
            "countries": charts.countries(rows),
        }

    return {
        **_pictures(context, derived.info.commit, draw, made_again=derived.remade),
        "dagster/row_count": derived.info.rows,
        "dagster/uri": store.uri(table.name, account),
        "commit": derived.info.commit,
        "remade": derived.remade,
    }


def health(state: State, now: datetime) -> str:
    """One line: when the list was last complete, how old it is by that, when it changed, and what was withheld."""
    verified, changed = "No response has been complete yet", "nothing has been merged yet"
    if state.verified_at is not None:
        age = (now - state.verified_at) / timedelta(hours=1)
        verified = f"Last verified {state.verified_at:%Y-%m-%d %H:%M UTC}, so the list is {age:.1f} h old"
    if state.applied_at is not None:
        changed = f"last change {state.applied_at:%Y-%m-%d %H:%M UTC}"
    withheld = f"; {counted(state.counts.withheld, 'removal')} withheld" if state.withheld_because else ""
    return f"{verified}; {changed}{withheld}."


def _preview(rows: pd.DataFrame, time: str) -> dg.TableMetadataValue:
    """The newest rows by a column of times, as a table: phone numbers masked, times in UTC to the minute."""
    newest = rows.nlargest(PREVIEW_ROWS, time)
    shown = newest.assign(
        phone_number=newest["phone_number"].map(mask),
        **{name: newest[name].dt.strftime("%Y-%m-%d %H:%MZ") for name in newest.select_dtypes("datetimetz").columns},
    )
    records: Any = shown.astype(object).where(shown.notna(), None).to_dict("records")
    columns = [dg.TableColumn(str(name), str(dtype)) for name, dtype in rows.dtypes.items()]
    return dg.MetadataValue.table([dg.TableRecord(record) for record in records], dg.TableSchema(columns))


def _sum_of_rows(info: SnapshotInfo) -> str:
    return (
        f"{counted(info.rows, 'row')} = {info.listed:,} kept + {info.duplicates:,} duplicates collapsed "
        f"+ {info.rejected:,} rejected"
    )


def _pictures(
    context: dg.AssetExecutionContext, commit: str | None, draw: Callable[[], Metadata], *, made_again: bool
) -> Metadata:
    """The pictures of a commit: those of the last materialization if it was of the same one, unless made again.

    If they cannot be made, the page goes without: the rows are committed, and the tables made from them matter more.
    """
    partitions = [context.partition_key] if context.has_partition_key else None
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=partitions), limit=1
    ).records
    last = records[0].asset_materialization if records and not made_again else None
    if last and last.metadata.get("commit") == dg.MetadataValue.text(commit or ""):
        pictures = {name: last.metadata[name] for name in _PICTURES if name in last.metadata}
        if pictures:
            return pictures
    try:
        return draw()
    except Exception as error:  # noqa: BLE001 – any; its text could hold phone numbers
        log.warning("The charts could not be made (%s); the data are not affected.", type(error).__name__)
        return {}
