"""The kept responses, replayed: the same tables byte for byte, what is skipped is named, and nothing is touched."""

import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline import read_stops, read_suppression_list
from stop_pipeline.errors import ForeignListError, StoreError
from stop_pipeline.rebuild import Rebuilt, fresh_root, rebuild
from stop_pipeline.table.accounts import retire
from stop_pipeline.table.responses import Responses
from stop_pipeline.table.state import RawFile
from stop_pipeline.table.store import Store
from stop_pipeline.verify import verify
from stop_pipeline_tests.support import version_1
from stop_pipeline_tests.support.in_process import run_in_process
from stop_pipeline_tests.support.sequences import STEPS, Step, responses
from stop_pipeline_tests.support.syncing import IN_MEMORY, PARIS, START, Row, Syncer, response_body, rows, tree

TABLES = ("stops", "rejected", "suppression_list", "stops_per_day")
EVERYTHING = (*TABLES, "raw", "snapshot", "commits", "state")
"""All that a sync writes, but `accounts`, which records when the account was first synced by the clock."""


@pytest.fixture
def syncer(tmp_path: Path) -> Syncer:
    return Syncer(tmp_path / "data")


def replay(syncer: Syncer, into: Path) -> Rebuilt:
    return rebuild(syncer.store, fresh_root(into, syncer.store), syncer.account, timezone=PARIS)


def test_a_replay_gives_every_file_byte_for_byte(syncer: Syncer, tmp_path: Path) -> None:
    listed = rows(60) + rows(20, first_id=100, month="2024-02")
    syncer.sync([*listed, {"id": None}])
    syncer.sync(listed[3:])
    syncer.sync([Row(4, "+33639989999", "2023-01-01 00:00:00"), *listed[4:]])
    syncer.sync(listed[:10])  # withheld
    syncer.sync(listed)
    syncer.sync([*listed, Row(500)])  # appended
    syncer.sync([*listed, Row(500)])  # unchanged
    before = tree(syncer.root)

    rebuilt = replay(syncer, tmp_path / "rebuilt")

    assert (rebuilt.replayed, rebuilt.skipped) == (6, ())
    assert rebuilt.rows == len(read_stops(syncer.root, history=True))
    assert rebuilt.open_rows == len(read_stops(syncer.root))
    assert tree(tmp_path / "rebuilt", *EVERYTHING) == tree(syncer.root, *EVERYTHING)  # verified_at included
    assert tree(syncer.root) == before
    assert verify(Store(tmp_path / "rebuilt"), "main").problems == ()


EACH_ID_STAYS = STEPS.filter(lambda step: not step.renumbered)


