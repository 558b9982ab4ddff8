"""The sensor that posts failures, overdue lists and recoveries to a webhook.

It is not a `run_status_sensor`: that one sees neither a failed check, which leaves its run successful, nor the runs of
`stop-pipeline run`, which belong to no code location; and an alert that the webhook refused would be lost. This sensor
reads the runs that ended, oldest first, and moves its cursor only once the webhook has accepted the messages.

A problem is a failed step, a failed check, or a list that is overdue. An incident of an account begins with its first
problem and is over when every one of them has passed again. Each problem is told once per incident, and one message
tells that all is well again.
"""

import html
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import dagster as dg
import requests
from pydantic import TypeAdapter
from sqlalchemy.exc import DBAPIError
from urllib3.exceptions import HTTPError

from stop_pipeline.defs.schedules import ASSET_NAMES, accounts_of, failed_accounts, is_sync, selected
from stop_pipeline.errors import StoreError, redacted_logs
from stop_pipeline.settings import Settings, age_as_text
from stop_pipeline.table.store import Store

INTERVAL_SECONDS = 30
TIMEOUT_SECONDS = (5, 15)  # to connect to the webhook, and for its response: within the minute that a sensor has
FIRST_LOOK_BACK = timedelta(hours=1)  # how far back the first evaluation looks for failures
OVERLAP = timedelta(minutes=2)  # a machine whose clock is behind writes runs that end “before” one that was read
RUNS_READ = 200  # in one evaluation, so that a backlog does not exceed the minute that a sensor has
LINES_POSTED = 20  # when many accounts fail at once, the lines before these are only counted

THE_RUN = "the run"  # the problem of a run that ended outside any step: its process was killed, or never started
OVERDUE = "overdue list"  # the problem of an account without a complete list for too long, whatever the reason

_EVENTS = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}


@dataclass(frozen=True)
class Finding:
    """What is known about an account at one time, such as the end of a run."""

    account: str
    at: datetime  # UTC
    problems: Mapping[str, str | None]  # for what failed, why and what to do, as sentences; for what passed, None


@dataclass(frozen=True)
class Incident:
    """Something is wrong with an account."""

    began_at: datetime  # time of the first problem, UTC
    open: frozenset[str]  # problems that have not passed since
    told: frozenset[str]  # problems that were told in this incident


@dataclass(frozen=True)
class Cursor:
    """How far the runs have been read, and what is wrong as of then."""

    since: datetime  # latest change of a run that was read
    read: frozenset[str] = frozenset()  # runs that were read and changed no longer than `OVERLAP` before that
    incidents: Mapping[str, Incident] = field(default_factory=dict)  # the open ones, by account
    ages_read_at: datetime | None = None  # when the ages of the lists were last looked at


CURSOR = TypeAdapter(Cursor)  # to the JSON that Dagster keeps, and back


def alert_sensor(settings: Settings) -> dg.SensorDefinition:
    """Post to STOP_PIPELINE_ALERT_WEBHOOK; the sensor is stopped by default while that variable is not set."""
    webhook, loaded_at = settings.alert_webhook, datetime.now(UTC)

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if webhook is None:
            return dg.SensorResult(skip_reason="Set STOP_PIPELINE_ALERT_WEBHOOK, then restart Dagster.")
        now = datetime.now(UTC)
        before = CURSOR.validate_json(context.cursor) if context.cursor else Cursor(now - FIRST_LOOK_BACK)
        records = _ended_runs(context.instance, before)
        findings = [
            finding
            for record in records
            if _is_new(record, before)
            for finding in _findings_of_run(context.instance, record, settings.accounts)
        ]
        ages_read_at = before.ages_read_at
        if ages_read_at is None or not timedelta(0) <= now - ages_read_at < settings.alert_after / 10:
            ages_read_at = now
            findings += findings_of_age(settings, now, loaded_at)
        known = {account: before.incidents[account] for account in before.incidents.keys() & settings.accounts}
        incidents, messages = follow(known, sorted(findings, key=lambda finding: finding.at))
        if messages and (refused := post(webhook, joined(messages))):
            return dg.SensorResult(skip_reason=f"{refused} The next try is in {INTERVAL_SECONDS} s.")
        since = min(now, max([before.since, *(record.update_timestamp for record in records)]))
        read = {record.dagster_run.run_id for record in records if record.update_timestamp > since - OVERLAP}
        after = CURSOR.dump_json(Cursor(since, frozenset(read), incidents, ages_read_at)).decode()
        return dg.SensorResult(skip_reason="\n".join(messages) or "Nothing new.", cursor=after)

    return dg.SensorDefinition(
        name="alerts",
        evaluation_fn=evaluate,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED if webhook is None else dg.DefaultSensorStatus.RUNNING,
        description="Posts failed runs, failed checks and overdue lists to STOP_PIPELINE_ALERT_WEBHOOK: one message "
        "for each problem of an incident, and one when it is over; a test evaluation posts as well. Off until that "
        "variable is set.",
    )


