"""What a notebook gets: types, views in time, filters, and the sentence when there is nothing to read."""

import dataclasses
import shutil
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pandas as pd
import pyarrow.compute as pc
import pytest

from stop_pipeline import (
    lookup,
    read_changes,
    read_rejected,
    read_stops,
    read_stops_per_day,
    read_suppression_list,
    suppress,
    sync,
)
from stop_pipeline.errors import ConfigurationError, OutdatedListError, StoreError
from stop_pipeline.table.files import Files
from stop_pipeline.table.store import Store, table_file
from stop_pipeline.verify import verify
from stop_pipeline_tests.support.syncing import IN_MEMORY, START, Row, Syncer, response_body, rows

UTC_TIME = "datetime64[us, UTC]"
TYPES = {
    "account": "str",
    "created_month": "str",
    "id": "int64",
    "phone_number": "str",
    "country": "str",
    "created_at": UTC_TIME,
    "created_at_local": "datetime64[us]",
    "first_seen_at": UTC_TIME,
    "removed_at": UTC_TIME,
}
Reader: TypeAlias = Callable[..., pd.DataFrame]
READERS: dict[Reader, dict[str, str]] = {
    read_stops: TYPES,
    read_rejected: {
        "account": "str",
        "raw": "str",
        "reason": "str",
        "phone_number": "str",
        "first_seen_at": UTC_TIME,
        "removed_at": UTC_TIME,
        "snapshot_sha256": "str",
    },
    read_suppression_list: {
        "account": "str",
        "phone_number": "str",
        "first_stop_at": UTC_TIME,
        "last_stop_at": UTC_TIME,
        "stop_count": "int64",
        "origin": "str",
    },
    read_stops_per_day: {"account": "str", "day": "datetime64[us]", "country": "str", "stops": "int64"},
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Syncer]:
    """Three months of rows; then one of May is removed. Nothing here writes to it."""
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(Path(folder, "data"))
        listed = [
            row
            for month in ("2025-05", "2025-06", "2025-07")
            for row in rows(10, first_id=int(month[-1]) * 100, month=month)
        ]
        syncer.sync(listed)
        syncer.sync(listed[1:])
        Syncer(syncer.root, "lyon").sync([Row(1), Row(2, created_at="2025-07-01 00:00:00")])
        yield syncer


def main(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["account"] == "main"]


