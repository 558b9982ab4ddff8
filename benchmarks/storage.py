"""What `stops` takes on disk, and what it takes to read one month of it.

    python benchmarks/storage.py size STATE SCRATCH
    python benchmarks/storage.py read STATE filter|file

What belongs here: figures of a finished table. What does not: how it came about (`contenders`).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
from contenders import leave

from stop_pipeline import read_stops

MONTH = "2025-06"
READS = 5


def size(state: Path, scratch: Path) -> dict[str, int]:
    """Bytes of `stops`, and of the same rows and columns as pandas writes them into one file by default."""
    folder = state / "stops"
    scratch.mkdir(parents=True, exist_ok=True)
    stops = ds.dataset(folder).to_table().to_pandas()
    stops.to_parquet(scratch / "pandas.parquet")
    ours = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return {"rows": len(stops), "ours": ours, "pandas": (scratch / "pandas.parquet").stat().st_size}


def read(state: Path, how: str) -> dict[str, float]:
    """Seconds to read one month, the median of some reads after a first one; and its rows."""
    (file,) = (state / "stops").glob(f"account=*/created_month={MONTH}/*.parquet")

    def filtered() -> pd.DataFrame:
        return read_stops(state, filters=[("created_month", "==", MONTH)])

    def alone() -> pd.DataFrame:
        return pd.read_parquet(file, partitioning=None)

    reader: Callable[[], pd.DataFrame] = {"filter": filtered, "file": alone}[how]
    rows = len(reader())
    seconds = []
    for _ in range(READS):
        started = time.perf_counter()
        reader()
        seconds.append(time.perf_counter() - started)
    return {"rows": rows, "seconds": statistics.median(seconds)}


if __name__ == "__main__":
    part, of, argument = sys.argv[1:]
    print(json.dumps(size(Path(of), Path(argument)) if part == "size" else read(Path(of), argument)))
    leave()