def post(url: str, text: str) -> str | None:
    """Post `text` as `{"text": …}`, which Slack, Mattermost, Rocket.Chat and others show.

    Returns None if the webhook accepted it, else a sentence that says why not. The address is a secret, since whoever
    knows it can post to it: no sentence or log has it.
    """
    parts = urlsplit(url)
    secrets = tuple(secret for secret in (url, parts.path, parts.query) if len(secret) > 1)
    body = {"text": html.escape(text, quote=False)}  # these three characters are Slack's markup
    with redacted_logs(secrets), requests.Session() as session:
        session.trust_env = parts.scheme == "https"  # a loopback address never goes through a proxy
        try:
            # The body of the response does not matter, so it is not waited for.
            with session.post(url, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True) as response:
                status = response.status_code
        except (OSError, HTTPError, ValueError) as error:
            return f"The webhook could not be reached ({type(error).__name__})."
    return None if 200 <= status < 300 else f"The webhook responded with HTTP {status}."  # noqa: PLR2004


def findings_of_age(settings: Settings, now: datetime, loaded_at: datetime) -> list[Finding]:
    """Whether each account's list is overdue, by the time of its last complete response.

    An account that never had one counts from when Dagster loaded these definitions.
    """
    store, limit = Store(settings.data_root), settings.alert_after

    def finding(account: str) -> Finding | None:
        try:
            verified_at = store.state(account).verified_at
        except StoreError:  # no run can read the data root either, and each says so
            return None
        last = "there has been none yet" if verified_at is None else f"the last one was at {_utc(verified_at)}"
        overdue = (
            f"no complete list was synced for more than {age_as_text(limit)}; {last}. Look at Runs and "
            "Automation in the Dagster UI: runs may be failing or queued, responses may be incomplete, the schedule "
            "may be off, or no API key is set."
        )
        return Finding(account, now, {OVERDUE: overdue if now - (verified_at or loaded_at) > limit else None})

    try:
        store.files.has_root()  # of a bucket that does not respond, all accounts together would take too long
    except StoreError:
        return []
    return [found for found in store.in_threads(finding, settings.accounts) if found is not None]


def _ended_runs(instance: dg.DagsterInstance, cursor: Cursor) -> Sequence[dg.RunRecord]:
    """The runs that ended since, and those that were read but overlap, in the order in which they were last written."""
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    return instance.get_run_records(
        dg.RunsFilter(statuses=ended, updated_after=cursor.since - OVERLAP),
        limit=RUNS_READ + len(cursor.read),
        order_by="update_timestamp",
        ascending=True,
    )


def _is_new(record: dg.RunRecord, cursor: Cursor) -> bool:
    """Whether a run is one of this project's that was not read before."""
    # A run that ended long ago but was written since was given a tag; it was read when it ended.
    is_new = record.dagster_run.run_id not in cursor.read and _ended_at(record) >= cursor.since - OVERLAP
    return is_new and is_sync(record.dagster_run)


def _ended_at(record: dg.RunRecord) -> datetime:
    return record.update_timestamp if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC)


