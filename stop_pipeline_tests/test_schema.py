"""What travels between the steps are pandas DataFrames with exactly the columns and dtypes that `schema` declares."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stop_pipeline import schema
from stop_pipeline.schema import LINEAGE, TableSchema, to_arrow, to_pandas
from stop_pipeline.smspartner.document import open_list
from stop_pipeline.smspartner.response import parse
from stop_pipeline.table.derive import stops_per_day, suppression_list
from stop_pipeline.table.merge import RemovalPolicy, apply, compare, merge_rejected, plan_merge
from stop_pipeline.table.state import State
from stop_pipeline_tests.support.syncing import IN_MEMORY, PARIS, START, Row, Syncer, response_body, rows

TABLES = [
    schema.LISTED,
    schema.REJECTED_ROWS,
    schema.STOP_SNAPSHOT,
    schema.STOPS,
    schema.REJECTED,
    schema.COMMITS,
    schema.SUPPRESSION_LIST,
    schema.STOPS_PER_DAY,
]
LISTED = [*rows(5), *rows(3, first_id=50, month="2025-07"), Row(90, "+33xxxxxxxxx"), Row(91, "tel:0639980009")]
MALFORMED = {"id": 0, "phoneNumber": "0639980077"}


@pytest.fixture(scope="module", params=["with rows", "without rows"])
def syncer(request: pytest.FixtureRequest) -> Iterator[Syncer]:
    """A data root after two syncs, of some rows or of none."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(Path(folder, "data"))
        syncer.sync([*LISTED, MALFORMED] if request.param == "with rows" else [])
        syncer.sync(LISTED[1:] if request.param == "with rows" else [Row(1)], accept_removals=9)
        if request.param == "without rows":
            syncer.sync([], accept_removals=1)
        yield syncer


def assert_declared(frame: pd.DataFrame, table: TableSchema) -> None:
    assert type(frame) is pd.DataFrame
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == table.dtypes
    assert list(frame.columns) == list(table.names)


@pytest.mark.parametrize(
    "body",
    [response_body([*LISTED, MALFORMED]), response_body([]), b'{"success": true, "nbData": 0, "data": {}}'],
    ids=["rows", "none", "none, as PHP writes it"],
)
@pytest.mark.parametrize("plain", [True, False], ids=["read by Arrow", "read by Python"])
def test_from_the_response_to_the_derived_tables_every_frame_has_the_declared_dtypes(
    tmp_path: Path, body: bytes, *, plain: bool
) -> None:
    path = tmp_path / "response"
    path.write_bytes(body if plain else body.replace(b'"data": [', b'"data": ["\xc3\xa9", ').replace(b", ]", b"]"))
    snapshot = parse(open_list(path, "json"), fetched_at=START, timezone=PARIS)
    assert_declared(snapshot.listed, schema.LISTED)
    assert_declared(snapshot.rejected, schema.REJECTED_ROWS)

    diff = compare(schema.STOPS.empty, snapshot.listed)
    plan = plan_merge(
        diff, unchanged_elsewhere=0, complete=True, policy=RemovalPolicy(), state=State(), fetched_at=START
    )
    stops = apply(schema.STOPS.empty, diff, plan, fetched_at=START)
    assert_declared(stops, schema.STOPS)
    diff = compare(stops, schema.LISTED.empty)
    assert_declared(diff.ended, schema.STOPS)
    assert_declared(diff.added.drop(columns="restored"), schema.LISTED)
    rejected = merge_rejected(
        schema.REJECTED.empty, snapshot.rejected, fetched_at=START, sha256="0" * 64, removals_withheld=False
    )
    assert_declared(rejected, schema.REJECTED)

    assert_declared(suppression_list(stops, rejected).numbers, schema.SUPPRESSION_LIST)
    assert_declared(stops_per_day(stops), schema.STOPS_PER_DAY)


def test_every_frame_that_the_store_gives_has_the_declared_dtypes(syncer: Syncer) -> None:
    store, state = syncer.store, syncer.store.state("main")
    info = store.snapshot_info("main")
    assert info is not None
    for month in [*state.months, "1999-01"]:
        assert_declared(store.read_stops("main", state, schema.STOPS.names, [month]), schema.STOPS)
    listed, malformed = store.read_snapshot("main", info, info.months)
    assert_declared(listed, schema.LISTED)
    assert_declared(store.read_stops("main", state, schema.STOPS.names), schema.STOPS)
    assert_declared(store.read_rejected("main", state), schema.REJECTED)
    assert_declared(malformed, schema.REJECTED_ROWS)
    assert_declared(store.read_commits("main", state), schema.COMMITS)
    for table in (schema.SUPPRESSION_LIST, schema.STOPS_PER_DAY):
        assert_declared(store.read_derived(table, "main")[0], table)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_frame_comes_back_from_arrow_as_it_was(table: TableSchema) -> None:
    values: dict[str, list[Any]] = {
        "int64": [1, 2**62],
        "Int64": [1, None],
        "str": ["é", "\U0001f600"],
        "bool": [True, False],
        "datetime64[us, UTC]": [pd.Timestamp("2025-06-01 10:00:00.000001", tz="UTC"), pd.Timestamp(0, tz="UTC")],
        "datetime64[us]": [pd.Timestamp("2025-06-01"), pd.Timestamp("2025-06-02")],
    }
    frame = pd.DataFrame(
        {
            column.name: pd.Series([values[column.types[1]][0], None] if column.nullable else values[column.types[1]])
            for column in table.columns
        }
    ).astype(table.dtypes)
    assert_declared(frame, table)
    arrow = to_arrow(frame.iloc[::-1], table)
    assert arrow.schema.equals(table.arrow)
    back = to_pandas(arrow).astype({name: dtype for name, dtype in table.dtypes.items() if dtype == "Int64"})
    pd.testing.assert_frame_equal(back, frame.iloc[::-1].reset_index(drop=True))
    assert_declared(to_pandas(to_arrow(table.empty, table)).astype(table.dtypes), table)
    assert_declared(table.empty, table)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_frame_that_breaks_its_schema_cannot_be_written(table: TableSchema) -> None:
    for column in table.columns:
        with pytest.raises(TypeError, match=f"{table.name} does not have the columns that it declares: {column.name}"):
            to_arrow(table.empty.drop(columns=column.name), table)
        with pytest.raises(TypeError, match=column.name):
            to_arrow(table.empty.astype({column.name: "object"}), table)
        if not column.nullable and column.types[1] not in ("int64", "bool"):
            with pytest.raises(TypeError, match=column.name):
                to_arrow(table.empty.reindex([0]).astype(table.empty.dtypes.to_dict(), errors="ignore"), table)


def test_every_column_says_what_it_holds_in_a_sentence() -> None:
    for table in [*TABLES, schema.RAW_STOP_LIST]:
        for column in table.columns:
            assert column.meaning.endswith(".")


def test_columns_are_made_from_columns_that_exist() -> None:
    tables = {table.name: {*table.names} for table in [*TABLES, schema.RAW_STOP_LIST]}
    tables["stops"].add(schema.CREATED_MONTH.name)
    for name, columns in LINEAGE.items():
        assert columns.keys() <= tables[name]
        assert {column for sources in columns.values() for column in sources} <= {
            (table, column) for table, names in tables.items() for column in names
        }
