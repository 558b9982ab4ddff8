"""What survives a writer that is killed or refused, and a reader who comes while it writes, beside two plain ways.

    python benchmarks/durability.py            # 60 kills, 20 refusals, 30 s of reads for each way; about six minutes
    python benchmarks/durability.py --kills 5 --refusals 5 --read-seconds 2 --rows 2000

Each way keeps the same list in Parquet by month, and brings the same answers into it, one row longer each time. What
is counted: rows after the same answer came twice; kills (SIGKILL at a random moment of a tick) and refusals (no file
may grow beyond a random size, which ends the tick as a full disk would) after which the folder could not be read,
lacked a row that was there before, or showed one twice; reads of the folder, during ticks without pause, that did so.
"""

import argparse
import hashlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from stop_pipeline import tick
from stop_pipeline.guard import Guard
from stop_pipeline.model import Answer
from stop_pipeline.store import Store

MONTHS = 24
FIRST_FETCH = datetime(2026, 1, 1, tzinfo=UTC)


def listed(rows: int) -> pd.DataFrame:
    """A list of so many rows over `MONTHS` months; a longer one begins like a shorter one."""
    ids = pd.Series(range(1, rows + 1))
    minutes = pd.to_timedelta((ids * 7919) % (MONTHS * 28 * 24 * 60), unit="min")
    created_at = (pd.Timestamp("2024-01-01") + minutes).dt.floor("s")
    numbers = "+33700" + (ids % 1_000_000).astype(str).str.zfill(6)
    return pd.DataFrame({"id": ids, "phone_number": numbers, "created_at": created_at})


def by_month(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with the month that they are partitioned by."""
    return frame.assign(created_month=frame["created_at"].dt.strftime("%Y-%m"))


class Ours:
    """This package, without Dagster."""

    name = "this package"
    folder = "stops"

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def secrets(self) -> tuple[str, ...]:
        return ()

    def tick(self, rows: int, step: int) -> None:
        self._rows, self._step = rows, step
        store = Store(self._root)
        tick.fetch(store, "main", self, timezone="Europe/Paris")
        tick.parse_newest(store, "main", timezone="Europe/Paris")
        tick.apply_newest(store, "main", Guard())
        tick.derive_suppression_list(store, "main")
        tick.derive_stops_per_day(store, "main")

    def fetch(self, into: Path, progress: Callable[[int], None] | None = None) -> Answer:
        """Stands in for the client: the answer from memory."""
        frame = listed(self._rows)
        data = [
            {"id": id_, "phoneNumber": number, "createdAt": str(time_)}
            for id_, number, time_ in frame.itertuples(index=False)
        ]
        body = json.dumps({"success": True, "code": 200, "nbData": len(data), "data": data}).encode()
        into.write_bytes(body)
        if progress is not None:
            progress(len(body))
        fetched_at = FIRST_FETCH + timedelta(minutes=self._step)
        return Answer(into, "json", fetched_at, hashlib.sha256(body).hexdigest(), len(body), 0.0)


class ToParquet:
    """pandas' `to_parquet(partition_cols=…)` of the whole list."""

    name = "pandas `to_parquet`"
    folder = "."

    def __init__(self, root: Path) -> None:
        self._root = root

    def tick(self, rows: int, step: int) -> None:  # noqa: ARG002 – the ways are called alike
        by_month(listed(rows)).to_parquet(self._root, partition_cols=["created_month"])


class DeleteMatching:
    """pyarrow's `write_dataset` of the whole list, which deletes a month before it writes it."""

    name = "pyarrow `delete_matching`"
    folder = "."

    def __init__(self, root: Path) -> None:
        self._root = root

    def tick(self, rows: int, step: int) -> None:  # noqa: ARG002 – the ways are called alike
        ds.write_dataset(
            pa.Table.from_pandas(by_month(listed(rows)), preserve_index=False),
            self._root,
            format="parquet",
            partitioning=ds.partitioning(pa.schema([("created_month", pa.string())]), flavor="hive"),
            existing_data_behavior="delete_matching",
        )


WAYS = {way.name: way for way in (Ours, ToParquet, DeleteMatching)}


def damage(folder: Path, rows: int) -> str | None:
    """What a reader of the folder trips over; None if the first `rows` rows are there, each once."""
    try:
        ids = pd.read_parquet(folder, columns=["id"])["id"]
    except Exception as error:  # noqa: BLE001 – whatever it is, the read failed
        return type(error).__name__
    if ids.duplicated().any():
        return "rows doubled"
    return None if set(range(1, rows + 1)) <= set(ids) else "rows missing"


@dataclass(frozen=True)
class Score:
    """What became of one way."""

    after_twice: int
    kills: int
    damaged_by_kills: int
    refusals: int
    damaged_by_refusals: int
    reads: int
    bad_reads: int


def score(name: str, rows: int, kills: int, refusals: int, read_seconds: float) -> Score:
    """Put one way through all of it, in a folder that is gone afterwards."""
    way, draw = WAYS[name], random.Random(0)  # noqa: S311 – moments and sizes, no secret
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent) / "data"
        started = time.monotonic()
        way(root).tick(rows, 1)
        seconds = time.monotonic() - started
        way(root).tick(rows, 2)
        after_twice = len(pd.read_parquet(root / way.folder, columns=["id"]))

        killed = refused = 0
        for kill in range(kills):
            shutil.rmtree(root)
            way(root).tick(rows, 1)
            worker = _worker(name, root, rows + 1, step=2, ticks=1)
            _ready(worker)
            time.sleep(draw.uniform(0, seconds))
            worker.kill()
            worker.wait()
            killed += damage(root / way.folder, rows) is not None
            print(f"\r{name}: {kill + 1} kills, {killed} damaged", end="", file=sys.stderr)
        print(file=sys.stderr)

        for refusal in range(refusals):
            shutil.rmtree(root)
            way(root).tick(rows, 1)
            largest = max(path.stat().st_size for path in root.rglob("*") if path.is_file())
            worker = _worker(name, root, rows + 1, step=2, ticks=1, largest_file=draw.randrange(largest))
            _ready(worker)
            worker.wait()
            refused += damage(root / way.folder, rows) is not None
            print(f"\r{name}: {refusal + 1} refusals, {refused} damaged", end="", file=sys.stderr)
        print(file=sys.stderr)

        shutil.rmtree(root)
        way(root).tick(rows, 1)
        worker = _worker(name, root, rows, step=2, ticks=1_000_000)
        _ready(worker)
        reads = bad = 0
        end_at = time.monotonic() + read_seconds
        while time.monotonic() < end_at:
            reads += 1
            bad += damage(root / way.folder, rows) is not None
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        print(f"{name}: {reads} reads, {bad} bad", file=sys.stderr)
    return Score(after_twice, kills, killed, refusals, refused, reads, bad)


