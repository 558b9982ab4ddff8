"""One tick, as this package does it and as a competent user of other tools would write it.

What belongs here: the contenders, each in a process of its own, started as

    python benchmarks/contenders.py tick NAME STATE ANSWER FETCHED_AT

What does not: the answers (`workload`), and who is timed against whom (`speed`). A contender brings the answer into a
table that it keeps below STATE: new rows are added, altered ones replaced, those no longer listed are marked with the
time at which they were missed. Nothing is imported before a contender needs it, so that none pays for another.

`check` counts the rows that stand and looks for the ids that must be among them; `ticks` is many ticks in one process.
"""

import dataclasses
import hashlib
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from stop_pipeline.model import Answer
    from stop_pipeline.tick import Client

ACCOUNT = "main"
TIMEZONE = "Europe/Paris"
CREATED_AT = "%Y-%m-%d %H:%M:%S"
LAST_DAY = "2025-12-31 12:00:00"


class Contender(ABC):
    """A way to keep the list."""

    @abstractmethod
    def tick(self, state: Path, answer: Path, fetched_at: datetime) -> int | None:
        """Bring the answer into what is kept below `state`; one that keeps nothing gives the number of rows."""

    @abstractmethod
    def standing_ids(self, state: Path) -> "pa.Array":
        """The ids of the rows that have not ended."""


class Ours(Contender):
    """This package, without Dagster."""

    def tick(self, state: Path, answer: Path, fetched_at: datetime) -> None:
        from stop_pipeline import tick
        from stop_pipeline.guard import Guard
        from stop_pipeline.store import Store

        store = Store(state)
        tick.fetch(store, ACCOUNT, canned_client(answer, fetched_at), timezone=TIMEZONE)
        tick.parse_newest(store, ACCOUNT, timezone=TIMEZONE)
        tick.apply_newest(store, ACCOUNT, Guard())
        tick.derive_suppression_list(store, ACCOUNT)
        tick.derive_stops_per_day(store, ACCOUNT)

    def standing_ids(self, state: Path) -> "pa.Array":
        import pyarrow.compute as pc
        import pyarrow.dataset as ds

        periods = ds.dataset(state / "stops", partitioning="hive")
        return periods.to_table(["id"], filter=pc.field("removed_at").is_null())["id"].combine_chunks()

    def ticks(self, state: Path, answer: Path, fetched_at: datetime, count: int) -> None:
        """Tick again and again, each time with ten rows more; prints what each tick took and left."""
        document = json.loads(answer.read_bytes())
        next_id = 1 + max(row["id"] for row in document["data"])
        longer = answer.with_suffix(".longer.json")
        seconds, files = [], []
        for number in range(count):
            document["data"] += [
                {"id": next_id + 10 * number + n, "phoneNumber": f"+3363998{number:03}{n}", "createdAt": LAST_DAY}
                for n in range(10)
            ]
            longer.write_text(json.dumps(document | {"nbData": len(document["data"])}))
            started = time.perf_counter()
            self.tick(state, longer, fetched_at + timedelta(minutes=number))
            seconds.append(time.perf_counter() - started)
            files.append(sum(path.is_file() for path in (state / "stops").rglob("*")))
        print(json.dumps({"seconds": seconds, "files": files}))


class OursCore(Ours):
    """What a tick does between an answer as received and `stops`: no table is derived.

    The answer is landed all the same, and its snapshot kept, for the next tick reads no more than what differs from it.
    """

    def tick(self, state: Path, answer: Path, fetched_at: datetime) -> None:
        from stop_pipeline import tick
        from stop_pipeline.guard import Guard
        from stop_pipeline.store import Store

        store = Store(state)
        tick.fetch(store, ACCOUNT, canned_client(answer, fetched_at, in_place=True), timezone=TIMEZONE)
        tick.parse_newest(store, ACCOUNT, timezone=TIMEZONE)
        tick.apply_newest(store, ACCOUNT, Guard())


