"""A data root that is in order passes; whatever is done to one of its files is found, and the file is named."""

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline.errors import ForeignListError
from stop_pipeline.schema import STOPS, STOPS_PER_DAY, SUPPRESSION_LIST
from stop_pipeline.sync import merge, parse
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline.table.store import Store
from stop_pipeline.verify import verify
from stop_pipeline_tests.support import version_1
from stop_pipeline_tests.support.commands import run_command, without_root_rights
from stop_pipeline_tests.support.damage import flip_a_bit, overwrite_pages
from stop_pipeline_tests.support.in_process import run_in_process
from stop_pipeline_tests.support.sequences import STEPS, Step, responses
from stop_pipeline_tests.support.syncing import IN_MEMORY, Row, Syncer, response_body, rows, tree

JUNE = "stops/account=main/created_month=2025-06/stops.parquet"
FEBRUARY = "stops/account=main/created_month=2024-02/stops.parquet"
SEPTEMBER = "stops/account=main/created_month=2025-09/stops.parquet"
MAY = "stops/account=main/created_month=2023-05/stops.parquet"
STOPS_FOLDER = "stops/account=main"
REJECTED = "rejected/account=main/rejected.parquet"
COMMITS = "commits/account=main/commits.parquet"
SNAPSHOT = "snapshot/account=main/stop_snapshot.parquet"
SUPPRESSED = "suppression_list/account=main/suppression_list.parquet"
PER_DAY = "stops_per_day/account=main/stops_per_day.parquet"
STATE = "state/account=main.json"
ACCOUNT = "accounts/account=main.json"
RAW = "raw/account=main"
LATEST = f"{RAW}/latest.json"

MALFORMED = {"id": "x", "phoneNumber": "+33639980077", "createdAt": "2025-02-03 10:00:00"}


def grow(syncer: Syncer) -> None:
    """Additions, alterations, ends, rejected rows, and a month that holds ended rows only."""
    listed = rows(60) + rows(20, first_id=100, month="2024-02")
    gone = rows(5, first_id=200, month="2023-05")
    syncer.sync([*listed, *gone, MALFORMED])
    syncer.sync([*listed, MALFORMED, {"id": None}])
    syncer.sync([Row(4, "+33639989999"), *listed[4:], listed[-1], MALFORMED])


@pytest.fixture(scope="module")
def good_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good") / "data"
    grow(Syncer(root))
    return root


@pytest.fixture
def root(good_root: Path, tmp_path: Path) -> Path:
    """A copy of the good root, to damage."""
    return Path(shutil.copytree(good_root, tmp_path / "data"))


def problems(root: Path, account: str = "main") -> tuple[str, ...]:
    return verify(Store(root), account).problems


def test_a_good_root_passes_and_is_left_as_it_is(root: Path) -> None:
    before = tree(root)
    verified = verify(Store(root), "main")
    assert verified.problems == ()
    assert (verified.months, verified.rows, verified.remarks) == (3, 86, ())
    assert tree(root) == before


