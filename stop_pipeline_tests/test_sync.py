"""The promises of a sync, shown on real files: what is added, ended, withheld or refused, and what stays untouched."""

import json
from datetime import timedelta
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from stop_pipeline import read_rejected, read_stops, read_suppression_list, sync
from stop_pipeline.errors import KeyRefusedError, StoreError, UnreadableResponseError
from stop_pipeline.settings import Format
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline_tests.support.parsing import DATA
from stop_pipeline_tests.support.syncing import PARIS, START, Row, Syncer, response_body, rows, tree

EMPTY = b'{"success": true, "code": 200, "nbData": 0, "data": []}'


# What is added and what ends


@pytest.mark.parametrize("response_format", ["json", "xml"])
def test_the_documented_sample_gives_one_row_in_its_month(syncer: Syncer, response_format: Format) -> None:
    syncer.sync((DATA / f"sample-list.{response_format}").read_bytes(), response_format=response_format)

    stops = read_stops(syncer.root)
    assert len(stops) == 1
    row = stops.iloc[0]
    assert (row["id"], row["phone_number"], row["created_month"]) == (19, "+33xxxxxxxxx", "2015-07")
    assert str(row["created_at_local"]) == "2015-07-20 10:19:45"
    assert str(row["created_at"]) == "2015-07-20 08:19:45+00:00"
    assert [path.name for path in (syncer.root / "stops/account=main").iterdir()] == ["created_month=2015-07"]


def test_the_same_response_twice_leaves_every_file_as_it_was(syncer: Syncer) -> None:
    listed = rows(30) + rows(5, first_id=100, month="2024-02")
    folders = ("stops", "suppression_list", "stops_per_day", "snapshot", "commits")
    syncer.sync(listed)
    before = tree(syncer.root, *folders)
    inodes = {name: (syncer.root / name).stat().st_ino for name in before}

    merged = syncer.sync(listed)

    assert merged.outcome == "unchanged"
    assert (merged.counts.listed, merged.counts.unchanged, merged.months_written) == (35, 35, ())
    assert tree(syncer.root, *folders) == before
    assert {name: (syncer.root / name).stat().st_ino for name in before} == inodes
    assert merged.state.verified_at == syncer.now
    assert merged.state.applied_at == START + timedelta(hours=1)


def test_the_same_rows_in_another_order_leave_every_month_as_it_was(syncer: Syncer) -> None:
    syncer.up_to_stops(rows(30))
    before = tree(syncer.root, "stops")
    merged = syncer.up_to_stops(rows(30)[::-1])
    assert (merged.outcome, merged.months_written) == ("merged", ())
    assert tree(syncer.root, "stops") == before


def test_a_late_row_from_2016_rewrites_only_that_month(syncer: Syncer) -> None:
    listed = rows(30) + rows(5, first_id=100, month="2016-03") + rows(5, first_id=200, month="2024-02")
    syncer.up_to_stops(listed)
    files = tree(syncer.root, "stops")
    inodes = {name: (syncer.root / name).stat().st_ino for name in files}

    merged = syncer.up_to_stops([*listed, Row(999, "+33639989999", "2016-03-31 23:59:59")])

    assert merged.months_written == ("2016-03",)
    assert merged.counts.new == 1
    changed = {name for name, data in tree(syncer.root, "stops").items() if files.get(name) != data}
    assert changed == {"stops/account=main/created_month=2016-03/stops.parquet"}
    assert {name for name in files if (syncer.root / name).stat().st_ino != inodes[name]} == changed


def test_a_row_that_is_no_longer_listed_ends_and_one_that_comes_back_is_added_again(syncer: Syncer) -> None:
    listed = rows(30)
    syncer.up_to_stops(listed)
    first = syncer.now
    assert syncer.up_to_stops(listed[1:]).counts.removed == 1
    removed = syncer.now
    counts = syncer.up_to_stops(listed).counts

    assert (counts.restored, counts.new) == (1, 0)
    periods = read_stops(syncer.root, history=True).query("id == 1")
    ended = periods.iloc[0]
    assert (ended["first_seen_at"], ended["removed_at"]) == (first, removed)
    assert list(periods["removed_at"].isna()) == [False, True]
    assert list(periods["first_seen_at"])[1] == syncer.now


