"""A response that only appends rows is parsed as far as it is new, and leaves the bytes that a full parse leaves."""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stop_pipeline import read_rejected, read_stops, sync
from stop_pipeline.errors import StoreError, UnreadableResponseError
from stop_pipeline.results import Fetched, Merged
from stop_pipeline.settings import Format
from stop_pipeline.smspartner.document import open_list
from stop_pipeline.smspartner.response import parse
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline.table.state import SnapshotInfo
from stop_pipeline.table.store import snapshot_file
from stop_pipeline.verify import verify
from stop_pipeline_tests.support.damage import flip_a_bit, overwrite_pages
from stop_pipeline_tests.support.syncing import IN_MEMORY, START, Row, Syncer, response_body, rows, tree

LATE = "2026-01-03 16:30:00"
"""Still too far ahead for the first three syncs."""
MONTHS = ("2025-05", "2025-06", "2025-07")
ALL = [dataclasses.replace(row, created_at=f"{MONTHS[row.id % 3]}-01 10:00:{row.id % 60:02}") for row in rows(60)]
NEW = [Row(100 + number, f"+33639985{number:03}", f"2025-0{6 + number}-15 10:00:00") for number in range(3)]
MALFORMED = {"id": "x", "phoneNumber": "+33639980300"}


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder for data roots that need no disk: nothing is killed here."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Path(folder)


class FullParseSyncer(Syncer):
    """Syncs as if nothing were known of the text that was merged last."""

    def fetch(self, body: bytes, **kwargs: Any) -> Fetched:
        state = self.store.state(self.account)
        if state.commit and hashlib.sha256(body).hexdigest() != state.sha256:  # else nothing is parsed at all
            rewrite_state(self, text=None)
        return super().fetch(body, **kwargs)


def rewrite_state(syncer: Syncer, **changes: Any) -> None:
    """Let the commit say something else of itself."""
    state = dataclasses.replace(syncer.store.state(syncer.account), **changes)
    with syncer.store.locked(syncer.account):
        syncer.store.write_state(syncer.account, state)


def snapshot(syncer: Syncer) -> SnapshotInfo:
    info = syncer.store.snapshot_info(syncer.account)
    assert info is not None
    return info


def parsed_ids(syncer: Syncer) -> list[int]:
    """The ids of the good rows that the snapshot holds."""
    info = snapshot(syncer)
    return sorted(syncer.store.read_snapshot(syncer.account, info, info.months)[0]["id"])


def tables(syncer: Syncer) -> dict[str, bytes]:
    """Every file but the snapshot, which is meant to differ."""
    return {name: data for name, data in tree(syncer.root).items() if not name.startswith(("snapshot/", "accounts/"))}


def merge(syncer: Syncer, listed: list[Any] | bytes, response_format: Format = "json") -> Merged:
    """The steps up to `stops`; the tables after it depend on `stops` and `rejected` alone."""
    syncer.fetch(listed if isinstance(listed, bytes) else response_body(listed), response_format=response_format)
    return syncer.merge()


def json_text(row: Any) -> str:
    return json.dumps(row.document() if isinstance(row, Row) else row)


def xml_text(row: Any) -> str:
    values = (row.document() if isinstance(row, Row) else row or {}).values()
    return f"<entry>{''.join(f'<entry>{value}</entry>' for value in values)}</entry>"


def body_of(response_format: Format, listed: Sequence[Any], nb_data: int | None = None, between: str = ", ") -> bytes:
    count = len(listed) if nb_data is None else nb_data
    if response_format == "json":
        data = between.join(map(json_text, listed))
        return f'{{"success": true, "code": 200, "nbData": {count}, "data": [{data}]}}'.encode()
    entries = f"<entry>true</entry><entry>200</entry><entry>{count}</entry>"
    return f"<result>{entries}<entry>\n{''.join(map(xml_text, listed))}\n</entry></result>".encode()