@settings(max_examples=2, deadline=None)
@given(st.lists(st.tuples(EACH_ID_STAYS, st.sampled_from([1, 1, 1, 2])), min_size=1, max_size=5))
def test_a_replay_equals_the_syncs_over_the_same_responses(steps: list[tuple[Step, int]]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(Path(folder) / "data")
        refused = False
        for response, (_, times) in zip(responses([step for step, _ in steps]), steps, strict=True):
            for _ in range(times):
                refused = True
                with suppress(ForeignListError):
                    syncer.sync(response.body)
                    refused = False
        if refused:
            # A response whose removals were withheld may have come twice before it. Nothing kept says when it last did,
            # so that the commit has another name until a later response is merged.
            syncer.sync(rows(40))
        replay(syncer, Path(folder) / "rebuilt")
        assert tree(Path(folder) / "rebuilt", *TABLES) == tree(syncer.root, *TABLES)


def test_a_repeated_response_whose_removals_were_withheld_is_decided_again_if_it_is_the_newest(
    syncer: Syncer, tmp_path: Path
) -> None:
    syncer.sync(rows(100))
    syncer.sync(rows(10))
    syncer.sync(rows(10))
    replay(syncer, tmp_path / "rebuilt")
    assert tree(tmp_path / "rebuilt", *EVERYTHING) == tree(syncer.root, *EVERYTHING)


def test_removals_that_a_person_accepted_are_withheld_again(syncer: Syncer, tmp_path: Path) -> None:
    syncer.sync(rows(100))
    syncer.sync(rows(10), accept_removals=90)
    rebuilt = replay(syncer, tmp_path / "rebuilt")
    assert (rebuilt.rows, rebuilt.open_rows) == (100, 100)
    state = Store(tmp_path / "rebuilt").state("main")
    assert state.counts.withheld == 90


def test_a_foreign_list_is_skipped_as_its_sync_failed_and_is_named(syncer: Syncer, tmp_path: Path) -> None:
    syncer.sync(rows(30))
    with suppress(ForeignListError):
        syncer.sync(rows(30, first_id=500, month="2024-02"))
    foreign = syncer.store.responses.all("main")[-1].file
    syncer.sync(rows(31))
    rebuilt = replay(syncer, tmp_path / "rebuilt")
    assert rebuilt.replayed == 2
    ((file, reason),) = rebuilt.skipped
    assert file == foreign
    assert "another account" in reason
    assert tree(tmp_path / "rebuilt", *TABLES) == tree(syncer.root, *TABLES)


def test_a_response_that_a_sync_removes_meanwhile_is_not_missed(
    syncer: Syncer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (30, 31, 32):
        syncer.sync(rows(count))
    original = Responses.all

    def before_the_removal(responses: Responses, account: str) -> list[RawFile]:
        kept = original(responses, account)
        monkeypatch.undo()
        responses.forget(account, kept[0])
        return kept

    monkeypatch.setattr(Responses, "all", before_the_removal)
    rebuilt = replay(syncer, tmp_path / "rebuilt")
    assert (rebuilt.replayed, rebuilt.skipped) == (2, ())


@pytest.mark.parametrize("damage", ["cut", "other bytes", "not compressed"])
def test_a_damaged_response_is_skipped_and_named(syncer: Syncer, tmp_path: Path, damage: str) -> None:
    for count in (30, 31, 32):
        syncer.sync(rows(count))
    responses = syncer.store.responses.all("main")
    first, second, _ = (syncer.root / "raw/account=main" / response.file for response in responses)
    if damage == "cut":
        second.write_bytes(second.read_bytes()[:-9])
    elif damage == "other bytes":
        second.write_bytes(first.read_bytes())
    else:
        second.write_bytes(b"<html>")
    rebuilt = replay(syncer, tmp_path / "rebuilt")
    assert rebuilt.replayed == 2
    assert [file for file, _ in rebuilt.skipped] == [second.name]
    assert rebuilt.open_rows == 32


def test_what_a_killed_fetch_left_does_not_come_after_a_response_that_was_fetched_again(
    syncer: Syncer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncer.sync(rows(30))
    with monkeypatch.context() as patched:
        patched.setattr("stop_pipeline.table.responses.write_document", killed)
        with pytest.raises(KeyboardInterrupt):
            syncer.fetch(response_body(rows(29)))
    syncer.sync(rows(30))
    assert verify(syncer.store, "main").problems == ()
    assert replay(syncer, tmp_path / "rebuilt").replayed == 3
    pd.testing.assert_frame_equal(read_suppression_list(tmp_path / "rebuilt"), read_suppression_list(syncer.root))


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_xml_response_is_replayed_as_xml(syncer: Syncer, tmp_path: Path) -> None:
    syncer.sync((Path(__file__).parent / "data/sample-list.xml").read_bytes(), response_format="xml")
    replay(syncer, tmp_path / "rebuilt")
    assert tree(tmp_path / "rebuilt", *EVERYTHING) == tree(syncer.root, *EVERYTHING)


def test_responses_that_the_earlier_version_kept_are_replayed(tmp_path: Path) -> None:
    source = Store(version_1.unpack("several_months", tmp_path))
    before = tree(tmp_path / "several_months")
    rebuilt = rebuild(source, fresh_root(tmp_path / "rebuilt", source), "main", timezone=PARIS)
    assert rebuilt.replayed == len(version_1.responses(tmp_path / "several_months"))
    assert rebuilt.skipped == ()
    assert rebuilt.open_rows == len(read_stops(tmp_path / "several_months"))
    assert tree(tmp_path / "several_months") == before


def test_it_begins_with_the_oldest_response_kept(syncer: Syncer, tmp_path: Path) -> None:
    syncer.sync(rows(30))
    syncer.sync(rows(31))
    syncer.store.responses.forget("main", syncer.store.responses.all("main")[0])
    replay(syncer, tmp_path / "rebuilt")
    assert set(read_stops(tmp_path / "rebuilt")["first_seen_at"]) == {syncer.now}


def test_responses_a_microsecond_apart_are_replayed_at_their_own_times(syncer: Syncer, tmp_path: Path) -> None:
    syncer.sync(rows(3))
    syncer.sync(rows(4), at=syncer.now + timedelta(microseconds=1))
    replay(syncer, tmp_path / "rebuilt")
    assert tree(tmp_path / "rebuilt", *EVERYTHING) == tree(syncer.root, *EVERYTHING)


def test_a_folder_that_is_not_empty_or_is_inside_the_data_root_is_refused(syncer: Syncer, tmp_path: Path) -> None:
    syncer.sync(rows(3))
    (tmp_path / "file").write_text("")
    for taken in (syncer.root, tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="is not empty"):
            fresh_root(taken, syncer.store)
    with pytest.raises(StoreError, match="is inside the data root"):
        fresh_root(syncer.root / "rebuilt", syncer.store)
    (tmp_path / "empty").mkdir()
    fresh_root(tmp_path / "empty", syncer.store)


def test_an_account_without_responses_is_a_sentence(syncer: Syncer, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No response of the account “main” is kept"):
        replay(syncer, tmp_path / "rebuilt")


def test_the_command_replays_every_account_and_names_what_it_skips(tmp_path: Path) -> None:
    paris, lyon = Syncer(tmp_path / "data", "paris"), Syncer(tmp_path / "data", "lyon")
    paris.sync(rows(30))
    lyon.sync(rows(25, first_id=500, month="2024-02"))
    with suppress(ForeignListError):
        lyon.sync(rows(30))
    done = run_in_process("rebuild", "--into", "out", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    lyon_line, paris_line = done.stdout.splitlines()
    assert lyon_line.startswith("lyon: 1 response replayed into ")
    assert lyon_line.endswith("1 skipped; 25 rows, 25 of them open.")
    assert "paris: 1 response replayed" in paris_line
    skipped = lyon.store.responses.all("lyon")[-1].file
    assert f"Warning: lyon: {skipped} was skipped. The list of 30 rows" in done.stderr
    assert tree(tmp_path / "out", "stops") == tree(tmp_path / "data", "stops")

    again = run_in_process("rebuild", "--into", "out", cwd=tmp_path)
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr.strip() == "out is not empty: name an empty folder, or one that does not exist yet."
    one = run_in_process("rebuild", "--into", "one", "--account", "paris", cwd=tmp_path)
    assert one.exit_code == 0
    assert not (tmp_path / "one/stops/account=lyon").exists()


def test_an_account_that_was_never_fetched_does_not_keep_the_others_from_being_replayed(tmp_path: Path) -> None:
    Syncer(tmp_path / "data", "paris").sync(rows(3))
    retire(Store(tmp_path / "data"), "lyon", now=START)
    done = run_in_process("rebuild", "--into", "out", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("paris: 1 response replayed")
    assert "Warning: lyon: no response is kept" in done.stderr


def test_without_a_data_root_the_command_says_so(tmp_path: Path) -> None:
    done = run_in_process("rebuild", "--into", "out", cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "There is no data root at" in done.stderr
    assert not (tmp_path / "out").exists()
