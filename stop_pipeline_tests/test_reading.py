"""What a notebook gets: types, views in time, filters, and the sentence when there is nothing to read."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyarrow.compute as pc
import pytest

from stop_pipeline import read_rejected, read_stops, read_stops_per_day, read_suppression_list
from stop_pipeline.errors import StoreError
from stop_pipeline_tests.ticking import Row, Ticker, rows

TYPES = {
    "account": "category",
    "created_month": "category",
    "id": "int64",
    "phone_number": "str",
    "country": "str",
    "created_at": "datetime64[us, UTC]",
    "created_at_local": "datetime64[us]",
    "first_seen_at": "datetime64[us, UTC]",
    "removed_at": "datetime64[us, UTC]",
}
Reader: TypeAlias = Callable[..., pd.DataFrame]
READERS: dict[Reader, dict[str, str]] = {
    read_stops: TYPES,
    read_rejected: {
        "account": "category",
        "raw": "str",
        "reason": "str",
        "phone_number": "str",
        "first_seen_at": "datetime64[us, UTC]",
        "removed_at": "datetime64[us, UTC]",
        "snapshot_sha256": "str",
    },
    read_suppression_list: {
        "account": "category",
        "phone_number": "str",
        "first_stop_at": "datetime64[us, UTC]",
        "last_stop_at": "datetime64[us, UTC]",
        "stop_count": "int64",
        "origin": "str",
    },
    read_stops_per_day: {"account": "category", "day": "datetime64[ms]", "country": "str", "stops": "int64"},
}


@pytest.fixture
def ticker(tmp_path: Path) -> Ticker:
    """Three months of rows; then one of May is removed."""
    ticker = Ticker(tmp_path / "data")
    listed = [
        row
        for month in ("2025-05", "2025-06", "2025-07")
        for row in rows(10, first_id=int(month[-1]) * 100, month=month)
    ]
    ticker.tick(listed)
    ticker.tick(listed[1:])
    return ticker


def _types(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


@pytest.mark.parametrize("read", READERS)
def test_every_column_has_its_type(tmp_path: Path, read: Reader) -> None:
    for account in ("lyon", "main"):
        Ticker(tmp_path, account).tick([*rows(3), {"id": 0, "phoneNumber": "0639980099"}])
    frame = read(tmp_path)
    assert len(frame) > 1
    assert _types(frame) == READERS[read]
    assert list(frame["account"].cat.categories) == ["lyon", "main"]


@pytest.mark.parametrize("read", READERS)
def test_before_the_first_tick_every_table_is_empty_with_the_same_types(tmp_path: Path, read: Reader) -> None:
    empty = read(tmp_path)
    assert empty.empty
    assert _types(empty) == READERS[read]


@pytest.mark.parametrize("read", READERS)
def test_a_data_root_that_does_not_exist_is_told_with_what_to_do(tmp_path: Path, read: Reader) -> None:
    with pytest.raises(StoreError, match="run “stop-pipeline run”") as caught:
        read(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_the_siblings_read_the_data_root_of_the_environment(ticker: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOP_PIPELINE_DATA", str(ticker.root))
    assert len(read_suppression_list()) == 29
    assert read_stops_per_day()["stops"].sum() == 30
    assert read_rejected().empty


def test_the_siblings_give_every_account_sorted(tmp_path: Path) -> None:
    for account in ("paris", "lyon"):
        Ticker(tmp_path, account).tick([Row(2, "+33639980002"), Row(1), {"id": 0}])
    suppressed = read_suppression_list(tmp_path)
    assert list(suppressed["account"]) == ["lyon", "lyon", "paris", "paris"]
    assert list(suppressed["phone_number"]) == ["+33639980001", "+33639980002"] * 2
    assert list(read_stops_per_day(tmp_path)["stops"]) == [2, 2]
    assert list(read_stops_per_day(tmp_path)["day"]) == [pd.Timestamp("2025-06-01")] * 2
    assert list(read_rejected(tmp_path)["account"]) == ["lyon", "paris"]


def test_history_of_malformed_rows_gives_ended_ones_too(tmp_path: Path) -> None:
    ticker = Ticker(tmp_path)
    ticker.tick([Row(1), {"id": 0}])
    ticker.tick([Row(1)])
    assert read_rejected(tmp_path).empty
    assert list(read_rejected(tmp_path, history=True)["removed_at"]) == [ticker.now]


def test_without_a_path_the_data_root_of_the_environment_is_read(
    ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP_PIPELINE_DATA", str(ticker.root))
    assert len(read_stops()) == 29
    monkeypatch.delenv("STOP_PIPELINE_DATA")
    monkeypatch.chdir(ticker.root.parent)
    assert len(read_stops()) == 29


def test_history_gives_ended_periods_too(ticker: Ticker) -> None:
    periods = read_stops(ticker.root, history=True)
    assert len(periods) == 30
    assert list(periods.loc[periods["id"] == 500, "removed_at"]) == [ticker.now]


def test_as_of_gives_what_was_known_then(ticker: Ticker) -> None:
    removed = ticker.now
    assert len(read_stops(ticker.root, as_of=removed)) == 29
    assert len(read_stops(ticker.root, as_of=removed - timedelta(microseconds=1))) == 30
    assert read_stops(ticker.root, as_of=removed - timedelta(hours=2)).empty
    assert len(read_stops(ticker.root, as_of=datetime(2100, 1, 1, tzinfo=UTC))) == 29


def test_as_of_without_a_zone_is_utc_and_with_one_is_that(ticker: Ticker) -> None:
    removed = pd.Timestamp(ticker.now)
    assert len(read_stops(ticker.root, as_of=removed.strftime("%Y-%m-%d %H:%M"))) == 29
    paris = (removed - pd.Timedelta(minutes=1)).tz_convert("Europe/Paris")
    assert len(read_stops(ticker.root, as_of=paris.isoformat())) == 30


def test_as_of_and_history_exclude_each_other(ticker: Ticker) -> None:
    with pytest.raises(ValueError, match="either as_of or history"):
        read_stops(ticker.root, as_of="2026-01-01", history=True)


def test_columns_come_in_the_order_asked_for(ticker: Ticker) -> None:
    assert list(read_stops(ticker.root, columns=["country", "account", "id"]).columns) == ["country", "account", "id"]
    with pytest.raises(ValueError, match="No column 'phone'"):
        read_stops(ticker.root, columns=["phone"])


@pytest.mark.parametrize(
    "filters",
    [
        [("created_month", "==", "2025-06")],
        [("created_at_local", ">=", datetime(2025, 6, 1)), ("created_at_local", "<", datetime(2025, 7, 1))],  # noqa: DTZ001 – a wall clock
        [[("created_month", "==", "2025-06")], [("id", "==", 0)]],
        pc.field("created_month") == "2025-06",
        [("account", "==", "main"), ("created_month", "in", ["2025-06", "1999-01"])],
        [("created_month", "==", "2025-06"), ("phone_number", "!=", "")],
    ],
)
def test_filters_are_those_of_pandas(ticker: Ticker, filters: Any) -> None:
    june = read_stops(ticker.root, filters=filters, columns=["id"])
    assert list(june["id"]) == list(range(600, 610))


@pytest.mark.parametrize("filters", [[("id", "==", "x")], [("nothing", "==", 1)]])
def test_filters_that_fit_no_column_are_the_callers_mistake(ticker: Ticker, filters: Any) -> None:
    with pytest.raises(ValueError, match="do not fit the columns"):
        read_stops(ticker.root, filters=filters)


@pytest.mark.parametrize("view", [{}, {"history": True}, {"columns": ["removed_at", "created_month"]}])
@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ([("created_month", "<", "2025-07")], lambda frame: frame["created_month"] < "2025-07"),
        ([("created_month", "==", "1999-01")], lambda frame: frame["created_month"] == "1999-01"),
        ([("account", "==", "lyon")], lambda frame: frame["account"] == "lyon"),
        (
            [[("account", "==", "lyon")], [("created_month", "==", "2025-05")]],
            lambda frame: (frame["account"] == "lyon") | (frame["created_month"] == "2025-05"),
        ),
    ],
)
def test_a_filter_gives_the_rows_that_pandas_would_choose(
    ticker: Ticker, view: dict[str, Any], filters: Any, chosen: Callable[[pd.DataFrame], pd.Series]
) -> None:
    Ticker(ticker.root, "lyon").tick([Row(1), Row(2, created_at="2025-07-01 00:00:00")])
    everything = read_stops(ticker.root, history=view.get("history", False)).astype(
        {"account": "str", "created_month": "str"}
    )
    due = everything[chosen(everything)].reset_index(drop=True)
    due = due[view.get("columns", list(due))]
    frame = read_stops(ticker.root, filters=filters, **view)
    keys = {name: "str" for name in ("account", "created_month") if name in due}
    pd.testing.assert_frame_equal(frame.astype(keys), due)
    assert all(isinstance(frame[name].dtype, pd.CategoricalDtype) for name in keys)


def test_a_month_that_cannot_match_is_not_read(ticker: Ticker) -> None:
    (ticker.root / "stops/account=main/created_month=2025-05/stops.parquet").write_bytes(b"no Parquet")
    assert len(read_stops(ticker.root, filters=[("created_month", ">", "2025-05")])) == 20
    with pytest.raises(StoreError, match="damaged"):
        read_stops(ticker.root)


def test_a_filter_on_removed_at_sees_the_commit_and_not_what_is_half_written(ticker: Ticker) -> None:
    later = pc.field("removed_at") > pd.Timestamp("2000-01-01", tz="UTC")
    assert len(read_stops(ticker.root, history=True, filters=later)) == 1
    committed = ticker.store.state("main")
    earlier = committed.applied_at - timedelta(minutes=1) if committed.applied_at else None
    ticker.store.write_state("main", type(committed)(applied_at=earlier, sha256="0" * 64))
    assert read_stops(ticker.root, history=True, filters=later).empty


def test_rows_come_sorted_by_account_wall_clock_and_id(tmp_path: Path) -> None:
    for account in ("lyon", "paris"):
        Ticker(tmp_path, account).tick([Row(2), Row(1), Row(3, created_at="2024-01-01 00:00:00")])
    frame = read_stops(tmp_path)
    assert list(frame["account"]) == ["lyon"] * 3 + ["paris"] * 3
    assert list(frame["id"]) == [3, 1, 2] * 2
