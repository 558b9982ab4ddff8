"""When accounts are synced: each once per interval, and the daemon starts the runs by itself."""

import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stop_pipeline.definitions import build_definitions
from stop_pipeline.defs.schedules import due_in_minute, interval_around, intervals_of
from stop_pipeline.settings import Settings
from stop_pipeline_tests.support.commands import run_command, wait_until
from stop_pipeline_tests.support.loopback import Loopback, reply
from stop_pipeline_tests.support.serving import dev
from stop_pipeline_tests.support.syncing import response_body, rows, tree

PARIS = ZoneInfo("Europe/Paris")
QUARTER_PAST = datetime(2026, 1, 1, 12, 15, tzinfo=UTC)
CRONS = ("*/15 * * * *", "0 * * * *", "*/7 * * * *", "0 3 * * *", "30 6,18 * * 1-5", "* * * * *")
FOLDERS = ("stops", "suppression_list", "stops_per_day")
ACCOUNTS = ("lille", "lyon", "nice", "paris")


def evaluation(settings: Settings, instance: dg.DagsterInstance, time: datetime) -> Any:
    definitions = build_definitions(settings)
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=time, repository_def=definitions.get_repository_def()
    )
    return definitions.resolve_schedule_def("sync_schedule").evaluate_tick(context)


def requests_of(settings: Settings, instance: dg.DagsterInstance, time: datetime) -> list[dg.RunRequest]:
    return list(evaluation(settings, instance, time).run_requests or [])


def with_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for account in ACCOUNTS:
        monkeypatch.setenv(f"SMSPARTNER_API_KEY_{account.upper()}", "a-key")


def test_the_schedule_of_one_account_requests_one_run(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMSPARTNER_API_KEY", "a-key")
    (request,) = requests_of(Settings(), instance, QUARTER_PAST)
    assert request.partition_key is None


@pytest.mark.parametrize("settings", [Settings(), Settings(accounts=("main", "lyon"))])
def test_the_schedule_skips_with_a_plain_reason_while_no_key_is_set(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMSPARTNER_API_KEY", raising=False)
    tick = evaluation(settings, instance, QUARTER_PAST)
    assert not tick.run_requests
    variables = "SMSPARTNER_API_KEY" + " or SMSPARTNER_API_KEY_LYON" * (len(settings.accounts) - 1)
    assert tick.skip_message == f"No API key is set: set {variables}, then restart Dagster."


def test_the_schedule_runs_by_default_in_french_time() -> None:
    schedule = build_definitions(Settings(cron="5 * * * *")).resolve_schedule_def("sync_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("5 * * * *", "Europe/Paris")


def interval(time: datetime, cron: str) -> dg.TimeWindow:
    return interval_around(time, intervals_of(cron))


@example(runs=11, cron="30 6,18 * * 1-5", time=datetime(2026, 10, 23, 16, 30, tzinfo=UTC))  # the clocks are put back
@given(
    runs=st.integers(1, 400),
    cron=st.sampled_from(CRONS),
    time=st.integers(0, 365 * 24 * 60).map(
        lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    ),
)
def test_each_run_is_due_in_one_minute_of_an_interval_and_no_minute_has_two_more_than_another(
    runs: int, cron: str, time: datetime
) -> None:
    window = interval(time, cron)
    assert window.start <= time < window.end
    minutes = int(window.end.timestamp() - window.start.timestamp()) // 60
    accounts = [(f"a{number}",) for number in range(runs)]
    start = window.start.astimezone(UTC)  # a sum in Paris time would leave out the hour that the clocks repeat
    due = [due_in_minute(accounts, start + timedelta(minutes=m), window) for m in range(minutes)]
    assert [run for of_minute in due for run in of_minute] == accounts
    sizes = Counter(map(len, due))
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_on_which_the_clocks_change_has_its_own_length(day: str, hours: int) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=PARIS)
    window = interval(noon, "0 0 * * *")
    assert window.end.timestamp() - window.start.timestamp() == hours * 3600
    accounts = [(f"a{number}",) for number in range(hours)]
    minutes = range(0, hours * 60, 60)
    instants = [datetime.fromtimestamp(window.start.timestamp() + 60 * minute, UTC) for minute in minutes]
    assert [due_in_minute(accounts, instant, window) for instant in instants] == [[run] for run in accounts]


def test_the_schedule_requests_each_account_once_per_interval_and_twice_the_same(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_keys(monkeypatch)
    settings = Settings(accounts=ACCOUNTS)
    minutes = [requests_of(settings, instance, QUARTER_PAST + timedelta(minutes=minute)) for minute in range(16)]
    *this_interval, next_interval = minutes
    assert [request.tags["dagster/partition"] for of_minute in this_interval for request in of_minute] == list(ACCOUNTS)
    assert [len(of_minute) for of_minute in this_interval] == [1, 0, 0, *[1, 0, 0, 0] * 3]
    keys = [request.run_key for of_minute in this_interval for request in of_minute]
    assert keys == [f"{account} 2026-01-01T12:15:00+00:00" for account in ACCOUNTS]
    (again,) = requests_of(settings, instance, QUARTER_PAST)
    assert again.run_key == keys[0] != next_interval[0].run_key


def test_the_schedule_requests_runs_of_as_many_accounts_as_the_setting_says(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_keys(monkeypatch)
    settings = Settings(accounts=ACCOUNTS, accounts_per_run=3)
    start, end = (f"dagster/asset_partition_range_{end}" for end in ("start", "end"))
    requests = [
        request
        for minute in range(15)
        for request in requests_of(settings, instance, QUARTER_PAST + timedelta(minutes=minute))
    ]
    tags = [{name: value for name, value in request.tags.items() if "partition" in name} for request in requests]
    assert tags == [{start: "lille", end: "nice"}, {"dagster/partition": "paris"}]


@pytest.mark.slow
def test_the_daemon_syncs_every_minute_and_finds_an_unchanged_list(tmp_path: Path) -> None:
    root, home = tmp_path / "data", tmp_path / ".dagster_home"
    with (
        Loopback(reply(200, response_body(rows(300)))) as server,
        dev(tmp_path, SMSPARTNER_BASE_URL=server.base_url, SMSPARTNER_API_KEY="a-key", STOP_PIPELINE_CRON="* * * * *"),
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        wait_until(lambda: _synced(instance, 1), "a scheduled run that succeeds")
        before = tree(root, *FOLDERS)
        wait_until(lambda: _synced(instance, 2), "a second one")
        assert tree(root, *FOLDERS) == before
        first, second = (_metadata_of_stops(instance, run) for run in _synced(instance, 2)[:2])
        assert not instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    assert (first["outcome"], first["new"]) == ("merged", first["listed"])
    assert (second["outcome"], second["new"], second["months_written"]) == ("unchanged", 0, 0)

    with closing(sqlite3.connect(home / "schedules/schedules.db")) as ticks, ticks:  # as if the clock had been ahead
        ticks.execute("UPDATE job_ticks SET timestamp = datetime(timestamp, '+1 day')")
    refused = run_command("dev", cwd=tmp_path, SMSPARTNER_API_KEY="a-key")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("By Dagster's history, sync_schedule ran at ")
    assert str(home / "schedules") in refused.stderr


def _synced(instance: dg.DagsterInstance, at_least: int) -> list[dg.DagsterRun]:
    """The runs that the schedule started and that succeeded, in order; none while there are fewer."""
    succeeded = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], tags={"dagster/schedule_name": "sync_schedule"})
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