@cache
def files_after_all(response_format: Format) -> dict[str, bytes]:
    """The files of a data root into which `ALL` was merged."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(folder)
        merge(syncer, body_of(response_format, ALL), response_format)
        return tree(syncer.root)


def syncer_after_all(root: Path, response_format: Format = "json") -> Syncer:
    """Syncs into a copy of such a data root."""
    for name, data in files_after_all(response_format).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    syncer = Syncer(root)
    syncer.now += timedelta(hours=1)
    return syncer


# Only what is new is parsed


@pytest.mark.parametrize("response_format", ["json", "xml"])
@pytest.mark.parametrize("newest_first", [False, True], ids=["new rows last", "new rows first"])
def test_only_appended_rows_are_parsed_and_every_table_is_as_after_a_full_parse(
    in_memory: Path, response_format: Format, *, newest_first: bool
) -> None:
    appending, parsing = Syncer(in_memory / "appending"), FullParseSyncer(in_memory / "parsing")
    listed: list[Any] = [*ALL, MALFORMED, ALL[3]]
    for syncer in (appending, parsing):
        syncer.sync(body_of(response_format, listed), response_format=response_format)
    for new in (NEW[:2], NEW[2:]):
        listed = [*new[::-1], *listed] if newest_first else [*listed, *new]
        before = appending.store.state("main")
        for syncer in (appending, parsing):
            merge(syncer, body_of(response_format, listed), response_format)

        assert snapshot(appending).builds_on == before.commit
        assert parsed_ids(appending) == [row.id for row in new]
        assert snapshot(parsing).builds_on is None
        assert len(parsed_ids(parsing)) > len(ALL)
    for syncer in (appending, parsing):
        sync.derive_tables(syncer.store, "main")
    assert tables(appending) == tables(parsing)
    assert len(read_stops(appending.root)) == len(ALL) + len(NEW)
    counts = snapshot(appending)
    assert (counts.rows, counts.listed, counts.rejected, counts.duplicates) == (65, 63, 1, 1)


def test_a_response_that_appends_nothing_but_white_space_is_parsed(in_memory: Path) -> None:
    syncer = syncer_after_all(in_memory)
    merged = merge(syncer, body_of("json", ALL).replace(b"]}", b" \n]}"))
    assert (merged.counts.unchanged, merged.counts.new) == (60, 0)


@pytest.mark.parametrize("between", [",", " ,\n", ",\r\n\t"])
def test_rows_may_be_separated_in_any_way(in_memory: Path, between: str) -> None:
    syncer = Syncer(in_memory)
    merge(syncer, body_of("json", ALL, between=between))
    merge(syncer, body_of("json", [*ALL, *NEW], between=between))
    assert parsed_ids(syncer) == [row.id for row in NEW]
    merge(syncer, body_of("json", [Row(500), *ALL, *NEW], between=between))
    assert parsed_ids(syncer) == [500]
    assert len(read_stops(syncer.root)) == 64


def test_an_appended_response_that_is_not_complete_adds_its_rows_and_the_next_is_parsed(in_memory: Path) -> None:
    appending, parsing = Syncer(in_memory / "appending"), FullParseSyncer(in_memory / "parsing")
    for syncer in (appending, parsing):
        merge(syncer, body_of("json", ALL))
        merged = merge(syncer, body_of("json", [*ALL, NEW[0]], nb_data=70))
        assert (merged.info.complete, merged.counts.new) == (False, 1)
    assert parsed_ids(appending) == [NEW[0].id]
    assert tables(appending) == tables(parsing)
    merge(appending, body_of("json", [*ALL, *NEW]))
    assert snapshot(appending).builds_on is None


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_same_appended_response_again_changes_nothing_also_under_another_share(
    in_memory: Path, share: float
) -> None:
    syncer = syncer_after_all(in_memory)
    merge(syncer, [*ALL, *NEW])
    before = tree(in_memory, "stops", "rejected", "suppression_list", "stops_per_day")
    syncer.fetch(response_body([*ALL, *NEW]))
    sync.parse(syncer.store, "main", timezone=syncer.timezone)
    counts = sync.merge(syncer.store, "main", RemovalPolicy(max_removed_share=share)).counts
    assert (counts.listed, counts.unchanged, counts.new, counts.removed) == (63, 63, 0, 0)
    assert tree(in_memory, "stops", "rejected", "suppression_list", "stops_per_day") == before


def test_an_appended_response_names_the_undocumented_fields_of_all_its_rows(in_memory: Path) -> None:
    syncer = Syncer(in_memory)
    listed: list[Any] = [ALL[0].document() | {"zone": 1}, *ALL[1:]]
    merge(syncer, listed)
    merged = merge(syncer, [*listed, NEW[0].document() | {"operator": 1}])
    assert parsed_ids(syncer) == [NEW[0].id]
    assert merged.info.extra_fields == ("operator", "zone")


# Whatever is not exactly that is parsed as a whole


def altered(row: Row) -> Row:
    return dataclasses.replace(row, phone_number="+33639989999")


TOO_LATE = dataclasses.replace(NEW[0], created_at=LATE)
NOT_JUST_APPENDED: dict[str, tuple[list[Any], list[Any]]] = {
    "an appended row twice": (ALL, [*ALL, NEW[0], NEW[0]]),
    "two appended rows of one id": (ALL, [*ALL, NEW[0], altered(NEW[0])]),
    "a row again at the end": (ALL, [*ALL, ALL[5]]),
    "a row again at the beginning": (ALL, [ALL[5], *ALL]),
    "an altered row under its old id": (ALL, [*ALL, NEW[0], altered(ALL[5])]),
    "rows of smaller ids": (ALL[10:], [*ALL[10:], *ALL[:10]]),
    "a malformed row": (ALL, [*ALL, NEW[0], MALFORMED]),
    "a null row": (ALL, [None, *ALL]),
    "a row that is too late": (ALL, [*ALL, TOO_LATE]),
    "nothing before": ([], ALL),
    "a row before that was too late": ([*ALL, TOO_LATE], [*ALL, TOO_LATE, NEW[1]]),
    "another order": (ALL, [*ALL[::-1], NEW[0]]),
    "new rows in the middle": (ALL, [*ALL[:30], NEW[0], *ALL[30:]]),
    "a row altered in the middle": (ALL, [*ALL[:30], altered(ALL[30]), *ALL[31:], NEW[0]]),
    "a row gone": (ALL, [*ALL[1:], NEW[0]]),
    "the last row gone": (ALL, ALL[:-1]),
}
IN_XML_TOO = {"an appended row twice", "a row again at the end", "a malformed row", "a row gone", "nothing before"}


@pytest.mark.parametrize(
    ("response_format", "before", "now"),
    [
        pytest.param(response_format, *rows, id=f"{name}-{response_format}")
        for name, rows in NOT_JUST_APPENDED.items()
        for response_format in (["json", "xml"] if name in IN_XML_TOO else ["json"])
    ],
)
def test_a_response_that_does_more_than_append_good_new_rows_is_parsed_as_a_whole(
    in_memory: Path, response_format: Format, before: list[Any], now: list[Any]
) -> None:
    syncer = syncer_after_all(in_memory, response_format) if before is ALL else Syncer(in_memory)
    if before is not ALL:
        merge(syncer, body_of(response_format, before), response_format)
    body = body_of(response_format, now)
    syncer.fetch(body, response_format=response_format)
    syncer.merge(accept_removals=len(before))
    assert snapshot(syncer).builds_on is None
    check_open_rows(syncer, body, response_format)


def check_open_rows(syncer: Syncer, body: bytes, response_format: Format = "json") -> None:
    """The open rows are exactly those that a response lists."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder, "response")
        path.write_bytes(body)
        listed = parse(open_list(path, response_format), fetched_at=syncer.now, timezone=syncer.timezone).listed
    stops = read_stops(syncer.root)[list(listed)]
    pd.testing.assert_frame_equal(stops, listed)


