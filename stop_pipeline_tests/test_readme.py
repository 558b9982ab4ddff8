"""The README and the code say the same: its tables, its variables, its commands, and its Python runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stop_pipeline import schema
from stop_pipeline_tests.support.commands import run_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLES = {
    "stops": (*schema.STOPS.columns, schema.ACCOUNT, schema.CREATED_MONTH),
    "rejected": (*schema.REJECTED.columns, schema.ACCOUNT),
    "suppression_list": (*schema.SUPPRESSION_LIST.columns, schema.ACCOUNT),
    "stops_per_day": (*schema.STOPS_PER_DAY.columns, schema.ACCOUNT),
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


def _snippets() -> list[tuple[str, str]]:
    return re.findall(r"<!-- python: (\w+) -->\n```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(("name", "code"), _snippets())
def test_the_python_of_the_readme_runs_on_the_demo_data(name: str, code: str, demo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=demo, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_way_to_read_gives_the_same_rows(demo: Path) -> None:
    snippets = dict(_snippets())
    code = "\n".join(
        [
            "from stop_pipeline import read_stops",
            "expected = sorted(read_stops('demo/data')['id'])",
            "assert len(expected) > 1000",
            snippets["dataset"],
            "recent = read_stops('demo/data', filters=[('created_month', '>=', '2025-06')])",
            "assert sorted(standing['id']) == sorted(recent['id']) != []",
            snippets["duckdb"],
            "rows = duckdb.sql('SELECT id FROM dataset WHERE removed_at IS NULL').fetchall()",
            "assert sorted(id for (id,) in rows) == expected",
            snippets["polars"],
            "assert sorted(stops['id']) == expected",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
