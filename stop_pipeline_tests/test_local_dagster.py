"""`run` and `dev` on this machine: what can be wrong with Dagster's home is one sentence, and `dev` ends as a whole."""

import contextlib
import json
import logging
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
import requests
from click.testing import Result
from sqlalchemy.exc import OperationalError

from stop_pipeline import read_stops
from stop_pipeline.table.store import Store
from stop_pipeline_tests.support.commands import (
    COMMAND,
    clean_environment,
    free_port,
    run_command,
    wait_until,
    without_root_rights,
)
from stop_pipeline_tests.support.in_process import run_in_process
from stop_pipeline_tests.support.loopback import Exchange, Loopback, reply
from stop_pipeline_tests.support.serving import wait_for_locations
from stop_pipeline_tests.support.syncing import response_body, rows

KEY = "a-key-that-is-not-shown"
QUIET = "telemetry: {enabled: false}\n"


def _write(text: str | bytes) -> Callable[[Path], None]:
    def write(home: Path) -> None:
        (home / "dagster.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def _damage(*names: str) -> Callable[[Path], None]:
    def damage(home: Path) -> None:
        for name in names:
            (home / name).write_bytes(b"not a database" * 1000)

    return damage


def _replace(name: str, *, by_folder: bool) -> Callable[[Path], None]:
    def replace(home: Path) -> None:
        if by_folder:
            (home / name).unlink()
            (home / name).mkdir()
        else:
            shutil.rmtree(home / name)
            (home / name).touch()

    return replace


BROKEN_HOMES: dict[str, tuple[Callable[[Path], None], int, str]] = {
    # what is wrong, the exit code, what must be said
    "not YAML": (_write("telemetry: [\n"), 2, "dagster.yaml, line 2 (while parsing a flow node"),
    "not settings": (_write("- telemetry\n"), 2, "it must hold Dagster's settings, in YAML and UTF-8"),
    "not UTF-8": (
        _write("# é".encode("latin-1")),
        2,
        "codec can't decode byte •xe• in position •: unexpected end of data): it must hold",
    ),
    "a folder": (_replace("dagster.yaml", by_folder=True), 2, "Is a directory: 'dagster.yaml'): it must hold"),
    "an unknown setting": (_write("colour: blue\n"), 2, "Received unexpected config entry"),
    "a missing package": (
        _write(f"{QUIET}storage:\n  custom:\n    module: dagster_oracle\n    class: OracleStorage\n    config: {{}}\n"),
        2,
        "dagster.yaml needs the package “dagster_oracle”, which is not installed",
    ),
    "a variable that is not set": (
        _write(f"{QUIET}storage: {{sqlite: {{base_dir: {{env: FOLDER_OF_RUNS}}}}}}\n"),
        2,
        "dagster.yaml reads the variable FOLDER_OF_RUNS, which is not set: set it.",
    ),
    "a damaged list of runs": (_damage("history/runs.db"), 1, "/home (file is not a database): "),
    "damaged events": (_damage("history/runs/index.db"), 1, "/home (file is not a database): "),
    "another user's settings": (
        lambda home: os.chown(home / "dagster.yaml", 12345, -1),
        2,
        "dagster.yaml belongs to user 12345, and this process runs as user 0: run as that user",
    ),
    "a file for the history": (_replace("history", by_folder=False), 1, "cannot use its history in "),
}


@pytest.fixture(scope="module")
def good_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the history of a run."""
    folder = tmp_path_factory.mktemp("good")
    home = folder / "home"
    home.mkdir()
    with Loopback(reply(200, response_body(rows(3)))) as server:
        done = _run(folder, home, server)
    assert done.exit_code == 0, done.stderr
    assert (home / "dagster.yaml").read_bytes() == (files("stop_pipeline") / "dagster.yaml").read_bytes()
    return home


@pytest.fixture
def home(good_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_home, tmp_path / "home"))


def _run(folder: Path, home: Path, server: Loopback) -> Result:
    variables = {"SMSPARTNER_API_KEY": KEY, "SMSPARTNER_BASE_URL": server.base_url, "DAGSTER_HOME": str(home)}
    return run_in_process("run", cwd=folder, **variables)


@pytest.mark.parametrize("kind", BROKEN_HOMES)
def test_a_broken_home_is_one_sentence(kind: str, home: Path, tmp_path: Path) -> None:
    break_it, code, words = BROKEN_HOMES[kind]
    break_it(home)
    with Loopback(reply(200, response_body(rows(3)))) as server:
        done = _run(tmp_path, home, server)
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr
    assert str(home) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def _with_full_disk() -> None:
    """No file can grow beyond what Dagster's empty databases take."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.parametrize(
    ("limit", "mode"), [(without_root_rights, 0o500), pytest.param(_with_full_disk, 0o700, marks=pytest.mark.slow)]
)
def test_a_home_that_cannot_be_written_is_one_sentence(
    limit: Callable[[], None], mode: int, home: Path, tmp_path: Path
) -> None:
    home.chmod(mode)
    for path in home.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o600)
    with Loopback(reply(200, response_body(rows(3)))) as server:
        variables = {"SMSPARTNER_API_KEY": KEY, "SMSPARTNER_BASE_URL": server.base_url, "DAGSTER_HOME": str(home)}
        done = run_command("run", cwd=tmp_path, preexec_fn=limit, **variables)
    assert (done.returncode, done.stdout) == (1, "")
    sentence = done.stderr.splitlines()[-1]
    assert f"Dagster cannot use its history in {home} (" in sentence
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("home", ["/nowhere/at/all", "relative", "/dev/null"])
def test_a_dagster_home_that_is_not_a_folder_exits_2_and_is_named(home: str, tmp_path: Path) -> None:
    (tmp_path / "relative").mkdir()
    done = run_in_process("run", cwd=tmp_path, SMSPARTNER_API_KEY=KEY, DAGSTER_HOME=home)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"DAGSTER_HOME is “{home}”, but Dagster needs the absolute path of a folder")


