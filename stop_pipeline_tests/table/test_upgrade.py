"""Data roots of the earlier version, and rows whose reading has changed: brought up to date once, as one commit.

That a sync that does this may be killed or refused at any call is shown in `test_faults`.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stop_pipeline import lookup, read_rejected, read_stops, read_stops_per_day, read_suppression_list, sync
from stop_pipeline.errors import ForeignListError, OutdatedListError, StoreError
from stop_pipeline.phone_numbers import READING_RULES, read_phone_numbers
from stop_pipeline.schema import SCHEMA_VERSION, STOPS
from stop_pipeline.table.files import Files
from stop_pipeline.table.periods import joined_periods, month_info
from stop_pipeline.table.reading import current_list
from stop_pipeline.table.state import State
from stop_pipeline.table.store import FILES_AT_ONCE, Store
from stop_pipeline.table.updating import bring_up_to_date
from stop_pipeline.verify import verify
from stop_pipeline_tests.support import version_1
from stop_pipeline_tests.support.damage import flip_a_bit, overwrite_pages
from stop_pipeline_tests.support.faults import Plan, sync_in_a_process
from stop_pipeline_tests.support.syncing import PARIS, START, Row, Syncer, response_body, rows, tree

LATER = datetime(2026, 2, 1, tzinfo=UTC)
COMMITTED = [name for name in version_1.ROOTS if name != "first_sync_killed"]
ROOTS = [name if name == "killed_halfway" else pytest.param(name, marks=pytest.mark.slow) for name in version_1.ROOTS]
"""All of them; in the short form the one that needs most to be put right."""


def lines(frame: pd.DataFrame) -> list[str]:
    return frame.to_csv(date_format="%Y-%m-%dT%H:%M:%S.%f", index=False).splitlines()


def read_all(root: Path) -> dict[str, list[str]]:
    return {
        "read_stops": lines(read_stops(root)),
        "read_stops, history": lines(read_stops(root, history=True)),
        "read_rejected": lines(read_rejected(root)),
        "read_rejected, history": lines(read_rejected(root, history=True)),
        "read_suppression_list": lines(read_suppression_list(root)),
        "read_stops_per_day": lines(read_stops_per_day(root)),
    }


def blocked(root: Path, at: datetime = LATER) -> list[str]:
    """The numbers that a campaign is checked against."""
    found = current_list(root, "main", max_age=timedelta(days=365), now=at)
    return sorted(found.numbers["phone_number"])


def committed_responses(root: Path) -> list[bytes]:
    """The responses that were merged; the one of a killed sync is kept as well."""
    sha256 = Store(root).state("main").sha256
    kept = Store(root).responses.all("main")
    bodies = version_1.responses(root)
    last = next((place for place, raw in enumerate(kept) if sha256 and sha256.startswith(raw.sha256_start)), -1)
    return bodies[: last + 1]


def with_row(body: bytes, row: Row) -> bytes:
    """The response with one more row."""
    data = [*json.loads(body)["data"], row.document()]
    return json.dumps({"success": True, "code": 200, "nbData": len(data), "data": data}).encode()


def replayed(root: Path, into: Path) -> Syncer:
    """A fresh data root with the responses that the other one has merged."""
    fresh = Syncer(into)
    fetched_at = [raw.fetched_at for raw in Store(root).responses.all("main")]
    for body, at in zip(committed_responses(root), fetched_at, strict=False):
        fresh.sync(body, at=at)
    fresh.now = LATER
    return fresh


# A data root of the earlier version


@pytest.mark.parametrize("name", COMMITTED)
def test_readers_give_what_the_earlier_version_gave(name: str, tmp_path: Path) -> None:
    root = version_1.unpack(name, tmp_path)
    before = tree(root)
    assert read_all(root) == version_1.read_by_version_1(name)
    assert tree(root) == before


@pytest.mark.parametrize("name", COMMITTED)
def test_a_campaign_is_checked_by_todays_rules_before_between_and_after(name: str, tmp_path: Path) -> None:
    root = version_1.unpack(name, tmp_path)
    before = blocked(root)
    assert {"+33639980051", "+590691990053", "+33639980057"} <= {*before} or name == "withheld"
    last = committed_responses(root)[-1]
    syncer = Syncer(root, start=LATER)
    syncer.fetch(last)
    assert blocked(root) == before
    syncer.merge()
    state = Store(root).state("main")
    assert state.schema_version == SCHEMA_VERSION
    assert blocked(root, syncer.now) == before  # also if suppression_list is not made again yet
    syncer.sync(last)
    assert blocked(root, syncer.now) == before
    assert before == sorted(read_suppression_list(root)["phone_number"])


def test_a_first_sync_of_the_earlier_version_that_was_killed_has_left_nothing_to_read(tmp_path: Path) -> None:
    root = version_1.unpack("first_sync_killed", tmp_path)
    assert {name: len(found) for name, found in read_all(root).items() if len(found) > 1} == {}
    with pytest.raises(OutdatedListError, match="There is no list of the account “main”"):
        blocked(root)


@pytest.mark.parametrize("name", ROOTS)
def test_after_the_first_sync_it_is_what_a_fresh_data_root_would_be(name: str, tmp_path: Path) -> None:
    root = version_1.unpack(name, tmp_path)
    fresh = replayed(root, tmp_path / "fresh")
    syncer = Syncer(root, start=LATER)
    # The response of a killed sync, or a new one; then one more, which only appends.
    newest = version_1.responses(root)[-1]
    for body in (newest, with_row(newest, Row(9000, "06 39 98 90 00", "2025-05-01 10:00:00")), newest):
        there, here = fresh.sync(body), syncer.sync(body)
        assert here.counts == there.counts
        assert read_all(root) == read_all(fresh.root)
        left, right = Store(root).state("main"), fresh.store.state("main")
        # What the earlier version did not record is not known.
        unknown: dict[str, Any] = {"commits": 0, "parent": None, "text": None, "extra_fields": (), "removals": ()}
        assert dataclasses.replace(left, **unknown) == dataclasses.replace(right, **unknown)
    assert read_rejected(root, history=True)["raw"].is_unique
    # Nothing that the earlier version left is there any more, but responses.
    tables = {entry.name for entry in root.iterdir()} - {"raw", ".work"}
    assert tree(root, *tables).keys() == tree(fresh.root, *tables).keys()


READERS: dict[str, Callable[[Path], object]] = {
    "read_stops": read_stops,
    "a past time": lambda root: read_suppression_list(root, as_of=LATER),
    "lookup": lambda root: lookup("+33639980001", root=root, on=LATER),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("call", ["matching", "footer", "open"])
def test_a_reader_starts_over_if_an_upgrade_replaces_what_it_reads(
    call: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = version_1.unpack("killed_before_commit", tmp_path)
    original = getattr(Files, call)

    def after_an_upgrade(files: Files, name: str) -> object:
        if not name.startswith("stops/account=main/created"):
            return original(files, name)
        result = original(files, name) if call == "matching" else None
        monkeypatch.undo()
        store = Store(root)
        with store.locked("main"):
            bring_up_to_date(store, "main", store.state("main"), timezone=PARIS)
        return result or original(files, name)

    monkeypatch.setattr(Files, call, after_an_upgrade)
    read = READERS[reader](root)
    assert getattr(Files, call) is original, "there was no upgrade"
    assert repr(read) == repr(READERS[reader](root))


def test_a_month_that_a_killed_sync_left_is_gone_after_the_first_sync(tmp_path: Path) -> None:
    root = version_1.unpack("killed_halfway", tmp_path)
    Syncer(root, start=LATER).sync(version_1.responses(root)[0])
    assert sorted(Store(root).state("main").months) == sorted(
        path.name.removeprefix("created_month=") for path in root.glob("stops/account=main/*")
    )


def test_an_unchanged_list_is_recognised_and_the_upgrade_is_no_change_of_the_list(tmp_path: Path) -> None:
    root = version_1.unpack("several_months", tmp_path)
    before, files = Store(root).state("main"), tree(root, "stops")
    syncer = Syncer(root, start=LATER)
    merged = syncer.sync(version_1.responses(root)[-1])
    assert (merged.outcome, merged.reread, merged.months_written) == ("unchanged", True, ())
    after = Store(root).state("main")
    assert (after.schema_version, after.reading_rules) == (SCHEMA_VERSION, READING_RULES)
    assert (after.commit, after.parent, after.counts) == (before.commit, before.parent, before.counts)
    assert after.verified_at == syncer.now
    # Only months in which something is read differently are written.
    changed = {name for name, data in tree(root, "stops").items() if data != files[name]}
    assert {name.split("created_month=")[1][:7] for name in changed} == {"2025-02", "2025-03"}
    again = syncer.sync(version_1.responses(root)[-1])
    assert (again.outcome, again.reread) == ("unchanged", False)


@pytest.mark.parametrize("name", COMMITTED)
def test_an_upgrade_whose_merge_is_refused_leaves_no_problem_behind(name: str, tmp_path: Path) -> None:
    syncer = Syncer(version_1.unpack(name, tmp_path), start=LATER)
    with pytest.raises(ForeignListError):
        syncer.sync(rows(30, first_id=5_000_000, month="2026-01"))
    verified = verify(syncer.store, "main")
    assert verified.problems == ()
    assert "suppression_list is not of this commit yet, and the next sync makes it again" in verified.remarks


def test_a_row_that_was_withheld_as_altered_and_is_read_alike_today_is_one_row(tmp_path: Path) -> None:
    """The provider had respelled the number of id 501, and the end of the old spelling was withheld."""
    root = version_1.unpack("withheld", tmp_path)
    assert read_stops(root)["id"].tolist().count(501) == 2
    syncer = Syncer(root, start=LATER)
    listed = version_1.responses(root)[-1]
    before = syncer.store.state("main")
    merged = syncer.sync(listed)
    assert (merged.counts.withheld, merged.counts.withheld_altered, merged.state.doubled_open_ids) == (34, 2, 2)
    assert (
        len(syncer.store.read_stops("main", before, ["id"])) < before.total_rows
    )  # as whoever has just read the state
    row = read_stops(root, history=True).query("id == 501")
    assert row["phone_number"].tolist() == ["+33639980051"]
    assert row["first_seen_at"].tolist() == [pd.Timestamp("2026-01-01 13:00", tz="UTC")]
    accepted = syncer.sync(listed, accept_removals=34)  # that of a malformed row as well
    assert accepted.counts.removed == 33
    assert read_stops(root)["id"].is_unique
    assert len(read_stops(root)) == accepted.counts.listed == 22


# Rows read again


def test_reading_what_was_stored_gives_what_reading_the_list_gives() -> None:
    spellings, stored = (pd.Series(column, dtype="str") for column in zip(*version_1.old_readings(), strict=True))
    assert len(spellings) > 200
    assert (spellings != stored).any()
    pd.testing.assert_frame_equal(read_phone_numbers(stored), read_phone_numbers(spellings))


def test_reading_again_changes_nothing_that_was_read_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = version_1.unpack("several_months", tmp_path)
    syncer = Syncer(root, start=LATER)
    listed = version_1.responses(root)[-1]
    syncer.sync(listed)
    before, view = tree(root, "stops", "rejected", "commits"), read_all(root)
    change_the_rules(monkeypatch)
    merged = syncer.sync(listed)
    assert (merged.outcome, merged.reread, merged.state.reading_rules) == ("unchanged", True, "another rule")
    assert tree(root, "stops", "rejected", "commits") == before
    assert read_all(root) == view
    for table in ("suppression_list", "stops_per_day"):  # which name the rules that they were made by
        assert b"another rule" in (root / table / "account=main" / f"{table}.parquet").read_bytes()
    assert not syncer.sync(listed).reread


def change_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("snapshot", "table.updating", "table.reading"):
        monkeypatch.setattr(f"stop_pipeline.{module}.READING_RULES", "another rule")


def read_by_earlier_rules(syncer: Syncer, listed: list[Row], read_as: dict[int, str] | None = None) -> None:
    """A data root whose rows were stored as spelled, as if by rules that could not read them, or `read_as` others."""
    syncer.sync(listed)
    store, spelled = syncer.store, {row.id: row.phone_number for row in listed} | (read_as or {})
    state = store.state("main")

    def as_spelled(month: str) -> pd.DataFrame:
        stored = store.read_stops("main", state, STOPS.names, [month])
        return stored.assign(phone_number=stored["id"].map(spelled).astype("str"), country=pd.Series(dtype="str"))

    with store.locked("main"):
        earlier = dataclasses.replace(state, reading_rules="an earlier rule", text=None)
        store.commit("main", earlier, {month: as_spelled(month) for month in state.months})
    sync.derive_tables(store, "main")


SPELLED = [
    Row(1, "33639980001", "2025-06-01 10:00:00"),
    Row(2, "+33 (0)6 39 98 00 02", "2025-06-01 10:00:00"),
    Row(3, "0639980003", "2025-07-01 10:00:00"),
    Row(4, "+33639980004", "2025-08-01 10:00:00"),
]


def test_a_spelling_that_is_another_number_by_a_new_rule_is_blocked_by_the_first_sync(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data")
    listed = [Row(1, "639 980 001.00"), *rows(30, first_id=100)]
    read_by_earlier_rules(syncer, listed, read_as={1: "+61639980001"})
    assert "+33639980001" not in blocked(syncer.root, syncer.now)
    merged = syncer.sync(listed)
    assert (merged.outcome, merged.counts.changed, merged.state.withheld_because) == ("merged", 1, None)
    assert "+33639980001" in blocked(syncer.root, syncer.now)
    assert verify(syncer.store, "main").problems == ()
    assert syncer.sync(listed).outcome == "unchanged"


def test_a_table_of_the_zone_before_is_not_read_any_more(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data")
    syncer.sync(rows(3))
    syncer.timezone = "America/Cayenne"
    syncer.fetch(response_body(rows(3)))
    syncer.merge()  # the tables that are made from it are not made again yet
    created_at = read_stops(syncer.root)["created_at"]
    assert read_suppression_list(syncer.root)["first_stop_at"].tolist() == created_at.tolist()


def test_a_new_rule_is_applied_once_and_never_looks_like_a_change_of_the_list(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data")
    read_by_earlier_rules(syncer, SPELLED)
    assert "33639980001" in read_stops(syncer.root)["phone_number"].tolist()
    assert blocked(syncer.root, syncer.now) == [f"+3363998000{number}" for number in (1, 2, 3, 4)]

    more = [*SPELLED, Row(5, "+33639980005", "2025-08-02 10:00:00")]
    merged = syncer.sync(more)
    assert (merged.reread, merged.counts.new, merged.counts.unchanged) == (True, 1, 4)
    assert (merged.counts.changed, merged.counts.removed, merged.counts.withheld) == (0, 0, 0)
    history = read_stops(syncer.root, history=True)
    assert history["phone_number"].tolist() == [f"+3363998000{number}" for number in (1, 2, 3, 4, 5)]
    assert history["country"].tolist() == ["FR"] * 5
    assert history["removed_at"].isna().all()
    assert blocked(syncer.root, syncer.now) == history["phone_number"].tolist()
    assert not syncer.sync(more).reread


def test_a_time_zone_corrected_later_reads_the_instants_again_and_ends_no_row(tmp_path: Path) -> None:
    listed = [Row(1, "+33639980001", "2025-01-15 10:00:00"), Row(2, "+33639980002", "2025-07-15 10:00:00")]
    syncer = Syncer(tmp_path / "data", timezone="UTC")
    syncer.sync(listed)
    before = read_stops(syncer.root, history=True)
    assert before["created_at"].dt.hour.tolist() == [10, 10]

    syncer.timezone = "Europe/Paris"
    merged = syncer.sync(listed)
    assert (merged.outcome, merged.reread) == ("unchanged", True)
    assert (merged.counts.changed, merged.counts.removed) == (0, 0)
    after = read_stops(syncer.root, history=True)
    assert after["created_at"].dt.hour.tolist() == [9, 8]
    pd.testing.assert_frame_equal(after.drop(columns="created_at"), before.drop(columns="created_at"))
    assert read_suppression_list(syncer.root)["first_stop_at"].dt.hour.tolist() == [9, 8]
    assert merged.state.settings["timezone"] == "Europe/Paris"

    again = syncer.sync(listed)
    assert (again.outcome, again.reread) == ("unchanged", False)
    fresh = Syncer(tmp_path / "fresh")
    fresh.sync(listed)
    assert read_all(syncer.root) == read_all(fresh.root)


def test_a_reader_sees_the_instants_of_one_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncer = Syncer(tmp_path / "data")
    listed = [row for month in range(1, 7) for row in rows(3, first_id=10 * month, month=f"2025-0{month}")]
    syncer.sync(listed)
    opened, original = [], Store.open_committed

    def before_another_zone(store: Store, name: str, state: State) -> object:
        opened.append(name)
        if len(opened) == FILES_AT_ONCE + 1:
            moved = Syncer(syncer.root, timezone="Indian/Reunion", start=syncer.now)
            moved.sync(listed)
        return original(store, name, state)

    monkeypatch.setattr(Store, "open_committed", before_another_zone)
    found = read_stops(syncer.root)
    monkeypatch.undo()
    assert found.equals(read_stops(syncer.root))


def test_a_time_zone_corrected_with_a_changed_list_counts_the_lists_changes_alone(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "data", timezone="UTC")
    syncer.sync(rows(40))
    syncer.timezone = "Europe/Paris"
    merged = syncer.sync([*rows(40)[1:], *rows(2, first_id=90, month="2025-08")])
    assert (merged.reread, merged.counts.new, merged.counts.removed, merged.counts.changed) == (True, 2, 1, 0)
    assert set(read_stops(syncer.root, history=True)["created_at"].dt.hour) == {8}


Spans = list[tuple[int, int | None]]


def test_periods_of_one_row_that_overlap_or_touch_are_joined_and_others_are_not() -> None:
    """Two spellings may be read as one number by new rules."""
    spelled_twice: list[Spans] = [
        [(0, None), (1, None)],
        [(0, 2), (1, None)],
        [(0, 3), (1, 2)],
        [(0, 1), (1, 3)],
        [(0, 1), (2, 3)],
    ]
    joined: list[Spans] = [[(0, None)], [(0, None)], [(0, 3)], [(0, 3)], [(0, 1), (2, 3)]]
    at = [START + timedelta(hours=hour) for hour in range(4)]

    def periods(spans: Spans, row_id: int) -> list[dict[str, object]]:
        return [
            {
                "id": row_id,
                "phone_number": "+33639980001",
                "country": "FR",
                "created_at": START,
                "created_at_local": START.replace(tzinfo=None),
                "first_seen_at": at[first],
                "removed_at": None if end is None else at[end],
            }
            for first, end in spans
        ]

    def table(cases: list[Spans]) -> pd.DataFrame:
        found = [period for row_id, spans in enumerate(cases) for period in periods(spans, row_id)]
        return pd.DataFrame(found).astype(STOPS.dtypes)

    result = joined_periods(table(spelled_twice))
    pd.testing.assert_frame_equal(result.reset_index(drop=True), table(joined))
    assert month_info(joined_periods(result)) == month_info(result)


# Files that are not what the commit records


@pytest.fixture(scope="module")
def synced_twice(tmp_path_factory: pytest.TempPathFactory) -> Syncer:
    syncer = Syncer(tmp_path_factory.mktemp("synced twice") / "data")
    syncer.sync([*FIRST, BAD])
    syncer.sync([*SECOND, BAD])
    return syncer


@pytest.fixture
def syncer(synced_twice: Syncer, tmp_path: Path) -> Syncer:
    """Two syncs; rows of three months, one of them ended, and a malformed row."""
    return Syncer(shutil.copytree(synced_twice.root, tmp_path / "data"), start=synced_twice.now)


FIRST = [row for month in (5, 6, 7) for row in rows(10, first_id=100 * month, month=f"2025-0{month}")]
SECOND = [*FIRST[1:], *rows(3, first_id=900, month="2025-07")]
THIRD = [*SECOND[:-1], *rows(2, first_id=950, month="2025-08"), *rows(2, first_id=960, month="2025-05")]
BAD = {"id": "x1", "phoneNumber": "+33639989901", "createdAt": "2025-02-30 10:00:00"}


MONTH = "stops/account=main/created_month={}/stops.parquet"
JANUARY, JUNE, JULY = (MONTH.format(f"2025-{month}") for month in ("01", "06", "07"))
REJECTED, COMMITS = "rejected/account=main/rejected.parquet", "commits/account=main/commits.parquet"
STATE = "state/account=main.json"

Tamper = Callable[[Path], object]


def deleted(name: str) -> Tamper:
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def from_another(file: str, listed: Sequence[Row | Mapping[str, Any]]) -> Tamper:
    """The file of another data root, in which this was listed."""

    def copy(root: Path) -> None:
        other = Syncer(root.parent / "other")
        other.sync(listed)
        (root / file).parent.mkdir(exist_ok=True)
        shutil.copy(other.root / file, root / file)

    return copy


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


ALTERED = [dataclasses.replace(row, phone_number="+33639980999") for row in FIRST]
NO_RECORD = (
    f"/{COMMITS} holds 0 rows, but the commit records 2: restore it from a backup. If there is none, write 0 for "
    f"“commits” in {STATE}, and delete its line “state_sha256”; lookup can then no longer name"
)
TAMPERED: dict[str, tuple[Tamper, str]] = {
    # what is done, what is said
    "a month is deleted": (deleted("stops/account=main/created_month=2025-06"), f"{JUNE} is missing"),
    "all months are deleted": (deleted("stops"), f"{MONTH.format('2025-05')} is missing"),
    "a month is an older one": (from_another(JULY, [*FIRST, BAD]), f"{JULY} holds 10 rows, but the commit records 13"),
    "a month has other rows": (from_another(JUNE, ALTERED), f"{JUNE} holds other rows than the commit records"),
    "a month is added": (
        from_another(JANUARY, rows(3, month="2025-01")),
        f"{JANUARY} is not part of the commit. Nothing was changed: move it elsewhere",
    ),
    "a month is damaged": (lambda root: cut(root / JUNE), f"{JUNE}: it is damaged"),
    "the malformed rows are others": (
        from_another(REJECTED, [*FIRST, {**BAD, "id": "x2"}]),
        f"{REJECTED} holds other rows than the commit records",
    ),
    "the malformed rows are deleted": (deleted(REJECTED), f"{REJECTED} is missing"),
    "the record of responses is deleted": (deleted(COMMITS), NO_RECORD),
    "the commit is deleted": (deleted(STATE), f"There is .*/{MONTH.format('.*')}, but no commit: restore {STATE}"),
}


@pytest.mark.parametrize("listed", [SECOND, THIRD], ids=["unchanged", "changed"])
@pytest.mark.parametrize("tampered", TAMPERED)
def test_files_that_are_not_those_of_the_commit_are_refused_and_nothing_is_changed(
    tampered: str, listed: list[Row], syncer: Syncer
) -> None:
    tamper, sentence = TAMPERED[tampered]
    intact = tree(syncer.root)
    tamper(syncer.root)
    tables = ("stops", "rejected", "commits", "state", "suppression_list", "stops_per_day")
    before = tree(syncer.root, *[table for table in tables if (syncer.root / table).exists()])
    with pytest.raises(StoreError, match=sentence) as refused:
        syncer.sync([*listed, BAD])
    assert str(syncer.root) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert tree(syncer.root, *[table for table in tables if (syncer.root / table).exists()]) == before
    # Restored, as it says, it goes on as if nothing had been amiss.
    for table in tables:
        shutil.rmtree(syncer.root / table, ignore_errors=True)
    for name, data in intact.items():
        if name.split("/")[0] in tables:
            (syncer.root / name).parent.mkdir(parents=True, exist_ok=True)
            (syncer.root / name).write_bytes(data)
    merged = syncer.sync([*listed, BAD])
    assert (merged.outcome, merged.reread) == ("unchanged" if listed == SECOND else "merged", False)
    assert len(read_stops(syncer.root)) == len(listed)


@pytest.mark.parametrize("listed", [FIRST, SECOND, THIRD], ids=["that of the state", "that of the files", "another"])
def test_a_state_that_is_older_than_its_files_is_taken_for_what_stands(listed: list[Row], tmp_path: Path) -> None:
    """A backup that copies the state first, while a sync goes on, comes back so."""
    syncer = Syncer(tmp_path / "data")
    syncer.sync([*FIRST, BAD])
    state, view = (syncer.root / STATE).read_bytes(), read_all(syncer.root)
    alone = shutil.copytree(syncer.root, tmp_path / "alone")
    syncer.sync([*SECOND, *rows(2, first_id=970, month="2025-09"), {**BAD, "id": "x2"}])
    (syncer.root / STATE).write_bytes(state)
    for reader in ("read_stops", "read_stops, history", "read_rejected", "read_rejected, history"):
        assert read_all(syncer.root)[reader] == view[reader]

    merged = syncer.sync([*listed, BAD])
    assert merged.reread
    undisturbed = Syncer(alone, start=syncer.now - timedelta(hours=1))
    undisturbed.sync([*listed, BAD])
    assert read_all(syncer.root) == read_all(alone)
    assert not (syncer.root / MONTH.format("2025-09")).exists()
    assert not syncer.sync([*listed, BAD]).reread


def test_a_file_of_an_older_backup_leads_back_to_a_good_root(syncer: Syncer, tmp_path: Path) -> None:
    backup = Path(shutil.copytree(syncer.root, tmp_path / "backup"))
    syncer.sync(THIRD)
    shutil.copyfile(backup / JULY, syncer.root / JULY)
    with pytest.raises(
        StoreError, match="If your backup is older, remove the account's files of stops and rejected, restore all"
    ):
        syncer.sync(SECOND)
    for file in sorted(tree(backup), key=lambda name: name.startswith("state/")):
        shutil.copyfile(backup / file, syncer.root / file)
    syncer.sync(THIRD)
    assert verify(syncer.store, "main").problems == ()
    assert set(read_stops(syncer.root)["id"]) == {row.id for row in THIRD}


def test_a_commit_whose_staged_files_were_deleted_is_refused(syncer: Syncer) -> None:
    """Whoever clears `.work` after a kill, thinking that it holds nothing of worth, is told."""
    calls = sync_in_a_process(
        Path(shutil.copytree(syncer.root, syncer.root.parent / "copy")), response_body([*THIRD, BAD]), LATER
    ).calls
    commit = next(number for number, call in enumerate(calls) if call.to == "state/account=main.json")
    assert sync_in_a_process(syncer.root, response_body([*THIRD, BAD]), LATER, Plan(commit, "after")).killed
    assert len(read_stops(syncer.root)) == len(THIRD)
    shutil.rmtree(syncer.root / ".work")
    syncer.now = LATER
    before = tree(syncer.root, "stops", "rejected", "commits")
    with pytest.raises(StoreError, match=r"commits.parquet holds 2 rows, but the commit records 3"):
        syncer.sync([*THIRD, BAD])
    assert tree(syncer.root, "stops", "rejected", "commits") == before


# Tables that are made again


@pytest.mark.parametrize("damage", [Path.unlink, cut, overwrite_pages, flip_a_bit])
@pytest.mark.parametrize("listed", [SECOND, THIRD], ids=["unchanged", "changed"])
def test_tables_that_are_missing_or_damaged_are_made_again(
    listed: list[Row], damage: Callable[[Path], None], syncer: Syncer
) -> None:
    undisturbed = Syncer(shutil.copytree(syncer.root, syncer.root.parent / "undisturbed"), start=syncer.now)
    files = [
        file
        for table in ("snapshot", "suppression_list", "stops_per_day")
        for file in (syncer.root / table).rglob("*.parquet")
    ]
    for file in files:
        damage(file)
    syncer.sync([*listed, BAD])
    undisturbed.sync([*listed, BAD])
    tables = ("stops", "rejected", "commits", "state", "suppression_list", "stops_per_day")
    assert tree(syncer.root, *tables) == tree(undisturbed.root, *tables)
    assert len(files) == 3
    for file in files:
        assert pd.read_parquet(file).equals(pd.read_parquet(undisturbed.root / file.relative_to(syncer.root)))


@pytest.mark.parametrize("damage", [cut, overwrite_pages, flip_a_bit])
def test_a_damaged_suppression_list_is_not_read_but_follows_from_the_committed_rows(
    damage: Callable[[Path], None], syncer: Syncer
) -> None:
    listed = read_suppression_list(syncer.root)
    assert len(listed)
    damage(syncer.root / "suppression_list/account=main/suppression_list.parquet")
    pd.testing.assert_frame_equal(read_suppression_list(syncer.root), listed)