def test_an_id_that_was_seen_once_and_is_gone_is_not_new(in_memory: Path) -> None:
    syncer = Syncer(in_memory)
    gone = Row(500)
    merge(syncer, [*ALL, gone])
    merge(syncer, ALL)
    merged = merge(syncer, [*ALL, gone])
    assert snapshot(syncer).builds_on is None
    assert (merged.counts.restored, merged.counts.new) == (1, 0)
    merge(syncer, [*ALL, gone, Row(501)])
    assert parsed_ids(syncer) == [501]


def test_rows_appended_while_removals_are_withheld_are_parsed_with_all_others(in_memory: Path) -> None:
    syncer = syncer_after_all(in_memory)
    assert merge(syncer, ALL[40:]).counts.withheld == 40
    merged = merge(syncer, [*ALL[40:], NEW[0]])
    assert snapshot(syncer).builds_on is None
    assert (merged.counts.new, merged.counts.withheld) == (1, 40)
    syncer.sync([*ALL[40:], NEW[0]], accept_removals=40)
    merge(syncer, [*ALL[40:], *NEW])
    assert parsed_ids(syncer) == [row.id for row in NEW[1:]]
    assert len(read_stops(in_memory)) == 23


def test_under_another_zone_format_or_reading_rule_everything_is_parsed(in_memory: Path) -> None:
    syncer = syncer_after_all(in_memory)
    syncer.timezone = "UTC"
    merge(syncer, [*ALL, NEW[0]])
    assert snapshot(syncer).builds_on is None

    merge(syncer, body_of("xml", [*ALL, *NEW[:2]]), "xml")
    assert snapshot(syncer).builds_on is None

    rewrite_state(syncer, reading_rules="older")
    merge(syncer, body_of("xml", [*ALL, *NEW]), "xml")
    assert snapshot(syncer).builds_on is None
    assert len(read_stops(in_memory)) == 63


