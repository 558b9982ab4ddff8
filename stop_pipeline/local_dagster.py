"""Dagster on this machine: its home, one tick in this process, and the UI.

What belongs here: the DAGSTER_HOME that the command makes, running the job without a server, starting and ending
`dagster dev`. What does not: what the job does (`defs`), and what the command prints (`cli`).
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import dagster as dg
import filelock
from dagster._core.storage.event_log import SqliteEventLogStorage

from stop_pipeline.definitions import build_definitions
from stop_pipeline.defs.assets import POOL
from stop_pipeline.defs.schedules import TICK_JOB, Run, partition_tags
from stop_pipeline.errors import ConfigurationError, StoreError
from stop_pipeline.roots import is_remote
from stop_pipeline.settings import Settings

STOP_SECONDS = 30
_RUN_FROM = "stop_pipeline/run_from"
"""Tag of a run: the machine and the home that `stop-pipeline run` ran it from."""


@dataclass(frozen=True)
class TickReport:
    """What one tick of one account came to.

    Attributes:
        account: Its name.
        error: Why it failed, one sentence; None if it succeeded.
        figures: The metadata of `stops`, by name; empty if it was not reached.
        failed_checks: Name and advice of each check that failed.
    """

    account: str
    error: str | None
    figures: Mapping[str, Any]
    failed_checks: tuple[tuple[str, str], ...]


def run_ticks(settings: Settings, accounts: Run, *, accept_removals: int | None) -> list[TickReport]:
    """Run the job once for some accounts in this process; the run is kept in Dagster's home, where the UI shows it.

    Args:
        settings: What to run with.
        accounts: One of the settings' accounts, or neighbours among them.
        accept_removals: As in `defs.assets.StopsConfig`; of one account only.

    Returns:
        What became of each account, in their order.
    """
    config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    if accept_removals is not None:
        config["ops"] = {"stops": {"config": {"accept_removals": accept_removals}}}
    job = build_definitions(settings).resolve_job_def(TICK_JOB.name)
    home, several = use_home(settings), len(settings.accounts) > 1
    # One at a time, of a single account: whoever else is marked as run from this home has been killed.
    alone = nullcontext() if several else filelock.FileLock(home / ".run.lock", mode=0o600)
    run_from = f"{socket.gethostname()}:{home}"
    with _open_instance(home) as instance, alone:
        if not several:
            _free_pool(instance, run_from)
        result = job.execute_in_process(
            run_config=config,
            instance=instance,
            partition_key=accounts[0] if several and len(accounts) == 1 else None,
            tags={_RUN_FROM: run_from} | (partition_tags(accounts) if len(accounts) > 1 else {}),
            raise_on_error=False,
        )
    errors = _failures(result, accounts)
    figures: dict[str, Mapping[str, Any]] = {}
    failed_checks: dict[str, list[tuple[str, str]]] = {account: [] for account in accounts}
    for event in result.all_events:
        if event.is_step_materialization and event.asset_key == dg.AssetKey("stops"):
            made = event.materialization
            figures[made.partition or accounts[0]] = {name: value.value for name, value in made.metadata.items()}
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed:
                failed_checks[check.partition or accounts[0]].append((check.check_name, check.description or ""))
    return [
        TickReport(account, errors.get(account), figures.get(account, {}), tuple(failed_checks[account]))
        for account in accounts
    ]


def use_home(settings: Settings) -> Path:
    """DAGSTER_HOME if it is set; else a folder that lasts, made with good defaults and put into the environment.

    Raises:
        ConfigurationError: DAGSTER_HOME is set, and no folder that Dagster takes.
        StoreError: the folder cannot be made.
    """
    if home := os.environ.get("DAGSTER_HOME"):
        if not (Path(home).is_absolute() and Path(home).is_dir()):
            raise ConfigurationError(
                f"DAGSTER_HOME is “{home}”, where Dagster wants the absolute path of a folder that exists: make it, or "
                "leave DAGSTER_HOME unset."
            )
        return Path(home)
    if is_remote(settings.data_root):
        home_path = Path.home() / ".stop_pipeline"
    else:
        home_path = Path(settings.data_root).absolute().parent / ".dagster_home"
    refused = None
    try:
        home_path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _opening(home_path):
            if not (home_path / "dagster.yaml").exists():
                with as_file(files("stop_pipeline") / "dagster.yaml") as defaults:
                    shutil.copyfile(defaults, home_path / "dagster.yaml")
    except OSError as error:
        refused = error.strerror
    if refused is not None:
        raise StoreError(
            f"Dagster's home cannot be made at {home_path}: {refused}. Set DAGSTER_HOME to a folder that can."
        )
    os.environ["DAGSTER_HOME"] = str(home_path)
    return home_path


def _opening(home: Path) -> filelock.BaseFileLock:
    """The lock under which a home is made: two ticks that start at once would both create its files and tables."""
    return filelock.FileLock(home / ".opening.lock", mode=0o600)


def _open_instance(home: Path) -> dg.DagsterInstance:
    with _opening(home):
        return dg.DagsterInstance.from_config(str(home))


def _free_pool(instance: dg.DagsterInstance, run_from: str) -> None:
    """Free the pool from runs that were killed: Dagster keeps their place in it, and the next would wait for ever.

    In a database of this machine every place is freed, for who ran `dev` cannot be known: the lock of the data root
    holds where the pool then does not.
    """
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_info(POOL).active_run_ids:
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            if run.tags.get(_RUN_FROM) == run_from:
                instance.report_run_failed(run, "The process of this run was killed.")
            elif not isinstance(storage, SqliteEventLogStorage):
                continue
        storage.free_concurrency_slots_for_run(run_id)


def serve(settings: Settings, port: int) -> int:
    """Run the Dagster UI and daemon until `KeyboardInterrupt` is raised here, then end all that was started.

    Returns:
        The exit code: 0 if it was asked to end, else that of `dagster dev`.
    """
    # Its databases are made here, under the lock: made by `dagster dev` and by a tick at once, they stay broken.
    with _open_instance(use_home(settings)) as instance:
        _free_pool(instance, run_from="")

    command = [sys.executable, "-m", "dagster", "dev", "-m", "stop_pipeline.definitions", "-p", str(port)]
    # In a session of its own, so that one signal reaches the webserver, the daemon and the code server alike.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started: as Ctrl-C would, and by force if that takes too long."""
    with suppress(ProcessLookupError):
        for demand in (signal.SIGINT, signal.SIGKILL):
            os.killpg(process.pid, demand)
            give_up_at = time.monotonic() + STOP_SECONDS
            while time.monotonic() < give_up_at:
                process.poll()
                os.killpg(process.pid, 0)  # raises once nobody is left
                time.sleep(0.05)


def _failures(result: "dg.ExecuteInProcessResult", accounts: Run) -> dict[str, str]:
    """Why which accounts failed: the sentence of the first step that did, without the names of exception classes."""
    if result.success:
        return {}
    sentence = "the run failed before its first step; the Dagster UI tells more"
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error is not None:
            by_account = event.step_failure_data.user_failure_data
            if by_account is not None:  # the step went on to its end, and names the accounts itself
                return {account: str(reason.value) for account, reason in by_account.metadata.items()}
            error = event.step_failure_data.error
            sentence = re.sub(r"^[\w.]+: ", "", (error.cause or error).message).strip()
            break
    return dict.fromkeys(accounts, sentence)
