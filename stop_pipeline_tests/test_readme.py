"""The README and the code say the same: its tables, its variables, its commands, and its Python runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import stop_pipeline
from stop_pipeline import schema
from stop_pipeline_tests.support.commands import run_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLES = {
    table.name: table.columns
    for table in (schema.STOPS, schema.REJECTED, schema.SUPPRESSION_LIST, schema.STOPS_PER_DAY)
}


def as_markdown(columns: tuple[schema.Column, ...]) -> str:
    """A table of columns as the README shows it."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    for column in columns:
        null = ", null" if column.nullable else ""
        lines.append(f"| `{column.name}` | {column.type}{null} | {column.meaning} |")
    return "\n".join(lines)


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_shows_the_columns_of_the_schema(name: str) -> None:
    assert f"<!-- table: {name} -->\n\n{as_markdown(TABLES[name])}\n" in README


def test_the_readme_names_every_variable_that_the_package_reads() -> None:
    source = "".join(path.read_text() for path in (ROOT / "stop_pipeline").rglob("*.py"))
    read = set(re.findall(r'"((?:SMSPARTNER|STOP_PIPELINE)_[A-Z_]*[A-Z])"', source))
    explained = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert read <= explained
    assert explained - {"DAGSTER_HOME"} <= read


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `stop-pipeline demo` has run."""
    folder = tmp_path_factory.mktemp("demo")
    done = run_command("demo", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


EXPECTED = """
from stop_pipeline import read_stops
expected = sorted(read_stops("demo/data")["id"])
assert len(expected) > 1000
"""
SAME_ROWS = {
    "dataset": """
recent = read_stops("demo/data", filters=[("created_month", ">=", "2025-06")])
assert sorted(standing["id"]) == sorted(recent["id"]) != []
""",
    "duckdb": """
rows = duckdb.sql("SELECT id FROM dataset WHERE removed_at IS NULL").fetchall()
assert sorted(id for (id,) in rows) == expected
""",
    "polars": 'assert sorted(stops["id"]) == expected',
}
"""Whatever reads the files gives the rows that `read_stops` gives."""


@pytest.mark.parametrize(
    ("name", "code"), re.findall(r"<!-- python: (\w+) -->\n```python\n(.*?)```", README, re.DOTALL)
)
def test_the_python_of_the_readme_runs_on_the_demo_data(name: str, code: str, demo: Path) -> None:
    script = f"{code}\n{EXPECTED}\n{SAME_ROWS[name]}" if name in SAME_ROWS else code
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=demo, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _shell(name: str) -> str:
    found = re.search(rf"<!-- shell: {name} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def _run_shell(lines: str, demo: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-e", "-c", lines],
        cwd=demo,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_opening_question_is_answered_as_the_readme_shows(demo: Path) -> None:
    shown = re.search(r"<!-- shell: lookup -->.*?```text\n(.*?)```", README, re.DOTALL)
    assert shown is not None

    def without_times(text: str) -> str:
        return re.sub(r"[0-9a-f]{64}", "<SHA-256>", re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}", "<time>", text))

    done = _run_shell(_shell("lookup"), demo)
    assert (done.returncode, done.stderr) == (4, "")
    assert without_times(done.stdout) == without_times(shown[1])


def test_another_tool_is_kept_up_to_date_by_the_lines_of_the_readme(demo: Path) -> None:
    done = _run_shell(_shell("export"), demo, STOP_PIPELINE_DATA="demo/data")
    assert done.returncode == 0, done.stderr
    listed = set(pd.read_csv(demo / "stop-list.csv", dtype=str)["phone_number"])
    changes = pd.read_parquet(demo / "changes.parquet")
    assert set(changes["phone_number"]) == listed != set()
    assert (demo / "cursor").exists()
    for_cron = _shell("export").splitlines()[-1].replace("%F", "%F-again")
    again = _run_shell(for_cron, demo, STOP_PIPELINE_DATA="demo/data")
    assert again.returncode == 0, again.stderr
    assert "0 added, 0 removed" in again.stdout


def test_every_line_that_installs_something_has_the_constraints() -> None:
    for file in ("README.md", "stop_pipeline/fleet/README.md", "benchmarks/README.md"):
        installs = [line for line in (ROOT / file).read_text().splitlines() if "pip install" in line]
        assert installs
        assert [line for line in installs if "-c constraints.txt" not in line] == []


def test_the_package_lists_what_the_readme_offers_to_notebooks() -> None:
    names = dir(stop_pipeline)
    assert names == sorted(names) != []
    assert all(callable(getattr(stop_pipeline, name)) for name in names)
    assert {name for name in names if re.search(rf"\b{name}\b", README)} == set(names)
