"""What the Dagster UI shows of each asset: columns, counts, paths, charts and a few masked rows."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pandas as pd

from stop_pipeline.defs import charts
from stop_pipeline.phone_numbers import mask
from stop_pipeline.results import Derived, Fetched, Merged, Parsed
from stop_pipeline.schema import LINEAGE, STOPS_PER_DAY, SUPPRESSION_LIST, Column, TableSchema
from stop_pipeline.table.state import SnapshotInfo, State
from stop_pipeline.table.store import Store

log = logging.getLogger(__name__)

Metadata = dict[str, Any]

PREVIEW_ROWS = 12
PREVIEW_MONTHS = 3
_PREVIEW_COLUMNS = ["phone_number", "country", "created_at", "first_seen_at", "removed_at"]


def column_schema(schema: TableSchema, *keys: Column) -> dg.TableSchema:
    """The columns of a table as the UI shows them, hive keys last.

    Each description also says which columns the column is made from: the open-source UI keeps
    `dagster/column_lineage`, but does not draw it.
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
    """From which upstream columns each column of a table is made."""
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(asset_key=table, column_name=name) for table, name in sources]
            for column, sources in LINEAGE.get(schema.name, {}).items()
        }
    )


def of_fetched(fetched: Fetched) -> Metadata:
    """What a fetch brought."""
    return {
        "fetched_at": dg.MetadataValue.timestamp(fetched.response.fetched_at),
        "bytes": fetched.response.size_bytes,
        "http_seconds": round(fetched.response.seconds, 3),
        "sha256": fetched.response.sha256,
        "changed": fetched.changed,
        "file": fetched.kept.file,
    }


def of_parsed(parsed: Parsed, uri: str) -> Metadata:
    """What the snapshot holds; the sum of its rows shows that none was dropped."""
    info = parsed.info
    return {
        "dagster/row_count": info.rows - info.duplicates,
        "dagster/uri": uri,
        "listed": info.listed,
        "rejected": info.rejected,
        "duplicates": info.duplicates,
        "rows": sum_of_rows(info),
        "sha256": info.sha256,
        "fetched_at": dg.MetadataValue.timestamp(info.fetched_at),
        "parsed": parsed.parsed,
        **({"extra_fields": ", ".join(info.extra_fields)} if info.extra_fields else {}),
    }


