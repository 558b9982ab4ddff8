"""The command as its users meet it: exit codes, one plain sentence, and nothing changed when something is wrong."""

import math
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import requests

from stop_pipeline import read_rejected, read_stops
from stop_pipeline.sandbox import serve
from stop_pipeline_tests.commands import COMMAND, clean_environment, run_command, sandbox
from stop_pipeline_tests.loopback import Exchange, Loopback, Script, reply, reply_json
from stop_pipeline_tests.serving import free_port, wait_for_locations
from stop_pipeline_tests.ticking import answer_body, rows, tree

KEY = "a-key-that-is-not-shown"


class Machine:
    """A user's folder, and a provider that answers as scripted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "data"

    def run(self, server: Loopback, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"SMSPARTNER_API_KEY": KEY, "SMSPARTNER_BASE_URL": server.base_url} | variables
        done = run_command("run", *arguments, cwd=self.folder, **environment)
        assert KEY not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def listing(*bodies: bytes) -> Loopback:
    return Loopback(*(reply(200, body) for body in bodies))


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines on stderr that are no progress."""
    return [line for line in done.stderr.splitlines() if not line.startswith("Account ")]


def test_demo_shows_a_whole_tick_and_how_to_read_it(tmp_path: Path) -> None:
    done = run_command("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "demo" / "data"
    assert f"main: {len(read_stops(root)):,} listed, {len(read_stops(root)):,} new, 0 changed, 0 removed" in done.stdout
    assert f"The Parquet lies in {root / 'stops'}" in done.stdout
    code = "\n".join(line.strip() for line in done.stdout.splitlines() if line.startswith("    "))
    assert code.startswith("from stop_pipeline import read_stops")
    printed: dict[str, object] = {}
    exec(code, printed)  # noqa: S102 – the lines that the command tells the user to run
    assert (tmp_path / "demo" / ".dagster_home" / "dagster.yaml").exists()


def test_run_without_a_key_exits_2_and_says_what_to_do(tmp_path: Path) -> None:
    done = run_command("run", cwd=tmp_path)
    assert done.returncode == 2
    assert "SMSPARTNER_API_KEY" in done.stderr
    assert "stop-pipeline demo" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SMSPARTNER_FORMAT", "csv"),
        ("SMSPARTNER_BASE_URL", "http://api.smspartner.fr/v1"),
        ("SMSPARTNER_TIMEZONE", "Europe/Nowhere"),
        ("SMSPARTNER_ACCOUNTS", "paris,paris"),
        ("STOP_PIPELINE_CRON", "sometimes"),
        ("STOP_PIPELINE_DATA", "ftp://host/data"),
    ],
)
def test_a_wrong_setting_exits_2_and_is_named(tmp_path: Path, variable: str, value: str) -> None:
    done = run_command("run", cwd=tmp_path, SMSPARTNER_API_KEY=KEY, **{variable: value})
    assert done.returncode == 2
    (sentence,) = errors(done)
    assert variable in sentence


def test_dev_with_a_wrong_setting_exits_2_before_it_starts_anything(tmp_path: Path) -> None:
    done = run_command("dev", cwd=tmp_path, SMSPARTNER_FORMAT="csv")
    assert done.returncode == 2
    assert done.stderr.startswith("SMSPARTNER_FORMAT is ")
    assert not list(tmp_path.iterdir())


def test_run_says_what_changed_and_finds_an_unchanged_list(machine: Machine) -> None:
    with listing(answer_body(rows(30)), answer_body(rows(31)), answer_body(rows(31))) as server:
        first, second, third = (machine.run(server) for _ in range(3))
    assert first.stdout.startswith("main: 30 listed, 30 new,")
    assert second.stdout.startswith("main: 31 listed, 1 new,")
    assert third.stdout == ("main: 31 listed, 0 new, 0 changed, 0 removed, 0 restored, 0 rejected; 0 months written.\n")
    assert [done.returncode for done in (first, second, third)] == [0, 0, 0]