@pytest.mark.parametrize("folder", ["what?", "100%25"])
def test_a_path_that_breaks_dagsters_database_is_refused_before_anything_is_written(
    folder: str, tmp_path: Path
) -> None:
    (tmp_path / folder).mkdir()
    for variables in ({"STOP_PIPELINE_DATA": f"{folder}/data"}, {"DAGSTER_HOME": str(tmp_path / folder)}):
        done = run_in_process("run", cwd=tmp_path, SMSPARTNER_API_KEY=KEY, **variables)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("Dagster cannot keep its database in ")
        assert [path.name for path in tmp_path.rglob("*")] == [folder]


@pytest.mark.parametrize("name", ["what?", "50%25"])
def test_dagster_does_break_on_such_a_path(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(OperationalError):  # otherwise the refusal is no longer needed
        dg.DagsterInstance.from_config(str(tmp_path / name)).get_runs_count()


def test_a_dagster_home_may_begin_with_a_tilde_and_have_an_odd_name_that_dagster_can_use(
    good_home: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(good_home, tmp_path / "100%zz C# é 50%" / "home"))
    runs = len([*(home / "history" / "runs").iterdir()])
    with Loopback(reply(200, response_body(rows(3)))) as server:
        variables = {"SMSPARTNER_API_KEY": KEY, "SMSPARTNER_BASE_URL": server.base_url, "HOME": str(home.parent)}
        done = run_in_process("run", cwd=tmp_path, DAGSTER_HOME="~/home", **variables)
    assert done.exit_code == 0, done.stderr
    assert len([*(home / "history" / "runs").iterdir()]) == runs + 1
    assert not (tmp_path / "~").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_does_not_hold_up_the_next_one_which_marks_it_as_failed(
    home: Path, tmp_path: Path
) -> None:
    requested = threading.Event()

    def hold(exchange: Exchange) -> None:
        requested.set()
        exchange.closing.wait()

    with Loopback(hold, reply(200, response_body(rows(3)))) as server:
        environment = clean_environment(
            SMSPARTNER_API_KEY=KEY, SMSPARTNER_BASE_URL=server.base_url, DAGSTER_HOME=str(home)
        )
        killed = subprocess.Popen([COMMAND, "run"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        assert requested.wait(60)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        with dg.DagsterInstance.from_config(str(home)) as instance:
            begun = instance.get_runs()[0]
            # Another one that was killed before it began.
            instance.add_run(begun._replace(run_id=str(uuid4()), status=dg.DagsterRunStatus.NOT_STARTED))
        done = _run(tmp_path, home, server)
    assert (done.exit_code, len(read_stops(tmp_path / "data"))) == (0, 3), done.stderr
    with dg.DagsterInstance.from_config(str(home)) as instance:
        last, *before, _ = (run.status for run in instance.get_runs())
    assert (last, before) == (dg.DagsterRunStatus.SUCCESS, 2 * [dg.DagsterRunStatus.FAILURE])


@pytest.mark.slow
def test_a_run_forgets_runs_that_are_older_than_the_history_is_to_be(home: Path, tmp_path: Path) -> None:
    (old,) = (home / "history/runs").glob("*-*.db")
    for days, left in ((13, 2), (15, 2)):  # of two runs that are too old, the first is forgotten by the second
        with closing(sqlite3.connect(home / "history/runs.db")) as runs, runs:
            runs.execute("UPDATE runs SET create_timestamp = datetime('now', ?)", (f"-{days} days",))
        with Loopback(reply(200, response_body(rows(3)))) as server:
            done = _run(tmp_path, home, server)
        assert done.exit_code == 0, done.stderr
        kept = {path.stem for path in (home / "history/runs").glob("*-*.db")}
        assert (len(kept), old.stem in kept) == ((left, True) if days < 14 else (1, False))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [run.run_id for run in instance.get_runs()] == [*kept]


def test_a_run_that_waits_says_for_whom_and_goes_on_once_the_account_is_free(good_home: Path, tmp_path: Path) -> None:
    held, waited_for = threading.Event(), threading.Event()

    def hold() -> None:
        with Store(tmp_path / "data").files.locked("main"):
            held.set()
            waited_for.wait(60)

    class Noticed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            waited_for.set()

    holder, noticed = threading.Thread(target=hold), Noticed()
    holder.start()
    assert held.wait(60)
    logging.getLogger("stop_pipeline.table.files").addHandler(noticed)
    try:
        with Loopback(reply(200, response_body(rows(3)))) as server:
            done = _run(tmp_path, good_home, server)
    finally:
        logging.getLogger("stop_pipeline.table.files").removeHandler(noticed)
    holder.join()
    assert done.exit_code == 0
    waiting = [line for line in done.stderr.splitlines() if "waiting" in line]
    assert len(waiting) == 1
    assert waiting[0].startswith(f"Warning: Account main: waiting for process {os.getpid()} (since ")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_starts_no_other_and_changes_nothing(
    asked: signal.Signals, good_home: Path, tmp_path: Path
) -> None:
    requested = threading.Event()

    def hold(exchange: Exchange) -> None:
        requested.set()
        exchange.closing.wait()

    with Loopback(hold) as server:
        environment = clean_environment(
            SMSPARTNER_ACCOUNTS="lyon,nice",
            SMSPARTNER_API_KEY_LYON=KEY,
            SMSPARTNER_API_KEY_NICE=KEY,
            SMSPARTNER_BASE_URL=server.base_url,
            DAGSTER_HOME=str(good_home),
        )
        process = subprocess.Popen(
            [COMMAND, "run"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert requested.wait(60)
        process.send_signal(asked)
        stdout, stderr = process.communicate(timeout=60)
        assert len(server.requests) == 1
    assert (process.returncode, stdout) == (1, "")
    assert stderr.splitlines()[-1] == "Aborted!"
    assert "Traceback" not in stderr
    assert not (tmp_path / "data" / "state").exists()


# The UI


def _processes_below(process: int) -> set[int]:
    """The process, and those that it started, and so on."""
    shown = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)  # noqa: S607
    parents = {
        int(pid): int(parent) for pid, parent, stat in map(str.split, shown.stdout.splitlines()) if stat[0] != "Z"
    }
    found = {process} & {*parents}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _any_left(processes: set[int]) -> bool:
    return any(_processes_below(process) for process in processes)


@contextmanager
def _dev(
    folder: Path, home: Path, *arguments: str, output: Any = subprocess.PIPE, asked: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[str]]:
    """`stop-pipeline dev` in a session of its own; asked to after the block, it must end as a whole and in silence."""
    process = subprocess.Popen(
        [COMMAND, "dev", *arguments],
        cwd=folder,
        env=clean_environment(DAGSTER_HOME=str(home)),
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
        if process.poll() is None:
            processes = _processes_below(process.pid)
            process.send_signal(asked)
            assert process.wait(timeout=90) == 0
            assert not _any_left(processes)
            assert output is not subprocess.PIPE or process.communicate()[0] == ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.communicate(timeout=90)


def _printed(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.slow
def test_dev_says_where_the_ui_is_and_is_the_only_one_and_ends_as_a_whole_even_if_it_is_killed(
    home: Path, tmp_path: Path
) -> None:
    port = str(free_port())
    with _dev(tmp_path, home, "--port", port) as process:
        assert _printed(process) == f"Open http://localhost:{port} in a browser. Ctrl-C ends it.\n"
        assert requests.get(f"http://127.0.0.1:{port}/server_info", timeout=60).ok
        processes = _processes_below(process.pid)
        assert len(processes) >= 5

        taken = run_in_process("dev", "--port", port, cwd=tmp_path, DAGSTER_HOME=str(home))
        assert (taken.exit_code, taken.stdout) == (1, "")
        assert taken.stderr.startswith(f"The UI cannot listen on port {port} (Address already in use): choose another")
        assert "--port" in taken.stderr
        second = run_in_process("dev", "--port", str(free_port()), cwd=tmp_path, DAGSTER_HOME=str(home))
        assert (second.exit_code, second.stdout) == (1, "")
        assert second.stderr.startswith(f"“stop-pipeline dev” is already running with DAGSTER_HOME {home}, and two")

        process.kill()
        wait_until(lambda: not _any_left(processes), "the end of all processes")
        assert process.communicate()[0] == "", "Dagster's notices were shown"


def _code_servers(process: int) -> set[int]:
    found = {pid for pid in _processes_below(process) if b"grpc" in Path(f"/proc/{pid}/cmdline").read_bytes()}
    return {pid for pid in found if b"api" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")}


@pytest.mark.slow
def test_dev_starts_the_code_again_if_its_process_dies_and_goes_on_though_nobody_can_read_what_it_prints(
    home: Path, tmp_path: Path
) -> None:
    port = free_port()
    with (
        Path("/dev/full").open("wb") as full,
        _dev(tmp_path, home, "--port", str(port), output=full, asked=signal.SIGHUP) as process,
    ):
        assert wait_for_locations(f"http://127.0.0.1:{port}") == {"stop_pipeline.definitions": "LOADED"}
        time.sleep(1)  # in which it prints
        killed = _code_servers(process.pid)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        assert killed
        assert wait_until(lambda: _code_servers(process.pid) - killed, "another process with the code")
        assert wait_for_locations(f"http://127.0.0.1:{port}") == {"stop_pipeline.definitions": "LOADED"}
        assert process.poll() is None


@pytest.mark.slow
def test_dev_takes_no_variable_from_a_file_in_the_folder_that_it_is_called_in(home: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STOP_PIPELINE_DATA=a-real-one\nSMSPARTNER_BASE_URL=https://real.example\n")
    query = (
        '{allTopLevelResourceDetailsOrError(repositorySelector: {repositoryName: "__repository__", '
        'repositoryLocationName: "stop_pipeline.definitions"}) {... on ResourceDetailsList '
        "{results {name configuredValues {key value}}}}}"
    )
    port = free_port()
    with _dev(tmp_path, home, "--sandbox", "--port", str(port)) as process:
        assert _printed(process).startswith("Open http://localhost:")

        def resources() -> dict[str, dict[str, str]]:
            response = requests.post(f"http://127.0.0.1:{port}/graphql", json={"query": query}, timeout=60).json()
            found = response["data"]["allTopLevelResourceDetailsOrError"].get("results", [])
            return {
                each["name"]: {value["key"]: json.loads(value["value"]) for value in each["configuredValues"]}
                for each in found
            }

        configured = wait_until(resources, "the definitions")
    assert configured["store"]["root"] == str(tmp_path / "demo" / "data")
    assert configured["sms_partner"]["base_url"].startswith("http://127.0.0.1:")


def test_dev_with_a_wrong_setting_or_home_exits_before_it_starts_anything(home: Path, tmp_path: Path) -> None:
    done = run_in_process("dev", cwd=tmp_path, SMSPARTNER_FORMAT="csv")
    assert done.exit_code == 2
    assert done.stderr.startswith("SMSPARTNER_FORMAT is ")
    with Loopback(reply(200)) as taken:  # or it would start, and this test would hang
        done = run_in_process("dev", "--port", str(taken.port), cwd=tmp_path, STOP_PIPELINE_CRON="*/15 * * *")
    assert done.exit_code == 2
    assert done.stderr.startswith("STOP_PIPELINE_CRON is “*/15 * * *”, which is not a valid cron expression")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    with (home / "dagster.yaml").open("a") as file:
        file.write("run_launcher: {module: dagster_nomad, class: NomadLauncher}\n")
    done = run_in_process("dev", "--port", str(free_port()), cwd=tmp_path, DAGSTER_HOME=str(home))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "dagster.yaml needs the package “dagster_nomad”, which is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
