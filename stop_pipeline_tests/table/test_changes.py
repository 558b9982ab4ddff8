"""The list as of one time, with the changes applied, is the list as of another."""

import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline import read_changes, read_suppression_list
from stop_pipeline.errors import OutdatedListError
from stop_pipeline_tests.support.syncing import IN_MEMORY, START, Row, Syncer, rows

LISTS = st.lists(st.frozensets(st.integers(1, 12)), min_size=2, max_size=6)


def numbers_at(root: Path, hours: int) -> set[str]:
    return set(read_suppression_list(root, as_of=START + timedelta(hours=hours))["phone_number"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LISTS, st.data())
def test_the_earlier_list_with_the_changes_applied_is_the_later_list(
    lists: list[frozenset[int]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(Path(folder))
        for listed in lists:
            # Two ids in three share a number with another one.
            syncer.sync([Row(number, f"+336399800{number % 8:02}") for number in sorted(listed)], accept_removals=99)
        since, until = sorted(data.draw(st.tuples(*[st.integers(1, len(lists))] * 2)))
        changes = read_changes(START + timedelta(hours=since), START + timedelta(hours=until), folder)
        added, removed = (set(changes.loc[changes["change"] == what, "phone_number"]) for what in ("added", "removed"))
        before, after = numbers_at(Path(folder), since), numbers_at(Path(folder), until)
        assert (added, removed) == (after - before, before - after)
        assert changes["at"].between(START + timedelta(hours=since), START + timedelta(hours=until)).all()


def test_a_number_is_removed_once_no_account_lists_it(tmp_path: Path) -> None:
    paris, lyon = Syncer(tmp_path, "paris"), Syncer(tmp_path, "lyon")
    for syncer in (paris, lyon):
        syncer.sync(rows(3))
    paris.sync(rows(2), accept_removals=9)
    lyon.sync(rows(3))
    assert read_changes(paris.now - timedelta(hours=1), root=tmp_path, until=paris.now).empty
    lyon.sync(rows(2), accept_removals=9)
    paris.sync(rows(2))
    changes = read_changes(paris.now - timedelta(hours=1), root=tmp_path, until=paris.now)
    assert changes[["phone_number", "change"]].to_numpy().tolist() == [[rows(3)[2].phone_number, "removed"]]
    assert changes["at"].tolist() == [lyon.now]


def test_times_that_nothing_is_known_about_are_refused(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    syncer.sync(rows(3))
    with pytest.raises(ValueError, match="is after"):
        read_changes(syncer.now, syncer.now - timedelta(hours=1), tmp_path)
    with pytest.raises(OutdatedListError, match="is known up to"):
        read_changes(START, syncer.now + timedelta(seconds=1), tmp_path)
    with pytest.raises(ValueError, match="in the future"):
        read_changes("2999-01-01", root=tmp_path)
