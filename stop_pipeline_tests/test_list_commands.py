"""`lookup`, `changes` and `export`: exit codes, what a person reads, files for other tools, and what is never lost."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from click.testing import Result

from stop_pipeline import read_suppression_list
from stop_pipeline.campaign.output import TEMPORARY_PREFIX
from stop_pipeline.commands import write_changes
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.settings import Settings
from stop_pipeline.table.store import Store
from stop_pipeline_tests.support.in_process import run_in_process
from stop_pipeline_tests.support.syncing import Row, Syncer, response_body, rows

HOUR = timedelta(hours=1)
STOPPED, FREE = "+33639989999", "+33639989998"
SPELLED = ("06", "39", "98", "99", "99")
OTHERS = rows(20)


class Desk:
    """A folder of a user, with a data root that was synced within the last hours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "data"
        self.main = self.account("main")

    def account(self, name: str, ago: timedelta = 9 * HOUR) -> Syncer:
        return Syncer(self.root, name, start=datetime.now(UTC).replace(microsecond=0) - ago)

    def run(self, *arguments: str, **variables: str) -> Result:
        done = run_in_process(*arguments, cwd=self.folder, **{"STOP_PIPELINE_DATA": "data"} | variables)
        said = re.sub(r"[\s()./-]", "", re.sub("[0-9a-f]{64}", "", done.stdout + done.stderr))
        assert "39989999" not in said  # masked, wherever it is echoed
        return done

    def refusal(self, code: int, *arguments: str, **variables: str) -> str:
        """What a command says that ends with an exit code and writes nothing."""
        before = sorted(self.folder.rglob("*"))
        done = self.run(*arguments, **variables)
        assert done.exit_code == code, done.stderr
        assert done.stdout == ""
        assert sorted(self.folder.rglob("*")) == before
        return done.stderr

    def copy_after(self, *outputs: str) -> set[str]:
        """The list that a tool has which took in some files of changes, one after the other, repeated rows and all."""
        copy: set[str] = set()
        for output in outputs:
            changes = pd.read_csv(self.folder / output, dtype=str)
            copy |= set(changes.loc[changes["change"] == "added", "phone_number"])
            copy -= set(changes.loc[changes["change"] == "removed", "phone_number"])
        return copy

    def listed(self) -> set[str]:
        return set(read_suppression_list(self.root)["phone_number"])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# lookup


def both(time: datetime) -> str:
    return f"{time.astimezone(ZoneInfo('Europe/Paris')):%Y-%m-%d %H:%M:%S} Paris ({time:%Y-%m-%d %H:%M:%S} UTC)"


def test_the_exit_code_says_whether_the_number_may_be_texted(desk: Desk) -> None:
    assert desk.run("lookup", STOPPED).exit_code == 3  # no data root
    desk.main.sync([*OTHERS, Row(99, STOPPED)])
    assert desk.run("lookup", *SPELLED).exit_code == 4  # not quoted, as one types it
    assert desk.run("lookup", FREE).exit_code == 0
    assert desk.run("lookup", FREE, "--max-age", "1h").exit_code == 3
    assert desk.run("lookup", FREE, "--max-age", "1h", "--on", desk.main.now.isoformat()).exit_code == 0
    assert desk.run("lookup", STOPPED, "--on", (desk.main.now - HOUR).isoformat()).exit_code == 3
    (desk.root / "state/account=main.json").write_text("damaged")
    assert desk.run("lookup", STOPPED).exit_code == 3
    assert desk.run("changes", "--since", "2020-01-01", "--out", "changes.csv").exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lookup", "0639"], "it has 4 digits"),
        (["lookup", " ".join(SPELLED), " ".join(SPELLED)], "more than one phone number (found: +33 6•• •• •• 99)"),
        (["lookup", "n/a", "--on", "0639989999"], "cannot be read as a phone number"),
        (["lookup", STOPPED, "--on", "0639989999"], "is not a date or time in ISO 8601"),
        (["lookup", STOPPED, "--on", "2999-01-01"], "is in the future"),
        (["changes", "--since", "2999-01-01", "--out", "new.csv"], "is in the future"),
        (["changes", "--since", "2026-01-02", "--until", "2026-01-01", "--out", "new.csv"], "swap the two times"),
        (["changes", "--since", "soon", "--out", "new.csv"], "is not a date or time in ISO 8601"),
        (["changes", "--out", "new.csv"], "Give --since, or --since-file"),
        (["changes", "--since-file", "cursor", "--out", "new.csv"], "cursor does not exist yet: give --since as well"),
        (
            ["changes", "--since", "2026-01-01", "--out", "c.csv", "--since-file", "./c.csv"],
            "--out and --since-file both name c.csv: choose two files.",
        ),
        (["changes", "--since", "2026-01-02", "--out", "new.xlsx"], "new.xlsx must end in .csv or .parquet"),
        (["export", "--out", "new"], "new must end in .csv or .parquet"),
        (["export", "--out", "new.csv", "--max-age", "soon"], "such as 90m, 24h or 2d"),
    ],
)
def test_input_that_makes_no_sense_is_told(desk: Desk, arguments: list[str], said: str) -> None:
    desk.main.sync(OTHERS)
    assert said in desk.refusal(2, *arguments)


