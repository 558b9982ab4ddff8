"""Seconds of each step of one whole sync, imports first.

    python benchmarks/stages.py STATE RESPONSE FETCHED_AT

To look into a step, run this under a sampling profiler, such as py-spy.
"""

import json
import sys
from datetime import datetime
from pathlib import Path

from contenders import ACCOUNT, TIMEZONE, canned_client, leave, seconds, timed

with timed("imports"):
    from stop_pipeline import sync
    from stop_pipeline.table.merge import RemovalPolicy
    from stop_pipeline.table.store import Store


def main() -> None:
    """Print the seconds."""
    store = Store(sys.argv[1])
    client = canned_client(Path(sys.argv[2]), datetime.fromisoformat(sys.argv[3]))
    with timed("fetch"):
        sync.fetch(store, ACCOUNT, client)
    with timed("parse"):
        sync.parse(store, ACCOUNT, timezone=TIMEZONE)
    with timed("merge"):
        sync.merge(store, ACCOUNT, RemovalPolicy())
    with timed("derive suppression_list"):
        sync.derive_suppression_list(store, ACCOUNT)
    with timed("derive stops_per_day"):
        sync.derive_stops_per_day(store, ACCOUNT)
    print(json.dumps(seconds))
    leave()


if __name__ == "__main__":
    main()
