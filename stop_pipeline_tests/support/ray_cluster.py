"""A real Ray cluster of two nodes on this machine, and the fleet's Dagster before it, started as a person would."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from stop_pipeline_tests.support.commands import free_port, wait_until

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Started:
    """A process and all that comes of it, whichever sessions that moves to, known by a mark in the environment."""

    process: subprocess.Popen[bytes]
    mark: str

    def kill(self) -> None:
        """Kill all of it at once, as a machine that loses power would."""
        while pids := [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._bears(path)]:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def _bears(self, environ: Path) -> bool:
        with suppress(OSError):  # it has ended meanwhile
            return self.mark.encode() in environ.read_bytes().split(b"\0")
        return False


@contextmanager
def started(command: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[Started]:
    """A command at work, of which nothing is left in the end."""
    mark = uuid4().hex
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**environment, "STARTED": mark}, stdout=output, stderr=output, start_new_session=True
        )
    everything = Started(process, f"STARTED={mark}")
    try:
        yield everything
    finally:
        everything.kill()


@dataclass(frozen=True)
class Cluster:
    """Two nodes with a core each.

    Attributes:
        address: Of the job server.
        second: The node beside the head.
    """

    address: str
    second: Started

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive."""
        listed = self._get("api/v0/nodes")["data"]["result"]["result"]
        return [node for node in listed if node["state"] == "ALIVE"]

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that were submitted, with the node that each is on."""
        return list(self._get("api/jobs/"))

    def _get(self, path: str) -> Any:
        return requests.get(f"{self.address}/{path}", timeout=30).json()


@contextmanager
def running(folder: Path, environment: Mapping[str, str]) -> Iterator[Cluster]:
    """The cluster, whose nodes hand this environment on to their jobs; each has a HOME of its own, as machines have."""
    # A socket's path may have 107 characters, and Ray needs many of them.
    temporary = tempfile.mkdtemp(prefix="ray-")
    gcs, dashboard = free_port(), free_port()
    start = [str(PROGRAMS / "ray"), "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    start += [
        f"--object-store-memory={80 * 2**20}",
        f"--temp-dir={temporary}",
        f"--ray-client-server-port={free_port()}",
    ]
    head = [f"--port={gcs}", "--head", "--include-dashboard=true", f"--dashboard-port={dashboard}"]
    try:
        with started([*start, *head], folder / "head.log", _at_home(folder / "head", environment)):
            address = f"http://127.0.0.1:{dashboard}"
            wait_until(lambda: _answers(f"{address}/api/version"), "the head node")
            join = [f"--address=127.0.0.1:{gcs}"]
            with started([*start, *join], folder / "second.log", _at_home(folder / "second", environment)) as second:
                cluster = Cluster(address, second)
                wait_until(lambda: len(cluster.nodes()) == 2, "the second node")
                yield cluster
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _at_home(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    home.mkdir()
    return {**environment, "HOME": str(home)}


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).ok
    except requests.RequestException:
        return False
