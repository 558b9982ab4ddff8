"""Runs of Dagster that start at once: the account's lock lets one sync at a time, and every run ends well."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import dagster as dg
import pytest

from stop_pipeline import read_stops, read_stops_per_day, read_suppression_list
from stop_pipeline.errors import StoreError
from stop_pipeline.table.files import Files
from stop_pipeline_tests.support.commands import COMMAND, GIVE_UP_SECONDS, clean_environment, wait_until
from stop_pipeline_tests.support.loopback import Exchange, Loopback, Script, head, reply
from stop_pipeline_tests.support.serving import dev
from stop_pipeline_tests.support.syncing import response_body, rows
from stop_pipeline_tests.test_secrets import DagsterUi

pytestmark = pytest.mark.slow

RUN_THE_JOB = (sys.executable, "-m", "dagster", "job", "execute", "-m", "stop_pipeline.definitions", "-j", "sync")
NEVER = "0 0 29 2 *"
"""As good as never: no sync of the schedule comes in between."""


@dataclass(frozen=True)
class Home:
    """A DAGSTER_HOME, and the events of its runs."""

    instance: dg.DagsterInstance

    @property
    def folder(self) -> str:
        return self.instance.root_directory

    def started(self, step: str) -> int:
        """In how many runs the step has started."""
        events = (log.dagster_event for run in self.instance.get_run_ids() for log in self.instance.all_logs(run))
        return sum(event.is_step_start and event.step_key == step for event in events if event)


@pytest.fixture
def make_home(tmp_path: Path) -> Iterator[Callable[[str], Home]]:
    """Makes a DAGSTER_HOME as the command does, its databases there already."""
    with ExitStack() as instances:

        def make(name: str) -> Home:
            home = tmp_path / name
            home.mkdir()
            with as_file(files("stop_pipeline") / "dagster.yaml") as defaults:
                shutil.copyfile(defaults, home / "dagster.yaml")
            return Home(instances.enter_context(dg.DagsterInstance.from_config(str(home))))

        yield make


def run_at_once(*commands: tuple[Sequence[str | Path], Path, dict[str, str]]) -> None:
    """Processes (command, folder, environment) that must all end well.

    Of one that fails is told what it said, at once: the others may be waiting for it.
    """
    started: list[tuple[subprocess.Popen[str], IO[str]]] = []

    def said() -> list[str]:
        for _, output in started:
            output.seek(0)
        return [output.read() for _, output in started]

    with ExitStack() as stack:
        for command, folder, env in commands:
            output = stack.enter_context(TemporaryFile("w+"))
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append((process, output))
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        while None in (codes := [process.poll() for process, _ in started]):
            assert not any(codes), said()
            assert time.monotonic() < give_up_at, said()
            time.sleep(0.05)
        assert not any(codes), said()
        assert not any("Traceback" in output for output in said()), said()


def held_until(condition: Callable[[], bool], body: bytes, responded: list[float]) -> Script:
    """Respond once the condition holds, and note when.

    Until then white space comes, which JSON allows: a client that hears nothing for long asks again.
    """

    def script(exchange: Exchange) -> None:
        exchange.write(head(200))
        while not condition() and not exchange.closing.wait(0.1):
            exchange.write(b" ")
        responded.append(time.monotonic())
        exchange.write(body)

    return script


def refused_lock(root: Path) -> str:
    """Why the account's lock is not to be had."""
    with pytest.raises(StoreError) as refused, Files(root).locked("main", timeout_seconds=0.2):
        pass
    return str(refused.value)


@pytest.mark.parametrize("homes", [1, 2])
def test_a_run_that_starts_while_another_fetches_waits_for_the_accounts_lock(
    homes: int, tmp_path: Path, make_home: Callable[[str], Home]
) -> None:
    """One is held in its request until the other's step has started, on the same instance or on another."""
    made = [make_home(f"home {number}") for number in range(homes)]
    responded: list[float] = []
    refusals: list[str] = []

    def both_started() -> bool:
        if sum(home.started("raw_stop_list") for home in made) < 2:
            return False
        refusals.append(refused_lock(tmp_path / "data"))
        return True

    first = held_until(both_started, response_body(rows(30)), responded)
    with Loopback(first, reply(200, response_body(rows(31)))) as server:
        env = clean_environment(**variables_for(server))
        folders = [made[0].folder, made[-1].folder]
        run_at_once(*((RUN_THE_JOB, tmp_path, env | {"DAGSTER_HOME": folder}) for folder in folders))
        assert server.requests[1].arrived_at > responded[0]
    assert "The account “main” has been locked by process" in refusals[0]
    assert_both_lists_are_in(tmp_path / "data")


@pytest.mark.parametrize("attempt", range(2))
def test_two_runs_at_once_on_a_new_home_both_end_well(attempt: int, tmp_path: Path) -> None:
    """By the command, on a home that neither has made yet: Dagster's databases and the lock are raced for."""
    with Loopback(reply(200, response_body(rows(30))), reply(200, response_body(rows(31)))) as server:
        run_at_once(*[((COMMAND, "run"), tmp_path, clean_environment(**variables_for(server)))] * 2)
    assert_both_lists_are_in(tmp_path / "data")
    with dg.DagsterInstance.from_config(str(tmp_path / ".dagster_home")) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS] * 2


def test_dev_and_a_run_that_start_together_on_a_new_home_both_come_up(tmp_path: Path) -> None:
    """Both make Dagster's databases: made twice at once, they would be broken for good."""
    with Loopback(reply(200, response_body(rows(31)))) as server:
        variables = variables_for(server)
        with dev(tmp_path, until_loaded=False, **variables) as url:
            run_at_once(((COMMAND, "run"), tmp_path, clean_environment(**variables)))
            DagsterUi(url).wait_until_loaded()
    assert_both_lists_are_in(tmp_path / "data")


def test_a_run_launched_from_the_ui_while_another_fetches_waits_for_it(tmp_path: Path) -> None:
    responded: list[float] = []
    launched: list[str] = []
    first = held_until(lambda: len(launched) == 2, response_body(rows(30)), responded)
    with Loopback(first, reply(200, response_body(rows(31)))) as server:
        with dev(tmp_path, **variables_for(server)) as url:
            ui = DagsterUi(url)
            launched.append(ui.launch())
            wait_until(lambda: server.requests, "the first request")
            launched.append(ui.launch())
            assert [ui.end_of(run_id) for run_id in launched] == ["SUCCESS", "SUCCESS"]
        assert server.requests[1].arrived_at > responded[0]
    assert_both_lists_are_in(tmp_path / "data")


def variables_for(server: Loopback) -> dict[str, Any]:
    return {"SMSPARTNER_API_KEY": "a-key", "SMSPARTNER_BASE_URL": server.base_url, "STOP_PIPELINE_CRON": NEVER}


def assert_both_lists_are_in(root: Path) -> None:
    """The list of 30 rows, or none, then that of 31: each row once, and nothing ended."""
    assert sorted(read_stops(root)["id"]) == sorted(read_stops(root, history=True)["id"]) == list(range(1, 32))
    assert sorted(read_suppression_list(root)["phone_number"]) == sorted(read_stops(root)["phone_number"])
    assert read_stops_per_day(root)["stops"].sum() == 31
