"""How tables lie on disk: order, compression, statistics, the commit, kept responses, and damage that is told."""

import dataclasses
import json
import os
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stop_pipeline import read_stops, schema, sync
from stop_pipeline.errors import ConfigurationError, StoreError
from stop_pipeline.settings import Format
from stop_pipeline.table.periods import fingerprint
from stop_pipeline.table.state import DerivedInfo, State
from stop_pipeline.table.store import Store
from stop_pipeline_tests.support.syncing import Syncer, response_body, rows, tree

MONTH = "stops/account=main/created_month=2025-06/stops.parquet"
SNAPSHOT = "snapshot/account=main/stop_snapshot.parquet"


# Files


def test_a_month_is_sorted_compressed_and_has_statistics_by_which_readers_prune(syncer: Syncer) -> None:
    syncer.sync(rows(40)[::-1])
    with pq.ParquetFile(syncer.root / MONTH) as file:
        table = file.read()
        group = file.metadata.row_group(0)
    keys = list(zip(table["created_at_local"].to_pylist(), table["id"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    for position in range(group.num_columns):
        column = group.column(position)
        assert column.compression == "ZSTD"
        assert column.statistics is not None
    fragment = next(ds.dataset(syncer.root / MONTH).get_fragments())
    assert fragment.split_by_row_group(ds.field("id") > 1000) == []


def test_every_file_has_the_declared_schema(syncer: Syncer) -> None:
    syncer.sync([*rows(3), {"id": None}])
    tables = (schema.STOPS, schema.REJECTED, schema.COMMITS, schema.SUPPRESSION_LIST, schema.STOPS_PER_DAY)
    declared = {table.name: table.arrow for table in tables} | {"snapshot": schema.STOP_SNAPSHOT.arrow}
    files = [*syncer.root.rglob("*.parquet")]
    assert {path.relative_to(syncer.root).parts[0] for path in files} == declared.keys()
    for path in files:
        assert pq.read_schema(path).remove_metadata().equals(declared[path.relative_to(syncer.root).parts[0]])


def test_the_snapshot_holds_good_rows_by_month_and_then_the_malformed_ones(syncer: Syncer) -> None:
    syncer.sync([*rows(3), *rows(2, first_id=50, month="2025-07"), {"id": None}])
    with pq.ParquetFile(syncer.root / SNAPSHOT) as file:
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [3, 2, 1]
        assert file.read()["raw"].null_count == 5


# Fingerprints


def test_the_fingerprint_does_not_depend_on_how_a_table_came_about(syncer: Syncer) -> None:
    syncer.sync(rows(20))
    stops = syncer.store.read_stops("main", syncer.store.state("main"), schema.STOPS.names, ["2025-06"])
    joined = pd.concat([stops.iloc[5:8], stops.iloc[8:12]])
    assert fingerprint(stops.iloc[5:12]) == fingerprint(joined) == fingerprint(joined.reset_index(drop=True))
    assert fingerprint(stops.iloc[:0]) == fingerprint(schema.STOPS.empty)


# The commit


def test_the_state_says_what_was_merged_last(syncer: Syncer) -> None:
    merged = syncer.sync([*rows(30), rows(1)[0]])
    document = json.loads((syncer.root / "state/account=main.json").read_text())
    assert document["schema_version"] == schema.SCHEMA_VERSION
    times = {datetime.fromisoformat(document[name]) for name in ("applied_at", "verified_at")}
    assert times == {syncer.now}
    assert document["counts"]["new"] == 30
    assert (document["rows"], document["duplicates"], document["staged"]) == (31, 1, {})
    assert document["months"]["2025-06"]["open_rows"] == 30
    assert syncer.store.state("main") == merged.state
    assert merged.state.open_rows == merged.state.total_rows == 30


def test_every_response_that_was_merged_is_recorded(syncer: Syncer) -> None:
    first, second = syncer.sync(rows(3)).state, syncer.sync(rows(4)[::-1], nb_data=9).state
    third = syncer.sync(rows(4)[::-1], nb_data=9).state  # an incomplete list counts as known up to its last merge
    assert syncer.sync(rows(5)).state.applied_at != syncer.sync(rows(5)).state.verified_at  # unchanged
    commits = syncer.store.read_commits("main", syncer.store.state("main")).iloc[:-1]
    assert commits.to_dict("list") == {
        "merged_at": [first.applied_at, second.applied_at, third.applied_at],
        "sha256": [first.sha256, second.sha256, second.sha256],
        "rows": [3, 4, 4],
        "complete": [True, False, False],
        "withheld": [False, False, False],
    }


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (f'{{"schema_version": {schema.SCHEMA_VERSION + 1}}}', f"reads up to {schema.SCHEMA_VERSION}: install the ver"),
        ("accounts/account=main.json", "it is damaged, or was written by another program. Restore it from a backup"),
        ("raw/account=main/latest.json", "it is damaged, or was written by another program. Restore it from a backup"),
    ],
)
def test_a_file_that_is_no_state_of_this_version_is_refused(syncer: Syncer, file: str, words: str) -> None:
    syncer.sync(rows(3))
    path = syncer.root / "state/account=main.json"
    path.write_text(file if file.startswith("{") else (syncer.root / file).read_text())
    for use in (lambda: read_stops(syncer.root), lambda: syncer.sync(rows(4))):
        with pytest.raises(StoreError, match=words):
            use()


@pytest.mark.parametrize("version", [-1, 0, None, "3"])
def test_a_state_without_a_schema_version_is_refused_as_damaged(syncer: Syncer, version: object) -> None:
    syncer.sync(rows(3))
    path = syncer.root / "state/account=main.json"
    state = json.loads(path.read_text()) | {"schema_version": version}
    del state["state_sha256"]
    path.write_text(json.dumps(state))
    with pytest.raises(
        StoreError, match=r"it is damaged, or was written by another program\. Restore it from a backup"
    ):
        read_stops(syncer.root)


def test_a_state_with_a_damaged_bit_is_refused_or_read_as_it_was(syncer: Syncer) -> None:
    syncer.sync(rows(3))
    syncer.sync(rows(4, month="2025-07"))
    path, random = syncer.root / "state/account=main.json", np.random.default_rng(0)
    sound, committed = path.read_bytes(), syncer.store.state("main")
    refused = 0
    for bit in random.choice(8 * len(sound), 300, replace=False).tolist():
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert syncer.store.state("main") == committed
        except StoreError:
            refused += 1
    assert refused > 200


def test_a_state_of_version_2_which_has_no_seal_is_read_and_sealed_by_the_next_commit(syncer: Syncer) -> None:
    syncer.sync(rows(3))
    path = syncer.root / "state/account=main.json"
    document = json.loads(path.read_text()) | {"schema_version": 2}
    del document["state_sha256"]
    path.write_text(json.dumps(document))
    assert len(read_stops(syncer.root)) == 3
    assert syncer.sync(rows(4)).counts.new == 1
    assert json.loads(path.read_text()).keys() - document.keys() == {"state_sha256"}


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 2', '{"schema_version": 2}', "\x00"])
def test_a_damaged_state_is_told_and_not_taken_for_none(syncer: Syncer, text: str) -> None:
    syncer.sync(rows(3))
    (syncer.root / "state/account=main.json").write_text(text)
    before = tree(syncer.root)
    for use in (lambda: read_stops(syncer.root), lambda: syncer.sync(rows(4))):
        with pytest.raises(StoreError, match=r"account=main\.json"):
            use()
    assert tree(syncer.root) == before


def test_what_a_killed_sync_has_staged_is_invisible_and_is_removed_by_the_next(syncer: Syncer) -> None:
    syncer.sync(rows(30))
    before = tree(syncer.root, "stops", "state")
    with syncer.store.locked("main"):
        syncer.store.files.stage("main", b"half a month")
    assert len(read_stops(syncer.root)) == 30
    assert tree(syncer.root, "stops", "state") == before
    syncer.sync(rows(30))
    assert not list((syncer.root / ".work/staged").rglob("*.*"))


def test_a_commit_that_is_not_published_yet_is_read_where_it_is_staged_and_published_by_the_next(
    syncer: Syncer,
) -> None:
    syncer.sync([*rows(30), *rows(3, first_id=50, month="2023-01")])
    published = read_stops(syncer.root, history=True)
    committed = staged_instead_of_published(syncer)
    assert not (syncer.root / MONTH).exists()

    pd.testing.assert_frame_equal(read_stops(syncer.root, history=True), published)

    with syncer.store.locked("main"):
        pass
    assert (syncer.root / MONTH).exists()
    assert syncer.store.state("main") == committed
    pd.testing.assert_frame_equal(read_stops(syncer.root, history=True), published)


def staged_instead_of_published(syncer: Syncer) -> State:
    """Put the files of the last commit back to where they were staged, as if it had been killed before it published."""
    store, state = syncer.store, syncer.store.state("main")
    names = [f"stops/account=main/created_month={month}/stops.parquet" for month in state.months]
    with store.locked("main"):
        staged = {name: store.files.stage("main", (syncer.root / name).read_bytes()) for name in names}
        for name in names:
            store.files.remove(name)
        store.write_state("main", dataclasses.replace(state, staged=staged))
    return state


# Damage


@pytest.mark.parametrize("name", [MONTH, "rejected/account=main/rejected.parquet"])
def test_a_file_that_is_damaged_or_that_another_program_wrote_is_told_by_a_sentence(syncer: Syncer, name: str) -> None:
    syncer.sync([*rows(30), {"id": None}])
    path = syncer.root / name
    original = path.read_bytes()
    with pq.ParquetFile(path) as file:
        others = file.read().replace_schema_metadata().drop_columns("phone_number")
    pq.write_table(others, path, store_schema=False)
    for harm in (path.read_bytes(), b"not Parquet", b"", original[:-200], original[:4] + b"\xff" * 60 + original[64:]):
        path.write_bytes(harm)
        before = tree(syncer.root, "stops", "rejected", "state")
        with pytest.raises(StoreError, match=f"Cannot read .*{name}: it is damaged"):
            syncer.sync([*rows(29), {"id": "x"}])
        assert tree(syncer.root, "stops", "rejected", "state") == before


def test_a_kept_response_that_is_missing_or_damaged_is_told_and_a_new_one_is_merged(syncer: Syncer) -> None:
    syncer.sync(rows(30))
    syncer.fetch(response_body(rows(31)))
    earlier, kept = sorted((syncer.root / "raw/account=main").glob("*.zst"))
    harms = (
        lambda: kept.write_bytes(kept.read_bytes()[:30]),
        lambda: kept.write_bytes(earlier.read_bytes()),
        kept.unlink,
    )
    for harm in harms:
        harm()
        with pytest.raises(StoreError, match=kept.name):
            sync.parse(syncer.store, "main", timezone=syncer.timezone)
    assert syncer.sync(rows(32)).counts.new == 2


# Kept responses


XML = b"<result><entry>true</entry><entry>200</entry><entry>0</entry><entry></entry></result>"


@pytest.mark.parametrize(("response_format", "body"), [("json", response_body(rows(30))), ("xml", XML)])
def test_a_kept_response_is_a_stream_that_any_program_unpacks(
    syncer: Syncer, response_format: Format, body: bytes
) -> None:
    syncer.fetch(body, response_format=response_format)
    (path,) = (syncer.root / "raw/account=main").glob("*.zst")
    assert path.name.endswith(f".{response_format}.zst")
    with pa.input_stream(str(path), compression="zstd") as unpacked:
        assert unpacked.read() == body
    (kept,) = syncer.store.responses.all("main")
    assert (kept.fetched_at, kept.format) == (syncer.now, response_format)
    assert syncer.store.responses.read("main", kept)[0] == body


def test_a_large_response_is_kept_in_several_frames_of_one_stream(syncer: Syncer) -> None:
    body = response_body(rows(3)).replace(b"{", b"{" + b" " * 40_000_000, 1)
    syncer.fetch(body)
    (kept,) = syncer.store.responses.all("main")
    assert syncer.store.responses.read("main", kept)[0] == body


def test_an_unchanged_response_only_moves_the_time_at_which_it_was_fetched(syncer: Syncer) -> None:
    syncer.sync(rows(30))
    files = {path.name for path in (syncer.root / "raw/account=main").iterdir()}
    fetched = syncer.fetch(response_body(rows(30)))
    assert not fetched.changed
    assert {path.name for path in (syncer.root / "raw/account=main").iterdir()} == files
    newest = syncer.store.responses.newest("main")
    assert newest is not None
    assert newest.fetched_at == syncer.now
    assert newest.file.startswith(f"{syncer.now - timedelta(hours=1):%Y%m%dT%H}")


def test_a_response_whose_file_is_gone_is_kept_again(syncer: Syncer) -> None:
    syncer.sync(rows(30))
    (path,) = (syncer.root / "raw/account=main").glob("*.zst")
    path.unlink()
    syncer.sync(rows(30))
    assert len(syncer.store.responses.all("main")) == 1


# Which accounts have what


@pytest.mark.parametrize(
    ("root", "told"),
    [(os.fsdecode(b"/tmp/d\xe9"), r"'/tmp/d\\udce9', is not UTF-8"), ("~nobody-of-that-name/data", "has no such user")],
)
def test_a_data_root_that_cannot_be_used_is_refused_before_anything_is_written(root: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Store(root)


def test_accounts_are_seen_wherever_they_have_anything(syncer: Syncer) -> None:
    Syncer(syncer.root, "paris").sync(rows(3))
    Syncer(syncer.root, "lyon").fetch(response_body(rows(3)))
    (syncer.root / "raw/account=Not-Ours").mkdir()
    (syncer.root / "note.txt").write_text("not ours")
    assert syncer.store.accounts_seen() == ["lyon", "paris"]
    assert syncer.store.committed_accounts() == ["paris"]


def test_a_derived_table_that_breaks_its_schema_cannot_be_written(syncer: Syncer) -> None:
    nameless = schema.SUPPRESSION_LIST.empty.reindex([0]).astype({"stop_count": "Int64"})
    with syncer.store.locked("main"), pytest.raises(TypeError, match="suppression_list does not have the columns"):
        syncer.store.write_derived(schema.SUPPRESSION_LIST, "main", nameless, DerivedInfo("commit", rows=1))
    assert not (syncer.root / "suppression_list").exists()
