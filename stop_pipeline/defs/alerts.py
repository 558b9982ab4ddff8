"""The sensor that tells a webhook what failed, and that it is over.

What belongs here: which runs are new, what Dagster recorded of them, and the cursor. What does not: what is told of
them (`incidents`), and the POST (`webhook`).

Not a `run_status_sensor`: that one sees neither a failed check, which leaves its run successful, nor the runs of
`stop-pipeline run`, which belong to no code location; and an alert that the webhook did not take would be lost. This
one reads the runs that ended, oldest first, and moves its cursor only when the webhook took what there was to tell: one
POST for each evaluation, at least once for each message.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg

from stop_pipeline.defs.assets import ASSETS
from stop_pipeline.defs.schedules import TICK_JOB
from stop_pipeline.errors import AlertError, StopPipelineError
from stop_pipeline.incidents import THE_RUN, Incident, Outcome, follow, message
from stop_pipeline.settings import Settings

INTERVAL_SECONDS = 30
FIRST_LOOK_BACK = timedelta(hours=1)
"""How old a failure can be that the very first evaluation tells."""

OVERLAP = timedelta(minutes=2)
"""Runs are written by several machines: one whose clock is behind can end “before” one that was read already."""

RUNS_READ = 200
"""In one evaluation, so that a backlog does not exceed the minute that Dagster gives a sensor."""

_NAMES = frozenset(asset.key.path[-1] for asset in ASSETS)
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
        incidents: Those that are open, by account.
    """

    since: datetime
    read: frozenset[str] = frozenset()
    incidents: Mapping[str, Incident] = field(default_factory=dict)

    def to_json(self) -> str:
        """As Dagster keeps it."""
        incidents = {
            account: {
                "began_at": incident.began_at.isoformat(),
                "open": sorted(incident.open),
                "told": sorted(incident.told),
            }
            for account, incident in self.incidents.items()
        }
        return json.dumps({"since": self.since.isoformat(), "read": sorted(self.read), "incidents": incidents})

    @classmethod
    def from_json(cls, text: str) -> "Cursor":
        """What `to_json` gave."""
        document = json.loads(text)
        incidents = {
            account: Incident(
                datetime.fromisoformat(incident["began_at"]), frozenset(incident["open"]), frozenset(incident["told"])
            )
            for account, incident in document["incidents"].items()
        }
        return cls(datetime.fromisoformat(document["since"]), frozenset(document["read"]), incidents)


def alert_sensor(settings: Settings) -> dg.SensorDefinition:
    """Tell STOP_PIPELINE_ALERT_WEBHOOK of failed runs and checks of severity ERROR; stopped while that is not set."""
    webhook = settings.alert_webhook

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from stop_pipeline.webhook import post

        if webhook is None:
            return dg.SensorResult(skip_reason="Set STOP_PIPELINE_ALERT_WEBHOOK, then restart Dagster.")
        before = Cursor.from_json(context.cursor) if context.cursor else Cursor(datetime.now(UTC) - FIRST_LOOK_BACK)
        records = _records(context.instance, before)
        outcomes = [
            outcome
            for record in records
            if _is_new(record, before) and _is_ours(record)
            for outcome in _outcomes(context.instance, record, settings.accounts)
        ]
        incidents, sentences = follow(before.incidents, sorted(outcomes, key=lambda outcome: outcome.ended_at))
        if sentences:
            try:
                post(webhook, message(sentences))
            except AlertError as error:
                return dg.SensorResult(skip_reason=f"{error} It is tried again in {INTERVAL_SECONDS} s.")
        after = _moved_on(before, records, incidents)
        return dg.SensorResult(skip_reason="\n".join(sentences) or "Nothing new.", cursor=after.to_json())

    return dg.SensorDefinition(
        name="alerts",
        evaluation_fn=evaluate,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED if webhook is None else dg.DefaultSensorStatus.RUNNING,
        description="Posts failed runs and failed checks to STOP_PIPELINE_ALERT_WEBHOOK: one message for each "
        "incident, and one when it is over.",
    )


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
    # One that ended long ago but was written since was given a tag, and was read when it ended.
    return record.dagster_run.run_id not in cursor.read and _ended_at(record) >= cursor.since - OVERLAP