def test_after_stored_rows_were_read_again_the_next_response_is_parsed_as_a_whole(in_memory: Path) -> None:
    syncer = syncer_after_all(in_memory)
    rewrite_state(syncer, reading_rules="older")
    merge(syncer, ALL)
    merge(syncer, [*ALL, NEW[0]])
    assert snapshot(syncer).builds_on is None


@pytest.mark.parametrize("appended", [b",]}", b', {"id": 7}]}', b" null]}", b", NaN]}", b', {"id": 7]}'])
def test_a_text_that_is_not_a_list_any_more_is_unreadable_or_parsed_as_a_whole(
    in_memory: Path, appended: bytes
) -> None:
    syncer = syncer_after_all(in_memory)
    body = body_of("json", ALL)
    before = tables(syncer)
    try:
        merged = merge(syncer, body.replace(b"]}", appended))
    except UnreadableResponseError:
        assert tree(in_memory, "stops", "state") == {
            name: data for name, data in before.items() if name.startswith(("stops/", "state/"))
        }
    else:
        assert merged.info.builds_on is None
        assert merged.info.rejected == 1


# Damage, and states that were restored


def damaged(path: Path) -> None:
    path.write_bytes(b"not Parquet")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [damaged, cut, overwrite_pages, flip_a_bit, Path.unlink])
def test_a_damaged_or_missing_snapshot_is_made_again(in_memory: Path, harm: Callable[[Path], None]) -> None:
    syncer = syncer_after_all(in_memory)
    harm(syncer.root / snapshot_file("main"))
    merge(syncer, [*ALL, NEW[0]])
    assert parsed_ids(syncer) == [NEW[0].id]
    harm(syncer.root / snapshot_file("main"))
    merge(syncer, [*ALL, NEW[0]])
    merge(syncer, [*ALL, *NEW])
    check_open_rows(syncer, response_body([*ALL, *NEW]))


@pytest.mark.parametrize("harm", [overwrite_pages, flip_a_bit])
def test_a_merge_of_a_snapshot_with_damaged_rows_says_what_helps(in_memory: Path, harm: Callable[[Path], None]) -> None:
    syncer = syncer_after_all(in_memory)
    syncer.fetch(response_body([*ALL, *NEW]))
    sync.parse(syncer.store, "main", timezone=syncer.timezone)
    harm(syncer.root / snapshot_file("main"))
    before = tree(syncer.root, "stops", "state")
    with pytest.raises(StoreError, match=r"damaged.* Materialize stop_snapshot again, or leave that to the next sync"):
        sync.merge(syncer.store, "main", RemovalPolicy())
    assert tree(syncer.root, "stops", "state") == before
    assert sync.parse(syncer.store, "main", timezone=syncer.timezone).parsed
    sync.merge(syncer.store, "main", RemovalPolicy())
    check_open_rows(syncer, response_body([*ALL, *NEW]))


