"""The notebook comes without outputs, runs from top to bottom on a list of any size, and shows no phone number."""

import json
import re
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from stop_pipeline import read_stops
from stop_pipeline.errors import StoreError
from stop_pipeline.sample_data import sample_root
from stop_pipeline.table.store import Store
from stop_pipeline.verify import verify
from stop_pipeline_tests.support.commands import clean_environment
from stop_pipeline_tests.support.syncing import Row, Syncer, rows, tree

SOURCE = (files("stop_pipeline") / "notebooks" / "stops.ipynb").read_text()
PHONE_NUMBER = re.compile(r"\+\d{8}|\b0[67](?: ?\d\d){4}\b")
PLOTS = 8


def _code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_comes_without_outputs() -> None:
    cells = _code_cells(json.loads(SOURCE))
    assert len(cells) > 10
    for cell in cells:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert cell["metadata"] == {}


@pytest.mark.slow
def test_sample_data_are_made_once_and_again_when_they_are_old(tmp_path: Path) -> None:
    folder = sample_root(tmp_path / "home" / "sample")
    first = tree(folder)
    stops = read_stops(folder, history=True)
    assert stops["first_seen_at"].nunique() > 5
    assert stops["removed_at"].notna().any()
    assert verify(Store(folder), "main").problems == ()
    assert datetime.now(UTC) - stops["first_seen_at"].max() < timedelta(hours=1)

    assert tree(sample_root(folder)) == first
    state = folder / "state" / "account=main.json"
    document = json.loads(state.read_text())
    document["verified_at"] = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    state.write_text(json.dumps(document))
    assert tree(sample_root(folder)) != first
    assert [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")] == ["sample"]


def test_a_folder_that_holds_anything_else_is_not_taken_for_sample_data(tmp_path: Path) -> None:
    Syncer(tmp_path / "data").sync([Row(1)])
    before = tree(tmp_path)
    for folder in (tmp_path / "data", tmp_path):
        with pytest.raises(StoreError, match="holds other files: name a folder that is empty"):
            sample_root(folder)
    assert tree(tmp_path) == before


def _list_of(count: int) -> list[Row]:
    """A list whose rows are spread over some months."""
    return [row for month in ("2026-01", "2026-03", "2026-04") for row in rows(count, month=month)][:count]


@pytest.mark.slow
@pytest.mark.parametrize("lists", [None, [0], [1], [2], [1_000], [300, 305]])
def test_the_notebook_runs_from_top_to_bottom(lists: list[int] | None, tmp_path: Path) -> None:
    variables = {name: str(tmp_path) for name in ("HOME", "MPLCONFIGDIR", "IPYTHONDIR")}
    if lists is not None:
        syncer = Syncer(tmp_path / "data", start=datetime.now(UTC) - timedelta(hours=len(lists)))
        for count in lists:
            syncer.sync(_list_of(count))
        variables["STOP_PIPELINE_DATA"] = str(syncer.root)
    notebook = nbformat.reads(SOURCE, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=clean_environment(**variables))
    outputs = [output for cell in _code_cells(notebook) for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PLOTS
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    for output in outputs:
        assert not PHONE_NUMBER.search(output.get("data", {}).get("text/plain", ""))
    assert (tmp_path / ".stop_pipeline" / "sample_data").exists() == (lists in (None, [0]))
