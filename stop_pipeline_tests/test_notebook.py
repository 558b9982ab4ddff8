"""The notebook comes without outputs, runs from top to bottom, and shows no phone number."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from stop_pipeline_tests.commands import clean_environment, run_command

SOURCE = (files("stop_pipeline") / "notebooks" / "stops.ipynb").read_text()
PHONE_NUMBER = re.compile(r"\+\d{8}|\b0[67](?: ?\d\d){4}\b")


def _code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_comes_without_outputs() -> None:
    cells = _code_cells(json.loads(SOURCE))
    assert len(cells) > 10
    for cell in cells:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert cell["metadata"] == {}


@pytest.fixture(params=["a root with a past", "the demo's root"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """What the notebook finds: nothing, so that it makes a root itself, or what `stop-pipeline demo` left."""
    variables = {"TMPDIR": str(tmp_path), "MPLCONFIGDIR": str(tmp_path), "IPYTHONDIR": str(tmp_path)}
    if request.param == "the demo's root":
        done = run_command("demo", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        variables["STOP_PIPELINE_DATA"] = str(tmp_path / "demo" / "data")
    return clean_environment(**variables)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(environment: dict[str, str], tmp_path: Path) -> None:
    notebook = nbformat.reads(SOURCE, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    outputs = [output for cell in _code_cells(notebook) for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 8
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    for output in outputs:
        assert not PHONE_NUMBER.search(output.get("data", {}).get("text/plain", ""))
