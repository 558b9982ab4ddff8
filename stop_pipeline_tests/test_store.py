"""How tables lie on disk: order, compression, statistics, the commit, and what a killed tick left behind."""

import dataclasses
import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stop_pipeline import read_rejected, read_stops, schema, tick
from stop_pipeline.columns import UTC_TIME
from stop_pipeline.errors import ConfigurationError, SchemaVersionError, StoreError
from stop_pipeline.layout import NO_MONTH
from stop_pipeline.model import Pending
from stop_pipeline.periods import fingerprint
from stop_pipeline.store import Store
from stop_pipeline.tables import Tables
from stop_pipeline_tests.ticking import PARIS, Row, Ticker, answer_body, rows, tree


@pytest.fixture
def ticker(tmp_path: Path) -> Ticker:
    return Ticker(tmp_path / "data")


def month_file(ticker: Ticker, month: str = "2025-06") -> Path:
    return ticker.root / f"stops/account=main/created_month={month}/stops.parquet"


def test_a_month_is_sorted_compressed_and_has_statistics_by_which_readers_prune(ticker: Ticker) -> None:
    ticker.tick(rows(40)[::-1])
    with pq.ParquetFile(month_file(ticker)) as file:
        table = file.read()
        group = file.metadata.row_group(0)
    keys = list(zip(table["created_at_local"].to_pylist(), table["id"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    for position in range(group.num_columns):
        column = group.column(position)
        assert column.compression == "ZSTD"
        assert column.statistics is not None
    fragment = next(ds.dataset(month_file(ticker)).get_fragments())
    assert fragment.split_by_row_group(ds.field("id") > 1000) == []


@pytest.mark.parametrize(
    ("folder", "table"),
    [
        ("stops", schema.STOPS),
        ("rejected", schema.REJECTED),
        ("snapshot", schema.STOP_SNAPSHOT),
        ("suppression_list", schema.SUPPRESSION_LIST),
        ("stops_per_day", schema.STOPS_PER_DAY),
    ],
)
def test_every_file_has_the_declared_schema(ticker: Ticker, folder: str, table: schema.TableSchema) -> None:
    ticker.tick([*rows(3), {"id": None}])
    paths = list((ticker.root / folder).rglob("*.parquet"))
    assert paths
    for path in paths:
        assert pq.read_schema(path).remove_metadata().equals(table.arrow)


def test_a_table_that_breaks_its_schema_cannot_be_written(ticker: Ticker) -> None:
    nameless = pa.Table.from_pylist([{"phone_number": None, "stop_count": 1, "origin": "listed"}])
    nameless = pa.Table.from_arrays(
        [
            nameless["phone_number"].cast(pa.string()),
            pa.nulls(1, UTC_TIME),
            pa.nulls(1, UTC_TIME),
            nameless["stop_count"],
            nameless["origin"],
        ],
        names=schema.SUPPRESSION_LIST.names,
    )
    with ticker.store.locked("main"), pytest.raises((pa.ArrowInvalid, ValueError)):
        ticker.store.tables.write_derived(schema.SUPPRESSION_LIST, "main", nameless, "commit")


def test_the_fingerprint_of_a_month_tells_any_two_lists_apart(ticker: Ticker) -> None:
    lists = [
        [Row(1)],
        [Row(2)],
        [Row(1, "+33639980002")],
        [Row(1, created_at="2025-06-01 10:00:01")],
        [Row(1, "12"), Row(2, "3")],
        [Row(1, "1"), Row(2, "23")],
    ]
    for number, listed in enumerate(lists):
        Ticker(ticker.root, f"a{number}").tick(listed)
    seen = {ticker.store.tables.months(f"a{number}")["2025-06"].fingerprint for number in range(len(lists))}
    assert len(seen) == len(lists)


def test_the_fingerprint_of_a_slice_is_that_of_its_rows(ticker: Ticker) -> None:
    ticker.tick(rows(20))
    table = ticker.store.tables.read_month("main", "2025-06")
    copied = pa.concat_tables([table.slice(5, 3), table.slice(8, 4)]).combine_chunks()
    assert fingerprint(table.slice(5, 7)) == fingerprint(copied)
    assert fingerprint(table.slice(0, 0)) == fingerprint(schema.STOPS.arrow.empty_table())


def test_the_state_says_what_was_applied_last(ticker: Ticker) -> None:
    applied = ticker.tick([*rows(30), rows(1)[0]])
    document = json.loads((ticker.root / "state/account=main.json").read_text())
    assert document["schema_version"] == schema.SCHEMA_VERSION
    assert document["applied_at"] == document["verified_at"] == ticker.now.isoformat()
    assert document["counts"]["new"] == 30
    assert (document["rows"], document["duplicates"], document["pending"]) == (31, 1, None)
    assert ticker.store.state("main") == applied.state


@pytest.mark.parametrize("version", [0, 2, None])
def test_another_schema_version_is_refused_with_a_sentence(ticker: Ticker, version: int | None) -> None:
    ticker.tick(rows(3))
    path = ticker.root / "state/account=main.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
    for use in (lambda: read_stops(ticker.root), lambda: ticker.tick(rows(4))):
        with pytest.raises(SchemaVersionError, match=f"schema version {version}"):
            use()


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 1', "\x00"])
def test_a_damaged_state_is_told_and_not_taken_for_none(ticker: Ticker, text: str) -> None:
    ticker.tick(rows(3))
    (ticker.root / "state/account=main.json").write_text(text)
    with pytest.raises(StoreError, match=r"account=main\.json"):
        ticker.tick(rows(4))


def test_what_a_killed_tick_wrote_is_invisible_and_is_taken_back_by_the_next(ticker: Ticker) -> None:
    before = rows(30)
    after: list[Row | dict[str, Any]] = [*before[1:], Row(77, created_at="2023-01-01 00:00:00"), {"id": "x"}]
    ticker.tick(before)
    committed = ticker.store.state("main")
    untouched = tree(ticker.root, "stops", "state")
    ticker.tick(after)
    # As if it had been killed just before its commit:
    ticker.store.write_state(
        "main", dataclasses.replace(committed, pending=Pending(ticker.now, ("2023-01", "2025-06")))
    )

    assert sorted(read_stops(ticker.root)["id"]) == [row.id for row in before]
    assert read_stops(ticker.root, history=True)["removed_at"].isna().all()
    assert read_rejected(ticker.root, history=True).empty

    ticker.store.take_back("main", ticker.store.state("main"))
    assert tree(ticker.root, "stops", "state") == untouched
    assert not month_file(ticker, "2023-01").parent.exists()
    assert not tree(ticker.root, "rejected")


def test_a_derived_table_is_remade_when_its_commit_is_not_the_one_that_stands(ticker: Ticker) -> None:
    ticker.tick(rows(30))
    ticker.fetch(b"".join([b'{"success": true, "code": 200, "nbData": 0, "data": []}']))
    ticker.apply(accept_removals=30)  # killed before the derived tables
    derived = ticker.store.derived(schema.SUPPRESSION_LIST, "main")
    assert derived
    assert derived.commit != ticker.store.state("main").commit
    ticker.tick([], accept_removals=30)
    assert ticker.store.tables.read_derived(schema.SUPPRESSION_LIST, "main").num_rows == 0


def test_a_month_file_that_was_deleted_is_written_again_from_the_next_answer(ticker: Ticker) -> None:
    ticker.tick(rows(30) + rows(30, first_id=100, month="2025-07"))
    month_file(ticker).unlink()
    ticker.tick([*rows(30), *rows(31, first_id=100, month="2025-07")])
    assert len(read_stops(ticker.root)) == 61


def test_an_unchanged_answer_only_moves_the_time_it_was_fetched(ticker: Ticker) -> None:
    ticker.tick(rows(30))
    files = {path.name for path in (ticker.root / "raw/account=main").iterdir()}
    ticker.tick(rows(30))
    assert {path.name for path in (ticker.root / "raw/account=main").iterdir()} == files
    landed = ticker.store.newest_answer("main")
    assert landed is not None
    assert landed.fetched_at == ticker.now
    assert landed.file.startswith(f"{ticker.now - timedelta(hours=1):%Y%m%dT%H}")


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://host/prefix",
        "s3://",
        "s3:///prefix",
        "s3://bucket//prefix",
        "s3://key:a-secret@bucket/prefix",
        "s3://a-secret@bucket/prefix",
        "s3://bucket/prefix?secret_key=a-secret",
        "gs://bucket/prefix#part",
        "abfs://container/prefix",
        "abfs://container:a-secret@account.dfs.core.windows.net/prefix",
        "s3://[bucket/prefix",
    ],
)
def test_a_uri_that_cannot_be_a_data_root_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="STOP_PIPELINE_DATA") as refused:
        Store(uri)
    assert "a-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "uri", ["s3://bucket", "s3://bucket/a/b/", "gs://bucket/a", "abfs://container@account.dfs.core.windows.net/a"]
)
def test_a_uri_is_shown_as_it_was_given_and_not_asked_for_before_it_is_used(uri: str) -> None:
    assert Store(uri).root == uri.rstrip("/")
    assert Store(uri).uri("stops", "main") == f"{uri.rstrip('/')}/stops/account=main"


