"""A fleet's instance as shipped, on a real PostgreSQL: what the daemon starts, and what becomes of its history."""

import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import dagster as dg
import pytest

from stop_pipeline.defs.schedules import forget_runs
from stop_pipeline.settings import Settings
from stop_pipeline_tests.defs.test_partitions import KEYS, Fleet, provided
from stop_pipeline_tests.support import postgres
from stop_pipeline_tests.support.commands import GIVE_UP_SECONDS, clean_environment, free_port, run_command, wait_until
from stop_pipeline_tests.support.loopback import Exchange, Loopback, reply
from stop_pipeline_tests.support.postgres import Postgres
from stop_pipeline_tests.support.ray_cluster import PROGRAMS, started
from stop_pipeline_tests.support.syncing import response_body, rows
from stop_pipeline_tests.test_secrets import DagsterUi

GROWING = ("runs", "run_tags", "event_logs", "asset_event_tags", "asset_check_executions")
"""Dagster's tables that get rows with every run."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres.running() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DAGSTER_HOME with the configuration as it is shipped."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(str(files("stop_pipeline") / "fleet" / "dagster.yaml"), home)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", server.url)
    return home


@pytest.mark.cluster
def test_the_history_of_a_fleet_is_in_postgres_and_in_no_file(tmp_path: Path, home: Path, server: Postgres) -> None:
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        provided(tmp_path, instance, {"lille": 3, "lyon": 5, "paris": 9}) as fleet,
    ):
        done = run_command(
            "run",
            cwd=tmp_path,
            SMSPARTNER_ACCOUNTS_FILE=str(fleet.settings.accounts_file),
            SMSPARTNER_BASE_URL=fleet.settings.base_url,
            STOP_PIPELINE_DATA=fleet.settings.data_root,
            DAGSTER_HOME=str(home),
            DAGSTER_POSTGRES_URL=server.url,
        )
        shown = fleet.status("stops")
    assert done.returncode == 1
    assert "\nnice: SMS Partner" in done.stderr
    assert fleet.rows == {"lille": 3, "lyon": 5, "paris": 9}
    statuses = dict(server.query("SELECT status, count(*) FROM runs GROUP BY status"))
    assert statuses == {"SUCCESS": 3, "FAILURE": 1}
    assert shown == {"lille": "MATERIALIZED", "lyon": "MATERIALIZED", "nice": "FAILED", "paris": "MATERIALIZED"}
    assert {path.name for path in home.rglob("*") if path.is_file()} <= {"dagster.yaml", ".opening.lock"}
    events = server.query("SELECT event FROM event_logs")
    assert not [event for (event,) in events if any(key in event for key in KEYS.values())]


@pytest.mark.cluster
def test_a_database_that_does_not_respond_is_one_sentence(tmp_path: Path, home: Path) -> None:
    url = f"postgresql+psycopg2://dagster@127.0.0.1:{free_port()}/dagster"
    variables = {"DAGSTER_HOME": str(home), "DAGSTER_POSTGRES_URL": url, "SMSPARTNER_API_KEY": "a-key"}
    done = run_command("run", cwd=tmp_path, **variables)
    assert done.returncode == 1
    assert "Dagster cannot use its database (connection to server at " in done.stderr
    assert f"check the server and {home / 'dagster.yaml'}." in done.stderr


@pytest.mark.cluster
def test_old_runs_are_forgotten_with_all_that_belongs_to_them(tmp_path: Path, home: Path, server: Postgres) -> None:
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        provided(tmp_path, instance, {"lille": 3, "lyon": 5}) as fleet,
    ):
        forget_runs(instance, datetime.now(UTC))
        assert not any(map(server.rows, GROWING))
        fleet.run("lille", "nice")
        middle = datetime.now(UTC)
        later = fleet.run("lille", "nice")
        assert forget_runs(instance, middle - timedelta(days=1)) == 0
        assert all(map(server.rows, GROWING))
        assert forget_runs(instance, middle) == 1
        assert [record.dagster_run.run_id for record in instance.get_run_records()] == [later.run_id]
        assert fleet.status("stops")["lyon"] == "MATERIALIZED"
        assert forget_runs(instance, datetime.now(UTC)) == 1
        assert not any(map(server.rows, GROWING))
    assert fleet.rows == {"lille": 3, "lyon": 5}


@pytest.mark.cluster
def test_the_daemon_starts_what_the_schedule_asks_for(tmp_path: Path, home: Path, server: Postgres) -> None:
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        provided(tmp_path, instance, {"lille": 3, "lyon": 5, "paris": 9}) as fleet,
    ):
        forget_runs(instance, datetime.now(UTC))
        every_minute = {"STOP_PIPELINE_ACCOUNTS_PER_RUN": "3", "STOP_PIPELINE_CRON": "* * * * *"}
        environment = _environment(fleet.settings, home, server, **every_minute)
        daemon = [str(PROGRAMS / "dagster-daemon"), "run", "-m", "stop_pipeline.definitions"]
        with started(daemon, tmp_path / "log", environment):
            first = wait_until(lambda: _runs_of_first_minute(instance), "the runs of a minute")
        assert sorted((run.tags["dagster/run_key"].split()[0], run.status.value) for run in first) == [
            ("lille", "FAILURE"),
            ("paris", "SUCCESS"),
        ]
        expected = {"lille": "MATERIALIZED", "lyon": "MATERIALIZED", "nice": "FAILED", "paris": "MATERIALIZED"}
        assert fleet.status("stops") == expected


class Holding:
    """Lists everybody's opt-outs, but lets one account wait for its response until told otherwise."""

    def __init__(self, account: str) -> None:
        self._held = account
        self.go_on = threading.Event()
        self.waiting = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        if exchange.request.query["apiKey"] == KEYS[self._held]:
            self.waiting.set()
            self.go_on.wait(GIVE_UP_SECONDS)
        reply(200, response_body(rows(5)))(exchange)