@settings(max_examples=5, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=5))
def test_any_sequence_of_syncs_leaves_no_problem(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(Path(folder) / "data")
        for response in responses(steps):
            with suppress(ForeignListError):
                syncer.sync(response.body, at=response.at, accept_removals=response.step.accepted)
        assert problems(syncer.root) == ()


def test_withheld_refused_forgotten_and_unchanged_responses_leave_no_problem(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data")
    listed = rows(100)
    for body in (listed, [Row(row.id, "+33639989999") for row in listed], listed, listed[:10], listed[:10]):
        syncer.sync(body)
        assert problems(syncer.root) == ()
    with suppress(ForeignListError):
        syncer.sync(rows(30, first_id=5000))
    assert problems(syncer.root) == ()
    syncer.fetch(response_body(rows(101)), at=syncer.now + timedelta(days=90))
    assert problems(syncer.root) == ()  # fetched, and not parsed yet
    syncer.merge()
    merge(syncer.store, "main", RemovalPolicy(), raw_days=30)
    assert len(syncer.store.responses.all("main")) == 2  # the newest, and the one that it has just replaced
    verified = verify(syncer.store, "main")  # between two steps of a sync
    assert verified.problems == ()
    assert verified.remarks == tuple(
        f"{table} is not of this commit yet, and the next sync makes it again"
        for table in ("suppression_list", "stops_per_day")
    )


def test_a_malformed_row_that_an_incomplete_response_lacks_is_no_problem(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data")
    syncer.sync([*rows(40), {"id": None}])
    assert syncer.sync(rows(40), nb_data=41).counts.withheld == 0
    assert problems(syncer.root) == ()


def test_the_largest_ids_beside_a_malformed_row_are_no_problem(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data")
    syncer.sync([Row(2**53 + 1), Row(2**63 - 1, "+33639980009"), {"id": None}])
    assert problems(syncer.root) == ()


def test_before_the_first_commit_there_is_no_problem(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data")
    syncer.fetch(response_body(rows(3)))
    verified = verify(syncer.store, "main")
    assert (verified.problems, verified.months, verified.rows) == ((), 0, 0)


def test_a_sync_that_was_killed_after_its_commit_is_read_where_it_staged_its_files(root: Path, tmp_path: Path) -> None:
    later = Syncer(Path(shutil.copytree(root, tmp_path / "later")), start=Syncer(root).now + timedelta(hours=9))
    later.sync([*rows(61), MALFORMED])
    state = json.loads((later.root / STATE).read_text())
    del state["state_sha256"]
    changed = [
        file for file in (JUNE, FEBRUARY, COMMITS) if (later.root / file).read_bytes() != (root / file).read_bytes()
    ]
    for number, file in enumerate(changed):
        state["staged"][file] = f".work/staged/account=main/{number}"
        (later.root / state["staged"][file]).parent.mkdir(parents=True, exist_ok=True)
        (later.root / file).rename(later.root / state["staged"][file])
    (later.root / STATE).write_text(json.dumps(state))
    before = tree(later.root)
    verified = verify(Store(later.root), "main")
    assert len(changed) > 1
    assert verified.problems == ()
    assert len(verified.remarks) == 1
    assert "has not finished" in verified.remarks[0]
    assert tree(later.root) == before
    shutil.copyfile(root / JUNE, later.root / state["staged"][JUNE])
    assert any(problem.startswith(f"{JUNE} holds") for problem in problems(later.root))


@pytest.mark.parametrize("name", version_1.ROOTS)
def test_a_root_of_the_earlier_version_passes_and_is_said_to_be_upgraded(name: str, tmp_path: Path) -> None:
    root = version_1.unpack(name, tmp_path)
    before = tree(root)
    verified = verify(Store(root), "main")
    assert verified.problems == ()
    assert len(verified.remarks) == (0 if name == "first_sync_killed" and not (root / STATE).exists() else 1)
    assert all("the next sync upgrades it" in remark for remark in verified.remarks)
    assert tree(root) == before
    Syncer(root, start=datetime(2026, 6, 1, tzinfo=UTC)).sync(version_1.responses(root)[-1])
    assert verify(Store(root), "main") == dataclasses.replace(verify(Store(root), "main"), problems=(), remarks=())


def test_rows_read_by_other_rules_are_said_to_be_read_again(root: Path) -> None:
    edit(STATE, reading_rules="1, phonenumbers 8.0")(root)
    verified = verify(Store(root), "main")
    assert verified.problems == ()
    assert verified.remarks == ("the next sync reads the rows again by this version's rules",)


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
    return lambda root: (root / file).unlink()


def replace_folder(folder: str) -> Callable[[Path], None]:
    """A file where a folder was."""

    def damage(root: Path) -> None:
        shutil.rmtree(root / folder)
        (root / folder).write_bytes(b"")

    return damage


def edit(file: str, /, **changes: Any) -> Callable[[Path], None]:
    """Another value in a JSON document; `counts__x` is `x` within `counts`. A state loses its seal."""

    def damage(root: Path) -> None:
        document = json.loads((root / file).read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            within = document[parents[0]] if parents else document
            within[last] = value
        document.pop("state_sha256", None)
        (root / file).write_text(json.dumps(document))

    return damage


def rewrite(file: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """Other rows in a Parquet file, its footer left as it was."""

    def damage(root: Path) -> None:
        table = pq.ParquetFile(root / file).read()
        pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), root / file)

    return damage


def with_column(name: str, change: Callable[[pa.ChunkedArray], Any]) -> Callable[[pa.Table], pa.Table]:
    """Other values in a column, of the same type."""

    def changed(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, table.schema.field(name), change(table[name]).cast(table[name].type))

    return changed


def commit(**months: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    """Other rows, committed as this package commits them; `m2025_06` is the month 2025-06."""

    def damage(root: Path) -> None:
        store = Store(root)
        state = store.state("main")
        changes = {name[1:].replace("_", "-"): change for name, change in months.items()}
        made = {
            month: change(store.read_stops("main", state, STOPS.names, [month])) for month, change in changes.items()
        }
        store.commit("main", state, made)

    return damage


def copied(**changes: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The rows, and the last of them once more with some values changed."""
    return lambda stops: pd.concat([stops, stops.tail(1).assign(**changes).astype(stops.dtypes)], ignore_index=True)


def move_a_row(root: Path) -> None:
    store = Store(root)
    row = store.read_stops("main", store.state("main"), STOPS.names, ["2025-06"]).head(1)
    commit(
        m2025_06=lambda stops: stops.iloc[1:].reset_index(drop=True),
        m2024_02=lambda stops: pd.concat([stops, row], ignore_index=True),
    )(root)


def commit_a_malformed_row(root: Path) -> None:
    store = Store(root)
    state = store.state("main")
    store.commit("main", state, {}, copied(raw="{}", removed_at=None)(store.read_rejected("main", state)))


def end_before_the_beginning(stops: pd.DataFrame) -> pd.DataFrame:
    return stops.assign(removed_at=stops["first_seen_at"].where(stops["removed_at"].notna()))


def derive_again(schema: Any, change: Callable[[pd.DataFrame], pd.DataFrame], **info: Any) -> Callable[[Path], None]:
    """Other rows in a derived table, or another note in its footer, written as this package writes them."""

    def damage(root: Path) -> None:
        store = Store(root)
        rows, standing = store.read_derived(schema, "main")
        store.write_derived(schema, "main", change(rows), dataclasses.replace(standing, **info))

    return damage


def newest_raw_file(root: Path) -> Path:
    return max((root / RAW).glob("*.zst"))


def swap_raw_files(root: Path) -> None:
    shutil.copyfile(min((root / RAW).glob("*.zst")), newest_raw_file(root))


def lose_the_response(root: Path) -> None:
    newest_raw_file(root).unlink()


def cut_raw_file(root: Path) -> None:
    newest_raw_file(root).write_bytes(newest_raw_file(root).read_bytes()[:-9])


def copy_of_june(file: str) -> Callable[[Path], None]:
    return lambda root: put(file, (root / JUNE).read_bytes())(root)


def at_time(time: str) -> Callable[[Path], None]:
    """Another time of the commit, at which the list was verified too."""
    return edit(STATE, applied_at=time, verified_at=time)


def all_equal(text: str) -> Callable[[pa.ChunkedArray], Any]:
    return lambda texts: pa.array([text] * len(texts))


def no_footer(root: Path) -> None:
    pq.write_table(pq.ParquetFile(root / JUNE).read().replace_schema_metadata(), root / JUNE)


def older_month(root: Path) -> None:
    """The month as it was before the last response: in order, and out of date."""
    older = Syncer(root.parent / "older")
    older.sync([*rows(60), MALFORMED])
    shutil.copyfile(older.root / JUNE, root / JUNE)


def rows_end_unseen(root: Path) -> None:
    """What another program leaves that keeps the footer: the next sync would take the row for ended."""
    table = pq.ParquetFile(root / JUNE).read()
    place = table.schema.get_field_index("removed_at")
    ends = [datetime(2026, 1, 3, tzinfo=UTC), *table["removed_at"].to_pylist()[1:]]
    changed = table.set_column(place, table.schema.field(place), pa.array(ends, table.schema.field(place).type))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), root / JUNE)


def rows_of_a_later_commit(root: Path) -> None:
    """What a backup gives that copied the state before the months."""
    later = Syncer(Path(shutil.copytree(root, root.parent / "later")), start=datetime(2026, 1, 2, tzinfo=UTC))
    later.sync([Row(4, "+33639989999"), *rows(61)[4:], *rows(20, first_id=100, month="2024-02"), MALFORMED])
    shutil.copyfile(later.root / JUNE, root / JUNE)


def test_rows_of_a_later_commit_are_no_problem_but_what_the_next_sync_removes(root: Path) -> None:
    rows_of_a_later_commit(root)
    verified = verify(Store(root), "main")
    later = "holds rows from after the commit, which the next sync removes"
    assert (verified.problems, verified.remarks) == ((), (f"{JUNE} {later}",))


def test_a_list_that_is_unchanged_under_another_removal_share_is_not_read_as_of_another_time(syncer: Syncer) -> None:
    ahead = Row(2, "+33639980002", f"{syncer.now + timedelta(days=2, hours=3):%Y-%m-%d %H:%M:%S}")  # rejected, as yet
    syncer.sync([Row(1), ahead])
    syncer.fetch(response_body([Row(1), ahead]), at=syncer.now + timedelta(hours=2))
    parse(syncer.store, "main", timezone=syncer.timezone)
    assert merge(syncer.store, "main", RemovalPolicy(max_removed_share=0.5)).outcome == "unchanged"
    assert problems(syncer.root) == ()


@pytest.mark.parametrize("damage", [delete(LATEST), put(LATEST, b"{"), lose_the_response, cut_raw_file])
def test_what_is_said_of_lost_responses_leads_back_to_a_good_root(damage: Callable[[Path], None], root: Path) -> None:
    damage(root)
    found = problems(root)
    assert len(found) == (2 if damage is lose_the_response else 1)
    for problem in found:
        assert STATE not in problem  # an older one would make opted-out people be texted
        if removed := re.search(r"(raw/\S+?)[ :].*[Rr]emove it", problem):
            (root / removed[1]).unlink()
    Syncer(root, start=datetime(2026, 1, 2, tzinfo=UTC)).sync(rows(61))
    assert problems(root) == ()


def test_a_lost_record_of_responses_leads_back_to_a_good_root(root: Path) -> None:
    shutil.copyfile(root / COMMITS, root.parent / "older")
    syncer = Syncer(root, start=datetime(2026, 1, 2, tzinfo=UTC))
    syncer.sync(rows(61))
    shutil.copyfile(root.parent / "older", root / COMMITS)
    (problem,) = problems(root)
    wanted = re.search(r"write (\d+) for “commits” in (\S+), and delete its line “(\w+)”", problem)
    assert wanted
    state = json.loads((root / wanted[2]).read_text()) | {"commits": int(wanted[1])}
    del state[wanted[3]]
    (root / wanted[2]).write_text(json.dumps(state))
    verified = verify(Store(root), "main")
    assert (verified.problems, len(verified.remarks)) == ((), 1)
    assert "the record of merged responses lacks the last one" in verified.remarks[0]
    syncer.sync(rows(62))
    verified = verify(Store(root), "main")
    assert (verified.problems, verified.remarks) == ((), ())


def test_an_account_that_is_registered_meanwhile_is_no_stray(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Store.accounts_seen

    def before_another_account(store: Store) -> list[str]:
        accounts = seen(store)
        monkeypatch.undo()
        Syncer(root, "nice").sync(rows(3))
        return accounts

    monkeypatch.setattr(Store, "accounts_seen", before_another_account)
    assert problems(root) == ()


def later_month(root: Path) -> None:
    """A month of another data root."""
    other = Syncer(root.parent / "other")
    other.sync(rows(3, month="2025-09"))
    (root / SEPTEMBER).parent.mkdir()
    shutil.copyfile(other.root / SEPTEMBER, root / SEPTEMBER)


def footer_of_other_rows(root: Path) -> None:
    table = pq.ParquetFile(root / JUNE).read()
    note = {"stop_pipeline": json.dumps({"fingerprint": "0" * 64, "open_rows": 57})}
    pq.write_table(table.replace_schema_metadata(note), root / JUNE)


DAMAGED, NOT_OURS = "it is damaged", "it is damaged, or was written by another program"
MADE_AGAIN = "The next sync makes it again"
NOT_NEWEST = "is missing, or older than the commit: the next sync writes it again"
MISSING, MISSING_RESPONSE = "No such file", "is missing the response that the commit was made from"
STRAY = "is not a file of this package"
LACKS = "lacks 1 row of 2025-06"
NOT_IN_ORDER = "holds rows that are not in order, end before they begin, or have an unknown reason"
CONTRADICT = "counts that contradict each other"
NOT_RECORDED, NOT_DERIVED = "holds other rows than it records", "holds other rows than stops and rejected give"
NO_RESPONSE = "names a response that is missing, or that has another SHA-256 or size"
IN_2019, IN_COPY = JUNE.replace("2025-06", "2019-01"), JUNE.replace("2025-06", "copy")
OLD_SNAPSHOT = "snapshot/account=main/created_month=2019-01/stop_snapshot.parquet"
OF_NOBODY = "stops/account=Main/created_month=2025-06/stops.parquet"
SECOND_FILE = f"{STOPS_FOLDER}/created_month=2025-06/part-0.parquet"


def as_it_is(table: Any) -> Any:
    return table


def belgian(stops: pd.DataFrame) -> pd.DataFrame:
    return stops.assign(country=stops["country"].mask(stops.index == 40, "BE"))


def british(numbers: pa.ChunkedArray) -> Any:
    return pc.replace_substring(numbers, "+33", "+44")


def nine_days_later(times: pa.ChunkedArray) -> Any:
    return pc.add(times, pa.scalar(timedelta(days=9)))


OPEN_TWICE = copied(first_seen_at=pd.Timestamp("2026-01-01 15:00", tz="UTC"), phone_number="+33699999999")

CORRUPTIONS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    # what is done, the file that must be named, what must be said
    "a month is cut": (cut(JUNE), JUNE, DAMAGED),
    "a month is not Parquet": (put(JUNE, b"nothing"), JUNE, DAMAGED),
    "a month is empty": (put(JUNE, b""), JUNE, DAMAGED),
    "a month is deleted": (delete(JUNE), JUNE, MISSING),
    "a month of ended rows is deleted": (delete(MAY), MAY, MISSING),
    "the folder of months is a file": (replace_folder("stops"), "stops", f"stops {STRAY}"),
    "the account's folder is a file": (replace_folder(STOPS_FOLDER), STOPS_FOLDER, STRAY),
    "the folder of raw responses is a file": (replace_folder("raw"), "raw", f"raw {STRAY}"),
    "ended rows are forgotten": (rewrite(MAY, lambda table: table.slice(1)), MAY, "4 rows, but the commit records 5"),
    "a month is an older one": (older_month, JUNE, "60 rows, but the commit records 61"),
    "a row ends after the commit": (rows_end_unseen, JUNE, "has a footer that does not fit its rows"),
    "a month is added": (later_month, SEPTEMBER, "is not part of the commit: move it elsewhere"),
    "a row is moved to another month": (move_a_row, FEBRUARY, "holds rows of 2025-06"),
    "a row is dropped": (rewrite(JUNE, lambda table: table.slice(1)), JUNE, "60 rows, but the commit records 61"),
    "a row is dropped by a commit": (commit(m2025_06=lambda stops: stops.iloc[1:]), STOPS_FOLDER, LACKS),
    "a row is added by a commit": (commit(m2025_06=copied(id=9999)), STATE, CONTRADICT),
    "a malformed row is added by a commit": (commit_a_malformed_row, STATE, CONTRADICT),
    "a row is replaced by a commit": (commit(m2025_06=lambda t: copied(id=9999)(t.iloc[:-1])), STOPS_FOLDER, LACKS),
    "a country is altered by a commit": (commit(m2025_06=belgian), STOPS_FOLDER, LACKS),
    "an id is open twice": (commit(m2025_06=OPEN_TWICE), STOPS_FOLDER, "holds 1 open row beyond the first of their id"),
    "rows end before they begin": (commit(m2025_06=end_before_the_beginning), JUNE, NOT_IN_ORDER),
    "rows are in another order": (rewrite(JUNE, lambda table: table[::-1]), JUNE, NOT_IN_ORDER),
    "phone numbers are altered": (
        rewrite(JUNE, with_column("phone_number", british)),
        JUNE,
        "holds other rows than the commit records",
    ),
    "rows are of a later time": (
        rewrite(FEBRUARY, with_column("first_seen_at", nine_days_later)),
        FEBRUARY,
        "0 rows, but the commit records 20",
    ),
    "a column is missing": (rewrite(JUNE, lambda t: t.drop_columns(["country"])), JUNE, "does not have the columns"),
    "a column has another type": (
        rewrite(JUNE, lambda table: table.set_column(0, "id", table["id"].cast(pa.int32()))),
        JUNE,
        "does not have the columns",
    ),
    "a footer is lost": (no_footer, JUNE, NOT_OURS),
    "a footer is of other rows": (footer_of_other_rows, JUNE, "has a footer that does not fit its rows"),
    "rejected is cut": (cut(REJECTED), REJECTED, DAMAGED),
    "rejected is deleted": (delete(REJECTED), REJECTED, MISSING),
    "rejected rows are dropped": (rewrite(REJECTED, lambda t: t.slice(1)), REJECTED, "1 row, but the commit records 2"),
    "a reason is another": (rewrite(REJECTED, with_column("reason", all_equal("why not"))), REJECTED, NOT_IN_ORDER),
    "commits is cut": (cut(COMMITS), COMMITS, DAMAGED),
    "commits is deleted": (delete(COMMITS), COMMITS, "holds 0 rows, but the commit records 3"),
    "a merged response is forgotten": (rewrite(COMMITS, lambda table: table.slice(1)), COMMITS, "holds 2 rows"),
    "a merged response is another": (
        rewrite(COMMITS, with_column("sha256", all_equal("0" * 64))),
        COMMITS,
        "holds other responses than the commit records",
    ),
    "merged responses are in another order": (
        rewrite(COMMITS, lambda table: table.take([1, 0, 2])),
        COMMITS,
        "holds other responses than the commit records",
    ),
    "the snapshot is cut": (cut(SNAPSHOT), SNAPSHOT, DAMAGED),
    "the snapshot has other bytes": (lambda root: flip_a_bit(root / SNAPSHOT), SNAPSHOT, f"{DAMAGED}. {MADE_AGAIN}."),
    "the snapshot is deleted": (delete(SNAPSHOT), SNAPSHOT, f"{MISSING} or directory. {MADE_AGAIN}"),
    "the snapshot lacks a row": (rewrite(SNAPSHOT, lambda table: table.slice(1)), SNAPSHOT, NOT_RECORDED),
    "the snapshot lacks a malformed row": (rewrite(SNAPSHOT, lambda t: t.slice(0, len(t) - 1)), SNAPSHOT, NOT_RECORDED),
    "the suppression list is cut": (cut(SUPPRESSED), SUPPRESSED, DAMAGED),
    "the suppression list has other bytes": (
        lambda root: flip_a_bit(root / SUPPRESSED),
        SUPPRESSED,
        f"{DAMAGED}. {MADE_AGAIN}.",
    ),
    "the counts per day are overwritten": (
        lambda root: overwrite_pages(root / PER_DAY),
        PER_DAY,
        f"{DAMAGED}. {MADE_AGAIN}.",
    ),
    "the suppression list is deleted": (delete(SUPPRESSED), SUPPRESSED, f"{MISSING} or directory. {MADE_AGAIN}"),
    "the suppression list is of another commit": (
        derive_again(SUPPRESSION_LIST, as_it_is, commit="20990101T000000.000000Z-0123456789ab"),
        SUPPRESSED,
        "is of the commit 20990101T000000.000000Z-0123456789ab",
    ),
    "the suppression list lacks a number": (
        derive_again(SUPPRESSION_LIST, lambda table: table.iloc[1:]),
        SUPPRESSED,
        NOT_DERIVED,
    ),
    "rows that block nobody are counted wrong": (
        derive_again(SUPPRESSION_LIST, as_it_is, unreadable_rows=7),
        SUPPRESSED,
        NOT_DERIVED,
    ),
    "the counts per day are wrong": (
        derive_again(STOPS_PER_DAY, lambda table: table.assign(stops=table["stops"] + 1)),
        PER_DAY,
        NOT_DERIVED,
    ),
    "a raw response holds other bytes": (swap_raw_files, RAW, "is damaged, or was written by another program"),
    "a raw response is cut": (cut_raw_file, RAW, DAMAGED),
    "the raw response of the commit is deleted": (lose_the_response, RAW, MISSING_RESPONSE),
    "latest.json is deleted": (delete(LATEST), LATEST, NOT_NEWEST),
    "latest.json is not JSON": (put(LATEST, b"{"), LATEST, NOT_OURS),
    "latest.json names another response": (
        edit(LATEST, file="20260101T120000.000000Z-0123456789ab.json.zst"),
        LATEST,
        NO_RESPONSE,
    ),
    "latest.json records another size": (edit(LATEST, size_bytes=1), LATEST, NO_RESPONSE),
    "latest.json records an earlier time": (
        edit(LATEST, fetched_at="2026-01-01T00:00:00+00:00"),
        LATEST,
        NOT_NEWEST,
    ),
    "latest.json lacks a field": (put(LATEST, b"{}"), LATEST, DAMAGED),
    "the state is deleted": (delete(STATE), STATE, "but no commit: restore state/"),
    "the state is not JSON": (put(STATE, b"\0\0"), STATE, NOT_OURS),
    "the state is of another version": (edit(STATE, schema_version=99), "", "has schema version 99"),
    "the state lacks a field": (put(STATE, b'{"schema_version": 2}'), STATE, DAMAGED),
    "the state has another field": (edit(STATE, colour="blue"), STATE, DAMAGED),
    "the state's time has no zone": (edit(STATE, applied_at="2026-01-01T15:00:00"), STATE, DAMAGED),
    "the state records another response": (edit(STATE, sha256="0" * 64), RAW, MISSING_RESPONSE),
    "the state records more rows": (edit(STATE, rows=99), STATE, CONTRADICT),
    "the state records more rows and duplicates": (edit(STATE, rows=81, duplicates=2), RAW, "holds 79 rows"),
    "the state records more listed": (edit(STATE, counts__listed=99), STATE, CONTRADICT),
    "the state records rows withheld": (edit(STATE, counts__withheld=3), STATE, CONTRADICT),
    "the state records when withholding began": (edit(STATE, withheld_from=400), STATE, CONTRADICT),
    "the state is set back": (at_time("2026-01-01T14:00:00+00:00"), JUNE, "but the commit records 61"),
    "the state is set ahead": (edit(STATE, applied_at="2026-01-01T15:00:01+00:00"), LATEST, NOT_NEWEST),
    "the commit is in the future": (
        at_time("2099-01-01T15:00:00+00:00"),
        STATE,
        "records a sync at 2099-01-01 15:00:00+00:00, in the future: set this machine's clock",
    ),
    "the state was never verified": (edit(STATE, verified_at=None), STATE, "a verified_at that does not fit"),
    "the account's record is not JSON": (put(ACCOUNT, b"{"), ACCOUNT, NOT_OURS),
    "a stray file beside a month": (put(f"{STOPS_FOLDER}/notes.txt"), f"{STOPS_FOLDER}/notes.txt", STRAY),
    "a second file in a month": (put(SECOND_FILE), SECOND_FILE, STRAY),
    "a month of the snapshot, as in earlier versions": (put(OLD_SNAPSHOT, b""), OLD_SNAPSHOT, STRAY),
    "a month that was never committed": (copy_of_june(IN_2019), IN_2019, "holds rows of 2025-06"),
    "a month of an impossible name": (copy_of_june(IN_COPY), IN_COPY, "holds rows of 2025-06"),
    "a stray file of no account": (put("stops/.DS_Store"), "stops/.DS_Store", STRAY),
    "a folder of an impossible account": (put(OF_NOBODY), OF_NOBODY, STRAY),
    "a temporary file in a folder of data": (put(f"{SUPPRESSED}.tmp"), f"{SUPPRESSED}.tmp", STRAY),
    "a copy of the state": (put(f"{STATE}.bak", b"{}"), f"{STATE}.bak", STRAY),
    "a stray file among the raw responses": (put(f"{RAW}/list.json"), f"{RAW}/list.json", STRAY),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_found_and_named(name: str, root: Path) -> None:
    corrupt, file, words = CORRUPTIONS[name]
    corrupt(root)
    found = problems(root)
    assert any(file in problem and words in problem for problem in found), found
    for problem in found:
        assert problem.endswith(".")
        assert not re.search(r"\+33|3998|Traceback", problem)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_data_file_cut_anywhere_is_found(data: st.DataObject, good_root: Path, tmp_path_factory: Any) -> None:
    root = Path(shutil.copytree(good_root, tmp_path_factory.mktemp("cut") / "data"))
    path = data.draw(
        st.sampled_from(sorted(path for path in root.rglob("*.*") if path.is_file() and ".work" not in path.parts))
    )
    length = data.draw(st.integers(0, path.stat().st_size - 2))
    path.write_bytes(path.read_bytes()[:length])
    assert problems(root)


def test_accounts_are_verified_apart(root: Path) -> None:
    Syncer(root, "lyon").sync(rows(5))
    cut(JUNE)(root)
    put("stops/account=main/x.parquet")(root)
    assert problems(root, "lyon") == ()


def test_a_root_that_cannot_be_written_is_read_without_the_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(root / ".work")
    before = tree(root)
    monkeypatch.setattr(os, "access", lambda *_: False)
    verified = verify(Store(root), "main")
    assert verified.problems == ()
    assert verified.remarks == ("the last response was not compared, because this data root cannot be written",)
    assert tree(root) == before
    assert not (root / ".work").exists()


def test_the_command_prints_the_problems_and_exits_1(root: Path, tmp_path: Path) -> None:
    Syncer(root, "lyon").sync(rows(5))
    done = run_command("verify", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "lyon: 1 month, 5 rows, no problems found.\nmain: 3 months, 86 rows, no problems found.\n"

    cut(JUNE)(root)
    found = run_in_process("verify", cwd=tmp_path)
    assert found.exit_code == 1
    assert found.stdout == "lyon: 1 month, 5 rows, no problems found.\nmain: 2 months, 25 rows, 1 problem.\n"
    assert found.stderr.startswith(f"main: Cannot read {root / JUNE}: it is damaged")
    assert len(found.stderr.splitlines()) == 1


def test_a_folder_that_may_not_be_looked_into_is_not_taken_for_an_empty_one(root: Path, tmp_path: Path) -> None:
    (root / "stops/old").mkdir(mode=0o000)
    found = run_command("verify", cwd=tmp_path, preexec_fn=without_root_rights)
    assert (found.returncode, found.stdout) == (1, "main: 3 months, 86 rows, 1 problem.\n")
    assert found.stderr.startswith(f"main: Cannot read {root / 'stops/old'}: Permission denied. It belongs to user ")


def test_an_account_or_a_data_root_that_is_not_there_is_a_sentence(root: Path, tmp_path: Path) -> None:
    nobody = run_in_process("verify", "--account", "nobody", cwd=tmp_path)
    assert (nobody.exit_code, nobody.stdout) == (2, "")
    assert nobody.stderr.startswith("“nobody” is not one of the accounts below ")
    shutil.rmtree(root)
    missing = run_in_process("verify", cwd=tmp_path)
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert missing.stderr.startswith("There is no data root at ")
    assert not root.exists()
    root.mkdir()
    empty = run_in_process("verify", cwd=tmp_path)
    assert (empty.exit_code, empty.stdout) == (1, "")
    assert empty.stderr.startswith("There is nothing below ")
