"""When Dagster runs what: accounts are synced all day, and old runs are forgotten each night.

A single account is synced at the times of STOP_PIPELINE_CRON. Of several accounts, each is synced once between one of
these times and the next, spread evenly, so that neither the provider nor the machines meet them all at once. Dagster
cannot postpone a run; so their schedule is evaluated every minute, and requests the runs that are due in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import dagster as dg
from sqlalchemy import String, column, delete, table
from sqlalchemy.exc import SQLAlchemyError

from stop_pipeline.defs import GROUP
from stop_pipeline.errors import ConfigurationError
from stop_pipeline.schema import ASSET_TABLES
from stop_pipeline.settings import PROVIDER_TIMEZONE, Settings, key_variable

SYNC_TAG = "stop_pipeline/sync"
"""Tag of the job's runs: another project that shares the instance may have a job “sync” as well."""

SYNC_JOB = dg.define_asset_job(
    "sync",
    selection=dg.AssetSelection.groups(GROUP),
    description="One sync: fetch the list, parse it, merge it into the table, derive the tables made from that.",
    tags={SYNC_TAG: "yes"},
    # A process for each step would spend seconds on imports for milliseconds of work.
    executor_def=dg.in_process_executor,
)
_FORGET_TAG = "stop_pipeline/forget_history"

ASSET_NAMES = frozenset(asset.name for asset in ASSET_TABLES)
"""The names of the assets."""

_PARTITION = "dagster/partition"
_FIRST, _LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_RUNS_READ = 500  # by one query
_RUN_ID = column("run_id", String)
_CHECK_RESULTS = table("asset_check_executions", _RUN_ID)


def sync_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Sync every account once per interval of STOP_PIPELINE_CRON, in Europe/Paris; skip while no account has a key.

    Raises:
        ConfigurationError: STOP_PIPELINE_CRON is not a valid cron expression.
    """
    intervals = intervals_of(settings.cron)
    runs = settings.accounts_by_run()
    several = len(settings.accounts) > 1

    def requests(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        if not settings.accounts_with_key():
            how = f"set {' or '.join(map(key_variable, settings.accounts))}, then restart Dagster"
            if settings.accounts_file is not None:
                how = f"write one into {settings.accounts_file}"
            yield dg.SkipReason(f"No API key is set: {how}.")
            return
        interval = interval_around(context.scheduled_execution_time, intervals)
        due = due_in_minute(runs, context.scheduled_execution_time, interval)
        if not due:
            yield dg.SkipReason("No account is due in this minute.")
        for accounts in due:
            # The run key makes one run of a minute that the daemon evaluates twice. A minute that it misses only costs
            # time: every response is the whole list, so the account's next sync brings what the missed one would have.
            key = f"{accounts[0]} {interval.start.astimezone(UTC).isoformat()}"
            yield dg.RunRequest(key, tags=partition_tags(accounts) if several else None)

    return dg.ScheduleDefinition(
        name="sync_schedule",
        job=SYNC_JOB,
        cron_schedule="* * * * *" if several else settings.cron,
        execution_timezone=PROVIDER_TIMEZONE,
        execution_fn=requests,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Syncs each account once per interval of STOP_PIPELINE_CRON, {settings.cron} (Europe/Paris)."
        if several
        else "Syncs at the times of STOP_PIPELINE_CRON (Europe/Paris).",
    )


def intervals_of(cron: str) -> dg.TimeWindowPartitionsDefinition:
    """The intervals from each time of a cron expression, in Europe/Paris, to the next."""
    try:
        return dg.TimeWindowPartitionsDefinition(
            start=datetime(2000, 1, 1),  # noqa: DTZ001 – in the zone that is named beside it
            fmt="%Y-%m-%dT%H:%M",
            cron_schedule=cron,
            timezone=PROVIDER_TIMEZONE,
        )
    except dg.DagsterInvalidDefinitionError:
        raise ConfigurationError(
            f"STOP_PIPELINE_CRON is “{cron}”, which is not a valid cron expression such as */15 * * * *."
        ) from None


def interval_around(time: datetime, intervals: dg.TimeWindowPartitionsDefinition) -> dg.TimeWindow:
    """The interval that holds `time`: from the last time of its cron expression, itself included, to the next."""
    before = intervals.get_prev_partition_window(time, respect_bounds=False)
    assert before is not None  # noqa: S101 – without bounds there always is one
    around = intervals.get_next_partition_window(before.end, respect_bounds=False)
    assert around is not None  # noqa: S101
    return around


def due_in_minute(
    runs: Sequence[tuple[str, ...]], time: datetime, interval: dg.TimeWindow
) -> Sequence[tuple[str, ...]]:
    """The runs, as their accounts, that are due in the minute of `time`: all are spread evenly over the interval."""
    start = interval.start.timestamp()  # instants, so that an hour that the clocks skip or repeat counts as it lasts
    minutes = int(interval.end.timestamp() - start) // 60
    minute = int(time.timestamp() - start) // 60
    first, end = (-(-len(runs) * number // minutes) for number in (minute, minute + 1))
    return runs[first:end]


def partition_tags(accounts: Sequence[str]) -> dict[str, str]:
    """The tags of a run that syncs the partitions of these accounts: one, or neighbours."""
    return {_PARTITION: accounts[0]} if len(accounts) == 1 else {_FIRST: accounts[0], _LAST: accounts[-1]}


def accounts_of(run: dg.DagsterRun, accounts: Sequence[str]) -> Sequence[str]:
    """Which of the accounts a run synced: its partition, or its range of them; without either, the only account.

    Empty if an account at an end of the range is no longer configured.
    """
    if partition := run.tags.get(_PARTITION):
        return [partition]
    first, last = run.tags.get(_FIRST), run.tags.get(_LAST)
    if first is None:
        return accounts[:1]
    if first in accounts and last in accounts:
        return accounts[accounts.index(first) : accounts.index(last) + 1]
    return []


def selected(run: dg.DagsterRun) -> set[str]:
    """The assets that a run was to make, unless it was to make all of a job."""
    return {key.path[-1] for key in run.asset_selection or () if len(key.path) == 1}


def is_sync(run: dg.DagsterRun) -> bool:
    """Whether a run was a sync or made some of the assets; runs of other projects may share the instance."""
    return SYNC_TAG in run.tags or not ASSET_NAMES.isdisjoint(selected(run))


def failed_accounts(step_failure: dg.DagsterEvent, accounts: Sequence[str]) -> dict[str, str]:
    """Why a step failed, as a sentence for each account that it failed for (see `partitions`)."""
    if (failure := step_failure.step_failure_data.user_failure_data) is None:
        kind, _ = error_of(step_failure)  # its text may hold a key or a number
        return dict.fromkeys(accounts, f"Unexpected error ({kind}); see the run's page in the Dagster UI.")
    reasons = {account: str(reason.value) for account, reason in failure.metadata.items()}
    return reasons or dict.fromkeys(accounts, failure.description or "")


def error_of(step_failure: dg.DagsterEvent) -> tuple[str, str]:
    """The error that ended a step: the name of its class, and its message."""
    error = step_failure.step_failure_data.error
    error = error and (error.cause or error)
    kind, _, message = error.message.partition(": ") if error else ("", "", "")
    return kind.strip().rpartition(".")[2], message.strip()


def history_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Each night, delete the runs that are older than STOP_PIPELINE_HISTORY_DAYS.

    Dagster has no setting for that (dagster-io/dagster, issue 33785). The history of the opt-outs is in the tables and
    does not depend on it.
    """

    @dg.op(description="Deletes the finished runs that are older than STOP_PIPELINE_HISTORY_DAYS.")
    def forget_old_runs(context: dg.OpExecutionContext) -> None:
        forgotten = 0
        while count := forget_runs(context.instance, settings.forget_runs_before(datetime.now(UTC))):
            forgotten += count
        context.add_output_metadata({"runs": forgotten})

    @dg.job(
        tags={_FORGET_TAG: "yes"},
        executor_def=dg.in_process_executor,
        description="Keeps Dagster's database small: deletes old runs with their events and check results.",
    )
    def forget_history() -> None:
        forget_old_runs()

    return dg.ScheduleDefinition(
        job=forget_history,
        cron_schedule="30 3 * * *",
        execution_timezone=PROVIDER_TIMEZONE,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Each night, deletes runs older than STOP_PIPELINE_HISTORY_DAYS.",
    )


