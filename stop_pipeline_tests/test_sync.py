"""The promises of a sync, shown on real files: what is added, ended, withheld or refused, and what stays untouched."""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline import read_rejected, read_stops, read_stops_per_day, read_suppression_list, sync
from stop_pipeline.errors import ForeignListError, KeyRefusedError, StoreError, UnreadableResponseError
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.settings import Format
from stop_pipeline.table.removals import RemovalPolicy
from stop_pipeline_tests.support.parsing import DATA
from stop_pipeline_tests.support.syncing import IN_MEMORY, PARIS, START, Row, Syncer, response_body, rows, tree

EMPTY = b'{"success": true, "code": 200, "nbData": 0, "data": []}'


@pytest.fixture
def syncer() -> Iterator[Syncer]:
    """Syncs into a data root in memory: no machine ends here."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Syncer(Path(folder, "data"))


def merge(syncer: Syncer, listed: Any, **options: Any) -> sync.Merged:
    """The steps up to `stops`."""
    accept_removals = options.pop("accept_removals", None)
    at = options.pop("at", None)
    syncer.fetch(listed if isinstance(listed, bytes) else response_body(listed, **options), at=at)
    return syncer.merge(accept_removals=accept_removals)


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
    merge(syncer, rows(30))
    before = tree(syncer.root, "stops")
    merged = merge(syncer, rows(30)[::-1])
    assert (merged.outcome, merged.months_written) == ("merged", ())
    assert tree(syncer.root, "stops") == before


def test_a_late_row_from_2016_rewrites_only_that_month(syncer: Syncer) -> None:
    listed = rows(30) + rows(5, first_id=100, month="2016-03") + rows(5, first_id=200, month="2024-02")
    merge(syncer, listed)
    files = tree(syncer.root, "stops")
    inodes = {name: (syncer.root / name).stat().st_ino for name in files}

    merged = merge(syncer, [*listed, Row(999, "+33639989999", "2016-03-31 23:59:59")])

    assert merged.months_written == ("2016-03",)
    assert merged.counts.new == 1
    changed = {name for name, data in tree(syncer.root, "stops").items() if files.get(name) != data}
    assert changed == {"stops/account=main/created_month=2016-03/stops.parquet"}
    assert {name for name in files if (syncer.root / name).stat().st_ino != inodes[name]} == changed


def test_a_row_that_is_no_longer_listed_ends_and_one_that_comes_back_is_added_again(syncer: Syncer) -> None:
    listed = rows(30)
    merge(syncer, listed)
    first = syncer.now
    assert merge(syncer, listed[1:]).counts.removed == 1
    removed = syncer.now
    counts = merge(syncer, listed).counts

    assert (counts.restored, counts.new) == (1, 0)
    periods = read_stops(syncer.root, history=True).query("id == 1")
    ended = periods.iloc[0]
    assert (ended["first_seen_at"], ended["removed_at"]) == (first, removed)
    assert list(periods["removed_at"].isna()) == [False, True]
    assert list(periods["first_seen_at"])[1] == syncer.now


def test_an_altered_row_ends_and_is_added_in_the_month_that_it_moved_to(syncer: Syncer) -> None:
    listed = rows(30)
    merge(syncer, listed)
    merged = merge(syncer, [Row(1, "+33639980001", "2024-12-01 00:00:00"), *listed[1:]])
    assert (merged.counts.changed, merged.counts.new, merged.counts.removed) == (1, 0, 0)
    assert merged.months_written == ("2024-12", "2025-06")
    assert len(read_stops(syncer.root)) == 30


def test_a_response_with_fewer_rows_than_nb_data_adds_but_ends_nothing(syncer: Syncer) -> None:
    listed = rows(30)
    merge(syncer, listed)
    verified = syncer.now
    merged = merge(syncer, [*listed[1:], Row(99)], nb_data=31)
    assert (merged.counts.new, merged.counts.removed, merged.counts.withheld) == (1, 0, 1)
    assert merged.state.withheld_because == "the response is not complete"
    assert merged.state.verified_at == verified
    assert len(read_stops(syncer.root)) == 31


# The removal policy


@pytest.mark.parametrize(
    ("stored", "gone", "withheld"),
    [
        (1000, 50, False),  # the share
        (1000, 51, True),
        (400, 20, False),  # twenty are always allowed
        (400, 21, True),
        (40, 20, False),  # but never more than half
        (39, 20, True),
        (2, 1, False),
        (1, 1, True),
        (30, 30, True),  # suddenly empty
    ],
)
def test_removals_beyond_the_policy_are_withheld(syncer: Syncer, stored: int, gone: int, *, withheld: bool) -> None:
    listed = rows(stored)
    merge(syncer, listed)
    merged = merge(syncer, listed[gone:])
    assert (merged.counts.withheld, merged.counts.removed) == ((gone, 0) if withheld else (0, gone))
    assert (merged.state.withheld_because is not None) is withheld
    assert len(read_stops(syncer.root)) == (stored if withheld else stored - gone)


def test_a_slow_drain_is_withheld_and_goes_on_after_24_hours(syncer: Syncer) -> None:
    listed = rows(100)
    merge(syncer, listed)
    merge(syncer, listed[:80])
    for size in (60, 40, 20, 10, 5, 3, 2, 1):
        assert merge(syncer, listed[:size]).counts.withheld == 80 - size
    assert len(read_stops(syncer.root)) == 80
    merged = merge(syncer, listed[:60], at=START + timedelta(hours=26))
    assert (merged.counts.removed, merged.counts.withheld) == (20, 0)
    assert merged.state.removals == (dataclasses.replace(merged.state.removals[0], rows=20, open_rows=80),)


def test_removals_that_a_person_accepted_do_not_count_for_the_24_hours(syncer: Syncer) -> None:
    listed = rows(100)
    merge(syncer, listed)
    assert merge(syncer, listed[:60], accept_removals=40).state.removals == ()
    merged = merge(syncer, listed[:40])
    assert (merged.counts.removed, merged.counts.withheld) == (20, 0)
    assert merge(syncer, listed[:39]).counts.withheld == 1


def test_withheld_removals_can_be_accepted_with_the_identical_next_response(syncer: Syncer) -> None:
    merge(syncer, rows(100))
    merge(syncer, rows(40))
    assert len(read_stops(syncer.root)) == 100

    merged = merge(syncer, rows(40), accept_removals=60)

    assert (merged.outcome, merged.counts.removed) == ("merged", 60)
    assert merged.state.accepted_removals == 60
    assert len(read_stops(syncer.root)) == 40


def test_an_acceptance_without_a_new_response_changes_nothing_and_says_what_to_do(
    syncer: Syncer, caplog: pytest.LogCaptureFixture
) -> None:
    syncer.sync(rows(100))
    syncer.sync(rows(40))
    before = tree(syncer.root)

    merged = syncer.merge(accept_removals=60)  # `stops` alone, as one can materialize it in the UI

    assert merged.outcome == "unchanged"
    assert "are accepted with the next response: materialize all assets" in caplog.text
    assert tree(syncer.root) == before
    assert merge(syncer, rows(40), accept_removals=60).counts.removed == 60


def test_what_is_added_meanwhile_does_not_let_withheld_removals_through(syncer: Syncer) -> None:
    listed = [*rows(400)[21:], *rows(121, first_id=1000)]  # 21 of 400 gone, and 521 rows open afterwards
    merge(syncer, rows(400))
    assert merge(syncer, listed).counts.withheld == 21

    merged = merge(syncer, listed)

    assert (merged.counts.withheld, merged.counts.removed) == (21, 0)
    assert merged.state.withheld_from == 400
    assert merged.state.withheld_because == (
        "21 rows no longer listed and 0 rows altered, exceed the 20 of 400 that may end within 24 hours"
    )
    assert len(read_stops(syncer.root)) == 521


def test_withheld_rows_that_come_back_leave_no_trace_and_the_policy_as_it_was(syncer: Syncer) -> None:
    listed = [*rows(400), *rows(121, first_id=1000)]
    merge(syncer, rows(400))
    merge(syncer, listed[21:])
    before = tree(syncer.root, "stops")

    back = merge(syncer, listed)

    assert (back.counts.unchanged, back.counts.restored, back.months_written) == (521, 0, ())
    assert (back.state.withheld_because, back.state.withheld_from) == (None, None)
    assert tree(syncer.root, "stops") == before
    counts = merge(syncer, listed[26:]).counts  # 5 % of 521
    assert (counts.withheld, counts.removed) == (0, 26)


GROWTH = st.lists(st.tuples(st.sampled_from([0, 0, 1, 50, 500]), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(3, 450), st.data(), st.integers(0, 500), GROWTH)
def test_no_responses_that_repeat_or_only_add_let_withheld_removals_through(
    stored: int, data: st.DataObject, added: int, growth: list[tuple[int, bool]]
) -> None:
    gone = data.draw(st.integers(min(stored // 2, max(stored // 20, 20)) + 1, stored - 1))
    listed = [*rows(stored)[gone:], *rows(added, first_id=10_000)]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(Path(folder))
        merge(syncer, rows(stored))
        assert merge(syncer, listed).counts.withheld == gone
        for more, complete in growth:
            listed = [*listed, *rows(more, first_id=20_000 + len(listed))]
            counts = merge(syncer, listed, nb_data=len(listed) + (not complete)).counts
            assert (counts.withheld, counts.removed) == (gone, 0)
            assert len(read_stops(syncer.root)) == len(listed) + gone

        accepted = merge(syncer, listed, accept_removals=gone)

        assert (accepted.counts.removed, accepted.state.withheld_from) == (gone, None)
        assert len(read_stops(syncer.root)) == len(listed)


def test_an_accepted_number_that_is_exceeded_withholds_all(syncer: Syncer) -> None:
    merge(syncer, rows(100))
    counts = merge(syncer, rows(98), accept_removals=1).counts
    assert (counts.withheld, counts.removed) == (2, 0)


def test_accepting_never_overrides_completeness(syncer: Syncer) -> None:
    merge(syncer, rows(100))
    counts = merge(syncer, rows(40), nb_data=41, accept_removals=100).counts
    assert (counts.withheld, counts.removed) == (60, 0)


def test_an_emptied_list_can_be_accepted(syncer: Syncer) -> None:
    syncer.sync(rows(100))
    assert syncer.sync([], accept_removals=100).counts.removed == 100
    assert read_stops(syncer.root).empty
    assert read_suppression_list(syncer.root).empty


def test_an_altered_row_whose_end_is_withheld_is_open_twice_until_it_is_accepted(syncer: Syncer) -> None:
    listed = rows(30)
    merge(syncer, listed)
    altered = [Row(row.id, "+33639989999", row.created_at) for row in listed]
    merged = merge(syncer, altered)
    assert (merged.counts.changed, merged.counts.withheld, merged.state.doubled_open_ids) == (30, 30, 30)
    assert merged.counts.withheld_altered == 30
    assert merged.state.withheld_because is not None
    assert "0 rows no longer listed and 30 rows altered" in merged.state.withheld_because
    assert len(read_stops(syncer.root)) == 60

    again = merge(syncer, altered)
    assert again.state.withheld_because == merged.state.withheld_because
    assert (again.counts.changed, again.counts.withheld, again.counts.withheld_altered) == (0, 30, 30)

    accepted = merge(syncer, altered, accept_removals=30)
    assert (accepted.counts.removed, accepted.counts.withheld, accepted.state.doubled_open_ids) == (30, 0, 0)
    assert set(read_stops(syncer.root)["phone_number"]) == {"+33639989999"}


# Another account's list, and one that was renumbered


def test_a_list_that_shares_no_id_with_twenty_open_rows_is_refused_as_a_whole(syncer: Syncer) -> None:
    syncer.sync(rows(20))
    before = tree(syncer.root, "stops", "state", "suppression_list")
    others = [dataclasses.replace(row, phone_number="+33639989999") for row in rows(20, first_id=1000)]
    with pytest.raises(ForeignListError, match="belongs to another account"):
        syncer.sync(others, accept_removals=20)
    assert tree(syncer.root, "stops", "state", "suppression_list") == before


def test_a_list_that_the_provider_renumbered_is_withheld_and_can_be_accepted(syncer: Syncer) -> None:
    listed = rows(60)
    merge(syncer, listed)
    other_ids = [dataclasses.replace(row, id=row.id + 5_000) for row in listed]
    merged = merge(syncer, [*other_ids, Row(9_000)])
    assert (merged.counts.changed, merged.counts.new, merged.counts.withheld) == (60, 1, 60)
    assert len(read_stops(syncer.root)) == 121
    again = merge(syncer, [*other_ids, Row(9_000)])
    assert again.state.withheld_because == merged.state.withheld_because
    assert again.counts.withheld_altered == 60

    accepted = merge(syncer, [*other_ids, Row(9_000)], accept_removals=60)
    assert (accepted.counts.withheld, accepted.state.withheld_because) == (0, None)
    assert sorted(read_stops(syncer.root)["id"]) == [*(row.id for row in other_ids), 9_000]


def test_a_list_whose_rows_all_moved_to_another_month_is_not_another_accounts(syncer: Syncer) -> None:
    merge(syncer, rows(20))
    counts = merge(syncer, rows(20, month="2025-07")).counts
    assert (counts.changed, counts.new, counts.withheld) == (20, 0, 20)


def test_with_nineteen_open_rows_a_list_of_other_ids_is_added(syncer: Syncer) -> None:
    merge(syncer, rows(19))
    assert merge(syncer, rows(19, first_id=1000, month="2025-03")).counts.new == 19


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


def test_a_response_no_later_than_the_commit_is_not_merged(syncer: Syncer) -> None:
    merge(syncer, rows(30))
    for path in (syncer.root / "raw/account=main").iterdir():
        path.unlink()
    before = tree(syncer.root, "stops", "state")
    merged = merge(syncer, rows(31), at=syncer.now - timedelta(minutes=5))
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
    with pytest.raises(StoreError, match="materialize stop_snapshot first"):
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
            sync.derive_suppression_list(Syncer(other.root).store, "main")
            sync.derive_stops_per_day(Syncer(other.root).store, "main")
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


@pytest.mark.parametrize(("listed", "nb_data"), [(rows(10), None), (rows(100), 101)], ids=["withheld", "not complete"])
def test_a_rejected_row_stays_while_removals_are_withheld(
    syncer: Syncer, listed: list[Row], nb_data: int | None
) -> None:
    malformed = {"id": "x", "phoneNumber": "+33639980077", "createdAt": "2025-02-03 10:00:00"}
    merge(syncer, [*rows(100), malformed])
    merge(syncer, listed, nb_data=nb_data)
    assert len(read_rejected(syncer.root)) == 1


def test_every_number_of_an_open_row_is_suppressed_once(syncer: Syncer) -> None:
    syncer.sync([Row(1, "0639980001"), Row(2, "+33639980001", "2025-07-01 10:00:00"), Row(3, "+33639980002")])
    suppressed = read_suppression_list(syncer.root)
    assert list(suppressed["phone_number"]) == ["+33639980001", "+33639980002"]
    first = suppressed.iloc[0]
    assert (str(first["first_stop_at"]), str(first["last_stop_at"]), first["stop_count"]) == (
        "2025-06-01 08:00:00+00:00",
        "2025-07-01 08:00:00+00:00",
        2,
    )


def test_stops_per_day_counts_each_id_once_on_the_day_it_was_last_listed_with(syncer: Syncer) -> None:
    listed = [*rows(4), Row(50, "+12025550123", "2025-06-02 23:30:00")]
    syncer.sync(listed)
    syncer.sync([Row(1, listed[0].phone_number, "2025-05-01 00:00:00"), *listed[2:]])  # one altered, one removed
    per_day = read_stops_per_day(syncer.root)
    assert [(str(row.day)[:10], row.country, row.stops) for row in per_day.itertuples()] == [
        ("2025-05-01", "FR", 1),
        ("2025-06-02", "US", 1),
        ("2025-06-03", "FR", 1),
        ("2025-06-04", "FR", 1),
        ("2025-06-05", "FR", 1),
    ]


@pytest.mark.parametrize("table", ["suppression_list", "stops_per_day"])
def test_a_derived_table_that_is_missing_or_damaged_is_made_again_byte_for_byte(syncer: Syncer, table: str) -> None:
    syncer.sync([*rows(10), {"id": None, "phoneNumber": "0639980099"}])
    syncer.sync(rows(9))
    (file,) = (syncer.root / table).rglob("*.parquet")
    expected = file.read_bytes()
    for harm in (Path.unlink, lambda path: path.write_bytes(b"PAR1"), lambda path: path.write_bytes(expected[:-9])):
        harm(file)
        syncer.sync(rows(9))
        assert file.read_bytes() == expected
    inode = file.stat().st_ino
    syncer.sync(rows(9))
    assert file.stat().st_ino == inode


def test_a_derived_table_is_made_again_after_a_commit_that_a_killed_sync_left(syncer: Syncer) -> None:
    syncer.sync(rows(30))
    syncer.fetch(EMPTY)
    syncer.merge(accept_removals=30)  # and killed before the derived tables
    assert len(read_suppression_list(syncer.root)) == 30
    assert sync.derive_suppression_list(syncer.store, "main").remade
    assert read_suppression_list(syncer.root).empty
    assert not sync.derive_suppression_list(syncer.store, "main").remade


# Readings that changed


def test_a_zone_that_is_corrected_later_is_applied_to_stored_rows_once(syncer: Syncer) -> None:
    syncer.timezone = "UTC"
    syncer.sync(rows(30))
    before = read_stops(syncer.root, history=True)
    syncer.timezone = PARIS

    merged = syncer.sync([*rows(30), Row(99)])

    assert (merged.reread, merged.counts.new, merged.counts.changed) == (True, 1, 0)
    after = read_stops(syncer.root, history=True, filters=[("id", "<", 99)])
    pd.testing.assert_frame_equal(after.drop(columns="created_at"), before.drop(columns="created_at"))
    assert set(before["created_at"] - after["created_at"]) == {pd.Timedelta(hours=2)}
    assert merged.state.settings["timezone"] == PARIS
    assert not syncer.sync([*rows(30), Row(99)]).reread


def test_a_zone_that_is_corrected_is_applied_also_if_the_list_is_unchanged(syncer: Syncer) -> None:
    syncer.timezone = "UTC"
    syncer.sync(rows(3))
    syncer.timezone = PARIS
    merged = syncer.sync(rows(3))
    assert merged.reread
    assert {f"{time:%H:%M}" for time in read_stops(syncer.root)["created_at"]} == {"08:00"}
    assert {f"{time:%H:%M}" for time in read_suppression_list(syncer.root)["first_stop_at"]} == {"08:00"}


def test_rows_that_older_rules_read_are_read_again_once_and_never_look_altered(syncer: Syncer) -> None:
    spellings = {1: "33639980001", 2: "+33 (0)6 39 98 00 02", 3: "0639980003"}
    malformed = {"id": 0, "phoneNumber": "33639980009", "createdAt": "2025-06-01 10:00:00"}
    listed: list[Any] = [*(Row(row_id, spelling) for row_id, spelling in spellings.items()), malformed]
    merge(syncer, listed)
    store_as_older_rules_read(syncer, spellings, rejected="33639980009")

    merged = syncer.sync(listed[::-1])

    assert merged.reread
    assert (merged.counts.unchanged, merged.counts.new, merged.counts.changed, merged.counts.removed) == (3, 0, 0, 0)
    periods = read_stops(syncer.root, history=True)
    assert periods["phone_number"].tolist() == ["+33639980001", "+33639980002", "+33639980003"]
    assert periods["country"].tolist() == ["FR"] * 3
    assert read_rejected(syncer.root, history=True)["phone_number"].tolist() == ["+33639980009"]
    assert len(read_suppression_list(syncer.root)) == 4
    assert merged.state.reading_rules == READING_RULES
    assert not syncer.sync(listed).reread


def store_as_older_rules_read(syncer: Syncer, spellings: dict[int, str], rejected: str) -> None:
    """Commit the stored rows with their spellings as numbers, as if the rules at that time could not read them."""
    store, state = syncer.store, syncer.store.state("main")
    stops = store.read_month("main", "2025-06", state)
    as_spelled = stops.assign(
        phone_number=stops["id"].map(spellings).astype("str"), country=pd.Series(None, index=stops.index, dtype="str")
    )
    bad = store.read_rejected("main", state)
    with store.locked("main"):
        store.commit(
            "main",
            dataclasses.replace(state, reading_rules="1, phonenumbers 8"),
            {"2025-06": lambda: as_spelled},
            bad.assign(phone_number=pd.Series(rejected, index=bad.index, dtype="str")),
        )


# Files that are not as the commit records them


@pytest.mark.parametrize("listed", [rows(30) + rows(30, first_id=100, month="2025-07"), rows(31)])
@pytest.mark.parametrize(
    "missing", ["stops/account=main/created_month=2025-06/stops.parquet", "rejected/account=main/rejected.parquet"]
)
def test_a_missing_file_is_refused_by_name_before_anything_is_written(
    syncer: Syncer, missing: str, listed: list[Row]
) -> None:
    first: list[Any] = [*rows(30), *rows(30, first_id=100, month="2025-07"), {"id": None}]
    syncer.sync(first)
    (syncer.root / missing).unlink()
    before = tree(syncer.root, "stops", "rejected", "state", "suppression_list")
    with pytest.raises(StoreError, match=r"is missing\. Nothing was changed: restore the file from a backup") as raised:
        syncer.sync(listed)
    assert missing in str(raised.value)
    assert tree(syncer.root, "stops", "rejected", "state", "suppression_list") == before


def test_a_replaced_file_is_refused_by_name_and_an_added_one_too(syncer: Syncer) -> None:
    month = "stops/account=main/created_month=2025-06/stops.parquet"
    syncer.sync(rows(30))
    older = (syncer.root / month).read_bytes()
    syncer.sync(rows(31))
    (syncer.root / month).write_bytes(older)
    with pytest.raises(StoreError, match="holds 30 rows, but the commit records 31") as raised:
        syncer.sync(rows(32))
    assert month in str(raised.value)

    other = Syncer(syncer.root, "other")
    other.sync(rows(3))
    added = syncer.root / "stops/account=other/created_month=1999-01/stops.parquet"
    added.parent.mkdir()
    added.write_bytes(older)
    with pytest.raises(StoreError, match=r"1999-01.* holds 30 rows, but the commit records 0"):
        other.sync(rows(4))


def test_with_the_state_gone_stored_months_are_not_overwritten(syncer: Syncer) -> None:
    syncer.sync(rows(30))
    (syncer.root / "state/account=main.json").unlink()
    before = tree(syncer.root, "stops")
    with pytest.raises(StoreError, match=r"there is no commit: restore state/account=main\.json from a backup"):
        syncer.sync(rows(31))
    assert tree(syncer.root, "stops") == before


# What lies in the data root


def test_accounts_do_not_touch_each_other(syncer: Syncer) -> None:
    paris, lyon = Syncer(syncer.root, "paris"), Syncer(syncer.root, "lyon")
    paris.sync(rows(30))
    before = tree(syncer.root)
    lyon.sync(rows(25, first_id=500))
    assert {name: data for name, data in tree(syncer.root).items() if "account=paris" in name} == before
    assert read_stops(syncer.root)["account"].value_counts().to_dict() == {"paris": 30, "lyon": 25}


def test_folders_of_data_hold_finished_parquet_files_and_nothing_else(syncer: Syncer) -> None:
    syncer.sync([*rows(30), {"id": None}])
    for folder in ("stops", "rejected", "snapshot", "suppression_list", "stops_per_day"):
        names = [path.name for path in (syncer.root / folder).rglob("*") if path.is_file()]
        assert names
        assert all(name.endswith(".parquet") for name in names)
    assert not [path for path in (syncer.root / ".work").rglob("*") if path.parent.name != ".work"]


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


@pytest.mark.parametrize("table", ["snapshot", "stops", "rejected", "suppression_list", "stops_per_day"])
def test_pandas_duckdb_and_polars_read_every_folder(syncer: Syncer, table: str) -> None:
    syncer.sync([*rows(3), *rows(2, first_id=50, month="2025-07"), {"id": None}])
    folder = syncer.root / table
    files = [str(file) for file in folder.rglob("*.parquet")]
    count = sum(pq.read_metadata(file).num_rows for file in files)
    assert count > 0
    assert len(pd.read_parquet(folder)) == count
    assert len(duckdb.read_parquet(files, hive_partitioning=True).fetchall()) == count
    assert pl.read_parquet(folder).height == count