def test_a_person_reads_what_happened_to_the_number(desk: Desk) -> None:
    bodies = [
        response_body([*OTHERS, Row(98, STOPPED)]),
        response_body([*OTHERS, {"id": "x", "phoneNumber": STOPPED, "createdAt": "soon"}]),
    ]
    desk.main.sync(bodies[0])
    first = desk.main.now
    desk.main.sync(bodies[1])
    second, sha256 = desk.main.now, [hashlib.sha256(body).hexdigest() for body in bodies]
    desk.main.sync(OTHERS[:2])  # the rest is withheld
    opted_out = f"""\
  first seen   {both(first)}
    SHA-256    {sha256[0]}
  last listed  {both(first)}
    SHA-256    {sha256[0]}
  removed      {both(second)}
"""
    malformed = f"""\
  first seen   {both(second)}
    SHA-256    {sha256[1]}
  last listed  {both(second)}
    SHA-256    {sha256[1]}
"""
    assert (
        desk.run("lookup", *SPELLED).stdout
        == f"""\
+33 6•• •• •• 99 must not be texted.

Account main: on the list. Last complete list: {both(desk.main.now)}.
  opted out    2025-06-01 10:00:00 Paris (2025-06-01 08:00:00 UTC)
{opted_out}
  opted out    at an unknown time (in a malformed row)
{malformed}  still kept   even if the last response no longer lists it: removals are withheld
"""
    )
    then = desk.run("lookup", *SPELLED, "--on", f"{first:%Y-%m-%dT%H:%M:%S}")
    assert (
        then.stdout
        == f"""\
+33 6•• •• •• 99 was on the list at {both(first)}.

Account main: on the list. Last complete list: {both(first)}.
  opted out    2025-06-01 10:00:00 Paris (2025-06-01 08:00:00 UTC)
  known then   yes
{opted_out}
  opted out    at an unknown time (in a malformed row)
  known then   not yet
{malformed}"""
    )
    assert "  known then   no longer\n" in desk.run("lookup", STOPPED, "--on", second.isoformat()).stdout


def test_withheld_removals_are_told_only_while_there_are_any(desk: Desk) -> None:
    desk.main.sync([*OTHERS, Row(98, STOPPED)])
    desk.main.sync([*OTHERS, Row(98, STOPPED)])  # unchanged
    desk.main.sync([*OTHERS, Row(98, STOPPED), Row(99, FREE)], nb_data=1)  # incomplete, but nothing is to be removed
    assert "still kept" not in desk.run("lookup", STOPPED).stdout
    desk.main.sync(OTHERS[:2])
    assert "still kept   even if the last response no longer lists it" in desk.run("lookup", STOPPED).stdout


