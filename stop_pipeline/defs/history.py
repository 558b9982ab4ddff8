"""How long Dagster remembers a run.

What belongs here: the job that forgets old runs, and when it does. What does not: the history of the opt-outs, which is
in the tables and of which nothing is ever forgotten; and the ticks of schedules, for which Dagster has a setting
(`retention` in `dagster.yaml`). For runs it has none (dagster-io/dagster, issue 33785).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from stop_pipeline.settings import PROVIDER_TIMEZONE, Settings

FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_RUNS_AT_ONCE = 500


def history_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Each night, forget the runs that are older than STOP_PIPELINE_HISTORY_DAYS."""

    @dg.op(description="Forget the finished runs that are older than STOP_PIPELINE_HISTORY_DAYS.")
    def forget_old_runs(context: dg.OpExecutionContext) -> None:
        before = datetime.now(UTC) - timedelta(days=settings.history_days)
        context.add_output_metadata({"runs": forget_runs(context.instance, before)})

    @dg.job(description="Keeps Dagster's database small: forgets old runs, with their events and check results.")
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

    A partition that none but such runs have made may be shown as missing from then on; its data stays.

    Returns:
        How many there were.
    """
    old = dg.RunsFilter(statuses=list(FINISHED), created_before=before)
    forgotten = 0
    while records := instance.get_run_records(old, limit=_RUNS_AT_ONCE, ascending=True):
        run_ids = [record.dagster_run.run_id for record in records]
        for run_id in run_ids:
            instance.delete_run(run_id)
        _forget_what_delete_run_leaves(instance, run_ids)
        forgotten += len(run_ids)
    return forgotten


def _forget_what_delete_run_leaves(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """Captured output; the results of checks, a table of their own; on SQLite a database for each run, now empty."""
    # Loading the definitions needs no database.
    from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage  # noqa: PLC0415
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable  # noqa: PLC0415

    for run_id in run_ids:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        results = AssetCheckExecutionsTable
        with storage.index_connection() as connection:
            connection.execute(results.delete().where(results.c.run_id.in_(run_ids)))
    if isinstance(storage, SqliteEventLogStorage):
        for run_id in run_ids:
            Path(storage.path_for_shard(run_id)).unlink(missing_ok=True)
