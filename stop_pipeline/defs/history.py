"""How long Dagster remembers a run: the job that deletes old runs, and its schedule.

Dagster has no setting for that (dagster-io/dagster, issue 33785). The history of the opt-outs is in the tables and does
not depend on it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from sqlalchemy import String, column, delete, table

from stop_pipeline.settings import PROVIDER_TIMEZONE, Settings

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_RUNS_AT_ONCE = 500
_RUN_ID = column("run_id", String)
_CHECK_RESULTS = table("asset_check_executions", _RUN_ID)


def history_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Each night, delete the runs that are older than STOP_PIPELINE_HISTORY_DAYS."""

    @dg.op(description="Deletes the finished runs that are older than STOP_PIPELINE_HISTORY_DAYS.")
    def forget_old_runs(context: dg.OpExecutionContext) -> None:
        before = datetime.now(UTC) - timedelta(days=settings.history_days)
        context.add_output_metadata({"runs": forget_runs(context.instance, before)})

    @dg.job(description="Keeps Dagster's database small: deletes old runs with their events and check results.")
    def forget_history() -> None:
        forget_old_runs()

    return dg.ScheduleDefinition(
        job=forget_history,
        cron_schedule="30 3 * * *",
        execution_timezone=PROVIDER_TIMEZONE,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def forget_runs(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete every finished run that was created before a time, with its events, check results and captured output.

    A partition that only such runs materialized may be shown as missing from then on; its data stays. Returns how many
    runs were deleted.
    """
    old = dg.RunsFilter(statuses=_FINISHED, created_before=before)
    forgotten = 0
    while records := instance.get_run_records(old, limit=_RUNS_AT_ONCE, ascending=True):
        run_ids = [record.dagster_run.run_id for record in records]
        for run_id in run_ids:
            instance.delete_run(run_id)
            instance.compute_log_manager.delete_logs(prefix=[run_id])
        _delete_what_is_left(instance, run_ids)
        forgotten += len(run_ids)
    return forgotten


def _delete_what_is_left(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """What `delete_run` leaves: check results, and on SQLite the run's own database, of 110 kB even when empty."""
    storage = instance.event_log_storage
    if connect := getattr(storage, "index_connection", None):  # every SQL storage has it
        with connect() as connection:
            connection.execute(delete(_CHECK_RESULTS).where(_RUN_ID.in_(run_ids)))
    if database_of := getattr(storage, "path_for_shard", None):  # SQLite's has it
        for run_id in run_ids:
            Path(database_of(run_id)).unlink(missing_ok=True)