@pytest.mark.cluster
def test_two_runs_of_an_account_wait_for_each_other_and_hold_nobody_else_up(
    tmp_path: Path, home: Path, server: Postgres, free_port: int
) -> None:
    holding = Holding("lyon")
    with Loopback(holding) as api, dg.DagsterInstance.from_config(str(home)) as instance:
        settings = Fleet(tmp_path, instance, api.base_url, {}).settings
        forget_runs(instance, datetime.now(UTC))
        environment = _environment(settings, home, server, STOP_PIPELINE_CRON="0 0 29 2 *")
        dagster = [str(PROGRAMS / "dagster"), "dev", "-m", "stop_pipeline.definitions", f"--port={free_port}"]
        with started(dagster, tmp_path / "log", environment):
            ui = DagsterUi(f"http://127.0.0.1:{free_port}")
            ui.wait_until_loaded()
            first, second, other = (ui.launch(account) for account in ("lyon", "lyon", "paris"))
            try:
                assert holding.waiting.wait(GIVE_UP_SECONDS)
                assert ui.end_of(other) == "SUCCESS"
                standing = {_status(instance, first), _status(instance, second)}
            finally:
                holding.go_on.set()
            assert standing == {"STARTED", "QUEUED"}
            assert [ui.end_of(first), ui.end_of(second)] == ["SUCCESS", "SUCCESS"]
        earlier, later = sorted(
            (record.start_time or 0, record.end_time or 0)
            for record in instance.get_run_records()
            if record.dagster_run.tags["dagster/partition"] == "lyon"
        )
        assert 0 < earlier[1] <= later[0]


def _environment(settings: Settings, home: Path, server: Postgres, **variables: str) -> dict[str, str]:
    """What a process of Dagster needs to know of the fleet."""
    return clean_environment(
        DAGSTER_HOME=str(home),
        DAGSTER_POSTGRES_URL=server.url,
        SMSPARTNER_ACCOUNTS_FILE=str(settings.accounts_file),
        SMSPARTNER_BASE_URL=settings.base_url,
        STOP_PIPELINE_DATA=settings.data_root,
        **variables,
    )


def _status(instance: dg.DagsterInstance, run_id: str) -> str:
    found = instance.get_run_by_id(run_id)
    assert found is not None
    return found.status.value


def _runs_of_first_minute(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Those that were asked for in the first minute that there are any of, once all have ended."""
    runs = instance.get_runs()
    minutes = {run.tags[".dagster/scheduled_execution_time"] for run in runs}
    first = [run for run in runs if run.tags[".dagster/scheduled_execution_time"] == min(minutes)]
    return first if len(first) > 1 and all(run.is_finished for run in first) else []
