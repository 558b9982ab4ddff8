"""The command as its users meet it: exit codes, one plain sentence, and nothing changed when something is wrong."""

import math
import os
import re
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pytest
from click.testing import Result

from stop_pipeline import read_rejected, read_stops
from stop_pipeline.cli import main
from stop_pipeline.smspartner import sandbox as stand_in
from stop_pipeline.smspartner.sandbox import Sandbox
from stop_pipeline_tests.support.commands import COMMAND, clean_environment, run_command, sandbox
from stop_pipeline_tests.support.in_process import run_in_process
from stop_pipeline_tests.support.loopback import Loopback, Script, reply, reply_json
from stop_pipeline_tests.support.syncing import Row, Syncer, response_body, rows, tree

KEY = "a-key-that-is-not-shown"


class Machine:
    """A user's folder, a provider that responds as scripted, and a home of Dagster that is made already."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.root = folder / "data"
        self.home = home

    def run(self, server: Loopback, *arguments: str, **variables: str) -> Result:
        environment = {
            "SMSPARTNER_API_KEY": KEY,
            "SMSPARTNER_BASE_URL": server.base_url,
            "DAGSTER_HOME": str(self.home),
        }
        done = run_in_process("run", *arguments, cwd=self.folder, **environment | variables)
        assert KEY not in done.output
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def machine(tmp_path: Path, home: Path) -> Machine:
    return Machine(tmp_path, home)


def listing(*bodies: bytes) -> Loopback:
    return Loopback(*(reply(200, body) for body in bodies))


def errors(done: Result) -> list[str]:
    """The lines on stderr that are not progress."""
    return [line for line in done.stderr.splitlines() if not line.startswith("Account ")]


def test_every_subcommand_explains_itself() -> None:
    help_text = run_in_process("--help", cwd=Path.cwd()).stdout
    for name in main.commands:
        assert f"  {name} " in help_text
        assert "Usage: " in run_in_process(name, "--help", cwd=Path.cwd()).stdout


@pytest.mark.slow
def test_demo_on_the_next_day_finds_the_same_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_in_process("demo", cwd=tmp_path).exit_code == 0
    tomorrow = stand_in.today() + timedelta(days=1)
    monkeypatch.setattr(stand_in, "today", lambda: tomorrow)
    done = run_in_process("demo", cwd=tmp_path)
    assert (done.exit_code, "Warning" in done.stderr) == (0, False)
    assert " 0 new, 0 changed, 0 removed, 0 restored; 0 months written." in done.stdout


@pytest.mark.slow
def test_demo_shows_a_whole_sync_and_how_to_read_it(tmp_path: Path) -> None:
    real = tmp_path / "real" / "data"
    done = run_command("demo", cwd=tmp_path, STOP_PIPELINE_DATA=str(real))
    assert done.returncode == 0, done.stderr
    root = tmp_path / "demo" / "data"
    assert not real.exists()  # no invented row gets into a real data root
    listed = f"{len(read_stops(root)):,}"
    sync_line, verify_line, reading, *_ = done.stdout.splitlines()
    assert re.fullmatch(
        rf"main: 2,000 rows = {listed} kept \+ [0-9]+ duplicates collapsed \+ 0 rejected; {listed} new, 0 changed, "
        r"0 removed, 0 restored; [0-9]+ months written\.",
        sync_line,
    )
    assert (
        verify_line == f"main: {read_stops(root)['created_month'].nunique()} months, {listed} rows, no problems found."
    )
    assert reading == f"The Parquet files are in {root / 'stops'}. To read them:"
    code = "\n".join(line.strip() for line in done.stdout.splitlines() if line.startswith("    "))
    assert code.startswith("from stop_pipeline import read_stops")
    printed: dict[str, object] = {}
    exec(code, printed)  # noqa: S102 – the lines that the command tells the user to run
    assert (tmp_path / "demo" / ".dagster_home" / "dagster.yaml").exists()
    assert len(list((tmp_path / "demo" / ".dagster_home" / "history" / "runs").glob("*-*.db"))) == 1
    for top in (root, tmp_path / "demo" / ".dagster_home"):
        for path in [top, *top.rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, f"others can read {path}"


def test_run_without_a_key_exits_2_and_says_what_to_do(tmp_path: Path) -> None:
    done = run_in_process("run", cwd=tmp_path)
    assert done.exit_code == 2
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
    done = run_in_process("run", cwd=tmp_path, SMSPARTNER_API_KEY=KEY, **{variable: value})
    assert done.exit_code == 2
    (sentence,) = errors(done)
    assert variable in sentence
    assert not list(tmp_path.iterdir())


def test_run_says_what_changed_and_finds_an_unchanged_list(machine: Machine) -> None:
    Syncer(machine.root).sync(rows(30))
    with listing(response_body(rows(31)), response_body(rows(31))) as server:
        changed, unchanged = (machine.run(server) for _ in range(2))
        assert server.requests[0].query == {"apiKey": KEY, "_format": "json"}
    counted = "main: 31 rows = 31 kept + 0 duplicates collapsed + 0 rejected"
    assert changed.stdout == f"{counted}; 1 new, 0 changed, 0 removed, 0 restored; 1 month written.\n"
    assert unchanged.stdout == f"{counted}; 0 new, 0 changed, 0 removed, 0 restored; 0 months written.\n"
    assert (changed.exit_code, unchanged.exit_code) == (0, 0)


def full() -> BinaryIO:
    return Path("/dev/full").open("wb")


def unread() -> BinaryIO:
    """A pipe whose reader has gone away."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "wb")