def _findings_of_run(instance: dg.DagsterInstance, record: dg.RunRecord, all_accounts: Sequence[str]) -> list[Finding]:
    """What a run came to, for each account that it synced. A failed check that only warns is left out."""
    run, ended_at = record.dagster_run, _ended_at(record)
    accounts = accounts_of(run, all_accounts)
    try:
        events = [entry.get_dagster_event() for entry in instance.all_logs(run.run_id, of_type=_EVENTS)]
    except DBAPIError as error:
        if not isinstance(error.orig, sqlite3.DatabaseError) or "locked" in str(error.orig):
            raise  # the next evaluation can read them
        why = (
            f"the events of the run {run.run_id[:8]}, which ended at {_utc(ended_at)}, cannot be read: see whom the "
            "files in Dagster's home belong to."
        )
        return [Finding(account, ended_at, {THE_RUN: why}) for account in accounts]
    problems: dict[str, dict[str, str | None]] = {account: {} for account in accounts}

    def note(problem: str, reasons: Mapping[str, str | None]) -> None:
        failed = f"{problem} failed at {_utc(ended_at)} (run {run.run_id[:8]})."
        for account in problems.keys() & reasons:  # the others are no longer configured
            reason = reasons[account]
            problems[account][problem] = reason if reason is None else f"{failed} {reason}"

    makes_all = (selected(run) or ASSET_NAMES) >= ASSET_NAMES
    # With several accounts one step makes all assets, so that of a run of some of them says nothing of the others.
    passed = accounts if makes_all or len(all_accounts) == 1 else []
    for event in events:
        if event.step_key in ASSET_NAMES:  # one run can materialize assets of several projects
            note(*_outcome(event, accounts, passed))
    unexplained = "It ended without giving a reason; see the run's page in the Dagster UI."
    if run.is_success and makes_all:
        note(THE_RUN, dict.fromkeys(accounts))
    elif not run.is_success and not any(event.is_step_failure for event in events):
        note(THE_RUN, dict.fromkeys(accounts, unexplained))
    return [Finding(account, ended_at, problems[account]) for account in accounts]


def _outcome(
    event: dg.DagsterEvent, accounts: Sequence[str], passed: Sequence[str]
) -> tuple[str, dict[str, str | None]]:
    """What a step or a check is called as a problem, and for each of its accounts why it failed; None if it passed.

    `passed` are the accounts for which a step has passed unless it failed for them.
    """
    if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        check = event.asset_check_evaluation_data
        problem, account = f"check {check.check_name}", check.partition or accounts[0]
        if check.passed:
            return problem, {account: None}
        return problem, {account: check.description or ""} if check.severity is dg.AssetCheckSeverity.ERROR else {}
    failed = failed_accounts(event, accounts) if event.is_step_failure else {}
    return str(event.step_key), {**dict.fromkeys(passed), **failed}


def follow(
    incidents: Mapping[str, Incident], findings: Iterable[Finding]
) -> tuple[dict[str, Incident], tuple[str, ...]]:
    """Follow the open incidents, by account, through findings in the order of their times.

    Returns the incidents that are open then, and the messages to post.
    """
    now_open = dict(incidents)
    messages: list[str] = []
    for finding in findings:
        incident = now_open.pop(finding.account, None) or Incident(finding.at, frozenset(), frozenset())
        failed = {problem: sentences for problem, sentences in finding.problems.items() if sentences is not None}
        heading = f"STOP list of {finding.account}:"
        messages += [f"{heading} {sentences}" for problem, sentences in failed.items() if problem not in incident.told]
        if still_open := incident.open.difference(finding.problems).union(failed):
            now_open[finding.account] = Incident(incident.began_at, still_open, incident.told.union(failed))
        elif incident.told:
            since = f"Problems since {_utc(incident.began_at)}: {', '.join(sorted(incident.told))}."
            messages.append(f"{heading} all is well again at {_utc(finding.at)}. {since}")
    return now_open, tuple(messages)


def joined(messages: Sequence[str]) -> str:
    """The messages as one text, a line each."""
    more = len(messages) - LINES_POSTED
    left_out = [f"{more:,} earlier messages are left out here; the Dagster UI shows them."] if more > 0 else []
    return "\n".join([*left_out, *messages[-LINES_POSTED:]])


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
