"""How the benchmark measures: processes one at a time, contenders in turn, each on a fresh copy of the state before.

A figure is of one process: wall-clock and CPU seconds from its start to its end, imports included, and its peak memory,
as the kernel counts them. This module imports nothing heavy, because a child's peak memory begins with its parent's.
"""

import functools
import http.server
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BASE_FETCHED_AT = "2026-01-01T12:00:00+00:00"
NEXT_FETCHED_AT = "2026-01-01T13:00:00+00:00"

_OWN_VARIABLES = ("SMSPARTNER_", "STOP_PIPELINE_", "DAGSTER_", "DLT_", "RUNTIME__")


class FailedError(Exception):
    """A process failed or took too long."""


@dataclass(frozen=True)
class Taken:
    """What one process took, and the JSON that it printed, if any."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    printed: Any


@dataclass(frozen=True)
class Side:
    """One of those that take turns.

    Attributes:
        name: Short name.
        label: What it is, as the tables say it.
        turn: Takes one turn; only its process is timed, not what it does before and after.
    """

    name: str
    label: str
    turn: Callable[[], Taken]


@dataclass
class Measured:
    """What the turns of one scenario took, by the names of the sides; a side that failed has the reason instead."""

    sides: dict[str, Side]
    turns: dict[str, list[Taken]]
    failures: dict[str, str]

    def median(self, side: str, of: Callable[[Taken], float]) -> float | None:
        """The median over the turns; None if the side failed."""
        turns = self.turns[side]
        return None if side in self.failures or not turns else statistics.median(map(of, turns))

    def ratio(self, side: str, other: str, of: Callable[[Taken], float]) -> float | None:
        """The median of the ratios within the turns; None if a side failed."""
        if {side, other} & self.failures.keys():
            return None
        pairs = zip(self.turns[side], self.turns[other], strict=True)
        return statistics.median(of(one) / of(two) for one, two in pairs)


def take_turns(title: str, sides: Sequence[Side], repeats: int) -> Measured:
    """A B C, A B C, … ; a side that fails is left out from then on."""
    measured = Measured({side.name: side for side in sides}, {side.name: [] for side in sides}, {})
    for repeat in range(repeats):
        for side in sides:
            if side.name in measured.failures:
                continue
            try:
                taken = side.turn()
            except FailedError as failure:
                measured.failures[side.name] = str(failure)
                print(f"{title} · {side.label}: {failure}", file=sys.stderr, flush=True)
                continue
            measured.turns[side.name].append(taken)
            figures = f"{taken.seconds:.2f} s, {taken.peak_mb:,.0f} MB"
            print(f"{title} · {repeat + 1} of {repeats} · {side.label}: {figures}", file=sys.stderr, flush=True)
    return measured


@dataclass
class Workshop:
    """Runs processes, and makes each response and each state once, to be copied for every turn.

    Attributes:
        work: Folder for all of it.
        repeats: How many turns each contender takes.
        timeout_seconds: How long one process may take.
        trial: Whether only to show that everything works.
    """

    work: Path
    repeats: int
    timeout_seconds: float
    trial: bool
    _new_ids: dict[Path, list[int]] = field(default_factory=dict)

    def run(self, *command: str | Path, cwd: Path | None = None, **variables: str) -> Taken:
        """Run a process to its end, without this machine's settings of the tools measured.

        Raises:
            FailedError: it ended badly, or not in time.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
        # If this were set, this package would be compiled for every process; the others were compiled when installed.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment |= {"RUNTIME__DLTHUB_TELEMETRY": "false", **variables}
        with tempfile.TemporaryFile(dir=self.work) as stdout, tempfile.TemporaryFile(dir=self.work) as stderr:
            started = time.perf_counter()
            process = subprocess.Popen(  # noqa: S603 – programs named in these files
                list(map(str, command)),
                cwd=cwd or self.work,
                env=environment,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            alarm = threading.Timer(self.timeout_seconds, os.killpg, (process.pid, signal.SIGKILL))
            alarm.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:  # Ctrl-C does not reach a process in a session of its own
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            finally:
                alarm.cancel()
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            stdout.seek(0)
            stderr.seek(0)
            printed = stdout.read().decode(errors="replace").strip()
            errors = stderr.read().decode(errors="replace").strip().splitlines()
        if process.returncode == -signal.SIGKILL and seconds >= self.timeout_seconds:
            raise FailedError(f"not finished after {self.timeout_seconds:g} s")
        if process.returncode:
            raise FailedError(errors[-1] if errors else f"exit code {process.returncode}")
        return Taken(
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            # Linux counts kilobytes, macOS bytes.
            peak_mb=usage.ru_maxrss / (1e3 if sys.platform == "linux" else 1e6),
            printed=json.loads(printed) if printed.startswith(("{", "[")) else None,
        )

    def python(self, script: str, *arguments: str | Path) -> Taken:
        """Run one of the scripts beside this one."""
        return self.run(sys.executable, HERE / script, *arguments)

    def response(self, rows: int, **options: Any) -> Path:
        """The response that `workload.write_response` writes for these arguments."""
        name = "-".join(map(str, (rows, *(f"{key}_{value}" for key, value in options.items()))))
        path = self.work / f"response-{name}.{options.get('form', 'json')}"
        if path not in self._new_ids:
            arguments = json.dumps({"rows": rows, **options})
            self._new_ids[path] = self.python("workload.py", path, arguments).printed
        return path

    def state(self, contender: str, response: Path | None) -> Path:
        """The state after a contender's first sync, with this response; without one, the state before it."""
        path = self.work / f"state-{contender}-{response.stem if response else 'empty'}"
        if response is None:
            path.mkdir(exist_ok=True)
        elif not path.exists():
            with self.copied(self.state(contender, None)) as copy:
                self.python("contenders.py", "sync", contender, copy, response, BASE_FETCHED_AT)
                copy.rename(path)
        return path

    @contextmanager
    def copied(self, state: Path) -> Iterator[Path]:
        """A copy of a folder, on disk, for as long as the block runs."""
        copy = self.work / "now"
        shutil.copytree(state, copy, symlinks=True)
        os.sync()  # otherwise a contender that syncs its files would wait for this copy as well
        try:
            yield copy
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def sync(self, contender: str, before: Path | None, response: Path, *, rows: int) -> Taken:
        """Bring a response into the state that `before` left; fails unless `rows` rows stand then."""
        # This package's contenders share one state, which has the derived tables as well.
        maker = contender if contender in ("naive", "delta", "dlt") else "whole"
        with self.copied(self.state(maker, before)) as state:
            taken = self.python("contenders.py", "sync", contender, state, response, NEXT_FETCHED_AT)
            self.check(contender, state, response, rows)
        return taken

    def check(self, contender: str, state: Path, response: Path, rows: int) -> None:
        """Fail unless `rows` rows stand, the new ones among them."""
        new_ids = json.dumps(self._new_ids[response])
        self.python("contenders.py", "check", contender, state, str(rows), new_ids)


@contextmanager
def serving(response: Path) -> Iterator[str]:
    """Serve a response on loopback; gives the base URL of the API."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_OneResponse, response)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()


class _OneResponse(http.server.BaseHTTPRequestHandler):
    """Sends the same file whatever is requested."""

    protocol_version = "HTTP/1.1"

    def __init__(self, response: Path, *arguments: Any) -> None:
        self._response = response
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(self._response.stat().st_size))
        self.end_headers()
        with self._response.open("rb") as file:
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged, because the URL holds a key."""
