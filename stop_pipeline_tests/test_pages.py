"""What the pages of the assets show after real runs: figures, charts, previews, and where columns come from."""

import base64
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from stop_pipeline import charts, schema
from stop_pipeline.definitions import build_definitions
from stop_pipeline.defs import metadata, pictures
from stop_pipeline.model import DELAY_FIGURES, State
from stop_pipeline.settings import Settings
from stop_pipeline_tests.loopback import Loopback, reply, reply_json
from stop_pipeline_tests.ticking import START, answer_body, rows

TABLES = {
    "raw_stop_list": (schema.RAW_STOP_LIST, ()),
    "stop_snapshot": (schema.STOP_SNAPSHOT, ()),
    "stops": (schema.STOPS, (schema.ACCOUNT, schema.CREATED_MONTH)),
    "suppression_list": (schema.SUPPRESSION_LIST, (schema.ACCOUNT,)),
    "stops_per_day": (schema.STOPS_PER_DAY, (schema.ACCOUNT,)),
}
FROM_NO_COLUMN = {"first_seen_at", "removed_at", "account", "origin"}


class Pages:
    """Ticks on an instance, and what the assets' pages show after each."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.instance = root, instance

    def tick(self, *answers: bytes, accounts: tuple[str, ...] = ("main",), account: str | None = None) -> list[Any]:
        """A tick for each answer; gives the results."""
        with Loopback(*(reply(200, answer) for answer in answers)) as server:
            settings = Settings(accounts=accounts, base_url=server.base_url, data_root=str(self.root))
            job = build_definitions(settings).resolve_job_def("tick")
            quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
            return [job.execute_in_process(quiet, instance=self.instance, partition_key=account) for _ in answers]

    @staticmethod
    def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dg.MetadataValue[Any]]:
        events = (event for event in result.all_events if event.is_step_materialization)
        (made,) = (event.materialization for event in events if event.asset_key == dg.AssetKey(asset))
        return dict(made.metadata)


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    monkeypatch.setenv("SMSPARTNER_API_KEY", "key-of-main")
    monkeypatch.setenv("SMSPARTNER_API_KEY_LYON", "key-of-lyon")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Pages(tmp_path, instance)


def test_every_count_is_a_number_that_dagster_can_plot(pages: Pages) -> None:
    (result,) = pages.tick(answer_body(rows(30)))
    stops, raw = pages.shown(result, "stops"), pages.shown(result, "raw_stop_list")
    for name in ("listed", "new", "changed", "removed", "restored", "rejected", "withheld", "months_written"):
        assert isinstance(stops[name], dg.IntMetadataValue), name
    assert isinstance(raw["bytes"], dg.IntMetadataValue)
    assert isinstance(raw["http_seconds"], dg.FloatMetadataValue)
    assert len(str(raw["sha256"].value)) == 64
    assert stops["age_hours"].value == 0


@pytest.mark.parametrize("asset", ["stops", "stops_per_day"])
def test_a_chart_is_drawn_when_the_list_changed_and_is_linked_until_it_changes_again(
    pages: Pages, asset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "DRAWN_EVERY", timedelta(microseconds=1))
    first, unchanged, again, changed = pages.tick(*(answer_body(rows(count)) for count in (30, 30, 30, 31)))
    image = pages.shown(first, asset)["chart"]
    assert isinstance(image, dg.MarkdownMetadataValue)
    png = base64.b64decode(str(image.value).partition("base64,")[2].removesuffix(")"))
    assert png.startswith(b"\x89PNG")
    assert len(str(image.value)) < 100_000
    for result in (unchanged, again):
        assert pages.shown(result, asset)["chart"] == dg.MetadataValue.dagster_run(first.run_id)
    assert isinstance(pages.shown(changed, asset)["chart"], dg.MarkdownMetadataValue)


def test_a_list_that_changes_within_the_hour_is_told_in_figures_and_the_chart_is_linked(pages: Pages) -> None:
    first, changed, again = pages.tick(*(answer_body(rows(count)) for count in (5, 6, 7)))
    for result, count in ((changed, 6), (again, 7)):
        for asset in ("stops", "stops_per_day"):
            assert pages.shown(result, asset)["chart"] == dg.MetadataValue.dagster_run(first.run_id)
            assert pages.shown(result, asset)["chart_as_of"] == pages.shown(first, asset)["chart_as_of"]
        for asset in ("stops", "suppression_list"):
            preview = pages.shown(result, asset)["preview"]
            assert isinstance(preview, dg.TableMetadataValue)
            assert len(preview.records) == count


def test_the_figures_of_the_delays_are_repeated_while_the_list_is_unchanged(pages: Pages) -> None:
    *_, changed, unchanged = pages.tick(*(answer_body(rows(count)) for count in (30, 31, 31)))
    figures = {name: pages.shown(changed, "stops")[name] for name in DELAY_FIGURES}
    assert figures["over_48_hours_percent"].value == 100
    assert {name: pages.shown(unchanged, "stops")[name] for name in DELAY_FIGURES} == figures


def test_each_account_has_charts_of_its_own(pages: Pages) -> None:
    fleet = ("main", "lyon")
    (main,) = pages.tick(answer_body(rows(30)), accounts=fleet, account="main")
    (lyon,) = pages.tick(answer_body(rows(30, first_id=500)), accounts=fleet, account="lyon")
    (again,) = pages.tick(answer_body(rows(30)), accounts=fleet, account="main")
    assert isinstance(pages.shown(lyon, "stops")["chart"], dg.MarkdownMetadataValue)
    assert pages.shown(again, "stops")["chart"] == dg.MetadataValue.dagster_run(main.run_id)


def test_a_chart_that_cannot_be_drawn_stops_nothing(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> bytes:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(charts, "delay_chart", broken)
    (result,) = pages.tick(answer_body(rows(30)))
    assert result.success
    assert "chart" not in pages.shown(result, "stops")
    monkeypatch.undo()
    monkeypatch.setenv("SMSPARTNER_API_KEY", "key-of-main")
    (mended,) = pages.tick(answer_body(rows(30)))
    assert isinstance(pages.shown(mended, "stops")["chart"], dg.MarkdownMetadataValue)


@pytest.mark.parametrize("asset", ["stops", "suppression_list"])
def test_a_preview_shows_the_youngest_dozen_with_their_numbers_masked(pages: Pages, asset: str) -> None:
    listed = [*rows(20, month="2025-06"), *rows(5, first_id=100, month="2025-07")]
    (result,) = pages.tick(answer_body(listed))
    preview = pages.shown(result, asset)["preview"]
    assert isinstance(preview, dg.TableMetadataValue)
    records = [record.data for record in preview.records]
    assert len(records) == 12
    time = "created_at" if asset == "stops" else "last_stop_at"
    assert [str(record[time])[:7] for record in records] == ["2025-07"] * 5 + ["2025-06"] * 7
    assert all(str(record["phone_number"]).startswith("+33 6•• •• •• ") for record in records)
    assert not any(row.phone_number[-8:] in str(records) for row in listed)


def test_an_empty_list_has_an_empty_preview_and_charts(pages: Pages) -> None:
    (result,) = pages.tick(answer_body([]))
    for asset in ("stops", "stops_per_day"):
        assert isinstance(pages.shown(result, asset)["chart"], dg.MarkdownMetadataValue)
    assert pages.shown(result, "stops")["preview"].value is not None


def test_the_health_line_tells_when_the_list_was_verified_and_when_it_changed() -> None:
    state = State(applied_at=START, verified_at=START.replace(hour=14))
    assert metadata.health(state, START.replace(hour=15, minute=30)) == (
        "Last verified 2026-01-01 14:00 UTC, so the list is 1.5 h old; last change 2026-01-01 12:00 UTC."
    )
    assert metadata.health(State(applied_at=START), START).startswith("No answer has been proven whole yet;")


def test_a_failed_step_says_its_sentence_on_a_line_of_its_own(pages: Pages, tmp_path: Path) -> None:
    with Loopback(reply_json({"success": False, "code": 10, "message": "Clé API incorrecte"})) as server:
        settings = Settings(base_url=server.base_url, data_root=str(tmp_path))
        job = build_definitions(settings).resolve_job_def("tick")
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        result = job.execute_in_process(quiet, instance=pages.instance, raise_on_error=False)
    lines = [entry for entry in pages.instance.all_logs(result.run_id) if not entry.is_dagster_event]
    (error,) = [entry for entry in lines if entry.level == 40 and entry.step_key == "raw_stop_list"]
    assert "SMSPARTNER_API_KEY" in error.user_message


def test_every_column_says_from_which_existing_column_upstream_it_is_made() -> None:
    specs = {spec.key.path[-1]: spec for spec in build_definitions(Settings()).resolve_all_asset_specs()}
    assert specs.keys() == TABLES.keys()
    columns = {name: [*(c.name for c in (*table.columns, *keys))] for name, (table, keys) in TABLES.items()}
    assert schema.LINEAGE.keys() < TABLES.keys()

    def upstream(name: str) -> set[str]:
        above = {dep.asset_key.path[-1] for dep in specs[name].deps}
        return above.union(*map(upstream, above))

    for name, spec in specs.items():
        shown = spec.metadata["dagster/column_schema"]
        assert [column.name for column in shown.columns] == columns[name]
        assert all(column.description for column in shown.columns)
        lineage = spec.metadata["dagster/column_lineage"].deps_by_column
        if name != "raw_stop_list":
            assert set(columns[name]) - set(lineage) <= FROM_NO_COLUMN
        assert set(lineage) <= set(columns[name])
        for column, sources in lineage.items():
            for source in sources:
                assert source.asset_key.path[-1] in upstream(name)
                assert source.column_name in columns[source.asset_key.path[-1]]
                (described,) = [c.description for c in shown.columns if c.name == column]
                assert f"`{source.asset_key.path[-1]}.{source.column_name}`" in (described or "")
