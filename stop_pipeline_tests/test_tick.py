"""The promises of a tick, shown on real files: what is added, ended, withheld, refused, and what stays untouched."""

import dataclasses
import json
import tempfile
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

from stop_pipeline import charts, engine, read_rejected, read_stops, read_stops_per_day, read_suppression_list, tick
from stop_pipeline.errors import ForeignListError, UnreadableAnswerError
from stop_pipeline.guard import Guard
from stop_pipeline.model import Pending
from stop_pipeline_tests.ticking import IN_MEMORY, PARIS, START, Row, Ticker, answer_body, rows, tree

DATA = Path(__file__).parent / "data"


@pytest.fixture
def ticker(tmp_path: Path) -> Ticker:
    return Ticker(tmp_path / "data")


@pytest.mark.parametrize("answer_format", ["json", "xml"])
def test_the_documented_sample_gives_one_row_in_its_month(ticker: Ticker, answer_format: str) -> None:
    sample = (DATA / f"sample-list.{answer_format}").read_bytes()
    ticker.tick(sample, answer_format=answer_format)  # type: ignore[arg-type]

    stops = read_stops(ticker.root)
    assert len(stops) == 1
    row = stops.iloc[0]
    assert row["id"] == 19
    assert row["phone_number"] == "+33xxxxxxxxx"
    assert str(row["created_at_local"]) == "2015-07-20 10:19:45"
    assert str(row["created_at"]) == "2015-07-20 08:19:45+00:00"
    assert row["created_month"] == "2015-07"
    assert [path.name for path in (ticker.root / "stops/account=main").iterdir()] == ["created_month=2015-07"]


def test_the_same_answer_twice_leaves_every_file_as_it_was(ticker: Ticker) -> None:
    ticker.tick(rows(30) + rows(5, first_id=100, month="2024-02"))
    before = tree(ticker.root, "stops", "suppression_list", "stops_per_day", "snapshot")
    inodes = {name: (ticker.root / name).stat().st_ino for name in before}

    applied = ticker.tick(rows(30) + rows(5, first_id=100, month="2024-02"))

    assert applied.outcome == "recognised"
    assert tree(ticker.root, "stops", "suppression_list", "stops_per_day", "snapshot") == before
    assert {name: (ticker.root / name).stat().st_ino for name in before} == inodes
    assert applied.state.verified_at == ticker.now
    assert applied.state.applied_at == START + timedelta(hours=1)


def test_the_same_rows_in_another_order_leave_every_month_as_it_was(ticker: Ticker) -> None:
    ticker.tick(rows(30))
    before = tree(ticker.root, "stops")

    applied = ticker.tick(rows(30)[::-1])

    assert applied.outcome == "applied"
    assert applied.months_written == ()
    assert tree(ticker.root, "stops") == before


def test_steps_in_processes_of_their_own_leave_what_they_leave_in_one(tmp_path: Path) -> None:
    one, other = Ticker(tmp_path / "one"), Ticker(tmp_path / "other")
    first: list[Any] = [*rows(300), *rows(20, first_id=1_000, month="2024-02"), {"id": 0}]
    for listed in (first, [Row(1, "+32470123456"), *first[3:]], first):
        body = answer_body(listed)
        one.tick(body)
        other.fetch(body)
        tick._just_judged.clear()  # noqa: SLF001 – as another process has it
        tick.parse_newest(other.store, "main", timezone=PARIS)
        tick._just_parsed.clear()  # noqa: SLF001
        tick.apply_newest(other.store, "main", Guard())
        engine._just_committed.clear()  # noqa: SLF001
        tick.derive_suppression_list(other.store, "main")
        tick.derive_stops_per_day(other.store, "main")
        assert tree(one.root) == tree(other.root)


