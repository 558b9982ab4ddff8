"""Dagster forgets old runs, with everything that they left behind, and nothing else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from stop_pipeline import read_stops
from stop_pipeline.definitions import build_definitions
from stop_pipeline.defs import schedules
from stop_pipeline.defs.schedules import SYNC_TAG, forget_runs
from stop_pipeline.settings import Settings
from stop_pipeline_tests.support.pipeline import QUIET, Pipeline, listing


def test_an_old_run_is_forgotten_with_its_files_and_check_results(on_disk: Pipeline, tmp_path: Path) -> None:
    check = dg.AssetCheckKey(dg.AssetKey("stops"), "no_nulls")
    home, instance = tmp_path / "home", on_disk.instance
    run_ids = [on_disk.sync(listing(5)).run_id]
    middle = datetime.now(UTC)
    run_ids.append(on_disk.sync(listing(5)).run_id)

    forget = build_definitions(on_disk.settings).resolve_job_def("forget_history")
    assert forget.execute_in_process(QUIET, instance=instance).success
    assert forget_runs(instance, middle - timedelta(hours=1)) == 0
    assert _runs_in_files(home, run_ids) == run_ids, "the runs of the last 14 days are kept"

    (old,) = home.rglob(f"{run_ids[0]}.db")
    old.write_bytes(b"not a database" * 1000)  # nor could that of another user's run be opened
    assert forget_runs(instance, middle) == 1
    assert instance.get_run_by_id(run_ids[0]) is None
    assert instance.get_run_by_id(run_ids[1]) is not None
    assert _runs_in_files(home, run_ids) == run_ids[1:]
    (result,) = instance.event_log_storage.get_asset_check_execution_history(check, limit=9)
    assert result.run_id == run_ids[1]
    assert len(read_stops(on_disk.root)) == 5


def test_a_history_may_be_kept_for_longer_than_the_calendar_goes_back() -> None:
    settings = Settings.from_environment({"STOP_PIPELINE_HISTORY_DAYS": "999999"})
    assert settings.forget_runs_before(datetime.now(UTC)).year < 2000


def _runs_in_files(home: Path, run_ids: list[str]) -> list[str]:
    return [run_id for run_id in run_ids if list(home.rglob(f"*{run_id}*"))]


@dg.job
def payroll() -> None:
    """A job of another project."""


@dg.job(name="forget_history")
def another_clean_up() -> None:
    """One that is called as this project's."""


def test_runs_of_other_projects_that_share_the_instance_are_not_forgotten(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "_RUNS_READ", 2)
    for other in (payroll, another_clean_up, payroll):  # more than are read at a time
        assert other.execute_in_process(QUIET, instance=pipeline.instance).success
    assert pipeline.sync(listing(5)).success
    definitions = build_definitions(pipeline.settings)
    all_assets, one = definitions.resolve_implicit_global_asset_job_def(), [dg.AssetKey("stops_per_day")]
    by_hand = all_assets.execute_in_process(QUIET, instance=pipeline.instance, asset_selection=one)
    forget = definitions.resolve_job_def("forget_history")
    assert forget.execute_in_process(QUIET, instance=pipeline.instance).success
    for asset in ("stops", "invoices"):  # runs of checks alone
        check = dg.AssetCheckKey(dg.AssetKey(asset), "no_nulls")
        finished = dg.DagsterRunStatus.SUCCESS
        pipeline.instance.add_run(dg.DagsterRun("__ASSET_JOB", status=finished, asset_check_selection={check}))

    now = datetime.now(UTC)
    assert forget_runs(pipeline.instance, now, tags={SYNC_TAG: "yes"}) == 1
    assert pipeline.instance.has_run(by_hand.run_id)
    assert forget_runs(pipeline.instance, now) == 3
    left = [run.job_name for run in pipeline.instance.get_runs()]
    assert sorted(left) == ["__ASSET_JOB", "forget_history", "payroll", "payroll"]


def test_old_runs_are_forgotten_each_night() -> None:
    schedule = build_definitions(Settings()).resolve_schedule_def("forget_history_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 3 * * *", "Europe/Paris")
