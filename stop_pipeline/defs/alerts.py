"""The sensor that tells a webhook what failed, that a list is overdue, and that all is well again.

It is not a `run_status_sensor`: that one sees neither a failed check, which leaves its run successful, nor the runs of
`stop-pipeline run`, which belong to no code location; and an alert that the webhook refused would be lost. This sensor
reads the runs that ended, oldest first, and moves its cursor only once the webhook has accepted what there was to tell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import TypeAdapter

from stop_pipeline.defs.incidents import OVERDUE, THE_RUN, Incident, Outcome, failure, follow, joined, overdue
from stop_pipeline.defs.schedules import SYNC_JOB
from stop_pipeline.defs.webhook import post
from stop_pipeline.errors import AlertError, StopPipelineError, StoreError
from stop_pipeline.schema import ASSET_TABLES
from stop_pipeline.settings import Settings
from stop_pipeline.table.store import Store

INTERVAL_SECONDS = 30
FIRST_LOOK_BACK = timedelta(hours=1)
"""How old a failure can be that the very first evaluation tells."""

OVERLAP = timedelta(minutes=2)
"""Runs are written by several machines: one whose clock is behind can end “before” one that was read already."""

RUNS_READ = 200
"""Runs read in one evaluation, so that a backlog does not exceed the minute that Dagster gives a sensor."""

_NAMES = frozenset(table.name for table in ASSET_TABLES)
_EVENTS = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}


@dataclass(frozen=True)
class Cursor:
    """How far the runs have been read, and what is wrong as of then.

    Attributes:
        since: Latest change of a run that was read.
        read: Runs that were read and changed no longer than `OVERLAP` before that.
        incidents: The open incidents, by account.
        ages_read_at: When the ages of the lists were last looked at.
    """

    since: datetime
    read: frozenset[str] = frozenset()
    incidents: Mapping[str, Incident] = field(default_factory=dict)
    ages_read_at: datetime | None = None


CURSOR = TypeAdapter(Cursor)
"""A cursor to the JSON that Dagster keeps, and back."""


def alert_sensor(settings: Settings) -> dg.SensorDefinition:
    """Post failed runs, failed checks of severity ERROR and overdue lists to STOP_PIPELINE_ALERT_WEBHOOK.

    The sensor is stopped by default while that variable is not set.
    """
    webhook = settings.alert_webhook
    loaded_at = datetime.now(UTC)

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if webhook is None:
            return dg.SensorResult(skip_reason="Set STOP_PIPELINE_ALERT_WEBHOOK, then restart Dagster.")
        now = datetime.now(UTC)
        before = CURSOR.validate_json(context.cursor) if context.cursor else Cursor(now - FIRST_LOOK_BACK)
        records = _records(context.instance, before)
        outcomes = [
            outcome
            for record in records
            if _is_new(record, before) and _is_ours(record)
            for outcome in _outcomes(context.instance, record, settings.accounts)
        ]
        ages_read_at = before.ages_read_at
        if ages_read_at is None or now - ages_read_at >= settings.alert_after / 10:
            ages_read_at = now
            outcomes += _ages(settings, now, loaded_at)
        incidents, messages = follow(before.incidents, sorted(outcomes, key=lambda outcome: outcome.at))
        if messages:
            try:
                post(webhook, joined(messages))
            except AlertError as error:
                return dg.SensorResult(skip_reason=f"{error} The next try is in {INTERVAL_SECONDS} s.")
        after = _moved_on(before, records, incidents, ages_read_at)
        return dg.SensorResult(
            skip_reason="\n".join(messages) or "Nothing new.", cursor=CURSOR.dump_json(after).decode()
        )

    return dg.SensorDefinition(
        name="alerts",
        evaluation_fn=evaluate,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED if webhook is None else dg.DefaultSensorStatus.RUNNING,
        description="Posts failed runs, failed checks and overdue lists to STOP_PIPELINE_ALERT_WEBHOOK: one message "
        "for each problem of an incident, and one when it is over.",
    )


def _ages(settings: Settings, now: datetime, loaded_at: datetime) -> list[Outcome]:
    """Whether each account's list is overdue, by the time of its last complete response.

    An account that never had one counts from when Dagster loaded these definitions.
    """
    store = Store(settings.data_root)

    def age(account: str) -> Outcome | None:
        try:
            verified_at = store.state(account).verified_at
        except StoreError:  # no run can read the data root either, and each says so
            return None
        if now - (verified_at or loaded_at) > settings.alert_after:
            return Outcome(account, now, {OVERDUE: overdue(verified_at, settings.alert_after)}, ())
        return Outcome(account, now, {}, (OVERDUE,))

    return [outcome for outcome in store.in_threads(age, settings.accounts) if outcome is not None]


def _records(instance: dg.DagsterInstance, cursor: Cursor) -> Sequence[dg.RunRecord]:
    """The runs that ended since, and those that were read but overlap, in the order in which they were last written."""
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    return instance.get_run_records(
        dg.RunsFilter(statuses=ended, updated_after=cursor.since - OVERLAP),
        limit=RUNS_READ + len(cursor.read),
        order_by="update_timestamp",
        ascending=True,
    )


def _is_new(record: dg.RunRecord, cursor: Cursor) -> bool:
    # A run that ended long ago but was written since was given a tag; it was read when it ended.
    return record.dagster_run.run_id not in cursor.read and _ended_at(record) >= cursor.since - OVERLAP


def _is_ours(record: dg.RunRecord) -> bool:
    """Whether the run was a sync, or made some of the assets: an instance can serve other projects too."""
    run = record.dagster_run
    return run.job_name == SYNC_JOB.name or not _NAMES.isdisjoint(
        key.path[-1] for key in run.asset_selection or () if len(key.path) == 1
    )


def _moved_on(
    cursor: Cursor, records: Sequence[dg.RunRecord], incidents: Mapping[str, Incident], ages_read_at: datetime
) -> Cursor:
    since = max([cursor.since, *(record.update_timestamp for record in records)])
    read = {record.dagster_run.run_id for record in records if record.update_timestamp > since - OVERLAP}
    return Cursor(since, frozenset(read), incidents, ages_read_at)


def _outcomes(instance: dg.DagsterInstance, record: dg.RunRecord, all_accounts: Sequence[str]) -> list[Outcome]:
    """What a run came to, for each account that it synced."""
    run, ended_at = record.dagster_run, _ended_at(record)
    accounts = _accounts_of(run, all_accounts)
    failed: dict[str, dict[str, str]] = {account: {} for account in accounts}
    passed: dict[str, set[str]] = {account: {THE_RUN} if run.is_success else set() for account in accounts}
    results: list[tuple[str, str, str | None]] = []
    stopped_in_a_step = False
    for entry in instance.all_logs(run.run_id, of_type=_EVENTS):
        event = entry.get_dagster_event()
        stopped_in_a_step |= event.is_step_failure
        if event.step_key in _NAMES:  # one run can materialize assets of several projects
            results += _results(event, accounts)
    if not run.is_success and not stopped_in_a_step:
        reason = "It ended before it could say why; see its page in the Dagster UI."
        results += [(account, THE_RUN, reason) for account in accounts]
    for account, problem, why in results:
        if why is None:
            passed[account].add(problem)
        else:
            failed[account][problem] = failure(problem, why, at=ended_at, run_id=run.run_id)
    return [Outcome(account, ended_at, failed[account], passed[account]) for account in accounts]


def _results(event: dg.DagsterEvent, accounts: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Account, step or check, and why it failed, or None if it passed. A failed check that only warns is left out."""
    if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        check = event.asset_check_evaluation_data
        if check.passed or check.severity is dg.AssetCheckSeverity.ERROR:
            reason = None if check.passed else check.description or ""
            yield check.partition or accounts[0], f"check {check.check_name}", reason
        return
    reasons = _reasons(event, accounts) if event.is_step_failure else {}
    for account in accounts:
        yield account, str(event.step_key), reasons.get(account)


