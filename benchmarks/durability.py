"""What survives a killed writer, a full disk and a reader during a sync, compared with two plain ways to write Parquet.

    python benchmarks/durability.py            # 60 kills, 20 refusals, 30 s of reads for each way; about six minutes
    python benchmarks/durability.py --kills 5 --refusals 5 --read-seconds 2 --rows 2000

Each way keeps the same list in Parquet by month and syncs the same responses, one row longer each time. Counted are:
rows after the same response came twice; kills (SIGKILL at a random moment of a sync) and refusals (no file may grow
beyond a random size, which ends the sync as a full disk would) after which the folder could not be read, lacked a row
that was there before, or showed one twice; and reads during syncs without pause that failed in these ways.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from stop_pipeline.rebuild import replay
from stop_pipeline.sync import FetchedBefore, derive_tables
from stop_pipeline.table.store import Store

MONTHS = 24
FIRST_FETCH = datetime(2026, 1, 1, tzinfo=UTC)


def listed(rows: int) -> pd.DataFrame:
    """A list of `rows` rows over `MONTHS` months; a longer one begins like a shorter one."""
    ids = pd.Series(range(1, rows + 1))
    minutes = pd.to_timedelta((ids * 7919) % (MONTHS * 28 * 24 * 60), unit="min")
    created_at = (pd.Timestamp("2024-01-01") + minutes).dt.floor("s")
    numbers = "+336399" + (80_000 + ids % 10_000).astype(str)
    return pd.DataFrame({"id": ids, "phone_number": numbers, "created_at": created_at})


def by_month(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the month that they are partitioned by."""
    return rows.assign(created_month=rows["created_at"].dt.strftime("%Y-%m"))


class ThisPackage:
    """A whole sync of this package, without Dagster."""

    name = "this package"
    folder = "stops"

    def __init__(self, root: Path) -> None:
        self._root = root

    def sync(self, rows: int, step: int) -> None:
        data = [
            {"id": row_id, "phoneNumber": number, "createdAt": str(created_at)}
            for row_id, number, created_at in listed(rows).itertuples(index=False)
        ]
        body = json.dumps({"success": True, "code": 200, "nbData": len(data), "data": data}).encode()
        store = Store(self._root)
        response = FetchedBefore(body, FIRST_FETCH + timedelta(minutes=step))
        replay(store, "main", response, timezone="Europe/Paris")
        derive_tables(store, "main")


class ToParquet:
    """pandas' `to_parquet(partition_cols=…)` of the whole list."""

    name = "pandas `to_parquet`"
    folder = "."

    def __init__(self, root: Path) -> None:
        self._root = root

    def sync(self, rows: int, step: int) -> None:  # noqa: ARG002 – all ways are called alike
        by_month(listed(rows)).to_parquet(self._root, partition_cols=["created_month"])


class DeleteMatching:
    """pyarrow's `write_dataset` of the whole list, which deletes a month before it writes it."""

    name = "pyarrow `delete_matching`"
    folder = "."

    def __init__(self, root: Path) -> None:
        self._root = root

    def sync(self, rows: int, step: int) -> None:  # noqa: ARG002 – all ways are called alike
        ds.write_dataset(
            pa.Table.from_pandas(by_month(listed(rows)), preserve_index=False),
            self._root,
            format="parquet",
            partitioning=ds.partitioning(pa.schema([("created_month", pa.string())]), flavor="hive"),
            existing_data_behavior="delete_matching",
        )


WAYS = {way.name: way for way in (ThisPackage, ToParquet, DeleteMatching)}


def damage(folder: Path, rows: int) -> str | None:
    """What is wrong with a folder; None if the first `rows` rows are there, each once."""
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
    """Put one way through all of it, in a folder that is deleted afterwards."""
    way, draw = WAYS[name], random.Random(0)  # noqa: S311 – moments and sizes, no secret

    def start_anew() -> None:
        shutil.rmtree(root, ignore_errors=True)
        way(root).sync(rows, 1)

    def is_damaged() -> bool:
        return damage(root / way.folder, rows) is not None

    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent) / "data"
        started = time.monotonic()
        start_anew()
        seconds = time.monotonic() - started
        way(root).sync(rows, 2)
        after_twice = len(pd.read_parquet(root / way.folder, columns=["id"]))

        damaged_by_kills = 0
        for _ in range(kills):
            start_anew()
            worker = start_worker(name, root, rows + 1)
            time.sleep(draw.uniform(0, seconds))
            worker.kill()
            worker.wait()
            damaged_by_kills += is_damaged()

        damaged_by_refusals = 0
        for _ in range(refusals):
            start_anew()
            largest = max(path.stat().st_size for path in root.rglob("*") if path.is_file())
            start_worker(name, root, rows + 1, largest_file=draw.randrange(largest)).wait()
            damaged_by_refusals += is_damaged()

        start_anew()
        worker = start_worker(name, root, rows, syncs=1_000_000)
        reads = bad_reads = 0
        end_at = time.monotonic() + read_seconds
        while time.monotonic() < end_at:
            reads += 1
            bad_reads += is_damaged()
        worker.kill()
        worker.wait()
    result = Score(after_twice, kills, damaged_by_kills, refusals, damaged_by_refusals, reads, bad_reads)
    print(f"{name}: {result}", file=sys.stderr, flush=True)
    return result


def start_worker(
    name: str, root: Path, rows: int, *, syncs: int = 1, largest_file: int = resource.RLIM_INFINITY
) -> subprocess.Popen[bytes]:
    """A process that has loaded everything and begins to sync."""
    command = [sys.executable, __file__, "--worker", name, root, rows, syncs, largest_file]
    worker = subprocess.Popen(  # noqa: S603 – this script
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # that it is refused is what is tried
    )
    if worker.stdout is None or worker.stdout.readline() != b"ready\n":
        raise RuntimeError("the worker did not start")
    return worker


def work(name: str, root: Path, rows: int, syncs: int, largest_file: int) -> None:
    """Sync again and again, the list one row longer each time; no file may grow beyond a size in bytes."""
    way = WAYS[name](root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    print("ready", flush=True)
    for number in range(syncs):
        way.sync(rows + number, 2 + number)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--refusals", type=int, default=20)
    parser.add_argument("--read-seconds", type=float, default=30)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, root, *numbers = arguments.worker
        work(name, Path(root), *map(int, numbers))
        return
    scores = [score(name, arguments.rows, arguments.kills, arguments.refusals, arguments.read_seconds) for name in WAYS]
    lines = {
        f"{arguments.rows:,} rows, after the same response came twice": [f"{each.after_twice:,}" for each in scores],
        "damaged by a kill": [f"{each.damaged_by_kills} of {each.kills}" for each in scores],
        "damaged by a full disk": [f"{each.damaged_by_refusals} of {each.refusals}" for each in scores],
        "bad reads during syncs": [f"{each.bad_reads:,} of {each.reads:,}" for each in scores],
    }
    print(f"| | {' | '.join(WAYS)} |\n|---|---|---|---|")
    for what, cells in lines.items():
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