SNAPSHOT_FOLDER = "snapshot/account=main"
MONTH_OF_SNAPSHOT = f"{SNAPSHOT_FOLDER}/created_month=2025-06/stop_snapshot.parquet"
NO_MONTH_OF_SNAPSHOT = f"{SNAPSHOT_FOLDER}/created_month={NO_MONTH}/stop_snapshot.parquet"


def kill_before_the_snapshot_is_whole(ticker: Ticker, listed: list[Row]) -> None:
    """Parse an answer, and end up as if the run had been killed before its last file."""
    ticker.fetch(answer_body(listed))
    write_table = Tables._write_table  # noqa: SLF001

    def killed(tables: Tables, account: str, name: str, *rest: Any) -> None:
        if NO_MONTH in name:
            raise KeyboardInterrupt
        write_table(tables, account, name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tables, "_write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            tick.parse_newest(ticker.store, "main", timezone=PARIS)


def test_a_snapshot_that_was_half_written_is_made_whole_though_the_answer_before_comes_again(ticker: Ticker) -> None:
    listed = rows(30) + rows(5, first_id=100, month="2025-07")
    ticker.tick(listed)
    before = tree(ticker.root, "snapshot")
    kill_before_the_snapshot_is_whole(ticker, [*rows(29), Row(77, created_at="2023-01-01 00:00:00")])

    assert ticker.tick(listed).outcome == "recognised"
    assert tree(ticker.root, "snapshot") == before


def test_a_month_of_another_snapshot_is_told_and_what_to_do_about_it_helps(ticker: Ticker) -> None:
    ticker.tick(rows(30))
    other = (ticker.root / MONTH_OF_SNAPSHOT).read_bytes()
    ticker.fetch(answer_body(rows(29)))
    tick.parse_newest(ticker.store, "main", timezone=PARIS)
    (ticker.root / MONTH_OF_SNAPSHOT).write_bytes(other)
    tick._just_parsed.clear()  # noqa: SLF001 – as another process has it

    with pytest.raises(StoreError, match=f"of another answer .* remove the folder {SNAPSHOT_FOLDER},"):
        ticker.apply()
    shutil.rmtree(ticker.root / SNAPSHOT_FOLDER)
    assert ticker.apply().counts.removed == 1


@pytest.mark.parametrize(
    "name",
    [
        "stops/account=main/created_month=2025-06/stops.parquet",
        "rejected/account=main/rejected.parquet",
        NO_MONTH_OF_SNAPSHOT,
        "suppression_list/account=main/suppression_list.parquet",
    ],
)
def test_a_file_that_another_program_wrote_is_told_by_a_sentence(ticker: Ticker, name: str) -> None:
    ticker.tick([*rows(30), {"id": None}])
    path = ticker.root / name
    with pq.ParquetFile(path) as file:
        others = file.read().replace_schema_metadata().drop_columns("phone_number")
    pq.write_table(others, path, store_schema=False)
    assert pq.read_metadata(path).metadata is None

    with pytest.raises(StoreError, match="no file of this package"):
        ticker.tick([*rows(29), {"id": "x"}])


def test_a_month_of_the_snapshot_that_another_program_wrote_is_replaced(ticker: Ticker) -> None:
    ticker.tick(rows(30))
    path = ticker.root / MONTH_OF_SNAPSHOT
    before = path.read_bytes()
    pq.write_table(pa.table({"x": [1]}), path, store_schema=False)
    ticker.tick(rows(30)[::-1])
    assert path.read_bytes() == before


def test_a_commit_of_an_older_version_is_read_with_the_figures_of_its_files(ticker: Ticker) -> None:
    ticker.tick(rows(40))
    figures = ticker.tick(rows(39)).state.figures
    file = ticker.root / "state/account=main.json"
    document = json.loads(file.read_bytes())
    for added_since in ("figures", "parent", "withheld_from"):
        del document[added_since]
    file.write_text(json.dumps(document))

    assert (figures.rows, figures.open_rows) == (40, 39)
    assert ticker.store.state("main").figures == figures
    applied = ticker.tick(rows(39))
    assert (applied.outcome, applied.state.figures) == ("recognised", figures)
    counts = ticker.tick(rows(41)).counts
    assert (counts.new, counts.restored, counts.unchanged) == (1, 1, 39)