def test_a_late_row_from_2016_rewrites_only_that_month(ticker: Ticker) -> None:
    listed = rows(30) + rows(5, first_id=100, month="2016-03") + rows(5, first_id=200, month="2024-02")
    ticker.tick(listed)
    files = tree(ticker.root, "stops")
    inodes = {name: (ticker.root / name).stat().st_ino for name in files}

    applied = ticker.tick([*listed, Row(999, "+33639989999", "2016-03-31 23:59:59")])

    assert applied.months_written == ("2016-03",)
    assert applied.counts.new == 1
    changed = {name for name, data in tree(ticker.root, "stops").items() if files.get(name) != data}
    assert changed == {"stops/account=main/created_month=2016-03/stops.parquet"}
    assert {name for name in files if (ticker.root / name).stat().st_ino != inodes[name]} == changed


def test_a_row_that_is_no_longer_listed_is_ended_and_one_that_comes_back_is_added_anew(ticker: Ticker) -> None:
    listed = rows(30)
    ticker.tick(listed)
    first = ticker.now
    assert ticker.tick(listed[1:]).counts.removed == 1
    removed = ticker.now
    applied = ticker.tick(listed)

    assert (applied.counts.restored, applied.counts.new) == (1, 0)
    periods = read_stops(ticker.root, history=True).query("id == 1")
    ended = periods.iloc[0]
    assert (ended["first_seen_at"], ended["removed_at"]) == (first, removed)
    assert list(periods["removed_at"].isna()) == [False, True]
    assert list(periods["first_seen_at"])[1] == ticker.now


def test_an_altered_row_is_ended_and_added_anew_in_the_month_it_moved_to(ticker: Ticker) -> None:
    listed = rows(30)
    ticker.tick(listed)
    applied = ticker.tick([Row(1, "+33639980001", "2024-12-01 00:00:00"), *listed[1:]])

    assert (applied.counts.changed, applied.counts.new, applied.counts.removed) == (1, 0, 0)
    assert applied.months_written == ("2024-12", "2025-06")
    assert len(read_stops(ticker.root)) == 30


def test_an_answer_with_fewer_rows_than_nb_data_adds_but_removes_nothing(ticker: Ticker) -> None:
    listed = rows(30)
    ticker.tick(listed)
    verified = ticker.now
    applied = ticker.tick([*listed[1:], Row(99)], nb_data=31)

    assert (applied.counts.new, applied.counts.removed, applied.counts.withheld) == (1, 0, 1)
    assert applied.state.verified_at == verified
    assert len(read_stops(ticker.root)) == 31


def test_an_altered_row_whose_end_is_withheld_stands_twice_until_it_is_accepted(ticker: Ticker) -> None:
    listed = rows(30)
    ticker.tick(listed)
    altered = [Row(row.id, "+33639989999", row.created_at) for row in listed]
    applied = ticker.tick(altered)
    assert (applied.counts.changed, applied.counts.withheld, applied.state.figures.doubled_open_ids) == (30, 30, 30)
    assert len(read_stops(ticker.root)) == 60

    accepted = ticker.tick(altered, accept_removals=30)
    assert (accepted.counts.removed, accepted.counts.withheld, accepted.state.figures.doubled_open_ids) == (30, 0, 0)
    assert set(read_stops(ticker.root)["phone_number"]) == {"+33639989999"}


@pytest.mark.parametrize(
    ("stored", "gone", "withheld"),
    [
        (1000, 20, False),
        (1000, 40, False),
        (1000, 50, False),  # the share
        (1000, 51, True),
        (1000, 60, True),
        (400, 20, False),  # twenty are always allowed
        (400, 21, True),
        (40, 20, False),  # but never more than half
        (39, 20, True),
        (21, 20, True),
        (2, 1, False),
        (1, 1, True),
        (30, 30, True),  # suddenly empty
    ],
)
def test_removals_beyond_the_guard_are_withheld(ticker: Ticker, stored: int, gone: int, *, withheld: bool) -> None:
    listed = rows(stored)
    ticker.tick(listed)
    applied = ticker.tick(listed[gone:])

    assert (applied.counts.withheld, applied.counts.removed) == ((gone, 0) if withheld else (0, gone))
    assert (applied.state.withheld_because is not None) is withheld
    assert len(read_stops(ticker.root)) == (stored if withheld else stored - gone)


