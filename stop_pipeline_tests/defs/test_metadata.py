"""What the pages of the assets show after each sync: charts, masked rows, the state of the list."""

import sqlite3
from pathlib import Path

import dagster as dg
import pytest

from stop_pipeline.defs import charts, metadata
from stop_pipeline.table.state import Counts, State
from stop_pipeline_tests.support.loopback import reply
from stop_pipeline_tests.support.pipeline import Pipeline, listing, shown
from stop_pipeline_tests.support.syncing import START, response_body, rows

CHARTS = {"stops": ["delays"], "stops_per_day": ["per_day", "per_month"]}
SYNCS_A_DAY = 96
SHOWN_WITHOUT_A_CLICK = 999  # characters of Markdown


def charts_of(result: dg.ExecuteInProcessResult) -> list[str]:
    """The charts of a run; fails if one would not be seen without a click."""
    found = [shown(result, asset)[name] for asset, names in CHARTS.items() for name in names]
    assert all(isinstance(chart, dg.MarkdownMetadataValue) for chart in found)
    assert all(len(str(chart.value)) <= SHOWN_WITHOUT_A_CLICK for chart in found)
    return [str(chart.value) for chart in found]


def test_every_sync_shows_the_charts_and_figures_of_its_commit(pipeline: Pipeline) -> None:
    first, unchanged, changed, unchanged_again, third = (pipeline.sync(listing(n)) for n in (30, 30, 31, 31, 32))
    assert charts_of(first) == charts_of(unchanged)
    for before, after in ((unchanged, changed), (changed, third)):
        assert all(old != new for old, new in zip(charts_of(before)[1:], charts_of(after)[1:], strict=True))
    assert "No opt-out has come in" in charts_of(unchanged)[0]
    assert "Half listed within" in charts_of(changed)[0]
    figures, same = (
        {name: shown(result, "stops")[name] for name in charts.DELAY_FIGURES} for result in (changed, unchanged_again)
    )
    assert figures["over_48_hours_percent"].value == 100
    assert same == figures


@pytest.mark.slow
def test_the_charts_cost_less_than_a_megabyte_a_day_in_the_database(on_disk: Pipeline, tmp_path: Path) -> None:
    # Counts all over the scale, which make the longest charts.
    listed = [row for month in range(60) for row in _in_month(month)]
    on_disk.sync(reply(200, response_body(listed)))
    drawn = charts_of(on_disk.sync(reply(200, response_body(listed))))
    size = 0
    for file in (tmp_path / "home").rglob("*.db"):
        with sqlite3.connect(file) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            if "event_logs" in tables:
                events = [event for (event,) in database.execute("SELECT event FROM event_logs")]
                size += sum(event.count(chart) * len(chart) for event in events for chart in drawn)
        database.close()
    assert 0 < size / 2 * SYNCS_A_DAY < 1_000_000


def _in_month(month: int) -> list[dict[str, object]]:
    year, number = 2021 + month // 12, 1 + month % 12
    return [
        {
            "id": 1 + month * 100 + place,
            "phoneNumber": f"+3363998{place:04}",
            "createdAt": f"{year}-{number:02}-{1 + place * 7 % 28:02} 10:00:00",
        }
        for place in range(1 + month * 37 % 90)
    ]


def test_each_account_has_charts_of_its_own(pipeline: Pipeline) -> None:
    pipeline.settings = type(pipeline.settings)(
        base_url=pipeline.settings.base_url, data_root=str(pipeline.root), accounts=("main", "lyon")
    )
    main = pipeline.sync(listing(30), account="main")
    lyon = pipeline.sync(reply(200, response_body(rows(20, month="2024-01"))), account="lyon")
    again = pipeline.sync(listing(30), account="main")
    assert charts_of(again) == charts_of(main) != charts_of(lyon)


def test_a_chart_that_cannot_be_drawn_stops_nothing(pipeline: Pipeline) -> None:
    def broken(_: object) -> str:
        raise RuntimeError("no ink")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "delay_chart", broken)
        result = pipeline.sync(listing(30))
    assert result.success
    assert "delays" not in shown(result, "stops")
    charts_of(pipeline.sync(listing(30)))


@pytest.mark.parametrize("asset", ["stops", "suppression_list"])
def test_a_preview_shows_the_newest_dozen_with_their_numbers_masked(pipeline: Pipeline, asset: str) -> None:
    listed = [*rows(20, month="2025-06"), *rows(5, first_id=100, month="2025-07")]
    preview = shown(pipeline.sync(reply(200, response_body(listed))), asset)["preview"]
    assert isinstance(preview, dg.TableMetadataValue)
    records = [record.data for record in preview.records]
    time = "created_at" if asset == "stops" else "last_stop_at"
    assert [str(record[time])[:7] for record in records] == ["2025-07"] * 5 + ["2025-06"] * 7
    assert all(str(record["phone_number"]).startswith("+33 6•• •• •• ") for record in records)
    assert not any(row.phone_number[-8:] in str(records) for row in listed)


def test_an_empty_list_has_empty_previews_and_charts(pipeline: Pipeline) -> None:
    result = pipeline.sync(listing(0))
    assert len(charts_of(result)) == 3
    for asset in ("stops", "suppression_list"):
        preview = shown(result, asset)["preview"]
        assert isinstance(preview, dg.TableMetadataValue)
        assert not preview.records


def test_the_sum_of_rows_is_in_the_singular_for_a_single_row(pipeline: Pipeline) -> None:
    result = pipeline.sync(listing(1))
    for asset in ("stop_snapshot", "stops"):
        assert shown(result, asset)["rows"].value == "1 row = 1 kept + 0 duplicates collapsed + 0 rejected"


def test_the_health_line_says_when_the_list_was_verified_and_when_it_changed() -> None:
    state = State(applied_at=START, verified_at=START.replace(hour=14))
    assert metadata.health(state, START.replace(hour=15, minute=30)) == (
        "Last verified 2026-01-01 14:00 UTC, so the list is 1.5 h old; last change 2026-01-01 12:00 UTC."
    )
    assert metadata.health(State(applied_at=START), START).startswith("No response has been complete yet;")
    withheld = State(applied_at=START, counts=Counts(withheld=300), withheld_because="300 rows no longer listed")
    assert metadata.health(withheld, START).endswith("; 300 removals withheld.")