def test_the_key_goes_to_the_provider_and_nowhere_else(machine: Machine) -> None:
    with listing(answer_body(rows(3))) as server:
        machine.run(server)
        assert server.requests[0].query == {"apiKey": KEY, "_format": "json"}
    for name, data in tree(machine.folder).items():
        assert KEY.encode() not in data, name


WRONG_ANSWERS: dict[str, tuple[Script, str]] = {
    "a wrong key": (
        reply_json({"success": False, "code": 10, "message": "Clé API incorrecte"}),
        "SMSPARTNER_API_KEY",
    ),
    "an account that is blocked": (reply_json({"success": False, "code": 30, "message": "Compte bloqué"}, 403), "30"),
    "a web page": (reply(200, b"<html><body>Maintenance, 06 39 98 00 01</body></html>"), "<html><body>Maintenance"),
    "a cut document": (reply(200, answer_body(rows(3))[:-20]), "cut"),
    "a body shorter than announced": (reply(200, answer_body(rows(3)), {"Content-Length": "9999"}), "cut"),
    "a list at the top": (reply(200, b"[1, 2, 3]"), "[•, •, •]"),
    "data that is no list": (reply_json({"success": True, "code": 200, "nbData": 1, "data": {"id": 1}}), "data"),
    "no data at all": (reply_json({"success": True, "code": 200, "nbData": 0}), "data"),
    "a redirect": (reply(302, b"", {"Location": "https://elsewhere.example/?apiKey=1"}), "elsewhere.example"),
    "a clock that is off": (
        reply(200, answer_body(rows(3)), {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}),
        "clock",
    ),
}


@pytest.mark.parametrize("kind", WRONG_ANSWERS)
def test_a_wrong_answer_ends_in_one_sentence_and_changes_nothing(kind: str, machine: Machine) -> None:
    script, named = WRONG_ANSWERS[kind]
    with Loopback(reply(200, answer_body(rows(30))), script) as server:
        machine.run(server)
        before = tree(machine.root)
        done = machine.run(server)
        assert len(server.requests) == 2, "it was tried again, though trying again cannot help"
    assert done.returncode == 1
    assert done.stdout == ""
    (sentence,) = errors(done)
    assert sentence.startswith("main: ")
    assert named in sentence
    assert not any(row.phone_number[3:] in sentence for row in rows(30))
    assert tree(machine.root) == before


def test_a_service_that_is_down_is_tried_again_and_then_told_in_one_sentence(machine: Machine) -> None:
    with Loopback(reply(503, b"", {"Retry-After": "0"})) as server:
        done = machine.run(server)
        assert len(server.requests) == 5
    assert done.returncode == 1
    (sentence,) = errors(done)
    assert "503" in sentence


def test_a_service_that_comes_back_in_time_is_no_failure(machine: Machine) -> None:
    busy = reply(429, b"", {"Retry-After": "0"})
    with Loopback(busy, busy, reply(200, answer_body(rows(3)))) as server:
        assert machine.run(server).returncode == 0


def test_a_bad_row_is_set_aside_with_a_warning_and_the_rest_goes_on(machine: Machine) -> None:
    with listing(answer_body([*rows(3), {"id": 0, "phoneNumber": "+33639980099"}])) as server:
        done = machine.run(server)
    assert done.returncode == 0
    (warning,) = errors(done)
    assert warning.startswith("Warning: main: check nothing_rejected failed.")
    assert len(read_stops(machine.root)) == 3
    assert list(read_rejected(machine.root)["reason"]) == ["no usable id"]


def test_withheld_removals_are_a_warning_that_names_the_command_which_accepts_them(machine: Machine) -> None:
    with listing(answer_body(rows(100)), answer_body(rows(30))) as server:
        machine.run(server)
        withheld = machine.run(server)
        assert withheld.returncode == 0
        (warning,) = errors(withheld)
        command = "run --accept-removals 70 --account main"
        assert command in warning
        accepted = machine.run(server, *command.split()[1:])
    assert "70 removed" in accepted.stdout
    assert len(read_stops(machine.root)) == 30


def test_an_unknown_account_is_refused(machine: Machine) -> None:
    with listing(answer_body(rows(1))) as server:
        done = machine.run(server, "--account", "lyon")
    assert done.returncode == 2