def of_merged(merged: Merged, uri: str, pictures: Metadata) -> Metadata:
    """What a sync did to `stops`, and the state of the table, the most important first."""
    state, info = merged.state, merged.info
    age = _age_hours(state, info.fetched_at)
    shown = {
        "health": health(state, info.fetched_at),
        "age_hours": None if age is None else round(age, 2),
        **pictures,
        "dagster/row_count": state.total_rows,
        "dagster/uri": uri,
        "outcome": merged.outcome,
        **dataclasses.asdict(merged.counts),
        "rejected": info.rejected,
        "rows": sum_of_rows(info),
        "standing": state.open_rows,
        "months_written": len(merged.months_written),
        "months": ", ".join(merged.months_written) or "none",
        "sha256": info.sha256,
        "commit": state.commit,
        "fetched_at": dg.MetadataValue.timestamp(info.fetched_at),
        "applied_at": state.applied_at and dg.MetadataValue.timestamp(state.applied_at),
        "verified_at": state.verified_at and dg.MetadataValue.timestamp(state.verified_at),
        "withheld_because": state.withheld_because,
        "accepted_removals": state.accepted_removals,
        "reread": "Stored rows were read again by today's rules and settings." if merged.reread else None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def of_derived(derived: Derived, uri: str, pictures: Metadata) -> Metadata:
    """What a derived table holds, and the commit that it was made from."""
    return {
        **pictures,
        "dagster/row_count": derived.info.rows,
        "dagster/uri": uri,
        "commit": derived.info.commit,
        "remade": derived.remade,
    }


def pictures_of_stops(context: dg.AssetExecutionContext, store: Store, account: str, merged: Merged) -> Metadata:
    """The delays between `created_at` and `first_seen_at`, figures that Dagster can plot, and the newest rows."""
    state = merged.state

    def make() -> Metadata:
        hours = charts.delays(store.read_stops(account, state, ["id", "created_at", "first_seen_at"]))
        newest = store.read_stops(account, state, _PREVIEW_COLUMNS, [*state.months][-PREVIEW_MONTHS:])
        return {
            "delays": _image("Delay until an opt-out is listed", charts.delay_chart(hours)),
            **charts.delay_figures(hours),
            "preview": preview(newest, "created_at"),
        }

    names = ("delays", *charts.DELAY_FIGURES, "preview")
    return _of_commit(context, state.commit, names, make, made_again=merged.reread)


def pictures_of_suppression_list(
    context: dg.AssetExecutionContext, store: Store, account: str, derived: Derived
) -> Metadata:
    """The numbers with the newest opt-outs."""

    def make() -> Metadata:
        return {"preview": preview(store.read_derived(SUPPRESSION_LIST, account), "last_stop_at")}

    return _of_commit(context, derived.info.commit, ("preview",), make, made_again=derived.remade)


def pictures_of_stops_per_day(
    context: dg.AssetExecutionContext, store: Store, account: str, derived: Derived
) -> Metadata:
    """The opt-outs of the last days, of the last months, and by country."""

    def make() -> Metadata:
        counts = store.read_derived(STOPS_PER_DAY, account)
        return {
            "per_day": _image("Opt-outs per day", charts.day_chart(counts)),
            "per_month": _image("Opt-outs per month", charts.month_chart(counts)),
            "countries": charts.countries(counts),
        }

    names = ("per_day", "per_month", "countries")
    return _of_commit(context, derived.info.commit, names, make, made_again=derived.remade)


def preview(rows: pd.DataFrame, time: str) -> dg.TableMetadataValue:
    """The newest rows as a table: phone numbers masked, times in UTC to the minute.

    Args:
        rows: Rows with a `phone_number`.
        time: Column that says how new a row is.
    """
    newest = rows.nlargest(PREVIEW_ROWS, time)
    shown = newest.assign(
        phone_number=newest["phone_number"].map(mask),
        **{name: newest[name].dt.strftime("%Y-%m-%d %H:%M") for name in newest.select_dtypes("datetimetz").columns},
    )
    records: Any = shown.astype(object).where(shown.notna(), None).to_dict("records")
    columns = [dg.TableColumn(str(name), str(dtype)) for name, dtype in rows.dtypes.items()]
    return dg.MetadataValue.table([dg.TableRecord(record) for record in records], dg.TableSchema(columns))


def health(state: State, now: datetime) -> str:
    """One line: when the list was last complete, how old it is by that, and when it last changed."""
    age = _age_hours(state, now)
    verified = (
        "No response has been complete yet"
        if state.verified_at is None
        else f"Last verified {_utc(state.verified_at)}, so the list is {age:.1f} h old"
    )
    changed = "nothing has been merged yet" if state.applied_at is None else f"last change {_utc(state.applied_at)}"
    return f"{verified}; {changed}."


def sum_of_rows(info: SnapshotInfo) -> str:
    """The sum that shows that no row was dropped."""
    return (
        f"{info.rows:,} rows = {info.listed:,} kept + {info.duplicates:,} duplicates collapsed "
        f"+ {info.rejected:,} rejected"
    )


def _of_commit(
    context: dg.AssetExecutionContext,
    commit: str | None,
    names: Sequence[str],
    make: Callable[[], Metadata],
    *,
    made_again: bool,
) -> Metadata:
    """Metadata that stay the same for a commit: repeated if the last materialization has them, unless made again.

    If they cannot be made, the page goes without: the rows are committed, and the tables made from them matter more.
    """
    partitions = [context.partition_key] if context.has_partition_key else None
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=partitions), limit=1
    ).records
    last = records[0].asset_materialization if records and not made_again else None
    if last and names[0] in last.metadata and last.metadata.get("commit") == dg.MetadataValue.text(commit or ""):
        return {name: last.metadata[name] for name in names if name in last.metadata}
    try:
        return make()
    except Exception as error:  # noqa: BLE001 – any; its text could hold phone numbers
        log.warning("The charts could not be made (%s); the data are not affected.", type(error).__name__)
        return {}


def _image(title: str, svg: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(charts.markdown(title, svg))


def _age_hours(state: State, now: datetime) -> float | None:
    return None if state.verified_at is None else (now - state.verified_at) / timedelta(hours=1)


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
