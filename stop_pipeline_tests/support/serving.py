"""`stop-pipeline dev` as a process of its own: UI and daemon on a free port, ended with everything that it started."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import requests

from stop_pipeline_tests.support.commands import COMMAND, clean_environment

START_SECONDS = 90
END_SECONDS = 60

T = TypeVar("T")


@contextmanager
def dev(folder: Path, **variables: str) -> Iterator[str]:
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
            assert wait_for_locations(url) == {"stop_pipeline.definitions": "LOADED"}
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=END_SECONDS)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_locations(url: str) -> dict[str, str]:
    """The code locations of the UI, by name, with their status, once they are loaded."""
    query = "{workspaceOrError{... on Workspace{locationEntries{name loadStatus}}}}"

    def loaded() -> dict[str, str]:
        try:
            response = requests.post(f"{url}/graphql", json={"query": query}, timeout=10).json()
        except (requests.RequestException, json.JSONDecodeError):
            return {}
        entries = response["data"]["workspaceOrError"]["locationEntries"]
        return {entry["name"]: entry["loadStatus"] for entry in entries if entry["loadStatus"] == "LOADED"}

    return wait_for(loaded, START_SECONDS, "the UI did not come up")


def wait_for(look: Callable[[], T], seconds: float, otherwise: str) -> T:
    """Return what `look` returns once that is anything true; the test fails with `otherwise` if it takes longer."""
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        if seen := look():
            return seen
        time.sleep(0.5)
    pytest.fail(f"{otherwise} within {seconds} s")
