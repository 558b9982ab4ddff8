"""Seconds that a fast library takes, in one call each, for what a sync cannot do without.

    python benchmarks/floors.py STATE RESPONSE SCRATCH

STATE is one of this package's data roots; none of its code is called.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.json
import pyarrow.parquet as pq
from contenders import leave, seconds, timed


def main() -> None:
    """Print the seconds of each call."""
    state, response, scratch = map(Path, sys.argv[1:])
    body = response.read_bytes()
    with timed("SHA-256 of the response"):
        hashlib.sha256(body)
    with timed("compress it with zstd"):
        compressed = pa.Codec("zstd").compress(body)
    with timed("decompress it"):
        pa.Codec("zstd").decompress(compressed, len(body))
    with timed("parse it with orjson"):
        orjson.loads(body)
    rows = pa.BufferReader(body[body.index(b"[") + 1 : -2].replace(b"}, {", b"}\n{"))
    with timed("parse its rows with pyarrow.json, in threads"):
        pyarrow.json.read_json(rows, read_options=pyarrow.json.ReadOptions(block_size=1 << 24))
    with timed("read all of `stops`"):
        stops = ds.dataset(state / "stops").to_table()
    stops = stops.take(np.random.default_rng(0).permutation(stops.num_rows))  # out of order, as the response is
    with timed("sort its rows by time and id"):
        stops = stops.sort_by([("created_at_local", "ascending"), ("id", "ascending")])
    with timed("write its rows into one file with zstd"):
        pq.write_table(stops, scratch / "rows.parquet", compression="zstd")
    print(json.dumps(seconds))
    leave()


if __name__ == "__main__":
    main()