def _accounts_of(run: dg.DagsterRun, accounts: Sequence[str]) -> Sequence[str]:
    """The accounts that a run synced: its partition, or its range of them; without either, the only account."""
    if partition := run.tags.get("dagster/partition"):
        return [partition]
    ends = [run.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end")]
    if ends[0] in accounts and ends[1] in accounts:
        return accounts[accounts.index(ends[0]) : accounts.index(ends[1]) + 1]
    return accounts[:1]


def _reasons(step_failure: dg.DagsterEvent, accounts: Sequence[str]) -> dict[str, str]:
    """Why a step failed, for each account of its run that it failed for (see `partitions`)."""
    by_account = step_failure.step_failure_data.user_failure_data
    if by_account is not None and by_account.metadata:
        metadata = by_account.metadata
        return {account: str(metadata[account].value) for account in accounts if account in metadata}
    return dict.fromkeys(accounts, _reason(step_failure))


def _reason(step_failure: dg.DagsterEvent) -> str:
    """Why a step failed, if this package says so: the text of another library's error may hold a key or a number."""
    error = step_failure.step_failure_data.error
    error = error and (error.cause or error)
    kind, _, text = error.message.partition(": ") if error else ("", "", "")
    if kind.startswith(f"{StopPipelineError.__module__}."):
        return text.strip()
    return f"Unexpected error ({kind.strip()}); see the run's page in the Dagster UI."


def _ended_at(record: dg.RunRecord) -> datetime:
    return record.update_timestamp if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC)
