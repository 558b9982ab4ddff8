"""`stop-pipeline suppress`: what it prints, its exit codes, and that its memory does not grow with the file."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result

from stop_pipeline_tests.campaign.lists import HOUR, synced
from stop_pipeline_tests.support.commands import COMMAND, clean_environment
from stop_pipeline_tests.support.in_process import run_in_process

CAMPAIGN = "nom;phone\na;0639980001\nb;0639980002\nc;x\n"


def command(root: Path, folder: Path, *arguments: str, content: str = CAMPAIGN, name: str = "campaign.csv") -> Result:
    """`stop-pipeline suppress` of a campaign in a folder."""
    (folder / name).write_text(content)
    done = run_in_process("suppress", name, "--out", "out", *arguments, cwd=folder, STOP_PIPELINE_DATA=str(root))
    assert "3998" not in done.output
    return done


def test_the_command_says_that_no_row_is_lost_and_where_the_files_are(root: Path, tmp_path: Path) -> None:
    done = command(root, tmp_path)
    assert done.exit_code == 0, done.stderr
    first, second, *files = done.stdout.splitlines()
    assert first == ("campaign.csv (CSV with “;” between columns, UTF-8): 3 rows = 1 clean + 1 blocked + 1 invalid.")
    assert second.startswith("The list was verified at ")
    assert [name.strip() for name in files] == ["clean.csv", "blocked.csv", "invalid.csv"]
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(name.strip() for name in files)
    assert (out / "clean.csv").read_text() == "nom;phone\nb;0639980002\n"
    again = command(root, tmp_path)
    assert again.exit_code == 1
    assert "is not empty" in again.stderr


@pytest.mark.parametrize(
    ("name", "clean"),
    [("my list v1.2", "clean.csv"), ("LIST.TXT", "clean.TXT"), ("list.tsv", "clean.tsv"), ("list", "clean.csv")],
)
def test_the_files_end_as_the_campaign_does_if_that_says_that_it_is_text(
    root: Path, tmp_path: Path, name: str, clean: str
) -> None:
    assert command(root, tmp_path, name=name).exit_code == 0
    assert (tmp_path / "out" / clean).read_text() == "nom;phone\nb;0639980002\n"


def test_the_command_says_one_row_and_how_many_listed_rows_block_nobody(tmp_path: Path) -> None:
    root = synced(tmp_path / "data", "+33639xxxx01").root
    done = command(root, tmp_path, content="phone\n0639980002\n")
    assert done.exit_code == 0, done.stderr
    assert "): 1 row = 1 clean + 0 blocked + 0 invalid." in done.stdout
    assert "1 listed row " in done.output


def test_the_command_exits_3_with_one_sentence_and_no_file_when_the_list_is_old_or_missing(tmp_path: Path) -> None:
    root = synced(tmp_path / "data", ago=25 * HOUR).root
    done = command(root, tmp_path)
    assert done.exit_code == 3
    (sentence,) = done.stderr.splitlines()
    assert "run “stop-pipeline run --account main” first" in sentence
    assert not (tmp_path / "out").exists()
    assert command(tmp_path / "none", tmp_path).exit_code == 3
    assert command(root, tmp_path, "--max-age", "2d").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "content", "code", "sentence"),
    [
        (("--column", "mobile"), "nom;phone\na;0639980001\n", 1, "its columns are “nom”, “phone”"),
        ((), "id;preference;mobile\n1;phone;0639980001\n", 1, "its columns are “id”, “preference”, “mobile”"),
        (("--column", ""), "nom;phone;\na;0639980001;\n", 1, "name the column that holds the phone numbers"),
        (("--column", " \u200b"), "nom;phone;\na;0639980001;\n", 1, "The name of the column is empty"),
        ((), "a;0639980001\nb;0639980002\n", 1, "its first line looks like data"),
        ((), 'phone\n"0639980001\n', 1, "near line 2"),
        (("--max-age", "soon"), "phone\n", 2, "such as 90m, 24h or 2d"),
    ],
)
def test_the_command_reports_other_trouble_by_another_code(
    root: Path, tmp_path: Path, arguments: tuple[str, ...], content: str, code: int, sentence: str
) -> None:
    done = command(root, tmp_path, *arguments, content=content)
    assert done.exit_code == code
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists()


MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Started from a process as large as pytest, a command would seem to be as large as that."""


@pytest.mark.slow
def test_a_file_ten_times_as_long_takes_no_more_memory(root: Path, tmp_path: Path) -> None:
    thousand_rows = "".join(f"{n:040};06399800{1 + n % 10:02}\n" for n in range(1_000))
    peaks = []
    for thousands in (300, 3_000):
        path = tmp_path / f"{thousands}.csv"
        with path.open("w") as file:
            file.write("nom;phone\n")
            file.writelines(itertools.repeat(thousand_rows, thousands))
        arguments = [COMMAND, "suppress", path, "--out", tmp_path / f"out-{thousands}"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, arguments)],
            env=clean_environment(STOP_PIPELINE_DATA=str(root)),
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.25 * peaks[0]
    with (tmp_path / "out-3000" / "blocked.csv").open() as file:
        assert sum(1 for _ in file) == 300_001
