"""When a chart is drawn, and how it comes onto an asset's page.

What belongs here: telling whether the last materialisation shows the commit that stands already. What does not: the
drawing (`charts`). An image of 50 kB in the event log of every tick would fill Dagster's database, so a chart is drawn
when the commit is a new one; until the next, the page links to the run that drew it and repeats the figures.
"""

import base64
import logging
from collections.abc import Callable

import dagster as dg

from stop_pipeline import charts
from stop_pipeline.defs.metadata import Metadata
from stop_pipeline.model import State
from stop_pipeline.store import Store
from stop_pipeline.tick import Derived

log = logging.getLogger(__name__)

CHART, COMMIT = "chart", "commit"


def of_stops(context: dg.AssetExecutionContext, store: Store, account: str, state: State) -> Metadata:
    """The delays between `created_at` and `first_seen_at`: the chart, and its figures for Dagster to plot."""

    def drawn() -> Metadata:
        delays = charts.delays(store.read_stops_columns(account, ("id", "created_at", "first_seen_at")))
        return {CHART: _image("Delay until an opt-out is listed", charts.delay_chart(delays)), **delays.figures}

    return _pictured(context, state.commit or "none", drawn, carried=charts.DELAY_FIGURES)


def of_stops_per_day(context: dg.AssetExecutionContext, derived: Derived) -> Metadata:
    """The opt-outs per day."""

    def drawn() -> Metadata:
        return {CHART: _image("Opt-outs per day", charts.stops_per_day_chart(derived.table))}

    return _pictured(context, derived.commit, drawn)


def _pictured(
    context: dg.AssetExecutionContext, commit: str, drawn: Callable[[], Metadata], *, carried: tuple[str, ...] = ()
) -> Metadata:
    """What `drawn` gives, or, where the last materialisation shows the same commit, a link to the run that drew it."""
    partitions = [context.partition_key] if context.has_partition_key else None
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=partitions), limit=1
    ).records
    for record in records:
        shown = record.asset_materialization.metadata if record.asset_materialization else {}
        if CHART in shown and shown.get(COMMIT) == dg.MetadataValue.text(commit):
            image = isinstance(shown[CHART], dg.MarkdownMetadataValue)
            kept = {name: shown[name] for name in (CHART, *carried) if name in shown}
            return kept | ({CHART: dg.MetadataValue.dagster_run(record.run_id)} if image else {})
    try:
        return drawn()
    except Exception:  # the rows are committed, and whom not to text is derived next: no picture is worth stopping that
        log.exception("The chart of %s could not be drawn; the data are not concerned.", context.asset_key.path[-1])
        return {}


def _image(title: str, png: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