def test_a_response_that_is_not_as_it_was_received_is_not_parsed(in_memory: Path) -> None:
    syncer = Syncer(in_memory)
    syncer.sync(rows(30))
    syncer.fetch(response_body(rows(31)))
    kept = syncer.store.responses.newest("main")
    assert kept is not None
    file = in_memory / "raw/account=main" / kept.file
    before = tree(in_memory, "state", "stops")
    other = response_body(rows(30)).replace(b"+3363998", b"+3363997")
    file.write_bytes(pa.Codec("zstd").compress(other, asbytes=True))
    with pytest.raises(StoreError, match=r"damaged.*Remove it, and the next sync keeps the list again"):
        syncer.merge()
    assert tree(in_memory, "state", "stops") == before
    file.unlink()
    assert syncer.sync(rows(31)).counts.new == 1
    assert verify(syncer.store, "main").problems == ()


def test_a_stale_snapshot_file_is_replaced(in_memory: Path) -> None:
    syncer = syncer_after_all(in_memory)
    merge(syncer, [*ALL, NEW[0]])
    stale = (syncer.root / snapshot_file("main")).read_bytes()
    merge(syncer, [*ALL, *NEW[:2]])
    (syncer.root / snapshot_file("main")).write_bytes(stale)
    merge(syncer, [*ALL, *NEW])
    check_open_rows(syncer, response_body([*ALL, *NEW]))


def test_a_response_that_was_parsed_by_a_killed_sync_is_built_upon_the_commit_that_stands(in_memory: Path) -> None:
    syncer = syncer_after_all(in_memory)
    syncer.fetch(response_body([*ALL, NEW[0]]))
    sync.parse(syncer.store, "main", timezone=syncer.timezone)  # and killed before it is merged
    merge(syncer, [*ALL, *NEW])
    assert parsed_ids(syncer) == [row.id for row in NEW]
    check_open_rows(syncer, response_body([*ALL, *NEW]))


def test_a_row_that_was_too_early_when_a_killed_sync_parsed_it_is_read_as_of_the_next_fetch(in_memory: Path) -> None:
    syncer = Syncer(in_memory)
    body = response_body([Row(1, created_at="2026-01-04 10:00:00")])
    syncer.fetch(body)
    sync.parse(syncer.store, "main", timezone=syncer.timezone)  # and killed before it is merged
    assert syncer.sync(body, at=START + timedelta(days=3)).counts.new == 1


def test_a_row_that_was_too_early_while_removals_were_withheld_is_read_as_of_the_next_fetch(in_memory: Path) -> None:
    syncer = Syncer(in_memory)
    syncer.sync(ALL)
    body = response_body([ALL[0], Row(901, created_at="2026-01-04 10:00:00")])
    assert syncer.sync(body).counts.withheld == len(ALL) - 1
    assert syncer.sync(body, at=START + timedelta(days=3)).counts.new == 1


def test_a_snapshot_is_merged_although_its_response_has_been_lost(in_memory: Path) -> None:
    syncer = Syncer(in_memory)
    syncer.fetch(response_body(ALL))
    sync.parse(syncer.store, "main", timezone=syncer.timezone)
    shutil.rmtree(in_memory / "raw")
    assert sync.merge(syncer.store, "main", RemovalPolicy()).counts.new == len(ALL)


def test_appended_rows_bring_no_malformed_row_back_that_has_ended(in_memory: Path) -> None:
    syncer = Syncer(in_memory)
    for body in (response_body([*ALL, MALFORMED]), response_body(ALL), response_body([*ALL, *NEW])):
        syncer.sync(body)
    assert snapshot(syncer).builds_on is not None
    assert read_rejected(in_memory).empty


def restore(syncer: Syncer, backup: Path) -> None:
    """Put back a copy of all files; as far as the data root has others, they stay."""
    shutil.copytree(backup, syncer.root, dirs_exist_ok=True)