class OursAlone(Ours):
    """A first tick that only parses, merges and writes `stops`, as the peers do: nothing is kept for the next one."""

    def tick(self, state: Path, answer: Path, fetched_at: datetime) -> None:
        from stop_pipeline import tick
        from stop_pipeline.guard import Guard
        from stop_pipeline.model import SnapshotInfo
        from stop_pipeline.periods import fingerprint, split_by_month
        from stop_pipeline.snapshot import parse
        from stop_pipeline.store import Store
        from stop_pipeline.tables import Tables
        from stop_pipeline.threads import in_threads

        snapshot = parse(answer, "json", fetched_at=fetched_at, timezone=TIMEZONE)
        months = dict(split_by_month(snapshot.listed))
        parsed = dataclasses.replace(
            SnapshotInfo.of(snapshot, fetched_at=fetched_at, sha256="", size_bytes=0, timezone=TIMEZONE),
            months=dict(zip(months, in_threads(fingerprint, months.values()), strict=True)),
        )

        class OneAnswer(Store):
            def snapshot_info(self, account: str) -> SnapshotInfo:  # noqa: ARG002
                return parsed

        class InMemory(Tables):
            def read_listed(self, account: str, info: SnapshotInfo, month: str) -> "pa.Table":  # noqa: ARG002
                return months[month]

            def read_malformed(self, account: str) -> "pa.Table":  # noqa: ARG002
                return snapshot.rejected

        store = OneAnswer(state)
        store.tables = InMemory(store.files)
        tick.apply_newest(store, ACCOUNT, Guard())


class Naive(Contender):
    """json, pandas, and `to_parquet` by month: everything is read and written again."""

    def tick(self, state: Path, answer: Path, fetched_at: datetime) -> None:
        import pandas as pd

        listed = pd.DataFrame(json.loads(answer.read_bytes())["data"])
        listed = listed.rename(columns={"phoneNumber": "phone_number", "createdAt": "created_at"})
        listed["created_month"] = listed["created_at"].str[:7]
        listed["created_at"] = pd.to_datetime(listed["created_at"], format=CREATED_AT)
        moment = pd.Timestamp(fetched_at).as_unit("us")
        folder = state / "stops"
        stops = self._merged(pd.read_parquet(folder), listed, moment) if folder.exists() else _began(listed, moment)
        stops.to_parquet(folder, partition_cols=["created_month"], existing_data_behavior="delete_matching")

    @staticmethod
    def _merged(known: "pd.DataFrame", listed: "pd.DataFrame", moment: "pd.Timestamp") -> "pd.DataFrame":
        import pandas as pd

        is_open = known["removed_at"].isna()
        row = ["id", "phone_number", "created_at"]
        both = known.loc[is_open, row].merge(listed[row], on="id", suffixes=("", "_listed"))
        same = (both["phone_number"] == both["phone_number_listed"]) & (both["created_at"] == both["created_at_listed"])
        kept = both.loc[same, "id"]
        known.loc[is_open & ~known["id"].isin(kept), "removed_at"] = moment
        known["created_month"] = known["created_month"].astype("str")
        return pd.concat([known, _began(listed[~listed["id"].isin(kept)], moment)])

    def standing_ids(self, state: Path) -> "pa.Array":
        return Ours().standing_ids(state)


def _began(listed: "pd.DataFrame", moment: "pd.Timestamp") -> "pd.DataFrame":
    import pandas as pd

    began = listed.assign(first_seen_at=moment)
    began["removed_at"] = pd.Series(pd.NaT, index=listed.index, dtype="datetime64[us, UTC]")
    return began


