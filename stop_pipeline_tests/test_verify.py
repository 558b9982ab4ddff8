"""A data root that holds together passes; whatever is done to a file of it is found, and named."""

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline.errors import ForeignListError, StoreError
from stop_pipeline.guard import Guard
from stop_pipeline.periods import set_column
from stop_pipeline.schema import STOPS, STOPS_PER_DAY, SUPPRESSION_LIST
from stop_pipeline.store import Store
from stop_pipeline.tick import apply_newest
from stop_pipeline.verify import Finding, verify
from stop_pipeline_tests.commands import run_command
from stop_pipeline_tests.test_model import STEPS, Step
from stop_pipeline_tests.ticking import Row, Ticker, answer_body, rows, tree

JUNE = "stops/account=main/created_month=2025-06/stops.parquet"
FEBRUARY = "stops/account=main/created_month=2024-02/stops.parquet"
STOPS_FOLDER = "stops/account=main"
REJECTED = "rejected/account=main/rejected.parquet"
SNAPSHOT = "snapshot/account=main/created_month=none/stop_snapshot.parquet"
SNAPSHOT_JUNE = "snapshot/account=main/created_month=2025-06/stop_snapshot.parquet"
SUPPRESSED = "suppression_list/account=main/suppression_list.parquet"
PER_DAY = "stops_per_day/account=main/stops_per_day.parquet"
STATE = "state/account=main.json"
RAW = "raw/account=main"
LATEST = f"{RAW}/latest.json"

MALFORMED = {"id": "x", "phoneNumber": "+33639980077", "createdAt": "2025-02-03 10:00:00"}


def grow(ticker: Ticker) -> None:
    """Additions, alterations, ends, rejected rows, and a month that holds ended rows only."""
    listed = rows(60) + rows(20, first_id=100, month="2024-02")
    gone = rows(5, first_id=200, month="2023-05")
    ticker.tick([*listed, *gone, MALFORMED])
    ticker.tick([*listed, MALFORMED, {"id": None}])
    ticker.tick([Row(4, "+33639989999"), *listed[4:], listed[-1], MALFORMED])


@pytest.fixture(scope="module")
def good_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good") / "data"
    grow(Ticker(root))
    return root


@pytest.fixture
def root(good_root: Path, tmp_path: Path) -> Path:
    """A copy of the good root, to damage."""
    return Path(shutil.copytree(good_root, tmp_path / "data"))


def findings(root: Path, account: str = "main") -> tuple[Finding, ...]:
    return verify(Store(root), account).findings


def test_a_good_root_passes_and_is_left_as_it_is(root: Path) -> None:
    before = tree(root)
    verified = verify(Store(root), "main")
    assert verified.findings == ()
    assert (verified.months, verified.rows, verified.pending) == (3, 86, False)
    assert tree(root) == before


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=6))
def test_any_sequence_of_ticks_leaves_nothing_off(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    ticker = Ticker(tmp_path_factory.mktemp("root") / "data")
    for step in steps:
        listed: list[Any] = [*step.rows(), *step.malformed_rows()]
        with suppress(ForeignListError):
            ticker.tick(listed, nb_data=len(listed) + (not step.whole), accept_removals=step.accepted)
    assert findings(ticker.root) == ()


def test_withheld_refused_forgotten_and_recognised_answers_leave_nothing_off(tmp_path: Path) -> None:
    ticker = Ticker(tmp_path / "data")
    listed = rows(100)
    for body in (listed, [Row(row.id, "+33639989999") for row in listed], listed, listed[:10], listed[:10]):
        ticker.tick(body)
        assert findings(ticker.root) == ()
    with suppress(ForeignListError):
        ticker.tick(rows(30, first_id=5000))
    assert findings(ticker.root) == ()
    ticker.fetch(answer_body(rows(101)), at=ticker.now + timedelta(days=90))
    assert findings(ticker.root) == ()  # landed, and not yet parsed
    ticker.apply()
    apply_newest(ticker.store, "main", Guard(), raw_days=30)
    assert len(ticker.store.answers("main")) == 1
    assert {finding.file for finding in findings(ticker.root)} == {SUPPRESSED, PER_DAY}  # killed before they were made


def test_before_the_first_commit_there_is_nothing_off(tmp_path: Path) -> None:
    ticker = Ticker(tmp_path / "data")
    ticker.fetch(answer_body(rows(3)))
    verified = verify(ticker.store, "main")
    assert (verified.findings, verified.months, verified.rows) == ((), 0, 0)


def test_what_a_killed_tick_wrote_is_announced_by_its_mark_and_not_off(root: Path, tmp_path: Path) -> None:
    later = Ticker(Path(shutil.copytree(root, tmp_path / "later")), start=Ticker(root).now + timedelta(hours=9))
    later.tick([*rows(61), MALFORMED])
    state = json.loads((root / STATE).read_text())
    state["pending"] = {"fetched_at": later.now.isoformat(), "months": ["2025-06", "2024-02"]}
    (root / STATE).write_text(json.dumps(state))
    shutil.copyfile(later.root / JUNE, root / JUNE)
    verified = verify(Store(root), "main")
    assert (verified.findings, verified.pending, verified.rows) == ((), True, 86)

    state["pending"]["months"] = ["2024-02"]
    (root / STATE).write_text(json.dumps(state))
    (finding,) = findings(root)
    assert finding.file == JUNE
    assert "first seen or ended after" in finding.sentence


def cut(file: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / file).write_bytes((root / file).read_bytes()[:-20])

    return damage


def put(file: str, data: bytes = b"PAR1") -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data)

    return damage


