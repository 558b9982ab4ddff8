"""What a response may take away on real files: the removal policy, acceptances, and lists of other ids."""

import dataclasses
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline import read_rejected, read_stops, read_suppression_list
from stop_pipeline.errors import ForeignListError
from stop_pipeline.table.accounts import retire
from stop_pipeline.table.reading import current_list
from stop_pipeline.verify import verify
from stop_pipeline_tests.support.syncing import IN_MEMORY, START, Row, Syncer, rows, tree

# The removal policy


@pytest.mark.parametrize(("gone", "withheld"), [(20, False), (21, True), (400, True)])
def test_removals_beyond_the_policy_are_withheld(syncer: Syncer, gone: int, *, withheld: bool) -> None:
    listed = rows(400)
    syncer.up_to_stops(listed)
    merged = syncer.up_to_stops(listed[gone:])
    assert (merged.counts.withheld, merged.counts.removed) == ((gone, 0) if withheld else (0, gone))
    assert (merged.state.withheld_because is not None) is withheld
    assert len(read_stops(syncer.root)) == (400 if withheld else 400 - gone)


def test_a_slow_drain_is_withheld_and_goes_on_after_24_hours(syncer: Syncer) -> None:
    listed = rows(100)
    syncer.up_to_stops(listed)
    syncer.up_to_stops(listed[:80])
    for size in (60, 40, 20, 10, 5, 3, 2, 1):
        assert syncer.up_to_stops(listed[:size]).counts.withheld == 80 - size
    assert len(read_stops(syncer.root)) == 80
    merged = syncer.up_to_stops(listed[:60], at=START + timedelta(hours=26))
    assert (merged.counts.removed, merged.counts.withheld) == (20, 0)
    assert merged.state.removals == (dataclasses.replace(merged.state.removals[0], rows=20, open_rows=80),)


def test_removals_that_a_person_accepted_do_not_count_for_the_24_hours(syncer: Syncer) -> None:
    listed = rows(100)
    syncer.up_to_stops(listed)
    assert syncer.up_to_stops(listed[:60], accept_removals=40).state.removals == ()
    merged = syncer.up_to_stops(listed[:40])
    assert (merged.counts.removed, merged.counts.withheld) == (20, 0)
    assert syncer.up_to_stops(listed[:39]).counts.withheld == 1


def test_an_acceptance_without_a_new_response_changes_nothing_and_says_what_to_do(
    syncer: Syncer, caplog: pytest.LogCaptureFixture
) -> None:
    syncer.sync(rows(100))
    syncer.sync(rows(40))
    before = tree(syncer.root)

    merged = syncer.merge(accept_removals=60)  # `stops` alone, as one can materialize it in the UI

    assert merged.outcome == "unchanged"
    assert "no removal is accepted, because this response was merged before: materialize all assets" in caplog.text
    assert tree(syncer.root) == before
    assert syncer.up_to_stops(rows(40), accept_removals=60).counts.removed == 60


def test_what_is_added_meanwhile_does_not_let_withheld_removals_through(syncer: Syncer) -> None:
    listed = [*rows(400)[21:], *rows(121, first_id=1000)]  # 21 of 400 gone, and 521 rows open afterwards
    syncer.up_to_stops(rows(400))
    assert syncer.up_to_stops(listed).counts.withheld == 21

    merged = syncer.up_to_stops(listed)

    assert (merged.counts.withheld, merged.counts.removed) == (21, 0)
    assert merged.state.withheld_from == 400
    assert merged.state.withheld_because == (
        "21 rows no longer listed, more than the 20 of 400 that may end within 24 hours"
    )
    assert len(read_stops(syncer.root)) == 521


def test_withheld_rows_that_come_back_leave_no_trace_and_the_policy_as_it_was(syncer: Syncer) -> None:
    listed = [*rows(400), *rows(121, first_id=1000)]
    syncer.up_to_stops(rows(400))
    syncer.up_to_stops(listed[21:])
    before = tree(syncer.root, "stops")

    back = syncer.up_to_stops(listed)

    assert (back.counts.unchanged, back.counts.restored, back.months_written) == (521, 0, ())
    assert (back.state.withheld_because, back.state.withheld_from) == (None, None)
    assert tree(syncer.root, "stops") == before
    counts = syncer.up_to_stops(listed[26:]).counts  # 5 % of 521
    assert (counts.withheld, counts.removed) == (0, 26)