class DeltaMerge(Contender):
    """orjson and delta-rs: one MERGE into a table partitioned by month."""

    def tick(self, state: Path, answer: Path, fetched_at: datetime) -> None:
        import pyarrow as pa
        from deltalake import DeltaTable, write_deltalake

        table, utc = arrow_table(answer), pa.timestamp("us", "UTC")
        table = table.append_column("first_seen_at", pa.repeat(pa.scalar(fetched_at, utc), table.num_rows))
        table = table.append_column("removed_at", pa.nulls(table.num_rows, utc))
        path = str(state / "stops")
        if not (state / "stops").exists():
            write_deltalake(path, table, partition_by=["created_month"])
            return
        moment = f"TIMESTAMP '{fetched_at:%Y-%m-%dT%H:%M:%SZ}'"
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
            .when_not_matched_by_source_update({"removed_at": moment}, "t.removed_at IS NULL")
            .execute()
        )

    def standing_ids(self, state: Path) -> "pa.Array":
        return _standing_in_delta(state / "stops")


class DltMerge(Contender):
    """dlt, merging into Delta on the file system; a row that is no longer listed stays."""

    disposition: ClassVar[Any] = {"disposition": "merge", "strategy": "upsert"}

    def tick(self, state: Path, answer: Path, fetched_at: datetime) -> None:  # noqa: ARG002 – dlt keeps its own times
        import dlt

        pipeline = dlt.pipeline(
            "stops",
            pipelines_dir=str(state / "pipelines"),
            destination=dlt.destinations.filesystem(str(state / "lake")),
            dataset_name="list",
        )
        resource = dlt.resource(
            self.rows(answer),
            name="stops",
            primary_key="id",
            write_disposition=self.disposition,
            table_format="delta",
            columns={"created_month": {"partition": True}},
        )
        pipeline.run(resource)

    def rows(self, answer: Path) -> Any:
        """What dlt extracts."""
        return arrow_table(answer)

    def standing_ids(self, state: Path) -> "pa.Array":
        return _standing_in_delta(state / "lake" / "list" / "stops")


class DltAppend(DltMerge):
    """dlt, appending what lies above the highest id so far; it sees no change and no removal."""

    disposition: ClassVar[Any] = "append"

    def rows(self, answer: Path) -> Any:
        import dlt

        def rows(ids: Any = dlt.sources.incremental("id")) -> Iterator[Any]:  # noqa: ARG001, B008 – how dlt wants it
            yield arrow_table(answer)

        return rows


class ParseInPieces(Contender):
    """A floor: pyarrow's JSON reader on row-aligned pieces of 16 MB, nothing kept."""

    piece_bytes = 16_000_000

    def tick(self, state: Path, answer: Path, fetched_at: datetime) -> int:  # noqa: ARG002 – nothing is kept
        import pyarrow as pa
        import pyarrow.json as pj

        rows = 0
        options = pj.ParseOptions(explicit_schema=_listed_schema(), unexpected_field_behavior="error")
        with answer.open("rb") as file:
            head = file.read(100)
            file.seek(head.index(b"[") + 1)
            rest = b""
            while piece := file.read(self.piece_bytes):
                end = piece.rfind(b"}, {")
                lines, rest = (rest + piece[: end + 1], piece[end + 3 :]) if end >= 0 else (rest + piece, b"")
                text = lines.removesuffix(b"]}").replace(b"}, {", b"}\n{")
                if text:
                    read = pj.ReadOptions(use_threads=False, block_size=len(text) + 1)
                    rows += pj.read_json(pa.BufferReader(text), read_options=read, parse_options=options).num_rows
            if rest:
                text = rest.removesuffix(b"]}").replace(b"}, {", b"}\n{")
                rows += pj.read_json(pa.BufferReader(text), parse_options=options).num_rows
        return rows

    def standing_ids(self, state: Path) -> "pa.Array":
        raise NotImplementedError(state)


class ParseOnly(ParseInPieces):
    """The floor below: simdjson finds every value and takes none out."""

    def tick(self, state: Path, answer: Path, fetched_at: datetime) -> int:  # noqa: ARG002 – nothing is kept
        import simdjson

        document: Any = simdjson.Parser().load(str(answer))
        return len(document["data"])


