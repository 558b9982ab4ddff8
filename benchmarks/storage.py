"""The size of `stops` on disk, and the time it takes to read one month of it.

Run it as `python benchmarks/storage.py size STATE SCRATCH` or `python benchmarks/storage.py read STATE filter|file`.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
from contenders import leave

from stop_pipeline import read_stops

MONTH = "2025-06"
READS = 5


def sizes(state: Path, scratch: Path) -> dict[str, int]:
    """Bytes of `stops`, and of the same rows and columns in one file that pandas writes by default."""
    scratch.mkdir(parents=True, exist_ok=True)
    stops = ds.dataset(state / "stops").to_table().to_pandas()
    stops.to_parquet(scratch / "pandas.parquet")
    ours = sum(path.stat().st_size for path in (state / "stops").rglob("*.parquet"))
    return {"rows": len(stops), "ours": ours, "pandas": (scratch / "pandas.parquet").stat().st_size}


def read_one_month(state: Path, how: str) -> dict[str, float]:
    """Median seconds of several reads after a first one, and the number of rows."""
    (file,) = (state / "stops").glob(f"account=*/created_month={MONTH}/*.parquet")

    def read() -> pd.DataFrame:
        if how == "filter":
            return read_stops(state, filters=[("created_month", "==", MONTH)])
        return pd.read_parquet(file, partitioning=None)

    rows = len(read())
    seconds = []
    for _ in range(READS):
        started = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - started)
    return {"rows": rows, "seconds": statistics.median(seconds)}


if __name__ == "__main__":
    part, state, argument = sys.argv[1:]
    print(json.dumps(sizes(Path(state), Path(argument)) if part == "size" else read_one_month(Path(state), argument)))
    leave()
