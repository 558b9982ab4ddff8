"""`stop-pipeline dev` as a process of its own: UI and daemon on a free port, ended with everything that it started."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from stop_pipeline_tests.support.commands import COMMAND, clean_environment, free_port, wait_until

END_SECONDS = 90


@contextmanager
def dev(folder: Path, *, until_loaded: bool = True, **variables: str) -> Iterator[str]:
    """Run the command in `folder` with these variables; yield the address of the UI. Its output is in `dev.log`."""
    url = f"http://127.0.0.1:{free_port()}"
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [COMMAND, "dev", "--port", url.rpartition(":")[2]],
            cwd=folder,
            env=clean_environment(**variables),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if until_loaded:
            assert wait_for_locations(url) == {"stop_pipeline.definitions": "LOADED"}
        yield url
        assert process.poll() is None, (folder / "dev.log").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=END_SECONDS) == 0


def wait_for_locations(url: str) -> dict[str, str]:
    """The code locations of the UI, by name, with their status, once they are loaded."""
    query = "{workspaceOrError{... on Workspace{locationEntries{name loadStatus}}}}"

    def loaded() -> dict[str, str]:
        try:
            response = requests.post(f"{url}/graphql", json={"query": query}, timeout=10).json()
        except requests.RequestException:
            return {}
        entries = response["data"]["workspaceOrError"]["locationEntries"]
        return {entry["name"]: entry["loadStatus"] for entry in entries if entry["loadStatus"] == "LOADED"}

    return wait_until(loaded, "the code locations of the UI")