@pytest.mark.parametrize(
    ("stream", "output"),
    [
        ("stderr", full),
        pytest.param("stderr", unread, marks=pytest.mark.slow),
        pytest.param("stdout", full, marks=pytest.mark.slow),
    ],
)
def test_every_account_is_synced_though_what_the_command_says_cannot_be_written(
    tmp_path: Path, stream: str, output: Callable[[], BinaryIO]
) -> None:
    keys = {f"SMSPARTNER_API_KEY_{name}": KEY for name in ("LYON", "NICE")}
    with listing(response_body(rows(3))) as server, output() as unwritable:
        variables = {"SMSPARTNER_BASE_URL": server.base_url, "SMSPARTNER_ACCOUNTS": "lyon,nice", **keys}
        done = run_command("run", cwd=tmp_path, **variables, **{stream: unwritable})
    assert len(read_stops(tmp_path / "data")) == 6
    assert "Traceback" not in f"{done.stdout}{done.stderr}"
    if stream == "stderr":
        assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["lyon", "nice"]
        assert done.returncode == 0


def test_an_output_that_is_full_is_told_as_that(tmp_path: Path) -> None:
    Syncer(tmp_path / "data").sync(rows(3))
    with full() as output:
        done = run_command("accounts", cwd=tmp_path, stdout=output)
    assert done.stderr.startswith("The output cannot be written: No space left on device.\n")


def test_a_reader_that_has_gone_away_is_no_error_to_tell(tmp_path: Path) -> None:
    Syncer(tmp_path / "data").sync(rows(3))
    with unread() as output:
        done = run_command("accounts", cwd=tmp_path, stdout=output)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_that_lacks_a_character_gets_another(tmp_path: Path) -> None:
    Syncer(tmp_path / "data").sync(rows(3), at=datetime.now(UTC) - timedelta(hours=1))
    done = run_command("lookup", "+33639980001", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (4, "")


def test_a_current_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'mkdir here && cd here && rmdir ../here && exec "$0" accounts', COMMAND],  # noqa: S607
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["The current folder no longer exists: change to one that does."],
    )


def test_run_tells_of_rows_that_cannot_be_used_goes_on_with_the_rest_and_tells_when_it_reads_stored_rows_again(
    machine: Machine,
) -> None:
    listed: list[Any] = [*rows(3), Row(10, "unknown"), Row(11, "n/a"), {"id": 0, "phoneNumber": "+33639980099"}]
    with listing(response_body(listed)) as server:
        first = machine.run(server)
        second = machine.run(server, SMSPARTNER_TIMEZONE="Europe/London")
    assert first.exit_code == 0
    rejected, unreadable = errors(first)
    assert rejected.startswith("Warning: main: check nothing_rejected failed.")
    assert unreadable.startswith("Warning: main: check numbers_readable failed. 2 listed rows contain no phone number")
    assert first.stdout.endswith("; 1 month written; 2 listed rows without a phone number.\n")
    assert len(read_stops(machine.root)) == 5
    assert list(read_rejected(machine.root)["reason"]) == ["no usable id"]
    assert "stored rows were first brought up to date" in second.stdout
    assert "stored rows" not in first.stdout