def test_withheld_removals_can_be_accepted_with_the_identical_next_answer(ticker: Ticker) -> None:
    ticker.tick(rows(100))
    ticker.tick(rows(40))
    assert len(read_stops(ticker.root)) == 100

    applied = ticker.tick(rows(40), accept_removals=60)

    assert (applied.outcome, applied.counts.removed) == ("applied", 60)
    assert applied.state.accepted_removals == 60
    assert len(read_stops(ticker.root)) == 40


def test_an_acceptance_without_a_new_answer_changes_nothing_and_says_what_to_do(
    ticker: Ticker, caplog: pytest.LogCaptureFixture
) -> None:
    ticker.tick(rows(100))
    ticker.tick(rows(40))
    before = tree(ticker.root)

    applied = ticker.apply(accept_removals=60)  # `stops` alone, as one can materialise it in the UI

    assert applied.outcome == "recognised"
    assert "is accepted with the next answer: materialise all assets" in caplog.text
    assert tree(ticker.root) == before
    assert ticker.tick(rows(40), accept_removals=60).counts.removed == 60


def test_what_is_added_meanwhile_does_not_let_withheld_removals_through(ticker: Ticker) -> None:
    listed = [*rows(400)[21:], *rows(121, first_id=1000)]  # 21 of 400 gone, and 521 rows open afterwards
    ticker.tick(rows(400))
    assert ticker.tick(listed).counts.withheld == 21

    applied = ticker.tick(listed)

    assert (applied.counts.withheld, applied.counts.removed) == (21, 0)
    assert applied.state.withheld_from == 400
    assert applied.state.withheld_because == "21 rows would go at once, and 20 of 400 may"
    assert len(read_stops(ticker.root)) == 521


def test_withheld_removals_that_come_back_leave_no_trace_and_the_guard_as_it_was(ticker: Ticker) -> None:
    listed = [*rows(400), *rows(121, first_id=1000)]
    ticker.tick(rows(400))
    ticker.tick(listed[21:])
    before = tree(ticker.root, "stops")

    back = ticker.tick(listed)

    assert (back.counts.unchanged, back.counts.restored, back.months_written) == (521, 0, ())
    assert (back.state.withheld_because, back.state.withheld_from) == (None, None)
    assert tree(ticker.root, "stops") == before
    applied = ticker.tick(listed[26:])  # 5 % of 521
    assert (applied.counts.withheld, applied.counts.removed) == (0, 26)


