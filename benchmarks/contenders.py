"""One sync, as this package does it and as a competent user of other tools would write it.

    python benchmarks/contenders.py sync NAME STATE RESPONSE FETCHED_AT
    python benchmarks/contenders.py check NAME STATE ROWS NEW_IDS

`sync` brings the response into the table that a contender keeps below the folder STATE: new rows are added, altered
ones replaced, and those no longer listed marked with the time at which they were missed. `check` fails unless ROWS rows
stand afterwards, the new ones among them. Each contender imports what it needs, so that none pays for another.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

ACCOUNT = "main"
TIMEZONE = "Europe/Paris"

seconds: dict[str, float] = {}


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Note the seconds that a block takes."""
    started = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - started


def core(state: Path, response: Path, fetched_at: datetime) -> None:
    """The part of this package's sync that ends with `stops`: the response is kept, parsed and merged."""
    from stop_pipeline import sync
    from stop_pipeline.table.merge import RemovalPolicy
    from stop_pipeline.table.store import Store

    store = Store(state)
    sync.fetch(store, ACCOUNT, canned_client(response, fetched_at))
    sync.parse(store, ACCOUNT, timezone=TIMEZONE)
    sync.merge(store, ACCOUNT, RemovalPolicy())


def whole(state: Path, response: Path, fetched_at: datetime) -> None:
    """This package's sync, without Dagster."""
    from stop_pipeline import sync
    from stop_pipeline.table.store import Store

    core(state, response, fetched_at)
    store = Store(state)
    sync.derive_tables(store, ACCOUNT)


def stops_alone(state: Path, response: Path, fetched_at: datetime) -> None:
    """A first load by this package that writes `stops` and keeps nothing for the next sync, as the others do."""
    from stop_pipeline.schema import STOPS
    from stop_pipeline.smspartner.document import open_list
    from stop_pipeline.smspartner.response import parse
    from stop_pipeline.table.merge import RemovalPolicy, apply, compare, plan_merge
    from stop_pipeline.table.periods import split_by_month
    from stop_pipeline.table.state import State
    from stop_pipeline.table.store import Store

    snapshot = parse(open_list(response, "json"), fetched_at=fetched_at, timezone=TIMEZONE)
    diff = compare(STOPS.empty, snapshot.listed)
    plan = plan_merge(
        diff, unchanged_elsewhere=0, complete=True, policy=RemovalPolicy(), state=State(), fetched_at=fetched_at
    )
    stops = apply(STOPS.empty, diff, plan, fetched_at=fetched_at)
    store = Store(state)
    with store.locked(ACCOUNT):
        store.commit(
            ACCOUNT,
            State(applied_at=fetched_at, sha256="0" * 64, complete=True, rows=snapshot.rows, counts=plan.counts),
            split_by_month(stops),
        )


def naive(state: Path, response: Path, fetched_at: datetime) -> None:
    """json, pandas, and `to_parquet` by month: everything is read and written again."""
    import pandas as pd

    row = ["id", "phone_number", "created_at"]
    now = pd.Timestamp(fetched_at).as_unit("us")
    listed = pd.DataFrame(json.loads(response.read_bytes())["data"]).set_axis(row, axis=1)
    listed["created_month"] = listed["created_at"].str[:7]
    listed["created_at"] = pd.to_datetime(listed["created_at"], format="%Y-%m-%d %H:%M:%S")
    listed["first_seen_at"] = now
    listed["removed_at"] = pd.Series(pd.NaT, index=listed.index, dtype="datetime64[us, UTC]")
    stops = listed
    if (state / "stops").exists():
        stops = pd.read_parquet(state / "stops")
        stops["created_month"] = stops["created_month"].astype("str")
        is_open = stops["removed_at"].isna()
        both = stops.loc[is_open, row].merge(listed[row], on="id", suffixes=("", "_listed"))
        same = (both["phone_number"] == both["phone_number_listed"]) & (both["created_at"] == both["created_at_listed"])
        kept = both.loc[same, "id"]
        stops.loc[is_open & ~stops["id"].isin(kept), "removed_at"] = now
        stops = pd.concat([stops, listed[~listed["id"].isin(kept)]])
    stops.to_parquet(state / "stops", partition_cols=["created_month"], existing_data_behavior="delete_matching")


