"""The schedule ticks by itself: the daemon starts the runs, and an unchanged list changes nothing."""

from pathlib import Path

import dagster as dg
import pytest

from stop_pipeline.sandbox import serve
from stop_pipeline_tests.serving import dev, wait_for
from stop_pipeline_tests.ticking import tree

FOLDERS = ("stops", "suppression_list", "stops_per_day")


@pytest.mark.slow
def test_the_daemon_ticks_every_minute_and_finds_an_unchanged_list(tmp_path: Path) -> None:
    root, home = tmp_path / "data", tmp_path / ".dagster_home"
    with (
        serve(rows=300, changes=False) as sandbox,
        dev(
            tmp_path,
            SMSPARTNER_BASE_URL=sandbox.base_url,
            SMSPARTNER_API_KEY=sandbox.api_key,
            STOP_PIPELINE_CRON="* * * * *",
        ),
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        wait_for(lambda: _ticked(instance, 1), 150, "no scheduled run succeeded")
        before = tree(root, *FOLDERS)
        wait_for(lambda: _ticked(instance, 2), 150, "no second scheduled run succeeded")
        assert tree(root, *FOLDERS) == before
        first, second = (_metadata_of_stops(instance, run) for run in _ticked(instance, 2)[:2])
        assert not instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    assert (first["outcome"], first["new"], first["months_written"]) == (
        "applied",
        first["listed"],
        first["months_written"],
    )
    assert (second["outcome"], second["new"], second["months_written"]) == ("recognised", 0, 0)


def _ticked(instance: dg.DagsterInstance, at_least: int) -> list[dg.DagsterRun]:
    """The runs that the schedule started and that succeeded, in order; none while there are fewer."""
    succeeded = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], tags={"dagster/schedule_name": "every_tick"})
    runs = list(instance.get_runs(succeeded))[::-1]
    return runs if len(runs) >= at_least else []


def _metadata_of_stops(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, object]:
    events = (
        entry.get_dagster_event() for entry in instance.all_logs(run.run_id, dg.DagsterEventType.ASSET_MATERIALIZATION)
    )
    (metadata,) = [
        event.step_materialization_data.materialization.metadata
        for event in events
        if event.asset_key == dg.AssetKey("stops")
    ]
    return {name: value.value for name, value in metadata.items()}