def test_a_person_reads_what_cannot_be_told_and_what_other_accounts_say(desk: Desk) -> None:
    lyon = desk.account("lyon")
    lyon.sync([Row(1, f"{STOPPED} poste 12")])
    desk.main.sync(OTHERS)
    named = desk.run("lookup", STOPPED, "--account", "main")
    assert named.exit_code == 0
    assert "+33 6•• •• •• 99 may be texted.\n\nAccount main: not on the list." in named.stdout
    assert named.stdout.endswith("\n\nAccount lyon, which was not asked for: on the list.\n")
    assert "(in a text that is not one number)" in desk.run("lookup", STOPPED).stdout
    before = desk.run("lookup", FREE, "--on", "2020-02-20", SMSPARTNER_ACCOUNTS="main,nice")
    assert before.exit_code == 3
    assert before.stdout.startswith(
        "+33 6•• •• •• 98 is unknown: there was no list at 2020-02-20 23:59:59 Paris (2020-02-20 22:59:59 UTC)."
    )
    assert f"\n\nAccount main: no list at that time; the first is from {both(desk.main.now)}.\n" in before.stdout
    assert before.stdout.endswith("\n\nAccount nice: never synced.\n")


def test_a_program_reads_json(desk: Desk) -> None:
    desk.main.sync([*OTHERS, Row(99, STOPPED)])
    done = desk.run("lookup", STOPPED, "--json")
    assert done.exit_code == 4
    document = json.loads(done.stdout)
    (account,) = document.pop("accounts")
    assert document == {"number": "+33 6•• •• •• 99", "on": None, "may_be_texted": False, "other_accounts": []}
    (opt_out,) = account["opt_outs"]
    assert account["verified_at"] == account["known_since"] == opt_out["first_seen_at"] == desk.main.now.isoformat()
    assert opt_out["created_at"] == "2025-06-01T08:00:00+00:00"
    assert re.fullmatch("[0-9a-f]{64}", opt_out["last_listed_sha256"])
    assert json.loads(desk.run("lookup", FREE, "--on", "2020-02-20", "--json").stdout)["may_be_texted"] is None


# Files


def test_changes_are_a_file_and_say_where_the_next_ones_begin(desk: Desk) -> None:
    desk.main.sync([*OTHERS, Row(99, STOPPED)])
    first = desk.main.now
    desk.main.sync([*OTHERS, Row(98, FREE)])
    now = desk.main.now
    done = desk.run("changes", "--since", first.isoformat(), "--out", "new/changes.csv")
    assert done.stdout == f"new/changes.csv: 1 added, 1 removed. Next time: --since {now.isoformat()}.\n"
    assert (desk.folder / "new/changes.csv").read_text() == (
        "phone_number,change,at,first_stop_at\n"
        f"{FREE},added,{now:%Y-%m-%dT%H:%M:%SZ},2025-06-01T08:00:00Z\n"
        f"{STOPPED},removed,{now:%Y-%m-%dT%H:%M:%SZ},2025-06-01T08:00:00Z\n"
    )
    assert desk.run("changes", "--since", first.isoformat(), "--out", "changes.parquet").exit_code == 0
    changes = pd.read_parquet(desk.folder / "changes.parquet")
    assert changes.dtypes.astype(str).tolist() == ["str", "str", "datetime64[us, UTC]", "datetime64[us, UTC]"]
    assert changes["phone_number"].tolist() == [FREE, STOPPED]
    for output in ("new/changes.csv", "changes.parquet"):
        assert stat.S_IMODE((desk.folder / output).stat().st_mode) == 0o600
    earlier = desk.run("changes", "--since", "2020-01-01", "--until", first.isoformat(), "--out", "all.csv")
    assert re.fullmatch(r"Warning: The history begins at .*: nothing is known about 2020-01-01 .*\n", earlier.stderr)
    assert len(pd.read_csv(desk.folder / "all.csv")) == 21