def arrow_table(answer: Path) -> "pa.Table":
    """The rows of an answer with the month that they are partitioned by, through orjson."""
    import orjson
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = orjson.loads(answer.read_bytes())["data"]
    created_at = pa.array([row["createdAt"] for row in rows], pa.string())
    return pa.table(
        {
            "id": pa.array([row["id"] for row in rows], pa.int64()),
            "phone_number": pa.array([row["phoneNumber"] for row in rows], pa.string()),
            "created_at": created_at.cast(pa.timestamp("us")),
            "created_month": pc.utf8_slice_codeunits(created_at, 0, 7),
        }
    )


def _listed_schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([("id", pa.int64()), ("phoneNumber", pa.string()), ("createdAt", pa.string())])


def _standing_in_delta(path: Path) -> "pa.Array":
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    table = DeltaTable(path)
    columns = [field.name for field in table.schema().fields if field.name in ("id", "removed_at")]
    rows = table.to_pyarrow_table(columns=columns)
    if "removed_at" in columns:
        rows = rows.filter(pc.is_null(rows["removed_at"]))
    return rows["id"].combine_chunks()


def canned_client(answer: Path, fetched_at: datetime, *, in_place: bool = False) -> "Client":
    """A client whose download is a copy of the answer file, or that file in its place."""
    from stop_pipeline.model import Answer, Format

    class Canned:
        secrets: tuple[str, ...] = ()

        def fetch(self, into: Path, progress: Callable[[int], None] | None = None) -> "Answer":
            digest, size_bytes = hashlib.sha256(), 0
            with answer.open("rb") as source, nullcontext() if in_place else into.open("xb") as file:
                while chunk := source.read(1 << 16):
                    digest.update(chunk)
                    if file is not None:
                        file.write(chunk)
                    size_bytes += len(chunk)
                    if progress is not None:
                        progress(size_bytes)
            form: Format = "xml" if answer.suffix == ".xml" else "json"
            path = answer if in_place else into
            return Answer(path, form, fetched_at, digest.hexdigest(), size_bytes, 0.0)

    return Canned()


CONTENDERS: dict[str, Contender] = {
    "ours": Ours(),
    "ours core": OursCore(),
    "ours alone": OursAlone(),
    "naive": Naive(),
    "delta": DeltaMerge(),
    "dlt merge": DltMerge(),
    "dlt append": DltAppend(),
    "parse pyarrow": ParseInPieces(),
    "parse simdjson": ParseOnly(),
}


def check(contender: Contender, state: Path, rows: int, must_stand: Sequence[int]) -> None:
    """Stop with an error unless `rows` rows stand, each id once, and those of `must_stand` among them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = contender.standing_ids(state)
    distinct = pc.count_distinct(ids).as_py()
    found = pc.sum(pc.is_in(pa.array(must_stand, pa.int64()), value_set=ids)).as_py() or 0
    if (len(ids), distinct, found) != (rows, rows, len(must_stand)):
        sys.exit(
            f"{rows:,} rows were due: {len(ids):,} stand under {distinct:,} ids, and {found:,} of the "
            f"{len(must_stand):,} new ones."
        )


def leave() -> NoReturn:
    """End this process, its work done, without clearing up.

    Else a process that used Arrow's datasets now and then (1 of 60) ends with “terminate called without an active
    exception”. All contenders leave so, for their times to be alike.
    """
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Run the part of one contender that the arguments name."""
    part, name, state, answer, *rest = sys.argv[1:]
    contender = CONTENDERS[name]
    match part, *rest:
        case "check", rows, ids:
            check(contender, Path(state), int(rows), json.loads(ids))
        case "tick", fetched_at:
            Path(state).mkdir(parents=True, exist_ok=True)
            rows_counted = contender.tick(Path(state), Path(answer), datetime.fromisoformat(fetched_at))
            print(json.dumps({"rows": rows_counted}))
        case "ticks", fetched_at, count:
            Ours().ticks(Path(state), Path(answer), datetime.fromisoformat(fetched_at), int(count))
        case _:
            sys.exit(__doc__)
    leave()


if __name__ == "__main__":
    main()