WRONG_RESPONSES: dict[str, tuple[Script, str]] = {
    "a wrong key": (
        reply_json({"success": False, "code": 10, "message": "Clé API incorrecte"}),
        "SMSPARTNER_API_KEY",
    ),
    "a web page": (reply(200, b"<html><body>Maintenance, 06 39 98 00 01</body></html>"), "<html><body>Maintenance"),
    "a truncated document": (reply(200, response_body(rows(3))[:-20]), "cut"),
    "a redirect": (reply(302, b"", {"Location": "https://elsewhere.example/?apiKey=1"}), "elsewhere.example"),
}
"""The tests of the client try all kinds of responses; here a few are enough to see that their sentences arrive."""


@pytest.mark.parametrize("kind", WRONG_RESPONSES)
def test_a_wrong_response_ends_in_one_sentence_and_changes_nothing(kind: str, machine: Machine) -> None:
    script, named = WRONG_RESPONSES[kind]
    Syncer(machine.root).sync(rows(30))
    before = tree(machine.root)
    with Loopback(script) as server:
        done = machine.run(server)
        assert len(server.requests) == 1, "it was tried again, though trying again cannot help"
    assert done.exit_code == 1
    assert done.stdout == ""
    (sentence,) = errors(done)
    assert sentence.startswith("main: ")
    assert named in sentence
    assert not any(row.phone_number[3:] in sentence for row in rows(30))
    assert tree(machine.root) == before


def test_withheld_removals_are_a_warning_that_names_the_command_which_accepts_them(machine: Machine) -> None:
    Syncer(machine.root).sync(rows(100))
    with listing(response_body(rows(30))) as server:
        withheld = machine.run(server)
        assert withheld.exit_code == 0
        assert ", 70 removals withheld; " in withheld.stdout
        (warning,) = errors(withheld)
        command = "run --accept-removals 70 --account main"
        assert command in warning
        accepted = machine.run(server, *command.split()[1:])
    assert "70 removed" in accepted.stdout
    assert len(read_stops(machine.root)) == 30


def test_an_unknown_account_is_refused(machine: Machine) -> None:
    with listing(response_body(rows(1))) as server:
        done = machine.run(server, "--account", "lyon")
        several = machine.run(server, "--accept-removals", "3", SMSPARTNER_ACCOUNTS="lyon,nice")
    assert (done.exit_code, several.exit_code) == (2, 2)
    (refusal,) = errors(done)
    assert refusal.startswith("--account lyon is not one of the accounts that are set up (main): set its name and key ")
    assert errors(several) == ["--accept-removals is for one account: name it with --account."]


