"""The answers that are kept, replayed: the same tables byte for byte, what is skipped named, nothing touched."""

import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline import read_stops
from stop_pipeline.errors import ForeignListError, StoreError
from stop_pipeline.rebuild import Rebuilt, fresh_root, rebuild
from stop_pipeline.store import Store
from stop_pipeline_tests.commands import run_command
from stop_pipeline_tests.test_model import STEPS, Step
from stop_pipeline_tests.ticking import IN_MEMORY, PARIS, Row, Ticker, answer_body, rows, tree

TABLES = ("stops", "rejected", "suppression_list", "stops_per_day")


@pytest.fixture
def ticker(tmp_path: Path) -> Ticker:
    return Ticker(tmp_path / "data")


def replay(ticker: Ticker, into: Path) -> Rebuilt:
    return rebuild(ticker.store, fresh_root(into, ticker.store), ticker.account, timezone=PARIS)


def test_a_replay_gives_every_file_byte_for_byte(ticker: Ticker, tmp_path: Path) -> None:
    listed = rows(60) + rows(20, first_id=100, month="2024-02")
    ticker.tick([*listed, {"id": None}])
    ticker.tick(listed[3:])
    ticker.tick([Row(4, "+33639989999", "2023-01-01 00:00:00"), *listed[4:]])
    ticker.tick(listed[:10])  # withheld
    ticker.tick(listed)
    ticker.tick(listed)  # recognised
    before = tree(ticker.root)

    rebuilt = replay(ticker, tmp_path / "rebuilt")

    assert (rebuilt.replayed, rebuilt.skipped) == (5, ())
    assert rebuilt.rows == len(read_stops(ticker.root, history=True))
    assert rebuilt.open_rows == len(read_stops(ticker.root))
    assert tree(tmp_path / "rebuilt") == before  # raw, snapshot and state as well, verified_at included
    assert tree(ticker.root) == before


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(STEPS, st.sampled_from([1, 1, 1, 2])), min_size=1, max_size=8))
def test_a_replay_equals_the_ticks_over_the_same_answers(steps: list[tuple[Step, int]]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        ticker = Ticker(Path(folder) / "data")
        for step, times in steps:
            listed: list[Any] = [*step.rows(), *step.malformed_rows()]
            body = answer_body(listed, nb_data=len(listed) + (not step.whole))
            for _ in range(times):
                with suppress(ForeignListError):
                    ticker.tick(body)
        replay(ticker, Path(folder) / "rebuilt")
        assert tree(Path(folder) / "rebuilt", *TABLES) == tree(ticker.root, *TABLES)


def test_a_repeated_answer_whose_removals_were_withheld_is_judged_anew_if_it_is_the_newest(
    ticker: Ticker, tmp_path: Path
) -> None:
    ticker.tick(rows(100))
    ticker.tick(rows(10))
    ticker.tick(rows(10))
    replay(ticker, tmp_path / "rebuilt")
    assert tree(tmp_path / "rebuilt") == tree(ticker.root)


def test_removals_that_a_person_accepted_are_withheld_again(ticker: Ticker, tmp_path: Path) -> None:
    ticker.tick(rows(100))
    ticker.tick(rows(10), accept_removals=90)
    rebuilt = replay(ticker, tmp_path / "rebuilt")
    assert (rebuilt.rows, rebuilt.open_rows) == (100, 100)
    state = Store(tmp_path / "rebuilt").state("main")
    assert state.counts.withheld == 90


def test_a_foreign_list_is_skipped_as_its_tick_failed_and_is_named(ticker: Ticker, tmp_path: Path) -> None:
    ticker.tick(rows(30))
    with suppress(ForeignListError):
        ticker.tick(rows(30, first_id=500))
    foreign = ticker.store.answers("main")[-1].file
    ticker.tick(rows(31))
    rebuilt = replay(ticker, tmp_path / "rebuilt")
    assert rebuilt.replayed == 2
    ((file, reason),) = rebuilt.skipped
    assert file == foreign
    assert "another account's" in reason
    assert tree(tmp_path / "rebuilt", *TABLES) == tree(ticker.root, *TABLES)


@pytest.mark.parametrize("damage", ["cut", "other bytes", "no such document"])
def test_a_damaged_answer_is_skipped_and_named(ticker: Ticker, tmp_path: Path, damage: str) -> None:
    ticker.tick(rows(30))
    ticker.tick(rows(31))
    ticker.tick(rows(32))
    first, second, _ = (ticker.root / "raw/account=main" / answer.file for answer in ticker.store.answers("main"))
    if damage == "cut":
        second.write_bytes(second.read_bytes()[:-9])
    elif damage == "other bytes":
        second.write_bytes(first.read_bytes())
    else:
        second.write_bytes(b"<html>")
    rebuilt = replay(ticker, tmp_path / "rebuilt")
    assert rebuilt.replayed == 2
    assert [file for file, _ in rebuilt.skipped] == [second.name]
    assert rebuilt.open_rows == 32


def test_an_xml_answer_is_replayed_as_xml(ticker: Ticker, tmp_path: Path) -> None:
    ticker.tick((Path(__file__).parent / "data/sample-list.xml").read_bytes(), answer_format="xml")
    replay(ticker, tmp_path / "rebuilt")
    assert tree(tmp_path / "rebuilt") == tree(ticker.root)


def test_it_begins_with_the_oldest_answer_kept(ticker: Ticker, tmp_path: Path) -> None:
    ticker.tick(rows(30))
    ticker.tick(rows(31))
    ticker.store.forget_answer("main", ticker.store.answers("main")[0])
    replay(ticker, tmp_path / "rebuilt")
    assert set(read_stops(tmp_path / "rebuilt")["first_seen_at"]) == {ticker.now}


def test_a_folder_that_is_not_empty_or_lies_in_the_data_root_is_refused(ticker: Ticker, tmp_path: Path) -> None:
    ticker.tick(rows(3))
    (tmp_path / "file").write_text("")
    for taken in (ticker.root, tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="is not empty"):
            fresh_root(taken, ticker.store)
    with pytest.raises(StoreError, match="lies within the data root"):
        fresh_root(ticker.root / "rebuilt", ticker.store)
    (tmp_path / "empty").mkdir()
    fresh_root(tmp_path / "empty", ticker.store)


def test_an_account_without_answers_is_a_sentence(ticker: Ticker, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No answer of the account “main” is kept"):
        replay(ticker, tmp_path / "rebuilt")


def test_the_command_replays_every_account_and_names_what_it_skips(tmp_path: Path) -> None:
    paris, lyon = Ticker(tmp_path / "data", "paris"), Ticker(tmp_path / "data", "lyon")
    paris.tick(rows(30))
    lyon.tick(rows(25, first_id=500))
    with suppress(ForeignListError):
        lyon.tick(rows(30))
    done = run_command("rebuild", "--into", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lyon_line, paris_line = done.stdout.splitlines()
    assert lyon_line.startswith("lyon: 1 answer replayed into ")
    assert lyon_line.endswith("1 skipped; 25 rows, 25 of them open.")
    assert "paris: 1 answer replayed" in paris_line
    assert f"Warning: lyon: {lyon.store.answers('lyon')[-1].file} was skipped. The list of 30 rows" in done.stderr
    assert tree(tmp_path / "out", *TABLES[:1]) == tree(tmp_path / "data", *TABLES[:1])

    again = run_command("rebuild", "--into", "out", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.strip() == "out is not empty: name a folder that is, or does not exist yet."
    one = run_command("rebuild", "--into", "one", "--account", "paris", cwd=tmp_path)
    assert one.returncode == 0
    assert not (tmp_path / "one/stops/account=lyon").exists()


def test_without_a_data_root_the_command_says_so(tmp_path: Path) -> None:
    done = run_command("rebuild", "--into", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no data root at" in done.stderr
    assert not (tmp_path / "out").exists()


def test_ticks_an_hour_apart_or_not_are_replayed_at_their_own_times(ticker: Ticker, tmp_path: Path) -> None:
    ticker.tick(rows(3))
    ticker.tick(rows(4), at=ticker.now + timedelta(microseconds=1))
    replay(ticker, tmp_path / "rebuilt")
    assert tree(tmp_path / "rebuilt") == tree(ticker.root)
