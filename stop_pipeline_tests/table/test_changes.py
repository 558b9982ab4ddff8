"""The list as of one time, with the changes applied, is the list as of another, and no change is ever passed over."""

import tempfile
import warnings
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from stop_pipeline import read_changes, read_suppression_list, sync
from stop_pipeline.errors import OutdatedListError
from stop_pipeline.smspartner.client import Response
from stop_pipeline.sync import FetchedBefore
from stop_pipeline.table.accounts import register, retire
from stop_pipeline.table.lookup import LONGEST_SYNC
from stop_pipeline_tests.support import version_1
from stop_pipeline_tests.support.histories import HISTORIES, NUMBERS, VARIED, History, Period, Step, synced
from stop_pipeline_tests.support.syncing import IN_MEMORY, START, Syncer, response_body, rows

HOUR = timedelta(hours=1)
MOMENT = timedelta(microseconds=1)
ANY_AGE = timedelta.max
COLUMNS = {
    "phone_number": "str",
    "change": "str",
    "at": "datetime64[us, UTC]",
    "first_stop_at": "datetime64[us, UTC]",
}


def changes_of(root: Path, since: Any, until: Any = None, **arguments: Any) -> pd.DataFrame:
    """As `read_changes`, also for times before the history, and with lists of any age."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        changes = read_changes(since, until, root, max_age=ANY_AGE, **arguments)
    assert changes.dtypes.astype(str).to_dict() == COLUMNS
    assert changes["phone_number"].is_monotonic_increasing
    assert changes["phone_number"].is_unique
    return changes


def applied(numbers: set[str], changes: pd.DataFrame) -> set[str]:
    """A copy of the list after some changes, as a tool keeps it."""
    added, removed = (set(changes.loc[changes["change"] == what, "phone_number"]) for what in ("added", "removed"))
    assert len(added) + len(removed) == len(changes)
    assert removed <= numbers
    assert not added & numbers
    return (numbers | added) - removed


def last_change(periods: list[Period], until: datetime) -> datetime:
    """When a number last came onto the list or left it, up to a time, from all of its periods."""
    times = {period.first.fetched_at for period in periods} | {period.removed_at for period in periods} - {None}
    moments = sorted(time for time in times if time is not None and time <= until)

    def is_listed(time: datetime) -> bool:
        return any(period.covers(time) for period in periods)

    return max(time for time in moments if is_listed(time) != is_listed(time - MOMENT))


def first_stop(periods: list[Period], moment: datetime) -> datetime | None:
    """A number's earliest opt-out at a time."""
    dates = [period.entry.created_at for period in periods if period.covers(moment)]
    return min((date for date in dates if date is not None), default=None)


def read_numbers(root: Path, moment: datetime) -> set[str]:
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        listed = read_suppression_list(root, as_of=moment)["phone_number"]
    return {number for number in listed if number in NUMBERS}  # not the texts in which some were found


def compare(root: Path, histories: list[History], times: list[datetime]) -> None:
    """Compare the changes between times, in order, with the model of one account or of several."""
    at_first = times[0]
    for since, until in [*pairwise(times), (at_first, times[-1])]:
        changes = changes_of(root, since, until)
        changes = changes[changes["phone_number"].isin(NUMBERS)]
        before, after = (set().union(*(each.numbers(time) for each in histories)) for time in (since, until))
        assert applied(before, changes) == after
        assert before == read_numbers(root, since)
        for change in changes.to_dict("records"):
            periods = [period for each in histories for period in each.periods]
            periods = [period for period in periods if change["phone_number"] in period.entry.blocks]
            assert change["at"] == last_change(periods, until)
            stop = first_stop(periods, until if change["change"] == "added" else since)
            assert change["first_stop_at"] is pd.NaT if stop is None else change["first_stop_at"] == stop


