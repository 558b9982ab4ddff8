"""What a person looks at on an asset's page, charts and previews, and when it is made.

What belongs here: telling whether the last materialisation shows the commit that stands already. What does not: the
drawing (`charts`) and which rows are shown (`preview`). An image of 50 kB in the event log of every tick would fill
Dagster's database, so a chart is drawn when the commit is a new one; until the next, the page links to the run that
drew it and repeats the figures and the preview.
"""

import base64
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg

from stop_pipeline.defs import metadata
from stop_pipeline.defs.metadata import Metadata

if TYPE_CHECKING:
    from stop_pipeline.model import State
    from stop_pipeline.store import Store
    from stop_pipeline.tick import Derived

log = logging.getLogger(__name__)

CHART, PREVIEW, COMMIT = "chart", "preview", "commit"


def of_stops(context: dg.AssetExecutionContext, store: "Store", account: str, state: "State") -> Metadata:
    """The delays between `created_at` and `first_seen_at`, with figures for Dagster to plot; the youngest rows."""
    from stop_pipeline import charts, preview

    def made() -> Metadata:
        delays = charts.delays(store.stops_columns(account, ("id", "created_at", "first_seen_at")))
        return {
            CHART: _image("Delay until an opt-out is listed", charts.delay_chart(delays)),
            **delays.figures,
            PREVIEW: metadata.preview(preview.of_stops(store, account)),
        }

    return _once(context, state.commit or "none", made, (CHART, *charts.DELAY_FIGURES, PREVIEW))


def of_suppression_list(context: dg.AssetExecutionContext, derived: "Derived") -> Metadata:
    """The numbers with the youngest opt-outs."""
    from stop_pipeline import preview

    def made() -> Metadata:
        return {PREVIEW: metadata.preview(preview.of_suppression_list(derived.read()))}

    return _once(context, derived.commit, made, (PREVIEW,))


def of_stops_per_day(context: dg.AssetExecutionContext, derived: "Derived") -> Metadata:
    """The opt-outs per day."""
    from stop_pipeline import charts

    def made() -> Metadata:
        return {CHART: _image("Opt-outs per day", charts.stops_per_day_chart(derived.read()))}

    return _once(context, derived.commit, made, (CHART,))


def _once(
    context: dg.AssetExecutionContext, commit: str, made: Callable[[], Metadata], names: tuple[str, ...]
) -> Metadata:
    """What `made` gives under these names; where the last materialisation shows the same commit, what that shows.

    In place of a chart there is then a link to the run that drew it.
    """
    partitions = [context.partition_key] if context.has_partition_key else None
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=partitions), limit=1
    ).records
    for record in records:
        shown = record.asset_materialization.metadata if record.asset_materialization else {}
        if shown.get(COMMIT) == dg.MetadataValue.text(commit) and names[0] in shown:
            kept = {name: shown[name] for name in names if name in shown}
            if isinstance(kept.get(CHART), dg.MarkdownMetadataValue):
                kept[CHART] = dg.MetadataValue.dagster_run(record.run_id)
            return kept
    try:
        return made()
    except Exception:  # the rows are committed, and whom not to text is derived next: no picture is worth stopping that
        log.exception("The picture of %s could not be made; the data are not concerned.", context.asset_key.path[-1])
        return {}


def _image(title: str, png: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