def types_of(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


# Types


def test_every_column_has_its_type_and_rows_are_numbered(syncer: Syncer) -> None:
    for account in ("lyon", "main"):
        Syncer(syncer.root, account).sync([*rows(3), {"id": 0, "phoneNumber": "0639980099"}])
    for read, types in READERS.items():
        frame = read(syncer.root)
        assert len(frame) > 1
        assert types_of(frame) == types
        assert frame.index.equals(pd.RangeIndex(len(frame)))


@pytest.mark.parametrize("read", READERS)
def test_before_the_first_sync_every_table_is_empty_with_the_same_types(tmp_path: Path, read: Reader) -> None:
    empty = read(tmp_path)
    assert empty.empty
    assert types_of(empty) == READERS[read]
    if read is read_stops:
        assert types_of(read(tmp_path, columns=["removed_at", "id"])) == {"removed_at": UTC_TIME, "id": "int64"}


@pytest.mark.parametrize("read", READERS)
def test_a_data_root_that_does_not_exist_is_told_with_what_to_do(tmp_path: Path, read: Reader) -> None:
    with pytest.raises(StoreError, match="run “stop-pipeline run”") as caught:
        read(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)


# Which data root, and which accounts


def test_without_a_path_the_data_root_of_the_environment_is_read(
    shared: Syncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP_PIPELINE_DATA", f" {shared.root} ")
    assert len(read_stops()) == 31
    assert len(read_suppression_list()) == 30
    assert read_stops_per_day()["stops"].sum() == 32
    assert read_rejected().empty
    monkeypatch.delenv("STOP_PIPELINE_DATA")
    monkeypatch.chdir(shared.root.parent)
    assert len(read_stops()) == 31


def test_a_tilde_is_the_home_folder(shared: Syncer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shared.root.parent))
    assert len(read_stops("~/data")) == 31
    monkeypatch.setenv("STOP_PIPELINE_DATA", "~/data")
    assert len(read_stops()) == 31


def test_the_siblings_give_every_account_sorted(syncer: Syncer) -> None:
    for account in ("paris", "lyon"):
        Syncer(syncer.root, account).sync([Row(2, "+33639980002"), Row(1), {"id": 0}])
    suppressed = read_suppression_list(syncer.root)
    assert list(suppressed["account"]) == ["lyon", "lyon", "paris", "paris"]
    assert list(suppressed["phone_number"]) == ["+33639980001", "+33639980002"] * 2
    assert list(read_stops_per_day(syncer.root)["stops"]) == [2, 2]
    assert list(read_stops_per_day(syncer.root)["day"]) == [pd.Timestamp("2025-06-01")] * 2
    assert list(read_rejected(syncer.root)["account"]) == ["lyon", "paris"]


def test_rows_come_sorted_by_account_local_time_and_id(syncer: Syncer) -> None:
    for account in ("lyon", "paris"):
        Syncer(syncer.root, account).sync([Row(2), Row(1), Row(3, created_at="2024-01-01 00:00:00")])
    frame = read_stops(syncer.root)
    assert list(frame["account"]) == ["lyon"] * 3 + ["paris"] * 3
    assert list(frame["id"]) == [3, 1, 2] * 2


# Views in time


def test_as_of_shows_no_end_that_came_later(shared: Syncer) -> None:
    open_then = pc.field("removed_at").is_null()
    for moment in (START + timedelta(hours=1), datetime(2100, 1, 1, tzinfo=UTC)):
        then = read_stops(shared.root, as_of=moment)
        assert then["removed_at"].isna().all()
        pd.testing.assert_frame_equal(read_stops(shared.root, as_of=moment, filters=open_then), then)


def test_a_folder_that_is_no_data_root_is_not_taken_for_an_empty_list(syncer: Syncer, tmp_path: Path) -> None:
    syncer.sync([Row(1)])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/todo.txt").write_text("call them")
    for folder in (syncer.root / "stops", syncer.root / "suppression_list/account=main", tmp_path / "notes"):
        for read in (read_stops, read_rejected, read_stops_per_day, read_suppression_list):
            with pytest.raises(StoreError, match="is not a data root: name the folder that has “state”"):
                read(folder)
    (tmp_path / "empty").mkdir()
    assert read_suppression_list(tmp_path / "empty").empty


def test_a_copy_of_the_state_is_not_another_account(syncer: Syncer) -> None:
    syncer.sync(rows(3))
    shutil.copy(syncer.root / "state/account=main.json", syncer.root / "state/account=main (copy).json")
    assert len(read_stops(syncer.root)) == len(read_suppression_list(syncer.root)) == 3


def test_as_of_gives_what_was_known_then(shared: Syncer) -> None:
    removed = shared.now
    assert len(main(read_stops(shared.root, as_of=removed))) == 29
    assert len(main(read_stops(shared.root, as_of=removed - timedelta(microseconds=1)))) == 30
    assert len(main(read_stops(shared.root, as_of=datetime(2100, 1, 1, tzinfo=UTC)))) == 29
    suppressed = [
        len(main(read_suppression_list(shared.root, as_of=moment)))
        for moment in (removed, removed - timedelta(seconds=1))
    ]
    assert suppressed == [29, 30]


def test_a_time_without_a_zone_is_utc_and_with_one_is_that(shared: Syncer) -> None:
    removed = pd.Timestamp(shared.now)
    assert len(main(read_stops(shared.root, as_of=removed.strftime("%Y-%m-%d %H:%M")))) == 29
    paris = (removed - pd.Timedelta(minutes=1)).tz_convert("Europe/Paris")
    assert len(main(read_stops(shared.root, as_of=paris.isoformat()))) == 30


@pytest.mark.parametrize("day", ["2026-01-01", date(2026, 1, 1), " 2026-01-01 "])
def test_a_date_gives_what_was_known_at_the_end_of_that_day_in_paris(syncer: Syncer, day: Any) -> None:
    end = datetime(2026, 1, 1, 23, tzinfo=UTC)
    syncer.sync([Row(1)], at=end - timedelta(hours=9))
    syncer.sync([Row(1), Row(2)], at=end - timedelta(microseconds=1))
    syncer.sync([Row(1), Row(2), Row(3)], at=end)
    assert list(read_stops(syncer.root, as_of=day)["id"]) == [1, 2]


@pytest.mark.parametrize("as_of", ["5/11/2026", "", "nan", "NaT", pd.NaT, 1_762_333_800, "now"])
def test_what_is_not_a_date_or_time_is_refused(shared: Syncer, as_of: Any) -> None:
    for read in (read_stops, read_suppression_list):
        with pytest.raises(ValueError, match="is not a date or time in ISO 8601"):
            read(shared.root, as_of=as_of)


def test_a_time_before_the_first_sync_gives_nothing_and_warns_when_the_history_begins(shared: Syncer) -> None:
    for read in (read_stops, read_suppression_list):
        with pytest.warns(
            UserWarning, match="The history begins at 2026-01-01 13:00 UTC: nothing is known about 2025-"
        ) as told:
            empty = read(shared.root, as_of="2025-12-31")
        assert told[0].filename == __file__
        assert empty.empty
        assert types_of(empty) == READERS[read]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_stops(shared.root, as_of=START + timedelta(hours=1))


def test_the_history_of_several_accounts_begins_with_the_first_of_them(tmp_path: Path) -> None:
    Syncer(tmp_path, "lyon").sync(rows(3))
    Syncer(tmp_path, "paris", start=START + timedelta(days=9)).sync(rows(3))
    with warnings.catch_warnings(action="error"):
        assert len(read_stops(tmp_path, as_of=START + timedelta(days=5))) == 3
    with pytest.warns(UserWarning, match="The history begins at 2026-01-01 13:00 UTC"):
        assert read_stops(tmp_path, as_of=START).empty


def test_before_any_sync_every_time_is_before_the_first(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="There has been no sync yet: nothing is known about"):
        assert read_stops(tmp_path, as_of="2026-01-01").empty


def test_a_list_that_was_empty_at_first_has_a_history_from_then_on(syncer: Syncer) -> None:
    syncer.sync([])
    syncer.sync([Row(1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_stops(syncer.root, as_of=START + timedelta(hours=1)).empty


def test_a_commit_of_the_earlier_version_which_recorded_no_responses_is_where_the_history_begins(
    syncer: Syncer,
) -> None:
    syncer.sync([])
    syncer.store.write_state("main", dataclasses.replace(syncer.store.state("main"), commits=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_stops(syncer.root, as_of=START + timedelta(hours=1)).empty
    with pytest.warns(UserWarning, match="The history begins at 2026-01-01 13:00 UTC"):
        read_stops(syncer.root, as_of=START)


def test_as_of_and_history_exclude_each_other(shared: Syncer) -> None:
    with pytest.raises(ValueError, match="either as_of or history"):
        read_stops(shared.root, as_of="2026-01-01", history=True)


# Columns and filters


def test_columns_come_in_the_order_asked_for(shared: Syncer) -> None:
    assert list(read_stops(shared.root, columns=["country", "account", "id"]).columns) == ["country", "account", "id"]
    with pytest.raises(ValueError, match="There is no column 'phone' in stops: it has account, created_month, id"):
        read_stops(shared.root, columns=["phone"])


@pytest.mark.parametrize(
    "filters",
    [
        [("created_at", ">=", datetime(2026, 1, 1))],  # noqa: DTZ001 – the mistake
        [("created_at_local", ">", START)],
        [("removed_at", ">", datetime(2026, 1, 1))],  # noqa: DTZ001
        [("id", "==", 2**63)],
        [("id", "==", "x")],
        [("nothing", "==", 1)],
        ("id", ">", 1),
    ],
)
def test_filters_that_fit_no_column_are_the_callers_mistake_and_no_damage(shared: Syncer, filters: Any) -> None:
    with pytest.raises(ValueError, match="The filters do not fit the columns of stops"):
        read_stops(shared.root, filters=filters)


JUNE = (datetime(2025, 6, 1), datetime(2025, 7, 1))  # noqa: DTZ001 – local times


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ([("created_month", "<", "2025-07")], lambda frame: frame["created_month"] < "2025-07"),
        ([("created_month", "==", "1999-01")], lambda frame: frame["created_month"] == "1999-01"),
        ([("created_month", "in", ["2025-06", "1999-01"])], lambda frame: frame["created_month"] == "2025-06"),
        ([("account", "==", "lyon")], lambda frame: frame["account"] == "lyon"),
        (
            [[("account", "==", "lyon")], [("created_month", "==", "2025-05")]],
            lambda frame: (frame["account"] == "lyon") | (frame["created_month"] == "2025-05"),
        ),
        (
            [("created_at_local", ">=", JUNE[0]), ("created_at_local", "<", JUNE[1])],
            lambda frame: frame["created_month"] == "2025-06",
        ),
        ([("phone_number", "!=", "+33639980001"), ("id", ">", 501)], lambda frame: frame["id"] > 501),
        (
            (pc.field("created_month") == "2025-06") & (pc.field("account") == "main"),
            lambda frame: (frame["created_month"] == "2025-06") & (frame["account"] == "main"),
        ),
    ],
)
def test_a_filter_gives_the_rows_that_pandas_would_choose(
    shared: Syncer, filters: Any, chosen: Callable[[pd.DataFrame], pd.Series]
) -> None:
    views: tuple[dict[str, Any], ...] = ({}, {"history": True}, {"columns": ["removed_at", "created_month"]})
    for view in views:
        everything = read_stops(shared.root, history=view.get("history", False))
        due = everything[chosen(everything)].reset_index(drop=True)[view.get("columns", list(everything))]
        pd.testing.assert_frame_equal(read_stops(shared.root, filters=filters, **view), due)


def test_a_month_that_cannot_match_is_not_read(syncer: Syncer) -> None:
    syncer.sync([*rows(2, month="2025-05"), *rows(3, first_id=10)])
    (syncer.root / "stops/account=main/created_month=2025-05/stops.parquet").write_bytes(b"not Parquet")
    assert len(read_stops(syncer.root, filters=[("created_month", ">", "2025-05")])) == 3
    with pytest.raises(StoreError, match="damaged"):
        read_stops(syncer.root)


# While a sync writes


def test_readers_see_the_commit_and_not_what_later_syncs_have_written(syncer: Syncer) -> None:
    listed = rows(10)
    syncer.sync([*listed, {"id": 0}])
    committed = syncer.store.state("main")
    syncer.sync([*listed[1:], Row(77)])
    later = pc.field("removed_at") > pd.Timestamp("2000-01-01", tz="UTC")
    assert len(read_stops(syncer.root, history=True, filters=later)) == 1

    # As if the state had been read before that sync, and the files only now.
    syncer.store.write_state(
        "main", dataclasses.replace(committed, rejected_file=syncer.store.recorded_rejected("main"))
    )

    assert sorted(read_stops(syncer.root)["id"]) == [row.id for row in listed]
    assert len(read_stops(syncer.root, history=True)) == 10
    assert read_stops(syncer.root, history=True, filters=later).empty
    assert len(read_rejected(syncer.root)) == 1


@pytest.mark.parametrize(
    ("read", "derive"),
    [
        (read_suppression_list, sync.derive_suppression_list),
        (read_stops_per_day, sync.derive_stops_per_day),
    ],
)
def test_a_table_that_a_killed_sync_has_not_made_yet_follows_from_the_commit(
    syncer: Syncer, read: Callable[[Path], pd.DataFrame], derive: Callable[[Store, str], object]
) -> None:
    syncer.sync(rows(10))
    before = read(syncer.root)
    syncer.fetch(response_body(rows(12)))
    syncer.merge()
    assert len(read_stops(syncer.root)) == 12
    follows = read(syncer.root)
    assert not follows.equals(before)
    derive(syncer.store, "main")
    pd.testing.assert_frame_equal(read(syncer.root), follows)


@pytest.mark.parametrize(
    ("read", "table"), [(read_suppression_list, "suppression_list"), (read_stops_per_day, "stops_per_day")]
)
def test_a_table_that_vanishes_while_it_is_read_follows_from_the_commit(
    syncer: Syncer, read: Callable[[Path], pd.DataFrame], table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncer.sync(rows(10))
    file = syncer.root / table_file(table, "main")
    content, expected = file.read_bytes(), read(syncer.root)

    def removing(before_call: int, real: Callable[[Files, str], Any], calls: Iterator[int]) -> Callable[..., Any]:
        def ask(files: Files, name: str) -> Any:
            if next(calls) == before_call:
                file.unlink()
            return real(files, name)

        return ask

    for before_call in range(9):
        file.write_bytes(content)
        calls = count()
        with monkeypatch.context() as patched:
            for method in ("open", "footer", "exists", "read"):
                patched.setattr(Files, method, removing(before_call, getattr(Files, method), calls))
            pd.testing.assert_frame_equal(read(syncer.root), expected)


def known_numbers() -> object:
    return suppress(pd.DataFrame({"phone": ["0639980001"]}))


@pytest.mark.parametrize(
    ("variable", "read"), [("STOP_PIPELINE_DATA", read_stops), ("SMSPARTNER_ACCOUNTS_FILE", known_numbers)]
)
def test_a_variable_that_is_wrong_is_told_as_by_the_command(
    variable: str, read: Callable[[], object], syncer: Syncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncer.sync(rows(1))
    monkeypatch.setenv("STOP_PIPELINE_DATA", str(syncer.root))
    monkeypatch.setenv(variable, "~nobody-at-all/data")
    with pytest.raises(ConfigurationError, match=f"^{variable} is “~nobody-at-all/data”, but this machine has no such"):
        read()


@pytest.mark.parametrize("older", ["stops", "rejected"])
def test_files_that_are_older_than_the_commit_call_no_number_clean(tmp_path: Path, older: str) -> None:
    syncer = Syncer(tmp_path / "data")
    misdated = [{"id": number, "phoneNumber": f"+3363998900{number}", "createdAt": "soon"} for number in (1, 2)]
    syncer.sync([*rows(30, first_id=100), misdated[0]])
    backup = shutil.copytree(syncer.root / older, tmp_path / "backup")
    syncer.sync([*rows(31, first_id=100), *misdated])
    shutil.rmtree(syncer.root / older)
    backup.rename(syncer.root / older)
    shutil.rmtree(syncer.root / "suppression_list")  # or readers would take it, which is of this commit
    number = "+33639980130" if older == "stops" else "+33639989002"
    refused = "holds .*, but the commit records .*: restore it as it was at the last commit"
    for read in (read_stops, partial(read_stops, filters=[("id", ">", 0)]), partial(read_stops, history=True)):
        if older == "stops":
            with pytest.raises(StoreError, match=refused):
                read(syncer.root)
    old: dict[str, Any] = {"root": syncer.root, "max_age": timedelta.max}
    with pytest.raises(StoreError, match=refused):
        read_suppression_list(syncer.root)
    campaign = pd.DataFrame({"phone": [number]})
    for ask in (partial(lookup, number), partial(read_changes, START, syncer.now), partial(suppress, campaign)):
        with pytest.raises(OutdatedListError, match=refused):
            ask(**old)
    with pytest.raises(StoreError):
        syncer.sync([*rows(32, first_id=100), *misdated])


def test_what_came_after_a_state_that_was_restored_is_not_there_for_readers(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data")
    syncer.sync(rows(3))
    state = syncer.root / "state/account=main.json"
    earlier, expected = state.read_bytes(), read_stops_per_day(syncer.root)
    syncer.sync(rows(4))
    state.write_bytes(earlier)
    assert len(read_stops(syncer.root, as_of=syncer.now + timedelta(days=1))) == 3
    pd.testing.assert_frame_equal(read_stops_per_day(syncer.root), expected)
    assert len(syncer.store.read_commits("main", syncer.store.state("main"))) == 1


def test_without_a_backup_the_record_of_responses_can_be_begun_anew(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data")
    syncer.sync(rows(30))
    syncer.sync(rows(31))
    (syncer.root / "commits/account=main/commits.parquet").unlink()
    with pytest.raises(StoreError, match="write 0 for “commits” in"):
        syncer.sync(rows(32))
    state = syncer.root / "state/account=main.json"
    lines = state.read_text().replace('"commits": 2', '"commits": 0').splitlines()
    state.write_text("\n".join(line for line in lines if "state_sha256" not in line))
    syncer.sync(rows(33))
    assert verify(syncer.store, "main").problems == ()
    (answer,) = lookup("+33639980001", root=syncer.root, max_age=timedelta.max).accounts
    assert [opt_out.first_seen_sha256 for opt_out in answer.opt_outs] == [None]
