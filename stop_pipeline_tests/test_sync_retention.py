"""Responses are kept as received until their time is over, and never go while they are still needed."""

import logging
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline import sync
from stop_pipeline.errors import ConfigurationError, ForeignListError
from stop_pipeline.results import Merged
from stop_pipeline.settings import Settings
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline_tests.support.syncing import IN_MEMORY, PARIS, START, Row, Syncer, response_body, rows

RAW_DAYS = 30


def sync_on(syncer: Syncer, day: float, listed: int | list[Row], raw_days: int | None = RAW_DAYS) -> Merged:
    """A sync so many days after the start, of some rows or of so many."""
    body = response_body(rows(listed) if isinstance(listed, int) else listed)
    syncer.fetch(body, at=START + timedelta(days=day))
    sync.parse(syncer.store, syncer.account, timezone=PARIS)
    return sync.merge(syncer.store, syncer.account, RemovalPolicy(), raw_days=raw_days)


def days_kept(syncer: Syncer) -> list[float]:
    return [(kept.fetched_at - START) / timedelta(days=1) for kept in syncer.store.responses.all(syncer.account)]


def test_a_response_goes_thirty_days_after_a_newer_one_replaced_it(syncer: Syncer) -> None:
    for day, count in [(0, 30), (1, 31), (31, 32)]:
        sync_on(syncer, day, count)
    assert days_kept(syncer) == [0, 1, 31]  # thirty days ago is not yet longer ago
    sync_on(syncer, 31.01, 33)
    assert days_kept(syncer) == [1, 31, 31.01]
    sync_on(syncer, 100, 34)
    assert days_kept(syncer) == [31.01, 100]  # the list was this one until now, and lookup names it as the last one


def test_an_unchanged_response_moves_the_time_too(syncer: Syncer) -> None:
    for day, count in [(0, 30), (1, 31), (40, 31)]:
        merged = sync_on(syncer, day, count)
    assert merged.outcome == "unchanged"
    assert days_kept(syncer) == [1]  # the one that the commit was made from, and the newest kept


def test_a_response_that_is_not_merged_removes_nothing_and_the_commits_own_stays(syncer: Syncer) -> None:
    sync_on(syncer, 0, 30)
    sync_on(syncer, 1, 31)
    with pytest.raises(ForeignListError):
        sync_on(syncer, 60, [Row(500 + number, "+33639989999") for number in range(30)])
    assert days_kept(syncer) == [0, 1, 60]
    # Back to the list before: its bytes are kept again.
    sync_on(syncer, 61, 31)
    assert days_kept(syncer) == [1, 60, 61]
    sync_on(syncer, 91, 32)
    assert days_kept(syncer) == [60, 61, 91]  # what was committed last time may go


def test_responses_whose_removals_are_withheld_go_by_the_same_rule(syncer: Syncer) -> None:
    sync_on(syncer, 0, 100)
    assert sync_on(syncer, 10, 10).counts.withheld == 90
    assert sync_on(syncer, 45, 10).counts.withheld == 90
    assert days_kept(syncer) == [10]


@pytest.mark.parametrize("raw_days", [None, 999_999])
def test_without_a_number_of_days_and_with_the_largest_one_all_are_kept(syncer: Syncer, raw_days: int | None) -> None:
    long_ago = (datetime(2001, 1, 1, tzinfo=UTC) - START) / timedelta(days=1)
    for day, count in [(long_ago, 1), (0, 2), (100, 3)]:
        sync_on(syncer, day, count, raw_days=raw_days)
    assert len(days_kept(syncer)) == 3


def test_other_accounts_and_other_files_are_left_alone(syncer: Syncer) -> None:
    lyon = Syncer(syncer.root, "lyon")
    sync_on(lyon, 0, 30)
    sync_on(syncer, 0, 30)
    note = syncer.root / "raw/account=main/note.txt"
    note.write_text("not ours")
    for day, count in [(1, 31), (99, 32)]:
        sync_on(syncer, day, count)
    assert (days_kept(syncer), days_kept(lyon)) == ([1, 99], [0])
    assert note.exists()


def test_a_response_that_cannot_be_removed_is_a_warning_and_the_sync_goes_on(
    syncer: Syncer, caplog: pytest.LogCaptureFixture
) -> None:
    sync_on(syncer, 0, 30)
    (old,) = (syncer.root / "raw/account=main").glob("*.zst")
    sync_on(syncer, 1, 31)
    data = old.read_bytes()
    old.unlink()
    old.mkdir()  # which no one can unlink, not even root
    with caplog.at_level(logging.WARNING):
        merged = sync_on(syncer, 99, 32)
    assert merged.outcome == "merged"
    assert "Account main: an old response could not be removed. Cannot write" in caplog.text
    old.rmdir()
    old.write_bytes(data)
    sync_on(syncer, 100, 33)
    assert days_kept(syncer) == [1, 99, 100]


@settings(max_examples=2, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 45), st.integers(20, 23)), min_size=1, max_size=6))
def test_what_is_kept_is_the_newest_the_commits_own_and_what_is_young_enough(steps: list[tuple[float, int]]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(Path(folder))
        day = 0.0
        kept: list[datetime] = []
        before = None
        for gap, count in steps:
            day += gap
            merged = sync_on(syncer, day, count)
            if count != before:
                kept.append(merged.info.fetched_at)
            before = count
        last = merged.info.fetched_at
        replaced = pairwise(kept)
        expected = [time for time, newer in replaced if last - newer <= timedelta(days=RAW_DAYS)] + kept[-1:]
        assert [response.fetched_at for response in syncer.store.responses.all("main")] == expected


def test_the_number_of_days_comes_from_the_environment_and_is_thirty_by_default() -> None:
    assert Settings.from_environment({}).raw_days == 30
    assert Settings.from_environment({"STOP_PIPELINE_RAW_DAYS": "7"}).raw_days == 7


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "a week", "1e3", "9999999", "٣", "7 days"])
def test_anything_but_a_whole_number_from_one_on_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="STOP_PIPELINE_RAW_DAYS"):
        Settings.from_environment({"STOP_PIPELINE_RAW_DAYS": text})