def forget_runs(
    instance: dg.DagsterInstance, before: datetime, at_most: int = 500, tags: Mapping[str, str] | None = None
) -> int:
    """Delete the oldest of this project's finished runs that were created before a time; returns how many.

    With `tags`, only runs that have them. Their events, check results and captured output go with them. A partition
    that only such runs materialized may be shown as missing from then on; its data stays.
    """
    old = dg.RunsFilter(statuses=_FINISHED, created_before=before, tags=tags)
    # `delete_run` leaves the check results, and on SQLite the run's own database, of 110 kB even when empty.
    connect = getattr(instance.event_log_storage, "index_connection", None)  # every SQL storage has it
    database_of = getattr(instance.event_log_storage, "path_for_shard", None)  # SQLite's has it
    run_ids = [run.run_id for run in islice(filter(_is_own, _runs(instance, old)), at_most)]
    for run_id in run_ids:
        try:
            instance.delete_run(run_id)
        except SQLAlchemyError:  # the run is gone, and its events, if they are another user's, go with their file
            if instance.has_run(run_id):
                raise
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        if database_of:
            Path(database_of(run_id)).unlink(missing_ok=True)
    if connect and run_ids:
        with connect() as connection:
            connection.execute(delete(_CHECK_RESULTS).where(_RUN_ID.in_(run_ids)))
    return len(run_ids)


def _is_own(run: dg.DagsterRun) -> bool:
    """Whether a run was a sync or a clean-up, or made some of the assets, or only evaluated checks of them."""
    checked = {check.asset_key.to_user_string() for check in run.asset_check_selection or ()}
    return is_sync(run) or _FORGET_TAG in run.tags or not ASSET_NAMES.isdisjoint(checked)


def _runs(instance: dg.DagsterInstance, wanted: dg.RunsFilter) -> Iterator[dg.DagsterRun]:
    """The runs that a filter finds, from the oldest on."""
    runs = instance.get_runs(wanted, limit=_RUNS_READ, ascending=True)
    while runs:
        yield from runs
        runs = instance.get_runs(wanted, cursor=runs[-1].run_id, limit=_RUNS_READ, ascending=True)