@pytest.mark.parametrize("accounts_per_run", [1, 2, 3])
def test_a_failed_account_does_not_stop_the_others(machine: Machine, accounts_per_run: int) -> None:
    refused = reply_json({"success": False, "code": 10, "message": "Clé API incorrecte"})
    with Loopback(refused, reply(200, answer_body(rows(3)))) as server:
        done = machine.run(
            server,
            SMSPARTNER_ACCOUNTS="paris,lyon,nice",
            SMSPARTNER_API_KEY_PARIS="a-wrong-one",
            SMSPARTNER_API_KEY_LYON="a-right-one",
            STOP_PIPELINE_ACCOUNTS_PER_RUN=str(accounts_per_run),
        )
    assert done.returncode == 1
    assert done.stdout == "lyon: 3 listed, 3 new, 0 changed, 0 removed, 0 restored, 0 rejected; 1 months written.\n"
    first, second = errors(done)
    assert first.startswith("paris: SMS Partner does not accept the API key (code 10")
    assert second.startswith("nice: SMSPARTNER_API_KEY_NICE is not set")
    runs = list((machine.folder / ".dagster_home" / "history" / "runs").glob("*-*.db"))
    assert len(runs) == math.ceil(3 / accounts_per_run)
    with Loopback(reply(200, answer_body(rows(4)))) as server:
        alone = machine.run(
            server, "--account", "lyon", SMSPARTNER_ACCOUNTS="paris,lyon,nice", SMSPARTNER_API_KEY_LYON="a-right-one"
        )
    assert (alone.returncode, errors(alone)) == (0, [])
    assert alone.stdout.startswith("lyon: 4 listed, 1 new")


def test_a_check_that_fails_is_told_of_the_account_that_it_is_of(machine: Machine) -> None:
    variables = {
        "SMSPARTNER_ACCOUNTS": "paris,lyon",
        "SMSPARTNER_API_KEY_PARIS": "p",
        "SMSPARTNER_API_KEY_LYON": "l",
        "STOP_PIPELINE_ACCOUNTS_PER_RUN": "2",
    }
    with listing(*(answer_body(rows(count)) for count in (100, 100, 101, 30))) as server:
        machine.run(server, **variables)
        done = machine.run(server, **variables)
    assert done.returncode == 0, done.stderr
    told = [line for line in errors(done) if "check removals_plausible failed" in line]
    assert [line.split(": ")[1] for line in told] == ["lyon"]
    first, second = done.stdout.splitlines()
    assert first.startswith("paris: 101 listed, 1 new")
    assert second.startswith("lyon: 30 listed, 0 new, 0 changed, 0 removed")
    assert "70 removals withheld" in second


def test_a_data_root_that_cannot_be_made_is_told_in_one_sentence(machine: Machine) -> None:
    (machine.folder / "file").write_text("in the way")
    with listing(answer_body(rows(1))) as server:
        done = machine.run(server, STOP_PIPELINE_DATA=str(machine.folder / "file" / "data"))
    assert done.returncode == 1
    assert len(errors(done)) == 1


@pytest.mark.parametrize(
    ("command", "home"), [("run", "/nowhere/at/all"), ("run", "relative"), ("run", "/dev/null"), ("dev", "relative")]
)
def test_a_dagster_home_that_is_no_folder_exits_2_and_is_named(command: str, home: str, tmp_path: Path) -> None:
    (tmp_path / "relative").mkdir()
    done = run_command(command, cwd=tmp_path, SMSPARTNER_API_KEY=KEY, DAGSTER_HOME=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"DAGSTER_HOME is “{home}”, where Dagster wants the absolute path of a folder")


def test_run_leaves_its_history_beside_the_data_root(machine: Machine) -> None:
    with listing(answer_body(rows(1))) as server:
        machine.run(server)
        machine.run(server)
    assert len(list((machine.folder / ".dagster_home" / "history" / "runs").glob("*-*.db"))) == 2