def test_an_altered_row_ends_and_is_added_in_the_month_that_it_moved_to(syncer: Syncer) -> None:
    listed = rows(30)
    syncer.up_to_stops(listed)
    merged = syncer.up_to_stops([Row(1, "+33639980001", "2024-12-01 00:00:00"), *listed[1:]])
    assert (merged.counts.changed, merged.counts.new, merged.counts.removed) == (1, 0, 0)
    assert merged.months_written == ("2024-12", "2025-06")
    assert len(read_stops(syncer.root)) == 30


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([Row(1)], [Row(1, created_at="2025-06-01 10:00:01")]),
        ([Row(1)], [Row(1, "+33639980002")]),
        ([Row(1)], [Row(2)]),
        ([Row(1, "12"), Row(2, "3")], [Row(1, "1"), Row(2, "23")]),
    ],
)
def test_whatever_is_altered_of_a_row_within_its_month_is_seen(
    syncer: Syncer, before: list[Row], after: list[Row]
) -> None:
    others = rows(30, first_id=100, month="2025-07")
    syncer.sync([*before, *others])
    syncer.sync([*after, *others])
    found = read_stops(syncer.root).query("id < 100")
    assert [*zip(found["id"], found["phone_number"], found["created_at_local"].astype("str"), strict=True)] == [
        (row.id, row.phone_number, row.created_at) for row in after
    ]


def test_a_response_with_fewer_rows_than_nb_data_adds_but_ends_nothing(syncer: Syncer) -> None:
    listed = rows(30)
    syncer.up_to_stops(listed)
    verified = syncer.now
    merged = syncer.up_to_stops([*listed[1:], Row(99)], nb_data=31)
    assert (merged.counts.new, merged.counts.removed, merged.counts.withheld) == (1, 0, 1)
    assert merged.state.withheld_because == "the response is not complete"
    assert merged.state.verified_at == verified
    assert len(read_stops(syncer.root)) == 31


# The order of responses