def test_the_list_is_exported_with_one_row_per_number(desk: Desk) -> None:
    lyon = desk.account("lyon")
    lyon.sync(
        [Row(1, f"{STOPPED} poste 12"), Row(2, FREE, "2024-01-01 12:00:00"), {"phoneNumber": OTHERS[0].phone_number}]
    )
    desk.main.sync([*OTHERS, Row(99, FREE), Row(98, STOPPED)])
    done = desk.run("export", "--out", "list.csv")
    assert done.stdout == f"list.csv: 23 numbers. The list was last complete at {both(lyon.now)}.\n"
    text = (desk.folder / "list.csv").read_text()
    exported = {line.split(",")[0]: line.split(",")[1:] for line in text.splitlines()[1:]}
    assert set(exported) == desk.listed()
    assert exported[FREE] == ["2024-01-01T11:00:00Z", "2025-06-01T08:00:00Z", "2", "listed"]
    assert exported[STOPPED][2:] == ["2", "listed"]  # in one list only found in a text
    assert exported[OTHERS[0].phone_number][2:] == ["2", "listed"]  # in one list only in a malformed row
    assert desk.run("export", "--out", "list.parquet", "--account", "lyon").exit_code == 0
    assert len(pd.read_parquet(desk.folder / "list.parquet")) == 4
    assert "more than 1 h ago" in desk.refusal(3, "export", "--out", "new.csv", "--max-age", "1h")


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ('=HYPERLINK("http://x.example","a")', '\'=HYPERLINK("http://x.example","a")'),
        ("@SUM(1)*cmd|' /C calc'!A0", "'@SUM(1)*cmd|' /C calc'!A0"),
        ("+1+cmd|' '!A0", "'+1+cmd|' '!A0"),
        ("-1", "'-1"),
        ("1;=cmd|' /C calc'!A0;", "1;'=cmd|' /C calc'!A0;"),
    ],
)
def test_a_spreadsheet_takes_nothing_on_the_list_for_a_formula(desk: Desk, text: str, marked: str) -> None:
    desk.main.sync([Row(1, text), Row(2, FREE)])
    assert desk.run("export", "--out", "list.csv").exit_code == 0
    assert desk.run("changes", "--since", "2020-01-01", "--out", "changes.csv").exit_code == 0
    for name in ("list.csv", "changes.csv"):
        exported = pd.read_csv(desk.folder / name, dtype=str)["phone_number"]
        assert set(exported) == {marked, FREE}


def test_an_empty_list_is_exported_as_one(desk: Desk) -> None:
    desk.main.sync([])
    assert "0 numbers" in desk.run("export", "--out", "list.csv").stdout
    assert (desk.folder / "list.csv").read_text() == "phone_number,first_stop_at,last_stop_at,stop_count,origin\n"


def test_a_place_that_is_taken_or_not_to_be_written_is_refused(desk: Desk) -> None:
    desk.main.sync(OTHERS)
    (desk.folder / "list.csv").write_text("another")
    since = ("changes", "--since", desk.main.now.isoformat())
    assert "list.csv exists already" in desk.refusal(2, "export", "--out", "list.csv")
    assert "list.csv exists already" in desk.refusal(2, *since, "--out", "list.csv")
    assert "is inside the data root" in desk.refusal(2, "export", "--out", "data/list.csv")
    assert "is in a bucket: name a file or folder" in desk.refusal(2, "export", "--out", "s3://bucket/list.csv")
    assert "is inside the data root" in desk.refusal(2, *since, "--out", "new.csv", "--since-file", "data/cursor")
    assert "Cannot write" in desk.refusal(1, "export", "--out", "list.csv/new.csv")
    assert (desk.folder / "list.csv").read_text() == "another"