def test_a_run_that_is_killed_does_not_hold_up_the_next_one(machine: Machine) -> None:
    asked = threading.Event()

    def hold(exchange: Exchange) -> None:
        asked.set()
        exchange.closing.wait()

    with Loopback(hold, reply(200, answer_body(rows(3)))) as server:
        environment = clean_environment(SMSPARTNER_API_KEY=KEY, SMSPARTNER_BASE_URL=server.base_url)
        killed = subprocess.Popen([COMMAND, "run"], cwd=machine.folder, env=environment, stderr=subprocess.DEVNULL)
        assert asked.wait(60)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        done = machine.run(server)
    assert (done.returncode, len(read_stops(machine.root))) == (0, 3), done.stderr
    with dg.DagsterInstance.from_config(str(machine.folder / ".dagster_home")) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


def test_sandbox_tells_how_to_use_it_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with sandbox("--rows", "12", "--seed", "3", cwd=tmp_path) as variables:
        assert variables.keys() == {"SMSPARTNER_BASE_URL", "SMSPARTNER_API_KEY", "STOP_PIPELINE_DATA"}
        done = run_command("run", cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("main: 12 listed, 12 new, ")
    assert len(read_stops(tmp_path / "demo" / "data")) == 12


def test_sandbox_stands_in_for_several_accounts_each_with_a_list_of_its_own(tmp_path: Path) -> None:
    with sandbox("--rows", "12", "--accounts", "main,lyon", cwd=tmp_path) as variables:
        done = run_command("run", cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    stops = read_stops(tmp_path / "demo" / "data")
    assert stops["account"].value_counts().to_dict() == {"main": 12, "lyon": 12}
    assert stops["id"].is_unique


def test_sandbox_refuses_a_name_that_is_none(tmp_path: Path) -> None:
    done = run_command("sandbox", "--accounts", "lyon,../paris", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("--accounts holds the name “../paris”, which is not lower-case letters")


def test_sandbox_on_a_port_that_is_taken_says_so(tmp_path: Path) -> None:
    with Loopback(reply(200)) as taken:
        done = run_command("sandbox", "--port", str(taken.port), cwd=tmp_path)
    assert done.returncode == 1
    assert f"cannot listen on port {taken.port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_sandbox_ends_when_asked_though_a_script_started_it_in_the_background(
    asked: signal.Signals, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$0" sandbox --port 0', COMMAND],  # noqa: S607
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert "Ctrl-C ends it.\n" in iter(process.stdout.readline, "")
        process.send_signal(asked)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0


def _members(session: int) -> list[int]:
    """The processes of a session that are still there."""
    listed = subprocess.run(["ps", "-eo", "pid=,sid="], capture_output=True, text=True, check=True)  # noqa: S607
    return [int(pid) for pid, sid in (line.split() for line in listed.stdout.splitlines()) if int(sid) == session]


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    process = subprocess.Popen(
        [COMMAND, "dev", "--port", str(port)],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_dev_serves_the_ui_and_ctrl_c_ends_everything_it_started(
    dev: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    process, url = dev
    started = wait_for_locations(url)
    assert started == {"stop_pipeline.definitions": "LOADED"}
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert (tmp_path / ".dagster_home").stat().st_mode & 0o777 == 0o700

    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert [pid for child in children for pid in _members(int(child))] == []
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)


def test_run_can_tick_against_the_sandbox_in_xml(machine: Machine) -> None:
    with serve(rows=50) as sandbox:
        done = run_command(
            "run",
            cwd=machine.folder,
            SMSPARTNER_API_KEY=sandbox.api_key,
            SMSPARTNER_BASE_URL=sandbox.base_url,
            SMSPARTNER_FORMAT="xml",
        )
    assert done.returncode == 0, done.stderr
    assert len(read_stops(machine.root)) > 40


def test_files_that_run_makes_are_readable_by_their_owner_only(machine: Machine) -> None:
    with listing(answer_body(rows(3))) as server:
        machine.run(server)
    for top in (machine.root, machine.folder / ".dagster_home"):
        for folder, _, files in os.walk(top):
            assert os.stat(folder).st_mode & 0o077 == 0, folder  # noqa: PTH116
            for file in files:
                path = Path(folder, file)
                assert path.stat().st_mode & 0o077 == 0, path