def look_at_changes(steps: dict[str, list[Step]], places: list[int]) -> None:
    """Sync some accounts, each with a complete list first, and compare the changes between some times."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        root = Path(folder)
        histories = [
            synced(root, [VARIED[0], *own], account, START + number * timedelta(minutes=30))
            for number, (account, own) in enumerate(steps.items())
        ]
        known_until = min(max(each.responses[-1].fetched_at, each.verified_at or START) for each in histories)
        times = sorted({time for each in histories for time in each.times() if time <= known_until})
        compare(root, histories, sorted({times[place % len(times)] for place in places} | {known_until}))


ACCOUNTS = st.dictionaries(st.sampled_from(["lyon", "paris"]), HISTORIES, min_size=1)
TIMES = st.lists(st.integers(0, 1000), min_size=1, max_size=3)


@settings(phases=[Phase.explicit], deadline=None)
@given(ACCOUNTS, TIMES)
@example({"lyon": VARIED, "paris": VARIED[3:]}, [0, 4, 11, 14, 17])
def test_the_earlier_list_with_the_changes_applied_is_the_later_list(
    steps: dict[str, list[Step]], places: list[int]
) -> None:
    look_at_changes(steps, places)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACCOUNTS, TIMES)
def test_so_it_is_for_many_histories(steps: dict[str, list[Step]], places: list[int]) -> None:
    look_at_changes(steps, places)


def test_a_change_is_dated_by_its_own_end_also_if_the_number_has_come_back_since(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    for count in (5, 4, 5):
        syncer.sync(rows(count))
    changes = changes_of(tmp_path, syncer.now - 2 * HOUR, syncer.now - HOUR)
    assert changes["change"].tolist() == ["removed"]
    assert changes["at"].tolist() == [syncer.now - HOUR]


# Where the next changes begin


def test_a_response_that_is_fetched_but_not_merged_yet_comes_with_the_next_changes(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    syncer.sync(rows(3))
    syncer.fetch(response_body(rows(4)))
    first = changes_of(tmp_path, START)
    assert first.attrs["until"] == (START + HOUR).isoformat()  # not now: that response was fetched earlier
    syncer.merge()
    assert changes_of(tmp_path, first.attrs["until"])["phone_number"].tolist() == [rows(4)[3].phone_number]


def test_of_several_accounts_the_one_that_is_known_least_far_decides(tmp_path: Path) -> None:
    paris, lyon = Syncer(tmp_path, "paris"), Syncer(tmp_path, "lyon")
    paris.sync(rows(3), at=START + HOUR)
    lyon.sync(rows(3, first_id=10), at=START + 2 * HOUR)
    lyon.sync(rows(4, first_id=10), at=START + 4 * HOUR)
    changes = changes_of(tmp_path, START)
    assert changes.attrs["until"] == (START + HOUR).isoformat()
    assert len(changes) == 3
    paris.sync(rows(3), at=START + 3 * HOUR)  # unchanged, but known up to then
    assert changes_of(tmp_path, START).attrs["until"] == (START + 3 * HOUR).isoformat()
    assert len(changes_of(tmp_path, changes.attrs["until"])) == 3
    assert changes_of(tmp_path, START, account="lyon").attrs["until"] == (START + 4 * HOUR).isoformat()


def test_an_account_whose_first_sync_comes_later_is_added_then(tmp_path: Path) -> None:
    Syncer(tmp_path, "paris").sync(rows(3))
    before = changes_of(tmp_path, START)
    lyon = Syncer(tmp_path, "lyon")
    with lyon.store.locked("lyon"):
        register(lyon.store, "lyon", now=datetime.now(UTC))
    with pytest.raises(OutdatedListError, match="no list of the account “lyon”"):
        changes_of(tmp_path, before.attrs["until"])
    lyon.sync(rows(2, first_id=10), at=START + 2 * HOUR)
    Syncer(tmp_path, "paris").sync(rows(3), at=START + 2 * HOUR)
    assert len(changes_of(tmp_path, before.attrs["until"])) == 2


def test_an_account_that_was_retired_during_its_last_sync_holds_the_changes_up_for_an_hour(tmp_path: Path) -> None:
    paris, lyon = Syncer(tmp_path, "paris"), Syncer(tmp_path, "lyon")
    for syncer in (paris, lyon):
        syncer.sync(rows(3), at=START + HOUR)
    lyon.fetch(response_body(rows(4)), at=START + 2 * HOUR)
    retire(lyon.store, "lyon", now=datetime.now(UTC))
    paris.sync(rows(3), at=START + 3 * HOUR)
    first = changes_of(tmp_path, START)
    assert first.attrs["until"] == (START + HOUR).isoformat()
    lyon.merge()  # what was fetched before is merged after
    second = changes_of(tmp_path, first.attrs["until"])
    assert second["phone_number"].tolist() == [rows(4)[3].phone_number]


def test_an_account_that_was_retired_long_ago_does_not_hold_the_changes_up(tmp_path: Path) -> None:
    paris, lyon = Syncer(tmp_path, "paris"), Syncer(tmp_path, "lyon")
    lyon.sync(rows(3))
    retire(lyon.store, "lyon", now=datetime.now(UTC) - LONGEST_SYNC - MOMENT)
    paris.sync(rows(5), at=START + 5 * HOUR)
    changes = changes_of(tmp_path, START)
    assert (len(changes), changes.attrs["until"]) == (5, paris.now.isoformat())


def test_an_account_that_was_retired_by_a_clock_that_was_ahead_does_not_hold_the_changes_up(tmp_path: Path) -> None:
    paris, lyon = Syncer(tmp_path, "paris"), Syncer(tmp_path, "lyon")
    lyon.sync(rows(3))
    retire(lyon.store, "lyon", now=datetime.now(UTC) + timedelta(days=400))
    paris.sync(rows(5), at=START + 5 * HOUR)
    assert changes_of(tmp_path, START).attrs["until"] == paris.now.isoformat()
    lyon.sync(rows(3), at=(recently := datetime.now(UTC) - timedelta(minutes=5)))
    retire(lyon.store, "lyon", now=datetime.now(UTC) + timedelta(days=400))
    assert changes_of(tmp_path, START, account="lyon").attrs["until"] == recently.isoformat()


def test_an_incomplete_response_that_comes_again_and_again_does_not_hold_the_changes_up(tmp_path: Path) -> None:
    paris, lyon = Syncer(tmp_path, "paris"), Syncer(tmp_path, "lyon")
    lyon.sync(rows(3), at=START)
    for hour in range(1, 4):
        lyon.sync(rows(3), nb_data=4, at=START + hour * HOUR)
        paris.sync(rows(hour), at=START + hour * HOUR)
    assert changes_of(tmp_path, START).attrs["until"] == (START + 3 * HOUR).isoformat()


def test_an_account_that_is_put_back_into_use_meanwhile_loses_no_change(tmp_path: Path) -> None:
    paris, lyon = Syncer(tmp_path, "paris"), Syncer(tmp_path, "lyon")
    now = datetime.now(UTC)
    for syncer in (paris, lyon):
        syncer.sync(rows(3), at=now - 5 * HOUR)
    retire(lyon.store, "lyon", now=now - 4 * HOUR)

    class Slow(FetchedBefore):
        def fetch(self, into: Path) -> Response:  # its headers have arrived, and its body is still coming
            paris.sync(rows(4), at=datetime.now(UTC))
            self.changes.append(changes_of(tmp_path, now - 5 * HOUR))
            return super().fetch(into)

        changes: ClassVar[list[pd.DataFrame]] = []

    sync.fetch(lyon.store, "lyon", Slow(response_body(rows(5)), datetime.now(UTC)))
    lyon.merge()
    for syncer in (paris, lyon):
        syncer.sync(rows(5), at=datetime.now(UTC))
    (during,) = Slow.changes
    later = changes_of(tmp_path, during.attrs["until"])
    assert {*during["phone_number"], *later["phone_number"]} == {row.phone_number for row in rows(5)[3:]}


def test_today_means_up_to_what_is_known(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    syncer.sync(rows(3))
    today = datetime.now(ZoneInfo("Europe/Paris")).date()
    assert changes_of(tmp_path, START, today).attrs["until"] == syncer.now.isoformat()
    since_today = changes_of(tmp_path, today)
    assert (len(since_today), since_today.attrs["until"]) == (0, syncer.now.isoformat())


# What is refused, and what is told


def test_times_that_nothing_is_known_about_are_refused(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    with pytest.raises(OutdatedListError, match="There is no list below"):
        read_changes(START, root=tmp_path)
    syncer.sync(rows(3))
    with pytest.raises(ValueError, match="swap the two times"):
        read_changes(syncer.now, syncer.now - HOUR, tmp_path)
    with pytest.raises(OutdatedListError, match="is known up to 2026-01-01 13:00:00 UTC"):
        changes_of(tmp_path, START, syncer.now + timedelta(seconds=1))
    with pytest.raises(OutdatedListError, match="is known up to 2026-01-01 13:00:00 UTC"):
        changes_of(tmp_path, syncer.now + MOMENT)
    with pytest.raises(ValueError, match="in the future"):
        read_changes("2999-01-01", root=tmp_path)
    with pytest.raises(ValueError, match="is not a date or time"):
        read_changes("yesterday", root=tmp_path)
    with pytest.raises(OutdatedListError, match="more than 24 h ago"):
        read_changes(syncer.now, root=tmp_path)
    assert changes_of(tmp_path, syncer.now, syncer.now).empty
    with pytest.raises(OutdatedListError, match="There is no data root"):
        read_changes(START, root=tmp_path / "none")


def test_a_time_before_the_first_sync_means_the_whole_list_and_is_told(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    syncer.sync(rows(3))
    with pytest.warns(UserWarning, match="The history begins at 2026-01-01 13:00 UTC") as warned:
        changes = read_changes("0001-01-02", syncer.now, tmp_path)
    assert warned[0].filename == __file__
    assert len(changes) == 3
    assert changes_of(tmp_path, "1999-01-01", "1999-12-31").empty


@pytest.mark.parametrize("name", ["several_months", "killed_halfway", "withheld"])
def test_a_data_root_of_the_earlier_version_gives_the_same_before_and_after_its_upgrade(
    tmp_path: Path, name: str
) -> None:
    root = version_1.unpack(name, tmp_path)
    syncer = Syncer(root)
    committed_at = syncer.store.state("main").applied_at
    assert committed_at is not None
    times = [datetime(2026, 1, 1, 12, 59, tzinfo=UTC), datetime(2026, 1, 1, 13, 30, tzinfo=UTC), committed_at]
    before = [changes_of(root, since, until) for since, until in pairwise(times)]
    syncer.sync(version_1.responses(root)[-1], at=committed_at + 9 * HOUR)
    assert syncer.store.state("main").schema_version > 1
    after = [changes_of(root, since, until) for since, until in pairwise(times)]
    for one, other in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert sum(map(len, before)) > 0
