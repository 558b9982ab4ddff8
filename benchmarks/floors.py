"""What each part of a tick takes at the least, if one call of a fast library does it, on the same data.

    python benchmarks/floors.py STATE ANSWER SCRATCH

What belongs here: single calls, timed one by one. What does not: any code of the package, and what its stages take
(`stages`). STATE is one of ours after a tick.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from contenders import CONTENDERS, leave

PARSERS = {"parse simdjson": "find its values: simdjson", "parse pyarrow": "parse it: pyarrow, pieces of 16 MB"}


def main() -> None:
    """Print the seconds of each call."""
    state, answer, scratch = map(Path, sys.argv[1:])
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[what] = time.perf_counter() - started

    with timed("copy the answer to disk"):
        (scratch / "copy").write_bytes(answer.read_bytes())
    with timed("its SHA-256"), answer.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    compressed = str(scratch / "compressed")
    with (
        timed("compress it: zstd"),
        pa.OSFile(str(answer)) as source,
        pa.output_stream(compressed, compression="zstd") as sink,
    ):
        sink.upload(source)
    with timed("decompress it"), pa.input_stream(compressed, compression="zstd") as source:
        source.read()
    for name, what in PARSERS.items():
        with timed(what):
            CONTENDERS[name].tick(state, answer, datetime.now(UTC))
    with timed("read all of `stops`"):
        stops = ds.dataset(state / "stops").to_table()
    rows = stops.take(np.random.default_rng(0).permutation(stops.num_rows))  # out of order, as the answer is
    with timed("sort its rows by time and id"):
        rows = rows.sort_by([("created_at_local", "ascending"), ("id", "ascending")])
    with timed("write its rows into one file: zstd"):
        pq.write_table(rows, scratch / "rows.parquet", compression="zstd")
    print(json.dumps(seconds))
    leave()


if __name__ == "__main__":
    main()