@pytest.mark.parametrize(
    "accounts_per_run", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_failed_account_does_not_stop_the_others(machine: Machine, accounts_per_run: int) -> None:
    runs_before = {*(machine.home / "history" / "runs").glob("*-*.db")}
    refused = reply_json({"success": False, "code": 10, "message": "Clé API incorrecte"})
    with Loopback(refused, reply(200, response_body(rows(3)))) as server:
        done = machine.run(
            server,
            SMSPARTNER_ACCOUNTS="paris,lyon,nice",
            SMSPARTNER_API_KEY_PARIS="a-wrong-one",
            SMSPARTNER_API_KEY_LYON="a-right-one",
            STOP_PIPELINE_ACCOUNTS_PER_RUN=str(accounts_per_run),
        )
    assert done.exit_code == 1
    assert done.stdout == (
        "lyon: 3 rows = 3 kept + 0 duplicates collapsed + 0 rejected; 3 new, 0 changed, 0 removed, 0 restored; 1 month "
        "written.\n"
    )
    first, second = errors(done)
    assert first.startswith("paris: SMS Partner does not accept the API key (code 10")
    assert second.startswith("nice: SMSPARTNER_API_KEY_NICE is not set")
    runs = {*(machine.home / "history" / "runs").glob("*-*.db")} - runs_before
    assert len(runs) == math.ceil(3 / accounts_per_run)
    with Loopback(reply(200, response_body(rows(4)))) as server:
        alone = machine.run(
            server, "--account", "lyon", SMSPARTNER_ACCOUNTS="paris,lyon,nice", SMSPARTNER_API_KEY_LYON="a-right-one"
        )
    assert (alone.exit_code, errors(alone)) == (0, [])
    assert alone.stdout.startswith("lyon: 4 rows = 4 kept + 0 duplicates collapsed + 0 rejected; 1 new")


@pytest.mark.slow
def test_a_failed_check_names_its_account(machine: Machine) -> None:
    variables = {
        "SMSPARTNER_ACCOUNTS": "paris,lyon",
        "SMSPARTNER_API_KEY_PARIS": "p",
        "SMSPARTNER_API_KEY_LYON": "l",
        "STOP_PIPELINE_ACCOUNTS_PER_RUN": "2",
    }
    for account in ("paris", "lyon"):
        Syncer(machine.root, account).sync(rows(100))
    with listing(response_body(rows(101)), response_body(rows(30))) as server:
        done = machine.run(server, **variables)
    assert done.exit_code == 0, done.stderr
    told = [line for line in errors(done) if "check removals_plausible failed" in line]
    assert [line.split(": ")[1] for line in told] == ["lyon"]
    first, second = done.stdout.splitlines()
    assert first.startswith("paris: 101 rows = 101 kept + 0 duplicates collapsed + 0 rejected; 1 new")
    assert second.startswith(
        "lyon: 30 rows = 30 kept + 0 duplicates collapsed + 0 rejected; 0 new, 0 changed, 0 removed"
    )
    assert "70 removals withheld" in second


def test_a_data_root_that_cannot_be_made_is_told_in_one_sentence(machine: Machine) -> None:
    (machine.folder / "file").write_text("in the way")
    with listing(response_body(rows(1))) as server:
        done = machine.run(server, STOP_PIPELINE_DATA=str(machine.folder / "file" / "data"))
    assert done.exit_code == 1
    assert len(errors(done)) == 1


@pytest.mark.slow
def test_run_can_sync_against_the_sandbox_in_xml(machine: Machine) -> None:
    with Sandbox(rows=50) as server:
        done = run_in_process(
            "run",
            cwd=machine.folder,
            SMSPARTNER_API_KEY=server.api_key,
            SMSPARTNER_BASE_URL=server.base_url,
            SMSPARTNER_FORMAT="xml",
            DAGSTER_HOME=str(machine.home),
        )
    assert done.exit_code == 0, done.stderr
    assert len(read_stops(machine.root)) > 40


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write what belongs to others")
def test_run_as_another_user_than_the_owner_of_the_data_root_is_a_warning(machine: Machine) -> None:
    machine.root.mkdir()
    os.chown(machine.root, 4_242, 4_242)
    with listing(response_body(rows(3))) as server:
        done = machine.run(server)
    assert done.exit_code == 0
    (warning,) = errors(done)
    assert warning.startswith("Warning: the data root data belongs to user 4242, who will not be able to use the files")


def test_accounts_are_listed_with_their_state_and_can_be_retired(machine: Machine) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    Syncer(machine.root, "lyon").sync(rows(5), at=now - timedelta(hours=1))
    Syncer(machine.root, "nice").fetch(response_body(rows(5)), at=now)
    Syncer(machine.root).sync(rows(1), at=now - timedelta(days=9))
    listed = run_in_process("accounts", cwd=machine.folder)
    assert (listed.exit_code, listed.stderr) == (0, "")
    assert listed.stdout.splitlines() == [
        f"lyon: synced; last verified at {now - timedelta(hours=1):%Y-%m-%d %H:%M} UTC; 5 open rows.",
        f"main: synced; last verified at {now - timedelta(days=9):%Y-%m-%d %H:%M} UTC; 1 open row.",
        "nice: never synced; never verified; 0 open rows.",
    ]
    for name in ("main", "nice"):
        retired = run_in_process("retire", name, cwd=machine.folder)
        assert (retired.exit_code, retired.stderr) == (0, "")
        assert retired.stdout.startswith(f"{name} is retired: its numbers stay blocked")
    configured = run_in_process("retire", "lyon", cwd=machine.folder, SMSPARTNER_ACCOUNTS="lyon,nice")
    assert configured.stderr.startswith("Warning: the settings still name lyon, so its next sync puts it back into use")
    assert [line.split(" at ")[0] for line in run_in_process("accounts", cwd=machine.folder).stdout.splitlines()] == [
        "lyon: retired",
        "main: retired",
        "nice: retired",
    ]
    unknown = run_in_process("retire", "paris", cwd=machine.folder)
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert unknown.stderr.startswith("“paris” is not one of the accounts below ")
    assert unknown.stderr.endswith(" (lyon, main, nice).\n")
    assert not (machine.root / "accounts/account=paris.json").exists()


def test_suppress_prints_the_parts_and_how_many_listed_rows_block_nobody(machine: Machine) -> None:
    Syncer(machine.root).sync([*rows(3), Row(10, "unknown")], at=datetime.now(UTC) - timedelta(hours=1))
    campaign = machine.folder / "customers.csv"
    campaign.write_text("phone\n06 39 98 00 01\n0700000000\n")
    done = run_in_process("suppress", "customers.csv", "--out", "checked", cwd=machine.folder)
    assert done.exit_code == 0, done.stderr
    first, second, third, *files = done.stdout.splitlines()
    assert first.startswith("customers.csv (CSV with ")
    assert first.endswith("): 2 rows = 1 clean + 1 blocked + 0 invalid.")
    assert second.startswith("1 listed row without a phone number blocked nobody. To see them: in ")
    assert third.startswith("The list was verified at ")
    assert files == ["  clean.csv", "  blocked.csv", "  invalid.csv"]
    blocked = pd.read_csv(machine.folder / "checked" / "blocked.csv", sep=";", dtype=str)
    assert list(blocked["phone"]) == ["06 39 98 00 01"]

    outdated = run_in_process("suppress", "customers.csv", "--out", "again", "--max-age", "1m", cwd=machine.folder)
    assert (outdated.exit_code, outdated.stdout) == (3, "")
    assert len(outdated.stderr.splitlines()) == 1
    wrong = run_in_process("suppress", "customers.csv", "--out", "again", "--max-age", "soon", cwd=machine.folder)
    assert wrong.exit_code == 2
    assert "“soon” is not an age" in wrong.stderr
    assert not (machine.folder / "again").exists()


def test_sandbox_tells_how_to_use_it_and_ends_with_ctrl_c(tmp_path: Path, home: Path) -> None:
    with sandbox("--rows", "12", "--seed", "3", cwd=tmp_path) as variables:
        assert variables.keys() == {"SMSPARTNER_BASE_URL", "SMSPARTNER_API_KEY", "STOP_PIPELINE_DATA"}
        done = run_in_process("run", cwd=tmp_path, DAGSTER_HOME=str(home), **variables)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("main: 12 rows = 12 kept + 0 duplicates collapsed + 0 rejected; 12 new, ")
    assert len(read_stops(tmp_path / "demo" / "data")) == 12


@pytest.mark.slow
def test_sandbox_stands_in_for_several_accounts_each_with_its_own_list(tmp_path: Path, home: Path) -> None:
    with sandbox("--rows", "12", "--accounts", "main,lyon", cwd=tmp_path) as variables:
        done = run_in_process("run", cwd=tmp_path, DAGSTER_HOME=str(home), **variables)
    assert done.exit_code == 0, done.stderr
    stops = read_stops(tmp_path / "demo" / "data")
    assert stops["account"].value_counts().to_dict() == {"main": 12, "lyon": 12}
    assert stops["id"].is_unique


def test_sandbox_refuses_a_name_that_cannot_be_one(tmp_path: Path) -> None:
    done = run_in_process("sandbox", "--accounts", "lyon,../paris", cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("--accounts is wrong at name 2: name each account once, separated by commas;")
    assert "a name is made of lower-case letters" in done.stderr


def test_sandbox_on_a_port_that_is_taken_says_so(tmp_path: Path) -> None:
    with Loopback(reply(200)) as taken:
        done = run_in_process("sandbox", "--port", str(taken.port), cwd=tmp_path)
    assert done.exit_code == 1
    assert f"cannot listen on port {taken.port}" in done.stderr


@pytest.mark.parametrize(
    "asked",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_sandbox_ends_when_asked_though_a_script_started_it_in_the_background(
    asked: signal.Signals, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$0" sandbox --port 0 --rows 1', COMMAND],  # noqa: S607
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