@pytest.mark.parametrize(
    "arguments",
    [
        ("lookup", FREE),
        ("export", "--out", "x.csv"),
        ("changes", "--since", "2026-01-01", "--out", "x.csv"),
        ("verify",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_unexpected_error_is_told_without_its_text(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError(f"time data {STOPPED} does not match")

    desk.main.sync(OTHERS)
    monkeypatch.setattr(Store, "state", broken)
    before = sorted(desk.folder.rglob("*"))
    done = desk.run(*arguments)
    assert (done.exit_code, sorted(desk.folder.rglob("*"))) == (1, before)
    assert re.fullmatch(r"Unexpected error \(ValueError\) at .*\.py:\d+: report this to .*\.\n", done.stderr)


def test_a_full_disk_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.main.sync(OTHERS)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in desk.refusal(1, "export", "--out", "list.csv")


# The file that keeps where to go on


def test_a_line_of_cron_keeps_another_tool_up_to_date(desk: Desk) -> None:
    call = ("changes", "--since", "2020-01-01", "--since-file", "kept/cursor", "--out")
    lists = [OTHERS, [*OTHERS, Row(99, STOPPED)], [*OTHERS[1:], Row(99, STOPPED)], [*OTHERS, Row(98, FREE)]]
    outputs = []
    for number, listed in enumerate(lists):
        desk.main.sync(listed)
        outputs.append(f"{number}.csv")
        done = desk.run(*call, outputs[-1])
        assert done.exit_code == 0
        assert done.stdout.endswith(f"--since {desk.main.now.isoformat()}, which kept/cursor keeps.\n")
        assert ("The history begins" in done.stderr) == (number == 0)  # then the file is used, not --since
        assert desk.copy_after(*outputs) == desk.listed()
    assert len(pd.read_csv(desk.folder / "3.csv")) == 3
    assert desk.run("changes", "--since-file", "kept/cursor", "--out", "again.csv").exit_code == 0
    assert len(pd.read_csv(desk.folder / "again.csv")) == 0
    assert stat.S_IMODE((desk.folder / "kept/cursor").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"yesterday\n", b"2026-01-01\n", b"2026-01-01\n1\n2\n", b"soon\n2\n", b"\xff\xfe\n\xff", None]
)
def test_a_file_that_this_command_did_not_write_is_refused(desk: Desk, content: bytes | None) -> None:
    desk.main.sync(OTHERS)
    cursor = desk.folder / "cursor"
    if content is None:
        cursor.mkdir()
    else:
        cursor.write_bytes(content)
    for since in ((), ("--since", "2026-01-01")):
        said = desk.refusal(2, "changes", *since, "--since-file", "cursor", "--out", "new.csv")
        assert "cursor does not hold what this command writes there" in said
    assert content is None or cursor.read_bytes() == content


def test_changes_since_today_begin_where_the_lists_are_known(desk: Desk) -> None:
    desk.main.sync(OTHERS)
    today = f"{datetime.now(ZoneInfo('Europe/Paris')):%Y-%m-%d}"
    for number in range(2):
        done = desk.run("changes", "--since", today, "--since-file", "cursor", "--out", f"{number}.csv")
        assert (done.exit_code, done.stderr) == (0, "")
        assert f"0 added, 0 removed. Next time: --since {desk.main.now.isoformat()}" in done.stdout
    desk.main.sync([*OTHERS, Row(98, STOPPED)])
    assert "1 added" in desk.run("changes", "--since-file", "cursor", "--out", "new.csv").stdout


def test_a_call_about_other_accounts_or_another_data_root_gives_the_whole_list_once(desk: Desk) -> None:
    desk.main.sync(OTHERS)
    Syncer(desk.root, "lyon", start=desk.main.now - HOUR).sync(rows(7, first_id=500, month="2024-02"))
    call = ("changes", "--since", "2020-01-01", "--since-file", "cursor", "--out")
    assert desk.run(*call, "main.csv", "--account", "main").exit_code == 0
    every = desk.run(*call, "every.csv")
    assert "Warning: the last call was about other accounts" in every.stderr
    assert desk.copy_after("every.csv") == desk.listed()
    assert "Warning" not in desk.run(*call, "none.csv").stderr
    shutil.copytree(desk.root, desk.folder / "moved")
    assert "another data root" in desk.run(*call, "moved.csv", STOP_PIPELINE_DATA="moved").stderr


def test_after_the_reading_rules_have_changed_the_whole_list_is_given_once(desk: Desk) -> None:
    desk.main.sync(OTHERS)
    (desk.folder / "cursor").write_text(f"{desk.main.now.isoformat()}\n1, phonenumbers 8.0.0\n")
    done = desk.run("changes", "--since-file", "cursor", "--out", "all.csv")
    assert "or other reading rules, so this file holds the whole list: replace" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert desk.copy_after("all.csv") == desk.listed()
    assert (desk.folder / "cursor").read_text().splitlines()[1].startswith(f"{READING_RULES}; all accounts of ")
    assert desk.run("changes", "--since-file", "cursor", "--out", "none.csv").stderr == ""
    assert desk.copy_after("none.csv") == set()


def test_a_time_that_cannot_be_kept_means_the_same_changes_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.main.sync(OTHERS)
    call = ("changes", "--since", "2020-01-01", "--since-file", "cursor", "--out")
    sync, synced = os.fsync, 0

    def full_later(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if synced > 2:  # the file of changes, and its folder
            raise OSError(errno.ENOSPC, "full")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_later)
        done = desk.run(*call, "one.csv")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cursor: No space left on device. Nothing was changed there." in done.stderr
    assert desk.run(*call, "two.csv").exit_code == 0
    assert desk.copy_after("one.csv") == desk.copy_after("two.csv") == desk.listed()


# Kills

COUNTED = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"})


def changes_killed_at(desk: Desk, event: int, out: Path) -> bool:
    """Write changes in a process that ends by SIGKILL at one of its events on disk; False if it got through."""
    process = os.fork()
    if process == 0:
        remaining = event

        def count(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal remaining
            if name in COUNTED and str(arguments[0]).startswith(str(desk.folder)) and "/data" not in str(arguments[0]):
                remaining -= 1
                if remaining < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            write(desk, out)
        finally:
            os._exit(0)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def write(desk: Desk, out: Path) -> None:
    write_changes(
        Settings(data_root=str(desk.root)),
        out,
        since=None,
        since_file=desk.folder / "kept/cursor",
        until=None,
        account=None,
        max_age=timedelta(days=1),
    )


@pytest.mark.slow
def test_wherever_a_call_is_killed_the_next_one_loses_no_change(desk: Desk) -> None:
    desk.main.sync(OTHERS)
    assert desk.run("changes", "--since", "2020-01-01", "--since-file", "kept/cursor", "--out", "0.csv").exit_code == 0
    cursor = desk.folder / "kept/cursor"
    before, copy = cursor.read_bytes(), desk.copy_after("0.csv")
    desk.main.sync([*OTHERS[1:], Row(99, STOPPED)])
    seen = set()
    event = 0
    while changes_killed_at(desk, event, desk.folder / "killed.csv"):
        was_written, was_kept = (desk.folder / "killed.csv").exists(), cursor.read_bytes() != before
        seen.add((was_written, was_kept))
        assert was_written or not was_kept
        if not was_kept:
            write(desk, desk.folder / "next.csv")
            assert desk.copy_after("next.csv") == {STOPPED}
            assert len(pd.read_csv(desk.folder / "next.csv")) == 2
        assert not list(desk.folder.rglob(f"{TEMPORARY_PREFIX}*")) or was_kept
        (desk.folder / "killed.csv").unlink(missing_ok=True)
        (desk.folder / "next.csv").unlink(missing_ok=True)
        cursor.write_bytes(before)
        event += 1
    assert seen == {(False, False), (True, False), (True, True)}
    assert desk.copy_after("killed.csv") == {STOPPED}
    assert copy == {row.phone_number for row in OTHERS}