@pytest.mark.parametrize("folders", [("state",), ("state", "stops", "commits"), ("state", "raw")])
def test_after_an_older_state_was_restored_no_row_is_missed(in_memory: Path, folders: tuple[str, ...]) -> None:
    syncer = syncer_after_all(in_memory / "data")
    for folder in folders:
        if (syncer.root / folder).exists():
            shutil.copytree(syncer.root / folder, in_memory / "backup" / folder)
    merge(syncer, [*ALL, NEW[0]])
    merge(syncer, [*ALL, *NEW[:2]])
    restore(syncer, in_memory / "backup")

    merge(syncer, [*ALL, *NEW])

    assert sorted(read_stops(syncer.root)["id"]) == [*range(1, 61), *(row.id for row in NEW)]
    assert syncer.store.state("main").counts.listed == 63
    late = dataclasses.replace(NEW[0], id=900)
    merge(syncer, [*ALL, *NEW, late])
    assert parsed_ids(syncer) == [900]
    assert len(read_stops(syncer.root)) == 64


def test_rows_appended_to_another_commit_than_the_one_that_stands_are_not_merged_into_it(in_memory: Path) -> None:
    syncer = syncer_after_all(in_memory / "data")
    shutil.copytree(syncer.root / "state", in_memory / "backup" / "state")
    merge(syncer, [*ALL, NEW[0]])
    syncer.fetch(response_body([*ALL, *NEW[:2]]))
    sync.parse(syncer.store, "main", timezone=syncer.timezone)
    restore(syncer, in_memory / "backup")

    # Merged alone, as one can do it in the UI: the snapshot lacks a row that is not in the restored commit either.
    sync.merge(syncer.store, "main", RemovalPolicy())
    assert sorted(read_stops(syncer.root)["id"])[-2:] == [NEW[0].id, NEW[1].id]


def test_a_snapshot_of_rows_whose_response_is_not_kept_any_more_is_not_merged_into_another_commit(
    in_memory: Path,
) -> None:
    syncer = syncer_after_all(in_memory / "data")
    shutil.copytree(syncer.root / "state", in_memory / "backup" / "state")
    merge(syncer, [*ALL, NEW[0]])
    syncer.fetch(response_body([*ALL, *NEW[:2]]))
    sync.parse(syncer.store, "main", timezone=syncer.timezone)
    syncer.fetch(response_body([*ALL, *NEW]))  # which is not parsed
    restore(syncer, in_memory / "backup")
    before = tree(syncer.root, "stops", "state")

    with pytest.raises(StoreError, match="account “main” is outdated: materialize stop_snapshot first"):
        sync.merge(syncer.store, "main", RemovalPolicy())

    assert tree(syncer.root, "stops", "state") == before
    syncer.merge()
    assert sorted(read_stops(syncer.root)["id"]) == [*range(1, 61), *(row.id for row in NEW)]


def parse_by_older_rules(syncer: Syncer, listed: list[Row]) -> None:
    """Fetch and parse a response as a version did that stored its numbers as they are spelled, and go no further."""
    store = syncer.store
    syncer.fetch(response_body(listed))
    sync.parse(store, "main", timezone=syncer.timezone)
    info = snapshot(syncer)
    read, rejected = store.read_snapshot("main", info, info.months)
    spelled = read.assign(phone_number=read["phone_number"].str.replace("+33", "0"), country=pd.Series(dtype="str"))
    with store.locked("main"):
        store.write_snapshot("main", spelled, rejected, dataclasses.replace(info, reading_rules="older"))


def test_a_snapshot_that_older_rules_parsed_is_made_again_before_it_is_merged(in_memory: Path) -> None:
    """A run failed in `stops`, the package was upgraded, and the run goes on from there."""
    syncer = syncer_after_all(in_memory)
    parse_by_older_rules(syncer, [*ALL, *NEW])
    merged = sync.merge(syncer.store, "main", RemovalPolicy())
    assert (merged.counts.new, merged.counts.changed, merged.counts.removed) == (len(NEW), 0, 0)
    assert read_stops(in_memory)["phone_number"].str.startswith("+33").all()
    check_open_rows(syncer, response_body([*ALL, *NEW]))