GROWTH = st.lists(st.tuples(st.sampled_from([0, 0, 1, 50, 500]), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(3, 450), st.data(), st.integers(0, 500), GROWTH)
def test_no_responses_that_repeat_or_only_add_let_withheld_removals_through(
    stored: int, data: st.DataObject, added: int, growth: list[tuple[int, bool]]
) -> None:
    gone = data.draw(st.integers(min(stored // 2, max(stored // 20, 20)) + 1, stored - 1))
    listed = [*rows(stored)[gone:], *rows(added, first_id=10_000)]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(Path(folder))
        syncer.up_to_stops(rows(stored))
        assert syncer.up_to_stops(listed).counts.withheld == gone
        for more, complete in growth:
            listed = [*listed, *rows(more, first_id=20_000 + len(listed))]
            counts = syncer.up_to_stops(listed, nb_data=len(listed) + (not complete)).counts
            assert (counts.withheld, counts.removed) == (gone, 0)
            assert len(read_stops(syncer.root)) == len(listed) + gone

        accepted = syncer.up_to_stops(listed, accept_removals=gone)

        assert (accepted.counts.removed, accepted.state.withheld_from) == (gone, None)
        assert len(read_stops(syncer.root)) == len(listed)


def test_accepting_never_overrides_completeness(syncer: Syncer) -> None:
    syncer.up_to_stops(rows(100))
    counts = syncer.up_to_stops(rows(40), nb_data=41, accept_removals=100).counts
    assert (counts.withheld, counts.removed) == (60, 0)


def test_an_emptied_list_can_be_accepted(syncer: Syncer) -> None:
    syncer.sync(rows(100))
    assert syncer.sync([], accept_removals=100).counts.removed == 100
    assert read_stops(syncer.root).empty
    assert read_suppression_list(syncer.root).empty


def test_an_altered_row_whose_end_is_withheld_is_open_twice_until_it_is_accepted(syncer: Syncer) -> None:
    listed = rows(30)
    syncer.up_to_stops(listed)
    altered = [Row(row.id, "+33639989999", row.created_at) for row in listed]
    merged = syncer.up_to_stops(altered)
    assert (merged.counts.changed, merged.counts.withheld, merged.state.doubled_open_ids) == (30, 30, 30)
    assert merged.counts.withheld_altered == 30
    assert merged.state.withheld_because is not None
    assert "30 rows altered, more than" in merged.state.withheld_because
    assert len(read_stops(syncer.root)) == 60

    again = syncer.up_to_stops(altered)
    assert again.state.withheld_because == merged.state.withheld_because
    assert (again.counts.changed, again.counts.withheld, again.counts.withheld_altered) == (0, 30, 30)

    accepted = syncer.up_to_stops(altered, accept_removals=30)
    assert (accepted.counts.removed, accepted.counts.withheld, accepted.state.doubled_open_ids) == (30, 0, 0)
    assert set(read_stops(syncer.root)["phone_number"]) == {"+33639989999"}


# Another account's list, and one that was renumbered


def test_a_list_that_shares_no_id_with_twenty_open_rows_is_refused_as_a_whole(syncer: Syncer) -> None:
    syncer.sync(rows(20))
    before = tree(syncer.root, "stops", "state", "suppression_list")
    others = [dataclasses.replace(row, phone_number="+33639989999") for row in rows(20, first_id=1000)]
    with pytest.raises(ForeignListError, match="belongs to another account"):
        syncer.sync(others, accept_removals=20)
    assert tree(syncer.root, "stops", "state", "suppression_list") == before


def test_a_list_that_began_anew_goes_on_under_another_name_beside_the_retired_one(tmp_path: Path) -> None:
    before, anew = rows(20), [Row(1000, "+33639989999")]
    old = Syncer(tmp_path)
    old.sync(before)
    with pytest.raises(ForeignListError, match="sync it under a new account name and “stop-pipeline retire” this one"):
        old.sync(anew)
    new = Syncer(tmp_path, account="anew", start=old.now)
    new.sync(anew)
    retire(new.store, "main", now=new.now)
    later = new.now + timedelta(days=30)
    new.sync(anew, at=later)
    blocked = current_list(tmp_path, None, max_age="1h", now=later).numbers["phone_number"]
    assert set(blocked) == {row.phone_number for row in [*before, *anew]}


def test_a_list_that_the_provider_renumbered_is_withheld_and_can_be_accepted(syncer: Syncer) -> None:
    listed = rows(60)
    syncer.up_to_stops(listed)
    other_ids = [dataclasses.replace(row, id=row.id + 5_000) for row in listed]
    merged = syncer.up_to_stops([*other_ids, Row(9_000)])
    assert (merged.counts.changed, merged.counts.new, merged.counts.withheld) == (60, 1, 60)
    assert len(read_stops(syncer.root)) == 121
    again = syncer.up_to_stops([*other_ids, Row(9_000)])
    assert again.state.withheld_because == merged.state.withheld_because
    assert again.counts.withheld_altered == 60

    accepted = syncer.up_to_stops([*other_ids, Row(9_000)], accept_removals=60)
    assert (accepted.counts.withheld, accepted.state.withheld_because) == (0, None)
    assert sorted(read_stops(syncer.root)["id"]) == [*(row.id for row in other_ids), 9_000]


def test_a_list_whose_rows_all_moved_to_another_month_is_not_another_accounts(syncer: Syncer) -> None:
    syncer.up_to_stops(rows(20))
    counts = syncer.up_to_stops(rows(20, month="2025-07")).counts
    assert (counts.changed, counts.new, counts.withheld, counts.withheld_altered) == (20, 0, 20, 20)
    again = syncer.up_to_stops(rows(20, month="2025-07")).state
    assert again.withheld_because is not None
    assert again.withheld_because.startswith("20 rows altered, more than")


# Rows that the provider writes in another form


def test_rows_whose_form_has_changed_are_told_as_that_and_their_numbers_stay_blocked(syncer: Syncer) -> None:
    listed = rows(30)
    syncer.up_to_stops(listed)
    reformed = [dataclasses.replace(row, created_at=row.created_at.replace(" ", "T")) for row in listed[1:]]
    state = syncer.up_to_stops(reformed).state
    assert state.withheld_because == (
        "1 row no longer listed and 29 rows no longer well-formed, more than the 15 of 30 that may end within 24 hours"
    )
    assert syncer.up_to_stops(reformed, accept_removals=30).state.withheld_because is None
    assert set(read_suppression_list(syncer.root)["phone_number"]) == {row.phone_number for row in listed[1:]}


# Rows without their number


@pytest.mark.parametrize("number", [None, "+33639XXXXXX"])
def test_a_row_that_is_listed_without_its_number_ends_no_opt_out_until_a_person_accepts_it(
    syncer: Syncer, number: Any
) -> None:
    listed = rows(60)
    syncer.sync(listed)
    numbers = set(read_suppression_list(syncer.root)["phone_number"])
    blanked = [{"id": row.id, "phoneNumber": number, "createdAt": row.created_at} for row in listed[:2]]
    for _ in range(3):
        withheld = syncer.sync([*blanked, *listed[3:]])
        assert withheld.state.withheld_because == ("2 rows are still listed, but without numbers that can be read")
        assert withheld.counts.withheld == 3  # the one that is not listed at all waits as well
        assert numbers <= set(read_suppression_list(syncer.root)["phone_number"])
        assert verify(syncer.store, "main").problems == ()
    assert syncer.sync([*blanked, *listed[3:]], accept_removals=3).state.withheld_because is None
    assert len(numbers - set(read_suppression_list(syncer.root)["phone_number"])) == 3
    assert syncer.sync([*blanked, *listed[3:]]).state.withheld_because is None


ROW_5 = {"id": 5, "phoneNumber": "+33639980005", "createdAt": "2025-06-01 10:00:05"}


@pytest.mark.parametrize(
    ("row", "becomes"),
    [
        (ROW_5, ROW_5 | {"phoneNumber": ""}),
        (ROW_5, ROW_5 | {"phoneNumber": " "}),
        (ROW_5, ROW_5 | {"phoneNumber": ["+33"]}),
        (ROW_5, ROW_5 | {"phoneNumber": "n/a", "createdAt": "01/06/2025"}),
        (ROW_5, ROW_5 | {"phoneNumber": "+336******05", "createdAt": None}),
        (ROW_5, {"id": 5.0, "phoneNumber": None}),
        (ROW_5, {"id": "005", "phoneNumber": ""}),
        (ROW_5, [5, None, "2025-06-01 10:00:05"]),
        (ROW_5, ROW_5 | {"campaign": {"id": 12}, "phoneNumber": None}),
        (ROW_5 | {"phoneNumber": "0639980005 / 0639980006"}, ROW_5 | {"phoneNumber": "n/a"}),
        (ROW_5 | {"phoneNumber": "0639980005 / 0639980006"}, ROW_5 | {"phoneNumber": None}),
        (ROW_5 | {"createdAt": "soon"}, ROW_5 | {"phoneNumber": None}),
        (ROW_5 | {"phoneNumber": 33639980005}, ROW_5 | {"phoneNumber": None, "createdAt": "soon"}),
    ],
)
def test_so_it_is_whatever_the_row_was_and_has_become(syncer: Syncer, row: Any, becomes: Any) -> None:
    others = rows(60, first_id=100)
    syncer.sync([row, *others])
    numbers = set(read_suppression_list(syncer.root)["phone_number"])
    withheld = syncer.sync([becomes, *others])
    assert withheld.state.withheld_because == "1 row is still listed, but without a number that can be read"
    assert numbers <= set(read_suppression_list(syncer.root)["phone_number"])
    assert verify(syncer.store, "main").problems == ()
    assert syncer.sync([row, *others]).state.withheld_because is None


def test_a_malformed_row_that_still_has_its_number_withholds_nothing(syncer: Syncer) -> None:
    others = rows(60, first_id=100)
    syncer.sync([ROW_5, *others])
    merged = syncer.sync([ROW_5 | {"phoneNumber": "0639980005 (mobile)", "createdAt": "soon"}, *others])
    assert (merged.state.withheld_because, merged.counts.removed) == (None, 1)
    assert "+33639980005" in set(read_suppression_list(syncer.root)["phone_number"])


def test_a_row_that_is_listed_with_its_number_again_ends_as_before(syncer: Syncer) -> None:
    syncer.sync(rows(60))
    blank = {"id": 1, "phoneNumber": None, "createdAt": "2025-06-01 10:00:00"}
    assert syncer.sync([blank, *rows(60)[1:]]).state.withheld_because is not None
    back = syncer.sync(rows(60))
    assert (back.state.withheld_because, back.state.open_rows) == (None, 60)
    assert syncer.sync(rows(60)[2:]).counts.removed == 2


# Malformed rows


def broken(count: int, first: int = 0) -> list[dict[str, str]]:
    """Malformed rows, each with a number of its own."""
    return [
        {"id": f"x{number}", "phoneNumber": f"+3363998{number:04}", "createdAt": "soon"}
        for number in range(5_000 + first, 5_000 + first + count)
    ]


def test_removals_withheld_from_a_list_of_malformed_rows_alone_are_not_allowed_by_what_is_added(
    syncer: Syncer,
) -> None:
    syncer.sync(broken(5))
    for _ in range(4):
        assert syncer.sync(rows(40)).counts.withheld == 5
        assert len(read_suppression_list(syncer.root)) == 45
        assert verify(syncer.store, "main").problems == ()


def test_malformed_rows_that_vanish_with_their_numbers_are_withheld_like_any_other(syncer: Syncer) -> None:
    syncer.sync([*rows(100), *broken(300)])
    assert len(read_suppression_list(syncer.root)) == 400
    withheld = syncer.sync(rows(100))
    assert withheld.state.withheld_because == (
        "300 rows no longer listed, more than the 20 of 100 that may end within 24 hours"
    )
    assert (withheld.counts.withheld, withheld.counts.removed) == (300, 0)
    assert len(read_suppression_list(syncer.root)) == 400
    assert len(read_rejected(syncer.root)) == 300
    assert verify(syncer.store, "main").problems == ()

    accepted = syncer.sync(rows(100), accept_removals=300)
    assert accepted.state.withheld_because is None
    assert len(read_suppression_list(syncer.root)) == 100
    assert read_rejected(syncer.root).empty


def test_a_few_malformed_rows_may_vanish_and_count_with_the_others(syncer: Syncer) -> None:
    syncer.sync([*rows(100), *broken(15)])
    assert syncer.sync(rows(100)).state.withheld_because is None
    assert len(read_suppression_list(syncer.root)) == 100
    assert syncer.sync(rows(94)).state.withheld_because == (
        "6 rows no longer listed, after 15 rows that ended already, more than the 20 of 100 that may end within 24 "
        "hours"
    )


def test_a_malformed_row_whose_number_stays_on_the_list_may_end(syncer: Syncer) -> None:
    malformed = broken(50)
    syncer.sync([*rows(100), *malformed])
    mended = [Row(900 + place, row["phoneNumber"], "2025-06-01 10:00:00") for place, row in enumerate(malformed[:25])]
    otherwise = [row | {"createdAt": "later"} for row in malformed[25:]]
    merged = syncer.sync([*rows(100), *mended, *otherwise])
    assert (merged.state.withheld_because, merged.counts.withheld) == (None, 0)
    assert len(read_suppression_list(syncer.root)) == 150
    assert len(read_rejected(syncer.root)) == 25


def test_a_number_stays_through_an_open_row_of_any_month_but_not_through_an_ended_one(syncer: Syncer) -> None:
    malformed = broken(50)
    march = [Row(900 + place, row["phoneNumber"], "2025-03-01 10:00:00") for place, row in enumerate(malformed)]
    syncer.sync([*rows(100), *march, *malformed])
    assert syncer.sync([*rows(100), *march]).state.withheld_because is None
    assert syncer.sync([*rows(100), *malformed], accept_removals=50).counts.removed == 50
    assert syncer.sync(rows(100)).counts.withheld == 50
    assert len(read_suppression_list(syncer.root)) == 150


def test_an_incomplete_response_ends_no_malformed_row(syncer: Syncer) -> None:
    syncer.sync([*rows(3), {"id": "x"}])
    syncer.sync(rows(3), nb_data=9)
    assert len(read_rejected(syncer.root)) == 1


def test_malformed_rows_without_a_number_may_end(syncer: Syncer) -> None:
    syncer.sync([*rows(100), *({"id": f"x{number}"} for number in range(50))])
    assert syncer.sync(rows(100)).state.withheld_because is None
    assert read_rejected(syncer.root).empty
