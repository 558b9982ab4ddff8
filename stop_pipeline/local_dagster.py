"""Dagster on this machine: syncs in this process, the UI with its daemon, and the folder of its history, the home.

What is wrong with the home or its `dagster.yaml` is a ConfigurationError or a StoreError. KeyboardInterrupt means that
this process was asked to end.
"""

import errno
import fcntl
import os
import re
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import dagster as dg
import filelock
import requests
from sqlalchemy.exc import DBAPIError

from stop_pipeline.defs.schedules import (
    SYNC_JOB,
    SYNC_TAG,
    error_of,
    failed_accounts,
    forget_runs,
    intervals_of,
    partition_tags,
)
from stop_pipeline.errors import ConfigurationError, StopPipelineError, StoreError, excerpt
from stop_pipeline.process_group import process_group
from stop_pipeline.settings import Settings, dagster_home, home_folder, is_remote
from stop_pipeline.table.reading import CLOCK_TOLERANCE

_PROCESS_TAG = "stop_pipeline/process"
"""Tag of a run that runs in the process of `stop-pipeline run`: its machine and process id."""
_RUNS_FORGOTTEN = 20  # by one call, since cron may run without the nightly job; so few that they do not delay a sync
_LOOK_SECONDS = 0.2
_LOOPBACK = "127.0.0.1"
_REVIVE_SECONDS = 30
_LOCATIONS = "{workspaceOrError{... on Workspace{locationEntries{locationOrLoadError{__typename}}}}}"
_RELOAD = "mutation{reloadWorkspace{__typename}}"
_CONFIGURATION = "dagster.yaml"
_UNFINISHED = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
_PARTS = ("run_launcher", "run_coordinator", "scheduler", "compute_log_manager")  # made when they are first used


@dataclass
class SyncReport:
    """What one sync of one account did."""

    account: str
    error: str | None = None  # why it failed, as a sentence
    figures: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # metadata of assets and checks, by their name
    failed_checks: list[tuple[str, str]] = field(default_factory=list)  # names, and what to do


def run_syncs(
    definitions: dg.Definitions, settings: Settings, accounts: Sequence[str], *, accept_removals: int | None
) -> list[SyncReport]:
    """Run the job once for one of the accounts, or for neighbours, in this process; the UI shows the run as any other.

    Returns a report for each account, in their order. Removals can be accepted of one account only.
    """
    config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    if accept_removals is not None:
        config["ops"] = {"stops": {"config": {"accept_removals": accept_removals}}}
    tags = {_PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}
    if len(settings.accounts) > 1:
        tags |= partition_tags(accounts)
    with _open_instance(_home_of(settings)) as instance:
        _fail_killed_runs(instance)
        old = settings.forget_runs_before(datetime.now(UTC))
        forget_runs(instance, old, at_most=_RUNS_FORGOTTEN, tags={SYNC_TAG: "yes"})
        job = definitions.resolve_job_def(SYNC_JOB.name)
        result = job.execute_in_process(config, instance=instance, tags=tags, raise_on_error=False)
    return _reports(result, accounts)


def serve(settings: Settings, port: int) -> int:
    """Run the Dagster UI and its daemon until this process is asked to end; they end when it does, however it ends.

    Prints the address of the UI once it responds. Returns the exit code: 0 if this process was asked to end, else that
    of `dagster dev`. A StoreError says that another `dev` uses the home, or that the port is taken.
    """
    intervals_of(settings.cron)  # Dagster would go on without this package's code, and say so once
    home = _home_of(settings)
    _refuse_taken(port)
    command = [sys.executable, "-W", "ignore:Function `dev_command`", "-m", "dagster", "dev"]
    command += ["-m", "stop_pipeline.definitions", "-h", _LOOPBACK, "-p", str(port), "--log-level", "warning"]
    with _open_instance(home, with_launcher=True) as instance:  # its databases are made now
        _refuse_ticks_in_the_future(instance, home)
    # It runs in the home: a file `.env` in the folder that this command was called in would replace variables for it.
    if not is_remote(settings.data_root):
        os.environ["STOP_PIPELINE_DATA"] = str(Path(settings.data_root).absolute())
    if settings.accounts_file is not None:
        os.environ["SMSPARTNER_ACCOUNTS_FILE"] = str(settings.accounts_file)
    try:
        with _only_one_dev(home) as lock, process_group(command, cwd=home, kept_open=[lock]) as process:
            while process.poll() is None and not _responds(port):
                time.sleep(_LOOK_SECONDS)
            look_at = time.monotonic() + _REVIVE_SECONDS
            if process.poll() is None:
                with suppress(OSError):  # such as of a full disk that the output goes to: the schedule matters more
                    click.echo(f"Open http://localhost:{port} in a browser. Ctrl-C ends it.")
            while process.poll() is None:
                time.sleep(_LOOK_SECONDS)
                if time.monotonic() > look_at:
                    _revive_code(port)
                    look_at = time.monotonic() + _REVIVE_SECONDS
            return process.returncode
    except KeyboardInterrupt:
        return 0