def delta(state: Path, response: Path, fetched_at: datetime) -> None:
    """Read with orjson, then one MERGE by delta-rs into a table partitioned by month."""
    from deltalake import DeltaTable, write_deltalake

    table, utc = arrow_table(response), pa.timestamp("us", "UTC")
    table = table.append_column("first_seen_at", pa.repeat(pa.scalar(fetched_at, utc), table.num_rows))
    table = table.append_column("removed_at", pa.nulls(table.num_rows, utc))
    path = str(state / "stops")
    if not (state / "stops").exists():
        write_deltalake(path, table, partition_by=["created_month"])
        return
    now = f"TIMESTAMP '{fetched_at:%Y-%m-%dT%H:%M:%SZ}'"
    (
        DeltaTable(path)
        .merge(
            table,
            predicate="t.created_month = s.created_month AND t.id = s.id AND t.removed_at IS NULL",
            source_alias="s",
            target_alias="t",
        )
        .when_matched_update_all("t.phone_number <> s.phone_number OR t.created_at <> s.created_at")
        .when_not_matched_insert_all()
        .when_not_matched_by_source_update({"removed_at": now}, "t.removed_at IS NULL")
        .execute()
    )


def dlt_merge(state: Path, response: Path, fetched_at: datetime) -> None:  # noqa: ARG001 – dlt keeps its own times
    """dlt, merging into Delta on the file system; a row that is no longer listed stays."""
    import dlt

    pipeline = dlt.pipeline(
        "stops",
        pipelines_dir=str(state / "pipelines"),
        destination=dlt.destinations.filesystem(str(state / "lake")),
        dataset_name="list",
    )
    resource = dlt.resource(
        arrow_table(response),
        name="stops",
        primary_key="id",
        write_disposition={"disposition": "merge", "strategy": "upsert"},
        table_format="delta",
        columns={"created_month": {"partition": True}},
    )
    pipeline.run(resource)


CONTENDERS: dict[str, Callable[[Path, Path, datetime], None]] = {
    "core": core,
    "whole": whole,
    "stops alone": stops_alone,
    "naive": naive,
    "delta": delta,
    "dlt": dlt_merge,
}


def arrow_table(response: Path) -> Any:
    """The rows of a response and the month that they are partitioned by, read with orjson."""
    import orjson

    rows = orjson.loads(response.read_bytes())["data"]
    created_at = pa.array([row["createdAt"] for row in rows], pa.string())
    return pa.table(
        {
            "id": pa.array([row["id"] for row in rows], pa.int64()),
            "phone_number": pa.array([row["phoneNumber"] for row in rows], pa.string()),
            "created_at": created_at.cast(pa.timestamp("us")),
            "created_month": pc.utf8_slice_codeunits(created_at, 0, 7),
        }
    )


def canned_client(response: Path, fetched_at: datetime) -> Any:
    """A client whose download is the file of a response, where it is."""
    from stop_pipeline.smspartner.client import Response

    class CannedClient:
        secrets = ()

        def fetch(self, into: Path) -> Response:  # noqa: ARG002
            with response.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return Response(
                path=response,
                format="xml" if response.suffix == ".xml" else "json",
                fetched_at=fetched_at,
                sha256=sha256,
                size_bytes=response.stat().st_size,
                seconds=0.0,
            )

    return CannedClient()


def check(name: str, state: Path, rows: int, new_ids: list[int]) -> None:
    """Stop with an error unless `rows` rows stand, each id once, and those of `new_ids` among them."""
    if name in ("delta", "dlt"):
        from deltalake import DeltaTable

        table = DeltaTable(state / ("stops" if name == "delta" else "lake/list/stops")).to_pyarrow_dataset()
    else:
        import pyarrow.dataset as ds

        table = ds.dataset(state / "stops", partitioning="hive")
    is_open = pc.field("removed_at").is_null() if "removed_at" in table.schema.names else None
    ids = table.to_table(["id"], filter=is_open)["id"].combine_chunks()
    distinct = pc.count_distinct(ids).as_py()
    found = pc.sum(pc.is_in(pa.array(new_ids, pa.int64()), value_set=ids)).as_py() or 0
    if (len(ids), distinct, found) != (rows, rows, len(new_ids)):
        sys.exit(
            f"{rows:,} rows were expected: {len(ids):,} stand under {distinct:,} ids, among them {found:,} of the "
            f"{len(new_ids):,} new ones."
        )


def leave() -> NoReturn:
    """End this process without clearing up, so that all contenders end alike.

    A process that has used Arrow's datasets sometimes (1 of 60) ends with “terminate called without an active
    exception” otherwise.
    """
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Do what the arguments say."""
    match sys.argv[1:]:
        case ["sync", name, state, response, fetched_at]:
            Path(state).mkdir(parents=True, exist_ok=True)
            CONTENDERS[name](Path(state), Path(response), datetime.fromisoformat(fetched_at))
        case ["check", name, state, rows, new_ids]:
            check(name, Path(state), int(rows), json.loads(new_ids))
        case _:
            sys.exit(__doc__)
    leave()


if __name__ == "__main__":
    main()