def delete(file: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / file).unlink()

    return damage


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    """Another value in a JSON document; `counts__x` is `x` within `counts`."""

    def damage(root: Path) -> None:
        document = json.loads((root / file).read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            within = document[parents[0]] if parents else document
            within[last] = value
        (root / file).write_text(json.dumps(document))

    return damage


def rewrite(file: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """Other rows in a Parquet file, its footer left as it was."""

    def damage(root: Path) -> None:
        table = pq.ParquetFile(root / file).read()
        pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), root / file)

    return damage


def months(change: Callable[[Store], None]) -> Callable[[Path], None]:
    """Other rows, written as this package writes them."""
    return lambda root: change(Store(root))


def put_months(store: Store, months: dict[str, pa.Table]) -> None:
    store.tables.write_months("main", months, months.__getitem__)


def move_a_row(store: Store) -> None:
    june, february = (store.tables.read_month("main", month) for month in ("2025-06", "2024-02"))
    put_months(store, {"2025-06": june.slice(1), "2024-02": pa.concat_tables([february, june.slice(0, 1)])})


def drop_a_row(store: Store) -> None:
    put_months(store, {"2025-06": store.tables.read_month("main", "2025-06").slice(1)})


def add_a_row(store: Store) -> None:
    june = store.tables.read_month("main", "2025-06")
    row = set_column(june.slice(june.num_rows - 1), "id", pa.array([9999]))
    put_months(store, {"2025-06": pa.concat_tables([june, row])})


def repeat_an_id(store: Store) -> None:
    june = store.tables.read_month("main", "2025-06")
    row = set_column(june.slice(june.num_rows - 1), "phone_number", pa.array(["+33699999999"]))
    put_months(store, {"2025-06": pa.concat_tables([june, row])})


def end_before_the_beginning(store: Store) -> None:
    june = store.tables.read_month("main", "2025-06")
    ends = pc.if_else(pc.is_valid(june["removed_at"]), june["first_seen_at"], june["removed_at"])
    put_months(store, {"2025-06": set_column(june, "removed_at", ends.cast(STOPS.arrow.field("removed_at").type))})


def forget_ended_rows(store: Store) -> None:
    put_months(store, {"2023-05": store.tables.read_month("main", "2023-05").slice(1)})


def derived_of_another_commit(store: Store) -> None:
    table = store.tables.read_derived(SUPPRESSION_LIST, "main")
    store.tables.write_derived(SUPPRESSION_LIST, "main", table, "20250101T000000.000000Z-0123456789ab")


def derived_without_a_row(store: Store) -> None:
    commit = store.state("main").commit
    assert commit is not None
    table = store.tables.read_derived(SUPPRESSION_LIST, "main")
    store.tables.write_derived(SUPPRESSION_LIST, "main", table.slice(1), commit)


def counted_wrong(store: Store) -> None:
    commit = store.state("main").commit
    assert commit is not None
    table = store.tables.read_derived(STOPS_PER_DAY, "main")
    store.tables.write_derived(STOPS_PER_DAY, "main", set_column(table, "stops", pc.add(table["stops"], 1)), commit)