def _fail_killed_runs(instance: dg.DagsterInstance) -> None:
    """Mark the runs of this machine's processes that were killed; nobody else would."""
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        machine, _, process = run.tags.get(_PROCESS_TAG, "").rpartition(":")
        # The run of this very process has not begun: in a container that was restarted, its number is an old one's.
        if machine == socket.gethostname() and (int(process) == os.getpid() or not _is_running(int(process))):
            instance.report_run_failed(run, "The process of this run was killed.")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # else it is another user's
    return True


def _reports(result: dg.ExecuteInProcessResult, accounts: Sequence[str]) -> list[SyncReport]:
    errors = _failures(result, accounts)
    reports = {account: SyncReport(account, errors.get(account)) for account in accounts}
    for event in result.get_asset_materialization_events():
        made = event.materialization
        reports[made.partition or accounts[0]].figures[made.asset_key.to_user_string()] = _values(made.metadata)
    for check in result.get_asset_check_evaluations():
        report = reports[check.partition or accounts[0]]
        report.figures[check.check_name] = _values(check.metadata)
        if not check.passed:
            report.failed_checks.append((check.check_name, check.description or ""))
    return list(reports.values())


def _values(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


def _failures(result: dg.ExecuteInProcessResult, accounts: Sequence[str]) -> dict[str, str]:
    """Why which accounts failed: the sentence of the first step that did."""
    if result.success:
        return {}
    failures = result.get_step_failure_events()
    if not failures:
        return dict.fromkeys(accounts, "the run failed before its first step; the Dagster UI shows more")
    kind, message = error_of(failures[0])
    if kind == "DagsterExecutionInterruptedError":
        raise KeyboardInterrupt
    if refusal := re.match(r"\(sqlite3\.\w+\) (.*)", message):  # Dagster's own, in the course of the step
        return dict.fromkeys(accounts, str(_history_refused(Path(os.environ["DAGSTER_HOME"]), refusal[1])))
    return failed_accounts(failures[0], accounts)


def _refuse_ticks_in_the_future(instance: dg.DagsterInstance, home: Path) -> None:
    """Refuse a history written while the clock was ahead: until that time, Dagster would neither sync nor alert."""
    later = (datetime.now(UTC) + CLOCK_TOLERANCE).timestamp()
    for instigator in instance.all_instigator_state():
        if ticks := instance.get_ticks(instigator.instigator_origin_id, instigator.selector_id, after=later, limit=1):
            ran_at = datetime.fromtimestamp(ticks[0].timestamp, UTC)
            raise StoreError(
                f"By Dagster's history, {instigator.name} ran at {ran_at:%Y-%m-%d %H:%M} UTC, in the future, and would "
                "not run again before: set this machine's clock or, if it was wrong then, move "
                f"{home / 'schedules'} elsewhere."
            )


def _refuse_taken(port: int) -> None:
    """Refuse a port on which the UI could not listen; Dagster would go on without a UI."""
    reason = os.strerror(errno.EADDRINUSE) if _responds(port) else None
    try:
        socket.create_server((_LOOPBACK, port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
    if reason is not None:
        raise StoreError(f"The UI cannot listen on port {port} ({reason}): choose another port with --port.")


def _responds(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((_LOOPBACK, port)) == 0


def _revive_code(port: int) -> None:
    """Have Dagster start the process that holds this package's code again if it has died, such as for want of memory.

    If its daemon or its UI dies, Dagster ends as a whole. Without that process it goes on, but nothing is synced and no
    alert is sent.
    """
    url = f"http://{_LOOPBACK}:{port}/graphql"
    with suppress(requests.RequestException, LookupError, TypeError), requests.Session() as session:
        session.trust_env = False  # a loopback address never goes through a proxy
        answer = session.post(url, json={"query": _LOCATIONS}, timeout=10).json()
        locations = answer["data"]["workspaceOrError"]["locationEntries"]
        if any(location["locationOrLoadError"]["__typename"] == "PythonError" for location in locations):
            session.post(url, json={"query": _RELOAD}, timeout=60)


@contextmanager
def _only_one_dev(home: Path) -> Iterator[int]:
    """Hold the lock of the one `dev` of a home; gives its file descriptor."""
    with (home / ".dev.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"“stop-pipeline dev” is already running with DAGSTER_HOME {home}, and two would sync twice as often: "
                "end that one first, or, if this one is for another data root, set DAGSTER_HOME to another folder."
            ) from None
        yield lock.fileno()


def _home_of(settings: Settings) -> Path:
    """DAGSTER_HOME if it is set, else a folder that lasts."""
    named = dagster_home()
    if named is None and is_remote(settings.data_root):
        return home_folder() / ".stop_pipeline"
    home = named or Path(settings.data_root).absolute().parent / ".dagster_home"
    if named and not (home.is_absolute() and home.is_dir()):
        raise ConfigurationError(
            f"DAGSTER_HOME is “{home}”, but Dagster needs the absolute path of a folder that exists: make the folder, "
            "or leave DAGSTER_HOME unset."
        )
    # Dagster writes the path into a SQLite URL unescaped, where “?” starts the query and a percent code is decoded.
    if re.search(r"\?|%[0-9A-Fa-f]{2}", str(home)):
        raise ConfigurationError(
            f"Dagster cannot keep its database in {home}, because the path holds a “?” or a percent code such as "
            "“%20”: set DAGSTER_HOME to a folder whose path has neither."
        )
    return home


@contextmanager
def _open_instance(home: Path, *, with_launcher: bool = False) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance in a home, for the block; `with_launcher` checks what starts runs as well.

    A home that is new gets this package's `dagster.yaml`. Then it is DAGSTER_HOME, for this process and its children.
    """
    with _plain_errors(home), ExitStack() as stack:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Two processes that start at once would both create its files and tables.
        with filelock.FileLock(home / ".opening.lock", mode=0o600), _plain_errors(home, is_opening=True):
            if not (home / _CONFIGURATION).exists() and not (home / "history").exists():
                # In one step: of half a file, Dagster would take its own defaults for the rest.
                shutil.copyfile(Path(__file__).with_name(_CONFIGURATION), home / ".new").replace(home / _CONFIGURATION)
            _refuse_another_owner(home / _CONFIGURATION)
            os.environ["DAGSTER_HOME"] = str(home)
            instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
            for part in _PARTS if with_launcher else ():
                getattr(instance, part)
        yield instance


def _refuse_another_owner(configuration: Path) -> None:
    """Refuse settings of another user, who could have any code run by this one; root's are those of the machine."""
    owner = configuration.stat().st_uid if configuration.exists() else 0
    if owner not in (0, os.geteuid()):
        raise ConfigurationError(
            f"{configuration} belongs to user {owner}, and this process runs as user {os.geteuid()}: run as that user, "
            "or set DAGSTER_HOME to a folder of your own."
        )


@contextmanager
def _plain_errors(home: Path, *, is_opening: bool = False) -> Iterator[None]:
    """One sentence in place of what Dagster raises about its home."""
    try:
        yield
    except StopPipelineError:
        raise
    except Exception as error:
        if (explained := _explained(error, home, is_opening=is_opening)) is None:
            raise
        raise explained from None


def _history_refused(home: Path, reason: str) -> StoreError:
    return StoreError(
        f"Dagster cannot use its history in {home} ({reason}): make room there, make it writable for this user, or set "
        "DAGSTER_HOME to another folder; if it is damaged, move its folders “history” and “schedules” elsewhere. The "
        "tables of the data root are not affected."
    )


def _explained(error: Exception, home: Path, *, is_opening: bool) -> StopPipelineError | None:
    """The sentence for an error; None if it is not about the home."""
    file = home / _CONFIGURATION
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError):
            problem = f"{file} needs the package “{cause.name}”, which is not installed"
            return ConfigurationError(f"{problem}: install it, or correct the file.")
        if isinstance(cause, sqlite3.Error | OSError) and getattr(cause, "filename", None) != str(file):
            reason = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else str(cause)
            return _history_refused(home, reason)
        if isinstance(cause, DBAPIError) and not isinstance(cause.orig, sqlite3.Error):  # of a database server
            reason = excerpt(str(cause.orig))
            return StoreError(f"Dagster cannot use its database ({reason}): check the server and {file}.")
        cause = cause.__cause__ or cause.__context__
    if unset := re.search(r'environment variable "(\w+)" which is not set', str(error)):
        return ConfigurationError(f"{file} reads the variable {unset[1]}, which is not set: set it.")
    if is_opening or isinstance(error, dg.DagsterError):
        lines = str(error).replace(str(file), file.name).splitlines()
        reason = next((line for line in lines if "Error 1" in line), " ".join(lines))
        place = re.search(r", line \d+", str(error))  # of what is not YAML
        problem = f"Dagster cannot use {file}{place[0] if place else ''} ({excerpt(reason)})"
        advice = "it must hold Dagster's settings, in YAML and UTF-8. Correct it, or replace it by"
        return ConfigurationError(f"{problem}: {advice} {Path(__file__).with_name(_CONFIGURATION)}.")
    return None
