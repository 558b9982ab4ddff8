"""When accounts are synced: the job over all assets, its schedule, and what a run tells of its accounts.

A single account is synced at the times of STOP_PIPELINE_CRON. Of several accounts, each is synced once between one of
these times and the next, spread evenly, so that neither the provider nor the machines meet them all at once. Dagster
cannot postpone a run; so their schedule is evaluated every minute, and requests the runs that are due in it.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg

from stop_pipeline.defs import GROUP
from stop_pipeline.errors import ConfigurationError
from stop_pipeline.settings import PROVIDER_TIMEZONE, Settings, key_variable

SYNC_JOB = dg.define_asset_job(
    "sync",
    selection=dg.AssetSelection.groups(GROUP),
    description="One sync: fetch the list, parse it, merge it into the table, derive the tables made from that.",
)

_PARTITION = "dagster/partition"
_FIRST, _LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

Run = tuple[str, ...]
"""The accounts that one run syncs."""


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
            yield dg.SkipReason(f"No API key is set: {_how_to_set_one(settings)}.")
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
        description="Syncs each account once per interval of STOP_PIPELINE_CRON (Europe/Paris)."
        if several
        else "Syncs at the times of STOP_PIPELINE_CRON (Europe/Paris).",
    )


def interval_around(time: datetime, intervals: dg.TimeWindowPartitionsDefinition) -> dg.TimeWindow:
    """The interval that holds `time`: from the last time of its cron expression, itself included, to the next."""
    before = intervals.get_prev_partition_window(time, respect_bounds=False)
    assert before is not None  # noqa: S101 – without bounds there always is one
    around = intervals.get_next_partition_window(before.end, respect_bounds=False)
    assert around is not None  # noqa: S101
    return around


def due_in_minute(runs: Sequence[Run], time: datetime, interval: dg.TimeWindow) -> Sequence[Run]:
    """The runs that are due in the minute of `time`, if all are spread evenly over the minutes of the interval."""
    start = interval.start.timestamp()  # instants, so that an hour that the clocks skip or repeat counts as it lasts
    minutes = int(interval.end.timestamp() - start) // 60
    minute = int(time.timestamp() - start) // 60
    first, end = (-(-len(runs) * number // minutes) for number in (minute, minute + 1))
    return runs[first:end]


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


def partition_tags(accounts: Sequence[str]) -> dict[str, str]:
    """The tags of a run that syncs the partitions of these accounts: one, or neighbours."""
    if len(accounts) == 1:
        return {_PARTITION: accounts[0]}
    return {_FIRST: accounts[0], _LAST: accounts[-1]}


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


def failed_accounts(step_failure: dg.DagsterEvent) -> dict[str, str]:
    """Why a step failed, by account, if it went on after each failure (see `partitions`); else empty."""
    failure = step_failure.step_failure_data.user_failure_data
    return {account: str(reason.value) for account, reason in failure.metadata.items()} if failure else {}


def error_of(step_failure: dg.DagsterEvent) -> tuple[str, str]:
    """The error that ended a step: its class, with the module unless it is built in, and its message."""
    error = step_failure.step_failure_data.error
    error = error and (error.cause or error)
    kind, _, message = error.message.partition(": ") if error else ("", "", "")
    return kind.strip(), message.strip()


def _how_to_set_one(settings: Settings) -> str:
    if settings.accounts_file is not None:
        return f"write one into {settings.accounts_file}"
    return f"set {' or '.join(map(key_variable, settings.accounts))}, then restart Dagster"
