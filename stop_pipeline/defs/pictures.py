"""What a person looks at on an asset's page, charts and previews, and when it is made.

What belongs here: telling what the last materialisation shows already. What does not: the drawing (`charts`) and which
rows are shown (`preview`).

Figures and previews are those of the commit that stands. A chart is drawn for a new commit, but not twice within an
hour: 50 kB in the event log of every tick would fill Dagster's database. Meanwhile the page links to the run that drew
the last one.
"""

import base64
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from stop_pipeline.defs import metadata
from stop_pipeline.defs.metadata import Metadata
from stop_pipeline.model import DELAY_FIGURES

if TYPE_CHECKING:
    from stop_pipeline.charts import Delays
    from stop_pipeline.model import State
    from stop_pipeline.store import Store
    from stop_pipeline.tick import Derived

log = logging.getLogger(__name__)

CHART, CHART_AS_OF, PREVIEW, COMMIT = "chart", "chart_as_of", "preview", "commit"
DRAWN_EVERY = timedelta(hours=1)

Shown = Mapping[str, dg.MetadataValue[Any]]


def of_stops(context: dg.AssetExecutionContext, store: "Store", account: str, state: "State") -> Metadata:
    """The delays between `created_at` and `first_seen_at`, with figures for Dagster to plot; the youngest rows."""
    if state.commit is None or state.applied_at is None:
        return {}
    shown, run_id = _shown_last(context)

    @cache  # the chart and the figures are of the same rows
    def delays() -> "Delays":
        from stop_pipeline import charts, tick

        return charts.delays(*tick.read_since_first_load(store, account))

    def chart() -> dg.MarkdownMetadataValue:
        from stop_pipeline import charts

        return _image("Delay until an opt-out is listed", charts.delay_chart(delays()))

    def others() -> Metadata:
        from stop_pipeline import preview

        return {**delays().figures, PREVIEW: metadata.preview(preview.of_stops(store, account))}

    names = (*DELAY_FIGURES, PREVIEW)
    return _chart(shown, run_id, state.applied_at, chart) | _of_commit(shown, state.commit, others, names)


def of_suppression_list(context: dg.AssetExecutionContext, derived: "Derived") -> Metadata:
    """The numbers with the youngest opt-outs."""

    def others() -> Metadata:
        from stop_pipeline import preview

        return {PREVIEW: metadata.preview(preview.of_suppression_list(derived.read()))}

    shown, _ = _shown_last(context)
    return _of_commit(shown, derived.commit, others, (PREVIEW,))


def of_stops_per_day(context: dg.AssetExecutionContext, derived: "Derived") -> Metadata:
    """The opt-outs per day."""

    def chart() -> dg.MarkdownMetadataValue:
        from stop_pipeline import charts

        return _image("Opt-outs per day", charts.stops_per_day_chart(derived.read()))

    return _chart(*_shown_last(context), derived.applied_at, chart)


def _shown_last(context: dg.AssetExecutionContext) -> tuple[Shown, str]:
    """What the last materialisation shows, and its run."""
    partitions = [context.partition_key] if context.has_partition_key else None
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=partitions), limit=1
    ).records
    for record in records:
        if record.asset_materialization:
            return record.asset_materialization.metadata, record.run_id
    return {}, ""


def _chart(shown: Shown, run_id: str, applied_at: datetime, draw: Callable[[], dg.MarkdownMetadataValue]) -> Metadata:
    """The chart as of a commit; a link to the run that drew the last one, if that is no older than `DRAWN_EVERY`."""
    drawn, as_of = shown.get(CHART), shown.get(CHART_AS_OF)
    age = applied_at.timestamp() - as_of.value if isinstance(as_of, dg.TimestampMetadataValue) else None
    if drawn is not None and age is not None and 0 <= age < DRAWN_EVERY.total_seconds():
        link = dg.MetadataValue.dagster_run(run_id) if isinstance(drawn, dg.MarkdownMetadataValue) else drawn
        return {CHART: link, CHART_AS_OF: as_of}
    try:
        return {CHART: draw(), CHART_AS_OF: dg.MetadataValue.timestamp(applied_at)}
    except Exception:  # the rows are committed, and whom not to text is derived next: no picture is worth stopping that
        log.exception("A chart could not be drawn; the data are not concerned.")
        return {}


def _of_commit(shown: Shown, commit: str, make: Callable[[], Metadata], names: tuple[str, ...]) -> Metadata:
    """What is shown under these names, if it is of this commit; else what `make` gives."""
    if shown.get(COMMIT) == dg.MetadataValue.text(commit) and PREVIEW in shown:
        return {name: shown[name] for name in names if name in shown}
    return make()


def _image(title: str, png: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