def _worker(
    name: str, root: Path, rows: int, *, step: int, ticks: int, largest_file: int = resource.RLIM_INFINITY
) -> subprocess.Popen[bytes]:
    numbers = map(str, (rows, step, ticks, largest_file))
    command = [sys.executable, __file__, "--worker", name, str(root), *numbers]
    # Its traceback is no news: that it is refused is what is tried.
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603 – this script


def _ready(worker: subprocess.Popen[bytes]) -> None:
    """Wait until the worker has loaded everything and begins to tick."""
    if worker.stdout is None or worker.stdout.readline() != b"ready\n":
        raise RuntimeError("the worker did not start")


def work(name: str, root: Path, rows: int, step: int, ticks: int, largest_file: int) -> None:
    """Tick again and again, the list one row longer each time; no file may grow beyond a size in bytes."""
    way = WAYS[name](root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    print("ready", flush=True)
    for number in range(ticks):
        way.tick(rows + number, step + number)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--refusals", type=int, default=20)
    parser.add_argument("--read-seconds", type=float, default=30)
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, root, *numbers = arguments.worker
        work(name, Path(root), *map(int, numbers))
        return
    scores = [score(name, arguments.rows, arguments.kills, arguments.refusals, arguments.read_seconds) for name in WAYS]
    rows = {
        f"{arguments.rows:,} rows, when the same answer came twice": [f"{each.after_twice:,}" for each in scores],
        "damaged by a kill": [f"{each.damaged_by_kills} of {each.kills}" for each in scores],
        "damaged by a full disk": [f"{each.damaged_by_refusals} of {each.refusals}" for each in scores],
        "bad reads during ticks": [f"{each.bad_reads:,} of {each.reads:,}" for each in scores],
    }
    print(f"| | {' | '.join(WAYS)} |\n|---|---|---|---|")
    for what, cells in rows.items():
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