GROWTH = st.lists(st.tuples(st.sampled_from([0, 0, 1, 50, 500]), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(3, 450), st.data(), st.integers(0, 500), GROWTH)
def test_no_answers_that_repeat_or_only_add_let_withheld_removals_through(
    stored: int, data: st.DataObject, added: int, growth: list[tuple[int, bool]]
) -> None:
    gone = data.draw(st.integers(min(stored // 2, max(stored // 20, 20)) + 1, stored - 1))
    listed = [*rows(stored)[gone:], *rows(added, first_id=10_000)]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        ticker = Ticker(Path(folder))
        ticker.tick(rows(stored))
        assert ticker.tick(listed).counts.withheld == gone
        for more, whole in growth:
            listed = [*listed, *rows(more, first_id=20_000 + len(listed))]
            applied = ticker.tick(listed, nb_data=len(listed) + (not whole))
            assert (applied.counts.withheld, applied.counts.removed) == (gone, 0)
            assert len(read_stops(ticker.root)) == len(listed) + gone

        accepted = ticker.tick(listed, accept_removals=gone)

        assert (accepted.counts.removed, accepted.state.withheld_from) == (gone, None)
        assert len(read_stops(ticker.root)) == len(listed)


def test_a_state_of_before_the_guard_kept_its_measure_is_read(ticker: Ticker) -> None:
    ticker.tick(rows(100))
    ticker.tick(rows(40))
    path = ticker.root / "state/account=main.json"
    state = json.loads(path.read_text())
    assert state.pop("withheld_from") == 100
    path.write_text(json.dumps(state))

    applied = ticker.tick(rows(40))

    assert (applied.counts.withheld, applied.state.withheld_from) == (60, 100)


def test_an_accepted_number_that_is_exceeded_withholds_all(ticker: Ticker) -> None:
    ticker.tick(rows(100))
    applied = ticker.tick(rows(98), accept_removals=1)
    assert (applied.counts.withheld, applied.counts.removed) == (2, 0)


def test_accepting_never_waives_wholeness(ticker: Ticker) -> None:
    ticker.tick(rows(100))
    applied = ticker.tick(rows(40), nb_data=41, accept_removals=100)
    assert (applied.counts.withheld, applied.counts.removed) == (60, 0)


def test_an_emptied_list_can_be_accepted(ticker: Ticker) -> None:
    ticker.tick(rows(100))
    assert ticker.tick([], accept_removals=100).counts.removed == 100
    assert read_stops(ticker.root).empty
    assert read_suppression_list(ticker.root).empty


def test_a_list_that_shares_no_id_with_twenty_open_rows_is_refused_whole(ticker: Ticker) -> None:
    ticker.tick(rows(20))
    before = tree(ticker.root, "stops", "state")
    with pytest.raises(ForeignListError, match="another account's"):
        ticker.tick(rows(20, first_id=1000), accept_removals=20)
    assert tree(ticker.root, "stops", "state") == before


def test_a_list_whose_rows_all_moved_to_another_month_is_no_other_accounts(ticker: Ticker) -> None:
    ticker.tick(rows(20))
    counts = ticker.tick(rows(20, month="2025-07")).counts
    assert (counts.changed, counts.new, counts.withheld) == (20, 0, 20)


def test_with_nineteen_open_rows_a_list_of_other_ids_is_added(ticker: Ticker) -> None:
    ticker.tick(rows(19))
    assert ticker.tick(rows(19, first_id=1000)).counts.new == 19


@pytest.mark.parametrize("earlier_by", [timedelta(0), timedelta(minutes=5)])
def test_an_answer_fetched_no_later_than_the_newest_is_left_out(
    ticker: Ticker, earlier_by: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    ticker.tick(rows(30))
    before = tree(ticker.root)
    fetched = ticker.fetch(b'{"success": true, "code": 200, "nbData": 0, "data": []}', at=ticker.now - earlier_by)
    assert not fetched.in_order
    assert "clock" in caplog.text
    assert tree(ticker.root) == before


def test_a_clock_that_jumps_ahead_and_back_loses_nothing(ticker: Ticker, caplog: pytest.LogCaptureFixture) -> None:
    ticker.tick(rows(30))
    now = ticker.now
    ticker.tick(rows(31), at=now + timedelta(days=400))
    before = tree(ticker.root)

    assert ticker.tick(rows(32), at=now + timedelta(hours=1)).outcome == "recognised"
    assert "look at this machine's clock" in caplog.text
    assert tree(ticker.root) == before

    assert ticker.tick(rows(32), at=now + timedelta(days=401)).counts.new == 1
    assert sorted(read_stops(ticker.root, as_of=now)["id"]) == list(range(1, 31))


def test_an_answer_no_later_than_the_commit_is_not_applied(ticker: Ticker) -> None:
    ticker.tick(rows(30))
    for path in (ticker.root / "raw/account=main").iterdir():
        path.unlink()
    before = tree(ticker.root, "stops", "state")
    applied = ticker.tick(rows(31), at=ticker.now - timedelta(minutes=5))
    assert applied.outcome == "older"
    assert tree(ticker.root, "stops", "state") == before


def test_an_unreadable_answer_changes_nothing(ticker: Ticker) -> None:
    ticker.tick(rows(30))
    before = tree(ticker.root)
    with pytest.raises(UnreadableAnswerError):
        ticker.tick(b"<html>Service en maintenance</html>")
    assert tree(ticker.root) == before


def test_a_malformed_row_is_kept_in_rejected_and_its_number_is_suppressed(ticker: Ticker) -> None:
    malformed = {"id": 7, "phoneNumber": "06 39 98 00 77", "createdAt": "2025-02-30 10:00:00"}
    ticker.tick([*rows(3), malformed])
    first = ticker.now

    rejected = read_rejected(ticker.root)
    assert list(rejected["reason"]) == ["no usable createdAt"]
    assert list(rejected["phone_number"]) == ["+33639980077"]
    suppressed = read_suppression_list(ticker.root).set_index("phone_number")
    assert suppressed.loc["+33639980077", "origin"] == "rejected row"
    assert suppressed.loc["+33639980077", "first_stop_at"] is not None
    assert len(suppressed) == 4

    ticker.tick(rows(3))
    assert read_rejected(ticker.root).empty
    ended = read_rejected(ticker.root, history=True).iloc[0]
    assert (ended["first_seen_at"], ended["removed_at"]) == (first, ticker.now)
    assert len(read_suppression_list(ticker.root)) == 3


def test_a_rejected_row_stays_while_removals_are_withheld(ticker: Ticker) -> None:
    malformed = {"id": "x", "phoneNumber": "+33639980077", "createdAt": "2025-02-03 10:00:00"}
    ticker.tick([*rows(100), malformed])
    ticker.tick(rows(10))
    assert len(read_rejected(ticker.root)) == 1


def test_every_number_of_an_open_row_is_suppressed_once(ticker: Ticker) -> None:
    ticker.tick([Row(1, "0639980001"), Row(2, "+33639980001", "2025-07-01 10:00:00"), Row(3, "+33639980002")])
    suppressed = read_suppression_list(ticker.root)
    assert list(suppressed["phone_number"]) == ["+33639980001", "+33639980002"]
    first = suppressed.iloc[0]
    assert (str(first["first_stop_at"]), str(first["last_stop_at"]), first["stop_count"]) == (
        "2025-06-01 08:00:00+00:00",
        "2025-07-01 08:00:00+00:00",
        2,
    )


def test_stops_per_day_counts_each_id_once_on_the_day_it_was_last_listed_with(ticker: Ticker) -> None:
    listed = [*rows(4), Row(50, "+12025550123", "2025-06-02 23:30:00")]
    ticker.tick(listed)
    ticker.tick([Row(1, listed[0].phone_number, "2025-05-01 00:00:00"), *listed[2:]])  # one altered, one removed
    per_day = read_stops_per_day(ticker.root)
    assert [(str(row.day)[:10], row.country, row.stops) for row in per_day.itertuples()] == [
        ("2025-05-01", "FR", 1),
        ("2025-06-02", "US", 1),
        ("2025-06-03", "FR", 1),
        ("2025-06-04", "FR", 1),
        ("2025-06-05", "FR", 1),
    ]


def test_a_look_at_the_delays_reads_no_month_in_which_no_opt_out_came_later(ticker: Ticker) -> None:
    listed = rows(30) + rows(5, first_id=100, month="2024-02")
    ticker.tick(listed)
    ticker.tick([*listed, Row(1_000)])
    (ticker.root / "stops/account=main/created_month=2024-02/stops.parquet").write_bytes(b"no Parquet")
    periods, first_load = tick.read_since_first_load(ticker.store, "main")
    assert sorted(periods["id"].to_pylist()) == [*range(1, 31), 1_000]
    assert first_load == START + timedelta(hours=1)


def test_an_opt_out_whose_altered_row_is_withheld_is_known_to_have_been_seen_before(ticker: Ticker) -> None:
    ticker.tick([Row(1), Row(2, created_at="2024-02-01 10:00:00")])
    ticker.fetch(answer_body([Row(1), Row(2, created_at="2025-06-02 10:00:00")], nb_data=3))
    assert ticker.apply().counts.withheld == 1
    periods, first_load = tick.read_since_first_load(ticker.store, "main")
    assert sorted(periods["id"].to_pylist()) == [1, 2, 2]
    assert len(charts.delays(periods, first_load).hours) == 0


def test_accounts_do_not_touch_each_other(tmp_path: Path) -> None:
    paris, lyon = Ticker(tmp_path, "paris"), Ticker(tmp_path, "lyon")
    paris.tick(rows(30))
    before = tree(tmp_path)
    lyon.tick(rows(25, first_id=500))
    assert {name: data for name, data in tree(tmp_path).items() if "account=paris" in name} == before
    assert read_stops(tmp_path)["account"].value_counts().to_dict() == {"paris": 30, "lyon": 25}


def test_folders_of_data_hold_finished_parquet_files_and_nothing_else(ticker: Ticker) -> None:
    ticker.tick([*rows(30), {"id": None}])
    for folder in ("stops", "rejected", "snapshot", "suppression_list", "stops_per_day"):
        names = [path.name for path in (ticker.root / folder).rglob("*") if path.is_file()]
        assert names
        assert all(name.endswith(".parquet") for name in names)


def test_everything_below_the_data_root_is_readable_by_its_owner_only(ticker: Ticker) -> None:
    ticker.tick([*rows(30), {"id": None}])
    modes = {path: path.stat().st_mode & 0o777 for path in ticker.root.rglob("*")}
    assert {oct(mode) for path, mode in modes.items() if path.is_dir()} == {"0o700"}
    assert {oct(mode) for path, mode in modes.items() if path.is_file()} == {"0o600"}


def test_a_suppression_list_brought_up_to_date_is_byte_for_byte_the_one_made_anew(ticker: Ticker) -> None:
    listed = [*rows(100), Row(900, "+447400123456"), Row(901, "+447400123456")]
    ticker.tick(listed)
    ticker.tick([*listed[1:-1], Row(950, "+33639980000"), Row(951)])
    (file,) = (ticker.root / "suppression_list").rglob("*.parquet")
    up_to_date = file.read_bytes()
    file.unlink()
    derived = tick.derive_suppression_list(ticker.store, "main")
    assert (derived.remade, derived.rows) == (True, len(read_suppression_list(ticker.root)))
    assert file.read_bytes() == up_to_date


LATE = "+33639990001", "+33639990002"
"""Numbers that none of `rows` bears."""


def _suppressed(ticker: Ticker, *numbers: str) -> bool:
    """Whether the list holds these beside the numbers of `rows(100)`, and no other."""
    expected = {row.phone_number for row in rows(100)} | set(numbers)
    return set(read_suppression_list(ticker.root)["phone_number"]) == expected


def test_a_list_made_between_a_commit_and_the_leftovers_of_a_killed_tick_has_the_numbers_of_the_commit(
    ticker: Ticker,
) -> None:
    ticker.tick(rows(100))
    listed = [*rows(100), Row(500, LATE[0])]
    ticker.fetch(answer_body(listed))
    state = ticker.apply().state  # and killed before the list is made
    listed.append(Row(501, LATE[1]))
    ticker.fetch(answer_body(listed))
    ticker.apply()
    # As if it had been killed just before its commit: the month that both wrote was changed by the second last.
    ticker.store.write_state("main", dataclasses.replace(state, pending=Pending(ticker.now, ("2025-06",))))

    tick.derive_suppression_list(ticker.store, "main")
    assert _suppressed(ticker, LATE[0])

    ticker.tick(listed)
    assert _suppressed(ticker, *LATE)


def test_a_list_that_was_restored_with_its_commit_beside_newer_months_gains_their_numbers(ticker: Ticker) -> None:
    ticker.tick(rows(100))
    backup = tree(ticker.root, "state", "suppression_list")
    listed = [*rows(100), Row(500, LATE[0])]
    ticker.tick(listed)
    for name, data in backup.items():
        (ticker.root / name).write_bytes(data)

    ticker.tick([*listed, Row(501, LATE[1])])
    assert _suppressed(ticker, *LATE)


@pytest.mark.parametrize("table", ["snapshot", "stops", "rejected", "suppression_list", "stops_per_day"])
def test_pandas_duckdb_and_polars_read_every_folder(ticker: Ticker, table: str) -> None:
    ticker.tick([*rows(3), *rows(2, first_id=50, month="2025-07"), {"id": None}])
    folder = ticker.root / table
    count = sum(pq.read_metadata(file).num_rows for file in folder.rglob("*.parquet"))
    files = [str(file) for file in folder.rglob("*.parquet")]
    assert count > 0
    assert len(pd.read_parquet(folder)) == count
    assert len(duckdb.read_parquet(files, hive_partitioning=True).fetchall()) == count
    assert pl.read_parquet(folder).height == count