def test_a_snapshot_that_older_rules_parsed_of_a_response_that_is_not_the_newest_any_more_is_not_merged(
    in_memory: Path,
) -> None:
    syncer = syncer_after_all(in_memory)
    parse_by_older_rules(syncer, [*ALL, NEW[0]])
    syncer.fetch(response_body([*ALL, *NEW]))  # which is not parsed
    before = tree(in_memory, "stops", "state")
    with pytest.raises(StoreError, match="account “main” is outdated: materialize stop_snapshot first"):
        sync.merge(syncer.store, "main", RemovalPolicy())
    assert tree(in_memory, "stops", "state") == before
    syncer.merge()
    assert len(read_stops(in_memory)) == 63


# Any responses, in any order


def _row(number: int, kind: str) -> Any:
    row = Row(number, f"+33639980{number:03}", f"2025-{1 + number % 3:02}-01 10:00:00")
    good = row.document()
    by_kind: dict[str, Any] = {
        "plain": good,
        "altered": good | {"phoneNumber": f"+33639989{number:03}"},
        "moved": good | {"createdAt": f"2025-{4 + number % 3:02}-01 10:00:00"},
        "late": good | {"createdAt": LATE},
        "misdated": good | {"createdAt": "0000-00-00 00:00:00"},
        "more": good | {"note": "x"},
        "same id": good | {"id": 7},
        "unreadable number": good | {"phoneNumber": "no number"},
    }
    return by_kind[kind]


KINDS = st.sampled_from(
    ["plain"] * 12 + ["altered", "moved", "late", "misdated", "more", "same id", "unreadable number"]
)


@st.composite
def responses(draw: st.DrawFn) -> list[tuple[Format, bytes]]:
    """Some responses, most of which only append rows to the one before, or put them first."""
    response_format: Format = draw(st.sampled_from(["json", "json", "xml"]))
    listed = [_row(number, draw(KINDS)) for number in range(1, draw(st.integers(2, 30)))]
    next_number = len(listed) + 1
    bodies = [(response_format, body_of(response_format, listed))]
    for _ in range(draw(st.integers(1, 3))):
        new = [_row(next_number + at, draw(KINDS)) for at in range(draw(st.integers(0, 2)))]
        next_number += len(new)
        match draw(st.sampled_from(["last", "last", "first", "first", "gone", "twice", "old"])):
            case "last":
                listed = [*listed, *new]
            case "first":
                listed = [*new, *listed]
            case "gone":
                listed = [*listed[1:], *new]
            case "twice":
                listed = [*listed, *listed[-1:], *new]
            case _:
                listed = [*listed, *new, _row(draw(st.integers(1, 5)), draw(KINDS))]
        nb_data = len(listed) + (draw(st.integers(0, 5)) == 5)
        bodies.append((response_format, body_of(response_format, listed, nb_data)))
    return bodies


def _check(bodies: Sequence[tuple[Format, bytes]], accept_removals: int | None = 30) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as one, tempfile.TemporaryDirectory(dir=IN_MEMORY) as other:
        appending, parsing = Syncer(Path(one)), FullParseSyncer(Path(other))
        for response_format, body in bodies:
            for syncer in (appending, parsing):
                syncer.fetch(body, response_format=response_format)
                syncer.merge(accept_removals=accept_removals)
            assert tables(appending) == tables(parsing)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(responses())
def test_any_responses_leave_what_they_leave_when_each_is_parsed_as_a_whole(bodies: list[tuple[Format, bytes]]) -> None:
    _check(bodies)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(responses(), st.none() | st.just(30))
@example([("json", response_body(rows(count))) for count in (10, 11, 12)], None)
def test_many_responses_leave_what_they_leave_when_each_is_parsed_as_a_whole(
    bodies: list[tuple[Format, bytes]], accept_removals: int | None
) -> None:
    _check(bodies, accept_removals)


def test_repeating_the_step_that_parses_makes_nothing_again(in_memory: Path) -> None:
    syncer = Syncer(in_memory)
    for listed in (ALL, [*ALL, *NEW]):
        syncer.fetch(response_body(listed))
        assert sync.parse(syncer.store, "main", timezone=syncer.timezone).parsed
        before = tree(in_memory, "snapshot")
        assert not sync.parse(syncer.store, "main", timezone=syncer.timezone).parsed
        syncer.merge()
        assert not sync.parse(syncer.store, "main", timezone=syncer.timezone).parsed
        assert tree(in_memory, "snapshot") == before
        syncer.now += timedelta(hours=1)