def drop_open_rejected(store: Store) -> None:
    store.tables.write_rejected(
        "main", store.tables.read_rejected("main").filter(pc.is_valid(store.tables.read_rejected("main")["removed_at"]))
    )


def swap_raw_files(root: Path) -> None:
    first, *_, last = sorted((root / RAW).glob("*.zst"))
    shutil.copyfile(first, last)


def cut_raw_file(root: Path) -> None:
    last = max((root / RAW).glob("*.zst"))
    last.write_bytes(last.read_bytes()[:-9])


def delete_raw_of_the_commit(root: Path) -> None:
    max((root / RAW).glob("*.zst")).unlink()


def older_month(root: Path) -> None:
    """The month as it was before the last answer: whole, and out of date."""
    older = Ticker(root.parent / "older")
    listed = rows(60)
    older.tick([*listed, MALFORMED])
    shutil.copyfile(older.root / JUNE, root / JUNE)


def other_bytes(table: pa.Table) -> pa.Table:
    return set_column(table, "phone_number", pc.replace_substring(table["phone_number"], "+33", "+44"))


def later_bytes(table: pa.Table) -> pa.Table:
    return set_column(table, "first_seen_at", pc.add(table["first_seen_at"], pa.scalar(timedelta(days=9))))


CORRUPTIONS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    # what is done, the file that must be named, what must be said
    "a month is cut": (cut(JUNE), JUNE, "it is damaged"),
    "a month is no Parquet": (put(JUNE, b"nothing"), JUNE, "it is damaged"),
    "a month is empty": (put(JUNE, b""), JUNE, "it is damaged"),
    "a month is deleted": (delete(JUNE), STOPS_FOLDER, "lacks 57 rows of 2025-06"),
    "a month of ended rows is deleted": (
        delete("stops/account=main/created_month=2023-05/stops.parquet"),
        STOPS_FOLDER,
        "holds 81 rows, and the commit tells 86",
    ),
    "ended rows are forgotten": (months(forget_ended_rows), STOPS_FOLDER, "and the commit tells 86"),
    "a month is an older one": (older_month, STOPS_FOLDER, "that the last answer lists"),
    "a row is moved to another month": (months(move_a_row), FEBRUARY, "holds rows of 2025-06"),
    "a row is dropped": (months(drop_a_row), STOPS_FOLDER, "lacks 1 rows of 2025-06"),
    "a row is added": (months(add_a_row), STOPS_FOLDER, "holds 78 open rows, and the commit tells 77 listed"),
    "an id stands twice": (months(repeat_an_id), STOPS_FOLDER, "holds 1 open rows beyond the first of their id"),
    "rows end before they begin": (months(end_before_the_beginning), JUNE, "end before they begin"),
    "rows are in another order": (rewrite(JUNE, lambda table: table[::-1]), JUNE, "is not sorted"),
    "phone numbers are altered": (rewrite(JUNE, other_bytes), JUNE, "than the fingerprint in its footer tells"),
    "rows are of a later time": (rewrite(FEBRUARY, later_bytes), FEBRUARY, "first seen or ended after"),
    "a column is missing": (rewrite(JUNE, lambda table: table.drop_columns(["country"])), JUNE, "has not the columns"),
    "a column has another type": (
        rewrite(JUNE, lambda table: table.set_column(0, "id", table["id"].cast(pa.int32()))),
        JUNE,
        "has not the columns",
    ),
    "a footer is lost": (
        lambda root: pq.write_table(pq.ParquetFile(root / JUNE).read().replace_schema_metadata(), root / JUNE),
        JUNE,
        "no file of this package",
    ),
    "rejected is cut": (cut(REJECTED), REJECTED, "it is damaged"),
    "rejected is deleted": (delete(REJECTED), REJECTED, "holds 0 open rows, and the commit tells 1"),
    "open rejected rows are dropped": (months(drop_open_rejected), REJECTED, "holds 0 open rows"),
    "a reason is another": (
        rewrite(REJECTED, lambda table: set_column(table, "reason", pa.array(["why not"] * table.num_rows))),
        REJECTED,
        "reasons that are none",
    ),
    "the snapshot is cut": (cut(SNAPSHOT), SNAPSHOT, "it is damaged"),
    "the snapshot is deleted": (delete(SNAPSHOT), SNAPSHOT, "is missing"),
    "the snapshot lacks a malformed row": (
        rewrite(SNAPSHOT, lambda table: table.slice(1)),
        SNAPSHOT,
        "other months or rows than there are",
    ),
    "the snapshot lacks a row": (
        rewrite(SNAPSHOT_JUNE, lambda table: table.slice(1)),
        SNAPSHOT_JUNE,
        "holds other rows than the snapshot tells",
    ),
    "a month of the snapshot is cut": (cut(SNAPSHOT_JUNE), SNAPSHOT_JUNE, "it is damaged"),
    "a month of the snapshot is one too many": (
        put("snapshot/account=main/created_month=2019-01/stop_snapshot.parquet", b""),
        SNAPSHOT,
        "other months or rows than there are",
    ),
    "the suppression list is cut": (cut(SUPPRESSED), SUPPRESSED, "it is damaged"),
    "the suppression list is deleted": (delete(SUPPRESSED), SUPPRESSED, "is missing"),
    "the suppression list is of another commit": (
        months(derived_of_another_commit),
        SUPPRESSED,
        "is of the commit 20250101T000000.000000Z-0123456789ab",
    ),
    "the suppression list lacks a number": (
        months(derived_without_a_row),
        SUPPRESSED,
        "holds other rows than stops and rejected give",
    ),
    "the counts per day are wrong": (months(counted_wrong), PER_DAY, "holds other rows than stops and rejected give"),
    "a raw answer holds other bytes": (swap_raw_files, RAW, "holds other bytes than its name tells"),
    "a raw answer is cut": (cut_raw_file, RAW, ""),
    "the raw answer of the commit is deleted": (delete_raw_of_the_commit, RAW, "lacks the answer of the commit"),
    "latest.json is deleted": (delete(LATEST), STATE, "later than any that landed"),
    "latest.json is no JSON": (put(LATEST, b"{"), LATEST, "is not the JSON document"),
    "latest.json tells another size": (edit(LATEST, size_bytes=1), LATEST, "another SHA-256 or size"),
    "latest.json tells an earlier time": (
        edit(LATEST, fetched_at="2026-01-01T00:00:00+00:00"),
        STATE,
        "later than any that landed",
    ),
    "latest.json lacks a field": (put(LATEST, b"{}"), LATEST, "no file of this package"),
    "the state is deleted": (delete(STATE), JUNE, "though nothing is committed"),
    "the state is no JSON": (put(STATE, b"\0\0"), STATE, "is not the JSON document"),
    "the state is of another version": (edit(STATE, schema_version=99), STATE, "has schema version 99"),
    "the state lacks a field": (put(STATE, b'{"schema_version": 1}'), STATE, "no file of this package"),
    "the state has another field": (edit(STATE, colour="blue"), STATE, "no file of this package"),
    "the state's time has no zone": (edit(STATE, applied_at="2026-01-01T15:00:00"), STATE, "no file of this package"),
    "the state tells another answer": (edit(STATE, sha256="0" * 64), RAW, "lacks the answer of the commit"),
    "the state tells more rows": (edit(STATE, rows=99), STATE, "tells 99 rows in the last answer"),
    "the state tells more rows and duplicates": (edit(STATE, rows=81, duplicates=2), RAW, "holds 79 rows"),
    "the state tells more listed": (edit(STATE, counts__listed=99), STATE, "do not add up"),
    "the state tells rows withheld": (edit(STATE, counts__withheld=3), STATE, "tells 3 removals withheld"),
    "the state tells a measure": (edit(STATE, withheld_from=400), STATE, "tells from how many rows removals were"),
    "the state is set back": (
        edit(STATE, applied_at="2026-01-01T14:00:00+00:00", verified_at="2026-01-01T14:00:00+00:00"),
        JUNE,
        "first seen or ended after",
    ),
    "the state is set ahead": (
        edit(STATE, applied_at="2026-01-01T15:00:01+00:00"),
        STATE,
        "a verified_at that does not fit",
    ),
    "the state was never verified": (edit(STATE, verified_at=None), STATE, "a verified_at that does not fit"),
    "a stray file beside a month": (put(f"{STOPS_FOLDER}/notes.txt"), f"{STOPS_FOLDER}/notes.txt", "is no file of"),
    "a second file in a month": (
        put(f"{STOPS_FOLDER}/created_month=2025-06/part-0.parquet"),
        f"{STOPS_FOLDER}/created_month=2025-06/part-0.parquet",
        "is no file of this package",
    ),
    "a stray file of no account": (put("stops/.DS_Store"), "stops/.DS_Store", "is no file of this package"),
    "a folder of an impossible account": (
        put("stops/account=Main/created_month=2025-06/stops.parquet"),
        "stops/account=Main/created_month=2025-06/stops.parquet",
        "is no file of this package",
    ),
    "a temporary file in a folder of data": (
        put(f"{SUPPRESSED}.tmp"),
        f"{SUPPRESSED}.tmp",
        "is no file of this package",
    ),
    "a copy of the state": (put(f"{STATE}.bak", b"{}"), f"{STATE}.bak", "is no file of this package"),
    "a stray file among the raw answers": (put(f"{RAW}/list.json"), f"{RAW}/list.json", "is no file of this package"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_found_and_named(name: str, root: Path) -> None:
    corrupt, file, words = CORRUPTIONS[name]
    corrupt(root)
    found = findings(root)
    named = [finding for finding in found if finding.file == file or (file == RAW and finding.file.startswith(RAW))]
    assert any(words in finding.sentence for finding in named), found
    for finding in found:
        assert finding.sentence.endswith(".")
        assert finding.file in finding.sentence or "schema version" in finding.sentence
        assert not re.search(r"\+33|3998|Traceback", finding.sentence)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_data_file_cut_anywhere_is_found(data: st.DataObject, good_root: Path, tmp_path_factory: Any) -> None:
    root = Path(shutil.copytree(good_root, tmp_path_factory.mktemp("cut") / "data"))
    path = data.draw(
        st.sampled_from(sorted(path for path in root.rglob("*.*") if path.is_file() and ".work" not in path.parts))
    )
    length = data.draw(st.integers(0, path.stat().st_size - 2))
    path.write_bytes(path.read_bytes()[:length])
    assert findings(root)


def test_one_damaged_file_gives_one_finding(root: Path) -> None:
    cut(JUNE)(root)
    assert len(findings(root)) == 1


def test_accounts_are_verified_apart(root: Path) -> None:
    lyon = Ticker(root, "lyon")
    lyon.tick(rows(5))
    cut(JUNE)(root)
    put("stops/account=main/x.parquet")(root)
    assert findings(root, "lyon") == ()
    assert Store(root).accounts_seen() == ["lyon", "main"]


def test_a_root_that_cannot_be_written_is_read_without_the_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(root / ".work")
    before = tree(root)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert findings(root) == ()
    assert tree(root) == before
    assert not (root / ".work").exists()


def test_the_command_says_what_is_off_and_exits_1(root: Path, tmp_path: Path) -> None:
    Ticker(root, "lyon").tick(rows(5))
    done = run_command("verify", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "lyon: 1 month, 5 rows, nothing off.\nmain: 3 months, 86 rows, nothing off.\n"

    cut(JUNE)(root)
    done = run_command("verify", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "lyon: 1 month, 5 rows, nothing off.\nmain: 2 months, 25 rows, 1 thing off.\n"
    assert done.stderr.startswith(f"main: Cannot read {root / JUNE}: it is damaged")
    assert len(done.stderr.splitlines()) == 1

    assert run_command("verify", "--account", "lyon", cwd=tmp_path).returncode == 0
    nobody = run_command("verify", "--account", "nobody", cwd=tmp_path)
    assert (nobody.returncode, nobody.stdout) == (2, "")
    assert "--account nobody is none of the accounts" in nobody.stderr


def test_a_missing_or_empty_data_root_is_a_sentence(tmp_path: Path) -> None:
    done = run_command("verify", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("There is no data root at ")
    assert not (tmp_path / "data").exists()
    (tmp_path / "data").mkdir()
    done = run_command("verify", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("There is nothing below ")
    with pytest.raises(StoreError):
        Store.existing(tmp_path / "nowhere")


def test_the_demo_verifies_last(tmp_path: Path) -> None:
    done = run_command("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tick_line, verify_line, reading, *_ = done.stdout.splitlines()
    assert " listed, " in tick_line
    assert re.fullmatch(r"main: 6[01] months, [\d,]+ rows, nothing off\.", verify_line)
    assert reading.startswith("The Parquet lies in ")
