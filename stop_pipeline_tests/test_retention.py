"""Answers as received go when their time is over, and never those that are still needed."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline import store as store_room
from stop_pipeline import tick
from stop_pipeline.defs.resources import StoreResource, build_resources
from stop_pipeline.errors import ConfigurationError, ForeignListError, StoreError
from stop_pipeline.guard import Guard
from stop_pipeline.settings import Settings
from stop_pipeline_tests.commands import run_command
from stop_pipeline_tests.ticking import PARIS, START, Ticker, answer_body, rows, tree

RAW_DAYS = 30


@pytest.fixture
def ticker(tmp_path: Path) -> Ticker:
    return Ticker(tmp_path / "data")


def tick_at(ticker: Ticker, day: float, count: int, *, first_id: int = 1) -> tick.Applied:
    """A tick so many days after the start, with a list of so many rows."""
    ticker.fetch(answer_body(rows(count, first_id=first_id)), at=START + timedelta(days=day))
    tick.parse_newest(ticker.store, ticker.account, timezone=PARIS)
    return tick.apply_newest(ticker.store, ticker.account, Guard(), raw_days=RAW_DAYS)


def days_kept(ticker: Ticker) -> list[float]:
    return [(answer.fetched_at - START) / timedelta(days=1) for answer in ticker.store.answers(ticker.account)]


def test_an_answer_goes_once_one_that_is_thirty_days_newer_is_committed(ticker: Ticker) -> None:
    for day, count in [(0, 30), (1, 31), (30, 32)]:
        tick_at(ticker, day, count)
    assert days_kept(ticker) == [0, 1, 30]  # thirty days old is not yet older
    tick_at(ticker, 30.01, 33)
    assert days_kept(ticker) == [1, 30, 30.01]
    tick_at(ticker, 100, 34)
    assert days_kept(ticker) == [100]


def test_a_recognised_answer_moves_the_time_too(ticker: Ticker) -> None:
    for day, count in [(0, 30), (1, 31), (40, 31)]:
        applied = tick_at(ticker, day, count)
    assert applied.outcome == "recognised"
    assert days_kept(ticker) == [1]  # the one that the commit was made from, and the newest landed


def test_an_answer_that_is_not_applied_removes_nothing_and_the_commits_own_stays(ticker: Ticker) -> None:
    tick_at(ticker, 0, 30)
    tick_at(ticker, 1, 31)
    with pytest.raises(ForeignListError):
        tick_at(ticker, 60, 30, first_id=500)
    assert days_kept(ticker) == [0, 1, 60]
    # Back to the first list: its bytes landed anew, and what it was committed from last time may go.
    tick_at(ticker, 61, 31)
    assert days_kept(ticker) == [60, 61]


def test_withheld_answers_are_bound_by_the_same_rule(ticker: Ticker) -> None:
    tick_at(ticker, 0, 100)
    assert tick_at(ticker, 10, 10).counts.withheld == 90
    assert tick_at(ticker, 45, 10).counts.withheld == 90
    assert days_kept(ticker) == [10]


def test_without_a_number_of_days_all_are_kept(ticker: Ticker) -> None:
    for count in (30, 31):
        ticker.tick(rows(count), at=START + timedelta(days=count * 100))
    assert len(days_kept(ticker)) == 2


def test_other_accounts_and_other_files_are_left_alone(ticker: Ticker) -> None:
    lyon = Ticker(ticker.root, "lyon")
    tick_at(lyon, 0, 30)
    tick_at(ticker, 0, 30)
    note = ticker.root / "raw/account=main/note.txt"
    note.write_text("not ours")
    tick_at(ticker, 99, 31)
    assert days_kept(lyon) == [0]
    assert note.exists()


def test_only_raw_answers_differ_from_a_store_that_keeps_all(tmp_path: Path) -> None:
    keeping, forgetting = Ticker(tmp_path / "keeping"), Ticker(tmp_path / "forgetting")
    for day in (0, 20, 40, 60):
        at = START + timedelta(days=day)
        keeping.fetch(answer_body(rows(30 + day)), at=at)
        keeping.apply()
        tick_at(forgetting, day, 30 + day)
    kept, left = tree(keeping.root), tree(forgetting.root)
    assert {name: kept[name] for name in left} == left
    assert all(name.startswith("raw/") for name in kept.keys() - left.keys())
    assert len(kept.keys() - left.keys()) == 2


def test_a_disk_that_refuses_the_removal_is_a_warning_and_the_tick_goes_on(
    ticker: Ticker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tick_at(ticker, 0, 30)

    def refuse(*_: object) -> None:
        raise StoreError("Cannot write the file: No permission.")

    monkeypatch.setattr(store_room.Store, "forget_answer", refuse)
    with caplog.at_level(logging.WARNING):
        assert tick_at(ticker, 99, 31).outcome == "applied"
    assert "Account main: an answer past its time stays. Cannot write the file: No permission." in caplog.text
    monkeypatch.undo()
    tick_at(ticker, 100, 31)
    assert days_kept(ticker) == [99]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 45), st.integers(20, 23)), min_size=1, max_size=6))
def test_what_is_kept_is_the_newest_the_commits_own_and_what_is_young_enough(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, int]]
) -> None:
    ticker = Ticker(tmp_path_factory.mktemp("data"))
    day = 0.0
    landed: list[datetime] = []
    before = None
    for gap, count in steps:
        day += gap
        applied = tick_at(ticker, day, count)
        if count != before:
            landed.append(applied.info.fetched_at)
        before = count
    last = applied.info.fetched_at
    expected = [time for time in landed[:-1] if last - time <= timedelta(days=RAW_DAYS)] + landed[-1:]
    assert [answer.fetched_at for answer in ticker.store.answers("main")] == expected


def test_the_number_of_days_comes_from_the_environment_and_is_thirty_by_default() -> None:
    assert Settings.from_environment({}).raw_days == 30
    configured = Settings.from_environment({"STOP_PIPELINE_RAW_DAYS": "7"})
    assert configured.raw_days == 7
    resource = build_resources(configured)["store"]
    assert isinstance(resource, StoreResource)
    assert resource.raw_days == 7


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "a week", "1e3", "9999999", "٣", "7 days"])
def test_anything_but_a_whole_number_from_one_on_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="STOP_PIPELINE_RAW_DAYS"):
        Settings.from_environment({"STOP_PIPELINE_RAW_DAYS": text})


def test_a_wrong_number_of_days_exits_2_and_is_named(tmp_path: Path) -> None:
    done = run_command("run", cwd=tmp_path, SMSPARTNER_API_KEY="x", STOP_PIPELINE_RAW_DAYS="0")
    assert done.returncode == 2
    assert "STOP_PIPELINE_RAW_DAYS" in done.stderr


def test_the_largest_number_of_days_keeps_all(ticker: Ticker) -> None:
    ticker.fetch(answer_body(rows(1)), at=datetime(2001, 1, 1, tzinfo=UTC))
    ticker.apply()
    ticker.fetch(answer_body(rows(2)), at=START)
    tick.parse_newest(ticker.store, "main", timezone=PARIS)
    tick.apply_newest(ticker.store, "main", Guard(), raw_days=999_999)
    assert len(days_kept(ticker)) == 2