@pytest.mark.parametrize("earlier_by", [timedelta(0), timedelta(minutes=5)])
def test_a_response_fetched_no_later_than_the_newest_is_left_out(
    syncer: Syncer, earlier_by: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    syncer.sync(rows(30))
    before = tree(syncer.root)
    fetched = syncer.fetch(EMPTY, at=syncer.now - earlier_by)
    assert not fetched.in_order
    assert "check this machine's clock" in caplog.text
    assert tree(syncer.root) == before


def test_a_clock_that_jumps_ahead_and_back_loses_nothing(syncer: Syncer, caplog: pytest.LogCaptureFixture) -> None:
    syncer.sync(rows(30))
    now = syncer.now
    syncer.sync(rows(31), at=now + timedelta(days=400))
    before = tree(syncer.root)

    assert syncer.sync(rows(32), at=now + timedelta(hours=1)).outcome == "unchanged"
    assert "check this machine's clock" in caplog.text
    assert tree(syncer.root) == before

    assert syncer.sync(rows(32), at=now + timedelta(days=401)).counts.new == 1
    assert sorted(read_stops(syncer.root, as_of=now)["id"]) == list(range(1, 31))


def test_a_step_that_is_repeated_after_an_unchanged_list_finds_it_unchanged(syncer: Syncer) -> None:
    for _ in range(2):
        syncer.sync(rows(3))
    assert syncer.merge().outcome == "unchanged"


def test_a_response_no_later_than_the_commit_is_not_merged(syncer: Syncer) -> None:
    syncer.up_to_stops(rows(30))
    for path in (syncer.root / "raw/account=main").iterdir():
        path.unlink()
    before = tree(syncer.root, "stops", "state")
    merged = syncer.up_to_stops(rows(31), at=syncer.now - timedelta(minutes=5))
    assert (merged.outcome, merged.counts.new) == ("older", 0)
    assert tree(syncer.root, "stops", "state") == before


# Unreadable responses, and steps out of turn


@pytest.mark.parametrize("body", [b"<html>Service en maintenance</html>", b"", response_body(rows(3))[:-40]])
def test_a_response_that_is_not_a_list_is_not_kept_and_changes_nothing(syncer: Syncer, body: bytes) -> None:
    syncer.sync(rows(30))
    before = tree(syncer.root)
    with pytest.raises(UnreadableResponseError):
        syncer.sync(body)
    assert tree(syncer.root) == before


def test_a_response_that_is_broken_in_its_middle_is_kept_and_moves_nothing_else(syncer: Syncer) -> None:
    syncer.sync(rows(30))
    before = tree(syncer.root)
    with pytest.raises(UnreadableResponseError):
        syncer.sync(response_body(rows(31)).replace(b'"id": 17,', b'"id" 17,'))
    assert len(tree(syncer.root)) == len(before) + 1
    assert {name: data for name, data in tree(syncer.root).items() if not name.startswith("raw/")} == {
        name: data for name, data in before.items() if not name.startswith("raw/")
    }
    assert syncer.sync(rows(31)).info.builds_on == syncer.store.state("main").parent


def test_a_refused_key_names_the_variable_that_holds_it(syncer: Syncer) -> None:
    class Refused:
        secrets: tuple[str, ...] = ()

        def fetch(self, *_: Any) -> Any:
            raise KeyRefusedError("SMS Partner does not accept the API key.")

    with pytest.raises(
        KeyRefusedError, match="The key of the account “main” is read from SMSPARTNER_API_KEY"
    ) as raised:
        sync.fetch(syncer.store, "main", Refused())
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_each_step_says_which_one_has_to_come_first(syncer: Syncer) -> None:
    with pytest.raises(StoreError, match="materialize raw_stop_list first"):
        sync.parse(syncer.store, "main", timezone=PARIS)
    with pytest.raises(StoreError, match="Materialize stop_snapshot first"):
        sync.merge(syncer.store, "main", RemovalPolicy())
    for derive in (sync.derive_suppression_list, sync.derive_stops_per_day):
        with pytest.raises(StoreError, match="materialize stops first"):
            derive(syncer.store, "main")


def test_steps_in_stores_of_their_own_and_repeated_leave_what_they_leave_in_one(syncer: Syncer) -> None:
    other = Syncer(syncer.root.parent / "other")
    first: list[Any] = [*rows(50), *rows(20, first_id=1_000, month="2024-02"), {"id": 0}]
    for listed in (first, [Row(1, "+32470123456"), *first[3:]], first):
        syncer.sync(listed)
        other.fetch(response_body(listed))
        for _ in range(2):
            sync.parse(Syncer(other.root).store, "main", timezone=PARIS)
        for _ in range(2):
            sync.merge(Syncer(other.root).store, "main", RemovalPolicy())
        for _ in range(2):
            sync.derive_tables(Syncer(other.root).store, "main")
        folders = [entry.name for entry in syncer.root.iterdir() if entry.name not in ("accounts", ".work")]
        assert tree(syncer.root, *folders) == tree(other.root, *folders)


# Malformed rows and derived tables


def test_a_malformed_row_is_kept_in_rejected_and_its_number_is_suppressed(syncer: Syncer) -> None:
    malformed = {"id": 7, "phoneNumber": "06 39 98 00 77", "createdAt": "2025-02-30 10:00:00"}
    syncer.sync([*rows(3), malformed])
    first = syncer.now

    rejected = read_rejected(syncer.root)
    assert list(rejected["reason"]) == ["no usable createdAt"]
    assert list(rejected["phone_number"]) == ["+33639980077"]
    suppressed = read_suppression_list(syncer.root).set_index("phone_number")
    assert suppressed.loc["+33639980077", "origin"] == "rejected row"
    assert suppressed["first_stop_at"].isna().tolist() == [False, False, False, True]
    assert len(suppressed) == 4

    syncer.sync(rows(3))
    assert read_rejected(syncer.root).empty
    ended = read_rejected(syncer.root, history=True).iloc[0]
    assert (ended["first_seen_at"], ended["removed_at"]) == (first, syncer.now)
    assert len(read_suppression_list(syncer.root)) == 3


def test_of_a_conflicting_row_the_text_is_kept_as_it_was_spelled(syncer: Syncer) -> None:
    syncer.sync([Row(1, "0639980001"), Row(1, "0639980002")])
    assert read_rejected(syncer.root)["raw"].tolist() == [
        '{"createdAt":"2025-06-01 10:00:00","id":1,"phoneNumber":"0639980002"}'
    ]


# What lies in the data root


def test_accounts_do_not_touch_each_other(syncer: Syncer) -> None:
    paris, lyon = Syncer(syncer.root, "paris"), Syncer(syncer.root, "lyon")
    paris.sync(rows(30))
    before = tree(syncer.root)
    lyon.sync(rows(25, first_id=500))
    assert {name: data for name, data in tree(syncer.root).items() if "account=paris" in name} == before
    assert read_stops(syncer.root)["account"].value_counts().to_dict() == {"paris": 30, "lyon": 25}


def test_everything_below_the_data_root_is_readable_by_its_owner_only(syncer: Syncer) -> None:
    syncer.sync([*rows(30), {"id": None}])
    modes = {path: path.stat().st_mode & 0o777 for path in syncer.root.rglob("*")}
    assert {oct(mode) for path, mode in modes.items() if path.is_dir()} == {"0o700"}
    assert {oct(mode) for path, mode in modes.items() if path.is_file()} == {"0o600"}


def test_no_phone_number_is_in_the_state_or_in_a_log(syncer: Syncer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        syncer.sync([*rows(30), {"id": 0, "phoneNumber": "+33639980077"}])
        syncer.sync(rows(1))
    text = (
        json.dumps({name: data.decode() for name, data in tree(syncer.root, "state", "accounts").items()}) + caplog.text
    )
    assert "39980" not in text
    assert "Account main:" in text


def test_pandas_duckdb_and_polars_read_every_folder(syncer: Syncer) -> None:
    syncer.sync([*rows(3), *rows(2, first_id=50, month="2025-07"), {"id": None}])
    for table in ("snapshot", "stops", "rejected", "suppression_list", "stops_per_day"):
        folder = syncer.root / table
        files = [str(file) for file in folder.rglob("*.parquet")]
        count = sum(pq.read_metadata(file).num_rows for file in files)
        assert count > 0
        assert len(pd.read_parquet(folder)) == count
        assert len(duckdb.read_parquet(files, hive_partitioning=True).fetchall()) == count
        assert pl.read_parquet(folder).height == count