def _is_ours(record: dg.RunRecord) -> bool:
    """Whether the run was a tick, or of some of the assets: an instance can serve other projects too."""
    run = record.dagster_run
    return run.job_name == TICK_JOB.name or not _NAMES.isdisjoint(
        key.path[-1] for key in run.asset_selection or () if len(key.path) == 1
    )


def _moved_on(cursor: Cursor, records: Sequence[dg.RunRecord], incidents: Mapping[str, Incident]) -> Cursor:
    since = max([cursor.since, *(record.update_timestamp for record in records)])
    read = {record.dagster_run.run_id for record in records if record.update_timestamp > since - OVERLAP}
    return Cursor(since, frozenset(read), incidents)


def _outcomes(instance: dg.DagsterInstance, record: dg.RunRecord, all_accounts: Sequence[str]) -> list[Outcome]:
    """What a run came to, for each account that it ticked."""
    run = record.dagster_run
    accounts = _accounts_of(run, all_accounts)
    failed: dict[str, dict[str, str]] = {account: {} for account in accounts}
    passed: dict[str, set[str]] = {account: {THE_RUN} if run.is_success else set() for account in accounts}
    stopped_in_a_step = False
    for entry in instance.all_logs(run.run_id, of_type=_EVENTS):
        event = entry.get_dagster_event()
        stopped_in_a_step |= event.is_step_failure
        if event.step_key not in _NAMES:  # a person can materialise assets of several projects in one run
            continue
        for account, problem, sentence in _told_by(event, accounts):
            if sentence is None:
                passed[account].add(problem)
            else:
                failed[account][problem] = sentence
    if not run.is_success and not stopped_in_a_step:
        for account in accounts:
            failed[account][THE_RUN] = "It ended before it could say why: its page in the Dagster UI tells more."
    ended_at = _ended_at(record)
    return [Outcome(account, run.run_id, ended_at, failed[account], passed[account]) for account in accounts]


def _told_by(event: dg.DagsterEvent, accounts: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Account, step or check, and why it failed, or None if it passed; nothing of a check that only warns."""
    if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        check = event.asset_check_evaluation_data
        if check.passed or check.severity is dg.AssetCheckSeverity.ERROR:
            sentence = None if check.passed else check.description or ""
            yield check.partition or accounts[0], f"check {check.check_name}", sentence
        return
    why = _sentences(event, accounts) if event.is_step_failure else {}
    for account in accounts:
        yield account, str(event.step_key), why.get(account)


def _accounts_of(run: dg.DagsterRun, accounts: Sequence[str]) -> Sequence[str]:
    """The accounts that a run ticked: its partition, or its range of them; without either, the only one there is."""
    if partition := run.tags.get("dagster/partition"):
        return [partition]
    ends = [run.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end")]
    if ends[0] in accounts and ends[1] in accounts:
        return accounts[accounts.index(ends[0]) : accounts.index(ends[1]) + 1]
    return accounts[:1]


def _sentences(failure: dg.DagsterEvent, accounts: Sequence[str]) -> dict[str, str]:
    """Why a step failed, for each account of its run that it failed for (see `partitions`)."""
    told = failure.step_failure_data.user_failure_data
    if told is not None and told.metadata:
        return {account: str(told.metadata[account].value) for account in accounts if account in told.metadata}
    return dict.fromkeys(accounts, _sentence(failure))


def _sentence(failure: dg.DagsterEvent) -> str:
    """Why a step failed, if this package said so: what another library says may hold a key or a phone number."""
    error = failure.step_failure_data.error
    error = error and (error.cause or error)
    kind, _, said = error.message.partition(": ") if error else ("", "", "")
    if kind.startswith(f"{StopPipelineError.__module__}."):
        return said.strip()
    return f"It met an error that is not foreseen ({kind.strip()}): the run's page in the Dagster UI tells more."


def _ended_at(record: dg.RunRecord) -> datetime:
    return record.update_timestamp if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC)
