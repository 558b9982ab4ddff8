"""The house rules: which room may import which, and what importing the package must not load."""

import ast
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from stop_pipeline_tests.loopback import Loopback, reply
from stop_pipeline_tests.ticking import Row, Ticker, answer_body, rows

PACKAGE = Path(__file__).parent.parent / "stop_pipeline"
ROOMS = {"client", "snapshot", "merge", "store"}
SHARED = {"errors", "schema", "model", "envelope", "phones", "periods", "files", "objects", "roots"}
SHARED |= {
    "columns",
    "document",
    "json_document",
    "xml_document",
    "rows",
    "plain_rows",
    "wall_clocks",
    "words",
    "pieces",
    "frames",
    "threads",
    "guard",
    "layout",
    "footers",
    "tables",
}
"""What the four rooms may use: plain types, and pure or lower helpers that import no room themselves."""

DAGSTER_SIDE = {"definitions.py", "local_dagster.py"}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


@pytest.mark.parametrize("room", sorted(ROOMS | SHARED))
def test_a_room_imports_no_other_room_and_no_dagster(room: str) -> None:
    imported = _imports(PACKAGE / f"{room}.py")
    ours = {name.split(".")[1] for name in imported if name.startswith("stop_pipeline.")}
    assert ours <= SHARED
    assert not any(name.split(".")[0] == "dagster" for name in imported)


def test_dagster_is_imported_by_its_own_side_only() -> None:
    importers = {
        path.name
        for path in PACKAGE.glob("*.py")
        if any(name.split(".")[0] == "dagster" or name.startswith("stop_pipeline.defs") for name in _imports(path))
    }
    assert importers == DAGSTER_SIDE


def test_every_module_opens_by_saying_what_belongs_in_it() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def _modules_loaded_by(statement: str) -> set[str]:
    code = f"import atexit, sys\natexit.register(lambda: print(*sorted(sys.modules)))\n{statement}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


HTTP_AND_PHONES = {"requests", "urllib3", "phonenumbers"}
ARROW = {"pyarrow", "numpy", "pandas"}


def test_read_stops_loads_no_dagster_and_no_http() -> None:
    loaded = _modules_loaded_by("from stop_pipeline import read_stops")
    assert not loaded & {"dagster", "rich", "click", "defusedxml", *HTTP_AND_PHONES}


def test_help_loads_nothing_heavy() -> None:
    loaded = _modules_loaded_by(
        "import click\nfrom stop_pipeline.cli import main\nmain(['--help'], standalone_mode=False)"
    )
    assert not loaded & {"dagster", "rich", "filelock", *ARROW, *HTTP_AND_PHONES}


def test_loading_the_definitions_loads_nothing_that_only_a_tick_needs() -> None:
    loaded = _modules_loaded_by("from stop_pipeline.definitions import defs")
    assert not loaded & {"rich", "defusedxml", "dagster_webserver", "grpc", *ARROW, *HTTP_AND_PHONES}
    assert not loaded & {"stop_pipeline.tick", "sqlalchemy", "alembic"}


def ticks_of_every_kind() -> None:
    """What a tick can meet: rows that come, go, change and come back, numbers of any kind, rows that are set aside."""
    with TemporaryDirectory() as root:
        ticker = Ticker(root)
        malformed = {"id": 0, "phoneNumber": "0639980000", "createdAt": "2025-06-01 10:00:00"}
        misdated = {"id": 7_000, "phoneNumber": "0639980000", "createdAt": "2035-06-01 10:00:00"}
        first: list[Any] = [*rows(300), *rows(300, first_id=1_000, month="2024-02"), malformed, misdated]
        ticker.tick(first)
        ticker.tick(first)
        changed = ticker.tick([Row(1, "+32470123456"), *first[3:], Row(5_000), Row(5_001, "0692 12 34 56")])
        assert (changed.counts.changed, changed.counts.removed) == (1, 2)
        assert ticker.tick(first).counts.restored == 2
        assert ticker.tick([*first, first[0], Row(1, "+33639980009")]).info.rejected == 3
        assert ticker.tick(rows(10)).counts.withheld
        assert ticker.tick(rows(10), accept_removals=1_000).counts.removed


def test_a_tick_that_finds_the_list_unchanged_loads_no_arrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMSPARTNER_API_KEY", "a-key")
    monkeypatch.setenv("STOP_PIPELINE_DATA", str(tmp_path / "data"))
    run = "from stop_pipeline.cli import main\nmain(['run'], standalone_mode=False)"
    with Loopback(*[reply(200, answer_body(rows(300)))] * 2) as server:
        monkeypatch.setenv("SMSPARTNER_BASE_URL", server.base_url)
        first, unchanged = _modules_loaded_by(run), _modules_loaded_by(run)
    assert {"pyarrow", "stop_pipeline.engine"} <= first
    assert "stop_pipeline.tick" in unchanged
    assert not unchanged & {"phonenumbers", "stop_pipeline.engine", "stop_pipeline.tables", *ARROW}


def test_no_tick_loads_pandas() -> None:
    loaded = _modules_loaded_by(f"from {__name__} import ticks_of_every_kind\nticks_of_every_kind()")
    assert "stop_pipeline.tick" in loaded
    assert "pandas" not in loaded
